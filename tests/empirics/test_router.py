"""Serving a certified folder: the certificate's own decisions, one input at a time, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from alphabets import ALPHABETS, as_schema_1, certified_in, table

from empirics.adapters.adapter import save_adapter
from empirics.adapters.peft_folders import for_adapters, read_peft_folder
from empirics.config import load_certify_config
from empirics.encoders.prefix import encode_prefix
from empirics.files.record import read_tensors, write_tensors
from empirics.routing.certificate import read_certificate
from empirics.routing.certified_cascade import load_cascade
from empirics.routing.certify import certify
from empirics.routing.router import load_router
from empirics.routing.served_cascade import load_served_cascade
from empirics.routing.serving import load_served
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
    with pytest.raises(InputError, match=r"frozen\.safetensors: is changed since the folder was finished .*certify again"):
        load_router(folder, "frozen", backbone=bert)
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="projection"):
        load_router(folder, "frozen", backbone=bert)


def test_a_certificate_of_no_rule_is_none(certified, bert, tmp_path):
    content = json.loads((certified / "certificate.json").read_text())
    (tmp_path / "certificate.json").write_text(json.dumps({**content, "rules": []}))
    with pytest.raises(InputError, match="is no certificate"):
        load_router(tmp_path, backbone=bert)


# --- what is served is what was certified ------------------------------------------------------------------------------


@pytest.fixture
def untouched(monkeypatch):
    """Nothing is embedded."""
    monkeypatch.setattr("empirics.routing.router.encode_prefix", lambda *_: pytest.fail("work was begun"))


@pytest.mark.parametrize("change", ["retrained", "swapped"])
def test_another_adapter_than_the_certified_one_is_refused(change, certified, bert, tmp_path, untouched):
    folders = {task: shutil.copytree(certified.parent / task, tmp_path / task) for task in ALPHABETS}
    assert load_router(certified, "ratio", folders=folders, backbone=bert).unverified == ""
    if change == "swapped":
        folders["early"], folders["late"] = folders["late"], folders["early"]
    else:
        tensors = read_tensors(folders["early"] / "adapter_model.safetensors")
        one = tensors[min(tensors)]
        one[0, 0] = np.nextafter(one[0, 0], np.float32(9))
        write_tensors(folders["early"] / "adapter_model.safetensors", tensors)
    message = r"is not what was certified: .*certificate\.json speaks of another adapter of the task 'early'; .*certify again"
    for load in (load_router, load_cascade, load_served, load_served_cascade):
        own = folders if load is load_router else None
        folder = certified if own else _where(certified, tmp_path / load.__name__, folders)
        with pytest.raises(InputError, match=message) as refused:
            load(folder, "ratio", backbone=bert, **({"folders": own} if own else {}))
        assert refused.value.argument == str(folders["early"])
    # The frozen rule runs no adapter: what it retrieves is what was certified, whatever was trained since.
    assert load_router(certified, "frozen", folders=folders, backbone=bert).unverified == ""


def _where(certified, copied, folders):
    """The certified folder with adapters that lie elsewhere."""
    shutil.copytree(certified, copied)
    found = json.loads((copied / "certificate.json").read_text())
    found["tasks"] = [{**task, "folder": str(folders[task["name"]])} for task in found["tasks"]]
    (copied / "certificate.json").write_text(json.dumps(found))
    return copied


def test_the_same_update_saved_anew_is_the_same(certified, bert, tmp_path):
    for task in ALPHABETS:
        adapter = read_peft_folder(certified.parent / task, bert, task).adapter
        save_adapter(tmp_path / task, adapter, "elsewhere/encoder")
        settings = [json.loads((folder / task / "adapter_config.json").read_text()) for folder in (certified.parent, tmp_path)]
        assert settings[0]["lora_alpha"] != settings[1]["lora_alpha"]
    router = load_router(certified, "paper", folders={task: tmp_path / task for task in ALPHABETS}, backbone=bert)
    assert router.unverified == "" and router.tasks == tuple(ALPHABETS)


@pytest.mark.parametrize("rule", RULES)
def test_another_encoder_than_the_certified_one_is_refused(rule, certified, untouched):
    other = tiny.backbone()
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1
    with pytest.raises(InputError, match=r"backbone: is not what was certified: .*another encoder; .*certify again"):
        load_router(certified, rule, backbone=other)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"normalize": False}, "its normalize is False, and True in"),
        ({"pooling": "cls"}, "its pooling is cls, and mean in"),
        ({"max_length": 16}, "its max_length is 16, and 24 in"),
    ],
)
def test_an_encoder_that_embeds_otherwise_than_was_certified_is_refused(change, what, certified, bert, untouched):
    other = tiny.assembled(bert.model, bert.config.model_copy(update=change))
    with pytest.raises(InputError, match=f"backbone: is not what was certified: {what} .*certify again"):
        load_router(certified, "frozen", backbone=other)


def test_an_encoder_that_was_rounded_before_it_was_known_is_said_to_be_unknown(certified):
    texts = list(table()["text"].iloc[:8])
    known = tiny.backbone(precision="bfloat16")
    router = load_router(certified, "frozen", backbone=known)
    want = router.route(texts)
    # It has rounded its weights now, and its digest is from before, even if it was assembled again.
    assert load_router(certified, "ratio", backbone=known).unverified == ""
    assert load_router(certified, "ratio", backbone=for_adapters(known, router.adapters)).unverified == ""
    late = tiny.backbone(precision="bfloat16")
    encode_prefix(late, texts)
    with pytest.warns(UserWarning, match="not known: the encoder had embedded, and rounded its weights"):
        router = load_router(certified, "frozen", backbone=late)
    assert "the encoder had embedded" in router.unverified and router.route(texts) == want
    folders, config = {task: certified.parent / task for task in ALPHABETS}, load_certify_config({"rule": "frozen", "simulations": 1000})
    made = [certify(folders, table(), config, backbone=each).sha256 for each in (known, late)]
    assert made[0] == read_certificate(certified / "certificate.json").sha256
    assert made[1].encoder is None and made[1].samples == made[0].samples


def test_a_certificate_of_schema_1_is_read_and_its_doubts_are_told(certified, bert, tmp_path):
    folder = shutil.copytree(certified, tmp_path / "out")
    as_schema_1(folder)
    found = read_certificate(folder / "certificate.json")
    assert found.sha256.encoder is found.sha256.samples is found.tasks[0].sha256 is None
    assert found.rules == read_certificate(certified / "certificate.json").rules
    with pytest.warns(
        UserWarning, match=r"out: that these .* is not known: certificate\.json notes no digest of the encoder and the adapters$"
    ):
        served = load_served(folder, "paper", backbone=bert)
    assert served.router.unverified.startswith("that these are what was certified is not known")
    assert served.guarantee.statement.startswith(found.statement)
    assert "That these are what was certified is not known: certificate.json notes no digest" in served.guarantee.statement
    with pytest.warns(UserWarning, match="notes no digest of the encoder$"):
        load_router(folder, "frozen", backbone=bert)
    for harm in ({"tasks": 3}, {"tasks": ["a"]}, {"tasks": None}):
        content = json.loads((folder / "certificate.json").read_text())
        (tmp_path / "certificate.json").write_text(json.dumps({**content, **harm}))
        with pytest.raises(InputError, match="is no certificate of schema 1, which it says it is"):
            read_certificate(tmp_path / "certificate.json")


def test_signatures_of_another_certificate_are_refused(certified, bert, tmp_path):
    folder = shutil.copytree(certified, tmp_path / "out")
    shutil.copy(folder / "signatures" / "ratio.safetensors", folder / "signatures" / "paper.safetensors")
    with pytest.raises(InputError, match=r"paper\.safetensors: is changed since the folder was finished .*certify again"):
        load_router(folder, "paper", backbone=bert)
    assert load_router(folder, "ratio", backbone=bert).unverified == ""
