"""Test embeddings and signatures in two dimensions: `python -m paper_figures.embedding RUN -o FILE`."""

from __future__ import annotations

from empirics.figures.finished_run import RunFolder, arm_title
from empirics.figures.plotting import plot_embedding
from empirics.figures.tables import plane_table
from paper_figures.command import Figure, Panel, main


def panels(run: RunFolder, arm: str, space: int) -> list[Panel]:
    """One space: shared by all tasks in the frozen arm, else that of task number `space`."""
    chosen = run.arm(arm)
    (z, task), rule = run.embeddings(chosen), run.rule(chosen)
    where = "" if z.shape[1] == 1 else f", space of {run.names[space]}"
    return [
        Panel(
            arm_title(chosen) + where,
            plane_table(z, task, rule.signatures, run.names, space),
            lambda ax: plot_embedding(z, task, rule, run.names, space=space, ax=ax),
            3.6,
        )
    ]


FIGURE = Figure(
    about="Test embeddings with the ellipses of the signatures, in the plane in which the signatures' means spread most.",
    source="run",
    panels=panels,
    legend=True,
    options={"arm": "frozen", "space": 0},
)

if __name__ == "__main__":
    main(FIGURE, "embedding")
