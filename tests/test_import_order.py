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


@pytest.mark.parametrize("path", sorted((ROOT / "empirics").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "empirics")))
def test_empirics_does_not_reach_up(path):
    assert not _imports(path) & {"paper_figures", "tests", "notebooks", "pickle"}


# From the ground up: what stands in a row uses what stands above it, never what is in its own row or below.
LAYERS = (
    ("config", "processes", "seeding"),
    ("files", "reports"),
    ("data", "retrieval"),
    ("encoders",),
    ("adapters",),
    ("runs", "methods"),
    ("comparisons", "routing"),
    ("figures", "sweep"),
    ("page",),
    ("audit",),
    ("cli",),
    ("entry",),
)


def test_packages_of_empirics_use_only_those_above_them_in_the_list():
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    for path in sorted((ROOT / "empirics").rglob("*.py")):
        name = path.relative_to(ROOT / "empirics").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        used = {
            module.split(".")[1] if "." in module else alias.name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom) and (module := node.module or "").split(".")[0] == "empirics"
            for alias in node.names
        }
        for other in used - {name}:
            assert layer[other] < layer[name], f"{path.relative_to(ROOT)} uses empirics.{other}"


def test_every_public_name_of_empirics_lives_where_it_says():
    import empirics

    assert set(empirics.__all__) == set(empirics._HOMES) and set(empirics.__all__) <= set(dir(empirics))
    for name in empirics.__all__:
        found = getattr(empirics, name)
        assert found.__module__ == f"empirics.{empirics._HOMES[name]}", name
    with pytest.raises(AttributeError, match="nothing"):
        empirics.nothing  # noqa: B018


@pytest.mark.parametrize("path", sorted((ROOT / "paper_figures").glob("*.py")), ids=lambda p: p.name)
def test_figures_train_nothing(path):
    assert not _imports(path) & {"torch", "transformers", "peft", "sklearn", "tests", "notebooks", "pickle"}


def test_nobody_imports_the_figures():
    sources = [path for name in ("theory", "empirics", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    assert sources
    for path in sources:
        assert "paper_figures" not in _imports(path), path.name


@pytest.mark.parametrize("package", ["theory", "empirics"])
def test_only_the_plotting_modules_need_matplotlib(package):
    # At the top of a module: inside a function it is loaded only when something is drawn.
    for path in (ROOT / package).rglob("*.py"):
        top = {
            name.split(".")[0]
            for node in ast.parse(path.read_text("utf-8")).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        assert "matplotlib" not in top or path.name in ("plotting.py", "marks.py"), path


def test_drawing_a_run_loads_no_torch():
    code = "import sys, paper_figures.command, empirics.figures.plotting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_importing_theory_loads_nothing_slow():
    slow = {"torch", "sklearn", "sympy", "matplotlib", "pandas", "scipy.stats", "scipy.optimize"}
    code = f"import sys, theory; sys.exit(', '.join({slow} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_command_loads_nothing_slow_to_print_its_help():
    slow = {"torch", "transformers", "sklearn", "sympy", "matplotlib", "pandas", "pyarrow", "pydantic", "scipy.stats", "scipy.optimize"}
    code = f"""
import sys
from empirics.entry import main
sys.argv = ["proteus-bounds", "--help"]
try:
    main()
except SystemExit as done:
    assert not done.code
sys.exit(', '.join({slow} & set(sys.modules)) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "verify" in done.stdout, done.stderr
