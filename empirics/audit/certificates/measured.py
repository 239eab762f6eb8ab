"""What the scores of a certificate's samples show by themselves: retrieved tasks, measured errors, L8, and conformal sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from empirics.audit.bounds import TOLERANCE
from empirics.audit.certificates.opened import SAMPLES, CertificateFiles
from empirics.audit.intervals import interval, upper_limit
from empirics.audit.result import Check, Tally
from empirics.audit.units import check_conformal, check_flags, check_interval, check_retrieved, check_rung, conformal_sets


def check_scores(files: CertificateFiles, cascade: bool) -> Check:
    """Retrieved tasks from scores; it is said that no cascade is looked at, if that is so."""
    tally = Tally("scores", "retrieved tasks: those of least score", "recomputed")
    for rule in files.rules:
        check_retrieved(tally, f"{SAMPLES}, {rule}", files.retrieved(rule), files.scores(rule))
    tally.skip("the scores themselves, whose embeddings are not kept: --data embeds some samples anew, --thorough all")
    if not cascade and "frozen" in files.rules and len(files.rules) > 1:
        tally.skip("what `proteus-bounds cascade` says of the folder, which keeps none of it: --cascade takes what its --json prints")
    return tally.check()


def check_errors(files: CertificateFiles) -> Check:
    """Errors of the part of the measurement."""
    tally = Tally("errors", "errors of the samples of the measurement, with intervals, and their mean over tasks", "recomputed", TOLERANCE)
    test = files.of("measurement")
    for rule in files.rules:
        wrong = files.retrieved(rule)[test] != files.task[test]
        rates = []
        for k, unit in files.units(rule):
            chosen = _chosen(files.task[test], k)
            where = f"certificate.json: {rule}, {unit['name']}, measured"
            check_interval(tally, where, unit["measured"], int(wrong[chosen].sum()), int(chosen.sum()), files.settings["confidence"])
            if k is not None:
                rates.append(wrong[chosen].mean())
        tally.near(f"certificate.json: {rule}, macro_error", files.rules[rule]["macro_error"], np.mean(rates), 1e-12)
    return tally.check()


def check_limits(files: CertificateFiles) -> Check:
    """L8 of every task and of the pool: all tasks, the pool and all rules share the probability of failure."""
    tally = Tally(
        "limits",
        "L8 from the errors of the samples of the certificate alone; tasks, the pool and all rules share the failure probability",
        "recomputed",
        TOLERANCE,
    )
    held, test, each = files.of("certificate"), files.of("measurement"), files.each
    # The pool is a sum over tasks of unlike rates, which a limit covers for a failure probability of at most 1/4.
    shares = len(files.names) + 1
    pooled = max(shares, math.ceil(4 * (1 - each)))
    for rule in files.rules:
        wrong = files.retrieved(rule) != files.task
        for k, unit in files.units(rule):
            mine, seen = held[_chosen(files.task[held], k)], test[_chosen(files.task[test], k)]
            where = f"certificate.json: {rule}, {unit['name']}, L8"
            _limit(tally, where, unit["certificate"], int(wrong[mine].sum()), mine.size, each, shares if k is not None else pooled)
            measured = interval(int(wrong[seen].sum()), seen.size, files.settings["confidence"])
            check_rung(tally, where, unit["certificate"], measured, None, "", exchangeable=True)
    return tally.check()


def _limit(tally: Tally, where: str, row: dict[str, Any], errors: int, n: int, confidence: float, simultaneous: int) -> None:
    tally.near(f"{where}: log_value", row["log_value"], math.log(upper_limit(errors, n, (1 - confidence) / simultaneous)))
    check_flags(tally, where, row)
    tally.near(f"{where}: estimate", row["estimate"], errors / n, 1e-12)
    tally.near(f"{where}: confidence", row["confidence"], confidence, 1e-12)
    tally.same(f"{where}: level", row["level"], "A0")
    for told in (f", {n} held-out samples", f"one of {simultaneous} simultaneous"):
        tally.true(f"{where}: source", told in row["source"], f"does not say {told!r}")
    for field, nothing in (("binding", None), ("log_lower", None), ("log_estimate", None), ("given", ""), ("note", "")):
        tally.same(f"{where}: {field}", row[field], nothing)


def check_sets(files: CertificateFiles) -> Check:
    """Conformal sets of every task."""
    tally = Tally(
        "sets",
        "conformal sets on the samples of the measurement, with the threshold that those of the certificate give",
        "recomputed",
        TOLERANCE,
    )
    held, test, alpha = files.of("certificate"), files.of("measurement"), files.settings["alpha"]
    for rule in files.rules:
        scores = files.scores(rule)
        sets = conformal_sets(scores[held], files.task[held], scores[test], alpha)
        for k, unit in files.units(rule):
            rows = _chosen(files.task[test], k)
            where = f"certificate.json: {rule}, {unit['name']}, conformal"
            check_conformal(tally, where, unit["conformal"], sets[rows], files.task[test][rows], alpha)
    return tally.check()


def _chosen(task: np.ndarray, k: int | None) -> np.ndarray:
    return np.ones(task.size, dtype=bool) if k is None else task == k
