"""Intervals for the mean of independent values in [0, 1] (A0; theory/README.md, monitor).

All but `empirical_bernstein` rest on the capital of `theory.monitor`.

**Values in [0, 1].** Against "the mean is at most m", each value x multiplies a capital by ``1 + l (x - m)``, with
``0 <= l < 1/m`` chosen before x is seen (Waudby-Smith and Ramdas 2023). With ``l = min(bet, c/m)``, ``c < 1``, every factor is
non-increasing in m, as is then the capital, its largest value so far, and any mixture of such capitals: the means excluded
are those up to a point, which bisection finds. There is no grid, and what is returned was itself evaluated and excluded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import special

from theory.errors import InputError

Side = Literal["both", "lower", "upper"]

# Capital must exceed its threshold by this much, in nats, so that rounding never excludes what exact arithmetic would not.
SLACK = 1e-9
# Bets are cut off at this part of the largest that cannot lose everything (Waudby-Smith and Ramdas advise 1/2 or 3/4).
_CAUTION = 0.5
# Bets of the time-uniform mixture, equally likely: sizes that suit tens to millions of values.
_FIXED_BETS = 2.0 ** np.arange(4, -11, -1)
_BISECTIONS = 60
# A limit is located to this part of its distance from the sample mean.
_PRECISION = 1e-5
_CHUNK_BYTES = 2**25
# Above this many values betting takes seconds.
_BETTING_LIMIT = 2_000_000


def betting_interval(
    values: Float[np.ndarray, "*batch n"], confidence: float, side: Side = "both", time_uniform: bool = False
) -> Float[np.ndarray, "*batch 2"]:
    """Interval for the mean of values in [0, 1], by betting (Waudby-Smith and Ramdas 2023).

    Needs values that are independent with one mean, or whose conditional mean given the past is constant; for the lower
    limit alone, the largest conditional mean is covered, and for the upper limit alone the least. The order of the values
    is used, and must not be chosen after seeing them.

    Parameters
    ----------
    values : (..., n) array
        In [0, 1]; each row is a sample of its own.
    confidence : float
        Inside (0, 1); side "both" gives half of the failure probability to each limit.
    side : {"both", "lower", "upper"}
        The limits wanted; the other is trivial.
    time_uniform : bool
        Whether the interval is to be recomputed as values arrive: the intervals of all prefixes then hold together. They
        come from a mixture of fixed bets. If not, predictable bets are tuned to the number of values, and the interval,
        intersected with those of all prefixes, holds for that number; it is narrower by a fifth to a third.

    Returns
    -------
    (..., 2) array
        Should the limits cross (which only happens when the interval has missed its mean), they are returned in
        increasing order.

    Raises
    ------
    InputError
        If a value is outside [0, 1] or a setting is out of range.
    """
    values, delta = _check_values(values, confidence, side)
    rows = values.reshape(-1, values.shape[-1])
    out = np.tile([0.0, 1.0], (rows.shape[0], 1))
    block = max(1, _CHUNK_BYTES // (8 * rows.shape[1]))
    for start in range(0, rows.shape[0], block):
        part = slice(start, start + block)
        bets = None if time_uniform else _plug_in_bets(rows[part], delta)
        if side != "upper":
            out[part, 0] = _betting_limit(rows[part], bets, delta)
        if side != "lower":
            # The upper limit is the lower one of the mirrored values, whose variance and hence bets are the same.
            out[part, 1] = 1 - _betting_limit(1 - rows[part], bets, delta)
    # Mirroring rounds twice.
    out[:, 1] = np.where(out[:, 1] < 1, np.minimum(1.0, out[:, 1] + 4 * np.finfo(np.float64).eps), 1.0)
    return np.sort(out, axis=-1).reshape(*values.shape[:-1], 2)


def empirical_bernstein(values: Float[np.ndarray, "*batch n"], confidence: float, side: Side = "both") -> Float[np.ndarray, "*batch 2"]:
    """Closed-form interval for the mean of independent values in [0, 1] (Maurer and Pontil 2009, theorem 4).

    With probability ``1 - delta`` the mean is at most ``xbar + sqrt(2 V log(2/delta)/n) + 7 log(2/delta)/(3 (n - 1))``,
    V the unbiased sample variance; mirrored for the lower limit.

    Parameters
    ----------
    values : (..., n) array
        In [0, 1], independent and identically distributed; each row is a sample of its own. One value gives (0, 1).
    confidence, side
        As for `betting_interval`.

    Raises
    ------
    InputError
        If a value is outside [0, 1] or a setting is out of range.
    """
    values, delta = _check_values(values, confidence, side)
    n = values.shape[-1]
    out = np.empty((*values.shape[:-1], 2))
    out[..., 0], out[..., 1] = 0.0, 1.0
    if n < 2:
        return out
    mean, variance = values.mean(axis=-1), values.var(axis=-1, ddof=1)
    term = np.log(2 / delta)
    # Means and variances of n numbers in [0, 1] are right to a few ulps.
    radius = np.sqrt(2 * variance * term / n) + 7 * term / (3 * (n - 1)) + 16 * np.finfo(np.float64).eps
    if side != "upper":
        out[..., 0] = np.maximum(0.0, mean - radius)
    if side != "lower":
        out[..., 1] = np.minimum(1.0, mean + radius)
    return out


def bounded_mean_interval(values: Float[np.ndarray, " n"], upper: float, confidence: float, side: Side = "both") -> tuple[float, float]:
    """Interval for the mean of independent, identically distributed values in ``[0, upper]``.

    The method is chosen by the number of values alone, never by its result: `betting_interval`, which is the narrower at
    every sample size tried, up to two million values; `empirical_bernstein` above, which costs less and is wider by
    about a quarter there.

    Parameters
    ----------
    values : (n,) array
    upper : float
        A proved upper limit of every value, known beforehand (the largest value seen is not one); positive, finite.
    confidence, side
        As for `betting_interval`.

    Raises
    ------
    InputError
        If a value is outside ``[0, upper]`` or a setting is out of range.
    """
    if not (np.isfinite(upper) and upper > 0):
        raise InputError("upper", f"{upper} is not a positive, finite limit")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise InputError("values", f"has shape {values.shape}; needs (n,)")
    if values.size and not (values.min() >= 0 and values.max() <= upper):
        raise InputError("values", f"lie in [{values.min():.6g}, {values.max():.6g}]; needs values in [0, {upper:.6g}]")
    method = betting_interval if values.size <= _BETTING_LIMIT else empirical_bernstein
    low, high = method(values / upper, confidence, side)
    # Scaling there and back moves each limit by a few ulps.
    eps = 4 * np.finfo(np.float64).eps
    return float(low * upper * (1 - eps)), min(upper, float(high * upper * (1 + eps)))


def _plug_in_bets(values: np.ndarray, delta: float) -> np.ndarray:
    """Bets that use earlier values only, and are tuned to the number of values (Waudby-Smith and Ramdas 2023, section 4.2)."""
    n = values.shape[-1]
    t = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(values, axis=-1)) / (t + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2, axis=-1)) / (t + 1)
    before = np.concatenate([np.full((*values.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    return np.sqrt(2 * np.log(1 / delta) / (before * n))


def _betting_limit(values: np.ndarray, bets: np.ndarray | None, delta: float) -> np.ndarray:
    """Lower limits of the means of rows: by bisection, the largest means found whose capital reached ``1/delta``.

    With plug-in bets the capital's largest value so far counts; with None, the present one of the mixture of fixed bets.
    """
    rows, n = values.shape
    low, high = np.zeros(rows), np.ones(rows)
    mean = values.mean(axis=-1)
    rounding = n * np.finfo(np.float64).eps
    live = np.arange(rows)
    for _ in range(_BISECTIONS):
        m = (low[live] + high[live]) / 2
        part = values if live.size == rows else values[live]
        excess = part - m[:, None]
        if bets is None:
            capitals, moved = [], np.zeros(live.size)
            for bet in _FIXED_BETS:
                gains = np.log1p(np.minimum(bet, _CAUTION / m)[:, None] * excess)
                capitals.append(gains.sum(axis=-1))
                moved = np.maximum(moved, np.abs(gains).sum(axis=-1))
            capital = special.logsumexp(capitals, axis=0) - np.log(len(_FIXED_BETS))
        else:
            gains = np.log1p(np.minimum(bets if live.size == rows else bets[live], _CAUTION / m[:, None]) * excess)
            capital, moved = np.cumsum(gains, axis=-1).max(axis=-1), np.abs(gains).sum(axis=-1)
        out = capital >= -np.log(delta) + SLACK + rounding * moved
        low[live], high[live] = np.where(out, m, low[live]), np.where(out, high[live], m)
        live = live[high[live] - low[live] > _PRECISION * np.abs(mean[live] - low[live])]
        if not live.size:
            break
    return low


def check_side(side: str) -> None:
    """Refuse a side that is none.

    Raises
    ------
    InputError
    """
    if side not in ("both", "lower", "upper"):
        raise InputError("side", f"{side!r} is not one of 'both', 'lower', 'upper'")


def _check_values(values: np.ndarray, confidence: float, side: str) -> tuple[np.ndarray, float]:
    """Check a sample and its settings; returns the values and the failure probability of each limit."""
    if not 0 < confidence < 1:
        raise InputError("confidence", f"{confidence} is not inside (0, 1)")
    check_side(side)
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 1 or not values.shape[-1]:
        raise InputError("values", f"has shape {values.shape}; needs at least one value")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError("values", f"lie in [{values.min():.6g}, {values.max():.6g}]; needs values in [0, 1], none NaN")
    return values, (1 - confidence) / 2 if side == "both" else 1 - confidence
