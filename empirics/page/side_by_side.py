"""The page of runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from empirics.page.fields import Field, document
from empirics.page.model import Block, Cell, Listing, Page, Paragraph, Prose, Section, Table, joined, words
from empirics.page.phrases import LEGEND, arm_prose, interval_prose, law_cell, rung_cell, rung_titles, tightest_cell
from empirics.report import ARM_LABELS
from theory.bound import Assumption


def side_by_side(comparison: Mapping[str, Any]) -> Page:
    """Say how runs differ.

    Parameters
    ----------
    comparison : mapping
        What `empirics.run_comparison.compare_runs` gives.
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
    rows = []
    for run in runs:
        unit = run["overall"]
        rows.append(
            (
                words(run["letter"].shown("text")),
                words(run["stream"].shown("text"), ", seed ", run["seed"].shown("text")),
                words(*arm_prose(run["headline"])),
                words(unit["measured"]["n"].shown("count")),
                words(unit["measured"]["error"].shown("rate")),
                words(*interval_prose(unit["measured"])),
                tightest_cell(unit, _batches([run])),
                tightest_cell(unit, _batches([run]), Assumption.A0),
                law_cell(unit["law"]),
                words(run["seconds"].shown("seconds")),
                words(run["peak_memory_bytes"].shown("bytes")),
                words(run["signature_bytes"].shown("bytes")),
            )
        )
    header = (
        "",
        "Stream",
        "Retrieval",
        "Documents",
        "Error",
        "Interval",
        "Tightest guarantee",
        "Without a law (A0)",
        "Query law",
        "Time before the bounds",
        "Peak memory",
        "Signatures",
    )
    caption: Prose = ("The headline of every run, with ", root["confidence"].shown("share"), " intervals")
    folders = Listing(tuple(((run["letter"].shown("text"),), (run["folder"].shown("text"),)) for run in runs))
    blocks: tuple[Block, ...] = (folders, Table(caption, header, tuple(rows), frozenset({1, 2, 6, 7, 8})))
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
    units = [(run, unit) for run in runs for unit in [*run["tasks"], run["overall"]]]
    rows = [
        (
            words(run["letter"].shown("text"), ": ", unit["name"].shown("text")),
            words(unit["measured"]["error"].shown("rate")),
            words(*interval_prose(unit["measured"])),
            words(unit["law"]["verdict"].shown("text")),
        )
        for run, unit in units
    ]
    return Section("guarantees", "Bounds that stand", (Paragraph(LEGEND), _ladders("Headlines: every task and overall", rows, units, runs)))


def _laws(runs: Sequence[Field]) -> Section:
    units = [(run, arm["overall"]) for run in runs for arm in run["laws"]]
    rows = [
        (
            words(
                run["letter"].shown("text"),
                ": ",
                arm["arm"].shown("text"),
                " in ",
                arm["dimension"].shown("count"),
                ", ",
                arm["law"].shown("text"),
            ),
            words(arm["overall"]["measured"]["error"].shown("rate")),
            words(*interval_prose(arm["overall"]["measured"])),
            law_cell(arm["overall"]["law"]),
        )
        for run in runs
        for arm in run["laws"]
    ]
    return Section("laws", "Retrievals and query laws", (_ladders("Every retrieval under every query law, overall", rows, units, runs, 3),))


def _ladders(
    caption: str, rows: Sequence[tuple[Cell, ...]], units: Sequence[tuple[Field, Field]], runs: Sequence[Field], text: int | None = None
) -> Table:
    """Rows with the rungs of their units behind them, but for those that are vacuous throughout."""
    known = list(dict.fromkeys(name for _, unit in units for name in unit.value["rungs"]))
    silent = [name for name in known if all(unit.value["rungs"][name]["vacuous"] for _, unit in units if name in unit.value["rungs"])]
    names = [name for name in known if name not in silent]
    body = [
        (*row, *(rung_cell(unit["rungs"][name]) if name in unit.value["rungs"] else words("–") for name in names))
        for row, (_, unit) in zip(rows, units, strict=True)
    ]
    header = ("", "Error", "Interval", "Query law", *rung_titles(names, _batches(runs)))
    left = f" (vacuous throughout: {', '.join(silent)})" if silent else ""
    return Table((f"{caption}{left}",), header, tuple(body), frozenset() if text is None else frozenset({text}))


def _values(rows: Field, runs: Sequence[Field], name: str, title: str, same: str) -> Section:
    if not rows.value:
        return Section(name, title, (Paragraph((same,)),))
    body = tuple((words(row["key"].shown("text")), *(words(value.shown("setting")) for value in row["values"])) for row in rows)
    header = ("", *(run["letter"].shown("text").text for run in runs))
    return Section(name, title, (Table((title,), header, body, frozenset(range(1, len(header)))),))
