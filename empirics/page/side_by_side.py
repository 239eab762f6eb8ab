"""The page of runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from empirics.page.fields import Field, document
from empirics.page.model import Block, Cell, Page, Paragraph, Prose, Section, Table, joined, words
from empirics.page.phrases import LEGEND, arm_prose, interval_prose, law_cell, rung_cells, rung_titles, tightest_cell, told_rungs
from empirics.reports.report import ARM_LABELS
from theory.bound import Assumption


def side_by_side(comparison: Mapping[str, Any]) -> Page:
    """Say how runs differ.

    Parameters
    ----------
    comparison : mapping
        What `empirics.comparisons.run_comparison.compare_runs` gives.
    """
    root = document(comparison, "comparison.json")
    runs = list(root["runs"])
    letters = joined([(run["letter"].shown("text"),) for run in runs])
    return Page(
        title=("Runs side by side: ", *letters),
        verdict=_verdict(root, runs),
        about=("Every other run is set against ", runs[0]["letter"].shown("text"), ", headline against headline."),
        sections=(
            _runs(root, runs),
            _differences(root, runs),
            _guarantees(runs),
            _laws(runs),
            _values(root["settings"], runs, "settings", "Settings that differ", "All settings are the same."),
            _values(
                root["environment"], runs, "environment", "Versions and machines that differ", "All versions and machines are the same."
            ),
        ),
    )


def _batches(runs: Sequence[Field]) -> frozenset[str]:
    return frozenset({"L4"} if any(run.value["batch"] != 1 for run in runs) else ())


def _verdict(root: Field, runs: Sequence[Field]) -> Prose:
    """The headlines of every other run against the first one's."""
    said: list[Prose] = []
    for j, run in enumerate(runs[1:], start=1):
        row = next(row for row in root["differences"] if row.value["run"] == j)
        documents = root["documents"][j]
        where: Prose = ("On the same ", row["n"][0].shown("count"), " test documents ")
        if not documents.value["same"]:
            where = ("On other test documents (", documents["why"].shown("text"), ") ")
        shown = row.value["p_holm"] < 1 - root.value["confidence"]
        said.append(
            (
                *where,
                run["letter"].shown("text"),
                " errs ",
                row["errors"][1].shown("rate"),
                " and ",
                runs[0]["letter"].shown("text"),
                " ",
                row["errors"][0].shown("rate"),
                ", a difference of ",
                *_interval(row, root),
                ", which ",
                "is more than chance explains" if shown else "chance may explain",
                " (p = ",
                row["p_holm"].shown("p"),
                " after Holm's correction)",
            )
        )
    return (*joined(said, ". "), ".")


def _interval(row: Field, root: Field) -> Prose:
    return (
        row["difference"].shown("difference"),
        " (",
        root["confidence"].shown("share"),
        " interval ",
        row["low"].shown("difference"),
        " to ",
        row["high"].shown("difference"),
        ")",
    )


def _runs(root: Field, runs: Sequence[Field]) -> Section:
    told: dict[str, list[Cell]] = {}
    for run in runs:
        unit, batches = run["overall"], _batches([run])
        cells = {
            "Folder": words(run["folder"].shown("text")),
            "Stream": words(run["stream"].shown("text"), ", seed ", run["seed"].shown("text")),
            "Retrieval": words(*arm_prose(run["headline"])),
            "Test documents": words(unit["measured"]["n"].shown("count")),
            "Measured error": words(unit["measured"]["error"].shown("rate")),
            "Interval": words(*interval_prose(unit["measured"])),
            "Tightest guarantee": tightest_cell(unit, batches),
            "Without a law (A0)": tightest_cell(unit, batches, Assumption.A0),
            "Query law": law_cell(unit["law"]),
            "Time before the bounds": words(run["seconds"].shown("seconds")),
            "Peak memory": words(run["peak_memory_bytes"].shown("bytes")),
            "Signatures": words(run["signature_bytes"].shown("bytes")),
        }
        for name, cell in cells.items():
            told.setdefault(name, []).append(cell)
    header = ("", *(run["letter"].shown("text").text for run in runs))
    rows = tuple((words(name), *cells) for name, cells in told.items())
    caption: Prose = ("The headline of every run, with ", root["confidence"].shown("share"), " intervals")
    blocks: tuple[Block, ...] = (Table(caption, header, rows, frozenset(range(1, len(header)))),)
    given = [(run["letter"].shown("text"),) for run in runs if not run.value["exchangeable"]]
    if given:
        warning: Prose = (
            "Held-out and test documents are not known to come from one pool in ",
            *joined(given),
            ": L8 is no guarantee there.",
        )
        blocks = (*blocks, Paragraph(warning, warning=True))
    return Section("runs", "The runs", blocks)


def _differences(root: Field, runs: Sequence[Field]) -> Section:
    about = [_documents(root, runs, same) for same in (True, False)]
    rows = list(root["differences"])
    first = runs[0]["letter"].shown("text").text
    header = ("", "Runs", f"Error of {first}", "Error of other", "Difference", "Interval", "p", "p, Holm", "Documents")
    overall = [_difference(row, runs, _between(row)) for row in rows if row.value["unit"] == "overall"]
    tasks = [_difference(row, runs, (row["unit"].shown("text"),)) for row in rows if row.value["unit"] != "overall"]
    tables = [Table(("Overall: error of the other run less that of the first",), header, tuple(overall))]
    if tasks:
        tables.append(Table(("Headlines, every task that both runs have",), header, tuple(tasks)))
    arms = dict.fromkeys(arm for row in rows for arm in row.value["arms"])
    about.append((_legend(arms),))
    return Section("differences", "Measured errors", (*(Paragraph(prose) for prose in about if prose), *tables))


