"""The page of a finished run, from its report and the table of its slack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from empirics.page.downloads import bounds_csv, settings_file
from empirics.page.fields import Field, Value, document
from empirics.page.figures import Drawing
from empirics.page.model import Cell, Figure, Listing, Mark, Page, Paragraph, Prose, Section, Table, joined
from empirics.report import _ARM as ARM_LABELS
from empirics.report import Report
from theory.bound import Assumption
from theory.slack import PIECES

_LAWS = {
    "mixture": "a small Gaussian mixture in each class",
    "gaussian": "one Gaussian in each class",
    "well-specified": "the signature itself",
}
LEGEND: Prose = (
    "Every value is an upper bound on the error, rounded up. Bold: a guarantee under what it assumes. Struck through: no guarantee, because "
    "the query law it rests on was rejected on the test documents. Struck through with an exclamation mark: the measured error contradicts "
    "it. Vacuous: the formula reaches one, so that it says nothing.",
)
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
        title=("Verified run: ", _stream(root), ", seed ", root["run"]["config"]["seed"].shown("text")),
        verdict=verdict(root),
        about=("This speaks of retrieval ", *arm_prose(main), ", ", *law_prose(main), "."),
        sections=(
            _tasks(root),
            _ladder(root, drawings),
            _law(root),
            _slack(_rows(slack, main), root, drawings),
            _arms(root, arms),
            _clusters(root),
            _accuracy(root, drawings),
            _assumptions(),
            _provenance(root, drawings),
            Section("downloads", "Tables to take away", (bounds_csv(report), settings_file(report))),
        ),
    )


def _stream(root: Field) -> Value:
    run = root["run"]
    return (run["stream"] if "stream" in run.value else run["config"]["stream"]["name"]).shown("text")


def arm_prose(arm: Field) -> Prose:
    """How an arm retrieves, and in how many dimensions."""
    return (ARM_LABELS[arm.value["arm"]], ", in ", arm["dimension"].shown("count"), " dimensions")


def law_prose(arm: Field) -> Prose:
    """What an arm's bounds assume of a query."""
    law = arm["law"].shown("text")
    return ("under the query law ", law, *((f" ({_LAWS[law.text]})",) if law.text in _LAWS else ()))


# --- the verdict -----------------------------------------------------------------------------------------------------


def measured_prose(measured: Field) -> Prose:
    """A measured error with its interval."""
    return (
        measured["error"].shown("rate"),
        " (",
        measured["confidence"].shown("share"),
        " interval ",
        *interval_prose(measured),
        ")",
    )


def interval_prose(measured: Field) -> Prose:
    """The ends of an interval."""
    return (measured["low"].shown("rate"), " to ", measured["high"].shown("rate"))


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
    best = tightest(unit)
    if best is None:
        return (*found, "no guarantee stands: ", *_why_none(unit), ".")
    name, rung = best
    return (*found, "the tightest guarantee that stands is ", name, ", at most ", *bound_prose(rung), ", and it assumes ", *_basis(unit, rung), ".")


def tightest(unit: Field) -> tuple[str, Field] | None:
    """The least upper bound of a unit that is a guarantee."""
    stands = [(name, rung) for name, rung in unit["rungs"].items() if rung.value["guarantee"] and rung.value["direction"] == "upper"]
    return min(stands, key=lambda item: item[1].value["log_value"], default=None)


def bound_prose(rung: Field) -> Prose:
    """The value of a rung, and the confidence it holds with."""
    confidence = rung["confidence"]
    return (rung.shown("bound"), *(() if confidence.value is None else (" with confidence ", confidence.shown("share"))))


def _basis(unit: Field, rung: Field) -> Prose:
    """What a rung assumes, in words."""
    level = Assumption(rung.value["level"])
    given: Prose = ("; ", rung["given"].shown("text")) if rung.value["given"] else ()
    text: Prose = (f"{level.value}: {level.statement}", *given)
    if level is Assumption.A0:
        return text
    return (*text, "; and that queries follow the fitted query law (tested on the same documents: ", unit["law"]["verdict"].shown("text"), ")")


def _why_none(unit: Field) -> Prose:
    reasons: dict[Mark, list[Prose]] = {}
    for name, rung in unit["rungs"].items():
        reasons.setdefault(worth(rung.value), []).append((name,))
    said: list[Prose] = []
    if names := reasons.get(Mark.REJECTED):
        said.append((*joined(names), " cannot be relied on (", *_rejection(unit), ")"))
    if names := reasons.get(Mark.CONTRADICTED):
        said.append((*joined(names), " the measured error contradicts"))
    if names := reasons.get(Mark.VACUOUS):
        said.append((*joined(names), " are vacuous"))
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


