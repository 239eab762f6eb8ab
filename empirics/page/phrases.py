"""Sentences and cells that several pages have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empirics.page.fields import Field, Value
from empirics.page.model import Cell, Drawing, Figure, Mark, Prose, joined, words, worth
from empirics.reports.report import ARM_LABELS
from theory.bound import Assumption

LAW_LABELS = {
    "mixture": "a small Gaussian mixture in each class",
    "gaussian": "one Gaussian in each class",
    "well-specified": "the signature itself",
}
LEGEND: Prose = (
    "Every value is an upper bound on the error, rounded up. Bold: a guarantee under what it assumes. Struck through: no guarantee, "
    "because the test documents reject what it rests on. Struck through with an exclamation mark: the measured error contradicts it. "
    "Vacuous: the formula reaches one, so that it says nothing.",
)


def stream_name(run: Field) -> Value:
    """The name of the stream of a run."""
    return (run["stream"] if "stream" in run.value else run["config"]["stream"]["name"]).shown("text")


def arm_prose(arm: Field) -> Prose:
    """How an arm retrieves, and in how many dimensions."""
    return (ARM_LABELS[arm.value["arm"]], ", in ", arm["dimension"].shown("count"), " dimensions")


def law_prose(arm: Field) -> Prose:
    """What an arm's bounds assume of a query."""
    law = arm["law"].shown("text")
    return (law, *((f" ({LAW_LABELS[law.text]})",) if law.text in LAW_LABELS else ()))


def measured_prose(measured: Field) -> Prose:
    """A measured error with its interval."""
    return (
        measured["error"].shown("rate"),
        " (",
        measured["confidence"].shown("share"),
        " interval ",
        *interval_prose(measured, " to "),
        ")",
    )


def interval_prose(measured: Field, between: str = "–") -> Prose:
    """The ends of an interval."""
    return (measured["low"].shown("rate"), between, measured["high"].shown("rate"))


def verdict(root: Field) -> Prose:
    """The run in one sentence: the measured error, and the tightest guarantee that stands with what it assumes, or why none does."""
    unit = root["overall"]
    measured = unit["measured"]
    found: Prose = (
        "Of ",
        measured["n"].shown("count"),
        " test documents ",
        measured["errors"].shown("count"),
        " went to a wrong task, a measured error of ",
        *measured_prose(measured),
        "; ",
    )
    best = tightest(unit, of_batches(root["run"].value))
    if best is None:
        return (*found, "no guarantee stands: ", *_why_none(unit, of_batches(root["run"].value)), ".")
    name, rung = best
    confidence = rung["confidence"]
    held: Prose = () if confidence.value is None else (", with confidence ", confidence.shown("share"))
    return (
        *found,
        "the tightest guarantee that stands is an error of at most ",
        rung.shown("bound"),
        f" ({name}",
        *held,
        "), which assumes that ",
        *_basis(unit, rung),
        ".",
    )


def tightest(unit: Field, batches: frozenset[str], level: Assumption | None = None) -> tuple[str, Field] | None:
    """The least upper bound on the error of single queries that is a guarantee for a unit, under any assumption level or under one."""
    stands = [
        (name, rung)
        for name, rung in unit["rungs"].items()
        if rung.value["guarantee"] and rung.value["direction"] == "upper" and name not in batches and level in (None, rung.value["level"])
    ]
    return min(stands, key=lambda item: item[1].value["log_value"], default=None)


def tightest_cell(unit: Field, batches: frozenset[str], level: Assumption | None = None) -> Cell:
    """The tightest guarantee of a unit, or that there is none."""
    best = tightest(unit, batches, level)
    if best is None:
        return words("none")
    return Cell(
        (f"{best[0]} ≤ ", best[1].shown("bound"), *((", ", best[1]["level"].shown("text")) if level is None else ())), Mark.GUARANTEE
    )


def of_batches(run: Mapping[str, Any]) -> frozenset[str]:
    """Rungs that bound the error of batches of one task, and so say nothing of single queries."""
    return frozenset() if run["config"]["bounds"]["batch"] == 1 else frozenset({"L4"})


