"""`empirics.adapters.adapter.load_adapter`: the project's own adapters."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from mutator import Files
from safetensors.numpy import load, save
from target import Target

from empirics.adapters.adapter import Adapter, Units, load_adapter, save_adapter


@cache
def _saved() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    units = {
        n: Units(rng.normal(size=(2, 4)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32))
        for n in ("layer.query", "layer.value")
    }
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), Adapter("a", 1.0, units, {n: np.zeros(3, np.float32) for n in units}, units), "x")
        return {name: Path(folder, name).read_bytes() for name in ("composition.json", "composition.safetensors")}


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    tensors, about = load(_saved()["composition.safetensors"]), json.loads(_saved()["composition.json"])
    for name in draw(st.sets(st.sampled_from(sorted(tensors)), max_size=2)):
        tensors[name] = np.full(
            draw(st.sampled_from([(), (0,), (2,), (2, 3), (0, 4), (1, 1, 1)])), draw(st.sampled_from([1.0, np.nan, np.inf]))
        ).astype(draw(st.sampled_from(["f4", "f2", "?"])))
    value: st.SearchStrategy[Any] = (
        st.none()
        | st.integers()
        | st.text(max_size=5)
        | st.lists(st.text(max_size=4) | st.integers() | st.just([]), max_size=3)
        | st.just({})
    )
    if draw(st.booleans()):
        about[draw(st.sampled_from(["task", "projections"]))] = draw(value)
    return {"composition.json": json.dumps(about).encode("utf-8", "surrogatepass"), "composition.safetensors": save(tensors)}


TARGET = Target(
    "adapters of runs",
    lambda: [_saved()],
    load_adapter,
    _structured(),
    tokens=(b"F32", b"shape", b"alpha", b"projections"),
    links=("/dev/zero", "nowhere", "."),
)
