"""`compare`, `ablate` and `compare-runs`: methods, settings and runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from empirics.cli.options import Config, Json, Preset, Quiet, Resume, Set
from empirics.cli.terminal import tell_page, terminal
from theory.errors import InputError


def compare_runs(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs; the others are set against the first.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page to this file, such as runs.html.")] = None,
    json_: Json = False,
) -> None:
    """Set runs side by side: settings, measured errors with their differences, bounds that stand, seconds and bytes."""
    from empirics.comparisons.run_comparison import compare_runs as compared
    from empirics.page.html import need_report_extra
    from empirics.page.side_by_side import side_by_side
    from empirics.page.terminal import print_page

    if html is not None:
        need_report_extra()
    found = compared(runs)
    if html is not None:
        from empirics.page.write import write_comparison_page

        write_comparison_page(found, html)
    if json_:
        print(json.dumps(found, allow_nan=False))
        return
    print_page(side_by_side(found), terminal(180))
    tell_page(html)


def ablate(
    out: Annotated[Path | None, typer.Option(help="Folder that the ablation is written to; runs/ablation-PRESET-seedN by default.")] = None,
    config: Config = None,
    preset: Preset = "default",
    set_: Set = None,
    variants: Annotated[
        Path | None, typer.Option(help="YAML or TOML file of variants, {group: {name: {settings}}}; a shipped one by default.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run and show this group of variants only. May be repeated.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print ablation.json instead of a table.")] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Set variants of a run against it: composition, signatures, dimension. A folder that holds some of them is continued."""
    from empirics.comparisons.ablation import ablate as ablated
    from empirics.comparisons.ablation import chosen_variants, read_variants
    from empirics.comparisons.ablation_table import print_ablation
    from empirics.config import load_config

    base = load_config(config, preset, set_ or [])
    folder = out or Path("runs") / f"ablation-{preset}-seed{base.seed}"
    summary = ablated(base, chosen_variants(read_variants(base, variants), only or []), folder, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(summary, allow_nan=False))
        return
    print_ablation(summary, terminal(180))
    print(f"\nThe runs lie in {folder / 'runs'}; the table is {folder / 'ablation.md'}")


def compare(
    stream: Annotated[
        str | None, typer.Option(help="Shipped stream of tasks, such as text-5t or news-4t; by default that of the settings.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML or TOML file of settings, over those of the preset; not with --stream.")] = None,
    preset: Preset = "compare",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; each deals the documents and draws everything anew.")] = None,
    orders: Annotated[int | None, typer.Option(help="Number of task orders for each seed: the stream's own, then random ones.")] = None,
    methods: Annotated[str | None, typer.Option(help="Names of methods, with commas between them; all by default.")] = None,
    reference: Annotated[str | None, typer.Option(help="Method that the others are tested against, of those compared.")] = None,
    set_: Set = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder, continued if it holds the same comparison; runs/compare-STREAM-seedN by default.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print comparison.json instead of a table.")] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Compare PROTEUS with its rivals and controls on the same documents, over seeds and task orders."""
    from empirics.comparisons.comparison import compare as compared
    from empirics.comparisons.standings import print_comparison
    from empirics.config import load_config

    if stream is not None and config is not None:
        raise InputError("--stream", "cannot be given beside --config, which names the stream; leave one of them out")
    options = {
        "stream.name": stream,
        "compare.seeds": seeds,
        "compare.orders": orders,
        "compare.methods": None if methods is None else [name.strip() for name in methods.split(",")],
        "compare.reference": reference,
    }
    # JSON's strings are YAML's: a name may hold any character.
    given = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    settings = load_config(config, preset, [*given, *(set_ or [])])
    name = settings.stream.name if settings.stream.path is None else settings.stream.path.stem
    folder = out or Path("runs") / f"compare-{name}-seed{settings.seed}"
    summary = compared(settings, folder, quiet=quiet, resume=resume)
    if json_:
        print(json.dumps(summary, allow_nan=False))
        return
    print_comparison(summary, terminal())
    print(f"\nThe comparison lies in {folder}; the table is {folder / 'comparison.md'}")
