"""Samples of given tasks: read from a file, checked against the adapters, and dealt to three parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from empirics.data.documents import Modality, Parted, column, content_digest, identity, name_of
from empirics.data.images import Image
from empirics.data.rows import image_of, read_rows
from theory.errors import InputError

PARTS = ("signature", "certificate", "measurement")
_SHARES = np.array([0.4, 0.4, 0.2])
# Fewer cannot be dealt so that signature and query law get the three samples that a covariance needs, and the measurement one.
LEAST = 7


@dataclass(frozen=True)
class Samples(Parted):
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
    sha256 : str
        Of what the whole table says of its rows, in their order: task, text or image, and label.
    """

    names: tuple[str, ...]
    modality: Modality
    inputs: tuple[Any, ...]
    task: Int[np.ndarray, " n"]
    cluster: Int[np.ndarray, " n"]
    part: np.ndarray
    row: Int[np.ndarray, " n"]
    notes: tuple[str, ...]
    sha256: str


def read_samples(path: Path) -> pd.DataFrame:
    """A table from a CSV, TSV, JSONL or Parquet file, read as own data is (`empirics.data.rows`); columns that a row lacks are None.

    Raises
    ------
    InputError
        Naming the file, and line or row where there is one, if it cannot be read, or an image is neither the path of a file nor bytes.
    """
    names, rows = read_rows(path)
    cells: dict[str, list[Any]] = {name: [] for name in names}
    for place, row in rows:
        for name, kept in cells.items():
            try:
                kept.append(image_of(row.get(name), path, place) if name == "image" else row.get(name))
            except InputError as error:
                raise InputError(str(path), f"{place}, column image: {error.problem}") from None
    return pd.DataFrame({name: column(kept) for name, kept in cells.items()})


def check_samples(table: pd.DataFrame, names: Sequence[str], source: str, rng: np.random.Generator) -> Samples:
    """Check a table of samples against the tasks that there are adapters for, and deal it to parts.

    Parameters
    ----------
    table : DataFrame
        Columns `task` and either `text` or `image` (an `empirics.data.images.Image` or pixels), and optionally `label`. What
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
        For a missing column, a text that is none or empty, an image that does not decode, a row without task, a task without adapter or
        adapter without samples, and a task with too few samples.
    """
    modality: Modality = "image" if "image" in table and "text" not in table else "text"
    for name in (modality, "task"):
        if name not in table:
            raise InputError(source, f"has no column {name!r}; it has {', '.join(map(str, table.columns)) or 'none'}")
    if modality == "text" and "image" in table:
        raise InputError(source, "has columns text and image; samples are of one kind, remove one of them")
    inputs, named, keys = table[modality].tolist(), [], []
    for row, (value, task) in enumerate(zip(inputs, table["task"].tolist(), strict=True), start=1):
        try:
            keys.append(_identity(value, modality))
        except InputError as error:
            raise InputError(source, f"sample {row} {error.problem}; remove it") from None
        try:
            named.append(name_of(task, "task"))
        except InputError as error:
            raise InputError(source, f"sample {row}, column task: {error.problem}") from None
    tasks, found = np.array(named), sorted(set(named))
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
        _digest(named, keys, inputs, table),
    )


def _digest(named: Sequence[str], keys: Sequence[str | bytes], inputs: Sequence[Any], table: pd.DataFrame) -> str:
    """SHA-256 of all rows; the kind of file that they come from, other columns and the names of images have no part in it."""
    labels = table["label"] if "label" in table else pd.Series([None] * len(named))
    total = hashlib.sha256()
    for task, key, item, label, missing in zip(named, keys, inputs, labels.tolist(), labels.isna(), strict=True):
        # The identity of an image is its digest already; that of a text leaves out the space around it, which the encoder is given.
        total.update(key if isinstance(key, bytes) else content_digest(item))
        total.update(json.dumps([task, None if missing else _written(label)]).encode())
    return total.hexdigest()


def _written(label: Any) -> str | None:
    """A label as every kind of file gives it; None if it is blank. Whole numbers of a column with gaps are read as fractions."""
    text = str(int(label) if isinstance(label, float) and label.is_integer() else label)
    return text if text.strip() else None


def _identity(value: Any, modality: Modality) -> str | bytes:
    """What two copies of a sample share.

    Raises
    ------
    InputError
        If it is no text or image, or one that cannot be used.
    """
    if not isinstance(value, str if modality == "text" else Image | np.ndarray):
        raise InputError(modality, f"has no {modality}")
    try:
        return identity(value)
    except InputError as error:
        raise error if modality == "text" else InputError(modality, f"has the image {error.argument}, which {error.problem}") from None


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
