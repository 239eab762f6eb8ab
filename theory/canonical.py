"""The planner's model with its Gaussians written out, where signatures are needed and no formula (theory/README.md, planner)."""

from __future__ import annotations

import math

import numpy as np

from theory.errors import InputError
from theory.mixture import QueryLaw, Signatures


def canonical_signatures(d: int, tasks: int, delta: float, components: int = 1) -> Signatures:
    """Unit Gaussians whose means all lie at squared distance ``d delta`` from each other: a regular simplex.

    In the planner's model wrong components lie at that distance *or more*; here they lie at it exactly.

    Parameters
    ----------
    d : int
        Embedding dimension, at least ``tasks * components - 1``: no more points than ``d + 1`` have one distance.
    tasks, components : int
        At least two tasks, and the number of components of each.
    delta : float
        Separation ``E Q / d - 1`` of every other component: the squared distance over d.

    Raises
    ------
    InputError
        For a number out of range, or more components than the dimension has room for.
    """
    for name, value, least in (("tasks", tasks, 2), ("components", components, 1)):
        if value < least:
            raise InputError(name, f"{value} is below {least}")
    if not (math.isfinite(delta) and delta > 0):
        raise InputError("delta", f"{delta} is not a positive separation")
    K = tasks * components
    if d < K - 1:
        raise InputError("d", f"{K} means cannot all be at one distance in {d} dimensions; give {K - 1} or more, or fewer tasks")
    # Unit vectors have distance sqrt(2) from each other; about their centre they span K - 1 dimensions.
    axes, lengths, _ = np.linalg.svd(np.eye(K) - 1 / K)
    means = np.zeros((K, d))
    means[:, : K - 1] = axes[:, : K - 1] * lengths[: K - 1] * math.sqrt(d * delta / 2)
    return Signatures(means, np.stack([np.eye(d)] * K), np.repeat(np.arange(tasks), components))


def canonical_queries(signatures: Signatures) -> QueryLaw:
    """Queries drawn from the first component: where all components are alike, every bound and the error are those of all queries.

    The ladder then takes one query component's pairs instead of those of all: for m tasks of one component, m times fewer.

    Parameters
    ----------
    signatures : Signatures
        From `canonical_signatures`; of others, what is bounded is the error on that component's queries.
    """
    first = np.zeros(1, dtype=np.int64)
    return QueryLaw(
        signatures.means[:1, None], signatures.covariances[:1], signatures.task[:1], first, np.ones(1), name="canonical, one component"
    )
