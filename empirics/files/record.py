"""Files that are written whole or not at all, with the same bytes for the same content and no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from empirics.processes import is_main
from theory.errors import InputError
from theory.files import check_regular, read_whole, sync_folder, write_whole

# What comes and goes with the work on a folder: its settings until it is complete, what its stages left, and the lock.
MARKER = "unfinished.json"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"


def write_bytes(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all, in a folder that is made if it is missing; of several processes, the main one alone.

    When this returns, the file outlasts a loss of power.
    """
    if not is_main():
        return
    make_folder(path.parent)
    write_whole(path, data)


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, to outlast a loss of power; nothing if it is there."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON.

    Raises
    ------
    ValueError
        For a NaN or an infinity, which JSON does not have.
    """
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no JSON.
    """
    data = read_whole(path)
    try:
        return json.loads(data.decode("utf-8"), parse_constant=no_json)
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not valid JSON ({error})") from None


def no_json(constant: str) -> None:
    """Refuse a constant that Python's parser takes and JSON has not: NaN or an infinity.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(f"{constant} is not JSON")


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame without its index."""
    write_bytes(path, frame.to_parquet(None, engine="pyarrow", index=False))


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a data frame.

    Raises
    ------
    InputError
        If the file cannot be read, or is no Parquet file that pandas understands.
    """
    check_regular(path)
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({' '.join(str(error).split())})") from None
    except (ValueError, KeyError, TypeError, NotImplementedError, pa.ArrowException) as error:
        # The last three come from pandas, of damage to its own metadata in a file that is sound otherwise.
        raise InputError(str(path), f"is not a Parquet file of this project ({' '.join(str(error).split())})") from None


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Metadata is one JSON string under one key: the format's own map of several keys is written in no fixed order.
    """
    meta = {"json": json.dumps(dict(metadata), sort_keys=True)} if metadata is not None else None
    # Not ascontiguousarray, which makes a scalar a vector.
    write_bytes(path, save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}, metadata=meta))


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `write_tensors` was given; empty if none was.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(str(path), "is missing")
    try:
        with safe_open(path, "numpy") as file:
            return json.loads((file.metadata() or {}).get("json", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), f"is not a valid safetensors file ({error})") from None


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(str(path), "is missing")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), f"is not a valid safetensors file ({error})") from None
