"""Pages as files: of a run, into its folder, and of runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from empirics.figures.finished_run import open_run
from empirics.files.manifest import update_manifest
from empirics.files.record import write_bytes
from empirics.page.figures import run_drawings
from empirics.page.html import html, need_report_extra
from empirics.page.partial import partial_page
from empirics.page.run import run_page
from empirics.page.side_by_side import side_by_side
from empirics.runs.run_folder import Progress
from theory.errors import InputError

NAME = "report.html"


def write_run_page(folder: Path) -> Path:
    """Write `report.html` of a finished run from its report as it stands.

    Returns
    -------
    Path
        The page; the same bytes for the same folder.

    Raises
    ------
    InputError
        If the extra `report` is not installed, or a file of the run is missing or damaged.
    """
    need_report_extra()
    write_bytes(folder / NAME, printed_run_page(folder))
    update_manifest(folder, [NAME])
    return folder / NAME


def printed_run_page(folder: Path) -> bytes:
    """The page of a finished run, as `write_run_page` writes it."""
    run = open_run(folder)
    return html(run_page(run.report, run.slack, run_drawings(run.report, run.slack, run.own_distances(run.arm()))))


def write_partial_page(folder: Path, found: Progress) -> Path:
    """Write `report.html` of a run that did not finish.

    Raises
    ------
    InputError
        If the extra `report` is not installed.
    """
    need_report_extra()
    write_bytes(folder / NAME, html(partial_page(found)))
    return folder / NAME


def write_comparison_page(comparison: Mapping[str, Any], path: Path) -> None:
    """Write the page of what `empirics.comparisons.run_comparison.compare_runs` gave.

    Raises
    ------
    InputError
        If the extra `report` is not installed, or the page cannot be written.
    """
    need_report_extra()
    try:
        write_bytes(path, html(side_by_side(comparison)))
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error.strerror})") from None
