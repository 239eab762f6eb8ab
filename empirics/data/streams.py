"""Streams of tasks: which classes of which source, and which document serves which purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
import pandas as pd
from jaxtyping import Int

from empirics.config import RunSignatureConfig, StreamConfig, check_settings
from empirics.data.corpora import corpus, digits, mnist
from empirics.data.dealing import given_pools, part_sizes, too_small
from empirics.data.documents import PARTS, Documents, Input, Modality, Parted, Task, document_frame, select_tasks, some_of, usable
from empirics.data.hub import HUB_STREAMS, read_hub
from empirics.data.tables import read_data
from empirics.seeding import generator
from theory.errors import InputError, check_generator

__all__ = ["PARTS", "Stream", "Task", "TrainingParts", "build_stream", "load_stream", "same_mix", "training_parts"]


@dataclass(frozen=True)
class Stream(Parted):
    """Documents of a stream, one array entry each.

    Attributes
    ----------
    name : str
    tasks : tuple of Task
    inputs : tuple of str, or of empirics.data.images.Item
        Texts or images, as `modality` says.
    task : (n,) int array
    label : (n,) int array
        Class within the task.
    part : (n,) array of str
        One of "train", "query", "test", "reservoir"; the parts are disjoint.
    modality : {"text", "image"}
    exchangeable : bool
        Whether query and test documents are random draws from one pool, which level A0 needs: a limit on the error of query documents (L8)
        speaks of test documents only then. False where the data gave the split and nobody said that it was drawn at random, or where
        both parts hold the classes in other proportions.
    left_out : tuple of str
        What the source holds and the stream does not, and why.
    """

    name: str
    tasks: tuple[Task, ...]
    inputs: tuple[Input, ...]
    task: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    part: np.ndarray
    modality: Modality = "text"
    exchangeable: bool = True
    left_out: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The inputs of a stream of texts.

        Raises
        ------
        InputError
            If the stream holds images.
        """
        if self.modality != "text":
            raise InputError(
                f"stream {self.name}", "holds images, which an encoder of texts cannot read; choose another backbone or stream"
            )
        return cast(tuple[str, ...], self.inputs)

    def take(self, rows: Int[np.ndarray, " k"]) -> Self:
        """The stream of these documents, in this order."""
        inputs = tuple(self.inputs[j] for j in rows)
        return replace(self, inputs=inputs, task=self.task[rows], label=self.label[rows], part=self.part[rows])

    @property
    def cluster(self) -> Int[np.ndarray, " n"]:
        """Class over the whole stream, numbered task by task."""
        starts = np.cumsum([0, *(len(t.classes) for t in self.tasks)])
        return starts[self.task] + self.label


@dataclass(frozen=True)
class TrainingParts:
    """Training documents of one task by what they are for; heads are fitted to all of them.

    Attributes
    ----------
    adapter : (a,) int array
        Documents that the adapter is trained on, in the order of the stream.
    signature : (s,) int array
        Documents that the signature is fitted to, in every space alike; those of the adapter if nothing is held out.
    """

    adapter: Int[np.ndarray, " a"]
    signature: Int[np.ndarray, " s"]


def training_parts(stream: Stream, config: RunSignatureConfig, seed: int) -> tuple[TrainingParts, ...]:
    """What each task's training documents are for: `config.held_out` of each class, drawn at random, trains no adapter.

    The draw depends on the seed, the task's name and the order of its documents in the stream, not on the other tasks.

    Raises
    ------
    InputError
        If a class is too small to leave three documents on either side, which estimators need.
    """
    out = []
    for k, task in enumerate(stream.tasks):
        own = stream.where("train", k)
        if config.held_out == 0:
            out.append(TrainingParts(own, own))
            continue
        rng = generator(seed, "held-out", task.name)
        held = np.zeros(own.size, dtype=bool)
        for c, name in enumerate(task.classes):
            rows = np.flatnonzero(stream.label[own] == c)
            count = round(config.held_out * rows.size)
            if min(count, rows.size - count) < 3:
                raise InputError(
                    "signature.held_out",
                    f"{config.held_out:g} leaves {rows.size - count} documents of {task.name}/{name} to train and {count} held out; "
                    "both need at least 3: change it or raise stream.train_per_class",
                )
            held[rng.permutation(rows)[:count]] = True
        signature = {"held-out": own[held], "trained": own[~held], "both": own}[config.source]
        out.append(TrainingParts(own[~held], signature))
    return tuple(out)


