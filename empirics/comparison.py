"""PROTEUS against its rivals: the same documents, seeds, backbone and budgets, judged on the same test documents."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from scipy import stats

from empirics.config import AdapterConfig, RunConfig
from empirics.methods import METHODS, Method
from empirics.methods.per_task import AdapterSet, train_adapters
from empirics.methods.problem import Outcome, Problem, reordered
from empirics.metrics import (
    average_accuracy,
    backward_transfer,
    batch_errors,
    cumulative_average,
    forgetting,
    forward_transfer,
    paired,
    resampled_interval,
    stage_matrix,
)
from empirics.record import (
    PeakMemory,
    PhaseClock,
    claim_folder,
    environment,
    read_json,
    read_parquet,
    write_bytes,
    write_json,
    write_parquet,
)
from empirics.seeding import generator
from empirics.streams import Stream, load_stream
from theory.certificates import Measured
from theory.errors import InputError

SCHEMA = 1


def chosen_methods(config: RunConfig) -> list[Method]:
    """The methods that the settings name, in the table's order.

    Raises
    ------
    InputError
        For an unknown name, or a reference that is not among them.
    """
    known = [method.name for method in METHODS]
    wanted = config.compare.methods or tuple(known)
    for name in (*wanted, config.compare.reference):
        if name not in known:
            raise InputError("compare.methods", f"{name!r} is unknown; choose from {', '.join(known)}")
    if config.compare.reference not in wanted:
        raise InputError("compare.reference", f"{config.compare.reference!r} is not among compare.methods; add it or name another")
    return [method for method in METHODS if method.name in wanted]


def compare(config: RunConfig, folder: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Run every method on every seed and order, and write one table.

    Each seed and order is a cell, written whole when it is done; a folder that holds cells of the same settings is
    continued. `comparison.json`, `comparison.md` and `comparison.parquet` (a row for each method and cell) are made from the cells.

    Parameters
    ----------
    config : RunConfig
    folder : Path
    quiet : bool
        No progress on standard error.

    Returns
    -------
    dict
        What `comparison.json` holds.

    Raises
    ------
    InputError
        For settings, data or weights that cannot be used, or a folder that holds anything else.
    """
    import torch

    methods = chosen_methods(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    settings = {"schema": SCHEMA, "config": config.model_dump(mode="json")}
    if (folder / "settings.json").is_file():
        if read_json(folder / "settings.json") != settings:
            raise InputError(str(folder), "holds a comparison with other settings; choose another folder with --out")
    else:
        claim_folder(folder)
        write_json(folder / "settings.json", settings)
    clock = PhaseClock(quiet)
    for j in range(config.compare.seeds):
        seed = config.seed + j
        missing = [order for order in range(config.compare.orders) if not (_cell(folder, seed, order) / "cell.json").is_file()]
        if missing:
            _run_seed(config.model_copy(update={"seed": seed}), missing, methods, folder, clock)
    return summarise(folder)


def _cell(folder: Path, seed: int, order: int) -> Path:
    return folder / "cells" / f"seed{seed}-order{order}"


def _run_seed(config: RunConfig, orders: Sequence[int], methods: Sequence[Method], folder: Path, clock: PhaseClock) -> None:
    from empirics.backbone import encode_prefix, load_backbone

    stream = without_query(load_stream(config.stream, generator(config.seed, "stream")))
    backbone = load_backbone(config.backbone)
    backbone.projections(config.adapter.targets)
    with clock.phase(f"seed {config.seed}: frozen prefix", len(stream.task)) as advance:
        source = encode_prefix(backbone, stream.inputs, advance)
    for order in orders:
        m = len(stream.tasks)
        tasks = range(m) if order == 0 else generator(config.seed, "order", order).permutation(m).tolist()
        problem = Problem(config, reordered(stream, list(tasks)), backbone, source)
        _run_cell(problem, order, methods, _cell(folder, config.seed, order), clock)


def without_query(stream: Stream) -> Stream:
    """The stream less its query part, which no method may see and no retrieval error is measured on."""
    keep = np.flatnonzero(stream.part != "query")
    return replace(
        stream,
        inputs=tuple(stream.inputs[j] for j in keep),
        task=stream.task[keep],
        label=stream.label[keep],
        part=stream.part[keep],
    )


def _run_cell(problem: Problem, order: int, methods: Sequence[Method], folder: Path, clock: PhaseClock) -> None:
    """Answer with every method; adapters of a kind are trained once and dropped before the next kind's."""
    stream, seed = problem.stream, problem.config.seed
    test = stream.where("test")
    columns: dict[str, Any] = {"document": test, "task": stream.task[test], "cluster": stream.cluster[test]}
    rows: dict[str, dict[str, Any]] = {}
    kinds = {"independent": independent(problem.config.adapter), "composed": problem.config.adapter}
    alone = None
    for kind in (None, *kinds):
        sharing = [method for method in methods if method.adapters == kind]
        sets: dict[str, AdapterSet] = {}
        trained = 0
        # Forward transfer is measured against adapters that were trained alone.
        if kind is not None and (sharing or (kind == "independent" and any(method.adapters for method in methods))):
            with clock.phase(f"seed {seed}: {kind} adapters", 1) as advance, PeakMemory() as peak:
                sets[kind] = train_adapters(problem, kinds[kind])
                advance(1)
            trained = peak.bytes
            if kind == "independent":
                alone = _diagonal(sets[kind], problem)
        for method in sharing:
            with clock.phase(f"seed {seed}: {method.name}", 1) as advance, PeakMemory() as peak:
                outcome = method(problem, sets)
                advance(1)
            outcome = replace(outcome, peak_bytes=max(trained, peak.bytes))
            rows[method.name] = measures(problem, outcome, alone)
            columns |= {f"{method.name}:{what}": getattr(outcome, what)[-1] for what in ("task", "cluster", "told")}
        del sets
        gc.collect()
    about = {
        "seed": seed,
        "order": order,
        "tasks": [task.name for task in stream.tasks],
        "documents": {part: int(stream.where(part).size) for part in ("train", "reservoir", "test")},
        "methods": {method.name: rows[method.name] for method in methods},
        "environment": environment(),
    }
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns))
    write_json(folder / "cell.json", about)


