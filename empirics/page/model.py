"""What a page is: prose, tables and figures, in order, with every value bound to the place it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from empirics.page.fields import Value

# Text between values of files. Whatever comes from a user is a value, or a plain string that the template escapes.
Prose: TypeAlias = tuple[str | Value, ...]


class Mark(StrEnum):
    """What a number on the page is worth; every mark is told in words too."""

    PLAIN = ""
    GUARANTEE = "guarantee"
    REJECTED = "no guarantee"
    CONTRADICTED = "contradicted"
    VACUOUS = "vacuous"


def worth(rung: Mapping[str, Any]) -> Mark:
    """What a rung's value is worth."""
    if rung["guarantee"]:
        return Mark.GUARANTEE
    if rung["vacuous"]:
        return Mark.VACUOUS
    return Mark.REJECTED if rung["holds"] else Mark.CONTRADICTED


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes
    ----------
    prose : Prose
    mark : Mark
        A number under `Mark.REJECTED` or `Mark.CONTRADICTED` is struck through, and the mark is read out after it.
    """

    prose: Prose
    mark: Mark = Mark.PLAIN


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    caption : Prose
    header : tuple of str
    rows : tuple of tuples of Cell
        Each as long as the header.
    text : frozenset of int
        Columns that hold words, set from the left and wrapped; the others hold numbers.
    total : bool
        The last row sums up the others.
    """

    caption: Prose
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    text: frozenset[int] = frozenset()
    total: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing that stands without a script.

    Attributes
    ----------
    name : str
        Unique on the page.
    svg : str
        Markup made by `empirics.page.figures`.
    caption : Prose
        The message of the figure, which is its name for a screen reader too.
    chart : dict, optional
        A Vega-Lite specification that takes the place of the drawing where scripts run.
    """

    name: str
    svg: str
    caption: Prose
    chart: dict[str, Any] | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure as markup, and a chart to take its place where scripts run.

    Attributes
    ----------
    svg : str
        An ``svg`` element without a name for a screen reader: the page gives it the figure's caption.
    chart : dict, optional
        A Vega-Lite specification.
    """

    svg: str
    chart: dict[str, Any] | None = None


@dataclass(frozen=True)
class Paragraph:
    """Prose of its own."""

    prose: Prose
    warning: bool = False


@dataclass(frozen=True)
class Listing:
    """Terms and what is said of each; a compact one is set in columns."""

    rows: tuple[tuple[Prose, Prose], ...]
    title: str = ""
    compact: bool = False


@dataclass(frozen=True)
class Download:
    """A file inside the page."""

    name: str
    kind: str
    content: bytes
    said: str


Block: TypeAlias = Paragraph | Table | Figure | Listing | Download


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Attributes
    ----------
    name : str
        Unique on the page; the target of links.
    title : str
    blocks : tuple of Block
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes
    ----------
    title : Prose
    verdict : Prose
        What the page comes to, in one sentence.
    about : Prose
        What the verdict speaks of.
    sections : tuple of Section
    """

    title: Prose
    verdict: Prose
    about: Prose
    sections: tuple[Section, ...] = field(default=())


def joined(parts: Sequence[Prose], separator: str = ", ") -> Prose:
    """Prose with a separator between its parts."""
    out: list[str | Value] = []
    for part in parts:
        out += [separator, *part] if out else part
    return tuple(out)


def words(*prose: str | Value) -> Cell:
    """A cell without a mark."""
    return Cell(prose)


def plain(prose: Prose) -> str:
    """Prose without the places of its values."""
    return "".join(map(str, prose))
