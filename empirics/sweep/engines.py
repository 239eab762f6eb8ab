"""Where the jobs of a sweep are computed: in this process, in processes of this machine (joblib), or on a cluster (Dask).

An engine gives the outcomes of jobs as they come, and gives a job whose worker died to another one. How often a cell may be begun is
for the job to say (`empirics.sweep.work.Job`), so that it is the same for all engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from empirics.sweep.store import begun, fail
from empirics.sweep.work import Job, Outcome, forget, run_job
from theory.errors import InputError, MissingExtra

_NO_BEGINNING = "its worker ended again and again before the cell was begun (killed, or out of memory)"


class Engine(Protocol):
    """Computes jobs."""

    workers: int

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Outcome, ...]]:
        """The outcomes of each job, in the order in which they come."""

    def close(self) -> None:
        """Give back what is held."""


class Here:
    """One job after another, in this process."""

    workers = 1

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Outcome, ...]]:
        """See `Engine.run`."""
        yield from map(run_job, jobs)

    def close(self) -> None:
        """See `Engine.close`."""
        forget()


def processes_can_start() -> bool:
    """Whether processes of this machine can work beside each other: they wait by semaphores, for which Linux writes to `/dev/shm`."""
    from joblib import effective_n_jobs

    return effective_n_jobs(2) > 1


class Processes:
    """Processes of this machine, where they can start.

    Parameters
    ----------
    workers : int
    threads : int
        Of each process, for NumPy's and other libraries' own.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self._threads = threads

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Outcome, ...]]:
        """See `Engine.run`."""
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        waiting, breaks = list(jobs), 0
        while waiting:
            over: set[int] = set()
            try:
                for number, outcomes in self._parallel(waiting):
                    over.add(number)
                    yield outcomes
                return
            except TerminatedWorkerError:
                waiting = [job for number, job in enumerate(waiting) if number not in over]
            # A worker that dies takes the others along. Those that were at work are computed each by itself, so that the next death is the
            # cell's own.
            suspects = [job for job in waiting if any(begun(place, job.sweep) for place in job.places)]
            for job in suspects:
                waiting.remove(job)
                yield self._alone(job)
            breaks += not suspects
            if breaks > 2:
                raise InputError("--jobs", f"{self.workers} workers end before they begin a cell; there may be too little memory: lower it")

    def _parallel(self, jobs: Sequence[Job]) -> Iterator[tuple[int, tuple[Outcome, ...]]]:
        from joblib import Parallel, delayed, parallel_config

        with parallel_config(backend="loky", inner_max_num_threads=self._threads):
            # Two at least: joblib computes in its own process what has one worker.
            yield from Parallel(max(2, self.workers), batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")(
                delayed(_numbered)(number, job) for number, job in enumerate(jobs)
            )

    def _alone(self, job: Job) -> tuple[Outcome, ...]:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        for _ in range((job.retries + 1) * len(job.places) + 1):
            try:
                return next(self._parallel([job]))[1]
            except TerminatedWorkerError:
                continue
        return _given_up(job)

    def close(self) -> None:
        """See `Engine.close`."""
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


def _numbered(number: int, job: Job) -> tuple[int, tuple[Outcome, ...]]:
    return number, run_job(job)


def _given_up(job: Job) -> tuple[Outcome, ...]:
    return tuple(Outcome(p.key, "done") if p.done else Outcome(p.key, "failed", fail(p, _NO_BEGINNING)) for p in job.places)


class Cluster:
    """The workers of a Dask scheduler. They see the folder of the sweep under the same path.

    Parameters
    ----------
    address : str
        Such as tcp://head:8786.

    Raises
    ------
    InputError
        If nothing answers there.
    MissingExtra
        If `distributed` is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            raise MissingExtra("distributed", "dask") from None
        self._address = address
        try:
            self._client = Client(address, timeout="15s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise InputError("--scheduler", f"no Dask scheduler answers at {address} ({told}); start one with: dask scheduler") from None
        self.workers = max(1, len(self._client.scheduler_info(n_workers=-1)["workers"]))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Outcome, ...]]:
        """See `Engine.run`."""
        from distributed import KilledWorker, as_completed

        tries = dict.fromkeys(range(len(jobs)), 0)
        numbers: dict[Any, int] = {}

        def submit(number: int) -> Any:
            tries[number] += 1
            future = self._client.submit(run_job, jobs[number], key=f"{jobs[number].sweep}-{number}-{tries[number]}", pure=False)
            numbers[future] = number
            return future

        running = as_completed([submit(number) for number in tries], loop=self._client.loop)
        for future in running:
            number = numbers.pop(future)
            if future.status == "finished":
                yield future.result()
                continue
            error = future.exception() if future.status == "error" else None
            if error is None:
                raise InputError(
                    "--scheduler",
                    f"{self._address} no longer answers; cells that are done are kept: start the same command again when it does",
                )
            if not isinstance(error, KilledWorker):
                raise error
            if tries[number] <= (jobs[number].retries + 1) * len(jobs[number].places):
                running.add(submit(number))
            else:
                yield _given_up(jobs[number])

    def close(self) -> None:
        """See `Engine.close`."""
        self._client.close(timeout=5)