def independent(config: AdapterConfig) -> AdapterConfig:
    """The same adapter trained alone: no composition, no orthogonality."""
    return config.model_copy(update={"compose": False, "orthogonality": 0.0, "orthogonal": "penalty"})


def _diagonal(adapted: AdapterSet, problem: Problem) -> np.ndarray:
    test = problem.stream.where("test")
    task, cluster = problem.stream.task[test], problem.stream.cluster[test]
    right = adapted.predicted[np.arange(test.size), task] == cluster
    return np.bincount(task, right, minlength=problem.tasks) / np.bincount(task, minlength=problem.tasks)


def measures(problem: Problem, outcome: Outcome, alone: np.ndarray | None) -> dict[str, Any]:
    """Everything that one cell says of one method; see `empirics.metrics`."""
    test = problem.stream.where("test")
    task, cluster = problem.stream.task[test], problem.stream.cluster[test]
    accuracy = stage_matrix(outcome.cluster == cluster, task)
    retrieval = stage_matrix(outcome.task == task, task)
    told = stage_matrix(outcome.told == cluster, task)
    wrong, found = outcome.task[-1] != task, outcome.cluster[-1] == cluster
    batches = {}
    if outcome.scores is not None:
        rng = problem.generator("batches")
        batches = {str(b): float(np.mean(batch_errors(outcome.scores, task, b, rng))) for b in problem.config.compare.batches}
    return {
        "average_accuracy": average_accuracy(accuracy),
        "accuracy": float(found.mean()),
        "cumulative_accuracy": cumulative_average(accuracy),
        "forgetting": forgetting(accuracy),
        "backward_transfer": backward_transfer(accuracy),
        "forward_transfer": None if alone is None else forward_transfer(np.diag(told), alone),
        "retrieval_error": float(wrong.mean()),
        "macro_retrieval_error": float(1 - np.mean(retrieval[-1])),
        "within_task_accuracy": float((found & ~wrong).sum() / max(1, (~wrong).sum())),
        "told_accuracy": float((outcome.told[-1] == cluster).mean()),
        "batch_retrieval_error": batches,
        "stored_bytes": dict(outcome.stored),
        "seconds": {k: round(v, 3) for k, v in outcome.seconds.items()},
        "peak_bytes": outcome.peak_bytes,
        "accuracy_matrix": _rows(accuracy),
        "retrieval_matrix": _rows(retrieval),
    }


def _rows(matrix: np.ndarray) -> list[list[float]]:
    """The lower triangle, which JSON can hold."""
    return [row[: i + 1].tolist() for i, row in enumerate(matrix)]


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


