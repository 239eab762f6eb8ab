"""What `proteus-bounds cascade --json` printed of a certified folder: its loss, its parameter, and what it does on the measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from empirics.audit.bounds import TOLERANCE
from empirics.audit.certificates.opened import CertificateFiles
from empirics.audit.intervals import log_binomial, upper_limit
from empirics.audit.result import Check, Tally
from empirics.audit.units import check_flags, check_interval

# The least parameters, which keep the first task of the screen.
_LEAST = {"threshold": 0.0, "best": 1.0, "adaptive": -math.inf, "absolute": -math.inf}
# Relative rounding of a binomial probability that equals its level.
_ROUNDING = 1e-9


def check_cascade(files: CertificateFiles, told: Mapping[str, Any], where: str) -> Check:
    """The printed cascade, from the scores of the folder's samples."""
    tally = Tally(
        "cascade",
        "the certified loss and the parameter from the samples of the certificate; adapters, losses and errors on those of the measurement",
        "recomputed",
        TOLERANCE,
    )
    kind, rule, confidence = told["kind"], told["rule"], told["loss"]["confidence"]
    tally.true(f"{where}: kind", kind in _LEAST, f"is {kind!r}, which is no way to choose candidates")
    tally.true(f"{where}: rule", rule in ("ratio", "paper") and rule in files.rules, f"is {rule!r}, which the folder has no cascade for")
    tally.true(f"{where}: loss.confidence", confidence is not None and 0 < confidence < 1, f"is {confidence}")
    if tally.findings:
        return tally.check()
    tally.same(f"{where}: tasks", told["tasks"], len(files.names))
    parameter = -math.inf if told["parameter"] is None else told["parameter"]
    _loss(tally, f"{where}: loss", files, rule, kind, parameter, told["loss"])
    _measured(tally, where, files, told, parameter)
    tally.skip("that kind and loss of the cascade were chosen before the samples were seen: no file tells")
    return tally.check()


def _loss(tally: Tally, where: str, files: CertificateFiles, rule: str, kind: str, parameter: float, told: Mapping[str, Any]) -> None:
    """The parameter is the order statistic of what samples need whose rank the told loss affords, and the loss the limit of the others."""
    held = files.of("certificate")
    needed = np.sort(_needed(kind, files.scores("frozen")[held], files.scores(rule)[held], files.task[held]))
    n, beta = needed.size, 1 - told["confidence"]
    lost = -1
    while lost + 1 < n and log_binomial(np.arange(lost + 2), n, told["value"]) <= math.log(beta) + _ROUNDING:
        lost += 1
    tally.true(f"{where}.value", lost >= 0, f"is {told['value']!r}, for which {n} samples are too few")
    if lost < 0:
        return
    expected = max(float(needed[n - lost - 1]), _LEAST[kind])
    tally.near(f"{where}: parameter, which {lost} of {n} samples may exceed", parameter, expected, 1e-12)
    tally.near(f"{where}.log_value", told["log_value"], math.log(upper_limit(lost, n, beta)))
    check_flags(tally, where, told)
    tally.same(f"{where}.level", told["level"], "A0")
    for said in (f"{n} held-out queries", f"rule {kind!r}", "the right answer"):
        tally.true(f"{where}.source", said in told["source"], f"does not say {said!r}")


def _measured(tally: Tally, where: str, files: CertificateFiles, told: Mapping[str, Any], parameter: float) -> None:
    test, confidence = files.of("measurement"), told["loss"]["confidence"]
    screen, full, task = files.scores("frozen")[test], files.scores(told["rule"])[test], files.task[test]
    visited = np.stack([_visited(told["kind"], parameter, a, b) for a, b in zip(screen, full, strict=True)])
    answer, right = np.where(visited, full, np.inf).argmin(axis=1), full.argmin(axis=1) == task
    tally.near(f"{where}: passes", told["passes"], visited.sum(axis=1).mean())
    lost = right & ~visited[np.arange(task.size), task]
    for name, wrong in (("lost", lost), ("full", ~right), ("cascade", answer != task)):
        check_interval(tally, f"{where}: {name}", told[name], int(wrong.sum()), task.size, confidence)


def _needed(kind: str, screen: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"]) -> np.ndarray:
    """The least parameter with which each sample keeps its right answer; -inf where the full search has none to lose."""
    out = np.full(task.size, -np.inf)
    for j in np.flatnonzero(full.argmin(axis=1) == task):
        order = np.argsort(screen[j], kind="stable")
        place = int(np.flatnonzero(order == task[j])[0])
        before, own = order[:place], screen[j, task[j]]
        if kind == "threshold":
            out[j] = own - screen[j].min()
        elif kind == "best":
            out[j] = place + 1
        elif place > 0:
            out[j] = own + _added(kind, screen[j], full[j], order[0]) - full[j, before].min()
    return out


def _visited(kind: str, parameter: float, screen: Float[np.ndarray, " m"], full: Float[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """The tasks that one sample looks at, one after the other."""
    out, best, order = np.zeros(screen.size, dtype=bool), math.inf, np.argsort(screen, kind="stable")
    added = _added(kind, screen, full, order[0])
    for place, k in enumerate(order):
        if kind == "threshold":
            done = screen[k] - screen[order[0]] > parameter
        elif kind == "best":
            done = place >= parameter
        else:
            done = place > 0 and screen[k] + added - best > parameter
        if done:
            break
        out[k], best = True, min(best, full[k])
    return out


def _added(kind: str, screen: np.ndarray, full: np.ndarray, first: int) -> float:
    """What the full search adds to the first task's score, for the rule that expects it of all tasks."""
    return float(full[first] - screen[first]) if kind == "adaptive" else 0.0
