from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, MPNetConfig, MPNetModel, ViTConfig, ViTModel

from empirics.adapters.adapter import active
from empirics.adapters.multi import embed_all
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, BackboneConfig, TrainingConfig, load_config, presets
from empirics.encoders.backbone import assemble, pixels
from empirics.encoders.convnet import Lite0, preprocess
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import PrefixCache, PrefixRecomputed, embed, encode_prefix
from theory import InputError

STEP = TrainingConfig(epochs=1, batch_size=16, learning_rate=1e-2)


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_one_step_on_every_architecture(kind):
    backbone = tiny.backbone(kind=kind)
    inputs, labels = tiny.documents(kind)
    cache = encode_prefix(backbone, inputs)
    index = np.arange(len(inputs))
    assert embed(backbone, cache, index) == pytest.approx(cache.frozen, abs=1e-5)
    base = {k: v.clone() for k, v in backbone.model.state_dict().items()}
    first, _ = train_adapter(backbone, cache, index, labels, "a", (), AdapterConfig(rank=2), STEP, np.random.default_rng(0))
    with active(backbone, first):
        before = embed(backbone, cache, index)
    assert np.abs(before - cache.frozen).max() > 1e-3
    train_adapter(backbone, cache, index, labels, "b", (first,), AdapterConfig(rank=2), STEP, np.random.default_rng(1))
    with active(backbone, first):
        assert np.array_equal(embed(backbone, cache, index), before)
    assert all(torch.equal(base[k], v) for k, v in backbone.model.state_dict().items())


@pytest.mark.parametrize("preset", presets())
def test_one_step_with_every_shipped_config(preset):
    config = load_config(preset=preset)
    # Tiny stand-ins of the encoders that presets name; their settings are the preset's.
    kind = "vit" if "vit" in str(config.backbone.path) else "bert"
    settings = {"adapted_layers": min(3, config.backbone.adapted_layers), "max_length": 24, "path": None, "packaged": "minilm"}
    convolutional = config.backbone.path is None and config.backbone.packaged == "efficientnet-lite0"
    torch.manual_seed(0)
    if convolutional:
        backbone = assemble(Lite0(), None, preprocess, config.backbone)
    else:
        backbone = tiny.assembled(tiny.MODELS[kind](), config.backbone.model_copy(update=settings))
    inputs, labels = tiny.images(4) if convolutional else tiny.documents(kind, 8)
    source, index = encode_prefix(backbone, inputs), np.arange(len(inputs))
    training = config.training.model_copy(update={"epochs": 1})
    adapter, log = train_adapter(backbone, source, index, labels, "t", (), config.adapter, training, np.random.default_rng(0))
    assert np.isfinite(log.losses).all()
    assert np.isfinite(embed_all(backbone, source, index, [adapter])).all()


@pytest.mark.parametrize("kind", ("bert", "distilbert", "vit"))
def test_targets_are_found_under_every_name(kind):
    found = list(tiny.backbone(kind=kind).projections(("query", "value")))
    # Two layers of two projections, and attention only.
    assert len(found) == 4 and all("attention" in name for name in found)


def test_a_target_may_be_any_linear_map_by_the_end_of_its_name():
    backbone = tiny.backbone(kind="bert")
    assert len(backbone.projections(("output.dense",))) == 4
    assert list(backbone.projections(("attention.output.dense",))) == [f"encoder.layer.{j}.attention.output.dense" for j in (1, 2)]
    with pytest.raises(InputError, match=r"adapter\.targets.*'lue'.*attention\.self\.value"):
        backbone.projections(("lue",))


@pytest.mark.parametrize("kind", ("bert", "vit"))
def test_a_prefix_computed_anew_is_the_cached_one(kind):
    backbone = tiny.backbone(kind=kind, batch_size=7)
    inputs, labels = tiny.documents(kind)
    kept = encode_prefix(backbone, inputs)
    small = dataclasses.replace(backbone, config=backbone.config.model_copy(update={"cache_gib": 0.0}))
    anew = encode_prefix(small, inputs)
    assert isinstance(kept, PrefixCache) and isinstance(anew, PrefixRecomputed)
    assert np.array_equal(kept.frozen, anew.frozen) and np.array_equal(kept.lengths, anew.lengths)
    rows = np.array([3, 0, 11])
    ours, theirs = (next(source.padded([rows], backbone.device)) for source in (kept, anew))
    assert torch.allclose(ours[0], theirs[0], atol=1e-6)
    assert (ours[1] is None and theirs[1] is None) if kind == "vit" else torch.equal(ours[1], theirs[1])
    index = np.arange(len(inputs))
    logs = []
    for b, source in ((backbone, kept), (small, anew)):
        logs.append(train_adapter(b, source, index, labels, "t", (), AdapterConfig(), STEP, np.random.default_rng(0))[1])
    assert logs[0].losses == pytest.approx(logs[1].losses, abs=1e-4)


