"""Where a sweep keeps what its cells gave: a folder for each, named by the hash of all that it depends on.

A cell is done when its `cell.json` is there, which is written last. While it is worked on, its lock is held; it ends with the process
that holds it, however that ends.
"""

from __future__ import annotations

import os
import platform
import re
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from empirics.files.record import read_json, write_bytes, write_json
from empirics.processes import is_main
from empirics.sweep.grid import Cell
from empirics.sweep.identity import cell_key, identity
from theory.errors import InputError

SCHEMA = 1
_MARK = "sweep-store.json"
# What a cell's folder is called: nothing else in the folder of a sweep is taken for one.
_KEY = re.compile("[0-9a-f]{64}")
State = Literal["done", "failed", "running", "missing"]


@dataclass(frozen=True)
class Place:
    """A cell and where it is kept.

    Attributes
    ----------
    cell : Cell
    key : str
        SHA-256 of `about`.
    about : mapping
        As `empirics.sweep.identity.identity` gave it.
    folder : Path
    """

    cell: Cell
    key: str
    about: Mapping[str, Any]
    folder: Path

    @property
    def result(self) -> Path:
        """Folder of the run or comparison itself."""
        return self.folder / self.cell.kind

    @property
    def done(self) -> bool:
        """Whether it lacks nothing."""
        return (self.folder / "cell.json").is_file()


def places(cells: Sequence[Cell], store: Path) -> tuple[Place, ...]:
    """Where each cell is kept.

    Raises
    ------
    InputError
        For data or weights that the settings name and that cannot be read, naming the cell.
    """
    out = []
    for cell in cells:
        try:
            about = identity(cell)
        except InputError as error:
            raise InputError(f"cell {cell}", f"{error.argument} {error.problem}") from None
        key = cell_key(about)
        out.append(Place(cell, key, about, cell_folder(store, key)))
    return tuple(out)


def cell_folder(store: Path, key: str) -> Path:
    """Folder of the cell with a key."""
    return store / "cells" / key


def left_over(store: Path, wanted: Container[str]) -> list[Path]:
    """Folders of cells whose keys are not among those wanted, and on which no process works."""
    found = sorted(path for path in (store / "cells").glob("*") if _KEY.fullmatch(path.name) and path.name not in wanted)
    return [path for path in found if path.is_dir() and state(path) != "running"]


def open_store(folder: Path) -> None:
    """Make a store, or see that a folder is one.

    Raises
    ------
    InputError
        If the folder holds anything else, or what another version wrote, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = not any(folder.iterdir())
    except OSError as error:
        raise InputError(str(folder), f"cannot be used as the folder of a sweep ({error.strerror})") from None
    if fresh:
        write_json(folder / _MARK, {"schema": SCHEMA})
    check_store(folder)


def check_store(folder: Path) -> None:
    """Refuse a folder that is no store of this version.

    Raises
    ------
    InputError
        If it is no folder, holds anything else, or what another version wrote.
    """
    if not (folder / _MARK).is_file():
        what = "holds something else than a sweep" if folder.is_dir() else "is no folder"
        raise InputError(str(folder), f"{what}; choose another folder with --out")
    found = read_json(folder / _MARK)
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise InputError(str(folder), f"was written by another version (schema {schema}, not {SCHEMA}); choose another folder with --out")


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a cell inside a `with` block; gives whether it was free.

    The lock is the operating system's on an open file (flock): it ends with its process. Between machines it holds on a file system that
    passes flock on, as NFS does. Of several processes that share a cell, the main one holds it.
    """
    if not is_main():
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def state(folder: Path) -> State:
    """How far the cell in a folder is."""
    if (folder / "cell.json").is_file():
        return "done"
    if not folder.is_dir():
        return "missing"
    with locked(folder) as free:
        if not free:
            return "running"
    return "failed" if (folder / "failure.txt").is_file() else "missing"


def finish(place: Place, rows: list[dict[str, Any]], seconds: float) -> None:
    """Say that a cell is done: what it was made of, its rows of the table, and the seconds that it would have taken alone."""
    write_json(place.folder / "cell.json", {"schema": SCHEMA, **place.about, "rows": rows, "seconds": round(seconds, 3)})
    if is_main():
        (place.folder / "failure.txt").unlink(missing_ok=True)
        (place.folder / "begun.json").unlink(missing_ok=True)


def read_cell(place: Place) -> dict[str, Any]:
    """The record of a cell that is done.

    Raises
    ------
    InputError
        If it is damaged.
    """
    found = read_json(place.folder / "cell.json")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("rows"), list):
        raise InputError(str(place.folder), "holds no cell of this version; remove this folder and start the sweep again")
    return found


def fail(place: Place, error: BaseException | str) -> str:
    """Keep why a cell failed, in a text file: the reason in the first line, then the traceback.

    Returns
    -------
    str
        The reason, in one line.
    """
    reason = " ".join((error if isinstance(error, str) else f"{type(error).__name__}: {error}").split())
    told = "" if isinstance(error, str) else "".join(traceback.format_exception(error))
    write_bytes(place.folder / "failure.txt", f"{reason}\ncell: {place.cell}\n\n{told}".encode())
    if is_main():
        (place.folder / "begun.json").unlink(missing_ok=True)
    return reason


def failure(folder: Path) -> str:
    """Why the cell in a folder failed when it was last tried, in one line; empty if it did not."""
    try:
        return (folder / "failure.txt").read_text("utf-8").partition("\n")[0]
    except OSError:
        return ""


def begun(place: Place, sweep: str) -> int:
    """How often a cell was begun in a sweep and neither finished nor failed: how often a process died of it, unless it is at work."""
    path = place.folder / "begun.json"
    found = read_json(path) if path.is_file() else {}
    return int(found["times"]) if found.get("sweep") == sweep else 0


def note_begun(place: Place, sweep: str, times: int) -> None:
    """Note, under the lock of a cell, how often it was begun in a sweep, and by which process now."""
    if times:
        write_json(place.folder / "begun.json", {"sweep": sweep, "times": times, "host": platform.node(), "process": os.getpid()})
    elif is_main():
        (place.folder / "begun.json").unlink(missing_ok=True)
