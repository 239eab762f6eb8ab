"""The canonical model with signatures estimated from samples: how `theory.planner.plug_in_canonical` is computed, and proved there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, logsumexp

from theory.bound import Assumption, Bound

# Intervals of a chi-square variable on either side of its mean; and steps from a Gaussian's best order, coarse to fine.
_INTERVALS = 64
_STEPS = ((0.4, 0.6, 0.8, 1.0, 1.25, 1.6, 2.2), (0.87, 1.15), (0.95, 1.05))
# Orders of the log-MGF of R between which a chord is taken; none above 1/2 is needed.
_CHORDS = np.linspace(0.0, 0.5, 129)
# Levels L of the half-space bound, and orders of the log-MGF of R around a Gaussian's best for its tails.
_LEVELS = 16
_ORDERS = np.geomspace(1e-3, 1e3, 96)
# Targets are floats, so no level beyond exp(-800) can be needed.
_DEEPEST = 800.0
# A level over the degrees of freedom is half the exponent of a quantile, whose square and inverse must stay floats.
_DEEPEST_PER_DEGREE = 100.0
# Numbers that one block of a sum over the factors of a determinant may hold.
_BLOCK = 2_000_000
# Relative widening of what Newton's method and sums of cancelling terms give; it exceeds their rounding up to n = 1e12.
_WIDENED = 1e-8
# Allowance for rounding in the logarithm of a plug-in bound.
_PLUG_IN_ROUNDING = 1e-9


def plug_in_pairs(n: int, d: int, log_wrong: float, rho2: float) -> Bound:
    """`theory.planner.plug_in_canonical`, of checked arguments; `log_wrong` is the logarithm of the number of wrong components."""
    k = n - d
    # A level far beyond the exponent of the true signature cannot be worth its price.
    deepest = min(max(25.0, 8 + rho2 / 8 - log_wrong), _DEEPEST)
    deepest_own, deepest_wrong = min(deepest, _DEEPEST_PER_DEGREE * k), min(deepest + log_wrong, _DEEPEST_PER_DEGREE * k)
    edges_own, mass_own = _intervals(k, deepest_own)
    edges_wrong, mass_wrong = _intervals(k, deepest_wrong)
    cells = _Cells(
        own=(n - 1) * np.exp(-edges_own[:-1, None]),
        wrong=(n - 1) * np.exp(-edges_wrong[None, 1:]),
        shift=edges_own[1:, None] - edges_wrong[None, :-1],
    )

    def averaged(log_p: Float[np.ndarray, "e e"], log_failure: float) -> float:
        pair = np.logaddexp(_log_average(log_p, mass_wrong), math.log(2) - deepest_wrong)
        own = _log_average(np.minimum(log_wrong + pair, 0.0)[None], mass_own)[0]
        return float(logsumexp([own, math.log(2) - deepest_own, log_failure]))

    chernoff = _log_chernoff(cells, n, d, rho2)
    first = averaged(chernoff, -math.inf)
    tails = _Remainder.of(n, d, deepest + log_wrong)
    second = math.inf
    for level in np.geomspace(3.0, deepest, _LEVELS):
        half_space = _log_half_space(cells, n, d, log_wrong, rho2, float(level), tails)
        if half_space is not None:
            second = min(second, averaged(np.minimum(chernoff, half_space), math.log(5) - float(level)))
    value = min(first, second)
    value += _PLUG_IN_ROUNDING * (1 + abs(value))
    if first <= second:
        return Bound("L3", Assumption.A4, value, source=f"L3 of plug-in signatures, n = {n}: Chernoff's inequality in cells")
    return Bound("L5", Assumption.A4, value, source=f"L5 of plug-in signatures, n = {n}: half-spaces or Chernoff's inequality in cells")


def _log_average(log_f: Float[np.ndarray, "a e"], log_mass: Float[np.ndarray, " e"]) -> Float[np.ndarray, " a"]:
    """Log of the greatest average of f over intervals whose probabilities are at most the masses and sum to one at most."""
    order = np.argsort(-log_f, axis=1)
    total = np.minimum(np.cumsum(np.exp(log_mass)[order], axis=1), 1.0)
    share = np.diff(total, axis=1, prepend=0.0)
    # Where the shares sum to less than one only by rounding, the last digit is the allowance's.
    with np.errstate(divide="ignore"):
        return logsumexp(np.take_along_axis(log_f, order, axis=1) + np.log(share), axis=1)


def _intervals(k: int, deepest: float) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " e"]]:
    """Edges ``log C`` that cut up the range of ``C ~ chi2_k``, and the log of a bound on the probability of each interval.

    Outside the edges C lies with probability ``exp(-deepest)`` at most on either side. By Stirling's inequality the density of
    ``w = log(C/k)`` is at most ``sqrt(k / 4 pi) exp(-(k/2) (exp(w) - 1 - w))``, which is unimodal.
    """
    levels = np.linspace(-1, 1, 2 * _INTERVALS + 1) ** 2 * deepest
    w = np.zeros(levels.size)
    w[:_INTERVALS] = np.log(_chi_square_below(2 * levels[:_INTERVALS] / k))
    w[_INTERVALS + 1 :] = np.log(_chi_square_above(2 * levels[_INTERVALS + 1 :] / k))
    # Edges were widened outwards, which only lowers the density at them.
    peak = -np.minimum(levels[1:], levels[:-1])
    return w + math.log(k), 0.5 * math.log(k / (4 * math.pi)) + np.log(np.diff(w)) + peak


def _chi_square_above(y: Float[np.ndarray, " G"]) -> Float[np.ndarray, " G"]:
    """The x > 1 with ``x - 1 - log x = y``, rounded up: ``P(chi2_k >= k x) <= exp(-k y / 2)`` (Cramer and Chernoff).

    Newton's method on ``t - log(1 + t)``, convex, from ``sqrt(2 y) + y``, which lies beyond the root (this is T1), so that every
    step does.
    """
    t = np.sqrt(2 * y) + y
    for _ in range(60):
        t = t - (t - np.log1p(t) - y) * (1 + t) / t
    return 1 + t * (1 + _WIDENED)


def _chi_square_below(y: Float[np.ndarray, " G"]) -> Float[np.ndarray, " G"]:
    """The x < 1 with ``x - 1 - log x = y``, rounded down: ``P(chi2_k <= k x) <= exp(-k y / 2)``.

    Newton's method on ``exp(w) - 1 - w``, convex, ``w = log x``, from ``-1 - y``, which lies beyond the root.
    """
    w = -1 - y
    for _ in range(60):
        slope = np.expm1(w)
        w = w - (slope - w - y) / slope
    return np.exp(w * (1 + _WIDENED))


@dataclass(frozen=True)
class _Cells:
    """Worst values of ``alpha_o``, ``alpha_w`` and ``log C_o - log C_w`` in every cell: own intervals by wrong intervals."""

    own: Float[np.ndarray, "e 1"]
    wrong: Float[np.ndarray, "1 e"]
    shift: Float[np.ndarray, "e e"]


def _log_chernoff(cells: _Cells, n: int, d: int, rho2: float) -> Float[np.ndarray, "e e"]:
    """Log of Chernoff's bound on the error of a pair in every cell; see `plug_in_canonical`."""
    s, less = 1 + 1 / n, (2 + 1 / n) / n
    own, wrong, shift = cells.own, cells.wrong, cells.shift
    remainder, curvature = _log_remainder(n, d)
    ratio = wrong / own

    def exponent_at(theta: np.ndarray) -> np.ndarray:
        part = 2 * theta * own * s
        D = (1 - part) * (1 + part * ratio) + part**2 * ratio / s**2
        near_one = part * (ratio - 1) - part**2 * ratio * less / s**2
        log_D = np.where(np.abs(near_one) < 0.5, np.log1p(np.clip(near_one, -0.5, 0.5)), np.log(D))
        # A chord lies above the convex function that it cuts.
        chord = np.interp(theta, _CHORDS, remainder)
        return -0.5 * d * log_D - theta * rho2 * wrong * (1 - part) / D + theta * shift + chord

    # The best order if the margin were Gaussian; any order is valid, so a few steps around it do.
    mean = rho2 * wrong - d * s * (own - wrong) - shift
    half_variance = d * (s**2 * (own - wrong) ** 2 + 2 * own * wrong * less) + 2 * rho2 * wrong**2 * s + curvature
    most = np.minimum(0.49 / (own * s), _CHORDS[-1])
    theta = np.clip(mean / (2 * half_variance), 1e-9 * most, most)
    least = np.zeros(theta.shape)
    for steps in _STEPS:
        start = theta
        for step in steps:
            at = np.minimum(start * step, most)
            value = exponent_at(at)
            better = value < least
            least, theta = np.where(better, value, least), np.where(better, at, theta)
    return least


