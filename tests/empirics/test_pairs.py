"""Embeddings of chosen pairs: what the adapter gives alone, in any order and company, and no more work than that takes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from test_multi import adapters, one_by_one

from empirics.adapters import pairs
from empirics.adapters.multi import embed_all
from empirics.adapters.pairs import embed_pairs
from empirics.adapters.stack import stack_adapters
from empirics.encoders.prefix import encode_prefix
from theory import InputError

ATOL = 1e-5


@pytest.fixture(scope="module", params=("bert", "distilbert", "vit", "dinov2-registers"))
def setting(request):
    backbone = tiny.backbone(kind=request.param)
    inputs, _ = tiny.documents(request.param)
    pool = adapters(backbone)
    return backbone, encode_prefix(backbone, inputs), pool, stack_adapters(backbone, pool)


@pytest.fixture(scope="module")
def bert():
    backbone = tiny.backbone()
    inputs, _ = tiny.texts()
    return backbone, inputs, encode_prefix(backbone, inputs), adapters(backbone)


def some_pairs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of 40 documents and 5 adapters; some documents have none, some all."""
    rng = np.random.default_rng(seed)
    return np.divmod(rng.choice(200, count, replace=False), 5)


@pytest.mark.parametrize("count", (1, 7, 90, 200))
def test_each_pair_is_what_its_adapter_gives_alone(setting, count):
    backbone, source, pool, stack = setting
    documents, chosen = some_pairs(count, count)
    got = embed_pairs(backbone, source, documents, chosen, stack)
    want = one_by_one(backbone, source, np.arange(40), pool)
    np.testing.assert_allclose(got, want[documents, chosen], atol=ATOL)
    np.testing.assert_allclose(got, embed_all(backbone, source, np.arange(40), pool)[documents, chosen], atol=ATOL)


@pytest.mark.parametrize("size", (1, 3, 64))
def test_order_company_and_batch_do_not_matter(setting, size):
    backbone, source, _, stack = setting
    documents, chosen = some_pairs(0, 60)
    want = embed_pairs(backbone, source, documents, chosen, stack)
    other = dataclasses.replace(backbone, config=backbone.config.model_copy(update={"batch_size": size}))
    order = np.random.default_rng(size).permutation(60)
    np.testing.assert_allclose(embed_pairs(other, source, documents[order], chosen[order], stack), want[order], atol=ATOL)
    np.testing.assert_allclose(embed_pairs(other, source, documents[:4], chosen[:4], stack), want[:4], atol=ATOL)
    twice = embed_pairs(other, source, np.repeat(documents[:4], 2), np.repeat(chosen[:4], 2), stack)
    np.testing.assert_allclose(twice, np.repeat(want[:4], 2, axis=0), atol=ATOL)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_and_merged_weights_give_the_same(bert):
    backbone, inputs, source, pool = bert
    documents, chosen = some_pairs(1, 50)
    got = embed_pairs(backbone, source, documents, chosen, stack_adapters(backbone, pool))
    for k, adapter in enumerate(pool):
        rows = np.flatnonzero(chosen == k)
        for model in (in_peft(adapter), merged(adapter)):
            for i in rows:
                ids = torch.tensor(backbone.tokenizer([inputs[documents[i]]], True, 24)["input_ids"])
                with torch.no_grad():
                    want = backbone.pool(model(input_ids=ids).last_hidden_state, None)
                np.testing.assert_allclose(got[i], want[0], atol=ATOL)


def in_peft(adapter):
    config = LoraConfig(r=5, lora_alpha=5, target_modules=list(adapter.folded), lora_dropout=0.0)
    wrapped = get_peft_model(tiny.backbone().model, config)
    with torch.no_grad():
        for name, units in adapter.folded.items():
            layer = wrapped.base_model.model.get_submodule(name)
            for side, value in ((layer.lora_A, units.a), (layer.lora_B, units.b)):
                weight = side["default"].weight.zero_()
                (weight if side is layer.lora_A else weight.T)[: len(value)] = torch.from_numpy(value)
    return wrapped


def merged(adapter):
    model = tiny.backbone().model
    with torch.no_grad():
        for name, units in adapter.folded.items():
            model.get_submodule(name).weight += torch.from_numpy(units.b.T @ units.a)
    return model


