"""Accuracy as retrieval times within-task: `python -m paper_figures.decomposition COMPARISON -o FILE`."""

from __future__ import annotations

from empirics.figures.folders import ComparisonFolder
from empirics.figures.plotting import plot_decomposition
from empirics.figures.tables import decomposition_table
from paper_figures.command import Figure, Panel, main


def panels(comparison: ComparisonFolder) -> list[Panel]:
    """A bar for each method."""
    table = decomposition_table(comparison.summary)
    return [Panel("", table, lambda ax: plot_decomposition(comparison.summary, ax=ax), 0.9 + 0.14 * len(table))]


FIGURE = Figure(
    about="What each method gets right, and what it loses within the right task and to wrong retrieval.",
    source="comparison",
    panels=panels,
    legend=True,
)

if __name__ == "__main__":
    main(FIGURE, "decomposition")
