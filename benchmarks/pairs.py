"""A few chosen adapters a document, as a cascade asks for them: ours against the same pairs through PEFT and through merged weights.

Prints ratios (the rival's time over ours, median of alternating repeats, with their range); above one, ours is faster. All give the same
embeddings. PEFT switches between its adapters, or takes all in one batch (`adapter_names`); merged weights are added to a copy of the
encoder's, one adapter after the other, and put back. Rivals run the documents of one adapter together, by length, from tokens that lie
prepared on the device; they keep no prefix. The last two have ours: an adapter after the other from the cached prefix, and all adapters
under all documents, of which the pairs are then taken. Ours alone gives the embeddings without an adapter too, which a cascade starts from,
and which costs a full pass over every document.

    python benchmarks/pairs.py    # under a minute
    python benchmarks/pairs.py --adapters 10 100 --adapted-layers 3 1 --documents 48 --out benchmarks/results/pairs.json
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from encoders import Ready, Work, bert, compare, forward, in_peft, minilm, random_adapter, ready_batches
from threadpoolctl import threadpool_limits

from empirics.adapters.adapter import Adapter, active
from empirics.adapters.multi import embed_all
from empirics.adapters.pairs import embed_pairs
from empirics.adapters.stack import stack_adapters
from empirics.config import RunConfig
from empirics.encoders import prefix
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import write_json
from empirics.runs.embedding import use_threads

# All adapters under all documents are left out where that is more than so many pairs.
_ALL = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, nargs="+", default=[10])
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--each", type=int, default=3, help="adapters a document is put under")
    parser.add_argument("--adapted-layers", type=int, nargs="+", default=[3])
    parser.add_argument("--bert", action="store_true", help="random weights of the packaged encoder's shape, and random tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    use_threads(RunConfig(threads=options.threads))
    threadpool_limits(options.threads)
    gpu = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if gpu else f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(f"{where}, load {os.getloadavg()[0]:.1f}; {options.documents} documents under {options.each} adapters each")
    results = []
    for layers in options.adapted_layers:
        backbone, inputs = (bert if options.bert else minilm)({"adapted_layers": layers}, options.documents)
        results += [{"adapted_layers": layers, **_measure(backbone, inputs, m, options)} for m in options.adapters]
    if options.out:
        about = {"device": where, "load": os.getloadavg()[0], "torch": torch.__version__, **vars(options), "out": None}
        write_json(options.out, about | {"clock": "processor" if not gpu and options.threads == 1 else "wall", "results": results})


def _measure(backbone: Backbone, inputs: list[Any], m: int, options: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(len(inputs)), options.each)
    adapters = np.concatenate([rng.choice(m, options.each, replace=False) for _ in inputs])
    order = rng.permutation(documents.size)
    documents, adapters = documents[order], adapters[order]
    pool = [random_adapter(backbone, f"t{k}", k) for k in range(m)]
    encode_prefix(backbone, inputs)
    stack = stack_adapters(backbone, pool)
    print(f"\n{m} adapters of the last {len(backbone.adapted)} layers, {documents.size} pairs; the stack takes {stack.nbytes / 1e6:.1f} MB")
    works = _works(backbone, inputs, documents, adapters, pool, stack)
    found = [work() for work in works.values()]
    record: dict[str, Any] = {"adapters": m, "pairs": documents.size, "stack_bytes": stack.nbytes}
    record["difference"] = max(float(np.abs(x - found[0]).max()) for x in found[1:])
    print(f"embeddings differ by {record['difference']:.1e} at most")
    record["seconds"] = times = compare("pairs", works, options.repeats, backbone)
    ours = np.array(times["ours, pairs"])
    record["ratio"] = {}
    for name, taken in times.items():
        ratio = np.array(taken) / ours
        record["ratio"][name] = {"median": float(np.median(ratio)), "least": float(ratio.min()), "most": float(ratio.max())}
    return record


def _works(
    backbone: Backbone, inputs: list[Any], documents: np.ndarray, adapters: np.ndarray, pool: list[Adapter], stack: Any
) -> dict[str, Work]:
    whole = list(ready_batches(backbone, inputs, backbone.config.batch_size))
    wrapped, plain = in_peft(backbone, pool), copy.deepcopy(backbone.model)
    own = {k: np.flatnonzero(adapters == k) for k in np.unique(adapters).tolist()}
    by_adapter = {k: [(rows[r], x, mask) for r, x, mask in _ready(backbone, inputs, documents[rows])] for k, rows in own.items()}
    mixed = _ready(backbone, inputs, documents)

    def encode() -> Any:
        # From tokens that lie prepared, as the rivals.
        with mock.patch.object(prefix, "prepared", lambda *_: ((x, mask) for _, x, mask in whole)):
            return encode_prefix(backbone, inputs)

    def one_by_one() -> np.ndarray:
        cache, out = encode(), np.empty((documents.size, backbone.dimension), np.float32)
        for k, rows in own.items():
            with active(backbone, pool[k]):
                out[rows] = embed(backbone, cache, documents[rows])
        return out

    def switching() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for k, batches in by_adapter.items():
            wrapped.set_adapter(pool[k].task, inference_mode=True)
            for rows, x, mask in batches:
                yield rows, forward(backbone, wrapped.base_model.model, x, mask)

    def together() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for rows, x, mask in mixed:
            names = [pool[k].task for k in adapters[rows]]
            yield rows, forward(backbone, lambda names=names, **kwargs: wrapped(adapter_names=names, **kwargs), x, mask)

    def merged() -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        for k, batches in by_adapter.items():
            kept = {}
            for name, units in pool[k].folded.items():
                weight = plain.get_submodule(name).weight
                kept[name] = weight.clone()
                a, b = (torch.from_numpy(side).to(weight.device) for side in (units.a, units.b))
                weight += (b.T @ a).to(weight.dtype)
            for rows, x, mask in batches:
                yield rows, forward(backbone, plain, x, mask)
            for name, weight in kept.items():
                plain.get_submodule(name).weight.copy_(weight)

    def in_rows(parts: Any) -> np.ndarray:
        with torch.inference_mode(), backbone.precision():
            rows, found = zip(*parts(), strict=True)
            out = np.empty((documents.size, backbone.dimension), np.float32)
            out[np.concatenate(rows)] = torch.cat(found).cpu().numpy()
        return out

    works: dict[str, Work] = {
        "ours, pairs": lambda: embed_pairs(backbone, encode(), documents, adapters, stack),
        "PEFT, switching": lambda: in_rows(switching),
        "PEFT, mixed batches": lambda: in_rows(together),
        "merged weights": lambda: in_rows(merged),
        "one after the other, from our prefix": one_by_one,
    }
    if len(inputs) * len(pool) <= _ALL:
        works["all adapters, from our prefix"] = lambda: embed_all(backbone, encode(), np.arange(len(inputs)), pool)[documents, adapters]
    return works


def _ready(backbone: Backbone, inputs: list[Any], documents: np.ndarray) -> Ready:
    return list(ready_batches(backbone, [inputs[j] for j in documents], backbone.config.batch_size))


if __name__ == "__main__":
    main()
