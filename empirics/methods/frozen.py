"""Methods without adapters: everything happens in the frozen encoder's embedding."""

from __future__ import annotations

import time

import numpy as np

from empirics.methods.problem import Outcome, Problem, from_class_scores
from empirics.retrieval.heads import RandomProjectionRidge
from empirics.seeding import sklearn_seed


def nearest_mean(problem: Problem) -> Outcome:
    """Nearest class mean by cosine."""
    x, start = problem.source.frozen.astype(np.float64), time.perf_counter()
    own, test = problem.stream.where("train"), problem.stream.where("test")
    cluster = problem.stream.cluster
    means = np.stack([x[own[cluster[own] == c]].mean(axis=0) for c in range(problem.starts[-1])]).astype(np.float32)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    fitted = time.perf_counter()
    scores = x[test] @ means.T / np.linalg.norm(x[test], axis=1, keepdims=True)
    seconds = {"train": 0.0, "fit": fitted - start, "test": time.perf_counter() - fitted}
    return from_class_scores(problem, lambda i: scores[:, : problem.starts[i + 1]], {"class means": means.nbytes}, seconds)


def ridge(problem: Problem) -> Outcome:
    """Ridge regression on random projections, all classes in one head (McDonnell et al. 2023, RanPAC, its second phase)."""
    x, test = problem.source.frozen, problem.stream.where("test")
    head = RandomProjectionRidge(problem.config.compare.random_features, sklearn_seed(problem.generator("ridge")))
    stages, fit, answer = [], 0.0, 0.0
    for k in range(problem.tasks):
        own = problem.train(k)
        start = time.perf_counter()
        head.partial_fit(x[own], problem.stream.cluster[own])
        fitted = time.perf_counter()
        stages.append(head.indicators(x[test]))
        fit, answer = fit + fitted - start, time.perf_counter() - fitted
    width = head.width
    stored = {"head": head.coef_.nbytes, "Gram matrix and class sums": 8 * width * (width + head.coef_.shape[1])}
    return from_class_scores(problem, stages.__getitem__, stored, {"train": 0.0, "fit": fit, "test": answer})
