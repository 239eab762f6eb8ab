"""Embedding under m adapters and training one: ours against the same work through PEFT, in the same run.

Prints ratios (PEFT's time over ours, median of alternating repeats, with their range); above one, ours is faster. Weights, adapters,
precision, batches and results are the same, and so is a run's fixed order of sums. PEFT switches between its adapters and starts from
the inputs, because it keeps no prefix; both start from inputs that lie prepared on the device, and once more from the inputs as they are
(images to be decoded and scaled, by the same loader).

    python benchmarks/adapters.py                 # the packaged text encoder
    python benchmarks/adapters.py --bert --vit --adapted-layers 3 12 --compile    # random weights, all of it; meant for a GPU
    python benchmarks/adapters.py --vit --count --documents 8 --batch 80 --precision bfloat16    # the work a GPU is given, on any machine
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from encoders import Ready, Work, bert, compare, forward, in_peft, minilm, random_adapter, ready_batches, vit, wait
from tally import tally
from threadpoolctl import threadpool_limits

from empirics.adapters.adapter import Adapter, active
from empirics.adapters.multi import embed_all
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, RunConfig, TrainingConfig
from empirics.encoders import prefix
from empirics.encoders.backbone import Backbone, suffix
from empirics.encoders.prefix import embed, encode_prefix
from empirics.runs.embedding import use_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert", action="store_true", help="a BERT of MiniLM's shape with random weights, on 16 to 64 random tokens")
    parser.add_argument("--vit", action="store_true", help="ViT-B/16 with random weights, on random images")
    parser.add_argument("--adapted-layers", type=int, nargs="+", default=[3], help="as many of the encoder as it has")
    parser.add_argument("--compile", action="store_true", help="ours with backbone.compile too; PEFT as it is")
    parser.add_argument("--only-compiled", action="store_true")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of products")
    parser.add_argument("--count", action="store_true", help="no times: kernels, bytes and operations of the embedding passes")
    parser.add_argument("--adapters", type=int, default=10)
    parser.add_argument("--documents", type=int, default=128)
    parser.add_argument("--batch", type=int, help="documents embedded at once")
    parser.add_argument("--train-batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    use_threads(RunConfig(threads=options.threads))
    # NumPy's own threads would spin while torch computes, and be counted.
    threadpool_limits(options.threads)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{where}; {options.documents} documents, {options.adapters} adapters of rank 8")
    encoders = [kind for kind, make in (("bert", options.bert), ("vit", options.vit)) if make] or ["minilm"]
    results = []
    for kind in encoders:
        for layers in options.adapted_layers:
            for compiled in [True] if options.only_compiled else [False, True][: 1 + options.compile]:
                results.append(_measure(kind, layers, compiled, options))
                if options.out:
                    settings = {"device": where, "torch": torch.__version__, **vars(options), "out": None}
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(settings | {"results": results}, indent=1) + "\n")


def _measure(kind: str, layers: int, compiled: bool, options: argparse.Namespace) -> dict[str, Any]:
    settings: dict[str, Any] = {"adapted_layers": layers, "compile": compiled, "precision": options.precision}
    if options.batch:
        settings["batch_size"] = options.batch
    backbone, inputs = {"minilm": minilm, "bert": bert, "vit": vit}[kind](settings, options.documents)
    layers = len(backbone.adapted)
    labels = np.arange(len(inputs)) % 2
    pool = [random_adapter(backbone, f"t{k}", k) for k in range(options.adapters)]
    print(f"\n{kind}, adapters in the last {layers} of {len(backbone.blocks)} layers{', compiled' if compiled else ''}")
    # Once before PEFT copies it, so that both hold the frozen weights in the precision of the products.
    cache = encode_prefix(backbone, inputs)
    wrapped = in_peft(backbone, pool)
    record: dict[str, Any] = {"encoder": kind, "adapted_layers": layers, "compile": compiled, "precision_is_low": backbone.low_precision}
    start = time.perf_counter()
    ready = list(ready_batches(backbone, inputs, backbone.config.batch_size))
    wait(backbone)
    record["preparation_seconds"] = time.perf_counter() - start
    works = _embedding(backbone, wrapped, inputs, pool, ready)
    if options.count:
        return record | {"work": _counted(works)}
    if compiled:
        # It would double the time that compiling takes.
        del works["ours, one after the other"]
    start = time.perf_counter()
    results = [work() for work in works.values()]
    record["warm_up_seconds"] = time.perf_counter() - start
    record["difference"] = max(float(np.abs(x - results[0]).max()) for x in results[1:])
    print(f"embeddings differ by {record['difference']:.1e} at most; first pass of all {record['warm_up_seconds']:.1f} s")
    record["embedding"] = compare("embedding", works, options.repeats, backbone)
    record["documents_per_second"] = rate = len(inputs) / float(np.median(record["embedding"]["ours, one pass"]))
    print(f"{rate:.0f} documents/s under {len(pool)} adapters; preparing them takes {record['preparation_seconds']:.2f} s")
    if not compiled:
        whole = {"ours, one pass, unprepared": lambda: embed_all(backbone, encode_prefix(backbone, inputs), np.arange(len(inputs)), pool)}
        whole["PEFT, switching, unprepared"] = lambda: _switching(
            backbone, wrapped, pool, list(ready_batches(backbone, inputs, backbone.config.batch_size)), len(inputs)
        )
        for work in whole.values():
            work()
        record["embedding unprepared"] = compare("embedding", whole, min(3, options.repeats), backbone)
    steps = _training(backbone, wrapped, cache, inputs, labels, pool, options.train_batch)
    for step in steps.values():
        step()
    count = -(-len(inputs) // options.train_batch)
    record["training step"] = compare("training step", steps, options.repeats, backbone, count)
    if backbone.device.type == "cuda":
        record["peak_bytes"] = {m: _peak(backbone, inputs, pool[:m]) for m in (1, len(pool))}
        print("peak GPU memory: " + ", ".join(f"{size / 2**30:.2f} GiB under {m} adapters" for m, size in record["peak_bytes"].items()))
    return record


def _embedding(backbone: Backbone, wrapped: Any, inputs: list[Any], pool: list[Adapter], ready: Ready) -> dict[str, Work]:
    index = np.arange(len(inputs))

    def encode() -> Any:
        with mock.patch.object(prefix, "prepared", lambda *_: ((model_input, mask) for _, model_input, mask in ready)):
            return encode_prefix(backbone, inputs)

    def together() -> np.ndarray:
        return embed_all(backbone, encode(), index, pool)

    def in_turn() -> np.ndarray:
        cache, out = encode(), []
        for adapter in pool:
            with active(backbone, adapter):
                out.append(embed(backbone, cache, index))
        return np.stack(out, axis=1)

    return {
        "ours, one pass": together,
        "ours, one after the other": in_turn,
        "PEFT, switching": lambda: _switching(backbone, wrapped, pool, ready, len(inputs)),
    }


def _counted(works: dict[str, Work]) -> dict[str, Any]:
    """What each work asks of the device, and the ratios to the first."""
    counted = {name: dataclasses.asdict(tally(work)) for name, work in works.items()}
    first = next(iter(counted.values()))
    for name, own in counted.items():
        ratios = ", ".join(f"{own[key] / first[key]:.2f} x the {key}" for key in first)
        print(f"{name}: {own['kernels']} kernels, {own['bytes'] / 1e9:.2f} GB, {own['flops'] / 1e12:.3f} TFLOP; {ratios} of ours")
    return counted


def _switching(backbone: Backbone, wrapped: Any, pool: list[Adapter], ready: Ready, count: int) -> np.ndarray:
    out = np.empty((count, len(pool), backbone.dimension), dtype=np.float32)
    rows = np.concatenate([r for r, _, _ in ready])
    with torch.inference_mode(), backbone.precision():
        for k, adapter in enumerate(pool):
            wrapped.set_adapter(adapter.task, inference_mode=True)
            # Fetched once an adapter, so that no batch waits for it.
            out[rows, k] = torch.cat([forward(backbone, wrapped.base_model.model, *item) for _, *item in ready]).cpu().numpy()
    return out


def _training(
    backbone: Backbone, wrapped: Any, cache: Any, inputs: list[Any], labels: np.ndarray, pool: list[Adapter], size: int
) -> dict[str, Work]:
    training, index = TrainingConfig(epochs=1, batch_size=size), np.arange(len(inputs))
    rival = dataclasses.replace(backbone, model=wrapped.base_model.model, config=backbone.config.model_copy(update={"compile": False}))
    ready, target = list(ready_batches(backbone, inputs, size)), torch.tensor(labels, device=backbone.device)

    def ours(earlier: list[Adapter]) -> None:
        train_adapter(backbone, cache, index, labels, "t", earlier, AdapterConfig(), training, np.random.default_rng(0))

    def through_peft(embeddings: Callable[[], Any]) -> None:
        wrapped.set_adapter("t0")
        head = torch.nn.Parameter(torch.randn(2, backbone.dimension, device=backbone.device))
        trained = [*(p for p in wrapped.parameters() if p.requires_grad), head]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=backbone.device.type == "cuda")
        for wanted, z in embeddings():
            loss = torch.nn.functional.cross_entropy(z @ head.T, wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def cached() -> Any:
        order = np.random.default_rng(0).permutation(index.size)
        split = np.array_split(order, -(-index.size // size))
        wanted = target[torch.from_numpy(order).to(backbone.device)].split([rows.size for rows in split])
        for own, (hidden, mask) in zip(wanted, cache.padded(split, backbone.device), strict=True):
            yield own, suffix(rival, hidden, mask)

    def whole() -> Any:
        for rows, model_input, mask in ready:
            with backbone.precision():
                yield target[torch.from_numpy(rows).to(backbone.device)], forward(backbone, rival.model, model_input, mask)

    return {
        "ours": lambda: ours([]),
        "ours, composing nine earlier tasks": lambda: ours(pool[:9]),
        "PEFT, from our cached prefix": lambda: through_peft(cached),
        "PEFT, from prepared inputs": lambda: through_peft(whole),
    }


def _peak(backbone: Backbone, inputs: list[Any], pool: list[Adapter]) -> int:
    cache = encode_prefix(backbone, inputs)
    torch.cuda.reset_peak_memory_stats()
    embed_all(backbone, cache, np.arange(len(inputs)), pool)
    return torch.cuda.max_memory_allocated()


if __name__ == "__main__":
    main()
