"""Distribution-free statements (A0): binomial limits, simultaneous certificates, and the misfit floor (theory/README.md, L8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from scipy import special

from theory.bound import Assumption, Bound, nothing_known
from theory.errors import InputError, check_whole
from theory.frames import data_frame

if TYPE_CHECKING:
    import pandas as pd

# Relative error allowed to the inverse beta functions (5e-14 was seen against 60 digits); limits are rounded outwards by it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Measured:
    """A measured error rate with its two-sided Clopper-Pearson interval.

    Attributes
    ----------
    errors, n : int
    error, low, high : float
    confidence : float
    """

    errors: int
    n: int
    confidence: float

    def __post_init__(self) -> None:
        _check_counts(self.errors, self.n)
        _check_confidence(self.confidence)

    @property
    def error(self) -> float:
        """The observed rate."""
        return self.errors / self.n

    @property
    def low(self) -> float:
        """Lower limit of the interval."""
        return clopper_pearson(self.errors, self.n, self.confidence)[0]

    @property
    def high(self) -> float:
        """Upper limit of the interval."""
        return clopper_pearson(self.errors, self.n, self.confidence)[1]

    def to_dict(self) -> dict[str, float | int]:
        """JSON-ready fields."""
        return {"error": self.error, "low": self.low, "high": self.high, "n": self.n, "errors": self.errors, "confidence": self.confidence}


def clopper_pearson(errors: int, n: int, confidence: float) -> tuple[float, float]:
    """Two-sided exact binomial interval (Clopper and Pearson 1934), each tail at ``(1 - confidence) / 2``.

    Two limits are moved outwards by a hair, to ``half / n`` at one error and to ``1 - half / n`` at ``n - 1`` errors (see
    `upper_limit`), so that the interval also covers the mean rate of samples drawn in fixed numbers from several strata, if the
    confidence is at least one half.

    Raises
    ------
    InputError
        If the counts or the confidence are out of range.
    """
    _check_counts(errors, n)
    _check_confidence(confidence)
    half = (1 - confidence) / 2
    # The limits of the errors are those of the successes, mirrored; each is computed where it does not cancel.
    if errors == 0:
        low = 0.0
    elif errors == 1:
        low = half / n
    else:
        low = float(special.betaincinv(errors, n - errors + 1, half))
    return low * (1 - _ROUNDING), upper_limit(errors, n, half)


def upper_limit(errors: int, n: int, beta: float) -> float:
    """One-sided Clopper-Pearson upper limit: the true rate is above it with probability at most `beta`.

    Solves ``P(Bin(n, p) <= errors) = beta`` in the complement, so that it is right for any `beta` down to the least
    float; without errors it is ``1 - beta^(1/n)``. Rounded up.

    For samples drawn in fixed numbers from several strata the count is a sum of unequal Bernoulli variables of mean rate p.
    Its lower tail is at most the binomial's up to ``n p - 1`` (Hoeffding 1956, theorem 4), and for ``beta <= 1/4`` the
    only count that the limit can exclude above that is ``n - 1``: ``P(Bin <= n p) > 1/4`` for ``p < 1 - 1/n`` (Greenberg
    and Mohri 2014). There the binomial's limit ``(1 - beta)^(1/n)`` would be too low, since ``P(S <= n - 1)`` reaches
    ``n (1 - p)``; ``1 - beta / n`` is used instead, and the limit then holds for every mixture of strata.

    Parameters
    ----------
    errors, n : int
        Errors among n samples; ``0 <= errors <= n``, ``n >= 1``.
    beta : float
        Inside (0, 1).

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_counts(errors, n)
    if not 0 < beta < 1:
        raise InputError("beta", f"{beta} is not inside (0, 1)")
    if errors == n:
        return 1.0
    if errors == n - 1:
        limit = 1 - beta / n
    elif errors == 0:
        limit = -np.expm1(np.log(beta) / n)
    else:
        limit = float(special.betainccinv(errors + 1, n - errors, beta))
    return min(1.0, float(limit) * (1 + _ROUNDING))


def certificate(errors: int, n: int, confidence: float, simultaneous: int = 1) -> Bound:
    """L8: with probability `confidence` over the held-out samples, the error rate is at most the value.

    Parameters
    ----------
    errors, n : int
        Retrieval errors among independent held-out samples that had no part in building the rule.
    confidence : float
        Joint confidence of all statements.
    simultaneous : int
        Number of statements that must hold together (Bonferroni).

    Raises
    ------
    InputError
        If the counts, the confidence or `simultaneous` are out of range.
    """
    measured = Measured(errors, n, confidence)
    check_whole("simultaneous", simultaneous, 1, "a number of statements")
    limit = upper_limit(errors, n, (1 - confidence) / simultaneous)
    return Bound(
        name="L8",
        level=Assumption.A0,
        log_formula=float(np.log(limit)),
        source=f"Clopper-Pearson upper limit, {n} held-out samples" + (f", one of {simultaneous} simultaneous" if simultaneous > 1 else ""),
        confidence=confidence,
        estimate=measured.error,
    )


