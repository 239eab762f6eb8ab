"""Folders that are being written: who may, for what, and what stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from empirics.files.claim import claim_folder, claimed, claimed_parts, finish_folder, locked
from empirics.files.manifest import check_manifest
from empirics.files.record import read_json, write_json
from empirics.runs.checkpoints import Checkpoints, open_checkpoints
from empirics.runs.machine import PhaseClock
from theory.errors import InputError


def np_array(value):
    return np.array(value, dtype=np.float32)


SETTINGS = {"seed": 0, "training": {"epochs": 2, "rate": 0.1}}


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- claims ----------------------------------------------------------------------------------------------------------


def test_claim_makes_the_folder_and_takes_an_empty_one(tmp_path):
    claim_folder(tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run").is_dir()
    claim_folder(tmp_path / "new" / "run")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("run.json", "holds another run"),
        ("report.json", "holds another run"),
        ("manifest.json", "holds what is finished"),
        (".hidden", "is not empty"),
    ],
)
def test_claim_refuses_a_folder_that_holds_something(tmp_path, name, what):
    (tmp_path / name).write_text("x", "utf-8")
    with pytest.raises(InputError, match=f"{what}.*choose another folder"), claimed(tmp_path, SETTINGS):
        pass
    assert content(tmp_path) == {name: b"x"}


def test_claim_refuses_a_file_and_a_folder_below_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("x", "utf-8")
    for path in (file, file / "below"):
        with pytest.raises(InputError, match=re.escape(str(path))), claimed(path):
            pass


def test_an_unfinished_folder_is_claimed_again_for_the_same_settings_only(tmp_path):
    with claimed(tmp_path, SETTINGS):
        write_json(tmp_path / "run.json", {})
    with claimed(tmp_path, SETTINGS), pytest.raises(InputError, match="another process"), claimed(tmp_path, SETTINGS):
        pass
    other = {"seed": 0, "training": {"epochs": 3, "rate": 0.1, "more": None}}
    with pytest.raises(InputError, match=r"training\.epochs is 2 there and 3 here, training\.more is not set there and None here;"):
        claim_folder(tmp_path, other)
    finish_folder(tmp_path)
    assert check_manifest(tmp_path) == [] and not (tmp_path / "unfinished.json").exists()
    with pytest.raises(InputError, match="holds what is finished"):
        claim_folder(tmp_path, SETTINGS)


def test_resume_takes_what_is_unfinished_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="no folder: there is nothing to resume"), claimed(folder, SETTINGS, resume=True):
        pass
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(InputError, match="holds no unfinished run: there is nothing to resume"), claimed(folder, SETTINGS, resume=True):
        pass
    with claimed(folder, SETTINGS):
        pass
    with claimed(folder, SETTINGS, resume=True):
        finish_folder(folder)
    with pytest.raises(InputError, match="is finished: there is nothing to resume"), claimed(folder, SETTINGS, resume=True):
        pass


def test_a_folder_of_parts_is_continued_and_its_manifest_speaks_of_whole_ones_only(tmp_path):
    folder = tmp_path / "parts"
    with pytest.raises(InputError, match="nothing to resume"), claimed_parts(folder, SETTINGS, complete=False, resume=True):
        pass
    with claimed_parts(folder, SETTINGS, complete=False):
        write_json(folder / "table.json", [1])
    with claimed_parts(folder, SETTINGS, complete=False, resume=True):
        write_json(folder / "table.json", [1, 2])
        finish_folder(folder, ["table.json"])
    assert read_json(folder / "settings.json") == SETTINGS and check_manifest(folder) == []
    with pytest.raises(InputError, match="is finished: there is nothing to resume"), claimed_parts(folder, {}, complete=True, resume=True):
        pass
    with claimed_parts(folder, SETTINGS, complete=False):
        assert not (folder / "manifest.json").exists()


# --- the lock --------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_others_out_and_ends_with_its_process(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
from empirics.files.claim import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="is being written by another process"), locked(tmp_path):
            pass
        other.stdin.close()
        assert other.wait() < 0
    # What the killed process left does not lock anything.
    assert (tmp_path / ".lock").exists()
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_works_with_others_leaves_the_lock_to_the_main_one(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            assert os.listdir(tmp_path) == [".lock"]
        monkeypatch.undo()


# --- checkpoints -----------------------------------------------------------------------------------------------------

HERE = {"environment": {"packages": {"torch": "2.13.0"}, "accelerator": None, "dirty": False}, "sha256": {"data": "aa"}, "tasks": []}


def test_stages_and_their_seconds_come_back(tmp_path):
    clock = PhaseClock(quiet=True)
    kept = open_checkpoints(tmp_path / "checkpoints", tmp_path / "run.json", HERE, clock)
    assert "first" not in kept
    with clock.phase("one", 1):
        pass
    x = {"a": np_array([[1.5, float("nan")]]), "scalar": np_array(3.0)}
    kept.write("first", x, {"log": [0.1, 1e-300]})
    # What this process did it need not read.
    assert "first" not in kept
    later = PhaseClock(quiet=True)
    kept = open_checkpoints(tmp_path / "checkpoints", tmp_path / "run.json", {**HERE, "tasks": ["more"]}, later, resume=True)
    assert "first" in kept and len(kept) == 1 and "second" not in kept
    tensors, facts = kept.read("first")
    assert facts == {"log": [0.1, 1e-300]} and later.seconds == clock.seconds and later.peak_bytes == clock.peak_bytes
    for name, value in x.items():
        assert tensors[name].tobytes() == value.tobytes() and tensors[name].shape == value.shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": {**HERE["environment"], "packages": {"torch": "2.14.0"}}}, "packages.torch is 2.13.0 there and 2.14.0 here"),
        ({"environment": {**HERE["environment"], "packages": {"torch": "2.13.0", "peft": "1"}}}, "peft is not installed there and 1 here"),
        ({"environment": {**HERE["environment"], "accelerator": "H100"}}, "accelerator is None there and H100 here"),
        ({"sha256": {"data": "bb"}}, "sha256.data is aa there and bb here"),
    ],
)
def test_checkpoints_of_another_origin_are_not_used(tmp_path, change, said, capsys):
    place, record = tmp_path / "checkpoints", tmp_path / "run.json"
    open_checkpoints(place, record, HERE, PhaseClock()).write("first", {"a": np_array(1.0)})
    dirty = {**HERE, "environment": {**HERE["environment"], "dirty": True}}
    assert "first" in open_checkpoints(place, record, dirty, PhaseClock(), resume=True)
    with pytest.raises(InputError, match=re.escape(said)):
        open_checkpoints(place, record, HERE | change, PhaseClock(), resume=True)
    assert "first" in Checkpoints(place, PhaseClock())
    capsys.readouterr()
    assert "first" not in open_checkpoints(place, record, HERE | change, PhaseClock())
    assert said in capsys.readouterr().err and not place.exists()
    assert read_json(record) == HERE | change


def test_a_large_array_is_kept_if_there_is_room(tmp_path, monkeypatch):
    x = np_array([[1.5, -0.0], [2.5, 3.5]])
    kept = Checkpoints(tmp_path / "checkpoints", PhaseClock(quiet=True))
    assert kept.write_large("states", x)
    assert kept.read_large("states").tobytes() == x.tobytes()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2 * x.nbytes - 1}))
    assert not kept.write_large("others", x)
    assert not Checkpoints(None, PhaseClock(quiet=True)).write_large("states", x)
