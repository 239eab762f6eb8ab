"""Required separation over the dimension: `python -m paper_figures.required_dimension -o FILE`."""

from __future__ import annotations

from functools import partial

from paper_figures.command import Figure, Panel, main, numbers
from theory.curves import required_separation
from theory.plotting import plot_required_separation

NOTE = "Error 0.01, unit covariances. Published criterion as restated\nfrom a script in two readings: its text was not available."


def panels(dimensions: str, tasks: str) -> list[Panel]:
    """A panel for each number of tasks."""
    frame = required_separation(numbers("tasks", tasks), numbers("dimensions", dimensions))
    return [
        Panel(f"m = {m}", rows, partial(plot_required_separation, rows, x="dimension"), 1.9)
        for m, rows in frame.groupby("tasks", sort=False)
    ]


FIGURE = Figure(
    about="The separation that our bounds and both readings of the published criterion ask for, over the dimension.",
    panels=panels,
    options={"dimensions": "8,16,32,64,128,256,512,1024", "tasks": "5,100"},
    legend=True,
    note=NOTE,
)

if __name__ == "__main__":
    main(FIGURE, "required_dimension")
