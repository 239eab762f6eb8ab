"""Claims about tails: ``P(chi2_d >= d + second) <= eps/N'``, and what passing implies with equal covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import gammaincc, gammaln, log_ndtr

from theory.errors import InputError, check_whole
from theory.frames import data_frame
from theory.published.criterion import LARGEST, Reading, second

if TYPE_CHECKING:
    import pandas as pd

DIMENSIONS = (8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096)
LOG_RATIOS = (2.0, 5.0, 10.0, 13.604914, 20.0, 30.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
# Up to which log(N'/eps) first failures are looked for.
_LIMIT = 1e5
# No float eps and whole N' bring log(N'/eps) near this.
_LARGEST_LOG = 1e9
# gammaincc is accurate until its value nears the least float; below this the continued fraction takes over.
_LEAST_GAMMAINCC = 1e-280
_MOST_TERMS = 100_000
# Allowance for rounding, relative to the size of what is added up in an exponent.
_ROUNDING = 16 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class TailClaim:
    """The claim ``P(chi2_d >= d + second) <= eps/N'``, decided.

    Attributes
    ----------
    d : int
    log_ratio : float
        ``log(N'/eps)``; the log of the target is its negative.
    reading : Reading
    threshold : float
        ``d + second``.
    log_probability, log_target : float
        Natural logarithms.
    holds : bool
        Whether the probability, plus an allowance for rounding, is at most the target.
    orders : float
        Orders of magnitude by which the probability exceeds the target; negative where there is room.
    """

    d: int
    log_ratio: float
    reading: Reading
    threshold: float
    log_probability: float
    log_target: float
    holds: bool
    orders: float


def tail_claim(d: int, log_ratio: float, reading: Reading | str) -> TailClaim:
    """Decide whether ``P(chi2_d >= d + second) <= eps/N'``, in log space.

    Parameters
    ----------
    d : int
    log_ratio : float
        ``log(N'/eps)``, positive.
    reading : Reading or str
        "a", "b", or "L1" for T1's threshold, for which it is a theorem.

    Raises
    ------
    InputError
        If d is not a whole number of at least 1, or `log_ratio` is not positive and finite.
    """
    t = _checked(d, log_ratio)
    x, value, allowance = (float(part[0]) for part in _log_tail(int(d), t, reading))
    log_ratio = float(t[0])
    return TailClaim(
        d=int(d),
        log_ratio=log_ratio,
        reading=Reading(reading),
        threshold=x,
        log_probability=value,
        log_target=-log_ratio,
        holds=value + allowance <= -log_ratio,
        orders=(value + log_ratio) / math.log(10),
    )


def _checked(d: int, log_ratio: float) -> Float[np.ndarray, " 1"]:
    """Check both, and return `log_ratio` as an array."""
    check_whole("d", d, 1, "an embedding dimension", LARGEST)
    if not 0 < log_ratio <= _LARGEST_LOG:
        raise InputError("log_ratio", f"{log_ratio} is not inside (0, {_LARGEST_LOG:g}]; it is log(N'/eps) with N' >= 1 > eps")
    return np.array([float(log_ratio)])


def _log_tail(d: int, t: Float[np.ndarray, " n"], reading: Reading | str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The threshold ``d + second``, the log of the probability to exceed it, and an allowance for rounding."""
    x = d + second(d, t, reading)
    # The log-density of chi2 has slope at most 1/2 + 1/x at these x, so rounding of x weighs as little as that of x/2 itself.
    return x, log_chi_square_tail(d, x), _ROUNDING * (x + d * np.log(x + 1))


def log_chi_square_tail(d: int, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """``log P(chi2_d >= x)`` for ``x >= d``, right in the deep tail where SciPy's ``chi2.logsf`` returns ``-inf``.

    The regularised incomplete gamma function as long as it is a normal float, and below that its continued fraction in log
    space (Legendre's, DLMF 8.9.2, by the modified Lentz method, which converges for ``x > d``).
    """
    a, z = d / 2, np.asarray(x, dtype=np.float64) / 2
    direct = gammaincc(a, z)
    deep = direct < _LEAST_GAMMAINCC
    out = np.log(np.where(deep, 1.0, direct))
    if deep.any():
        out[deep] = a * np.log(z[deep]) - z[deep] - gammaln(a) - np.log(_continued_fraction(a, z[deep]))
    return out


def _continued_fraction(a: float, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """``z^a e^-z / Gamma(a, z) = z + 1 - a - 1 (1 - a) / (z + 3 - a - 2 (2 - a) / (z + 5 - a - ...))``."""
    b = z + 1 - a
    f, C, D = b.copy(), b.copy(), np.zeros_like(b)
    for n in range(1, _MOST_TERMS):
        an, b = n * (a - n), b + 2
        D = 1 / (b + an * D)
        C = b + an / C
        step = C * D
        f = f * step
        if (np.abs(step - 1) < 1e-15).all():
            return f
    raise ArithmeticError(f"the continued fraction of the incomplete gamma function did not converge at a = {a}")


def tail_proved(d: int, log_ratio: float) -> bool:
    """Whether the tail claim in reading (b) is proved at ``t = log(N'/eps)``, without evaluating the tail.

    Theorem (derived here). With ``y = t + sqrt(t^2 + 4 d t)`` and ``x = y / d``, ``P(chi2_d >= d + y) <= e^-t`` if ``d >= 2`` and
    ``(d/2) (log(1 + x) - 2 x / (2 + x)) <= log((y/2 + 1) sqrt(4 pi / d))``, in particular if ``d x^3 / 12 <= log(4 pi t)``; and for
    ``d = 1`` and ``d = 2`` it holds for every t.

    Proof. ``y`` solves ``t = y^2 / (4 d + 2 y)``. For ``a = d/2 >= 1`` and ``z = (d + y)/2``, ``Gamma(a, z) = z^a e^-z int_0^inf
    (1 + u)^(a-1) e^(-z u) du <= z^a e^-z / (z - a + 1)``; with Stirling's ``Gamma(a) >= sqrt(2 pi / a) (a/e)^a`` this is ``P <= e^-I
    sqrt(d / (4 pi)) / (y/2 + 1)``, where ``I = (y - d log(1 + x)) / 2`` is Chernoff's exponent; and ``t - I`` is the left side. In
    particular: the bracket is at most ``x^3 / 12``, having derivative ``x^2 / ((1 + x) (2 + x)^2) <= x^2 / 4``, and ``y >= 2 sqrt(d t)``.
    For ``d = 2``, ``P = exp(-1 - y/2)`` and ``y >= 2 t``. For ``d = 1``, ``P <= sqrt(2 / (pi w)) e^(-w/2)`` with ``w = 1 + y >= 1 + 2 t``.

    The bracket is positive: (b) asks of the tail a larger exponent than Chernoff's, so no Chernoff argument gives (b), and for ``d >= 3``
    it fails once the factor before ``e^-I`` no longer makes up for that.
    """
    return bool(_tail_proved(int(d), _checked(d, log_ratio))[0])


def _tail_proved(d: int, t: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    if d <= 2:
        return np.ones(t.size, dtype=bool)
    y = second(d, t, Reading.TAIL_INVERSION)
    x = y / d
    missing = d / 2 * (np.log1p(x) - 2 * x / (2 + x))
    # The allowance for rounding is on the safe side.
    return missing + _ROUNDING * (y + d) <= np.log((y / 2 + 1) * np.sqrt(4 * np.pi / d))


def first_failure(d: int, reading: Reading | str, limit: float = _LIMIT) -> float:
    """Smallest ``log(N'/eps)`` at which the tail claim fails, to 1e-6 relative; ``inf`` if it holds at every point tried up to `limit`.

    A grid of 200 points from 0.01 to `limit` brackets the first failure and bisection narrows it.
    """
    _checked(d, limit)

    def fails(t: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        _, value, allowance = _log_tail(int(d), t, reading)
        return value - allowance > -t

    return _first_true(fails, limit)


def _tail_unproved(d: int, t: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    # The proof says nothing of small t in high dimension; N' >= 3 keeps every real t above 1.
    return (t >= 1) & ~_tail_proved(d, t)


def _first_true(fails: Callable[[Float[np.ndarray, " n"]], Bool[np.ndarray, " n"]], limit: float = _LIMIT) -> float:
    """First point of a grid up to `limit` at which a predicate of t is true, narrowed by bisection."""
    grid = np.geomspace(min(0.01, limit), limit, 200)
    failing = np.flatnonzero(fails(grid))
    if failing.size == 0:
        return math.inf
    j = int(failing[0])
    low, high = (grid[j - 1] if j else 0.0), grid[j]
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fails(np.array([middle]))[0] else (middle, high)
    return float(high)


def tied_proved(d: int, sigma2: float, log_ratio: float, reading: Reading | str) -> bool:
    """Whether passing is proved to imply ``error <= eps`` when all components have one covariance (A4, well-specified).

    Theorem (derived here), for any number of tasks and components, ``kappa = 0``, ``R = max(first, second)`` and ``first = 1.5 d
    sigma2``: a cluster that passes has error at most ``N' Phi(-sqrt(R/2))``. So passing suffices if ``log Phi(-sqrt(R/2)) <= -t`` with
    ``t = log(N'/eps)``, in particular in either reading if ``t <= 3 d sigma2 / 8``, and in reading (b) if ``t <= d/2``.

    Proof. The margin to wrong component s is normal with mean ``rho_s^2`` and standard deviation ``2 rho_s``, ``rho_s^2 = d delta_s
    > 2 R``, so its pair errs with probability ``Phi(-rho_s / 2) <= Phi(-sqrt(R/2))``, and there are fewer than N' of them. In
    particular: ``Phi(-x) <= e^(-x^2/2)``, hence ``R >= 4 t`` suffices; ``t + sqrt(t^2 + 4 d t) >= 4 t`` iff ``t <= d/2``.

    For L1 it is True: L1 needs no such restriction.

    Raises
    ------
    InputError
        If d, sigma2 or `log_ratio` is out of range.
    """
    t = _checked(d, log_ratio)
    if not (math.isfinite(sigma2) and sigma2 > 0):
        raise InputError("sigma2", f"{sigma2} is not a positive variance")
    return Reading(reading) is Reading.LADDER or not bool(_tied_unproved(int(d), sigma2, t, reading)[0])


def _tied_unproved(d: int, sigma2: float, t: Float[np.ndarray, " n"], reading: Reading | str) -> Bool[np.ndarray, " n"]:
    R = np.maximum(1.5 * d * sigma2, second(d, t, reading))
    return log_ndtr(-np.sqrt(R / 2)) > -t * (1 + 1e-12)


def tied_limit(d: int, sigma2: float, reading: Reading) -> float:
    """The ``log(N'/eps)`` up to which `tied_proved` applies in reading (a) or (b).

    There is one such point: ``u(s) = -log Phi(-sqrt(s/2))`` is concave, as the normal hazard over its argument falls. At `first`,
    ``u - t`` falls. At `second` in reading (b), concave in t, ``u - t`` is concave and log 2 at ``t = 0``; in reading (a) it falls,
    since ``second - t`` falls and ``u' < 1`` for ``s >= log 2``.
    """
    return _first_true(lambda t: _tied_unproved(d, sigma2, t, reading))


def tail_table(dimensions: Sequence[int] = DIMENSIONS, log_ratios: Sequence[float] = LOG_RATIOS) -> pd.DataFrame:
    """`tail_claim` over a grid: columns d, log_ratio, reading, log_probability, holds, orders, proved (by a theorem named here)."""
    rows = []
    for d in dimensions:
        for t in log_ratios:
            for reading in Reading:
                found = tail_claim(d, t, reading)
                proved = reading is Reading.LADDER or (reading is Reading.TAIL_INVERSION and tail_proved(d, t))
                rows.append(
                    {
                        "d": d,
                        "log_ratio": t,
                        "reading": reading.value,
                        "log_probability": found.log_probability,
                        "holds": found.holds,
                        "orders": found.orders,
                        "proved": proved,
                    }
                )
    return data_frame(rows)


def failure_table(dimensions: Sequence[int] = (1, 2, 3, 4, *DIMENSIONS), sigma2: float = 1.0) -> pd.DataFrame:
    """Where each reading stops holding, as values of ``log(N'/eps)``.

    Returns
    -------
    DataFrame
        Columns ``tail_a``, ``tail_b`` (first failure of the tail claim, ``inf`` if none up to 1e5), ``tail_b_proved`` (up to which
        `tail_proved` applies), ``tied_a``, ``tied_b`` (up to which `tied_proved` applies at that sigma2).
    """
    rows = []
    for d in dimensions:
        row = {"d": d, "tail_a": first_failure(d, Reading.AS_CODED), "tail_b": first_failure(d, Reading.TAIL_INVERSION)}
        row["tail_b_proved"] = _first_true(partial(_tail_unproved, d))
        row |= {f"tied_{reading.value}": tied_limit(d, sigma2, reading) for reading in (Reading.AS_CODED, Reading.TAIL_INVERSION)}
        rows.append(row)
    return data_frame(rows)
