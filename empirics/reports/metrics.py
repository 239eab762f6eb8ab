"""Measures of continual learning, from which task and class each test document got after each stage.

`A[i, j]` is the accuracy on task j once tasks 0 to i are learned; NaN where j > i. Definitions: Chaudhry et al. 2018
(average accuracy, forgetting), Lopez-Paz and Ranzato 2017 (backward transfer). Forward transfer is not the latter's, who ask for the
accuracy on a task before it is learned, which is chance where each task has classes of its own; see `forward_transfer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from theory.errors import InputError


def stage_matrix(right: Bool[np.ndarray, "m n"], task: Int[np.ndarray, " n"]) -> Float[np.ndarray, "m m"]:
    """Share of the documents of task j that are right after stage i, NaN for tasks not learned yet.

    Parameters
    ----------
    right : (m, n) bool array
        After each stage; entries of documents of later tasks are not read.
    task : (n,) int array

    Raises
    ------
    InputError
        If a task has no document.
    """
    m = right.shape[0]
    counts = np.bincount(task, minlength=m)
    if (counts == 0).any():
        raise InputError("task", f"{int(np.argmin(counts))} has no test document; its accuracy is not defined")
    sums = np.stack([np.bincount(task, row, minlength=m) for row in right.astype(np.float64)])
    return np.where(np.tri(m, dtype=bool), sums / counts, np.nan)


def average_accuracy(A: Float[np.ndarray, "m m"]) -> float:
    """Mean accuracy over tasks after the last stage (every task counts the same)."""
    return float(A[-1].mean())


def cumulative_average(A: Float[np.ndarray, "m m"]) -> float:
    """Mean over stages of the mean accuracy over the tasks learned so far."""
    return float(np.mean([row[: i + 1].mean() for i, row in enumerate(A)]))


def forgetting(A: Float[np.ndarray, "m m"]) -> float:
    """Mean fall from the best accuracy that a task ever had before the last stage; 0 for a single task.

    Without a task's name the accuracy of an early task falls as soon as there are more tasks to take it for, even if nothing
    that was learned is lost: compare with the forgetting of `joint` and with the retrieval matrix.
    """
    return float(np.mean(np.nanmax(A[:-1, :-1], axis=0) - A[-1, :-1])) if len(A) > 1 else 0.0


def backward_transfer(A: Float[np.ndarray, "m m"]) -> float:
    """Mean change of a task's accuracy from the stage that learned it to the last; 0 for a single task."""
    return float(np.mean(A[-1, :-1] - np.diag(A)[:-1])) if len(A) > 1 else 0.0


def forward_transfer(own: Float[np.ndarray, " m"], alone: Float[np.ndarray, " m"]) -> float:
    """Mean gain of the tasks after the first over the same tasks learned alone, the task being told; 0 for a single task.

    The negative of the intransigence of Chaudhry et al. 2018, with a model trained on the task alone for reference (they train one on
    all tasks so far).

    Parameters
    ----------
    own, alone : (m,) arrays
        Accuracy of each task when it was learned, after the earlier ones and by an adapter trained alone.
    """
    return float(np.mean(own[1:] - alone[1:])) if len(own) > 1 else 0.0


def batch_errors(
    scores: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"], size: int, rng: np.random.Generator, repeats: int = 20
) -> Float[np.ndarray, " m"]:
    """Retrieval error of each task if the scores of `size` documents *of that task* are added before a task is retrieved.

    A named control, not a method: that a batch holds one task only tells the method what it is asked. Published evaluations
    whose loaders are sorted by task measure this number and report it as the error of a single query.

    Parameters
    ----------
    scores : (n, m) array
        Scores of single documents, smaller for likelier tasks.
    task : (n,) int array
    size : int
        Documents a batch; a task of fewer gives one batch of all of them.
    rng : numpy.random.Generator
    repeats : int
        Random ways to cut a task into batches that are averaged over.

    Returns
    -------
    (m,) array
        NaN for a task without documents.

    Raises
    ------
    InputError
        If `size` is below one.
    """
    if size < 1:
        raise InputError("size", f"is {size}; a batch holds at least one document")
    out = np.full(scores.shape[1], np.nan)
    for k in range(scores.shape[1]):
        own = task == k
        count = int(own.sum())
        if not count:
            continue
        width = min(size, count)
        cuts = 1 if width in (1, count) else repeats
        out[k] = float(np.mean([batch_outcomes(scores[own], task[own], task[own], width, rng).mean() for _ in range(cuts)]))
    return out


def batch_outcomes(
    scores: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], size: int, rng: np.random.Generator
) -> Bool[np.ndarray, " b"]:
    """Whether each batch of one random cut is sent to a wrong task; documents that fill no batch of their group are left out.

    Parameters
    ----------
    scores : (n, m) array
        Of single documents, smaller for likelier tasks; those of a batch are added.
    task : (n,) int array
        True tasks.
    group : (n,) int array
        What a batch holds one of: a task, or a cluster of it.
    size : int
        Documents a batch.
    rng : numpy.random.Generator
    """
    out = [np.empty(0, dtype=bool)]
    for g in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == g))
        whole = rows.size // size
        if whole:
            batches = scores[rows[: whole * size]].reshape(whole, size, -1).sum(axis=1)
            out.append(batches.argmin(axis=1) != task[rows[0]])
    return np.concatenate(out)


