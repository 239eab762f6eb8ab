"""Folders written by PEFT, read back: the same forward pass as PEFT's own, or an error that names what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from empirics.adapters.adapter import Units, active, load_adapter, save_adapter
from empirics.adapters.peft_folders import CONFIG, WEIGHTS, for_adapters, read_peft_folder
from empirics.encoders.prefix import embed, encode_prefix
from theory import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bert():
    return tiny.backbone()


@pytest.fixture(scope="module")
def vit():
    return tiny.backbone(kind="vit")


def made(model, folder, seed=0, change=None, **settings):
    """A folder that PEFT wrote, with updates large enough to matter, and PEFT's own model loaded from it."""
    wrapped = get_peft_model(
        copy.deepcopy(model), LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ["query", "value"], **settings})
    )
    torch.manual_seed(seed)
    for module in wrapped.modules():
        if isinstance(module, LoraLayer):
            for part in (*module.lora_A.values(), *module.lora_B.values()):
                torch.nn.init.normal_(part.weight, std=0.2)
    if change:
        change(wrapped)
    wrapped.save_pretrained(folder)
    return PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def settings(folder, **change):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def tensors(folder, change):
    found = load_file(folder / WEIGHTS)
    change(found)
    save_file(found, folder / WEIGHTS)


def forward(model, **inputs):
    with torch.inference_mode():
        return model(**inputs).last_hidden_state.numpy()


def words():
    rng = np.random.default_rng(0)
    mask = torch.ones(6, 20, dtype=torch.long)
    mask[:3, 12:] = 0
    return {"input_ids": torch.tensor(rng.integers(3, 64, size=(6, 20))), "attention_mask": mask}


def pixels():
    return {"pixel_values": torch.tensor(np.random.default_rng(0).normal(size=(5, 3, 16, 16)), dtype=torch.float32)}


BERT_CASES = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"layer.1.attention.self.query": 2, "value": 7}, "alpha_pattern": {r"layer\.[02]\..*query": 11}},
    "patterns with rslora": {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}, "use_rslora": True},
    "regex": {"target_modules": r".*layer\.[12]\..*\.(key|dense)"},
    "feed forward": {"target_modules": ["intermediate.dense", "layer.0.output.dense"]},
    "all-linear": {"target_modules": "all-linear"},
    "some layers": {"layers_to_transform": [0, 2], "layers_pattern": "layer"},
    "one layer": {"layers_to_transform": 1},
    "all but": {"target_modules": "all-linear", "exclude_modules": ["pooler.dense", "query"]},
    "started otherwise": {"init_lora_weights": "gaussian"},
    "fan in and out": {"fan_in_fan_out": True},
}


@pytest.mark.parametrize("case", BERT_CASES)
def test_a_bert_computes_what_peft_computes(case, bert, tmp_path):
    theirs = made(bert.model, tmp_path, **BERT_CASES[case])
    ours = read_peft_folder(tmp_path, bert)
    expected = forward(theirs, **words())
    assert np.abs(expected - forward(bert.model, **words())).max() > 0.05
    with active(bert, ours.adapter):
        assert forward(bert.model, **words()) == pytest.approx(expected, abs=2e-5)
    ranks = {name: layer.r["default"] for name, layer in theirs.base_model.model.named_modules() if isinstance(layer, LoraLayer)}
    ranks.pop("pooler.dense", None)
    assert {name: units.a.shape[0] for name, units in ours.adapter.folded.items()} == ranks


@pytest.mark.parametrize(
    "case",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["fc1", "fc2", "o_proj"], "use_rslora": True, "rank_pattern": {"layers.0.mlp.fc1": 3}},
        {"target_modules": "all-linear"},
    ],
)
def test_a_vit_computes_what_peft_computes(case, vit, tmp_path):
    expected = forward(made(vit.model, tmp_path, **case), **pixels())
    with active(vit, read_peft_folder(tmp_path, vit).adapter):
        assert forward(vit.model, **pixels()) == pytest.approx(expected, abs=2e-5)
    assert np.abs(expected - forward(vit.model, **pixels())).max() > 0.05


