"""The page of a run: what it says, that every number comes from the run's files, and that names do no harm."""

from __future__ import annotations

import base64
import hashlib
import html as entities
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Parsed
from synthetic_run import HOSTILE, write_run

from empirics.files.record import read_json, read_parquet
from empirics.page import html as html_module
from empirics.page.downloads import bounds_table
from empirics.page.fields import FORMATS, document, resolve
from empirics.page.model import plain, worth
from empirics.page.phrases import tightest, verdict
from empirics.page.run import run_page
from empirics.page.write import write_run_page
from empirics.reports.report import Report
from empirics.reports.rounding import rounded_down, rounded_up
from theory.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, gap=0.8, surprise=1.5)
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return write_run_page(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


@pytest.fixture(scope="module")
def documents(folder):
    slack = read_parquet(folder / "slack.parquet")
    return {"report.json": read_json(folder / "report.json"), "slack.parquet": slack.astype(object).to_dict("records")}


@pytest.fixture
def content(documents):
    """What report.json holds, to be changed."""
    return json.loads(json.dumps(documents["report.json"]))


def _root(content):
    return document(Report.model_validate(content).model_dump(mode="json"), "report.json")


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_every_value_on_the_page_stands_in_a_file_of_the_run(parsed, documents):
    assert len(parsed.marked) > 500
    for place, form, shown in parsed.marked:
        value = resolve(documents, place)
        if isinstance(value, float) and math.isnan(value):
            value = None
        assert FORMATS[form](value) == shown, place


def test_no_number_stands_outside_the_marked_values(parsed, documents):
    keys = set()

    def gather(value):
        if isinstance(value, dict):
            keys.update(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            gather(item)

    gather(documents["report.json"])
    named = sorted((key for key in keys if re.search(r"\d", key)), key=len, reverse=True)
    loose = " ".join(parsed.loose)
    for name in named:
        loose = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "", loose)
    # The assumption levels, which the report names too.
    assert re.findall(r"\S*\d\S*", re.sub(r"\bA[0-4]\b", "", loose)) == []


def test_every_rung_is_shown_overall_with_what_it_is_worth(parsed, documents):
    rungs = documents["report.json"]["overall"]["rungs"]
    shown = {place: text for place, _, text in parsed.marked}
    for name, rung in rungs.items():
        assert (f"report.json#/overall/rungs/{name}" in shown) != rung["vacuous"], name
        assert shown[f"report.json#/overall/rungs/{name}/source"] == rung["source"]


def test_struck_through_is_what_is_no_guarantee_and_it_is_said(text, documents):
    cells = re.findall(
        r'<td[^>]*>(?:<b>)?(<s>)?<span data-field="report.json#(/overall/rungs/\w+)" data-format="bound">[^<]*</span>(?:</[sb]>)?([^\n]*)',
        text,
    )
    assert len(cells) > 10
    for struck, place, after in cells:
        rung = resolve(documents, f"report.json#{place}")
        assert bool(struck) == (not rung["guarantee"]), place
        said = "guarantee" if rung["guarantee"] else "no guarantee" if rung["holds"] else "contradicted"
        assert f"({said})" in after, place


@given(st.floats(0, 1, exclude_min=True))
def test_bounds_are_rounded_to_their_safe_side(value):
    assert float(rounded_up(value)) >= value >= float(rounded_down(value))
    assert (float(rounded_up(value)) == 1) == (value == 1)
    assert float(rounded_up(value)) <= value * 1.01 + 5e-324


@pytest.mark.parametrize(
    ("value", "up", "down"), [(0.10928, "0.110", "0.109"), (0.99951, "0.9996", "0.999"), (1.0, "1", "1"), (2e-7, "2.00e-7", "1.99e-7")]
)
def test_rounding(value, up, down):
    assert (rounded_up(value), rounded_down(value)) == (up, down)


def test_a_bound_too_small_for_a_float_is_told_from_its_logarithm():
    rung = {"value": 5e-324, "log_value": -2302.6, "direction": "upper"}
    assert FORMATS["bound"](rung) == "1e-1000"


def test_the_table_to_take_away_is_bounds_parquet_with_verdicts(folder, parsed, documents):
    href = next(found["href"] for tag, found in parsed.tags if tag == "a" and found.get("download") == "bounds.csv")
    table = pd.read_csv(io.BytesIO(base64.b64decode(href.partition("base64,")[2])), encoding="utf-8-sig")
    kept = read_parquet(folder / "bounds.parquet")
    assert len(table) == len(kept)
    for (arm, law), rows in table.groupby(["arm", "law"]):
        theirs = kept[(kept["arm"] == arm) & (kept["law"] == law)]
        for kind in ("overall", "task", "cluster"):
            mine = rows[rows["unit_of"] == kind]
            its = theirs[theirs["level_of"] == kind].sort_values(["task", "cluster"], kind="stable")
            assert mine["rung"].tolist() == its["rung"].tolist()
            assert mine["value"].to_numpy() == pytest.approx(its["value"].to_numpy(), rel=1e-12)
    rungs = documents["report.json"]["overall"]["rungs"]
    own = table[table["unit_of"] == "overall"].head(len(rungs))
    assert bounds_table(Report.model_validate(documents["report.json"])).shape == table.shape
    assert dict(zip(own["rung"], own["guarantee"], strict=True)) == {
        name: rung["guarantee"] for name, rung in documents["report.json"]["arms"][0]["overall"]["rungs"].items()
    }


# --- the verdict -----------------------------------------------------------------------------------------------------


def _set(content, guarantee):
    """Give the overall rungs verdicts."""
    for name, rung in content["overall"]["rungs"].items():
        rung["guarantee"] = guarantee(name, rung)


def test_the_verdict_names_the_tightest_guarantee_and_what_it_assumes(content):
    _set(content, lambda name, rung: name in ("L2", "L8") and not rung["vacuous"])
    rungs = content["overall"]["rungs"]
    best = min(("L2", "L8"), key=lambda name: rungs[name]["value"])
    said = plain(verdict(_root(content)))
    assert f"at most {rounded_up(rungs[best]['value'])} ({best}" in said
    assert "held-out samples are independent draws" in said
    assert "fitted query law" not in said
    _set(content, lambda name, rung: name == "L5")
    said = plain(verdict(_root(content)))
    assert "(A3)" in said and "queries follow the fitted query law" in said


def test_where_nothing_stands_the_verdict_says_why(content):
    content["overall"]["law"] |= {"verdict": "rejected", "reasons": ["predicts too few errors"]}
    _set(content, lambda *_: False)
    content["overall"]["rungs"]["L5"]["holds"] = False
    content["run"]["exchangeable"] = False
    said = plain(verdict(_root(content)))
    assert "no guarantee stands" in said and "query law rejected: predicts too few errors" in said
    assert "not known to come from one pool" in said
    assert "the measured error contradicts L5" in said
    assert not re.search(r"at most|tightest", said)


def test_a_bound_on_batches_is_never_the_guarantee_for_single_queries(content):
    _set(content, lambda name, _: name == "L4")
    content["overall"]["rungs"]["L4"] |= {"value": 1e-6, "log_value": math.log(1e-6), "vacuous": False}
    assert tightest(_root(content)["overall"], frozenset())[0] == "L4"
    content["run"]["config"]["bounds"]["batch"] = 8
    said = plain(verdict(_root(content)))
    assert "no guarantee stands" in said and "L4 speaks of batches" in said


def test_a_rung_is_worth_what_the_report_says():
    rung = {"guarantee": False, "vacuous": False, "holds": True}
    assert worth(rung) == "no guarantee"
    assert worth({**rung, "holds": False}) == "contradicted"
    assert worth({**rung, "vacuous": True}) == "vacuous"
    assert worth({**rung, "guarantee": True}) == "guarantee"


def test_a_run_whose_laws_were_all_rejected(tmp_path):
    report = write_run(tmp_path, surprise=4.0, exchangeable=False)
    assert all(arm.overall.law.verdict == "rejected" for arm in report.arms)
    page = run_page(report, read_parquet(tmp_path / "slack.parquet"), {})
    assert "no guarantee stands" in plain(page.verdict)
    found = Parsed(html_module.html(page).decode())
    assert not any(tag == "b" for tag, _ in found.tags)
    assert any("one pool" in part for part in found.loose)
    broken = min((rung for rung in report.overall.rungs.values() if not rung.holds), key=lambda rung: rung.log_value)
    assert any(shown == broken.broken_assumption for _, _, shown in found.marked)


# --- the file --------------------------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_outside_itself(text, parsed):
    assert len(text) < 5e6
    for tag, found in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert not (value := found.get(name)) or value.startswith(("#", "data:")), (tag, name, value)
    assert "@import" not in text and not re.search(r"url\((?!#)", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def test_only_the_scripts_of_the_page_may_run(text):
    policy = entities.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1))
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = re.findall(r"<script(?: type=\"text/plain\" id=\"vega\")?>(.*?)</script>", text, flags=re.DOTALL)
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts} == allowed
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "script-src 'unsafe-inline'" not in policy