def _log_half_space(
    cells: _Cells, n: int, d: int, log_wrong: float, rho2: float, level: float, tails: _Remainder
) -> Float[np.ndarray, "e e"] | None:
    """Log of the half-space bound on the error of a pair in every cell, at one level L; None where L is too deep for it."""
    rho, deep = math.sqrt(rho2), level + log_wrong
    # P(z <= -sqrt(2 L)) <= exp(-L) for a standard normal z.
    along = rho - math.sqrt(2 * deep) * math.sqrt(2 / n)
    if along <= 0:
        return None
    across = 0.0
    if d > 1:
        across = float(_chi_square_above(np.array([2 * deep / (d - 1)]))[0]) * (d - 1) * 2 / n
    radius = (1 + 1 / n) * d * float(_chi_square_above(np.array([2 * level / d]))[0])
    gap = tails.above(level) - tails.below(deep)
    eta = np.maximum(0.0, (np.maximum(0.0, cells.own - cells.wrong) * radius + cells.shift + gap) / cells.wrong)
    return log_ndtr((eta / along - rho * along / math.sqrt(along**2 + across)) / (2 * math.sqrt(1 + 0.5 / n)))


# --- The remainder R: the sum of log chi-squares of n - 1, ..., n - d + 1 degrees of freedom, 2 a_j each.


