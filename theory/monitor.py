r"""Error watched in service: limits that hold at all times together, and intervals for the mean of bounded values (A0).

Statement in short: theory/README.md, monitor.

All but `empirical_bernstein` rest on one argument. For a hypothesis about the data, a *capital* is a function of the
observations so far that starts at 1, is never negative, and on average does not grow if the hypothesis is true (a
nonnegative supermartingale). By Ville's inequality (1939) it ever reaches ``1/alpha`` with probability at most `alpha`; so
one may look after every query, stop when one likes, and the hypotheses whose capital never reached ``1/alpha`` are a
confidence sequence.

**Errors (0 or 1).** Against "the error rate is at most p", each of the bets q >= p multiplies its capital by ``q/p`` at
an error and by ``(1 - q)/(1 - p)`` otherwise. If the next query errs with conditional probability r given the past, the
mean factor is ``1 + (r - p)(q - p)/(p (1 - p))``, at most 1 for ``r <= p``: *the queries need be neither independent nor
alike, as long as the conditional error rate given the past never exceeds p*. Bets are mixed over a Beta(a, b) law cut off
below p (Robbins 1970), which gives, with s errors in n queries and T(a, b) the tail of Beta(a, b) above p,

    ``capital(p) = B(a + s, b + n - s) T(a + s, b + n - s) / (B(a, b) T(a, b) p^s (1 - p)^(n - s))``

and mirrored against "at least p". Which p are excluded: with ``h = density / T`` of the prior at p, the derivative of
``log capital`` is ``h (1 - 1/capital) - (s - n p)/(p (1 - p))``. For ``a >= 1``, ``h <= b/(1 - p)`` because
``T B(a, b) >= p^(a-1) (1 - p)^b / b``; so where the capital exceeds 1 and ``p <= s/(n + b)`` it falls with p, and if one such
p is excluded so is everything below it. The lower limit is searched for in that range only.

**Values in [0, 1].** Against "the mean is at most m", each value x multiplies a capital by ``1 + l (x - m)``, with
``0 <= l < 1/m`` chosen before x is seen (Waudby-Smith and Ramdas 2023). With ``l = min(bet, c/m)``, ``c < 1``, every factor is
non-increasing in m, as is then the capital, its largest value so far, and any mixture of such capitals: the means excluded
are those up to a point, which bisection finds. There is no grid, and what is returned was itself evaluated and excluded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from theory.bound import Assumption, Bound, nothing_known
from theory.errors import InputError

Side = Literal["both", "lower", "upper"]

# Capital must exceed its threshold by this much, in nats, so that rounding never excludes what exact arithmetic would not.
_SLACK = 1e-9
# The root search aims this far beyond the threshold, so that where it stops is on the excluded side.
_AIM = 1e-7
_NEWTON_STEPS = 60
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


def error_limits(
    errors: Int[np.ndarray, "..."] | int,
    n: Int[np.ndarray, "..."] | int,
    alpha: float,
    side: Side = "both",
    prior: tuple[float, float] = (1.0, 1.0),
) -> Float[np.ndarray, "... 2"]:
    """Limits of an error rate that hold at all numbers of queries together, from the counts alone.

    With probability ``1 - alpha``, at every n: the lower limit is at most the largest, and the upper limit at least the
    least, conditional error rate given the past. For independent queries of one law both are the error rate.

    Parameters
    ----------
    errors, n : int arrays of one shape, or integers
        Errors among the first n queries; n = 0 gives (0, 1).
    alpha : float
        Failure probability over all time; side "both" gives half to each limit.
    side : {"both", "lower", "upper"}
        The limits wanted; the other is trivial.
    prior : (a, b)
        Parameters, at least 1, of the Beta law of the bets. Any choice made beforehand is valid; the limits are
        tightest at rates that it deems likely.

    Raises
    ------
    InputError
        If counts are impossible or a setting is out of range.
    """
    level = _check_settings(alpha, side, prior)
    s, n = np.broadcast_arrays(*(_check_integers(name, v) for name, v in (("errors", errors), ("n", n))))
    if (n < 0).any() or (s < 0).any() or (s > n).any():
        raise InputError("errors", "needs 0 <= errors <= n everywhere")
    shape = s.shape
    s, n = s.ravel().astype(np.float64), n.ravel().astype(np.float64)
    out = np.stack([np.zeros(s.size), np.ones(s.size)], axis=-1)
    if side != "upper":
        out[:, 0] = _root(s, n, level, prior, above=True)
    if side != "lower":
        out[:, 1] = _root(s, n, level, prior, above=False)
    return out.reshape(*shape, 2)


def confidence_sequence(
    errors: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
    alpha: float,
    side: Side = "both",
    prior: tuple[float, float] = (1.0, 1.0),
    running: bool = False,
) -> Float[np.ndarray, "n 2"]:
    """Limits of the error rate after each query, all of which hold together with probability ``1 - alpha``.

    Parameters
    ----------
    errors : (n,) array of 0 and 1, or of bool
        Whether each query erred, in order.
    alpha, side, prior
        As for `error_limits`, which states what is covered.
    running : bool
        Whether each interval is intersected with all earlier ones. The statement is the same; but once the rate drifts,
        the limits stay where they were and may cross, which for a constant rate happens with probability at most `alpha`.

    Raises
    ------
    InputError
        If an entry is neither 0 nor 1, or a setting is out of range.
    """
    _check_settings(alpha, side, prior)
    errors = _check_binary(errors)
    out = error_limits(np.cumsum(errors), np.arange(1, errors.size + 1), alpha, side, prior)
    if running:
        out[:, 0] = np.maximum.accumulate(out[:, 0])
        out[:, 1] = np.minimum.accumulate(out[:, 1])
    return out


def log_capital(
    errors: Int[np.ndarray, "..."] | int, n: Int[np.ndarray, "..."] | int, promised: float, prior: tuple[float, float] = (1.0, 1.0)
) -> Float[np.ndarray, "..."]:
    """Log of the capital against "the error rate, given the past, is at most `promised`".

    Its exponential is an e-value: under the hypothesis its mean is at most 1 at every n, and it ever reaches ``1/alpha``
    with probability at most `alpha`.

    Parameters
    ----------
    errors, n : int arrays of one shape, or integers
    promised : float
        Inside (0, 1).
    prior : (a, b)
        As for `error_limits`.

    Raises
    ------
    InputError
        If counts are impossible or a setting is out of range.
    """
    _check_settings(0.5, "both", prior)
    if not 0 < promised < 1:
        raise InputError("promised", f"{promised} is not inside (0, 1)")
    s, n = np.broadcast_arrays(*(_check_integers(name, v) for name, v in (("errors", errors), ("n", n))))
    if (n < 0).any() or (s < 0).any() or (s > n).any():
        raise InputError("errors", "needs 0 <= errors <= n everywhere")
    s, n = s.astype(np.float64), n.astype(np.float64)
    return _log_capital(s, n, np.full(s.shape, float(promised)), prior, above=True)


def first_alarm(
    errors: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"], promised: float, alpha: float, prior: tuple[float, float] | None = None
) -> int | None:
    """Number of queries after which the errors first disprove a promised error rate; None if they never do.

    The alarm sounds when the capital against "at most `promised`" reaches ``1/alpha``, which is when the lower limit of
    `confidence_sequence` (side "lower", same prior) exceeds `promised`, or just before. The probability of ever sounding
    it, however long the service runs, is at most `alpha` if every query errs with conditional probability at most
    `promised` given all earlier ones. Independence is not needed, and the rate may change below the promise.

    Evidence is counted from the first query: after a long time well below the promise, a later rise takes long to show.
    Starting afresh at set times, with an `alpha` for each start, keeps the guarantee with their sum.

    Parameters
    ----------
    errors : (n,) array of 0 and 1, or of bool
    promised : float
        Inside (0, 1).
    alpha : float
        Probability of a false alarm over all time.
    prior : (a, b), optional
        As for `error_limits`; by default ``(1, 1 / promised)``, bets that the excess is about as large as the promise.

    Raises
    ------
    InputError
        If an entry is neither 0 nor 1, or a setting is out of range.
    """
    _check_settings(alpha, "both", (1.0, 1.0))
    errors = _check_binary(errors)
    if not 0 < promised < 1:
        raise InputError("promised", f"{promised} is not inside (0, 1)")
    prior = (1.0, 1 / promised) if prior is None else prior
    n = np.arange(1, errors.size + 1)
    sounded = log_capital(np.cumsum(errors), n, promised, prior) >= _threshold(alpha, n, prior)
    return int(np.argmax(sounded)) + 1 if sounded.any() else None


@dataclass(frozen=True)
class ErrorMonitor:
    """Error rate of a service so far, with limits that may be read at any time; see `error_limits` for what they cover.

    The state is two counts: feed it outcomes with `update`, in batches of any sizes, and keep what it returns.

    Parameters
    ----------
    confidence : float
        Probability with which all limits ever read hold.
    prior : (a, b)
        As for `error_limits`.
    errors, n : int
        Errors among the queries so far.

    Raises
    ------
    InputError
        If the counts or a setting are out of range.
    """

    confidence: float = 0.95
    prior: tuple[float, float] = (1.0, 1.0)
    errors: int = 0
    n: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise InputError("confidence", f"{self.confidence} is not inside (0, 1)")
        _check_settings(0.5, "both", self.prior)
        if not 0 <= self.errors <= self.n:
            raise InputError("errors", f"{self.errors} errors in {self.n} queries is not a count; needs 0 <= errors <= n")

    def update(self, errors: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"]) -> ErrorMonitor:
        """The monitor after more queries.

        Parameters
        ----------
        errors : (n,) array of 0 and 1, or of bool
            Whether each further query erred.
        """
        errors = _check_binary(errors)
        return replace(self, errors=self.errors + int(errors.sum()), n=self.n + errors.size)

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper limit now."""
        low, high = error_limits(self.errors, self.n, 1 - self.confidence, "both", self.prior)
        return float(low), float(high)

    def log_capital(self, promised: float) -> float:
        """Evidence against "the error rate is at most `promised`", in nats; see the function `log_capital`."""
        return float(log_capital(self.errors, self.n, promised, self.prior))

    def alarm(self, promised: float) -> bool:
        """Whether the errors so far disprove the promised rate; ever falsely so with probability ``1 - confidence`` at most."""
        return bool(self.log_capital(promised) >= _threshold(1 - self.confidence, np.array(self.n), self.prior))

    def bound(self) -> Bound:
        """The upper limit of `interval` as a bound, with the lower limit beside it."""
        source = f"Ville's inequality for a beta-binomial mixture of bets, {self.n} queries, valid at all times together"
        if not self.n:
            return nothing_known("monitor", Assumption.A0, "no queries yet", source)
        low, high = self.interval
        return Bound(
            name="monitor",
            level=Assumption.A0,
            log_formula=float(np.log(high)),
            source=source,
            confidence=self.confidence,
            log_lower=float(np.log(low)) if low > 0 else None,
            estimate=self.errors / self.n,
        )


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


