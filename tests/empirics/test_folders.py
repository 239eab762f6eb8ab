"""Comparisons and ablations that somebody else wrote: what is read of them is checked, and no name in them leads elsewhere."""

from __future__ import annotations

import json

import pytest

from empirics.comparisons import ablation_table, standings
from empirics.figures.folders import open_ablation, open_comparison
from theory.errors import InputError

METHODS = [
    {"name": name, "role": role, "forgetting": f} for name, role, f in (("a", "method", 0.1), ("b", "method", 0.2), ("c", "control", 0.9))
]
CELL = {"tasks": ["x", "y"], "methods": {name: {"retrieval_matrix": [[1.0], [0.5, 1.0]]} for name in "abc"}}


def written(folder, cell=CELL, **changes):
    summary = {"schema_version": standings.SCHEMA, "reference": "a", "methods": METHODS, "cells": [{"seed": 0, "order": 0}], **changes}
    (folder / "comparison.json").write_text(json.dumps(summary))
    (folder / "cells" / "seed0-order0").mkdir(parents=True)
    (folder / "cells" / "seed0-order0" / "cell.json").write_text(json.dumps(cell))
    return folder


def test_a_sound_comparison(tmp_path):
    found = open_comparison(written(tmp_path))
    assert found.contrast() == ["a", "b"] and found.retrieval_matrix("b") == ([[1.0], [0.5, 1.0]], ["x", "y"])


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": None},
        {"methods": []},
        {"methods": [{"name": "a", "role": "method"}]},
        {"methods": [{"name": "a", "role": "method", "forgetting": "0.1"}]},
        {"cells": [{"seed": "../..", "order": 0}]},
        {"reference": ["a"]},
    ],
)
def test_a_damaged_comparison_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=r"comparison\.json: is damaged"):
        open_comparison(written(tmp_path, **changes))


@pytest.mark.parametrize(
    "cell",
    [
        [],
        {"tasks": ["x"]},
        {**CELL, "tasks": ["x"]},
        {**CELL, "methods": {"b": {"retrieval_matrix": [[1.0], [0.5]]}}},
        {**CELL, "methods": {}},
    ],
)
def test_a_damaged_cell_is_refused(tmp_path, cell):
    with pytest.raises(InputError, match=r"cell\.json"):
        open_comparison(written(tmp_path, cell)).retrieval_matrix("b")


def test_a_comparison_of_controls_has_no_contrast(tmp_path):
    assert open_comparison(written(tmp_path, methods=[METHODS[2]])).contrast() == ["a"]


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (None, "is damaged"),
        ([{"run": "base"}], "is damaged"),
        ([{"group": "", "run": "../elsewhere"}], "lies outside its folder"),
        ([{"group": "", "run": "/etc"}], "lies outside its folder"),
        ([{"group": "", "run": "\ud800"}], "lies outside its folder"),
        ([{"group": "", "run": "a\0b"}], "lies outside its folder"),
        ([{"group": "", "run": "link"}], "lies outside its folder"),
    ],
)
def test_an_ablation_whose_runs_are_not_its_own_is_refused(tmp_path, variants, expected):
    folder = tmp_path / "ablation"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / "ablation.json").write_text(json.dumps({"schema_version": ablation_table.SCHEMA, "variants": variants}))
    with pytest.raises(InputError, match=expected):
        open_ablation(folder)


def test_a_run_of_an_impossible_name_is_no_folder(tmp_path):
    summary = {"schema_version": ablation_table.SCHEMA, "variants": [{"group": "g", "run": "n" * 300}]}
    (tmp_path / "ablation.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="is no folder"):
        open_ablation(tmp_path).reports("g")
