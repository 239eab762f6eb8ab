"""What retrieval costs over the number of tasks: `python -m paper_figures.cascade -o FILE`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from empirics.figures.plotting import plot_cascade_cost
from empirics.figures.tables import cascade_table
from empirics.files.record import read_json
from paper_figures.command import Figure, Panel, main

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "cascade.json"


def panels(results: str) -> list[Panel]:
    """Adapter passes, and time."""
    table = cascade_table(read_json(Path(results)))
    return [Panel("", rows, partial(plot_cascade_cost, rows), 1.9) for _, rows in table.groupby("panel", sort=True)]


FIGURE = Figure(
    about="Adapter passes and time of a cascade and of the full search over the number of tasks, as benchmarks/cascade.py measured them.",
    panels=panels,
    options={"results": str(RESULTS)},
    legend=True,
)

if __name__ == "__main__":
    main(FIGURE, "cascade")
