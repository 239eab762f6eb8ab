"""What commands print, and where to."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console


def terminal(width: int = 150, *, highlight: bool = False) -> Console:
    """Standard output: as wide as the terminal, or of a fixed width if it goes elsewhere, so that what is piped is the same everywhere."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=highlight)


def tell_page(page: Path | None) -> None:
    """Say where a page lies, if one was written."""
    if page is not None:
        print(f"\nThe page is {page}")
