"""The rule that retrieves a task from the energies of signatures, and the law of the queries that bounds are about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from theory.arrays import check_finite, kept, real_array, symmetrised
from theory.bound import Assumption
from theory.errors import InputError
from theory.gaussians import Gaussians, GaussianStack
from theory.signatures import Signatures

__all__ = ["Gaussians", "QueryLaw", "Rule", "RuleKind", "Signatures", "well_specified"]

# Greatest exponent of a scale of the angular rule: its products with distances must stay finite.
_GREATEST_EXPONENT = 300.0

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
    background : GaussianStack, optional
        One Gaussian per task's embedding space, in task order: `Gaussians`, or any that are scored alike (`theory.lowrank`,
        `theory.product`).
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
    background: GaussianStack | None = None
    kind: RuleKind = "max"
    scales: Float[np.ndarray, " K"] = field(init=False, repr=False)
    offsets: Float[np.ndarray, " K"] = field(init=False, repr=False)
    slack: Float[np.ndarray, " m"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        signatures = self.signatures
        if not isinstance(signatures, Signatures):
            raise InputError("signatures", f"is a {type(signatures).__name__}; give Signatures, which read_signatures reads from a file")
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
        check_finite("queries", x)
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
        check_finite("queries", seen)
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
        means, covariances = kept("query means", self.means), kept("query covariances", self.covariances)
        if means.ndim != 3 or 0 in means.shape:
            raise InputError("query means", f"has shape {means.shape}; needs (C, S, d)")
        C, S, d = means.shape
        if covariances.shape != (C, S * d, S * d):
            raise InputError("query covariances", f"has shape {covariances.shape}; means of shape {means.shape} need {(C, S * d, S * d)}")
        check_finite("query means", means)
        check_finite("query covariances", covariances)
        task, cluster = np.asarray(self.task), np.asarray(self.cluster)
        weights = real_array("query weights", self.weights).copy()
        for name, value in (("query task", task), ("query cluster", cluster), ("query weights", weights)):
            if value.shape != (C,):
                raise InputError(name, f"has shape {value.shape}; needs ({C},)")
            if value is not weights and not np.issubdtype(value.dtype, np.integer):
                raise InputError(name, f"has dtype {value.dtype}; needs one integer for each of the {C} components")
        if not np.isfinite(weights).all() or (weights <= 0).any():
            raise InputError("query weights", "must be positive and finite; drop components of no weight")
        covariances = symmetrised("query covariances", covariances)
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

    Raises
    ------
    InputError
        If there is no positive weight for each task.
    """
    within = signatures.weights
    if within is None:
        within = 1 / np.bincount(signatures.task)[signatures.task]
    across = np.full(signatures.tasks, 1 / signatures.tasks) if task_weights is None else real_array("task_weights", task_weights)
    if across.shape != (signatures.tasks,) or not np.isfinite(across).all() or (across <= 0).any():
        raise InputError("task_weights", f"needs a positive weight for each of {signatures.tasks} tasks")
    return QueryLaw(
        means=signatures.means[:, None, :],
        covariances=signatures.covariances,
        task=signatures.task,
        cluster=np.arange(len(signatures)),
        weights=within * across[signatures.task],
        name="well-specified",
    )
