"""A served cascade answers as the full search does on the candidates that its rule keeps, and claims no more than both certificates."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from alphabets import ALPHABETS, certified_in, table
from test_serving import finished  # noqa: F401

from empirics.routing.certified_cascade import load_cascade
from empirics.routing.served_cascade import load_served_cascade
from empirics.routing.serving import Limits, load_served
from theory import InputError
from theory.conformal import conformal_sets

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    bert = tiny.backbone()
    return certified_in(tmp_path_factory.mktemp("served"), bert, rule="all", alpha=0.2), bert


def test_it_answers_as_the_full_search_among_its_candidates(certified):
    folder, bert = certified
    served = load_served_cascade(folder, "ratio", backbone=bert, limits=Limits(500))
    frame = pd.read_parquet(folder / "samples.parquet")
    first, full = (frame[[f"{rule}:score:{task}" for task in ALPHABETS]].to_numpy() for rule in ("frozen", "ratio"))
    # The frozen space tells these texts apart: the rule that is fitted keeps one task, and one that keeps more for half of them is put in.
    gaps = np.diff(np.sort(first, axis=1), axis=1)[:, 0]
    served.cascade.with_pruning(dataclasses.replace(served.cascade.pruning_, parameter=float(np.median(gaps))))
    found = served.answer([table()["text"].iloc[row] for row in frame["row"]])
    kept = served.cascade.pruning_.kept(first)
    assert kept.sum(axis=1).min() == 1 < kept.sum(axis=1).max()
    want = np.where(kept, full, np.inf).argmin(axis=1)
    assert [served.tasks.index(a.task) for a in found] == want.tolist()
    assert all(a.margin is None for a in found)
    held, true = (frame["part"] == "certificate").to_numpy(), frame["task"].map(list(ALPHABETS).index).to_numpy()
    sets = conformal_sets(first[held], true[held], first, 0.2)
    assert [a.tasks for a in found] == [tuple(np.array(served.tasks)[chosen]) for chosen in sets]


def test_its_limit_is_that_of_the_full_search_and_the_loss(certified):
    folder, bert = certified
    served, full = (f(folder, "ratio", backbone=bert) for f in (load_served_cascade, load_served))
    row, loss = served.guarantee.overall, served.cascade.pruning_.loss
    assert row.value == pytest.approx(full.guarantee.overall.value + loss.value) and row.value >= full.guarantee.overall.value + loss.value
    assert row.confidence == pytest.approx(full.guarantee.overall.confidence + 0.95 - 1)
    assert row.guarantee is (full.guarantee.overall.guarantee and row.value < 1) and served.guarantee.limits == {}
    assert full.guarantee.statement in served.guarantee.statement and f"{loss.value:.4g}" in served.guarantee.statement


def test_adapters_that_have_moved_are_found_where_they_are_said_to_be(certified, tmp_path):
    folder, bert = certified
    told = json.loads((folder / "certificate.json").read_text())
    for task in told["tasks"]:
        shutil.copytree(task["folder"], tmp_path / task["name"])
    moved = {task["name"]: str(tmp_path / task["name"]) for task in told["tasks"]}
    inputs = table()["text"].tolist()[:20]
    for load in (load_served, load_served_cascade):
        want, got = (load(folder, "ratio", folders=f, backbone=bert).answer(inputs) for f in (None, moved))
        assert [a.task for a in got] == [a.task for a in want]
        with pytest.raises(InputError, match="nowhere"):
            load(folder, "ratio", folders={**moved, next(iter(moved)): "nowhere"}, backbone=bert)
    assert load_cascade(folder, "ratio", folders=moved, backbone=bert)[1] == tuple(moved)


def test_two_that_may_fail_as_often_as_not_guarantee_nothing(certified):
    folder, bert = certified
    found = load_served_cascade(folder, "ratio", loss=0.3, confidence=0.01, backbone=bert).guarantee.overall
    assert found.confidence <= 0 and found.vacuous and not found.guarantee


def test_what_cannot_be_served_in_two_stages_is_refused(certified):
    folder, bert = certified
    with pytest.raises(InputError, match="rule: 'frozen' runs no adapters"):
        load_served_cascade(folder, "frozen", backbone=bert)
    with pytest.raises(InputError, match="72"):
        load_served_cascade(folder, "ratio", loss=0.001, backbone=bert)
    served = load_served_cascade(folder, "ratio", backbone=bert)
    with pytest.raises(InputError, match="inputs: are none"):
        served.answer([])


def test_a_run_is_served_in_two_stages(finished):  # noqa: F811
    folder, texts = finished
    served = load_served_cascade(folder, loss=0.3, confidence=0.9)
    keep_all = dataclasses.replace(served.cascade.pruning_, parameter=1e9)
    everything = dataclasses.replace(served, cascade=served.cascade.with_pruning(keep_all))
    # If nothing is pruned it is the full search.
    assert [a.task for a in everything.answer(texts[:30])] == [a.task for a in load_served(folder).answer(texts[:30])]
