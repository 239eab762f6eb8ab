"""PROTEUS against its rivals: the same documents, seeds, backbone and budgets, judged on the same test documents."""

from __future__ import annotations

import gc
import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from empirics import processes
from empirics.comparisons.standings import SCHEMA, TABLES, cell_folder, summarise
from empirics.config import RunConfig, check_settings
from empirics.data.generic_corpus import generic_corpus
from empirics.data.images import digest
from empirics.data.streams import Stream, load_stream
from empirics.files.claim import SETTINGS, claimed_parts, finish_folder, setting_differences
from empirics.files.record import CHECKPOINTS, read_json, write_json, write_parquet
from empirics.methods import METHODS, Method
from empirics.methods.per_task import AdapterSet, adapter_set, adapter_set_content, train_adapters
from empirics.methods.problem import Outcome, Problem, reordered
from empirics.methods.retrieval import FOLDS
from empirics.reports.metrics import (
    average_accuracy,
    backward_transfer,
    batch_errors,
    cumulative_average,
    forgetting,
    forward_transfer,
    stage_matrix,
)
from empirics.runs.checkpoints import Checkpoints, open_checkpoints
from empirics.runs.machine import PeakMemory, PhaseClock, environment
from empirics.runs.origin import origin
from empirics.seeding import generator
from theory.errors import InputError


def chosen_methods(config: RunConfig) -> list[Method]:
    """The methods that the settings name, in the table's order.

    Raises
    ------
    InputError
        For an unknown name, or a reference that is not among them.
    """
    known = [method.name for method in METHODS]
    wanted = config.compare.methods or tuple(known)
    for key, names in (("compare.methods", wanted), ("compare.reference", (config.compare.reference,))):
        for name in names:
            if name not in known:
                raise InputError(key, f"{name!r} is unknown; choose from {', '.join(known)}")
    if config.compare.reference not in wanted:
        raise InputError("compare.reference", f"{config.compare.reference!r} is not among compare.methods; add it or name another")
    return [method for method in METHODS if method.name in wanted]


def task_orders(tasks: int, count: int, seed: int) -> list[list[int]]:
    """Different orders of the tasks: the stream's own, then random ones.

    Raises
    ------
    InputError
        If there are not so many.
    """
    if count > math.factorial(tasks):
        raise InputError("compare.orders", f"{count} exceeds the {math.factorial(tasks)} orders of {tasks} tasks; lower it")
    orders, draw = [list(range(tasks))], 0
    while len(orders) < count:
        draw += 1
        order = generator(seed, "order", draw).permutation(tasks).tolist()
        if order not in orders:
            orders.append(order)
    return orders


def compare(config: RunConfig, folder: Path | str, *, quiet: bool = False, resume: bool = False) -> dict[str, Any]:
    """Run every method on every seed and order, and write one table.

    Each seed and order is a cell, written whole when it is done; a folder that holds cells of the same settings is
    continued. `comparison.json`, `comparison.md` and `comparison.parquet` (a row for each method and cell) are made from the cells.

    Parameters
    ----------
    config : RunConfig
    folder : Path or str
    quiet : bool
        No progress on standard error.
    resume : bool
        Refuse a folder that does not hold this comparison unfinished.

    Returns
    -------
    dict
        What `comparison.json` holds.

    Raises
    ------
    InputError
        For settings, data or weights that cannot be used, before anything is written; or a folder that holds anything else.
    """
    from empirics.runs.embedding import open_stream, use_threads

    check_settings(config, RunConfig)
    folder, methods = Path(folder), chosen_methods(config)
    settings = {"schema": SCHEMA, "config": config.model_dump(mode="json")}
    there = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else settings
    if there != settings:
        differ = setting_differences(there, settings)
        raise InputError(str(folder), f"holds a comparison with other settings: {differ}; choose another folder with --out")
    use_threads(config)
    missing = _missing(config, folder)
    if missing:
        stream, backbone = open_stream(config.model_copy(update={"seed": min(missing)}))
        methods, left_out = possible_methods(config, stream, methods)
        check_stream(config, stream, backbone.dimension, methods)
    # What there is to do is read off the folder, which the main process now begins to change.
    processes.wait()
    with claimed_parts(folder, settings, complete=not missing, resume=resume):
        clock = PhaseClock(quiet)
        for seed, orders in missing.items():
            if seed != min(missing):
                stream = load_stream(config.stream, generator(seed, "stream"))
            corpus = generic_corpus(config, stream) if any(method.remedy == "corpus" for method in methods) else ()
            own = config.model_copy(update={"seed": seed})
            _run_seed(own, without_query(stream), corpus, backbone, orders, methods, left_out, folder, clock, resume)
        processes.leave_to_main()
        found = summarise(folder)
        finish_folder(folder, TABLES)
        return found


