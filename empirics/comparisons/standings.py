"""What the cells of a comparison say together: means, intervals, tests, and one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.config import RunConfig
from empirics.files.record import read_json, read_parquet, write_bytes, write_json, write_parquet
from empirics.reports.metrics import holm, paired, resampled
from empirics.reports.report import difference_text, markdown_table
from theory.certificates import Measured
from theory.errors import InputError

SCHEMA = 2
_NUMBERS = (
    "average_accuracy",
    "accuracy",
    "cumulative_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "retrieval_error",
    "macro_retrieval_error",
    "within_task_accuracy",
    "told_accuracy",
)
# The rates that have intervals and are tested: what is wrong, and the column that tells.
_RATES = {"retrieval_error": "task", "error": "cluster"}
TABLES = ("comparison.parquet", "comparison.json", "comparison.md")
Cell = tuple[dict[str, Any], pd.DataFrame]


def cell_folder(folder: Path, seed: int, order: int) -> Path:
    """Where a comparison keeps the cell of a seed and task order."""
    return folder / "cells" / f"seed{seed}-order{order}"


def summarise(folder: Path) -> dict[str, Any]:
    """Make the comparison's table from its finished cells.

    The unit of every interval and test is a seed, for task orders of one seed share its documents. Several seeds: results are averaged
    over the orders of each, and `empirics.reports.metrics.resampled` gives interval and p. One seed: Clopper-Pearson intervals of rates,
    and Bonett and Price's interval and McNemar's test of the difference from the reference on the same documents; over several orders
    their limits are averaged, and p is twice the mean p, which is valid however orders depend on one another (Vovk and Wang 2020).
    p-values are Holm-corrected over methods.

    Raises
    ------
    InputError
        If the folder holds no finished cell, or a file of it is missing or corrupt.
    """
    config = RunConfig.model_validate(read_json(folder / "settings.json")["config"])
    cells: list[Cell] = []
    for seed in range(config.seed, config.seed + config.compare.seeds):
        for order in range(config.compare.orders):
            path = cell_folder(folder, seed, order)
            if (path / "cell.json").is_file():
                cells.append((read_json(path / "cell.json"), read_parquet(path / "predictions.parquet")))
    if not cells:
        raise InputError(str(folder), "holds no finished cell of a comparison")
    names = list(cells[0][0]["methods"])
    table = pd.DataFrame([{"seed": c["seed"], "order": c["order"], "method": n, **_flat(c["methods"][n])} for c, _ in cells for n in names])
    rows = [_row(n, table[table["method"] == n], cells, config) for n in names]
    for what in _RATES:
        tested = [row["against_reference"][what] for row in rows if row["against_reference"]]
        for item, p in zip(tested, holm(np.array([item["p"] for item in tested])), strict=True):
            item["p_holm"] = float(p)
    first = cells[0][0]
    summary = {
        "schema_version": SCHEMA,
        "stream": config.stream.name if config.stream.path is None else str(config.stream.path),
        "tasks": first["tasks"],
        "documents": first["documents"],
        "test_documents": _distinct(cells),
        "frozen_pass_seconds": float(np.mean([c["frozen_pass_seconds"] for c, _ in cells])),
        "cells": [{"seed": c["seed"], "order": c["order"], "tasks": c["tasks"]} for c, _ in cells],
        "reference": config.compare.reference,
        "confidence": config.bounds.confidence,
        "methods": rows,
        # Cells of earlier versions leave out no method, and do not say so.
        "left_out": first.get("left_out", {}),
        "config": config.model_dump(mode="json"),
        "environment": cells[-1][0]["environment"],
    }
    write_parquet(folder / "comparison.parquet", table)
    write_json(folder / "comparison.json", summary)
    write_bytes(folder / "comparison.md", markdown(summary).encode())
    return summary


def cell_rows(folder: Path, confidence: float) -> list[dict[str, Any]]:
    """What one cell says of each method, with Clopper-Pearson intervals of both rates; without seconds and memory.

    Raises
    ------
    InputError
        If a file of the cell is missing or corrupt.
    """
    cell = (read_json(folder / "cell.json"), read_parquet(folder / "predictions.parquet"))
    rows = []
    for name, told in cell[0]["methods"].items():
        error, retrieval = (_rate(name, [cell], what, confidence) for what in ("error", "retrieval_error"))
        intervals = {"accuracy_low": 1 - error[1], "accuracy_high": 1 - error[0], "low": retrieval[0], "high": retrieval[1]}
        numbers = {key: told[key] for key in _NUMBERS} | {"stored_bytes": sum(told["stored_bytes"].values())}
        rows.append({"method": name, "role": told["role"], "n": len(cell[1]), **intervals, **numbers})
    return rows


def _distinct(cells: list[Cell]) -> int:
    """Different test documents over all seeds."""
    return len({name for _, frame in cells for name in frame["input"]})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {name: row[name] for name in _NUMBERS}
    out |= {f"retrieval_error_batch_{b}": v for b, v in row["batch_retrieval_error"].items()}
    out |= {"stored_bytes": sum(row["stored_bytes"].values()), "peak_bytes": row["peak_bytes"]}
    return out | {f"{phase}_seconds": v for phase, v in row["seconds"].items()}


def _row(name: str, table: pd.DataFrame, cells: list[Cell], config: RunConfig) -> dict[str, Any]:
    told = cells[0][0]["methods"][name]
    error, retrieval = (_rate(name, cells, what, config.bounds.confidence) for what in ("error", "retrieval_error"))
    return {
        "name": name,
        "about": told["about"],
        "role": told["role"],
        **{key: None if table[key].isna().any() else float(table[key].astype(float).mean()) for key in _NUMBERS},
        "intervals": {"accuracy": [1 - error[1], 1 - error[0]], "retrieval_error": list(retrieval)},
        "batch_retrieval_error": {
            str(b): float(table[f"retrieval_error_batch_{b}"].mean())
            for b in config.retrieval.batches
            if f"retrieval_error_batch_{b}" in table and not table[f"retrieval_error_batch_{b}"].isna().any()
        },
        "stored": told["stored_bytes"],
        "seconds": {phase: float(table[f"{phase}_seconds"].mean()) for phase in ("train", "fit", "test")},
        "peak_bytes": int(table["peak_bytes"].max()),
        "against_reference": None
        if name == config.compare.reference
        else {what: _against(name, config.compare.reference, cells, what, config.bounds.confidence) for what in _RATES},
    }


def _by_seed(cells: list[Cell], values: Float[np.ndarray, " c"]) -> Float[np.ndarray, " s"]:
    """Means over the task orders of each seed."""
    return pd.Series(values).groupby([c["seed"] for c, _ in cells]).mean().to_numpy()


def _ratio(cells: list[Cell]) -> float:
    documents = cells[0][0]["documents"]
    return documents["test"] / (documents["train"] + documents["reservoir"])


def _wrong(frame: pd.DataFrame, name: str, what: str) -> Bool[np.ndarray, " n"]:
    column = _RATES[what]
    return frame[f"{name}:{column}"].to_numpy() != frame[column].to_numpy()


def _rate(name: str, cells: list[Cell], what: str, confidence: float) -> tuple[float, float]:
    """Interval of an error rate."""
    wrong = [_wrong(frame, name, what) for _, frame in cells]
    rates = np.array([w.mean() for w in wrong])
    seeds = _by_seed(cells, rates)
    if len(seeds) == 1:
        found = [Measured(int(w.sum()), w.size, confidence) for w in wrong]
        return float(np.mean([f.low for f in found])), float(np.mean([f.high for f in found]))
    # With a success and a failure added, for no rate seen is known without error.
    adjusted = np.array([(w.sum() + 1) / (w.size + 2) for w in wrong])
    least = float(np.mean(adjusted * (1 - adjusted))) / _distinct(cells)
    over = resampled(seeds, _ratio(cells), confidence, least)
    return max(0.0, over.low), min(1.0, over.high)


def _against(name: str, reference: str, cells: list[Cell], what: str, confidence: float) -> dict[str, float]:
    """Difference of an error rate from the reference's on the same documents, with interval and p."""
    found = [paired(_wrong(frame, name, what), _wrong(frame, reference, what), confidence) for _, frame in cells]
    seeds = _by_seed(cells, np.array([f.difference for f in found]))
    if len(seeds) == 1:
        low, high, p = (float(np.mean([getattr(f, key) for f in found])) for key in ("low", "high", "p"))
        return {"difference": float(seeds[0]), "low": low, "high": high, "p": p if len(found) == 1 else min(1.0, 2 * p)}
    over = resampled(seeds, _ratio(cells), confidence, float(np.mean([f.variance for f in found])) / _distinct(cells))
    return {"difference": over.mean, "low": max(-1.0, over.low), "high": min(1.0, over.high), "p": over.p}


