"""Run folders as they are found: finished, broken off, written by an older version, damaged, or no run at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from empirics.config import RunConfig
from empirics.files.manifest import MANIFEST, check_manifest, read_manifest
from empirics.files.record import CHECKPOINTS, MARKER, read_json, read_parquet
from empirics.reports.report import SCHEMA, Report
from theory.errors import InputError
from theory.files import check_regular

# Of the frozen space and those of all tasks, in the dimension of the bounds: what a fresh document is projected by.
PROJECTIONS = "projections.safetensors"
# By what each kind of folder is known, finished or not; first what it is read by.
SIGNS = {
    "ablation": ("ablation.json", "runs"),
    "comparison": ("comparison.json", "cells"),
    "certificate": ("certificate.json",),
    "run": ("run.json",),
}
# What is said of the others where a run is wanted.
_OTHERS = {
    "ablation": "an ablation, whose runs lie in its folder runs",
    "comparison": "a comparison of methods; read its comparison.md",
    "certificate": "a certificate; read its certificate.json",
}
# What is made from the other files of a run.
MADE = ("bounds.parquet", "pairs.parquet", "slack.parquet", "report.json", "report.md", "report.html")


class _Task(BaseModel):
    name: str
    classes: list[str]


class _About(BaseModel):
    """What every run writes into `run.json` before its first long work."""

    model_config = ConfigDict(extra="allow")

    written_as: int = Field(alias="schema")
    config: dict[str, Any]
    environment: dict[str, Any]
    tasks: list[_Task] = Field(min_length=1)
    documents: dict[str, int]
    # Empty, or without digests, in runs of older versions.
    training: dict[str, dict[str, Any]] = {}
    sha256: dict[str, str] = {}


@dataclass(frozen=True)
class FinishedRun:
    """A run that may be shown.

    Attributes
    ----------
    folder : Path
    report : Report
    slack : DataFrame
    written_as : int
        Schema of `report.json`; if it is older than `empirics.reports.report.SCHEMA`, the report was migrated.
    """

    folder: Path
    report: Report
    slack: pd.DataFrame
    written_as: int


@dataclass(frozen=True)
class Progress:
    """How far a run came that did not finish.

    Attributes
    ----------
    about : dict
        `run.json`.
    stages : tuple of (str, str, bool)
        What a stage does, what it leaves, and whether that is there.
    claimed : bool
        Whether the folder may be taken up again, by a run of the same settings.
    """

    about: dict[str, Any]
    stages: tuple[tuple[str, str, bool], ...]
    claimed: bool


def kind_of(folder: Path) -> str | None:
    """Whether a folder is a run, a comparison, an ablation or a certificate, finished or not; None if it is none of them."""
    return next((kind for kind, signs in SIGNS.items() if any((folder / sign).exists() for sign in signs)), None)


def read_about(folder: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises
    ------
    InputError
        If the folder is no run's, or the file is damaged or of a newer schema.
    """
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        is_folder = False
    if not is_folder:
        raise InputError(str(folder), "is no folder")
    if not (folder / "run.json").exists():
        other = _OTHERS.get(kind_of(folder) or "")
        raise InputError(str(folder), f"holds {other}" if other else "holds no run: run.json is missing")
    about = read_json(folder / "run.json")
    try:
        found = _About.model_validate(about)
    except ValidationError as error:
        raise InputError(str(folder / "run.json"), f"is no record of a run ({first_problem(error)})") from None
    _known(found.written_as, folder / "run.json", about)
    return about


def finished(about: Mapping[str, Any]) -> bool:
    """Whether a run came to its end, so that its report can be made."""
    return "phases_seconds" in about


def is_older(about: Mapping[str, Any]) -> bool:
    """Whether a run was written by an older version, so that its report can be shown but not made again."""
    return about["schema"] < SCHEMA


def read_run(folder: Path) -> FinishedRun:
    """Read the report of a run as it stands in the folder, whatever schema it was written in.

    Raises
    ------
    InputError
        If the folder holds no run, one that did not finish, or one whose report is missing, damaged, or not what its manifest says.
    """
    about = read_about(folder)
    if not finished(about):
        raise InputError(str(folder), "holds a run that did not finish; proteus-bounds report tells how far it came")
    path = folder / "report.json"
    if not path.exists():
        raise InputError(str(path), "is missing; proteus-bounds report makes it from the other files")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
        raise InputError(str(path), "is no report of a run")
    written_as = content["schema_version"]
    _known(written_as, path, about)
    try:
        for version in range(written_as, SCHEMA):
            content = MIGRATIONS[version](content)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InputError(str(path), f"is no report of schema {written_as}, which it says it is") from None
    try:
        report = Report.model_validate(content)
    except ValidationError as error:
        raise InputError(str(path), f"is no report of a run ({first_problem(error)})") from None
    need_unchanged(folder, ("report.json", "slack.parquet"), "proteus-bounds report makes it again")
    slack = read_parquet(folder / "slack.parquet")
    missing = {"level_of", "arm", "dimension", "law", "rung"} - set(slack)
    if missing:
        raise InputError(str(folder / "slack.parquet"), f"lacks the columns {', '.join(sorted(missing))}")
    return FinishedRun(folder, report, slack, written_as)


def need_unchanged(folder: Path, names: Iterable[str], remedy: str) -> None:
    """Refuse files that are not what the manifest says; folders without one, as of older versions, are taken as they are.

    Raises
    ------
    InputError
        Naming the first file that is missing or changed.
    """
    if (folder / MANIFEST).is_file():
        for difference in check_manifest(folder, names):
            raise InputError(str(folder / difference.path), f"is {difference.kind} since the folder was finished ({MANIFEST}); {remedy}")


