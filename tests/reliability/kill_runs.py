"""Kill small runs at random moments, and at every write or fill the disk there; go on with them; and hold what they leave, byte for byte,
against runs that nobody disturbed.

    python tests/reliability/kill_runs.py --kills 200 --writes 1000

Every run is a forked copy of this process, which has imported all and computed nothing, so that starting one costs nothing.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# Threads do not survive a fork.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "empirics"))

import letters
import numpy as np
import pandas as pd

from empirics import cli
from empirics.comparisons import ablation, ablation_table, comparison, standings  # noqa: F401
from empirics.files.manifest import check_manifest
from empirics.files.record import read_json
from empirics.files.times import TIMES, without_times
from empirics.reports.report import Report, markdown
from empirics.routing import certify  # noqa: F401
from empirics.runs import embedding, pipeline  # noqa: F401

_METHODS = "ridge,proteus-ratio,sequential"
_PATIENCE = 300


def forked(work: Callable[[], int], log: Path) -> int:
    """Start some work in a copy of this process; gives its number."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = work()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """Exit status of a process, negative for a signal; None if it is still at work after so long."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def killed(pid: int) -> int:
    """Kill a process without warning and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def command(arguments: list[str], out: Path, *, resume: bool = False, strike: tuple[int, str] | None = None) -> Callable[[], int]:
    """A command as work; struck at one of its writes with a full disk or a kill."""

    def work() -> int:
        if strike is not None:
            strike_at(*strike)
        sys.argv = ["proteus-bounds", *arguments, "--out", str(out), *(["--resume"] if resume else [])]
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return work


def strike_at(write: int, how: str) -> None:
    """Let some files be synced, and strike when the next one is to be."""
    left, sync = write, os.fsync

    def fsync(handle: int) -> None:
        nonlocal left
        if stat.S_ISREG(os.fstat(handle).st_mode):
            left -= 1
            if left == -1:
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    os.fsync = fsync


def differences(found: Path, wanted: Path) -> list[str]:
    """In what a folder is not as another, less the times, which are declared in `empirics.files.times`."""
    mine, others = ({str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (found, wanted))
    out = [f"{name} is in one only" for name in sorted(mine ^ others)]
    for name in sorted(mine & others):
        a, b = found / name, wanted / name
        if a.suffix == ".json":
            same = a.name == "manifest.json" or without_times(read_json(a)) == without_times(read_json(b))
        elif a.suffix == ".parquet":
            same = a.read_bytes() == b.read_bytes()
            if not same:
                frames = [pd.read_parquet(p) for p in (a, b)]
                timed = [column for column in frames[0] if column in TIMES]
                same = bool(timed) and frames[0].drop(columns=timed).equals(frames[1].drop(columns=timed))
        else:
            # What is printed from the files above holds times; it is their function, and is printed again.
            same = a.read_bytes() == b.read_bytes() or printed_again(a)
        if not same:
            out.append(f"{name} differs")
    return [*out, *map(str, check_manifest(found))]


def printed_again(path: Path) -> bool:
    """Whether a page is what its folder's other files give."""
    folder, before = path.parent, path.read_bytes()
    if path.name == "report.html":
        from empirics.page.write import printed_run_page

        return printed_run_page(folder) == before
    if path.name == "report.md":
        return markdown(Report.model_validate(read_json(folder / "report.json"))).encode() == before
    made = {"comparison.md": standings.markdown, "ablation.md": ablation_table.markdown}.get(path.name)
    return made is not None and made(read_json(path.with_suffix(".json"))).encode() == before


