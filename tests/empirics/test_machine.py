"""What a run notes of itself: versions, commit, memory and phases."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from empirics.runs import machine
from empirics.runs.machine import PhaseClock, environment
from theory.errors import InputError


def test_environment_is_json_with_versions():
    found = environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["packages"]["numpy"] == np.__version__
    assert "proteus-bounds" in found["packages"]
    assert found["python"].count(".") == 2
    assert (found["commit"] is None) == (found["dirty"] is None)
    assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40,64}", found["commit"])


def test_environment_without_git_has_no_commit(monkeypatch):
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(machine.subprocess, "run", absent)
    assert (environment()["commit"], environment()["dirty"]) == (None, None)


def test_peak_memory_is_in_bytes_and_grows():
    # In a process of its own: in this one the peak may be high already, from whatever other tests did.
    code = (
        "import numpy as np; from empirics.runs.machine import peak_memory_bytes;"
        "before = peak_memory_bytes(); block = np.ones(before // 8 + 2**23); print(before, peak_memory_bytes())"
    )
    before, after = map(int, subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())
    assert 2**24 < before < 2**32
    assert after >= before + 2**25


def test_phases_add_up_and_print_one_plain_line_each(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    err, out = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    clock = PhaseClock()
    for name in ("embed", "train [bold] " + "a long name " * 10, "embed"):
        with clock.phase(name, 2) as advance:
            advance(1)
            advance(1)
    assert list(clock.seconds) == list(clock.peak_bytes) == ["embed", "train [bold] " + "a long name " * 10]
    assert all(s >= 0 for s in clock.seconds.values())
    lines = err.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["embed", "train [bold] " + "a long name " * 10, "embed"]
    assert all(line.isprintable() for line in lines)
    assert out.getvalue() == ""


def test_a_quiet_clock_is_silent_and_still_counts(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    clock = PhaseClock(quiet=True)
    with clock.phase("embed", 1) as advance:
        advance(1)
    assert err.getvalue() == ""
    assert list(clock.seconds) == ["embed"]


def test_an_error_in_a_phase_comes_through(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(InputError, match="x: bad"), PhaseClock().phase("embed", 1):
        raise InputError("x", "bad")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_surrounding_checkout_is_not_reported(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    author = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "theirs"], cwd=tmp_path, check=True)
    package = tmp_path / "env" / "site-packages" / "empirics"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "runs" / "machine.py"))
    assert (environment()["commit"], environment()["dirty"]) == (None, None)
