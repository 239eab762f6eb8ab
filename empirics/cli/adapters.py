"""`certify` and `cascade`: adapters that were trained elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from empirics.cli.options import Json, Quiet, Resume
from empirics.cli.terminal import terminal

if TYPE_CHECKING:
    from empirics.routing.certified_cascade import AdaptedRule
    from theory.pruning import Kind


def certify(
    adapters: Annotated[list[str], typer.Argument(help="PEFT LoRA folders, or TASK=FOLDER; the task bears the folder's name by default.")],
    samples: Annotated[Path, typer.Option(help="CSV, TSV, JSONL or Parquet file with columns task, text or image, and optionally label.")],
    backbone: Annotated[Path | None, typer.Option(help="Folder of the encoder; the packaged all-MiniLM-L6-v2 by default.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for certificate.json, samples.parquet and signatures/; by default nothing is written.")
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            help="How tasks are scored: ratio, paper or frozen, chosen before the samples are seen; or all, which share the confidence."
        ),
    ] = "ratio",
    dimension: Annotated[
        int | None, typer.Option(help="Number of principal components kept; by default chosen from the number of samples.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of all certificates together, and of each interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the split of the samples and of every other draw.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change one setting over all others, as group.key=value: signature.clusters=dp-mixture. May be repeated."
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print certificate.json instead of a table.")] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Certify how often inputs are sent to the wrong one of several adapters trained elsewhere."""
    from empirics.config import load_certify_config
    from empirics.data.samples import read_samples
    from empirics.routing.certificate import print_certificate
    from empirics.routing.certify import certify as certified
    from empirics.routing.certify import named_folders

    options = {"rule": rule, "seed": seed, "confidence": confidence, "backbone": {"path": backbone}, "signature": {"dimension": dimension}}
    settings = load_certify_config(options, set_ or [])
    found = certified(named_folders(adapters), read_samples(samples), settings, source=str(samples), out=out, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(found.model_dump(mode="json"), allow_nan=False))
        return
    print_certificate(found, terminal())
    if out is not None:
        print(f"\nThe certificate and the signatures lie in {out}")


def cascade(
    certified: Annotated[Path, typer.Argument(help="Folder that certify --rule all --out wrote.")],
    rule: Annotated[str, typer.Option(help="Rule of the full search over all adapters: ratio or paper.")] = "ratio",
    kind: Annotated[str, typer.Option(help="How candidates are chosen: threshold, best, adaptive or absolute.")] = "threshold",
    alpha: Annotated[float, typer.Option(help="Share of inputs that may be lost against the full search.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the certificate.")] = 0.95,
    json_: Json = False,
) -> None:
    """Certify what is lost if a cheap screen leaves only some adapters to be run, and tell how many that are."""
    from empirics.routing.certified_cascade import fit_pruning

    _, judged = fit_pruning(certified, cast("AdaptedRule", rule), cast("Kind", kind), alpha, confidence)
    print(json.dumps(judged.to_dict(), allow_nan=False) if json_ else judged)
