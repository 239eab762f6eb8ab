"""Signatures of tasks: principal components of reference inputs, then Gaussians that describe a task's training embeddings.

How a task's samples are dealt to components (`clusters`):

========== ==============================================================================================================
class      one component a class, all alike in the retrieval rule (no weights)
task       one component
mixture    a Gaussian mixture of `components` components, fitted by maximum likelihood (`GaussianMixture`)
dp-mixture a truncated Dirichlet-process mixture that starts from `components` components and empties those that the
           samples do not ask for (`BayesianGaussianMixture`)
========== ==============================================================================================================

Both mixtures serve to find the clusters: with diagonal covariances, in units of the spread of each coordinate within the
task. Samples then go to the likeliest component, a component of fewer than `min_samples` is dropped and its samples go to the
next, and each component is fitted to its own samples like a class. Weights are shares of samples, and count in the rule.

How a component's covariance is estimated (`covariance`): `empirics.retrieval.estimators`. A share `pool` of it is the task's covariance
within components, estimated likewise: components of few samples borrow from their siblings, as in regularised discriminant
analysis (Friedman 1989), and no other task is looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from empirics.config import SignatureConfig
from empirics.retrieval.estimators import FACTORED, check_samples, factored_gaussian, shrunk_gaussian
from empirics.seeding import sklearn_seed
from theory.errors import InputError
from theory.files import gaussian_names, gaussians_from, signatures_from
from theory.gaussians import GaussianStack
from theory.lowrank import LowRankGaussians
from theory.mixture import Gaussians, QueryLaw, Rule, Signatures
from theory.product import ProductGaussians

Background = Gaussians | LowRankGaussians | ProductGaussians

# Floor on variances of the mixtures that find clusters, relative to the spread within the task.
_FLOOR = 1e-2
# Draws a cluster that stand for the law of its squared distance.
_DISTANCE_DRAWS = 4000


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
        centred = np.asarray(x, dtype=np.float64) - self.mean
        # In the full dimension the axes are the coordinates', and a product as long as all others together changes nothing.
        if len(self.axes) == len(self.mean) and np.array_equal(self.axes, np.eye(len(self.mean))):
            return centred
        return centred @ self.axes.T


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
        raise InputError("signature.dimension", f"{dimension} exceeds what {n} reference documents of dimension {D} span; lower it")
    _, _, rows = np.linalg.svd(reference - mean, full_matrices=False)
    axes = rows[:dimension]
    # Singular vectors are unique up to sign; fixing it keeps runs comparable.
    axes = axes * np.sign(axes[np.arange(dimension), np.abs(axes).argmax(axis=1)])[:, None]
    return Projection(mean, axes)


@dataclass(frozen=True)
class TaskSignature:
    """The components of one task, which nothing that is learned later changes.

    Attributes
    ----------
    gaussians : dict of (T, ...) arrays
        `means` and `covariances`, or `means`, `factors` and `diagonals`; of a product the common block's too, under names that begin
        with `common_` (`theory.files.read_signatures`).
    weights : (T,) array or None
        Shares of samples; None where components are equal in the rule.
    counts : (T,) int array
        Samples of each component.
    """

    gaussians: dict[str, np.ndarray]
    weights: Float[np.ndarray, " T"] | None
    counts: Int[np.ndarray, " T"]


def fit_task_signature(
    x: Float[np.ndarray, "n d"],
    label: Int[np.ndarray, " n"],
    name: str,
    config: SignatureConfig,
    rng: np.random.Generator,
    common: Float[np.ndarray, "n d"] | None = None,
) -> TaskSignature:
    """The signature of one task from its own samples alone.

    Parameters
    ----------
    x : (n, d) array
        Training embeddings in the task's own (projected) space.
    label : (n,) int array
        Classes within the task; used by clusters "class" only.
    name : str
        For messages.
    config : SignatureConfig
        Clusters and covariances as told at the head of this module.
    rng : numpy.random.Generator
        Starts the mixtures; not drawn from otherwise.
    common : (n, d) array, optional
        The same samples in a space that all tasks have in common. Components are then found in both, and the two blocks of
        coordinates are taken for independent given the component.

    Raises
    ------
    InputError
        If a value is NaN or infinite, or a component's samples are too few or too alike for the estimator.
    """
    blocks = {"": x} if common is None else {"common_": common, "": x}
    stacked = np.concatenate(list(blocks.values()), axis=1)
    if not np.isfinite(stacked).all():
        raise InputError(f"task {name}", "holds embeddings that are NaN or infinite; remove these samples")
    groups = _clusters(stacked, label, config, f"task {name}", rng)
    counts = np.array([len(members) for members in groups])
    weights = counts / counts.sum() if config.clusters in ("mixture", "dp-mixture") else None
    gaussians = {
        prefix + key: value for prefix, z in blocks.items() for key, value in _estimated(z, groups, config, f"task {name}").items()
    }
    return TaskSignature(gaussians, weights, counts)


def _estimated(
    x: Float[np.ndarray, "n d"], groups: Sequence[Int[np.ndarray, " g"]], config: SignatureConfig, what: str
) -> dict[str, np.ndarray]:
    """Means and covariances, or factors and diagonals, of groups of samples."""
    whats = [f"{what}, cluster {c}" for c in range(len(groups))]
    if config.covariance in FACTORED:
        parts = [factored_gaussian(x[g], config.covariance, config.rank, name) for g, name in zip(groups, whats, strict=True)]
        return dict(zip(("means", "factors", "diagonals"), (np.stack(column) for column in zip(*parts, strict=True)), strict=True))
    fitted = [shrunk_gaussian(x[g], config.covariance, name) for g, name in zip(groups, whats, strict=True)]
    means, covariances = (np.stack(column) for column in zip(*fitted, strict=True))
    if config.pool > 0 and len(groups) > 1:
        within = np.concatenate([x[g] - mean for g, mean in zip(groups, means, strict=True)])
        covariances = (1 - config.pool) * covariances + config.pool * shrunk_gaussian(within, config.covariance, what)[1]
    return {"means": means, "covariances": covariances}


def _clusters(
    x: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], config: SignatureConfig, what: str, rng: np.random.Generator
) -> list[Int[np.ndarray, " g"]]:
    """Indices of the samples of each component."""
    n = x.shape[0]
    if config.clusters == "class":
        return [np.flatnonzero(label == c) for c in np.unique(label)]
    if config.clusters == "task":
        return [np.arange(n)]
    check_samples(x, config.clusters, what)
    unit = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(unit > 0, unit, 1.0)
    settings = {
        "n_components": max(1, min(config.components, n // config.min_samples)),
        "covariance_type": "diag",
        "reg_covar": _FLOOR,
        "random_state": sklearn_seed(rng),
        "max_iter": 300,
    }
    if config.clusters == "mixture":
        model = GaussianMixture(**settings)
    else:
        model = BayesianGaussianMixture(weight_concentration_prior_type="dirichlet_process", **settings)
    with warnings.catch_warnings():
        # A mixture stopped early is as good a clustering as any: components are fitted to the clusters afterwards.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(z)
    shapes = LowRankGaussians(model.means_, np.zeros((*model.means_.shape, 0)), model.covariances_)
    with np.errstate(divide="ignore"):
        # Responsibilities of far components underflow, so that they could not order what is left once a component is dropped.
        cost = shapes.energies(z) - 2 * np.log(model.weights_)
    alive = np.arange(len(shapes))
    while True:
        nearest = np.argmin(cost[:, alive], axis=1)
        counts = np.bincount(nearest, minlength=alive.size)
        if alive.size == 1 or counts.min() >= config.min_samples:
            return [np.flatnonzero(nearest == c) for c in range(alive.size)]
        alive = np.delete(alive, np.argmin(counts))


def join_signatures(parts: Sequence[TaskSignature], names: tuple[str, ...]) -> Signatures:
    """The signatures of several tasks as one object that rules score; low rank plus diagonal, or a product, if the parts are.

    Raises
    ------
    InputError
        If there are fewer than two tasks, or a covariance is singular.
    """
    arrays = {key: np.concatenate([part.gaussians[key] for part in parts]) for key in parts[0].gaussians}
    arrays["task"] = np.repeat(np.arange(len(parts)), [len(part.counts) for part in parts])
    arrays["counts"] = np.concatenate([part.counts for part in parts])
    if parts[0].weights is not None:
        arrays["weights"] = np.concatenate([part.weights for part in parts])
    return signatures_from(arrays, names)


def fit_signatures(
    spaces: list[Float[np.ndarray, "n d"]],
    labels: list[Int[np.ndarray, " n"]],
    names: tuple[str, ...],
    config: SignatureConfig,
    rng: np.random.Generator | None = None,
    common: list[Float[np.ndarray, "n d"]] | None = None,
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
    rng : numpy.random.Generator, optional
        Starts the mixtures; a fixed generator if None.
    common : list of (n_k, d) arrays, optional
        The same samples in a common space, which signatures then see beside the own one.

    Raises
    ------
    InputError
        As `fit_task_signature`.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    beside = [None] * len(spaces) if common is None else common
    parts = [fit_task_signature(x, y, name, config, rng, z) for x, y, name, z in zip(spaces, labels, names, beside, strict=True)]
    return join_signatures(parts, names)


def fit_background(
    spaces: list[Float[np.ndarray, "n d"]], config: SignatureConfig, common: Float[np.ndarray, "n d"] | None = None
) -> Background:
    """One Gaussian per space, fitted by the signatures' estimator to reference inputs embedded there.

    With the same inputs in a common space, each Gaussian is the product of the one fitted there and the own space's: its common part is
    the same for all tasks, and so changes no retrieval.
    """
    whats = [f"background in the space of task {k}" for k in range(len(spaces))]
    parts = [_estimated(x, [np.arange(len(x))], config, what) for x, what in zip(spaces, whats, strict=True)]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if common is not None:
        shared = _estimated(common, [np.arange(len(common))], config, "background in the common space")
        arrays |= {f"common_{key}": np.repeat(value, len(spaces), axis=0) for key, value in shared.items()}
    return gaussians_from(arrays)


def signature_tensors(signatures: Signatures) -> dict[str, np.ndarray]:
    """What is stored of signatures: the tensors of their Gaussians, tasks, counts, and weights if there are any."""
    tensors = _gaussian_tensors(signatures.gaussians) | {"task": signatures.task}
    optional = {"counts": signatures.counts, "weights": signatures.weights}
    return tensors | {name: value for name, value in optional.items() if value is not None}


def rule_tensors(signatures: Signatures, background: Background | None) -> dict[str, np.ndarray]:
    """The same, with the background's under names that begin so."""
    tensors = signature_tensors(signatures)
    if background is not None:
        tensors |= {f"background_{name}": value for name, value in _gaussian_tensors(background).items()}
    return tensors


