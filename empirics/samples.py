"""Samples of given tasks: read from a file, checked against the adapters, and dealt to three parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int

from empirics.images import Image, digest, verify
from empirics.record import read_parquet
from theory.errors import InputError

PARTS = ("signature", "certificate", "measurement")
_SHARES = np.array([0.4, 0.4, 0.2])
# Fewer cannot be dealt so that signature and query law get the three samples that a covariance needs, and the measurement one.
LEAST = 7


@dataclass(frozen=True)
class Samples:
    """Samples of all tasks, one array entry each, dealt to parts.

    Attributes
    ----------
    names : tuple of str
        Tasks.
    modality : {"text", "image"}
    inputs : tuple
        Texts or images.
    task : (n,) int array
    cluster : (n,) int array
        Numbered over all tasks: a class, or the whole task where classes are not known or too small.
    part : (n,) array of str
        One of "signature", "certificate", "measurement"; random within each cluster.
    row : (n,) int array
        Of the table, from 0.
    notes : tuple of str
        What was done to the table.
    """

    names: tuple[str, ...]
    modality: Literal["text", "image"]
    inputs: tuple[Any, ...]
    task: Int[np.ndarray, " n"]
    cluster: Int[np.ndarray, " n"]
    part: np.ndarray
    row: Int[np.ndarray, " n"]
    notes: tuple[str, ...]

    def where(self, part: str, task: int | None = None) -> Int[np.ndarray, " k"]:
        """Find the samples of one part (and task)."""
        keep = self.part == part
        if task is not None:
            keep = keep & (self.task == task)
        return np.flatnonzero(keep)


def read_samples(path: Path) -> pd.DataFrame:
    """A table from a CSV, JSONL or Parquet file; every cell of CSV is text, and paths of images are relative to the file's folder.

    Raises
    ------
    InputError
        If the file is missing, of another kind, or cannot be read.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl", ".parquet"):
        raise InputError(str(path), f"has the unknown ending {path.suffix!r}; give a .csv, .jsonl or .parquet file")
    try:
        if kind == ".parquet":
            table = read_parquet(path)
        elif kind == ".csv":
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        else:
            table = pd.read_json(path, lines=True, dtype=False, encoding="utf-8", convert_dates=False)
    except InputError:
        raise
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not a valid {kind} file in UTF-8 ({' '.join(str(error).split())[:200]})") from None
    if "image" in table:
        table["image"] = pd.Series([_located(value, path.parent) for value in table["image"]], dtype=object)
    return table


def _located(value: Any, home: Path) -> Any:
    """An image of a table: a path, encoded bytes, or a dictionary with either, as HF datasets stores them; else the cell itself."""
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return Image(data=value)
    return Image(path=home / value) if isinstance(value, str) and value.strip() else value


def check_samples(table: pd.DataFrame, names: Sequence[str], source: str, rng: np.random.Generator) -> Samples:
    """Check a table of samples against the tasks that there are adapters for, and deal it to parts.

    Parameters
    ----------
    table : DataFrame
        Columns `task` and either `text` or `image` (an `empirics.images.Image` or pixels), and optionally `label`. What
        repeats within a task is kept once: a copy of a signature sample among the others would make the measurement a lie.
    names : sequence of str
        Tasks.
    source : str
        For messages.
    rng : numpy.random.Generator
        Of the dealing.

    Raises
    ------
    InputError
        For a missing column, a text that is none or empty, an image that does not decode, a task without adapter or adapter without
        samples, and a task with too few samples.
    """
    modality: Literal["text", "image"] = "image" if "image" in table and "text" not in table else "text"
    for name in (modality, "task"):
        if name not in table:
            raise InputError(source, f"has no column {name!r}; it has {', '.join(map(str, table.columns)) or 'none'}")
    if modality == "text" and "image" in table:
        raise InputError(source, "has columns text and image; samples are of one kind, remove one of them")
    inputs, tasks = table[modality].tolist(), table["task"].astype(str).to_numpy()
    keys = [_key(value, modality, f"sample {row}", source) for row, value in enumerate(inputs, start=1)]
    found = sorted(set(tasks))
    if strangers := [name for name in found if name not in names]:
        raise InputError(source, f"names the task {strangers[0]!r}, for which there is no adapter; there are {', '.join(names)}")
    if idle := [name for name in names if name not in found]:
        raise InputError(source, f"has no samples of the task {idle[0]!r}; add at least {LEAST}, or leave its adapter out")
    repeated = pd.DataFrame({"key": keys, "task": tasks}).duplicated().to_numpy()
    notes = (
        [f"{int(repeated.sum())} samples repeat another of their task and are left out: all numbers are of distinct inputs"]
        if repeated.any()
        else []
    )
    cluster, part = np.full(len(inputs), -1), np.full(len(inputs), "", dtype=object)
    number = 0
    for name in names:
        rows = np.flatnonzero((tasks == name) & ~repeated)
        if rows.size < LEAST:
            raise InputError(source, f"has {rows.size} different samples of the task {name!r}; at least {LEAST} are needed")
        groups, note = _groups(rows, table, name)
        notes += note
        for members in groups:
            order = rng.permutation(members)
            edges = np.round(np.cumsum(_SHARES) * members.size).astype(int)
            part[order] = np.repeat(PARTS, np.diff(edges, prepend=0))
            cluster[order] = number
            number += 1
    kept = np.flatnonzero(~repeated)
    code = {name: k for k, name in enumerate(names)}
    return Samples(
        tuple(names),
        modality,
        tuple(inputs[j] for j in kept),
        np.array([code[tasks[j]] for j in kept]),
        cluster[kept],
        part[kept].astype(str),
        kept,
        tuple(notes),
    )


def _key(value: Any, modality: str, place: str, source: str) -> object:
    """What two copies of a sample share."""
    if modality == "text":
        if not isinstance(value, str) or not value.strip():
            raise InputError(source, f"{place} has {'an empty text' if isinstance(value, str) else 'no text'}; remove it")
        return value.strip()
    if not isinstance(value, Image | np.ndarray):
        raise InputError(source, f"{place} has no image; give the path of a file")
    try:
        verify(value)
    except InputError as error:
        raise InputError(source, f"{place}: the image {error.argument} {error.problem}") from None
    return digest(value)


def _groups(rows: Int[np.ndarray, " k"], table: pd.DataFrame, name: str) -> tuple[list[Int[np.ndarray, " g"]], list[str]]:
    """The classes of a task if every sample has one and each is large enough, else the task as a whole; with a note of the latter."""
    if "label" not in table:
        return [rows], []
    labels = table["label"].iloc[rows]
    if labels.isna().any() or (labels.astype(str).str.strip() == "").any():
        return [rows], [f"not all samples of {name} have a label: it gets one Gaussian"]
    code, _ = pd.factorize(labels.astype(str), sort=True)
    sizes = np.bincount(code)
    if sizes.min() < LEAST:
        return [rows], [f"{name} has a class of {sizes.min()} samples, fewer than {LEAST}: it gets one Gaussian"]
    return [rows[code == c] for c in range(sizes.size)], []
