"""A sweep in one process: what it shares, keeps, computes again and refuses, and what becomes of cells that fail."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading

import letters
import pandas as pd
import pytest
import tiny_sweep
from pandas.testing import assert_frame_equal

from empirics.cli import main
from empirics.comparisons import comparison
from empirics.comparisons.comparison import compare
from empirics.runs import embedding
from empirics.runs.pipeline import run
from empirics.sweep import run as sweeping
from empirics.sweep import work
from empirics.sweep.grid import read_grid
from empirics.sweep.run import sweep
from empirics.sweep.store import locked, places, state
from theory.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS, DIMENSIONS = (0, 1), (2, 3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    letters.write_home(folder)
    return folder


@pytest.fixture(scope="module")
def grid(home):
    """Two trainings of two runs each."""
    return tiny_sweep.write_grid(home, home / "own.yaml", product={"signature.dimension": list(DIMENSIONS), "seed": list(SEEDS)})


@pytest.fixture(scope="module")
def done(grid, tmp_path_factory):
    """A finished sweep: its folder, its table, and how often was encoded and trained."""
    folder, counted = tmp_path_factory.mktemp("sweeps") / "done", []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("encode", "train_and_embed"):
            real = getattr(embedding, name)

            def counting(*arguments, real=real, name=name, **named):
                counted.append(name)
                return real(*arguments, **named)

            patch.setattr(embedding, name, counting)
        table = sweep(read_grid(grid), folder, "own", jobs=1, quiet=True)
    return folder, table, counted


@pytest.fixture
def copied(done, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(done[0], tmp_path / "sweep")


@pytest.fixture
def quick(done, monkeypatch):
    """Runs are copied from the finished sweep rather than computed; which were, and errors that come first, by seed and dimension."""
    computed, faults = [], {}

    def runs(mine):
        seed = mine[0].cell.config.seed
        if seed in faults:
            raise faults[seed]

        def compute(place):
            which = (seed, place.cell.config.signature.dimension)
            computed.append(which)
            if which in faults:
                raise faults.pop(which)
            shutil.copytree(done[0] / "cells" / place.key / "run", place.result)
            return json.loads((done[0] / "cells" / place.key / "cell.json").read_text())["rows"], 1.0

        return compute

    monkeypatch.setattr(work, "_runs", runs)
    return computed, faults


def cells_of(grid, folder):
    return {(p.cell.config.seed, p.cell.config.signature.dimension): p for p in places(read_grid(grid), folder)}


def unfinished(grid, folder, *which):
    """Take cells away, as if they had never been."""
    for key in which:
        shutil.rmtree(cells_of(grid, folder)[key].folder)


def command(*words):
    """Run `proteus-bounds sweep` here; gives its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["proteus-bounds", "sweep", *map(str, words)])
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def test_a_training_and_a_frozen_pass_for_each_seed_only(done):
    assert sorted(done[2]) == ["encode"] * 2 + ["train_and_embed"] * 2


