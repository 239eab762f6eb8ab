"""The comparison of all methods on a tiny encoder and a table of short texts: what it writes, continues, refuses and concludes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from empirics.cli import main
from empirics.comparisons import comparison
from empirics.comparisons.comparison import check_stream, chosen_methods, compare, task_orders, without_query
from empirics.comparisons.standings import SCHEMA, cell_folder, cost_rows, markdown, summarise, table_rows
from empirics.config import RunConfig, load_config
from empirics.data.streams import load_stream
from empirics.files.record import write_json, write_parquet
from empirics.methods import METHODS
from empirics.reports.metrics import holm, paired, resampled
from empirics.runs import embedding
from empirics.seeding import generator
from theory import InputError
from theory.certificates import clopper_pearson

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = [method.name for method in METHODS]
TIMES = ("seconds", "peak_bytes")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random encoder with a tokenizer, as a folder that AutoModel loads."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.save_bert(folder, layers=2, positions=64)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three tasks of two classes, told by their letters."""
    rng = np.random.default_rng(0)
    letters = {"early": ("abc", "cde"), "middle": ("klm", "mno"), "late": ("uvw", "wxy")}
    rows = [
        {"text": "".join(rng.choice(list(own), size=rng.integers(9, 16))), "label": c, "task": task}
        for task, pair in letters.items()
        for c, own in zip("xy", pair, strict=True)
        for _ in range(40)
    ]
    path = tmp_path_factory.mktemp("data") / "letters.csv"
    pd.DataFrame(rows).drop_duplicates("text").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    """Texts of no task."""
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("corpus") / "generic.txt"
    path.write_text("\n".join("".join(rng.choice(list("fghijpqrstz"), size=12)) for _ in range(30)), "utf-8")
    return path


@pytest.fixture(scope="module")
def overrides(encoder, table, corpus_file):
    return [
        f"stream.path={table}",
        "stream.train_per_class=12",
        "stream.query_per_class=4",
        "stream.test_per_class=6",
        "stream.reservoir_per_class=4",
        f"backbone.path={encoder}",
        "backbone.adapted_layers=1",
        "backbone.max_length=20",
        "adapter.rank=2",
        "training.epochs=1",
        "training.batch_size=8",
        "signature.dimension=4",
        "compare.seeds=2",
        "compare.orders=2",
        "retrieval.batches=[4]",
        "compare.random_features=30",
        "compare.replayed=8",
        f"compare.background={corpus_file}",
    ]


@pytest.fixture(scope="module")
def config(overrides) -> RunConfig:
    return load_config(overrides=overrides)


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparisons") / "a"
    return folder, compare(config, folder, quiet=True)


def test_everything_is_written_and_the_table_is_complete(done, config):
    folder, summary = done
    assert sorted(p.name for p in (folder / "cells").iterdir()) == [f"seed{s}-order{o}" for s in (0, 1) for o in (0, 1)]
    assert json.loads((folder / "comparison.json").read_text()) == summary
    assert [row["name"] for row in summary["methods"]] == NAMES
    frame = pd.read_parquet(folder / "comparison.parquet")
    assert len(frame) == 4 * len(NAMES) and set(frame["method"]) == set(NAMES)
    assert not frame.isna().any().any()
    page = (folder / "comparison.md").read_text()
    for name in NAMES:
        assert f"{name} |" in page or f"({name}) |" in page
        assert f"- {name} (" in page
    for header, body in (table_rows(summary), cost_rows(summary)):
        assert len(body) == len(NAMES) and all(len(row) == len(header) for row in body)
    for row in summary["methods"]:
        for what in ("accuracy", "retrieval_error"):
            low, high = row["intervals"][what]
            assert 0 <= low <= row[what] <= high <= 1 and low < high
        assert row["accuracy"] <= row["told_accuracy"] + 1e-12
        assert row["accuracy"] == pytest.approx((1 - row["retrieval_error"]) * row["within_task_accuracy"], abs=0.05)
        assert row["forward_transfer"] is not None
        assert row["stored"] and row["seconds"].keys() == {"train", "fit", "test"}
    assert summary["config"] == config.model_dump(mode="json")


