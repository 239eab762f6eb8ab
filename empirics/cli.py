"""The command `proteus-bounds`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from theory.bound import Bound
from theory.errors import InputError
from theory.files import read_queries, read_signatures
from theory.ladder import ladder
from theory.mixture import Rule

app = typer.Typer(
    name="proteus-bounds",
    help="Bounds on task-retrieval error in continual fine-tuning, set against measured error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def verify(
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME-seedN by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings.")] = None,
    preset: Annotated[str, typer.Option(help="Shipped settings to start from: default, news-4t or small.")] = "default",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override one setting: group.key=value. May be repeated.")] = None,
    fresh: Annotated[bool, typer.Option(help="If --out is not given, number the folder rather than refuse one that exists.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Run the pipeline and set measured retrieval error against every bound."""
    from empirics.config import load_config
    from empirics.pipeline import run

    settings = load_config(config, preset, set_ or [])
    folder = out or Path("runs") / f"{preset}-seed{settings.seed}"
    if fresh and out is None:
        number = 1
        while folder.exists():
            number += 1
            folder = Path("runs") / f"{preset}-seed{settings.seed}-{number}"
    report_ = run(settings, folder, quiet=quiet)
    _show(report_)
    print(f"\nThe run lies in {folder}; the whole report is {folder / 'report.md'}")


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.")], quiet: bool = False) -> None:
    """Recompute the report of a run from its files alone, and print it."""
    from empirics.pipeline import evaluate
    from empirics.record import PhaseClock

    _show(evaluate(run, PhaseClock(quiet)))


def _show(found: object) -> None:
    from empirics.report import print_report

    print_report(found, Console(width=None if sys.stdout.isatty() else 150))


@app.command()
def bound(
    signatures: Annotated[Path, typer.Argument(help="A .safetensors or .npz file with means, covariances, task.")],
    queries: Annotated[Path | None, typer.Option(help="A file with measured moments of queries (the query law).")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    confidence: Annotated[float, typer.Option(help="Of the simulated rung.")] = 0.95,
    simulations: Annotated[int, typer.Option(help="Draws for the simulated rung.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of the simulated rung.")] = 0,
) -> None:
    """Print the ladder of bounds for signatures from a file, without any pipeline."""
    known = read_signatures(signatures)
    law = read_queries(queries, known) if queries else None
    found = ladder(Rule(known), law, rng=np.random.default_rng(seed), simulations=simulations, confidence=confidence)
    if json_:
        print(
            json.dumps(
                {
                    "law": found.law,
                    "clusters": [{"task": k, "index": t, "rungs": _json(rungs)} for (k, t), rungs in found.clusters.items()],
                    "tasks": [{"task": k, "name": known.names[k], "rungs": _json(rungs)} for k, rungs in found.tasks.items()],
                    "overall": {"rungs": _json(found.overall)},
                },
                allow_nan=False,
            )
        )
        return
    from empirics.report import print_ladder

    print_ladder(found, Console(width=None if sys.stdout.isatty() else 150))


def _json(rungs: dict[str, Bound]) -> dict[str, dict]:
    # Nothing was measured, so nothing can be said of whether a rung holds.
    return {name: {**item.to_dict(), "holds": None, "broken_assumption": None} for name, item in rungs.items()}


def main() -> None:
    """Run the command; bad input is one line on standard error and exit status 2."""
    try:
        app()
    except InputError as error:
        print(f"proteus-bounds: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
