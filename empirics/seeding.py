"""Random generators by name: independent, and the same whatever else was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Make the generator of one named use of a run's seed; it does not depend on the order in which uses are asked for."""
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(np.frombuffer(digest[:16], dtype="<u4").tolist())))


def sklearn_seed(rng: np.random.Generator) -> int:
    """Draw a seed for libraries that take an integer."""
    return int(rng.integers(2**31))
