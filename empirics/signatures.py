"""Signatures of tasks: principal components of reference inputs, then shrunk Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.covariance import OAS, LedoitWolf

from empirics.config import SignatureConfig
from theory.errors import InputError
from theory.mixture import Gaussians, Signatures


@dataclass(frozen=True)
class Projection:
    """The map ``z = axes (x - mean)`` into the space where signatures live.

    Attributes
    ----------
    mean : (D,) array
    axes : (d, D) array
        Orthonormal rows.
    """

    mean: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "d D"]

    def __call__(self, x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n d"]:
        """Project in float64."""
        return (np.asarray(x, dtype=np.float64) - self.mean) @ self.axes.T


def fit_projection(reference: Float[np.ndarray, "n D"], dimension: int) -> Projection:
    """Principal components of unlabelled reference inputs; all dimensions (unrotated) if `dimension` is D.

    Raises
    ------
    InputError
        If there are fewer reference inputs than the dimension needs.
    """
    reference = np.asarray(reference, dtype=np.float64)
    n, D = reference.shape
    mean = reference.mean(axis=0)
    if dimension == D:
        return Projection(mean, np.eye(D))
    if dimension > min(n - 1, D):
        raise InputError("signature.dimension", f"{dimension} exceeds what {n} reservoir documents of dimension {D} span; lower it")
    _, _, rows = np.linalg.svd(reference - mean, full_matrices=False)
    axes = rows[:dimension]
    # Singular vectors are unique up to sign; fixing it keeps runs comparable.
    axes = axes * np.sign(axes[np.arange(dimension), np.abs(axes).argmax(axis=1)])[:, None]
    return Projection(mean, axes)


def shrunk_gaussian(x: Float[np.ndarray, "n d"], estimator: str, what: str) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and shrunk covariance of some samples.

    Raises
    ------
    InputError
        If there are fewer than three samples, or they are all equal.
    """
    if x.shape[0] < 3:
        raise InputError(what, f"has {x.shape[0]} samples; the {estimator} estimator needs at least 3")
    if not (np.ptp(x, axis=0) > 0).any():
        raise InputError(what, "has equal samples only, which have no covariance; remove duplicates")
    model = (LedoitWolf if estimator == "ledoit-wolf" else OAS)(store_precision=False).fit(x)
    return model.location_, model.covariance_


def fit_signatures(
    spaces: list[Float[np.ndarray, "n d"]], labels: list[Int[np.ndarray, " n"]], names: tuple[str, ...], config: SignatureConfig
) -> Signatures:
    """Signatures of all tasks.

    Parameters
    ----------
    spaces : list of (n_k, d) arrays
        Training embeddings of each task in its own (projected) space.
    labels : list of (n_k,) int arrays
        Classes within the task.
    names : tuple of str
    config : SignatureConfig
    """
    means, covariances, task, counts = [], [], [], []
    for k, (x, label) in enumerate(zip(spaces, labels, strict=True)):
        groups = [np.ones(len(label), dtype=bool)] if config.clusters == "task" else [label == c for c in np.unique(label)]
        for c, members in enumerate(groups):
            mean, covariance = shrunk_gaussian(x[members], config.covariance, f"task {names[k]}, cluster {c}")
            means.append(mean)
            covariances.append(covariance)
            task.append(k)
            counts.append(int(members.sum()))
    return Signatures(np.stack(means), np.stack(covariances), np.array(task), counts=np.array(counts), names=names)


def fit_background(spaces: list[Float[np.ndarray, "n d"]], config: SignatureConfig) -> Gaussians:
    """One shrunk Gaussian per space, fitted to the reservoir embedded there."""
    fitted = [shrunk_gaussian(x, config.covariance, f"reservoir in the space of task {k}") for k, x in enumerate(spaces)]
    return Gaussians(np.stack([m for m, _ in fitted]), np.stack([c for _, c in fitted]))
