"""On a GPU (`make test-gpu`): what the CPU computes, to the precision asked for, and the same bits each time."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tiny
import torch
from test_multi import adapters, one_by_one

from empirics.adapters.multi import embed_all
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, RunConfig, TrainingConfig
from empirics.data.images import Image
from empirics.encoders.prefix import PrefixCache, PrefixRecomputed, encode_prefix
from empirics.runs.embedding import use_threads

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU, or `make test-gpu` did not ask for it"),
    pytest.mark.filterwarnings("ignore"),
]
KINDS = ("bert", "vit", "dinov2")
ATOL = {"float32": 1e-4, "bfloat16": 2e-2}


@pytest.fixture(autouse=True)
def as_in_a_run():
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    use_threads(RunConfig())
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.parametrize("precision", ATOL)
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_cpu(kind, precision):
    inputs, _ = tiny.documents(kind)
    host, there = tiny.backbone(kind=kind, device="cpu"), tiny.backbone(kind=kind, precision=precision)
    assert there.device.type == "cuda" and host.device.type == "cpu"
    pool = adapters(host)
    kept, want = encode_prefix(there, inputs), encode_prefix(host, inputs)
    assert kept.states.is_cuda
    np.testing.assert_allclose(kept.frozen, want.frozen, atol=ATOL[precision])
    got = embed_all(there, kept, np.arange(40), pool)
    # What adapters change (a tenth) is more than what rounding does.
    assert np.abs(got - kept.frozen[:, None]).max() > 3 * ATOL[precision]
    np.testing.assert_allclose(got, embed_all(host, want, np.arange(40), pool), atol=ATOL[precision])
    np.testing.assert_allclose(got, one_by_one(there, kept, np.arange(40), pool), atol=ATOL[precision])


@pytest.mark.parametrize("kind", KINDS)
def test_where_states_are_kept_does_not_matter(kind, monkeypatch):
    inputs, labels = tiny.documents(kind)
    encoders = [tiny.backbone(kind=kind), tiny.backbone(kind=kind), tiny.backbone(kind=kind, cache_gib=0.0)]
    sources = [encode_prefix(encoders[0], inputs)]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    sources += [encode_prefix(b, inputs) for b in encoders[1:]]
    assert isinstance(sources[1], PrefixCache) and sources[1].states.is_pinned() and isinstance(sources[2], PrefixRecomputed)
    pool, training = adapters(encoders[0]), TrainingConfig(epochs=2, batch_size=16)
    results = []
    for b, source in zip(encoders, sources, strict=True):
        z = embed_all(b, source, np.arange(40)[::-1], pool)
        _, log = train_adapter(b, source, np.arange(40), labels, "t", (), AdapterConfig(rank=2), training, np.random.default_rng(0))
        results.append((source.frozen, z, log.losses))
    for other in results[1:]:
        assert np.array_equal(results[0][0], other[0])
    # The same bits from the same memory; computed anew, in batches of another length, up to rounding.
    assert np.array_equal(results[0][1], results[1][1]) and results[0][2] == results[1][2]
    np.testing.assert_allclose(results[2][1], results[0][1], atol=2e-2)
    assert results[2][2] == pytest.approx(results[0][2], abs=5e-2)


@pytest.mark.parametrize("precision", ATOL)
@pytest.mark.parametrize("kind", KINDS)
def test_training_repeats_to_the_bit_and_is_that_of_the_cpu(kind, precision):
    inputs, labels = tiny.documents(kind)
    losses, units = [], []
    for device, wanted in (("auto", precision), ("auto", precision), ("cpu", "float32")):
        backbone = tiny.backbone(kind=kind, device=device, precision=wanted)
        source, earlier, log = encode_prefix(backbone, inputs), [], None
        for k in range(3):
            training, rng = TrainingConfig(epochs=2, batch_size=16), np.random.default_rng(k)
            item, log = train_adapter(backbone, source, np.arange(40), labels, f"t{k}", earlier, AdapterConfig(rank=2), training, rng)
            earlier.append(item)
        losses.append(log.losses)
        units.append([u.b for item in earlier for u in item.folded.values()])
    assert losses[0] == losses[1] and all(np.array_equal(x, y) for x, y in zip(units[0], units[1], strict=True))
    assert losses[0] == pytest.approx(losses[2], abs=1e-3 if precision == "float32" else 0.1)


def test_images_are_decoded_ahead_in_their_order():
    PIL = pytest.importorskip("PIL.Image")
    arrays, _ = tiny.images(40)
    files = []
    for array in arrays:
        buffer = io.BytesIO()
        PIL.fromarray(array).save(buffer, "PNG")
        files.append(Image(data=buffer.getvalue()))
    backbone = tiny.backbone(kind="vit")
    assert np.array_equal(encode_prefix(backbone, files).frozen, encode_prefix(backbone, arrays).frozen)
