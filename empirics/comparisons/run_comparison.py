"""Runs side by side: what was set otherwise, what was measured, and how the measured errors differ, on the same documents or on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from empirics.files.claim import flat
from empirics.files.record import read_parquet
from empirics.reports.metrics import Paired, holm, paired, unpaired
from empirics.reports.report import Arm, Report, Retrieval
from empirics.runs.run_folder import FinishedRun, read_run
from theory.errors import InputError

SCHEMA = 1
# Columns of predictions.parquet by which two runs are seen to have judged the same documents.
_DOCUMENT = ["document", "task", "label", "cluster"]
# Settings that say where data lie, not which.
_PLACES = ("download", "hub")
_ABSENT = "not known to this run"


def compare_runs(folders: Sequence[Path | str]) -> dict[str, Any]:
    """Set finished runs side by side.

    Every run is tested against the first. Where both judged the same documents the difference is paired (McNemar's exact test);
    where they did not, it is that of two independent samples (Fisher's exact test). p-values are Holm-corrected: those of the
    headlines over the runs, those of other retrievals and of single tasks over all of these.

    Parameters
    ----------
    folders : sequence of Path or str
        At least two runs; their reports are read, not made again.

    Returns
    -------
    dict
        JSON-ready: `runs`, `settings` and `environment` that differ, `documents` (whether each run judged the documents of the
        first, and if not, why), `differences`.

    Raises
    ------
    InputError
        For fewer than two folders, one given twice, or one that holds no finished run.
    """
    if not 2 <= len(folders) <= len(ascii_uppercase):
        raise InputError("RUNS", f"are {len(folders)}; give from two to {len(ascii_uppercase)} run folders")
    paths = [Path(folder) for folder in folders]
    for j, folder in enumerate(paths):
        if folder.resolve() in {other.resolve() for other in paths[:j]}:
            raise InputError(str(folder), "is given twice")
    runs = [read_run(folder) for folder in paths]
    predictions = [_predictions(run) for run in runs]
    documents = [_other_documents(runs[0], run, predictions[0], frame) for run, frame in zip(runs, predictions, strict=True)]
    return {
        "schema_version": SCHEMA,
        "confidence": runs[0].report.overall.measured.confidence,
        "runs": [_summary(letter, run) for letter, run in zip(ascii_uppercase, runs, strict=False)],
        "settings": _differing([flat(run.report.run["config"]) for run in runs]),
        "environment": _differing([flat(run.report.run["environment"]) for run in runs]),
        "documents": [{"same": reason is None, "why": reason} for reason in documents],
        "differences": _differences(runs, predictions, documents),
    }


def _summary(letter: str, run: FinishedRun) -> dict[str, Any]:
    report, about = run.report, run.report.run
    head = report.headline
    key = f"{head.arm}-{head.dimension}"
    return {
        "letter": letter,
        "folder": str(run.folder),
        "stream": about.get("stream", about["config"]["stream"]["name"]),
        "seed": about["config"]["seed"],
        "batch": about["config"]["bounds"]["batch"],
        "written_as": run.written_as,
        "exchangeable": about.get("exchangeable", True),
        "headline": head.model_dump(),
        "overall": report.overall.model_dump(mode="json"),
        "tasks": [unit.model_dump(mode="json") for unit in report.tasks],
        "laws": [_law(arm) for arm in report.arms],
        "retrieval": [entry.model_dump(mode="json", exclude={"task_error"}) for entry in report.retrieval],
        "documents": about["documents"],
        "seconds": sum(about["phases_seconds"].values()),
        "peak_memory_bytes": about["peak_memory_bytes"],
        "signature_bytes": about["signatures"].get(key, {}).get("bytes"),
    }


def _law(arm: Arm) -> dict[str, Any]:
    """An arm under one query law, overall."""
    return {"arm": arm.arm, "dimension": arm.dimension, "law": arm.law, "overall": arm.overall.model_dump(mode="json")}


def _differing(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is not the same in all tables, with each one's value."""
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [{"key": key, "values": [table.get(key, _ABSENT) for table in tables]} for key in keys]
    return [row for row in rows if any(value != row["values"][0] for value in row["values"])]


# --- the same documents, or others -----------------------------------------------------------------------------------


def _predictions(run: FinishedRun) -> pd.DataFrame:
    """Test documents with what was retrieved for them, in agreement with the report."""
    path = run.folder / "predictions.parquet"
    frame = read_parquet(path)
    for entry in run.report.retrieval:
        column = f"{entry.arm}-{entry.dimension}:retrieved"
        missing = {column, *_DOCUMENT} - set(frame)
        if missing:
            raise InputError(str(path), f"lacks the column {min(missing)}")
        if (len(frame), int((frame[column] != frame["task"]).sum())) != (entry.measured.n, entry.measured.errors):
            raise InputError(str(path), "does not agree with report.json; proteus-bounds report makes that again")
    return frame


def _other_documents(first: FinishedRun, other: FinishedRun, seen: pd.DataFrame, frame: pd.DataFrame) -> str | None:
    """Why two runs are not known to have judged the same documents; None if they are.

    A document is a number within its stream, so the streams must have been read and dealt alike; that the data behind equal settings
    are equal cannot be seen from the folders.
    """
    mine, its = (run.report.run for run in (first, other))
    if mine["config"]["seed"] != its["config"]["seed"]:
        return "the seeds differ, by which documents are dealt"
    streams = [{key: value for key, value in run["config"]["stream"].items() if key not in _PLACES} for run in (mine, its)]
    if changed := [row["key"] for row in _differing(streams)]:
        return f"the settings of the stream differ ({', '.join(changed)})"
    if mine["tasks"] != its["tasks"]:
        return "the tasks or their classes differ"
    if len(seen) != len(frame) or not (seen[_DOCUMENT].to_numpy() == frame[_DOCUMENT].to_numpy()).all():
        return "the test documents differ"
    return None


# --- differences -----------------------------------------------------------------------------------------------------


def _differences(runs: Sequence[FinishedRun], predictions: Sequence[pd.DataFrame], documents: Sequence[str | None]) -> list[dict[str, Any]]:
    """Every other run against the first: of each arm that both have, overall, and of the first one's headline in every task."""
    confidence = runs[0].report.overall.measured.confidence
    rows = []
    for j in range(1, len(runs)):
        reports = (runs[0].report, runs[j].report)
        for mine, its in _matched(*reports):
            wrong = [_wrong(frame, entry) for frame, entry in ((predictions[0], mine), (predictions[j], its))]
            named = {"run": j, "arm": mine.arm, "dimensions": [mine.dimension, its.dimension], "arms": [mine.arm, its.arm]}
            row = _difference(wrong[0], wrong[1], documents[j] is None, confidence)
            headline = _is_headline(reports, mine, its)
            rows.append({**named, "unit": "overall", "headline": headline, **row})
            if not headline:
                continue
            tasks = [frame["task"].to_numpy() for frame in (predictions[0], predictions[j])]
            names = [[task["name"] for task in report.run["tasks"]] for report in reports]
            for name in names[0]:
                if name in names[1]:
                    first, other = (w[t == known.index(name)] for w, t, known in zip(wrong, tasks, names, strict=True))
                    row = _difference(first, other, documents[j] is None, confidence)
                    rows.append({**named, "unit": name, "headline": False, **row})
    for family in (True, False):
        own = [row for row in rows if row["headline"] == family]
        for row, p in zip(own, holm(np.array([row["p"] for row in own])), strict=True):
            row["p_holm"] = float(p)
    return rows


def _matched(mine: Report, its: Report) -> list[tuple[Retrieval, Retrieval]]:
    """Retrievals of both runs that correspond: the headlines, then each arm in the runs' own dimensions, then in equal ones."""
    out = [(_entry(mine, mine.headline.arm, mine.headline.dimension), _entry(its, its.headline.arm, its.headline.dimension))]
    for entry in mine.retrieval:
        own = entry.dimension == mine.headline.dimension
        out.append((entry, _entry(its, entry.arm, its.headline.dimension if own else entry.dimension)))
    pairs = [(a, b) for a, b in out if a is not None and b is not None]
    return list({(a.arm, a.dimension, b.arm, b.dimension): (a, b) for a, b in pairs}.values())


def _entry(report: Report, arm: str, dimension: int) -> Retrieval | None:
    return next((r for r in report.retrieval if (r.arm, r.dimension) == (arm, dimension)), None)


def _is_headline(reports: tuple[Report, Report], mine: Retrieval, its: Retrieval) -> bool:
    heads = [(report.headline.arm, report.headline.dimension) for report in reports]
    return heads == [(mine.arm, mine.dimension), (its.arm, its.dimension)]


def _wrong(frame: pd.DataFrame, entry: Retrieval) -> Bool[np.ndarray, " n"]:
    return (frame[f"{entry.arm}-{entry.dimension}:retrieved"] != frame["task"]).to_numpy()


def _difference(mine: Bool[np.ndarray, " n"], its: Bool[np.ndarray, " k"], same: bool, confidence: float) -> dict[str, Any]:
    """The other run's error less the first one's."""
    found = paired(its, mine, confidence) if same else unpaired(its, mine, confidence)
    rates = {"errors": [float(mine.mean()), float(its.mean())], "n": [mine.size, its.size], "paired": same}
    counts: dict[str, int | None] = {"only_first": None, "only_other": None}
    if isinstance(found, Paired):
        counts = {"only_first": found.only_second, "only_other": found.only_first}
    return {**rates, **counts, **{key: asdict(found)[key] for key in ("difference", "low", "high", "p")}}
