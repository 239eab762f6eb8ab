"""Streams of tasks: which classes of which corpus, and which document serves which purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from empirics.config import StreamConfig
from empirics.corpora import corpus
from theory.errors import InputError

PARTS = ("train", "query", "test", "reservoir")


@dataclass(frozen=True)
class Task:
    """A task: its name and the names of its classes."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """Documents of a stream, one array entry each.

    Attributes
    ----------
    name : str
    tasks : tuple of Task
    texts : tuple of str
    task : (n,) int array
    label : (n,) int array
        Class within the task.
    part : (n,) array of str
        One of "train", "query", "test", "reservoir"; the parts are disjoint random draws from one pool, so that a query
        and a test document are exchangeable, which level A0 needs.
    """

    name: str
    tasks: tuple[Task, ...]
    texts: tuple[str, ...]
    task: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    part: np.ndarray

    def where(self, part: str, task: int | None = None) -> Int[np.ndarray, " k"]:
        """Find the documents of one part (and task)."""
        keep = self.part == part
        if task is not None:
            keep = keep & (self.task == task)
        return np.flatnonzero(keep)

    @property
    def cluster(self) -> Int[np.ndarray, " n"]:
        """Class over the whole stream, numbered task by task."""
        starts = np.cumsum([0, *(len(t.classes) for t in self.tasks)])
        return starts[self.task] + self.label


def load_stream(config: StreamConfig, rng: np.random.Generator) -> Stream:
    """Read a shipped stream and deal its documents to the four parts."""
    news = corpus("newsgroups")
    groups = sorted(news["label"].unique())

    def of(*prefixes: str) -> list[str]:
        return [g for g in groups if g.startswith(prefixes)]

    if config.name == "news-4t":
        plan = [(p, news, of(f"{p}.")) for p in ("comp", "rec", "sci", "talk")]
    else:
        tech = of("comp.", "sci.")
        plan = [("newsgroups-tech", news, tech), ("newsgroups-society", news, [g for g in groups if g not in tech])]
        for name in ("reuters-r8", "election-tweets", "book-excerpts"):
            frame = corpus(name)
            plan.append((name, frame, sorted(frame["label"].unique())))
    frames, tasks = [], []
    for name, frame, classes in plan:
        classes = classes[: config.classes_per_task]
        tasks.append(Task(name, tuple(classes)))
        frames.append(frame[frame["label"].isin(classes)])
    return build_stream(config, tasks, frames, rng)


def build_stream(config: StreamConfig, tasks: Sequence[Task], frames: Sequence[pd.DataFrame], rng: np.random.Generator) -> Stream:
    """Deal documents to parts: per class a random order, cut at the caps (in proportion where documents are too few).

    Parameters
    ----------
    config : StreamConfig
    tasks : sequence of Task
    frames : sequence of DataFrame
        For each task, columns `text` and `label`.

    Raises
    ------
    InputError
        For duplicate task names, a task with one class or a class twice, an empty text, a text that occurs twice, or a class too
        small for its parts.
    """
    names = [t.name for t in tasks]
    if len(set(names)) != len(names):
        raise InputError("stream", f"duplicate task name {next(n for n in names if names.count(n) > 1)!r}; name each task once")
    caps = np.array([config.train_per_class, config.query_per_class, config.test_per_class, config.reservoir_per_class])
    texts, task, label, part = [], [], [], []
    seen: set[str] = set()
    for k, (item, frame) in enumerate(zip(tasks, frames, strict=True)):
        if len(item.classes) < 2:
            raise InputError(f"task {item.name}", "has one class only; a task needs at least two")
        if len(set(item.classes)) < len(item.classes):
            raise InputError(f"task {item.name}", f"lists a class twice: {', '.join(item.classes)}; name each class once")
        for c, name in enumerate(item.classes):
            own = frame.loc[frame["label"] == name, "text"].to_numpy()
            if any(not str(text).strip() for text in own):
                raise InputError(f"task {item.name}, class {name}", "holds an empty text; remove it")
            # A copy of a test document among the training documents, or in another task, would make the measurement a lie.
            if len(seen | set(own)) < len(seen) + len(own):
                raise InputError(f"task {item.name}, class {name}", "holds a text that occurs twice in the stream; remove the repeats")
            seen.update(own)
            sizes = deal(len(own), caps)
            if sizes[0] < 3 or sizes[1] < 3 or sizes[2] < 1:
                raise InputError(
                    f"task {item.name}, class {name}",
                    f"has {len(own)} documents, which leaves {sizes[0]} to train, {sizes[1]} for the query law and {sizes[2]} to test; "
                    "estimators need at least 3, 3 and 1: drop the class or add documents",
                )
            order = rng.permutation(len(own))[: sizes.sum()]
            texts += [str(own[j]) for j in order]
            task += [k] * order.size
            label += [c] * order.size
            part += np.repeat(PARTS, sizes).tolist()
    return Stream(config.name, tuple(tasks), tuple(texts), np.array(task), np.array(label), np.array(part))


def deal(n: int, caps: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    """How many of n documents each part gets: its cap, or its share of n (largest remainders) if n is too small."""
    if n >= caps.sum():
        return caps.copy()
    share = n * caps / caps.sum()
    sizes = np.floor(share).astype(int)
    sizes[np.argsort(sizes - share, kind="stable")[: n - sizes.sum()]] += 1
    return sizes
