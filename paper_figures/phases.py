"""Time and memory of a run by phase: `python -m paper_figures.phases RUN -o FILE`."""

from __future__ import annotations

from empirics.figures.finished_run import RunFolder
from empirics.figures.plotting import plot_phases
from empirics.figures.tables import phase_table
from paper_figures.command import Figure, Panel, main


def panels(run: RunFolder) -> list[Panel]:
    """A bar for each phase."""
    table = phase_table(run.report.run)
    return [Panel("", table, lambda ax: plot_phases(run.report.run, ax=ax), 0.6 + 0.16 * len(table))]


FIGURE = Figure(about="Seconds of each phase of a run, and its memory.", source="run", panels=panels)

if __name__ == "__main__":
    main(FIGURE, "phases")
