"""Own data: tables and folders of images, checked cell by cell so that every fault has a place."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from empirics.config import StreamConfig
from empirics.data.documents import Documents, Input, Modality, check_task_names, document_frame, name_of, shown
from empirics.data.image_folders import read_folder
from empirics.data.rows import Row, image_of, listed, read_rows
from theory.errors import InputError

COLUMNS = ("text", "image", "label", "task", "split", "time")


def read_data(config: StreamConfig) -> Documents:
    """Read own data.

    A table has columns `text` or `image` (a path, relative to the table's folder; in Parquet also encoded bytes, alone or as Hugging Face
    `datasets` stores them), `label` and `task`, and may have `split` (train, query, test, reservoir) and `time` (numbers or ISO 8601; tasks
    are ordered by their earliest row, else by their first). A folder of images is ROOT/task/class/file or ROOT/split/task/class/file; its
    tasks are in alphabetical order.

    Parameters
    ----------
    config : StreamConfig
        `path`, `columns`, `ignore` and `outside` are used.

    Raises
    ------
    InputError
        Naming the file, and row and column where there are any.
    """
    path = config.path
    assert path is not None
    try:
        if path.is_dir():
            return read_folder(path, config.outside)
        if not path.exists():
            raise InputError(str(path), "does not exist; stream.path takes a table or a folder of images")
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    names, rows = read_rows(path)
    return _documents(path, _roles(path, names, config), rows, config.outside)


def _roles(path: Path, names: list[str], config: StreamConfig) -> dict[str, str]:
    """Which of the file's columns plays which role."""
    for role, name in config.columns.items():
        if role not in COLUMNS:
            raise InputError("stream.columns", f"has no role {role!r}; the roles are {', '.join(COLUMNS)}")
        if name not in names:
            raise InputError(str(path), f"has no column {name!r}, which stream.columns names; it has {listed(names)}")
    for name in config.ignore:
        if name not in names:
            raise InputError(str(path), f"has no column {name!r}, which stream.ignore names; it has {listed(names)}")
    roles = {role: config.columns.get(role, role) for role in COLUMNS if config.columns.get(role, role) in names}
    roles = {role: name for role, name in roles.items() if name not in config.ignore}
    for name in names:
        if name not in roles.values() and name not in config.ignore:
            close = difflib.get_close_matches(name.lower(), [role for role in COLUMNS if role not in roles], 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                str(path), f"has an unknown column {name!r}; {hint}name its role in stream.columns or list it in stream.ignore"
            )
    if ("text" in roles) == ("image" in roles):
        what = "columns text and image: a stream is of one kind" if "text" in roles else "no column text or image"
        raise InputError(str(path), f"has {what}; it has {listed(names)}, and stream.columns and stream.ignore choose")
    for role in ("label", "task"):
        if role not in roles:
            raise InputError(str(path), f"has no column {role}; it has {listed(names)}, and stream.columns can name one")
    return roles


def _documents(path: Path, roles: dict[str, str], rows: Iterator[Row], outside: bool) -> Documents:
    """Check every cell, and order the tasks."""
    modality: Modality = "text" if "text" in roles else "image"
    inputs: list[Input] = []
    cells: dict[str, list[str]] = {role: [] for role in ("task", "label", "split") if role in roles}
    places, times = [], []
    for place, row in rows:

        def refuse(role: str, problem: str, place: str = place) -> InputError:
            return InputError(str(path), f"{place}, column {roles[role]}: {problem}")

        for role, name in roles.items():
            if name not in row:
                raise refuse(role, "is missing")
        try:
            inputs.append(_text(row[roles["text"]]) if modality == "text" else image_of(row[roles["image"]], path, place, outside))
        except InputError as error:
            raise refuse(modality, error.problem) from None
        for role, kept in cells.items():
            try:
                kept.append(name_of(row[roles[role]], role))
            except InputError as error:
                raise refuse(role, error.problem) from None
        if "time" in roles:
            try:
                times.append(_time(row[roles["time"]]))
            except InputError as error:
                raise refuse("time", error.problem) from None
        places.append(place)
    if not inputs:
        raise InputError(str(path), "has no rows")
    try:
        check_task_names(cells["task"])
        tasks = _in_order(cells["task"], times)
    except InputError as error:
        raise InputError(str(path), f"{error.argument}: {error.problem}") from None
    return Documents(path.stem, str(path), modality, tasks, document_frame(inputs, cells, places))


def _in_order(task: list[str], times: list[Any]) -> tuple[str, ...]:
    if not times:
        return tuple(dict.fromkeys(task))
    first: dict[str, Any] = {}
    try:
        for name, time in zip(task, times, strict=True):
            first[name] = min(first.get(name, time), time)
        # Stable: tasks that begin at the same time keep the order of the file.
        return tuple(sorted(first, key=first.__getitem__))
    except TypeError:
        raise InputError("column time", "mixes numbers and dates, or times with and without a zone; use one kind") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError("text", f"is {shown(value)}, not a text")
    return value.strip()


def _time(value: Any) -> float | datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text)
        except ValueError:
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                pass
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError("time", f"is {shown(value)}, neither a number nor an ISO 8601 date")
    return value
