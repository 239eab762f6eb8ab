"""Tails of a margin that use its moments only (L7, L9, L10), and tails under a common random scale (L11).

A Gaussian query law gives a margin far lighter tails than real embeddings have. The first three need no law at all: the
mean and variance, unimodality besides, or higher moments. The fourth keeps the law's shape and lets its scale vary.
Statements: theory/README.md, L7; theory/README.md, L9; theory/README.md, L10; theory/README.md, L11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, logsumexp

from theory.bound import LOG_IMPOSSIBLE
from theory.errors import InputError
from theory.exact import tail_probability
from theory.quadratic import QuadraticLaw
from theory.tails import log_chernoff

# Orders above this gain nothing that a Chernoff bound would not: the best order grows with the exponent.
_HIGHEST_MOMENT = 40
# Nodes of the quadrature over the log-scale, doubled until two answers agree.
_FIRST_NODES, _MOST_NODES = 32, 512
_AGREED = 1e-6
# Mass of the scale's law that may lie outside the nodes, relative to the answer; it is added to the upper side.
_OUTSIDE = 1e-9


def _log_ratio(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """``log((E M)^2 / Var M)``, ``-inf`` where ``E M <= 0``."""
    mean = law.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        # Logarithms first: squares of badly scaled coefficients leave the floats.
        scale = np.maximum(np.abs(law.w).max(axis=1), np.maximum(np.abs(law.g).max(axis=1), law.s))
        unit = np.where(scale > 0, scale, 1.0)
        part = QuadraticLaw(law.w / unit[:, None], law.g / unit[:, None], law.s / unit, law.c)
        log_variance = np.log(part.variance()) + 2 * np.log(unit)
        return np.where(mean > 0, 2 * np.log(np.maximum(mean, 0.0)) - log_variance, -np.inf)


def log_cantelli(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """L7: log of ``Var M / (Var M + (E M)^2)``, a bound on ``P(M <= 0)`` when ``E M > 0``; 0 otherwise.

    Assumes the mean and variance of M only (Cantelli 1928).
    """
    return np.maximum(-np.logaddexp(0.0, _log_ratio(law)), LOG_IMPOSSIBLE)


def log_unimodal(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """L9: log of the one-sided Vysochanskii-Petunin bound on ``P(M <= 0)`` for a unimodal M; 0 unless ``E M > 0``.

    With ``x = Var M / (Var M + (E M)^2)`` it is ``4 x / 9`` if ``(E M)^2 >= 5 Var M / 3`` and ``4 x / 3 - 1 / 3``
    otherwise (Mercadier and Strobel 2021). Never above `log_cantelli`, as ``4 x / 3 - 1 / 3 <= x`` for ``x <= 1``.
    That M is unimodal is an assumption: sums of unimodal variables need not be, and quadratic forms are such sums.
    """
    ratio = _log_ratio(law)
    log_x = -np.logaddexp(0.0, ratio)
    with np.errstate(divide="ignore"):
        near = np.log(np.maximum(4 * np.exp(log_x) / 3 - 1 / 3, 0.0))
    value = np.where(ratio >= np.log(5 / 3), np.log(4 / 9) + log_x, near)
    return np.clip(value + 4e-16, LOG_IMPOSSIBLE, np.minimum(0.0, log_cantelli(law)))


def log_central_moments(law: QuadraticLaw, most: int = _HIGHEST_MOMENT) -> Float[np.ndarray, "P half"]:
    """Logs of ``E (M - E M)^p / (Var M)^(p / 2)`` for p = 2, 4, ..., `most`.

    From the cumulants ``kappa_n = 2^(n-1) (n-1)! sum w^n + (n! / 2) sum g^2 (2 w)^(n-2)`` (and ``s^2`` in the second), by
    the recursion ``m_n = sum_j C(n-1, j-1) kappa_j m_(n-j)``, in units of the standard deviation.

    Parameters
    ----------
    law : QuadraticLaw
        Batch of P laws of positive variance.
    most : int
        Highest order, even.
    """
    scale = np.maximum(np.abs(law.w).max(axis=1), np.maximum(np.abs(law.g).max(axis=1), law.s))
    unit = np.where(scale > 0, scale, 1.0)
    deviation = np.sqrt(QuadraticLaw(law.w / unit[:, None], law.g / unit[:, None], law.s / unit, law.c).variance())
    unit = unit * np.where(deviation > 0, deviation, 1.0)
    w, g, s = law.w / unit[:, None], law.g / unit[:, None], law.s / unit
    # Cumulants and moments divided by n!, which would leave the floats at the highest orders otherwise.
    cumulants = np.zeros((most + 1, len(law)))
    power = np.ones_like(w)
    for n in range(2, most + 1):
        # power is (2 w)^(n - 2) here.
        cumulants[n] = (2 * w**2 * power).sum(axis=1) / n + 0.5 * (g**2 * power).sum(axis=1)
        power = power * 2 * w
    cumulants[2] += 0.5 * s**2
    moments = np.zeros((most + 1, len(law)))
    moments[0] = 1.0
    for n in range(1, most + 1):
        j = np.arange(1, n + 1)
        moments[n] = (j[:, None] * cumulants[1 : n + 1] * moments[n - 1 :: -1][:n]).sum(axis=0) / n
    even = np.arange(2, most + 1, 2)
    with np.errstate(divide="ignore"):
        return (np.log(np.maximum(moments[even], 0.0)) + gammaln(even + 1)[:, None]).T


def log_moments(law: QuadraticLaw, most: int = _HIGHEST_MOMENT) -> Float[np.ndarray, " P"]:
    """L10: log of ``min over p of E |M - E M|^p / (E M)^p``, p = 2, 4, ..., `most`; 0 unless ``E M > 0``.

    Markov's inequality for ``|M - E M|^p``. Assumes that the moments used are finite and as stated, and nothing of the
    tail beyond them.
    """
    if most < 2 or most % 2:
        raise InputError("most", f"{most} is not an even number of at least 2")
    ratio = _log_ratio(law)
    orders = np.arange(2, most + 1, 2)
    moments = log_central_moments(law, most)
    # Sums of positive terms and of terms of both signs: an allowance for their rounding, to stay an upper bound.
    usable = np.isfinite(moments)
    with np.errstate(invalid="ignore"):
        value = np.where(usable, moments - 0.5 * orders * ratio[:, None] + 1e-9, np.inf)
    found = np.where(ratio == np.inf, LOG_IMPOSSIBLE, np.where(ratio == -np.inf, 0.0, value.min(axis=1)))
    return np.clip(found, LOG_IMPOSSIBLE, 0.0)


@dataclass(frozen=True)
class Student:
    """The scale ``W = dof / chi2_dof`` common to all embeddings of a query: Gaussian given W, Student without it.

    Parameters
    ----------
    dof : float
        Degrees of freedom, positive; a covariance exists from above 2, where the law's is ``dof / (dof - 2)`` times the
        Gaussian's.
    """

    dof: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.dof) and self.dof > 0):
            raise InputError("dof", f"{self.dof} is not positive and finite")

    def span(self, log_outside: float) -> tuple[float, float, float]:
        """Least and greatest ``-log W`` between which all but the stated mass lies, and the log of the mass outside."""
        from scipy.stats import gamma

        half = self.dof / 2
        outside = max(np.exp(log_outside), 1e-290)
        low, high = gamma.ppf(outside / 2, half, scale=1 / half), gamma.isf(outside / 2, half, scale=1 / half)
        return float(np.log(max(low, 1e-300))), float(np.log(high)), float(np.log(outside))

    def log_density(self, t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Log-density of ``t = -log W``, the logarithm of a gamma variable of mean one."""
        half = self.dof / 2
        return half * (np.log(half) + t - np.exp(t)) - gammaln(half)


