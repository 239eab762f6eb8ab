"""The report of a run: its schema, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.reports.rounding import rounded_up
from theory.bound import Assumption, Bound
from theory.ladder import RUNGS, Ladder
from theory.slack import PIECES

SCHEMA = 2


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Model):
    """A measured rate with its two-sided Clopper-Pearson interval."""

    error: float = Field(ge=0, le=1, description="errors over n")
    low: float = Field(ge=0, le=1, description="lower limit of the interval")
    high: float = Field(ge=0, le=1, description="upper limit of the interval")
    n: int = Field(ge=1, description="documents, or batches of them, that were measured")
    errors: int = Field(ge=0, description="how many of them were sent to a wrong task")
    confidence: float = Field(gt=0, lt=1, description="of the interval")


class RungRow(_Model):
    """One rung against one measured error; `guarantee` is what may be relied on."""

    log_value: float = Field(le=0, allow_inf_nan=False, description="natural logarithm of value")
    value: float = Field(ge=0, le=1, description="the bound, rounded to the side on which it stays one")
    direction: Literal["upper", "lower"] = Field(description="whether the true error is at most or at least the value")
    level: Literal["A0", "A1", "A2", "A3", "A4"] = Field(description="assumption under which the bound is proved")
    vacuous: bool = Field(description="whether the value says nothing, as an upper bound of one does")
    binding: tuple[int, int] | None = Field(description="wrong task and component that contribute most")
    confidence: float | None = Field(description="probability over drawn data that the bound holds with; null where it is deterministic")
    source: str = Field(description="the statement that proves it")
    given: str = Field("", description="what it assumes beyond its level")
    note: str = Field(description="why it is vacuous, or what is not proved")
    log_lower: float | None = Field(None, le=0, description="natural logarithm of a proved lower side, where there is one")
    estimate: float | None = Field(None, description="point estimate of what the bound limits, where there is one")
    log_estimate: float | None = Field(None, le=0, description="of the estimate, which may underflow")
    holds: bool = Field(description="the measured interval does not lie above the value")
    broken_assumption: str | None = Field(description="if it does not hold, what must have broken and by how much; else null")
    guarantee: bool = Field(description="not vacuous, holds, and under no rejected law")


class LawRow(_Model):
    """Tests of the query law on the samples that measured the error; see `empirics.reports.verdicts.judge_law`."""

    predicted: float | None = Field(description="error under the law, simulated")
    predicted_low: float = Field(description="lower limit of the simulation")
    predicted_high: float = Field(description="upper limit of the simulation")
    misfit_floor_nats: float = Field(description="KL divergence that the true law is at least away from this one; 0 where none is shown")
    overdispersion_chi2: float | None = Field(
        description="standard deviation of the squared own distances over that of a chi-squared law; null where a cluster is too small"
    )
    overdispersion_law: float | None = Field(description="the same over that of the query law itself")
    distance_p: float | None = Field(description="least Kolmogorov-Smirnov p-value of the squared own distances, Bonferroni over clusters")
    verdict: Literal["rejected", "not rejected"] = Field(description="rejected if there is a reason")
    reasons: list[str] = Field(description="which tests rejected the law")


class Unit(_Model):
    """A true cluster, a task, or everything."""

    name: str = Field(description="TASK/CLASS for a cluster that is a class, the name of a task, or overall")
    measured: Interval = Field(description="error of single test documents")
    law: LawRow = Field(description="tests of the query law on these documents")
    rungs: dict[str, RungRow] = Field(description="bounds by their names")
    batch: Interval | None = Field(None, description="error of batches of one task, by which L4 is judged where it bounds that")


class Arm(_Model):
    """One way of retrieval under one query law."""

    arm: Literal["paper", "ratio", "frozen", "both"] = Field(description="way of retrieval")
    dimension: int = Field(description="principal components that signatures live in")
    law: str = Field(description="query law: mixture or gaussian, fitted to query documents; well-specified: the signature itself")
    overall: Unit = Field(description="all test documents together")
    tasks: list[Unit] = Field(description="each task, in the order in which they are learned")
    clusters: list[Unit] = Field(description="each true cluster of the query law")


class Conformal(_Model):
    """Split-conformal retrieval sets: asked for, and seen on the samples that measured the error."""

    alpha: float = Field(description="rate at which a set may miss the true task")
    coverage: float = Field(description="share of measured documents whose set holds the true task")
    mean_size: float = Field(description="tasks a set, on average")


class Retrieval(_Model):
    """Measured retrieval of one arm at one dimension."""

    arm: str = Field(description="way of retrieval")
    dimension: int = Field(description="principal components that signatures live in")
    measured: Interval = Field(description="error of all test documents together")
    task_error: dict[str, float] = Field(description="error of each task's test documents")
    macro_error: float = Field(description="mean of the tasks' errors")
    accuracy: float = Field(description="task and class right")
    within_task_accuracy: float = Field(description="class right, given that the task is")
    conformal: Conformal = Field(description="sets of tasks calibrated on query documents")
    batch_error: dict[str, float] = Field(description="macro error if the scores of so many documents known to be of one task are added")


class Headline(_Model):
    """Which arm and law `overall`, `tasks` and `clusters` speak of."""

    arm: str = Field(description="way of retrieval, from `bounds.arm`")
    dimension: int = Field(description="principal components that signatures live in")
    law: str = Field(description="query law")


class Report(_Model):
    """`report.json`."""

    schema_version: Literal[2] = Field(description="of this file; other versions are refused")
    headline: Headline = Field(description="which of the arms is told first")
    overall: Unit = Field(description="of the headline: all test documents together")
    tasks: list[Unit] = Field(description="of the headline: each task")
    clusters: list[Unit] = Field(description="of the headline: each true cluster")
    arms: list[Arm] = Field(description="every way of retrieval under every query law, the headline's among them")
    retrieval: list[Retrieval] = Field(description="measured retrieval of every arm in every dimension")
    run: dict[str, Any] = Field(description="what `run.json` holds")


ARM_LABELS = {
    "paper": "adapted, least energy (the published rule)",
    "ratio": "adapted, ratio to a background",
    "frozen": "frozen shared space, least energy",
    "both": "frozen and adapted, energies added",
}
_LEGEND = (
    "A value is an upper bound on the error; 'vacuous' means it says nothing. [x] means the bound's query law was rejected on "
    "test samples: the number is shown, and is no guarantee. ! means the measured error contradicts it. "
    "L8 needs no law; it and L6 hold with the confidence above."
)
_NOT_EXCHANGEABLE = (
    "The data gave the split, or its parts hold the classes in other proportions: query and test documents are not known to come from one "
    "pool. L8 and the conformal sets then say nothing of test documents, and L8 is marked [x]."
)


def rung_text(rung: RungRow) -> str:
    """A rung as a cell: `[x]` where its law was rejected, `!` where the measured error contradicts it."""
    if rung.vacuous:
        return "vacuous"
    text = rounded_up(rung.value)
    if not rung.holds:
        return f"! {text}"
    return text if rung.guarantee else f"[x] {text}"


def _informative(ladders: Sequence[Mapping[str, RungRow | Bound]]) -> list[str]:
    """Rungs that say something of at least one unit: a column of "vacuous" tells less than one line about it."""
    return [name for name in RUNGS if not all(rungs[name].vacuous for rungs in ladders)]


def _silent(ladders: Sequence[Mapping[str, RungRow | Bound]]) -> str:
    """The other rungs, with why they are vacuous; empty if there are none."""
    shown = _informative(ladders)
    reasons: dict[str, list[str]] = {}
    for name in RUNGS:
        if name not in shown:
            note = ladders[-1][name].note.partition(" for every")[0].removeprefix("vacuous: ")
            reasons.setdefault(note or "reaches one", []).append(name)
    return "Vacuous throughout: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items()) + "." if reasons else ""


def _rows(units: list[Unit]) -> tuple[list[str], list[list[str]]]:
    names = _informative([u.rungs for u in units])
    header = ["", "n", "measured", "interval", *names, "law"]
    body = []
    for u in units:
        law = u.law.verdict + (f": {', '.join(u.law.reasons)}" if u.law.reasons else "")
        measured = u.measured
        cells = [rung_text(u.rungs[name]) for name in names]
        body.append([u.name, str(measured.n), f"{measured.error:.3f}", f"{measured.low:.3f}-{measured.high:.3f}", *cells, law])
    return header, body


def _retrieval_rows(report: Report) -> tuple[list[str], list[list[str]]]:
    header = ["retrieval", "dimension", "error", "interval", "macro error", "accuracy", "within task", "95% sets: coverage", "mean size"]
    body = []
    for r in report.retrieval:
        m = r.measured
        body.append(
            [
                ARM_LABELS[r.arm],
                str(r.dimension),
                f"{m.error:.3f}",
                f"{m.low:.3f}-{m.high:.3f}",
                f"{r.macro_error:.3f}",
                f"{r.accuracy:.3f}",
                f"{r.within_task_accuracy:.3f}",
                f"{r.conformal.coverage:.3f}",
                f"{r.conformal.mean_size:.2f}",
            ]
        )
    return header, body


def verdict(report: Report) -> str:
    """The run in one sentence."""
    o = report.overall
    # L4 of batches bounds another event.
    stands = [name for name, rung in o.rungs.items() if rung.guarantee and not (name == "L4" and o.batch is not None)]
    vacuous = [name for name, rung in o.rungs.items() if rung.vacuous]
    text = f"Measured retrieval error {o.measured.error:.3f} ({o.measured.low:.3f} to {o.measured.high:.3f}, n = {o.measured.n}); "
    text += f"guarantees that stand: {', '.join(f'{n} <= {rounded_up(o.rungs[n].value)}' for n in stands) or 'none'}"
    return text + (f"; vacuous: {', '.join(vacuous)}." if vacuous else ".")


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def difference_text(found: Mapping[str, float], level: float) -> str:
    """A difference with its interval, and a star if its corrected p-value `p_holm` is below the level."""
    star = " *" if found["p_holm"] < level else ""
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){star}"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    run, config = report.run, report.run["config"]
    parts = [f"# Verified run: {run.get('stream', config['stream']['name'])}, seed {config['seed']}", verdict(report), _LEGEND]
    if not run.get("exchangeable", True):
        parts.append(_NOT_EXCHANGEABLE)
    for arm in report.arms:
        parts.append(f"## {ARM_LABELS[arm.arm]}, dimension {arm.dimension}, query law: {arm.law}")
        parts.append(markdown_table(*_rows([*arm.tasks, arm.overall])))
        if silent := _silent([u.rungs for u in [*arm.tasks, arm.overall]]):
            parts.append(silent)
        for unit in [*arm.tasks, arm.overall]:
            for name, rung in unit.rungs.items():
                if not rung.holds:
                    parts.append(f"- {unit.name}, {name} = {rounded_up(rung.value)} did not hold: {rung.broken_assumption}.")
        parts.append(markdown_table(*_law_rows([*arm.tasks, arm.overall])))
    parts.append("## Retrieval and accuracy\n\n" + markdown_table(*_retrieval_rows(report)))
    parts.append(f"## Every true cluster ({ARM_LABELS[report.headline.arm]}, query law: {report.headline.law})")
    parts.append(markdown_table(*_rows(report.clusters)))
    parts.append("## Assumption levels\n\n" + "\n".join(f"- {a.value}: {a.statement}." for a in Assumption))
    env = run["environment"]
    seconds = run["phases_seconds"]
    parts.append(
        "## Provenance\n\n"
        + f"Commit {env['commit']}{' (with local changes)' if env['dirty'] else ''}; Python {env['python']}; "
        + f"{env['machine']['cores']} cores; "
        + f"{sum(seconds.values()):.0f} s before the bounds; peak memory {run['peak_memory_bytes'] / 2**30:.2f} GiB. Documents: "
        + ", ".join(f"{k} {v}" for k, v in run["documents"].items())
        + "."
    )
    return "\n\n".join(parts) + "\n"


def _law_rows(units: list[Unit]) -> tuple[list[str], list[list[str]]]:
    header = ["", "measured", "predicted", "sd of Q / chi2", "sd of Q / law", "KS p", "misfit floor (nats)"]
    body = []
    for u in units:
        law = u.law
        numbers = [law.predicted, law.overdispersion_chi2, law.overdispersion_law, law.distance_p, law.misfit_floor_nats]
        shown = ["-" if x is None else f"{x:.3g}" for x in numbers]
        body.append([u.name, f"{u.measured.error:.3f}", *shown])
    return header, body


def _table(title: str, header: list[str], body: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    for j, name in enumerate(header):
        table.add_column(name, justify="left" if j in (0, len(header) - 1) else "right", no_wrap=0 < j < len(header) - 1)
    for row in body:
        table.add_row(*map(_cell_text, row))
    return table


def _cell_text(cell: str) -> Text:
    # Text, not markup: a cell such as "[x] 0.1" must not be read as a style.
    return Text(cell, style="strike dim" if cell.startswith("[x]") else ("bold red" if cell.startswith("!") else ""))


# Units side by side: so many fit a terminal of 120 columns.
_ABREAST = 6


def _print_turned(title: str, header: list[str], body: list[list[str]], console: Console) -> None:
    """Print a table with its rows as columns, a few at a time: there are more rungs than fit beside one another."""
    for start in range(0, len(body), _ABREAST):
        part = body[start : start + _ABREAST]
        table = Table(title=title if start == 0 else None, title_justify="left", pad_edge=False)
        table.add_column("", no_wrap=True)
        for row in part:
            table.add_column(Text(row[0]), justify="right")
        for j, name in enumerate(header[1:], start=1):
            table.add_row(name, *(_cell_text(row[j]) for row in part))
        console.print(table)


def print_report(report: Report, console: Console) -> None:
    """Print the headline ladder, the other arms in brief, and accuracy."""
    console.print(Text(verdict(report), style="bold"))
    head = report.headline
    title = f"{ARM_LABELS[head.arm]}, dimension {head.dimension}, query law: {head.law}"
    _print_turned(title, *_rows([*report.tasks, report.overall]), console)
    if silent := _silent([u.rungs for u in [*report.tasks, report.overall]]):
        console.print(Text(silent, style="dim"))
    console.print(_table("Does the query law hold?", *_law_rows([*report.tasks, report.overall])))
    others = [a for a in report.arms if (a.arm, a.law) != (head.arm, head.law)]
    units = [a.overall.model_copy(update={"name": f"{a.arm}, {a.law}"}) for a in others]
    _print_turned("Other retrievals and query laws, overall", *_rows(units), console)
    console.print(_table("Retrieval and accuracy", *_retrieval_rows(report)))
    console.print(Text(_LEGEND))
    if not report.run.get("exchangeable", True):
        console.print(Text(_NOT_EXCHANGEABLE, style="bold"))


def _bound_cell(bound: Bound) -> str:
    return "vacuous" if bound.vacuous else rounded_up(bound.value)


def print_ladder(found: Ladder, console: Console) -> None:
    """Print a ladder that has nothing measured beside it."""
    units = [(f"task {k}, cluster {t}", r) for (k, t), r in found.clusters.items()]
    units += [(f"task {k}", r) for k, r in found.tasks.items()] + [("overall", found.overall)]
    ladders = [rungs for _, rungs in units]
    names = _informative(ladders)
    body = [[name, *(_bound_cell(rungs[n]) for n in names), ""] for name, rungs in units]
    console.print(_table(f"Upper bounds on retrieval error, query law: {found.law}", ["", *names, ""], body))
    if silent := _silent(ladders):
        console.print(Text(silent))


def print_slack(table: pd.DataFrame, console: Console) -> None:
    """Print the overall rows of `theory.slack.slack`, in factors of ten."""
    rows = table[table["level_of"] == "overall"]
    header = ["", "value", *PIECES, "total", ""]
    body = [
        [
            r.rung,
            rounded_up(r.value),
            *("-" if pd.isna(v := getattr(r, piece)) or v == 0 else f"{v:+.2f}" for piece in [*PIECES, "total"]),
            "",
        ]
        for r in rows.itertuples()
    ]
    console.print(_table("Where the slack goes: decimal orders above the reference error", header, body))