def worth(rung: Mapping[str, object]) -> Mark:
    """What a rung's value is worth."""
    if rung["guarantee"]:
        return Mark.GUARANTEE
    if rung["vacuous"]:
        return Mark.VACUOUS
    return Mark.REJECTED if rung["holds"] else Mark.CONTRADICTED


# --- tasks and the ladder --------------------------------------------------------------------------------------------


def rung_cell(rung: Field) -> Cell:
    """A rung's value with its mark."""
    mark = worth(rung.value)
    if mark is Mark.VACUOUS:
        return Cell(("vacuous",), mark)
    return Cell((rung.shown("bound"),), mark)


def plain(*prose: str | Value) -> Cell:
    """A cell without a mark."""
    return Cell(prose)


def _measured_cells(measured: Field) -> tuple[Cell, ...]:
    return plain(measured["n"].shown("count")), plain(measured["error"].shown("rate")), plain(*interval_prose(measured))


def law_cell(law: Field) -> Cell:
    """The verdict on a query law, with its reasons."""
    reasons: Prose = (": ", law["reasons"].shown("list")) if law.value["reasons"] else ()
    return plain(law["verdict"].shown("text"), *reasons)


def _interval_heading(root: Field) -> str:
    return root["overall"]["measured"]["confidence"].shown("share").text + " interval"


def _tasks(root: Field) -> Section:
    classes = {task.value["name"]: task["classes"] for task in root["run"]["tasks"]}
    rows = []
    for unit in [*root["tasks"], root["overall"]]:
        best = tightest(unit)
        guarantee = Cell(("none",), Mark.PLAIN) if best is None else Cell((best[0], " ≤ ", best[1].shown("bound")), Mark.GUARANTEE)
        own = classes.get(unit.value["name"])
        rows.append(
            (
                plain(unit["name"].shown("text")),
                plain(*(("",) if own is None else (own.shown("length"),))),
                *_measured_cells(unit["measured"]),
                plain(unit["measured"]["errors"].shown("count")),
                guarantee,
                law_cell(unit["law"]),
            )
        )
    header = ("Task", "Classes", "Documents", "Error", "Interval", "Errors", "Tightest guarantee", "Query law")
    caption: Prose = ("Measured error of each task, with ", root["overall"]["measured"]["confidence"].shown("share"), " intervals")
    warning = () if root["run"].value.get("exchangeable", True) else (Paragraph(_NOT_EXCHANGEABLE, warning=True),)
    return Section("tasks", "Tasks", (Table(caption, header, tuple(rows), frozenset({6, 7}), total=True), *warning))


def _ladder(root: Field, drawings: Mapping[str, Drawing]) -> Section:
    unit = root["overall"]
    rows = []
    for name, rung in unit["rungs"].items():
        level = rung["level"].shown("text")
        assumes: Prose = (level, ": ", rung["given"].shown("text")) if rung.value["given"] else (level,)
        rows.append((plain(name), rung_cell(rung), plain(*_said_of(unit, rung)), plain(rung["source"].shown("text")), plain(*assumes)))
    overall = Table(
        ("Overall: every rung, loosest and most readable first",),
        ("Rung", "Error at most", "What it is worth", "What it is", "Assumes"),
        tuple(rows),
        frozenset({2, 3, 4}),
    )
    tasks = units_table(("Every task, rungs that say something of at least one",), [*root["tasks"], unit], root)
    stands = [(name,) for name, rung in unit["rungs"].items() if worth(rung.value) is Mark.GUARANTEE]
    rejected = [(name,) for name, rung in unit["rungs"].items() if worth(rung.value) in (Mark.REJECTED, Mark.CONTRADICTED)]
    message: Prose = (
        "Measured error with its interval against every rung, on a logarithmic axis. Overall the measured error is ",
        *measured_prose(unit["measured"]),
        "; guarantees: ",
        *(joined(stands) or ("none",)),
        "; no guarantee: ",
        *(joined(rejected) or ("none",)),
        ".",
    )
    return Section("ladder", "The ladder", (Paragraph(LEGEND), *_figure("rungs", message, drawings), overall, tasks))


