"""Every notebook runs from a fresh kernel, its stored outputs are those that running it gives, and its sliders move the bounds."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path

import pytest

from theory.planner import canonical_bound

FOLDER = Path(__file__).parent.parent / "notebooks"
_spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

NAMES = [path.name for path in tool.notebooks()]
LARGEST = 300_000
# What takes the place of the settings where the stored ones train for too long: then outputs are of the same kinds, with other numbers.
TINY = {
    "05-a-real-run-from-start-to-report.ipynb": """
PRESET = "small"
CHANGES = ["bounds.simulations=1000", "stream.tasks=[election-tweets, book-excerpts]", "stream.train_per_class=8",
    "stream.query_per_class=8", "stream.test_per_class=8", "backbone.max_length=12", "signature.dimension=4",
    "signature.covariance=full", "query_law.covariance=diagonal"]
OUT = None
""",
    "06-certify-your-own-peft-adapters.ipynb": """
TASKS = {"hardware": ["comp.sys.mac.hardware", "comp.graphics"], "sport": ["rec.sport.baseball", "rec.sport.hockey"]}
TRAINING = 16
SAMPLES = 12
SIMULATIONS = 1000
""",
}
SLIDERS = "01-bounds-in-five-minutes.ipynb"
MOVES = ((4.0, 16, 8), (8.0, 16, 8), (4.0, 40, 8), (4.0, 16, 2))
MOVED = f"""
import json
panel = next(value for value in Out.values() if hasattr(value, "children"))
seen = []
for place in {MOVES}:
    for slider, value in zip(panel.children, place):
        slider.value = value
    seen.append({{name: [bound.log_value, bound.vacuous] for name, bound in panel.result.items()}})
print(json.dumps(seen))
"""


@cache
def stored(name):
    return tool.read(FOLDER / name)


@cache
def executed(name):
    return tool.execute(stored(name), TINY.get(name, ""), MOVED if name == SLIDERS else "")


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)


def test_it_runs_without_errors_warnings_or_paths_of_a_machine(name):
    assert tool.flaws(executed(name)) == []


def test_what_is_stored_is_what_running_it_gives(name):
    """Tables and texts to a small tolerance in their numbers, figures by their presence; of what was trained otherwise only the kinds."""
    ours, theirs = stored(name).cells, executed(name).cells
    assert len(ours) == len(theirs) - (name == SLIDERS)
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        assert (one.source, one.id, one.metadata) == (other.source, other.id, other.metadata)
        kinds = [[(out.output_type, [kind for kind, _ in tool.texts(out)]) for out in cell.get("outputs", [])] for cell in (one, other)]
        assert kinds[0] == kinds[1], place
        if name in TINY:
            continue
        for left, right in zip(one.get("outputs", []), other.get("outputs", []), strict=True):
            for (kind, text), (_, again) in zip(tool.texts(left), tool.texts(right), strict=True):
                if kind != "image/png":
                    assert alike(text, again), f"cell {place}:\n{text}\n{again}"


def alike(text, again):
    """The same words, and numbers to 2%: simulations hang on the last digit of a sum, and so on the processor."""
    number = r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
    if re.sub(number, "#", text) != re.sub(number, "#", again):
        return False
    pairs = zip(re.findall(number, text), re.findall(number, again), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=0.02, abs_tol=0.005) for a, b in pairs)


def test_what_is_stored_is_small_and_clean(name):
    path = FOLDER / name
    assert tool.flaws(stored(name)) == [] and path.stat().st_size < LARGEST
    # In the form in which it is written again, so that running it changes nothing else.
    assert tool.normalised(stored(name)) == stored(name)
    assert stored(name).metadata.kernelspec.name == "python3"


def test_it_narrates(name):
    """A text at either end: what is learned and needed, what is a guarantee, where to go. No class, and one function at most."""
    cells = stored(name).cells
    opening, closing = cells[0].source, cells[-1].source
    assert "**You will learn**" in opening and "**You need**" in opening
    assert "## Which of these numbers are guarantees?" in closing and "**Where next.**" in closing
    code = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    made = [type(node) for node in ast.walk(code) if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(made) <= 1 and ast.ClassDef not in made


def test_links_and_names_of_files_lead_somewhere(name):
    text = "\n".join(cell.source for cell in stored(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((FOLDER / link).is_file() for link in links)
    files = re.findall(r"`((?:theory|empirics)/[\w/.]+\.\w+)`", text)
    assert all((FOLDER.parent / file).is_file() for file in files)


def test_the_table_names_every_notebook():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert re.findall(r"\]\((\d\d-[\w-]+\.ipynb)\)", text) == NAMES and len(NAMES) == 7


@pytest.mark.parametrize("tiny", TINY)
def test_settings_of_the_tests_are_all_settings_of_the_notebook(tiny):
    names = [
        [target.id for node in ast.parse(source).body if isinstance(node, ast.Assign) for target in node.targets]
        for source in (tool.settings_of(stored(tiny)).source, TINY[tiny])
    ]
    assert names[0] == names[1]


def test_a_slider_is_answered_with_the_bounds_of_where_it_stands():
    said = next(text for output in executed(SLIDERS).cells[-1].outputs for _, text in tool.texts(output) if text.startswith("["))
    answers = json.loads(said)
    assert len(answers) == len(MOVES)
    for (distance, dimension, tasks), answer in zip(MOVES, answers, strict=True):
        for rung in ("L1", "L3", "L5"):
            expected = canonical_bound(rung, dimension, tasks, 1, distance**2 / dimension)
            assert answer[rung] == [pytest.approx(expected.log_value, rel=1e-6, abs=1e-9), expected.vacuous], (rung, distance)
    start, farther, wider, fewer = answers
    assert farther["L5"] < start["L5"] and fewer["L5"] < start["L5"] and wider["L5"] == pytest.approx(start["L5"])


@pytest.mark.parametrize(
    ("kind", "fields", "flaw"),
    [
        ("error", {"ename": "ZeroDivisionError", "evalue": "division by zero"}, "ZeroDivisionError"),
        ("stream", {"name": "stderr", "text": "loading"}, "standard error"),
        ("stream", {"name": "stdout", "text": "it says UserWarning: old"}, "UserWarning"),
        ("stream", {"name": "stdout", "text": "read from /home/someone/data.csv"}, "a path of a machine"),
        ("display_data", {"data": {"text/html": "<td>/tmp/run</td>"}}, "a path of a machine"),
        ("display_data", {"data": {tool.WIDGET: {"model_id": "1"}}}, "the state of a widget"),
    ],
)
def test_flaws_are_found(kind, fields, flaw):
    output = tool.nbformat.v4.new_output(kind, **fields)
    cell = tool.nbformat.v4.new_code_cell("x", outputs=[output], execution_count=1)
    assert any(flaw in found for found in tool.flaws(tool.nbformat.v4.new_notebook(cells=[cell])))
    cell.outputs = [tool.nbformat.v4.new_output("stream", name="stdout", text="0.5 / 2 and theory/README.md")]
    assert tool.flaws(tool.nbformat.v4.new_notebook(cells=[cell])) == []
    cell.execution_count = 3
    assert "is number 3" in tool.flaws(tool.nbformat.v4.new_notebook(cells=[cell]))[0]
