"""Embedding under m adapters and training one: ours against the same work through PEFT, in the same run.

Prints ratios (PEFT's time over ours, median of alternating repeats, with their range); above one, ours is faster. PEFT switches
between its adapters and starts from the tokens, because it keeps no prefix; batches, adapters and results are the same.

    python benchmarks/adapters.py                 # the packaged text encoder
    python benchmarks/adapters.py --vit           # ViT-B/16 with random weights on random images; meant for a GPU
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from empirics.adapters import Adapter, Units, active
from empirics.backbone import Backbone, assemble, embed, encode_prefix, load_backbone, prepare, suffix
from empirics.config import AdapterConfig, BackboneConfig, StreamConfig, TrainingConfig
from empirics.encoder import batches
from empirics.multi import embed_all
from empirics.streams import load_stream
from empirics.train import train_adapter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--adapted-layers", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    backbone, inputs = (_vit if options.vit else _text)(options)
    labels = np.arange(len(inputs)) % 2
    pool = [_random(backbone, f"t{k}", k) for k in range(options.adapters)]
    wrapped = _peft(backbone, pool)

    works = _embedding(backbone, wrapped, inputs, pool)
    results = [work() for work in works.values()]
    worst = max(float(np.abs(x - results[0]).max()) for x in results[1:])
    where = torch.cuda.get_device_name() if backbone.device.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{where}; {len(inputs)} documents, {options.adapters} adapters of rank 8 in the last {options.adapted_layers} layers")
    print(f"embeddings differ by {worst:.1e} at most")
    record = {"device": where, **vars(options), "out": None, "torch": torch.__version__, "difference": worst}
    record |= _compare("embedding", works, options.repeats, backbone.device)
    steps = _training(backbone, wrapped, inputs, labels)
    for step in steps.values():
        step()
    record |= _compare("training step", steps, options.repeats, backbone.device)
    if backbone.device.type == "cuda":
        record["peak_bytes"] = {m: _peak(backbone, inputs, pool[:m]) for m in (1, options.adapters)}
        print(f"peak GPU bytes by number of adapters: {record['peak_bytes']}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _text(options: argparse.Namespace) -> tuple[Backbone, list[str]]:
    rng = np.random.default_rng(0)
    backbone = load_backbone(BackboneConfig(max_length=64, adapted_layers=options.adapted_layers))
    stream = load_stream(StreamConfig(name="news-4t", train_per_class=max(40, options.documents // 5)), rng)
    chosen = rng.permutation(stream.where("train", 0))[: options.documents]
    return backbone, [stream.texts[j] for j in chosen]


def _vit(options: argparse.Namespace) -> tuple[Backbone, list[np.ndarray]]:
    from transformers import ViTConfig, ViTModel

    def scaled(images: list[np.ndarray], **_: Any) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([np.resize(x, (224, 224, 3)).transpose(2, 0, 1) for x in images]) / np.float32(127.5) - 1}

    torch.manual_seed(0)
    backbone = assemble(ViTModel(ViTConfig()), None, scaled, BackboneConfig(adapted_layers=options.adapted_layers, batch_size=128))
    images = np.random.default_rng(0).integers(0, 256, (options.documents, 224, 224, 3), dtype=np.uint8)
    return backbone, list(images)


def _random(backbone: Backbone, name: str, seed: int) -> Adapter:
    rng, units = np.random.default_rng(seed), {}
    for path, base in backbone.projections(("query", "value")).items():
        a, b = rng.standard_normal((8, base.in_features)), rng.standard_normal((8, base.out_features))
        units[path] = Units((a / np.sqrt(base.in_features)).astype(np.float32), (0.1 * b).astype(np.float32))
    return Adapter(name, 1.0, units, {path: np.zeros(0, np.float32) for path in units}, units)


def _peft(backbone: Backbone, pool: list[Adapter]) -> Any:
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


def _embedding(backbone: Backbone, wrapped: Any, inputs: list[Any], pool: list[Adapter]) -> dict[str, Callable[[], np.ndarray]]:
    index = np.arange(len(inputs))

    def together() -> np.ndarray:
        return embed_all(backbone, encode_prefix(backbone, inputs), index, pool)

    def in_turn() -> np.ndarray:
        cache, out = encode_prefix(backbone, inputs), []
        for adapter in pool:
            with active(backbone, adapter):
                out.append(embed(backbone, cache, index))
        return np.stack(out, axis=1)

    def peft() -> np.ndarray:
        out = np.empty((len(inputs), len(pool), backbone.dimension), dtype=np.float32)
        prepared = _prepared(backbone, inputs, backbone.config.batch_size)
        with torch.inference_mode(), backbone.precision():
            for k, adapter in enumerate(pool):
                wrapped.set_adapter(adapter.task, inference_mode=True)
                for rows, kwargs, mask in prepared:
                    out[rows, k] = backbone.pool(wrapped.base_model.model(**kwargs).last_hidden_state, mask).cpu().numpy()
        return out

    return {"ours, one pass": together, "ours, one after the other": in_turn, "PEFT, switching": peft}


def _training(backbone: Backbone, wrapped: Any, inputs: list[Any], labels: np.ndarray) -> dict[str, Callable[[], None]]:
    config, training, index = AdapterConfig(), TrainingConfig(epochs=1), np.arange(len(inputs))
    cache, rng = encode_prefix(backbone, inputs), np.random.default_rng(0)
    rival = dataclasses.replace(backbone, model=wrapped.base_model.model)
    prepared = _prepared(backbone, inputs, training.batch_size)

    def ours() -> None:
        train_adapter(backbone, cache, index, labels, "t", (), config, training, np.random.default_rng(0))

    def through_peft(embeddings: Callable[[], Any]) -> None:
        wrapped.set_adapter("t0")
        head = torch.nn.Parameter(torch.randn(2, backbone.dimension, device=backbone.device))
        optimizer = torch.optim.AdamW([*(p for p in wrapped.parameters() if p.requires_grad), head], lr=1e-3)
        for rows, z in embeddings():
            loss = torch.nn.functional.cross_entropy(z @ head.T, torch.as_tensor(labels[rows], device=backbone.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def cached() -> Any:
        for rows in np.array_split(rng.permutation(index.size), -(-index.size // training.batch_size)):
            yield rows, suffix(rival, *cache.padded(rows, backbone.device))

    def whole() -> Any:
        for rows, kwargs, mask in prepared:
            with backbone.precision():
                yield rows, backbone.pool(rival.model(**kwargs).last_hidden_state, mask)

    return {
        "ours": ours,
        "PEFT, from our cached prefix": lambda: through_peft(cached),
        "PEFT, from the inputs": lambda: through_peft(whole),
    }


def _prepared(backbone: Backbone, inputs: list[Any], size: int) -> list[tuple[np.ndarray, dict[str, torch.Tensor], torch.Tensor]]:
    """Batches as the model takes them, of similar length, as ours are."""
    if backbone.modality == "text":
        inputs = backbone.tokenizer(inputs, truncation=True, max_length=backbone.config.max_length)["input_ids"]
    lengths = np.array([len(x) if backbone.tokens is None else backbone.tokens for x in inputs])
    return [(rows, *prepare(backbone, [inputs[j] for j in rows], lengths[rows])) for rows in batches(lengths, size)]


def _compare(what: str, works: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, Any]:
    """Time all works in turn, several times over; ratios are to the first."""
    times = np.empty((repeats, len(works)))
    # With one thread the processor's time is the time of the work, whatever else the machine is doing.
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for r in range(repeats):
        for j, work in enumerate(works.values()):
            start = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[r, j] = clock() - start
    for j, name in enumerate(works):
        ratio = times[:, j] / times[:, 0]
        print(f"{what}: {name}: {np.median(times[:, j]):.2f} s; {np.median(ratio):.2f} x ours ({ratio.min():.2f} to {ratio.max():.2f})")
    return {what: {name: times[:, j].tolist() for j, name in enumerate(works)}}


def _peak(backbone: Backbone, inputs: list[Any], pool: list[Adapter]) -> int:
    cache = encode_prefix(backbone, inputs)
    torch.cuda.reset_peak_memory_stats()
    embed_all(backbone, cache, np.arange(len(inputs)), pool)
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
