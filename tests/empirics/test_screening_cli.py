"""`proteus-bounds bound --screen`: the union of pairs for components too many for a ladder."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from empirics.cli import main
from theory import Rule, read_signatures
from theory.screening import screened


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", "bound", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "signatures.npz"
    factors, diagonals = rng.normal(size=(40, 16, 2)), rng.uniform(0.5, 2, size=(40, 16))
    np.savez(path, means=2 * rng.normal(size=(40, 16)), factors=factors, diagonals=diagonals, task=np.arange(40) // 2)
    return path


def test_the_command_prints_what_the_theory_returns(run, file):
    status, out, err = run(file, "--screen", 0.05, "--refine", 30, "--rule", "mixture", "--json")
    assert status == 0, err
    found, want = json.loads(out), screened(Rule(read_signatures(file), kind="mixture"), tolerance=0.05, refine=30, memory=2**30)
    assert found["overall"]["rungs"]["L5"] == want.bound.to_dict()
    assert [task["log_value"] for task in found["tasks"]] == want.log_tasks.tolist()
    assert found["pairs"] == {"all": 40 * 38, "exact": want.exact, "chernoff": want.chernoff}
    assert found["settled"] is want.settled


def test_a_table_for_people_and_what_was_not_settled(run, file):
    status, out, err = run(file, "--screen", 1e-6, "--refine", 2)
    assert status == 0, err
    assert "at most" in out and "2 of 1520 pairs exact" in out and "refine more pairs" in out


def test_it_speaks_of_well_specified_queries_and_of_low_rank_alone(run, file, tmp_path):
    dense = tmp_path / "dense.npz"
    np.savez(dense, means=np.eye(3), covariances=np.stack([np.eye(3)] * 3), task=np.arange(3))
    status, _, err = run(dense, "--screen", 0.1)
    assert status == 2 and "dense covariances" in err
    queries = tmp_path / "queries.npz"
    np.savez(queries, means=np.zeros((40, 16)), covariances=np.stack([np.eye(16)] * 40), task=np.arange(40) // 2)
    status, _, err = run(file, "--screen", 0.1, "--queries", queries)
    assert status == 2 and "well-specified" in err
    status, _, err = run(file, "--screen", 0.1, "--memory", 0)
    assert status == 2 and "needs at least" in err
