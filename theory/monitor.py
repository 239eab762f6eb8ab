r"""Error watched in service: limits that hold at all times together (A0).

Statement in short: theory/README.md, monitor.

Everything rests on one argument. For a hypothesis about the data, a *capital* is a function of the
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
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from theory.bound import Assumption, Bound, nothing_known
from theory.bounded_means import SLACK, Side, betting_interval, bounded_mean_interval, check_side, empirical_bernstein
from theory.errors import InputError, check_whole

__all__ = [
    "ErrorMonitor",
    "betting_interval",
    "bounded_mean_interval",
    "confidence_sequence",
    "empirical_bernstein",
    "error_limits",
    "first_alarm",
    "log_capital",
]

# The root search aims this far beyond the threshold, so that where it stops is on the excluded side.
_AIM = 1e-7
_NEWTON_STEPS = 60


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
        check_whole("n", self.n, 0, "the number of queries")
        check_whole("errors", self.errors, 0, "the number of errors")
        if self.errors > self.n:
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
    return -np.log(alpha) + SLACK + 8 * np.finfo(np.float64).eps * size * np.log(size + 2)


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


def _check_settings(alpha: float, side: str, prior: tuple[float, float]) -> float:
    """Check the settings of the limits; returns the failure probability of each limit."""
    if not 0 < alpha < 1:
        raise InputError("alpha", f"{alpha} is not inside (0, 1)")
    check_side(side)
    if len(prior) != 2 or not all(np.isfinite(v) and v >= 1 for v in prior):
        raise InputError("prior", f"{prior} is not a pair of finite numbers of at least 1")
    return alpha / 2 if side == "both" else alpha


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
