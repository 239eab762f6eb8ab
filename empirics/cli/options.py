"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from theory.errors import InputError

Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with what was cut short; refused if the folder holds no unfinished work of the same settings."),
]

Preset = Annotated[
    str,
    typer.Option(
        help="Shipped settings to start from: default, news-4t, small (a minute or two), compare; digits, mnist (images); "
        "of data from the hub, cifar100-10t, cifar100-20t, imagenet-r-10t, imagenet-a-10t, vtab-5t."
    ),
]
Config = Annotated[Path | None, typer.Option(help="YAML or TOML file of settings, over those of the preset.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting over all others, as group.key=value: training.epochs=2. May be repeated."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@contextmanager
def named(option: Callable[[str], str]) -> Iterator[None]:
    """Name the option at fault, where a function names its argument."""
    try:
        yield
    except InputError as error:
        raise InputError(option(error.argument), error.problem) from None
