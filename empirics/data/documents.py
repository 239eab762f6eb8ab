"""Documents as a source lists them, before any is dealt to a part: which can be used, and in which order their tasks come."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from empirics.data.images import Image, Item, digest, verify
from theory.errors import InputError

Modality: TypeAlias = Literal["text", "image"]
Input: TypeAlias = str | Item
PARTS = ("train", "query", "test", "reservoir")
# Characters that no folder's name may hold everywhere; adapters are saved under the names of their tasks.
_NOT_IN_A_FOLDER = frozenset('/\\:*?"<>|')
# Nor these, with whatever ending, on Windows.
_RESERVED = frozenset(["CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))])
# A text this long is a whole file that an open quote or a wrong delimiter swallowed.
LONGEST_TEXT = 2**24
# What people call the parts elsewhere, and why none is taken silently for one of ours.
OTHER_PARTS = {"val": "query", "valid": "query", "validation": "query", "dev": "query", "training": "train", "testing": "test"}


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes
    ----------
    name : str
    classes : tuple of str
        Their names, in the order in which labels number them.
    """

    name: str
    classes: tuple[str, ...]


class Parted:
    """What has been dealt to parts: inputs, of which arrays `part` and `task` tell where each belongs."""

    part: np.ndarray
    task: Int[np.ndarray, " n"]

    def where(self, part: str, task: int | None = None) -> Int[np.ndarray, " k"]:
        """Find the inputs of one part (and task)."""
        keep = self.part == part
        if task is not None:
            keep = keep & (self.task == task)
        return np.flatnonzero(keep)


@dataclass(frozen=True)
class Documents:
    """Everything that a source lists.

    Attributes
    ----------
    name : str
        Of the stream.
    source : str
        File or folder, for messages.
    modality : {"text", "image"}
    tasks : tuple of str
        In order.
    frame : DataFrame
        Columns `input`, `task`, `label` and `place` (where in the source, for messages); `split`, one of `PARTS`, if the source gives
        parts.
    left_out : tuple of str
        What was left out, and why.
    """

    name: str
    source: str
    modality: Modality
    tasks: tuple[str, ...]
    frame: pd.DataFrame
    left_out: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether the source says which part each document belongs to."""
        return "split" in self.frame

    def classes(self, task: str) -> tuple[str, ...]:
        """Classes of a task, sorted."""
        return tuple(sorted(self.frame.loc[self.frame["task"] == task, "label"].unique()))


def column(values: Sequence[object]) -> pd.Series:
    """A column of whole objects: pandas would otherwise take images of equal size apart, and fail on texts that are not valid Unicode."""
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return pd.Series(array, dtype=object)


def document_frame(inputs: Sequence[Input], cells: Mapping[str, Sequence[str]], places: Sequence[str]) -> pd.DataFrame:
    """The frame of `Documents`: its inputs, a column for each of `task`, `label` and perhaps `split`, and where each row stands."""
    return pd.DataFrame({"input": column(inputs), **{role: column(kept) for role, kept in cells.items()}, "place": column(places)})


def usable(documents: Documents, drop: bool) -> Documents:
    """Check every document and find repeats; refuse what cannot be used, or leave it out.

    Parameters
    ----------
    documents : Documents
    drop : bool
        Leave out empty texts, images that do not decode, and repeats. Of repeats that agree in task and class one stays, a test or query
        document before others, because a test document that is dropped as a repeat of a training document would make the test easier;
        of repeats that do not agree none stays.

    Raises
    ------
    InputError
        Naming source and place, if `drop` is false and something cannot be used.
    """
    frame = documents.frame
    keys: list[str | bytes | None] = []
    for item, place in zip(frame["input"], frame["place"], strict=True):
        try:
            keys.append(identity(item))
        except InputError as error:
            if not drop:
                raise InputError(documents.source, f"{place}: {_fault(error, item)}; remove it, or set stream.unusable=drop") from None
            keys.append(None)
    bad = np.array([key is None for key in keys], dtype=bool)
    repeat = _repeats(documents, column(keys), bad, drop)
    left_out = list(documents.left_out)
    if bad.any():
        left_out.append(f"{int(bad.sum())} {'empty or unreadable texts' if documents.modality == 'text' else 'images that do not decode'}")
    if repeat.any():
        left_out.append(f"{int(repeat.sum())} repeated documents")
    return replace(documents, frame=frame[~(bad | repeat)].reset_index(drop=True), left_out=tuple(left_out))


def _fault(error: InputError, item: Input) -> str:
    return error.problem if isinstance(item, str) else f"the image {error.problem}"


def identity(item: Input) -> str | bytes:
    """What two copies of a document share, and no two others.

    Raises
    ------
    InputError
        If a text is empty, too long or not valid Unicode, or an image does not decode.
    """
    if isinstance(item, str):
        return check_text(item)
    verify(item)
    return digest(item)


def content_digest(item: Input) -> bytes:
    """SHA-256 of a text as it stands, in UTF-8, or of an image's file or pixels (`empirics.data.images.digest`)."""
    return hashlib.sha256(item.encode()).digest() if isinstance(item, str) else digest(item)