def test_embeddings_from_the_cached_prefix_are_peft_s(bert, tmp_path):
    """Adapted modules outside the layers that our own adapters use: the prefix is cut before the first of them all."""
    texts, _ = tiny.texts()
    theirs = [
        made(bert.model, tmp_path / "low", target_modules=r".*layer\.[02]\..*\.dense"),
        made(bert.model, tmp_path / "high", seed=1, r=2, layers_to_transform=[2]),
    ]
    adapters = [read_peft_folder(tmp_path / name, bert).adapter for name in ("low", "high")]
    assert for_adapters(bert, adapters[1:]).first == 2
    cut = for_adapters(bert, adapters)
    assert cut.first == 0
    cache = encode_prefix(cut, texts)
    for wrapped, adapter in zip(theirs, adapters, strict=True):
        expected = encode_prefix(dataclasses.replace(bert, model=wrapped.base_model.model), texts).frozen
        with active(cut, adapter):
            assert embed(cut, cache, np.arange(len(texts))) == pytest.approx(expected, abs=1e-5)


def test_a_pooler_is_adapted_where_it_is_used(tmp_path):
    pooled = tiny.backbone(pooling="pooler")
    texts, _ = tiny.texts()
    theirs = made(pooled.model, tmp_path, target_modules=["query", "pooler.dense"])
    adapter = read_peft_folder(tmp_path, pooled).adapter
    cut = for_adapters(pooled, [adapter])
    cache = encode_prefix(cut, texts)
    expected = encode_prefix(dataclasses.replace(pooled, model=theirs.base_model.model), texts).frozen
    with active(cut, adapter):
        assert embed(cut, cache, np.arange(len(texts))) == pytest.approx(expected, abs=1e-5)
    assert np.abs(expected - cache.frozen).max() > 0.05


@pytest.mark.parametrize("without", [False, True], ids=["with a pooler", "without"])
def test_a_pooler_that_no_embedding_looks_at_is_left_out(without, bert, tmp_path):
    # As models with a head for every token are trained: all linear maps are adapted, and the encoder has no pooler.
    base = copy.deepcopy(bert.model)
    base.pooler = None if without else base.pooler
    theirs = made(base, tmp_path, target_modules=["query", "dense"])
    ours = read_peft_folder(tmp_path, bert)
    assert "pooler.dense" not in ours.adapter.folded and ours.notes[0].endswith("the pooler has no part in these embeddings")
    with active(bert, ours.adapter):
        assert forward(bert.model, **words()) == pytest.approx(forward(theirs, **words()), abs=2e-5)
    if without:
        with pytest.raises(InputError, match=r"lacks 2 tensors, such as pooler\.dense"):
            read_peft_folder(tmp_path, tiny.backbone(pooling="pooler"))


def test_reading_draws_nothing(bert, tmp_path):
    made(bert.model, tmp_path)
    before = torch.random.get_rng_state()
    read_peft_folder(tmp_path, bert)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_adapter_of_a_classifier_is_read_for_its_encoder(bert, tmp_path):
    torch.manual_seed(2)
    classifier = BertForSequenceClassification(copy.deepcopy(bert.model.config)).eval()
    classifier.bert = copy.deepcopy(bert.model)
    theirs = made(classifier, tmp_path, task_type="SEQ_CLS", target_modules=r"bert\.encoder\.layer\.1\..*(query|dense)")
    assert any("classifier" in name for name in load_file(tmp_path / WEIGHTS))
    ours = read_peft_folder(tmp_path, bert)
    assert any("head" in note and "classifier" in note for note in ours.notes)
    with active(bert, ours.adapter):
        assert forward(bert.model, **words()) == pytest.approx(forward(theirs.base_model.model.bert, **words()), abs=2e-5)


