"""Split-conformal retrieval sets (A0), over all traffic or per task, and a certified reject option for unknown tasks.

Proofs: theory/README.md, conformal sets.

Every threshold here is an order statistic of held-out scores. If a fresh score is exchangeable with the n held-out ones,
it exceeds the r-th smallest of them with probability at most ``1 - r/(n + 1)``, whatever the law of the scores: that is
the marginal guarantee, over the draw of calibration samples and query together. Given the calibration samples, the
probability is random, and at most ``Beta(n + 1 - r, r)`` in law (equal in law for scores without ties); a rank a little
higher therefore makes it at most `alpha` for all but a share `beta` of the calibrations (`conformal_confidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

from theory.bound import Assumption, Bound
from theory.certificates import upper_limit
from theory.errors import InputError, check_whole

# Relative slack for the rounding of the binomial distribution function; a rank that is not clearly enough is raised.
_ROUNDING = 1e-10


def conformal_confidence(n: int, alpha: float, beta: float) -> int:
    """Rank of the held-out score that a fresh one exceeds with probability at most `alpha`, for all but `beta` of calibrations.

    Given the calibration, the probability that a fresh score exceeds the r-th smallest of n independent held-out ones is
    at most ``Beta(n + 1 - r, r)`` in law, so it exceeds `alpha` with probability at most ``P(Bin(n, alpha) <= n - r)``
    (Wilks 1941; Vovk 2012, proposition 2a). The least rank that makes this at most `beta` is returned.

    Parameters
    ----------
    n : int
        Number of independent held-out scores; 0 is allowed.
    alpha : float
        Miscoverage, inside (0, 1).
    beta : float
        Probability, over the calibration samples, of a larger miscoverage, inside (0, 1).

    Returns
    -------
    int
        From 1 to n; or ``n + 1``, the rank of an infinite threshold, if ``(1 - alpha)^n > beta``.

    Raises
    ------
    InputError
        If an argument is out of range.
    """
    _check_level("alpha", alpha)
    _check_level("beta", beta)
    check_whole("n", n, 0, "a number of samples")
    n = int(n)
    # The largest number of scores above the threshold whose binomial probability stays below beta, by bisection.
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if special.bdtr(middle, n, alpha) * (1 + _ROUNDING) <= beta:
            low = middle
        else:
            high = middle
    return n - low


def conformal_threshold(scores: Float[np.ndarray, " n"], alpha: float, beta: float | None = None) -> float:
    """Split-conformal threshold: a fresh score exceeds it with probability at most `alpha`.

    ``scores`` are the nonconformity scores of held-out queries at their true task; the threshold is the
    ``ceil((n + 1)(1 - alpha))``-th smallest, ``inf`` if n is too small for it (Vovk et al. 2005). `alpha` is taken as
    the decimal number that it prints as, so that 0.3 of 9 samples is not a matter of rounding.

    Parameters
    ----------
    scores : (n,) array
        May be infinite, but not NaN.
    alpha : float
        Inside (0, 1).
    beta : float, optional
        If given, the rank is that of `conformal_confidence`: the statement then holds given the calibration samples,
        for all but a share `beta` of them.

    Raises
    ------
    InputError
        If a score is NaN or a level is outside (0, 1).
    """
    _check_level("alpha", alpha)
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError("scores", f"has shape {scores.shape}; needs (n,)")
    if np.isnan(scores).any():
        raise InputError("scores", f"holds {int(np.isnan(scores).sum())} NaN values; remove or mend them")
    n = scores.size
    rank = n + 1 - floor((n + 1) * Fraction(repr(float(alpha)))) if beta is None else conformal_confidence(n, alpha, beta)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= n else float("inf")


def nonconformity(task_scores: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Score of each task less the least score of all others: positive when another task is closer.

    Raises
    ------
    InputError
        If there are fewer than two tasks, or a score is NaN or infinite.
    """
    task_scores = _check_scores("task_scores", task_scores)
    if task_scores.shape[1] < 2:
        raise InputError("task_scores", f"has shape {task_scores.shape}; nonconformity needs at least two tasks")
    rows = np.arange(task_scores.shape[0])
    least = np.partition(task_scores, 1, axis=1)
    others = np.repeat(least[:, :1], task_scores.shape[1], axis=1)
    others[rows, np.argmin(task_scores, axis=1)] = least[:, 1]
    with np.errstate(over="ignore"):
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

    Raises
    ------
    InputError
        As `RetrievalSets.calibrate` and `RetrievalSets.predict`.
    """
    return RetrievalSets.calibrate(calibration, task, alpha).predict(fresh)


@dataclass(frozen=True)
class RetrievalSets:
    """Sets of tasks that hold the true one with probability at least ``1 - alpha``; build with `calibrate`.

    Attributes
    ----------
    thresholds : (m,) array
        Task k is in the set if its nonconformity is at most ``thresholds[k]``; infinite for tasks always included.
    counts : (m,) int array
        Calibration samples of each task.
    alpha : float
        Miscoverage.
    per_task : bool
        Whether each task has its own threshold, so that the guarantee holds for the queries of every task by themselves.
    beta : float or None
        Probability, over the calibration samples, that the miscoverage exceeds `alpha`; None for the marginal guarantee.
    """

    thresholds: Float[np.ndarray, " m"]
    counts: Int[np.ndarray, " m"]
    alpha: float
    per_task: bool
    beta: float | None

    @classmethod
    def calibrate(
        cls,
        task_scores: Float[np.ndarray, "n m"],
        task: Int[np.ndarray, " n"],
        alpha: float,
        per_task: bool = False,
        beta: float | None = None,
    ) -> RetrievalSets:
        """Choose the thresholds on held-out queries that had no part in building the rule.

        The marginal guarantee is about queries exchangeable with the calibration queries, tasks in the same proportions.
        With `per_task` (Mondrian; Vovk et al. 2005, section 4.5) each task's threshold comes from its own samples, so the
        guarantee holds for each task whatever the proportions; a task with fewer than ``1/alpha - 1`` samples (or, with
        `beta`, too few for `conformal_confidence`) is always included, see `always_included`.

        Parameters
        ----------
        task_scores : (n, m) array
            Task scores, least for the task retrieved.
        task : (n,) int array
            True tasks, 0 to m - 1.
        alpha : float
            Inside (0, 1).
        per_task : bool
        beta : float, optional
            If given, miscoverage is at most `alpha` given the calibration, with probability ``1 - beta`` over independent
            calibration samples; with `per_task`, for all tasks together (each gets ``beta / m``).

        Raises
        ------
        InputError
            If shapes disagree, a score is NaN or infinite, a task is unknown, or a level is outside (0, 1).
        """
        task_scores = _calibration(task_scores, alpha, beta)
        n, m = task_scores.shape
        task = _check_task(task, n, m)
        own = nonconformity(task_scores)[np.arange(n), task]
        counts = np.bincount(task, minlength=m)
        if per_task:
            share = None if beta is None else beta / m
            parts = np.split(own[np.argsort(task, kind="stable")], np.cumsum(counts)[:-1])
            thresholds = np.array([conformal_threshold(part, alpha, share) for part in parts])
        else:
            thresholds = np.full(m, conformal_threshold(own, alpha, beta))
        return cls(thresholds, counts, alpha, per_task, beta)

    @property
    def always_included(self) -> Bool[np.ndarray, " m"]:
        """Tasks that are in every set because there were too few calibration samples to leave them out."""
        return np.isposinf(self.thresholds)

    @property
    def note(self) -> str:
        """What the sets do not achieve, empty if nothing: which tasks are always included."""
        always = np.flatnonzero(self.always_included)
        if not always.size:
            return ""
        if not self.per_task:
            return f"{int(self.counts.sum())} calibration samples are too few: every set holds every task"
        shown = ", ".join(f"{k} ({self.counts[k]} samples)" for k in always[:8]) + (", ..." if always.size > 8 else "")
        return f"{always.size} of {self.counts.size} tasks are always included, with too few calibration samples: {shown}"

    def predict(self, task_scores: Float[np.ndarray, "p m"]) -> Bool[np.ndarray, "p m"]:
        """The set of every query, as a mask over tasks; it may be empty.

        Raises
        ------
        InputError
            If the number of tasks differs from the calibration's, or a score is NaN or infinite.
        """
        return nonconformity(_check_scores("task_scores", task_scores, self.thresholds.size)) <= self.thresholds


@dataclass(frozen=True)
class Reject:
    """A reject option for queries of unknown tasks; build with `calibrate`.

    A query is rejected when its winning (least) task score is above the threshold: it is typical of no known task. With
    energies as scores, that is a density level set under the union of all signatures. Rejection does not depend on the
    true task, and it leaves the sets of `RetrievalSets` as they are: a known query is accepted with its task in its set
    with probability at least ``1 - alpha_sets - alpha_reject``, by the union bound.

    Attributes
    ----------
    threshold : float
        Infinite if there were too few calibration samples: then nothing is ever rejected.
    tasks : int
        Number of known tasks.
    alpha : float
        Probability with which a query of a known task is rejected, at most.
    per_task : bool
        Whether that holds for every known task by itself.
    beta : float or None
        As for `RetrievalSets`.
    """

    threshold: float
    tasks: int
    alpha: float
    per_task: bool
    beta: float | None

    @classmethod
    def calibrate(
        cls,
        task_scores: Float[np.ndarray, "n m"],
        alpha: float,
        task: Int[np.ndarray, " n"] | None = None,
        beta: float | None = None,
    ) -> Reject:
        """Choose the threshold on held-out queries of known tasks that had no part in building the rule.

        Parameters
        ----------
        task_scores : (n, m) array
            Task scores, least for the task retrieved.
        alpha : float
            A query of a known task is rejected with probability at most this.
        task : (n,) int array, optional
            True tasks. If given, the largest of the tasks' own thresholds is used, so that the statement holds for every
            task by itself (nothing is rejected if any task has too few samples); without, it holds for queries exchangeable
            with the calibration queries, all tasks together.
        beta : float, optional
            As for `RetrievalSets.calibrate`.

        Raises
        ------
        InputError
            If shapes disagree, a score is NaN or infinite, a task is unknown, or a level is outside (0, 1).
        """
        task_scores = _calibration(task_scores, alpha, beta)
        n, m = task_scores.shape
        winning = task_scores.min(axis=1)
        if task is None:
            threshold = conformal_threshold(winning, alpha, beta)
        else:
            task = _check_task(task, n, m)
            share = None if beta is None else beta / m
            threshold = max(conformal_threshold(winning[task == k], alpha, share) for k in range(m))
        return cls(threshold, m, alpha, task is not None, beta)

    def rejected(self, task_scores: Float[np.ndarray, "p m"]) -> Bool[np.ndarray, " p"]:
        """Whether each query is rejected as being of no known task.

        Raises
        ------
        InputError
            If the number of tasks differs from the calibration's, or a score is NaN or infinite.
        """
        return _check_scores("task_scores", task_scores, self.tasks).min(axis=1) > self.threshold

    def false_accepts(self, unknown: Float[np.ndarray, "n m"], confidence: float, simultaneous: int = 1) -> Bound:
        """Certify the rate at which queries of unknown tasks are accepted (A0).

        Clopper-Pearson upper limit. The sample must be independent of the calibration samples and of the rule, so that the
        threshold has not seen it; the statement is about unknown tasks that the sample's law stands for, and no others.

        Parameters
        ----------
        unknown : (n, m) array
            Task scores of independent queries of unknown tasks, n >= 1.
        confidence : float
            Joint confidence of all statements made from the sample.
        simultaneous : int
            Number of statements that must hold together, such as one for each threshold tried on the sample (Bonferroni).

        Raises
        ------
        InputError
            If there is no sample, its shape does not fit, a score is NaN or infinite, or a setting is out of range.
        """
        _check_level("confidence", confidence)
        if simultaneous < 1:
            raise InputError("simultaneous", f"{simultaneous} is not a number of statements; needs at least 1")
        rejected = self.rejected(_check_scores("unknown", unknown, self.tasks))
        n, accepted = rejected.size, int((~rejected).sum())
        if n < 1:
            raise InputError("unknown", "holds no query; a certificate needs at least one")
        limit = upper_limit(accepted, n, (1 - confidence) / simultaneous)
        return Bound(
            name="L8",
            level=Assumption.A0,
            log_formula=float(np.log(limit)),
            source=f"Clopper-Pearson upper limit of accepted queries, {n} queries of unknown tasks that the threshold has not seen"
            + (f", one of {simultaneous} simultaneous" if simultaneous > 1 else ""),
            confidence=confidence,
            estimate=accepted / n,
            note="too few calibration samples: nothing is rejected" if np.isposinf(self.threshold) else "",
        )


def _check_level(argument: str, level: float) -> None:
    if not 0 < level < 1:
        raise InputError(argument, f"{level} is not inside (0, 1)")


def _calibration(task_scores: Float[np.ndarray, "n m"], alpha: float, beta: float | None) -> Float[np.ndarray, "n m"]:
    """Checked scores of the calibration queries; the levels are checked first."""
    _check_level("alpha", alpha)
    if beta is not None:
        _check_level("beta", beta)
    return _check_scores("task_scores", task_scores)


def _check_scores(argument: str, scores: Float[np.ndarray, "n m"], tasks: int | None = None) -> Float[np.ndarray, "n m"]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or not scores.shape[1]:
        raise InputError(argument, f"has shape {scores.shape}; needs one row for each query and one column for each task")
    if tasks is not None and scores.shape[1] != tasks:
        raise InputError(argument, f"has {scores.shape[1]} tasks; the calibration had {tasks}")
    bad = ~np.isfinite(scores)
    if bad.any():
        raise InputError(argument, f"holds {int(bad.sum())} NaN or infinite values; remove or mend them")
    return scores


def _check_task(task: Int[np.ndarray, " n"], n: int, m: int) -> Int[np.ndarray, " n"]:
    task = np.asarray(task)
    # An empty list has no integer dtype of its own.
    if task.shape != (n,) or (n and not np.issubdtype(task.dtype, np.integer)):
        raise InputError("task", f"has shape {task.shape} and dtype {task.dtype}; needs one integer for each of {n} queries")
    task = task.astype(np.int64)
    if n and (task.min() < 0 or task.max() >= m):
        raise InputError("task", f"holds {int(task.min())} to {int(task.max())}; the scores know tasks 0 to {m - 1}")
    return task
