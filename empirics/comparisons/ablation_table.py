"""The table of an ablation: every variant against the base on the same test documents, made from the files of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.config import RunConfig
from empirics.files.record import read_json, read_parquet, write_bytes, write_json, write_parquet
from empirics.reports.metrics import holm, paired
from empirics.reports.report import Report, difference_text, markdown_table
from empirics.runs.evaluation import ARMS
from theory.errors import InputError

SCHEMA = 1
BASE = "base"
TABLES = ("ablation.parquet", "ablation.json", "ablation.md")


@dataclass(frozen=True)
class Variant:
    """One setting of the ablation.

    Attributes
    ----------
    group, name : str
        The base has an empty group.
    changes : mapping from dotted key to value
        What the file says differs from the base.
    config : RunConfig
    run : str
        Folder of the run that answers it, below that of the ablation; variants of the same settings have the same.
    """

    group: str
    name: str
    changes: Mapping[str, Any]
    config: RunConfig
    run: str

    def __str__(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name


def summarise(base: RunConfig, variants: Sequence[Variant], left_out: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """Make `ablation.json`, `ablation.md` and `ablation.parquet` from the runs of the variants.

    Differences from the base are paired: both answer the same test documents, one by one. Their p-values (exact McNemar) are
    Holm-corrected within each arm over the settings that differ from the base. Variants of another stream or seed answer other
    documents and have none.

    Parameters
    ----------
    base : RunConfig
    variants : sequence of Variant
        The base first.
    left_out : mapping from variant to why
    folder : Path

    Returns
    -------
    dict
        What `ablation.json` holds: in "variants" a row for each variant and arm.

    Raises
    ------
    InputError
        If a run is missing or damaged.
    """
    variants = [v for v in variants if str(v) not in left_out]
    differences = _differences(base, variants, folder)
    rows = []
    for variant in variants:
        report = Report.model_validate(read_json(folder / variant.run / "report.json"))
        rows += [_row(variant, arm, report) | {"against_base": differences.get((arm, variant.run))} for arm in ARMS]
    about = read_json(folder / variants[0].run / "run.json")
    summary = {
        "schema_version": SCHEMA,
        "stream": about["stream"],
        "seed": base.seed,
        "confidence": base.bounds.confidence,
        "documents": about["documents"],
        "variants": rows,
        "left_out": dict(left_out),
        "base": base.model_dump(mode="json"),
    }
    write_parquet(folder / "ablation.parquet", pd.DataFrame([_flat(row) for row in rows]))
    write_json(folder / "ablation.json", summary)
    write_bytes(folder / "ablation.md", markdown(summary).encode())
    return summary


def _differences(base: RunConfig, variants: Sequence[Variant], folder: Path) -> dict[tuple[str, str], dict[str, float]]:
    """By arm and run, the difference in retrieval error from the base, on the documents that both answer."""
    out: dict[tuple[str, str], dict[str, float]] = {}
    runs = {v.run: v for v in variants if (v.config.seed, v.config.stream) == (base.seed, base.stream)}
    own = _wrong(variants[0], folder)
    others = {run: _wrong(v, folder) for run, v in runs.items() if run != variants[0].run}
    for arm in ARMS:
        found = {run: paired(wrong[arm], own[arm], base.bounds.confidence) for run, wrong in others.items()}
        adjusted = holm(np.array([item.p for item in found.values()]))
        out |= {(arm, run): asdict(item) | {"p_holm": float(p)} for (run, item), p in zip(found.items(), adjusted, strict=True)}
    return out


def _wrong(variant: Variant, folder: Path) -> dict[str, Bool[np.ndarray, " n"]]:
    """Whether each test document went to a wrong task, for each arm in the dimension of the signatures."""
    path = folder / variant.run / "predictions.parquet"
    frame, dimension = read_parquet(path), variant.config.signature.dimension
    missing = [arm for arm in ARMS if f"{arm}-{dimension}:retrieved" not in frame]
    if missing:
        raise InputError(str(path), f"holds no retrieval of {', '.join(missing)} in dimension {dimension}; remove {path.parent} and go on")
    return {arm: (frame[f"{arm}-{dimension}:retrieved"] != frame["task"]).to_numpy() for arm in ARMS}


def _row(variant: Variant, arm: str, report: Report) -> dict[str, Any]:
    own = {"group": variant.group, "variant": variant.name, "changes": dict(variant.changes), "run": variant.run}
    return own | arm_row(variant.config, arm, report)


def arm_row(config: RunConfig, arm: str, report: Report) -> dict[str, Any]:
    """What a run says of one arm in the dimension of its signatures."""
    dimension, composes = config.signature.dimension, config.adapter.compose
    measured = next(r for r in report.retrieval if (r.arm, r.dimension) == (arm, dimension))
    unit = next(a.overall for a in report.arms if (a.arm, a.law) == (arm, "mixture"))
    stored = report.run["signatures"][f"{arm}-{dimension}"]
    # The first task has nothing to compose, and nothing to be orthogonal to.
    later = list(report.run["training"].values())[1:]
    return {
        "arm": arm,
        "dimension": dimension,
        "retrieval_error": measured.measured.error,
        "low": measured.measured.low,
        "high": measured.measured.high,
        "macro_error": measured.macro_error,
        "accuracy": measured.accuracy,
        "within_task_accuracy": measured.within_task_accuracy,
        "smallest_angle": min(log["smallest_angle"] for log in later),
        "nonzero": float(np.mean([log["nonzero"] for log in later])) if composes else None,
        "components": sum(stored["components"]),
        "signature_bytes": stored["bytes"],
        "below_one": {name: rung.value for name, rung in unit.rungs.items() if not rung.vacuous},
        "guarantees": [name for name, rung in unit.rungs.items() if rung.guarantee],
        "predicted": unit.law.predicted,
        "law": unit.law.verdict,
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a table holds it."""
    difference = row["against_base"] or dict.fromkeys(("difference", "low", "high", "p", "p_holm"))
    out = {name: value for name, value in row.items() if name not in ("changes", "below_one", "guarantees", "against_base")}
    out |= {name: None if out[name] is None else float(out[name]) for name in ("nonzero", "predicted")}
    out |= {"changes": _changes(row), "below_one": ", ".join(row["below_one"]), "guarantees": ", ".join(row["guarantees"])}
    return out | {f"against_base_{name}": difference[name] for name in ("difference", "low", "high", "p", "p_holm")}


