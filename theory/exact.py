"""Exact lower-tail probabilities of quadratic laws, in log space, with an error bound or estimate (theory/README.md, T5).

``P(M <= 0) = (1 / 2 pi i) int exp(K(theta)) / theta d theta`` along any path from below to above that crosses the real axis once,
inside ``(0, 1/(2 w_-))``, where ``K(theta) = log E exp(-theta M)``: all singularities of the integrand lie on the real axis, to
the left and to the right of that strip. Tilting the law by the saddlepoint of the whole integrand takes ``exp(K)`` out of
the integral and leaves a law of unit scale, whose integral is of order one whatever the probability: the relative accuracy is the same
at 0.3 and at 1e-300. Two paths serve:

* the vertical line (`_line`), where the modulus falls monotonically. An equidistant sum on it is exact up to two quantities
  with closed-form bounds, so its error is proved, not estimated. It needs a dozen nodes for a law of many degrees of freedom;
* a path of steep descent (`_descent`), for the laws of few degrees of freedom whose modulus falls too slowly along the line. Two paths of
  different steps give two answers; their difference is the error.

Inversion along the imaginary axis (Imhof), which `gx2` implements, has a constant *absolute* accuracy instead and returns a silent 0
in the tail. `lugannani_rice` is the cheap check of either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Complex, Float
from scipy.special import erfcx

from theory.bound import LOG_IMPOSSIBLE
from theory.quadratic import QuadraticLaw
from theory.tails import log_chernoff, saddlepoint

# Relative error of the quadrature that the line must reach, and the one up to which a value is called exact.
_AIM, _TOLERATED = 1e-12, 1e-10
# Numbers that one block of laws may hold at once.
_BLOCK = 2_000_000
# The line: minus the log of the discretisation error that its step is made for, nodes at a time, and nodes after which it is given up.
_LINE_EXPONENT, _LINE_BLOCK, _LINE_NODES = 33.0, 16, 512
# Parts of the way to a singularity at which the line's discretisation error is bounded, and the way if there is no singularity.
_PARTS = np.array([0.2, 0.4, 0.6, 0.8, 0.95])
_FAR = 9.0
# Truncation error, relative to the sum, at which either path ends.
_TRUNCATED = 1e-14
# The path of descent: nodes per step, most steps, greatest tangent of its angle to the vertical, and the two sizes of step.
_GAUSS_NODES, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(20)
_STEPS, _SLOPE, _STRIDES = 400, 1.0, (1.0, 0.7)
# Change of the logarithm of the integrand that one step may hold.
_CHANGE = 5.0
# Newton steps that may follow the search for the saddlepoint.
_POLISHING_STEPS = 60
# Constant, in units of the other coefficients, beyond which a law's powers may leave the floats.
_DISTANT = 1e140
# The v of Lugannani and Rice's formula below which it is replaced by its limit.
_NEAR_MEAN = 1e-3


@dataclass(frozen=True)
class TailProbability:
    """``log P(M <= 0)`` for a batch of laws.

    Attributes
    ----------
    log_p : (P,) array
        The estimate.
    log_low, log_high : (P,) array
        The estimate less and plus its error, rounded outwards; `log_high` is what an upper bound may quote. Where the quadrature did not
        reach its accuracy they are the Chernoff bound and ``-inf`` (or what these say of the complement).
    relative_error : (P,) array
        Relative error of ``exp(log_p)``: of the quadrature and of rounding, which in an exponent of -1e9 is 1e-6 of the probability.
    exact : (P,) bool array
        Whether the quadrature reached its accuracy.
    """

    log_p: Float[np.ndarray, " P"]
    log_low: Float[np.ndarray, " P"]
    log_high: Float[np.ndarray, " P"]
    relative_error: Float[np.ndarray, " P"]
    exact: Bool[np.ndarray, " P"]


def tail_probability(law: QuadraticLaw) -> TailProbability:
    """``P(M <= 0)`` for every law of a batch.

    Where ``E M < 0`` the other tail is integrated, and its complement returned. The error is bounded where the line serves
    (laws of many degrees of freedom) and estimated by two paths of descent elsewhere. A value whose error stays above 1e-10
    is replaced by the Chernoff bound; that has been seen only where ``log P`` is below -1e15, whose saddlepoint
    no float can tell from its singularity. An "exact" value above its Chernoff bound is a bug, and raises.

    Raises
    ------
    ArithmeticError
        If an accepted value exceeds its own Chernoff bound by more than its error.
    """
    step = max(1, _BLOCK // (64 + 32 * law.w.shape[1]))
    # Powers of extreme coefficients may leave the floats; a law for which that matters ends in NaN and hence in the Chernoff bound.
    with np.errstate(all="ignore"):
        parts = [_tail(law[start : start + step]) for start in range(0, len(law), step)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else [np.zeros(0)] * 4 + [np.zeros(0, dtype=bool)]
    return TailProbability(*columns)


def _tail(law: QuadraticLaw) -> tuple[np.ndarray, ...]:
    """The fields of `TailProbability` for one block of laws."""
    law, clipped = _unit(law)
    law, mirrored = _towards_the_tail(law)
    # A constant below 0 was mirrored and is now impossible; what is left of the constants is 0, and 0 <= 0.
    impossible, constant = _impossible(law), law.variance() == 0
    log_q, chernoff = np.where(impossible, -np.inf, 0.0), np.where(impossible, LOG_IMPOSSIBLE, 0.0)
    error, rounding = np.zeros(len(law)), np.zeros(len(law))
    live = np.flatnonzero(~impossible & ~constant)
    if live.size:
        chernoff[live] = log_chernoff(law[live])
        log_q[live], error[live], rounding[live] = _contour(law[live])
    error[clipped] = np.inf
    exact = error <= _TOLERATED
    slack = 2 * error + rounding
    wrong = exact & ~impossible & (log_q > chernoff + slack + 1e-9)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ArithmeticError(f"exact tail {log_q[row]} of law {row} exceeds its Chernoff bound {chernoff[row]}")
    high = np.where(exact, np.minimum(_up(log_q + slack), chernoff), chernoff)
    low = np.where(exact, np.minimum(_down(log_q - slack), high), -np.inf)
    low[constant & ~impossible] = 0.0
    log_q = np.where(exact, np.minimum(log_q, 0.0), chernoff)
    relative = np.where(exact, error + rounding, np.inf)
    # Where the law was mirrored everything turns round: the upper side is the complement of the lower one.
    log_p = np.where(mirrored, np.where(exact, _complement(log_q), 0.0), log_q)
    log_low = np.where(mirrored, np.where(impossible, 0.0, _down(_complement(high))), low)
    log_high = np.where(mirrored, np.where(impossible, 0.0, np.minimum(_up(_complement(low)), 0.0)), high)
    log_high = np.where(impossible & ~mirrored, LOG_IMPOSSIBLE, log_high)
    odds = np.where(impossible, 0.0, np.exp(log_q - _complement(log_q)))
    # The complement of a tail that is merely known to be negligible is exact too.
    relative = np.where(mirrored, np.where(exact, relative, 1.0) * odds, relative)
    exact = exact | (mirrored & (relative <= _TOLERATED))
    return log_p, log_low, log_high, relative, exact


def _up(x: np.ndarray) -> np.ndarray:
    """A number that exceeds x by more than the rounding of a few operations."""
    return np.nextafter(x + 8 * np.finfo(np.float64).eps * np.where(np.isfinite(x), np.abs(x), 0.0), np.inf)


def _down(x: np.ndarray) -> np.ndarray:
    return -_up(-x)


def _complement(x: np.ndarray) -> np.ndarray:
    """``log(1 - exp(x))`` for ``x <= 0``, without cancellation on either side."""
    return np.where(x > -0.5, np.log(-np.expm1(np.minimum(x, 0.0))), np.log1p(-np.exp(np.minimum(x, -0.5))))


def _unit(law: QuadraticLaw) -> tuple[QuadraticLaw, Bool[np.ndarray, " P"]]:
    """The law in a unit, a power of two, in which its largest coefficient is about one; and whether the constant had to be clipped.

    ``P(M <= 0)`` does not change, and powers of the coefficients stay inside the floats. Clipping a constant towards 0
    brings the threshold nearer to the mean: upper bounds on the tail stay bounds.
    """
    scale = np.maximum(np.abs(law.w).max(axis=-1), np.maximum(np.abs(law.g).max(axis=-1), law.s))
    power = -np.frexp(scale)[1]
    w, g, s, c = np.ldexp(law.w, power[:, None]), np.ldexp(law.g, power[:, None]), np.ldexp(law.s, power), np.ldexp(law.c, power)
    return QuadraticLaw(w, g, s, np.clip(c, -_DISTANT, _DISTANT)), (scale > 0) & (np.abs(c) > _DISTANT)


def _towards_the_tail(law: QuadraticLaw) -> tuple[QuadraticLaw, Bool[np.ndarray, " P"]]:
    """The law, or its mirror image, with a mean of at least 0; and where it was mirrored."""
    mirrored = law.mean() < 0
    sign = np.where(mirrored, -1.0, 1.0)
    return QuadraticLaw(sign[:, None] * law.w, sign[:, None] * law.g, law.s, sign * law.c), mirrored


def _impossible(law: QuadraticLaw) -> Bool[np.ndarray, " P"]:
    """Whether ``P(M <= 0) = 0``: surely positive, or a central form without a constant, which is 0 with probability 0."""
    central = (law.w >= 0).all(axis=-1) & (law.g == 0).all(axis=-1) & (law.s == 0) & (law.c >= 0)
    return law.surely_positive() | (central & (law.w > 0).any(axis=-1))


def _contour(law: QuadraticLaw) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Log-probability, relative error of the quadrature, and error of the logarithm through rounding."""
    theta0 = _polished(law, saddlepoint(law, pole=True))
    tilted, rho = _tilted(law, theta0)
    value, error = _line(tilted, rho)
    rows = np.flatnonzero(~(error <= _AIM))
    if rows.size:
        (coarse, _), (fine, rest) = (_descent(tilted[rows], rho[rows], stride) for stride in _STRIDES)
        difference = np.abs(fine - coarse) / fine + rest
        better = difference < error[rows]
        value[rows[better]], error[rows[better]] = fine[better], difference[better]
    log_p = law.log_laplace(theta0[:, None])[:, 0] + np.log(rho * value)
    rounding = _rounding(law, theta0)
    bad = ~(np.isfinite(log_p) & np.isfinite(error) & np.isfinite(rounding))
    return np.where(bad, 0.0, log_p), np.where(bad, np.inf, error), np.where(bad, 0.0, rounding)