def read_rule_tensors(tensors: Mapping[str, np.ndarray], names: tuple[str, ...]) -> tuple[Signatures, Background | None]:
    """Signatures and background from what `rule_tensors` gave.

    Raises
    ------
    InputError
        If a tensor is missing, or what they hold cannot be scored.
    """
    prefixes = ("", "background_") if "background_means" in tensors else ("",)
    missing = [name for name in ("task", *(n for p in prefixes for n in gaussian_names(tensors, p))) if name not in tensors]
    if missing:
        raise InputError("signatures", f"lack {', '.join(missing)}; write the file again")
    return signatures_from(tensors, names), gaussians_from(tensors, "background_") if len(prefixes) > 1 else None


def _gaussian_tensors(gaussians: GaussianStack) -> dict[str, np.ndarray]:
    if isinstance(gaussians, ProductGaussians):
        return {f"common_{name}": x for name, x in _gaussian_tensors(gaussians.common).items()} | _gaussian_tensors(gaussians.own)
    if isinstance(gaussians, LowRankGaussians):
        return {"means": gaussians.means, "factors": gaussians.factors, "diagonals": gaussians.diagonals}
    return {"means": gaussians.means, "covariances": gaussians.covariances}


def signature_bytes(signatures: Signatures) -> int:
    """Bytes that the signatures of all tasks take as stored: float64 means and covariances or factors, and a few integers."""
    return sum(tensor.nbytes for tensor in signature_tensors(signatures).values())


