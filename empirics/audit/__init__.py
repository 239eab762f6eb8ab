"""An independent audit of a run: every number of its report recomputed from its raw files, by other code than the run's.

What is checked, and what cannot be: `docs/how-to/audit.md`. Nothing of `theory`, and of `empirics` only what reads files and names random
generators, is called to recompute a number: Cholesky factors there are inverses here, saddlepoint lines are hyperbolas, Newton's method is
bisection. What is printed again, embedded anew or repeated by the project's own code is said to be so (`Check.how`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from empirics.audit import adapters, bounds, energies, judged, laws, printed, record, retrieval, slack, splits
from empirics.audit.opened import RunFiles
from empirics.audit.result import Audit, Check, Finding
from theory.errors import InputError

if TYPE_CHECKING:
    from empirics.data.streams import Stream

__all__ = ["Audit", "Check", "Finding", "audit"]


def audit(
    folder: Path,
    *,
    with_data: bool = False,
    thorough: bool = False,
    repeat: bool = False,
    advance: Callable[[str], None] | None = None,
) -> Audit:
    """Audit a finished run.

    Parameters
    ----------
    folder : Path
    with_data : bool
        Read the data and run the encoder: deal the stream anew, and embed some documents anew under the saved adapters.
    thorough : bool
        With the data: embed all documents anew, and fit signatures and heads to the training documents.
    repeat : bool
        Make the whole run again from its settings, which takes as long as the run, and compare every file to the bit.
    advance : callable, optional
        Told the name of each check as it begins. Without it, a run that is made again shows no progress either.

    Raises
    ------
    InputError
        If the folder holds no finished run of this version's schema.
    """
    from empirics.files.record import MARKER
    from empirics.reports.report import SCHEMA
    from empirics.runs.run_folder import finished, read_about

    start = time.perf_counter()
    about = read_about(folder)
    if about["schema"] != SCHEMA:
        raise InputError(str(folder / "run.json"), f"has schema {about['schema']}; this version audits {SCHEMA}")
    if not finished(about) or (folder / MARKER).exists():
        raise InputError(str(folder), "holds a run that did not finish")
    files = RunFiles(folder)
    checks = []
    plain: list[Callable[[RunFiles], Check]] = [
        record.check_files,
        record.check_settings,
        splits.check_split,
        energies.check_energies,
        energies.check_other_dimensions,
        energies.check_signatures,
        laws.check_laws,
        adapters.check_adapters,
        retrieval.check_retrieval,
        slack.check_slack,
        bounds.check_order,
        printed.check_text,
        printed.check_page,
    ]
    for check in plain:
        checks.append(_guarded(check.__name__.removeprefix("check_"), lambda c=check: c(files), advance))
    shared: dict[str, dict] = {}

    def found() -> dict:
        if "found" not in shared:
            shared["found"] = bounds.recompute(files)
        return shared["found"]

    def drawn() -> dict:
        if "drawn" not in shared:
            shared["drawn"] = judged.redraw(files, found())
        return shared["drawn"]

    for name, check in (
        ("pairs", lambda: bounds.check_pairs(files, found())),
        ("bounds", lambda: bounds.check_bounds(files, found())),
        ("simulations", lambda: bounds.check_draws(files, drawn(), found())),
        ("report", lambda: judged.check_report(files, found(), drawn())),
    ):
        checks.append(_guarded(name, check, advance))
    settled = []
    if with_data or thorough:
        checks += _with_data(files, thorough, advance)
        settled += ["--data", *(["--thorough"] if thorough else [])]
    if repeat:
        # It imports torch, too.
        from empirics.audit.repeated import check_repeated

        def repeated() -> Check:
            check, conclusive = check_repeated(files, quiet=advance is None)
            if conclusive:
                settled.extend(["--data", "--thorough", "--repeat"])
            return check

        checks.append(_guarded("repeated", repeated, advance))
    return Audit(str(folder), tuple(_less(check, settled) for check in checks), time.perf_counter() - start)


def _less(check: Check, settled: list[str]) -> Check:
    """A check less what it left to options that were given: what it could not look at names the option that does."""
    return replace(check, not_checked=tuple(what for what in check.not_checked if not any(option in what for option in settled)))


def _with_data(files: RunFiles, thorough: bool, advance: Callable[[str], None] | None) -> list[Check]:
    # torch takes seconds to import.
    from empirics.audit import data

    streams: list[Stream] = []

    def stream() -> Check:
        check, found = data.check_stream(files)
        streams.append(found)
        return check

    first = _guarded("stream", stream, advance)
    if not streams:
        return [first]
    return [first, _guarded("embeddings", lambda: data.check_embeddings(files, streams[0], thorough), advance)]


def _guarded(name: str, check: Callable[[], Check], advance: Callable[[str], None] | None) -> Check:
    """A check, or the finding that files do not fit one another well enough for it to be made."""
    if advance is not None:
        advance(name)
    try:
        return check()
    except InputError as error:
        problem = Finding(error.argument, error.problem)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What the files of a sound run never raise; linear algebra's own error is a ValueError.
        problem = Finding(
            name,
            f"cannot be recomputed, for the files do not fit one another ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
        )
    return Check(name, "not finished", "compared", findings=(problem,))
