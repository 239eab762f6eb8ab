"""Distribution-free statements (A0): binomial limits, split-conformal retrieval sets, and the misfit floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from theory.bound import Assumption, Bound
from theory.errors import InputError


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
        if self.n < 1 or not 0 <= self.errors <= self.n:
            raise InputError("errors", f"{self.errors} errors in {self.n} samples is not a count; needs 0 <= errors <= n, n >= 1")
        if not 0 < self.confidence < 1:
            raise InputError("confidence", f"{self.confidence} is not inside (0, 1)")

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

    For samples drawn in fixed numbers from several strata the count is a sum of unequal Bernoulli variables, which is
    more concentrated than the binomial (Hoeffding 1956), so the interval stays conservative for the mean rate.
    """
    half = (1 - confidence) / 2
    low = float(stats.beta.ppf(half, errors, n - errors + 1)) if errors > 0 else 0.0
    return low, upper_limit(errors, n, half)


def upper_limit(errors: int, n: int, beta: float) -> float:
    """One-sided Clopper-Pearson upper limit that fails with probability at most `beta`."""
    return float(stats.beta.ppf(1 - beta, errors + 1, n - errors)) if errors < n else 1.0


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
    """
    measured = Measured(errors, n, confidence)
    limit = upper_limit(errors, n, (1 - confidence) / simultaneous)
    return Bound(
        name="L8",
        level=Assumption.A0,
        log_formula=float(np.log(limit)),
        source=f"Clopper-Pearson upper limit, {n} held-out samples" + (f", one of {simultaneous} simultaneous" if simultaneous > 1 else ""),
        confidence=confidence,
        estimate=measured.error,
    )


def conformal_threshold(scores: Float[np.ndarray, " n"], alpha: float) -> float:
    """Split-conformal threshold: a fresh score exceeds it with probability at most `alpha`.

    ``scores`` are the nonconformity scores of held-out queries at their true task; the threshold is the
    ``ceil((n + 1)(1 - alpha))``-th smallest, ``inf`` if n is too small for it (Vovk et al. 2005).
    """
    if not 0 < alpha < 1:
        raise InputError("alpha", f"{alpha} is not inside (0, 1)")
    scores = np.sort(np.asarray(scores, dtype=np.float64))
    rank = int(np.ceil((scores.size + 1) * (1 - alpha)))
    return float(scores[rank - 1]) if rank <= scores.size else float("inf")


def nonconformity(task_scores: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Score of each task less the least score of all others: positive when another task is closer."""
    n, m = task_scores.shape
    order = np.argsort(task_scores, axis=1)
    best, second = task_scores[np.arange(n), order[:, 0]], task_scores[np.arange(n), order[:, 1]]
    others = np.repeat(best[:, None], m, axis=1)
    others[np.arange(n), order[:, 0]] = second
    return task_scores - others


def conformal_sets(
    calibration: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"], fresh: Float[np.ndarray, "p m"], alpha: float
) -> Bool[np.ndarray, "p m"]:
    """Split-conformal retrieval sets: each holds the true task with probability at least ``1 - alpha`` (A0, marginally).

    Parameters
    ----------
    calibration : (n, m) array
        Task scores of held-out queries.
    task : (n,) int array
        Their true tasks.
    fresh : (p, m) array
        Task scores of the queries to answer.
    alpha : float
    """
    threshold = conformal_threshold(nonconformity(calibration)[np.arange(len(task)), task], alpha)
    return nonconformity(fresh) <= threshold


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
    """How far the true law must be from the assumed one, in nats (theory.md, section 8).

    A lower confidence limit q of the measured error above the model's error p proves ``KL(Q, P) >= kl(q, p)``; 0 if
    ``q <= p``, where nothing is proved. Capped at the largest float for p = 0.
    """
    if measured_low <= predicted:
        return 0.0
    return min(binary_kl(measured_low, predicted), float(np.finfo(np.float64).max))
