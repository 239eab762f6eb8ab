"""What a certificate says under a query law, as far as the file tells it by itself: the law and its embeddings are not kept.

Every rung of all tasks together is the mean of the tasks' own, weighed by their shares of the measurement; simulated errors add up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import logsumexp

from empirics.audit.bounds import ABOVE, RUNGS, SURE, TOLERANCE, check_ordered
from empirics.audit.certificates.opened import CertificateFiles
from empirics.audit.intervals import interval
from empirics.audit.result import Check, Tally
from empirics.audit.units import check_flags, check_law, check_rung

# Rungs that are means over query components; L12 and L11 are left out, for certificates have no settings for them.
MEANS = ("L1", "L1b", "L2", "L3", "L4", "L5", "L5b", "L7", "L9", "L10")
_UNSET = ("L11", "L12")
# Numbers of a law over all spaces, beyond which none is fitted.
_LARGEST = 1024
# Below this L3, simulated errors are drawn by importance.
RARE = math.log(1e-2)
_DRAWS = re.compile(r", (\d+) draws$")


def check_bounds(files: CertificateFiles) -> Check:
    """The rungs and the tests of the query law, of every unit."""
    tally = Tally(
        "bounds",
        "rungs of all tasks as means of the tasks' own, orders that are proved, simulated errors; which rungs hold and are guarantees",
        "recomputed",
        TOLERANCE,
    )
    for rule in files.rules:
        spaces, d = files.signatures(rule)["projection_axes"].shape[:2]
        fitted = spaces * d <= _LARGEST
        for _, unit in files.units(rule):
            where = f"certificate.json: {rule}, {unit['name']}"
            tally.same(f"{where}: law", unit["law"] is not None, fitted)
            tally.same(f"{where}: rungs", sorted(unit["rungs"]), sorted(set(RUNGS) - {"L8"}) if fitted else [])
        if fitted and not tally.findings:
            _rule(tally, files, rule)
    if any(unit["law"] for rule in files.rules for _, unit in files.units(rule)):
        tally.skip("rungs and tests of the query law, whose embeddings are not kept, beyond that: --thorough fits the law anew")
    return tally.check()


def _rule(tally: Tally, files: CertificateFiles, rule: str) -> None:
    test, joint = files.of("measurement"), "A4" if rule == "frozen" else "A3"
    wrong = files.retrieved(rule)[test] != files.task[test]
    level = dict.fromkeys(RUNGS, joint) | {"L1": "A2", "L2": "A2"} | dict.fromkeys(("L7", "L9", "L10"), "A1")
    for k, unit in files.units(rule):
        where, rungs = f"certificate.json: {rule}, {unit['name']}", unit["rungs"]
        chosen = wrong if k is None else wrong[files.task[test] == k]
        measured = interval(int(chosen.sum()), chosen.size, files.settings["confidence"])
        verdict = check_law(tally, f"{where}: law", unit["law"], measured, rungs["L6"], None)
        check_ordered(tally, where, {rung: row["log_value"] for rung, row in rungs.items()})
        for rung, row in rungs.items():
            check_flags(tally, f"{where}, {rung}", row)
            check_rung(tally, f"{where}, {rung}", row, measured, unit["law"], verdict, exchangeable=True)
            tally.same(f"{where}, {rung}: level", row["level"], level[rung])
            _binding(tally, f"{where}, {rung}: binding", row["binding"], files.signatures(rule)["task"], k)
        for rung in _UNSET:
            tally.near(f"{where}, {rung}: log_value", rungs[rung]["log_value"], 0.0)
    _overall(tally, files, rule, np.bincount(files.task[test]) / test.size)
    _simulated(tally, files, rule)


def _binding(tally: Tally, where: str, told: tuple[int, int] | None, task: np.ndarray, k: int | None) -> None:
    """The wrong task and component that contribute most are known, and of one another."""
    if told is not None:
        i, s = told
        tally.true(where, 0 <= s < task.size and task[s] == i != k, f"is {told}, which is no component of a wrong task")


def _overall(tally: Tally, files: CertificateFiles, rule: str, share: np.ndarray) -> None:
    told = files.rules[rule]
    tasks, overall = [unit["rungs"] for unit in told["tasks"]], told["overall"]["rungs"]
    for rung in MEANS:
        where = f"certificate.json: {rule}, overall, {rung}"
        mean = logsumexp([rungs[rung]["log_value"] for rungs in tasks], b=share)
        tally.near(f"{where}: log_value, the mean of the tasks' own", overall[rung]["log_value"], min(0.0, float(mean)))
        tally.same(f"{where}: confidence", overall[rung]["confidence"], None)


def _simulated(tally: Tally, files: CertificateFiles, rule: str) -> None:
    """Errors that were drawn, in whole numbers: those of all tasks are the sum, and limits follow from them."""
    told, n, errors, rare = files.rules[rule], 0, 0, False
    importance = told["overall"]["rungs"]["L3"]["log_value"] < RARE
    for _, unit in files.units(rule):
        where, row = f"certificate.json: {rule}, {unit['name']}, L6", unit["rungs"]["L6"]
        found = _DRAWS.search(row["source"])
        tally.same(f"{where}: importance sampling", "importance sampling" in row["source"], importance)
        if importance or found is None:
            rare = True
            continue
        draws = int(found[1])
        # Draws are whole numbers, and an estimate is their quotient.
        drawn = round(row["estimate"] * draws)
        _counted(tally, where, row, drawn, draws, files.each)
        _proved(tally, where, unit["rungs"], drawn, draws)
        if unit is not told["overall"]:
            n, errors = n + draws, errors + drawn
        else:
            tally.same(f"{where}: draws", draws, files.settings["simulations"])
            if not rare:
                tally.same(f"{where}: draws of all tasks", draws, n)
                tally.same(f"{where}: errors of all tasks", drawn, errors)
    if rare:
        tally.skip("errors simulated by importance (L6), whose draws are not kept: --thorough draws anew")


def _counted(tally: Tally, where: str, row: Mapping[str, Any], errors: int, n: int, confidence: float) -> None:
    low, high = interval(errors, n, confidence)
    tally.near(f"{where}: estimate", row["estimate"], errors / n, 1e-12)
    tally.near(f"{where}: log_value", row["log_value"], math.log(high))
    tally.near(f"{where}: log_lower", _number(row["log_lower"]), math.log(low) if low > 0 else math.nan)
    tally.near(f"{where}: log_estimate", _number(row["log_estimate"]), math.log(errors / n) if errors else math.nan)
    tally.near(f"{where}: confidence", row["confidence"], confidence, 1e-12)


def _proved(tally: Tally, where: str, rungs: Mapping[str, Mapping[str, Any]], errors: int, n: int) -> None:
    """Rungs that no error under the law exceeds lie above what draws prove."""
    low = interval(errors, n, SURE)[0]
    for rung in ABOVE:
        value = rungs[rung]["value"]
        tally.true(f"{where[:-2]}{rung}: value", value >= low, f"is {value!r}, below the error {low:.3g} that draws prove")


def _number(value: float | None) -> float:
    return math.nan if value is None else value
