"""A reader under test: sound inputs, a strategy for structured ones, and how it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis.strategies import SearchStrategy
from mutator import Files


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes
    ----------
    name : str
    seeds : callable
        Sound inputs, which the reader takes.
    read : callable
        Reads the folder of an input.
    structured : strategy of Files
        Inputs of the right form with wrong content.
    tokens : sequence of bytes
        Words of the format.
    links : sequence of str
        Where a link in the place of a file may point.
    size : int
        Inputs of a full run.
    """

    name: str
    seeds: Callable[[], Sequence[Files]]
    read: Callable[[Path], object]
    structured: SearchStrategy[Files]
    tokens: Sequence[bytes] = ()
    links: Sequence[str] = ("/dev/zero", "nowhere", ".")
    size: int = 100_000


def only(folder: Path) -> Path:
    """The one file of an input."""
    return next(path for path in folder.iterdir())