def test_poolings_are_the_models_own():
    for kind in ("bert", "vit"):
        inputs, _ = tiny.documents(kind, 6)
        pooled = {}
        for pooling in ("mean", "cls", "pooler"):
            backbone = tiny.backbone(kind=kind, pooling=pooling, normalize=False)
            source = encode_prefix(backbone, inputs[:1])
            pooled[pooling] = source.frozen[0]
            assert embed(backbone, source, np.arange(1))[0] == pytest.approx(pooled[pooling], abs=1e-5)
        if kind == "bert":
            tokens = torch.tensor(tiny.tokenizer(inputs[:1], True, 24)["input_ids"])
            whole = backbone.model(input_ids=tokens)
        else:
            whole = backbone.model(pixel_values=pixels(tiny.processor, inputs[:1]))
        assert pooled["mean"] == pytest.approx(whole.last_hidden_state[0].mean(0).numpy(), abs=1e-5)
        assert pooled["cls"] == pytest.approx(whole.last_hidden_state[0, 0].numpy(), abs=1e-5)
        assert pooled["pooler"] == pytest.approx(whole.pooler_output[0].numpy(), abs=1e-5)
    assert tiny.backbone(kind="bert").pooling == "mean" and tiny.backbone(kind="vit").pooling == "cls"
    with pytest.raises(InputError, match="pooling"):
        tiny.backbone(kind="distilbert", pooling="pooler")


def test_an_encoder_that_cannot_be_run_by_blocks_is_refused():
    config = BackboneConfig(adapted_layers=1, max_length=24)
    with pytest.raises(InputError, match="ModernBertModel"):
        special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos", "cls", "sep")}
        tiny.assembled(ModernBertModel(ModernBertConfig(vocab_size=64, **special, **tiny.SHAPE)), config)
    # Relative positions: the blocks run without them, and give something else.
    with pytest.raises(InputError, match="one by one"):
        tiny.assembled(MPNetModel(MPNetConfig(**tiny.TEXT)), config)


