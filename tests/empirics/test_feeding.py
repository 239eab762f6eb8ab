"""Images made ready by several threads, and what of the last block need not be computed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import tiny
import torch
from test_multi import adapter

from empirics.adapters.adapter import active, save_adapter
from empirics.adapters.multi import embed_all
from empirics.adapters.peft_folders import read_peft_folder
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, TrainingConfig
from empirics.data.images import Image
from empirics.encoders.anatomy import find_narrow, find_rounded
from empirics.encoders.feeding import ahead, prepared_images
from empirics.encoders.prefix import embed, encode_prefix
from theory import InputError

CPU = torch.device("cpu")


def files(n: int) -> list[Image]:
    """Encoded images, every third of them of a kind that Pillow warns of."""
    PIL = pytest.importorskip("PIL.Image")
    out = []
    for k, pixels in enumerate(tiny.images(n)[0]):
        buffer, image = io.BytesIO(), PIL.fromarray(pixels)
        if k % 3 == 0:
            image = image.quantize(8)
            image.info["transparency"] = bytes(range(0, 240, 30))
        image.save(buffer, "PNG")
        out.append(Image(data=buffer.getvalue(), name=f"{k}.png"))
    return out


def test_threads_change_neither_order_nor_bytes(monkeypatch):
    images = files(61)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    want = prepared_images(tiny.processor, images, CPU, None)
    before = list(warnings.filters)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            assert torch.equal(prepared_images(tiny.processor, images, CPU, pool), want)
        # As the backbone calls it: inference mode is set for the caller's thread only.
        with torch.inference_mode():
            assert torch.equal(prepared_images(tiny.processor, images, CPU, pool), want)
    # Many threads have set the filters of warnings aside, and brought them back.
    assert warnings.filters == before


def test_of_several_damaged_images_the_first_is_told(monkeypatch):
    images = files(40)
    for k in (33, 9, 17):
        images[k] = Image(data=images[k].encoded()[:60], name=f"{k}.png")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    before = list(warnings.filters)
    with ThreadPoolExecutor(6) as pool, pytest.raises(InputError, match=r"^9\.png"):
        prepared_images(tiny.processor, images, CPU, pool)
    assert warnings.filters == before


def test_batches_come_in_their_order_and_none_is_fetched_early_on_the_cpu():
    fetched = []
    found = ahead(lambda k: fetched.append(k) or (torch.tensor(k),), range(5), CPU)
    assert next(found)[0] == 0 and fetched == [0]
    assert [int(x) for (x,) in found] == [1, 2, 3, 4]


def test_before_a_gpu_batches_are_fetched_ahead_and_not_all_at_once(monkeypatch):
    """With stand-ins for streams and events, which need a GPU."""
    fetched, synchronized = [], []

    class Event:
        def synchronize(self):
            synchronized.append(self)

    class Stream:
        waited: ClassVar[list] = []

        def __init__(self, device=None):
            pass

        def record_event(self):
            return Event()

        def wait_event(self, event):
            self.waited.append(event)

    class Fetched:
        def __init__(self, k):
            self.k, self.streams = k, []

        def record_stream(self, stream):
            self.streams.append(stream)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def fetch(k):
        if k == 7:
            raise InputError("seven", "is bad")
        fetched.append(k)
        return Fetched(k), None

    got = []
    for k, (x, nothing) in enumerate(ahead(fetch, range(6), torch.device("cuda"))):
        assert x.k == k and len(x.streams) == 1 and nothing is None and len(Stream.waited) == k + 1
        assert len(fetched) <= k + 3
        got.append(k)
    assert got == list(range(6)) and synchronized
    with pytest.raises(InputError, match="seven"):
        list(ahead(fetch, range(10), torch.device("cuda")))


@pytest.mark.parametrize("pooling", ("cls", "pooler"))
@pytest.mark.parametrize("kind", ("bert", "roberta", "electra", "distilbert", "vit", "deit", "dinov2"))
def test_only_the_first_token_is_computed_where_only_it_is_looked_at(kind, pooling):
    if pooling == "pooler" and kind in ("electra", "distilbert", "dinov2"):
        pytest.skip("has none")
    backbone = tiny.backbone(kind=kind, pooling=pooling)
    whole, inputs = dataclasses.replace(backbone, narrow=()), tiny.documents(kind)[0]
    source = encode_prefix(backbone, inputs)
    np.testing.assert_allclose(source.frozen, encode_prefix(whole, inputs).frozen, atol=1e-5)
    last = f"{backbone.layers}.2."
    assert backbone.narrow and all(name.startswith(last) for name in backbone.narrow)
    # The maps after the attention see one token, under adapters too; the attention's own see all.
    seen = {}
    for name, module in backbone.blocks[-1].named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.__setitem__(name, args[0].shape[1]))
    pool = [adapter(backbone, f"t{k}", ("query", "value", *after(kind)), 2, k) for k in range(3)]
    want = embed_all(whole, source, np.arange(40), pool)
    np.testing.assert_allclose(embed_all(backbone, source, np.arange(40), pool), want, atol=1e-5)
    seen.clear()
    index = np.arange(1)
    with active(backbone, None):
        embed(backbone, source, index)
    assert sum(tokens == 1 for tokens in seen.values()) == 3 and sum(tokens > 1 for tokens in seen.values()) == 3
    losses = [
        train_adapter(
            b, source, np.arange(40), np.arange(40) % 2, "t", (), AdapterConfig(rank=2), TrainingConfig(), np.random.default_rng(0)
        )[1]
        for b in (backbone, whole)
    ]
    assert losses[0].losses == pytest.approx(losses[1].losses, abs=1e-4)


def after(kind: str) -> tuple[str, ...]:
    """A projection after the attention, which sees the first token only."""
    return {"distilbert": ("ffn.lin1",), "vit": ("mlp.fc1",), "deit": ("mlp.fc1",), "dinov2": ("mlp.fc1",)}.get(
        kind, ("intermediate.dense",)
    )


def test_what_is_nearly_without_effect_is_not_narrow():
    """An attention whose part in the sum is a millionth reads every token all the same."""
    backbone = tiny.backbone(kind="dinov2", pooling="cls")
    block, states = backbone.blocks[-1], torch.randn(2, backbone.tokens, backbone.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        block.layer_scale1.lambda1.fill_(1e-6)
    found = find_narrow(block, states)
    assert found and not {"norm1", "attention", "attention.query", "attention.key", "attention.value"} & set(found)
    with torch.no_grad():
        block.layer_scale1.lambda1.zero_()
    assert find_narrow(block, states)[0] == "norm1"
    assert tiny.backbone(kind="vit", pooling="mean").narrow == ()


@pytest.mark.parametrize("kind", tiny.MODELS)
def test_what_only_products_read_is_rounded_once_and_no_bit_changes(kind):
    low, inputs = tiny.backbone(kind=kind, precision="bfloat16"), tiny.documents(kind)[0]
    # After the sum, as in BERT, a normalisation is read by the next sum as well.
    before = [name for name in ("layernorm_before", "layernorm_after", "norm1", "norm2") if name in dict(low.blocks[0].named_children())]
    assert sorted(low.rounded) == sorted(f"{low.layers}.{j}.{name}" for j in range(3) for name in before)
    assert bool(before) == (low.modality == "image") and tiny.backbone(kind=kind).rounded == ()
    each = dataclasses.replace(low, rounded=())
    pool = [adapter(low, f"t{k}", ("query", "value"), 2, k) for k in range(3)]
    results, index = [], np.arange(40)
    for b in (low, each):
        source = encode_prefix(b, inputs)
        training = TrainingConfig(epochs=1, batch_size=16)
        log = train_adapter(b, source, index, index % 2, "t", (), AdapterConfig(rank=2), training, np.random.default_rng(0))[1]
        results.append((source.frozen, embed_all(b, source, index, pool), np.array(log.losses)))
    for got, want in zip(*results, strict=True):
        assert np.array_equal(got, want)


class Block(torch.nn.Module):
    """Two normalisations, of which a sum reads the second, if it has a gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.map = torch.nn.LayerNorm(32), torch.nn.LayerNorm(32), torch.nn.Linear(32, 32)
        self.gain = gain

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden + self.map(self.norm1(hidden))
        x = self.norm2(hidden)
        return hidden + self.map(x) + self.gain * x


def test_what_a_sum_reads_as_well_is_not_rounded():
    states = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(0))
    blocks = torch.nn.ModuleList([Block(0.0), Block(0.01)])
    assert find_rounded(blocks, states) == ("0.norm1", "0.norm2", "1.norm1")


@pytest.mark.filterwarnings("ignore")
def test_adapters_are_read_exactly_by_an_encoder_of_rounded_weights(tmp_path):
    backbone = tiny.backbone(kind="bert", precision="bfloat16")
    encode_prefix(backbone, tiny.texts(4)[0])
    assert backbone.model.get_submodule("encoder.layer.0.output.dense").weight.dtype == torch.bfloat16
    saved = adapter(backbone, "t", ("query", "value"), 3, 0)
    save_adapter(tmp_path / "t", saved)
    read = read_peft_folder(tmp_path / "t", backbone, "t").adapter
    for name, units in saved.folded.items():
        assert np.array_equal(read.folded[name].a.T @ read.folded[name].b, units.a.T @ units.b)
