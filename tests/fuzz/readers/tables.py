"""`empirics.data.tables`, `rows`, `streams` and `data_check`: own data in tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from mutator import Files
from target import Target, only

from empirics.config import RunConfig
from empirics.data.check import check_data

CAPS = {"train_per_class": 4, "query_per_class": 4, "test_per_class": 1, "reservoir_per_class": 1}
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000020000000208020000001ff5fec8".removesuffix("1ff5fec8") + "fdd49a73"
) + bytes.fromhex("0000001049444154789c636060606060f80f0001050100")
_COLUMNS = ("text", "label", "task", "split", "time")


def rows() -> list[dict[str, Any]]:
    return [
        {"text": f"{task} {label} {i}", "label": label, "task": task, "split": "test" if i % 2 else "train", "time": i}
        for task in "ab"
        for label in "xy"
        for i in range(16)
    ]


def delimited(table: Sequence[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in table for name in row)), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode("utf-8", "surrogatepass")


def lines(table: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def seeds() -> list[Files]:
    plain = [{k: v for k, v in row.items() if k in ("text", "label", "task")} for row in rows()]
    table = pa.Table.from_pylist(rows())
    names = json.dumps({"info": {"features": {"label": {"names": ["x", "y"], "_type": "ClassLabel"}}}})
    numbered = pa.Table.from_pylist([{**row, "label": "xy".index(row["label"])} for row in rows()])
    return [
        *({"data.csv": delimited(x)} for x in (rows(), plain)),
        {"data.tsv": delimited(plain, "\t")},
        {"data.jsonl": lines(rows())},
        {"data.parquet": parquet(table, compression="none", use_dictionary=False)},
        {"data.parquet": parquet(table, compression="zstd")},
        {"data.parquet": parquet(numbered.replace_schema_metadata({"huggingface": names}))},
    ]


_CELLS: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        ["a", "x", "train", "../../x", "/etc/passwd", "CON", "nul", ".", "..", "a/b", "https://x", "", " ", "nan", "2020-01-01"]
    ),
    st.text(max_size=12),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.none(),
)
_NESTED = st.recursive(
    _CELLS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2), max_leaves=4
)
_TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.timestamp("ms"), st.integers(-(2**62), 2**62)),
    (pa.timestamp("ns", "Nowhere/Land"), st.integers(0, 2**40)),
    (pa.timestamp("us", "+25:99"), st.integers(0, 2**40)),
    (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.date64(), st.integers(-(2**36), 2**36).map(lambda day: day * 86_400_000)),
    (pa.time64("ns"), st.integers(-1, 2**62)),
    (pa.duration("ns"), st.integers(-(2**62), 2**62)),
    (pa.float16(), st.floats(width=16)),
    (pa.binary(), st.binary(max_size=8)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.list_(pa.int8()), st.lists(st.integers(0, 9), max_size=3)),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b"])),
    (
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=4), "path": st.none() | st.text(max_size=5)}),
    ),
    (pa.map_(pa.string(), pa.int8()), st.just([("a", 1)])),
    (pa.null(), st.none()),
]


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Sound tables with some cells of another kind, in every format; in Parquet whole columns of another type."""
    table = rows()
    kind = draw(st.sampled_from(["csv", "tsv", "jsonl", "parquet"]))
    for name in draw(st.sets(st.sampled_from(_COLUMNS), max_size=2)) & {"split", "time"}:
        for row in table:
            row.pop(name, None)
    if kind == "parquet":
        columns: dict[str, pa.Array] = {name: pa.array([row[name] for row in table]) for name in table[0]}
        for name in draw(st.lists(st.sampled_from([*_COLUMNS, "image"]), max_size=2)):
            dtype, values = draw(st.sampled_from(_TYPES))
            cells = draw(st.lists(values, min_size=1, max_size=3))
            stored = (pa.int32() if dtype.bit_width == 32 else pa.int64()) if pa.types.is_temporal(dtype) else dtype
            column = pa.array([cells[i % len(cells)] for i in range(len(table))], stored)
            columns[name] = column.view(dtype) if stored != dtype else column
        return {"data.parquet": parquet(pa.table(columns), compression=draw(st.sampled_from(["none", "snappy", "gzip"])))}
    for _ in range(draw(st.integers(0, 3))):
        row = table[draw(st.integers(0, len(table) - 1))]
        row[draw(st.sampled_from([*row, "image", "x"]))] = draw(_NESTED if kind == "jsonl" else _CELLS)
    if kind == "jsonl":
        return {"data.jsonl": lines(table)}
    return {f"data.{kind}": delimited(table, "," if kind == "csv" else "\t")}


def _read(folder: Path) -> object:
    path = only(folder)
    # One of the two ways of every choice, told by the file.
    odd = path.stat(follow_symlinks=False).st_size % 2
    stream = {"path": path, "unusable": ("refuse", "drop")[odd], "split": ("random", "held-out")[odd and path.suffix == ".csv"], **CAPS}
    return check_data(RunConfig.model_validate({"stream": stream}))


TARGET = Target(
    "own tables",
    seeds,
    _read,
    _structured(),
    tokens=(
        b"text",
        b"image",
        b"label",
        b"task",
        b"split",
        b"time",
        b"train",
        b"test",
        b'""',
        b'","',
        b"\r\n",
        b"PAR1",
        b"huggingface",
        b"../../x",
        b"a" * 300,
        b'"' + b"b" * 9000,
    ),
)
