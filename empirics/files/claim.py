"""Folders that are being written: claimed for given settings, locked against other processes, gone on with, and finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from empirics import processes
from empirics.files.manifest import MANIFEST, update_manifest, write_manifest
from empirics.files.record import CHECKPOINTS, LOCK, MARKER, make_folder, read_json, write_json
from empirics.processes import is_main
from theory.errors import InputError
from theory.files import UNFINISHED

# Holds what a folder of parts is made of.
SETTINGS = "settings.json"
# Settings that are named in one line; all of them are compared.
_NAMED = 4
_ABSENT = "not set"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing into a folder inside a `with` block; of several that work together, the main one holds the lock.

    The lock is the operating system's on an open file (flock), so that it ends with the process, however that ends. On a network file
    system it holds between machines if that file system passes flock on (NFS since Linux 2.6.12 does). One without flock gets a file
    that names its process instead; after a crash on another machine that file has to be removed by hand.

    Raises
    ------
    InputError
        If another process holds the lock.
    """
    if not is_main():
        yield
        return
    # Of the extra that torch comes with; reading a folder does without.
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(str(folder), "is being written by another process; wait for that one, or choose another folder") from None
    try:
        yield
    finally:
        # Removed while it is held: whoever has it open finds it gone, and makes another. What stands in for flock is removed by release.
        if isinstance(lock, FileLock):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def claimed(path: Path, settings: Any = None, *, resume: bool = False) -> Iterator[None]:
    """Make the folder of a run and hold its lock inside a `with` block; see `claim_folder`. What the main process refuses, all refuse."""
    with ExitStack() as held:
        with processes.together():
            if is_main():
                _hold(path, held, resume=resume)
                claim_folder(path, settings, resume=resume)
        yield


@contextmanager
def claimed_parts(path: Path, settings: Any, *, complete: bool, resume: bool = False) -> Iterator[None]:
    """Make a folder whose parts are whole by themselves, such as the cells of a comparison, and hold its lock inside a `with` block.

    One that holds parts is continued; `settings.json`, which is written here, says of what.

    Parameters
    ----------
    path : Path
    settings : JSON
        Those of the folder, if it has any, are known to be the same.
    complete : bool
        Whether no part is missing.
    resume : bool
        Refuse a folder that has no parts, or all of them and its tables.

    Raises
    ------
    InputError
        If the folder holds anything else or cannot be made, and for what `resume` refuses.
    """
    with ExitStack() as held:
        with processes.together():
            if is_main():
                _hold(path, held, resume=resume)
                begun = (path / SETTINGS).is_file()
                if resume and (not begun or (complete and (path / MANIFEST).is_file())):
                    what = "is finished" if begun else "holds nothing unfinished of this kind"
                    raise InputError(str(path), f"{what}: there is nothing to resume")
                if begun:
                    clear_folder(path)
                else:
                    claim_folder(path)
                    write_json(path / SETTINGS, settings)
                if not complete:
                    # It is written again when they are all there.
                    (path / MANIFEST).unlink(missing_ok=True)
        yield


def _hold(path: Path, held: ExitStack, *, resume: bool) -> None:
    with _usable(path):
        if not resume:
            make_folder(path)
        elif not path.is_dir():
            raise InputError(str(path), "is no folder: there is nothing to resume")
        _need_writable(path)
        held.enter_context(locked(path))


def claim_folder(path: Path, settings: Any = None, *, resume: bool = False) -> None:
    """Make the folder of a new run; refuse one that holds anything but what a run of the same settings left when it was cut short.

    Of several processes, the main one alone does so.

    Parameters
    ----------
    path : Path
    settings : JSON, optional
        What is going to be run. Kept in the folder until `finish_folder`; without it, only an empty folder can be claimed.
    resume : bool
        Refuse what is not such a run.

    Raises
    ------
    InputError
        If the folder holds anything else or cannot be made; naming the settings that differ from those of an unfinished run.
    """
    if not is_main():
        return
    marker = path / MARKER
    with _usable(path):
        make_folder(path)
        there = read_json(marker) if settings is not None and marker.is_file() else None
        if there is not None and there != settings:
            differ = setting_differences(there, settings)
            raise InputError(str(path), f"holds another run, unfinished: {differ}; choose another folder with --out or remove this one")
        finished = (path / MANIFEST).exists()
        if there is None and resume:
            what = "is finished" if finished or (path / "report.json").exists() else "holds no unfinished run"
            raise InputError(str(path), f"{what}: there is nothing to resume")
        if there is None and any(not _passing(p) for p in path.iterdir()):
            another = any((path / name).exists() for name in ("run.json", "report.json", MARKER))
            what = "holds what is finished" if finished else "holds another run" if another else "is not empty"
            raise InputError(str(path), f"{what}; choose another folder with --out or remove this one")
        _need_writable(path)
        clear_folder(path)
        # Of an older page, which need not be written again.
        (path / "report.html").unlink(missing_ok=True)
    if settings is not None and there is None:
        write_json(marker, settings)


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(str(path), f"cannot be used as the output folder ({error.strerror})") from None


def _need_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(str(path), "cannot be written; choose another folder with --out or change its permissions")


def _passing(path: Path) -> bool:
    return path.name.endswith(UNFINISHED) or path.name == LOCK


def setting_differences(there: Any, here: Any) -> str:
    """Which settings differ between what a folder holds and what is asked for, by name, in a few words."""
    before, now = flat(there), flat(here)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name, _ABSENT) != now.get(name, _ABSENT)]
    told = [f"{name} is {before.get(name, _ABSENT)} there and {now.get(name, _ABSENT)} here" for name in names[:_NAMED]]
    return ", ".join(told) + (f", and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def flat(table: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under names with dots between their parts."""
    if not isinstance(table, Mapping) or not table:
        return {prefix.removesuffix("."): table}
    return {name: value for key, inner in table.items() for name, value in flat(inner, f"{prefix}{key}.").items()}


def finish_folder(path: Path, made: Iterable[str] = ()) -> None:
    """Say that what `claim_folder` claimed is complete: remove what passes, write the manifest, and then the claim ends.

    Parameters
    ----------
    path : Path
    made : iterable of str
        Files that were made again in a folder that was finished before; its manifest vouches for the others as it did.
    """
    if not is_main():
        return
    clear_folder(path)
    shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
    if (path / MANIFEST).is_file() and not (path / MARKER).is_file():
        update_manifest(path, made)
    else:
        write_manifest(path)
    (path / MARKER).unlink(missing_ok=True)


def clear_folder(path: Path) -> None:
    """Remove the temporary files that a killed run left in its folder; of several processes, the main one alone."""
    if not is_main():
        return
    for file in path.rglob(f".*{UNFINISHED}"):
        file.unlink(missing_ok=True)
