"""`proteus-bounds data check`: counts that add up, warnings that are due, one line on bad input."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from empirics.cli import main
from empirics.config import RunConfig, StreamConfig, load_config
from empirics.data.check import check_data, print_summary
from theory.errors import InputError


def write(path: Path, sizes: dict[tuple[str, str], int], split: bool = False) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "task", *(["split"] if split else [])])
        for (task, label), n in sizes.items():
            for i in range(n):
                writer.writerow([f"{task} {label} [b] {i}", label, task, *([("train", "test")[i % 2]] if split else [])])
    return path


EVEN = {("a", "x"): 160, ("a", "y"): 160, ("b", "z"): 160, ("b", "w"): 160}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "empirics.cli", "data", "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def check(path: Path, **fields):
    return check_data(RunConfig(stream=StreamConfig(path=path, **fields)))


def test_json_counts_what_the_run_would_see(tmp_path):
    done = run(write(tmp_path / "own data: 1.csv", EVEN), "--json", "--set", "stream.tasks=[b, a]")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], found["modality"], found["exchangeable"]) == ("own data: 1", "text", True)
    assert [t["name"] for t in found["tasks"]] == ["b", "a"]
    assert found["tasks"][0]["classes"][0] == {"name": "w", "train": 40, "query": 64, "test": 40, "reservoir": 10}
    assert found["documents"] == {"train": 160, "query": 256, "test": 160, "reservoir": 40}
    assert [s["what"] for s in found["sizes"]] == ["words", "characters"]
    assert found["warnings"] == []


def test_a_table_for_people(tmp_path):
    done = run(write(tmp_path / "own.csv", EVEN, split=True))
    assert done.returncode == 0, done.stderr
    assert "2 tasks" in done.stdout and "Warning: the data give the split" in done.stdout and "stream.split" in done.stdout


@pytest.mark.parametrize("arguments", [("none.csv",), ("--preset", "vtab-5t"), ("--set", "stream.path=null", "--set", "stream.name=x")])
def test_bad_input_is_one_line_and_exit_2(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["proteus-bounds", "data", "check", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out
    assert len(err.strip().splitlines()) == 1 and err.startswith("proteus-bounds: ")


@pytest.mark.parametrize(
    ("sizes", "fields", "expected"),
    [
        ({**EVEN, ("b", "w"): 14}, {}, "1 classes have fewer than 10 train documents: b/w (4)"),
        ({**EVEN, ("b", "w"): 14}, {}, "classes of b are unbalanced: from 4 to 40"),
        (
            {("a", "x"): 160, ("a", "y"): 160, ("b", "z"): 24, ("b", "w"): 24},
            {},
            "tasks are unbalanced: a has 80 training documents, b has 12",
        ),
        (EVEN, {"reservoir_per_class": 2}, "8 reservoir documents span at most 7 dimensions; signature.dimension is 32"),
        ({("a", "x"): 160, ("a", "y"): 160, ("b", "x"): 160, ("b", "y"): 160}, {}, "every task has the classes x, y"),
    ],
)
def test_warnings_are_due(tmp_path, sizes, fields, expected):
    warnings = check(write(tmp_path / "own.csv", sizes), **fields).warnings
    assert any(w.startswith(expected) for w in warnings), warnings


def test_a_split_is_warned_of_only_if_it_is_given_and_kept(tmp_path):
    path = write(tmp_path / "own.csv", EVEN, split=True)
    assert any("L8" in w for w in check(path).warnings)
    for split in ("held-out", "random", "given-at-random"):
        assert not any("L8" in w for w in check(path, split=split).warnings)


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    path = write(tmp_path / "[u]own.csv", {**EVEN, ("[red]", "[b]x"): 160, ("[red]", "y"): 160})
    out = io.StringIO()
    print_summary(check(path), Console(width=150, file=out))
    assert all(name in out.getvalue() for name in ("[u]own", "[red]", "[b]x"))


def test_images_are_measured():
    summary = check_data(load_config(preset="digits"))
    assert [(s.what, s.least, s.median, s.greatest) for s in summary.sizes] == [("height", 8, 8, 8), ("width", 8, 8, 8)]
    assert len(summary.tasks) == 5 and not summary.warnings


def test_what_is_left_out_is_told(tmp_path):
    path = write(tmp_path / "own.csv", {**EVEN, ("b", "rare"): 2})
    with pytest.raises(InputError, match="class rare"):
        check(path)
    assert check(path, unusable="drop").left_out == ("1 classes too small for their parts: b/rare",)


def test_checking_is_seeing_what_the_run_sees(tmp_path):
    """The same generator as the run's: counts are those of the run, not of another draw."""
    from empirics.data.streams import load_stream
    from empirics.seeding import generator

    config = RunConfig(seed=3, stream=StreamConfig(path=write(tmp_path / "own.csv", EVEN)))
    stream = load_stream(config.stream, generator(3, "stream"))
    lengths = sorted(len(t) for t in stream.texts)
    spread = check_data(config).sizes[1]
    assert (spread.least, spread.median, spread.greatest) == (lengths[0], int(np.median(lengths)), lengths[-1])
