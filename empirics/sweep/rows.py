"""The rows of the table that one cell gives: one for each arm of a run, and one for each method of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from empirics.comparisons.ablation_table import arm_row
from empirics.comparisons.standings import cell_rows
from empirics.config import RunConfig
from empirics.reports.report import Report
from empirics.runs.evaluation import ARMS
from theory.certificates import clopper_pearson


def run_rows(config: RunConfig, report: Report) -> list[dict[str, Any]]:
    """Each arm of a run in the dimension of its signatures; intervals are Clopper-Pearson's, as the report's."""
    n, rows = report.overall.measured.n, []
    for arm in ARMS:
        row = arm_row(config, arm, report)
        low, high = clopper_pearson(round((1 - row["accuracy"]) * n), n, config.bounds.confidence)
        # A number called a bound must say whether it is one: see `guarantees`.
        told = {"below_one": ", ".join(row.pop("below_one")), "guarantees": ", ".join(row.pop("guarantees"))}
        rows.append({"method": row.pop("arm"), "n": n, **row, "accuracy_low": 1 - high, "accuracy_high": 1 - low, **told})
    return rows


def comparison_rows(config: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """Each method of one seed and order of a comparison."""
    return cell_rows(folder, config.bounds.confidence)
