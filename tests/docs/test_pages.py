"""Pages of the documentation, without Sphinx: their Python runs as printed, their commands exist, and what they name is there."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from pkgutil import walk_packages

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import empirics
import theory
from empirics.cli import app
from empirics.comparisons.ablation import read_variants
from empirics.config import CertifyConfig, RunConfig, load_certify_config, load_config
from empirics.routing.certify import certify
from empirics.runs.pipeline import run
from empirics.sweep.grid import read_grid

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if not {"_build", "api"} & set(p.parts))
TEXTS = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in [*PAGES, ROOT / "README.md"]}
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", flags=re.S | re.M)
NAMES = sorted({name for text in TEXTS.values() for name in re.findall(r"`((?:theory|empirics)(?:\.[A-Za-z]\w*)+)`", text)})
GROUPS = "|".join({**RunConfig.model_fields, **CertifyConfig.model_fields})
# Programs that need no check.
PLAIN = {".", "curl", "ls", "pip"}
# The least run that gives every file.
LEAST = {
    "stream": {"train_per_class": 10, "query_per_class": 10, "test_per_class": 8, "reservoir_per_class": 4, "classes_per_task": 2},
    "backbone": {"max_length": 16},
    "training": {"epochs": 1},
    "signature": {"dimension": 4},
    "bounds": {"simulations": 4000},
}


def _blocks(page: str, kind: str) -> list[str]:
    """Fenced blocks of a kind, without the indentation of the list that they stand in."""
    return [re.sub(rf"^{indent}", "", body, flags=re.M) for indent, info, body in FENCE.findall(TEXTS[page]) if info.strip() == kind]


def _with(kind: str) -> list[str]:
    return [page for page in TEXTS if page.startswith("docs") and _blocks(page, kind)]


def _execute(page: str) -> None:
    """Run the blocks of a page in order, as a reader would."""
    scope: dict[str, object] = {"__name__": "__main__"}
    for block in _blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of: a run, samples as the tutorial makes them, and a certificate."""
    folder, before = tmp_path_factory.mktemp("reader"), Path.cwd()
    os.chdir(folder)
    try:
        run(RunConfig.model_validate(LEAST), Path("runs/small-seed0"), quiet=True)
        _execute("docs/tutorial/first-certificate.md")
        # A few of each task are enough here.
        samples = pd.read_csv("samples.csv").groupby("task").head(16).reset_index(drop=True)
        samples.to_csv("samples.csv", index=False)
        adapters = {path.name: path for path in sorted(Path("runs/small-seed0/adapters").iterdir())}
        for rule, out in (("ratio", "certified"), ("all", "certified-all")):
            certify(adapters, samples, load_certify_config({"rule": rule, "backbone": {"max_length": 16}}), out=Path(out))
    finally:
        os.chdir(before)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("page", _with("python"))
def test_python_runs_as_printed(page, place, monkeypatch):
    monkeypatch.chdir(place)
    samples = Path("samples.csv").read_bytes()
    _execute(page)
    Path("samples.csv").write_bytes(samples)


@pytest.mark.slow
def test_tables_have_the_columns_that_the_reference_names(place):
    told = TEXTS["docs/reference/files.md"]
    for name in ("predictions", "calibration", "bounds", "pairs", "slack"):
        section = re.search(rf"### (?:[\w.]+ and )?{name}\.parquet.*?\n(.*?)\n#", told, flags=re.S)
        cells = [line.split(" | ")[0] for line in section[1].splitlines() if line.startswith("| `")]
        columns = [column for cell in cells for column in re.findall(r"`([^`]+)`", cell)]
        patterns = [re.escape(c).replace("ARM", r"\w+").replace("DIMENSION", r"\d+").replace("TASK", r"[\w-]+") for c in columns]
        found = pd.read_parquet(place / "runs" / "small-seed0" / f"{name}.parquet").columns
        unknown = [c for c in found if not any(re.fullmatch(p, c) for p in patterns)]
        idle = [p for p in patterns if not any(re.fullmatch(p, c) for c in found)]
        assert not unknown and not idle, (name, unknown, idle)


@pytest.mark.slow
def test_a_run_has_the_files_that_the_reference_names(place):
    told = TEXTS["docs/reference/files.md"].partition("## The folder of a run")[2].partition("###")[0]
    named = {
        re.split(r"[/.]", name)[0] for cell in re.findall(r"^\| (`.*?) \|", told, flags=re.M) for name in re.findall(r"`([^`]+)`", cell)
    }
    assert named == {path.name.partition(".")[0] for path in (place / "runs" / "small-seed0").iterdir()}
    listed = _blocks("docs/tutorial/first-run.md", "console")
    shown = next(block for block in listed if block.startswith("$ ls")).split("\n", 1)[1].split()
    # The command adds the page.
    assert set(shown) == {"report.html", *(path.name for path in (place / "runs" / "small-seed0").iterdir())}


def _commands() -> Iterator[tuple[str, str, bool]]:
    """Every command line: its page, its text, and whether it is shown to be typed (else it is only spoken of)."""
    for page, text in TEXTS.items():
        prose = FENCE.sub("", text)
        for kind in ("console", "sh", ""):
            for block in _blocks(page, kind):
                lines = block.replace("\\\n", " ").splitlines()
                for line in lines:
                    if kind == "sh" or line.startswith("$ ") or (kind == "" and line.startswith(("make ", "proteus-bounds "))):
                        yield page, line.removeprefix("$ "), True
        for spoken in re.findall(r"`((?:proteus-bounds|make|python -m) [^`]+)`", prose):
            yield page, spoken, False