def test_half_precision_is_widened(bert, tmp_path):
    made(bert.model, tmp_path)
    tensors(tmp_path, lambda t: t.update({name: value.bfloat16() for name, value in t.items()}))
    expected = forward(PeftModel.from_pretrained(copy.deepcopy(bert.model), tmp_path).eval(), **words())
    with active(bert, read_peft_folder(tmp_path, bert).adapter):
        assert forward(bert.model, **words()) == pytest.approx(expected, abs=2e-5)


def test_the_encoder_is_left_as_it_was(bert, tmp_path):
    before = {name: (type(module), id(module)) for name, module in bert.model.named_modules()}
    values = {name: value.clone() for name, value in bert.model.state_dict().items()}
    made(bert.model, tmp_path, target_modules="all-linear")
    read_peft_folder(tmp_path, bert)
    assert {name: (type(module), id(module)) for name, module in bert.model.named_modules()} == before
    assert all(torch.equal(value, values[name]) for name, value in bert.model.state_dict().items())


def test_an_export_with_different_ranks_goes_to_peft_and_back(bert, tmp_path):
    made(bert.model, tmp_path / "theirs", target_modules="all-linear", rank_pattern={"query": 2, "layer.1.output.dense": 5})
    adapter = read_peft_folder(tmp_path / "theirs", bert).adapter
    save_adapter(tmp_path / "ours", adapter, base="a/base")
    about = json.loads((tmp_path / "ours" / CONFIG).read_text())
    assert about["base_model_name_or_path"] == "a/base" and about["task_type"] == "FEATURE_EXTRACTION"
    with active(bert, adapter):
        expected = forward(bert.model, **words())
    theirs = PeftModel.from_pretrained(copy.deepcopy(bert.model), tmp_path / "ours").eval()
    assert forward(theirs, **words()) == pytest.approx(expected, abs=2e-5)
    for again in (load_adapter(tmp_path / "ours"), read_peft_folder(tmp_path / "ours", bert).adapter):
        assert again.folded.keys() == adapter.folded.keys()
        assert all(np.array_equal(again.folded[name].b, adapter.folded[name].b) for name in adapter.folded)


def test_a_composition_is_folded_in(bert, tmp_path):
    """Two units, one of the pool scaled by -0.5 and one new: PEFT sees their sum."""
    made(bert.model, tmp_path / "theirs", r=2, target_modules=["query"])
    first = read_peft_folder(tmp_path / "theirs", bert).adapter
    folded = {n: Units(np.concatenate([u.a, u.a[:1]]), np.concatenate([-0.5 * u.b, u.b[:1]])) for n, u in first.folded.items()}
    new = {n: Units(u.a[:1], u.b[:1]) for n, u in first.new.items()}
    second = dataclasses.replace(first, new=new, composition={n: np.full(2, -0.5, np.float32) for n in new}, folded=folded)
    save_adapter(tmp_path / "ours", second)
    with active(bert, second):
        expected = forward(bert.model, **words())
    theirs = PeftModel.from_pretrained(copy.deepcopy(bert.model), tmp_path / "ours").eval()
    assert forward(theirs, **words()) == pytest.approx(expected, abs=2e-5)