def load_stream(config: StreamConfig, rng: np.random.Generator) -> Stream:
    """Read a stream and deal its documents to the four parts.

    Parameters
    ----------
    config : StreamConfig
    rng : Generator
        Deals the documents, and splits the classes of one dataset into tasks unless `config.class_order` fixes that.

    Raises
    ------
    InputError
        For data that cannot be used, naming file, row and column where there are any.
    """
    check_settings(config, StreamConfig)
    check_generator(rng)
    if config.path is None and config.name in ("text-5t", "news-4t"):
        tasks, frames = _text_plan(config)
        by_name = {task.name: (task, frame) for task, frame in zip(tasks, frames, strict=True)}
        chosen = [by_name[name] for name in select_tasks(list(by_name), config.tasks)]
        return build_stream(config, [task for task, _ in chosen], [frame for _, frame in chosen], rng)
    return deal_documents(config, load_documents(config, rng), rng)


def deal_documents(config: StreamConfig, documents: Documents, rng: np.random.Generator) -> Stream:
    """Deal what a source lists to the four parts, in random order.

    Raises
    ------
    InputError
        For an unknown task, a single one, or a class too small for its parts.
    """
    names = select_tasks(documents.tasks, config.tasks)
    tasks = [Task(name, documents.classes(name)[: config.classes_per_task]) for name in names]
    frames = [documents.frame[documents.frame["task"] == task.name] for task in tasks]
    try:
        if len(tasks) < 2:
            left = f" ({'; '.join(documents.left_out)} left out)" if documents.left_out else ""
            raise InputError("tasks", f"there are {len(tasks)}{left}; retrieval needs at least two")
        stream = _dealt(config, tasks, frames, rng)
    except InputError as error:
        raise InputError(documents.source, f"{error.argument}: {error.problem}") from None
    stream = replace(stream, name=documents.name, modality=documents.modality, left_out=documents.left_out)
    # Sources list class after class. In random order nothing that looks at consecutive documents together can read the class off it.
    # (The two streams of texts keep the order that they have always had.)
    order = rng.permutation(len(stream.inputs))
    return stream.take(order)


def load_documents(config: StreamConfig, rng: np.random.Generator) -> Documents:
    """Read what a source lists, without what cannot be used: own data, images of a package, or a copy from the hub.

    Raises
    ------
    InputError
        For data that cannot be used, naming file, row and column where there are any.
    """
    drop = config.unusable == "drop"
    if config.path is not None:
        documents = read_data(config)
    elif config.name in HUB_STREAMS:
        documents = read_hub(config)
    else:
        documents = _pairs_of_digits(config.name)
    documents = usable(documents, drop)
    if drop:
        documents = _without_small_classes(config, documents)
    if config.path is None and config.name in HUB_STREAMS and (number := HUB_STREAMS[config.name].tasks) is not None:
        order = rng if config.class_order is None else np.random.default_rng(config.class_order)
        documents = _split_classes(documents, number, order)
    return documents


def _text_plan(config: StreamConfig) -> tuple[list[Task], list[pd.DataFrame]]:
    """Tasks of a shipped stream of texts, and a frame of its corpus for each."""
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
    return tasks, frames


def _pairs_of_digits(name: str) -> Documents:
    """Five tasks, each of two digits."""
    images, label = digits() if name == "digits" else mnist()
    label = label.astype(int)
    task = [f"{c - c % 2}-or-{c - c % 2 + 1}" for c in label]
    places = [f"{name} number {i}" for i in range(len(label))]
    cells = {"task": task, "label": label.astype(str).tolist()}
    return Documents(name, name, "image", tuple(sorted(set(task))), document_frame(images, cells, places))


def _split_classes(documents: Documents, number: int, rng: np.random.Generator) -> Documents:
    """Split the classes of one dataset into tasks of equal size (to within one), in random order."""
    names = np.array(sorted(documents.frame["label"].unique()), dtype=object)
    if len(names) < 2 * number:
        raise InputError(documents.source, f"has {len(names)} classes left, too few for {number} tasks of at least two")
    tasks = [f"task-{k:0{len(str(number))}d}" for k in range(1, number + 1)]
    of = {name: tasks[k] for k, part in enumerate(np.array_split(rng.permutation(names), number)) for name in part}
    return replace(documents, tasks=tuple(tasks), frame=documents.frame.assign(task=documents.frame["label"].map(of)))


def _without_small_classes(config: StreamConfig, documents: Documents) -> Documents:
    present = frozenset(documents.frame["split"]) if documents.given else None
    pools = given_pools(config, present)
    keep, small = np.ones(len(documents.frame), dtype=bool), []
    for (task, name), rows in documents.frame.groupby(["task", "label"], sort=False).indices.items():
        given = documents.frame["split"].to_numpy()[rows] if documents.given else None
        if too_small(part_sizes(config, pools, rows.size, given)):
            keep[rows] = False
            small.append(f"{task}/{name}" if len(documents.tasks) > 1 else name)
    if not small:
        return documents
    left = documents.frame[keep].reset_index(drop=True)
    tasks = tuple(task for task in documents.tasks if (left["task"] == task).any())
    why = f"{len(small)} classes too small for their parts: {some_of(small)}"
    return replace(documents, frame=left, tasks=tasks, left_out=(*documents.left_out, why))


