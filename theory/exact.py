"""Exact lower-tail probabilities of quadratic laws, in log space, with an error estimate (T5).

``P(M <= 0) = (1 / 2 pi i) int exp(K(theta)) / theta d theta`` along any path that crosses the real axis once, inside
``(0, 1/(2 w_-))``, where ``K(theta) = log E exp(-theta M)``. On the vertical line through the saddlepoint
of the whole integrand its modulus falls monotonically and there is little to cancel: the relative accuracy is the same at
0.3 and at 1e-300. Where it falls too slowly (few degrees of freedom), the path is bent along that of steepest descent.
Inversion along the imaginary axis (Imhof), which `gx2` implements, has a constant *absolute* accuracy instead and
returns a silent 0 in the tail; it serves as the second method where the probability is large enough for it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import gx2
import numpy as np
from jaxtyping import Bool, Float
from scipy.special import log_ndtr

from theory.bound import LOG_IMPOSSIBLE
from theory.quadratic import QuadraticLaw
from theory.tails import log_chernoff, saddlepoint

# Relative error at which a quadrature is accepted, and at which it is given up for another method.
_ACCEPTED = 1e-11
_TOLERATED = 1e-8
# Slope at which the path bends away from the vertical: below 1, so that exp(s^2 theta^2 / 2) still decays along it.
_BEND = 0.75
_FIRST_NODES, _MOST_NODES = 48, 6144
# Log of the modulus, relative to the saddle, below which the rest of a path is left out.
_NEGLIGIBLE = -41.5
# Complex numbers that one block of the quadrature may hold.
_BLOCK = 2_000_000
# Imhof's absolute error, and the probability above which that is a relative error worth reporting.
_IMHOF_ABSOLUTE = 1e-11
_IMHOF_LEAST = 1e-6


@dataclass(frozen=True)
class TailProbability:
    """``log P(M <= 0)`` for a batch of laws.

    Attributes
    ----------
    log_p : (P,) array
        The estimate.
    log_low, log_high : (P,) array
        The estimate less and plus its error; `log_high` is what an upper bound may quote. Where no method reached its
        accuracy, `log_high` is the Chernoff bound and `log_low` is ``-inf``.
    relative_error : (P,) array
        A-posteriori estimate of the relative error of ``exp(log_p)``.
    exact : (P,) bool array
        Whether the accuracy was reached.
    """

    log_p: Float[np.ndarray, " P"]
    log_low: Float[np.ndarray, " P"]
    log_high: Float[np.ndarray, " P"]
    relative_error: Float[np.ndarray, " P"]
    exact: Bool[np.ndarray, " P"]


def tail_probability(law: QuadraticLaw) -> TailProbability:
    """``P(M <= 0)`` for every law of a batch.

    The contour through the saddlepoint comes first; where its error estimate stays above 1e-8 (laws of one or two
    degrees of freedom with a kink at the threshold), `gx2`'s Imhof inversion is used if the probability is above
    1e-6; failing that the Chernoff bound is returned as the upper side with no lower side. An "exact" value above its
    Chernoff bound is a bug, and raises.

    Raises
    ------
    ArithmeticError
        If an accepted value exceeds its own Chernoff bound by more than its error.
    """
    P = len(law)
    chernoff = log_chernoff(law)
    constant = law.variance() == 0
    impossible = law.surely_positive()
    log_p = np.where(impossible, -np.inf, 0.0)
    error, rounding = np.zeros(P), np.zeros(P)
    live = np.flatnonzero(~impossible & ~constant)
    if live.size:
        log_p[live], error[live], rounding[live] = _contour(law[live])
    for row in np.flatnonzero(error > _TOLERATED):
        found = _imhof(law[row])
        if found is not None and found[0] <= chernoff[row] + found[1]:
            log_p[row], error[row] = found
    exact = error <= _TOLERATED
    # Rounding in an exponent of -1e9 is 1e-6 of the probability: it widens the answer and does not disqualify it.
    slack = 2 * (error + rounding)
    wrong = exact & ~impossible & (log_p > chernoff + slack + 1e-9)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ArithmeticError(f"exact tail {log_p[row]} of law {row} exceeds its Chernoff bound {chernoff[row]}")
    with np.errstate(invalid="ignore"):
        high = np.where(exact, np.minimum(log_p + slack, chernoff), chernoff)
        low = np.where(exact, np.minimum(log_p - slack, high), -np.inf)
    log_p = np.where(exact, np.minimum(log_p, 0.0), chernoff)
    high = np.where(impossible, LOG_IMPOSSIBLE, np.minimum(high, 0.0))
    return TailProbability(log_p, log_low=low, log_high=high, relative_error=np.where(exact, error + rounding, np.inf), exact=exact)


def _contour(law: QuadraticLaw) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Trapezoidal rule along the path; returns log-probability, quadrature error and rounding error, both relative."""
    theta0 = saddlepoint(law, pole=True)
    # A saddlepoint so far out that its powers leave the floats ends in NaN below, and so in the Chernoff bound.
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        _, second, third = law.laplace_derivatives(theta0)
        second, third = second + 1 / theta0**2, third - 2 / theta0**3
        width = 1 / np.sqrt(second)
    # The steepest-descent path leaves the saddle as x = y^2 K_3 / (6 K_2); a hyperbola with that curvature follows it.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        reach = np.minimum(3 * _BEND * second / np.abs(third), 1e150 * width)
    base = law.log_laplace(theta0[:, None])[:, 0] - np.log(theta0)
    total = np.full(len(law), np.nan)
    error = np.full(len(law), np.inf)
    # The vertical line is always valid; a bent path must earn it (see `_truncation`).
    for sign in (0.0, 1.0, -1.0):
        rows = np.flatnonzero(~(error <= _TOLERATED))
        if rows.size == 0:
            break
        path = (theta0[rows], width[rows], sign * np.sign(third[rows]) * _BEND, reach[rows], base[rows])
        total[rows], error[rows] = _integrate(law[rows], path)
    # Doubling squares the error of a geometrically convergent rule, so the last change overestimates what is left.
    error = np.maximum(error, 1e-13)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_p = np.where(error < 1, base + np.log(total / np.pi), np.nan)
    bad = ~np.isfinite(log_p)
    return np.where(bad, 0.0, log_p), np.where(bad, np.inf, error), law.rounding(theta0)


