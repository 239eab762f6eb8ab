"""How many documents of a class each part gets, and from which of the parts that the source gives, if it gives any."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from empirics.config import StreamConfig
from empirics.data.documents import PARTS
from theory.errors import InputError

# For each pool the given parts that it is made of, and the parts that it is dealt to, as indices into `PARTS`.
Pools: TypeAlias = tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]
_TRAIN, _QUERY, _TEST, _RESERVOIR = range(len(PARTS))


def given_pools(config: StreamConfig, present: frozenset[str] | None) -> Pools:
    """Which given parts are pooled, and to which parts each pool is dealt.

    Parameters
    ----------
    config : StreamConfig
    present : frozenset of str, or None
        The parts that the source gives; None if it gives none.

    Raises
    ------
    InputError
        If the given parts are to be kept and the source gives nothing to "train" or to "test".
    """
    if present is None or config.split == "random":
        return ((PARTS, tuple(range(len(PARTS)))),)
    for part in ("train", "test"):
        if part not in present:
            raise InputError("split", f"gives no document to {part}; add some, or set stream.split=random to deal all documents anew")

    def train_and(*parts: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return ("train",), (_TRAIN, *(p for p in parts if PARTS[p] not in present))

    def as_given(*parts: int) -> Pools:
        return tuple(((PARTS[p],), (p,)) for p in parts if PARTS[p] in present)

    if config.split == "held-out":
        return train_and(_RESERVOIR), (("query", "test"), (_QUERY, _TEST)), *as_given(_RESERVOIR)
    return train_and(_QUERY, _RESERVOIR), *as_given(_QUERY, _TEST, _RESERVOIR)


def part_sizes(config: StreamConfig, pools: Pools, n: int, given: np.ndarray | None) -> Int[np.ndarray, " 4"]:
    """How many of a class's n documents each part gets.

    Parameters
    ----------
    config : StreamConfig
    pools : tuple
        From `given_pools`.
    n : int
    given : (n,) array of str, or None
        The part that the source gives each document to.
    """
    caps = np.array([config.train_per_class, config.query_per_class, config.test_per_class, config.reservoir_per_class])
    sizes = np.zeros(len(PARTS), dtype=int)
    for sources, targets in pools:
        size = n if given is None else int(np.isin(given, sources).sum())
        sizes[list(targets)] = deal(size, caps[list(targets)])
    return sizes


def too_small(sizes: Int[np.ndarray, " 4"]) -> bool:
    """Whether a class of these sizes cannot be used: estimators need three documents to train and three for the query law, tests one."""
    return bool(sizes[_TRAIN] < 3 or sizes[_QUERY] < 3 or sizes[_TEST] < 1)


def deal(n: int, caps: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    """How many of n documents each part gets: its cap, or its share of n (largest remainders) if n is too small."""
    if n >= caps.sum():
        return caps.copy()
    share = n * caps / caps.sum()
    sizes = np.floor(share).astype(int)
    sizes[np.argsort(sizes - share, kind="stable")[: n - sizes.sum()]] += 1
    return sizes