def _said_of(unit: Field, rung: Field) -> Prose:
    mark = worth(rung.value)
    confidence: Prose = () if rung.value["confidence"] is None else (", with confidence ", rung["confidence"].shown("share"))
    if mark is Mark.GUARANTEE:
        return ("a guarantee", *confidence)
    if mark is Mark.VACUOUS:
        return (rung["note"].shown("text"),) if rung.value["note"].startswith("vacuous") else ("vacuous: ", rung["note"].shown("text"))
    if mark is Mark.CONTRADICTED:
        return ("contradicted: ", rung["broken_assumption"].shown("text"))
    reasons = unit["law"]["reasons"]
    if rung.value["level"] == Assumption.A0:
        return ("no guarantee: held-out and test documents are not known to come from one pool",)
    return ("no guarantee, query law rejected: ", reasons.shown("list"))


def units_table(caption: Prose, units: Sequence[Field], root: Field, *, total: bool = True) -> Table:
    """Units against the rungs that say something of at least one of them, with the rest named in the caption."""
    rungs = list(units[0].value["rungs"])
    silent = [name for name in rungs if all(unit.value["rungs"][name]["vacuous"] for unit in units)]
    names = [name for name in rungs if name not in silent]
    rows = [
        (
            plain(unit["name"].shown("text")),
            *_measured_cells(unit["measured"]),
            *(rung_cell(unit["rungs"][name]) for name in names),
            law_cell(unit["law"]),
        )
        for unit in units
    ]
    if silent:
        caption = (*caption, f" (vacuous throughout: {', '.join(silent)})")
    header = ("", "n", "Error", "Interval", *names, "Query law")
    return Table(caption, header, tuple(rows), frozenset({len(header) - 1}), total)


def _figure(name: str, message: Prose, drawings: Mapping[str, Drawing]) -> tuple[Figure, ...]:
    drawing = drawings.get(name)
    return () if drawing is None else (Figure(name, drawing.svg, message, drawing.chart),)


# --- which assumption broke, and where the slack goes ----------------------------------------------------------------


def _law(root: Field) -> Section:
    rows = []
    for unit in [*root["tasks"], root["overall"]]:
        law = unit["law"]
        rows.append(
            (
                plain(unit["name"].shown("text")),
                law_cell(law),
                plain(unit["measured"]["error"].shown("rate")),
                plain(*interval_prose(unit["measured"])),
                plain(law["predicted"].shown("rate")),
                plain(law["predicted_low"].shown("rate"), " to ", law["predicted_high"].shown("rate")),
                plain(law["overdispersion_chi2"].shown("number")),
                plain(law["overdispersion_law"].shown("number")),
                plain(law["distance_p"].shown("number")),
                plain(law["misfit_floor_nats"].shown("floor")),
            )
        )
    header = (
        "",
        "Query law",
        "Measured",
        "Interval",
        "Predicted",
        "Interval",
        "Spread over χ²",
        "Spread over law",
        "KS p",
        "Misfit, nats",
    )
    about: Prose = (
        "A law is rejected if the measured interval and the predicted one do not meet, or if the squared distances of test documents to "
        "their own cluster do not follow it (Kolmogorov-Smirnov test, with Bonferroni's correction over clusters). Spread: standard deviation of those "
        "distances over that of a χ² variable, and over that of the law itself. Misfit: how far, at least, the true law is from the "
        "fitted one (Kullback-Leibler divergence, rounded down).",
    )
    table = Table(("The query law against the test documents",), header, tuple(rows), frozenset({1}), total=True)
    return Section("law", "Does the query law hold?", (Paragraph(about), table, *_broken(root)))


def _broken(root: Field) -> tuple[Table, ...]:
    """Every bound that a measured error contradicts, whatever the arm: tasks and overall."""
    rows = []
    for arm in root["arms"]:
        for unit in [*arm["tasks"], arm["overall"]]:
            for name, rung in unit["rungs"].items():
                if not rung.value["holds"]:
                    rows.append(
                        (
                            plain(unit["name"].shown("text")),
                            plain(*arm_prose(arm)),
                            plain(arm["law"].shown("text")),
                            plain(name),
                            rung_cell(rung),
                            plain(*interval_prose(unit["measured"])),
                            plain(rung["broken_assumption"].shown("text")),
                        )
                    )
    header = ("", "Retrieval", "Query law", "Rung", "Value", "Measured", "Which assumption broke, and by how much")
    return (Table(("Bounds that the measured error contradicts",), header, tuple(rows), frozenset({1, 2, 6})),) if rows else ()