def _polished(law: QuadraticLaw, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """The saddlepoint to a tenth of its own width, which a search relative to theta does not reach close to the singularity."""
    limit = law.limit()
    for _ in range(_POLISHING_STEPS):
        first, second, _ = law.laplace_derivatives(theta)
        first, second = first - 1 / theta, second + 1 / theta**2
        rough = np.abs(first) > 0.1 * np.sqrt(second)
        if not rough.any():
            break
        # Half of the way to a singularity at most: the curvature grows on it without limit.
        step = np.clip(-first / second, -theta / 2, (limit - theta) / 2)
        theta = np.where(rough, theta + step, theta)
    return theta


def _rounding(law: QuadraticLaw, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """A bound on what rounding does to ``K(theta)`` and to the tilted law, as an error of the log-probability.

    A few ulps of every term, and of ``2 w theta`` within ``1 + 2 w theta``, which counts for more the nearer the latter is to 0.
    """
    t = theta[:, None]
    e = 2 * law.w * t
    linear = 0.5 * (law.g * t) ** 2 / (1 + e)
    total = np.abs(theta * law.c) + 0.5 * (law.s * theta) ** 2 + (0.5 * np.abs(np.log1p(e)) + linear).sum(axis=-1)
    near = (np.abs(e) / (1 + e) * (1 + linear)).sum(axis=-1)
    return np.finfo(np.float64).eps * (8 * (1 + total) + near)


def _tilted(law: QuadraticLaw, theta: Float[np.ndarray, " P"]) -> tuple[QuadraticLaw, Float[np.ndarray, " P"]]:
    """The law under the density ``exp(-theta M - K(theta))``, in the unit in which the whole integrand has curvature one.

    A tilted quadratic law is one again, with ``w / u`` for ``w`` and ``g / u^(3/2)`` for ``g`` where ``u = 1 + 2 w theta``.
    In this unit, with ``rho = 1 / (theta unit)`` and ``kappa`` the tilted law's log-Laplace transform,
    ``P(M <= 0) = exp(K(theta)) rho (1 / 2 pi i) int exp(kappa(tau)) / (1 + rho tau) d tau``.
    """
    u = 1 + 2 * law.w * theta[:, None]
    first, second, _ = law.laplace_derivatives(theta)
    unit = np.sqrt(second + 1 / theta**2)
    w = law.w / u / unit[:, None]
    g = law.g / u / np.sqrt(u) / unit[:, None]
    return QuadraticLaw(w, g, law.s / unit, -first / unit - w.sum(axis=-1)), 1 / (theta * unit)


def _line(law: QuadraticLaw, rho: Float[np.ndarray, " P"]) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """The integral of `_tilted` by an equidistant sum along the vertical line, and a bound on its relative error.

    By Poisson's summation formula the infinite sum of step h exceeds the integral by ``G(2 pi k / h)``, summed over all ``k != 0``,
    where ``G(x) = exp(-theta x) P(M <= x)`` is the function whose transform is integrated; Chernoff's bound at some
    ``theta + tau`` makes it at most ``exp(kappa(tau) + tau x)``, so two series of powers bound the error (`_spacing`). What is
    left out beyond y is at most the modulus there times ``y / (nu - 1)``, with `nu` the power at which it falls
    at y, because that power only grows along the line.
    """
    h = _spacing(law, rho)
    total, absolute, tail = np.full(len(law), 0.5), np.full(len(law), 0.5), np.full(len(law), np.inf)
    live = np.flatnonzero(h > 0)
    for start in range(1, _LINE_NODES, _LINE_BLOCK):
        if live.size == 0:
            break
        w, g2, at = law.w[live], law.g[live] ** 2, rho[live, None]
        y = h[live, None] * np.arange(start, start + _LINE_BLOCK)
        v = 2 * w[:, None, :] * y[:, :, None]
        square = v * v
        # Real arithmetic: complex logarithms cost ten times as much.
        spread = g2[:, None, :] / (1 + square)
        modulus = -0.25 * np.log1p(square).sum(axis=-1) - 0.5 * y**2 * (law.s[live, None] ** 2 + spread.sum(axis=-1))
        phase = -law.c[live, None] * y - 0.5 * np.arctan(v).sum(axis=-1) + 0.5 * y**2 * (spread * v).sum(axis=-1)
        size = np.exp(modulus) / (1 + (at * y) ** 2)
        total[live] += (size * (np.cos(phase) + at * y * np.sin(phase))).sum(axis=-1)
        absolute[live] += (size * np.hypot(1, at * y)).sum(axis=-1)
        last = size[:, -1] * np.hypot(1, at[:, 0] * y[:, -1])
        tail[live] = _remainder(law[live], rho[live], 1j * y[:, -1], last) / h[live]
        live = live[~(tail[live] <= _TRUNCATED * total[live])]
    value = h * total / np.pi
    error = (tail + 64 * np.finfo(np.float64).eps * absolute) / total + 4 * np.exp(-_LINE_EXPONENT) / value
    return value, np.where(np.isfinite(error) & (total > 0), error, np.inf)


def _spacing(law: QuadraticLaw, rho: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """The largest step found for which either of the two series that bound the error of `_line` is below ``rho exp(-_LINE_EXPONENT)``.

    For any tau between the singularities ``exp(kappa(tau) - 2 pi |tau| / h)`` bounds the first term on tau's side, and the next
    ones fall by at least e each. The step is 0 if there is none.
    """
    left, right = np.minimum(1 / rho, _FAR), np.minimum(law.limit(), _FAR)
    tau = np.concatenate([-left[:, None] * _PARTS, right[:, None] * _PARTS], axis=1)
    least = law.log_laplace(tau) + _LINE_EXPONENT - np.log(rho)[:, None]
    h = np.where(least > 1, 2 * np.pi * np.abs(tau) / least, 0.0)
    return np.minimum(h[:, : _PARTS.size].max(axis=1), h[:, _PARTS.size :].max(axis=1))


def _remainder(law: QuadraticLaw, rho: np.ndarray, tau: Complex[np.ndarray, " P"], modulus: np.ndarray) -> Float[np.ndarray, " P"]:
    """A bound on the integral of the modulus along the vertical ray upwards from tau, where it is given.

    Every factor falls along the ray, and its power of ``y`` only grows, except that one with a linear part may, left or right of
    its own singularity, regain what that singularity takes away. With `power` the least power at which the modulus falls, the
    integral is at most ``modulus y / (power - 1)``. Four times as high as the distance to the pole and to one other
    singularity, or where ``s y = 2``, the power is at least 1.4; below that height the modulus does not rise.
    """
    x, y = tau.real, tau.imag
    u = 1 + 2 * law.w * x[:, None]
    v2 = (2 * law.w * y[:, None]) ** 2
    s2 = law.s**2 + (np.where(law.w == 0, law.g, 0.0) ** 2).sum(axis=-1)
    pole = (rho * y) ** 2
    power = s2 * y**2 + pole / ((1 + rho * x) ** 2 + pole) + 0.5 * (v2 / (u**2 + v2)).sum(axis=-1)
    regained = np.where(u < 0, law.g**2 * -u / (8 * law.w**2 * (u**2 + v2)), 0.0).sum(axis=-1)
    singular = np.maximum(np.abs(1 + rho * x) / rho, np.abs(u / (2 * law.w)).min(axis=-1))
    height = np.maximum(y, np.fmin(4 * singular, 2 / np.sqrt(s2)))
    return modulus * np.exp(regained) * np.where(power > 1.4, y / (power - 1), 3.5 * height)


def _descent(law: QuadraticLaw, rho: Float[np.ndarray, " P"], stride: float) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """The integral of `_tilted` along a polygon that follows the steepest descent, by a Gauss rule on each side.

    The polygon always rises, so no singularity lies between it and the vertical line, and it could end in a vertical ray: the
    error returned, relative, is a bound on that ray's part (`_remainder`) and on rounding. That of the Gauss rules is left to the
    comparison of two strides; no step is longer than the way to the nearest singularity, or holds a large change.
    """
    value, absolute = np.zeros(len(law)), np.zeros(len(law))
    tail = np.full(len(law), np.inf)
    tau, direction = np.zeros(len(law), dtype=complex), np.full(len(law), 1j)
    live = np.flatnonzero(np.isfinite(rho) & np.isfinite(law.c))
    for _ in range(_STEPS):
        if live.size == 0:
            break
        part, at, z = law[live], rho[live], tau[live]
        first, second = _slopes(part, at, z)
        way = np.minimum(np.abs(1 + at * z) / at, np.abs((1 + 2 * part.w * z[:, None]) / (2 * part.w)).min(axis=-1))
        change = 2 * _CHANGE / (np.abs(first) + np.sqrt(np.abs(first) ** 2 + 2 * _CHANGE * np.abs(second)))
        length = stride * np.minimum(way, change)
        ahead, _ = _slopes(part, at, z + 0.5 * length * direction[live])
        # The descent is along -conj(F'); a side that does not rise enough is turned up to the greatest slope.
        slope = np.where(ahead.imag > 0, np.clip(-ahead.real / ahead.imag, -_SLOPE, _SLOPE), -np.sign(ahead.real) * _SLOPE)
        direction[live] = (slope + 1j) / np.hypot(slope, 1)
        side = length * direction[live]
        nodes = z[:, None] + side[:, None] * np.append((1 + _GAUSS_NODES) / 2, 1.0)
        integrand = np.exp(part.log_laplace(nodes)) / (1 + at[:, None] * nodes)
        value[live] += (side[:, None] * integrand[:, :-1]).imag @ _GAUSS_WEIGHTS / 2
        absolute[live] += length * (np.abs(integrand[:, :-1]) @ _GAUSS_WEIGHTS) / 2
        tau[live] = z + side
        tail[live] = _remainder(part, at, tau[live], np.abs(integrand[:, -1]))
        live = live[~(tail[live] <= _TRUNCATED * np.abs(value[live])) & np.isfinite(absolute[live])]
    error = (tail + 64 * np.finfo(np.float64).eps * absolute) / value
    return value / np.pi, np.where(value > 0, error, np.inf)


def _slopes(law: QuadraticLaw, rho: np.ndarray, tau: Complex[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative of the integrand's logarithm."""
    first, second, _ = law.laplace_derivatives(tau)
    pole = rho / (1 + rho * tau)
    return first - pole, second + pole**2


def lugannani_rice(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """Lugannani and Rice's saddlepoint approximation of ``log P(M <= 0)``: the cheap check of `tail_probability`, and no bound.

    With ``theta`` the minimiser of ``K``, ``w = sqrt(-2 K(theta))`` and ``v = theta sqrt(K''(theta))``, the probability is
    ``Phi(-w) + phi(w) (1/v - 1/w)``; as theta goes to 0 the bracket goes to ``-K'''(0) / (6 K''(0)^(3/2))`` (Lugannani and Rice 1980;
    Daniels 1987). Where ``E M < 0`` it is one less the approximation of the other tail.
    """
    with np.errstate(all="ignore"):
        law, _ = _unit(law)
        law, mirrored = _towards_the_tail(law)
        impossible, constant = _impossible(law), law.variance() == 0
        theta = np.zeros(len(law))
        live = np.flatnonzero(~impossible & ~constant)
        if live.size:
            theta[live] = saddlepoint(law[live])
        _, second, third = law.laplace_derivatives(theta)
        w = np.sqrt(np.maximum(0.0, -2 * law.log_laplace(theta[:, None])[:, 0]))
        v = theta * np.sqrt(second)
        gap = np.where(v < _NEAR_MEAN, -third / (6 * second**1.5), 1 / v - 1 / w)
        # phi(w) times Mills' ratio and the gap; the ratio alone would underflow.
        log_q = -0.5 * w**2 - 0.5 * np.log(2 * np.pi) + np.log(np.sqrt(np.pi / 2) * erfcx(w / np.sqrt(2)) + gap)
        log_q = np.where(impossible, -np.inf, np.where(constant, 0.0, np.minimum(log_q, 0.0)))
        return np.where(mirrored, _complement(log_q), log_q)
