"""The table of retrieval: errors, accuracy, conformal sets and the leak control, from the columns of scores."""

from __future__ import annotations

import numpy as np

from empirics.audit.bounds import TOLERANCE
from empirics.audit.judged import batch_errors
from empirics.audit.opened import ARMS, RunFiles
from empirics.audit.result import Check, Tally
from empirics.audit.units import check_conformal, check_interval, conformal_sets
from empirics.seeding import generator

# Rate at which a set may miss the true task, and ways to cut a task into batches.
_ALPHA, _CUTS = 0.05, 20


def check_retrieval(files: RunFiles) -> Check:
    """Every row of `retrieval` in `report.json`."""
    tally = Tally(
        "retrieval",
        "errors and accuracies of every arm in every dimension; conformal sets, whose threshold is calibrated on query documents; batches",
        "recomputed",
        TOLERANCE,
    )
    table, test, query, names = files.report["retrieval"], files.test, files.query, files.names
    order = sorted(files.keys, key=lambda key: (int(key.rpartition("-")[2]), ARMS.index(key.rpartition("-")[0])))
    tally.same("report.json: retrieval", [f"{row['arm']}-{row['dimension']}" for row in table], order)
    task = test["task"].to_numpy()
    for row in table:
        key = f"{row['arm']}-{row['dimension']}"
        if key not in files.keys:
            continue
        where = f"report.json: retrieval, {key}"
        wrong = (test[f"{key}:retrieved"] != test["task"]).to_numpy()
        right = ~wrong & (test[f"{key}:prediction"] == test["label"]).to_numpy()
        errors, confidence = int(wrong.sum()), files.config["bounds"]["confidence"]
        check_interval(tally, f"{where}, measured", row["measured"], errors, wrong.size, confidence)
        each = np.array([wrong[task == k].mean() for k in range(len(names))])
        tally.same(f"{where}, task_error", list(row["task_error"]), names)
        tally.near(lambda k, w=where: f"{w}, task_error of {names[k]}", list(row["task_error"].values()), each)
        tally.near(f"{where}, macro_error", row["macro_error"], each.mean())
        tally.near(f"{where}, accuracy", row["accuracy"], right.mean())
        tally.near(f"{where}, within_task_accuracy", row["within_task_accuracy"], right.sum() / max(1, (~wrong).sum()))
        held, fresh = files.energies(query, key), files.energies(test, key)
        sets = conformal_sets(held, query["task"].to_numpy(), fresh, _ALPHA)
        check_conformal(tally, f"{where}, conformal", row["conformal"], sets, task, _ALPHA)
        sizes = files.config["retrieval"]["batches"]
        tally.same(f"{where}, batch_error", list(row["batch_error"]), [str(b) for b in sizes])
        for b in sizes:
            found = _pure(fresh, task, b, generator(files.config["seed"], "batch", key, b))
            tally.near(f"{where}, batch_error of {b}", row["batch_error"].get(str(b), np.nan), np.nanmean(found))
    return tally.check()


def _pure(energies: np.ndarray, task: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Error of each task if scores of so many of its documents are added, over random cuts into batches."""
    out = np.full(energies.shape[1], np.nan)
    for k in range(energies.shape[1]):
        own, of = energies[task == k], task[task == k]
        if not of.size:
            continue
        width = min(size, of.size)
        cuts = 1 if width in (1, of.size) else _CUTS
        out[k] = np.mean([batch_errors(own, of, of, width, rng).mean() for _ in range(cuts)])
    return out
