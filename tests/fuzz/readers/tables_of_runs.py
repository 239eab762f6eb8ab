"""`empirics.figures.folders`: comparisons and ablations that others made."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st
from made import run
from mutator import Files
from target import Target

from empirics.comparisons import ablation_table, standings
from empirics.figures.folders import open_ablation, open_comparison

_VARIANT = {"group": "", "run": "runs/base", "variant": "base"}
_METHOD = {"name": "proteus", "role": "method", "forgetting": 0.1}
_CELL = {"tasks": ["a", "b"], "methods": {"proteus": {"retrieval_matrix": [[1.0], [0.5, 1.0]]}}}


def _ablation(run_: str = "runs/base") -> Files:
    summary = {"schema_version": ablation_table.SCHEMA, "variants": [{**_VARIANT, "run": run_}, {**_VARIANT, "group": "rank"}]}
    inside = {f"runs/base/{name}": run()[name] for name in ("run.json", "report.json", "slack.parquet")}
    return {"ablation.json": json.dumps(summary).encode(), **inside}


def _comparison() -> Files:
    summary = {"schema_version": standings.SCHEMA, "reference": "proteus", "methods": [_METHOD], "cells": [{"seed": 0, "order": 0}]}
    return {"comparison.json": json.dumps(summary).encode(), "cells/seed0-order0/cell.json": json.dumps(_CELL).encode()}


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    if draw(st.booleans()):
        return _ablation(
            draw(st.sampled_from(["runs/base", "../../../../etc", "/etc", "", ".", "runs/../..", "\0", "a" * 300]) | st.text(max_size=5))
        )
    files = dict(_comparison())
    summary = json.loads(files["comparison.json"])
    summary[draw(st.sampled_from(list(summary)))] = draw(
        st.none() | st.integers() | st.lists(st.none() | st.just({"seed": "../..", "order": 0}), max_size=2) | st.just({})
    )
    files["comparison.json"] = json.dumps(summary).encode()
    return files


def _read(folder: Path) -> object:
    if (folder / "ablation.json").exists():
        return open_ablation(folder).reports("rank")
    found = open_comparison(folder)
    return [found.retrieval_matrix(name) for name in found.contrast()]


TARGET = Target(
    "comparisons and ablations", lambda: [_ablation(), _comparison()], _read, _structured(), links=("/dev/zero", "nowhere", ".", "../..")
)