def _degrees(n: int, d: int, columns: int) -> Iterator[Float[np.ndarray, "j 1"]]:
    """The ``a_j = (n - 1 - j) / 2``, j < d - 1, in blocks."""
    rows = max(1, _BLOCK // columns)
    for start in range(0, d - 1, rows):
        yield ((n - 1 - np.arange(start, min(d - 1, start + rows), dtype=np.float64)) / 2)[:, None]


def _log_remainder(n: int, d: int) -> tuple[Float[np.ndarray, " T"], float]:
    """A bound on ``log E exp(theta (R_o - R_w))`` at the orders `_CHORDS`, and about half its second derivative at 0."""
    total, curvature = np.zeros(_CHORDS.size), 0.0
    for a in _degrees(n, d, _CHORDS.size):
        total += (_log_gamma_rise(_CHORDS, a) + _log_gamma_fall(_CHORDS, a)).sum(axis=0)
        curvature += float((1 / a).sum())
    return total, curvature


def _log_gamma_rise(u: Float[np.ndarray, " U"], a: Float[np.ndarray, "j 1"]) -> Float[np.ndarray, "j U"]:
    """An upper bound on ``log Gamma(a + u) - log Gamma(a) - u log a``, for u >= 0.

    The integral of ``digamma(x) < log x - 1/(2 x)``, without the cancellation that gammas of 1e12 would bring.
    """
    x = u / a
    return a * ((1 + x) * np.log1p(x) - x) - 0.5 * np.log1p(x)


def _log_gamma_fall(u: Float[np.ndarray, " U"], a: Float[np.ndarray, "j 1"]) -> Float[np.ndarray, "j U"]:
    """An upper bound on ``log Gamma(a - u) - log Gamma(a) + u log a``, for ``0 <= u < a``.

    The integral of ``digamma(x) > log x - 1/(2 x) - 1/(12 x^2)``.
    """
    x = u / a
    return a * ((1 - x) * np.log1p(-x) + x) - 0.5 * np.log1p(-x) + x / (12 * a * (1 - x))


@dataclass(frozen=True)
class _Remainder:
    """Tails of ``R - sum_j log(2 a_j)`` by Chernoff's inequality on a grid of orders.

    Attributes
    ----------
    orders, log_mgf : (U,) arrays
        Orders u, and bounds on the log-MGF at u.
    negative_orders, negative_log_mgf : (U,) arrays
        Orders u, and bounds on the log-MGF at -u.
    """

    orders: Float[np.ndarray, " U"]
    log_mgf: Float[np.ndarray, " U"]
    negative_orders: Float[np.ndarray, " U"]
    negative_log_mgf: Float[np.ndarray, " U"]

    @classmethod
    def of(cls, n: int, d: int, deepest: float) -> _Remainder:
        """Bounds at orders around those that suit a Gaussian of the same variance, about ``sum_j 1 / a_j``."""
        least = (n - d + 1) / 2
        variance = 2 * (math.log((n - 1) / (n - d)) + 1 / (n - d))
        natural = math.sqrt(2 * math.sqrt(deepest) / variance) * _ORDERS
        # The gamma function is finite down to order -least.
        negative = least * natural / (least + natural)
        up, down = np.zeros(natural.size), np.zeros(natural.size)
        for a in _degrees(n, d, natural.size):
            up += _log_gamma_rise(natural, a).sum(axis=0)
            down += _log_gamma_fall(negative, a).sum(axis=0)
        return cls(natural, up, negative, down)

    def above(self, level: float) -> float:
        """A threshold exceeded with probability at most ``exp(-level)``."""
        found = float(((self.log_mgf + level) / self.orders).min())
        return found + _WIDENED * abs(found)

    def below(self, level: float) -> float:
        """A threshold fallen below with probability at most ``exp(-level)``."""
        found = float(((self.negative_log_mgf + level) / self.negative_orders).min())
        return -found - _WIDENED * abs(found)
