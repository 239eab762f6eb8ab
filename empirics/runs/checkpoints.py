"""What the stages of an unfinished run leave, so that a run that was cut short goes on after the last whole stage.

A stage is a function of settings, data and the stages before it, and draws from generators of its own (`empirics.seeding`): read back, it
is what it would be if it were done again, to the bit. The folder is removed when the run is finished.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from empirics import processes
from empirics.files.record import read_json, read_metadata, read_tensors, write_bytes, write_json, write_tensors
from empirics.runs.machine import PhaseClock
from empirics.runs.origin import origin_differences
from theory.errors import InputError

Stage = tuple[dict[str, np.ndarray], Any]


def open_checkpoints(folder: Path, record: Path, about: Mapping[str, Any], clock: PhaseClock, *, resume: bool = False) -> Checkpoints:
    """The checkpoints of a folder, if they are of the same versions, machine, data and weights; otherwise none, and theirs are removed.

    Parameters
    ----------
    folder : Path
    record : Path
        JSON file that says of what they are; written here.
    about : mapping
        What it is to say, with the parts that `empirics.runs.origin.origin` gives.
    clock : PhaseClock
    resume : bool
        Refuse those of another origin.

    Raises
    ------
    InputError
        Naming what differs.
    """
    with processes.together():
        if processes.is_main():
            differ = origin_differences(read_json(record), about) if record.is_file() else []
            if differ and resume:
                raise InputError(str(record), f"is of a run that was begun otherwise: {', '.join(differ)}; without --resume it begins anew")
            if differ:
                clock.say(f"begins anew: {', '.join(differ)}")
                shutil.rmtree(folder, ignore_errors=True)
            write_json(record, about)
    kept = Checkpoints(folder, clock)
    if len(kept):
        clock.say(f"goes on with {folder}, where {len(kept)} stages are done")
    return kept


class Checkpoints:
    """Stages by name, one file each, written whole; of several processes all read, and the main one writes.

    Parameters
    ----------
    folder : Path or None
        Where they are kept; None keeps none.
    clock : PhaseClock
        What stages took is kept with them, and counted when they are read.
    """

    def __init__(self, folder: Path | None, clock: PhaseClock) -> None:
        self._folder, self._clock = folder, clock
        names = sorted(path.stem for path in folder.glob("*.safetensors")) if folder is not None else []
        # Where a process does not see the files of the main one, none are used. The main one may keep none alone, and is not to wait then.
        self._there = frozenset(names if folder is not None and processes.agree(json.dumps(names)) else ())

    def __contains__(self, name: str) -> bool:
        """Whether a stage was done before this process began."""
        return name in self._there

    def __len__(self) -> int:
        """Number of stages that were done before this process began."""
        return len(self._there)

    def read(self, name: str) -> Stage:
        """Tensors and facts of a stage that was done before.

        Raises
        ------
        InputError
            If its file is damaged; without the folder of checkpoints the run begins anew.
        """
        path = self._path(name)
        found = read_metadata(path)
        self._clock.restore(json.loads(found["clock"]))
        # Copied: what is read lies where the file had it, and where a library finds its numbers may decide how it adds them up.
        return {key: value.copy() for key, value in read_tensors(path).items()}, json.loads(found["facts"])

    def write(self, name: str, tensors: Mapping[str, np.ndarray], facts: Any = None) -> None:
        """Keep a stage that is done.

        Parameters
        ----------
        name : str
        tensors : mapping from name to array
        facts : JSON
        """
        if self._folder is not None:
            write_tensors(self._path(name), tensors, {"facts": json.dumps(facts), "clock": json.dumps(self._clock.reading())})

    def write_large(self, name: str, array: np.ndarray) -> bool:
        """Keep an array that should not be in memory twice, unless it would take more than half of the free disk; whether it was kept."""
        if self._folder is None:
            return False
        place = next(parent for parent in self._folder.parents if parent.is_dir())
        if 2 * array.nbytes > shutil.disk_usage(place).free:
            return False

        def content(file: Any) -> None:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)

        write_bytes(self._folder / f"{name}.npy", content)
        return True

    def read_large(self, name: str) -> np.ndarray:
        """An array that `write_large` kept, mapped from its file."""
        assert self._folder is not None
        return np.load(self._folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.safetensors"
