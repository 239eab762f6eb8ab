"""What a run would see of its data: tasks, classes, parts, sizes, and what to think about before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.config import RunConfig, check_settings
from empirics.data.documents import PARTS, Modality, some_of
from empirics.data.images import size
from empirics.data.streams import Stream, load_stream, same_mix
from empirics.seeding import generator

# Below these, intervals are wider than most differences, and a covariance is mostly its shrinkage target.
_FEW = {"train": 10, "query": 10, "test": 10}
# Above this ratio of training documents, between tasks or between classes of one, a warning is given.
_UNBALANCED = 5.0


@dataclass(frozen=True)
class ClassSummary:
    """Documents of one class in each part.

    Attributes
    ----------
    name : str
    train, query, test, reservoir : int
    """

    name: str
    train: int
    query: int
    test: int
    reservoir: int


@dataclass(frozen=True)
class TaskSummary:
    """A task and its classes.

    Attributes
    ----------
    name : str
    classes : tuple of ClassSummary
    """

    name: str
    classes: tuple[ClassSummary, ...]

    def total(self, part: str) -> int:
        """Documents of one part."""
        return sum(getattr(c, part) for c in self.classes)


@dataclass(frozen=True)
class Spread:
    """Least, middle and greatest of something.

    Attributes
    ----------
    what : str
        Such as words, or height in pixels.
    least, median, greatest : int
    """

    what: str
    least: int
    median: int
    greatest: int


@dataclass(frozen=True)
class Summary:
    """What a run would see.

    Attributes
    ----------
    name : str
    modality : {"text", "image"}
    tasks : tuple of TaskSummary
        In the order in which they are learned.
    exchangeable : bool
        See `empirics.data.streams.Stream`.
    sizes : tuple of Spread
        Words and characters of a text, or height and width of an image.
    left_out : tuple of str
    warnings : tuple of str
    """

    name: str
    modality: Modality
    tasks: tuple[TaskSummary, ...]
    exchangeable: bool
    sizes: tuple[Spread, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, with the number of documents of each part."""
        return asdict(self) | {"documents": {part: sum(t.total(part) for t in self.tasks) for part in PARTS}}


def check_data(config: RunConfig) -> Summary:
    """Load the stream of a run exactly as the run would, and sum it up.

    Raises
    ------
    InputError
        For whatever the run would refuse.
    """
    check_settings(config, RunConfig)
    return summarize(load_stream(config.stream, generator(config.seed, "stream")), config.signature.dimension)


def summarize(stream: Stream, dimension: int) -> Summary:
    """Count, measure and warn.

    Parameters
    ----------
    stream : Stream
    dimension : int
        Of the signatures, which the reservoir has to span.
    """
    tasks = []
    for k, task in enumerate(stream.tasks):
        counts = [[int((stream.label[stream.where(part, k)] == c).sum()) for part in PARTS] for c in range(len(task.classes))]
        tasks.append(TaskSummary(task.name, tuple(ClassSummary(name, *row) for name, row in zip(task.classes, counts, strict=True))))
    return Summary(
        stream.name,
        stream.modality,
        tuple(tasks),
        stream.exchangeable,
        _sizes(stream),
        stream.left_out,
        _warnings(stream, tasks, dimension),
    )


def _sizes(stream: Stream) -> tuple[Spread, ...]:
    if stream.modality == "text":
        measured = {"words": [len(text.split()) for text in stream.texts], "characters": [len(text) for text in stream.texts]}
    else:
        shapes = [size(item) for item in stream.inputs if not isinstance(item, str)]
        measured = {"height": [h for h, _ in shapes], "width": [w for _, w in shapes]}
    return tuple(Spread(what, min(x), int(np.median(x)), max(x)) for what, x in measured.items())


def _warnings(stream: Stream, tasks: Sequence[TaskSummary], dimension: int) -> tuple[str, ...]:
    out = []
    if not same_mix(stream):
        out.append(
            "query and test documents hold the classes in different proportions, so the pooled L8 is no guarantee: set stream.split to "
            "held-out or random, or lower stream.query_per_class and stream.test_per_class until every class has so many"
        )
    elif not stream.exchangeable:
        out.append(
            "the data give the split, so query and test documents need not be exchangeable and L8 is no guarantee: set stream.split to "
            "held-out (query documents from the given test part), random (all dealt anew), or given-at-random if it was drawn so"
        )
    for part, least in _FEW.items():
        few = [f"{t.name}/{c.name} ({getattr(c, part)})" for t in tasks for c in t.classes if getattr(c, part) < least]
        if few:
            out.append(f"{len(few)} classes have fewer than {least} {part} documents: {some_of(few)}")
    totals = {t.name: t.total("train") for t in tasks}
    large, small = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
    if totals[large] > _UNBALANCED * totals[small]:
        out.append(f"tasks are unbalanced: {large} has {totals[large]} training documents, {small} has {totals[small]}")
    for task in tasks:
        counts = {c.name: c.train for c in task.classes}
        if max(counts.values()) > _UNBALANCED * min(counts.values()):
            out.append(f"classes of {task.name} are unbalanced: from {min(counts.values())} to {max(counts.values())} training documents")
    reservoir = stream.where("reservoir").size
    if reservoir <= dimension:
        out.append(f"{reservoir} reservoir documents span at most {max(reservoir - 1, 0)} dimensions; signature.dimension is {dimension}")
    shared = sorted(set.intersection(*({c.name for c in t.classes} for t in tasks)))
    if shared:
        out.append(f"every task has the classes {some_of(shared)}: they are taken for different classes")
    return tuple(out)


def print_summary(summary: Summary, console: Console) -> None:
    """Print a row for each task, then sizes, what was left out, and warnings."""
    unit = "texts" if summary.modality == "text" else "images"
    title = Text(f"{summary.name}: {unit}, {len(summary.tasks)} tasks")
    table = Table("", "task", "classes", *PARTS, "names", title=title, title_justify="left")
    for k, task in enumerate(summary.tasks, start=1):
        cells = [str(k), task.name, str(len(task.classes)), *(str(task.total(part)) for part in PARTS)]
        # Text, not markup: a name may hold brackets.
        table.add_row(*map(Text, [*cells, some_of([c.name for c in task.classes])]))
    console.print(table)
    lines = [f"{s.what.capitalize()}: {s.least} to {s.greatest}, median {s.median}." for s in summary.sizes]
    lines += [f"Left out: {what}." for what in summary.left_out]
    lines += [f"Warning: {what}." for what in summary.warnings] or ["Nothing to warn of."]
    for line in lines:
        console.print(Text(line))
