"""`sweep`: many runs or comparisons from one table of settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from empirics.cli.options import Json, Quiet
from empirics.cli.terminal import terminal


class _RunByDefault(TyperGroup):
    """A group whose first word may be left out: `sweep GRID.yaml` is `sweep run GRID.yaml`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        """Put the command's name in, where the first word is none."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweep_app = typer.Typer(
    name="sweep",
    cls=_RunByDefault,
    help="Many runs or comparisons from one table of settings. `proteus-bounds sweep GRID.yaml` is `proteus-bounds sweep run GRID.yaml`.",
    no_args_is_help=True,
)
_Grid = Annotated[str, typer.Argument(metavar="GRID", help="YAML or TOML file of settings and their values, or the name of a shipped one.")]
_Out = Annotated[Path | None, typer.Option(help="Folder of the sweep, which may hold other sweeps; runs/sweep-GRID by default.")]


@sweep_app.command("run")
def run(
    grid: _Grid,
    out: _Out = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Number of processes; by default the cores over the threads of a cell.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers compute: tcp://head:8786.")] = None,
    retries: Annotated[int, typer.Option(min=1, help="How often a cell whose process was killed is tried again.")] = 1,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute the cells that are missing, and write one table; status 3 if a cell failed."""
    from empirics.sweep.grid import grid_path, read_grid
    from empirics.sweep.run import sweep
    from empirics.sweep.table import print_table

    path = grid_path(grid)
    cells, folder = read_grid(path), out or _folder(path)
    try:
        table = sweep(cells, folder, path.stem, jobs=jobs, scheduler=scheduler, retries=retries, quiet=quiet)
    except KeyboardInterrupt:
        print("proteus-bounds: interrupted; cells that are done are kept: the same command goes on with the others", file=sys.stderr)
        raise SystemExit(130) from None
    if json_:
        print(table.to_json(orient="records"))
    else:
        print_table(table, terminal(180))
        print(f"\nThe sweep lies in {folder}; the table is {folder / path.stem}.parquet and .csv")
    if (table["state"] != "done").any():
        print(f"proteus-bounds: not all cells are done; {folder / 'cells'}/*/failure.txt say why", file=sys.stderr)
        raise SystemExit(3)


@sweep_app.command("status")
def status(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="The grid, or the folder of a sweep.")],
    out: _Out = None,
    json_: Json = False,
) -> None:
    """Tell how many cells are done, failed, running and missing, and which belong to no sweep any more, without computing any."""
    from empirics.sweep.grid import grid_path, read_grid
    from empirics.sweep.status import cells_of_none, print_status, status_json, status_of_cells, status_of_folder

    path = grid_path(grid)
    folder = path if path.is_dir() else out or _folder(path)
    found = status_of_folder(path) if path.is_dir() else {path.stem: status_of_cells(read_grid(path), folder)}
    if json_:
        print(json.dumps(status_json(found), allow_nan=False))
        return
    print_status(found, cells_of_none(folder, found), terminal(180))


def _folder(path: Path) -> Path:
    return Path("runs") / f"sweep-{path.stem}"
