"""Run folders as they are found, and what `proteus-bounds report` says of each."""

from __future__ import annotations

import json
import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from synthetic_run import write_run

from empirics import cli
from empirics.files.claim import claim_folder
from empirics.files.record import MARKER, read_json, write_json
from empirics.page.html import html
from empirics.page.model import plain
from empirics.page.partial import partial_page
from empirics.reports.report import SCHEMA, Report
from empirics.runs.run_folder import MIGRATIONS, progress, read_run
from theory.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A run to do harm to."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process; gives exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def _change(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


def _unfinished(folder):
    _change(folder / "run.json", lambda about: [about.pop(key) for key in ("phases_seconds", "peak_memory_bytes")])
    for name in ("predictions.parquet", "report.json", "slack.parquet"):
        (folder / name).unlink()


def _older(folder):
    """A run as schema 1 left it: three arms, no leak control, the sizes of batches among the settings of comparisons."""

    def report(content):
        content["schema_version"] = 1
        content["arms"] = [arm for arm in content["arms"] if arm["arm"] != "both"]
        content["retrieval"] = [entry for entry in content["retrieval"] if entry["arm"] != "both"]
        for entry in content["retrieval"]:
            del entry["batch_error"]
        first = content["arms"][0]
        content["headline"] = {key: first[key] for key in ("arm", "dimension", "law")}
        content |= {key: first[key] for key in ("overall", "tasks", "clusters")}
        units = [content[key] for key in ("overall", "tasks", "clusters")] + [
            arm[k] for arm in content["arms"] for k in ("overall", "tasks", "clusters")
        ]
        for unit in [u for group in units for u in (group if isinstance(group, list) else [group])]:
            unit.pop("batch", None)
        run(content["run"])

    def run(about):
        about["schema"] = 1
        about["config"]["bounds"]["arm"] = "paper"
        about["config"]["compare"]["batches"] = about["config"].pop("retrieval")["batches"]

    _change(folder / "report.json", report)
    _change(folder / "run.json", run)
    (folder / "manifest.json").unlink()


# --- damage ----------------------------------------------------------------------------------------------------------


def _drop_column(folder):
    path = folder / "predictions.parquet"
    pd.read_parquet(path).drop(columns="paper-3:retrieved").to_parquet(path)


def _no_unicode(folder):
    path = folder / "predictions.parquet"
    path.write_bytes(path.read_bytes().replace(b"paper-3:retrieved", b"paper-\xff:retrieved"))


def _drop_tensor(folder):
    path = folder / "laws" / "ratio-3-mixture.safetensors"
    tensors = load_file(path)
    del tensors["weights"]
    save_file(tensors, path)


DAMAGE = {
    "no run": (lambda f: (f / "run.json").unlink(), "run.json is missing"),
    "run.json is no JSON": (lambda f: (f / "run.json").write_text("{"), "is not valid JSON"),
    "run.json is something else": (lambda f: (f / "run.json").write_text("[1]"), "is no record of a run"),
    "run.json without tasks": (lambda f: _change(f / "run.json", lambda a: a.pop("tasks")), "tasks: Field required"),
    "unknown settings": (lambda f: _change(f / "run.json", lambda a: a["config"].update(extra=1)), "config.extra"),
    "a newer schema": (lambda f: _change(f / "run.json", lambda a: a.update(schema=SCHEMA + 1)), f"has schema {SCHEMA + 1}"),
    "an older one that nobody knows": (lambda f: _change(f / "run.json", lambda a: a.update(schema=0)), "has schema 0"),
    "no predictions": (lambda f: (f / "predictions.parquet").unlink(), "predictions.parquet: is missing"),
    "predictions are junk": (lambda f: (f / "predictions.parquet").write_bytes(b"junk"), "is not a Parquet file"),
    "a column's name is no Unicode": (_no_unicode, "is not a Parquet file"),
    "a column is missing": (_drop_column, "lacks the column paper-3:retrieved"),
    "a tensor is missing": (_drop_tensor, "lacks the tensors weights"),
    "a law is junk": (lambda f: (f / "laws" / "paper-3-mixture.safetensors").write_bytes(b"junk"), "is not a valid safetensors file"),
    "a law is missing": (lambda f: (f / "laws" / "paper-3-mixture.safetensors").unlink(), "paper-3-mixture.safetensors: is missing"),
    "no signatures": (lambda f: shutil.rmtree(f / "signatures"), "holds no signatures in dimension 3"),
}


@pytest.mark.parametrize("harm", DAMAGE)
def test_damage_is_one_line_and_exit_status_2(folder, command, harm):
    do, said = DAMAGE[harm]
    do(folder)
    status, out, error = command("report", folder, "--quiet", "--html")
    assert status == 2 and not out
    assert said in error and len(error.strip().splitlines()) == 1 and str(folder) in error
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "what"), [("ablation.json", "an ablation"), ("comparison.json", "a comparison"), ("certificate.json", "a certificate")]
)
def test_another_kind_of_folder_is_named(tmp_path, command, name, what):
    (tmp_path / name).write_text("{}")
    status, _, error = command("report", tmp_path)
    assert status == 2 and what in error


