"""The page of a finished run, from its report and the table of its slack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from empirics.page.causes import law_section, slack_rows, slack_section
from empirics.page.downloads import bounds_csv, settings_file
from empirics.page.fields import Field, document
from empirics.page.model import Drawing, Listing, Mark, Page, Paragraph, Prose, Section, Table, joined, words, worth
from empirics.page.phrases import (
    LAW_LABELS,
    LEGEND,
    arm_prose,
    figure,
    interval_prose,
    law_cell,
    law_prose,
    measured_cells,
    measured_prose,
    of_batches,
    rung_cell,
    rung_cells,
    rung_titles,
    stream_name,
    tightest_cell,
    told_rungs,
    verdict,
)
from empirics.page.provenance import provenance
from empirics.reports.report import ARM_LABELS, Report
from theory.bound import Assumption

_NOT_EXCHANGEABLE: Prose = (
    "The data gave the split, or its parts hold the classes in other proportions: held-out and test documents are not known to come from "
    "one pool. L8 and the conformal sets then say nothing of test documents, and L8 is no guarantee here.",
)


def run_page(report: Report, slack: pd.DataFrame, drawings: Mapping[str, Drawing]) -> Page:
    """Say what a run found.

    Parameters
    ----------
    report : Report
    slack : DataFrame
        `slack.parquet` of the same run.
    drawings : mapping from name to Drawing
        Those of `empirics.page.figures.run_drawings`; a figure without a drawing is left out.

    Returns
    -------
    Page
        Every value on it names its place in `report.json` or `slack.parquet`.
    """
    root = document(report.model_dump(mode="json"), "report.json")
    head = root["headline"]
    arms = list(root["arms"])
    main = next(arm for arm in arms if all(arm.value[key] == head.value[key] for key in ("arm", "dimension", "law")))
    return Page(
        title=("Verified run: ", stream_name(root["run"]), ", seed ", root["run"]["config"]["seed"].shown("text")),
        verdict=verdict(root),
        about=("Retrieval: ", *arm_prose(main), ". Query law: ", *law_prose(main), "."),
        sections=(
            _tasks(root),
            _ladder(root, drawings),
            law_section(root, drawings),
            slack_section(slack_rows(slack, main), root, drawings),
            _arms(root, arms),
            _clusters(root),
            _accuracy(root),
            _assumptions(),
            provenance(root),
            Section("downloads", "Tables to take away", (bounds_csv(report), settings_file(report.run["config"]))),
        ),
    )


# --- tasks and the ladder --------------------------------------------------------------------------------------------


def _tasks(root: Field) -> Section:
    classes = {task.value["name"]: task["classes"] for task in root["run"]["tasks"]}
    batches = of_batches(root["run"].value)
    rows = []
    for unit in [*root["tasks"], root["overall"]]:
        own = classes.get(unit.value["name"])
        rows.append(
            (
                words(unit["name"].shown("text")),
                words(*(("",) if own is None else (own.shown("length"),))),
                *measured_cells(unit["measured"]),
                words(unit["measured"]["errors"].shown("count")),
                tightest_cell(unit, batches),
                tightest_cell(unit, batches, Assumption.A0),
                law_cell(unit["law"]),
            )
        )
    header = ("Task", "Classes", "Documents", "Error", "Interval", "Errors", "Tightest guarantee", "Without a law (A0)", "Query law")
    caption: Prose = ("Measured error of each task, with ", root["overall"]["measured"]["confidence"].shown("share"), " intervals")
    warning = () if root["run"].value.get("exchangeable", True) else (Paragraph(_NOT_EXCHANGEABLE, warning=True),)
    return Section("tasks", "Tasks", (Table(caption, header, tuple(rows), frozenset({6, 7, 8}), total=True), *warning))


def _ladder(root: Field, drawings: Mapping[str, Drawing]) -> Section:
    unit, batches = root["overall"], of_batches(root["run"].value)
    rows = []
    for name, rung in unit["rungs"].items():
        level = rung["level"].shown("text")
        assumes: Prose = (level, ": ", rung["given"].shown("text")) if rung.value["given"] else (level,)
        rows.append(
            (
                words(name),
                rung_cell(rung),
                words(*_said_of(unit, rung, name in batches)),
                words(rung["source"].shown("text")),
                words(*assumes),
            )
        )
    overall = Table(
        ("Overall: every rung, loosest and most readable first",),
        ("Rung", "Error at most", "What it is worth", "What it is", "Assumes"),
        tuple(rows),
        frozenset({2, 3, 4}),
    )
    tasks = units_table(("Every task, rungs that say something of at least one",), [*root["tasks"], unit], root)
    single = [(name, worth(rung.value)) for name, rung in unit["rungs"].items() if name not in batches]
    stands = [(name,) for name, mark in single if mark is Mark.GUARANTEE]
    rejected = [(name,) for name, mark in single if mark in (Mark.REJECTED, Mark.CONTRADICTED)]
    message: Prose = (
        "Measured error with its interval against every rung, on a logarithmic axis. Overall the measured error is ",
        *measured_prose(unit["measured"]),
        "; guarantees: ",
        *(joined(stands) or ("none",)),
        "; no guarantee: ",
        *(joined(rejected) or ("none",)),
        ".",
    )
    return Section("ladder", "The ladder", (Paragraph(LEGEND), *figure("rungs", message, drawings), overall, tasks))


def _said_of(unit: Field, rung: Field, of_batch: bool) -> Prose:
    mark = worth(rung.value)
    against: Prose = (
        (", of batches, whose measured error is ", *measured_prose(unit["batch"])) if of_batch and unit.value.get("batch") else ()
    )
    if mark is Mark.GUARANTEE:
        confidence: Prose = () if rung.value["confidence"] is None else (", with confidence ", rung["confidence"].shown("share"))
        condition = "" if rung.value["level"] == Assumption.A0 else " if queries follow the law"
        return (f"a guarantee{condition}", *confidence, *against)
    if mark is Mark.VACUOUS:
        return (rung["note"].shown("text"),) if rung.value["note"].startswith("vacuous") else ("vacuous: ", rung["note"].shown("text"))
    if mark is Mark.CONTRADICTED:
        return ("contradicted: ", rung["broken_assumption"].shown("text"), *against)
    if unit.value["law"]["verdict"] == "rejected" and rung.value["level"] != Assumption.A0:
        return ("no guarantee: its query law is rejected", *against)
    if rung.value["level"] == Assumption.A0:
        return ("no guarantee: held-out and test documents are not known to come from one pool",)
    return ("no guarantee: ", rung["note"].shown("text"))


def units_table(caption: Prose, units: Sequence[Field], root: Field, *, total: bool = True) -> Table:
    """Units against the rungs that say something of at least one of them, with the rest named in the caption."""
    names, left = told_rungs(units)
    rows = [
        (
            words(unit["name"].shown("text")),
            *measured_cells(unit["measured"]),
            words(unit["law"]["verdict"].shown("text")),
            *rung_cells(unit, names),
        )
        for unit in units
    ]
    if left:
        caption = (*caption, left)
    header = ("", "n", "Error", "Interval", "Query law", *rung_titles(names, of_batches(root["run"].value)))
    return Table(caption, header, tuple(rows), total=total)


# --- other retrievals, clusters, accuracy ----------------------------------------------------------------------------


def _arms(root: Field, arms: Sequence[Field]) -> Section:
    names, left = told_rungs([arm["overall"] for arm in arms])
    rows = [
        (
            words(*arm_prose(arm)),
            words(arm["law"].shown("text")),
            words(arm["overall"]["measured"]["error"].shown("rate")),
            words(*interval_prose(arm["overall"]["measured"])),
            words(arm["overall"]["law"]["predicted"].shown("rate")),
            words(arm["overall"]["law"]["verdict"].shown("text")),
            *rung_cells(arm["overall"], names),
        )
        for arm in arms
    ]
    header = ("Retrieval", "Query law", "Error", "Interval", "Predicted", "Verdict", *rung_titles(names, of_batches(root["run"].value)))
    laws = "; ".join(f"{name}: {LAW_LABELS[name]}" for name in dict.fromkeys(arm.value["law"] for arm in arms) if name in LAW_LABELS)
    about: Prose = (f"Every way of retrieval, under every law that a query may be assumed to follow. {laws[:1].upper()}{laws[1:]}.",)
    table = Table((f"All retrievals and query laws, overall{left}",), header, tuple(rows))
    return Section("arms", "Other retrievals and query laws", (Paragraph(about), table))


def _clusters(root: Field) -> Section:
    table = units_table(("Every true cluster: documents of one class",), list(root["clusters"]), root, total=False)
    return Section("clusters", "Every true cluster", (table,))


def _accuracy(root: Field) -> Section:
    sizes = root["run"]["signatures"]
    leak = sorted(set.intersection(*(set(e.value.get("batch_error", {})) for e in root["retrieval"])), key=int)
    rows = []
    for entry in root["retrieval"]:
        key = f"{entry.value['arm']}-{entry.value['dimension']}"
        stored = (sizes[key]["bytes"].shown("bytes"),) if key in sizes.value else ("–",)
        rows.append(
            (
                words(ARM_LABELS[entry.value["arm"]]),
                words(entry["dimension"].shown("count")),
                words(entry["measured"]["error"].shown("rate")),
                words(*interval_prose(entry["measured"])),
                words(entry["macro_error"].shown("rate")),
                words(entry["accuracy"].shown("rate")),
                words(entry["within_task_accuracy"].shown("rate")),
                words(entry["conformal"]["coverage"].shown("rate")),
                words(entry["conformal"]["mean_size"].shown("size")),
                words(*stored),
                *(words(entry["batch_error"][size].shown("rate")) for size in leak),
            )
        )
    header = (
        "Retrieval",
        "Dimensions",
        "Error",
        "Interval",
        "Mean over tasks",
        "Accuracy",
        "Within task",
        "Sets: coverage",
        "Sets: mean size",
        "Signatures",
        *(f"Batches of {size}" for size in leak),
    )
    first = root["retrieval"][0]
    about: Prose = (
        "Error: task wrong, one document at a time. Accuracy: task and class right. Within task: class right, given that the task is. "
        "Sets: conformal retrieval sets of tasks, asked to hold the true one with probability ",
        first["conformal"]["alpha"].shown("complement"),
        ".",
        *((" Batches: a leak control, not a method: the error if documents known to be of one task are scored together.",) if leak else ()),
    )
    table = Table(("Every retrieval in every dimension",), header, tuple(rows))
    return Section("accuracy", "Retrieval and accuracy", (Paragraph(about), table))


def _assumptions() -> Section:
    rows = tuple(((level.value,), (f"{level.statement}.",)) for level in Assumption)
    return Section("assumptions", "Assumption levels", (Listing(rows),))
