"""What a run notes of itself: its environment (versions, source commit, machine), and the time and memory that its phases take."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from empirics.processes import is_main

# Distributions whose versions are noted.
_PACKAGES = ("proteus-bounds", "numpy", "scipy", "torch", "transformers", "peft", "scikit-learn", "pandas", "pyarrow", "safetensors")


def environment() -> dict[str, Any]:
    """Versions, source commit and machine, as `run.json` and its like hold them; what cannot be told is left out or None."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit, dirty = None, None
    here = Path(__file__).resolve().parent
    try:
        # Installed into an environment inside somebody else's checkout, the package must not report that one's commit.
        if Path(_git(here, "rev-parse", "--show-toplevel")).resolve() == here.parents[1]:
            commit, dirty = _git(here, "rev-parse", "HEAD"), bool(_git(here, "status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        pass
    return {
        "python": platform.python_version(),
        "packages": versions,
        "commit": commit,
        "dirty": dirty,
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "memory_bytes": _memory_bytes(),
        },
    }


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not told on this platform
        return None


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class PeakMemory:
    """Largest resident size of this process inside a `with` block, less that at its start; sampled fifty times a second and at the end.

    Approximate: memory that earlier work left to the process is used again without being seen, and a GPU's own is not counted.

    Attributes
    ----------
    bytes : int
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._process, self._done = psutil.Process(), threading.Event()

    def __enter__(self) -> Self:
        self._before = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss - self._before)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        # What is over before the first sample is seen at least by what it leaves.
        self._look()


class PhaseClock:
    """Times the phases of a run and shows a bar for each, on standard error.

    Parameters
    ----------
    quiet : bool
        Show nothing.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time of each phase, summed over its calls.
    peak_bytes : dict of str to int
        Largest resident size of the process up to the end of each phase; it never falls from one phase to the next of one process.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}
        self._running: dict[str, float] = {}
        self._console = Console(stderr=True, quiet=quiet or not is_main())

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run one phase of `total` steps; yields the function to call with the number of steps just done."""
        start = time.perf_counter()
        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        live = self._console.is_terminal
        with Progress(*columns, console=self._console, disable=not live) as progress:
            bar = progress.add_task(name, total=total)
            self._running[name] = start
            try:
                yield lambda n: progress.advance(bar, n)
            finally:
                del self._running[name]
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        self.peak_bytes[name] = peak_memory_bytes()
        if not live:
            # The name of a task may hold brackets, and must not be read as markup or broken at the width of a terminal.
            self._console.print(f"{name}: {took:.1f} s", highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Tell something, on standard error."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def reading(self) -> dict[str, dict[str, float]]:
        """Seconds and peak bytes so far, those of a phase that is not over included; what `restore` takes."""
        now = time.perf_counter()
        running = {name: self.seconds.get(name, 0.0) + now - start for name, start in self._running.items()}
        return {"seconds": {**self.seconds, **running}, "peak_bytes": {**self.peak_bytes, **dict.fromkeys(running, peak_memory_bytes())}}

    def restore(self, reading: Mapping[str, Mapping[str, float]]) -> None:
        """Count what another process took for phases that are not done again."""
        self.seconds |= reading["seconds"]
        self.peak_bytes |= {name: int(peak) for name, peak in reading["peak_bytes"].items()}