def test_numbers_are_those_of_the_predictions(done):
    folder, summary = done
    for cell in (folder / "cells").iterdir():
        about, frame = json.loads((cell / "cell.json").read_text()), pd.read_parquet(cell / "predictions.parquet")
        assert len(frame) == about["documents"]["test"] == frame["input"].nunique()
        for name, row in about["methods"].items():
            wrong = frame[f"{name}:task"] != frame["task"]
            assert row["retrieval_error"] == pytest.approx(wrong.mean())
            assert row["macro_retrieval_error"] == pytest.approx(wrong.groupby(frame["task"]).mean().mean())
            assert row["accuracy"] == pytest.approx((frame[f"{name}:cluster"] == frame["cluster"]).mean())
            assert row["accuracy"] == pytest.approx((1 - row["retrieval_error"]) * row["within_task_accuracy"])
            assert row["retrieval_matrix"][-1] == pytest.approx((~wrong).groupby(frame["task"]).mean().tolist())
            assert [len(r) for r in row["accuracy_matrix"]] == [1, 2, 3]
    by_name = {row["name"]: row for row in summary["methods"]}
    assert by_name["told"]["retrieval_error"] == by_name["told"]["forgetting"] == 0
    # Told the task, an adapter trained alone gains nothing over itself.
    assert by_name["independent"]["forward_transfer"] == by_name["keys"]["forward_transfer"] == 0


def test_order_0_is_the_streams_and_orders_of_a_seed_share_its_documents(done):
    folder, _ = done
    for seed in (0, 1):
        cells = [json.loads((cell_folder(folder, seed, o) / "cell.json").read_text()) for o in (0, 1)]
        frames = [pd.read_parquet(cell_folder(folder, seed, o) / "predictions.parquet") for o in (0, 1)]
        assert cells[0]["tasks"] == ["early", "middle", "late"]
        assert cells[1]["tasks"] != cells[0]["tasks"] and sorted(cells[1]["tasks"]) == sorted(cells[0]["tasks"])
        assert frames[0]["input"].tolist() == frames[1]["input"].tolist()
        names = [[c["tasks"][k] for k in f["task"]] for c, f in zip(cells, frames, strict=True)]
        assert names[0] == names[1]
        # Whoever does not learn in order does not mind it.
        found = [[c["tasks"][k] for k in f["nearest-mean:task"]] for c, f in zip(cells, frames, strict=True)]
        assert found[0] == found[1]
    first, second = (pd.read_parquet(cell_folder(folder, seed, 0) / "predictions.parquet") for seed in (0, 1))
    assert set(first["input"]) != set(second["input"])


