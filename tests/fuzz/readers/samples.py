"""`empirics.data.samples`: samples to certify with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
from hypothesis import strategies as st
from mutator import Files
from target import Target, only

from empirics.data.samples import check_samples, read_samples
from readers.tables import _CELLS, _NESTED, delimited, lines, parquet


def _texts() -> list[dict]:
    return [{"text": f"{task} {label} {i}", "label": label, "task": task} for task in "ab" for label in "xy" for i in range(8)]


def _png(i: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(out, "PNG")
    return out.getvalue()


def _seeds() -> list[Files]:
    texts, images = _texts(), [{"image": _png(i), "task": "ab"[i % 2]} for i in range(16)]
    return [
        {"samples.csv": delimited(texts)},
        {"samples.tsv": delimited(texts, "\t")},
        {"samples.jsonl": lines(texts)},
        {"samples.parquet": parquet(pa.Table.from_pylist(texts), compression="none")},
        {"samples.parquet": parquet(pa.Table.from_pylist(images), compression="none")},
    ]


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    table = _texts()
    kind = draw(st.sampled_from(["csv", "jsonl"]))
    for _ in range(draw(st.integers(0, 4))):
        row = table[draw(st.integers(0, len(table) - 1))]
        row[draw(st.sampled_from([*row, "image"]))] = draw(_NESTED if kind == "jsonl" else _CELLS)
    return {f"samples.{kind}": lines(table) if kind == "jsonl" else delimited(table)}


def _read(folder: Path) -> object:
    return check_samples(read_samples(only(folder)), ("a", "b"), "samples", np.random.default_rng(0))


TARGET = Target(
    "samples",
    _seeds,
    _read,
    _structured(),
    tokens=(b"text", b"image", b"label", b"task", b'"', b",", b"\r\n", b"../x.png", b"/etc/passwd", b"PAR1"),
)
