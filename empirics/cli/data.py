"""`data check`: what a run would see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from empirics.cli.options import Config, Json, Preset, Set
from empirics.cli.terminal import terminal

data_app = typer.Typer(name="data", help="Look at the data of a run.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    file: Annotated[
        Path | None, typer.Argument(help="Own data, a table or a folder of images; without it, the stream of the settings.")
    ] = None,
    config: Config = None,
    preset: Preset = "default",
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Tell what a run would see of its data: tasks in order, classes, documents of each part, sizes, warnings."""
    from empirics.config import load_config
    from empirics.data.check import check_data, print_summary

    # JSON's strings are YAML's: a path may hold any character.
    own = [f"stream.path={json.dumps(str(file))}"] if file is not None else []
    summary = check_data(load_config(config, preset, [*own, *(set_ or [])]))
    if json_:
        print(json.dumps(summary.to_dict(), allow_nan=False))
        return
    print_summary(summary, terminal())
