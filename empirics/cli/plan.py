"""`plan`: how many samples, how much separation, how many tasks, how large a batch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from empirics.cli.options import Json, named
from empirics.cli.terminal import terminal

if TYPE_CHECKING:
    from theory.planner import Plan

plan_app = typer.Typer(name="plan", help="How many samples, how much separation, how many tasks, how large a batch.", no_args_is_help=True)

_Tasks = Annotated[int, typer.Option(help="Number of tasks.")]
_Components = Annotated[int, typer.Option(help="Gaussian components of each task.")]
_Dimension = Annotated[int, typer.Option(help="Dimension of the embeddings.")]
_Delta = Annotated[
    float, typer.Option("--separation", help="Of every wrong component: its squared Mahalanobis distance over the dimension (delta).")
]
_Error = Annotated[float, typer.Option("--error", help="Target error, between 0 and 1.")]
_OneRung = Annotated[str | None, typer.Option(help="Rung of the ladder to plan with: L1, L3 or L5; all three by default.")]


@plan_app.command("separation")
def plan_separation(
    tasks: _Tasks, dimension: _Dimension, error: _Error, components: _Components = 1, rung: _OneRung = None, json_: Json = False
) -> None:
    """The least separation at which the bound on the error of well-specified signatures meets the target."""
    from theory.planner import PLANNED_RUNGS, separation_for

    with named(_option):
        _show_plans([separation_for(tasks, components, dimension, error, name) for name in ([rung] if rung else PLANNED_RUNGS)], json_)


@plan_app.command("tasks")
def plan_tasks(
    separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, rung: _OneRung = None, json_: Json = False
) -> None:
    """The greatest number of tasks that a separation holds."""
    from theory.planner import PLANNED_RUNGS, tasks_for

    with named(_option):
        _show_plans([tasks_for(separation, dimension, components, error, name) for name in ([rung] if rung else PLANNED_RUNGS)], json_)


@plan_app.command("samples")
def plan_samples(
    tasks: _Tasks, separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, json_: Json = False
) -> None:
    """The samples per cluster that are enough, in expectation, for signatures estimated from them."""
    from theory.planner import samples_per_cluster

    with named(_option):
        _show_plans([samples_per_cluster(dimension, tasks, components, separation, error)], json_)


@plan_app.command("batch")
def plan_batch(
    tasks: _Tasks, separation: _Delta, dimension: _Dimension, error: _Error, components: _Components = 1, json_: Json = False
) -> None:
    """The least batch of queries of one task, scores summed, that meets the target."""
    from theory.planner import batch_for

    with named(_option):
        _show_plans([batch_for(tasks, components, dimension, separation, error)], json_)


def _option(argument: str) -> str:
    """The option that an argument of the planner is given by."""
    return {"d": "--dimension", "delta": "--separation", "eps": "--error"}.get(argument, f"--{argument}")


def _show_plans(plans: list[Plan], json_: bool) -> None:
    """Print plans, one row for each rung, and what they assume."""
    if json_:
        print(json.dumps({"plans": [plan.to_dict() for plan in plans]}, allow_nan=False))
        return
    from rich.table import Table

    table = Table(
        "rung", "level", "answer", "error at most", "next cheaper", "error at most", title=plans[0].question, title_justify="left"
    )
    for plan in plans:
        answer = "none" if plan.answer is None else _plain(plan.answer)
        other = plan.neighbour_bound
        table.add_row(
            plan.rung,
            plan.level.value,
            answer,
            f"{plan.value:.6g}",
            "-" if plan.neighbour is None else _plain(plan.neighbour),
            "-" if other is None else f"{other.value:.6g}",
        )
    console = terminal()
    console.print(table)
    for plan in plans:
        if plan.note:
            console.print(f"{plan.rung}: {plan.note}.", markup=False)
    console.print(f"Assumes: {plans[0].assumptions}.", markup=False)


def _plain(number: float) -> str:
    """A number as text: whole ones in full unless they are astronomical, others with the six digits that they have."""
    if isinstance(number, int):
        digits = str(number)
        return digits if len(digits) <= 30 else f"about {digits[0]}.{digits[1:6]}e{len(digits) - 1}"
    return f"{number:.6g}"
