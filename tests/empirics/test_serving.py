"""A served retriever answers what its folder says, under threads as alone, and refuses what it should not be given."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import letters
import numpy as np
import pandas as pd
import pytest
import tiny
from alphabets import ALPHABETS, certified_in, table

from empirics.config import load_config
from empirics.files.record import read_json, read_tensors, write_json, write_tensors
from empirics.routing.router import load_router
from empirics.routing.serving import Limits, load_served, worker_of
from empirics.runs.embedding import open_stream
from empirics.runs.pipeline import run
from theory import InputError
from theory.conformal import conformal_sets

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bert():
    return tiny.backbone()


@pytest.fixture(scope="module")
def certified(bert, tmp_path_factory):
    return certified_in(tmp_path_factory.mktemp("served"), bert, rule="ratio", alpha=0.2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The smallest run of a tiny encoder on two tasks of letters."""
    home = tmp_path_factory.mktemp("run")
    letters.write_crossed(home)
    per_class = {"train": 14, "query": 12, "test": 8, "reservoir": 4}
    config = load_config(
        overrides=[
            f"stream.path={home / 'data.csv'}",
            f"backbone.path={home / 'encoder'}",
            "backbone.adapted_layers=1",
            "backbone.max_length=32",
            "training.epochs=1",
            "signature.dimension=3",
            "bounds.simulations=1000",
            *(f"stream.{part}_per_class={count}" for part, count in per_class.items()),
        ]
    )
    run(config, home / "out", quiet=True)
    return home / "out", open_stream(config)[0].texts


def test_answers_are_those_of_the_certificate(certified, bert):
    served = load_served(certified, backbone=bert, limits=Limits(inputs=500))
    frame = pd.read_parquet(certified / "samples.parquet")
    scores = frame[[f"ratio:score:{task}" for task in ALPHABETS]].to_numpy()
    found = served.answer([table()["text"].iloc[row] for row in frame["row"]])
    assert [a.task for a in found] == frame["ratio:retrieved"].tolist()
    ordered = np.sort(scores, axis=1)
    assert [a.margin for a in found] == pytest.approx(ordered[:, 1] - ordered[:, 0], rel=1e-3, abs=1e-3)
    held = (frame["part"] == "certificate").to_numpy()
    true = frame["task"].map(list(ALPHABETS).index).to_numpy()
    fresh = (frame["part"] == "measurement").to_numpy()
    sets = conformal_sets(scores[held], true[held], scores[fresh], 0.2)
    names = np.array(list(ALPHABETS))
    assert [found[i].tasks for i in np.flatnonzero(fresh)] == [tuple(names[chosen]) for chosen in sets]
    assert served.guarantee.coverage == 0.8 and len({len(a.tasks) for a in found}) > 1


def test_the_certificate_is_that_of_the_folder(certified, bert):
    written = json.loads((certified / "certificate.json").read_text())
    guarantee = load_served(certified, backbone=bert, alpha=0.1).guarantee
    for unit in written["rules"][0]["tasks"]:
        assert guarantee.limits[unit["name"]].model_dump(mode="json") == unit["certificate"]
    assert guarantee.overall.model_dump(mode="json") == written["rules"][0]["overall"]["certificate"]
    assert (guarantee.statement, guarantee.coverage) == (written["statement"], 0.9)


@pytest.mark.parametrize("arm", (None, "ratio", "paper", "frozen"))
def test_a_run_is_served_as_it_retrieved(finished, arm):
    folder, texts = finished
    served = load_served(folder, arm)
    name = arm or "both"
    frame = pd.read_parquet(folder / "predictions.parquet")
    found = served.answer([texts[j] for j in frame["document"]])
    assert [served.tasks.index(a.task) for a in found] == frame[f"{name}-3:retrieved"].tolist()
    energies = np.sort(frame[[f"{name}-3:energy:{task}" for task in "ab"]].to_numpy(), axis=1)
    assert [a.margin for a in found] == pytest.approx(energies[:, 1] - energies[:, 0], rel=1e-3, abs=1e-3)
    report = json.loads((folder / "report.json").read_text())
    unit = next(a for a in report["arms"] if (a["arm"], a["law"]) == (name, "mixture"))["overall"]
    assert served.guarantee.overall.model_dump(mode="json") == unit["rungs"]["L8"]
    assert name in served.guarantee.statement and served.guarantee.coverage == 0.95