def test_the_same_run_gives_the_same_bytes_in_another_process(folder, text):
    code = "import sys; from pathlib import Path; from empirics.page.write import write_run_page; write_run_page(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, folder], check=True, env={**os.environ, "PYTHONHASHSEED": "12"})
    assert (folder / "report.html").read_text("utf-8") == text


def test_names_of_figures_do_not_meet(parsed):
    names = [found["id"] for _, found in parsed.tags if "id" in found]
    assert len(names) == len(set(names))
    referred = {found[name] for _, found in parsed.tags for name in ("aria-labelledby",) if name in found}
    assert referred <= set(names)


def test_headings_tables_and_figures_are_named(parsed):
    heads = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch(r"h[1-6]", tag)]
    assert heads[0] == 1 and heads.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(heads))
    counts = {
        tag: sum(name == tag for name, _ in parsed.tags) for tag in ("table", "caption", "main", "nav", "header", "figure", "figcaption")
    }
    assert counts["table"] == counts["caption"] > 6
    assert counts["figure"] == counts["figcaption"] == 3
    assert counts["main"] == counts["nav"] == counts["header"] == 1
    assert all(found.get("scope") in ("col", "row") for tag, found in parsed.tags if tag == "th")


def test_hostile_names_are_text(tmp_path):
    write_run(tmp_path, tasks=HOSTILE)
    text = write_run_page(tmp_path).read_text("utf-8")
    found = Parsed(text)
    assert not any(tag in ("img", "b") and "onerror" in attributes for tag, attributes in found.tags)
    assert [tag for tag, _ in found.tags].count("script") == 4
    shown = [value for _, _, value in found.marked]
    for task, classes in HOSTILE.items():
        assert task in shown
        assert all(f"{task}/{name}" in shown for name in classes)
    # Names are values: what looks like a template is shown as it stands.
    assert "{{ 7 * 7 }}" in text


def test_without_the_extra_it_is_named(monkeypatch, folder):
    monkeypatch.setattr(html_module.importlib.util, "find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(InputError, match=r"proteus-bounds\[report\].*jinja2"):
        write_run_page(folder)


def test_the_figure_of_the_ladder_holds_the_values_of_the_report(text, documents):
    chart = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, flags=re.DOTALL).group(1))
    points = chart["datasets"][chart["layer"][2]["data"]["name"]]
    report = documents["report.json"]
    units = {unit["name"]: unit for unit in [*report["tasks"], report["overall"]]}
    assert len(points) == sum(len(unit["rungs"]) for unit in units.values())
    for point in points:
        rung = units[point["unit"]]["rungs"][point["rung"]]
        assert point["value"] == max(rung["value"], 1e-300)
        assert point["worth"] == worth(rung)
        assert float(point["at most"]) >= rung["value"]
    assert np.isfinite([point["value"] for point in points]).all()
