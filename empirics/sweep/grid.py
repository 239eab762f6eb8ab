"""The cells of a sweep: which settings go through which values, and in what combinations (docs/how-to/sweeps.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from empirics.config import CompareConfig, RunConfig, changed_config, load_config, presets, read_table, unknown_key
from theory.errors import InputError

# Paths of a grid that are no settings of a run.
PRESET, ORDER = "preset", "order"
# What takes the place of these settings.
_INSTEAD = {"compare.seeds": "seed", "compare.orders": ORDER}
Values = dict[str, list[Any]]


class Grid(BaseModel):
    """A table of settings and the values they go through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["run", "compare"] = Field("run", description="what a cell is: a run, or one seed and order of a comparison")
    preset: str | list[str] = Field("default", description="shipped settings to start from; several: everything below with each")
    settings: dict[str, Any] = Field({}, description="settings that all cells share, as in a file of settings")
    product: Values | list[Values] = Field(
        {}, description="values of each setting, all combinations; a list of such tables: one after another"
    )
    zip: list[Values] = Field([], description="groups of settings that change together: first values, second values, and so on")

    @model_validator(mode="after")
    def _zipped_alike(self) -> Self:
        for group in self.zip:
            lengths = {path: len(values) for path, values in group.items()}
            if len(set(lengths.values())) > 1:
                told = ", ".join(f"{path} has {n}" for path, n in lengths.items())
                raise ValueError(f"settings that change together need as many values each: {told}")
        return self

    @model_validator(mode="after")
    def _some_values(self) -> Self:
        for table in (*self._products(), *self.zip):
            for path, values in table.items():
                if not values:
                    raise ValueError(f"{path} has no values")
        return self

    def _products(self) -> list[Values]:
        return self.product if isinstance(self.product, list) else [self.product]

    def points(self) -> Iterator[dict[str, Any]]:
        """Every combination of values, in the order of the file, the last setting fastest."""
        zipped = [[dict(zip(group, row, strict=True)) for row in zip(*group.values(), strict=True)] for group in self.zip]
        bases = [[{PRESET: name} for name in self.preset]] if isinstance(self.preset, list) else []
        for table in self._products():
            axes = [[{path: value} for value in values] for path, values in table.items()]
            for chosen in itertools.product(*bases, *axes, *zipped):
                point: dict[str, Any] = {}
                for part in chosen:
                    for path in part.keys() & point.keys():
                        raise InputError(path, "is given more than once; let it stand in one place")
                    point |= part
                yield point


@dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes
    ----------
    kind : {"run", "compare"}
    order : int or None
        Task order of a comparison, of those that `empirics.comparisons.comparison.task_orders` draws.
    changes : mapping from setting to value
        What the grid says of this cell.
    config : RunConfig
        All settings. What has no say in the cell stands at its default, so that two grids that mean the same have the same cell.
    """

    kind: Literal["run", "compare"]
    order: int | None
    changes: Mapping[str, Any]
    config: RunConfig

    def __str__(self) -> str:
        return label(self.changes)


def label(changes: Mapping[str, Any]) -> str:
    """Settings and their values in a line."""
    return ", ".join(f"{path}={value}" for path, value in changes.items()) or "the settings as they are"


def shipped_grids() -> list[str]:
    """Names of the shipped grids."""
    files = resources.files("empirics").joinpath("configs", "sweep").iterdir()
    return sorted(p.name.removesuffix(".yaml") for p in files if p.name.endswith(".yaml"))


def grid_path(name: str) -> Path:
    """A file, or the shipped grid of that name where there is no such file."""
    if not Path(name).exists() and name in shipped_grids():
        return Path(str(resources.files("empirics").joinpath("configs", "sweep", f"{name}.yaml")))
    return Path(name)


def read_grid(path: Path) -> tuple[Cell, ...]:
    """The cells of a YAML or TOML file, each once, in its order.

    Raises
    ------
    InputError
        For a file that cannot be read or is no grid; for an unknown preset or setting or a value out of range, naming the cell.
    """
    table = read_table(path)
    if not table:
        raise InputError(str(path), "is empty; name a preset, settings, or a product of them")
    try:
        grid = Grid.model_validate(table)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            told = f"{key}: {item['msg']}".removeprefix(": ").replace("Value error, ", "")
            problems.append(unknown_key(key, Grid) if item["type"] == "extra_forbidden" else told)
        raise InputError(str(path), "; ".join(problems)) from None
    try:
        points = list(grid.points())
    except InputError as error:
        raise InputError(str(path), f"{error.argument} {error.problem}") from None
    bases: dict[str, RunConfig] = {}
    cells = [_cell(grid, point, bases, str(path)) for point in points]
    if not cells:
        raise InputError(str(path), "has no cells; product is an empty list")
    once: dict[str, Cell] = {}
    for cell in cells:
        once.setdefault(_identity(cell), cell)
    return tuple(once.values())


def _identity(cell: Cell) -> str:
    return f"{cell.kind} {cell.order} {cell.config.model_dump_json()}"


def _cell(grid: Grid, point: dict[str, Any], bases: dict[str, RunConfig], source: str) -> Cell:
    own = dict(point)
    preset, order = own.pop(PRESET, grid.preset), own.pop(ORDER, None)
    where = f"{source}: cell {label(point)}"
    if not isinstance(preset, str) or preset not in presets():
        raise InputError(where, f"preset {preset!r} is unknown; choose from {', '.join(presets())}")
    if preset not in bases:
        bases[preset] = changed_config(load_config(preset=preset), grid.settings, f"{source}: settings")
    for path, instead in _INSTEAD.items():
        group, name = path.split(".")
        if path in own or name in (own.get(group) or {}) or name in (grid.settings.get(group) or {}):
            raise InputError(where, f"{path} has no say in a sweep; give {instead} the values that it is to go through")
    changes: dict[str, Any] = {}
    for path, value in own.items():
        _lay(changes, path.split("."), value, where)
    config = changed_config(bases[preset], changes, where)
    if grid.kind == "run":
        if order is not None:
            raise InputError(where, "order is of comparisons; the order of a run's tasks is stream.tasks")
        compared = CompareConfig()
    else:
        if order is None:
            order = 0
        if isinstance(order, bool) or not isinstance(order, int) or order < 0:
            raise InputError(where, f"order is a number from 0 on, got {order!r}")
        compared = config.compare.model_copy(update={"seeds": 1, "orders": order + 1})
    # One thread unless the grid says otherwise: how many cells run beside it must have no say in the last bits of a cell.
    config = config.model_copy(update={"compare": compared, "threads": config.threads or 1})
    return Cell(grid.kind, order, point, config)


def _lay(changes: dict[str, Any], path: Sequence[str], value: Any, where: str) -> None:
    """Put a value at its place in nested groups of settings."""
    *groups, name = path
    for group in groups:
        changes = changes.setdefault(group, {})
        if not isinstance(changes, dict):
            raise InputError(where, f"gives {'.'.join(path)} and a value for {group} as a whole; leave one of them out")
    if name in changes:
        raise InputError(where, f"gives {'.'.join(path)} twice")
    changes[name] = value
