"""`verify`, `report` and `audit`: a run, and what is made of its folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from empirics.cli.options import Config, Json, Preset, Quiet, Resume, Set
from empirics.cli.terminal import tell_page, terminal
from theory.errors import InputError

if TYPE_CHECKING:
    from empirics.reports.report import Report


def verify(
    out: Annotated[Path | None, typer.Option(help="Folder that the run is written to; runs/PRESET-seedN by default.")] = None,
    config: Config = None,
    preset: Preset = "default",
    set_: Set = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Without --out: where the folder exists, take the next free number after its name.")
    ] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Run the pipeline and set measured retrieval error against every bound."""
    from empirics.config import load_config
    from empirics.runs.pipeline import run

    settings = load_config(config, preset, set_ or [])
    folder = out or Path("runs") / f"{preset}-seed{settings.seed}"
    if fresh and resume:
        raise InputError("--resume", "goes on with a folder, and --fresh makes another; leave one of them out")
    if fresh and out is None:
        number = 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{preset}-seed{settings.seed}-{number}"
    pages: list[Path | str] = []
    report_ = run(settings, folder, quiet=quiet, resume=resume, then=lambda folder: pages.append(_page(folder)))
    _show(report_)
    print(f"\nThe run lies in {folder}; the whole report is {folder / 'report.md'}")
    for page in pages:
        print(f"The page is {page}" if isinstance(page, Path) else page, file=sys.stdout if isinstance(page, Path) else sys.stderr)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    html: Annotated[bool, typer.Option("--html", help="Also write the page report.html into the folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """Recompute the report of a run from its files alone, and print it; of a run that did not finish, tell how far it came."""
    from empirics.files.claim import locked
    from empirics.page.html import need_report_extra
    from empirics.runs.evaluation import evaluate
    from empirics.runs.machine import PhaseClock
    from empirics.runs.run_folder import check_files, finished, is_older, progress, read_about, read_run

    if html:
        need_report_extra()
    about = read_about(run)
    if not finished(about):
        from empirics.page.partial import partial_page
        from empirics.page.terminal import print_page
        from empirics.page.write import write_partial_page

        found = progress(run)
        # First, for whoever reads the printed page may stop reading.
        page = write_partial_page(run, found) if html else None
        print_page(partial_page(found), terminal())
        tell_page(page)
        raise InputError(str(run), "holds a run that did not finish; what is above says how to do it again")
    older = is_older(about)
    if older:
        report_ = read_run(run).report
    else:
        with locked(run):
            check_files(run, about)
            report_ = evaluate(run, PhaseClock(quiet))
    page = None
    if html:
        from empirics.page.write import write_run_page

        page = write_run_page(run)
    _show(report_)
    if older:
        print(f"\nThis run was written by an older version (schema {about['schema']}): its report is shown as it stands, not made again.")
    tell_page(page)


def audit(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run, or that certify --out wrote.")],
    data: Annotated[
        bool,
        typer.Option("--data", help="Also deal documents or samples anew, and embed some of them anew; needs data, encoder and adapters."),
    ] = False,
    thorough: Annotated[
        bool,
        typer.Option("--thorough", help="As --data with all of them; also fit signatures, heads and the laws of certificates anew."),
    ] = False,
    repeat: Annotated[
        bool,
        typer.Option("--repeat", help="Also make the whole again from its settings, and compare every file to the bit."),
    ] = False,
    samples: Annotated[
        Path | None, typer.Option(help="Of a certificate: the table of samples that it was made from; by itself it implies --data.")
    ] = None,
    cascade: Annotated[
        Path | None, typer.Option(help="Of a certificate: a file with what cascade --json printed of it, to be checked, too.")
    ] = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Recompute every number of a run or a certificate from its raw files, by other code; status 1 if anything is amiss."""
    from empirics.audit import audit as audited
    from empirics.audit.show import print_audit
    from empirics.runs.machine import PhaseClock

    say = None if quiet else PhaseClock().say
    found = audited(folder, with_data=data, thorough=thorough, repeat=repeat, samples=samples, cascade=cascade, advance=say)
    if json_:
        print(json.dumps(found.to_dict(), allow_nan=False))
    else:
        print_audit(found, terminal())
    if not found.passed:
        raise typer.Exit(1)


def _page(folder: Path) -> Path | str:
    """Write the page of a run that has just been reported, or tell what kept it from being written: the run stands without."""
    from empirics.page.html import need_report_extra

    try:
        need_report_extra()
        from empirics.page.write import write_run_page

        return write_run_page(folder)
    except OSError:
        # A full disk; the run goes on from here when there is room.
        raise
    except Exception as error:
        return f"No page was written: {' '.join(str(error).split())}"


def _show(found: Report) -> None:
    from empirics.reports.report import print_report

    print_report(found, terminal(highlight=True))
