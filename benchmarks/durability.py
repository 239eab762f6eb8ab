"""What it costs a run that nothing of it can be lost: durable writes, checkpoints, digests and the manifest, in parts of the run itself.

Both are taken in the same runs, and in processor time and the time waited for the disk, so that other work on the machine falls on neither.
What is inside another is counted once: checkpoints are without their waiting for the disk.

    python benchmarks/durability.py               # the preset small, three times
    python benchmarks/durability.py --preset default --repeats 1
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from empirics.adapters import training
from empirics.config import load_config
from empirics.runs import origin, pipeline
from empirics.runs.checkpoints import Checkpoints

# What is timed, by what it is for.
_WHERE = {
    "fsync": [(os, "fsync")],
    "checkpoints": [(Checkpoints, "write"), (Checkpoints, "write_large"), (pipeline, "open_checkpoints")],
    "digests": [(origin, "data_digest"), (origin, "weights_digest"), (training, "adapter_digest")],
    "manifest": [(pipeline, "finish_folder")],
}


@contextmanager
def _timed() -> Iterator[tuple[Counter[str], list[float]]]:
    """Seconds of each part inside a `with` block, less what other parts take within it; and what was waited for the disk."""
    spent: Counter[str] = Counter()
    waited = [0.0]
    inner = [0.0]

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def measured(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            wall, processor = time.perf_counter(), time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
                # fsync alone waits; of the others what the clock says beyond the processor's time is other programs'.
                took = wall if part == "fsync" else processor
                waited[0] += wall - processor if part == "fsync" else 0.0
                spent[part] += took - inner.pop()
                inner[-1] += processor if part == "fsync" else took

        return measured

    with ExitStack() as patches:
        for part, places in _WHERE.items():
            for place, name in places:
                patches.enter_context(patch.object(place, name, timed(part, getattr(place, name))))
        yield spent, waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config, rows = load_config(None, options.preset, []), []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder, _timed() as (spent, waited):
            start = time.process_time()
            pipeline.run(config, Path(folder) / "run", quiet=True)
            whole = time.process_time() - start + waited[0]
        rows.append([spent[part] / whole for part in _WHERE] + [sum(spent.values()) / whole])
        print(f"{whole:.1f} s of processor and disk: " + ", ".join(f"{part} {spent[part]:.2f} s" for part in _WHERE))
    for part, shares in zip([*_WHERE, "together"], np.array(rows).T, strict=True):
        print(f"{part}: {np.median(shares):.1%} ({shares.min():.1%} to {shares.max():.1%}) of the run")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
