"""A few inputs for every reader, and whether the harness sees what it is there to see. `make fuzz` reads a hundred thousand each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

HERE = Path(__file__).parent
READERS = sorted(path.stem for path in (HERE / "readers").glob("*.py") if path.stem != "__init__")
INPUTS = 100

# Readers that do what none may, each in its own way.
BROKEN = """
import json, os, pickle, socket, sys, time
from pathlib import Path
sys.path[:0] = [HERE]
from guard import Guard, limited_memory
from theory.errors import InputError

def reads_elsewhere(folder): open("/etc/hostname").read()
def writes(folder): (folder / "x").write_bytes(b"")
def connects(folder): socket.create_connection(("127.0.0.1", 9))
def hides(folder):
    try:
        socket.create_connection(("127.0.0.1", 9))
    except BaseException:
        raise InputError("x", "is wrong")
def unpickles(folder): pickle.loads(pickle.dumps(InputError))
def runs(folder): os.system("true")
def loops(folder):
    while True: pass
def grows(folder): return bytearray(2**33)
def crashes(folder): {}["x"]
def misspeaks(folder):
    error = InputError("x", "y"); error.args = ("two\\nlines",); raise error
def refuses(folder): raise InputError("x", "is wrong")
def takes(folder): (folder / "there").read_bytes()

import guard
guard.SECONDS = 0.3
seen, here, found = Guard(), Path(FOLDER), {}
(here / "there").write_bytes(b"")
with limited_memory():
    for reader in (reads_elsewhere, writes, connects, hides, unpickles, runs, loops, grows, crashes, misspeaks, refuses, takes):
        found[reader.__name__] = seen.read(reader, here).kind
print(json.dumps(found))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(HERE.parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What became of a few inputs of every reader, in one process."""
    out = tmp_path_factory.mktemp("fuzz") / "found.json"
    ended = python(str(HERE / "full.py"), "--here", "--inputs", str(INPUTS), "--seed", "7", "--out", str(out))
    assert out.is_file(), ended.stderr[-4000:]
    return json.loads(out.read_text("utf-8"))


@pytest.mark.parametrize("reader", READERS)
def test_readers_refuse_what_they_cannot_read(found, reader):
    result = found[reader]
    assert not result["defects"], "\n".join(f"{what}\n{defect['trace']}" for what, defect in result["defects"].items())
    assert result["inputs"] == INPUTS and result["refused"] >= INPUTS / 4 and result["read"] >= 1


def test_the_guard_sees_every_kind_of_defect(tmp_path):
    ended = python("-c", BROKEN.replace("HERE", repr(str(HERE))).replace("FOLDER", repr(str(tmp_path))))
    kinds = json.loads(ended.stdout or pytest.fail(ended.stderr[-4000:]))
    assert kinds.pop("refuses") == "refused" and kinds.pop("takes") == "read"
    assert set(kinds.values()) == {"defect"}, kinds


def test_a_seed_gives_the_same_inputs(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from mutator import changed_files

    files = {"a.json": b'{"a": [1, {"b": "c"}], "d": null}', "b.bin": bytes(range(256))}
    made = [[changed_files(files, [files], (b"x",), ("..",), Random(seed)) for seed in range(300)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({repr(item) for item in made[0]}) > 250 and files["b.bin"] == bytes(range(256))
