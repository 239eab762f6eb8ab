"""Latency of a served retriever under load: every client asks again as soon as it is answered.

Prints the median and the 99th percentile of a request's time, waiting included, for several numbers of threads and sizes of batches, and
the documents answered a second. The folder that is served is made first: adapters with random weights on the packaged encoder, certified
on news. Times are by the wall, and so of this machine and its load; ratios to one thread that asks alone are told beside them.

    python benchmarks/serving.py          # under a minute on an idle core
    python benchmarks/serving.py --requests 40 --threads 1 4 8 --out benchmarks/results/serving.json
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from encoders import random_adapter
from threadpoolctl import threadpool_limits

from empirics.adapters.adapter import save_adapter
from empirics.config import BackboneConfig, RunConfig, StreamConfig, load_certify_config
from empirics.data.streams import load_stream
from empirics.encoders.loading import load_backbone
from empirics.files.record import write_json
from empirics.routing.certify import certify
from empirics.routing.serving import Served, load_served
from empirics.runs.embedding import use_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32, help="of each setting, all clients together")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4], help="clients that ask at once")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="documents in a request")
    parser.add_argument("--samples", type=int, default=12, help="that each task is certified with")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    use_threads(RunConfig(threads=options.torch_threads))
    threadpool_limits(options.torch_threads)
    with tempfile.TemporaryDirectory() as folder:
        served, texts = _made(Path(folder), options.samples)
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}; {len(served.tasks)} tasks, rule {served.router.name}")
    results, alone = [], {}
    for batch in options.batches:
        for count in options.threads:
            found = _asked(served, texts, count, batch, options.requests)
            alone.setdefault(batch, found["p50_ms"])
            found["p50_over_first"] = found["p50_ms"] / alone[batch]
            results.append(found)
            print(
                f"{count} threads, {batch} documents: p50 {found['p50_ms']:.1f} ms ({found['p50_over_first']:.1f} x that of the first), "
                f"p99 {found['p99_ms']:.1f} ms of {found['requests']} requests; {found['documents_per_second']:.0f} documents/s"
            )
    if options.out:
        about = {"cores": os.cpu_count(), "processor": platform.machine(), "load": load, "torch": torch.__version__}
        write_json(options.out, {**about, **vars(options), "out": None, "tasks": len(served.tasks), "results": results})


def _made(folder: Path, samples: int) -> tuple[Served, list[str]]:
    stream = load_stream(StreamConfig(name="news-4t"), np.random.default_rng(0))
    backbone = load_backbone(BackboneConfig())
    rows, folders = [], {}
    for k, task in enumerate(stream.tasks):
        folders[task.name] = folder / task.name
        save_adapter(folders[task.name], random_adapter(backbone, task.name, k))
        rows += [{"text": stream.texts[j], "task": task.name} for j in stream.where("train", k)[:samples]]
    config = load_certify_config({"signature": {"dimension": 8}, "rule": "ratio", "simulations": 1000})
    certify(folders, pd.DataFrame(rows), config, out=folder / "certified")
    return load_served(folder / "certified"), [stream.texts[j] for j in stream.where("test")]


def _asked(served: Served, texts: list[str], threads: int, batch: int, requests: int) -> dict[str, Any]:
    """Latencies of so many requests by clients that never rest."""
    rng = np.random.default_rng(batch)
    asked = [[texts[j] for j in rng.choice(len(texts), batch)] for _ in range(requests)]
    served.answer(asked[0])
    taken, todo, lock = [], iter(asked), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                inputs = next(todo, None)
            if inputs is None:
                return
            start = time.perf_counter()
            served.answer(inputs)
            taken.append(time.perf_counter() - start)

    clients = [threading.Thread(target=client) for _ in range(threads)]
    start = time.perf_counter()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    whole = time.perf_counter() - start
    p50, p99 = 1e3 * np.percentile(taken, [50, 99])
    found = {"threads": threads, "batch": batch, "requests": requests, "p50_ms": float(p50), "p99_ms": float(p99)}
    return {**found, "documents_per_second": batch * requests / whole}


if __name__ == "__main__":
    main()
