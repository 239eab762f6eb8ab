"""Retrieval over time: `python -m paper_figures.retrieval_matrix COMPARISON -o FILE`."""

from __future__ import annotations

from functools import partial

from empirics.figures.folders import ComparisonFolder
from empirics.figures.plotting import plot_retrieval_matrix
from empirics.figures.tables import matrix_table
from paper_figures.command import Figure, Panel, main


def panels(comparison: ComparisonFolder, methods: str | None, order: int) -> list[Panel]:
    """A panel for each method; the reference and the one that forgets most by default."""
    out = []
    for name in methods.split(",") if methods else comparison.contrast():
        matrix, names = comparison.retrieval_matrix(name, order)
        draw = partial(plot_retrieval_matrix, matrix, names)
        out.append(Panel(name, matrix_table(matrix, names), draw, 0.9 + 0.2 * len(names)))
    return out


FIGURE = Figure(
    about="Share of each task's documents that are retrieved rightly after each stage, for some methods of a comparison.",
    source="comparison",
    panels=panels,
    options={"methods": None, "order": 0},
)

if __name__ == "__main__":
    main(FIGURE, "retrieval_matrix")
