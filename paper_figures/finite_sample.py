"""Error over samples a dimension: `python -m paper_figures.finite_sample -o FILE`."""

from __future__ import annotations

from functools import partial

from paper_figures.command import Figure, Panel, main
from theory.curves import finite_sample, own_ellipsoid
from theory.plotting import plot_finite_sample


def panels(dimension: int, draws: int) -> list[Panel]:
    """Retrieval error of two tasks, and how often a point falls outside its own ellipsoid."""
    tables = {
        f"retrieval of two tasks, d = {dimension}": (finite_sample(dimension, draws=draws), "retrieval error"),
        f"own 95% ellipsoid, d = {dimension}": (own_ellipsoid(dimension, draws=2 * draws), "share outside"),
    }
    return [Panel(title, table, partial(plot_finite_sample, table, quantity=label), 2.1) for title, (table, label) in tables.items()]


FIGURE = Figure(
    about="What estimating a signature from n samples costs, over n/d: exact where known, simulated with intervals.",
    panels=panels,
    legend=True,
    options={"dimension": 16, "draws": 1000},
)

if __name__ == "__main__":
    main(FIGURE, "finite_sample")
