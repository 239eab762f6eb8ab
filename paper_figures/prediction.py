"""Does the theory predict: `python -m paper_figures.prediction ABLATION -o FILE`."""

from __future__ import annotations

from empirics.figures.folders import AblationFolder
from empirics.figures.plotting import plot_prediction
from empirics.figures.tables import prediction_table
from paper_figures.command import Figure, Panel, main


def panels(ablation: AblationFolder, arm: str | None, group: str) -> list[Panel]:
    """Predicted and measured error over the dimension."""
    reports = ablation.reports(group)
    name = arm or reports[0].headline.arm
    table = prediction_table(reports, name)
    return [Panel(f"retrieval: {name}", table, lambda ax: plot_prediction(table, ax=ax), 2.4)]


FIGURE = Figure(
    about="Measured error over the dimension, and what coarse and fine query laws fitted to held-out documents predict.",
    source="ablation",
    panels=panels,
    legend=True,
    options={"arm": None, "group": "dimension"},
)

if __name__ == "__main__":
    main(FIGURE, "prediction")
