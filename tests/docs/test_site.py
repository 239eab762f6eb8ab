"""The site: what is generated is complete, formulas are set without a script, and the build knows no warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from empirics.cli import app
from empirics.config import RunConfig

pytest.importorskip("sphinx", reason="the documentation is built with the extra docs, which is not installed")
pytest.importorskip("latex2mathml", reason="the documentation is built with the extra docs, which is not installed")
pytest.importorskip("numpydoc", reason="the documentation is built with the extra docs, which is not installed")
pytest.importorskip("sphinx_copybutton", reason="the documentation is built with the extra docs, which is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))


def test_formulas_are_set_or_refused():
    from mathml import mathml

    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / "theory" / "README.md").read_text("utf-8"), flags=re.S)
    formulas = re.findall(r"\$\$?([^$]+)\$\$?", text)
    assert len(formulas) > 300
    for formula in formulas:
        assert mathml(formula).startswith("<math")
    assert 'display="block"' in mathml("x", display=True)
    for wrong in (r"\nosuchcommand x", r"\frac"):
        with pytest.raises(ValueError, match=r"cannot be set|unknown command"):
            mathml(wrong)


def test_formulas_are_spaced_as_in_tex():
    from mathml import mathml

    assert mathml(r"\log x").count("mspace") == 1 and mathml(r"a\log\det x").count("mspace") == 3
    assert "mspace" not in mathml(r"\log(x)")
    assert mathml("(-x)").count('form="prefix"') == 1 and 'form="prefix"' not in mathml("(x)-y")
    assert 'mathvariant="normal"' in mathml(r"\Lambda") and "mathvariant" not in mathml(r"\lambda")


def test_every_option_of_every_command_is_told():
    from command_line import reference

    text = reference()

    def below(words, command):
        children = getattr(command, "commands", {})
        for name, child in children.items():
            below(f"{words} {name}", child)
        if not children:
            section = text.partition(f"```{{program}} {words}\n")[2].partition("\n#")[0]
            for parameter in command.params:
                assert parameter.param_type_name == "argument" or parameter.opts[0] in section, (words, parameter.opts)
                shown = parameter.metavar or parameter.name
                assert shown in section or parameter.param_type_name == "option", (words, shown)
                assert not parameter.help or parameter.help.split("[")[0][:40] in section

    below("proteus-bounds", get_command(app))


def test_every_setting_is_told_with_its_default_and_limits():
    from models import certify_settings, settings

    text = settings()
    for group, info in RunConfig.model_fields.items():
        for name, field in getattr(info.annotation, "model_fields", {}).items():
            found = re.search(rf"```{{setting}} {group}\.{name} = .*\n(.*)\n\n(.*)\n", text)
            assert found, (group, name)
            assert found[1].lower().rstrip(".") == (field.description or "").lower(), (group, name)
    assert "stream.train_per_class = 40\n" in text and "Whole number, at least 4." in text
    assert "training.warmup = 0.1\n" in text and "Number, at least 0, below 1." in text
    assert "`signature.dimension = null`" in certify_settings() and "backbone" not in certify_settings()


def test_nested_models_are_told_once():
    from models import fields

    report = fields("empirics.reports.report:Report")
    assert report.count("### ") == len(set(re.findall(r"### (\w+)", report)))
    assert "[Unit](#unit)" in report and "### Unit\n" in report
    certificate = fields("empirics.routing.certificate:Certificate", "empirics.reports.report:Report")
    assert "### CertifiedUnit\n" in certificate and "### RungRow\n" not in certificate
    # No field without its meaning.
    assert "|  |" not in report + certificate


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "-n", "--keep-going", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 100
    for page in pages:
        text = page.read_text("utf-8")
        # Links may lead out; nothing may be loaded from there.
        assert not re.search(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//', text), page.name
        assert not re.search(r'<link[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="(?:https?:)?//', text), page.name
    theorems = (tmp_path / "explanation" / "theorems.html").read_text("utf-8")
    assert theorems.count("<math") > 300 and "$" not in re.sub(r"<(pre|code).*?</\1>|<script.*?</script>", "", theorems, flags=re.S)
    # A citation in a docstring leads to its theorem, and code on the page of theorems to the API.
    assert "theorems.html#l5b-overlaps-and-a-common-threshold" in (tmp_path / "reference/api/theory.intersection.html").read_text("utf-8")
    assert "../reference/api/theory.exact.html#theory.exact.tail_probability" in theorems
    assert 'id="setting-stream.split"' in (tmp_path / "reference/configuration.html").read_text("utf-8")
