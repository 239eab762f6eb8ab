"""A sweep from grid to table: what is missing is computed, and nothing else."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from empirics import processes
from empirics.runs.machine import PhaseClock
from empirics.runs.sharing import encoding_key
from empirics.sweep.engines import Cluster, Engine, Here, Processes, processes_can_start
from empirics.sweep.grid import Cell
from empirics.sweep.identity import versions
from empirics.sweep.store import Place, check_store, open_store, places, state
from empirics.sweep.table import write_cells, write_table
from empirics.sweep.work import Job, job_key
from theory.errors import InputError

# Seconds between two looks at cells that another sweep is computing.
_PAUSE = 1.0
_NO_PROCESSES = "others cannot start, since no semaphores are to be had here (/dev/shm cannot be written?)"


def sweep(
    cells: Sequence[Cell],
    folder: Path,
    name: str,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    retries: int = 1,
    quiet: bool = False,
) -> pd.DataFrame:
    """Compute every cell that is not there yet, and write one table.

    A cell depends on its settings, versions, data and weights, and is kept under the hash of these: a cell that is done, by this grid or
    another, is not computed again. One that fails does not end the others; the next sweep tries it again. Several sweeps may work in one
    folder at once: none computes what another has at hand. Where a cell is computed has no say in its numbers.

    Parameters
    ----------
    cells : sequence of Cell
        As `empirics.sweep.grid.read_grid` gave them.
    folder : Path
        Made here, or one of an earlier sweep.
    name : str
        Of the table's files.
    jobs : int, optional
        Processes of this machine; if None, its cores over the threads of a cell, or one where no others can start. One: this process, which
        then is not restarted if it dies.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers compute instead.
    retries : int
        How often a cell that its process died of is tried again; at least once, for a process may die beside the cell that is at fault.
    quiet : bool
        No progress on standard error.

    Returns
    -------
    DataFrame
        As `empirics.sweep.table.frame` gives it.

    Raises
    ------
    InputError
        For cells that cannot be computed, naming the first, before anything is written; a folder that holds anything else; several
        processes where none can start; a scheduler that does not answer, or no longer.
    OSError
        If the disk is full or fails.
    """
    if jobs is not None and scheduler is not None:
        raise InputError("--jobs", "cannot be given beside --scheduler, which has workers of its own; leave one of them out")
    if processes.launched() > 1 and (jobs not in (None, 1) or scheduler is not None):
        raise InputError("--jobs", "cannot be given where several processes were launched: these share each cell")
    if jobs is not None and jobs > 1 and not processes_can_start():
        raise InputError("--jobs", f"asks for {jobs} processes, and {_NO_PROCESSES}; leave it out, or give 1")
    if retries < 1:
        raise InputError("--retries", f"must be at least 1, got {retries}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        check_store(folder)
    found = places(cells, folder)
    _begin_together(cells)
    missing = [place for place, wanted in zip(found, processes.as_main([not place.done for place in found]), strict=True) if wanted]
    check_cells([place.cell for place in missing])
    with processes.together():
        if processes.is_main():
            open_store(folder)
    write_cells(found, folder, name)
    if missing:
        with _engine(missing, jobs, scheduler, quiet) as engine:
            _compute(missing, engine, retries, quiet)
    processes.leave_to_main()
    return write_table(found, folder, name)


def _begin_together(cells: Sequence[Cell]) -> None:
    if processes.launched() > 1:
        processes.begin(cpu=any(cell.config.backbone.device == "cpu" for cell in cells))


@contextmanager
def _engine(missing: Sequence[Place], jobs: int | None, scheduler: str | None, quiet: bool) -> Iterator[Engine]:
    threads = max(place.cell.config.threads or 1 for place in missing)
    workers = min(jobs or max(1, _cores() // threads), len(missing))
    if processes.launched() > 1:
        workers = 1
    elif workers > 1 and scheduler is None and not processes_can_start():
        workers = 1
        Console(stderr=True, quiet=quiet).print(f"one cell at a time: {_NO_PROCESSES}", soft_wrap=True)
    engine = Cluster(scheduler) if scheduler is not None else Here() if workers == 1 else Processes(workers, threads)
    try:
        yield engine
    finally:
        engine.close()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compute(missing: Sequence[Place], engine: Engine, retries: int, quiet: bool) -> None:
    """Give jobs to the engine until no cell is left, or at work elsewhere."""
    console = Console(stderr=True, quiet=quiet or not processes.is_main())
    named, asked = {place.key: place for place in missing}, uuid.uuid4().hex
    with PhaseClock(quiet).phase("cells", len(missing)) as advance:
        waiting = list(missing)
        while waiting:
            busy = []
            for outcomes in engine.run([Job(group, asked, retries, versions()) for group in jobs_of(waiting, engine.workers)]):
                for outcome in outcomes:
                    place = named[outcome.key]
                    if outcome.state == "busy":
                        busy.append(place)
                        continue
                    advance(1)
                    told = f": {outcome.reason}" if outcome.reason else ""
                    console.print(f"{outcome.state} {place.cell}{told}", markup=False, highlight=False, soft_wrap=True)
            if busy and processes.launched() > 1:
                return
            waiting = _left_by_others(busy, advance)


def _left_by_others(busy: Sequence[Place], advance: Any) -> list[Place]:
    """Wait for cells of another sweep; gives those that it leaves undone."""
    waiting, left = list(busy), []
    while waiting:
        time.sleep(_PAUSE)
        states = {place.key: state(place.folder) for place in waiting}
        advance(sum(found == "done" for found in states.values()))
        left += [place for place in waiting if states[place.key] not in ("done", "running")]
        waiting = [place for place in waiting if states[place.key] == "running"]
    return left


def jobs_of(missing: Sequence[Place], workers: int) -> list[tuple[Place, ...]]:
    """Cells in groups for one process each: what trains alike stays together, as long as there is a group for each worker.

    To train once more beside an idle worker costs no time; to let it be idle does.
    """
    groups: dict[str, list[Place]] = {}
    for place in missing:
        groups.setdefault(job_key(place), []).append(place)
    # Those that share a frozen pass beside each other.
    first = list(dict.fromkeys(encoding_key(group[0].cell.config) for group in groups.values()))
    out = sorted(groups.values(), key=lambda group: first.index(encoding_key(group[0].cell.config)))
    while len(out) < workers and max(map(len, out)) > 1:
        largest = max(range(len(out)), key=lambda j: len(out[j]))
        half = (len(out[largest]) + 1) // 2
        out[largest : largest + 1] = [out[largest][:half], out[largest][half:]]
    return [tuple(group) for group in out]


def check_cells(cells: Sequence[Cell]) -> None:
    """Find out before any work whether streams and encoders can be read and can carry what the cells ask of them.

    The documents of one seed stand for those of all: as many of each class are dealt to each part.

    Raises
    ------
    InputError
        Naming the first cell that cannot be computed.
    """
    opened: Any = None
    last = None
    for cell in sorted(cells, key=_source):
        try:
            if _source(cell) != last:
                opened, last = None, _source(cell)
                opened = _open(cell)
            _check(cell, *opened)
        except InputError as error:
            raise InputError(f"cell {cell}", f"{error.argument}: {error.problem}") from None


def _source(cell: Cell) -> str:
    return cell.config.model_dump_json(include={"stream", "backbone"})


def _open(cell: Cell) -> Any:
    from empirics.runs.embedding import open_stream, use_threads

    use_threads(cell.config)
    return open_stream(cell.config)


def _check(cell: Cell, stream: Any, backbone: Any) -> None:
    from empirics.comparisons.comparison import check_stream, chosen_methods, possible_methods
    from empirics.runs.pipeline import check_signatures

    backbone.projections(cell.config.adapter.targets)
    if cell.kind == "run":
        check_signatures(cell.config, stream, backbone.dimension)
        return
    methods, _ = possible_methods(cell.config, stream, chosen_methods(cell.config))
    check_stream(cell.config, stream, backbone.dimension, methods)
