"""`report.json`: measured errors, tests of the query laws, and what is called a guarantee."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from empirics.audit.bounds import RUNGS, TOLERANCE, binding_pair, unit_name
from empirics.audit.draws import Drawn, draw, own_distances
from empirics.audit.opened import Key, RunFiles
from empirics.audit.rare import Rare, draw_rare
from empirics.audit.result import Check, Tally
from empirics.audit.rungs import Recomputed, units
from empirics.audit.units import check_interval, check_law, check_rung, law_tests
from empirics.seeding import generator

# The union of Chernoff bounds below which errors are drawn by importance.
_RARE = math.log(1e-2)
_COPIED = (
    "log_value",
    "value",
    "direction",
    "level",
    "vacuous",
    "confidence",
    "source",
    "given",
    "note",
    "log_lower",
    "estimate",
    "log_estimate",
)


@dataclass(frozen=True)
class Draws:
    """Everything that was drawn from one query law.

    Attributes
    ----------
    drawn : Drawn or Rare
        Rare where so few errors were expected that they were drawn by importance.
    distances : dict from cluster to (p,) array
    rng : Generator
        As the draws left it.
    """

    drawn: Drawn | Rare
    distances: dict[int, np.ndarray]
    rng: np.random.Generator


def redraw(files: RunFiles, found: Mapping[tuple[str, str], Recomputed]) -> dict[tuple[str, str], Draws]:
    """Draw from every law what the run drew."""

    def one(law: tuple[str, str]) -> Draws:
        it, rng = found[law], generator(files.config["seed"], "simulation", *law)
        rare = logsumexp(np.minimum(it.by_component["L3"][0], 0.0), b=it.law.weights) < _RARE
        n = files.config["bounds"]["simulations"]
        drawn = draw_rare(it.scores, it.law, it.pairs, n, rng) if rare else draw(it.scores, it.law, n, rng)
        return Draws(drawn, own_distances(it.scores, it.law, files.by_class, rng), rng)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(found, pool.map(one, found), strict=True))


def check_report(files: RunFiles, found: Mapping[tuple[str, str], Recomputed], drawn: Mapping[tuple[str, str], Draws]) -> Check:
    """Every unit of every arm under every law."""
    tally = Tally(
        "report",
        "measured errors with intervals, tests of every law, which rungs hold and are guarantees; rungs as in bounds.parquet; the headline",
        "recomputed",
        TOLERANCE,
    )
    report, config = files.report, files.config
    tally.same("report.json: run", report["run"], files.about)
    tally.same("report.json: schema_version", report["schema_version"], files.about["schema"])
    told = {(arm["arm"], arm["law"]): arm for arm in report["arms"]}
    tally.same("report.json: arms", list(told), list(found))
    head = {"arm": config["bounds"]["arm"], "dimension": files.dimension, "law": "mixture"}
    tally.same("report.json: headline", report["headline"], head)
    for field in ("overall", "tasks", "clusters"):
        shown = told.get((head["arm"], "mixture"), {}).get(field)
        if report[field] != shown:
            tally.find(f"report.json: {field}", "is not that of the headline's arm and law")
    for (arm, name), it in found.items():
        if (arm, name) in told:
            _Judged(tally, files, arm, name, it, drawn[arm, name]).check(told[arm, name])
    return tally.check()


@dataclass(frozen=True)
class _Judged:
    """What is said of one arm under one law, against the test documents.

    Parameters
    ----------
    tally : Tally
    files : RunFiles
    arm, law : str
    it : Recomputed
    draws : Draws
    """

    tally: Tally
    files: RunFiles
    arm: str
    law: str
    it: Recomputed
    draws: Draws

    @property
    def where(self) -> str:
        return f"report.json, {self.arm}, {self.law}"

    @property
    def column(self) -> str:
        return f"{self.arm}-{self.files.dimension}"

    @property
    def confidence(self) -> float:
        return self.files.config["bounds"]["confidence"]

    @cached_property
    def wrong(self) -> np.ndarray:
        """Which test documents are sent to a wrong task."""
        return (self.files.test[f"{self.column}:retrieved"] != self.files.test["task"]).to_numpy()

    @cached_property
    def task(self) -> np.ndarray:
        return self.files.test["task"].to_numpy()

    @cached_property
    def cluster(self) -> np.ndarray:
        return self.files.clusters(self.files.test, self.law)

    def check(self, told: dict[str, Any]) -> None:
        """Every unit, in the order of the report, in which batches are drawn."""
        self.tally.same(f"{self.where}: dimension", told["dimension"], self.files.dimension)
        keys, shown = list(units(self.it.law)), [told["overall"], *told["tasks"], *told["clusters"]]
        self.tally.same(f"{self.where}: units", len(shown), len(keys))
        for key, unit in zip(keys, shown, strict=False):
            self._unit(key, unit)

    def _unit(self, key: Key, told: dict[str, Any]) -> None:
        tally, where, rows = self.tally, f"{self.where}, {told['name']}", self.files.bounds_of(self.arm, self.law)
        group = self.cluster if key[0] == "cluster" else self.task
        chosen = np.ones(group.size, dtype=bool) if key[1] is None else group == key[1]
        tally.same(f"{where}: name", told["name"], self._name(key))
        measured = self._interval(f"{where}: measured", told["measured"], self.wrong[chosen])
        verdict = self._law(f"{where}: law", told["law"], measured, told["rungs"].get("L6", {}), chosen)
        tally.same(f"{where}: rungs", list(told["rungs"]), list(RUNGS))
        batch = self._batch(where, told, chosen, group)
        for rung, its in told["rungs"].items():
            row = rows.get((key, rung))
            if row is None:
                continue
            against = batch if rung == "L4" and self.files.config["bounds"]["batch"] > 1 else measured
            for field in _COPIED:
                value = None if isinstance(row[field], float) and math.isnan(row[field]) else row[field]
                if field != "note" or against is not None:
                    tally.same(f"{where}, {rung}: {field}", its[field], bool(value) if field == "vacuous" else value)
            binding = binding_pair(row)
            tally.same(f"{where}, {rung}: binding", its["binding"], binding if binding is None else list(binding))
            check_rung(tally, f"{where}, {rung}", its, against, told["law"], verdict, self.files.about.get("exchangeable", True))

    def _name(self, key: Key) -> str:
        if key[0] == "cluster":
            return (self.files.class_names if self.files.by_class or self.law != "well-specified" else self.files.names)[key[1]]
        return unit_name(self.files, key)

    def _interval(self, where: str, told: dict[str, Any], wrong: np.ndarray) -> tuple[float, float]:
        return check_interval(self.tally, where, told, int(wrong.sum()), wrong.size, self.confidence)

    def _law(self, where: str, told: dict[str, Any], measured: tuple[float, float], simulated: dict[str, Any], chosen: np.ndarray) -> str:
        """Tests of the law; returns the verdict that they give."""
        distance = self.files.test[f"{self.column}:distance"].to_numpy()
        seen = {int(t): distance[self.cluster == t] for t in np.unique(self.cluster[chosen])}
        tests = law_tests(seen, self.draws.distances, self.it.scores.components.means.shape[1])
        return check_law(self.tally, where, told, measured, simulated, tests)

    def _batch(self, where: str, told: dict[str, Any], chosen: np.ndarray, group: np.ndarray) -> tuple[float, float] | None:
        """Where L4 bounds the error of batches: what one random cut into batches measures."""
        size = self.files.config["bounds"]["batch"]
        if size == 1:
            self.tally.same(f"{where}: batch", told["batch"], None)
            return None
        energies = self.files.energies(self.files.test, self.column)
        wrong = batch_errors(energies[chosen], self.task[chosen], group[chosen], size, self.draws.rng)
        if not wrong.size or told["batch"] is None:
            self.tally.same(f"{where}: batch", told["batch"], None if not wrong.size else "an interval")
            return None
        return self._interval(f"{where}: batch", told["batch"], wrong)


def batch_errors(energies: np.ndarray, task: np.ndarray, group: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Whether each batch of one cut is sent to a wrong task; documents that fill no batch are left out."""
    out: list[bool] = []
    for g in np.unique(group):
        rows = rng.permutation(np.flatnonzero(group == g))
        for start in range(0, rows.size - size + 1, size):
            batch = rows[start : start + size]
            out.append(bool(energies[batch].sum(axis=0).argmin() != task[batch[0]]))
    return np.array(out, dtype=bool)