def test_no_more_work_than_the_pairs_take(bert, monkeypatch):
    backbone, _, source, pool = bert
    documents, chosen = some_pairs(2, 90)
    stack, told, sequences, once, asked = stack_adapters(backbone, pool), [], [], [], []
    real = pairs.suffix
    monkeypatch.setattr(pairs, "suffix", lambda b, hidden, mask: sequences.append(len(hidden)) or real(b, hidden, mask))

    class Counted:
        lengths = source.lengths

        def padded(self, batches, device):
            kept = list(batches)
            asked.extend(np.concatenate(kept))
            return source.padded(kept, device)

    query = backbone.model.get_submodule(stack.untouched[0])
    hook = query.register_forward_hook(lambda module, args, output: once.append(len(output)))
    embed_pairs(backbone, Counted(), documents, chosen, stack, told.append)
    hook.remove()
    distinct = np.unique(documents)
    assert sum(told) == sum(sequences) == 90 and max(sequences) <= backbone.config.batch_size == 8
    # The prefix, and what no adapter has touched, once a document, and not once a pair.
    assert sorted(asked) == distinct.tolist() and sum(once) == distinct.size < 90


def test_a_document_with_more_adapters_than_fit(bert):
    backbone, _, source, pool = bert
    many = pool * 5
    stack = stack_adapters(backbone, many)
    got = embed_pairs(backbone, source, np.repeat([7, 3], 25), np.tile(np.arange(25), 2), stack)
    want = np.tile(one_by_one(backbone, source, np.array([7, 3]), pool), (1, 5, 1))
    np.testing.assert_allclose(got.reshape(2, 25, -1), want, atol=ATOL)


def test_the_stack_holds_every_unit_once(bert):
    backbone, _, _, pool = bert
    stack = stack_adapters(backbone, pool)
    held = sum(u.a.nbytes + u.b.nbytes for x in pool for u in x.folded.values())
    zeros = sum(4 * (m.in_features + m.out_features) for n, m in backbone.projections(("query", "key", "value")).items())
    assert stack.nbytes == held + zeros and len(stack) == 5 and stack.tasks == ("t0", "t1", "t2", "t3", "t4")
    # Neighbours of one rank are read in place, others are gathered.
    units = next(iter(stack_adapters(backbone, [pool[0]] * 3).units.values()))
    assert units.chosen(np.array([1, 2]))[0].data_ptr() == units.a[3:].data_ptr()
    a, b = units.chosen(np.array([2, 0]))
    np.testing.assert_array_equal(a[0], units.a[6:9].T)
    np.testing.assert_array_equal(b[1], units.b[:3])


def test_bad_pairs_are_refused(bert):
    backbone, _, source, pool = bert
    stack = stack_adapters(backbone, pool)
    for documents, chosen, message in (
        ([0, 40], [0, 0], "documents.*hold 40, and there are 40"),
        ([-1], [0], "documents.*hold -1"),
        ([0], [5], "adapters.*hold 5, and there are 5"),
        ([0, 1], [0], "adapters.*1 for 2 documents"),
        ([0.0], [0], "documents.*float64"),
        ([[0]], [0], r"documents.*shape \(1, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            embed_pairs(backbone, source, np.array(documents), np.array(chosen), stack)
    assert embed_pairs(backbone, source, np.array([], int), np.array([], int), stack).shape == (0, 32)


def test_adapters_that_do_not_fit_are_refused(bert):
    backbone, _, _, pool = bert
    deep = adapters(dataclasses.replace(backbone, first=0))
    with pytest.raises(InputError, match=r"encoder\.layer\.0\..*adapted_layers"):
        stack_adapters(backbone, deep)
    with pytest.raises(InputError, match="none"):
        stack_adapters(backbone, [])
    name, units = next(iter(pool[0].folded.items()))
    odd = dataclasses.replace(pool[0], folded={name: dataclasses.replace(units, a=units.a[:, :-1])})
    with pytest.raises(InputError, match=r"\(3, 31\).*'t0'.*\(3, 32\)"):
        stack_adapters(backbone, [pool[1], odd])


def test_the_document_with_a_broken_embedding_is_named(bert):
    backbone, _, source, pool = bert
    states = source.states.clone()
    states[source.starts[11]] = torch.nan
    broken = dataclasses.replace(source, states=states)
    stack = stack_adapters(backbone, pool)
    with pytest.raises(InputError, match=r"1 documents.*number 11;"):
        embed_pairs(backbone, broken, np.array([3, 11, 11]), np.array([0, 1, 2]), stack)
