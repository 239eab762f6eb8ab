"""Finished comparisons and ablations as figures read them. No torch, no plotting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from empirics.comparisons import ablation_table, standings
from empirics.comparisons.standings import cell_folder
from empirics.figures.finished_run import open_run
from empirics.files.record import read_json
from empirics.reports.report import Report
from empirics.runs.run_folder import SIGNS, first_problem, kind_of
from theory.errors import InputError

_MAKERS = {"comparison": "compare", "ablation": "ablate"}


def _known(path: Path, wanted: Literal["comparison", "ablation"]) -> Path:
    """The file that says what a finished folder of a kind found; refuse every other folder in one line."""
    advice = f"give the folder of {_article(wanted)}, which proteus-bounds {_MAKERS[wanted]} makes"
    if not path.is_dir():
        raise InputError(str(path), f"is no folder; {advice}")
    found = kind_of(path)
    if found != wanted:
        raise InputError(str(path), f"is {'nothing known here' if found is None else _article(found)}; {advice}")
    file = path / SIGNS[wanted][0]
    if not file.is_file():
        raise InputError(str(path), f"holds {_article(wanted)} that did not finish: {file.name} is missing; finish it first")
    return file


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "ablation" else f"a {kind}"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Method(_Strict):
    name: str
    role: str
    forgetting: float


class _CellKey(_Strict):
    seed: int
    order: int


class _Comparison(_Strict):
    """What is read here of `comparison.json`."""

    reference: str
    methods: list[_Method] = Field(min_length=1)
    cells: list[_CellKey]


class _Learned(_Strict):
    retrieval_matrix: list[list[float]]


class _Cell(_Strict):
    """What is read here of `cell.json`."""

    tasks: list[str] = Field(min_length=1)
    methods: dict[str, _Learned]

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if any([len(row) for row in m.retrieval_matrix] != list(range(1, len(self.tasks) + 1)) for m in self.methods.values()):
            raise ValueError("a retrieval matrix has other rows than stages")
        return self


class _Variant(_Strict):
    group: str
    run: str


class _Ablation(_Strict):
    """What is read here of `ablation.json`."""

    variants: list[_Variant] = Field(min_length=1)


def _checked(file: Path, content: Any, model: type[_Comparison] | type[_Cell] | type[_Ablation]) -> Any:
    """The same content, of which what is read here is as it should be."""
    try:
        model.model_validate(content)
    except ValidationError as error:
        raise InputError(str(file), f"is damaged ({first_problem(error)})") from None
    return content


def _content(file: Path, wanted: int) -> dict[str, Any]:
    """What the file holds, if it is of a schema that is read here."""
    content = read_json(file)
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if schema != wanted:
        raise InputError(str(file), f"has schema {schema}; this version reads {wanted}: make it again in another folder")
    return content


@dataclass(frozen=True)
class ComparisonFolder:
    """A finished comparison.

    Attributes
    ----------
    path : Path
    summary : dict
        What `comparison.json` holds.
    """

    path: Path
    summary: dict[str, Any]

    def contrast(self) -> list[str]:
        """The reference, and the method (no control) that forgets most."""
        methods = [row for row in self.summary["methods"] if row["role"] != "control"]
        forgets = sorted(methods, key=lambda row: -row["forgetting"])[:1]
        return list(dict.fromkeys([self.summary["reference"], *(row["name"] for row in forgets)]))

    def retrieval_matrix(self, method: str, order: int = 0) -> tuple[list[list[float]], list[str]]:
        """Share of each task's documents that a method retrieves rightly after each stage: mean over seeds, for one task order.

        Returns
        -------
        matrix : list of m rows
            Row i holds tasks 0 to i.
        names : list of str
            Tasks as they were learned.

        Raises
        ------
        InputError
            For a method or an order that the comparison does not have.
        """
        methods = [row["name"] for row in self.summary["methods"]]
        if method not in methods:
            raise InputError("method", f"{method!r} is not in {self.path}; choose from {', '.join(methods)}")
        seeds = [cell["seed"] for cell in self.summary["cells"] if cell["order"] == order]
        if not seeds:
            raise InputError("order", f"{order} is not in {self.path}")
        files = [cell_folder(self.path, seed, order) / "cell.json" for seed in seeds]
        cells = [_checked(file, read_json(file), _Cell) for file in files]
        if lacking := [file for file, cell in zip(files, cells, strict=True) if method not in cell["methods"]]:
            raise InputError(str(lacking[0]), f"lacks the method {method!r}")
        names = cells[0]["tasks"]
        # Orders after the first are drawn for each seed; only what has one order can be averaged.
        same = [cell["methods"][method]["retrieval_matrix"] for cell in cells if cell["tasks"] == names]
        return [np.mean([matrix[i] for matrix in same], axis=0).tolist() for i in range(len(names))], names


def open_comparison(path: Path | str) -> ComparisonFolder:
    """A comparison whose table was made.

    Raises
    ------
    InputError
        For a folder of another kind, one without a finished table, or one of another schema.
    """
    path = Path(path)
    file = _known(path, "comparison")
    return ComparisonFolder(path, _checked(file, _content(file, standings.SCHEMA), _Comparison))


@dataclass(frozen=True)
class AblationFolder:
    """A finished ablation.

    Attributes
    ----------
    path : Path
    summary : dict
        What `ablation.json` holds.
    """

    path: Path
    summary: dict[str, Any]

    def reports(self, group: str) -> list[Report]:
        """Reports of the base and of every variant of a group, each run once.

        Raises
        ------
        InputError
            For a group that the ablation does not have.
        """
        rows = self.summary["variants"]
        groups = list(dict.fromkeys(row["group"] for row in rows if row["group"]))
        if group not in groups:
            raise InputError("group", f"{group!r} is not in {self.path}; it has {', '.join(groups) or 'none'}")
        runs = dict.fromkeys(row["run"] for row in rows if row["group"] in ("", group))
        return [open_run(self.path / run).report for run in runs]


def _inside(folder: Path, name: str) -> bool:
    """Whether a name from a file stays inside a folder once links and dots are followed."""
    try:
        return Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    except ValueError:  # a NUL, or half a surrogate pair
        return False


def open_ablation(path: Path | str) -> AblationFolder:
    """An ablation whose table was made.

    Raises
    ------
    InputError
        For a folder of another kind, one without a finished table, or one of another schema.
    """
    path = Path(path)
    file = _known(path, "ablation")
    summary = _checked(file, _content(file, ablation_table.SCHEMA), _Ablation)
    for row in summary["variants"]:
        if not _inside(path, row["run"]):
            raise InputError(str(file), f"names the run {row['run']!r}, which lies outside its folder")
    return AblationFolder(path, summary)