def summarise(folder: Path) -> dict[str, Any]:
    """Make the comparison's table from its finished cells.

    Rates of one cell have Clopper-Pearson intervals; means over cells have the resampled t interval of
    `empirics.metrics.resampled_interval`. Differences from the reference are tested on the same documents: McNemar in one cell, a
    resampled t interval of the cells' differences in several; p-values are Holm-corrected over methods.

    Raises
    ------
    InputError
        If the folder holds no finished cell.
    """
    config = RunConfig.model_validate(read_json(folder / "settings.json")["config"])
    names = [method.name for method in chosen_methods(config)]
    cells = []
    for j in range(config.compare.seeds):
        for order in range(config.compare.orders):
            path = _cell(folder, config.seed + j, order)
            if (path / "cell.json").is_file():
                cells.append((read_json(path / "cell.json"), read_parquet(path / "predictions.parquet")))
    if not cells:
        raise InputError(str(folder), "holds no finished cell of a comparison")
    table = pd.DataFrame([{"seed": c["seed"], "order": c["order"], "method": n, **_flat(c["methods"][n])} for c, _ in cells for n in names])
    documents = cells[0][0]["documents"]
    ratio = documents["test"] / (documents["train"] + documents["reservoir"])
    about = {method.name: method for method in METHODS}
    rows = [_row(about[n], table[table["method"] == n], cells, ratio, config) for n in names]
    _holm(rows)
    summary = {
        "schema_version": SCHEMA,
        "stream": config.stream.name if config.stream.path is None else str(config.stream.path),
        "tasks": cells[0][0]["tasks"],
        "documents": documents,
        "cells": [{"seed": c["seed"], "order": c["order"]} for c, _ in cells],
        "reference": config.compare.reference,
        "confidence": config.bounds.confidence,
        "methods": rows,
        "config": config.model_dump(mode="json"),
        "environment": cells[-1][0]["environment"],
    }
    write_parquet(folder / "comparison.parquet", table)
    write_json(folder / "comparison.json", summary)
    write_bytes(folder / "comparison.md", markdown(summary).encode())
    return summary


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {name: row[name] for name in _NUMBERS}
    out |= {f"retrieval_error_batch_{b}": v for b, v in row["batch_retrieval_error"].items()}
    out |= {"stored_bytes": sum(row["stored_bytes"].values()), "peak_bytes": row["peak_bytes"]}
    return out | {f"{phase}_seconds": v for phase, v in row["seconds"].items()}


def _row(method: Method, table: pd.DataFrame, cells: list[tuple[dict, pd.DataFrame]], ratio: float, config: RunConfig) -> dict[str, Any]:
    confidence = config.bounds.confidence
    means = {name: None if table[name].isna().any() else float(table[name].astype(float).mean()) for name in _NUMBERS}
    intervals = {}
    for name in ("accuracy", "retrieval_error"):
        if len(cells) > 1:
            low, high = resampled_interval(table[name].to_numpy(dtype=np.float64), ratio, confidence)
            intervals[name] = [max(0.0, low), min(1.0, high)]
        else:
            n = len(cells[0][1])
            rate = Measured(round(means[name] * n), n, confidence)
            intervals[name] = [rate.low, rate.high]
    return {
        "name": method.name,
        "about": method.about,
        "role": method.role,
        **means,
        "intervals": intervals,
        "batch_retrieval_error": {
            str(b): float(table[f"retrieval_error_batch_{b}"].mean())
            for b in config.compare.batches
            if f"retrieval_error_batch_{b}" in table and not table[f"retrieval_error_batch_{b}"].isna().any()
        },
        "stored": cells[0][0]["methods"][method.name]["stored_bytes"],
        "seconds": {phase: float(table[f"{phase}_seconds"].mean()) for phase in ("train", "fit", "test")},
        "peak_bytes": int(table["peak_bytes"].max()),
        "against_reference": None if method.name == config.compare.reference else _against(method.name, cells, ratio, config),
    }