def test_no_folder_at_all(tmp_path, command):
    status, _, error = command("report", tmp_path / "none")
    assert status == 2 and "is no folder" in error


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "report.json").unlink(), "proteus-bounds report makes it"),
        (lambda f: (f / "report.json").write_text("[]"), "is no report"),
        (lambda f: _change(f / "report.json", lambda r: r["overall"]["measured"].update(error=2)), "overall.measured.error"),
        (lambda f: _change(f / "report.json", lambda r: r["overall"]["rungs"]["L5"].update(value="low")), "L5.value"),
        (lambda f: (f / "slack.parquet").unlink(), "slack.parquet"),
        (
            lambda f: pd.DataFrame({"rung": ["L1"]}).to_parquet(f / "slack.parquet"),
            "slack.parquet: is changed since the folder was finished",
        ),
    ],
)
def test_a_report_that_cannot_be_shown_is_told(folder, harm, said):
    harm(folder)
    with pytest.raises(InputError, match=said):
        read_run(folder)


def test_a_run_of_one_task_is_refused_before_it_starts(tmp_path, command):
    status, _, error = command("verify", "--preset", "small", "--set", "stream.tasks=[book-excerpts]", "--out", tmp_path / "run")
    assert status == 2 and "stream.tasks" in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


# --- runs that did not finish ----------------------------------------------------------------------------------------


def test_a_run_that_did_not_finish_is_told_without_a_number(folder, command):
    _unfinished(folder)
    status, out, error = command("report", folder, "--html")
    assert status == 2 and "did not finish" in error and len(error.strip().splitlines()) == 1
    assert "no measured error and no bounds" in out and "calibration.parquet" in out
    text = (folder / "report.html").read_text("utf-8")
    assert "Nothing on this page is a result" in text and "rate" not in {part.split('"')[0] for part in text.split('data-format="')[1:]}
    assert "report.json#" not in text


def test_stages_are_there_or_missing_by_the_files(folder):
    _unfinished(folder)
    there = {name: found for _, name, found in progress(folder).stages}
    assert there["signatures"] and there["laws"] and there["calibration.parquet"]
    assert not there["predictions.parquet"] and not there["report.json"] and not there["adapters/mail"]
    page = partial_page(progress(folder))
    assert "Retrieval of held-out documents" in plain(page.verdict)
    assert html(page) == html(partial_page(progress(folder)))


def test_how_to_go_on_is_what_the_folder_allows(folder):
    _unfinished(folder)
    assert "name of another folder" in plain(_again(folder))
    config = read_json(folder / "run.json")["config"]
    with pytest.raises(InputError, match="choose another folder"):
        claim_folder(folder, config)
    write_json(folder / MARKER, config)
    assert "name of this folder goes on with the run" in plain(_again(folder))
    claim_folder(folder, config)


def _again(folder):
    return next(section for section in partial_page(progress(folder)).sections if section.name == "again").blocks[0].prose


def test_a_run_whose_report_was_not_made_yet_gets_one(folder, command):
    before = (folder / "report.json").read_bytes()
    for name in ("report.json", "report.md", "bounds.parquet", "slack.parquet"):
        (folder / name).unlink()
    status, out, _ = command("report", folder, "--quiet", "--html")
    assert status == 0 and "report.html" in out
    assert (folder / "report.json").read_bytes() == before


# --- older schemas ---------------------------------------------------------------------------------------------------


def test_a_run_of_schema_1_is_shown_as_it_stands(folder, command):
    _older(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    status, out, _ = command("report", folder, "--html")
    assert status == 0 and "schema 1" in out
    text = (folder / "report.html").read_text("utf-8")
    assert "adapted, least energy" in text and "Batches of" not in text
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "report.html"} == before


def test_nothing_is_invented_for_an_older_run(folder):
    kept = read_run(folder).report
    _older(folder)
    run = read_run(folder)
    assert run.written_as == 1
    mine = {(arm.arm, arm.law): arm for arm in kept.arms}
    assert [(arm.arm, arm.law) for arm in run.report.arms] == [key for key in mine if key[0] != "both"]
    assert all(arm == mine[arm.arm, arm.law] for arm in run.report.arms)
    assert all(entry.batch_error == {} for entry in run.report.retrieval)
    assert run.report.run["config"]["retrieval"] == {"rule": "max", "batches": [4]}


def test_there_is_a_way_from_every_older_schema():
    assert sorted(MIGRATIONS) == list(range(1, SCHEMA))
    assert Report.model_fields["schema_version"].annotation.__args__ == (SCHEMA,)


# --- a page never makes a run fail -----------------------------------------------------------------------------------


def test_a_finished_run_stands_if_its_page_cannot_be_made(folder, monkeypatch):
    from empirics.page import html as html_module

    monkeypatch.setattr(html_module.importlib.util, "find_spec", lambda name: None)
    assert "proteus-bounds[report]" in str(cli.runs._page(folder))
    monkeypatch.undo()
    monkeypatch.setattr("empirics.page.write.run_drawings", lambda *_: np.zeros(1)[2])
    assert str(cli.runs._page(folder)).startswith("No page was written")
    assert json.loads((folder / "report.json").read_text())["schema_version"] == SCHEMA


@pytest.mark.parametrize("name", ["../../..", "n" * 300, "a\0b"])
def test_a_task_of_a_name_that_leads_elsewhere_has_no_adapter(folder, name):
    _unfinished(folder)
    _change(folder / "run.json", lambda about: about["tasks"][0].update(name=name))
    assert (f"Adapter of {name}", f"adapters/{name}", False) in progress(folder).stages


def test_a_report_that_is_not_of_its_schema(folder):
    _older(folder)
    _change(folder / "report.json", lambda report: report["run"].pop("config"))
    with pytest.raises(InputError, match="is no report of schema 1"):
        read_run(folder)


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder):
    (folder / "manifest.json").unlink()
    for name in ("report.json", "slack.parquet"):
        (folder / name).rename(folder / "sound")
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match="no regular file"):
            read_run(folder)
        (folder / "sound").rename(folder / name)
