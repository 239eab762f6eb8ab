"""Finished runs, comparisons and ablations as figures read them. No torch, no plotting."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from empirics.comparisons import ablation_table, standings
from empirics.comparisons.standings import cell_folder
from empirics.config import RunConfig
from empirics.files.record import read_json, read_parquet, read_tensors
from empirics.reports.report import Arm, Report, Unit
from empirics.retrieval.signatures import predicted_own_distances
from empirics.runs.evaluation import components_are_classes, load_law, load_rule
from empirics.runs.run_folder import SIGNS, FinishedRun, kind_of, read_run
from empirics.seeding import generator
from theory.errors import InputError
from theory.mixture import QueryLaw, Rule
from theory.product import ProductGaussians

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
        item = error.errors()[0]
        raise InputError(str(file), f"is damaged ({'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']})") from None
    return content


def _content(file: Path, wanted: int) -> dict[str, Any]:
    """What the file holds, if it is of a schema that is read here."""
    content = read_json(file)
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if schema != wanted:
        raise InputError(str(file), f"has schema {schema}; this version reads {wanted}: make it again in another folder")
    return content


def arm_title(arm: Arm) -> str:
    """An arm, its dimension and its query law in a few words."""
    return f"{arm.arm}, d = {arm.dimension}, law: {arm.law}"


@dataclass(frozen=True)
class RunFolder(FinishedRun):
    """A finished run, and what figures ask of it."""

    @property
    def config(self) -> RunConfig:
        """Settings of the run."""
        return RunConfig.model_validate(self.report.run["config"])

    @property
    def names(self) -> tuple[str, ...]:
        """Tasks, in order."""
        return tuple(task["name"] for task in self.report.run["tasks"])

    @property
    def plain_covariance(self) -> bool:
        """Whether signatures are plain sample covariances of classes, for which the law F of own distances is exact."""
        signature = self.config.signature
        return signature.covariance == "full" and signature.pool == 0 and components_are_classes(self.config)

    def arm(self, arm: str | None = None, law: str | None = None) -> Arm:
        """One arm under one query law; the headline's where nothing is said.

        Raises
        ------
        InputError
            If the report has no such pair.
        """
        head = self.report.headline
        wanted = (arm or head.arm, law or head.law)
        for one in self.report.arms:
            if (one.arm, one.law) == wanted:
                return one
        have = ", ".join(f"{one.arm}/{one.law}" for one in self.report.arms)
        raise InputError("arm", f"{'/'.join(wanted)} is not in the report of {self.folder}; it has {have}")

    def units(self, arm: Arm, which: str = "tasks") -> dict[str, list[Unit]]:
        """Tasks of an arm with everything together, under no name; or under each task its clusters, named by their classes alone.

        Raises
        ------
        InputError
            If `which` is neither "tasks" nor "clusters".
        """
        if which not in ("tasks", "clusters"):
            raise InputError("units", f"{which!r} are unknown; choose tasks or clusters")
        if which == "tasks":
            return {"": [*arm.tasks, arm.overall]}
        out: dict[str, list[Unit]] = {}
        for unit in arm.clusters:
            task = next((name for name in self.names if unit.name.startswith(f"{name}/")), unit.name)
            out.setdefault(task, []).append(unit.model_copy(update={"name": unit.name.removeprefix(f"{task}/")}))
        return out

    def rule(self, arm: Arm) -> Rule:
        """The signatures, and the background if there is one, of an arm."""
        path = self.folder / "signatures" / f"{arm.arm}-{arm.dimension}.safetensors"
        return load_rule(path, self.names, self.config)

    def query_law(self, arm: Arm) -> QueryLaw | None:
        """The query law that was fitted for an arm; None for one that is the signature itself."""
        path = self.folder / "laws" / f"{arm.arm}-{arm.dimension}-{arm.law}.safetensors"
        return load_law(path, arm.law) if path.is_file() else None

    def slack_of(self, arm: Arm, task: str | None = None) -> pd.DataFrame:
        """Where the slack of an arm goes, of one task or overall, with the report's verdict `guarantee`.

        Raises
        ------
        InputError
            For a task that the run does not have.
        """
        frame = self.slack
        rows = frame[(frame["arm"] == arm.arm) & (frame["dimension"] == arm.dimension) & (frame["law"] == arm.law)]
        rows = rows[rows["level_of"] == "overall"] if task is None else rows[rows["task"] == self.position(task)]
        unit = arm.overall if task is None else arm.tasks[self.position(task)]
        return rows.assign(guarantee=[unit.rungs[name].guarantee for name in rows["rung"]]).reset_index(drop=True)

    def position(self, task: str) -> int:
        """The number of a task.

        Raises
        ------
        InputError
            For a task that the run does not have.
        """
        if task not in self.names:
            raise InputError("task", f"{task!r} is unknown; choose from {', '.join(self.names)}")
        return self.names.index(task)

    def own_distances(self, arm: Arm, task: str | None = None) -> OwnDistances:
        """Squared distances of the test documents to their own component, and what they are held against.

        Documents of components with no more samples than dimensions, which have no law F, are left out unless all are such.

        Raises
        ------
        InputError
            For a task that the run does not have.
        """
        test = read_parquet(self.folder / "predictions.parquet")
        rows = np.ones(len(test), dtype=bool) if task is None else (test["task"] == self.position(task)).to_numpy()
        rule, law, by_class = self.rule(arm), self.query_law(arm), components_are_classes(self.config)
        cluster, counts = test["cluster"].to_numpy(), rule.signatures.counts
        d = rule.signatures.dimension
        # Two blocks, each of its own covariance, have a sum of two such laws.
        known = counts is not None and by_class and not isinstance(rule.signatures.gaussians, ProductGaussians)
        large = rows & (counts[cluster] > d) if known else rows
        left_out = int((rows & ~large).sum()) if large.any() else 0
        rows = large if large.any() else rows
        draws = None
        if law is not None:
            rng = generator(self.config.seed, "own distances", arm.arm, arm.law)
            found = predicted_own_distances(rule.signatures, law, rng, clusters_are_components=by_class)
            # As many of each cluster, relative to the others, as there are documents.
            share = np.bincount(cluster[rows], minlength=max(found) + 1) / np.bincount(cluster[rows]).max()
            draws = np.concatenate([drawn[: round(share[t] * len(drawn))] for t, drawn in found.items()])
        distance = test[f"{arm.arm}-{arm.dimension}:distance"].to_numpy()[rows]
        return OwnDistances(distance, d, counts[cluster[rows]] if known else None, draws, left_out)

    def embeddings(self, arm: Arm) -> tuple[Float[np.ndarray, "n S d"], Int[np.ndarray, " n"]]:
        """Projected embeddings of the test documents in the coordinates of the arm's signatures, and their tasks.

        Raises
        ------
        InputError
            If the run kept none, as older ones did not, or they do not fit its other files.
        """
        path = self.folder / "embeddings" / f"{arm.arm}-{arm.dimension}.safetensors"
        if not path.is_file():
            raise InputError(str(path), "is missing: this run kept no embeddings; run it again with this version")
        z, task = read_tensors(path).get("test"), read_parquet(self.folder / "predictions.parquet")["task"].to_numpy()
        if z is None or z.ndim != 3 or len(z) != len(task) or z.shape[2] != arm.dimension:
            raise InputError(str(path), f"does not hold {len(task)} test documents in {arm.dimension} dimensions; run it again")
        return z, task


@dataclass(frozen=True)
class OwnDistances:
    """Squared own distances of test documents.

    Attributes
    ----------
    measured : (n,) array
    dimension : int
        Of the signatures, which may stack two spaces of the run's dimension.
    counts : (n,) int array or None
        Samples of the component of each; None where components are no classes, so that a document is of none in particular, or stack
        two spaces.
    law : (p,) array or None
        Draws from the query law.
    left_out : int
        Documents of components with no more samples than dimensions.
    """

    measured: Float[np.ndarray, " n"]
    dimension: int
    counts: Int[np.ndarray, " n"] | None
    law: Float[np.ndarray, " p"] | None
    left_out: int


def open_run(path: Path) -> RunFolder:
    """A finished run, of this schema or an older one that is known.

    Raises
    ------
    InputError
        As `empirics.runs.run_folder.read_run`.
    """
    return RunFolder(**vars(read_run(path)))


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


def open_comparison(path: Path) -> ComparisonFolder:
    """A comparison whose table was made.

    Raises
    ------
    InputError
        For a folder of another kind, one without a finished table, or one of another schema.
    """
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


def open_ablation(path: Path) -> AblationFolder:
    """An ablation whose table was made.

    Raises
    ------
    InputError
        For a folder of another kind, one without a finished table, or one of another schema.
    """
    file = _known(path, "ablation")
    summary = _checked(file, _content(file, ablation_table.SCHEMA), _Ablation)
    for row in summary["variants"]:
        if not _inside(path, row["run"]):
            raise InputError(str(file), f"names the run {row['run']!r}, which lies outside its folder")
    return AblationFolder(path, summary)
