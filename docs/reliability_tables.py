"""The tables of `docs/reliability.md`, from the results kept in `docs/results`.

A block of the page between `<!-- results: NAME -->` and `<!-- end -->` is what the function of that name gives::

    python docs/reliability_tables.py    # write the blocks anew
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from empirics.record import read_json, write_bytes
from empirics.report import markdown_table

PAGE = Path(__file__).parent / "reliability.md"
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n)(.*?)(<!-- end -->)", flags=re.S)


def fuzz() -> str:
    """A row for each reader."""
    header = ["reader", "inputs", "read", "refused", "forms of refusal", "defects found", "slowest, s", "inputs a second"]
    body = []
    for name, found in read_json(RESULTS / "fuzz.json").items():
        counts = [f"{found[key]:,}" for key in ("inputs", "read", "refused", "forms_of_refusal")]
        rest = [str(len(found["defects"])), f"{found['slowest_seconds']:.2f}", f"{found['inputs_per_second']:,}"]
        body.append([name.replace("_", " "), *counts, *rest])
    return markdown_table(header, body)


BLOCKS: dict[str, Callable[[], str]] = {"fuzz": fuzz}


def rendered(page: str) -> str:
    """The page with every block made anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}{BLOCKS[m[2]]()}\n{m[4]}", page)


if __name__ == "__main__":
    write_bytes(PAGE, rendered(PAGE.read_text("utf-8")).encode())
    sys.exit()
