"""Serving a certified folder: the certificate's own decisions, one input at a time, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
from alphabets import ALPHABETS, certified_in, table

from empirics.files.record import read_tensors, write_tensors
from empirics.routing.certified_cascade import load_cascade
from empirics.routing.router import load_router
from theory import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
RULES = ("ratio", "paper", "frozen")


@pytest.fixture(scope="module")
def bert():
    return tiny.backbone()


@pytest.fixture(scope="module")
def certified(bert, tmp_path_factory):
    """Adapters of three tasks, and the folder that certifies them under all rules."""
    return certified_in(tmp_path_factory.mktemp("served"), bert, rule="all")


@pytest.mark.parametrize("rule", RULES)
def test_what_is_served_is_what_was_certified(rule, certified, bert):
    frame = pd.read_parquet(certified / "samples.parquet")
    router = load_router(certified, rule, backbone=bert)
    texts = [table()["text"].iloc[row] for row in frame["row"]]
    assert router.route(texts) == frame[f"{rule}:retrieved"].tolist()
    stored = frame[[f"{rule}:score:{task}" for task in ALPHABETS]].to_numpy()
    assert router.scores(texts) == pytest.approx(stored, rel=1e-4, abs=1e-3)
    assert (len(router.adapters), len(router.projections)) == ((0, 1) if rule == "frozen" else (3, 3))


def test_an_input_is_routed_by_itself(certified, bert):
    router = load_router(certified, "ratio", backbone=bert)
    texts = list(table()["text"].iloc[::5])
    together = router.scores(texts)
    assert together.shape == (len(texts), 3)
    for text, row in zip(texts[:4], together[:4], strict=True):
        assert router.scores([text])[0] == pytest.approx(row, rel=1e-4, abs=1e-3)
    assert [router.tasks[k] for k in together.argmin(axis=1)] == router.route(texts)


def test_adapters_that_moved_are_found_where_they_are_said_to_be(certified, bert, tmp_path):
    moved = {task: tmp_path / task for task in ALPHABETS}
    for task, folder in moved.items():
        shutil.copytree(certified.parent / task, folder)
    shutil.copytree(certified, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "certificate.json").read_text())
    for item in found["tasks"]:
        item["folder"] = str(tmp_path / "gone" / item["name"])
    (tmp_path / "out" / "certificate.json").write_text(json.dumps(found))
    texts = list(table()["text"].iloc[::7])
    with pytest.raises(InputError, match="is no folder"):
        load_router(tmp_path / "out", "paper", backbone=bert)
    here = load_router(tmp_path / "out", "paper", folders=moved, backbone=bert).scores(texts)
    assert np.array_equal(here, load_router(certified, "paper", backbone=bert).scores(texts))
    with pytest.raises(InputError, match="lack the adapter of the task 'late'"):
        load_router(tmp_path / "out", "paper", folders={"early": moved["early"], "middle": moved["middle"]}, backbone=bert)


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ("one text, whose letters are no texts", "are one text"),
        ([], "are none"),
        (["a", None], "hold NoneType as number 1; this encoder takes texts"),
        (["a", "b", "\ud800"], "number 2 has a text that is not valid Unicode"),
        ([" "], "number 0 has an empty text"),
    ],
)
def test_inputs_that_cannot_be_routed_are_named(inputs, what, certified, bert):
    for ask in (load_router(certified, "frozen", backbone=bert).route, load_cascade(certified, alpha=0.5, backbone=bert)[0].predict):
        with pytest.raises(InputError, match=what) as refused:
            ask(inputs)
        assert refused.value.argument == "inputs"


def test_one_of_several_rules_must_be_named(certified, bert):
    with pytest.raises(InputError, match=r"rule: is not given.*ratio, paper, frozen"):
        load_router(certified, backbone=bert)
    with pytest.raises(InputError, match=r"rule: 'angular' is not in"):
        load_router(certified, "angular", backbone=bert)
    with pytest.raises(InputError, match=r"inputs: are none"):
        load_router(certified, "frozen", backbone=bert).route([])


@pytest.mark.parametrize("change", [lambda f: {**f, "schema_version": 7}, lambda f: [f], lambda f: {**f, "tasks": 3}])
def test_a_folder_that_holds_no_certificate_is_refused(change, certified, bert, tmp_path):
    (tmp_path / "certificate.json").write_text(json.dumps(change(json.loads((certified / "certificate.json").read_text()))))
    with pytest.raises(InputError, match=r"certificate\.json"):
        load_router(tmp_path, "ratio", backbone=bert)
    with pytest.raises(InputError, match="cannot be read"):
        load_router(tmp_path / "absent", backbone=bert)


@pytest.mark.parametrize("harm", ["gone", "flat", "short", "nan"])
def test_damaged_projections_are_told(harm, certified, bert, tmp_path):
    folder = shutil.copytree(certified, tmp_path / "out")
    tensors = read_tensors(folder / "signatures" / "frozen.safetensors")
    axes = tensors.pop("projection_axes")
    if harm != "gone":
        tensors["projection_axes"] = {"flat": axes[0], "short": axes[:, :-1], "nan": np.full_like(axes, np.nan)}[harm]
    write_tensors(folder / "signatures" / "frozen.safetensors", tensors)
    with pytest.raises(InputError, match="projection"):
        load_router(folder, "frozen", backbone=bert)


def test_a_certificate_of_no_rule_is_none(certified, bert, tmp_path):
    content = json.loads((certified / "certificate.json").read_text())
    (tmp_path / "certificate.json").write_text(json.dumps({**content, "rules": []}))
    with pytest.raises(InputError, match="is no certificate"):
        load_router(tmp_path, backbone=bert)
