"""Margins from the raw tensors of a run: precision matrices by inversion, covariances by their symmetric roots.

A score is ``(x - mu)' P (x - mu) + const``, less the background's. With ``x = m + R z`` and R the symmetric root of the query's covariance
it is a form in z, and so are margins. `theory.margin` whitens by triangular factors instead; nothing of it is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from empirics.audit.tails import Laws

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Quadratics:
    """Functions ``(x - mu)' P (x - mu) + const``.

    Attributes
    ----------
    means : (K, D) array
    precisions : (K, D, D) array
    constants : (K,) array
    """

    means: Float[np.ndarray, "K D"]
    precisions: Float[np.ndarray, "K D D"]
    constants: Float[np.ndarray, " K"]

    def distances(self, x: Float[np.ndarray, "n D"], k: int) -> Float[np.ndarray, " n"]:
        """Squared Mahalanobis distances to one of them, a document at a time: no sum is shared between documents."""
        apart = x - self.means[k]
        return (apart * (apart @ self.precisions[k])).sum(axis=1)

    def around(self, k: int, point: Float[np.ndarray, " D"]) -> tuple[np.ndarray, np.ndarray, float]:
        """The same about a point: ``y'Hy + h'y + e`` with ``y = x - point``."""
        apart = point - self.means[k]
        pulled = self.precisions[k] @ apart
        return self.precisions[k], 2 * pulled, float(apart @ pulled + self.constants[k])


@dataclass(frozen=True)
class Scores:
    """A retrieval rule as its file and settings tell it.

    Attributes
    ----------
    kind : {"max", "mixture"}
    task : (K,) int array
    components : Quadratics
        Constants are ``log det``, less ``2 log pi`` where weights count.
    background : Quadratics or None
        One a task.
    sizes : (m,) int array
        Components of each task.
    """

    kind: str
    task: Int[np.ndarray, " K"]
    components: Quadratics
    background: Quadratics | None
    sizes: Int[np.ndarray, " m"]

    @property
    def slack(self) -> Float[np.ndarray, " m"]:
        """By how much a task's score may lie below its least component's."""
        return 2 * np.log(self.sizes) if self.kind == "mixture" else np.zeros(self.sizes.size)

    def views(self, spaces: int) -> Int[np.ndarray, "m V"]:
        """Spaces that each task sees: the one that all share, its own, or a common one and its own."""
        m = self.sizes.size
        if spaces == 1:
            return np.zeros((m, 1), dtype=np.int64)
        own = np.arange(m)[:, None] + (spaces - m)
        return own if spaces == m else np.concatenate([np.zeros((m, 1), dtype=np.int64), own], axis=1)

    def each(self, x: Float[np.ndarray, "n S d"]) -> Float[np.ndarray, "n K"]:
        """Score of every component for every document."""
        n, spaces = x.shape[:2]
        out = np.empty((n, self.task.size))
        for k, seen in enumerate(self.views(spaces)):
            z = x[:, seen].reshape(n, -1)
            taken = 0.0
            if self.background is not None and spaces > 1:
                taken = self.background.distances(z, k) + self.background.constants[k]
            for s in np.flatnonzero(self.task == k):
                out[:, s] = self.components.distances(z, s) + self.components.constants[s] - taken
        return out

    def joined(self, each: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n m"]:
        """Score of every task from those of its components."""
        out = np.empty((len(each), self.sizes.size))
        for k in range(self.sizes.size):
            own = each[:, self.task == k]
            least = own.min(axis=1)
            out[:, k] = least if self.kind == "max" else least - 2 * np.log(np.exp((least[:, None] - own) / 2).sum(axis=1))
        return out

    def tasks(self, x: Float[np.ndarray, "n S d"]) -> Float[np.ndarray, "n m"]:
        """Score of every task for every document."""
        return self.joined(self.each(x))

    def own_distances(self, x: Float[np.ndarray, "n S d"], task: int, component: int | None) -> Float[np.ndarray, " n"]:
        """Squared distance of documents of one task to a component of it: the one given, or that of least energy."""
        z = x[:, self.views(x.shape[1])[task]].reshape(len(x), -1)
        if component is not None:
            return self.components.distances(z, component)
        own = np.flatnonzero(self.task == task)
        distances = np.stack([self.components.distances(z, s) for s in own], axis=1)
        # Rule "mixture" adds the same number to all constants of a task, which changes no order.
        return distances[np.arange(len(x)), np.argmin(distances + self.components.constants[own], axis=1)]


def read_scores(tensors: Tensors, kind: str) -> Scores:
    """The rule that a signature file holds."""
    task = tensors["task"]
    sizes = np.bincount(task)
    components = _quadratics(tensors, "")
    constants = components.constants
    if "weights" in tensors:
        weights = tensors["weights"]
        constants = constants - 2 * np.log(weights / np.bincount(task, weights)[task])
    elif kind == "mixture":
        constants = constants + 2 * np.log(sizes[task])
    background = _quadratics(tensors, "background_") if "background_means" in tensors else None
    return Scores(kind, task, Quadratics(components.means, components.precisions, constants), background, sizes)


def covariances(tensors: Tensors, prefix: str) -> Float[np.ndarray, "K d d"]:
    """Covariances of one block as dense matrices."""
    if f"{prefix}covariances" in tensors:
        return np.asarray(tensors[f"{prefix}covariances"], dtype=np.float64)
    factors, diagonals = tensors[f"{prefix}factors"], tensors[f"{prefix}diagonals"]
    return factors @ np.swapaxes(factors, 1, 2) + diagonals[:, :, None] * np.eye(diagonals.shape[1])


def blocks(tensors: Tensors, prefix: str) -> tuple[str, ...]:
    """Prefixes of the blocks that make up the Gaussians of a file: a common one before the own one, where there is one."""
    return (f"{prefix}common_", prefix) if f"{prefix}common_means" in tensors else (prefix,)


def _quadratics(tensors: Tensors, prefix: str) -> Quadratics:
    names = blocks(tensors, prefix)
    means = np.concatenate([tensors[f"{name}means"] for name in names], axis=1)
    precisions = np.zeros((*means.shape, means.shape[1]))
    constants, at = np.zeros(len(means)), 0
    for name in names:
        dense = covariances(tensors, name)
        d = dense.shape[1]
        precisions[:, at : at + d, at : at + d] = np.linalg.inv(dense)
        constants += np.linalg.slogdet(dense)[1]
        at += d
    return Quadratics(means, (precisions + np.swapaxes(precisions, 1, 2)) / 2, constants)


@dataclass(frozen=True)
class QueryLaw:
    """A query law as its file tells it, weights summing to one.

    Attributes
    ----------
    name : str
    means : (C, S, d) array
    covariances : (C, S d, S d) array
    task, cluster : (C,) int arrays
    weights : (C,) array
    """

    name: str
    means: Float[np.ndarray, "C S d"]
    covariances: Float[np.ndarray, "C D D"]
    task: Int[np.ndarray, " C"]
    cluster: Int[np.ndarray, " C"]
    weights: Float[np.ndarray, " C"]

    def __len__(self) -> int:
        return self.task.size


@dataclass(frozen=True)
class Pairs:
    """Laws of scores and margins of all pairs of a query component and a wrong component, sorted by both.

    Attributes
    ----------
    component, wrong : (P,) int arrays
    reference : (C,) int array
    margin, other : Laws
        Of every pair; with the slack of the wrong task taken off.
    own : Laws
        Of every query component.
    mean, variance : (P,) arrays
        Of the margins, from traces: without the eigenvalues that `margin` holds.
    slack : (P,) array
    single : (C,) bool array
        Whether the true task has one component.
    """

    component: Int[np.ndarray, " P"]
    wrong: Int[np.ndarray, " P"]
    reference: Int[np.ndarray, " C"]
    margin: Laws
    other: Laws
    own: Laws
    mean: Float[np.ndarray, " P"]
    variance: Float[np.ndarray, " P"]
    slack: Float[np.ndarray, " P"]
    single: np.ndarray

    def rows(self, c: int) -> slice:
        """The pairs of one query component."""
        low, high = np.searchsorted(self.component, (c, c + 1))
        return slice(int(low), int(high))


def pairs(scores: Scores, law: QueryLaw) -> Pairs:
    """All pairs of a rule under a query law."""
    spaces, d = law.means.shape[1:]
    views = scores.views(spaces)
    reference, own, margin, other, component, wrong, moments = [], [], [], [], [], [], []
    for c in range(len(law)):
        k, mean = int(law.task[c]), law.means[c]
        rows_k = stacked(views[k], d)
        root_k = _root(law.covariances[c][np.ix_(rows_k, rows_k)])
        mine = [about(scores, s, k, mean, views, spaces) for s in np.flatnonzero(scores.task == k)]
        expected = [float((H * (root_k @ root_k)).sum() + e) for H, _, e in mine]
        best = int(np.argmin(expected))
        H_t, h_t, e_t = mine[best]
        reference.append(int(np.flatnonzero(scores.task == k)[best]))
        own.append(_laws(root_k @ H_t @ root_k[None], (root_k @ h_t)[None], np.array([e_t])))
        for i in range(scores.sizes.size):
            if i == k:
                continue
            foes = np.flatnonzero(scores.task == i)
            rows_i = stacked(views[i], d)
            both = np.union1d(rows_k, rows_i)
            root = _root(law.covariances[c][np.ix_(both, both)])
            root_i = root[np.searchsorted(both, rows_i)]
            taken = root[np.searchsorted(both, rows_k)]
            H, h, e = (np.stack(part) for part in zip(*(about(scores, s, i, mean, views, spaces) for s in foes), strict=True))
            e = e - scores.slack[i]
            A = np.swapaxes(root_i, 0, 1) @ H @ root_i - taken.T @ H_t @ taken
            b = h @ root_i - h_t @ taken
            margin.append(_laws(A, b, e - e_t))
            moments.append(np.stack([np.trace(A, axis1=1, axis2=2) + e - e_t, 2 * (A * np.swapaxes(A, 1, 2)).sum((1, 2)) + (b**2).sum(1)]))
            alone = _root(law.covariances[c][np.ix_(rows_i, rows_i)])
            other.append(_laws(alone @ H @ alone, h @ alone, e))
            component.append(np.full(foes.size, c))
            wrong.append(foes)
    slack = scores.slack[scores.task[np.concatenate(wrong)]]
    component, wrong = np.concatenate(component), np.concatenate(wrong)
    order = np.lexsort((wrong, component))
    mean, variance = np.concatenate(moments, axis=1)[:, order]
    return Pairs(
        component[order],
        wrong[order],
        np.array(reference),
        _joined(margin)[order],
        _joined(other)[order],
        _joined(own),
        mean,
        variance,
        slack[order],
        scores.sizes[law.task] == 1,
    )


def about(scores: Scores, s: int, task: int, mean: np.ndarray, views: np.ndarray, spaces: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Score of a component about the mean of a query component: ``y'Hy + h'y + e`` over the spaces that its task sees."""
    point = mean[views[task]].ravel()
    H, h, e = scores.components.around(s, point)
    if scores.background is None or spaces == 1:
        return H, h, e
    H0, h0, e0 = scores.background.around(task, point)
    return H - H0, h - h0, e - e0


def stacked(spaces: np.ndarray, d: int) -> np.ndarray:
    """Where coordinates of some spaces lie among those of all, stacked."""
    return (spaces[:, None] * d + np.arange(d)).ravel()


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _laws(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> Laws:
    w, vectors = np.linalg.eigh((A + np.swapaxes(A, 1, 2)) / 2)
    return Laws(w, np.einsum("pij,pi->pj", vectors, b), c)


def _joined(laws: list[Laws]) -> Laws:
    return Laws(*(np.concatenate([getattr(law, name) for law in laws]) for name in ("w", "g", "c")))
