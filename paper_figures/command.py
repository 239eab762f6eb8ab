"""What all scripts share: their arguments, panels laid out in one figure, and two files written whole, the picture and its data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from empirics.figures.finished_run import open_run
from empirics.figures.folders import open_ablation, open_comparison
from empirics.files.record import write_bytes
from paper_figures.style import SUFFIXES, WIDTH, figure_bytes, style
from theory.errors import InputError
from theory.marks import literal

# Inches that a letter and a handle of a legend take, and a line of text.
_LETTER, _HANDLE = 0.052, 0.3
_LINE = 0.13
READERS: dict[str, Callable[[Path], Any]] = {"run": open_run, "comparison": open_comparison, "ablation": open_ablation}


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes
    ----------
    title : str
    table : DataFrame
        What is drawn, row for row: the CSV beside the figure.
    draw : callable
        Takes the Axes as `ax`.
    height : float
        Inches.
    """

    title: str
    table: pd.DataFrame
    draw: Callable[..., object]
    height: float


@dataclass(frozen=True)
class Figure:
    """One figure: what it reads, and the panels that it makes of that.

    Attributes
    ----------
    about : str
        One sentence.
    panels : callable
        Of what was read (of nothing, if `source` is None) and the options by name.
    source : {"run", "comparison", "ablation"} or None
    options : mapping from name to default
        Every option is a string or a whole number, as its default is; None stands for a string that need not be given.
    columns : int
        Panels beside one another.
    legend : bool
        One legend below for all panels, of what theirs hold.
    note : str
        Written above it all.
    """

    about: str
    panels: Callable[..., Sequence[Panel]]
    source: str | None = None
    options: Mapping[str, str | int | None] = field(default_factory=dict)
    columns: int = 1
    legend: bool = False
    note: str = ""


def draw(figure: Figure, folders: Sequence[Path], options: Mapping[str, Any], suffixes: Sequence[str]) -> dict[str, bytes]:
    """The figure in some formats, and its data: contents by suffix, nothing written.

    Parameters
    ----------
    figure : Figure
    folders : sequence of Path
        Panels of all are stacked; none if the figure needs none.
    options : mapping
        What is not given stands at its default.
    suffixes : sequence of str
        Among `paper_figures.style.SUFFIXES`.

    Raises
    ------
    InputError
        For a folder that the figure cannot be made of, or an option that does not fit it.
    """
    chosen = {**figure.options, **options}
    sources = [(READERS[figure.source](folder),) for folder in folders] if figure.source is not None else [()]
    names = [folder.name for folder in folders] if len(folders) > 1 else [""]
    panels = [(name, panel) for name, source in zip(names, sources, strict=True) for panel in figure.panels(*source, **chosen)]
    with style():
        canvas = _canvas(figure, panels)
        out = {suffix: figure_bytes(canvas, suffix) for suffix in suffixes}
    tables = []
    for name, panel in panels:
        about = {"folder": name} if name else {}
        about |= {"panel": panel.title} if len(panels) > 1 else {}
        tables.append(panel.table.assign(**about)[[*about, *panel.table.columns]])
    return out | {".csv": pd.concat(tables, ignore_index=True).to_csv(index=False, lineterminator="\n").encode()}


def _canvas(figure: Figure, panels: Sequence[tuple[str, Panel]]) -> Canvas:
    rows = [panels[j : j + figure.columns] for j in range(0, len(panels), figure.columns)]
    heights = [max(panel.height for _, panel in row) for row in rows]
    canvas = Canvas(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = canvas.add_gridspec(len(rows), figure.columns, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, (name, panel) in enumerate(row):
            ax = canvas.add_subplot(grid[i, j])
            panel.draw(ax=ax)
            title = ": ".join(filter(None, (name, panel.title)))
            if title:
                ax.set_title(literal(title))
    _say_once(canvas.axes, figure.columns)
    lines = 0
    if figure.note:
        canvas.suptitle(figure.note)
        lines += 1 + figure.note.count("\n")
    if figure.legend:
        lines += _gather_legends(canvas)
    canvas.set_figheight(sum(heights) + _LINE * lines)
    # Laid out once: every format would shift what the one before left.
    for _ in range(2):
        canvas.draw_without_rendering()
    canvas.set_layout_engine("none")
    return canvas


def _say_once(axes: Sequence[Axes], columns: int) -> None:
    """Leave out the label of an axis where the axes below, or those on the left, have the same."""
    for j in reversed(range(len(axes))):
        if j + columns < len(axes) and axes[j].get_xlabel() == axes[j + columns].get_xlabel():
            axes[j].set_xlabel("")
        if j % columns and axes[j].get_ylabel() == axes[j - 1].get_ylabel():
            axes[j].set_ylabel("")


def _gather_legends(canvas: Canvas) -> int:
    """Put what the legends of all axes say into one below them, in as many columns as fit; returns its lines."""
    handles: dict[str, Any] = {}
    for ax in canvas.axes:
        legend = ax.get_legend()
        if legend is not None:
            handles |= {text.get_text(): handle for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)}
            legend.remove()
    lengths = [len(label) for label in handles]

    def width(columns: int) -> float:
        parts = np.array_split(lengths, columns)
        return sum(_LETTER * max(part) + _HANDLE for part in parts)

    columns = max(n for n in range(1, len(lengths) + 1) if n == 1 or width(n) <= WIDTH)
    canvas.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, columnspacing=0.8)
    return -(-len(lengths) // columns)


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises
    ------
    InputError
        For anything else, or a number twice.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{option}", f"{text!r} is no list of whole numbers such as 8,32,128") from None
    if len(set(found)) < len(found):
        raise InputError(f"--{option}", f"{text!r} holds a number twice")
    return found


def write(out: Path, contents: Mapping[str, bytes]) -> None:
    """Write one file for each suffix, each whole or not at all."""
    for suffix, content in contents.items():
        write_bytes(out.with_suffix(suffix), content)


def main(figure: Figure, name: str, arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, make the figure, and write it with its data beside it; exit with status 2 on bad input.

    Parameters
    ----------
    figure : Figure
    name : str
        Of the script.
    arguments : sequence of str, optional
        Those of the process if None.
    """
    parser = argparse.ArgumentParser(prog=f"python -m paper_figures.{name}", description=figure.about)
    if figure.source is not None:
        what = f"folder of {'an' if figure.source == 'ablation' else 'a'} {figure.source}"
        parser.add_argument("folders", nargs="+", type=Path, metavar=figure.source.upper(), help=f"{what}; panels of several are stacked")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help=f"{', '.join(SUFFIXES)}; its data go beside it as .csv"
    )
    for option, default in figure.options.items():
        kind = int if isinstance(default, int) else str
        parser.add_argument(f"--{option.replace('_', '-')}", type=kind, default=default, help=f"default: {default}")
    given = vars(parser.parse_args(arguments))
    out, folders = given.pop("out"), given.pop("folders", [])
    with refused():
        if out.suffix not in SUFFIXES:
            raise InputError("--out", f"{out} ends in {out.suffix or 'nothing'}; choose {', '.join(SUFFIXES)}")
        write(out, draw(figure, folders, given, [out.suffix]))


@contextmanager
def refused() -> Iterator[None]:
    """Tell of bad input in one line, and exit with status 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