def test_bad_settings_are_named():
    with pytest.raises(InputError, match=r"backbone\.layers.*encoder\.layer"):
        tiny.backbone(layers="encoder.blocks")
    assert tiny.backbone(layers="encoder.layer").layers == "encoder.layer"
    with pytest.raises(InputError, match="max_length"):
        tiny.assembled(tiny.MODELS["bert"](), BackboneConfig(max_length=64))
    with pytest.raises(InputError, match="adapted_layers"):
        tiny.assembled(tiny.MODELS["bert"](), BackboneConfig(adapted_layers=4, max_length=24))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_vision_folder_loads_with_its_own_preprocessing(tmp_path):
    torch.manual_seed(0)
    ViTModel(ViTConfig(**tiny.IMAGE)).save_pretrained(tmp_path)
    images, _ = tiny.images(4)
    config = BackboneConfig(path=tmp_path, adapted_layers=1)
    backbone = load_backbone(config)
    assert backbone.modality == "image" and backbone.tokens == 17
    plain = pixels(backbone.processor, images)
    assert plain.shape == (4, 3, 16, 16) and -1 <= float(plain.min()) < -0.5 and 0.5 < float(plain.max()) <= 1
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 16, "width": 16},
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    own = load_backbone(config)
    assert torch.allclose(pixels(own.processor, images), plain / 2 + 0.5, atol=1e-6)
    assert np.isfinite(encode_prefix(own, images).frozen).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_in_a_pickle_are_not_opened(tmp_path):
    BertConfig(**tiny.TEXT).save_pretrained(tmp_path)
    torch.save(BertModel(BertConfig(**tiny.TEXT)).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_backbone(BackboneConfig(path=tmp_path))


@pytest.mark.parametrize("kind", ("bert", "vit"))
def test_bfloat16_is_near_and_never_the_default_on_the_cpu(kind):
    inputs, labels = tiny.documents(kind)
    exact, low = tiny.backbone(kind=kind), tiny.backbone(kind=kind, precision="bfloat16")
    reference, source = encode_prefix(exact, inputs), encode_prefix(low, inputs)
    assert source.frozen.dtype == np.float32 and not np.array_equal(source.frozen, reference.frozen)
    assert np.abs(source.frozen - reference.frozen).max() < 0.03
    explicit = tiny.backbone(kind=kind, precision="float32")
    assert np.array_equal(encode_prefix(explicit, inputs).frozen, reference.frozen)
    index = np.arange(len(inputs))
    _, log = train_adapter(low, source, index, labels, "t", (), AdapterConfig(rank=2), STEP, np.random.default_rng(0))
    assert np.isfinite(log.losses).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lite0_tells_what_real_photographs_show():
    pytest.importorskip("PIL")
    from sklearn.datasets import load_sample_images

    settings = {"packaged": "efficientnet-lite0", "adapted_layers": 2}
    backbone = load_backbone(BackboneConfig(**settings, normalize=False))
    assert (backbone.pooling, backbone.dimension, backbone.modality) == ("mean", 1280, "image")
    photographs = [np.ascontiguousarray(x[:, 106:533]) for x in load_sample_images().images]
    source = encode_prefix(backbone, photographs)
    assert embed(backbone, source, np.arange(2)) == pytest.approx(source.frozen, abs=1e-4)
    assert set(backbone.projections(("expand", "project"))) == {f"blocks.{j}.{n}" for j in (14, 15) for n in ("expand", "project")}
    # The weights' own classifier (the package's file, whose digest was checked on loading) gives palace and daisy.
    logits = source.frozen @ _classifier()
    assert logits.argmax(axis=1).tolist() == [698, 985]


def _classifier() -> np.ndarray:
    import importlib.metadata

    from empirics.encoders.convnet import _FILE, _PACKAGE

    files = importlib.metadata.distribution(_PACKAGE).files or []
    path = next(entry.locate() for entry in files if entry.name == _FILE)
    return torch.load(path, weights_only=True)["_fc.weight"].numpy().T


def test_another_file_in_the_place_of_the_weights_is_refused(monkeypatch, tmp_path):
    import importlib.metadata

    from empirics.encoders import convnet

    path = tmp_path / convnet._FILE
    path.write_bytes(b"cos\nsystem\n")

    class Entry:
        name = convnet._FILE

        def locate(self):
            return path

    class Distribution:
        files = (Entry(),)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    with pytest.raises(InputError, match="another"):
        load_backbone(BackboneConfig(packaged="efficientnet-lite0"))


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_of_a_folder_is_neither_run_nor_asked_about(where, tmp_path, monkeypatch):
    """Without a word, transformers asks on the terminal whether to run it."""
    tiny.save_bert(tmp_path, layers=3, positions=64)
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    content = json.loads((tmp_path / where).read_text())
    names = {
        "config.json": {"AutoConfig": "trap.Own", "AutoModel": "trap.Own"},
        "tokenizer_config.json": {"AutoTokenizer": ["trap.Own", None]},
    }
    for change in ({}, {"model_type": "own", "tokenizer_class": "Own"}):
        (tmp_path / where).write_text(json.dumps({**content, "auto_map": names[where], **change}))
        try:
            load_backbone(BackboneConfig(path=tmp_path))
        except InputError as error:
            assert "holds no usable encoder" in str(error)
        assert not (tmp_path / "ran").exists()


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: asked.append(where) or (_ for _ in ()).throw(OSError("no network")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"owner/name: holds no usable encoder .*is no folder"):
        load_backbone(BackboneConfig(path=Path("owner/name")))
    assert not asked


def test_an_adapter_or_weights_elsewhere_do_not_lead_out_of_the_folder(tmp_path):
    tiny.save_bert(tmp_path, layers=3, positions=64)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(InputError, match="makes this an adapter"):
        load_backbone(BackboneConfig(path=tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../elsewhere.safetensors"}}')
    with pytest.raises(InputError, match="names weights outside"):
        load_backbone(BackboneConfig(path=tmp_path))