def _missing(config: RunConfig, folder: Path) -> dict[int, list[int]]:
    """Orders of each seed whose cells are not there."""
    out = {}
    for seed in range(config.seed, config.seed + config.compare.seeds):
        orders = [k for k in range(config.compare.orders) if not (cell_folder(folder, seed, k) / "cell.json").is_file()]
        if orders:
            out[seed] = orders
    return out


def possible_methods(config: RunConfig, stream: Stream, methods: Sequence[Method]) -> tuple[list[Method], dict[str, str]]:
    """Those methods that the stream has what they need for, and why each of the others is left out.

    Raises
    ------
    InputError
        If a method that the settings name, or the reference, would be left out; or a named file cannot be used.
    """
    lacking = [method for method in methods if method.remedy == "corpus"]
    try:
        if lacking:
            generic_corpus(config, stream)
        return list(methods), {}
    except InputError as error:
        named = {*(config.compare.methods or ()), config.compare.reference}
        file_named = config.compare.background is not None and stream.modality == "text"
        if file_named or any(method.name in named for method in lacking):
            raise
        return [method for method in methods if method not in lacking], {m.name: f"{error.argument} {error.problem}" for m in lacking}


def check_stream(config: RunConfig, stream: Stream, dimension: int, methods: Sequence[Method]) -> None:
    """Refuse what would fail hours later.

    Raises
    ------
    InputError
        If there are not so many task orders; or the signatures ask for more dimensions than there are, more documents of a class, or
        more of the reservoir.
    """
    task_orders(len(stream.tasks), config.compare.orders, config.seed)
    signature, remedies = config.signature, {method.remedy for method in methods}
    if signature.held_out > 0:
        raise InputError("signature.held_out", "is not compared: methods train on the same documents, all of them; set it to 0")
    if remedies == {None}:
        return
    if signature.dimension > dimension:
        raise InputError("signature.dimension", f"{signature.dimension} exceeds the encoder's {dimension}; lower it")
    reservoir = np.sort(np.bincount(stream.task[stream.where("reservoir")], minlength=len(stream.tasks)))
    # The second task is retrieved with what the reservoir holds by then.
    if (early := int(reservoir[:2].sum())) < 3 + (signature.covariance == "full"):
        raise InputError("stream.reservoir_per_class", f"leaves the reservoir {early} documents of some two tasks; raise it")
    least = int(np.bincount(stream.cluster[stream.where("train")]).min())
    kept = least - -(-least // FOLDS) if "calibrated" in remedies else least
    by_class = signature.clusters == "class"
    if by_class and kept < 3:
        raise InputError(
            "stream.train_per_class",
            f"leaves a class {least} documents; proteus-calibrated needs 4, in folds: leave it out or add documents",
        )
    if by_class and signature.covariance == "full" and kept <= signature.dimension:
        raise InputError(
            "signature.covariance",
            f"full needs more samples than dimensions, and a class has {kept} for {signature.dimension}; lower signature.dimension, or "
            "choose ledoit-wolf, oas, diagonal or low-rank",
        )


def _run_seed(
    config: RunConfig,
    stream: Stream,
    corpus: tuple[str, ...],
    backbone: Any,
    orders: Sequence[int],
    methods: Sequence[Method],
    left_out: dict[str, str],
    folder: Path,
    clock: PhaseClock,
    resume: bool,
) -> None:
    from empirics.runs.embedding import encode

    place, name = folder / CHECKPOINTS / f"seed{config.seed}", f"seed {config.seed}: frozen pass"
    kept = open_checkpoints(place, place / "origin.json", origin(stream, backbone), clock, resume=resume)
    source = encode(stream, backbone, clock, kept, name)
    wanted = task_orders(len(stream.tasks), config.compare.orders, config.seed)
    for order in orders:
        problem = Problem(config, reordered(stream, wanted[order]), backbone, source, corpus)
        _run_cell(problem, order, methods, left_out, cell_folder(folder, config.seed, order), clock, clock.seconds[name], kept)
    if processes.is_main():
        shutil.rmtree(place, ignore_errors=True)


def run_order(config: RunConfig, order: int, stream: Stream, backbone: Any, source: Any, folder: Path, clock: PhaseClock) -> None:
    """Run every method on one seed and task order, and write the cell.

    Parameters
    ----------
    config : RunConfig
        With its seed, and at least so many task orders.
    order : int
        Which of them.
    stream, backbone
        As `empirics.runs.embedding.open_stream` gave them.
    source : PrefixSource
        Of the documents of `without_query(stream)`.
    folder : Path
        Of the cell.
    clock : PhaseClock
        Holds the seconds of the frozen pass.

    Raises
    ------
    InputError
        As `check_stream` and `possible_methods`.
    """
    frozen_seconds = sum(clock.seconds.values())
    methods, left_out = possible_methods(config, stream, chosen_methods(config))
    check_stream(config, stream, backbone.dimension, methods)
    corpus = generic_corpus(config, stream) if any(method.remedy == "corpus" for method in methods) else ()
    wanted = task_orders(len(stream.tasks), config.compare.orders, config.seed)[order]
    problem = Problem(config, reordered(without_query(stream), wanted), backbone, source, corpus)
    _run_cell(problem, order, methods, left_out, folder, clock, frozen_seconds, Checkpoints(None, clock))


def without_query(stream: Stream) -> Stream:
    """The stream less its query part, which no method may see and no retrieval error is measured on."""
    return stream.take(np.flatnonzero(stream.part != "query"))


def _run_cell(
    problem: Problem,
    order: int,
    methods: Sequence[Method],
    left_out: dict[str, str],
    folder: Path,
    clock: PhaseClock,
    frozen_seconds: float,
    kept: Checkpoints,
) -> None:
    """Answer with every method; adapters of a kind are trained once and dropped before the next kind's."""
    stream, seed = problem.stream, problem.config.seed
    test = stream.where("test")
    columns: dict[str, Any] = {
        "document": test,
        "input": [_identity(stream.inputs[j]) for j in test],
        "task": stream.task[test],
        "cluster": stream.cluster[test],
    }
    rows: dict[str, dict[str, Any]] = {}
    kinds = {"independent": problem.config.adapter.alone(), "composed": problem.config.adapter}
    alone = None
    # Forward transfer is measured against adapters that were trained alone, so that these come first.
    for kind in (*kinds, None):
        sharing = [method for method in methods if method.adapters == kind]
        sets: dict[str, AdapterSet] = {}
        trained = held = 0
        if kind is not None and (sharing or (kind == "independent" and any(method.adapters for method in methods))):
            stage = f"order{order}-{kind}"
            if stage in kept:
                tensors, facts = kept.read(stage)
                sets[kind], trained = adapter_set(tensors, facts["set"]), facts["peak_bytes"]
            else:
                with clock.phase(f"seed {seed}, order {order}: {kind} adapters", 1) as advance, PeakMemory() as peak:
                    sets[kind] = train_adapters(problem, kinds[kind])
                    advance(1)
                trained = peak.bytes
                tensors, facts = adapter_set_content(sets[kind])
                kept.write(stage, tensors, {"set": facts, "peak_bytes": trained})
            held = sets[kind].nbytes
            if kind == "independent":
                alone = _told_accuracy(sets[kind], problem)
        for method in sharing:
            stage = f"order{order}-method-{method.name}"
            if stage in kept:
                answers, rows[method.name] = kept.read(stage)
            else:
                with clock.phase(f"seed {seed}, order {order}: {method.name}", 1) as advance, PeakMemory() as peak:
                    outcome = method(problem, sets)
                    advance(1)
                outcome = replace(outcome, peak_bytes=max(trained, held + peak.bytes))
                rows[method.name] = measures(problem, outcome, alone)
                answers = {what: getattr(outcome, what)[-1] for what in ("task", "cluster", "told")}
                kept.write(stage, answers, rows[method.name])
            columns |= {f"{method.name}:{what}": answers[what] for what in ("task", "cluster", "told")}
        del sets
        gc.collect()
    about = {
        "seed": seed,
        "order": order,
        "tasks": [task.name for task in stream.tasks],
        "documents": {part: int(stream.where(part).size) for part in ("train", "reservoir", "test")},
        "frozen_pass_seconds": round(frozen_seconds, 3),
        "methods": {method.name: {"about": method.about, "role": method.role, **rows[method.name]} for method in methods},
        "left_out": left_out,
        "environment": environment(),
    }
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns))
    write_json(folder / "cell.json", about)