def test_the_base_is_noted(bert, tmp_path):
    made(bert.model, tmp_path)
    settings(tmp_path, base_model_name_or_path="sentence-transformers/all-MiniLM-L6-v2")
    assert read_peft_folder(tmp_path, bert).notes == ()
    settings(tmp_path, base_model_name_or_path="bert-base-uncased/")
    assert "bert-base-uncased" in read_peft_folder(tmp_path, bert).notes[0]
    for packaged, name in (("minilm", "all-MiniLM-L6-v2"), ("efficientnet-lite0", "efficientnet-lite0")):
        other = dataclasses.replace(bert, config=bert.config.model_copy(update={"path": None, "packaged": packaged}))
        assert f"used with {name!r}" in read_peft_folder(tmp_path, other).notes[0]
    settings(tmp_path, base_model_name_or_path=None)
    assert "does not say" in read_peft_folder(tmp_path, bert).notes[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "lora_only"),
        ("bias", "all"),
        ("modules_to_save", ["pooler"]),
        ("trainable_token_indices", [1, 2]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("target_parameters", ["encoder.layer.0.attention.self.query.weight"]),
        ("use_qalora", True),
        ("lora_bias", True),
        ("alora_invocation_tokens", [5]),
        ("megatron_config", {"a": 1}),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("a_field_of_the_future", "on"),
        ("peft_type", "IA3"),
        ("peft_type", "PROMPT_TUNING"),
        ("peft_type", "SOMETHING_ELSE"),
        ("peft_type", None),
        ("r", 0),
        ("r", "8"),
        ("r", True),
        ("lora_alpha", "much"),
        ("rank_pattern", {"query": -1}),
        ("rank_pattern", ["query"]),
        ("target_modules", {"query": 1}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_field(field, value, bert, tmp_path):
    made(bert.model, tmp_path)
    settings(tmp_path, **{field: value})
    with pytest.raises(InputError, match=field) as caught:
        read_peft_folder(tmp_path, bert)
    assert CONFIG in str(caught.value)


@pytest.mark.parametrize("value", ["(", r"nothing\..*", ["nowhere"], "", []])
def test_targets_that_this_encoder_does_not_have(value, bert, tmp_path):
    made(bert.model, tmp_path)
    settings(tmp_path, target_modules=value)
    with pytest.raises(InputError, match=CONFIG):
        read_peft_folder(tmp_path, bert)


def test_targets_that_are_not_linear(bert, tmp_path):
    made(bert.model, tmp_path, target_modules=["query"], change=None)
    settings(tmp_path, target_modules=["query", "word_embeddings"])
    with pytest.raises(InputError, match="Embedding"):
        read_peft_folder(tmp_path, bert)


def test_adapters_for_other_encoders(bert, vit, tmp_path):
    made(vit.model, tmp_path / "vit", target_modules=["q_proj"])
    with pytest.raises(InputError, match="another encoder"):
        read_peft_folder(tmp_path / "vit", bert)
    made(bert.model, tmp_path / "wide")
    tensors(tmp_path / "wide", lambda t: t.update({n: torch.zeros(4, 64) for n in t if "lora_A" in n}))
    with pytest.raises(InputError, match=r"query\.lora_A has shape .*\[4, 64\].*\[4, 32\]"):
        read_peft_folder(tmp_path / "wide", bert)
    made(bert.model, tmp_path / "deep")
    tensors(tmp_path / "deep", lambda t: t.update({n.replace("layer.2", "layer.7"): v.clone() for n, v in t.items() if "layer.2" in n}))
    with pytest.raises(InputError, match=r"layer\.7"):
        read_peft_folder(tmp_path / "deep", bert)


NAME = "base_model.model.encoder.layer.1.attention.self.value.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop(NAME), r"lacks 1 tensors, such as .*layer\.1\.attention\.self\.value\.lora_B"),
        (lambda t: t.clear(), "lacks"),
        (lambda t: t.update({"base_model.model.classifier.weight": torch.zeros(2, 2)}), "classifier"),
        (lambda t: t.update({NAME.replace("lora_B", "lora_magnitude_vector"): torch.zeros(32)}), "lora_magnitude_vector"),
        (lambda t: t.update({"encoder.weight": torch.zeros(2)}), "no tensor of a PEFT adapter"),
        (lambda t: t.update({NAME: torch.full_like(t[NAME], float("nan"))}), "NaN"),
        (lambda t: t.update({NAME: t[NAME].to(torch.int8)}), "int8"),
    ],
)
def test_tensors_that_are_missing_left_over_or_damaged(change, what, bert, tmp_path):
    made(bert.model, tmp_path)
    tensors(tmp_path, change)
    with pytest.raises(InputError, match=what) as caught:
        read_peft_folder(tmp_path, bert)
    assert WEIGHTS in str(caught.value)