def _changes(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in row["changes"].items())


_HEADER = (
    "",
    "arm",
    "error",
    "interval",
    "against base",
    "accuracy",
    "within task",
    "predicted",
    "law",
    "bounds below 1",
    "signature kB",
    "angle",
    "composed",
)
LEGEND = (
    "error: task wrong, one document at a time, with its Clopper-Pearson interval; against base: paired difference on the same documents "
    "with its interval, * where it differs after Holm's correction within the arm; accuracy: task and class right; within task: class "
    "right given that the task is; predicted: error under the mixture law of queries (L6), [x] where test documents reject that; bounds "
    "below 1: rungs that say something of the pooled error under it, in brackets if they are no guarantee; angle: degrees between a "
    "task's new units and all earlier ones, the smallest over tasks and projections; composed: share of the scalars on earlier units "
    "that are not zero. Held-out documents are taken from the training documents, so that the adapter has fewer of them. "
    "To choose a setting by this table is to choose on test documents: measure the choice on others."
)


def table_rows(summary: Mapping[str, Any], group: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """One group of variants as text, under the base unless that is among them; a row for each variant and arm."""
    own = [row for row in summary["variants"] if row["group"] == group]
    if all(row["run"] != f"runs/{BASE}" for row in own):
        own = [row for row in summary["variants"] if not row["group"]] + own
    body = []
    for row in own:
        difference = row["against_base"]
        nothing = "the base" if row["run"] == f"runs/{BASE}" else "-"
        predicted = "-" if row["predicted"] is None else f"{row['predicted']:.3f}"
        body.append(
            [
                row["variant"] if row["arm"] == ARMS[0] else "",
                row["arm"],
                f"{row['retrieval_error']:.3f}",
                f"{row['low']:.3f}-{row['high']:.3f}",
                nothing if difference is None else difference_text(difference, 1 - summary["confidence"]),
                f"{row['accuracy']:.3f}",
                f"{row['within_task_accuracy']:.3f}",
                predicted,
                "[x]" if row["law"] == "rejected" else "",
                " ".join(name if name in row["guarantees"] else f"({name})" for name in row["below_one"]) or "none",
                f"{row['signature_bytes'] / 1e3:.1f}",
                f"{row['smallest_angle']:.1f}",
                "-" if row["nonzero"] is None else f"{row['nonzero']:.2f}",
            ]
        )
    return _HEADER, body


def _groups(summary: Mapping[str, Any]) -> list[str]:
    # Of a base alone there is still a table.
    return list(dict.fromkeys(row["group"] for row in summary["variants"] if row["group"])) or [BASE]


def markdown(summary: Mapping[str, Any]) -> str:
    """The ablation as a Markdown page."""
    documents = ", ".join(f"{part} {n}" for part, n in summary["documents"].items())
    parts = [f"# Ablation: {summary['stream']}, seed {summary['seed']}", f"Documents: {documents}.", LEGEND]
    for group in _groups(summary):
        header, body = table_rows(summary, group)
        settings = {row["variant"]: _changes(row) for row in summary["variants"] if row["group"] == group}
        changed = [f"- {name}: {changes or 'nothing changed'}" for name, changes in settings.items()]
        parts += [f"## {group}", markdown_table(header, body), "\n".join(changed)]
    if summary["left_out"]:
        parts += ["## Left out", "\n".join(f"- {name}: {why}." for name, why in summary["left_out"].items())]
    return "\n\n".join(parts) + "\n"


def print_ablation(summary: Mapping[str, Any], console: Console) -> None:
    """Print a table for each group."""
    for group in _groups(summary):
        header, body = table_rows(summary, group)
        table = Table(title=group, title_justify="left", pad_edge=False)
        for j, name in enumerate(header):
            table.add_column(name, justify="left" if j in (0, 1, 9) else "right", no_wrap=j != 9)
        for row in body:
            # Text, not markup: "[x]" must not be read as a style.
            table.add_row(*map(Text, row), end_section=row[1] == ARMS[-1])
        console.print(table)
    console.print(Text(LEGEND))
    for name, why in summary["left_out"].items():
        console.print(Text(f"Left out: {name} ({why}).", style="bold"))
