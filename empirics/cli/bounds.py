"""`bound`: the ladder of signatures from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import typer

from empirics.cli.options import Json, named
from empirics.cli.terminal import terminal
from theory.bound import Bound
from theory.errors import InputError
from theory.files import read_queries, read_rule
from theory.ladder import Ball, ladder
from theory.mixture import RuleKind
from theory.robust import Student
from theory.slack import slack

_WELL_SPECIFIED = (
    "Well-specified: bounds for queries that follow the signatures exactly, in one embedding space, all tasks equally frequent. Of other "
    "queries they guarantee nothing; --queries takes a law that was measured."
)


def bound(
    signatures: Annotated[
        Path, typer.Argument(help="A .safetensors or .npz file with arrays means (K, d), covariances (K, d, d) and task (K).")
    ],
    queries: Annotated[
        Path | None,
        typer.Option(help="A file with means, covariances and task measured on queries; by default queries follow the signatures."),
    ] = None,
    json_: Json = False,
    confidence: Annotated[float, typer.Option(help="With which the simulated rung, L6, holds.")] = 0.95,
    simulations: Annotated[int, typer.Option(help="Number of draws for the simulated rung, L6.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws for the simulated rung, L6.")] = 0,
    rule: Annotated[
        str, typer.Option(help="Score of a task: max (best component, as published), mixture (all of them) or angular.")
    ] = "max",
    batch: Annotated[int, typer.Option(help="Number of queries, known to be of one task, whose scores are added; for L4.")] = 1,
    intersections: Annotated[
        int,
        typer.Option(help="How many overlaps of two errors L5b computes exactly for each query component; more are sharper and slower."),
    ] = 4,
    student: Annotated[
        float | None, typer.Option(help="Add L11, for heavier tails: degrees of freedom of the common scale of a Student law.")
    ] = None,
    kl: Annotated[
        float | None, typer.Option(help="Add L12, for a query law that is wrong by at most this Kullback-Leibler divergence, in nats.")
    ] = None,
    why: Annotated[bool, typer.Option("--why", help="Also print what each rung gives away, and in which step of its proof.")] = False,
    screen: Annotated[
        float | None,
        typer.Option(help="For thousands of low-rank components: L5 alone, of which pairs that are not exact may make up this share."),
    ] = None,
    refine: Annotated[int, typer.Option(help="With --screen: at most so many pairs are computed exactly.")] = 1000,
    memory: Annotated[int, typer.Option(help="With --screen: MiB of memory to work in.")] = 1024,
) -> None:
    """Print the ladder of bounds for signatures from a file, without any pipeline."""
    if rule not in get_args(RuleKind):
        raise InputError("--rule", f"{rule!r} is no rule; choose one of {', '.join(get_args(RuleKind))}")
    scored = read_rule(signatures, cast(RuleKind, rule), shared=queries is None)
    known = scored.signatures
    if screen is not None:
        from empirics.reports.screening import print_screened, screened_json
        from empirics.reports.screening import screen as screened

        if queries is not None:
            raise InputError("--screen", "speaks of well-specified queries; leave out --queries")
        with named(_option):
            union = screened(scored, screen, refine, memory * 2**20)
        if json_:
            print(screened_json(union, known.names))
        else:
            print_screened(union, known.names, terminal(highlight=True))
        return
    law = read_queries(queries, known) if queries else None
    with named(_option):
        found = ladder(
            scored,
            law,
            rng=np.random.default_rng(seed),
            simulations=simulations,
            confidence=confidence,
            batch=batch,
            intersections=intersections,
            scale=Student(student) if student is not None else None,
            ball=Ball("kl", kl) if kl is not None else None,
        )
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
    from empirics.reports.report import print_ladder, print_slack

    console = terminal(highlight=True)
    print_ladder(found, console)
    if law is None:
        console.print(_WELL_SPECIFIED)
    if why:
        print_slack(slack(found), console)


def _option(argument: str) -> str:
    """The option that an argument of the ladder is given by; what is at fault in a file keeps its name."""
    options = {"kind": "--rule", "dof": "--student", "radius": "--kl", "tolerance": "--screen"}
    alike = ("simulations", "confidence", "batch", "intersections", "refine", "memory")
    return f"--{argument}" if argument in alike else options.get(argument, argument)


def _json(rungs: dict[str, Bound]) -> dict[str, dict[str, Any]]:
    # Nothing was measured, so nothing can be said of whether a rung holds.
    return {name: {**item.to_dict(), "holds": None, "broken_assumption": None} for name, item in rungs.items()}
