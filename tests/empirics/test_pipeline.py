"""A whole run on real text with the real encoder, twice, in the least setting that exercises everything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from empirics.adapters.adapter import active, load_adapter
from empirics.config import load_config
from empirics.data.streams import load_stream
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import read_tensors
from empirics.reports.report import Report
from empirics.retrieval.signatures import read_rule_tensors
from empirics.runs.evaluation import evaluate
from empirics.runs.machine import PhaseClock
from empirics.runs.pipeline import run
from empirics.seeding import generator
from theory import RUNGS, InputError, Rule, Signatures
from theory.certificates import clopper_pearson

pytestmark = pytest.mark.filterwarnings("ignore")

LEAST = [
    "stream.train_per_class=10",
    "stream.query_per_class=10",
    "stream.test_per_class=8",
    "stream.reservoir_per_class=4",
    "stream.classes_per_task=2",
    "backbone.max_length=16",
    "training.epochs=1",
    "signature.dimension=4",
    "bounds.simulations=4000",
]


@pytest.fixture(scope="module")
def config():
    return load_config(overrides=LEAST)


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    folders = [tmp_path_factory.mktemp("runs") / name for name in ("a", "b")]
    for folder in folders:
        run(config, folder, quiet=True)
    return folders


@pytest.fixture(scope="module")
def report(runs):
    return json.loads((runs[0] / "report.json").read_text())


def test_two_runs_leave_the_same_bytes(runs):
    a, b = runs
    files = [*a.rglob("*.safetensors"), a / "predictions.parquet", a / "calibration.parquet", a / "bounds.parquet", a / "pairs.parquet"]
    assert len(files) > 12
    for file in files:
        assert file.read_bytes() == (b / file.relative_to(a)).read_bytes(), file.name


def test_the_report_has_every_rung_everywhere(report):
    Report.model_validate(report)
    assert len(report["tasks"]) == 5 and len(report["clusters"]) == 10
    assert {(a["arm"], a["law"]) for a in report["arms"]} >= {
        (a, law) for a in ("paper", "ratio", "frozen", "both") for law in ("mixture", "gaussian")
    }
    for unit in [report["overall"], *report["tasks"], *report["clusters"]]:
        assert tuple(unit["rungs"]) == RUNGS
        assert unit["measured"]["low"] <= unit["measured"]["error"] <= unit["measured"]["high"]
        for rung in unit["rungs"].values():
            assert rung["vacuous"] == (rung["value"] >= 1)
            assert rung["holds"] == (unit["measured"]["low"] <= rung["value"])
            assert (rung["broken_assumption"] is None) == rung["holds"]
            assert not (rung["guarantee"] and rung["vacuous"])
            if rung["guarantee"] and rung["level"] != "A0":
                assert unit["law"]["verdict"] == "not rejected"


def test_measured_error_is_what_the_predictions_say(runs, report):
    frame = pd.read_parquet(runs[0] / "predictions.parquet")
    key = f"{report['headline']['arm']}-{report['headline']['dimension']}"
    wrong = frame[f"{key}:retrieved"] != frame["task"]
    assert report["overall"]["measured"]["errors"] == wrong.sum()
    assert report["overall"]["measured"]["low"] == pytest.approx(clopper_pearson(int(wrong.sum()), len(frame), 0.95)[0])
    names = [t["name"] for t in report["tasks"]]
    energies = frame[[f"{key}:energy:{n}" for n in names]].to_numpy()
    assert np.array_equal(energies.argmin(axis=1), frame[f"{key}:retrieved"])


def _rule(folder: Path, key: str) -> Rule:
    return Rule(*read_rule_tensors(read_tensors(folder / "signatures" / f"{key}.safetensors"), ()))


@pytest.mark.parametrize(("arm", "spaces"), [("paper", 5), ("ratio", 5), ("frozen", 1), ("both", 6)])
def test_energies_follow_from_the_stored_embeddings_and_signatures(runs, report, arm, spaces):
    rule, z = _rule(runs[0], f"{arm}-4"), read_tensors(runs[0] / "embeddings" / f"{arm}-4.safetensors")
    assert read_tensors(runs[0] / "signatures" / f"{arm}-4.safetensors")["spaces"] == spaces
    for part, name in (("test", "predictions"), ("query", "calibration")):
        frame = pd.read_parquet(runs[0] / f"{name}.parquet")
        assert z[part].shape == (len(frame), spaces, 4) and z[part].dtype == np.float32
        energies = frame[[f"{arm}-4:energy:{t['name']}" for t in report["tasks"]]].to_numpy()
        assert rule.task_scores(rule.scores(z[part])) == pytest.approx(energies, rel=1e-12)


def test_both_adds_the_energies_of_frozen_and_adapted_components(runs):
    """The common part of the background shifts all tasks alike."""
    folder = runs[0]
    z = read_tensors(folder / "embeddings" / "both-4.safetensors")["test"]
    frozen, ratio, both = (_rule(folder, f"{arm}-4") for arm in ("frozen", "ratio", "both"))
    added = frozen.scores(z[:, :1]) + ratio.scores(z[:, 1:])
    shift = both.scores(z) - added
    assert shift == pytest.approx(np.repeat(shift[:, :1], shift.shape[1], axis=1), rel=1e-7, abs=1e-6)


def test_the_bound_for_batches_is_judged_by_batches(runs, config, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    about = json.loads((copy / "run.json").read_text())
    about["config"]["bounds"]["batch"] = 5
    (copy / "run.json").write_text(json.dumps(about))
    for unit in (found := evaluate(copy, PhaseClock(quiet=True))).tasks:
        assert unit.batch.n == unit.measured.n // 5
        assert unit.rungs["L4"].holds == (unit.batch.low <= unit.rungs["L4"].value)
    assert found.overall.batch.n == sum(unit.batch.n for unit in found.tasks)
    # A task of eight documents a class holds none of 20: the bound is shown, and is no guarantee.
    about["config"]["bounds"]["batch"] = 20
    (copy / "run.json").write_text(json.dumps(about))
    for unit in evaluate(copy, PhaseClock(quiet=True)).clusters:
        assert unit.batch is None and not unit.rungs["L4"].guarantee
        assert unit.rungs["L4"].note == "not measured: fewer than 20 test documents"


def test_batches_of_one_task_are_a_control(runs, report):
    frame = pd.read_parquet(runs[0] / "predictions.parquet")
    for row in report["retrieval"]:
        assert list(row["batch_error"]) == ["4", "16", "64"]
        # With every document of a task in one batch the control asks whether the tasks' mean scores tell them apart.
        energies = frame[[f"{row['arm']}-{row['dimension']}:energy:{t['name']}" for t in report["tasks"]]]
        means = energies.groupby(frame["task"]).mean().to_numpy()
        assert row["batch_error"]["64"] == pytest.approx((means.argmin(axis=1) != np.arange(5)).mean())


def test_the_mixture_rule_is_a_setting(runs, config, tmp_path):
    mixed = config.model_copy(update={"retrieval": config.retrieval.model_copy(update={"rule": "mixture"})})
    found = run(mixed, tmp_path / "run", quiet=True)
    frame, plain = (pd.read_parquet(folder / "predictions.parquet") for folder in (tmp_path / "run", runs[0]))
    z = read_tensors(tmp_path / "run" / "embeddings" / "frozen-4.safetensors")["test"]
    signatures = read_rule_tensors(read_tensors(tmp_path / "run" / "signatures" / "frozen-4.safetensors"), ())[0]
    assert np.array_equal(Rule(signatures, kind="mixture").retrieve(z), frame["frozen-4:retrieved"])
    assert not frame["frozen-4:energy:reuters-r8"].equals(plain["frozen-4:energy:reuters-r8"])
    assert found.overall.rungs["L5"].value >= found.overall.rungs["L6"].estimate - 0.05


def test_query_law_and_measured_error_come_from_disjoint_documents(runs):
    test, query = (pd.read_parquet(runs[0] / f"{n}.parquet")["document"] for n in ("predictions", "calibration"))
    assert not set(test) & set(query)


def test_everything_is_recomputed_from_the_folder(runs):
    before = (runs[1] / "report.json").read_bytes(), (runs[1] / "report.md").read_bytes()
    for name in ("report.json", "report.md", "bounds.parquet", "pairs.parquet"):
        (runs[1] / name).unlink()
    evaluate(runs[1], PhaseClock(quiet=True))
    assert ((runs[1] / "report.json").read_bytes(), (runs[1] / "report.md").read_bytes()) == before


def test_no_leak_through_order_batch_or_company(runs, config):
    """Shuffled, in batches of another size, tasks mixed or apart: the same predictions."""
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    small = load_backbone(config.backbone.model_copy(update={"batch_size": 7}))
    frame = pd.read_parquet(runs[0] / "predictions.parquet")
    shuffled = frame.sample(frac=1, random_state=1)
    chosen = shuffled["document"].to_numpy()
    cache = encode_prefix(small, [stream.texts[j] for j in chosen])
    parts = read_tensors(runs[0] / "signatures" / "paper-384.safetensors")
    rule = Rule(Signatures(parts["means"], parts["covariances"], parts["task"]))
    reservoir = stream.where("reservoir")
    pool = encode_prefix(small, [stream.texts[j] for j in reservoir])
    spaces = []
    for task in stream.tasks:
        with active(small, load_adapter(runs[0] / "adapters" / task.name)):
            centre = embed(small, pool, np.arange(reservoir.size)).astype(np.float64).mean(axis=0)
            spaces.append(embed(small, cache, np.arange(chosen.size)) - centre)
    x = np.stack(spaces, axis=1)
    expected = shuffled["paper-384:retrieved"].to_numpy()
    assert np.array_equal(rule.retrieve(x), expected)
    assert np.array_equal(np.concatenate([rule.retrieve(x[j : j + 1]) for j in range(len(x))]), expected)
    by_task = np.argsort(shuffled["task"].to_numpy(), kind="stable")
    assert np.array_equal(rule.retrieve(x[by_task]), expected[by_task])


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(runs, config):
    before = sorted((p, p.stat().st_mtime_ns) for p in runs[0].rglob("*"))
    with pytest.raises(InputError, match="holds what is finished"):
        run(config, runs[0], quiet=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in runs[0].rglob("*")) == before


def test_a_dimension_that_cannot_be_had_is_refused_before_anything_is_made(config, tmp_path):
    bad = config.model_copy(update={"signature": config.signature.model_copy(update={"dimension": 100})})
    with pytest.raises(InputError, match=r"signature\.dimension"):
        run(bad, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_encoder_that_is_not_there_is_told_before_a_stream_is_read(config, tmp_path, monkeypatch):
    from empirics.runs import embedding

    monkeypatch.setattr(embedding, "load_stream", lambda *_: pytest.fail("the stream was read"))
    bad = config.model_copy(update={"backbone": config.backbone.model_copy(update={"path": tmp_path / "none"})})
    with pytest.raises(InputError, match=r"backbone\.path.*none"):
        run(bad, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_adapters_name_the_encoder_that_they_change(runs):
    for folder in (runs[0] / "adapters").iterdir():
        about = json.loads((folder / "adapter_config.json").read_text())
        assert about["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_head_is_the_one_that_the_settings_name(runs, config, tmp_path):
    ridge = config.model_copy(update={"head": config.head.model_copy(update={"kind": "ridge", "random_features": 200})})
    run(ridge, tmp_path / "run", quiet=True)
    mine, its = (pd.read_parquet(folder / "predictions.parquet") for folder in (runs[0], tmp_path / "run"))
    assert mine["paper-4:retrieved"].equals(its["paper-4:retrieved"])
    assert not mine["paper-4:prediction"].equals(its["paper-4:prediction"])


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"run\.json"):
        evaluate(tmp_path, PhaseClock(quiet=True))
