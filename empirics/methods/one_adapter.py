"""Methods with a single adapter for all tasks: trained on one task after another, or on all of them at once."""

from __future__ import annotations

import time

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from empirics.adapters.adapter import active
from empirics.adapters.training import continue_adapter, train_adapter
from empirics.encoders.prefix import embed
from empirics.methods.per_task import adapter_bytes, documents_bytes
from empirics.methods.problem import Outcome, Problem, from_class_scores
from empirics.retrieval.heads import head_bytes


def sequential(problem: Problem) -> Outcome:
    """One adapter and one softmax head, trained on task after task without a look back: what forgetting is measured against."""
    stream, backbone, config = problem.stream, problem.backbone, problem.config
    test, learned, stages = stream.where("test"), None, []
    seconds = {"train": 0.0, "fit": 0.0, "test": 0.0}
    for k, task in enumerate(stream.tasks):
        own, start = problem.train(k), time.perf_counter()
        rng = problem.generator("sequential", task.name)
        adapter, head = learned = continue_adapter(
            backbone, problem.source, own, stream.cluster[own], task.name, learned, config.adapter, config.training, rng
        )
        trained = time.perf_counter()
        with active(backbone, adapter):
            stages.append(_cosine(embed(backbone, problem.source, test), head))
        seconds["train"] += trained - start
        seconds["test"] = time.perf_counter() - trained
    stored = {"adapters": adapter_bytes(adapter), "heads": head.nbytes}
    return from_class_scores(problem, stages.__getitem__, stored, seconds)


def joint(problem: Problem) -> Outcome:
    """One adapter trained on all tasks at once, and one discriminant over all classes: not continual, an upper bound in spirit.

    It is trained once; earlier stages are answered by the same model, restricted to the classes seen so far. It takes as many steps
    and documents as the adapters of all tasks together, and has the rank of one of them.
    """
    stream, backbone, config = problem.stream, problem.backbone, problem.config
    alone = config.adapter.alone()
    own, test = stream.where("train"), stream.where("test")
    start = time.perf_counter()
    adapter, _ = train_adapter(
        backbone, problem.source, own, stream.cluster[own], "all tasks", (), alone, config.training, problem.generator("joint")
    )
    trained = time.perf_counter()
    with active(backbone, adapter):
        x = embed(backbone, problem.source, own).astype(np.float64)
        embedded = time.perf_counter()
        asked = embed(backbone, problem.source, test).astype(np.float64)
    passed = time.perf_counter()
    head = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, stream.cluster[own])
    fitted = time.perf_counter()
    scores = head.decision_function(asked)
    answer = passed - embedded + time.perf_counter() - fitted
    seconds = {"train": trained - start, "fit": embedded - trained + fitted - passed, "test": answer}
    stored = {"adapters": adapter_bytes(adapter), "heads": head_bytes(head)}
    stored["training documents"] = documents_bytes([stream.inputs[j] for j in own])
    return from_class_scores(problem, lambda i: scores[:, : problem.starts[i + 1]], stored, seconds)


def _cosine(x: np.ndarray, head: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (head / np.linalg.norm(head, axis=1, keepdims=True)).T
