"""`pairs.parquet` and `bounds.parquet` against what was recomputed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from empirics.audit.forms import pairs
from empirics.audit.intervals import interval, upper_limit
from empirics.audit.opened import Key, RunFiles
from empirics.audit.rare import Rare
from empirics.audit.result import Check, Tally
from empirics.audit.rungs import SUMMED, Recomputed, Unit, kl_ball, levels, units
from empirics.audit.units import check_flags

# Relative error of a probability that passes: a bound lowered by a millionth does not.
TOLERANCE = 1e-8
# L10 is raised by a billionth, relatively, for the rounding of its sums.
_ALLOWANCE = {"log_moments": 2e-9, "L10": 2e-9}
# Draws by importance depend on tilts that a search finds, to first order.
_WEIGHED = 1e-7
RUNGS = ("L1", "L1b", "L2", "L3", "L4", "L5", "L5b", "L6", "L7", "L8", "L9", "L10", "L11", "L12")
# Rungs that no error under the law exceeds, and the confidence with which draws say so.
ABOVE, SURE = ("L1", "L1b", "L2", "L3", "L5", "L5b", "L7", "L12"), 1 - 1e-9


def recompute(files: RunFiles) -> dict[tuple[str, str], Recomputed]:
    """Every rule under every query law of a run."""

    def one(law: tuple[str, str]) -> Recomputed:
        scores, its = files.scores(f"{law[0]}-{files.dimension}"), files.law(*law)
        found = Recomputed(scores, its, pairs(scores, its))
        # Here, where laws share the cores.
        _ = found.by_component
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(files.laws, pool.map(one, files.laws), strict=True))


def check_pairs(files: RunFiles, found: Mapping[tuple[str, str], Recomputed]) -> Check:
    """Every number of every pair of components."""
    tally = Tally("pairs", "means, variances and tails of every margin, the exact ones by an inversion of its own", "recomputed", TOLERANCE)
    rows = 0
    for (arm, name), it in found.items():
        table = files.part(files.pairs, arm, name).sort_values(["component", "wrong"])
        rows += len(table)
        where = f"pairs.parquet, {arm}, {name}"
        for column, expected in (("component", it.pairs.component), ("wrong", it.pairs.wrong)):
            tally.same(f"{where}: {column}", table[column].to_numpy(), expected)
        if len(table) != len(it.pairs.component):
            continue
        tally.same(
            lambda j, w=where, p=it.pairs: f"{w}, {_pair(p, j)}: reference",
            table["reference"].to_numpy(),
            it.pairs.reference[it.pairs.component],
        )
        settled = it.by_pair["error"] <= TOLERANCE
        if not settled.all():
            tally.skip(f"{where}: {int((~settled).sum())} exact tails, to whose accuracy the inversion of the audit does not come")
        for column, expected in it.by_pair.items():
            if column == "error":
                continue
            told = table[column].to_numpy()
            if column.startswith("log_exact"):
                expected = _exact(column, expected, it.by_pair["log_chernoff"], table["exact"].to_numpy(), settled, told)
            elif column.startswith("log_"):
                expected = np.where(np.isneginf(expected) & (told < -1e300), told, expected)
            tolerance = TOLERANCE + _ALLOWANCE.get(column, 0.0)
            tally.near(lambda j, w=where, c=column, p=it.pairs: f"{w}, {_pair(p, j)}: {c}", told, expected, tolerance)
    tally.same("pairs.parquet: rows", len(files.pairs), rows)
    return tally.check()


def _exact(column: str, expected: np.ndarray, chernoff: np.ndarray, exact: np.ndarray, settled: np.ndarray, told: np.ndarray) -> np.ndarray:
    """What stands for an exact tail: Chernoff's bound, or nothing, where the run's own quadrature did not reach its accuracy."""
    impossible = np.isneginf(expected) & (told < -1e300)
    out = np.where(exact, expected, chernoff if column == "log_exact" else -np.inf)
    return np.where(impossible | (exact & ~settled), told, out)


def _pair(p: Any, j: int) -> str:
    return f"query component {p.component[j]} against component {p.wrong[j]}"


def check_bounds(files: RunFiles, found: Mapping[tuple[str, str], Recomputed]) -> Check:
    """Every rung of every unit but L6, which is drawn."""
    tally = Tally(
        "bounds",
        "every rung of every unit from the margins, L8 from the held-out documents; flags, levels and binding pairs",
        "recomputed",
        TOLERANCE,
    )
    expected_rows = 0
    for (arm, name), it in found.items():
        rows, level = files.bounds_of(arm, name), levels(it.law)
        wrong = (files.query[f"{arm}-{files.dimension}:retrieved"] != files.query["task"]).to_numpy()
        in_unit = {"task": files.query["task"].to_numpy(), "cluster": files.clusters(files.query, name)}
        members = units(it.law)
        expected_rows += len(members) * len(RUNGS)
        for key, mask in members.items():
            where = f"bounds.parquet, {arm}, {name}, {unit_name(files, key)}"
            if missing := [rung for rung in RUNGS if (key, rung) not in rows]:
                tally.find(where, f"lacks {', '.join(missing)}")
                continue
            for rung in RUNGS:
                tally.same(f"{where}, {rung}: level", rows[key, rung]["level"], level[rung])
                check_flags(tally, f"{where}, {rung}", rows[key, rung])
            for rung in SUMMED:
                _unit(
                    tally,
                    f"{where}, {rung}",
                    rows[key, rung],
                    _with_intersections(files, rung, it.average(rung, mask), rows, key, tally, where),
                )
            _unit(tally, f"{where}, L4", rows[key, "L4"], it.batches(mask, files.config["bounds"]["batch"]))
            chosen = np.ones(wrong.size, dtype=bool) if key[1] is None else in_unit[key[0]] == key[1]
            simultaneous = 1 if key[1] is None else sum(other[0] == key[0] for other in members)
            _certificate(tally, f"{where}, L8", rows[key, "L8"], int(wrong[chosen].sum()), int(chosen.sum()), files, simultaneous)
            _robust(tally, where, rows, key, files)
    tally.same("bounds.parquet: rows", len(files.bounds), expected_rows)
    return tally.check()


def unit_name(files: RunFiles, key: Key) -> str:
    """A unit's name, as reports have it."""
    if key[1] is None:
        return "overall"
    return files.names[key[1]] if key[0] == "task" else f"cluster {key[1]}"


