"""Tail bounds T1 to T4 and the closed-form margin bound L1b, for batches of quadratic laws (theory/README.md, T1 to T4).

Every function returns natural logarithms of upper bounds on a probability, at most 0, rounded up.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from theory.bound import LOG_IMPOSSIBLE
from theory.quadratic import QuadraticLaw

# A root need not be found to the last digit: any theta gives a valid Chernoff bound, so the search only decides tightness.
_NEWTON_STEPS = 100
_NEWTON_TOLERANCE = 1e-10


def laurent_massart_threshold(d: int, t: float) -> float:
    """T1: the threshold above which ``chi2_d`` lies with probability at most ``exp(-t)``.

    ``P(chi2_d >= d + 2 sqrt(d t) + 2 t) <= exp(-t)`` (Laurent and Massart 2000, Lemma 1).
    """
    return d + 2 * np.sqrt(d * t) + 2 * t


def log_laurent_massart(d: int, x: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
    """T1 inverted: log of the bound on ``P(chi2_d >= x)``; 0 for ``x <= d``."""
    excess = np.maximum(0.0, np.asarray(x, dtype=np.float64) - d)
    return -exponent(excess, 2 * np.sqrt(d), 2.0)


def exponent(gap: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """The largest ``t >= 0`` with ``a sqrt(t) + b t <= gap`` (0 for a gap that is not positive).

    The positive root ``sqrt(t) = 2 gap / (a + sqrt(a^2 + 4 b gap))`` in the form that does not cancel when ``b`` is
    small; ``gap^2 / a^2`` in the limit. Rounded down, because the bound is ``exp(-t)``.
    """
    gap = np.maximum(0.0, np.asarray(gap, dtype=np.float64))
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    # Scaling by a first keeps a^2 from overflowing or vanishing on badly scaled laws.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        general = 2 * (gap / a) / (1 + np.sqrt(1 + 4 * (b / a) * (gap / a)))
        root = np.where(a > 0, general, np.sqrt(gap / b))
        root = np.where(gap > 0, root, 0.0)
        t = root**2 * (1 - 1e-14)
    return np.where(np.isfinite(t), t, -LOG_IMPOSSIBLE)


def log_lower_bernstein(law: QuadraticLaw, x: Float[np.ndarray, " P"] | float = 0.0) -> Float[np.ndarray, " P"]:
    """T2, T3 and L1b in one: log of the closed-form bound on ``P(M <= x)``.

    ``P(M <= E M - sqrt(2 V t) - 2 w_- t) <= exp(-t)`` with ``V = Var M`` and ``w_- = max(0, -min w)``. With no negative
    weight this is T2 (the lower tail of a generalised chi-square); on ``-M`` it is T3 (Bernstein's upper tail); at
    ``x = 0`` it is the margin bound L1b (theory/README.md, L1b: T2 on the positive and T3 on the negative eigenvalues).
    It is never better than `log_chernoff`, which optimises the same log-MGF.
    """
    unit = _unit(law)
    part = _divided(law, unit)
    with np.errstate(over="ignore"):
        gap = np.minimum((law.mean() - x) / unit, -LOG_IMPOSSIBLE)
    return -exponent(gap, np.sqrt(2 * part.variance()), 2 * part.least_weight())


def log_upper_bernstein(law: QuadraticLaw, x: Float[np.ndarray, " P"] | float) -> Float[np.ndarray, " P"]:
    """T3: log of the closed-form bound on ``P(M >= x)``; see `log_lower_bernstein`."""
    return log_lower_bernstein(-law, -np.asarray(x, dtype=np.float64))


def _unit(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """A power of two near the largest coefficient that multiplies a normal variable (one half if all are zero)."""
    largest = np.maximum(np.abs(law.w).max(axis=1), np.maximum(np.abs(law.g).max(axis=1), law.s))
    return np.ldexp(1.0, np.frexp(largest)[1] - 1)


def _divided(law: QuadraticLaw, unit: Float[np.ndarray, " P"]) -> QuadraticLaw:
    """Law of ``M / unit``: the same event ``M <= 0``, without rounding, and with squares that neither vanish nor overflow."""
    with np.errstate(over="ignore"):
        c = np.clip(law.c / unit, LOG_IMPOSSIBLE, -LOG_IMPOSSIBLE)
    return QuadraticLaw(law.w / unit[:, None], law.g / unit[:, None], law.s / unit, c)


def saddlepoint(law: QuadraticLaw, pole: bool = False) -> Float[np.ndarray, " P"]:
    """Minimiser of ``K(theta)``, or of ``K(theta) - log theta`` with `pole`, over ``0 < theta < 1/(2 w_-)``.

    Newton's method inside a bracket, falling back to bisection; started at the theta of L1b, because a search started
    blindly fails on badly scaled laws. Returns 0 where the minimum is at 0 (``E M <= 0`` and no pole) and ``inf`` where
    the infimum is at infinity (``M > 0`` surely).
    """
    limit = law.limit()
    variance, mean, w_ = law.variance(), law.mean(), law.least_weight()
    t = -log_lower_bernstein(law)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = np.sqrt(2 * t / variance)
        start = q / (1 + 2 * w_ * q)
        natural = 1 / np.sqrt(variance)
    low = np.zeros(len(law))
    high = limit.copy()
    theta = np.where(np.isfinite(start) & (start > 0), start, np.minimum(np.where(np.isfinite(natural), natural, 1.0), limit / 2))
    sure = law.surely_positive()
    done = sure | (~np.bool_(pole) & (mean <= 0))
    answer = np.where(sure, np.inf, 0.0)
    for _ in range(_NEWTON_STEPS):
        live = np.flatnonzero(~done)
        if live.size == 0:
            break
        part, at = law[live], theta[live]
        first, second, _ = part.laplace_derivatives(at)
        if pole:
            first, second = first - 1 / at, second + 1 / at**2
        low[live] = np.where(first <= 0, at, low[live])
        high[live] = np.where(first > 0, at, high[live])
        lo, hi = low[live], high[live]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = at - first / second
            halfway = np.where(np.isfinite(hi), np.where(lo > 0, np.sqrt(lo) * np.sqrt(hi), hi / 8), 4 * at)
            # Near a finite limit the geometric mean crawls; the arithmetic one closes in on it.
            halfway = np.where(np.isfinite(hi) & (lo > hi / 4), (lo + hi) / 2, halfway)
            inside = np.isfinite(step) & (step > lo) & (step < hi)
            ahead = np.where(inside, step, halfway)
            # Close to a finite limit the distance to it is the scale: there a step is small beside theta wherever the root is.
            small = np.abs(step - at) <= _NEWTON_TOLERANCE * np.minimum(at, limit[live] - at)
        answer[live] = at
        done[live] = small | (hi - lo <= _NEWTON_TOLERANCE * lo) | ~np.isfinite(ahead) | (ahead > 1e300)
        theta[live] = ahead
    return answer


def log_chernoff(law: QuadraticLaw, x: Float[np.ndarray, " P"] | float = 0.0) -> Float[np.ndarray, " P"]:
    """T4: log of ``inf over theta of E exp(-theta (M - x))``, a bound on ``P(M <= x)``.

    Closed-form log-MGF, optimised numerically; whatever the search returns is a bound. Never above `log_lower_bernstein`,
    whose theta is one of the candidates.
    """
    law = law.shifted(-np.asarray(x, dtype=np.float64))
    law = _divided(law, _unit(law))
    theta = saddlepoint(law)
    impossible = np.isinf(theta)
    theta = np.where(impossible, 0.0, theta)
    # A minimiser beyond 1e150 (support that ends within rounding of x) overflows; the closed form then has to serve.
    with np.errstate(over="ignore", invalid="ignore"):
        value = law.log_laplace(theta[:, None])[:, 0] + law.rounding(theta)
    value = np.where(np.isfinite(value), value, 0.0)
    value = np.minimum(np.minimum(value, log_lower_bernstein(law)), 0.0)
    return np.where(impossible, LOG_IMPOSSIBLE, value)


def log_chernoff_upper(law: QuadraticLaw, x: Float[np.ndarray, " P"] | float) -> Float[np.ndarray, " P"]:
    """T4 on the other side: log of a bound on ``P(M >= x)``."""
    return log_chernoff(-law, -np.asarray(x, dtype=np.float64))
