"""A sweep on several processes against the same sweep in one: the same cells, the same bytes, less time.

Prints the ratio of the times (one process over several, median of alternating repeats, with their range); above one, several are faster.
Processes are started anew in each repeat and counted. Cells are whole runs of the packaged encoder on few documents, and each trains its
own adapters: nothing is shared that one process would not have to compute as well. The machine should be idle: the load is told.

    python benchmarks/sweep.py                       # 32 cells, as many processes as cores
    python benchmarks/sweep.py --cells 8 --repeats 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

# The least of the shipped settings: tens of seconds a cell would tell no more.
_SETTINGS = {
    "stream": {"train_per_class": 10, "query_per_class": 10, "test_per_class": 8, "reservoir_per_class": 4, "classes_per_task": 2},
    "backbone": {"max_length": 16},
    "training": {"epochs": 1},
    "signature": {"dimension": 4},
    "bounds": {"simulations": 4000},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        results = _measure(Path(name), options)
    ratios = np.array(results["ratios"])
    told = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
    print(f"{options.cells} cells: one process takes {told} times as long as {options.jobs}; the tables are the same to the bit")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    grid = folder / "grid.yaml"
    # JSON is YAML.
    grid.write_text(json.dumps({"settings": _SETTINGS, "product": {"seed": list(range(options.cells))}}))
    seconds: dict[int, list[float]] = {1: [], options.jobs: []}
    load, tables = [], []
    for repeat in range(options.repeats):
        # The one that comes first finds the machine as the other leaves it: in turn.
        for jobs in sorted(seconds, reverse=bool(repeat % 2)):
            load.append(os.getloadavg()[0])
            start = time.perf_counter()
            _sweep(grid, folder / f"sweep-{jobs}", jobs)
            seconds[jobs].append(time.perf_counter() - start)
            print(f"{jobs} processes: {seconds[jobs][-1]:.1f} s (load before {load[-1]:.1f})", flush=True)
            tables.append(pd.read_parquet(folder / f"sweep-{jobs}" / "grid.parquet").drop(columns="seconds"))
            shutil.rmtree(folder / f"sweep-{jobs}")
    assert all(tables[0].equals(other) for other in tables[1:])
    one, several = (np.array(seconds[jobs]) for jobs in (1, options.jobs))
    return {
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "cells": options.cells,
        "jobs": options.jobs,
        "load_before": load,
        "seconds": {str(jobs): found for jobs, found in seconds.items()},
        "ratios": (one / several).tolist(),
    }


def _sweep(grid: Path, folder: Path, jobs: int) -> None:
    """As a user starts it, with a process of its own that imports what it needs."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "empirics.cli",
        "sweep",
        str(grid),
        "--out",
        str(folder),
        "--jobs",
        str(jobs),
        "--json",
    ]
    subprocess.run([*command, "--quiet"], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
