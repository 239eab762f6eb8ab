"""The signatures of all tasks: Gaussian components, each with its task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from theory.arrays import check_finite, real_array
from theory.errors import InputError
from theory.gaussians import Gaussians, GaussianStack


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
    gaussians: GaussianStack = field(init=False, repr=False)
    constants: Float[np.ndarray, " K"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        gaussians = Gaussians(self.means, self.covariances)
        object.__setattr__(self, "covariances", gaussians.covariances)
        self._describe(gaussians)

    def _describe(self, gaussians: GaussianStack) -> None:
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
            weights = real_array("weights", weights).copy()
            if weights.shape != (K,):
                raise InputError("weights", f"has shape {weights.shape}; needs ({K},)")
            check_finite("weights", weights)
            if (weights <= 0).any():
                raise InputError("weights", f"entry {int(np.argmin(weights))} is not positive; drop components of no weight")
            weights = weights / np.bincount(task, weights)[task]
            constants = constants - 2 * np.log(weights)
        counts = self.counts
        if counts is not None:
            counts = np.array(counts)
            if counts.shape != (K,) or not np.issubdtype(counts.dtype, np.integer) or (counts < 1).any():
                raise InputError("counts", f"needs {K} positive integers")
        names = tuple(str(k) for k in range(m)) if self.names is None or not len(self.names) else tuple(self.names)
        if len(names) != m:
            raise InputError("names", f"has {len(names)} names for {m} tasks")
        if len(set(names)) != m:
            raise InputError("names", f"holds the duplicate task name {next(n for n in names if names.count(n) > 1)!r}")
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
        gaussians: GaussianStack,
        task: Int[np.ndarray, " K"],
        weights: Float[np.ndarray, " K"] | None = None,
        counts: Int[np.ndarray, " K"] | None = None,
        names: tuple[str, ...] = (),
    ) -> None:
        for name, value in (("task", task), ("weights", weights), ("counts", counts), ("names", names)):
            object.__setattr__(self, name, value)
        self._describe(gaussians)

    @property
    def covariances(self) -> Float[np.ndarray, "K d d"]:
        """Dense covariances."""
        return self.gaussians.covariances

    def to_dense(self) -> Signatures:
        """The same signatures with dense covariances, stored and scored as such."""
        return Signatures(self.means, self.covariances, self.task, self.weights, self.counts, self.names)
