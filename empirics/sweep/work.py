"""The work of a sweep: cells that share what is long, computed one after another in one process.

Whatever happens to one cell is told and does not end the others. Only a full or failing disk ends the sweep, for it would end them all.
"""

from __future__ import annotations

import errno
import gc
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from threadpoolctl import threadpool_limits

from empirics import processes
from empirics.config import RunConfig
from empirics.runs.machine import PhaseClock
from empirics.runs.sharing import encoding_key, training_key
from empirics.sweep.identity import versions
from empirics.sweep.rows import comparison_rows, run_rows
from empirics.sweep.store import Place, begun, fail, finish, locked, note_begun

if TYPE_CHECKING:
    from empirics.data.streams import Stream
    from empirics.encoders.backbone import Backbone
    from empirics.encoders.prefix import PrefixSource

# A disk that is full, over its quota, or read-only: no other cell would fare better.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# An encoder carries the adapter that is being trained: of the threads of one worker, one works at a time.
_ALONE = threading.Lock()
# Rows of the table, and the seconds that the cell would have taken alone.
Compute = Callable[[Place], tuple[list[dict[str, Any]], float]]


@dataclass(frozen=True)
class Job:
    """Cells that one process computes because they share what is long.

    Attributes
    ----------
    places : tuple of Place
        Of one `job_key`.
    sweep : str
        Names the sweep that asks.
    retries : int
        How often a cell that a process died of is tried again.
    versions : mapping
        Those of the process that asks.
    """

    places: tuple[Place, ...]
    sweep: str
    retries: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: done, failed for a reason, or being computed by another sweep."""

    key: str
    state: Literal["done", "failed", "busy"]
    reason: str = ""


@dataclass(frozen=True)
class Encoded:
    """A stream, its encoder, the frozen pass over it, and what they came from (`empirics.runs.origin.origin`)."""

    stream: Stream
    backbone: Backbone
    source: PrefixSource
    origin: Mapping[str, Any]
    clock: PhaseClock


# The last frozen pass of this process. Jobs that share one stand beside each other.
_last: dict[str, Encoded] = {}


def job_key(place: Place) -> str:
    """Equal for cells that share what is long: runs that train alike, and task orders of one comparison."""
    cell = place.cell
    if cell.kind == "run":
        return f"run {training_key(cell.config)}"
    return f"compare {cell.config.model_dump_json(exclude={'compare': {'orders'}})}"


def run_job(job: Job) -> tuple[Outcome, ...]:
    """Compute the cells of a job that are not done, each in its folder.

    Returns
    -------
    tuple of Outcome
        One for each cell, in their order.

    Raises
    ------
    OSError
        If the disk is full or fails.
    """
    if job.versions != versions():
        reason = _other_versions(job.versions)
        return tuple(Outcome(place.key, "failed", fail(place, reason)) for place in job.places)
    with _ALONE, ExitStack() as held:
        found: dict[str, Outcome] = {}
        deaths = {place.key: _take(place, job, held, found) for place in job.places}
        chosen = processes.as_main([place.key not in found for place in job.places])
        mine = [place for place, own in zip(job.places, chosen, strict=True) if own]
        if mine:
            # torch takes seconds to import.
            from empirics.runs.embedding import use_threads

            config = mine[0].cell.config
            use_threads(config)
            with threadpool_limits(config.threads):
                found |= _computed(job, mine, deaths)
        return tuple(found.get(place.key, Outcome(place.key, "busy")) for place in job.places)


def forget() -> None:
    """Drop what this process keeps for the next job."""
    _last.clear()
    gc.collect()


def _other_versions(wanted: Mapping[str, str]) -> str:
    own = versions()
    differ = [name for name in {**wanted, **own} if wanted.get(name) != own.get(name)]
    told = ", ".join(f"{name} {own.get(name, 'missing')[:12]}, not {wanted.get(name, 'missing')[:12]}" for name in differ)
    return f"the worker has other versions than the sweep: {told}"


def _take(place: Place, job: Job, held: ExitStack, found: dict[str, Outcome]) -> int:
    """Lock a cell and note that it is begun, or say what became of it; gives how often a process has died of it."""
    if not held.enter_context(locked(place.folder)):
        found[place.key] = Outcome(place.key, "busy")
        return 0
    if place.done:
        found[place.key] = Outcome(place.key, "done")
        return 0
    deaths = begun(place, job.sweep)
    if deaths > job.retries:
        reason = fail(place, f"its process ended {deaths} times while it was computed (killed, or out of memory)")
        found[place.key] = Outcome(place.key, "failed", reason)
    else:
        note_begun(place, job.sweep, deaths + 1)
    return deaths


def _computed(job: Job, mine: Sequence[Place], deaths: Mapping[str, int]) -> dict[str, Outcome]:
    """Do what the cells share, then each of them."""
    found = {}
    try:
        compute = (_runs if mine[0].cell.kind == "run" else _orders)(mine)
    except Exception as error:
        return {place.key: _failed(place, error) for place in mine}
    # What they share is done: whatever the process dies of now, it is the cell at hand.
    for place in mine:
        note_begun(place, job.sweep, deaths[place.key])
    for place in mine:
        note_begun(place, job.sweep, deaths[place.key] + 1)
        try:
            finish(place, *compute(place))
            found[place.key] = Outcome(place.key, "done")
        except Exception as error:
            found[place.key] = _failed(place, error)
    return found


def _failed(place: Place, error: Exception) -> Outcome:
    if isinstance(error, OSError) and error.errno in _DISK:
        raise error
    return Outcome(place.key, "failed", fail(place, error))


def _encoded(config: RunConfig, kind: str) -> Encoded:
    from empirics.comparisons.comparison import without_query
    from empirics.runs.embedding import encode, open_stream
    from empirics.runs.origin import origin

    key = f"{kind} {encoding_key(config)}"
    if key not in _last:
        # Before the next is made: one of them may fill the memory.
        forget()
        clock = PhaseClock(quiet=True)
        stream, backbone = open_stream(config)
        # Before embedding rounds the weights.
        came_from = origin(stream, backbone)
        source = encode(stream if kind == "run" else without_query(stream), backbone, clock)
        _last[key] = Encoded(stream, backbone, source, came_from, clock)
    return _last[key]


def _runs(mine: Sequence[Place]) -> Compute:
    """Train once; then signatures, laws and bounds of each run."""
    from empirics.runs.embedding import train_and_embed
    from empirics.runs.evaluation import evaluate
    from empirics.runs.pipeline import check_signatures, fit, is_fitted

    # A run that lacks nothing but its report needs no training.
    training = processes.as_main([not is_fitted(place.result) for place in mine])
    clock, embedded = PhaseClock(quiet=True), None
    if any(training):
        config = mine[0].cell.config
        own = _encoded(config, "run")
        clock.seconds |= own.clock.seconds
        embedded = train_and_embed(config, own.stream, own.backbone, lambda: own.source, clock, came_from=own.origin)

    def compute(place: Place) -> tuple[list[dict[str, Any]], float]:
        config, own = place.cell.config, PhaseClock(quiet=True)
        own.seconds |= clock.seconds
        own.peak_bytes |= clock.peak_bytes
        if not processes.is_main():
            return [], 0.0
        if embedded is not None and not is_fitted(place.result):
            shutil.rmtree(place.result, ignore_errors=True)
            check_signatures(config, embedded.stream, embedded.frozen.shape[1])
            fit(config, embedded, place.result, own)
        report = evaluate(place.result, own)
        return run_rows(config, report), sum(own.seconds.values())

    return compute


def _orders(mine: Sequence[Place]) -> Compute:
    """Encode once; then the comparison of each task order."""
    from empirics.comparisons.comparison import run_order

    encoded = _encoded(mine[0].cell.config, "compare")

    def compute(place: Place) -> tuple[list[dict[str, Any]], float]:
        config, order, own = place.cell.config, place.cell.order or 0, PhaseClock(quiet=True)
        own.seconds |= encoded.clock.seconds
        run_order(config, order, encoded.stream, encoded.backbone, encoded.source, place.result, own)
        rows = comparison_rows(config, place.result) if processes.is_main() else []
        return rows, sum(own.seconds.values())

    return compute
