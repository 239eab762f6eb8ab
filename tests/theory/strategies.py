"""Hypothesis strategies and builders for signatures and laws."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from theory import Gaussians, QuadraticLaw, QueryLaw, Rule, Signatures


def covariance(rng: np.random.Generator, d: int) -> np.ndarray:
    g = rng.normal(size=(d, 2 * d + 2))
    return g @ g.T / (2 * d + 2) + 0.05 * np.eye(d)


def signatures(rng: np.random.Generator, d: int, task: list[int], spread: float) -> Signatures:
    K = len(task)
    return Signatures(rng.normal(size=(K, d)) * spread, np.stack([covariance(rng, d) for _ in range(K)]), np.array(task))


def cross_law(rng: np.random.Generator, sig: Signatures) -> QueryLaw:
    """Joint Gaussian over all spaces, close to the signature in the own space."""
    m, d, K = sig.tasks, sig.dimension, len(sig)
    means = rng.normal(size=(K, m, d))
    for c in range(K):
        means[c, sig.task[c]] = sig.means[c] + 0.2 * rng.normal(size=d)
    covariances = np.stack([covariance(rng, m * d) for _ in range(K)])
    return QueryLaw(means, covariances, sig.task, np.arange(K), np.ones(K))


@st.composite
def quadratic_laws(draw: st.DrawFn) -> QuadraticLaw:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    r = draw(st.integers(1, 12))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    w = rng.normal(size=(3, r)) + draw(st.sampled_from([-0.5, 0.0, 1.0, 3.0]))
    s = abs(rng.normal(size=3)) * draw(st.sampled_from([0.0, 1.0]))
    return QuadraticLaw.of(
        w * scale, rng.normal(size=(3, r)) * scale, s * scale, rng.normal(size=3) * scale * draw(st.sampled_from([0, 3, 30]))
    )


@st.composite
def settings_of_retrieval(draw: st.DrawFn) -> tuple[Rule, QueryLaw | None, np.random.Generator]:
    """A rule and a law: one shared space, or one space per task, with or without a background."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = draw(st.integers(1, 6))
    task = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 0, 1, 1], [0, 1, 1, 2, 2, 2]]))
    sig = signatures(rng, d, task, draw(st.sampled_from([0.3, 1.0, 3.0])))
    kind = draw(st.sampled_from(["shared", "cross", "background"]))
    if kind == "shared":
        return Rule(sig), None, rng
    background = None
    if kind == "background":
        background = Gaussians(rng.normal(size=(sig.tasks, d)), np.stack([4 * covariance(rng, d) for _ in range(sig.tasks)]))
    return Rule(sig, background), cross_law(rng, sig), rng
