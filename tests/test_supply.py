"""Every dependency is pinned with hashes and named in the list of licences; every package that is imported has an extra."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from empirics.entry import EXTRAS

ROOT = Path(__file__).parent.parent
SUPPLY = ROOT / "supply"
LOCKS = {path.stem: path.read_text("utf-8") for path in sorted(SUPPLY.glob("*.txt"))}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]


def _lock():
    spec = importlib.util.spec_from_file_location("lock", SUPPLY / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _closure(extra):
    """The requirements of an extra, through the extras that it includes."""
    for line in OPTIONAL[extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                yield from _closure(inner)
        else:
            yield requirement


def _pinned(*layers):
    return {name: version for layer in layers for name, _, version in (pin.partition("==") for pin in _lock().pins(LOCKS[layer]))}


def test_every_requirement_is_pinned_within_its_range():
    layers = _lock().LAYERS
    for layer, extras in layers.items():
        pinned = _pinned("run", "torch", layer)
        wanted = [Requirement(line) for line in PROJECT["dependencies"]] + [r for extra in extras for r in _closure(extra)]
        assert wanted
        for requirement in wanted:
            name = canonicalize_name(requirement.name)
            assert name in pinned, f"{layer}: {name} has no pin: run make lock"
            assert requirement.specifier.contains(pinned[name], prereleases=True), f"{requirement}, {pinned[name]}: run make lock"


def test_every_extra_can_be_installed_from_the_pins():
    everything = _pinned(*LOCKS)
    for extra in OPTIONAL:
        for requirement in _closure(extra):
            name = canonicalize_name(requirement.name)
            assert requirement.specifier.contains(everything[name], prereleases=True), f"{extra}: {requirement}"


def test_every_extra_is_tried_alone(monkeypatch):
    monkeypatch.syspath_prepend(SUPPLY)
    uses = importlib.import_module("extras").USES
    assert set(uses) == set(OPTIONAL) | {""}
    for extra, code in uses.items():
        compile(textwrap.dedent(code), extra or "no extra", "exec")


def test_the_citation_is_of_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == PROJECT["version"]


def test_every_pin_has_hashes_and_one_version():
    versions = {}
    for layer, text in LOCKS.items():
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text), layer
        for name, block in _lock().blocks(text).items():
            assert layer == "torch" or re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), f"{layer}: {name}"
            for version in re.findall(r"^\S+==(\S+)", block, flags=re.M):
                assert versions.setdefault(name, version) == version, name
    assert len(versions) > 100


@pytest.mark.parametrize(("name", "version"), [("numpy", "2.4.6"), ("mlxtend", "0.25.0")])
def test_pins_are_read_with_their_hashes(name, version):
    pinned = f"{name}=={version} ; python_version > '3' \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
    text = f"# made\n{pinned}other==1 \\\n    --hash=sha256:22\n"
    found = _lock().blocks(text)
    assert list(found) == [name, "other"] and found[name] == pinned
    assert _lock().pins(text) == [f"{name}=={version}", "other==1"]


def test_licences_of_all_pins_are_listed():
    page = (ROOT / "docs" / "reference" / "licences.md").read_text("utf-8")
    elsewhere = re.search(r"^Other platforms or Pythons also install (.*)\.$", page, flags=re.M)[1].split(", ")
    listed = dict(re.findall(r"^\| (\w[\w.-]*) \| (\S+) \| [\w-]+ \| .+ \|$", page, flags=re.M))
    everything = _pinned(*LOCKS)
    assert set(everything) == set(listed) | set(elsewhere), "run make licences"
    assert {name: everything[name] for name in listed} == listed, "run make licences"


def _imported(package):
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name.partition(".")[0], path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0], path


def test_a_missing_package_is_told_with_its_extra():
    distributions = {"sklearn": "scikit-learn", "yaml": "pyyaml", "PIL": "pillow", "vl_convert": "vl-convert-python"}
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    for package, extra in EXTRAS.items():
        assert distributions.get(package, package) in {Requirement(line).name for line in OPTIONAL[extra]}, package
    # Refused where they are used, with the extra's name; the kit for tests of bounds is of use in pytest alone.
    refused = {"PIL", "altair", "huggingface_hub", "hypothesis", "markupsafe", "pytest", "datasets", "jinja2", "vl_convert"}
    for package in ("theory", "empirics"):
        for name, path in _imported(package):
            known = name in sys.stdlib_module_names or name in core | refused | set(EXTRAS) | {"theory", "empirics", "paper_figures"}
            assert known, f"{path}: {name} is of no extra in empirics/entry.py"


def test_the_command_names_the_extra_that_is_missing(tmp_path):
    code = "import sys; sys.modules['typer'] = None; from empirics.entry import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "proteus-bounds: typer: not installed; the extra `command` brings it: pip install 'proteus-bounds[command]'\n"


def test_tables_and_drawings_name_the_extra_that_is_missing():
    code = """
import sys
sys.modules["pandas"] = sys.modules["matplotlib"] = None
from theory.certificates import certificate
from theory.errors import MissingExtra
from theory.finite import plug_in_favour
from theory.plotting import plot_ladder
bound = certificate(1, 100, 0.95)
for extra, act in (("tables", lambda: plug_in_favour(20, 3)), ("figures", lambda: plot_ladder({"L8": bound}))):
    try:
        act()
    except MissingExtra as error:
        assert f"proteus-bounds[{extra}]" in str(error)
    else:
        raise AssertionError(extra)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
