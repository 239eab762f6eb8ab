"""A page on a terminal: the same sentences and tables, without figures and downloads."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from empirics.page.model import Cell, Listing, Mark, Page, Paragraph, Table, plain

_STYLES = {Mark.REJECTED: "strike dim", Mark.CONTRADICTED: "bold red", Mark.GUARANTEE: "bold", Mark.VACUOUS: "italic dim"}
_COLUMNS, _ABREAST = 10, 6
# A terminal may not strike through, and its text may be copied.
_SIGNS = {Mark.REJECTED: "[x] ", Mark.CONTRADICTED: "! "}


def print_page(page: Page, console: Console) -> None:
    """Print the verdict, then every section."""
    console.print(Text(plain(page.title), style="bold"))
    console.print(Text(plain(page.verdict)))
    console.print(Text(plain(page.about), style="dim"))
    for section in page.sections:
        shown = [block for block in section.blocks if isinstance(block, Paragraph | Table | Listing)]
        if not shown:
            continue
        console.print(Text(f"\n{section.title}", style="bold"))
        for block in shown:
            if isinstance(block, Paragraph):
                console.print(Text(plain(block.prose)))
            elif isinstance(block, Table):
                for grid in _grids(block):
                    console.print(grid)
            else:
                console.print(_listed(block))


def _grids(table: Table) -> list[Grid]:
    """A table; one with more columns than fit beside one another is turned, a few of its rows at a time."""
    title = Text(plain(table.caption), style="italic")
    if len(table.header) <= _COLUMNS:
        grid = Grid(title=title, title_justify="left", pad_edge=False)
        for j, name in enumerate(table.header):
            grid.add_column(Text(name), justify="left" if j == 0 or j in table.text else "right")
        for row in table.rows:
            grid.add_row(*map(_shown, row))
        return [grid]
    out = []
    for start in range(0, len(table.rows), _ABREAST):
        part = table.rows[start : start + _ABREAST]
        grid = Grid(title=title if start == 0 else None, title_justify="left", pad_edge=False)
        grid.add_column("", no_wrap=True)
        for row in part:
            grid.add_column(_shown(row[0]), justify="right")
        for j, name in enumerate(table.header[1:], start=1):
            grid.add_row(Text(name), *(_shown(row[j]) for row in part))
        out.append(grid)
    return out


def _listed(listing: Listing) -> Grid:
    grid = Grid(title=listing.title or None, title_justify="left", pad_edge=False, show_header=False)
    for term, said in listing.rows:
        # Text, not markup: names and paths may hold brackets.
        grid.add_row(Text(plain(term)), Text(plain(said)))
    return grid


def _shown(cell: Cell) -> Text:
    return Text(_SIGNS.get(cell.mark, "") + plain(cell.prose), style=_STYLES.get(cell.mark, ""))