def scaled(law: QuadraticLaw, scale: Float[np.ndarray, " n"]) -> QuadraticLaw:
    """Laws of the margins when the covariance of the query is multiplied by each scale: a batch of n P laws, scale by scale."""
    root = np.sqrt(scale)[:, None]
    w = (scale[:, None, None] * law.w).reshape(-1, law.w.shape[1])
    g = (root[..., None] * law.g).reshape(-1, law.w.shape[1])
    return QuadraticLaw(w, g, (root * law.s).ravel(), np.tile(law.c, scale.size))


def log_scale_mixture(
    law: QuadraticLaw, of: np.ndarray, components: int, mixture: Student, chernoff: bool = False
) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """L11: log of ``E_W min(1, sum_s p_s(W))`` for each query component, and its relative quadrature error.

    ``p_s(W)`` is the probability of ``M_s <= 0`` with the query's covariance multiplied by W. The union is taken inside the
    expectation, which is valid (given W it bounds the error) and tighter. Trapezoidal rule in ``log W``, whose integrand
    decays on both sides, with a kink where the union is cut at one; the mass outside the nodes is added, and the last change on
    doubling them, which estimates the error.

    Parameters
    ----------
    law : QuadraticLaw
        Margins of all pairs.
    of : (P,) int array
        Query component of each pair, ascending.
    components : int
        Number C of query components.
    mixture : Student
    chernoff : bool
        Use Chernoff bounds for the pairs rather than their exact probabilities.
    """
    edges = np.searchsorted(of, np.arange(components))

    def unions(t: np.ndarray) -> np.ndarray:
        part = scaled(law, np.exp(-t))
        values = (log_chernoff(part) if chernoff else tail_probability(part).log_high).reshape(t.size, -1)
        top = np.maximum.reduceat(values, edges, axis=1)
        total = top + np.log(np.add.reduceat(np.exp(values - top[:, of]), edges, axis=1))
        return np.minimum(total, 0.0) + mixture.log_density(t)[:, None]

    log_outside = np.log(_OUTSIDE)
    while True:
        low, high, outside = mixture.span(log_outside)
        n = _FIRST_NODES
        sums = logsumexp(unions(np.linspace(low, high, n + 1)), axis=0)
        answer = sums + np.log((high - low) / n)
        least = float(answer.min()) + np.log(_OUTSIDE)
        if outside <= least or outside <= np.log(1e-290):
            break
        # What was cut off matters for the rarest component: cut further out.
        log_outside = max(least + np.log(_OUTSIDE), np.log(1e-290))
    error = np.full(components, np.inf)
    while n < _MOST_NODES:
        # Half-way between the nodes so far: nothing is computed twice.
        t = low + (high - low) * (np.arange(n) + 0.5) / n
        sums = np.logaddexp(sums, logsumexp(unions(t), axis=0))
        n *= 2
        refined = sums + np.log((high - low) / n)
        error, answer = np.abs(np.expm1(refined - answer)), refined
        if (error <= _AGREED).all():
            break
    upper = np.logaddexp(answer + np.log1p(error), outside)
    return np.minimum(upper, 0.0), error