@dataclass(frozen=True)
class Paired:
    """Two methods on the same samples.

    Attributes
    ----------
    difference : float
        Error rate of the first less that of the second.
    low, high : float
        Its interval (Bonett and Price 2012, adjusted Wald for matched pairs: approximate, good from a few discordant pairs on).
    p : float
        Exact McNemar test of equal rates (two-sided, binomial on the discordant samples).
    only_first, only_second : int
        Samples that only the one gets wrong.
    variance : float
        Of one sample's difference, adjusted as in the interval, so that it is never zero.
    """

    difference: float
    low: float
    high: float
    p: float
    only_first: int
    only_second: int
    variance: float


def paired(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"], confidence: float = 0.95) -> Paired:
    """Compare the errors of two methods on the same samples.

    Raises
    ------
    InputError
        If the two are not as long as one another, or empty.
    """
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise InputError("second", f"has shape {second.shape}, the first {first.shape}; both must judge the same samples, at least one")
    n = first.size
    a, b = int((first & ~second).sum()), int((~first & second).sum())
    p = float(stats.binomtest(a, a + b, 0.5).pvalue) if a + b else 1.0
    pa, pb = (a + 1) / (n + 2), (b + 1) / (n + 2)
    variance = pa + pb - (pa - pb) ** 2
    half = float(stats.norm.isf((1 - confidence) / 2)) * np.sqrt(variance / (n + 2))
    return Paired((a - b) / n, float(max(-1.0, pa - pb - half)), float(min(1.0, pa - pb + half)), p, a, b, variance)


@dataclass(frozen=True)
class Unpaired:
    """Two methods on samples of their own.

    Attributes
    ----------
    difference : float
        Error rate of the first less that of the second.
    low, high : float
        Its interval (Newcombe 1998, method 10, from Wilson's intervals: approximate).
    p : float
        Fisher's exact test of equal rates (two-sided).
    """

    difference: float
    low: float
    high: float
    p: float


def unpaired(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " k"], confidence: float = 0.95) -> Unpaired:
    """Compare the errors of two methods on independent samples.

    Raises
    ------
    InputError
        If one of the two is empty.
    """
    for name, wrong in (("first", first), ("second", second)):
        if wrong.ndim != 1 or not wrong.size:
            raise InputError(name, f"has shape {wrong.shape}; it must judge at least one sample")
    counts = [(int(wrong.sum()), wrong.size) for wrong in (first, second)]
    a, b = (stats.binomtest(errors, n).proportion_ci(confidence, "wilson") for errors, n in counts)
    p, q = (errors / n for errors, n in counts)
    low = p - q - float(np.hypot(p - a.low, b.high - q))
    high = p - q + float(np.hypot(a.high - p, q - b.low))
    table = [[errors, n - errors] for errors, n in counts]
    return Unpaired(p - q, low, high, float(stats.fisher_exact(table).pvalue))


@dataclass(frozen=True)
class Resampled:
    """A mean over seeds that deal the same documents anew.

    Attributes
    ----------
    mean, low, high : float
    p : float
        Two-sided, of a mean of zero.
    """

    mean: float
    low: float
    high: float
    p: float


def resampled(values: Float[np.ndarray, " s"], test_over_train: float, confidence: float = 0.95, least: float = 0.0) -> Resampled:
    """Corrected resampled t test and interval of a mean over seeds (Nadeau and Bengio 2003); approximate.

    Splits of one pool overlap, so that results of seeds are not independent and their plain t interval is too narrow; the
    variance is inflated by the ratio of test to training sizes.

    Parameters
    ----------
    values : (s,) array
        One a seed, at least two. Several results of one seed (as of several task orders) are averaged first: they share its documents.
    test_over_train : float
        Documents that measure, over documents that train.
    confidence : float
    least : float
        Variance of the mean from the draw of the test documents alone. A few seeds may agree by chance, and all seeds may share
        one test set: the mean is never taken to be known better than that.

    Raises
    ------
    InputError
        For fewer than two values.
    """
    s = len(values)
    if s < 2:
        raise InputError("values", f"are {s}; an interval over seeds needs at least two")
    mean = float(np.mean(values))
    error = float(np.sqrt(max((1 / s + test_over_train) * np.var(values, ddof=1), least)))
    half = float(stats.t.isf((1 - confidence) / 2, s - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, s - 1)) if error > 0 else float(mean == 0)
    return Resampled(mean, mean - half, mean + half, p)


def holm(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Adjusted p-values, in the order of `p`, that hold for all k tests together (Holm 1979), whatever their dependence."""
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.maximum.accumulate(np.minimum(1.0, (len(p) - np.arange(len(p))) * np.asarray(p)[order]))
    return out
