"""Runs side by side: on the same documents, on others, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from parsed_page import Parsed
from synthetic_run import TASKS, write_run

from empirics import cli
from empirics.comparisons.run_comparison import compare_runs
from empirics.files.record import read_json, write_json
from empirics.page.fields import FORMATS, resolve
from empirics.page.html import html
from empirics.page.model import plain
from empirics.page.side_by_side import side_by_side
from empirics.reports.metrics import holm, paired, unpaired
from theory.errors import InputError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, the same with other signatures, and one with other documents and one task less."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "base", gap=0.8)
    write_run(folder / "diagonal", gap=0.8, settings=("signature.covariance=diagonal", "bounds.arm=paper"))
    write_run(folder / "other", gap=0.8, seed=1, tasks=dict(list(TASKS.items())[:2]), exchangeable=False)
    return folder


@pytest.fixture(scope="module")
def found(runs):
    return compare_runs([runs / "base", runs / "diagonal", runs / "other"])


def _wrong(folder, key):
    frame = pd.read_parquet(folder / "predictions.parquet")
    return (frame[f"{key}:retrieved"] != frame["task"]).to_numpy()


def test_on_the_same_documents_differences_are_paired(runs, found):
    assert found["documents"][:2] == [{"same": True, "why": None}] * 2
    rows = [row for row in found["differences"] if row["run"] == 1]
    # Headline against headline first, which are of different arms here.
    assert rows[0]["arms"] == ["both", "paper"] and rows[0]["headline"]
    expected = paired(_wrong(runs / "diagonal", "paper-3"), _wrong(runs / "base", "both-3"), 0.95)
    assert (rows[0]["difference"], rows[0]["low"], rows[0]["p"]) == (expected.difference, expected.low, expected.p)
    assert (rows[0]["only_other"], rows[0]["only_first"]) == (expected.only_first, expected.only_second)
    assert rows[0]["errors"][1] - rows[0]["errors"][0] == pytest.approx(rows[0]["difference"])
    alike = [row["arms"] for row in rows if row["unit"] == "overall"][1:]
    assert len(alike) == 8 and all(mine == its for mine, its in alike)


def test_tasks_are_compared_on_their_own_documents(runs, found):
    row = next(row for row in found["differences"] if row["run"] == 1 and row["unit"] == "news")
    own = pd.read_parquet(runs / "base" / "predictions.parquet")["task"].to_numpy() == 1
    expected = paired(_wrong(runs / "diagonal", "paper-3")[own], _wrong(runs / "base", "both-3")[own])
    assert (row["difference"], row["high"], row["n"]) == (expected.difference, expected.high, [40, 40])


def test_on_other_documents_they_are_not_and_it_is_said(runs, found):
    assert found["documents"][2] == {"same": False, "why": "the seeds differ, by which documents are dealt"}
    rows = [row for row in found["differences"] if row["run"] == 2]
    assert not any(row["paired"] for row in rows) and {row["unit"] for row in rows} == {"overall", "mail", "news"}
    expected = unpaired(_wrong(runs / "other", "both-3"), _wrong(runs / "base", "both-3"), 0.95)
    assert (rows[0]["low"], rows[0]["high"], rows[0]["p"]) == (expected.low, expected.high, expected.p)
    said = plain(side_by_side(found).verdict)
    assert "On other test documents (the seeds differ" in said and "On the same 120 test documents" in said


def test_p_values_are_corrected_headlines_apart_from_the_rest(found):
    for headline in (True, False):
        rows = [row for row in found["differences"] if row["headline"] is headline]
        assert [row["p_holm"] for row in rows] == pytest.approx(holm(np.array([row["p"] for row in rows])))
    assert sum(row["headline"] for row in found["differences"]) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["run"]["config"]["stream"].update(train_per_class=7), "train_per_class"),
        (lambda r: r["run"]["tasks"][0].update(classes=["x", "y"]), "tasks or their classes"),
        (lambda r: r["run"]["config"]["stream"].update(hub="elsewhere"), None),
    ],
)
def test_the_same_documents_are_known_by_what_the_folders_hold(runs, tmp_path, change, why):
    other = shutil.copytree(runs / "base", tmp_path / "other")
    (other / "manifest.json").unlink()
    report = read_json(other / "report.json")
    change(report)
    write_json(other / "report.json", report)
    found = compare_runs([runs / "base", other])["documents"][1]
    assert found["same"] == (why is None) and (why is None or why in found["why"])


def test_other_rows_are_other_documents(runs, tmp_path):
    other = shutil.copytree(runs / "base", tmp_path / "other")
    frame = pd.read_parquet(other / "predictions.parquet")
    frame.assign(document=frame["document"] + 1).to_parquet(other / "predictions.parquet")
    assert compare_runs([runs / "base", other])["documents"][1]["why"] == "the test documents differ"


def test_a_run_against_its_copy_does_not_differ(runs, tmp_path):
    found = compare_runs([runs / "base", shutil.copytree(runs / "base", tmp_path / "copy")])
    assert found["settings"] == found["environment"] == []
    assert all(row["difference"] == 0 and row["p"] == 1 and row["low"] < 0 < row["high"] for row in found["differences"])
    page = side_by_side(found)
    assert "which chance may explain" in plain(page.verdict)
    assert "All settings are the same." in html(page).decode()


def test_settings_that_differ_are_listed_with_every_value(found):
    differing = {row["key"]: row["values"] for row in found["settings"]}
    assert differing == {
        "seed": [0, 0, 1],
        "signature.covariance": ["ledoit-wolf", "diagonal", "ledoit-wolf"],
        "bounds.arm": ["both", "paper", "both"],
    }


def test_every_value_on_the_page_stands_in_the_comparison(found):
    text = html(side_by_side(found)).decode()
    parsed = Parsed(text)
    assert len(parsed.marked) > 300
    for place, form, shown in parsed.marked:
        assert FORMATS[form](resolve({"comparison.json": found}, place)) == shown, place
    assert "not known to come from one pool in" in text
    assert html(side_by_side(json.loads(json.dumps(found)))).decode() == text


@pytest.mark.parametrize(
    ("choose", "said"),
    [
        (lambda f: [f / "base"], "from two"),
        (lambda f: [f / "base", f / "other" / ".." / "base"], "given twice"),
        (lambda f: [f / "base", f], "holds no run"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, choose, said):
    with pytest.raises(InputError, match=said):
        compare_runs(choose(runs))


def test_predictions_of_another_run_are_found_out(runs, tmp_path):
    other = shutil.copytree(runs / "base", tmp_path / "other")
    shutil.copy(runs / "diagonal" / "predictions.parquet", other)
    with pytest.raises(InputError, match=r"does not agree with report\.json"):
        compare_runs([runs / "base", other])


def test_the_command_prints_writes_and_gives_json(runs, tmp_path, monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", "compare-runs", str(runs / "base"), str(runs / "diagonal"), *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr()

    status, captured = command("--html", str(tmp_path / "page.html"))
    assert status == 0 and "Runs side by side" in captured.out and "signature.covariance" in captured.out
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    status, captured = command("--json")
    assert status == 0 and json.loads(captured.out)["differences"]
    status, captured = command("--html", str(tmp_path / "page.html" / "below"))
    assert status == 2 and len(captured.err.strip().splitlines()) == 1


def test_unpaired_is_newcombes_example():
    # Newcombe 1998, table II, contrast (a): 56 of 70 against 48 of 80, method 10.
    first, second = (np.arange(n) < errors for errors, n in ((56, 70), (48, 80)))
    found = unpaired(first, second)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.difference == pytest.approx(0.2)
    again = unpaired(second, first)
    assert (again.low, again.high, again.p) == pytest.approx((-found.high, -found.low, found.p))
    with pytest.raises(InputError, match="at least one"):
        unpaired(first, second[:0])
