"""`slack.parquet`: the pieces of every rung's excess, from bounds and measured errors."""

from __future__ import annotations

import numpy as np

from empirics.audit.bounds import RUNGS, TOLERANCE
from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally

_ROBUST = ("L7", "L9", "L10", "L11", "L12")


def check_slack(files: RunFiles) -> Check:
    """Every piece, in decimal orders, overall and of every task."""
    tally = Tally("slack", "the pieces of every rung's excess over the measured error, overall and of every task", "recomputed", TOLERANCE)
    expected_rows = 0
    for arm, name in files.laws:
        rows = files.bounds_of(arm, name)
        wrong = (files.test[f"{arm}-{files.dimension}:retrieved"] != files.test["task"]).to_numpy()
        task = files.test["task"].to_numpy()
        for told in files.part(files.slack, arm, name).to_dict("records"):
            overall = told["level_of"] == "overall"
            key = (told["level_of"], None if overall else int(told["task"]))
            where = f"slack.parquet, {arm}, {name}, {'overall' if overall else files.names[key[1]]}, {told['rung']}"
            if (key, told["rung"]) not in rows:
                tally.find(where, "stands for no row of bounds.parquet")
                continue
            row, error = rows[key, told["rung"]], float(wrong.mean() if overall else wrong[task == key[1]].mean())
            tally.near(f"{where}: reference", told["reference"], error)
            tally.near(f"{where}: value", told["value"], row["value"])
            tally.same(f"{where}: vacuous", bool(told["vacuous"]), bool(row["vacuous"]))
            for piece, value in _pieces(told["rung"], rows, key, error).items():
                tally.near(f"{where}: {piece}", told[piece], value)
        expected_rows += (1 + len(np.unique(task))) * len(RUNGS)
    tally.same("slack.parquet: rows", len(files.slack), expected_rows)
    return tally.check()


def _pieces(rung: str, rows: dict, key: tuple[str, int | None], error: float) -> dict[str, float]:
    with np.errstate(divide="ignore"):
        e = np.log10(error) if error > 0 else np.nan
    log_s = rows[key, "L6"]["log_estimate"]
    s, u, r = (x / np.log(10) for x in (log_s, rows[key, "L5"]["log_value"], rows[key, rung]["log_value"]))
    out = dict.fromkeys(("assumption", "union", "inequality", "robustness", "statistical"), 0.0)
    if rung == "L8":
        out["statistical"] = r - e
    else:
        out["assumption"] = s - e
        if rung == "L6":
            out["statistical"] = r - s
        elif rung in ("L5", "L5b"):
            out["union"] = r - s
        else:
            out["union"] = u - s
            out["robustness" if rung in _ROBUST else "inequality"] = r - u
    return out | {"total": r - e}
