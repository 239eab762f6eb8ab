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
from empirics.audit.intervals import binary_kl, interval, kolmogorov_smirnov
from empirics.audit.opened import Key, RunFiles
from empirics.audit.rare import Rare, draw_rare
from empirics.audit.result import Check, Tally
from empirics.audit.rungs import Recomputed, units
from empirics.seeding import generator

# Level of the tests of distances, and the union of Chernoff bounds below which errors are drawn by importance.
_LEVEL, _RARE = 0.01, math.log(1e-2)
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
            _rung(tally, f"{where}, {rung}", its, against, told["law"], verdict, self.files.about.get("exchangeable", True))

    def _name(self, key: Key) -> str:
        if key[0] == "cluster":
            return (self.files.class_names if self.files.by_class or self.law != "well-specified" else self.files.names)[key[1]]
        return unit_name(self.files, key)

    def _interval(self, where: str, told: dict[str, Any], wrong: np.ndarray) -> tuple[float, float]:
        errors, n = int(wrong.sum()), wrong.size
        self.tally.same(f"{where}.errors", told["errors"], errors)
        self.tally.same(f"{where}.n", told["n"], n)
        self.tally.same(f"{where}.confidence", told["confidence"], self.confidence)
        low, high = interval(errors, n, self.confidence)
        self.tally.near(f"{where}.error", told["error"], errors / n, 1e-15)
        self.tally.near(f"{where}.low", told["low"], low)
        self.tally.near(f"{where}.high", told["high"], high)
        return low, high

    def _law(self, where: str, told: dict[str, Any], measured: tuple[float, float], simulated: dict[str, Any], chosen: np.ndarray) -> str:
        """Tests of the law; returns the verdict that they give."""
        tally, distances = self.tally, self.draws.distances
        distance, d = self.files.test[f"{self.column}:distance"].to_numpy(), self.it.scores.components.means.shape[1]
        seen = {int(t): distance[self.cluster == t] for t in np.unique(self.cluster[chosen])}
        seen = {t: x for t, x in seen.items() if x.size >= 2 and t in distances}
        low = math.exp(simulated["log_lower"]) if simulated.get("log_lower") is not None else 0.0
        tally.same(f"{where}.predicted", told["predicted"], simulated["estimate"])
        tally.near(f"{where}.predicted_low", told["predicted_low"], low)
        tally.near(f"{where}.predicted_high", told["predicted_high"], simulated["value"])
        floor = binary_kl(measured[0], simulated["value"]) if measured[0] > simulated["value"] else 0.0
        tally.near(f"{where}.misfit_floor_nats", told["misfit_floor_nats"], floor)
        chi2, law, p = math.nan, math.nan, math.nan
        if seen:
            chi2 = math.sqrt(np.mean([x.var(ddof=1) / (2 * d) for x in seen.values()]))
            law = math.sqrt(np.mean([x.var(ddof=1) / distances[t].var(ddof=1) for t, x in seen.items()]))
            p = min(1.0, len(seen) * min(kolmogorov_smirnov(x, distances[t]) for t, x in seen.items()))
        for field, value in (("overdispersion_chi2", chi2), ("overdispersion_law", law), ("distance_p", p)):
            tally.near(f"{where}.{field}", math.nan if told[field] is None else told[field], value)
        reasons = []
        if measured[0] > simulated["value"]:
            reasons.append("predicts too few errors")
        elif measured[1] < low:
            reasons.append("predicts too many errors")
        if p < _LEVEL:
            reasons.append("own distances do not follow it")
        verdict = "rejected" if reasons else "not rejected"
        tally.same(f"{where}.reasons", told["reasons"], reasons)
        tally.same(f"{where}.verdict", told["verdict"], verdict)
        return verdict

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


def _rung(
    tally: Tally,
    where: str,
    told: dict[str, Any],
    measured: tuple[float, float] | None,
    law: dict[str, Any],
    verdict: str,
    exchangeable: bool,
) -> None:
    """Whether a rung holds and may be relied on."""
    if measured is None:
        tally.same(f"{where}: guarantee", told["guarantee"], False)
        return
    free = told["level"] == "A0"
    holds = measured[0] <= told["value"]
    relied = holds and told["value"] < 1 and (exchangeable if free else verdict == "not rejected")
    tally.same(f"{where}: holds", told["holds"], bool(holds))
    tally.same(f"{where}: guarantee", told["guarantee"], bool(relied))
    broken = None
    if not holds:
        what = (
            "A0: samples independent from one law" if free else f"query law ({told['level']}): {', '.join(law['reasons']) or 'too narrow'}"
        )
        broken = f"{what}; true law at least {binary_kl(measured[0], told['value']):.3g} nats away"
    tally.same(f"{where}: broken_assumption", told["broken_assumption"], broken)