def _rows(slack: pd.DataFrame, arm: Field) -> list[Field]:
    """The overall rows of the slack of one arm."""
    root = document(slack.astype(object).where(slack.notna(), None).to_dict("records"), "slack.parquet")
    chosen = (slack["level_of"] == "overall") & (slack["arm"] == arm.value["arm"])
    chosen &= (slack["dimension"] == arm.value["dimension"]) & (slack["law"] == arm.value["law"])
    return [root[int(j)] for j in chosen.to_numpy().nonzero()[0]]


def _slack(rows: Sequence[Field], root: Field, drawings: Mapping[str, Drawing]) -> Section:
    about: Prose = (
        "How far every rung lies above the measured error, in factors of ten, and what for. Assumption: the error simulated under the "
        "query law, against the measured one. Union: adding pairs that overlap. Inequality: a cheaper tail in place of the exact one. "
        "Robustness: assuming less than the law. Statistical: limits of a simulation or a count. The pieces of a row add up to its total; a piece that is "
        "nothing is left blank.",
    )
    body = []
    for row in rows:
        rung = root["overall"]["rungs"][row.value["rung"]]
        pieces = [plain(row[piece].shown("orders")) for piece in (*PIECES, "total")]
        body.append((plain(row["rung"].shown("text")), rung_cell(rung), *pieces))
    header = ("Rung", "Error at most", *(piece.capitalize() for piece in PIECES), "Total")
    table = Table(("Overall: decimal orders above the measured error",), header, tuple(body))
    message: Prose = ("Where the slack of every rung goes, overall, from the measured error ", root["overall"]["measured"]["error"].shown("rate"))
    return Section("slack", "Where the slack goes", (Paragraph(about), *_figure("slack", _and_largest(message, rows), drawings), table))


def _and_largest(message: Prose, rows: Sequence[Field]) -> Prose:
    """Name the largest piece of the exact union, which is what most rungs share."""
    exact = next((row for row in rows if row.value["rung"] == "L5"), None)
    known = {} if exact is None else {piece: exact.value[piece] for piece in PIECES if exact.value[piece] is not None}
    if not known or max(known.values()) <= 0:
        return (*message, ".")
    piece = max(known, key=lambda name: known[name])
    return (*message, f". For L5 most of it is {piece}, ", exact[piece].shown("orders"), " decimal orders.")


# --- other retrievals, clusters, accuracy ----------------------------------------------------------------------------


def _arms(root: Field, arms: Sequence[Field]) -> Section:
    rungs = list(root["overall"].value["rungs"])
    silent = [name for name in rungs if all(arm.value["overall"]["rungs"][name]["vacuous"] for arm in arms)]
    names = [name for name in rungs if name not in silent]
    rows = [
        (
            plain(*arm_prose(arm)),
            plain(arm["law"].shown("text")),
            plain(arm["overall"]["measured"]["error"].shown("rate")),
            plain(*interval_prose(arm["overall"]["measured"])),
            plain(arm["overall"]["law"]["predicted"].shown("rate")),
            *(rung_cell(arm["overall"]["rungs"][name]) for name in names),
            law_cell(arm["overall"]["law"]),
        )
        for arm in arms
    ]
    header = ("Retrieval", "Query law", "Error", "Interval", "Predicted", *names, "Verdict on the law")
    left = f" (vacuous throughout: {', '.join(silent)})" if silent else ""
    laws = "; ".join(f"{name}: {_LAWS[name]}" for name in dict.fromkeys(arm.value["law"] for arm in arms) if name in _LAWS)
    about: Prose = (f"Every way of retrieval, under every law that a query may be assumed to follow. {laws[:1].upper()}{laws[1:]}.",)
    table = Table((f"All retrievals and query laws, overall{left}",), header, tuple(rows), frozenset({1, len(header) - 1}))
    return Section("arms", "Other retrievals and query laws", (Paragraph(about), table))


def _clusters(root: Field) -> Section:
    table = units_table(("Every true cluster: documents of one class",), list(root["clusters"]), root, total=False)
    return Section("clusters", "Every true cluster", (table,))


