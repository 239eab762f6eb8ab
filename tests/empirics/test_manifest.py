"""A manifest tells every change of a folder, and no more."""

from __future__ import annotations

import hashlib
import json

import pytest

from empirics.files.manifest import MANIFEST, check_manifest, read_manifest, update_manifest, write_manifest
from theory.errors import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "signatures").mkdir()
    (tmp_path / "signatures/paper-2.safetensors").write_bytes(b"numbers")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "unfinished.json").write_text("{}")
    (tmp_path / ".run.json.x.unfinished").write_text("{")
    write_manifest(tmp_path)
    return tmp_path


def said(folder, **options):
    return [str(difference) for difference in check_manifest(folder, **options)]


def test_every_file_stands_with_size_and_digest(folder):
    content = json.loads((folder / MANIFEST).read_text())
    assert content == {
        "schema_version": 1,
        "files": {
            "run.json": {"bytes": 2, "sha256": hashlib.sha256(b"{}").hexdigest()},
            "signatures/paper-2.safetensors": {"bytes": 7, "sha256": hashlib.sha256(b"numbers").hexdigest()},
        },
        "folders": [],
    }
    before = (folder / MANIFEST).read_bytes()
    write_manifest(folder)
    assert (folder / MANIFEST).read_bytes() == before and said(folder) == []


def test_every_change_is_told(folder):
    (folder / "signatures/paper-2.safetensors").write_bytes(b"numbert")
    (folder / "run.json").unlink()
    (folder / "more.txt").write_text("")
    assert said(folder) == ["more.txt is not in the manifest", "run.json is missing", "signatures/paper-2.safetensors is changed"]
    assert said(folder, names=["run.json", "more.txt"]) == ["run.json is missing"]
    (folder / "signatures/paper-2.safetensors").write_bytes(b"number")
    assert "signatures/paper-2.safetensors is changed" in said(folder)


def test_an_update_vouches_for_what_was_made_and_for_nothing_else(folder):
    (folder / "report.html").write_text("page")
    (folder / "run.json").write_text("{ }")
    update_manifest(folder, ["report.html"])
    assert said(folder) == ["run.json is changed"]
    (folder / "report.html").unlink()
    update_manifest(folder, ["report.html", "run.json"])
    assert said(folder) == []
    (folder / MANIFEST).unlink()
    update_manifest(folder, ["run.json"])
    assert not (folder / MANIFEST).exists()


def test_folders_inside_keep_their_own(folder):
    inside = folder / "runs/base"
    inside.mkdir(parents=True)
    (inside / "run.json").write_text("{}")
    write_manifest(inside)
    assert said(folder) == ["runs/base/manifest.json is not in the manifest"]
    assert write_manifest(folder).folders == ("runs/base",)
    # What a run is given later concerns its own manifest alone.
    (inside / "report.html").write_text("page")
    assert said(folder) == ["runs/base/report.html is not in the manifest"]
    update_manifest(inside, ["report.html"])
    assert said(folder) == []
    (inside / MANIFEST).unlink()
    assert "runs/base/manifest.json is missing" in said(folder)


@pytest.mark.parametrize("name", ["../run.json", "/etc/passwd", "a/../b", "", "./run.json", "a//b"])
def test_a_name_outside_of_the_folder_is_refused(folder, name):
    content = json.loads((folder / MANIFEST).read_text())
    content["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"manifest\.json: is no manifest"):
        check_manifest(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content | {"schema_version": 2},
        lambda content: content | {"files": {"run.json": {"bytes": -1, "sha256": "0" * 64}}},
        lambda content: content | {"files": {"run.json": {"bytes": 1, "sha256": "0"}}},
        lambda content: [],
    ],
)
def test_a_damaged_manifest_is_refused(folder, damage):
    (folder / MANIFEST).write_text(json.dumps(damage(json.loads((folder / MANIFEST).read_text()))))
    with pytest.raises(InputError, match=r"manifest\.json: is no manifest"):
        read_manifest(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"manifest\.json"):
        check_manifest(folder)
