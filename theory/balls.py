"""Divergence balls (theory/README.md, L12): how large a probability can be under any law within a divergence of the model.

With ``p = P(A)`` under the model and ``q = Q(A)`` under the true law, a divergence between the laws is at least the
same divergence between the two Bernoulli laws (data processing), so ``q`` is at most the largest number whose binary
divergence from ``p`` does not exceed the radius; a likelihood ratio that is constant on A and off A attains it.
Everything takes and returns natural logarithms, is vectorised, never below `log_p`, rounded up, and increasing in
`log_p`, so that `log_p` may itself be an upper bound on the model's probability.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from theory.errors import InputError

_STEPS = 80
# Relative rounding error allowed for in a binary divergence; it is divided by alpha - 1 for a Renyi divergence.
_ROUNDING = 1e-14
_LEAST_ALPHA = 1.001
# Terms of the power series that replaces a cancelling difference, and the argument up to which it is used.
_TERMS, _SERIES = 20, 0.5
# Beyond this exponent the second Bernoulli outcome no longer shows in the sum of both; beyond this size of log p, a
# difference of logarithms is rounding noise. Hoelder's inequality is used instead: it is the first outcome alone.
_DOMINANT = 36.0
_FAR = -1e6


def kl_ball(log_p: ArrayLike, radius: ArrayLike) -> Float[np.ndarray, "..."]:
    """L12, KL ball: log of the largest ``q`` with ``kl(q, p) <= radius``.

    ``kl(q, p) = q log(q/p) + (1-q) log((1-q)/(1-p))`` and ``Q(A) <= q`` whenever ``KL(Q, P) <= radius`` and
    ``P(A) <= p``.

    Parameters
    ----------
    log_p : array
        Natural logarithm of a bound on the model's probability; above 0 is read as 0, ``-inf`` as an impossible event
        (which stays impossible).
    radius : array
        ``KL(Q, P)`` in nats, at least 0; ``inf`` gives one. Broadcast with `log_p`.

    Returns
    -------
    array
        ``log q``, in ``[log_p, 0]``.

    Raises
    ------
    InputError
        If a value is NaN or a radius negative.
    """
    log_p, radius, shape = _checked(log_p, radius)
    answer = np.where(radius >= -log_p, 0.0, log_p)
    rows = np.flatnonzero((radius < -log_p) & (radius > 0) & np.isfinite(log_p))
    if rows.size:
        answer[rows] = _largest(_kl, log_p[rows], radius[rows], _above_kl(log_p[rows], radius[rows]), np.full(rows.size, _ROUNDING))
    return _finish(answer, log_p, radius, shape)


def renyi_ball(log_p: ArrayLike, alpha: float, radius: ArrayLike) -> Float[np.ndarray, "..."]:
    """L12, Renyi ball: log of the largest ``q`` with ``d_alpha(q, p) <= radius``, for one order ``alpha > 1``.

    ``d_alpha(q, p) = log(q^alpha p^(1-alpha) + (1-q)^alpha (1-p)^(1-alpha)) / (alpha - 1)``. Leaving out the second
    outcome gives Hoelder's inequality ``q <= (p e^radius)^((alpha-1)/alpha)``, which is never smaller. ``alpha = 2`` is
    the chi-square ball with ``chi2 = e^radius - 1``.

    Parameters
    ----------
    log_p : array
        As in `kl_ball`.
    alpha : float
        Order, at least 1.001 (below, use `kl_ball`).
    radius : array
        Renyi divergence ``D_alpha(Q, P)`` in nats, at least 0; ``inf`` gives one.

    Raises
    ------
    InputError
        If a value is NaN, a radius negative, or alpha not finite or too small.
    """
    if not _LEAST_ALPHA <= alpha < np.inf:
        raise InputError("alpha", f"{alpha} is not a finite order of at least {_LEAST_ALPHA}; use the KL ball for order one")
    log_p, radius, shape = _checked(log_p, radius)
    answer = np.where(radius >= -log_p, 0.0, log_p)
    within = np.flatnonzero((radius < -log_p) & (radius > 0) & np.isfinite(log_p))
    part = (alpha - 1) / alpha
    hoelder = part * (log_p[within] + radius[within])
    # `part` is itself rounded, and so is the sum.
    hoelder = hoelder + 8 * np.finfo(np.float64).eps * np.abs(hoelder)
    answer[within] = np.minimum(hoelder, 0.0)
    exponent = (alpha - 1) * radius
    solve = within[(exponent[within] < _DOMINANT) & (log_p[within] > _FAR)]
    if solve.size:
        target = np.expm1(exponent[solve])
        # The power of a large ratio carries the rounding of its exponent.
        rounding = _ROUNDING / (alpha - 1) - 4 * np.finfo(np.float64).eps * alpha * log_p[solve]
        answer[solve] = _largest(lambda a, b: _power(alpha, a, b), log_p[solve], target, answer[solve], rounding)
    return _finish(answer, log_p, radius, shape)


def chi_square_ball(log_p: ArrayLike, radius: ArrayLike) -> Float[np.ndarray, "..."]:
    """L12, chi-square ball: log of ``p + sqrt(chi2 p (1 - p))``, made increasing in p.

    The formula reaches one at ``p = 1/(1 + chi2)``, increases up to there, and comes back to one at ``p = 1``: so its
    supremum over all ``p' <= p``, clipped at one, is the formula below that point and one above.

    Parameters
    ----------
    log_p : array
        As in `kl_ball`.
    radius : array
        ``chi2(Q, P) = E_P (dQ/dP)^2 - 1``, at least 0; ``inf`` gives one.

    Raises
    ------
    InputError
        If a value is NaN or a radius negative.
    """
    log_p, radius, shape = _checked(log_p, radius)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        spread = 0.5 * (np.log(radius) + log_p + np.log(-np.expm1(log_p)))
        value = np.logaddexp(log_p, spread)
        value = value + 8 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(value))
        certain = log_p >= -np.log1p(radius)
    answer = np.where(certain, 0.0, np.where((radius > 0) & np.isfinite(log_p), value, log_p))
    return _finish(answer, log_p, radius, shape)


def _checked(log_p: ArrayLike, radius: ArrayLike) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    log_p, radius = np.broadcast_arrays(np.asarray(log_p, dtype=np.float64), np.asarray(radius, dtype=np.float64))
    if np.isnan(log_p).any():
        raise InputError("log_p", f"holds {int(np.isnan(log_p).sum())} NaN; needs natural logarithms of bounds")
    if np.isnan(radius).any() or (radius < 0).any():
        raise InputError("radius", "holds a NaN or a negative value; a divergence is at least 0")
    return np.minimum(log_p.ravel(), 0.0), radius.ravel(), log_p.shape


def _finish(answer: np.ndarray, log_p: np.ndarray, radius: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Clip to ``[log_p, 0]``, and let an infinite radius say nothing at all, even of an impossible event."""
    return np.where(np.isinf(radius), 0.0, np.clip(answer, log_p, 0.0)).reshape(shape)