def test_it_continues_without_doing_anything_again(done, config, tmp_path, monkeypatch):
    folder, summary = done
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(cell_folder(copy, 1, 1))
    (copy / "comparison.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in (copy / "cells").rglob("*.*")}
    again = compare(config, copy, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert _untimed(again) == _untimed(summary)
    # The cell that was done again: the same bytes, and the same numbers apart from times.
    assert (cell_folder(copy, 1, 1) / "predictions.parquet").read_bytes() == (
        cell_folder(folder, 1, 1) / "predictions.parquet"
    ).read_bytes()
    cells = [json.loads((cell_folder(f, 1, 1) / "cell.json").read_text()) for f in (copy, folder)]
    assert _untimed(cells[0]) == _untimed(cells[1])

    def nothing(*_: object) -> None:
        raise AssertionError("a finished comparison was started again")

    for module in (comparison, embedding):
        monkeypatch.setattr(module, "load_stream", nothing)
    assert _untimed(compare(config, copy, quiet=True)) == _untimed(summary)


def _untimed(content):
    if isinstance(content, dict):
        return {k: _untimed(v) for k, v in content.items() if not any(t in k for t in (*TIMES, "environment"))}
    return [_untimed(x) for x in content] if isinstance(content, list) else content


def test_other_settings_and_other_folders_are_refused_and_left_alone(done, config, tmp_path):
    folder, _ = done
    before = sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*"))
    with pytest.raises(InputError, match="other settings"):
        compare(config.model_copy(update={"seed": 5}), folder, quiet=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in folder.rglob("*")) == before
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        compare(config, tmp_path, quiet=True)
    with pytest.raises(InputError, match=r"settings\.json"):
        summarise(tmp_path)
    write_json(tmp_path / "new" / "settings.json", {"schema": SCHEMA, "config": config.model_dump(mode="json")})
    with pytest.raises(InputError, match="no finished cell"):
        summarise(tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"compare": {"methods": ("proteus", "magic")}}, r"compare\.methods: 'magic' is unknown"),
        ({"compare": {"reference": "magic"}}, r"compare\.reference: 'magic' is unknown"),
        ({"compare": {"methods": ("ridge",)}}, r"compare\.reference: 'proteus' is not among"),
        ({"compare": {"orders": 7}}, r"compare\.orders: 7 exceeds the 6"),
        ({"signature": {"dimension": 33}}, r"signature\.dimension: 33 exceeds the encoder's 32"),
        ({"signature": {"covariance": "full", "dimension": 9}}, r"signature\.covariance.*has 9 for 9"),
        ({"signature": {"held_out": 0.5}}, r"signature\.held_out"),
        ({"stream": {"train_per_class": 4, "query_per_class": 24, "test_per_class": 30}}, r"stream\.train_per_class.*needs 4"),
        ({"adapter": {"targets": ("nothing",)}}, "nothing"),
        ({"compare": {"background": Path("absent.txt")}}, r"absent\.txt: cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(config, tmp_path, change, what):
    groups = {name: getattr(config, name).model_copy(update=values) for name, values in change.items()}
    with pytest.raises(InputError, match=what):
        compare(config.model_copy(update=groups), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_reservoir_that_is_too_small_is_named(config):
    stream = load_stream(config.stream, generator(0, "stream"))
    part = np.where(stream.part == "reservoir", "unused", stream.part)
    part[stream.where("reservoir", 0)[:2]] = "reservoir"
    small = without_query(type(stream)(stream.name, stream.tasks, stream.inputs, stream.task, stream.label, part))
    with pytest.raises(InputError, match="leaves the reservoir 0 documents"):
        check_stream(config, small, 32, METHODS)
    check_stream(config, small, 32, [method for method in METHODS if method.remedy is None])
    assert not small.where("query").size


def test_methods_are_chosen_by_name_in_the_tables_order(config):
    chosen = config.model_copy(update={"compare": config.compare.model_copy(update={"methods": ("told", "proteus")})})
    assert [method.name for method in chosen_methods(chosen)] == ["proteus", "told"]
    assert len(set(NAMES)) == len(NAMES)
    alone = config.adapter.model_copy(update={"orthogonal": "projection"}).alone()
    assert (alone.compose, alone.orthogonality, alone.orthogonal, alone.rank) == (False, 0, "penalty", config.adapter.rank)


def test_a_method_that_the_stream_lacks_documents_for_is_left_out_and_the_table_says_so(config, tmp_path):
    without = config.compare.model_copy(update={"background": None, "seeds": 1, "orders": 1})
    summary = compare(config.model_copy(update={"compare": without}), tmp_path / "run", quiet=True)
    assert [row["name"] for row in summary["methods"]] == [name for name in NAMES if name != "proteus-corpus"]
    assert summary["left_out"].keys() == {"proteus-corpus"}
    assert "Left out: proteus-corpus (compare.background is not set" in markdown(summary)
    # Whoever asks for it by name is told before anything is made.
    for named in ({"methods": ("proteus", "proteus-corpus")}, {"reference": "proteus-corpus"}):
        asked = config.model_copy(update={"compare": without.model_copy(update=named)})
        with pytest.raises(InputError, match=r"compare\.background: is not set.*name a file of texts"):
            compare(asked, tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_orders_differ_and_there_are_no_more_than_there_are():
    assert task_orders(4, 1, 0) == [[0, 1, 2, 3]]
    for seed in range(5):
        found = task_orders(3, 6, seed)
        assert found[0] == [0, 1, 2] and len({tuple(order) for order in found}) == 6
        assert task_orders(3, 3, seed) == found[:3]
    with pytest.raises(InputError, match="the 2 orders of 2 tasks"):
        task_orders(2, 3, 0)


# What cells say together, of cells made by hand


def cells(config, folder, wrong, inputs):
    """A comparison of proteus and ridge; `wrong[seed][order]` holds the errors of both on each document, in task and class alike."""
    config = config.model_copy(
        update={
            "compare": config.compare.model_copy(update={"methods": ("proteus", "ridge"), "seeds": len(wrong), "orders": len(wrong[0])})
        }
    )
    write_json(folder / "settings.json", {"schema": SCHEMA, "config": config.model_dump(mode="json")})
    for s, orders in enumerate(wrong):
        for o, (first, second) in enumerate(orders):
            columns = {"document": np.arange(first.size), "input": inputs[s], "task": np.zeros(first.size, int), "cluster": 0}
            rows = {}
            for name, errors in (("proteus", first), ("ridge", second)):
                columns |= {f"{name}:task": errors.astype(int), f"{name}:cluster": errors.astype(int), f"{name}:told": 0}
                numbers = dict.fromkeys(
                    ("average_accuracy", "cumulative_accuracy", "forgetting", "backward_transfer", "within_task_accuracy", "told_accuracy"),
                    1.0,
                )
                rows[name] = {
                    **numbers,
                    "about": "-",
                    "role": "rival",
                    "forward_transfer": None,
                    "accuracy": 1 - float(errors.mean()),
                    "retrieval_error": float(errors.mean()),
                    "macro_retrieval_error": float(errors.mean()),
                    "batch_retrieval_error": {},
                    "stored_bytes": {"x": 1},
                    "seconds": {"train": 1.0, "fit": 0.0, "test": 0.0},
                    "peak_bytes": 0,
                }
            about = {"seed": s, "order": o, "tasks": ["a", "b"], "documents": {"train": 80, "reservoir": 20, "test": int(first.size)}}
            write_parquet(cell_folder(folder, s, o) / "predictions.parquet", pd.DataFrame(columns))
            write_json(cell_folder(folder, s, o) / "cell.json", {**about, "frozen_pass_seconds": 1.0, "methods": rows, "environment": {}})
    return summarise(folder)


def errors(rng, rate: float, n: int = 50) -> np.ndarray:
    return rng.random(n) < rate


def names(seed: int, n: int = 50) -> list[str]:
    return [f"{seed}-{j}" for j in range(n)]


def test_one_cell_is_judged_by_its_documents(config, tmp_path):
    rng = np.random.default_rng(0)
    first, second = errors(rng, 0.3), errors(rng, 0.1)
    summary = cells(config, tmp_path, [[(first, second)]], [names(0)])
    reference, rival = summary["methods"]
    assert reference["intervals"]["retrieval_error"] == pytest.approx(clopper_pearson(int(first.sum()), 50, 0.95))
    assert reference["intervals"]["accuracy"] == pytest.approx([1 - x for x in reference["intervals"]["retrieval_error"][::-1]])
    assert reference["against_reference"] is None
    wanted = paired(second, first)
    for what in ("retrieval_error", "error"):
        found = rival["against_reference"][what]
        assert (found["difference"], found["low"], found["high"], found["p"]) == pytest.approx(
            (wanted.difference, wanted.low, wanted.high, wanted.p)
        )
        assert found["p_holm"] == pytest.approx(holm(np.array([wanted.p]))[0])


def test_orders_of_one_seed_are_no_more_documents(config, tmp_path):
    """Ten orders that change nothing: neither interval nor p may be sharper than those of one."""
    rng = np.random.default_rng(1)
    pair = errors(rng, 0.3), errors(rng, 0.15)
    one = cells(config, tmp_path / "one", [[pair]], [names(0)])["methods"]
    ten = cells(config, tmp_path / "ten", [[pair] * 10], [names(0)])["methods"]
    for single, several in zip(one, ten, strict=True):
        assert several["intervals"]["retrieval_error"] == pytest.approx(single["intervals"]["retrieval_error"])
    single, several = (rows[1]["against_reference"]["retrieval_error"] for rows in (one, ten))
    assert (several["low"], several["high"]) == pytest.approx((single["low"], single["high"]))
    assert several["p"] == pytest.approx(min(1, 2 * single["p"]))
    # Nor is a seed more than one seed for having orders.
    other = errors(rng, 0.3), errors(rng, 0.1)
    two = cells(config, tmp_path / "two", [[pair], [other]], [names(0), names(1)])["methods"]
    twenty = cells(config, tmp_path / "twenty", [[pair] * 10, [other] * 10], [names(0), names(1)])["methods"]
    for what in ("retrieval_error", "error"):
        assert two[1]["against_reference"][what] == pytest.approx(twenty[1]["against_reference"][what])


def test_seeds_are_judged_by_the_resampled_test(config, tmp_path):
    rng = np.random.default_rng(2)
    wrong = [[(errors(rng, 0.4 + 0.1 * s), errors(rng, 0.1))] for s in range(5)]
    summary = cells(config, tmp_path, wrong, [names(s) for s in range(5)])
    differences = np.array([second.mean() - first.mean() for ((first, second),) in wrong])
    found, wanted = summary["methods"][1]["against_reference"]["retrieval_error"], resampled(differences, 0.5)
    assert (found["difference"], found["low"], found["high"], found["p"]) == pytest.approx((wanted.mean, wanted.low, wanted.high, wanted.p))
    assert summary["test_documents"] == 250


def test_seeds_that_share_their_test_documents_know_no_more_than_these(config, tmp_path):
    """Where the data give the test part, every seed measures the same documents: agreement of seeds says nothing of others."""
    rng = np.random.default_rng(3)
    first, second = errors(rng, 0.4), errors(rng, 0.2)
    apart = cells(config, tmp_path / "apart", [[(first, second)]] * 4, [names(s) for s in range(4)])["methods"]
    shared = cells(config, tmp_path / "shared", [[(first, second)]] * 4, [names(0)] * 4)["methods"]
    for one, other in zip(apart, shared, strict=True):
        widths = [np.diff(row["intervals"]["retrieval_error"])[0] for row in (one, other)]
        assert 0 < widths[0] < widths[1]
    single = paired(second, first)
    found = shared[1]["against_reference"]["retrieval_error"]
    assert found["high"] - found["low"] > single.high - single.low
    assert found["p"] > 1e-3


def test_no_error_seen_is_no_error_known(config, tmp_path):
    none = np.zeros(50, dtype=bool)
    summary = cells(config, tmp_path, [[(none, none)]] * 3, [names(s) for s in range(3)])
    for row in summary["methods"]:
        low, high = row["intervals"]["retrieval_error"]
        assert low == 0 < high < 0.1
    assert summary["methods"][1]["against_reference"]["retrieval_error"]["p"] == 1
    assert "-" in {row[-1] for row in table_rows(summary)[1]}
    assert markdown(summary).startswith("# ")


def test_peak_memory_sees_a_block_that_is_over_at_once():
    # In a process of its own: from a large one the system may take back more memory meanwhile than the block needs.
    program = """
import numpy as np
from empirics.runs.machine import PeakMemory
with PeakMemory() as peak:
    kept = np.ones(6_000_000)
with PeakMemory() as rest:
    pass
print(peak.bytes / kept.nbytes, rest.bytes / kept.nbytes)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    share, rest = map(float, said.split())
    assert share > 0.9 and rest < 0.5


# The command


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["proteus-bounds", "compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def test_the_command_prints_the_table_and_says_where_it_lies(overrides, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    chosen = ["--methods", "nearest-mean, ridge", "--reference", "ridge", "--seeds", 1, "--orders", 2, "--quiet"]
    sets = [x for o in overrides if not o.startswith(("compare.seeds", "compare.orders")) for x in ("--set", o)]
    assert run(monkeypatch, *chosen, *sets) == 0
    out = capsys.readouterr()
    for text in ("nearest-mean", "ridge", "reference", "stored", "B = 4", "leak control", "2 task orders"):
        assert text in " ".join(out.out.split()), text
    folder = tmp_path / "runs" / "compare-letters-seed0"
    assert "runs/compare-letters-seed0/comparison.md" in out.out and (folder / "comparison.md").is_file()
    assert out.err == ""
    assert run(monkeypatch, *chosen, *sets, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in summary["methods"]] == ["nearest-mean", "ridge"] and summary["reference"] == "ridge"
    # Without adapters there is none that was trained alone.
    assert all(row["forward_transfer"] is None for row in summary["methods"])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--methods", "magic"], "compare.methods: 'magic' is unknown"),
        (["--stream", "text-9t"], "stream.name"),
        (["--seeds", "0"], "compare.seeds"),
        (["--set", "retrieval.batches=[0]"], "retrieval.batches"),
        (["--stream", "text-5t", "--config", "x.yaml"], "--stream"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(arguments, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert what in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