def test_a_run_serves_no_other_adapters_and_no_other_encoder_than_it_measured(finished, tmp_path):
    folder, _ = finished
    folders = {task: shutil.copytree(folder / "adapters" / task, tmp_path / task) for task in "ab"}
    assert load_router(folder, "ratio", folders=folders).unverified == ""
    tensors = read_tensors(folders["b"] / "composition.safetensors")
    name = next(name for name in tensors if name.endswith(".folded_b"))
    tensors[name] = -tensors[name]
    write_tensors(folders["b"] / "composition.safetensors", tensors)
    with pytest.raises(
        InputError, match=r"is not what was measured: .*run\.json speaks of another adapter of the task 'b'.*run again"
    ) as refused:
        load_router(folder, "ratio", folders=folders)
    assert refused.value.argument == str(folders["b"])
    assert load_router(folder, "frozen", folders=folders).unverified == ""
    with pytest.raises(InputError, match=r"backbone: is not what was measured: .*another encoder"):
        load_served(folder, "frozen", backbone=tiny.backbone())
    # As versions wrote it that noted none, and where nothing was trained.
    shutil.copytree(folder, tmp_path / "run")
    about = read_json(tmp_path / "run" / "run.json")
    del about["sha256"]
    about["training"]["b"]["sha256"] = ""
    write_json(tmp_path / "run" / "run.json", about)
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match=r"run\.json notes no digest of the encoder and the adapters of b$"):
        served = load_served(tmp_path / "run")
    assert "That these are what was measured is not known: run.json notes no" in served.guarantee.statement


def test_threads_get_what_one_alone_gets(certified, bert):
    served = load_served(certified, backbone=bert)
    texts = list(table()["text"])
    batches = [texts[j : j + 1 + j % 7] for j in range(0, 120, 3)]
    alone = [served.answer(batch) for batch in batches]
    before = [type(module) for module in bert.model.modules()]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(served.answer, batches))
    for got, want in zip(together, alone, strict=True):
        assert [(a.task, a.tasks) for a in got] == [(a.task, a.tasks) for a in want]
        assert [a.margin for a in got] == [a.margin for a in want]
    assert [type(module) for module in bert.model.modules()] == before


def test_one_thread_embeds_whoever_asks(certified, bert, monkeypatch):
    served, seen = load_served(certified, backbone=bert), []
    real = type(served.router).embed
    monkeypatch.setattr(type(served.router), "embed", lambda self, inputs: seen.append(threading.get_ident()) or real(self, inputs))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(served.answer, [["abc"]] * 12))
    assert len(seen) == 12 and len(set(seen)) == 1 and threading.get_ident() not in seen


def test_one_encoder_has_one_thread_whoever_serves_it(certified, bert):
    first, second = (load_served(certified, backbone=bert) for _ in range(2))
    assert worker_of(first.router.backbone) is worker_of(second.router.backbone) is not worker_of(tiny.backbone())
    # Threads that scan both at once, and neither sees the other's adapters.
    texts = list(table()["text"])[:40]
    want = first.answer(texts)
    with ThreadPoolExecutor(4) as pool:
        assert all(got == want for got in pool.map(lambda j: (first, second)[j % 2].answer(texts), range(8)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    (
        ([], "are none"),
        ("one text", "are one text"),
        (["ab"] * 9, "are 9, and at most 8"),
        (["ab", "x" * 51], "51 characters as number 1, more than 50"),
        (["ab", "  "], "number 1 has an empty text"),
        (["ab", "\ud800"], "number 1 .*not valid Unicode"),
        ([b"ab"], "hold bytes as number 0; this encoder takes texts"),
        ([None], "hold NoneType"),
    ),
)
def test_what_should_not_be_asked_is_refused(certified, bert, monkeypatch, inputs, message):
    served = load_served(certified, backbone=bert, limits=Limits(inputs=8, characters=50))
    monkeypatch.setattr("empirics.routing.router.encode_prefix", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(InputError, match=f"inputs: .*{message}"):
        served.answer(inputs)


def test_an_error_within_leaves_the_encoder_free(certified, bert, monkeypatch):
    served = load_served(certified, backbone=bert)
    want = served.answer(["abc"])
    with monkeypatch.context() as patch:
        patch.setattr("empirics.adapters.pairs.suffix", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            served.answer(["abc"])
    assert served.answer(["abc"]) == want


def test_folders_that_cannot_be_served_are_refused(certified, finished, bert, tmp_path):
    with pytest.raises(InputError, match=r"inputs: 0 is not a whole number of at least 1; less lets nothing"):
        Limits(inputs=0)
    with pytest.raises(InputError, match="cannot be read"):
        load_served(tmp_path / "absent", backbone=bert)
    shutil.copytree(certified, tmp_path / "certified")
    frame = pd.read_parquet(certified / "samples.parquet")
    frame.drop(columns="ratio:score:late").to_parquet(tmp_path / "certified" / "samples.parquet")
    with pytest.raises(InputError, match=r"samples\.parquet: is changed since the folder was finished .*certify again"):
        load_served(tmp_path / "certified", backbone=bert)
    (tmp_path / "certified" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"samples\.parquet.*lacks the column ratio:score:late"):
        load_served(tmp_path / "certified", backbone=bert)
    shutil.copytree(finished[0], tmp_path / "run")
    for name in ("projections.safetensors", "manifest.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(InputError, match=r"projections\.safetensors.*older versions"):
        load_served(tmp_path / "run")
    with pytest.raises(InputError, match="'angular' is not in"):
        load_served(finished[0], "angular")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    del about["phases_seconds"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="did not finish"):
        load_served(tmp_path / "run")
