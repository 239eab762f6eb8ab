"""Own data: tables (CSV, TSV, JSONL, Parquet) and folders of images, read row by row so that every fault has a place."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from empirics.config import StreamConfig
from empirics.documents import LONGEST_TEXT, Documents, Input, Modality, check_task_names, column, name_of, shown
from empirics.image_folders import read_folder
from empirics.images import Image
from theory.errors import InputError

COLUMNS = ("text", "image", "label", "task", "split", "time")
_READERS = ".csv, .tsv, .jsonl or .parquet"
Row = tuple[str, Mapping[str, Any]]


def read_data(config: StreamConfig) -> Documents:
    """Read own data.

    A table has columns `text` or `image` (a path, relative to the table's folder; in Parquet also encoded bytes, alone or as Hugging Face
    `datasets` stores them), `label` and `task`, and may have `split` (train, query, test, reservoir) and `time` (numbers or ISO 8601; tasks
    are ordered by their earliest row, else by their first). A folder of images is ROOT/task/class/file or ROOT/split/task/class/file; its
    tasks are in alphabetical order.

    Parameters
    ----------
    config : StreamConfig
        `path`, `columns` and `ignore` are used.

    Raises
    ------
    InputError
        Naming the file, and row and column where there are any.
    """
    path = config.path
    assert path is not None
    try:
        if path.is_dir():
            return read_folder(path)
        if not path.exists():
            raise InputError(str(path), "does not exist; stream.path takes a table or a folder of images")
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    reader = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    if reader is None:
        raise InputError(str(path), f"has no known ending; a table ends in {_READERS}")
    names, rows = reader(path)
    return _documents(path, _roles(path, names, config), rows)


def _roles(path: Path, names: list[str], config: StreamConfig) -> dict[str, str]:
    """Which of the file's columns plays which role."""
    for role, name in config.columns.items():
        if role not in COLUMNS:
            raise InputError("stream.columns", f"has no role {role!r}; the roles are {', '.join(COLUMNS)}")
        if name not in names:
            raise InputError(str(path), f"has no column {name!r}, which stream.columns names; it has {_listed(names)}")
    for name in config.ignore:
        if name not in names:
            raise InputError(str(path), f"has no column {name!r}, which stream.ignore names; it has {_listed(names)}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(str(path), f"has two columns {repeated[0]!r}; rename one")
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
        raise InputError(str(path), f"has {what}; it has {_listed(names)}, and stream.columns and stream.ignore choose")
    for role in ("label", "task"):
        if role not in roles:
            raise InputError(str(path), f"has no column {role}; it has {_listed(names)}, and stream.columns can name one")
    return roles


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def _documents(path: Path, roles: dict[str, str], rows: Iterator[Row]) -> Documents:
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
            inputs.append(_text(row[roles["text"]]) if modality == "text" else _image(row[roles["image"]], path, f"{place}"))
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
    frame = pd.DataFrame({"input": column(inputs), **{role: column(kept) for role, kept in cells.items()}, "place": column(places)})
    return Documents(path.stem, str(path), modality, tasks, frame)


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


def _image(value: Any, path: Path, place: str) -> Image:
    if isinstance(value, Mapping):
        # How Hugging Face datasets stores an image.
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return Image(data=value, name=f"{path}, {place}")
    if not isinstance(value, str) or not value.strip():
        raise InputError("image", f"is {shown(value)}, neither a path nor the bytes of an image")
    if "://" in value:
        raise InputError("image", f"is an address ({value[:60]}); nothing is downloaded: give the path of a local file")
    file = path.parent / value.strip()
    try:
        found = file.is_file()
    except (OSError, ValueError):
        found = False
    if not found:
        raise InputError("image", f"names {value[:200]!r}, which is no file in {path.parent}")
    return Image(path=file)


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


def _decoded(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(str(path), "is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(str(path), f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def _csv_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # Strict: an open quote would otherwise swallow the rest of the file into one document, silently.
    reader = csv.reader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True)
    rows = _csv_lines(path, reader)
    _, header = next(rows, ("", []))
    names = [name.strip() for name in header]
    if not names or not any(names):
        raise InputError(str(path), "has no header line with the names of its columns")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t,|"):
        raise InputError(str(path), f"has one column, {names[0][:60]!r}; a {path.suffix.lower()} file separates columns by {delimiter!r}")

    def body() -> Iterator[Row]:
        for place, fields in rows:
            if len(fields) != len(names):
                raise InputError(
                    str(path), f"{place} has {len(fields)} fields, the header {len(names)}; quote texts that hold a {delimiter!r}"
                )
            yield place, dict(zip(names, fields, strict=True))

    return names, body()


def _csv_lines(path: Path, reader: Any) -> Iterator[tuple[str, list[str]]]:
    """Rows of a CSV file that are not blank, each with the line it begins at."""
    while True:
        start = reader.line_num + 1
        # The limit is global to the csv module: set for one row at a time.
        before = csv.field_size_limit(LONGEST_TEXT)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(str(path), f"line {start} is not valid CSV ({error}); is a quote left open?") from None
        finally:
            csv.field_size_limit(before)
        if fields:
            yield f"line {start}", fields


def _jsonl_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    lines = _decoded(path).split("\n")
    names: dict[str, None] = {}
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_json, object_pairs_hook=_no_repeats)
        except (ValueError, RecursionError) as error:
            raise InputError(str(path), f"line {number} is not valid JSON ({error}); each line holds one object") from None
        if not isinstance(row, dict):
            raise InputError(str(path), f"line {number} is {shown(row)}, not an object with the columns of one document")
        names |= dict.fromkeys(row)
        rows.append((f"line {number}", row))
    if not rows:
        raise InputError(str(path), "has no rows")
    return list(names), iter(rows)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key occurs twice")
    return out


def _parquet_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(str(path), f"is not a Parquet file ({' '.join(str(error).split())})") from None
    classes = _class_names(schema.metadata or {})

    def body() -> Iterator[Row]:
        number = 0
        try:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    place = f"row {number}"
                    for name, known in classes.items():
                        if isinstance(index := row.get(name), int):
                            if not 0 <= index < len(known):
                                raise InputError(str(path), f"{place}, column {name}: is {index}; the file names {len(known)} classes")
                            row[name] = known[index]
                    yield place, row
                    number += 1
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(str(path), f"is damaged after row {number} ({' '.join(str(error).split())})") from None

    return list(schema.names), body()


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of numbered classes, as Hugging Face datasets notes them in a Parquet file; none if it does not."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        named = {name: f["names"] for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: known for name, known in named.items() if isinstance(known, list) and all(isinstance(k, str) for k in known)}