def _basis(unit: Field, rung: Field) -> Prose:
    """What a rung assumes, in words."""
    level = Assumption(rung.value["level"])
    given: Prose = (", that ", rung["given"].shown("text")) if rung.value["given"] else ()
    text: Prose = (f"{level.statement} ({level.value})", *given)
    if level is Assumption.A0:
        return text
    return (
        *text,
        ", and that queries follow the fitted query law (tested on the same documents: ",
        unit["law"]["verdict"].shown("text"),
        ")",
    )


def _why_none(unit: Field, batches: frozenset[str]) -> Prose:
    reasons: dict[Mark, list[Prose]] = {}
    for name, rung in unit["rungs"].items():
        if name not in batches:
            reasons.setdefault(worth(rung.value), []).append((name,))
    said: list[Prose] = []
    if names := reasons.get(Mark.REJECTED):
        said.append((*joined(names), " cannot be relied on (", *_rejection(unit), ")"))
    if names := reasons.get(Mark.CONTRADICTED):
        said.append(("the measured error contradicts ", *joined(names)))
    if names := reasons.get(Mark.VACUOUS):
        said.append(("vacuous: ", *joined(names)))
    if batches:
        said.append((*joined([(name,) for name in sorted(batches)]), " speaks of batches"))
    return joined(said, "; ")


def _rejection(unit: Field) -> Prose:
    """Why rungs that are neither vacuous nor contradicted are no guarantee."""
    law = unit["law"]
    parts: list[Prose] = []
    if law.value["verdict"] == "rejected":
        parts.append(("query law rejected: ", law["reasons"].shown("list")))
    free = [r for r in unit.value["rungs"].values() if r["level"] == Assumption.A0 and worth(r) is Mark.REJECTED]
    if free:
        parts.append(("held-out and test documents are not known to come from one pool",))
    return joined(parts, "; ")


def rung_cell(rung: Field) -> Cell:
    """A rung's value with its mark."""
    mark = worth(rung.value)
    if mark is Mark.VACUOUS:
        return Cell(("vacuous",), mark)
    return Cell((rung.shown("bound"),), mark)


def rung_cells(unit: Field, names: Sequence[str]) -> tuple[Cell, ...]:
    """Some rungs of a unit; a dash for one that it does not have."""
    return tuple(rung_cell(unit["rungs"][name]) if name in unit.value["rungs"] else words("–") for name in names)


def told_rungs(units: Sequence[Field]) -> tuple[list[str], str]:
    """The rungs that say something of at least one of the units, and what is to be said in a caption of the others, if there are any."""
    known = dict.fromkeys(rung for unit in units for rung in unit.value["rungs"])
    silent = [rung for rung in known if all(unit.value["rungs"][rung]["vacuous"] for unit in units if rung in unit.value["rungs"])]
    left = f" (vacuous throughout: {', '.join(silent)})" if silent else ""
    return [rung for rung in known if rung not in silent], left


def rung_titles(names: Sequence[str], batches: frozenset[str]) -> list[str]:
    """Rungs as headings, those of batches marked as such."""
    return [f"{name}, batches" if name in batches else name for name in names]


def measured_cells(measured: Field) -> tuple[Cell, ...]:
    """Documents, error and interval."""
    return words(measured["n"].shown("count")), words(measured["error"].shown("rate")), words(*interval_prose(measured))


def law_cell(law: Field) -> Cell:
    """The verdict on a query law, with its reasons."""
    reasons: Prose = (": ", law["reasons"].shown("list")) if law.value["reasons"] else ()
    return words(law["verdict"].shown("text"), *reasons)


def figure(name: str, message: Prose, drawings: Mapping[str, Drawing]) -> tuple[Figure, ...]:
    """A figure with its message; nothing where there is no drawing of it."""
    drawing = drawings.get(name)
    return () if drawing is None else (Figure(name, drawing.svg, message, drawing.chart),)