@dataclass(frozen=True)
class Certificates:
    """Certificates of all tasks and of their pool, which hold together with one confidence.

    Attributes
    ----------
    tasks : dict from task name to Bound
        Error rate of each task; vacuous for a task without samples.
    overall : Bound
        Mean error rate over tasks, each weighted by its share of the samples.
    """

    tasks: dict[str, Bound]
    overall: Bound

    def frame(self) -> pd.DataFrame:
        """One row per task and one, with task None, for the pool; the fields of `Bound.to_dict`."""
        return data_frame([{"task": name, **bound.to_dict()} for name, bound in [*self.tasks.items(), (None, self.overall)]])


def simultaneous_certificates(
    errors: Int[np.ndarray, " m"], n: Int[np.ndarray, " m"], confidence: float, names: Sequence[str] | None = None
) -> Certificates:
    """L8 for every task and for their pool, all holding together with probability `confidence` (Bonferroni).

    The failure probability is shared equally between the tasks that have samples and the pool. Given the numbers of
    samples, the pool's errors are a sum over strata, whose limit `upper_limit` covers; so the numbers per task may be fixed
    or drawn with the samples. With one such task the pool is that task, and nothing is shared. The cover of strata is proved for
    a failure probability of at most 1/4, which the pool is given if its share is larger.

    Parameters
    ----------
    errors, n : (m,) int arrays
        Retrieval errors and independent held-out samples of each task; ``n = 0`` where there are none.
    confidence : float
        Joint confidence, inside (0, 1).
    names : sequence of str, optional
        Task names; ``("0", "1", ...)`` by default.

    Raises
    ------
    InputError
        If shapes disagree, counts are impossible, no task has samples, names repeat, or the confidence is out of range.
    """
    errors, n = np.asarray(errors), np.asarray(n)
    for name, values in (("errors", errors), ("n", n)):
        if values.ndim != 1 or not values.size or not np.issubdtype(values.dtype, np.integer):
            raise InputError(name, f"has shape {values.shape} and dtype {values.dtype}; needs one integer for each task")
    if errors.shape != n.shape:
        raise InputError("errors", f"has {errors.size} tasks; n has {n.size}")
    bad = (errors < 0) | (n < 0) | (errors > n)
    if bad.any():
        k = int(np.argmax(bad))
        raise InputError("errors", f"task {k} has {errors[k]} errors in {n[k]} samples; needs 0 <= errors <= n")
    if not n.any():
        raise InputError("n", "no task has samples; a certificate needs held-out samples")
    _check_confidence(confidence)
    names = [str(k) for k in range(n.size)] if names is None else list(names)
    if len(names) != n.size or len(set(names)) != n.size:
        raise InputError("names", f"needs {n.size} different names, one for each task; got {names}")
    sampled = int((n > 0).sum())
    simultaneous = sampled + 1 if sampled > 1 else 1
    tasks = {
        name: certificate(int(k), int(size), confidence, simultaneous)
        if size
        else nothing_known("L8", Assumption.A0, "no held-out samples of this task")
        for name, k, size in zip(names, errors, n, strict=True)
    }
    pooled = max(simultaneous, int(np.ceil(4 * (1 - confidence)))) if sampled > 1 else 1
    return Certificates(tasks, certificate(int(errors.sum()), int(n.sum()), confidence, pooled))


def _check_counts(errors: int, n: int) -> None:
    # A share of errors taken for their number would make the limit far too low.
    for name, value in (("errors", errors), ("n", n)):
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise InputError(name, f"is {value!r}, no whole number; give the number of errors and of samples, not a rate")
    if n < 1 or not 0 <= errors <= n:
        raise InputError("errors", f"{errors} errors in {n} samples is not a count; needs 0 <= errors <= n, n >= 1")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError("confidence", f"{confidence} is not inside (0, 1)")


def binary_kl(q: float, p: float) -> float:
    """``kl(q, p)`` between Bernoulli laws, in nats."""
    if q == p:
        return 0.0
    if p in (0.0, 1.0):
        return float("inf")
    first = q * np.log(q / p) if q > 0 else 0.0
    second = (1 - q) * np.log((1 - q) / (1 - p)) if q < 1 else 0.0
    return float(first + second)


def misfit_floor(measured_low: float, predicted: float) -> float:
    """How far the true law must be from the assumed one, in nats (theory/README.md, L12).

    A lower confidence limit q of the measured error above the model's error p proves ``KL(Q, P) >= kl(q, p)``; 0 if
    ``q <= p``, where nothing is proved. Capped at the largest float for p = 0.

    Raises
    ------
    InputError
        If one of them is no probability.
    """
    for name, value in (("measured_low", measured_low), ("predicted", predicted)):
        if not 0 <= value <= 1:
            raise InputError(name, f"{value} is not inside [0, 1]")
    if measured_low <= predicted:
        return 0.0
    return min(binary_kl(measured_low, predicted), float(np.finfo(np.float64).max))