def check_text(text: str) -> str:
    """A text without the space around it, which is what two copies of it share.

    Raises
    ------
    InputError
        If it is empty, too long or not valid Unicode, or holds a NUL.
    """
    if not text.strip():
        raise InputError("text", "has an empty text")
    if len(text) > LONGEST_TEXT:
        raise InputError("text", f"has a text of {len(text)} characters, more than {LONGEST_TEXT}")
    if "\0" in text:
        raise InputError("text", "has a text with a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("text", "has a text that is not valid Unicode (half a surrogate pair)") from None
    return text.strip()


def check_inputs(inputs: Iterable[Any], modality: Modality) -> list[Any]:
    """What an encoder is to embed, as a list; texts are such as samples may hold, images are not decoded.

    Raises
    ------
    InputError
        If there are none, or one (its number is named) is of another kind, empty or not valid Unicode; for one text, too, whose characters
        would be taken for texts.
    """
    if isinstance(inputs, str | bytes):
        raise InputError("inputs", "are one text; give a list of them")
    kept = list(inputs)
    if not kept:
        raise InputError("inputs", "are none; give at least one")
    for j, item in enumerate(kept):
        if not isinstance(item, str if modality == "text" else Image | np.ndarray):
            kinds = "texts" if modality == "text" else "images, as arrays of uint8 or empirics.data.images.Image"
            raise InputError("inputs", f"hold {type(item).__name__} as number {j}; this encoder takes {kinds}")
        if isinstance(item, str):
            try:
                check_text(item)
            except InputError as error:
                raise InputError("inputs", f"cannot be used: number {j} {error.problem}") from None
    return kept


def _repeats(documents: Documents, keys: pd.Series, bad: Bool[np.ndarray, " n"], drop: bool) -> Bool[np.ndarray, " n"]:
    """Which rows to leave out as repeats; refuse them unless `drop`."""
    frame = documents.frame
    again = keys.duplicated(keep=False).to_numpy() & ~bad
    if again.any() and not drop:
        second = np.flatnonzero(keys.duplicated().to_numpy() & ~bad)[0]
        first = np.flatnonzero((keys == keys[second]).to_numpy())[0]
        a, b = frame.iloc[first], frame.iloc[second]
        more = int((keys.duplicated().to_numpy() & ~bad).sum()) - 1
        says = "" if (a["task"], a["label"]) == (b["task"], b["label"]) else ", which has another task or label"
        says += f" (and there are {more} more repeats)" if more else ""
        raise InputError(
            documents.source,
            f"{b['place']}: repeats the {documents.modality} of {a['place']}{says}; remove it, or set stream.unusable=drop",
        )
    out = np.zeros(len(frame), dtype=bool)
    held = frame["split"].isin(("query", "test")).to_numpy() if documents.given else np.zeros(len(frame), dtype=bool)
    for rows in frame[again].groupby(keys[again], sort=False).indices.values():
        rows = np.flatnonzero(again)[rows]
        agree = len(frame.iloc[rows][["task", "label"]].drop_duplicates()) == 1
        stays = rows[np.argsort(~held[rows], kind="stable")[0]] if agree else -1
        out[rows[rows != stays]] = True
    return out


def select_tasks(known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The tasks that `stream.tasks` asks for, in its order; all if it asks for none.

    Raises
    ------
    InputError
        For an unknown task (with the closest known one) or one named twice.
    """
    if wanted is None:
        return list(known)
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise InputError("stream.tasks", f"has no task {name!r}; {hint}")
    if len(set(wanted)) < len(wanted):
        raise InputError("stream.tasks", f"names {next(n for n in wanted if list(wanted).count(n) > 1)!r} twice; name each task once")
    return list(wanted)


def name_of(value: Any, role: str) -> str:
    """A label, task or part as text; whole numbers as such, for a table that numbers its classes.

    Raises
    ------
    InputError
        With the role as argument, if the value is missing or names nothing.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or value.strip().lower() == "nan":
        needed = (
            f"a {role} is a text or a whole number" if isinstance(value, float) and math.isfinite(value) else f"every row needs a {role}"
        )
        raise InputError(role, f"is {shown(value)}; {needed}")
    name = value.strip()
    if len(name) > 200 or not name.isprintable():
        raise InputError(role, f"is no {role} ({name[:40]!r}...); use up to 200 printable characters")
    if role != "split":
        return name
    if name.lower() not in PARTS:
        hint = f" (such documents are called {OTHER_PARTS[name.lower()]} here)" if name.lower() in OTHER_PARTS else ""
        raise InputError(role, f"is {name!r}{hint}; use {', '.join(PARTS)}")
    return name.lower()


def shown(value: Any) -> str:
    """What a cell holds, for a message."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "empty"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def some_of(names: Sequence[str]) -> str:
    """A few of many names, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_task_names(names: Iterable[str]) -> None:
    """Refuse names that cannot name folders, in which the tasks' adapters are saved, or that some systems take for one folder.

    Raises
    ------
    InputError
        With the name as argument.
    """
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        _check_task_name(name)
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(f"tasks {other!r} and {name!r}", "differ in case only; rename one")


def _check_task_name(name: str) -> None:
    if not name or name != name.strip() or name.startswith(".") or name.endswith("."):
        raise InputError(
            f"task {name!r}", "is empty or begins or ends with a space or full stop; its adapter's folder bears that name: rename it"
        )
    if name.partition(".")[0].strip().upper() in _RESERVED:
        raise InputError(
            f"task {name!r}", "bears a name that Windows reserves for a device; its adapter's folder bears that name: rename it"
        )
    if len(name) > 100 or not name.isprintable() or _NOT_IN_A_FOLDER & set(name) or len(name.encode()) > 255:
        short = name if len(name) <= 40 else f"{name[:37]}..."
        raise InputError(
            f"task {short!r}",
            "cannot name a folder, as its adapter's has to; use up to 100 printable characters and 255 bytes, none of / \\ : * ? \" < > |",
        )
