"""Bounds over the separation: `python -m paper_figures.separation -o FILE`."""

from __future__ import annotations

from functools import partial

from paper_figures.command import Figure, Panel, main, numbers
from theory.curves import bound_against_separation
from theory.plotting import plot_bound_against_separation


def panels(dimensions: str, tasks: int, simulations: int) -> list[Panel]:
    """A panel for each dimension."""
    frame = bound_against_separation(numbers("dimensions", dimensions), tasks=tasks, simulations=simulations)
    return [
        Panel(f"d = {d}", rows, partial(plot_bound_against_separation, rows), 1.75) for d, rows in frame.groupby("dimension", sort=False)
    ]


FIGURE = Figure(
    about="Bounds over the separation of the canonical model, over simulated errors, in several dimensions.",
    panels=panels,
    options={"dimensions": "8,32,128,1024", "tasks": 5, "simulations": 10_000},
    columns=2,
    legend=True,
)

if __name__ == "__main__":
    main(FIGURE, "separation")
