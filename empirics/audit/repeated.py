"""A run made again from its settings, by the project's own code, and every file compared: a run repeats to the bit.

Nothing here is independent of what is checked. It tells what no file tells: that a run had the settings of training that it says it had.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally
from empirics.config import RunConfig
from empirics.files.claim import flat
from empirics.files.manifest import MANIFEST
from empirics.files.record import read_json
from empirics.files.times import without_times

# What holds the times of a run, and is held against the other files instead (`empirics.audit.printed`, `empirics.audit.record`).
_ELSEWHERE = (MANIFEST, "report.md", "report.html")
# Versions and machine, compared before; where bits may not be the same, they say so.
_ENVIRONMENT = "environment."
# Another commit may give the same bits, or not.
_COMMIT = "environment.commit"
# Fields of one file that are named.
_NAMED = 5


def settling(check: Callable[[], tuple[Check, bool]], settled: list[str]) -> Callable[[], Check]:
    """The check alone; options whose work it has done as well are added to those that were given."""

    def checked() -> Check:
        found, conclusive = check()
        if conclusive:
            settled.extend(["--data", "--thorough", "--repeat"])
        return found

    return checked


def check_repeated(files: RunFiles, *, quiet: bool) -> tuple[Check, bool]:
    """Make the run again in a temporary folder; returns the check, and whether it settles what it looked at."""
    from empirics.runs.embedding import open_stream, use_threads
    from empirics.runs.origin import origin, origin_differences
    from empirics.runs.pipeline import run

    tally = Tally("repeated", "the run made again from its settings: every file to the byte, but for the times that it took", "repeated")
    config = RunConfig.model_validate(files.config)
    use_threads(config)
    opened = open_stream(config)
    differ = origin_differences(files.about, origin(*opened))
    return made_again(tally, files.folder, "run.json", differ, lambda made: run(config, made, quiet=quiet, opened=opened))


def made_again(
    tally: Tally, folder: Path, record: str, differ: Sequence[str], make: Callable[[Path], object], *, unnoted: str = ""
) -> tuple[Check, bool]:
    """Make in a temporary folder what a folder holds, and compare; returns the check, and whether it settles what it looked at.

    Parameters
    ----------
    tally : Tally
    folder : Path
    record : str
        The file that notes where it came from.
    differ : sequence of str
        What of that is not the same here (`empirics.runs.origin.origin_differences`).
    make : callable
        Makes it in a folder that it is given.
    unnoted : str
        What bits depend on and the record does not note, if anything: where they differ, it is not known why.
    """
    elsewhere = [what for what in differ if what.startswith(_ENVIRONMENT)]
    for what in differ:
        tally.true(record, what in elsewhere, what)
    if tally.findings:
        return tally.check(), False
    if any(not what.startswith(_COMMIT) for what in elsewhere):
        tally.skip(f"the whole made again, which gives the same bits only where it was made: {', '.join(elsewhere)}")
        return tally.check(), False
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "made"
        make(made)
        unlike = _compared(tally, folder, made)
    doubt = [*elsewhere, *([unnoted] if unnoted else [])]
    if unlike and doubt:
        tally.skip(f"the whole made again, perhaps otherwise ({doubt[0]}): {len(unlike)} files differ, the first {next(iter(unlike))}")
        return tally.check(), False
    for name, problem in unlike.items():
        tally.find(name, problem)
    return tally.check(), not unlike


def _compared(tally: Tally, folder: Path, made: Path) -> dict[str, str]:
    """Files that differ, and in what; of those that both have, for what is missing is the manifest's affair."""
    out = {}
    for path in sorted(path for path in made.rglob("*") if path.is_file()):
        name, there = path.relative_to(made).as_posix(), folder / path.relative_to(made)
        if name in _ELSEWHERE:
            continue
        tally.count += 1
        if not there.is_file():
            out[name] = "is missing"
        elif path.suffix == ".json":
            told, expected = (_facts(read_json(p)) for p in (there, path))
            fields = [field for field in {**expected, **told} if repr(told.get(field)) != repr(expected.get(field))]
            if fields:
                more = f", and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
                out[name] = f"is not what the settings give in {', '.join(fields[:_NAMED])}{more}"
        elif there.read_bytes() != path.read_bytes():
            out[name] = "is not, to the byte, what the settings give"
    return out


def _facts(content: Any) -> dict[str, Any]:
    """Fields of a JSON file, less the times and the machine."""
    return {name: value for name, value in flat(without_times(content)).items() if _ENVIRONMENT not in name}
