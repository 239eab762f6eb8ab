"""Own distances of a run against chi-square and F: `python -m paper_figures.own_distance RUN -o FILE`."""

from __future__ import annotations

from empirics.figures.finished_run import RunFolder, arm_title
from empirics.figures.plotting import plot_own_distances
from empirics.figures.tables import own_distance_table
from paper_figures.command import Figure, Panel, main


def panels(run: RunFolder, arm: str | None, law: str | None, task: str | None) -> list[Panel]:
    """All test documents, or those of a task."""
    chosen = run.arm(arm, law)
    found = run.own_distances(chosen, task)
    d = found.dimension
    table = own_distance_table(found.measured, d, found.counts, found.law)
    notes = [arm_title(chosen), "" if run.plain_covariance or found.counts is None else "F: not exact, covariances are shrunk"]
    notes.append(f"{found.left_out} documents of small classes left out" if found.left_out else "")
    return [
        Panel(
            "\n".join(filter(None, notes)),
            table,
            lambda ax: plot_own_distances(found.measured, dimension=d, count=found.counts, law=found.law, ax=ax),
            2.4,
        )
    ]


FIGURE = Figure(
    about="How often squared distances of test documents to their own component exceed a value, against chi-square, F and the query law.",
    source="run",
    panels=panels,
    legend=True,
    options={"arm": "paper", "law": None, "task": None},
)

if __name__ == "__main__":
    main(FIGURE, "own_distance")
