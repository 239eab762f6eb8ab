"""Rows of tables in files (CSV, TSV, JSONL, Parquet), read strictly and one by one, so that every fault has a place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from empirics.data.documents import LONGEST_TEXT, shown
from empirics.data.images import Image, check_inside
from empirics.files.record import no_json
from theory.errors import InputError
from theory.files import check_regular, read_whole

# Where a row stands in its file, and its cells by column.
Row: TypeAlias = tuple[str, Mapping[str, Any]]
ENDINGS = ".csv, .tsv, .jsonl or .parquet"


def read_rows(path: Path) -> tuple[list[str], Iterator[Row]]:
    """Columns of a table, and its rows; cells of CSV and TSV are texts.

    Rows of a JSONL file may lack columns. Of a Parquet file in which Hugging Face `datasets` noted the names of numbered classes, these
    names are the cells.

    Parameters
    ----------
    path : Path
        The ending tells the format.

    Raises
    ------
    InputError
        Naming the file, and line or row where there is one, if it is missing, of another kind or damaged, or two columns share a name.
        Faults of a row are raised when the row is reached.
    """
    reader = {".csv": _csv_table, ".tsv": _csv_table, ".jsonl": _jsonl_table, ".parquet": _parquet_table}.get(path.suffix.lower())
    if reader is None:
        raise InputError(str(path), f"has no known ending; a table ends in {ENDINGS}")
    names, rows = reader(path)
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(str(path), f"has a column whose name is not valid Unicode ({name!r}); rename it") from None
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(str(path), f"has two columns {repeated[0]!r}; rename one")
    return names, rows


def listed(names: list[str]) -> str:
    """Columns, for a message."""
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def image_of(value: Any, path: Path, place: str, outside: bool = False) -> Image:
    """The image that a cell holds: a path, relative to the table's folder; or encoded bytes, alone or as Hugging Face `datasets` has them.

    Parameters
    ----------
    value : object
    path : Path
        Of the table.
    place : str
    outside : bool
        Whether paths may lead out of the table's folder. A table from somebody else could name any file of the machine.

    Raises
    ------
    InputError
        If it is neither, an address, the path of no file, or one that leads out of the table's folder.
    """
    if isinstance(value, Mapping):
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
    if not outside:
        check_inside(file, path.parent)
    return Image(path=file)


def read_text(path: Path) -> str:
    """A file of UTF-8 text, with its line ends as they are and without a byte order mark.

    Raises
    ------
    InputError
        If it cannot be read, or naming the line that is not UTF-8.
    """
    data = read_whole(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(str(path), "is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(str(path), f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of delimited text, each with the number of the line it begins at; a blank line is a row without fields.

    Raises
    ------
    InputError
        As `read_text`, or for a quote that is left open or a field that is too long.
    """
    # Strict: an open quote would otherwise swallow the rest of the file into one document, silently.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
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
        yield start, fields


def _csv_table(path: Path) -> tuple[list[str], Iterator[Row]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = ((f"line {number}", fields) for number, fields in csv_rows(path, delimiter) if fields)
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


def _jsonl_table(path: Path) -> tuple[list[str], Iterator[Row]]:
    lines = read_text(path).split("\n")
    names: dict[str, None] = {}
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=no_json, object_pairs_hook=_no_repeats)
        except (ValueError, RecursionError) as error:
            raise InputError(str(path), f"line {number} is not valid JSON ({error}); each line holds one object") from None
        if not isinstance(row, dict):
            raise InputError(str(path), f"line {number} is {shown(row)}, not an object with the columns of one document")
        names |= dict.fromkeys(row)
        rows.append((f"line {number}", row))
    if not rows:
        raise InputError(str(path), "has no rows")
    return list(names), iter(rows)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise ValueError("a key occurs twice")
    return out


def _parquet_table(path: Path) -> tuple[list[str], Iterator[Row]]:
    check_regular(path)
    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise InputError(str(path), f"cannot be read ({error.strerror or error})") from None
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
        except (OSError, ValueError, ArithmeticError, LookupError, pa.ArrowException) as error:
            # Of times beyond Python's calendar, and of zones that there are not.
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
