"""delta and V of all pairs of very many components against the bare matrix products that they need, in the same run.

Prints ratios (the products' time over ours; the median of alternating repeats, with their range): 1 would be statistics for nothing but the
products. Both take the same inner products in float64, in blocks of the same sizes, on the same threads. Then the peak of the memory that
was worked in, beside what was given, and how far a union of pairs is settled (`theory.screening`).

    python benchmarks/separation.py               # 1,000 components, about a minute
    python benchmarks/separation.py --full        # 10,000 components in 768 dimensions
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from timing import in_turn

from theory import LowRankGaussians, LowRankSignatures, Rule
from theory.all_pairs import _inner, _tile, pair_blocks, tied
from theory.screening import screened


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--components", type=int)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--ranks", type=int, nargs="+", help="of the factors; 0 is diagonal, and so is one covariance for all")
    parser.add_argument("--memory", type=int, default=256, help="MiB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--refine", type=int, default=20, help="pairs that screening may decompose")
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    K = options.components or (10_000 if options.full else 1_000)
    ranks = options.ranks or ([0] if options.full else [0, 8])
    threadpool_limits(options.threads)
    where = f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads"
    print(f"{where}; {K} components in {options.dimension} dimensions, {options.memory} MiB")
    record: dict[str, Any] = {"machine": where, "load": os.getloadavg()[0], "numpy": np.__version__}
    record |= {**vars(options), "out": None, "components": K, "results": []}
    rng = np.random.default_rng(0)
    for rank in ranks:
        low = _components(rng, K, options.dimension, rank)
        record["results"].append({"rank": rank} | _statistics(low, options))
        # What screening does beside has other parts; a few hundred components tell.
        record["results"][-1]["screening"] = _screening(low.part(np.arange(min(K, 200))), options)
    if options.out:
        options.out.write_text(json.dumps(record, indent=1) + "\n")


def _components(rng: np.random.Generator, K: int, d: int, rank: int) -> LowRankGaussians:
    """Alike in shape, apart in their means; one covariance for all if the rank is 0."""
    if not rank:
        return tied(0.4 * rng.normal(size=(K, d)), np.eye(d))
    return LowRankGaussians(0.4 * rng.normal(size=(K, d)), 0.3 * rng.normal(size=(K, d, rank)), rng.uniform(0.9, 1.1, size=(K, d)))


def _statistics(low: LowRankGaussians, options: argparse.Namespace) -> dict[str, Any]:
    K, d, r, memory = len(low), low.dimension, low.rank, options.memory * 2**20
    rows, columns = _tile(d, r, r, K, K, memory)

    def ours() -> float:
        return sum(float(block.delta[0, 0]) for block in pair_blocks(low, memory=memory))

    times = _compare({"products": lambda: _products(K, d, r, rows, columns), "all pairs": ours}, options)
    tracemalloc.start()
    # The peak is that of a block, and is reached early.
    for _, block in zip(range(3), pair_blocks(low, memory=memory), strict=False):
        assert block.mean.size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    seconds = float(np.median(times["all pairs"]))
    print(
        f"rank {r}: {seconds:.1f} s, {1e6 * seconds / K**2:.2f} microseconds a pair; peak memory {peak / 2**20:.0f} MiB of {options.memory}"
    )
    return {"seconds": times, "inner_products": _inner_products(r), "peak_bytes": peak}


def _inner_products(r: int) -> int:
    """Inner products of length d that a pair takes; without factors there are nine."""
    return 9 + (_inner(r, r) - 8 if r else 1)


def _products(K: int, d: int, r: int, rows: int, columns: int, buffers: dict[str, np.ndarray] = {}) -> None:  # noqa: B006
    """The same inner products for all pairs: 9 of one vector a component, and those of the factors."""
    sizes = [(1, 1)] * 9
    if r:
        upper = r * (r + 1) // 2
        sizes += [(1, upper + r), (r + 1, r + 1), (r + 1, r), (upper + r, 1)]
    most = max(max(size) for size in sizes)
    if buffers.get("left", np.zeros(0)).size != most * rows * d or buffers["right"].size != most * columns * d:
        rng = np.random.default_rng(0)
        buffers["left"], buffers["right"] = rng.normal(size=(most * rows, d)), rng.normal(size=(most * columns, d))
        buffers["out"] = np.empty(max(i * j for i, j in sizes) * rows * columns)
    for start in range(0, K, rows):
        n = min(rows, K - start)
        for first in range(0, K, columns):
            k = min(columns, K - first)
            for i, j in sizes:
                into = buffers["out"][: i * n * j * k].reshape(i * n, j * k)
                np.matmul(buffers["left"][: i * n], buffers["right"][: j * k].T, out=into)


def _compare(works: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    times = in_turn(works, options.repeats, one_thread=options.threads == 1)
    for j, name in enumerate(works):
        ratio = times[:, 0] / times[:, j]
        print(f"{name}: {np.median(times[:, j]):.2f} s; products / this = {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})")
    return {name: times[:, j].tolist() for j, name in enumerate(works)}


def _screening(low: LowRankGaussians, options: argparse.Namespace) -> dict[str, Any]:
    # Some pairs of neighbours, five deviations apart, carry the error; the rest is to be told from them cheaply.
    means = low.means.copy()
    step = np.random.default_rng(1).normal(size=low.dimension)
    means[1::20] = means[::20] + 5 * step / np.linalg.norm(step)
    low = LowRankGaussians(means, low.factors, low.diagonals)
    start = time.process_time()
    found = screened(Rule(LowRankSignatures(low, np.arange(len(low)))), refine=options.refine, memory=options.memory * 2**20)
    seconds = time.process_time() - start
    print(f"screening of {len(low)} components: {seconds:.1f} s; {found.bound.note}")
    print(
        f"  log of the bound {found.log_closed:.2f} unrefined, {found.bound.log_value:.2f} refined; exact pairs alone {found.log_exact:.2f}"
    )
    return {"seconds": seconds, "log_unrefined": found.log_closed, "log_bound": found.bound.log_value, "settled": found.settled}


if __name__ == "__main__":
    main()
