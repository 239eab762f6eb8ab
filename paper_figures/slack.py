"""Where the slack of every rung goes: `python -m paper_figures.slack RUN -o FILE`."""

from __future__ import annotations

from empirics.figures.finished_run import RunFolder, arm_title
from paper_figures.command import Figure, Panel, main
from theory.plotting import plot_slack


def panels(run: RunFolder, arm: str | None, law: str | None, task: str | None) -> list[Panel]:
    """One waterfall, overall or of a task."""
    chosen = run.arm(arm, law)
    rows = run.slack_of(chosen, task)
    return [Panel(arm_title(chosen), rows, lambda ax: plot_slack(rows, ax=ax), 1.2 + 0.22 * len(rows))]


FIGURE = Figure(
    about="From the measured error to every rung, a step for each reason why it is larger.",
    source="run",
    panels=panels,
    legend=True,
    options={"arm": None, "law": None, "task": None},
)

if __name__ == "__main__":
    main(FIGURE, "slack")
