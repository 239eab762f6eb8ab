"""Files that a page carries inside itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from empirics.page.model import Download
from empirics.reports.report import Arm, Report, Unit

# A browser opens no longer address than this, and a file inside a page is one; base64 makes three bytes four.
_LONGEST = 1_500_000


def bounds_csv(report: Report) -> Download:
    """Every bound of every arm as CSV; without those of single clusters if they are too many for a page."""
    table = bounds_table(report)
    content = _csv(table)
    said = "every rung of every retrieval and query law, overall, for each task and for each true cluster, with what it is worth"
    if len(content) > _LONGEST:
        content = _csv(table[table["unit_of"] != "cluster"])
        said = "every rung of every retrieval and query law, overall and for each task, with what it is worth (clusters: report.json)"
    return Download("bounds.csv", "text/csv", content, said)


def bounds_table(report: Report) -> pd.DataFrame:
    """One row for each arm, query law, unit and rung."""
    return pd.DataFrame([row for arm in report.arms for row in _rows(arm)])


def _rows(arm: Arm) -> list[dict[str, object]]:
    units: list[tuple[str, Unit]] = [("overall", arm.overall)]
    units += [("task", unit) for unit in arm.tasks] + [("cluster", unit) for unit in arm.clusters]
    return [
        {
            "arm": arm.arm,
            "dimension": arm.dimension,
            "law": arm.law,
            "unit_of": kind,
            "unit": unit.name,
            "n": unit.measured.n,
            "errors": unit.measured.errors,
            "measured": unit.measured.error,
            "low": unit.measured.low,
            "high": unit.measured.high,
            "rung": name,
            "value": rung.value,
            "log_value": rung.log_value,
            "level": rung.level,
            "confidence": rung.confidence,
            "guarantee": rung.guarantee,
            "vacuous": rung.vacuous,
            "holds": rung.holds,
            "law_verdict": unit.law.verdict,
            "broken_assumption": rung.broken_assumption,
        }
        for kind, unit in units
        for name, rung in unit.rungs.items()
    ]


def _csv(table: pd.DataFrame) -> bytes:
    # The mark of byte order tells a spreadsheet that the names are UTF-8.
    return table.to_csv(index=False, lineterminator="\n").encode("utf-8-sig")


def settings_file(config: Mapping[str, Any]) -> Download:
    """The settings of the run, as `verify --config` reads them."""
    content = (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()
    return Download(
        "settings.yaml", "application/yaml", content, "all settings: proteus-bounds verify --config settings.yaml runs them again"
    )
