"""`proteus-bounds bound --screen`: the overall bound for very many components, in words or as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from empirics.reports.rounding import rounded_up
from theory.mixture import Rule
from theory.screening import Screened, screened

# Tasks and pairs that are listed for people; JSON has all tasks.
_LISTED = 10


def screen(rule: Rule, tolerance: float, refine: int, memory: int) -> Screened:
    """`theory.screening.screened`, with a bar for either stage where people look."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as progress:
        pairs = progress.add_task("pairs in closed form", total=len(rule.signatures) ** 2)
        exact = progress.add_task("pairs refined, at most", total=refine)
        return screened(
            rule,
            tolerance=tolerance,
            refine=refine,
            memory=memory,
            advance=lambda n: progress.advance(pairs, n),
            refined=lambda n: progress.advance(exact, n),
        )


def screened_json(found: Screened, names: tuple[str, ...]) -> str:
    """All of it but the summary of pairs, as JSON."""
    return json.dumps(
        {
            "law": "well-specified",
            "overall": {"rungs": {"L5": found.bound.to_dict()}},
            "tasks": [{"task": k, "name": name, "log_value": float(found.log_tasks[k])} for k, name in enumerate(names)],
            "pairs": {"all": found.pairs, "exact": found.exact, "chernoff": found.chernoff},
            "settled": found.settled,
        },
        allow_nan=False,
    )


def print_screened(found: Screened, names: tuple[str, ...], console: Console) -> None:
    """Print the overall bound, how it was come by, and the tasks with the greatest bounds."""
    vacuous = " (vacuous: it says nothing)" if found.bound.vacuous else ""
    console.print(f"Error overall, well-specified queries, union of pairs: at most {rounded_up(found.bound.value)}{vacuous}")
    console.print(f"{found.bound.note}.", highlight=False)
    table = Table("task", "error at most", title="The tasks with the greatest bounds")
    for k in np.argsort(-found.log_tasks, kind="stable")[:_LISTED]:
        value = 1.0 if found.log_tasks[k] >= 0 else float(np.nextafter(np.exp(found.log_tasks[k]), 2.0))
        # A name may hold brackets, and must not be read as markup.
        table.add_row(Text(names[k]), rounded_up(value))
    console.print(table)