def build_stream(config: StreamConfig, tasks: Sequence[Task], frames: Sequence[pd.DataFrame], rng: np.random.Generator) -> Stream:
    """Deal documents to parts: per class a random order, cut at the caps (in proportion where documents are too few).

    Parameters
    ----------
    config : StreamConfig
    tasks : sequence of Task
    frames : sequence of DataFrame
        For each task, columns `text` and `label`.
    rng : Generator
        Deals the documents.

    Raises
    ------
    InputError
        For duplicate task names, a task with one class or a class twice, an empty text, a text that occurs twice, or a class too
        small for its parts.
    """
    seen: set[str] = set()
    for item, frame in zip(tasks, frames, strict=True):
        for name in item.classes:
            own = frame.loc[frame["label"] == name, "text"].to_numpy()
            if any(not str(text).strip() for text in own):
                raise InputError(f"task {item.name}, class {name}", "holds an empty text; remove it")
            # A copy of a test document among the training documents, or in another task, would make the measurement a lie.
            if len(item.classes) == len(set(item.classes)) and len(seen | set(own)) < len(seen) + len(own):
                raise InputError(f"task {item.name}, class {name}", "holds a text that occurs twice in the stream; remove the repeats")
            seen.update(own)
    return _dealt(config, tasks, [frame.rename(columns={"text": "input"}) for frame in frames], rng)


def _dealt(config: StreamConfig, tasks: Sequence[Task], frames: Sequence[pd.DataFrame], rng: np.random.Generator) -> Stream:
    """Deal documents of frames with columns `input`, `label` and, where the source gives parts, `split` and `place`."""
    names = [t.name for t in tasks]
    if len(set(names)) != len(names):
        raise InputError("stream", f"duplicate task name {next(n for n in names if names.count(n) > 1)!r}; name each task once")
    given = "split" in frames[0]
    pools = given_pools(config, frozenset().union(*(frame["split"] for frame in frames)) if given else None)
    inputs: list[Input] = []
    task, label, part = [], [], []
    for k, (item, frame) in enumerate(zip(tasks, frames, strict=True)):
        if len(item.classes) < 2:
            left = "has one class only" if item.classes else "has no class of which documents are left"
            raise InputError(f"task {item.name}", f"{left}; a task needs at least two")
        if len(set(item.classes)) < len(item.classes):
            raise InputError(f"task {item.name}", f"lists a class twice: {', '.join(item.classes)}; name each class once")
        for c, name in enumerate(item.classes):
            rows = frame[frame["label"] == name]
            own = rows["input"].to_numpy()
            split = rows["split"].to_numpy() if given else None
            sizes = part_sizes(config, pools, len(own), split)
            if too_small(sizes):
                raise InputError(f"task {item.name}, class {name}", _shortage(rows, sizes))
            for sources, targets in pools:
                pool = np.flatnonzero(np.isin(split, sources)) if split is not None else np.arange(len(own))
                order = pool[rng.permutation(len(pool))[: sizes[list(targets)].sum()]]
                inputs += [str(own[j]) if isinstance(own[j], str) else own[j] for j in order]
                task += [k] * order.size
                label += [c] * order.size
                part += np.repeat([PARTS[p] for p in targets], sizes[list(targets)]).tolist()
    stream = Stream(config.name, tuple(tasks), tuple(inputs), np.array(task), np.array(label), np.array(part))
    return replace(stream, exchangeable=not given or (config.split != "given" and same_mix(stream)))


def same_mix(stream: Stream) -> bool:
    """Whether query and test part hold the classes in the same proportions, up to rounding.

    Parts dealt from one pool do. Given parts need not, even if each class was split at random, and then the pooled error of query documents
    is that of another mixture than the tested one.
    """
    query, test = (np.bincount(stream.cluster[stream.where(p)], minlength=stream.cluster.max() + 1) for p in ("query", "test"))
    ratio = query.sum() / test.sum()
    # Each count was rounded by less than one, and so was each total over its classes.
    return bool((np.abs(query - ratio * test) <= 2 * (1 + ratio)).all())


def _shortage(rows: pd.DataFrame, sizes: Int[np.ndarray, " 4"]) -> str:
    if "split" in rows and len(rows) and not sizes[0]:
        return f"is not among the training documents ({rows['place'].iloc[0]} has it); add some, or set stream.split=random"
    text = f"has {len(rows)} documents, which leaves {sizes[0]} to train, {sizes[1]} for the query law and {sizes[2]} to test; "
    return text + "estimators need at least 3, 3 and 1: drop the class or add documents"
