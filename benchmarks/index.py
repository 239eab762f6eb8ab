"""Retrieval from an index of thousands of components against the bare matrix products that its scores need, in the same run.

Prints ratios (the products' time over ours; the median of alternating repeats, with their range): 1 would be scores for nothing but the
products. Both do the same floating-point operations in float32, in blocks of the same components, on the same threads; ours also bounds
the error of float32, finds the candidates and scores them again in float64. Queries lie near random components.

    python benchmarks/index.py                    # 2,000 components, under a minute
    python benchmarks/index.py --full             # 10,000 components, 4,096 queries
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from timing import in_turn

from empirics.routing.index_blocks import BLOCK
from empirics.routing.index_files import open_index, save_index
from empirics.routing.signature_index import SignatureIndex
from theory import LowRankGaussians

# Tasks made at once: the index alone is to be in memory.
_AT_ONCE = 256
# Rows of the bare products.
_ROWS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--components", type=int)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--spread", type=float, default=0.3, help="of the means, in units of a component's own spread in one coordinate")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    K, n = options.components or (10_000 if options.full else 2_000), options.queries or (4_096 if options.full else 2_048)
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    where = (
        torch.cuda.get_device_name()
        if options.device != "cpu"
        else f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads"
    )
    print(f"{where}; {n} queries, {K} components of rank {options.rank} in {options.dimension} dimensions")
    record: dict[str, Any] = {"machine": where, "load": os.getloadavg()[0], "torch": torch.__version__, "numpy": np.__version__}
    record |= {**vars(options), "out": None, "components": K, "queries": n}
    rng = np.random.default_rng(0)
    index, means, spread = _filled(K, options, rng)
    x = means[rng.integers(0, K, n)] + rng.normal(size=(n, options.dimension)) * spread
    works = {"products": lambda: _products(n, K, options), "best": lambda: index.retrieve(x), "five best": lambda: index.retrieve(x, 5)}
    record["seconds"] = times = _compare(works, options)
    record["flops"] = flops = 2 * n * K * options.dimension * (2 + options.rank)
    print(f"products: {flops / np.median(times['products']) / 1e9:.0f} GFLOP/s")
    for k in (1, 5):
        found = index.retrieve(x, k)
        record[f"contested {k}"] = share = float(found.contested.mean())
        record[f"rescored {k}"] = mean = float(found.rescored.mean())
        print(f"{k} best: float32 left {share:.2%} of the queries open; of a query {mean:.2f} tasks were scored in float64")
    record["files"] = _files(index, x, options)
    record["changes"] = _changes(index, options, rng)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _components(rng: np.random.Generator, count: int, options: argparse.Namespace) -> LowRankGaussians:
    """Diagonals of like shape, in units that fall from coordinate to coordinate, as principal components do."""
    units = np.arange(1, options.dimension + 1) ** -0.5
    diagonals = units**2 * rng.uniform(0.7, 1.4, size=(count, options.dimension))
    factors = rng.normal(size=(count, options.dimension, options.rank)) * units[:, None] * 0.5
    return LowRankGaussians(options.spread * rng.normal(size=(count, options.dimension)) * units, factors, diagonals)


def _filled(K: int, options: argparse.Namespace, rng: np.random.Generator) -> tuple[SignatureIndex, np.ndarray, np.ndarray]:
    index = SignatureIndex(options.dimension, options.rank, device=options.device)
    means, adding = [], 0.0
    for first in range(0, K, _AT_ONCE):
        some = _components(rng, min(_AT_ONCE, K - first), options)
        means.append(some.means)
        start = time.perf_counter()
        for k in range(len(some)):
            index.add(f"t{first + k}", some.part([k]))
        adding += time.perf_counter() - start
    print(f"added {K} tasks, {1e3 * adding / K:.2f} ms each, their factors decomposed already")
    return index, np.concatenate(means), np.sqrt(some.diagonals.mean(axis=0))


def _products(n: int, K: int, options: argparse.Namespace, buffers: dict[str, torch.Tensor] = {}) -> None:  # noqa: B006
    d, r = options.dimension, options.rank
    if not buffers:
        rng = torch.Generator().manual_seed(0)
        for name, shape in {"a": (_ROWS, 2 * d), "B": (BLOCK, 2 * d), "t": (_ROWS, d), "W": (r, BLOCK, d)}.items():
            buffers[name] = torch.randn(shape, generator=rng).to(options.device)
        buffers["out"] = torch.empty(_ROWS, BLOCK, device=options.device)
    a, B, t, W, out = buffers.values()
    for rows in _sizes(n, _ROWS):
        for count in _sizes(K, BLOCK):
            into = out[:rows, :count] if count == BLOCK else out.view(-1)[: rows * count].view(rows, count)
            torch.mm(a[:rows], B[:count].T, out=into)
            for j in range(r):
                torch.mm(t[:rows], W[j, :count].T, out=into)


def _sizes(total: int, block: int) -> list[int]:
    return [min(block, total - start) for start in range(0, total, block)]


def _compare(works: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Time all works, after a first time that is not counted."""
    for work in works.values():
        work()
    one_thread = options.device == "cpu" and options.threads == 1
    times = in_turn(works, options.repeats, one_thread=one_thread, wait=lambda: _wait(options))
    for j, name in enumerate(works):
        ratio = times[:, 0] / times[:, j]
        seconds = np.median(times[:, j])
        print(f"{name}: {seconds:.3f} s; products / this = {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
    return {name: times[:, j].tolist() for j, name in enumerate(works)}


def _wait(options: argparse.Namespace) -> None:
    if options.device != "cpu":
        torch.cuda.synchronize()


def _files(index: SignatureIndex, x: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """Seconds to save, to open, and to answer first and again; of a few queries."""
    few, out = x[:64], dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        save_index(index, folder)
        saved = time.perf_counter()
        opened = open_index(folder, options.device)
        out |= {"save": saved - start, "open": time.perf_counter() - saved}
        for name in ("first answer", "second answer"):
            start = time.perf_counter()
            opened.retrieve(few)
            out[name] = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f"files, {size / 2**20:.0f} MiB: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in out.items()))
    return out | {"bytes": size}


def _changes(index: SignatureIndex, options: argparse.Namespace, rng: np.random.Generator, count: int = 50) -> dict[str, float]:
    """Seconds to remove a task and to add one, in the full index."""
    new = _components(rng, count, options)
    start = time.perf_counter()
    for name in rng.choice(index.names, count, replace=False):
        index.remove(str(name))
    middle = time.perf_counter()
    for k in range(count):
        index.add(f"new {k}", new.part([k]))
    out = {"remove": (middle - start) / count, "add": (time.perf_counter() - middle) / count}
    print(", ".join(f"{name} a task {1e3 * seconds:.2f} ms" for name, seconds in out.items()))
    return out


if __name__ == "__main__":
    main()