def own_distances(signatures: Signatures, x: Float[np.ndarray, "n d"], task: int, component: int | None = None) -> Float[np.ndarray, " n"]:
    """Squared distances of a task's samples, in its own space, to one of its components: the one given, or that of least energy."""
    if component is not None:
        return signatures.gaussians.mahalanobis(x, np.array([component]))[:, 0]
    own = signatures.own(task)
    distances = signatures.gaussians.mahalanobis(x, own)
    return distances[np.arange(len(x)), np.argmin(distances + signatures.constants[own], axis=1)]


def predicted_own_distances(
    signatures: Signatures, law: QueryLaw, rng: np.random.Generator, *, clusters_are_components: bool
) -> dict[int, Float[np.ndarray, " p"]]:
    """Draws of `own_distances` for each true cluster of a query law.

    Parameters
    ----------
    signatures : Signatures
    law : QueryLaw
    rng : numpy.random.Generator
    clusters_are_components : bool
        Whether a true cluster is the signature component of the same index; else the component of least energy counts.
    """
    out, views = {}, Rule(signatures).views(*law.means.shape[1:])
    for t in np.unique(law.cluster):
        own = law.given(cluster=int(t))
        x, _ = own.sample(_DISTANCE_DRAWS, rng)
        task = int(own.task[0])
        seen = x[:, views[task]].reshape(len(x), -1)
        out[int(t)] = own_distances(signatures, seen, task, int(t) if clusters_are_components else None)
    return out
