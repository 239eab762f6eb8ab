"""All figures at once: `python -m paper_figures --run RUN --comparison COMPARISON --ablation ABLATION -o FOLDER`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from paper_figures.command import READERS, Figure, draw, refused, write

NAMES = (
    "rungs",
    "separation",
    "required_tasks",
    "required_dimension",
    "slack",
    "finite_sample",
    "own_distance",
    "prediction",
    "retrieval_matrix",
    "decomposition",
    "batch_leak",
    "embedding",
    "phases",
    "cascade",
)


def figure_of(name: str) -> Figure:
    """The figure of a script."""
    return importlib.import_module(f"paper_figures.{name}").FIGURE


def main(arguments: Sequence[str] | None = None) -> None:
    """Make every figure as PDF and PNG, with its data as CSV."""
    parser = argparse.ArgumentParser(prog="python -m paper_figures", description="All figures, as PDF and PNG, with their data as CSV.")
    for kind in READERS:
        parser.add_argument(f"--{kind}", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    given = parser.parse_args(arguments)
    with refused():
        for name in NAMES:
            figure = figure_of(name)
            folders = [] if figure.source is None else [getattr(given, figure.source)]
            write(given.out / f"{name}.pdf", draw(figure, folders, {}, [".pdf", ".png"]))
            print(given.out / f"{name}.pdf")


if __name__ == "__main__":
    main()
