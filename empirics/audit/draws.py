"""Simulated numbers anew: the same draws from the run's seed, scored and counted by other code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from empirics.audit.forms import QueryLaw, Scores

# Bytes that a block of draws and its scores take: part of how a seed is spent.
_BLOCK_BYTES = 2**26
# Draws of own distances for each cluster.
_DISTANCES = 4000


@dataclass(frozen=True)
class Drawn:
    """Queries drawn from a law, and whether the rule errs on each.

    Attributes
    ----------
    wrong : (n,) bool array
    component : (n,) int array
    """

    wrong: Bool[np.ndarray, " n"]
    component: Int[np.ndarray, " n"]

    def count(self, members: Bool[np.ndarray, " C"]) -> tuple[int, int]:
        """Errors and draws among some query components."""
        rows = members[self.component]
        return int(self.wrong[rows].sum()), int(rows.sum())


def draw(scores: Scores, law: QueryLaw, n: int, rng: np.random.Generator) -> Drawn:
    """Draw n queries from a law and retrieve each."""
    S, d = law.means.shape[1:]
    block = max(1, _BLOCK_BYTES // (8 * S * d + 8 * scores.task.size))
    roots = np.linalg.cholesky(law.covariances)
    wrong, component = [], []
    for start in range(0, n, block):
        x, of = _sample(law, law.weights, roots, min(block, n - start), rng)
        wrong.append(scores.tasks(x).argmin(axis=1) != law.task[of])
        component.append(of)
    return Drawn(np.concatenate(wrong), np.concatenate(component))


def own_distances(scores: Scores, law: QueryLaw, by_class: bool, rng: np.random.Generator) -> dict[int, Float[np.ndarray, " p"]]:
    """Squared own distances of queries drawn from every cluster, in turn."""
    roots, out = np.linalg.cholesky(law.covariances), {}
    for t in np.unique(law.cluster):
        part = law.cluster == t
        weights = law.weights[part] / law.weights[part].sum()
        own = QueryLaw(law.name, law.means[part], law.covariances[part], law.task[part], law.cluster[part], weights)
        x, _ = _sample(own, weights, roots[part], _DISTANCES, rng)
        out[int(t)] = scores.own_distances(x, int(own.task[0]), int(t) if by_class else None)
    return out


def _sample(law: QueryLaw, weights: np.ndarray, roots: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    of = np.sort(rng.choice(len(law), size=n, p=weights))
    S, d = law.means.shape[1:]
    z = rng.standard_normal((n, S * d))
    for c in np.unique(of):
        z[of == c] = z[of == c] @ roots[c].T
    return z.reshape(n, S, d) + law.means[of], of
