"""Runs that are killed end with the bytes of undisturbed ones: a few of the many kills that `make kill-test` tries."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_few_kills_leave_no_trace():
    command = [sys.executable, "tests/reliability/kill_runs.py", "--commands", "verify", "--kills", "6", "--no-pages"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    found = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert re.search(r"^6 kills at random moments.* no difference$", found.stdout, re.MULTILINE), found.stdout