_Divergence = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _largest(
    divergence: _Divergence,
    log_p: Float[np.ndarray, " n"],
    target: Float[np.ndarray, " n"],
    start: Float[np.ndarray, " n"],
    rounding: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """The root in ``log q`` of a divergence from p, moved up by the divergence's relative rounding error.

    Both divergences are convex and increasing in ``log q`` for ``q >= p``, so a step of Newton's method lands above the
    root from wherever it is taken: wherever the search stops, one more step is a bound. A step that leaves the bracket
    (the slope of kl is infinite at one) is replaced by bisection.
    """
    low, high = log_p.copy(), np.minimum(start, 0.0)
    at = np.where(high < 0, high, 0.5 * log_p)
    live = np.arange(log_p.size)
    for _ in range(_STEPS):
        value, slope = divergence(at[live], log_p[live])
        over = value >= target[live]
        high[live] = np.where(over, at[live], high[live])
        low[live] = np.where(over, low[live], at[live])
        step = _newton(at[live], value, slope, target[live])
        # A step to where it already stands, the upper end, has converged.
        inside = (step > low[live]) & (step <= high[live])
        ahead = np.where(inside, step, 0.5 * (low[live] + high[live]))
        small = np.abs(ahead - at[live]) <= 4 * np.spacing(np.abs(at[live]))
        at[live] = np.where(small, at[live], ahead)
        live = live[~small]
        if live.size == 0:
            break
    value, slope = divergence(at, log_p)
    answer = np.fmin(high, _newton(at, value, slope, target))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        allowance = rounding * target / slope
    answer = np.where(np.isfinite(allowance), answer + allowance, high)
    return np.minimum(answer + 8 * np.spacing(np.abs(answer)), 0.0)


def _newton(at: np.ndarray, value: np.ndarray, slope: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One step; NaN where it is not defined."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step = at - (value - target) / slope
    return np.where(np.isfinite(step), step, np.nan)


def _ratios(log_q: np.ndarray, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``log(q/p)`` and ``log((1-q)/(1-p))`` without cancellation at either end."""
    x = log_q - log_p
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        other = -np.expm1(log_p)
        # (q - p)/(1 - p), written so that a large ratio q/p does not overflow.
        moved = np.where(x < 1, np.exp(log_p) * np.expm1(x), np.exp(log_q) - np.exp(log_p)) / other
        y = np.where(moved < 0.5, np.log1p(-np.minimum(moved, 0.5)), np.log(-np.expm1(log_q) / other))
    return x, y


def _kl(log_q: np.ndarray, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Binary KL divergence as ``p h(q/p) + (1-p) h((1-q)/(1-p))``, ``h(t) = t log t - t + 1 >= 0``, and its slope in log q."""
    x, y = _ratios(log_q, log_p)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        q, p = np.exp(log_q), np.exp(log_p)
        first = np.where(x < _SERIES, p * _entropy(x), q * x - (q - p))
        value = first - np.expm1(log_p) * _entropy(y)
        return value, q * (x - y)


def _above_kl(log_p: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """A closed-form upper bound on the KL ball, for ``0 < radius < -log_p``.

    ``1/(s(1-s)) >= max(4, 1/q)`` under ``kl(q, p) = int_p^q (q - s)/(s(1-s)) ds`` gives the first two. By convexity the
    answer is at least ``radius / -log p``, and ``kl(q, p) >= q (log(q/p) - 1)`` then gives the third, which is close
    for very small p.
    """
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        p = np.exp(log_p)
        start = np.log(np.minimum(p + np.sqrt(radius / 2), p + radius + np.sqrt(radius**2 + 2 * p * radius)))
        ratio = np.log(radius) - np.log(-log_p) - log_p
        third = np.log(radius) - np.log(ratio - 1)
    return np.where(ratio > 2, np.minimum(start, third), start)


def _entropy(x: np.ndarray) -> np.ndarray:
    """``h(e^x) = 1 + (x - 1) e^x``, by its series ``sum x^k (k-1)/k!`` where the difference would cancel; 1 at ``-inf``."""
    near = np.where(np.abs(x) < _SERIES, x, 0.0)
    total, term = np.zeros_like(near), near.copy()
    for k in range(2, _TERMS):
        term = term * near / k
        total += (k - 1) * term
    finite = np.maximum(x, -745.0)
    return np.where(np.abs(x) < _SERIES, total, 1 + (finite - 1) * np.exp(finite))


def _power(alpha: float, log_q: np.ndarray, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``exp((alpha-1) d_alpha(q, p)) - 1`` as ``p f(q/p) + (1-p) f((1-q)/(1-p))``, and its slope in log q.

    ``f(t) = t^alpha - 1 - alpha (t - 1) >= 0``: the linear terms cancel over both outcomes, and with them the rounding.
    """
    x, y = _ratios(log_q, log_p)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        far = np.exp(alpha * x + log_p) - np.exp(log_p) - alpha * (np.exp(log_q) - np.exp(log_p))
        first = np.where(alpha * x < _SERIES, np.exp(log_p) * _convex(alpha, x), far)
        value = first - np.expm1(log_p) * _convex(alpha, y)
        return value, alpha * (np.exp(alpha * x + log_p) - np.exp(log_q + (alpha - 1) * y))


def _convex(alpha: float, x: np.ndarray) -> np.ndarray:
    """``f(e^x) = expm1(alpha x) - alpha expm1(x)``, by its series ``sum (alpha^k - alpha) x^k/k!`` where the difference would cancel."""
    near = np.where(np.abs(alpha * x) < _SERIES, x, 0.0)
    total, power, term = np.zeros_like(near), alpha * near, near.copy()
    for k in range(2, _TERMS):
        power, term = power * alpha * near / k, term * near / k
        total += power - alpha * term
    return np.where(np.abs(alpha * x) < _SERIES, total, np.expm1(alpha * x) - alpha * np.expm1(x))
