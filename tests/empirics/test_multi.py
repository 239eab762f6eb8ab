from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from empirics.adapters import pairs
from empirics.adapters.adapter import Adapter, Units, active
from empirics.adapters.multi import embed_all
from empirics.adapters.stack import stack_adapters
from empirics.config import BackboneConfig
from empirics.encoders.backbone import assemble
from empirics.encoders.convnet import Lite0, preprocess
from empirics.encoders.prefix import embed, encode_prefix
from theory import InputError

ATOL = 1e-5


def adapter(backbone, name, targets, rank, seed) -> Adapter:
    """Random units, large enough to matter."""
    rng = np.random.default_rng(seed)
    units = {}
    for path, base in backbone.projections(targets).items():
        a = rng.standard_normal((rank, base.in_features)) / np.sqrt(base.in_features)
        b = rng.standard_normal((rank, base.out_features)) / np.sqrt(rank)
        units[path] = Units(a.astype(np.float32), b.astype(np.float32))
    return Adapter(name, 1.0, units, {path: np.zeros(0, np.float32) for path in units}, units)


def adapters(backbone) -> list[Adapter]:
    """Different ranks and projections, and one that changes nothing."""
    plan = ((("query", "value"), 3), (("value",), 1), (("query",), 5), (("key",), 2), (("query", "value"), 0))
    return [adapter(backbone, f"t{k}", targets, rank, k) for k, (targets, rank) in enumerate(plan)]


@pytest.fixture(scope="module", params=tiny.MODELS)
def setting(request):
    backbone = tiny.backbone(kind=request.param)
    inputs, _ = tiny.documents(request.param)
    return backbone, encode_prefix(backbone, inputs), adapters(backbone)


def one_by_one(backbone, source, chosen, pool):
    out = []
    for item in pool:
        with active(backbone, item):
            out.append(embed(backbone, source, chosen))
    return np.stack(out, axis=1)


def test_together_is_one_after_the_other(setting):
    backbone, source, pool = setting
    chosen = np.random.default_rng(0).permutation(40)[:31]
    got = embed_all(backbone, source, chosen, pool)
    want = one_by_one(backbone, source, chosen, pool)
    assert np.abs(want - source.frozen[chosen, None]).max() > 1e-2
    np.testing.assert_allclose(got, want, atol=ATOL)
    np.testing.assert_allclose(got[:, -1], source.frozen[chosen], atol=ATOL)


@pytest.mark.parametrize("size", (1, 2, 3, 64))
def test_batch_order_and_company_do_not_matter(setting, size):
    backbone, source, pool = setting
    want = embed_all(backbone, source, np.arange(40), pool)
    other = dataclasses.replace(backbone, config=backbone.config.model_copy(update={"batch_size": size}))
    order = np.random.default_rng(size).permutation(40)
    np.testing.assert_allclose(embed_all(other, source, order, pool), want[order], atol=ATOL)
    np.testing.assert_allclose(embed_all(other, source, order[:5], pool[1:3]), want[order[:5], 1:3], atol=ATOL)


def test_never_more_sequences_at_once_than_the_batch_size(setting, monkeypatch):
    backbone, source, pool = setting
    seen = []
    real = pairs.suffix
    monkeypatch.setattr(pairs, "suffix", lambda b, hidden, mask: seen.append(len(hidden)) or real(b, hidden, mask))
    told = []
    for m in (1, 5, 20):
        embed_all(backbone, source, np.arange(40), (pool * 4)[:m], told.append)
        assert sum(told) == 40 * m and sum(seen) == 40 * m and max(seen) <= backbone.config.batch_size
        seen.clear()
        told.clear()


def test_only_what_no_adapter_touches_is_computed_once(setting):
    backbone, _, pool = setting
    prefix = f"{backbone.layers}.{backbone.first}."
    found = stack_adapters(backbone, pool).untouched
    projections = [name for name in backbone.projections(("query", "key", "value")) if name.startswith(prefix)]
    # Where a normalisation comes before the attention, it as well.
    norms = [f"{prefix}{n}" for n in ("layernorm_before", "norm1") if n in dict(backbone.adapted[0].named_modules())]
    assert sorted(found) == sorted(projections + norms)
    # An adapter of a later layer alone leaves the whole first one untouched.
    later = dataclasses.replace(pool[0], folded={n: u for n, u in pool[0].folded.items() if not n.startswith(prefix)})
    shared = [n for n, m in backbone.adapted[0].named_modules() if isinstance(m, (torch.nn.Linear, torch.nn.LayerNorm))]
    assert len(stack_adapters(backbone, [later]).untouched) == len(shared)


def test_a_prefix_computed_anew_serves_as_well():
    for kind in ("bert", "vit"):
        inputs, _ = tiny.documents(kind)
        kept, anew = tiny.backbone(kind=kind), tiny.backbone(kind=kind, cache_gib=0.0)
        pool = adapters(kept)
        want = embed_all(kept, encode_prefix(kept, inputs), np.arange(40), pool)
        np.testing.assert_allclose(embed_all(anew, encode_prefix(anew, inputs), np.arange(40), pool), want, atol=ATOL)


def test_bfloat16_runs_and_is_near():
    inputs, _ = tiny.texts()
    exact, low = tiny.backbone(), tiny.backbone(precision="bfloat16")
    pool = adapters(exact)
    want = embed_all(exact, encode_prefix(exact, inputs), np.arange(40), pool)
    assert np.abs(embed_all(low, encode_prefix(low, inputs), np.arange(40), pool) - want).max() < 0.1


def test_modules_return_even_after_an_error(setting, monkeypatch):
    backbone, source, pool = setting

    def broken(*_):
        raise RuntimeError("planned")

    monkeypatch.setattr(pairs, "suffix", broken)
    with pytest.raises(RuntimeError, match="planned"):
        embed_all(backbone, source, np.arange(4), pool)
    assert not any(isinstance(m, pairs._Grouped) for m in backbone.model.modules())


def test_adapters_that_the_prefix_cannot_know_are_refused():
    deep, shallow = tiny.backbone(), tiny.backbone()
    deep = dataclasses.replace(deep, first=0)
    source = encode_prefix(shallow, tiny.texts(4)[0])
    with pytest.raises(InputError, match=r"encoder\.layer\.0\..*adapted_layers"):
        embed_all(shallow, source, np.arange(4), [adapter(deep, "t", ("query",), 2, 0)])
    with pytest.raises(InputError, match="none"):
        embed_all(shallow, source, np.arange(4), [])


def test_convolutions_as_linear_maps_take_many_adapters():
    torch.manual_seed(0)
    backbone = assemble(Lite0(), None, preprocess, BackboneConfig(adapted_layers=2, normalize=False))
    source = encode_prefix(backbone, tiny.images(3)[0])
    pool = [adapter(backbone, f"t{k}", ("expand", "project"), k + 1, k) for k in range(2)]
    want = one_by_one(backbone, source, np.arange(3), pool)
    assert np.abs(want - source.frozen[:, None]).max() > 1e-6
    np.testing.assert_allclose(embed_all(backbone, source, np.arange(3), pool), want, rtol=1e-4, atol=1e-5)
