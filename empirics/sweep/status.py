"""How far a sweep is, from its grid or from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from empirics.files.record import read_json
from empirics.sweep.grid import Cell, label
from empirics.sweep.store import State, cell_folder, check_store, failure, left_over, places, state
from empirics.sweep.table import SHORT
from theory.errors import InputError

_STATES: tuple[State, ...] = ("done", "failed", "running", "missing")


@dataclass(frozen=True)
class CellStatus:
    """A cell and how far it is.

    Attributes
    ----------
    key : str
    cell : str
        The settings by which the grid tells it from others.
    state : {"done", "failed", "running", "missing"}
        Missing cells may have been begun; running ones are held by a process that lives.
    reason : str
        Why it failed when it was last tried.
    """

    key: str
    cell: str
    state: State
    reason: str


def status_of_cells(cells: Sequence[Cell], folder: Path) -> list[CellStatus]:
    """Each cell of a grid; of a folder that is not there yet, all are missing.

    Raises
    ------
    InputError
        If the folder holds something else than a sweep.
    """
    if folder.exists():
        check_store(folder)
    return [_looked(place.key, str(place.cell), folder) for place in places(cells, folder)]


def status_of_folder(folder: Path) -> dict[str, list[CellStatus]]:
    """Each sweep of a folder, by name, with its cells as they were when it was last started.

    Raises
    ------
    InputError
        If the folder holds something else, or a file of it is damaged.
    """
    check_store(folder)
    return {name: [_looked(key, told, folder) for key, told in cells] for name, cells in _started(folder)}


def cells_of_none(folder: Path, found: Mapping[str, Sequence[CellStatus]]) -> list[Path]:
    """Folders of cells that are in no sweep any more, because code, data or grid are not what they were; they can be removed.

    Parameters
    ----------
    folder : Path
        Of the sweeps.
    found : mapping from name to sequence of CellStatus
        Sweeps whose cells are known; of every other one in the folder, those with which it was last started count.

    Raises
    ------
    InputError
        If a file of the folder is damaged.
    """
    named = {cell.key for cells in found.values() for cell in cells}
    named |= {key for name, cells in _started(folder) if name not in found for key, _ in cells}
    return left_over(folder, named)


def _started(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each sweep of a folder by name, with the keys and settings of its cells when it was last started."""
    for path in sorted(folder.glob("*.cells.json")):
        found = read_json(path)
        try:
            cells = [(str(cell["key"]), label(cell["changes"])) for cell in found["cells"]]
        except (KeyError, TypeError, AttributeError):
            raise InputError(str(path), "does not say which cells there are; start the sweep again") from None
        yield path.name.removesuffix(".cells.json"), cells


def _looked(key: str, told: str, store: Path) -> CellStatus:
    folder = cell_folder(store, key)
    now = state(folder)
    return CellStatus(key, told, now, failure(folder) if now == "failed" else "")


def status_json(found: Mapping[str, Sequence[CellStatus]]) -> dict[str, Any]:
    """Counts and cells of each sweep, as JSON."""
    return {name: {"counts": _counts(cells), "cells": [asdict(cell) for cell in cells]} for name, cells in found.items()}


def _counts(cells: Sequence[CellStatus]) -> dict[str, int]:
    counted = Counter(cell.state for cell in cells)
    return {name: counted[name] for name in _STATES}


def print_status(found: Mapping[str, Sequence[CellStatus]], unused: Sequence[Path], console: Console) -> None:
    """Counts, a line for each cell that is not done, and the folders of cells that are in no sweep."""
    for name, cells in found.items():
        counts = ", ".join(f"{count} {of}" for of, count in _counts(cells).items() if count)
        console.print(Text(f"{name}: {len(cells)} cells: {counts}", style="bold"))
        for cell in cells:
            if cell.state != "done":
                reason = f": {cell.reason}" if cell.reason else ""
                console.print(Text(f"{cell.state} {cell.key[:SHORT]} ({cell.cell}){reason}"), soft_wrap=True)
    if unused:
        about = f"{len(unused)} cells more are in no sweep, of other code, data or grids; their folders can be removed:"
        console.print(Text(about, style="bold"), soft_wrap=True)
    for folder in unused:
        console.print(Text(str(folder)), soft_wrap=True)
