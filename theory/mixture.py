"""Gaussian components, the signatures made of them, and the rule that retrieves a task from their energies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular

from theory.bound import Assumption
from theory.errors import InputError

# Relative asymmetry that is taken for rounding (and averaged away); above it a matrix is refused.
_ASYMMETRY = 1e-8
# Scoring whitens blocks of rows whose products take about this many bytes, so that they stay in cache.
_SCORE_BYTES = 2**21
# Fewer rows than this make a matrix product inefficient.
_SCORE_ROWS = 128
# Greatest exponent of a scale of the angular rule: its products with distances must stay finite.
_GREATEST_EXPONENT = 300.0


def _finite(argument: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(j) for j in np.argwhere(bad)[0])
        raise InputError(argument, f"holds {int(bad.sum())} NaN or infinite values, the first at index {where}; remove or mend them")


def _kept(values: np.ndarray) -> np.ndarray:
    """The array as float64, without a copy if nobody can write to it any more."""
    out = np.asarray(values, dtype=np.float64)
    if out is values and (out.flags.writeable or out.base is not None):
        out = out.copy()
    return out


def _symmetric(argument: str, covariances: np.ndarray) -> np.ndarray:
    """The matrices, averaged with their transposes where they differ by no more than rounding.

    Raises
    ------
    InputError
        If one differs by more.
    """
    for k, matrix in enumerate(covariances):
        skew = float(np.abs(matrix - matrix.T).max())
        if skew > _ASYMMETRY * np.abs(matrix).max():
            raise InputError(f"{argument}[{k}]", f"is not symmetric (largest difference {skew:.3g}); pass (C + C.T) / 2 if that is meant")
        if skew > 0:
            if not covariances.flags.writeable:
                covariances = covariances.copy()
            covariances[k] = (matrix + matrix.T) / 2
    return covariances


@dataclass(frozen=True)
class Gaussians:
    """A stack of Gaussians, each factored once.

    Parameters
    ----------
    means : (K, d) array
    covariances : (K, d, d) array
        Symmetric (to rounding) and positive definite.

    Attributes
    ----------
    whiteners : (K, d, d) array
        Inverse Cholesky factors ``L_k^-1``, lower triangular, so that ``Q_k(x) = |L_k^-1 (x - mu_k)|^2``.
    log_dets : (K,) array
        ``log det Lam_k``.

    Raises
    ------
    InputError
        If shapes disagree, a value is NaN or infinite, or a covariance is not symmetric positive definite.
    """

    means: Float[np.ndarray, "K d"]
    covariances: Float[np.ndarray, "K d d"]
    whiteners: Float[np.ndarray, "K d d"] = field(init=False, repr=False)
    log_dets: Float[np.ndarray, " K"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        means, covariances = _kept(self.means), _kept(self.covariances)
        if means.ndim != 2 or 0 in means.shape:
            raise InputError("means", f"has shape {means.shape}; needs (K, d) with K, d >= 1")
        K, d = means.shape
        if covariances.shape != (K, d, d):
            raise InputError("covariances", f"has shape {covariances.shape}; means of shape {means.shape} need {(K, d, d)}")
        _finite("means", means)
        # One matrix at a time from here on: temporaries of the whole stack would double the memory.
        for k in range(K):
            _finite(f"covariances[{k}]", covariances[k])
        covariances = _symmetric("covariances", covariances)
        identity = np.eye(d)
        whiteners = np.empty_like(covariances)
        log_dets = np.empty(K)
        for k in range(K):
            try:
                factor = np.linalg.cholesky(covariances[k])
            except np.linalg.LinAlgError:
                low = float(np.linalg.eigvalsh(covariances[k])[0])
                raise InputError(
                    f"covariances[{k}]", f"is not positive definite (smallest eigenvalue {low:.3g}); shrink it or drop the component"
                ) from None
            pivots = np.diagonal(factor)
            # A pivot this small is rounding noise: the factor exists but the energies it gives would be arbitrary.
            if pivots.min() ** 2 <= 4 * d * np.finfo(np.float64).eps * pivots.max() ** 2:
                raise InputError(f"covariances[{k}]", "is singular to working precision; shrink it or drop the component")
            whiteners[k] = solve_triangular(factor, identity, lower=True, check_finite=False)
            log_dets[k] = 2 * np.log(pivots).sum()
        for name, value in (("means", means), ("covariances", covariances), ("whiteners", whiteners), ("log_dets", log_dets)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def dimension(self) -> int:
        """The embedding dimension d."""
        return self.means.shape[1]

    def mahalanobis(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Squared Mahalanobis distances ``Q_k(x)`` of every row to every component, as one product per block of rows.

        Parameters
        ----------
        x : (n, d) array
        components : (S,) int array, optional
            The components to score; all by default.
        """
        centre, stacked = self._stacked
        d, S = self.dimension, len(self)
        if components is not None:
            S = len(components)
            first = int(components[0]) if S else 0
            if np.array_equal(components, np.arange(first, first + S)):
                stacked = stacked[:, first * d : (first + S) * d]
            else:
                stacked = np.ascontiguousarray(stacked.reshape(d + 1, len(self), d)[:, components].reshape(d + 1, S * d))
        out = np.empty((x.shape[0], S))
        rows = min(max(_SCORE_ROWS, _SCORE_BYTES // (8 * S * d)), max(1, x.shape[0]))
        block, white = np.ones((rows, d + 1)), np.empty((rows, S * d))
        for start in range(0, x.shape[0], rows):
            n = min(rows, x.shape[0] - start)
            np.subtract(x[start : start + n], centre, out=block[:n, :d])
            product = np.matmul(block[:n], stacked, out=white[:n]).reshape(n, S, d)
            np.einsum("nkd,nkd->nk", product, product, out=out[start : start + n])
        return out

    @cached_property
    def _stacked(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d1 Kd"]]:
        """A common centre, and all whiteners side by side over a last row of offsets: scoring is one product with it.

        Centring keeps ``|L^-1 x|`` small (whitening far-off rows and subtracting would cancel digits), and the offset as one
        more row saves a pass over the products.
        """
        K, d = self.means.shape
        centre = self.means.mean(axis=0)
        stacked = np.empty((d + 1, K * d))
        stacked[:d] = self.whiteners.reshape(K * d, d).T
        stacked[d] = -np.einsum("kij,kj->ki", self.whiteners, self.means - centre).reshape(K * d)
        return centre, stacked

    def energies(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Energies ``Q_k(x) + log det Lam_k`` (minus twice the log-density, up to a constant)."""
        chosen = slice(None) if components is None else components
        return self.mahalanobis(x, components) + self.log_dets[chosen]


@dataclass(frozen=True)
class Signatures:
    """The Gaussian-mixture signatures of all tasks, their components in one list.

    Parameters
    ----------
    means : (K, d) array
    covariances : (K, d, d) array
    task : (K,) int array
        Task of each component, numbered 0 to m - 1, every task with at least one component.
    weights : (K,) array, optional
        Mixture weights within each task (normalised here). When given, energies include ``-2 log pi``.
    counts : (K,) int array, optional
        Samples from which each component was estimated; finite-sample statements need them.
    names : tuple of str, optional
        Task names; ``("0", "1", ...)`` by default.

    Raises
    ------
    InputError
        As `Gaussians`, and for task numbers with gaps, a single task, weights that are not positive, or duplicate names.
    """

    means: Float[np.ndarray, "K d"]
    covariances: Float[np.ndarray, "K d d"]
    task: Int[np.ndarray, " K"]
    weights: Float[np.ndarray, " K"] | None = None
    counts: Int[np.ndarray, " K"] | None = None
    names: tuple[str, ...] = ()
    gaussians: Gaussians = field(init=False, repr=False)
    constants: Float[np.ndarray, " K"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        gaussians = Gaussians(self.means, self.covariances)
        object.__setattr__(self, "covariances", gaussians.covariances)
        self._describe(gaussians)

    def _describe(self, gaussians: Gaussians) -> None:
        """Check everything but the Gaussians, which may be of any kind that is scored alike, and set it."""
        K = len(gaussians)
        task = np.asarray(self.task)
        if task.shape != (K,) or not np.issubdtype(task.dtype, np.integer):
            raise InputError("task", f"has shape {task.shape} and dtype {task.dtype}; needs one integer for each of the {K} components")
        task = task.astype(np.int64)
        present = np.unique(task)
        m = int(present[-1]) + 1
        if present[0] != 0 or present.size != m:
            raise InputError("task", f"numbers {present.tolist()} are not 0 to m - 1 without gaps; renumber the tasks")
        if m < 2:
            raise InputError("task", "names one task only; retrieval needs at least two")
        constants = gaussians.log_dets
        weights = self.weights
        if weights is not None:
            weights = np.array(weights, dtype=np.float64)
            if weights.shape != (K,):
                raise InputError("weights", f"has shape {weights.shape}; needs ({K},)")
            _finite("weights", weights)
            if (weights <= 0).any():
                raise InputError("weights", f"entry {int(np.argmin(weights))} is not positive; drop components of no weight")
            weights = weights / np.bincount(task, weights)[task]
            constants = constants - 2 * np.log(weights)
        counts = self.counts
        if counts is not None:
            counts = np.array(counts)
            if counts.shape != (K,) or not np.issubdtype(counts.dtype, np.integer) or (counts < 1).any():
                raise InputError("counts", f"needs {K} positive integers")
        names = self.names or tuple(str(k) for k in range(m))
        if len(names) != m:
            raise InputError("names", f"has {len(names)} names for {m} tasks")
        if len(set(names)) != m:
            raise InputError("names", f"holds the duplicate task name {sorted(n for n in names if names.count(n) > 1)[0]!r}")
        for name, value in (
            ("means", gaussians.means),
            ("task", task),
            ("weights", weights),
            ("counts", counts),
            ("names", tuple(names)),
            ("gaussians", gaussians),
            ("constants", constants),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def dimension(self) -> int:
        """The embedding dimension d."""
        return self.means.shape[1]

    @property
    def tasks(self) -> int:
        """The number of tasks m."""
        return len(self.names)

    def wrong(self, task: int) -> Int[np.ndarray, " S"]:
        """Indices of the components of every other task."""
        return np.flatnonzero(self.task != task)

    def own(self, task: int) -> Int[np.ndarray, " S"]:
        """Indices of the components of one task."""
        return np.flatnonzero(self.task == task)


class StructuredSignatures(Signatures):
    """Signatures whose components keep their covariances in another form than dense (`theory.lowrank`, `theory.product`).

    Their dense `covariances` are made when a bound asks for them; a copy of this object with a field replaced has to start from
    `to_dense`, since it has no dense covariances of its own to copy.

    Parameters
    ----------
    gaussians
        The components of all tasks; read and scored as `Gaussians` are.
    task, weights, counts, names
        As for `Signatures`.

    Raises
    ------
    InputError
        As `Signatures`.
    """

    def __init__(
        self,
        gaussians: Any,
        task: Int[np.ndarray, " K"],
        weights: Float[np.ndarray, " K"] | None = None,
        counts: Int[np.ndarray, " K"] | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        for name, value in (("task", task), ("weights", weights), ("counts", counts), ("names", names)):
            object.__setattr__(self, name, value)
        self._describe(gaussians)

    @property
    def covariances(self) -> Float[np.ndarray, "K d d"]:  # type: ignore[override]
        """Dense covariances."""
        return self.gaussians.covariances

    def to_dense(self) -> Signatures:
        """The same signatures with dense covariances, stored and scored as such."""
        return Signatures(self.means, self.covariances, self.task, self.weights, self.counts, self.names)


RuleKind = Literal["max", "mixture", "angular"]


@dataclass(frozen=True)
class Rule:
    """A retrieval rule: the task of least score wins.

    Every component s has a score that is quadratic in the embedding, ``scale_s Q_s + offset_s``, less a background's
    energy in the same space if there is one. What differs is the scale, the offset and how a task's components combine:

    ========== ===================================== ================================================ ===================
    kind       component score                       task score                                       slack of task i
    ========== ===================================== ================================================ ===================
    "max"      ``E_s`` (the published rule)          least over the task's components                 0
    "mixture"  ``E_s``, weights always counted       ``-2 log sum_s exp(-score_s / 2)``                 ``2 log tau_i``
    "angular"  ``exp((E_s - Q_s) / d) Q_s``          least over the task's components                 0
    ========== ===================================== ================================================ ===================

    with ``E_s = Q_s + log det Lam_s`` (and ``-2 log pi_s`` with weights). "angular" orders components as
    ``d log Q_s + log det Lam_s`` does, of which it is an increasing function: a common factor of all distances cancels.
    A task's score lies below the least of its components' scores by at most the slack (theory/README.md, rules).

    With a background, one Gaussian per embedding space, the score is a likelihood ratio and is invariant under any
    invertible affine map of each space. In one shared space it changes nothing.

    Parameters
    ----------
    signatures : Signatures
    background : Gaussians, optional
        One Gaussian per task's embedding space, in task order.
    kind : {"max", "mixture", "angular"}

    Attributes
    ----------
    scales, offsets : (K,) arrays
        Of each component's score.
    slack : (m,) array

    Raises
    ------
    InputError
        If the kind is unknown, the background does not hold one Gaussian per task or lives in another dimension, or a
        background is given to the angular rule (whose scores are no log-likelihoods, so that no ratio exists).
    """

    signatures: Signatures
    background: Gaussians | None = None
    kind: RuleKind = "max"
    scales: Float[np.ndarray, " K"] = field(init=False, repr=False)
    offsets: Float[np.ndarray, " K"] = field(init=False, repr=False)
    slack: Float[np.ndarray, " m"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        signatures = self.signatures
        if self.kind not in get_args(RuleKind):
            raise InputError("kind", f"{self.kind!r} is no rule; choose one of {', '.join(get_args(RuleKind))}")
        sizes = np.bincount(signatures.task)
        scales, offsets, slack = np.ones(len(signatures)), signatures.constants, np.zeros(signatures.tasks)
        if self.kind == "mixture":
            slack = 2 * np.log(sizes)
            if signatures.weights is None:
                offsets = offsets + 2 * np.log(sizes)[signatures.task]
        elif self.kind == "angular":
            if self.background is not None:
                raise InputError("background", "has no meaning for the angular rule; use kind 'max' or 'mixture'")
            # Only ratios matter; dividing by the least keeps the scales at one and above.
            exponents = (signatures.constants - signatures.constants.min()) / signatures.dimension
            if exponents.max() > _GREATEST_EXPONENT:
                raise InputError("covariances", "differ too much in volume for the angular rule; rescale the embedding or use kind 'max'")
            scales, offsets = np.exp(exponents), np.zeros(len(signatures))
        for name, value in (("scales", scales), ("offsets", offsets), ("slack", slack)):
            object.__setattr__(self, name, value)
        if self.background is None:
            return
        if len(self.background) != signatures.tasks:
            raise InputError("background", f"holds {len(self.background)} Gaussians; needs one for each of {signatures.tasks} tasks")
        if self.background.dimension != signatures.dimension:
            raise InputError("background", f"has dimension {self.background.dimension}; signatures have {signatures.dimension}")

    def views(self, spaces: int, dimension: int) -> Int[np.ndarray, "m V"]:
        """The embedding spaces in which each task's components score a query, by the layout that the query is given in.

        ======================== ============================= ==========================================
        spaces S                 their dimension               task k scores it in
        ======================== ============================= ==========================================
        1                        that of the signatures        the shared space
        m                        that of the signatures        its own space k
        m + 1                    half that of the signatures   the common space 0 and its own, k + 1, stacked
        ======================== ============================= ==========================================

        Raises
        ------
        InputError
            If it is none of these.
        """
        m, d = self.signatures.tasks, self.signatures.dimension
        if spaces == 1 and dimension == d:
            return np.zeros((m, 1), dtype=np.int64)
        if spaces == m and dimension == d:
            return np.arange(m)[:, None]
        if spaces == m + 1 and 2 * dimension == d:
            return np.stack([np.zeros(m, dtype=np.int64), np.arange(1, m + 1)], axis=1)
        common = f", or a common space and one for each of {m} tasks, of dimension {d // 2}" if d % 2 == 0 else ""
        raise InputError(
            "spaces", f"are {spaces} of dimension {dimension}; needs 1 (shared) or one for each of {m} tasks, of dimension {d}{common}"
        )

    def scores(self, x: Float[np.ndarray, "n S d"]) -> Float[np.ndarray, "n K"]:
        """Score of every component for every query.

        Parameters
        ----------
        x : (n, S, d) array
            Each query embedded in every task's space (S = m), in one shared space (S = 1), or in a common space and every task's
            (S = m + 1; see `views`).

        Raises
        ------
        InputError
            If the shape does not fit or a value is NaN or infinite.
        """
        x = np.asarray(x, dtype=np.float64)
        signatures = self.signatures
        if x.ndim != 3:
            raise InputError("queries", f"has shape {x.shape}; needs (n, S, d)")
        try:
            views = self.views(*x.shape[1:])
        except InputError as error:
            raise InputError("queries", f"has shape {x.shape}: {error.argument} {error.problem}") from None
        _finite("queries", x)
        if x.shape[1] == 1:
            # One space: a background would shift all components alike, so it is left out rather than cancelled.
            out = signatures.gaussians.mahalanobis(x[:, 0])
        else:
            out = np.empty((x.shape[0], len(signatures)))
            for k in range(signatures.tasks):
                out[:, signatures.own(k)] = self._distances(k, x[:, views[k]].reshape(len(x), -1))
        if self.kind == "angular":
            out *= self.scales
        return out + self.offsets

    def task_scores(self, scores: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n m"]:
        """Score of every task from those of its components."""
        order = np.argsort(self.signatures.task, kind="stable")
        starts = np.searchsorted(self.signatures.task[order], np.arange(self.signatures.tasks))
        return self._combined(scores, order, starts)

    def task_score(self, task: int, seen: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Score of one task, for queries as that task sees them (`views`, stacked): a column of `task_scores`, without the others.

        Raises
        ------
        InputError
            If a value is NaN or infinite.
        """
        seen = np.asarray(seen, dtype=np.float64)
        _finite("queries", seen)
        own = self.signatures.own(task)
        scores = self._distances(task, seen)
        if self.kind == "angular":
            scores = scores * self.scales[own]
        return self._combined(scores + self.offsets[own], np.arange(own.size), np.zeros(1, dtype=np.int64))[:, 0]

    def _distances(self, task: int, seen: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n own"]:
        """Squared distances to the components of one task in its own view, relative to the background's energy if there is one."""
        out = self.signatures.gaussians.mahalanobis(seen, self.signatures.own(task))
        return out if self.background is None else out - self.background.energies(seen, np.array([task]))

    def _combined(self, scores: np.ndarray, order: Int[np.ndarray, " K"], starts: Int[np.ndarray, " m"]) -> Float[np.ndarray, "n m"]:
        """Scores of tasks whose components begin at `starts` in some order of the columns."""
        best = np.minimum.reduceat(scores[:, order], starts, axis=1)
        if self.kind != "mixture":
            return best
        # Relative to the best, so that the sum holds a one and neither underflows nor overflows.
        sizes = np.diff(starts, append=order.size)
        apart = np.exp(-(scores[:, order] - np.repeat(best, sizes, axis=1)) / 2)
        return best - 2 * np.log(np.add.reduceat(apart, starts, axis=1))

    def retrieve(self, x: Float[np.ndarray, "n S d"]) -> Int[np.ndarray, " n"]:
        """The retrieved task of every query, one sample at a time (no score is shared between queries)."""
        return np.argmin(self.task_scores(self.scores(x)), axis=1)

    def retrieve_batches(self, x: Float[np.ndarray, "nB S d"], size: int) -> Int[np.ndarray, " n"]:
        """The retrieved task of every batch: scores are summed over `size` consecutive queries of one task.

        What this measures depends on the batch size, and is not the error of single queries.

        Raises
        ------
        InputError
            If the number of queries is no multiple of the size.
        """
        if size < 1 or len(x) % size:
            raise InputError("size", f"{size} does not divide the {len(x)} queries into batches")
        per_task = self.task_scores(self.scores(x))
        return np.argmin(per_task.reshape(-1, size, per_task.shape[1]).sum(axis=1), axis=1)


@dataclass(frozen=True)
class QueryLaw:
    """The law that a bound assumes of a test input; kept apart from the signature that the rule scores with.

    A finite mixture of Gaussian components, each over the embedding of a query in every space, stacked: ``S = 1``
    shared space (level A4), or ``S = m`` spaces, or ``S = m + 1`` of which the first is common to all tasks (`Rule.views`;
    level A3, or A2 if only the marginals are used).

    Parameters
    ----------
    means : (C, S, d) array
    covariances : (C, S * d, S * d) array
        Joint covariance over the stacked spaces.
    task : (C,) int array
        True task of each query component.
    cluster : (C,) int array
        The true cluster that the query component refines (index of a signature component, where each has a cluster of its own).
    weights : (C,) array
        Probability of each query component in the traffic that "overall" refers to; normalised to sum to one.
    name : str
        How the law was obtained, for reports.

    Raises
    ------
    InputError
        For shapes that disagree, NaN, covariances that are not positive definite, or weights that are not positive.
    """

    means: Float[np.ndarray, "C S d"]
    covariances: Float[np.ndarray, "C D D"]
    task: Int[np.ndarray, " C"]
    cluster: Int[np.ndarray, " C"]
    weights: Float[np.ndarray, " C"]
    name: str = "given"
    factors: Float[np.ndarray, "C D D"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        means, covariances = _kept(self.means), _kept(self.covariances)
        if means.ndim != 3 or 0 in means.shape:
            raise InputError("query means", f"has shape {means.shape}; needs (C, S, d)")
        C, S, d = means.shape
        if covariances.shape != (C, S * d, S * d):
            raise InputError("query covariances", f"has shape {covariances.shape}; means of shape {means.shape} need {(C, S * d, S * d)}")
        _finite("query means", means)
        _finite("query covariances", covariances)
        task, cluster = np.asarray(self.task), np.asarray(self.cluster)
        weights = np.array(self.weights, dtype=np.float64)
        for name, value in (("query task", task), ("query cluster", cluster), ("query weights", weights)):
            if value.shape != (C,):
                raise InputError(name, f"has shape {value.shape}; needs ({C},)")
        if not np.isfinite(weights).all() or (weights <= 0).any():
            raise InputError("query weights", "must be positive and finite; drop components of no weight")
        covariances = _symmetric("query covariances", covariances)
        factors = np.empty_like(covariances)
        for c in range(C):
            try:
                factors[c] = np.linalg.cholesky(covariances[c])
            except np.linalg.LinAlgError:
                low = float(np.linalg.eigvalsh(covariances[c])[0])
                raise InputError(
                    f"query covariances[{c}]", f"is not positive definite (smallest eigenvalue {low:.3g}); shrink it"
                ) from None
        for value in (means, covariances, factors):
            value.flags.writeable = False
        for name, value in (
            ("means", means),
            ("covariances", covariances),
            ("task", task.astype(np.int64)),
            ("cluster", cluster.astype(np.int64)),
            ("weights", weights / weights.sum()),
            ("factors", factors),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def shared(self) -> bool:
        """Whether all tasks share one embedding (level A4)."""
        return self.means.shape[1] == 1

    @property
    def level(self) -> Assumption:
        """The level at which joint statements hold under this law."""
        return Assumption.A4 if self.shared else Assumption.A3

    def members(self, task: int | None = None, cluster: int | None = None) -> Bool[np.ndarray, " C"]:
        """Mask of the components of a task or of a cluster (all, if neither is given)."""
        keep = np.ones(len(self), dtype=bool)
        if task is not None:
            keep &= self.task == task
        if cluster is not None:
            keep &= self.cluster == cluster
        return keep

    def given(self, task: int | None = None, cluster: int | None = None) -> QueryLaw:
        """The law of queries known to be of a task or of a cluster; weights are normalised anew.

        Raises
        ------
        InputError
            If no component is.
        """
        part = self.members(task, cluster)
        if not part.any():
            raise InputError("query law", f"holds no component of task {task}, cluster {cluster}")
        return QueryLaw(self.means[part], self.covariances[part], self.task[part], self.cluster[part], self.weights[part], self.name)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[Float[np.ndarray, "n S d"], Int[np.ndarray, " n"]]:
        """Draw n independent queries; returns them with the component that each came from."""
        labels = np.sort(rng.choice(len(self), size=n, p=self.weights))
        C, S, d = self.means.shape
        z = rng.standard_normal((n, S * d))
        edges = np.searchsorted(labels, np.arange(C + 1))
        for c in range(C):
            block = slice(edges[c], edges[c + 1])
            z[block] = z[block] @ self.factors[c].T
        return z.reshape(n, S, d) + self.means[labels], labels


def well_specified(signatures: Signatures, task_weights: Float[np.ndarray, " m"] | None = None) -> QueryLaw:
    """The query law that coincides with the signatures, in one shared space.

    Components of a task are weighted by ``signatures.weights``, or equally if there are none; tasks by `task_weights`,
    or equally.
    """
    within = signatures.weights
    if within is None:
        within = 1 / np.bincount(signatures.task)[signatures.task]
    across = np.full(signatures.tasks, 1 / signatures.tasks) if task_weights is None else np.asarray(task_weights, dtype=np.float64)
    return QueryLaw(
        means=signatures.means[:, None, :],
        covariances=signatures.covariances,
        task=signatures.task,
        cluster=np.arange(len(signatures)),
        weights=within * across[signatures.task],
        name="well-specified",
    )
