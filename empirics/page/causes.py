"""Why bounds are what they are, as parts of a page: which assumption broke and by how much, and where the slack goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from empirics.page.fields import Field, document
from empirics.page.model import Cell, Drawing, Mark, Paragraph, Prose, Section, Table, joined, words
from empirics.page.phrases import arm_prose, figure, interval_prose, law_cell, rung_cell
from theory.slack import PIECES


def law_section(root: Field, drawings: Mapping[str, Drawing]) -> Section:
    """The query law against the test documents, and every bound that they contradict."""
    rows = []
    for unit in [*root["tasks"], root["overall"]]:
        law = unit["law"]
        rows.append(
            (
                words(unit["name"].shown("text")),
                words(unit["measured"]["error"].shown("rate")),
                words(*interval_prose(unit["measured"])),
                words(law["predicted"].shown("rate")),
                words(law["predicted_low"].shown("rate"), "–", law["predicted_high"].shown("rate")),
                words(law["overdispersion_chi2"].shown("size")),
                words(law["overdispersion_law"].shown("size")),
                words(law["distance_p"].shown("p")),
                words(law["misfit_floor_nats"].shown("floor")),
                law_cell(law),
            )
        )
    header = (
        "",
        "Measured",
        "Interval",
        "Predicted",
        "Interval",
        "Spread over χ²",
        "Spread over law",
        "KS p",
        "Misfit, nats",
        "Query law",
    )
    about: Prose = (
        "A law is rejected if the measured interval and the predicted one do not meet, or if the squared distances of test documents to "
        "their own cluster do not follow it (Kolmogorov-Smirnov test, with Bonferroni's correction over clusters). Spread: standard "
        "deviation of those distances over that of a χ² variable, and over that of the law itself. Misfit: how far, at least, the true "
        "law is from the fitted one (Kullback-Leibler divergence, rounded down).",
    )
    table = Table(("The query law against the test documents",), header, tuple(rows), frozenset({9}), total=True)
    law = root["overall"]["law"]
    message: Prose = (
        "Share of test documents whose squared distance to their own cluster exceeds a value, against χ² in as many dimensions and against "
        "the query law. Overall the distances spread ",
        law["overdispersion_chi2"].shown("size"),
        " times as widely as χ², and ",
        law["overdispersion_law"].shown("size"),
        " times as widely as the law.",
    )
    return Section("law", "Does the query law hold?", (Paragraph(about), table, *figure("distances", message, drawings), *_broken(root)))


def _broken(root: Field) -> tuple[Table, ...]:
    """Every bound that a measured error contradicts, whatever the arm: tasks and overall, with the assumption that broke furthest."""
    rows = []
    for arm in root["arms"]:
        for unit in [*arm["tasks"], arm["overall"]]:
            broken = [(name, rung) for name, rung in unit["rungs"].items() if not rung.value["holds"]]
            if broken:
                furthest = min((rung for _, rung in broken), key=lambda rung: rung.value["log_value"])
                rows.append(
                    (
                        words(unit["name"].shown("text")),
                        words(*arm_prose(arm)),
                        words(arm["law"].shown("text")),
                        Cell(joined([(f"{name} ≤ ", rung.shown("bound")) for name, rung in broken]), Mark.CONTRADICTED),
                        words(*interval_prose(unit["measured"])),
                        words(furthest["broken_assumption"].shown("text")),
                    )
                )
    header = ("", "Retrieval", "Query law", "Contradicted", "Measured", "Which assumption broke, and by how much")
    caption: Prose = ("Bounds that the measured error contradicts, over all retrievals and query laws",)
    return (Table(caption, header, tuple(rows), frozenset({1, 3, 5})),) if rows else ()


def slack_rows(slack: pd.DataFrame, arm: Field) -> list[Field]:
    """The overall rows of the slack of one arm."""
    root = document(slack.astype(object).where(slack.notna(), None).to_dict("records"), "slack.parquet")
    chosen = (slack["level_of"] == "overall") & (slack["arm"] == arm.value["arm"])
    chosen &= (slack["dimension"] == arm.value["dimension"]) & (slack["law"] == arm.value["law"])
    return [root[int(j)] for j in chosen.to_numpy().nonzero()[0]]


def slack_section(rows: Sequence[Field], root: Field, drawings: Mapping[str, Drawing]) -> Section:
    """What each rung pays for, overall."""
    about: Prose = (
        "How far every rung lies above the measured error, in factors of ten, and what for. Assumption: the error simulated under the "
        "query law, against the measured one. Union: adding pairs that overlap. Inequality: a cheaper tail in place of the exact one. "
        "Robustness: assuming less than the law. Statistical: limits of a simulation or a count. The pieces of a row add up to its "
        "total; a piece that is nothing is left blank.",
    )
    body = []
    for row in rows:
        rung = root["overall"]["rungs"][row.value["rung"]]
        pieces = [words(row[piece].shown("orders")) for piece in (*PIECES, "total")]
        body.append((words(row["rung"].shown("text")), rung_cell(rung), *pieces))
    header = ("Rung", "Error at most", *(piece.capitalize() for piece in PIECES), "Total")
    table = Table(("Overall: decimal orders above the measured error",), header, tuple(body))
    message: Prose = (
        "Where the slack of every rung goes, overall, from the measured error ",
        root["overall"]["measured"]["error"].shown("rate"),
        " to the rung's value, a diamond whatever the value is worth",
    )
    return Section("slack", "Where the slack goes", (Paragraph(about), *figure("slack", _and_largest(message, rows), drawings), table))


def _and_largest(message: Prose, rows: Sequence[Field]) -> Prose:
    """Name the largest piece of the exact union, which is what most rungs share."""
    exact = next((row for row in rows if row.value["rung"] == "L5"), None)
    if exact is None:
        return (*message, ".")
    known = {piece: exact.value[piece] for piece in PIECES if exact.value[piece] is not None}
    if not known or max(known.values()) <= 0:
        return (*message, ".")
    piece = max(known, key=lambda name: known[name])
    return (*message, f". For L5 most of it is {piece}, ", exact[piece].shown("orders"), " decimal orders.")