def _against(name: str, cells: list[tuple[dict, pd.DataFrame]], ratio: float, config: RunConfig) -> dict[str, Any]:
    out = {}
    for what, column in (("retrieval_error", "task"), ("error", "cluster")):
        pairs = [_wrong(frame, name, column, config.compare.reference) for _, frame in cells]
        if len(pairs) == 1:
            found = paired(*pairs[0], config.bounds.confidence)
            out[what] = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
            continue
        differences = np.array([a.mean() - b.mean() for a, b in pairs])
        low, high = resampled_interval(differences, ratio, config.bounds.confidence)
        spread = np.sqrt((1 / len(pairs) + ratio) * differences.var(ddof=1))
        p = float(2 * stats.t.sf(abs(differences.mean()) / spread, len(pairs) - 1)) if spread > 0 else float(differences.mean() == 0)
        out[what] = {"difference": float(differences.mean()), "low": low, "high": high, "p": p}
    return out


def _wrong(frame: pd.DataFrame, name: str, column: str, reference: str) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    true: Int[np.ndarray, " n"] = frame[column].to_numpy()
    return frame[f"{name}:{column}"].to_numpy() != true, frame[f"{reference}:{column}"].to_numpy() != true


def _holm(rows: list[dict[str, Any]]) -> None:
    """Add `p_holm`, corrected over the methods that are compared (Holm 1979)."""
    for what in ("retrieval_error", "error"):
        found = sorted((row["against_reference"][what] for row in rows if row["against_reference"]), key=lambda f: f["p"])
        least = 0.0
        for j, item in enumerate(found):
            least = max(least, min(1.0, (len(found) - j) * item["p"]))
            item["p_holm"] = least


_HEADER = (
    "",
    "accuracy",
    "interval",
    "retrieval error",
    "interval",
    "against reference",
    "told accuracy",
    "cumulative",
    "forgetting",
    "forward",
    "stored MB",
    "train s",
    "test s",
)


def table_rows(summary: dict[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The comparison as text, a row for each method."""
    sizes = list(map(str, summary["config"]["compare"]["batches"]))
    header = (*_HEADER, *(f"B = {b}" for b in sizes))
    body = []
    for row in summary["methods"]:
        versus = row["against_reference"]
        shown = "reference" if versus is None else _difference(versus["retrieval_error"])
        forward = row["forward_transfer"]
        cells = [
            f"({row['name']})" if row["role"] == "control" else row["name"],
            f"{row['accuracy']:.3f}",
            "{:.3f}-{:.3f}".format(*row["intervals"]["accuracy"]),
            f"{row['retrieval_error']:.3f}",
            "{:.3f}-{:.3f}".format(*row["intervals"]["retrieval_error"]),
            shown,
            f"{row['told_accuracy']:.3f}",
            f"{row['cumulative_accuracy']:.3f}",
            f"{row['forgetting']:.3f}",
            "-" if forward is None else f"{forward:+.3f}",
            f"{sum(row['stored'].values()) / 1e6:.1f}",
            f"{row['seconds']['train']:.0f}",
            f"{row['seconds']['test']:.1f}",
        ]
        body.append([*cells, *("-" if b not in row["batch_retrieval_error"] else f"{row['batch_retrieval_error'][b]:.3f}" for b in sizes)])
    return header, body


def _difference(found: dict[str, float]) -> str:
    star = " *" if found["p_holm"] < 0.05 else ""
    return f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){star}"


LEGEND = (
    "accuracy: class right without being told the task; retrieval error: task wrong, one document at a time; told accuracy: "
    "class right if the task is told; cumulative: mean over stages of the mean over tasks so far; forgetting: fall from a task's best; forward: gain over an "
    "adapter trained alone, task told. B = n: a leak control, not a method: error if n documents known to be of one task are scored "
    "together. *: differs from the reference in retrieval error after Holm's correction. (name): a control."
)


def markdown(summary: dict[str, Any]) -> str:
    """The comparison as a Markdown page."""
    header, body = table_rows(summary)
    seeds = len({c["seed"] for c in summary["cells"]})
    lines = [
        f"# {summary['stream']}: {len(summary['tasks'])} tasks, {seeds} seed{'s' if seeds > 1 else ''}, {len(summary['cells'])} cells",
        "",
        f"Documents a cell: {', '.join(f'{k} {v}' for k, v in summary['documents'].items())}. Reference: {summary['reference']}.",
        "",
        "| " + " | ".join(header) + " |",
        "| " + " | ".join("---" for _ in header) + " |",
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        LEGEND,
        "",
        "## What each method stores, in bytes (first cell)",
        "",
        *(f"- {row['name']} ({row['about']}): " + ", ".join(f"{k} {v:,}" for k, v in row["stored"].items()) for row in summary["methods"]),
    ]
    return "\n".join(lines) + "\n"
