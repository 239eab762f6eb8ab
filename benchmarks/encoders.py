"""Encoders, adapters and rivals of the benchmarks, and how their times are taken."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from timing import in_turn

from empirics.adapters.adapter import Adapter, Units
from empirics.config import BackboneConfig, StreamConfig
from empirics.data.streams import load_stream
from empirics.encoders.backbone import Backbone, assemble, batches
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import prepared

Work = Callable[[], Any]
Ready = list[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]


def minilm(settings: dict[str, Any], documents: int) -> tuple[Backbone, list[str]]:
    rng = np.random.default_rng(0)
    backbone = load_backbone(BackboneConfig(max_length=64, **settings))
    stream = load_stream(StreamConfig(name="news-4t", train_per_class=max(40, documents // 5)), rng)
    chosen = rng.permutation(stream.where("train", 0))[:documents]
    return backbone, [stream.texts[j] for j in chosen]


def bert(settings: dict[str, Any], documents: int) -> tuple[Backbone, list[list[int]]]:
    from transformers import BertConfig, BertModel

    def tokenizer(texts: list[list[int]], **_: Any) -> dict[str, Any]:
        return {"input_ids": texts}

    torch.manual_seed(0)
    shape = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    settings["adapted_layers"] = min(6, settings["adapted_layers"])
    backbone = assemble(BertModel(BertConfig(**shape)), tokenizer, None, BackboneConfig(max_length=64, **settings))
    rng = np.random.default_rng(0)
    return backbone, [rng.integers(1000, 30000, rng.integers(16, 65)).tolist() for _ in range(documents)]


def vit(settings: dict[str, Any], documents: int) -> tuple[Backbone, list[np.ndarray]]:
    from transformers import ViTConfig, ViTModel

    def scaled(images: list[np.ndarray], **_: Any) -> dict[str, np.ndarray]:
        # Those of the benchmark have that size; the probe of the encoder has another.
        sized = [x if x.shape == (224, 224, 3) else np.resize(x, (224, 224, 3)) for x in images]
        return {"pixel_values": np.stack(sized).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(127.5) - 1}

    torch.manual_seed(0)
    # A GPU waits for the host where a layer is over before the next is started: so it is for both sides at 128 images.
    settings.setdefault("batch_size", 512 if torch.cuda.is_available() else 128)
    backbone = assemble(ViTModel(ViTConfig()), None, scaled, BackboneConfig(**settings))
    images = np.random.default_rng(0).integers(0, 256, (documents, 224, 224, 3), dtype=np.uint8)
    return backbone, list(images)


def random_adapter(backbone: Backbone, name: str, seed: int) -> Adapter:
    rng, units = np.random.default_rng(seed), {}
    for path, base in backbone.projections(("query", "value")).items():
        a, b = rng.standard_normal((8, base.in_features)), rng.standard_normal((8, base.out_features))
        units[path] = Units((a / np.sqrt(base.in_features)).astype(np.float32), (0.1 * b).astype(np.float32))
    return Adapter(name, 1.0, units, {path: np.zeros(0, np.float32) for path in units}, units)


def in_peft(backbone: Backbone, pool: list[Adapter]) -> Any:
    """A copy of the encoder with the same adapters, as PEFT holds them."""
    names = list(pool[0].folded)
    config = LoraConfig(r=8, lora_alpha=8, target_modules=names, lora_dropout=0.0)
    wrapped = get_peft_model(copy.deepcopy(backbone.model), config, adapter_name=pool[0].task)
    for adapter in pool[1:]:
        wrapped.add_adapter(adapter.task, config)
    with torch.no_grad():
        for adapter in pool:
            for name, units in adapter.folded.items():
                layer = wrapped.base_model.model.get_submodule(name)
                layer.lora_A[adapter.task].weight.copy_(torch.from_numpy(units.a))
                layer.lora_B[adapter.task].weight.copy_(torch.from_numpy(units.b).T)
    return wrapped.to(backbone.device).eval()


def ready_batches(backbone: Backbone, inputs: list[Any], size: int) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor | None]]:
    """Rows, model input and mask of batches of similar length, as ours are."""
    if backbone.modality == "text":
        inputs = backbone.tokenizer(inputs, truncation=True, max_length=backbone.config.max_length)["input_ids"]
    lengths = np.array([len(x) if backbone.tokens is None else backbone.tokens for x in inputs])
    split = list(batches(lengths, size))
    for rows, (model_input, mask) in zip(split, prepared(backbone, inputs, lengths, split), strict=True):
        yield rows, model_input, mask


def forward(backbone: Backbone, model: Any, model_input: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    kwargs = {"pixel_values" if backbone.modality == "image" else "input_ids": model_input}
    if mask is not None:
        kwargs["attention_mask"] = mask.long()
    return backbone.pool(model(**kwargs).last_hidden_state, mask)


def wait(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()


def compare(what: str, works: dict[str, Work], repeats: int, backbone: Backbone, count: int = 1) -> dict[str, list[float]]:
    """Time all works in turn, several times over; ratios are to the first, seconds those of one of `count` steps."""
    one_thread = backbone.device.type == "cpu" and torch.get_num_threads() == 1
    times = in_turn(works, repeats, one_thread=one_thread, wait=lambda: wait(backbone)) / count
    for j, name in enumerate(works):
        ratio = times[:, j] / times[:, 0]
        print(f"{what}: {name}: {np.median(times[:, j]):.4f} s; {np.median(ratio):.2f} x ours ({ratio.min():.2f} to {ratio.max():.2f})")
    return {name: times[:, j].tolist() for j, name in enumerate(works)}
