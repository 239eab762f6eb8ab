"""The README's Python runs exactly as printed."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), flags=re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    np.savez("signatures.npz", means=np.array([[0.0, 0], [4, 0], [0, 4]]), covariances=np.stack([np.eye(2)] * 3), task=np.array([0, 1, 2]))
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "L5" in capsys.readouterr().out


def _tables():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "docs" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_that_of_the_kept_results():
    page, tables = README.read_text("utf-8"), _tables()
    assert set(re.findall(r"<!-- results: ([\w-]+) -->", page)) == set(tables.blocks())
    assert tables.rendered(page) == page


def test_numbers_trace_to_fields_of_the_kept_report():
    """By hand once more, without the code that writes the tables."""
    report = json.loads((ROOT / "docs" / "results" / "default.json").read_text())
    page = README.read_text("utf-8")
    for unit in report["tasks"]:
        (row,) = re.findall(rf"^\| {re.escape(unit['name'])} \|.*$", page, flags=re.M)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:3] == [str(unit["measured"]["n"]), f"{unit['measured']['error']:.3f}"]
        for name, cell in zip(("L1b", "L2", "L3", "L5", "L5b", "L6", "L8"), cells[4:11], strict=True):
            rung = unit["rungs"][name]
            if not rung["vacuous"]:
                # Three digits, and never below the bound.
                assert rung["value"] <= float(cell.split()[-1]) < rung["value"] * 1.01
            assert cell.endswith("vacuous") == rung["vacuous"]
            assert cell.startswith("[x]") == (not rung["guarantee"] and not rung["vacuous"] and rung["holds"])
            assert cell.startswith("!") == (not rung["holds"])
