"""A sweep on processes of this machine and on a Dask cluster of processes: the same bytes as in one process, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import contextmanager

import letters
import pytest
import tiny_sweep
from pandas.testing import assert_frame_equal

from empirics.sweep.engines import Cluster
from empirics.sweep.grid import read_grid
from empirics.sweep.run import sweep
from empirics.sweep.store import places
from theory.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# They tell of seconds.
TIMED = ("run.json", "report.json", "report.md", "manifest.json", "cell.json", "lock")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    letters.write_home(folder)
    return folder


@pytest.fixture(scope="module")
def cells(home):
    """Runs that share nothing."""
    return read_grid(tiny_sweep.write_grid(home, home / "own.yaml", product={"seed": [0, 1, 2]}))


@pytest.fixture(scope="module")
def serial(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial") / "sweep"
    return folder, sweep(cells[:2], folder, "own", jobs=1, quiet=True)


@contextmanager
def killed(place, times):
    """Kill the process that computes a cell, whenever it begins it, so many times; gives those that were killed."""
    struck, over = [], threading.Event()

    def watch():
        while not over.is_set() and len(struck) < times:
            try:
                process = json.loads((place.folder / "begun.json").read_text())["process"]
            except (OSError, ValueError):
                process = None
            if process is not None and process not in struck:
                os.kill(process, signal.SIGKILL)
                struck.append(process)
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield struck
    finally:
        over.set()
        watching.join()


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in TIMED}


def assert_same(cells, folder, table, serial):
    """The same numbers to the last bit, and the same files."""
    columns = [c for c in table if c != "seconds"]
    assert_frame_equal(table[columns], serial[1][columns], check_exact=True)
    for place in places(cells, folder):
        own, its = place.folder, serial[0] / "cells" / place.key
        assert files(own) == files(its)
        mine, other = (json.loads((f / "cell.json").read_text()) for f in (own, its))
        assert {k: v for k, v in mine.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


def test_processes_give_the_same_bytes_and_a_cell_whose_process_is_always_killed_fails_alone(cells, serial, tmp_path):
    some = cells[:2]
    with killed(places(some, tmp_path)[0], 9) as struck:
        table = sweep(some, tmp_path, "own", jobs=2, quiet=True)
    # Once beside the other, and once more by itself.
    assert len(struck) == 2 and os.getpid() not in struck
    assert table[table["state"] != "done"][["seed", "state", "reason"]].to_numpy().tolist() == [
        [0, "failed", "its process ended 2 times while it was computed (killed, or out of memory)"]
    ]
    # The same command does what is missing, here in this process.
    assert_same(some, tmp_path, sweep(some, tmp_path, "own", jobs=1, quiet=True), serial)


def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed_and_may_go_away(cells, serial, tmp_path):
    from distributed import LocalCluster

    some, gone = cells[:2], places(cells[2:], tmp_path / "b")[0]
    cluster = LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0")
    try:
        with killed(places(some, tmp_path / "a")[1], 1) as struck:
            table = sweep(some, tmp_path / "a", "own", scheduler=cluster.scheduler_address, quiet=True)
        assert len(struck) == 1
        assert_same(some, tmp_path / "a", table, serial)

        def go_away():
            while not (gone.folder / "begun.json").exists():
                time.sleep(0.002)
            cluster.close()

        going = threading.Thread(target=go_away)
        going.start()
        with pytest.raises(InputError, match=r"--scheduler: .* no longer answers; cells that are done are kept"):
            sweep(cells[2:], tmp_path / "b", "own", scheduler=cluster.scheduler_address, quiet=True)
        going.join()
    finally:
        cluster.close()
    # Elsewhere the same command goes on.
    assert set(sweep(cells[2:], tmp_path / "b", "own", jobs=1, quiet=True)["state"]) == {"done"}


def test_without_a_scheduler_that_answers_nothing_is_made(cells, tmp_path, monkeypatch):
    import distributed

    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout, **rest: real(address, timeout="1s", **rest))
    with pytest.raises(InputError, match=r"--scheduler: no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        Cluster("tcp://127.0.0.1:9")
