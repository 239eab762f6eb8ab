"""Read generated and damaged inputs with every reader, each in a process of its own, and writes what became of them.

    python tests/fuzz/full.py                          # everything, into docs/results/fuzz.json
    python tests/fuzz/full.py settings tables --inputs 1000 --out found.json

Every defect's first input is kept in build/fuzz/READER, to be read again with --again FOLDER.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import readers
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from mutator import Files, Link, changed_files
from target import Target

if TYPE_CHECKING:
    from guard import Outcome

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "fuzz.json"
KEPT = ROOT / "build" / "fuzz"
NAMES = sorted(module.name for module in pkgutil.iter_modules(readers.__path__))
# Of all inputs, the share that Hypothesis makes; and how many of them are damaged further.
_STRUCTURED, _POOL = 0.1, 400
# A process that reads fewer than 256 inputs in so long, by the clock, stands still and is ended.
_STANDSTILL = 3600


def inputs(target: Target, count: int, number: int) -> Iterator[Files]:
    """Structured inputs, then damaged ones."""
    pool = list(target.seeds())
    yield from pool
    structured: list[Files] = []

    @seed(number)
    @settings(
        max_examples=max(1, round(_STRUCTURED * count)),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.structured)
    def collect(files: Files) -> None:
        structured.append(files)

    collect()
    yield from structured
    rng = Random(number)
    pool += rng.sample(structured, min(len(structured), _POOL))
    whole = pool[: len(target.seeds())]
    for _ in range(count - len(structured) - len(whole)):
        # Half of them are near a sound input.
        files = rng.choice(whole if rng.random() < 0.5 else pool)
        yield changed_files(files, pool, target.tokens, target.links, rng)


def place(files: Files, before: Files, folder: Path) -> None:
    """Make the files of a folder those of an input; `before` is what it holds."""
    for name in before.keys() - files.keys():
        (folder / name).unlink()
        for parent in (folder / name).relative_to(folder).parents[:-1]:
            if not any((folder / parent).iterdir()):
                (folder / parent).rmdir()
    for name, content in files.items():
        if before.get(name) == content:
            continue
        path = folder / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)


def shared_memory() -> str | None:
    """Where inputs are put: in memory, if there is such a place."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


class Readings:
    """Inputs of a reader, read one after the other in one folder, and what became of them.

    Parameters
    ----------
    target : Target
    folder : Path
        Where the inputs are put; made here. The sound ones are read at once and not counted: they make late imports and caches.
    """

    def __init__(self, target: Target, folder: Path) -> None:
        import psutil
        from guard import Guard

        folder.mkdir()
        self._target, self._folder, self._guard = target, folder, Guard()
        self._before: Files = {}
        self._kinds: Counter[str] = Counter()
        self._messages: set[str] = set()
        self._defects: dict[str, dict[str, Any]] = {}
        for files in target.seeds():
            if (outcome := self._read(files)).kind != "read":
                raise SystemExit(f"{target.name}: a sound input is not read: {outcome.detail}\n{outcome.trace}")
        self._slowest, self._spent, self._start = 0.0, 0.0, time.perf_counter()
        self._process = psutil.Process()
        self._resident = self._process.memory_info().rss

    @property
    def count(self) -> int:
        """Inputs so far."""
        return self._kinds.total()

    def _read(self, files: Files) -> Outcome:
        place(files, self._before, self._folder)
        self._before = files
        return self._guard.read(self._target.read, self._folder)

    def add(self, files: Files) -> None:
        """Read an input, count it, and keep it if it is the first that shows a defect."""
        outcome = self._read(files)
        self._kinds[outcome.kind] += 1
        self._slowest, self._spent = max(self._slowest, outcome.seconds), self._spent + outcome.seconds
        if outcome.kind == "refused":
            self._messages.add(_form(outcome.detail))
        elif outcome.kind == "defect":
            if outcome.detail not in self._defects:
                kept = _keep(self._target, outcome, self._folder)
                self._defects[outcome.detail] = {"count": 0, "trace": outcome.trace, "input": kept}
            self._defects[outcome.detail]["count"] += 1

    def result(self, number: int) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "inputs": self.count,
            "read": self._kinds["read"],
            "refused": self._kinds["refused"],
            "forms_of_refusal": len(self._messages),
            "defects": self._defects,
            "slowest_seconds": round(self._slowest, 3),
            "grown_mib": round(max(0, self._process.memory_info().rss - self._resident) / 2**20),
            "inputs_per_second": round(self.count / (time.perf_counter() - self._start)),
            "inputs_per_processor_second": round(self.count / max(self._spent, 1e-9)),
            "seed": number,
        }


def fuzz(target: Target, count: int, number: int = 0) -> dict[str, Any]:
    """Read so many inputs and count what became of them."""
    from guard import limited_memory

    with tempfile.TemporaryDirectory(dir=shared_memory()) as parent:
        readings = Readings(target, Path(parent, "input"))
        with limited_memory():
            for files in inputs(target, count, number):
                if not readings.count % 256:  # it starts a thread
                    faulthandler.dump_traceback_later(_STANDSTILL, exit=True)
                readings.add(files)
        faulthandler.cancel_dump_traceback_later()
        return readings.result(number)


def written(results: dict[str, Any], out: Path) -> None:
    """Write results of readers."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", "utf-8")


def _form(message: str) -> str:
    """A message without what comes from the input."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*[\d/]\S*", "?", message)[:80]


def _keep(target: Target, outcome: Outcome, folder: Path) -> str:
    kept = KEPT / target.name.replace(" ", "-") / hashlib.sha256(outcome.detail.encode()).hexdigest()[:12]
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept / "input", symlinks=True)
    (kept / "trace.txt").write_text(outcome.trace, "utf-8", "replace")
    return str(kept.relative_to(ROOT))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the readers that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(NAMES))
    parser.add_argument("--inputs", type=int, help="inputs for each reader; by default what each asks for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--here", action="store_true", help="all in this process, which is quicker for a few inputs")
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="read one kept input once more, and show the error")
    options = parser.parse_args(arguments)
    chosen = options.readers or NAMES
    if options.again:
        _target(chosen[0]).read(options.again)
        return 0
    results = json.loads(options.out.read_text("utf-8")) if options.out.is_file() and options.readers else {}
    for name in chosen:
        if options.here:
            target = _target(name)
            results[name] = fuzz(target, options.inputs or target.size, options.seed)
        else:
            results |= _apart(name, options)
        found = results[name]
        print(
            f"{name}: {found['inputs']} inputs, {found['read']} read, {found['refused']} refused, {len(found['defects'])} defects, "
            f"{found['inputs_per_second']}/s, slowest {found['slowest_seconds']} s",
            flush=True,
        )
        written(results, options.out)
    return int(any(result["defects"] for result in results.values()))


def _target(name: str) -> Target:
    return importlib.import_module(f"readers.{name}").TARGET


def _apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The result of a reader in a process of its own; if that dies, by a crash or by standing still, this is the defect."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        command = [sys.executable, __file__, name, "--here", "--out", str(out), "--seed", str(options.seed)]
        command += ["--inputs", str(options.inputs)] if options.inputs else []
        ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if out.is_file():
            return json.loads(out.read_text("utf-8"))
        raise SystemExit(f"{name}: the process ended with status {ended.returncode}\n{ended.stderr[-6000:]}")


if __name__ == "__main__":
    sys.exit(main())