def test_a_cell_is_the_run_of_its_settings(grid, done, tmp_path):
    place = cells_of(grid, done[0])[1, 3]
    run(place.cell.config, tmp_path / "run", quiet=True)
    files = {p.relative_to(tmp_path / "run") for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert files == {p.relative_to(place.result) for p in place.result.rglob("*") if p.is_file()}
    # These tell of seconds.
    for name in files - {p for p in files if p.name in ("run.json", "report.json", "report.md", "manifest.json")}:
        assert (place.result / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_the_table_has_a_row_for_each_cell_and_arm_with_intervals(grid, done):
    folder, table, _ = done
    assert len(table) == 4 * 4 and set(table["state"]) == {"done"} and (table["reason"] == "").all()
    assert table["method"].tolist() == ["paper", "ratio", "frozen", "both"] * 4
    assert (table["low"] <= table["retrieval_error"]).all() and (table["retrieval_error"] <= table["high"]).all()
    assert (table["accuracy_low"] <= table["accuracy"]).all() and (table["accuracy"] <= table["accuracy_high"]).all()
    assert (table["accuracy_low"] < table["accuracy_high"]).all() and (table["seconds"] > 0).all()
    for (seed, dimension), place in cells_of(grid, folder).items():
        own = table[(table["seed"] == seed) & (table["signature.dimension"] == dimension)]
        report = json.loads((place.result / "report.json").read_text())
        for row in own.to_dict("records"):
            assert place.key.startswith(row["cell"]) and row["dimension"] == dimension
            measured = next(r for r in report["retrieval"] if (r["arm"], r["dimension"]) == (row["method"], dimension))
            assert (row["retrieval_error"], row["low"], row["high"]) == tuple(measured["measured"][k] for k in ("error", "low", "high"))
            unit = next(a["overall"] for a in report["arms"] if (a["arm"], a["law"]) == (row["method"], "mixture"))
            assert row["guarantees"] == ", ".join(name for name, rung in unit["rungs"].items() if rung["guarantee"])
            assert (row["law"], row["predicted"]) == (unit["law"]["verdict"], unit["law"]["predicted"])
    assert_frame_equal(pd.read_parquet(folder / "own.parquet"), table)
    read = pd.read_csv(folder / "own.csv", keep_default_na=False)
    assert list(read) == list(table) and read["retrieval_error"].astype(float).tolist() == table["retrieval_error"].tolist()


def forbid(monkeypatch, *names):
    def forbidden(*_, **__):
        raise AssertionError("this is not to be done again")

    for name in names:
        monkeypatch.setattr(embedding, name, forbidden)


def test_again_nothing_is_computed_and_more_only_where_it_is_missing(home, grid, done, copied, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        forbid(patch, "open_stream", "train_and_embed")
        assert_frame_equal(sweep(read_grid(grid), copied, "own", jobs=1), done[1])
    assert capsys.readouterr().err == ""
    unfinished(grid, copied, (0, 3))
    # Another grid, in another order, that holds the missing cell and one more.
    wider = tiny_sweep.write_grid(
        home, home / "wider.yaml", product={"seed": [1, 0], "signature.dimension": [3, 2], "bounds.confidence": [0.95, 0.9]}
    )
    cells = [
        cell
        for cell in read_grid(wider)
        if cell.config.bounds.confidence == 0.95 or cell.changes["seed"] == 1 == cell.changes["signature.dimension"] - 2
    ]
    table = sweep(cells, copied, "wider", jobs=1)
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("done")] == [
        "done seed=1, signature.dimension=3, bounds.confidence=0.9",
        "done seed=0, signature.dimension=3, bounds.confidence=0.95",
    ]
    # What was there is as it was, what is new as it would have been, and a lower confidence gives narrower intervals.
    same = [c for c in done[1] if c not in ("seconds", "signature.dimension", "seed")]
    old = table[table["bounds.confidence"] == 0.95].sort_values(["signature.dimension", "seed"], kind="stable").reset_index(drop=True)
    assert_frame_equal(old[same], done[1][same])
    new = table[table["bounds.confidence"] == 0.9]
    assert len(new) == 4 and (new["high"].to_numpy() < old["high"].iloc[-4:].to_numpy()).all()


def test_a_cell_that_fails_is_told_and_ends_no_other(grid, done, copied, quick, capsys):
    unfinished(grid, copied, (0, 2), (0, 3), (1, 3))
    quick[1][0, 3] = ValueError("no such\nluck")
    assert command(grid, "--out", copied, "--jobs", 1) == 3
    out, err = capsys.readouterr()
    assert "failed signature.dimension=3, seed=0: ValueError: no such luck\n" in err and "not all cells are done" in err
    place = cells_of(grid, copied)[0, 3]
    assert f"failed: {place.key[:12]} (signature.dimension=3, seed=0): ValueError: no such luck" in out
    first, *rest = (place.folder / "failure.txt").read_text().splitlines()
    assert first == "ValueError: no such luck" and rest[0] == "cell: signature.dimension=3, seed=0"
    assert "Traceback (most recent call last):" in rest and any("in compute" in line for line in rest)
    table = pd.read_parquet(copied / "own.parquet")
    failed = table[table["state"] == "failed"]
    assert len(table) == 3 * 4 + 1 and failed["reason"].tolist() == ["ValueError: no such luck"]
    assert failed[["seed", "signature.dimension"]].to_numpy().tolist() == [[0, 3]] and failed["retrieval_error"].isna().all()
    assert command("status", grid, "--out", copied) == 0
    assert "own: 4 cells: 3 done, 1 failed\nfailed " in capsys.readouterr().out
    # The next sweep tries it again.
    assert command(grid, "--out", copied, "--jobs", 1, "--quiet", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["retrieval_error"] for row in rows] == done[1]["retrieval_error"].tolist()
    assert not (place.folder / "failure.txt").exists()


def test_a_training_that_fails_fails_its_cells_and_no_others(grid, copied, quick):
    unfinished(grid, copied, (0, 2), (0, 3), (1, 3))
    quick[1][0] = InputError("training", "diverged")
    table = sweep(read_grid(grid), copied, "own", jobs=1, quiet=True)
    found = table.drop_duplicates("cell").set_index(["seed", "signature.dimension"])
    assert found["state"].to_dict() == {(0, 2): "failed", (0, 3): "failed", (1, 2): "done", (1, 3): "done"}
    assert set(found["reason"]) == {"", "InputError: training: diverged"}


@pytest.mark.parametrize("fault", ["full disk", "interrupt"])
def test_what_ends_the_sweep_keeps_what_is_done_and_the_same_command_goes_on(fault, grid, done, copied, quick, capsys):
    unfinished(grid, copied, (0, 2), (0, 3))
    quick[1][0, 3] = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if fault == "full disk" else KeyboardInterrupt()
    assert command(grid, "--out", copied, "--jobs", 1) == (1 if fault == "full disk" else 130)
    told = capsys.readouterr().err.splitlines()[-1]
    assert (
        ("No space left" in told and "same command" in told)
        if fault == "full disk"
        else "interrupted; cells that are done are kept" in told
    )
    found = cells_of(grid, copied)
    assert (state(found[0, 2].folder), state(found[0, 3].folder)) == ("done", "missing")
    # Begun once before; to be ended from outside is not to die of the cell.
    assert json.loads((found[0, 3].folder / "begun.json").read_text())["times"] == 1
    same = [c for c in done[1] if c != "seconds"]
    assert_frame_equal(sweep(read_grid(grid), copied, "own", jobs=1, quiet=True)[same], done[1][same])
    assert {p.name for p in found[0, 3].folder.iterdir()} - {"lock"} == {"cell.json", "run"}


def test_a_cell_that_its_process_died_of_too_often_is_given_up(grid, copied, quick, monkeypatch):
    unfinished(grid, copied, (0, 2), (0, 3))
    found = cells_of(grid, copied)
    place = found[0, 2]
    place.folder.mkdir()
    (place.folder / "begun.json").write_text('{"sweep": "this", "times": 2}')
    monkeypatch.setattr(sweeping.uuid, "uuid4", lambda: type("", (), {"hex": "this"}))
    table = sweep(read_grid(grid), copied, "own", jobs=1, quiet=True)
    assert table[table["state"] == "failed"]["reason"].tolist() == [
        "its process ended 2 times while it was computed (killed, or out of memory)"
    ]
    assert state(found[0, 3].folder) == "done" and not (place.folder / "begun.json").exists()


def test_what_cannot_be_computed_is_refused_before_anything_is_made(home, tmp_path, capsys):
    for product, told in (
        ({"seed": [0, 1], "signature.dimension": [2, 900]}, "cell seed=0, signature.dimension=900: signature.dimension: 900 exceeds"),
        ({"adapter.targets": [["query"], ["no"]]}, "cell adapter.targets=['no']: "),
        ({"training.epoch": [1]}, "did you mean training.epochs?"),
        ({"stream.path": [str(home / "none.csv")]}, "none.csv cannot be read"),
    ):
        grid = tiny_sweep.write_grid(home, home / "bad.yaml", product=product)
        assert command(grid, "--out", tmp_path / "out") == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1
        assert not (tmp_path / "out").exists()
    grid = tiny_sweep.write_grid(home, home / "bad.yaml", kind="compare", product={"order": [1, 2]})
    assert command(grid, "--out", tmp_path / "out") == 2
    assert "cell order=2: compare.orders: 3 exceeds the 2 orders of 2 tasks" in capsys.readouterr().err


def test_where_no_process_can_start_one_is_enough_unless_more_are_asked_for(grid, copied, quick, tmp_path, monkeypatch, capsys):
    # As where joblib finds that /dev/shm cannot be written.
    monkeypatch.setattr("joblib._parallel_backends.mp", None)
    monkeypatch.setattr("empirics.sweep.run._cores", lambda: 2)
    assert command(grid, "--out", tmp_path / "out", "--jobs", 2) == 2
    err = capsys.readouterr().err
    assert "--jobs: asks for 2 processes" in err and "/dev/shm" in err and err.count("\n") == 1 and not (tmp_path / "out").exists()
    unfinished(grid, copied, (0, 2), (1, 2))
    assert command(grid, "--out", copied) == 0
    assert "one cell at a time" in capsys.readouterr().err and sorted(quick[0]) == [(0, 2), (1, 2)]


def test_folders_of_others_and_of_other_versions_are_left_alone(grid, copied, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    for words in ((grid, "--out"), ("status", grid, "--out"), ("status",)):
        assert command(*words, tmp_path / "other") == 2
        assert "holds something else than a sweep" in capsys.readouterr().err
    (copied / "sweep-store.json").write_text('{"schema": 99}')
    for words in ((grid, "--out"), ("status", grid, "--out")):
        assert command(*words, copied) == 2
        assert "was written by another version (schema 99, not 1)" in capsys.readouterr().err
    (copied / "sweep-store.json").write_text('{"schema": 1}')
    place = cells_of(grid, copied)[0, 2]
    (place.folder / "cell.json").write_text("{}")
    assert command(grid, "--out", copied) == 2
    assert f"{place.folder}: holds no cell of this version; remove this folder" in capsys.readouterr().err
    for words in (("--jobs", 1, "--scheduler", "tcp://127.0.0.1:1"), ("--retries", 0)):
        assert command(grid, "--out", tmp_path / "new", *words) == 2
        capsys.readouterr()
    assert not (tmp_path / "new").exists()


def test_status_tells_from_the_folder_alone_what_the_grid_tells(grid, copied, capsys):
    unfinished(grid, copied, (0, 2), (1, 2))
    found = cells_of(grid, copied)
    with locked(found[1, 2].folder) as free:
        assert free
        told = []
        for words in ((grid, "--out", copied), (copied,)):
            assert command("status", *words) == 0
            told.append(capsys.readouterr().out)
            assert command("status", *words, "--json") == 0
            told.append(json.loads(capsys.readouterr().out)["own"]["counts"])
    assert told[0] == told[2] and told[1] == told[3] == {"done": 2, "failed": 0, "running": 1, "missing": 1}
    missing, running = (
        f"{now} {found[key].key[:12]} (signature.dimension=2, seed={key[0]})" for now, key in (("missing", (0, 2)), ("running", (1, 2)))
    )
    assert told[0].splitlines() == ["own: 4 cells: 2 done, 1 running, 1 missing", missing, running]
    assert command("status", grid) == 0
    assert "4 missing" in capsys.readouterr().out


def test_status_names_cells_that_are_in_no_sweep_any_more(grid, copied, capsys):
    found = cells_of(grid, copied)
    kept = [place.folder for key, place in found.items() if key != (0, 2)]
    older = found[0, 2].folder.rename(copied / "cells" / ("a" * 64))
    busy = copied / "cells" / ("b" * 64)
    (copied / "cells" / "notes").mkdir()
    with locked(busy):
        for words in ((grid, "--out", copied), (copied,)):
            assert command("status", *words) == 0
            told = capsys.readouterr().out.splitlines()
            assert told[-2].startswith("1 cells more are in no sweep") and told[-1] == str(older)
    # Another grid of the folder that has the cell still.
    (copied / "other.cells.json").write_text(json.dumps({"cells": [{"key": "a" * 64, "changes": {"seed": 9}}]}))
    for words in ((grid, "--out", copied), (copied,)):
        assert command("status", *words) == 0
        told = capsys.readouterr().out
        assert str(older) not in told and str(busy) in told and not any(str(folder) in told for folder in kept)


def test_cells_of_another_sweep_are_waited_for_and_not_computed_twice(grid, done, copied, quick, monkeypatch):
    unfinished(grid, copied, (0, 2), (0, 3))
    found = cells_of(grid, copied)
    held, free = threading.Event(), threading.Event()
    monkeypatch.setattr(sweeping, "_PAUSE", 0.01)

    def other():
        with locked(found[0, 2].folder), locked(found[0, 3].folder):
            held.set()
            free.wait(60)
            # One it finishes, the other it leaves.
            shutil.copytree(done[0] / "cells" / found[0, 2].key, found[0, 2].folder, dirs_exist_ok=True)

    looked = sweeping.state

    def look(folder):
        free.set()
        return looked(folder)

    monkeypatch.setattr(sweeping, "state", look)
    elsewhere = threading.Thread(target=other)
    elsewhere.start()
    assert held.wait(60)
    table = sweep(read_grid(grid), copied, "own", jobs=1, quiet=True)
    elsewhere.join()
    assert quick[0] == [(0, 3)] and set(table["state"]) == {"done"}


def test_a_worker_of_another_version_fails_its_cells(grid, copied, monkeypatch):
    unfinished(grid, copied, (0, 2))
    place = cells_of(grid, copied)[0, 2]
    job = work.Job((place,), "this", 1, {**work.versions(), "torch": "99.0"})
    [outcome] = work.run_job(job)
    assert outcome.state == "failed" and outcome.reason.endswith(f"torch {work.versions()['torch']}, not 99.0")


def test_cells_of_comparisons_are_those_of_the_comparison(home, tmp_path, monkeypatch):
    grid = tiny_sweep.write_grid(home, home / "orders.yaml", kind="compare", product={"order": [0, 1]})
    cells = read_grid(grid)
    encoded, real = [], comparison.run_order
    monkeypatch.setattr(comparison, "run_order", lambda *a: (encoded.append(a[4]), real(*a)))
    table = sweep(cells, tmp_path / "sweep", "orders", jobs=1, quiet=True)
    assert encoded[0] is encoded[1]
    summary = compare(cells[1].config, tmp_path / "whole", quiet=True)
    for place in places(cells, tmp_path / "sweep"):
        own = tmp_path / "whole/cells" / f"seed0-order{place.cell.order}"
        assert (place.result / "predictions.parquet").read_bytes() == (own / "predictions.parquet").read_bytes()
    assert table["method"].tolist() == ["nearest-mean", "ridge"] * 2 and table["order"].tolist() == [0, 0, 1, 1]
    for row in summary["methods"]:
        own = table[table["method"] == row["name"]]
        assert own["retrieval_error"].mean() == pytest.approx(row["retrieval_error"])
        # Of one seed, the comparison's intervals are the means over its orders.
        assert own[["low", "high"]].mean().tolist() == pytest.approx(row["intervals"]["retrieval_error"])
        assert own[["accuracy_low", "accuracy_high"]].mean().tolist() == pytest.approx(row["intervals"]["accuracy"])