def _legend(arms: Iterable[str]) -> str:
    return f"Retrievals: {'; '.join(f'{arm}: {ARM_LABELS[arm]}' for arm in arms)}."


def _documents(root: Field, runs: Sequence[Field], same: bool) -> Prose:
    """How the runs were tested that judged the documents of the first one, or others."""
    others = [(j, run) for j, run in enumerate(runs) if j and root["documents"][j].value["same"] == same]
    if not others:
        return ()
    first = runs[0]["letter"].shown("text")
    if same:
        return (
            *joined([(run["letter"].shown("text"),) for _, run in others]),
            " and ",
            first,
            " hold the same test documents, as far as seeds, settings and numbers of documents tell: differences are paired, with Bonett "
            "and Price's interval and McNemar's exact test.",
        )
    whys = [(run["letter"].shown("text"), " (", root["documents"][j]["why"].shown("text"), ")") for j, run in others]
    return (
        "Not on the documents of ",
        first,
        ": ",
        *joined(whys),
        ". Differences are then those of independent samples, with Newcombe's interval and Fisher's exact test; samples dealt from one "
        "pool overlap, so that this is rough.",
    )


def _difference(row: Field, runs: Sequence[Field], what: Prose) -> tuple[Cell, ...]:
    return (
        Cell(what),
        words(runs[row.value["run"]]["letter"].shown("text"), " less ", runs[0]["letter"].shown("text")),
        words(row["errors"][0].shown("rate")),
        words(row["errors"][1].shown("rate")),
        words(row["difference"].shown("difference")),
        words(row["low"].shown("difference"), " to ", row["high"].shown("difference")),
        words(row["p"].shown("p")),
        words(row["p_holm"].shown("p")),
        words("paired" if row.value["paired"] else "unpaired"),
    )


def _between(row: Field) -> Prose:
    """What is compared: one arm in one dimension, or what differs between the two."""
    arms, dimensions = row["arms"], row["dimensions"]
    one: Prose = (arms[0].shown("text"), " in ", dimensions[0].shown("count"), " dimensions")
    if arms.value[0] != arms.value[1]:
        return (*one, " against ", arms[1].shown("text"), " in ", dimensions[1].shown("count"))
    return one if dimensions.value[0] == dimensions.value[1] else (*one, " against ", dimensions[1].shown("count"))


def _guarantees(runs: Sequence[Field]) -> Section:
    """Every task and overall, the runs beneath one another in each."""
    units: dict[str, list[tuple[Field, Field]]] = {}
    for run in runs:
        for unit in run["tasks"]:
            units.setdefault(unit.value["name"], []).append((run, unit))
    pairs = [*(pair for group in units.values() for pair in group), *((run, run["overall"]) for run in runs)]
    names: list[Prose] = [(unit["name"].shown("text"), ", ", run["letter"].shown("text")) for run, unit in pairs]
    table = _ladders("Headlines: every task and overall", names, [unit for _, unit in pairs], _batches(runs))
    return Section("guarantees", "Bounds that stand", (Paragraph(LEGEND), table))


def _laws(runs: Sequence[Field]) -> Section:
    arms = [(run, arm) for run in runs for arm in run["laws"]]
    names: list[Prose] = [
        (
            run["letter"].shown("text"),
            ": ",
            arm["arm"].shown("text"),
            " in ",
            arm["dimension"].shown("count"),
            ", ",
            arm["law"].shown("text"),
        )
        for run, arm in arms
    ]
    caption = "Every retrieval under every query law, overall"
    return Section("laws", "Retrievals and query laws", (_ladders(caption, names, [arm["overall"] for _, arm in arms], _batches(runs)),))


def _ladders(caption: str, names: Sequence[Prose], units: Sequence[Field], batches: frozenset[str]) -> Table:
    """Units with their rungs, but for those that are vacuous throughout."""
    shown, left = told_rungs(units)
    body = [
        (
            words(*name),
            words(unit["measured"]["error"].shown("rate")),
            words(*interval_prose(unit["measured"])),
            words(unit["law"]["verdict"].shown("text")),
            *rung_cells(unit, shown),
        )
        for name, unit in zip(names, units, strict=True)
    ]
    header = ("", "Error", "Interval", "Query law", *rung_titles(shown, batches))
    return Table((f"{caption}{left}",), header, tuple(body))


def _values(rows: Field, runs: Sequence[Field], name: str, title: str, same: str) -> Section:
    if not rows.value:
        return Section(name, title, (Paragraph((same,)),))
    body = tuple((words(row["key"].shown("text")), *(words(value.shown("setting")) for value in row["values"])) for row in rows)
    header = ("", *(run["letter"].shown("text").text for run in runs))
    return Section(name, title, (Table(("The value of every run",), header, body, frozenset(range(1, len(header)))),))