def _parse(words: list[str]) -> None:
    """Parse the words after `proteus-bounds` as the program would, settings included, and run nothing."""
    command, context, name = typer.main.get_command(app), None, "proteus-bounds"
    while True:
        context = command.make_context(name, words, parent=context)
        if not getattr(command, "commands", None):
            break
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    given = context.params
    if name == "certify":
        load_certify_config({}, given["set_"] or [])
    elif "preset" in given:
        load_config(None, given["preset"], given["set_"] or [])


@pytest.mark.parametrize(("page", "line", "typed"), sorted(set(_commands())))
def test_commands_exist(page, line, typed):
    words = shlex.split(re.sub(r"\$[A-Z]+", "1", line), comments=True)
    program, *words = words
    if program == "proteus-bounds":
        try:
            _parse(words)
        except Exception as error:
            # Spoken of, a command may leave out what it needs.
            if typed or type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
                raise
    elif program == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)[1].split()
        variables = [word for word in words if "=" in word]
        assert {word for word in words if "=" not in word} <= set(targets)
        assert all(f"$({word.partition('=')[0]})" in (ROOT / "Makefile").read_text("utf-8") for word in variables)
        for word in variables:
            if word.startswith("PRESET="):
                load_config(None, word.partition("=")[2])
    elif program == "accelerate":
        assert words[0] == "launch"
        _parse(words[words.index("empirics.cli") + 1 :])
    elif program == "python":
        assert importlib.util.find_spec(words[1]) if words[0] == "-m" else (ROOT / words[0]).is_file()
    else:
        assert program in PLAIN


def test_a_wrong_command_is_found():
    for wrong in ("verfy", "verify --presett small", "verify --set training.epoch=2", "plan separation --tasks ten", "bound"):
        with pytest.raises(Exception, match=r"(?i)no such|epoch|valid|missing"):
            _parse(shlex.split(wrong))


@pytest.mark.parametrize("page", _with("console"))
def test_output_of_the_planner_is_as_printed(page, monkeypatch):
    for block in _blocks(page, "console"):
        first, *shown = block.splitlines()
        if not first.startswith("$ proteus-bounds plan"):
            continue
        monkeypatch.setenv("COLUMNS", "150")
        done = CliRunner().invoke(app, shlex.split(first)[2:])
        printed = iter([line.rstrip() for line in done.output.splitlines()])
        # In this order; what stands between may be left out.
        for line in shown:
            assert line == "..." or line.rstrip() in printed, line


@pytest.mark.parametrize("page", _with("yaml"))
def test_settings_files_are_valid(page, tmp_path):
    for number, block in enumerate(_blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, "utf-8")
        if set(re.findall(r"^(\w+):", block, flags=re.M)) <= set(RunConfig.model_fields):
            load_config(path)
        elif set(re.findall(r"^(\w+):", block, flags=re.M)) & {"product", "zip"}:
            read_grid(path)
        else:
            read_variants(load_config(), path)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_code_exist(name):
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            found = getattr(found, part)
        return
    raise AssertionError(name)


def test_settings_in_code_exist():
    known = {f"{group}.{name}" for group, info in RunConfig.model_fields.items() for name in getattr(info.annotation, "model_fields", ())}
    for page, text in TEXTS.items():
        for name in re.findall(rf"`((?:{GROUPS})\.(?!parquet)[a-z]\w*)", FENCE.sub("", text)):
            assert name in known, f"{page}: {name}"


def _slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_links_between_pages_resolve():
    count = 0
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text("utf-8"))):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.is_file(), f"{page.name}: {link}"
            text = target.read_text("utf-8")
            for included in re.findall(r"```\{include\} (\S+)", text):
                text += (target.parent / included).read_text("utf-8")
            anchors = {_slug(heading) for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.M)}
            # Those of generated sections are looked up when the site is built.
            assert not anchor or anchor in anchors or "```{generated}" in text, f"{page.name}: {link}"
            count += 1
    assert count > 50


def test_every_page_is_in_the_contents():
    index = TEXTS["docs/index.md"]
    contents = re.findall(
        r"^(?:.*<)?([\w/-]+)>?$", "\n".join(body for _, info, body in FENCE.findall(index) if "toctree" in info), flags=re.M
    )
    assert sorted(contents) == sorted(str(p.relative_to(ROOT / "docs").with_suffix("")) for p in PAGES if p.name != "index.md")


@pytest.mark.parametrize("package", [theory, empirics])
def test_modules_in_tables_exist_and_stand_in_one(package):
    name = package.__name__
    patterns = re.findall(rf"{name}[\w.*]*", " ".join(re.findall(r"api:table (.*)", TEXTS[f"docs/reference/{name}.md"])))
    modules = [name, *(module.name for module in walk_packages(package.__path__, f"{name}."))]
    told = [module for pattern in patterns for module in fnmatch.filter(modules, pattern)]
    assert all(fnmatch.filter(modules, pattern) for pattern in patterns)
    assert len(told) == len(set(told)) > 20


def test_progress_lines_of_the_tutorial_are_those_of_the_code():
    source, count = "".join(path.read_text("utf-8") for path in (ROOT / "empirics").rglob("*.py")), 0
    for page in ("docs/tutorial/first-run.md", "docs/tutorial/first-certificate.md"):
        for block in _blocks(page, "console"):
            for name in re.findall(r"^([a-z][a-z ]+?)(?: newsgroups-tech)?: [\d.]+ s$", block, flags=re.M):
                count += 1
                assert f'"{name}' in source, name
    assert count >= 6


def test_tables_of_results_are_those_of_the_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    module = importlib.import_module("result_tables")
    pages = [path.read_text("utf-8") for path in module.PAGES]
    assert sorted(name for page in pages for name in module.page_blocks.names(page)) == sorted(module.BLOCKS)
    for page in pages:
        assert module.page_blocks.rendered(page, module.BLOCKS) == page, "run docs/result_tables.py"
