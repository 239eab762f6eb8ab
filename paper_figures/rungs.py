"""Measured error against every rung: `python -m paper_figures.rungs RUN -o FILE`."""

from __future__ import annotations

from functools import partial

from empirics.figures.finished_run import RunFolder, arm_title
from empirics.figures.plotting import plot_rungs
from empirics.figures.tables import rung_table
from paper_figures.command import Figure, Panel, main


def panels(run: RunFolder, units: str, arm: str | None, law: str | None) -> list[Panel]:
    """A row for each task; or a panel for each task, with a row for each of its clusters."""
    chosen = run.arm(arm, law)
    groups = run.units(chosen, units)
    return [
        Panel(": ".join(filter(None, (arm_title(chosen), name))), rung_table(rows), partial(plot_rungs, rows), 0.7 + 0.3 * len(rows))
        for name, rows in groups.items()
    ]


FIGURE = Figure(
    about="Measured error of every task (--units clusters: class) against every rung, with the assumption that broke.",
    source="run",
    panels=panels,
    legend=True,
    options={"units": "tasks", "arm": None, "law": None},
)

if __name__ == "__main__":
    main(FIGURE, "rungs")
