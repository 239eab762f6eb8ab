"""What every method is given, and what it must answer: the same documents, backbone and budgets, judged the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from empirics.config import RunConfig
from empirics.data.documents import Input
from empirics.data.streams import Stream
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import PrefixSource
from empirics.seeding import generator
from theory.errors import InputError


@dataclass(frozen=True)
class Problem:
    """One stream in one order, with one seed.

    Attributes
    ----------
    config : RunConfig
    stream : Stream
        Tasks numbered in the order in which they are learned.
    backbone : Backbone
    source : PrefixSource
        Of all documents; its `frozen` embeddings are what methods without adapters see.
    corpus : tuple of str or of empirics.data.images.Item
        Documents of a generic corpus that belong to no task; none unless a method asks for them.
    """

    config: RunConfig
    stream: Stream
    backbone: Backbone
    source: PrefixSource
    corpus: tuple[Input, ...] = ()

    @property
    def tasks(self) -> int:
        """Number of tasks m."""
        return len(self.stream.tasks)

    @property
    def starts(self) -> Int[np.ndarray, " m1"]:
        """First class of each task, numbered over the stream, and the number of classes."""
        return np.cumsum([0, *(len(t.classes) for t in self.stream.tasks)])

    @property
    def class_task(self) -> Int[np.ndarray, " C"]:
        """Task of each class."""
        return np.repeat(np.arange(self.tasks), np.diff(self.starts))

    def train(self, task: int) -> Int[np.ndarray, " k"]:
        """Training documents of a task."""
        return self.stream.where("train", task)

    def generator(self, *names: str | int) -> np.random.Generator:
        """Make the generator of one named use."""
        return generator(self.config.seed, "compare", *names)


@dataclass(frozen=True)
class Outcome:
    """What a method answered on the n test documents after each of the m stages; -1 for documents of tasks not learned yet.

    Attributes
    ----------
    task : (m, n) int array
        Retrieved task (for a method that names a class: the task of that class).
    cluster : (m, n) int array
        Predicted class, numbered over the stream.
    told : (m, n) int array
        Predicted class if the task is told.
    scores : (n, m) array or None
        After the last stage, smaller for likelier tasks; None if the method has none to add over a batch.
    stored : mapping from what to bytes
        What must be kept to answer, and to learn the next task; numbers in the precision in which the method keeps them (float64: heads
        and signatures, and what the ridge solves; float32: all else), documents as they are.
    seconds : mapping from phase to float
        "train" (adapters), "fit" (everything else of learning, over all stages) and "test" (the last stage's answers, passes under
        adapters included). The frozen pass over all documents, which every method shares, is in none of them.
    peak_bytes : int
        Largest resident size while it ran, less that before it; 0 until it is measured.
    """

    task: Int[np.ndarray, "m n"]
    cluster: Int[np.ndarray, "m n"]
    told: Int[np.ndarray, "m n"]
    scores: Float[np.ndarray, "n m"] | None
    stored: Mapping[str, int]
    seconds: Mapping[str, float]
    peak_bytes: int = 0


def reordered(stream: Stream, order: Sequence[int]) -> Stream:
    """The same documents with the tasks in another order.

    Raises
    ------
    InputError
        If the order is no permutation of the tasks.
    """
    if sorted(order) != list(range(len(stream.tasks))):
        raise InputError("order", f"{list(order)} is no permutation of {len(stream.tasks)} tasks")
    position = np.argsort(order)
    return replace(stream, tasks=tuple(stream.tasks[k] for k in order), task=position[stream.task])


def from_class_scores(
    problem: Problem,
    at_stage: Callable[[int], Float[np.ndarray, "n C"]],
    stored: Mapping[str, int],
    seconds: Mapping[str, float],
) -> Outcome:
    """Outcome of a method that scores classes (larger is likelier).

    Parameters
    ----------
    problem : Problem
    at_stage : callable
        From a stage i to the scores of all test documents for the classes of tasks 0 to i.
    stored, seconds : mappings

    Raises
    ------
    InputError
        If a score is NaN.
    """
    true, (task, cluster, told) = _unanswered(problem)
    for i in range(problem.tasks):
        seen = true <= i
        scores = _checked(at_stage(i)[seen], i)
        owner = problem.class_task[: scores.shape[1]]
        cluster[i, seen] = scores.argmax(axis=1)
        task[i, seen] = owner[cluster[i, seen]]
        told[i, seen] = np.where(owner == true[seen, None], scores, -np.inf).argmax(axis=1)
    best = np.stack([scores[:, owner == k].max(axis=1) for k in range(problem.tasks)], axis=1)
    return Outcome(task, cluster, told, -best, dict(stored), dict(seconds))


def from_task_scores(
    problem: Problem,
    at_stage: Callable[[int], Float[np.ndarray, "n t"]],
    predicted: Int[np.ndarray, "n m"],
    stored: Mapping[str, int],
    seconds: Mapping[str, float],
) -> Outcome:
    """Outcome of a method that retrieves a task (smallest score) and then asks that task's head.

    Parameters
    ----------
    problem : Problem
    at_stage : callable
        From a stage i to the scores of all test documents for tasks 0 to i.
    predicted : (n, m) int array
        Class, numbered over the stream, that the head of each task gives.
    stored, seconds : mappings

    Raises
    ------
    InputError
        If a score is NaN.
    """
    true, (task, cluster, told) = _unanswered(problem)
    rows = np.arange(true.size)
    for i in range(problem.tasks):
        seen = true <= i
        scores = _checked(at_stage(i), i)
        task[i, seen] = scores[seen].argmin(axis=1)
        cluster[i, seen] = predicted[rows, task[i]][seen]
        told[i, seen] = predicted[rows, true][seen]
    return Outcome(task, cluster, told, scores, dict(stored), dict(seconds))


def _unanswered(problem: Problem) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "3 m n"]]:
    """True task of each test document, and tables for retrieved task, class, and class if told, which hold -1."""
    true = problem.stream.task[problem.stream.where("test")]
    return true, np.full((3, problem.tasks, true.size), -1)


def _checked(scores: Float[np.ndarray, "n t"], stage: int) -> Float[np.ndarray, "n t"]:
    # NaN would win every argmin and argmax without a word.
    if np.isnan(scores).any():
        raise InputError("scores", f"of stage {stage} are NaN for {int(np.isnan(scores).any(axis=1).sum())} documents")
    return scores
