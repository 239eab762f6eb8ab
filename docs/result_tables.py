"""The tables of pages that show results: those of `docs/results` and of `benchmarks/results`.

Every block of such a page (`page_blocks`) is what the function of its name gives::

    python docs/result_tables.py    # write the blocks anew
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import page_blocks

from empirics.files.record import read_json
from empirics.reports.report import markdown_table
from empirics.reports.rounding import rounded_up

DOCS = Path(__file__).parent
PAGES = (DOCS / "reliability.md", DOCS / "how-to" / "many-adapters.md")


def fuzz() -> str:
    """A row for each reader."""
    header = ["reader", "inputs", "read", "refused", "forms of refusal", "defects found", "slowest, s", "inputs a second"]
    body = []
    for name, found in read_json(DOCS / "results" / "fuzz.json").items():
        counts = [f"{found[key]:,}" for key in ("inputs", "read", "refused", "forms_of_refusal")]
        rest = [str(len(found["defects"])), f"{found['slowest_seconds']:.2f}", f"{found['inputs_per_second']:,}"]
        body.append([name.replace("_", " "), *counts, *rest])
    return markdown_table(header, body)


def cascade() -> str:
    """A row for each number of tasks: frozen and adapted energies added, one adapter after the other until the margin settles it."""
    header = [
        "tasks",
        "simulated",
        "error of full search",
        "passes",
        "other promise",
        "certified loss",
        "measured loss",
        "wall time of full",
    ]
    body = []
    for found in read_json(DOCS.parent / "benchmarks" / "results" / "cascade.json")["results"]:
        arm = found["arms"]["both"]
        any_answer, right = arm["any_answer"]["adaptive"], arm["rules"]["adaptive"]
        loss = any_answer["measured_loss"]
        ratio = np.array(arm["timed"]["wall_ratio"])
        body.append(
            [
                f"{found['tasks']:,}",
                f"{found['simulated']:,}",
                f"{arm['error_of_full_search']:.3f}",
                f"{any_answer['passes']:.1f}",
                f"{right['passes']:.1f}",
                rounded_up(any_answer["certified_loss"]),
                f"{loss['error']:.3f} ({loss['low']:.3f}-{rounded_up(loss['high'])})",
                f"{np.median(ratio):.1f}x ({ratio.min():.1f}-{ratio.max():.1f})",
            ]
        )
    return markdown_table(header, body)


def extras() -> str:
    """A row for each extra."""
    rows = [
        [f"`{name}`" if name else "(none)", str(found["packages"]), f"{found['mib']:,}"]
        for name, found in read_json(DOCS / "results" / "extras.json").items()
    ]
    return markdown_table(["extra, alone", "packages", "MiB"], rows)


BLOCKS: page_blocks.Makers = {"fuzz": fuzz, "cascade": cascade, "extras": extras}


if __name__ == "__main__":
    page_blocks.write(PAGES, BLOCKS)
    sys.exit()