def _integrate(law: QuadraticLaw, path: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Double the nodes until two answers agree; returns the integral and its relative change at the last doubling."""
    end = _truncation(law, path)
    total = np.full(len(law), np.nan)
    error = np.full(len(law), np.inf)
    live = np.flatnonzero(np.isfinite(end))
    nodes = _FIRST_NODES
    while live.size and nodes <= _MOST_NODES:
        current = _trapezoid(law, path, end, live, nodes)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            change = np.abs(current - total[live]) / np.abs(current)
        error[live] = np.where(np.isfinite(change) & (current > 0), change, np.inf)
        total[live] = current
        # An integral that is not finite on a path will not become so with more nodes.
        live = live[~(error[live] <= _ACCEPTED) & np.isfinite(current)]
        nodes *= 2
    return total, error


def _path(path: tuple[np.ndarray, ...], rows: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points theta(u) of the paths of some rows, and theta'(u); u of shape (rows, N)."""
    theta0, width, bend, reach, _ = (p[rows][:, None] for p in path)
    # y = width sinh(u): linear near the saddle, geometric far out, where laws of few degrees of freedom decay slowly.
    y, dy = width * np.sinh(u), width * np.cosh(u)
    h = np.hypot(reach, y)
    # sqrt(reach^2 + y^2) - reach without cancellation.
    return theta0 + bend * (y * y / (h + reach)) + 1j * y, (bend * y / h + 1j) * dy


def _path_values(law: QuadraticLaw, path: tuple[np.ndarray, ...], rows: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Integrand ``Re[exp(K - log theta - base) theta'(u) / i]`` at the nodes u, both of shape (rows, N)."""
    theta, velocity = _path(path, rows, u)
    with np.errstate(over="ignore", invalid="ignore"):
        return (np.exp(law[rows].log_laplace(theta) - np.log(theta) - path[4][rows][:, None]) * velocity).imag


def _truncation(law: QuadraticLaw, path: tuple[np.ndarray, ...]) -> np.ndarray:
    """Where the integrand has fallen below rounding for good, per law, on a coarse grid; NaN if the path is refused.

    On a bent path the modulus may dip and rise again, enormously, with a phase too fast to sample: such an integral can
    look converged and be wrong, so a path on which the modulus rises at all is refused.
    """
    grid = np.concatenate([np.arange(0.0, 12, 0.125), np.arange(12, 80, 0.5)])
    end = np.empty(len(law))
    step = max(1, _BLOCK // grid.size)
    for start in range(0, len(law), step):
        rows = np.arange(start, min(start + step, len(law)))
        theta, velocity = _path(path, rows, np.broadcast_to(grid, (rows.size, grid.size)))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            modulus = (law[rows].log_laplace(theta) - np.log(theta)).real - path[4][rows][:, None]
            size = modulus + np.log(np.abs(velocity) / path[1][rows][:, None])
        over = ~(size <= _NEGLIGIBLE)
        last = grid.size - 1 - np.argmax(over[:, ::-1], axis=1)
        end[rows] = grid[np.minimum(last + 1, grid.size - 1)]
        rises = np.diff(modulus, axis=1) > 1e-6
        relevant = np.arange(1, grid.size)[None] <= last[:, None]
        end[rows[(rises & relevant).any(axis=1) | ~np.isfinite(modulus[:, 0])]] = np.nan
    return end


def _trapezoid(law: QuadraticLaw, path: tuple[np.ndarray, ...], end: np.ndarray, rows: np.ndarray, nodes: int) -> np.ndarray:
    fractions = np.arange(nodes + 1) / nodes
    weights = np.full(nodes + 1, 1.0)
    weights[0] = weights[-1] = 0.5
    out = np.empty(rows.size)
    step = max(1, _BLOCK // (nodes + 1))
    for start in range(0, rows.size, step):
        part = rows[start : start + step]
        u = end[part][:, None] * fractions
        with np.errstate(invalid="ignore", over="ignore"):
            out[start : start + step] = (_path_values(law, path, part, u) @ weights) * end[part] / nodes
    return out


def _imhof(law: QuadraticLaw) -> tuple[float, float] | None:
    """gx2's Imhof inversion for one law; None where its absolute error would dominate."""
    w, g, s, c = law.w[0], law.g[0], float(law.s[0]), float(law.c[0])
    quadratic = np.abs(w) > 1e-14 * max(np.abs(w).max(), 1e-300)
    s = float(np.sqrt(s**2 + (g[~quadratic] ** 2).sum()))
    w, g = w[quadratic], g[quadratic]
    if w.size == 0:
        return float(log_ndtr(-c / s)), 1e-14
    centre = g / (2 * w)
    with warnings.catch_warnings():
        # Its integrator warns where it fails; the checks below decide whether the value is used.
        warnings.simplefilter("ignore")
        p = float(
            np.squeeze(
                gx2.cdf(
                    0.0,
                    w,
                    np.ones_like(w),
                    centre**2,
                    s,
                    c - float((w * centre**2).sum()),
                    method="imhof" if w.size > 1 or s else "auto",
                    AbsTol=_IMHOF_ABSOLUTE,
                    RelTol=1e-12,
                )
            )
        )
    if not (_IMHOF_LEAST < p <= 1.0):
        return None
    return float(np.log(p)), 2 * _IMHOF_ABSOLUTE / p