def _accuracy(root: Field, drawings: Mapping[str, Drawing]) -> Section:
    sizes = root["run"]["signatures"]
    rows = []
    for entry in root["retrieval"]:
        key = f"{entry.value['arm']}-{entry.value['dimension']}"
        stored = (sizes[key]["bytes"].shown("bytes"),) if key in sizes.value else ("–",)
        rows.append(
            (
                plain(ARM_LABELS[entry.value["arm"]]),
                plain(entry["dimension"].shown("count")),
                plain(entry["measured"]["error"].shown("rate")),
                plain(*interval_prose(entry["measured"])),
                plain(entry["macro_error"].shown("rate")),
                plain(entry["accuracy"].shown("rate")),
                plain(entry["within_task_accuracy"].shown("rate")),
                plain(entry["conformal"]["coverage"].shown("rate")),
                plain(entry["conformal"]["mean_size"].shown("size")),
                plain(*stored),
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
    )
    first = root["retrieval"][0]
    about: Prose = (
        "Error: task wrong, one document at a time. Accuracy: task and class right. Within task: class right, given that the task is. "
        "Sets: conformal retrieval sets of tasks, asked to hold the true one with probability ",
        first["conformal"]["alpha"].shown("complement"),
        ".",
    )
    table = Table(("Every retrieval in every dimension",), header, tuple(rows))
    return Section("accuracy", "Retrieval and accuracy", (Paragraph(about), table))


# --- assumptions and provenance --------------------------------------------------------------------------------------


def _assumptions() -> Section:
    rows = tuple(((level.value,), (f"{level.statement}.",)) for level in Assumption)
    return Section("assumptions", "Assumption levels", (Listing(rows),))


def _provenance(root: Field, drawings: Mapping[str, Drawing]) -> Section:
    run = root["run"]
    seconds = run["phases_seconds"]
    rows = (*environment_rows(run), (("Peak memory",), (run["peak_memory_bytes"].shown("bytes"),)), (("Time before the bounds",), (seconds.shown("total seconds"),)))
    phases = Table(
        ("Seconds of each phase",),
        ("Phase", "Seconds"),
        tuple((plain(name), plain(value.shown("seconds"))) for name, value in seconds.items()),
    )
    message: Prose = ("Seconds of each phase of the run; ", seconds.shown("total seconds"), " in all before the bounds, at most ", run["peak_memory_bytes"].shown("bytes"), " of memory.")
    blocks = (Listing(rows), *_figure("phases", message, drawings), phases, *_training(run), *settings_tables(run["config"]))
    return Section("provenance", "Settings and provenance", blocks)


def environment_rows(run: Field) -> tuple[tuple[Prose, Prose], ...]:
    """What a run was made from and on."""
    environment = run["environment"]
    machine = environment["machine"]
    commit: Prose = (environment["commit"].shown("text"), *((" with local changes",) if environment.value["dirty"] else ()))
    packages = joined([(f"{name} ", version.shown("text")) for name, version in environment["packages"].items()])
    documents = joined([(f"{part} ", number.shown("count")) for part, number in run["documents"].items()])
    accelerator: Prose = () if not environment.value.get("accelerator") else (", ", environment["accelerator"].shown("text"))
    rows: list[tuple[Prose, Prose]] = [
        (("Commit",), commit),
        (("Python",), (environment["python"].shown("text"),)),
        (("Packages",), packages),
        (
            ("Machine",),
            (machine["system"].shown("text"), ", ", machine["cores"].shown("text"), " cores, ", machine["memory_bytes"].shown("bytes"), *accelerator),
        ),
        (("Documents",), documents),
    ]
    if run.value.get("left_out"):
        rows.append((("Left out",), (run["left_out"].shown("list"),)))
    return tuple(rows)


def _training(run: Field) -> tuple[Table, ...]:
    rows = tuple(
        (
            plain(name),
            plain(log["accuracy"].shown("rate")),
            plain(log["samples_per_second"].shown("count per second")),
            plain(log["nonzero"].shown("share")),
            plain(log["smallest_angle"].shown("angle")),
        )
        for name, log in run["training"].items()
    )
    header = ("Task", "Training accuracy", "Documents/s", "Composed", "Smallest angle")
    caption: Prose = ("Training: composed is the share of scalars on earlier units that are not zero, the angle that of new units to all earlier ones",)
    return (Table(caption, header, rows),) if rows else ()


def settings_tables(config: Field) -> tuple[Listing, ...]:
    """Every setting under its dotted name."""
    return (Listing(tuple(((key,), (value.shown("setting"),)) for key, value in flattened(config))),)


def flattened(config: Field, prefix: str = "") -> list[tuple[str, Field]]:
    """The leaves of nested settings, by dotted name."""
    out = []
    for key, value in config.items():
        if isinstance(value.value, Mapping) and value.value:
            out += flattened(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out
