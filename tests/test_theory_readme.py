"""The page of theorems: what it cites exists, what cites it is answered, its orders hold, and its Python runs as printed."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

import theory
from theory import RUNGS, Ball, ladder
from theory.testing import Setting, settings

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "theory" / "README.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.S)
# What stands before a heading's colon is the key by which docstrings cite it; keys joined by commas or "and" serve alone, too.
HEADINGS = re.findall(r"^#+ (.*)$", PROSE, flags=re.M)
KEYS = {heading.split(":")[0].split(". ")[-1] for heading in HEADINGS}
KEYS |= {part for key in KEYS for part in re.split(", | and ", key)}
NAMES = sorted(set(re.findall(r"`(theory(?:\.\w+)+)`", PROSE)))
NODES = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PROSE)))
SOURCES = sorted((ROOT / "theory").rglob("*.py"))


def _module(name: str) -> tuple[str, list[str]]:
    """The longest prefix that is a module, and the attributes after it. (`theory.slack` is both a module and a function.)"""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:size])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            return ".".join(parts[:size]), parts[size:]
    raise AssertionError(name)


def _slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _rows(heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, without its head."""
    lines = TEXT[TEXT.index(f"\n{heading}\n") :].splitlines()
    start = next(j for j, line in enumerate(lines) if line.startswith("| ---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


@pytest.mark.parametrize("name", NAMES)
def test_every_name_exists_and_its_module_cites_the_page_back(name):
    module, attributes = _module(name)
    found = importlib.import_module(module)
    for attribute in attributes:
        found = getattr(found, attribute)
    assert attributes == [] or "theory/README.md" in Path(importlib.import_module(module).__file__).read_text("utf-8")


@pytest.mark.parametrize(("file", "node"), NODES)
def test_every_test_node_exists(file, node):
    path = ROOT / "tests" / "theory" / file
    path = path if path.is_file() else ROOT / "tests" / file
    assert node in {part.name for part in ast.parse(path.read_text("utf-8")).body if isinstance(part, ast.FunctionDef)}


def test_every_citation_of_the_page_names_one_of_its_keys():
    cited = 0
    for path in [*SOURCES, *(ROOT / "empirics").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for key in re.findall(r"theory/README\.md, ([^\n).:;`\"]+)", path.read_text("utf-8")):
            cited += 1
            assert key in KEYS, f"{path.name}: {key!r}"
    assert cited > 20


def test_every_rung_has_a_row_with_its_level_code_and_test():
    rows = _rows("## 2. The rungs")
    assert [re.sub(r"\[(\w+)\].*", r"\1", row[0]) for row in rows] == list(RUNGS)
    found = [ladder(*Setting(0, 2, (1, 1), 3.0, spaces=spaces).build(), simulations=10).overall for spaces in ("shared", "cross")]
    for name, (_, _, level, code, test) in zip(RUNGS, rows, strict=True):
        assert all(rungs[name].level in level for rungs in found), name
        assert "`theory." in code and "::" in test


def test_every_public_name_is_on_the_page():
    shown = {name.split(".")[-1] for name in NAMES} | set(re.findall(r"`(\w+)`", PROSE))
    assert set(theory.__all__) <= shown, sorted(set(theory.__all__) - shown)


def test_links_resolve():
    anchors = [_slug(heading) for heading in HEADINGS]
    assert len(set(anchors)) == len(anchors)
    links = re.findall(r"\]\(([^)\s]+)\)", PROSE)
    assert links
    for link in links:
        file, _, anchor = link.partition("#")
        assert anchor in anchors if not file else (PAGE.parent / file).exists(), link


def test_mathematics_survives_markdown():
    prose = re.sub(r"`[^`]*`", "", PROSE)
    for paragraph in prose.split("\n\n"):
        assert paragraph.count("$") % 2 == 0, paragraph
    for formula in re.findall(r"\$\$?([^$]+)\$\$?", prose):
        # Markdown takes the backslash from escaped punctuation, and a bar or an angle bracket for its own.
        assert not re.search(r"\\[,;:!{}|%#_*]|[|<>*]", formula), formula


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_python_blocks_run_as_printed(block):
    scope: dict[str, object] = {}
    exec(compile(BLOCKS[block], PAGE.name, "exec"), scope)
    test = scope.get("test_contract")
    if test is None:
        return
    profile = hypothesis_settings.get_current_profile_name()
    hypothesis_settings.load_profile("contract")
    try:
        for parameters in test.pytestmark[0].args[1]:
            try:
                test(*parameters.values)
            except pytest.skip.Exception:
                continue
    finally:
        hypothesis_settings.load_profile(profile)


@given(settings())
@hypothesis_settings(max_examples=20)
def test_proved_orders_hold(setting):
    """The table of section 5 is what is tested."""
    rows = _rows("## 5. Orders")
    assert len(rows) >= 9
    rule, law = setting.build()
    found = ladder(rule, law, simulations=0, intersections=1, ball=Ball("kl", 0.05), units="overall").overall
    for order, rules, _ in rows:
        above, below = re.findall(r"`(L\w+)`", order)
        if rules == "all" or not rule.slack.any():
            # Each side may be off by the accuracy of an exact tail.
            assert found[above].log_value >= found[below].log_value - 1e-8, order
