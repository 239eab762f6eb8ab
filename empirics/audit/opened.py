"""The files of a run as raw data: tables, tensors and JSON, read when first asked for and interpreted by nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirics.audit.forms import QueryLaw, Scores, covariances, read_scores
from empirics.files.record import read_json, read_parquet, read_tensors

# A unit of the report: overall, a task or a cluster, and its number.
Key = tuple[str, int | None]
ARMS = ("paper", "ratio", "frozen", "both")


@dataclass(frozen=True)
class Files:
    """A folder whose files are read when they are first asked for; whoever asks gets `theory.errors.InputError` if one cannot be.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @cached_property
    def _tensors(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """A file of tensors, kept."""
        if name not in self._tensors:
            self._tensors[name] = read_tensors(self.folder / name)
        return self._tensors[name]

    def signatures(self, key: str) -> dict[str, np.ndarray]:
        """Tensors of the signatures of a rule; in a run, of an arm and dimension."""
        return self.tensors(f"signatures/{key}.safetensors")


class RunFiles(Files):
    """A run folder."""

    @cached_property
    def about(self) -> dict[str, Any]:
        """`run.json`."""
        return read_json(self.folder / "run.json")

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings, as `run.json` has them."""
        return self.about["config"]

    @property
    def names(self) -> list[str]:
        """Names of the tasks."""
        return [task["name"] for task in self.about["tasks"]]

    @property
    def classes(self) -> list[int]:
        """Number of classes of each task."""
        return [len(task["classes"]) for task in self.about["tasks"]]

    @property
    def class_names(self) -> list[str]:
        """Names of all classes, with their tasks."""
        return [f"{task['name']}/{name}" for task in self.about["tasks"] for name in task["classes"]]

    @property
    def dimension(self) -> int:
        """Dimension in which bounds are computed."""
        return self.config["signature"]["dimension"]

    @property
    def by_class(self) -> bool:
        """Whether the components of a signature are the classes."""
        return self.config["signature"]["clusters"] == "class"

    @cached_property
    def test(self) -> pd.DataFrame:
        """`predictions.parquet`."""
        return read_parquet(self.folder / "predictions.parquet")

    @cached_property
    def query(self) -> pd.DataFrame:
        """`calibration.parquet`."""
        return read_parquet(self.folder / "calibration.parquet")

    @cached_property
    def bounds(self) -> pd.DataFrame:
        """`bounds.parquet`."""
        return read_parquet(self.folder / "bounds.parquet")

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """`pairs.parquet`."""
        return read_parquet(self.folder / "pairs.parquet")

    @cached_property
    def slack(self) -> pd.DataFrame:
        """`slack.parquet`."""
        return read_parquet(self.folder / "slack.parquet")

    @cached_property
    def report(self) -> dict[str, Any]:
        """`report.json`."""
        return read_json(self.folder / "report.json")

    @cached_property
    def keys(self) -> list[str]:
        """Arms and dimensions for which there are signatures, such as ``both-32``."""
        return sorted(path.stem for path in (self.folder / "signatures").glob("*.safetensors"))

    def embeddings(self, arm: str) -> dict[str, np.ndarray]:
        """Embeddings that an arm scored in the dimension of the bounds."""
        return self.tensors(f"embeddings/{arm}-{self.dimension}.safetensors")

    def scores(self, key: str) -> Scores:
        """The rule of an arm and dimension."""
        return read_scores(self.signatures(key), self.config["retrieval"]["rule"])

    @property
    def laws(self) -> list[tuple[str, str]]:
        """Arms and names of query laws, in the order of the report."""
        return [(arm, name) for arm in ARMS for name in ("mixture", "gaussian", *(("well-specified",) if arm == "frozen" else ()))]

    def law(self, arm: str, name: str) -> QueryLaw:
        """A query law; that of the signature itself is made from the signature."""
        if name != "well-specified":
            t = self.tensors(f"laws/{arm}-{self.dimension}-{name}.safetensors")
            return QueryLaw(name, t["means"], t["covariances"], t["task"], t["cluster"], t["weights"] / t["weights"].sum())
        t = self.signatures(f"{arm}-{self.dimension}")
        task = t["task"]
        within = t["weights"] / np.bincount(task, t["weights"])[task] if "weights" in t else 1 / np.bincount(task)[task]
        weights = within * self.shares[task]
        dense = covariances(t, "")
        cluster = np.arange(task.size) if self.by_class else task
        return QueryLaw(name, t["means"][:, None], dense, task, cluster, weights / weights.sum())

    @property
    def shares(self) -> np.ndarray:
        """Shares of the tasks among test documents."""
        return np.bincount(self.test["task"], minlength=len(self.names)) / len(self.test)

    def part(self, frame: pd.DataFrame, arm: str, law: str) -> pd.DataFrame:
        """Rows of a table of the report that speak of an arm under a law."""
        return frame[(frame["arm"] == arm) & (frame["dimension"] == self.dimension) & (frame["law"] == law)]

    @cached_property
    def _bounds(self) -> dict[tuple[str, str], dict[tuple[Key, str], dict[str, Any]]]:
        return {}

    def bounds_of(self, arm: str, law: str) -> dict[tuple[Key, str], dict[str, Any]]:
        """Rows of `bounds.parquet` by unit and rung."""
        if (arm, law) not in self._bounds:
            rows = self._bounds[arm, law] = {}
            for row in self.part(self.bounds, arm, law).to_dict("records"):
                number = {"overall": None, "task": row["task"], "cluster": row["cluster"]}[row["level_of"]]
                rows[(row["level_of"], None if number is None else int(number)), row["rung"]] = row
        return self._bounds[arm, law]

    def clusters(self, frame: pd.DataFrame, law: str) -> np.ndarray:
        """True cluster of every document under a law: its class, or its task where components are no classes."""
        return frame["cluster" if self.by_class or law != "well-specified" else "task"].to_numpy()

    def energies(self, frame: pd.DataFrame, key: str) -> np.ndarray:
        """Task scores in a table of documents."""
        return frame[[f"{key}:energy:{name}" for name in self.names]].to_numpy()
