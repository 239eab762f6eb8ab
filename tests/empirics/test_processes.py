"""Two processes on the CPU share a run, and leave what one leaves."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import letters
import numpy as np
import pandas as pd
import pytest

from empirics import processes
from empirics.adapters.adapter import load_adapter
from theory import InputError

ROOT = Path(__file__).parents[2]


def launch(arguments: list[str], count: int, folder: Path) -> list[subprocess.CompletedProcess]:
    """Run `proteus-bounds` in so many processes at once, as a launcher starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in range(count):
        own = {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(own if count > 1 else {})}
        command = [sys.executable, "-W", "ignore", "-m", "empirics.cli", *arguments]
        started.append(subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    done = []
    for process in started:
        out, err = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A tiny encoder and tiny documents of two tasks."""
    folder = tmp_path_factory.mktemp("data")
    letters.write_crossed(folder)
    values = {
        "stream.path": folder / "data.csv",
        "stream.train_per_class": 14,
        "stream.query_per_class": 10,
        "stream.test_per_class": 10,
        "stream.reservoir_per_class": 4,
        "backbone.path": folder / "encoder",
        "backbone.adapted_layers": 1,
        "backbone.max_length": 32,
        "backbone.batch_size": 16,
        "training.epochs": 2,
        "training.batch_size": 9,
        "signature.dimension": 3,
        "bounds.simulations": 1000,
        "threads": 1,
    }
    return folder, [f"--set={key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def runs(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for count in (1, 2):
        found[count] = launch(["verify", *settings[1], "--out", str(folder / str(count))], count, folder)
    return folder, found


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(runs):
    folder, found = runs
    assert [r.returncode for rs in found.values() for r in rs] == [0, 0, 0], [r.stderr[-2000:] for rs in found.values() for r in rs]
    for task in "ab":
        one, two = ([u.a.T @ u.b for u in load_adapter(folder / str(n) / "adapters" / task).folded.values()] for n in (1, 2))
        for x, y in zip(one, two, strict=True):
            # Later adapters start with a penalty that is nothing but rounding, which AdamW scales up to a step.
            np.testing.assert_allclose(x, y, atol=(1e-6 if task == "a" else 0.1) * np.abs(x).max())
    one, two = (pd.read_parquet(folder / str(n) / "predictions.parquet") for n in (1, 2))
    assert list(one.columns) == list(two.columns)
    for column in one.columns:
        if column.endswith(":retrieved"):
            assert one[column].equals(two[column]), column
    logs = [json.loads((folder / str(n) / "run.json").read_text())["training"] for n in (1, 2)]
    for task in "ab":
        assert logs[1][task]["losses"] == pytest.approx(logs[0][task]["losses"], abs=1e-4)
        assert logs[1][task]["accuracy"] == pytest.approx(logs[0][task]["accuracy"])


@pytest.mark.slow
def test_the_main_process_alone_speaks_and_writes(runs):
    folder, found = runs
    main, other = found[2]
    assert "The run lies in" in main.stdout and other.stdout == "" and other.stderr == ""
    names = [sorted(str(p.relative_to(folder / str(n))) for p in (folder / str(n)).rglob("*")) for n in (1, 2)]
    assert names[0] == names[1] and not [p for p in folder.iterdir() if p.name not in "12"]


@pytest.mark.slow
def test_an_error_is_told_once_and_ends_all(settings, tmp_path):
    """A learning rate that diverges: found in the middle of training, by all of them."""
    arguments = ["verify", *settings[1], "--set=training.learning_rate=1e30", "--out", str(tmp_path / "run")]
    main, other = launch(arguments, 2, tmp_path)
    assert main.returncode == other.returncode == 2
    lines = [line for line in main.stderr.splitlines() if line.startswith("proteus-bounds:")]
    assert len(lines) == 1 and "training.learning_rate" in lines[0] and "Traceback" not in main.stderr
    assert other.stderr == ""


def test_what_one_process_finds_all_raise(tmp_path):
    """The second process alone meets bad input; the main one tells it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from empirics import processes\n"
        "from theory import InputError\n"
        "processes.begin(cpu=True)\n"
        "import torch\n"
        "assert processes.count() == 2\n"
        "x = torch.zeros(5)\n"
        "x[processes.share(range(5))] = torch.tensor(processes.share([1.0, 2.0, 3.0, 4.0, 5.0]))\n"
        "processes.add_up([x])\n"
        "assert x.tolist() == [1, 2, 3, 4, 5]\n"
        "try:\n"
        "    with processes.together():\n"
        "        if not processes.is_main():\n"
        "            raise InputError('caf\\u00e9.png', 'x' * 9000)\n"
        "except InputError as error:\n"
        "    print(error.argument, len(error.problem))\n"
        "processes.leave_to_main()\n"
        "print('main', processes.count())\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in ("0", "1"):
        own = {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **own}
        started.append(subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8"))
    out = [process.communicate(timeout=120)[0] for process in started]
    assert [p.returncode for p in started] == [0, 0]
    assert out == ["café.png 800\nmain 1\n", "café.png 800\n"]


def test_a_single_process_starts_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    code = (
        "import sys; from empirics import processes; processes.begin(cpu=True); processes.wait(); "
        "assert processes.share([1, 2]) == [1, 2] and processes.count() == 1 and processes.is_main(); "
        "sys.exit(not {'torch', 'accelerate'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
    with pytest.raises(InputError, match="told"), processes.together():
        raise InputError("x", "told")