class _Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", WEIGHTS])
def test_a_pickle_is_refused_and_never_loaded(name, bert, tmp_path):
    made(bert.model, tmp_path / "folder")
    (tmp_path / "folder" / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    with pytest.raises(InputError, match=name):
        read_peft_folder(tmp_path / "folder", bert)
    assert not (tmp_path / "sprung").exists()


def test_links_and_damaged_files(bert, tmp_path):
    folder = tmp_path / "folder"
    made(bert.model, folder)
    (tmp_path / "blob").write_bytes((folder / WEIGHTS).read_bytes())
    for target, what in (
        ("/dev/zero", "no regular file"),
        (tmp_path / "absent", "link to nothing"),
        (folder / WEIGHTS, "link"),
        (tmp_path, "link"),
    ):
        (folder / WEIGHTS).unlink(missing_ok=True)
        (folder / WEIGHTS).symlink_to(target)
        with pytest.raises(InputError, match=what):
            read_peft_folder(folder, bert)
    (folder / WEIGHTS).unlink()
    # The hub's cache keeps its files as links.
    (folder / WEIGHTS).symlink_to(tmp_path / "blob")
    assert len(read_peft_folder(folder, bert).adapter.folded) == 6
    data = (tmp_path / "blob").read_bytes()
    for junk in (b"", data[:-10], data[:100], b"\xff" * 200):
        (tmp_path / "blob").write_bytes(junk)
        with pytest.raises(InputError, match=WEIGHTS):
            read_peft_folder(folder, bert)
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match="missing"):
        read_peft_folder(folder, bert)


@pytest.mark.parametrize("junk", [b"\xff\xfe\x00r", b"{", b"[1]", b'{"peft_type": "LORA", "lora_alpha": NaN}', b"[" * 100_000, b""])
def test_settings_that_are_no_settings(junk, bert, tmp_path):
    made(bert.model, tmp_path)
    (tmp_path / CONFIG).write_bytes(junk)
    with pytest.raises(InputError, match=CONFIG):
        read_peft_folder(tmp_path, bert)


def test_folders_that_are_no_folders(bert, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(InputError, match="is no folder"):
            read_peft_folder(path, bert)


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": "((.*)*)*x"},
        {"target_modules": r"(\w+\.?)+!"},
        {"exclude_modules": ".*" * 12 + "x"},
        {"rank_pattern": {"(a*)*b": 2}},
        {"layers_pattern": ["(.+)+"]},
        {"layers_pattern": "(.{1,9}){1,9}"},
    ],
)
def test_patterns_that_take_for_ever_are_refused(change, bert, tmp_path):
    made(bert.model, tmp_path)
    settings(tmp_path, **change)
    with pytest.raises(InputError, match="could take for ever to match"):
        read_peft_folder(tmp_path, bert)


@pytest.mark.parametrize("pattern", [r".*\.[012]\.attention\.(self\.)?(query|value)", r"(?:.*?(?:self).*?(?:query|value).*?)"])
def test_patterns_as_people_write_them_are_read(pattern, bert, tmp_path):
    made(bert.model, tmp_path, target_modules=pattern)
    assert len(read_peft_folder(tmp_path, bert).adapter.folded) == 6


@pytest.mark.parametrize("change", [{"r": 10**9}, {"r": 10**400}, {"rank_pattern": {"query": 10**6}}])
def test_no_room_is_made_for_ranks_that_no_tensor_has(change, bert, tmp_path):
    made(bert.model, tmp_path)
    settings(tmp_path, **change)
    with pytest.raises(InputError, match="no tensor is larger"):
        read_peft_folder(tmp_path, bert)
