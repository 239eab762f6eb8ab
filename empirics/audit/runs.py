"""The checks of a run, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from empirics.audit import adapters, bounds, energies, judged, laws, printed, record, retrieval, slack, splits
from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, guarded, less
from theory.errors import InputError

if TYPE_CHECKING:
    from empirics.data.streams import Stream


def run_checks(folder: Path, *, with_data: bool, thorough: bool, repeat: bool, advance: Callable[[str], None] | None) -> tuple[Check, ...]:
    """All of them; the arguments are those of `empirics.audit.audit`.

    Raises
    ------
    InputError
        If the folder holds no finished run of this version's schema.
    """
    from empirics.files.record import MARKER
    from empirics.reports.report import SCHEMA
    from empirics.runs.run_folder import finished, read_about

    about = read_about(folder)
    if about["schema"] != SCHEMA:
        raise InputError(str(folder / "run.json"), f"has schema {about['schema']}; this version audits {SCHEMA}")
    if not finished(about) or (folder / MARKER).exists():
        raise InputError(str(folder), "holds a run that did not finish")
    files = RunFiles(folder)
    shared: dict[str, dict] = {}

    def found() -> dict:
        if "found" not in shared:
            shared["found"] = bounds.recompute(files)
        return shared["found"]

    def drawn() -> dict:
        if "drawn" not in shared:
            shared["drawn"] = judged.redraw(files, found())
        return shared["drawn"]

    plain: list[tuple[str, Callable[[], Check]]] = [
        ("files", lambda: record.check_files(folder)),
        ("settings", lambda: record.check_settings(files)),
        ("split", lambda: splits.check_split(files)),
        ("energies", lambda: energies.check_energies(files)),
        ("other_dimensions", lambda: energies.check_other_dimensions(files)),
        ("signatures", lambda: energies.check_signatures(files)),
        ("laws", lambda: laws.check_laws(files)),
        ("adapters", lambda: adapters.check_adapters(files)),
        ("retrieval", lambda: retrieval.check_retrieval(files)),
        ("slack", lambda: slack.check_slack(files)),
        ("order", lambda: bounds.check_order(files)),
        ("text", lambda: printed.check_text(files)),
        ("page", lambda: printed.check_page(files)),
        ("pairs", lambda: bounds.check_pairs(files, found())),
        ("bounds", lambda: bounds.check_bounds(files, found())),
        ("simulations", lambda: bounds.check_draws(files, drawn(), found())),
        ("report", lambda: judged.check_report(files, found(), drawn())),
    ]
    checks = [guarded(name, check, advance) for name, check in plain]
    settled = []
    if with_data or thorough:
        checks += _with_data(files, thorough, advance)
        settled += ["--data", *(["--thorough"] if thorough else [])]
    if repeat:
        # It imports torch, too.
        from empirics.audit.repeated import check_repeated, settling

        checks.append(guarded("repeated", settling(lambda: check_repeated(files, quiet=advance is None), settled), advance))
    return tuple(less(check, settled) for check in checks)


def _with_data(files: RunFiles, thorough: bool, advance: Callable[[str], None] | None) -> list[Check]:
    # torch takes seconds to import.
    from empirics.audit import data

    streams: list[Stream] = []

    def stream() -> Check:
        check, found = data.check_stream(files)
        streams.append(found)
        return check

    first = guarded("stream", stream, advance)
    if not streams:
        return [first]
    return [first, guarded("embeddings", lambda: data.check_embeddings(files, streams[0], thorough), advance)]
