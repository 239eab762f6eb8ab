"""A finished run, and what figures and pages ask of it. No torch, no plotting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.config import RunConfig
from empirics.files.record import read_parquet, read_tensors
from empirics.reports.report import Arm, Unit
from empirics.retrieval.signatures import predicted_own_distances
from empirics.runs.evaluation import components_are_classes, load_law, load_rule
from empirics.runs.run_folder import FinishedRun, read_run
from empirics.seeding import generator
from theory.errors import InputError
from theory.mixture import QueryLaw, Rule
from theory.product import ProductGaussians


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
        cluster, d = test["cluster"].to_numpy(), rule.signatures.dimension
        # Two blocks, each of its own covariance, have a sum of two such laws.
        counts = rule.signatures.counts if by_class and not isinstance(rule.signatures.gaussians, ProductGaussians) else None
        large = rows if counts is None else rows & (counts[cluster] > d)
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
        return OwnDistances(distance, d, None if counts is None else counts[cluster[rows]], draws, left_out)

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


def open_run(path: Path | str) -> RunFolder:
    """A finished run, of this schema or an older one that is known.

    Raises
    ------
    InputError
        As `empirics.runs.run_folder.read_run`.
    """
    return RunFolder(**vars(read_run(Path(path))))
