"""Variants of a run: which are run, what they share, what they are compared with; and signatures of documents that trained nothing."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from typer.testing import CliRunner

from empirics import cli
from empirics.adapters.adapter import active
from empirics.adapters.training import train_adapter
from empirics.comparisons.ablation import ablate, chosen_variants, read_variants
from empirics.config import RunConfig, load_config
from empirics.data.streams import load_stream, training_parts
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import read_tensors
from empirics.runs import embedding, pipeline
from empirics.runs.evaluation import evaluate
from empirics.runs.machine import PhaseClock
from empirics.runs.pipeline import run
from empirics.runs.sharing import training_key
from empirics.seeding import generator
from theory.certificates import clopper_pearson
from theory.errors import InputError

VARIANTS = """
adapters:
  independent: {adapter: {compose: false, orthogonality: 0.0}}
  same: {adapter: {compose: true}}
source:
  held-out: {signature: {held_out: 0.5}}
  trained: {signature: {held_out: 0.5, source: trained}}
components:
  task: {signature: {clusters: task}}
dimension:
  2: {signature: {dimension: 2}}
  30: {signature: {dimension: 30}}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> RunConfig:
    """A tiny random encoder, and texts of three tasks that differ in their letters."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny.save_bert(folder, layers=3, positions=32)
    rng, rows = np.random.default_rng(0), []
    for k, letters in enumerate(("abcdefghij", "fghijklmno", "pqrstuvwxyz")):
        for c in range(2):
            half = letters[:6] if c else letters[4:]
            rows += [{"text": "".join(rng.choice(list(half), 12)), "label": str(c), "task": f"task-{k}"} for _ in range(42)]
    file = tmp_path_factory.mktemp("data") / "own.csv"
    pd.DataFrame(rows).drop_duplicates("text").to_csv(file, index=False)
    small = ["stream.train_per_class=12", "stream.query_per_class=12", "stream.test_per_class=12", "stream.reservoir_per_class=4"]
    small += ["backbone.max_length=16", "backbone.adapted_layers=2", "adapter.rank=2", "training.epochs=1", "signature.dimension=4"]
    own = [f"stream.path={json.dumps(str(file))}", f"backbone.path={json.dumps(str(folder))}", "bounds.simulations=2000"]
    return load_config(overrides=[*small, *own])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("variants") / "own.yaml"
    path.write_text(VARIANTS)
    return path


@pytest.fixture(scope="module")
def done(base, file, tmp_path_factory):
    """An ablation, and what was encoded and trained for it."""
    folder, counted = tmp_path_factory.mktemp("ablation"), []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("encode", "train_and_embed"):
            real = getattr(embedding, name)

            def counting(*arguments, real=real, name=name):
                counted.append(name)
                return real(*arguments)

            patch.setattr(embedding, name, counting)
        summary = ablate(base, read_variants(base, file), folder, quiet=True)
    return folder, summary, counted


def test_the_run_of_the_base_bears_its_name_though_a_variant_is_the_same(base, done, capsys, tmp_path):
    shutil.copytree(done[0] / "runs/base", tmp_path / "out" / "runs/base")
    shutil.copy(done[0] / "settings.json", tmp_path / "out")
    (tmp_path / "out/runs/base/report.md").unlink()
    (tmp_path / "v.yaml").write_text("a: {same: {seed: 0}}")
    ablate(base, read_variants(base, tmp_path / "v.yaml"), tmp_path / "out")
    assert "variant base\n" in capsys.readouterr().err


def row(summary, variant, arm="paper"):
    return next(r for r in summary["variants"] if (r["variant"], r["arm"]) == (variant, arm))


def test_the_base_is_an_ordinary_run(base, done, tmp_path):
    folder = done[0] / "runs" / "base"
    run(base, tmp_path / "run", quiet=True)
    files = [p.relative_to(tmp_path / "run") for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} == set(files)
    timed = {"run.json", "report.json", "report.md", "manifest.json"}
    for name in files:
        assert name.name in timed or (folder / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    mine, its = (json.loads((f / "report.json").read_text()) for f in (folder, tmp_path / "run"))
    assert mine["arms"] == its["arms"] and mine["retrieval"] == its["retrieval"]


def test_a_variant_is_an_ordinary_run_too(base, done, tmp_path):
    held = base.model_copy(update={"signature": base.signature.model_copy(update={"held_out": 0.5, "source": "trained"})})
    run(held, tmp_path / "run", quiet=True)
    for name in ("predictions.parquet", "bounds.parquet", "signatures/ratio-4.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / "runs/source/trained" / name).read_bytes(), name


def test_each_distinct_training_happens_once_and_all_share_the_frozen_pass(done):
    # The base's, the independent one, and that on half of the documents.
    assert done[2].count("train_and_embed") == 3
    assert done[2].count("encode") == 1


def test_variants_of_one_training_have_its_adapters(done):
    runs = done[0] / "runs"
    for name in ("task-0", "task-2"):
        a, b, own, alone = (
            (runs / path / "adapters" / name / "adapter_model.safetensors").read_bytes()
            for path in ("source/held-out", "source/trained", "base", "adapters/independent")
        )
        assert a == b != own
        # The first task has no pool to compose.
        assert (own == alone) == (name == "task-0")


def test_rows_say_what_the_runs_say(done):
    folder, summary, _ = done
    table = pd.read_parquet(folder / "ablation.parquet")
    assert len(table) == len(summary["variants"]) == 7 * 4
    assert json.loads((folder / "ablation.json").read_text()) == summary
    for r in summary["variants"]:
        frame = pd.read_parquet(folder / r["run"] / "predictions.parquet")
        key = f"{r['arm']}-{r['dimension']}"
        wrong = frame[f"{key}:retrieved"] != frame["task"]
        right = ~wrong & (frame[f"{key}:prediction"] == frame["label"])
        assert r["retrieval_error"] == pytest.approx(wrong.mean()) and r["accuracy"] == pytest.approx(right.mean())
        assert r["low"] == pytest.approx(clopper_pearson(int(wrong.sum()), len(frame), 0.95)[0])
        report = json.loads((folder / r["run"] / "report.json").read_text())
        overall = next(a for a in report["arms"] if (a["arm"], a["law"]) == (r["arm"], "mixture"))["overall"]
        assert list(r["below_one"]) == [n for n, rung in overall["rungs"].items() if rung["value"] < 1]
        assert set(r["guarantees"]) <= set(r["below_one"])
        assert r["law"] == overall["law"]["verdict"] and r["predicted"] == overall["law"]["predicted"]
        signatures = read_tensors(folder / r["run"] / "signatures" / f"{key}.safetensors")
        assert r["signature_bytes"] == sum(x.nbytes for name, x in signatures.items() if not name.startswith(("background", "spaces")))
    assert row(summary, "independent")["nonzero"] is None and 0 <= row(summary, "base")["nonzero"] <= 1
    assert row(summary, "task")["components"] == 3 and row(summary, "base")["components"] == 6
    assert row(summary, "2")["dimension"] == 2 and row(summary, "2")["changes"] == {"signature.dimension": 2}


def test_differences_are_paired_with_the_base(done):
    folder, summary, _ = done
    for name, run_ in (("base", "runs/base"), ("same", "runs/base")):
        assert row(summary, name)["run"] == run_ and row(summary, name)["against_base"] is None
    wrong = {}
    for name, path, key in (("base", "base", "paper-4"), ("task", "components/task", "paper-4"), ("2", "dimension/2", "paper-2")):
        frame = pd.read_parquet(folder / "runs" / path / "predictions.parquet")
        wrong[name] = (frame[f"{key}:retrieved"] != frame["task"]).to_numpy()
    for name in ("task", "2"):
        found = row(summary, name)["against_base"]
        assert found["difference"] == pytest.approx(wrong[name].mean() - wrong["base"].mean())
        assert found["only_first"] == (wrong[name] & ~wrong["base"]).sum()
        assert found["p"] <= found["p_holm"] <= 1


def test_variants_of_other_documents_are_not_paired(base, done, tmp_path):
    summary = done[1]
    (tmp_path / "v.yaml").write_text("stream: {other-seed: {seed: 7}, less: {stream: {train_per_class: 10}}}")
    for part in ("settings.json", "runs/base"):
        copy = shutil.copytree if (done[0] / part).is_dir() else shutil.copy
        (tmp_path / "out" / part).parent.mkdir(parents=True, exist_ok=True)
        copy(done[0] / part, tmp_path / "out" / part)
    found = ablate(base, read_variants(base, tmp_path / "v.yaml"), tmp_path / "out", quiet=True)
    assert [row(found, name)["against_base"] for name in ("other-seed", "less")] == [None, None]
    assert row(found, "base") == row(summary, "base")


def test_what_the_documents_cannot_carry_is_left_out_and_said_to_be(done):
    folder, summary, _ = done
    assert list(summary["left_out"]) == ["dimension/30"] and "reservoir" in summary["left_out"]["dimension/30"]
    assert not (folder / "runs/dimension/30").exists()
    assert "dimension/30" in (folder / "ablation.md").read_text()


def test_a_folder_is_continued(base, file, done, monkeypatch):
    folder, summary, _ = done
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.parquet")}
    # One variant was cut short before its bounds, one while it was written.
    (folder / "runs/source/trained/report.md").unlink()
    about = json.loads((folder / "runs/components/task/run.json").read_text())
    del about["phases_seconds"]
    (folder / "runs/components/task/run.json").write_text(json.dumps(about))
    (folder / "runs/components/task/report.md").unlink()
    trained = []
    real = embedding.train_and_embed
    monkeypatch.setattr(embedding, "train_and_embed", lambda config, *rest: trained.append(config) or real(config, *rest))
    again = ablate(base, read_variants(base, file), folder, quiet=True)
    assert again == summary
    assert len(trained) == 1 and trained[0].signature.held_out == 0
    touched = {p.relative_to(folder / "runs").parts[:2] for p, at in before.items() if p.stat().st_mtime_ns != at}
    assert touched == {("source", "trained"), ("components", "task")}


def test_an_ablation_of_another_base_and_a_run_of_other_settings_are_refused(base, file, done, tmp_path):
    other = base.model_copy(update={"seed": 1})
    with pytest.raises(InputError, match="another base"):
        ablate(other, read_variants(other, file), done[0], quiet=True)
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "settings.json").write_text(json.dumps({"schema": 1, "config": base.model_dump(mode="json")}))
    with pytest.raises(InputError, match="something else"):
        ablate(base, read_variants(base, file), tmp_path / "compared", quiet=True)
    (tmp_path / "v.yaml").write_text("components: {task: {signature: {clusters: mixture}}}")
    with pytest.raises(InputError, match="other settings than components/task"):
        ablate(base, read_variants(base, tmp_path / "v.yaml"), done[0], quiet=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        ablate(base, read_variants(base, file), tmp_path / "full", quiet=True)


def test_every_run_can_be_reported_anew(done):
    folder = done[0] / "runs/components/task"
    before = (folder / "report.json").read_bytes()
    evaluate(folder, PhaseClock(quiet=True))
    assert (folder / "report.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {b: {signature: {dimensions: 3}}}", "a/b: unknown key signature.dimensions (did you mean signature.dimension?)"),
        ("a: {b: {training: {epochs: 0}}}", "a/b: training.epochs"),
        ("a: {b: {signature: {held_out: 0.95}}}", "a/b: signature.held_out"),
        ("a: {b: 3}", "a/b: holds no table"),
        ("a: 3", "a: holds no variants"),
        ("a: {../b: {seed: 1}}", "cannot name a folder"),
        ("a: {base: {seed: 1}}", "cannot name a folder"),
        ("- 1", "no table"),
    ],
)
def test_a_bad_variant_is_named_before_anything_else(base, tmp_path, text, said):
    (tmp_path / "v.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_variants(base, tmp_path / "v.yaml")
    assert said in str(caught.value) and "v.yaml" in str(caught.value)


def test_a_variant_that_the_encoder_cannot_have_is_named_before_anything_is_made(base, tmp_path):
    (tmp_path / "v.yaml").write_text("a: {b: {adapter: {targets: [nothing]}}}")
    with pytest.raises(InputError, match=r"variant a/b: adapter\.targets"):
        ablate(base, read_variants(base, tmp_path / "v.yaml"), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_groups_can_be_chosen_and_the_base_is_always_among_them(base, file):
    variants = read_variants(base, file)
    assert [str(v) for v in chosen_variants(variants, ["components", "dimension"])] == [
        "base",
        "components/task",
        "dimension/2",
        "dimension/30",
    ]
    assert chosen_variants(variants, []) == list(variants)
    with pytest.raises(InputError, match=r"--only.*'size'.*adapters"):
        chosen_variants(variants, ["size"])


@pytest.mark.parametrize("preset", ("default", "small", "news-4t"))
def test_shipped_variants_are_sound_and_cover_what_is_asked(preset):
    settings = load_config(preset=preset)
    variants = read_variants(settings)
    assert {v.group for v in variants} == {"", "adapters", "source", "components", "covariance", "dimension"}
    adapters = {(v.config.adapter.compose, v.config.adapter.orthogonality > 0, v.config.adapter.orthogonal) for v in variants}
    assert adapters >= {(False, False, "penalty"), (True, False, "penalty"), (True, True, "penalty"), (True, True, "projection")}
    # Every change is of what its group is about.
    assert {v.run for v in variants if v.config == settings} == {"runs/base"}
    assert len({training_key(v.config) for v in variants}) == 6


def test_every_shipped_training_takes_a_step_beside_an_earlier_adapter():
    """Each way to train that the shipped variants name, on a tiny random encoder: finite, and the earlier adapter used only if composed."""
    backbone = tiny.backbone()
    texts, labels = tiny.texts(16)
    source, rows = encode_prefix(backbone, texts), np.arange(16)
    ways = {training_key(v.config): v.config for v in read_variants(load_config())}
    for config in ways.values():
        training = config.training.model_copy(update={"epochs": 1, "batch_size": 8})
        first, second = [], []
        for earlier, found in (((), first), (first, second)):
            rng = np.random.default_rng(0)
            adapter, log = train_adapter(backbone, source, rows, labels, "t", earlier, config.adapter, training, rng)
            assert np.isfinite(log.losses).all()
            found.append(adapter)
        assert all((s.size > 0) == config.adapter.compose for s in second[0].composition.values())
        with active(backbone, second[0]):
            assert np.isfinite(embed(backbone, source, rows)).all()


def test_the_command_prints_the_table(base, file, done, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(done[0], folder)
    (tmp_path / "base.yaml").write_text(json.dumps(base.model_dump(mode="json")))
    arguments = ["ablate", "--config", tmp_path / "base.yaml", "--variants", file, "--out", folder, "--only", "dimension", "--quiet"]
    found = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert found.exit_code == 0, found.output
    assert {r["variant"] for r in json.loads(found.output)["variants"]} == {"base", "2"}
    table = CliRunner().invoke(cli.app, list(map(str, arguments))).output
    assert "dimension/30" in table and "components" not in table
    # The base heads a group that does not hold it.
    assert re.search(r"\bbase\b.*paper.*the base(.*\n)*\W*2\b.*paper", table)


def test_held_out_documents_train_no_adapter_and_alone_give_the_signature(base, tmp_path, monkeypatch):
    """What the trainer and the signatures were given, not what they were meant to be given."""
    config = base.model_copy(update={"signature": base.signature.model_copy(update={"held_out": 0.25})})
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    trained, fitted = {}, []
    real_train, real_fit = embedding.train_adapter, pipeline.fit_signatures
    monkeypatch.setattr(
        embedding, "train_adapter", lambda b, s, own, y, task, *rest: trained.update({task: own}) or real_train(b, s, own, y, task, *rest)
    )
    monkeypatch.setattr(pipeline, "fit_signatures", lambda spaces, *rest: fitted.append(spaces) or real_fit(spaces, *rest))
    run(config, tmp_path / "run", quiet=True)
    parts = training_parts(stream, config.signature, config.seed)
    for k, task in enumerate(stream.tasks):
        own = stream.where("train", k)
        assert np.array_equal(trained[task.name], parts[k].adapter)
        assert not set(parts[k].adapter) & set(parts[k].signature)
        assert set(parts[k].adapter) | set(parts[k].signature) == set(own)
        # A quarter of twelve, in every class.
        assert np.array_equal(np.bincount(stream.label[parts[k].signature]), [3, 3])
        assert all(len(spaces[k]) == 6 for spaces in fitted)
    counts = read_tensors(tmp_path / "run" / "signatures" / "paper-4.safetensors")["counts"]
    assert np.array_equal(counts, [3] * 6)


def test_signatures_come_from_the_documents_that_the_source_names(base):
    stream = load_stream(base.stream, generator(base.seed, "stream"))

    def parts(**changes):
        return training_parts(stream, base.signature.model_copy(update=changes), base.seed)

    for k, (none, held, trained, both) in enumerate(
        zip(parts(), parts(held_out=0.5), parts(held_out=0.5, source="trained"), parts(held_out=0.5, source="both"), strict=True)
    ):
        own = stream.where("train", k)
        assert np.array_equal(none.adapter, own) and np.array_equal(none.signature, own)
        assert np.array_equal(held.adapter, trained.adapter) and np.array_equal(held.adapter, both.adapter)
        assert np.array_equal(trained.signature, held.adapter) and np.array_equal(both.signature, own)
        assert not set(held.signature) & set(held.adapter)


def test_too_few_documents_to_hold_out_are_refused_before_anything_is_made(base, tmp_path):
    config = base.model_copy(update={"signature": base.signature.model_copy(update={"held_out": 0.1})})
    with pytest.raises(InputError, match=r"signature\.held_out.*task-0/0"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