def binding_pair(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Wrong task and component that contribute most to a rung, as a row of `bounds.parquet` names them."""
    return None if pd.isna(row["binding_task"]) else (int(row["binding_task"]), int(row["binding_component"]))


def _with_intersections(files: RunFiles, rung: str, unit: Unit, rows: Mapping, key: Key, tally: Tally, where: str) -> Unit:
    """L5b with exact overlaps is not recomputed; it lies between the likeliest pair and the sum without them."""
    if rung != "L5b" or files.config["bounds"]["intersections"] == 0:
        return unit
    told = rows[key, rung]["log_value"]
    tally.true(f"{where}, L5b: log_value", told <= unit.log_value + TOLERANCE, f"is {told!r}, above L5 and L2, of which it is the least")
    tally.skip("L5b with overlaps (bounds.intersections): only that it is at most L5 and L2, and at least what is simulated")
    return replace(unit, log_value=told, note=None)


def _unit(tally: Tally, where: str, row: dict[str, Any], unit: Unit) -> None:
    rung = row["rung"]
    tally.near(f"{where}: log_value", row["log_value"], unit.log_value, TOLERANCE + _ALLOWANCE.get(rung, 0.0))
    binding = binding_pair(row)
    if unit.binding is None or binding not in unit.also:
        tally.same(f"{where}: binding", binding, unit.binding)
    if unit.note is not None:
        # Why there is no lower side may be said after it.
        tally.same(f"{where}: note", row["note"].partition("no lower")[0].removesuffix("; "), unit.note)
    lower = np.nan if unit.log_lower is None else min(unit.log_lower, row["log_value"])
    tally.near(f"{where}: log_lower", row["log_lower"], lower)
    tally.near(f"{where}: confidence", row["confidence"], np.nan)


def _certificate(tally: Tally, where: str, row: dict[str, Any], errors: int, n: int, files: RunFiles, simultaneous: int) -> None:
    if n == 0:
        tally.near(f"{where}: log_value", row["log_value"], 0.0)
        return
    confidence = files.config["bounds"]["confidence"]
    limit = upper_limit(errors, n, (1 - confidence) / simultaneous)
    tally.near(f"{where}: log_value", row["log_value"], math.log(limit))
    tally.near(f"{where}: estimate", row["estimate"], errors / n)
    tally.near(f"{where}: confidence", row["confidence"], confidence)
    tally.true(f"{where}: source", f", {n} held-out samples" in row["source"], f"does not speak of {n} samples")


def _robust(tally: Tally, where: str, rows: Mapping, key: Key, files: RunFiles) -> None:
    student, kl = files.config["bounds"]["student"], files.config["bounds"]["kl"]
    if student is None:
        tally.near(f"{where}, L11: log_value", rows[key, "L11"]["log_value"], 0.0)
    else:
        tally.skip("L11 (bounds.student): its quadrature over the scale was not done again")
    expected = 0.0 if kl is None else kl_ball(rows[key, "L5"]["log_value"], kl)
    tally.near(f"{where}, L12: log_value", rows[key, "L12"]["log_value"], expected)


def check_draws(files: RunFiles, drawn: Mapping[tuple[str, str], Any], found: Mapping[tuple[str, str], Recomputed]) -> Check:
    """L6 of every unit, from the same draws."""
    tally = Tally(
        "simulations",
        "errors among the queries that the run's seed draws from every law, retrieved anew, and their limits",
        "reproduced",
        TOLERANCE,
    )
    confidence = files.config["bounds"]["confidence"]
    for (arm, name), it in found.items():
        rows, draws = files.bounds_of(arm, name), drawn[arm, name]
        for key, mask in units(it.law).items():
            if (key, "L6") not in rows:
                continue
            row, where = rows[key, "L6"], f"bounds.parquet, {arm}, {name}, {unit_name(files, key)}, L6"
            tally.same(f"{where}: importance sampling", "importance sampling" in row["source"], isinstance(draws.drawn, Rare))
            if isinstance(draws.drawn, Rare):
                _rare(tally, where, row, *draws.drawn.limits(mask, it.law.weights, confidence))
                continue
            errors, n = draws.drawn.count(mask)
            low, high = interval(errors, n, SURE) if n else (0.0, 1.0)
            for rung in ABOVE:
                value = rows[key, rung]["value"] if (key, rung) in rows else 1.0
                tally.true(f"{where[:-2]}{rung}: value", value >= low, f"is {value!r}, below the error {low:.3g} that draws prove")
            if n == 0:
                tally.near(f"{where}: log_value", row["log_value"], 0.0)
                continue
            low, high = interval(errors, n, confidence)
            tally.near(f"{where}: estimate", row["estimate"], errors / n, 1e-12)
            tally.near(f"{where}: log_value", row["log_value"], math.log(high))
            tally.near(f"{where}: log_lower", row["log_lower"], math.log(low) if low > 0 else np.nan)
            tally.near(f"{where}: log_estimate", row["log_estimate"], math.log(errors / n) if errors else np.nan)
            tally.near(f"{where}: confidence", row["confidence"], confidence)
            tally.true(f"{where}: source", row["source"].endswith(f", {n} draws"), f"does not speak of {n} draws")
    return tally.check()


def check_order(files: RunFiles) -> Check:
    """Orders between rungs that are proved for every law."""
    tally = Tally(
        "orders",
        "orders between rungs that are proved: L5 <= L3 <= L1b, L5b <= L5 and L2, L9 <= L7",
        "compared",
    )
    for arm, name in files.laws:
        rows = files.bounds_of(arm, name)
        for key in {key for key, _ in rows}:
            value = {rung: rows[key, rung]["log_value"] for rung in RUNGS if (key, rung) in rows}
            check_ordered(tally, f"bounds.parquet, {arm}, {name}, {unit_name(files, key)}", value)
    return tally.check()


def check_ordered(tally: Tally, where: str, value: Mapping[str, float]) -> None:
    """Orders between the rungs of a unit, which are given by their logarithms."""
    for less, more in (("L5", "L3"), ("L3", "L1b"), ("L5b", "L5"), ("L5b", "L2"), ("L9", "L7")):
        tally.true(f"{where}: {less}", value.get(less, 0.0) <= value.get(more, 0.0) + 1e-9, f"exceeds {more}")


def _rare(tally: Tally, where: str, row: dict[str, Any], log_mean: float, log_low: float, log_high: float, n: int) -> None:
    """L6 from draws by importance."""
    tally.near(f"{where}: log_value", row["log_value"], log_high if log_high > -math.inf else row["log_value"], _WEIGHED)
    tally.near(f"{where}: log_lower", row["log_lower"], log_low if log_low > -math.inf else np.nan, _WEIGHED)
    tally.near(f"{where}: log_estimate", row["log_estimate"], log_mean if log_mean > -math.inf else np.nan, _WEIGHED)
    tally.near(f"{where}: estimate", row["estimate"], math.exp(log_mean), _WEIGHED)
    tally.true(f"{where}: source", row["source"].endswith(f", {n} draws") or log_high == -math.inf, f"does not speak of {n} draws")
