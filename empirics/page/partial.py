"""The page of a run that did not finish: what it did, what is missing, and no results."""

from __future__ import annotations

from empirics.page.downloads import settings_file
from empirics.page.fields import document
from empirics.page.model import Cell, Listing, Page, Paragraph, Prose, Section, Table
from empirics.page.phrases import stream_name
from empirics.page.provenance import environment_rows, settings_listing
from empirics.runs.run_folder import Progress


def partial_page(progress: Progress) -> Page:
    """Say how far a run came that did not finish.

    Parameters
    ----------
    progress : Progress
    """
    run = document(progress.about, "run.json")
    rows = tuple((Cell((what,)), Cell(("there" if there else "missing",)), Cell((name,))) for what, name, there in progress.stages)
    last = next(what for what, _, there in reversed(progress.stages) if there)
    table = Table(("What the run has done, in its order",), ("Stage", "In the folder", "What it leaves"), rows, frozenset({1, 2}))
    saved = "Its settings stand in run.json under config; saved as a file of their own, proteus-bounds verify --config settings.yaml --out "
    again: Prose = (
        (
            saved
            + "with the name of this folder goes on with the run after the last stage that is there, as the command that began it does.",
        )
        if progress.claimed
        else (saved + "with the name of another folder does the run again there.",)
    )
    return Page(
        title=("Unfinished run: ", stream_name(run), ", seed ", run["config"]["seed"].shown("text")),
        verdict=(
            "This run did not finish, or is still going on: it has no measured error and no bounds. "
            "The last stage that left its files is: ",
            last,
            ".",
        ),
        about=("Nothing on this page is a result.",),
        sections=(
            Section("stages", "How far it came", (table,)),
            Section("again", "How to go on", (Paragraph(again), settings_file(progress.about["config"]))),
            Section("provenance", "Settings and provenance", (Listing(environment_rows(run)), settings_listing(run["config"]))),
        ),
    )