def _log_capital(s: np.ndarray, n: np.ndarray, p: np.ndarray, prior: tuple[float, float], above: bool) -> np.ndarray:
    """Log of the capital against "at most p" (above) or "at least p"; minus infinity where its tail underflows."""
    a, b = prior
    tail = special.betaincc if above else special.betainc
    ratio = special.betaln(a + s, b + n - s) - special.betaln(a, b) - special.xlogy(s, p) - special.xlog1py(n - s, -p)
    prior_tail = tail(a, b, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = ratio + np.log(tail(a + s, b + n - s, p)) - np.log(prior_tail)
    # A prior whose mass on that side underflows places no bet.
    return np.where(prior_tail > 0, value, -np.inf)


def _threshold(alpha: float, n: np.ndarray, prior: tuple[float, float]) -> np.ndarray:
    """Log-capital that disproves, after n queries: above ``log(1/alpha)`` by the rounding of the log-beta functions."""
    size = n + sum(prior)
    return -np.log(alpha) + _SLACK + 8 * np.finfo(np.float64).eps * size * np.log(size + 2)


def _root(s: np.ndarray, n: np.ndarray, alpha: float, prior: tuple[float, float], above: bool) -> np.ndarray:
    """The limit on one side: the innermost rate found whose capital reaches ``1/alpha``, and all rates beyond it too.

    Newton's method on the log-odds inside a bracket whose outer end is excluded and whose inner end is that of the range
    where the capital is known to be monotone.
    """
    a, b = prior
    threshold = _threshold(alpha, n, prior)
    sign = -1.0 if above else 1.0
    hits = s if above else n - s
    answer = np.full(s.size, -np.inf if above else np.inf)
    live = np.flatnonzero(hits > 0)
    with np.errstate(divide="ignore"):
        # The end of the monotone range, in log-odds.
        inner = np.log(s) - np.log(n - s + b) if above else np.log(s + a) - np.log(n - s)
    # Where it is excluded, the search is over: more is not proved.
    capital = _log_capital(s[live], n[live], special.expit(inner[live]), prior, above)
    at_end = capital >= threshold[live]
    answer[live[at_end]] = inner[live[at_end]]
    live = live[~at_end]
    outer = answer.copy()
    # From the limit of a normal approximation; anything outside the monotone range's end would do.
    x = inner + sign * np.minimum(1.0, np.sqrt(2 * threshold / np.maximum(1.0, s * (n - s) / np.maximum(n, 1.0))))
    for _ in range(_NEWTON_STEPS):
        if not live.size:
            break
        at = x[live]
        p = special.expit(at)
        value = _log_capital(s[live], n[live], p, prior, above) - threshold[live]
        out = value >= 0
        outer[live] = np.where(out, at, outer[live])
        inner[live] = np.where(out, inner[live], at)
        slope = n[live] * p - s[live]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = at - (value - _AIM) / slope
        low, high = (outer[live], inner[live]) if above else (inner[live], outer[live])
        halfway = np.where(np.isfinite(outer[live]), (low + high) / 2, at + sign * 4)
        x[live] = np.where((step > low) & (step < high), step, halfway)
        # Every point evaluated on the excluded side is valid, so the search decides only how tight the limit is.
        live = live[~(out & (value < 2 * _AIM)) & (np.abs(inner[live] - outer[live]) > 1e-12)]
    return special.expit(outer)


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
        out = capital >= -np.log(delta) + _SLACK + rounding * moved
        low[live], high[live] = np.where(out, m, low[live]), np.where(out, high[live], m)
        live = live[high[live] - low[live] > _PRECISION * np.abs(mean[live] - low[live])]
        if not live.size:
            break
    return low


def _check_settings(alpha: float, side: str, prior: tuple[float, float]) -> float:
    """Check the settings of the limits; returns the failure probability of each limit."""
    if not 0 < alpha < 1:
        raise InputError("alpha", f"{alpha} is not inside (0, 1)")
    _check_side(side)
    if len(prior) != 2 or not all(np.isfinite(v) and v >= 1 for v in prior):
        raise InputError("prior", f"{prior} is not a pair of finite numbers of at least 1")
    return alpha / 2 if side == "both" else alpha


def _check_side(side: str) -> None:
    if side not in ("both", "lower", "upper"):
        raise InputError("side", f"{side!r} is not one of 'both', 'lower', 'upper'")


def _check_integers(name: str, values: np.ndarray | int) -> np.ndarray:
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(name, f"has dtype {values.dtype}; needs integers")
    return values


def _check_binary(errors: np.ndarray) -> np.ndarray:
    errors = np.asarray(errors)
    if errors.ndim != 1:
        raise InputError("errors", f"has shape {errors.shape}; needs (n,)")
    if not ((errors == 0) | (errors == 1)).all():
        raise InputError("errors", "holds entries that are neither 0 nor 1")
    return errors.astype(np.int64)


def _check_values(values: np.ndarray, confidence: float, side: str) -> tuple[np.ndarray, float]:
    """Check a sample and its settings; returns the values and the failure probability of each limit."""
    if not 0 < confidence < 1:
        raise InputError("confidence", f"{confidence} is not inside (0, 1)")
    _check_side(side)
    values = np.asarray(values, dtype=np.float64)
    if values.ndim < 1 or not values.shape[-1]:
        raise InputError("values", f"has shape {values.shape}; needs at least one value")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise InputError("values", f"lie in [{values.min():.6g}, {values.max():.6g}]; needs values in [0, 1], none NaN")
    return values, (1 - confidence) / 2 if side == "both" else 1 - confidence
