"""The command `proteus-bounds`: its commands are in the modules of this package, and stand in its help in the order of this one."""

from __future__ import annotations

import sys
import warnings

import typer

from empirics.cli.adapters import cascade, certify
from empirics.cli.bounds import bound
from empirics.cli.comparisons import ablate, compare, compare_runs
from empirics.cli.data import data_app
from empirics.cli.plan import plan_app
from empirics.cli.runs import audit, report, verify
from empirics.cli.sweep import sweep_app
from empirics.files.home import do_without_a_home
from empirics.processes import is_main, stop
from theory.errors import InputError

app = typer.Typer(
    name="proteus-bounds",
    help="Bounds on task-retrieval error in continual fine-tuning, set against measured error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (verify, report, audit, compare_runs, ablate, compare, bound, certify, cascade):
    app.command(command.__name__.replace("_", "-"))(command)
for group in (data_app, sweep_app, plan_app):
    app.add_typer(group)


def main() -> None:
    """Run the command; one line on standard error tells of bad input (exit status 2) and of a full or failing disk (1)."""
    do_without_a_home()
    # It is imported by others, and warns where no semaphores are to be had; sweeps alone start processes by it, and say so themselves.
    warnings.filterwarnings("ignore", ".*joblib will operate in serial mode", UserWarning)
    try:
        app()
    except InputError as error:
        if is_main():
            print(f"proteus-bounds: {' '.join(str(error).split())}", file=sys.stderr)
        stop(2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = " ".join(str(error.strerror or error).split())
        print(f"proteus-bounds: {where}{what}; no file is half-written: mend this and run the same command again", file=sys.stderr)
        stop(1)