def table_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What each method gets right, as text, a row for each."""
    header = ["", "accuracy", "interval", "retrieval error", "interval", "less reference", "told", "cumulative", "forgetting", "forward"]
    body = []
    for row in summary["methods"]:
        versus = row["against_reference"]
        forward = row["forward_transfer"]
        body.append(
            [
                _shown(row),
                f"{row['accuracy']:.3f}",
                "{:.3f}-{:.3f}".format(*row["intervals"]["accuracy"]),
                f"{row['retrieval_error']:.3f}",
                "{:.3f}-{:.3f}".format(*row["intervals"]["retrieval_error"]),
                "reference" if versus is None else difference_text(versus["retrieval_error"], 1 - summary["confidence"]),
                f"{row['told_accuracy']:.3f}",
                f"{row['cumulative_accuracy']:.3f}",
                f"{row['forgetting']:.3f}",
                "-" if forward is None else f"{forward:+.3f}",
            ]
        )
    return header, body


def cost_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """What each method costs, and the leak control, as text, a row for each."""
    sizes = [str(b) for b in summary["config"]["retrieval"]["batches"] if b > 1]
    header = ["", "stored MB", "train s", "fit s", "test s", "peak MB", "B = 1", *(f"B = {b}" for b in sizes)]
    body = []
    for row in summary["methods"]:
        batches = row["batch_retrieval_error"]
        body.append(
            [
                _shown(row),
                f"{sum(row['stored'].values()) / 1e6:.2f}",
                *(f"{row['seconds'][phase]:.1f}" for phase in ("train", "fit", "test")),
                f"{row['peak_bytes'] / 1e6:.0f}",
                f"{row['macro_retrieval_error']:.3f}",
                *("-" if b not in batches else f"{batches[b]:.3f}" for b in sizes),
            ]
        )
    return header, body


def _shown(row: dict[str, Any]) -> str:
    return f"({row['name']})" if row["role"] == "control" else row["name"]


LEGEND = (
    "accuracy: class right without being told the task; retrieval error: task wrong, one document at a time; less reference: retrieval "
    "error less the reference's on the same documents, * if it differs after Holm's correction; told: class right if the task is told; "
    "cumulative: mean over stages of the mean accuracy over tasks so far; forgetting: mean fall from a task's best accuracy; forward: gain "
    "of told accuracy, when a task is learned, over an adapter trained alone. (name): a control."
)
COST_LEGEND = (
    "Seconds leave out the frozen pass that all methods share. Methods that fit signatures also see the reservoir, unlabelled. B = n: a "
    "leak control, not a method: mean over tasks of the error if n documents known to be of one task are scored together; B = 1 is each "
    "alone. peak: growth of resident memory while a method ran, blind to what earlier ones left to be used again."
)


def heading(summary: dict[str, Any]) -> str:
    """What was compared, in a line."""
    cells = summary["cells"]
    seeds, orders = (len({c[key] for c in cells}) for key in ("seed", "order"))
    parts = [f"{len(summary['tasks'])} tasks", f"{seeds} seed{'s' if seeds > 1 else ''}", f"{orders} task order{'s' if orders > 1 else ''}"]
    return f"{summary['stream']}: {', '.join(parts)}"


def conditions(summary: dict[str, Any]) -> str:
    """Documents, reference and the pass that all share."""
    documents = ", ".join(f"{k} {v}" for k, v in summary["documents"].items())
    left_out = "".join(f" Left out: {name} ({why})." for name, why in summary["left_out"].items())
    return (
        f"Documents a cell: {documents}; {summary['test_documents']} different test documents in all. "
        f"Intervals at {summary['confidence']:g}. Reference: {summary['reference']}. "
        f"Frozen pass over a cell's documents: {summary['frozen_pass_seconds']:.1f} s.{left_out}"
    )


def print_comparison(summary: dict[str, Any], console: Console) -> None:
    """Print both tables."""
    console.print(Text(heading(summary), style="bold"))
    console.print(Text(conditions(summary)))
    for title, (header, body), legend in (
        ("Accuracy and retrieval", table_rows(summary), LEGEND),
        ("Cost, and the leak control", cost_rows(summary), COST_LEGEND),
    ):
        table = Table(title=title, title_justify="left", pad_edge=False)
        for j, name in enumerate(header):
            # One word a line, so that the table fits a terminal.
            table.add_column(name if "=" in name else name.replace(" ", "\n"), justify="right" if j else "left", no_wrap=True)
        for row in body:
            table.add_row(*map(Text, row))
        console.print(table)
        console.print(Text(legend))


def markdown(summary: dict[str, Any]) -> str:
    """The comparison as a Markdown page."""
    lines = [f"# {heading(summary)}", "", conditions(summary), ""]
    for (header, body), legend in ((table_rows(summary), LEGEND), (cost_rows(summary), COST_LEGEND)):
        lines += [markdown_table(header, body), "", legend, ""]
    lines += [
        "## What each method stores, in bytes (first cell)",
        "",
        *(f"- {row['name']} ({row['about']}): " + ", ".join(f"{k} {v:,}" for k, v in row["stored"].items()) for row in summary["methods"]),
    ]
    return "\n".join(lines) + "\n"
