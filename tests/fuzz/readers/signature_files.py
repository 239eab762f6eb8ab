"""`theory.files`: signatures and query moments."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from mutator import Files
from safetensors.numpy import save
from target import Target, only

from theory.files import read_queries, read_signatures
from theory.mixture import Signatures

_PLAIN = {
    "means": np.arange(6.0).reshape(3, 2),
    "covariances": np.stack([np.eye(2) * s for s in (1.0, 2.0, 3.0)]),
    "task": np.array([0, 0, 1]),
}
_FACTORED = {
    "means": _PLAIN["means"],
    "factors": np.ones((3, 2, 1)),
    "diagonals": np.ones((3, 2)),
    "task": _PLAIN["task"],
    "weights": np.full(3, 1 / 3),
}
_PRODUCT = {**_PLAIN, "common_means": _PLAIN["means"] + 1, "common_covariances": _PLAIN["covariances"], "counts": np.array([9, 8, 7])}
_LAW = {**_PLAIN, "weights": np.array([0.5, 0.5, 1.0]), "cluster": np.array([0, 1, 2])}
_SIGNATURES = Signatures(_PLAIN["means"], _PLAIN["covariances"], _PLAIN["task"])


def _npz(arrays: Mapping[str, np.ndarray], pickles: bool = False) -> bytes:
    out = io.BytesIO()
    np.savez(out, allow_pickle=pickles, **arrays)
    return out.getvalue()


def _safe(arrays: Mapping[str, np.ndarray]) -> bytes:
    return save({name: np.ascontiguousarray(x) for name, x in arrays.items()})


def _seeds() -> list[Files]:
    out: list[Files] = [
        {f"signatures.{end}": write(x)} for x in (_PLAIN, _FACTORED, _PRODUCT) for end, write in (("npz", _npz), ("safetensors", _safe))
    ]
    return [*out, {"queries.npz": _npz(_LAW)}, {"queries.safetensors": _safe(_LAW)}]


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Arrays of other types, shapes and values than a signature has; in `.npz` also objects, texts and structures."""
    arrays = dict(draw(st.sampled_from([_PLAIN, _FACTORED, _PRODUCT, _LAW])))
    ending = draw(st.sampled_from(["npz", "safetensors"]))
    types = ["f2", "f4", "f8", "i1", "i4", "i8", "u8", "?"] + (
        ["c16", "O", "U3", "S2", "M8[s]", "V8", ">f8", "f4,i4"] if ending == "npz" else []
    )
    for name in draw(st.lists(st.sampled_from([*arrays, "weights", "counts", "background_means"]), max_size=3)):
        kind = draw(st.integers(0, 3))
        if kind == 0:
            arrays.pop(name, None)
            continue
        old = arrays.get(name, np.ones(3))
        shape = draw(st.sampled_from([old.shape, old.shape[:-1], (*old.shape, 1), (0,), (), (0, *old.shape[1:]), (1, 1), (3,), (3, 0, 0)]))
        value = draw(st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, 1e308, 1e-308, 5e-324, 2.0**40, 0.5]))
        new = np.full(shape, value)
        if kind == 1 and new.shape == old.shape and new.size:
            new = np.ones(old.shape)
            new.flat[draw(st.integers(0, new.size - 1))] = value
        dtype = draw(st.sampled_from(types))
        try:
            with np.errstate(all="ignore"):
                arrays[name] = new.astype(dtype)
        except (TypeError, ValueError):
            arrays[name] = np.zeros(shape, dtype)
    kind = draw(st.sampled_from(["signatures", "queries"]))
    return {f"{kind}.{ending}": _npz(arrays, pickles=True) if ending == "npz" else _safe(arrays)}


def _read(folder: Path) -> object:
    path = only(folder)
    return read_queries(path, _SIGNATURES) if path.stem == "queries" else read_signatures(path)


TARGET = Target(
    "signature files",
    _seeds,
    _read,
    _structured(),
    tokens=(
        b"F64",
        b"F32",
        b"I64",
        b"BOOL",
        b"dtype",
        b"shape",
        b"[3,2]",
        b"[9999999999999]",
        b"data_offsets",
        b"[0,8]",
        b"'descr': '|O'",
        b"<f8",
        b"PK\x03\x04",
        b"PK\x05\x06",
    ),
)
