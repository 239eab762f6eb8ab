from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file

from empirics.cli import app, main
from empirics.config import presets
from theory import RUNGS, Gaussians, Rule, ladder, read_queries, read_signatures


def _run(*arguments):
    command = [sys.executable, "-m", "empirics.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"means": 3 * rng.normal(size=(4, 3)), "covariances": np.stack([np.eye(3)] * 4), "task": np.array([0, 0, 1, 2])}


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_bound_prints_the_ladder_as_json(arrays, tmp_path, ending):
    path = tmp_path / f"signatures.{ending}"
    np.savez(path, **arrays) if ending == "npz" else save_file(arrays, path)
    done = _run("bound", path, "--json", "--simulations", 2000)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(c["task"], c["index"]) for c in found["clusters"]] == [(0, 0), (0, 1), (1, 2), (2, 3)]
    assert len(found["tasks"]) == 3
    for unit in [*found["clusters"], *found["tasks"], found["overall"]]:
        assert tuple(unit["rungs"]) == RUNGS
        for rung in unit["rungs"].values():
            assert rung.keys() >= {"log_value", "value", "direction", "level", "vacuous", "holds", "broken_assumption", "binding"}
    assert "log_lower" in found["tasks"][1]["rungs"]["L5"]
    assert "log_lower" not in found["tasks"][0]["rungs"]["L5"]


def test_measured_moments_change_the_bounds(arrays, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    np.savez(tmp_path / "q.npz", **{**arrays, "covariances": arrays["covariances"] * 4})
    plain, wider = (
        json.loads(_run("bound", tmp_path / "s.npz", "--json", *extra).stdout)["overall"]["rungs"]["L5"]["value"]
        for extra in ((), ("--queries", tmp_path / "q.npz"))
    )
    assert wider > plain


def test_a_table_for_people(arrays, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    done = _run("bound", tmp_path / "s.npz")
    assert done.returncode == 0 and "overall" in done.stdout and "L1b" in done.stdout


def _bad(arrays, tmp_path, **change):
    np.savez(tmp_path / "s.npz", **{**arrays, **change})
    return _run("bound", tmp_path / "s.npz")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"means": np.full((4, 3), np.nan)}, "NaN"),
        ({"covariances": np.stack([-np.eye(3)] * 4)}, "positive definite"),
        ({"task": np.array([0, 0, 0, 0])}, "one task"),
        ({"means": np.zeros((5, 3))}, "shape"),
    ],
)
def test_bad_signatures_exit_2_with_one_line(arrays, tmp_path, change, what):
    done = _bad(arrays, tmp_path, **change)
    assert done.returncode == 2
    assert what in done.stderr and "s.npz" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_files_that_are_not_what_they_say_exit_2(tmp_path):
    (tmp_path / "s.safetensors").write_bytes(b"junk")
    (tmp_path / "s.npz").write_bytes(b"junk")
    (tmp_path / "s.txt").write_text("junk")
    np.savez(tmp_path / "pickle.npz", means=np.array([object()], dtype=object))
    np.savez(tmp_path / "short.npz", means=np.zeros((2, 1)))
    for name in ("s.safetensors", "s.npz", "s.txt", "pickle.npz", "short.npz", "absent.npz"):
        done = _run("bound", tmp_path / name)
        assert done.returncode == 2, name
        assert name in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_bad_settings_exit_2_before_anything_is_made(tmp_path):
    for extra, what in ((("--set", "training.epoch=2"), "training.epochs"), (("--preset", "huge"), "huge")):
        done = _run("verify", "--out", tmp_path / "run", *extra)
        assert done.returncode == 2 and what in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def _options(command):
    for name, inner in getattr(command, "commands", {}).items():
        yield from ((f"{name} {path}".strip(), option) for path, option in _options(inner))
    if not hasattr(command, "commands"):
        yield from (("", parameter) for parameter in command.params if parameter.name != "help")


def test_every_option_says_what_it_is():
    found = list(_options(typer.main.get_command(app)))
    assert len(found) > 80
    for command, option in found:
        assert option.help and len(option.help.split()) > 2 and option.help.endswith("."), (command, option.name)
        # A switch with nothing to switch off says so once.
        assert not option.secondary_opts, (command, option.secondary_opts)


def test_the_help_names_every_preset():
    for command, option in _options(typer.main.get_command(app)):
        if option.name == "preset":
            assert set(presets()) <= set(re.findall(r"[\w-]+", option.help)), command


@pytest.fixture
def bound(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", "bound", *map(str, arguments), "--simulations", "1000"])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0, *capsys.readouterr()

    return call


def test_bounds_are_of_the_rule_that_the_file_holds(arrays, tmp_path, bound):
    """A background shifts the scores of a task; without it they are another rule's."""
    background = Gaussians(np.zeros((3, 3)), np.stack([np.eye(3) * scale for scale in (4.0, 9.0, 2.0)]))
    kept = {"background_means": background.means, "background_covariances": background.covariances}
    np.savez(tmp_path / "s.npz", **arrays, **kept)
    in_every_space = {"means": np.repeat(arrays["means"][:, None], 3, axis=1), "covariances": np.stack([4 * np.eye(9)] * 4)}
    np.savez(tmp_path / "q.npz", **{**arrays, **in_every_space})
    status, out, err = bound(tmp_path / "s.npz", "--queries", tmp_path / "q.npz", "--json")
    assert status == 0, err
    signatures = read_signatures(tmp_path / "s.npz")
    law = read_queries(tmp_path / "q.npz", signatures)
    found = json.loads(out)["overall"]["rungs"]["L5"]["value"]
    assert found == ladder(Rule(signatures, background), law, simulations=0).overall["L5"].value
    assert found != ladder(Rule(signatures), law, simulations=0).overall["L5"].value


@pytest.mark.parametrize(
    "beside",
    [
        {"background_means": np.zeros((3, 3)), "background_covariances": np.stack([np.eye(3)] * 3)},
        {"projection_mean": np.zeros((3, 8)), "projection_axes": np.zeros((3, 3, 8))},
        {"spaces": np.array(3)},
    ],
    ids=["background", "projections", "spaces"],
)
def test_signatures_of_several_spaces_are_not_taken_for_the_law_of_queries(beside, arrays, tmp_path, bound):
    np.savez(tmp_path / "s.npz", **arrays, **beside)
    status, out, err = bound(tmp_path / "s.npz")
    assert (status, out) == (2, "") and "s.npz: holds signatures of several embedding spaces" in err
    np.savez(tmp_path / "one.npz", **arrays, projection_mean=np.zeros((1, 8)), spaces=np.array(1))
    status, out, _ = bound(tmp_path / "one.npz")
    assert status == 0 and "Of other queries they guarantee nothing" in " ".join(out.split())


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rule", "best"), ("--student", "0"), ("--kl", "-1"), ("--batch", "0"), ("--confidence", "1"), ("--screen", "2"), ("--seed", "-1")],
)
def test_the_option_at_fault_is_named(option, value, tmp_path, bound):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", means=np.eye(3), factors=rng.normal(size=(3, 3, 1)), diagonals=np.ones((3, 3)), task=np.arange(3))
    status, _, err = bound(tmp_path / "s.npz", option, value)
    assert status == 2 and option in err and "Traceback" not in err
