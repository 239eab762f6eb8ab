"""Required separation over the number of tasks: `python -m paper_figures.required_tasks -o FILE`."""

from __future__ import annotations

from functools import partial

from paper_figures.command import Figure, Panel, main, numbers
from paper_figures.required_dimension import NOTE
from theory.curves import required_separation
from theory.plotting import plot_required_separation


def panels(tasks: str, dimensions: str) -> list[Panel]:
    """A panel for each dimension."""
    frame = required_separation(numbers("tasks", tasks), numbers("dimensions", dimensions))
    return [
        Panel(f"d = {d}", rows, partial(plot_required_separation, rows, x="tasks"), 1.9)
        for d, rows in frame.groupby("dimension", sort=False)
    ]


FIGURE = Figure(
    about="The separation that our bounds and both readings of the published criterion ask for, over the number of tasks.",
    panels=panels,
    options={"tasks": "2,5,10,20,50,100,200,500,1000", "dimensions": "16,384"},
    legend=True,
    note=NOTE,
)

if __name__ == "__main__":
    main(FIGURE, "required_tasks")
