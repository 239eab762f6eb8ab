"""Leak control, error over the size of task-pure batches: `python -m paper_figures.batch_leak COMPARISON -o FILE`."""

from __future__ import annotations

from empirics.figures.folders import ComparisonFolder
from empirics.figures.plotting import plot_batch_leak
from empirics.figures.tables import batch_table
from paper_figures.command import Figure, Panel, main


def panels(comparison: ComparisonFolder) -> list[Panel]:
    """A line for each method."""
    table = batch_table(comparison.summary)
    height = 2.3 + 0.05 * table["method"].nunique()
    return [Panel("leak control, not a method", table, lambda ax: plot_batch_leak(comparison.summary, ax=ax), height)]


FIGURE = Figure(
    about="Leak control: how far the error falls if documents known to be of one task are scored together.",
    source="comparison",
    panels=panels,
    legend=True,
)

if __name__ == "__main__":
    main(FIGURE, "batch_leak")