def _identity(item: Any) -> str:
    """What tells one test document from another, over all seeds."""
    return (hashlib.sha256(item.encode()).digest() if isinstance(item, str) else digest(item)).hex()[:32]


def _told_accuracy(adapted: AdapterSet, problem: Problem) -> Float[np.ndarray, " m"]:
    """Accuracy of each task under its own adapter."""
    test = problem.stream.where("test")
    task, cluster = problem.stream.task[test], problem.stream.cluster[test]
    right = adapted.predicted[np.arange(test.size), task] == cluster
    return np.bincount(task, right, minlength=problem.tasks) / np.bincount(task, minlength=problem.tasks)


def measures(problem: Problem, outcome: Outcome, alone: np.ndarray | None) -> dict[str, Any]:
    """Everything that one cell says of one method; see `empirics.reports.metrics`."""
    test = problem.stream.where("test")
    task, cluster = problem.stream.task[test], problem.stream.cluster[test]
    accuracy = stage_matrix(outcome.cluster == cluster, task)
    retrieval = stage_matrix(outcome.task == task, task)
    told = stage_matrix(outcome.told == cluster, task)
    wrong, found = outcome.task[-1] != task, outcome.cluster[-1] == cluster
    batches = {}
    if outcome.scores is not None:
        batches = {
            # The same batches for every method.
            str(b): float(np.mean(batch_errors(outcome.scores, task, b, problem.generator("batches", b))))
            for b in problem.config.retrieval.batches
        }
    return {
        "average_accuracy": average_accuracy(accuracy),
        "accuracy": float(found.mean()),
        "cumulative_accuracy": cumulative_average(accuracy),
        "forgetting": forgetting(accuracy),
        "backward_transfer": backward_transfer(accuracy),
        "forward_transfer": None if alone is None else forward_transfer(np.diag(told), alone),
        "retrieval_error": float(wrong.mean()),
        "macro_retrieval_error": float(1 - np.mean(retrieval[-1])),
        "within_task_accuracy": float((found & ~wrong).sum() / max(1, (~wrong).sum())),
        "told_accuracy": float((outcome.told[-1] == cluster).mean()),
        "batch_retrieval_error": batches,
        "stored_bytes": dict(outcome.stored),
        "seconds": {k: round(v, 3) for k, v in outcome.seconds.items()},
        "peak_bytes": outcome.peak_bytes,
        "accuracy_matrix": _rows(accuracy),
        "retrieval_matrix": _rows(retrieval),
    }


def _rows(matrix: np.ndarray) -> list[list[float]]:
    """The lower triangle, which JSON can hold."""
    return [row[: i + 1].tolist() for i, row in enumerate(matrix)]