def _known(version: int, path: Path, about: Mapping[str, Any]) -> None:
    """Refuse a schema that this version cannot read."""
    if version <= SCHEMA and all(older in MIGRATIONS for older in range(version, SCHEMA)):
        return
    writer = about["environment"].get("packages", {}).get("proteus-bounds")
    by = f", written by proteus-bounds {writer}" if writer else ""
    raise InputError(str(path), f"has schema {version}{by}; this version reads {min(MIGRATIONS, default=SCHEMA)} to {SCHEMA}; use that one")


def first_problem(error: ValidationError) -> str:
    """What a file is first found to be wrong in, and how, in a few words."""
    item = error.errors()[0]
    return f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}"


# --- what a report is made from --------------------------------------------------------------------------------------


def check_files(folder: Path, about: Mapping[str, Any]) -> None:
    """Look at the files that a report is made from before it is made.

    Raises
    ------
    InputError
        Naming the file that is missing or damaged, lacks a column or tensor, or is not what the manifest says.
    """
    try:
        config = RunConfig.model_validate(about["config"])
    except ValidationError as error:
        raise InputError(
            str(folder / "run.json"), f"holds settings that this version does not know (config.{first_problem(error)})"
        ) from None
    keys = sorted(path.stem for path in (folder / "signatures").glob("*.safetensors"))
    if not any(key.endswith(f"-{config.signature.dimension}") for key in keys):
        raise InputError(str(folder / "signatures"), f"holds no signatures in dimension {config.signature.dimension}")
    for key in keys:
        path = folder / "signatures" / f"{key}.safetensors"
        _need_tensors(path, {"means", "task", "factors" if "factors" in _tensors(path) else "covariances"})
    for path in sorted((folder / "laws").glob("*.safetensors")):
        _need_tensors(path, {"means", "covariances", "task", "cluster", "weights"})
    names = [task["name"] for task in about["tasks"]]
    for name in ("predictions.parquet", "calibration.parquet"):
        columns = _columns(folder / name)
        wanted = ["task", "label", "cluster"]
        for key in keys:
            wanted += [f"{key}:{what}" for what in ("retrieved", "prediction", "distance", *(f"energy:{task}" for task in names))]
        missing = [column for column in wanted if column not in columns]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputError(str(folder / name), f"lacks the column {missing[0]}{more}")
    if (folder / MANIFEST).is_file():
        sources = [name for name in read_manifest(folder).files if name not in MADE]
        need_unchanged(folder, sources, f"restore it, or remove {MANIFEST} to have a report of the folder as it is")


def _need_tensors(path: Path, names: set[str]) -> None:
    missing = names - _tensors(path)
    if missing:
        raise InputError(str(path), f"lacks the tensors {', '.join(sorted(missing))}")


def _tensors(path: Path) -> set[str]:
    """Names of the tensors of a file, which are not read."""
    check_regular(path)
    try:
        with safe_open(path, "numpy") as file:
            return set(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), f"is not a valid safetensors file ({error})") from None


def _columns(path: Path) -> set[str]:
    check_regular(path)
    try:
        return set(pq.read_schema(path).names)
    except FileNotFoundError:
        raise InputError(str(path), "is missing") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # names of columns may be no valid Unicode
        raise InputError(str(path), f"is not a Parquet file of this project ({' '.join(str(error).split())})") from None


# --- runs that did not finish ----------------------------------------------------------------------------------------


def progress(folder: Path) -> Progress:
    """How far a run came, by the files that it left.

    Raises
    ------
    InputError
        If the folder holds no run.
    """
    about = read_about(folder)
    left = [
        ("Settings and data", "run.json"),
        ("Frozen pass", f"{CHECKPOINTS}/prefix.safetensors"),
        *((f"Training of {task['name']}", f"{CHECKPOINTS}/trained-{k}.safetensors") for k, task in enumerate(about["tasks"])),
        ("Embedding of held-out documents", f"{CHECKPOINTS}/held-out.safetensors"),
        *((f"Adapter of {task['name']}", f"adapters/{task['name']}") for task in about["tasks"]),
        ("Signatures", "signatures"),
        ("Query laws", "laws"),
        ("Retrieval of held-out documents", "calibration.parquet"),
        ("Retrieval of test documents", "predictions.parquet"),
    ]
    stages = [(what, name, _holds(folder, name)) for what, name in left]
    end = (("Seconds and memory", "the end of run.json", finished(about)), ("Bounds and report", "report.json", False))
    return Progress(about, (*stages, *end), (folder / MARKER).exists())


def _holds(folder: Path, name: str) -> bool:
    """Whether a folder holds something of that name; the name comes from a file, and must not lead out of it."""
    try:
        return ".." not in Path(name).parts and (folder / name).exists()
    except (OSError, ValueError):
        return False


# --- older schemas ---------------------------------------------------------------------------------------------------


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew no leak control in a run, and no fourth arm; its runs scored a task by its least component.

    The leak control stays empty: nothing is computed here that the run did not report.
    """
    run = content["run"]
    compare = dict(run["config"]["compare"])
    batches = compare.pop("batches", [4, 16, 64])
    config = {**run["config"], "compare": compare, "retrieval": {"rule": "max", "batches": batches}}
    retrieval = [{**entry, "batch_error": {}} for entry in content["retrieval"]]
    return {**content, "schema_version": 2, "retrieval": retrieval, "run": {**run, "schema": 2, "config": config}}


# A step from each older schema of `report.json` to the next.
MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
