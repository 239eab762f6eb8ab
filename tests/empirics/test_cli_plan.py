from __future__ import annotations

import json
import sys

import pytest

from empirics.cli import main
from theory.planner import PLANNED_RUNGS, batch_for, samples_per_cluster, separation_for, tasks_for


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command in this process; returns status, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", "plan", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def plans(run):
    def call(*arguments):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)["plans"]

    return call


def test_separation_in_all_rungs_and_in_one(plans):
    arguments = ("separation", "--tasks", 10, "--components", 3, "--dimension", 384, "--error", 0.01)
    assert plans(*arguments) == [separation_for(10, 3, 384, 0.01, rung).to_dict() for rung in PLANNED_RUNGS]
    assert plans(*arguments, "--rung", "L1") == [separation_for(10, 3, 384, 0.01, "L1").to_dict()]


def test_tasks_samples_and_batch(plans):
    common = ("--separation", 4, "--dimension", 8, "--error", 0.05)
    assert plans("tasks", *common) == [tasks_for(4.0, 8, 1, 0.05, rung).to_dict() for rung in PLANNED_RUNGS]
    assert plans("samples", "--tasks", 3, *common) == [samples_per_cluster(8, 3, 1, 4.0, 0.05).to_dict()]
    common = ("--separation", 0.05, "--dimension", 384, "--error", 0.01)
    assert plans("batch", "--tasks", 10, "--components", 3, *common) == [batch_for(10, 3, 384, 0.05, 0.01).to_dict()]


def test_a_table_for_people(run):
    status, out, _ = run("separation", "--tasks", 10, "--components", 3, "--dimension", 384, "--error", 0.01)
    assert status == 0
    for plan in (separation_for(10, 3, 384, 0.01, rung) for rung in PLANNED_RUNGS):
        assert f"{plan.answer:.6g}" in out and plan.rung in out
    assert "Assumes: canonical model" in out
    status, out, _ = run("batch", "--tasks", 3, "--components", 50, "--dimension", 4, "--separation", 1, "--error", 0.1)
    assert status == 0 and "none" in out and "no batch size works" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("separation", "--tasks", 1, "--dimension", 4, "--error", 0.1), "--tasks"),
        (("separation", "--tasks", 2, "--dimension", 4, "--error", "nan"), "--error"),
        (("separation", "--tasks", 2, "--dimension", 4, "--error", 0.1, "--rung", "L9"), "--rung"),
        (("tasks", "--separation", -1, "--dimension", 4, "--error", 0.1), "--separation"),
        (("samples", "--tasks", 2, "--separation", 1, "--dimension", 0, "--error", 0.1), "--dimension"),
        (("batch", "--tasks", 2, "--separation", 1, "--dimension", 4, "--error", 0.1, "--components", 0), "--components"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(run, arguments, what):
    status, out, err = run(*arguments)
    assert status == 2 and out == ""
    assert what in err and len(err.strip().splitlines()) == 1
