"""`report.json`: measured errors, tests of the query laws, and what is called a guarantee."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from empirics.audit.bounds import RUNGS, TOLERANCE, binding_pair
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
        if (arm, name) not in told:
            continue
        entry = told[arm, name]
        tally.same(f"report.json, {arm}, {name}: dimension", entry["dimension"], files.dimension)
        keys = list(units(it.law))
        shown = [entry["overall"], *entry["tasks"], *entry["clusters"]]
        tally.same(f"report.json, {arm}, {name}: units", len(shown), len(keys))
        rows, rng = files.bounds_of(arm, name), drawn[arm, name].rng
        for key, unit in zip(keys, shown, strict=False):
            _unit(tally, files, arm, name, key, unit, rows, drawn[arm, name], it, rng)
    return tally.check()


def _unit(
    tally: Tally,
    files: RunFiles,
    arm: str,
    law: str,
    key: Key,
    unit: dict[str, Any],
    rows: Mapping,
    draws: Draws,
    it: Recomputed,
    rng: np.random.Generator,
) -> None:
    where = f"report.json, {arm}, {law}, {unit['name']}"
    test, column, confidence = files.test, f"{arm}-{files.dimension}", files.config["bounds"]["confidence"]
    wrong, task, cluster = (test[f"{column}:retrieved"] != test["task"]).to_numpy(), test["task"].to_numpy(), files.clusters(test, law)
    chosen = np.ones(wrong.size, dtype=bool) if key[1] is None else (task if key[0] == "task" else cluster) == key[1]
    by_class = files.by_class or law != "well-specified"
    names = {
        "overall": lambda _: "overall",
        "task": lambda k: files.names[k],
        "cluster": lambda t: (files.class_names if by_class else files.names)[t],
    }
    tally.same(f"{where}: name", unit["name"], names[key[0]](key[1]))
    measured = _interval(tally, f"{where}: measured", unit["measured"], int(wrong[chosen].sum()), int(chosen.sum()), confidence)
    verdict = _law(
        tally,
        f"{where}: law",
        unit["law"],
        measured,
        unit["rungs"].get("L6", {}),
        files,
        column,
        np.unique(cluster[chosen]),
        cluster,
        draws,
        it,
    )
    tally.same(f"{where}: rungs", list(unit["rungs"]), list(RUNGS))
    batch = _batch(tally, where, files, unit, column, chosen, task, task if key[0] != "cluster" else cluster, rng, confidence)
    for rung, told in unit["rungs"].items():
        row = rows.get((key, rung))
        if row is None:
            continue
        for field in _COPIED:
            its = row[field]
            its = None if isinstance(its, float) and math.isnan(its) else its
            if not (field == "note" and rung == "L4" and batch is None):
                tally.same(f"{where}, {rung}: {field}", told[field], bool(its) if field == "vacuous" else its)
        tally.same(f"{where}, {rung}: binding", told["binding"], binding_pair(row))
        against = measured if rung != "L4" or files.config["bounds"]["batch"] == 1 else batch
        _rung(tally, f"{where}, {rung}", told, against, unit["law"], verdict, files.about.get("exchangeable", True))


def _interval(tally: Tally, where: str, told: dict[str, Any], errors: int, n: int, confidence: float) -> tuple[float, float]:
    tally.same(f"{where}.errors", told["errors"], errors)
    tally.same(f"{where}.n", told["n"], n)
    tally.same(f"{where}.confidence", told["confidence"], confidence)
    low, high = interval(errors, n, confidence)
    tally.near(f"{where}.error", told["error"], errors / n, 1e-15)
    tally.near(f"{where}.low", told["low"], low)
    tally.near(f"{where}.high", told["high"], high)
    return low, high


def _law(
    tally: Tally,
    where: str,
    told: dict[str, Any],
    measured: tuple[float, float],
    simulated: dict[str, Any],
    files: RunFiles,
    column: str,
    clusters: np.ndarray,
    cluster: np.ndarray,
    draws: Draws,
    it: Recomputed,
) -> str:
    """Tests of a law; returns the verdict that they give."""
    distance, d = files.test[f"{column}:distance"].to_numpy(), it.scores.components.means.shape[1]
    seen = {int(t): distance[cluster == t] for t in clusters if (cluster == t).sum() >= 2 and int(t) in draws.distances}
    low = math.exp(simulated["log_lower"]) if simulated.get("log_lower") is not None else 0.0
    tally.same(f"{where}.predicted", told["predicted"], simulated["estimate"])
    tally.near(f"{where}.predicted_low", told["predicted_low"], low)
    tally.near(f"{where}.predicted_high", told["predicted_high"], simulated["value"])
    floor = binary_kl(measured[0], simulated["value"]) if measured[0] > simulated["value"] else 0.0
    tally.near(f"{where}.misfit_floor_nats", told["misfit_floor_nats"], floor)
    spread = math.sqrt(np.mean([x.var(ddof=1) / (2 * d) for x in seen.values()])) if seen else None
    tally.near(f"{where}.overdispersion_chi2", _number(told["overdispersion_chi2"]), _number(spread))
    spread = math.sqrt(np.mean([x.var(ddof=1) / draws.distances[t].var(ddof=1) for t, x in seen.items()])) if seen else None
    tally.near(f"{where}.overdispersion_law", _number(told["overdispersion_law"]), _number(spread))
    p = min(1.0, len(seen) * min(kolmogorov_smirnov(x, draws.distances[t]) for t, x in seen.items())) if seen else None
    tally.near(f"{where}.distance_p", _number(told["distance_p"]), _number(p))
    reasons = []
    if measured[0] > simulated["value"]:
        reasons.append("predicts too few errors")
    elif measured[1] < low:
        reasons.append("predicts too many errors")
    if p is not None and p < _LEVEL:
        reasons.append("own distances do not follow it")
    verdict = "rejected" if reasons else "not rejected"
    tally.same(f"{where}.reasons", told["reasons"], reasons)
    tally.same(f"{where}.verdict", told["verdict"], verdict)
    return verdict


def _number(x: float | None) -> float:
    return math.nan if x is None else x


def _batch(
    tally: Tally,
    where: str,
    files: RunFiles,
    unit: dict[str, Any],
    column: str,
    chosen: np.ndarray,
    task: np.ndarray,
    group: np.ndarray,
    rng: np.random.Generator,
    confidence: float,
) -> tuple[float, float] | None:
    """Where L4 bounds the error of batches: what one random cut into batches measures."""
    size = files.config["bounds"]["batch"]
    if size == 1:
        tally.same(f"{where}: batch", unit["batch"], None)
        return 0.0, 1.0
    wrong = batch_errors(files.energies(files.test, column)[chosen], task[chosen], group[chosen], size, rng)
    if not wrong.size or unit["batch"] is None:
        tally.same(f"{where}: batch", unit["batch"], None if not wrong.size else "an interval")
        return None
    return _interval(tally, f"{where}: batch", unit["batch"], int(wrong.sum()), wrong.size, confidence)


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
