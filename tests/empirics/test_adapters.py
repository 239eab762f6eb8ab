from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch

from empirics.adapters.adapter import active, load_adapter, principal_angles, save_adapter
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, BackboneConfig, TrainingConfig
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import write_tensors
from theory import InputError

TRAINING = TrainingConfig(epochs=3, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def setting():
    backbone = tiny.backbone()
    texts, labels = tiny.texts()
    return backbone, encode_prefix(backbone, texts), texts, labels


def _train(setting, earlier=(), config=None, seed=0, training=TRAINING, name="t"):
    backbone, cache, texts, labels = setting
    rng = np.random.default_rng(seed)
    return train_adapter(backbone, cache, np.arange(len(texts)), labels, name, earlier, config or AdapterConfig(rank=4), training, rng)


def _embed(setting, adapter):
    backbone, cache, texts, _ = setting
    with active(backbone, adapter):
        return embed(backbone, cache, np.arange(len(texts)))


def test_without_an_adapter_the_suffix_is_the_frozen_forward(setting):
    assert _embed(setting, None) == pytest.approx(setting[1].frozen, abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_on_the_pretrained_encoder():
    backbone = load_backbone(BackboneConfig(max_length=16))
    cache = encode_prefix(backbone, ["a graphics card", "the gospel of Mark, chapter one", "oil prices rose again"])
    assert embed(backbone, cache, np.arange(3)) == pytest.approx(cache.frozen, abs=1e-5)


def test_embeddings_do_not_depend_on_order_or_batch(setting):
    backbone, cache, texts, _ = setting
    adapter, _ = _train(setting)
    whole = _embed(setting, adapter)
    order = np.random.default_rng(0).permutation(len(texts))
    odd = dataclasses.replace(backbone, config=backbone.config.model_copy(update={"batch_size": 3}))
    with active(odd, adapter):
        assert embed(odd, cache, order) == pytest.approx(whole[order], abs=1e-5)


def test_earlier_embeddings_are_bit_identical_after_later_training(setting):
    first, _ = _train(setting)
    before = _embed(setting, first)
    base = copy.deepcopy(setting[0].model.state_dict())
    second, _ = _train(setting, (first,), seed=1)
    _train(setting, (first, second), seed=2)
    assert np.array_equal(_embed(setting, first), before)
    after = setting[0].model.state_dict()
    assert base.keys() == after.keys()
    assert all(torch.equal(base[k], after[k]) for k in base)


def test_folded_weight_is_base_plus_update(setting):
    first, _ = _train(setting)
    second, _ = _train(setting, (first,), AdapterConfig(rank=4, alpha=0.5, l1=0.0), seed=1)
    backbone = setting[0]
    merged = copy.deepcopy(backbone.model)
    for name, s in second.composition.items():
        update = (first.new[name].b * s[:, None]).T @ first.new[name].a + 0.5 * second.new[name].b.T @ second.new[name].a
        merged.get_submodule(name).weight += torch.tensor(update)
    plain = dataclasses.replace(backbone, model=merged)
    assert _embed((plain, *setting[1:]), None) == pytest.approx(_embed(setting, second), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_peft_computes_the_same(setting, tmp_path):
    from peft import PeftModel

    first, _ = _train(setting)
    second, _ = _train(setting, (first,), seed=1)
    save_adapter(tmp_path / "second", second)
    backbone, _, texts, _ = setting
    wrapped = PeftModel.from_pretrained(copy.deepcopy(backbone.model), tmp_path / "second").eval()
    merged = dataclasses.replace(backbone, model=wrapped.base_model.model)
    assert encode_prefix(merged, texts).frozen == pytest.approx(_embed(setting, second), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_saved_adapters_come_back_bit_for_bit_and_files_repeat(setting, tmp_path):
    adapter, _ = _train(setting)
    for folder in ("a", "b"):
        save_adapter(tmp_path / folder, adapter)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert np.array_equal(_embed(setting, load_adapter(tmp_path / "a")), _embed(setting, adapter))


def test_a_damaged_adapter_is_named(tmp_path):
    (tmp_path / "composition.json").write_text('{"task": "t", "projections": ["x"]}')
    (tmp_path / "composition.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"composition\.safetensors"):
        load_adapter(tmp_path)


def test_projections_return_even_after_an_error(setting):
    adapter, _ = _train(setting)
    name = next(iter(adapter.folded))
    with pytest.raises(RuntimeError, match="planned"), active(setting[0], adapter):
        raise RuntimeError("planned")
    assert type(setting[0].model.get_submodule(name)) is torch.nn.Linear


def test_training_repeats_to_the_bit(setting):
    (a, log_a), (b, log_b) = _train(setting, seed=7), _train(setting, seed=7)
    assert log_a.losses == log_b.losses
    assert all(np.array_equal(a.folded[n].b, b.folded[n].b) for n in a.folded)


def test_training_learns(setting):
    _, log = _train(setting)
    assert np.mean(log.losses[-3:]) < np.mean(log.losses[:3])


def test_the_penalty_keeps_new_units_orthogonal(setting):
    first, _ = _train(setting)
    with_, _ = _train(setting, (first,), AdapterConfig(rank=4, orthogonality=100.0), seed=1)
    without, _ = _train(setting, (first,), AdapterConfig(rank=4, orthogonality=0.0), seed=1)
    assert min(principal_angles(with_, (first,)).values()) > min(principal_angles(without, (first,)).values())


@pytest.mark.parametrize("sides", ("a", "both"))
def test_projection_keeps_new_units_off_the_pool(setting, sides):
    config = AdapterConfig(rank=3, orthogonal="projection", orthogonal_sides=sides)
    pool = []
    for k in range(3):
        adapter, log = _train(setting, pool, config, seed=k, name=f"t{k}")
        assert np.isfinite(log.losses).all() and log.smallest_angle > 90 - 1e-4
        pool.append(adapter)
    for name, units in pool[2].new.items():
        for side in ("a", "b"):
            old = np.concatenate([getattr(x.new[name], side) for x in pool[:2]]).astype(np.float64)
            new = getattr(units, side).astype(np.float64)
            cosines = (new @ old.T) / np.outer(np.linalg.norm(new, axis=1), np.linalg.norm(old, axis=1))
            assert (np.abs(cosines).max() < 1e-6) == (side == "a" or sides == "both")


def test_the_penalty_may_hold_both_sides(setting):
    first, _ = _train(setting)

    def overlap(sides):
        config = AdapterConfig(rank=4, orthogonality=100.0, orthogonal_sides=sides)
        adapter, _ = _train(setting, (first,), config, seed=1)
        shares = []
        for name, units in adapter.new.items():
            basis = np.linalg.qr(first.new[name].b.T)[0]
            shares.append(np.square(units.b @ basis).sum() / np.square(units.b).sum())
        return np.mean(shares)

    assert overlap("both") < overlap("a") / 2


def test_projection_without_room_is_refused_before_training(setting):
    wide = AdapterConfig(rank=20, orthogonal="projection")
    first, _ = _train(setting, config=wide)
    with pytest.raises(InputError, match=r"adapter\.orthogonal.*no room.*20 earlier and 20 new"):
        _train(setting, (first,), wide)


@pytest.mark.parametrize("pieces", (2, 3, 100))
def test_accumulated_steps_are_whole_steps(setting, pieces):
    first, _ = _train(setting)
    (whole, log), (parts, other) = (
        _train(setting, (first,), training=TRAINING.model_copy(update={"epochs": 1, "accumulate": k})) for k in (1, pieces)
    )
    assert log.losses == pytest.approx(other.losses, abs=1e-3)
    assert log.accuracy == other.accuracy
    for name in whole.new:
        np.testing.assert_allclose(whole.new[name].b, parts.new[name].b, atol=2e-3)


def test_the_elastic_net_gives_exact_zeros(setting):
    first, _ = _train(setting)
    heavy, log = _train(setting, (first,), AdapterConfig(rank=4, l1=1e3), seed=1)
    assert log.nonzero == 0 and all((s == 0).all() for s in heavy.composition.values())
    _, free = _train(setting, (first,), AdapterConfig(rank=4, l1=0.0), seed=1)
    assert free.nonzero > 0.9


def test_without_composition_the_pool_is_not_used(setting):
    first, _ = _train(setting)
    alone, _ = _train(setting, (first,), AdapterConfig(rank=4, compose=False), seed=1)
    assert all(u.a.shape[0] == 4 for u in alone.folded.values())


def test_bad_training_input_is_named(setting):
    backbone, cache, texts, labels = setting
    rng = np.random.default_rng(0)
    index = np.arange(len(texts))
    with pytest.raises(InputError, match="one class only"):
        train_adapter(backbone, cache, index, np.zeros_like(labels), "lonely", (), AdapterConfig(), TRAINING, rng)
    with pytest.raises(InputError, match="labels"):
        train_adapter(backbone, cache, index, labels * 2, "t", (), AdapterConfig(), TRAINING, rng)
    with pytest.raises(InputError, match="learning_rate"):
        _train(setting, training=TRAINING.model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(InputError, match="targets"):
        _train(setting, config=AdapterConfig(targets=("nothing",)))


def test_embeddings_that_are_not_finite_are_named():
    backbone = tiny.backbone()
    backbone.model.embeddings.word_embeddings.weight[5] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        encode_prefix(backbone, ["".join(map(chr, range(60, 130)))])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_missing_and_corrupt_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        load_backbone(BackboneConfig(path=tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="no usable encoder"):
        load_backbone(BackboneConfig(path=tmp_path))


@pytest.mark.parametrize(
    "content", ["[]", '{"task": 3, "projections": []}', '{"task": "t", "projections": 3}', '{"task": "t", "projections": [[]]}']
)
def test_a_damaged_list_of_projections_is_one_line(tmp_path, content):
    (tmp_path / "composition.json").write_text(content)
    write_tensors(tmp_path / "composition.safetensors", {"alpha": np.array(1.0)})
    with pytest.raises(InputError, match=r"composition\.json"):
        load_adapter(tmp_path)


def test_an_alpha_that_is_no_number_is_one_line(tmp_path):
    (tmp_path / "composition.json").write_text('{"task": "t", "projections": []}')
    for alpha in (np.ones(2), np.array(True), np.array(1j, np.complex64)):
        write_tensors(tmp_path / "composition.safetensors", {"alpha": alpha})
        with pytest.raises(InputError, match="alpha"):
            load_adapter(tmp_path)