class Trial:
    """Runs of one kind of command, disturbed in many ways."""

    def __init__(self, place: Path, name: str, arguments: list[str], rng: np.random.Generator) -> None:
        self.place, self.name, self.arguments, self.rng = place, name, arguments, rng
        self.log, self.undisturbed = place / f"{name}.log", place / f"{name}-undisturbed"
        start = time.monotonic()
        self._must_end(command(arguments, self.undisturbed))
        self.seconds = time.monotonic() - start
        self.done = Counter[str]()

    def _must_end(self, work: Callable[[], int]) -> None:
        code = ended(forked(work, self.log), _PATIENCE)
        if code != 0:
            raise SystemExit(f"{self.name} ended with {code}:\n{self.log.read_text()[-3000:]}")

    def _check(self, out: Path) -> None:
        def compare() -> int:
            found = differences(out, self.undisturbed)
            print("\n".join(found))
            return 1 if found else 0

        # Pages are drawn with a library that starts threads, after which this process could not be copied.
        self._must_end(compare)
        self.done["runs"] += 1
        print(f"{self.name}: {dict(self.done)}", file=sys.stderr, flush=True)
        shutil.rmtree(out)

    def kill(self, wanted: int) -> None:
        """Kill at random moments, and go on, until the run comes through; as often as is wanted, or once or twice more."""
        while self.done["kills"] < wanted:
            out = self.place / f"{self.name}-disturbed"
            for attempt in range(1000):
                # It goes on with or without being told that it must, once there is something to go on with.
                resume = attempt > 0 and bool(self.rng.integers(2)) and begun(out)
                pid = forked(command(self.arguments, out, resume=resume), self.log)
                code = ended(pid, self.rng.uniform(0, self.seconds)) if self.done["kills"] < wanted else ended(pid, _PATIENCE)
                if code is None:
                    code = killed(pid)
                    self.done["kills"] += code == -signal.SIGKILL
                # It may have come to its end at the last moment; then there is nothing to resume.
                if code == 0:
                    break
                if code != -signal.SIGKILL:
                    raise SystemExit(f"{self.name} ended with {code} after a kill:\n{self.log.read_text()[-3000:]}")
                if (out / "manifest.json").is_file() and not (out / "unfinished.json").is_file():
                    break
            self._check(out)

    def strike(self, how: str, most: int) -> None:
        """Strike at every write of a run in turn (or at as many as are wanted, spread at random), and go on."""
        for write in self._writes(most):
            out = self.place / f"{self.name}-disturbed"
            code = ended(forked(command(self.arguments, out, strike=(write, how)), self.log), _PATIENCE)
            if code == 0:
                raise SystemExit(f"{self.name} made no write {write}, or took no notice")
            if code != (-signal.SIGKILL if how == "kill" else 1):
                raise SystemExit(f"{self.name} ended with {code} at write {write} ({how}):\n{self.log.read_text()[-3000:]}")
            self.done[how] += 1
            self._must_end(command(self.arguments, out, resume=begun(out)))
            self._check(out)

    def _writes(self, most: int) -> list[int]:
        total = int(self._counted())
        return list(range(total)) if most >= total else sorted(self.rng.choice(total, most, replace=False).tolist())

    def _counted(self) -> int:
        """Writes of an undisturbed run."""
        told, out, sync = self.place / f"{self.name}-writes", self.place / f"{self.name}-counted", os.fsync

        def work() -> int:
            count = 0

            def fsync(handle: int) -> None:
                nonlocal count
                count += stat.S_ISREG(os.fstat(handle).st_mode)
                sync(handle)

            os.fsync = fsync
            code = command(self.arguments, out)()
            told.write_text(str(count))
            return code

        if not told.is_file():
            self._must_end(work)
        return int(told.read_text())


def begun(out: Path) -> bool:
    """Whether a folder holds what `--resume` goes on with."""
    return (out / "unfinished.json").is_file() or ((out / "settings.json").is_file() and not (out / "manifest.json").is_file())


def main() -> None:
    """Disturb runs of every command, and say how many and how."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills at random moments, over all commands together")
    parser.add_argument(
        "--writes", type=int, default=0, help="writes of each command to strike at, in each of two ways; all if there are fewer"
    )
    parser.add_argument("--commands", default="verify,compare,ablate,certify")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-pages", action="store_true", help="make no report.html, which takes longer than the rest of a run")
    asked = parser.parse_args()
    # For their time; whatever else is needed is imported by what is imported above.
    import altair  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import transformers.models.bert  # noqa: F401

    if asked.no_pages:
        cli.runs._page = lambda folder: "No page was asked for"
    names = asked.commands.split(",")
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        home.mkdir()
        code = ended(forked(lambda: letters.write_material(home) or 0, Path(place) / "material.log"), _PATIENCE)
        if code != 0:
            raise SystemExit((Path(place) / "material.log").read_text())
        commands = letters.long_commands(home, _METHODS)
        for j, name in enumerate(names):
            trial = Trial(Path(place), name, commands[name], np.random.default_rng([asked.seed, j]))
            # Most of them go to the first, which has the most stages.
            others = asked.kills // (2 * len(names))
            trial.kill(others if j else asked.kills - (len(names) - 1) * others)
            for how in ("kill", "full disk") if asked.writes else ():
                trial.strike(how, asked.writes)
            print(f"{name}: {trial.seconds:.1f} s undisturbed; {dict(trial.done)}; no difference", flush=True)
            total += trial.done
    print(
        f"{total['kills']} kills at random moments, {total['kill']} kills and {total['full disk']} full disks at chosen writes; "
        f"{total['runs']} runs compared, no difference"
    )


if __name__ == "__main__":
    main()
