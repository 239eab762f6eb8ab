"""Blocks of pages that are made from kept results: the marks that they stand between, and making them anew.

A block of a page is what stands between `<!-- results: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from empirics.files.record import write_bytes

_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n)(.*?)(<!-- end -->)", flags=re.S)

# What each block is made by; what several share is read once, where they are put together.
Makers = Mapping[str, Callable[[], str]]


def names(page: str) -> list[str]:
    """The names of a page's blocks, in their order."""
    return [match[2] for match in _BLOCK.finditer(page)]


def rendered(page: str, makers: Makers) -> str:
    """A page with every block made anew."""
    return _BLOCK.sub(lambda match: f"{match[1]}{makers[match[2]]()}\n{match[4]}", page)


def write(paths: Iterable[Path], makers: Makers) -> None:
    """Write pages with every block made anew."""
    for path in paths:
        write_bytes(path, rendered(path.read_text("utf-8"), makers).encode())
