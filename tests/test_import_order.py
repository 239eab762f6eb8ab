"""One direction: theory knows nothing of torch or empirics; no package imports figures, notebooks or tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "theory").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "theory")))
def test_theory_stands_alone(path):
    assert not _imports(path) & {"torch", "transformers", "peft", "sklearn", "empirics", "paper_figures", "tests"}


@pytest.mark.parametrize("path", sorted((ROOT / "empirics").glob("*.py")), ids=lambda p: p.name)
def test_empirics_does_not_reach_up(path):
    assert not _imports(path) & {"paper_figures", "tests", "notebooks", "pickle"}


def test_importing_theory_loads_no_torch():
    code = "import sys, theory; sys.exit(not {'torch', 'sklearn', 'sympy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
