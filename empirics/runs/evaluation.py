"""The report of a run, made from the files that the run wrote and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirics.config import BoundsConfig, RunConfig
from empirics.files.claim import finish_folder
from empirics.files.record import read_parquet, read_tensors, write_bytes, write_json, write_parquet
from empirics.reports.metrics import batch_errors, batch_outcomes
from empirics.reports.report import SCHEMA, Report, markdown
from empirics.reports.verdicts import Distances, judge_rung, judge_unit
from empirics.retrieval.signatures import predicted_own_distances, read_rule_tensors
from empirics.runs.machine import PhaseClock
from empirics.runs.run_folder import MADE, finished, is_older, read_about
from empirics.seeding import generator
from theory.bound import Bound
from theory.certificates import Measured, certificate
from theory.conformal import conformal_sets
from theory.errors import InputError
from theory.ladder import Ball, Ladder, ladder
from theory.mixture import QueryLaw, Rule, well_specified
from theory.robust import Student
from theory.slack import slack

ARMS = ("paper", "ratio", "frozen", "both")
# Rate at which a conformal retrieval set may miss the true task.
ALPHA = 0.05


def spaces_of(arm: str) -> slice:
    """What an arm looks at, of the frozen space and then those of all tasks."""
    return {"frozen": slice(0, 1), "both": slice(0, None)}.get(arm, slice(1, None))


def components_are_classes(config: RunConfig) -> bool:
    """Whether the component of a signature is a class, so that every document is known to belong to one."""
    return config.signature.clusters == "class"


def evaluate(folder: Path, clock: PhaseClock) -> Report:
    """Make `report.json`, `report.md`, and the tables `bounds`, `pairs` and `slack` from the other files of a run, and keep its manifest.

    Raises
    ------
    InputError
        As `make_report`.
    """
    report = make_report(folder, clock)
    finish_folder(folder, MADE)
    return report


def make_report(folder: Path, clock: PhaseClock) -> Report:
    """What `evaluate` makes, in a folder that is not finished by that.

    Raises
    ------
    InputError
        If the folder is no finished run, or a file of it is missing or corrupt.
    """
    about = read_about(folder)
    if is_older(about):
        raise InputError(str(folder / "run.json"), f"has schema {about['schema']}; this version makes reports of schema {SCHEMA} only")
    if not finished(about):
        raise InputError(str(folder), "holds a run that did not finish; proteus-bounds report tells how far it came and how it goes on")
    config = RunConfig.model_validate(about["config"])
    names = tuple(t["name"] for t in about["tasks"])
    test, query = read_parquet(folder / "predictions.parquet"), read_parquet(folder / "calibration.parquet")
    class_names = [f"{t['name']}/{c}" for t in about["tasks"] for c in t["classes"]]
    dimension = config.signature.dimension
    laws = {arm: ("mixture", "gaussian") for arm in ARMS} | {"frozen": ("mixture", "gaussian", "well-specified")}
    arms, frames, pair_frames, slack_frames = [], [], [], []
    keys = [path.stem for path in sorted((folder / "signatures").glob("*.safetensors"))]
    weights = np.bincount(test["task"], minlength=len(names)) / len(test)
    with clock.phase("bounds", sum(map(len, laws.values()))) as advance:
        for arm in ARMS:
            key = f"{arm}-{dimension}"
            rule = load_rule(folder / "signatures" / f"{key}.safetensors", names, config)
            for name in laws[arm]:
                if name == "well-specified":
                    law = well_specified(rule.signatures, weights)
                    if not _by_class(name, config):
                        # Components found by a mixture are no clusters that a document could be said to belong to.
                        law = replace(law, cluster=law.task)
                else:
                    law = load_law(folder / "laws" / f"{key}-{name}.safetensors", name)
                rng = generator(config.seed, "simulation", arm, name)
                found = _certified(ladder(rule, law, rng=rng, **_settings(config.bounds)), query, key, config)
                arms.append(_judged(arm, dimension, found, rule, law, test, config, class_names, about.get("exchangeable", True), rng))
                slack_frames.append(_slack(found, arms[-1]).assign(arm=arm, dimension=dimension, law=name))
                frames.append(found.frame().assign(arm=arm, dimension=dimension, law=name))
                pair_frames.append(pd.DataFrame(asdict(found.pairs)).assign(arm=arm, dimension=dimension, law=name))
                advance(1)
    measured = _measured_table(test, query, keys, names, config)
    headline = next(a for a in arms if a["arm"] == config.bounds.arm and a["law"] == "mixture")
    report = Report.model_validate(
        {
            "schema_version": SCHEMA,
            "headline": {k: headline[k] for k in ("arm", "dimension", "law")},
            "overall": headline["overall"],
            "tasks": headline["tasks"],
            "clusters": headline["clusters"],
            "arms": arms,
            "retrieval": measured,
            "run": about,
        }
    )
    write_parquet(folder / "bounds.parquet", pd.concat(frames, ignore_index=True))
    write_parquet(folder / "pairs.parquet", pd.concat(pair_frames, ignore_index=True))
    write_parquet(folder / "slack.parquet", pd.concat(slack_frames, ignore_index=True))
    write_json(folder / "report.json", report.model_dump(mode="json"))
    write_bytes(folder / "report.md", markdown(report).encode())
    return report


def _settings(bounds: BoundsConfig) -> dict[str, Any]:
    return {
        "simulations": bounds.simulations,
        "confidence": bounds.confidence,
        "batch": bounds.batch,
        "intersections": bounds.intersections,
        "scale": Student(bounds.student) if bounds.student is not None else None,
        "ball": Ball("kl", bounds.kl) if bounds.kl is not None else None,
    }


def _slack(found: Ladder, judged: dict[str, Any]) -> pd.DataFrame:
    """Where each rung's excess over the measured error comes from, overall and per task."""
    units = [(("overall", None), judged["overall"]), *((("task", k), u) for k, u in zip(found.tasks, judged["tasks"], strict=True))]
    measured = {key: Measured(u["measured"]["errors"], u["measured"]["n"], u["measured"]["confidence"]) for key, u in units}
    return slack(found, measured)


def _by_class(law: str, config: RunConfig) -> bool:
    """Whether the true clusters of a query law are the classes: but for the signature's own law, whose clusters are its components."""
    return law != "well-specified" or components_are_classes(config)


def _certified(found: Ladder, query: pd.DataFrame, key: str, config: RunConfig) -> Ladder:
    """The ladder with L8 from the held-out documents of every true cluster, which need not be a component of the signature."""
    wrong = (query[f"{key}:retrieved"] != query["task"]).to_numpy()
    task = query["task"].to_numpy()
    cluster = _cluster(query, found.law, config)

    def with_limit(rungs: Mapping[str, Bound], rows: np.ndarray, simultaneous: int) -> dict[str, Bound]:
        if not rows.any():
            return dict(rungs)
        return {**rungs, "L8": certificate(int(wrong[rows].sum()), int(rows.sum()), config.bounds.confidence, simultaneous)}

    return replace(
        found,
        clusters={(k, t): with_limit(r, cluster == t, len(found.clusters)) for (k, t), r in found.clusters.items()},
        tasks={k: with_limit(r, task == k, len(found.tasks)) for k, r in found.tasks.items()},
        overall=with_limit(found.overall, np.ones(len(query), dtype=bool), 1),
    )


def _cluster(frame: pd.DataFrame, law: str, config: RunConfig) -> np.ndarray:
    """True cluster of every document under a query law: its class, or its task."""
    return frame["cluster" if _by_class(law, config) else "task"].to_numpy()


def _judged(
    arm: str,
    dimension: int,
    found: Ladder,
    rule: Rule,
    law: QueryLaw,
    test: pd.DataFrame,
    config: RunConfig,
    class_names: list[str],
    exchangeable: bool,
    rng: np.random.Generator,
) -> dict[str, Any]:
    key, signatures = f"{arm}-{dimension}", rule.signatures
    wrong = (test[f"{key}:retrieved"] != test["task"]).to_numpy()
    task, cluster = test["task"].to_numpy(), _cluster(test, law.name, config)
    distance = test[f"{key}:distance"].to_numpy()
    predicted = predicted_own_distances(signatures, law, rng, clusters_are_components=components_are_classes(config))
    distances = Distances({int(t): distance[cluster == t] for t in np.unique(cluster)}, predicted, signatures.dimension)
    energies = test[_energies(key, signatures.names)].to_numpy()

    def unit(name: str, rows: np.ndarray, rungs: Mapping[str, Bound], clusters: np.ndarray, within: np.ndarray) -> dict[str, Any]:
        out = judge_unit(name, wrong[rows], rungs, distances, clusters, config.bounds.confidence, exchangeable)
        if config.bounds.batch == 1:
            return out
        # L4 then bounds another event: that a batch is sent to a wrong task.
        outcomes = batch_outcomes(energies[rows], task[rows], within[rows], config.bounds.batch, rng)
        if not outcomes.size:
            unmeasured = f"not measured: fewer than {config.bounds.batch} test documents"
            out["rungs"]["L4"] |= {"holds": True, "broken_assumption": None, "guarantee": False, "note": unmeasured}
            return out
        batch = Measured(int(outcomes.sum()), outcomes.size, config.bounds.confidence)
        out["rungs"]["L4"] = judge_rung(rungs["L4"], batch, out["law"], exchangeable)
        return out | {"batch": batch.to_dict()}

    cluster_names = class_names if _by_class(law.name, config) else signatures.names
    return {
        "arm": arm,
        "dimension": dimension,
        "law": found.law,
        "overall": unit("overall", np.ones(len(test), dtype=bool), found.overall, np.unique(cluster), task),
        "tasks": [unit(signatures.names[k], task == k, r, np.unique(cluster[task == k]), task) for k, r in found.tasks.items()],
        "clusters": [unit(cluster_names[t], cluster == t, r, np.array([t]), cluster) for (_, t), r in found.clusters.items()],
    }


def _measured_table(
    test: pd.DataFrame, query: pd.DataFrame, keys: list[str], names: tuple[str, ...], config: RunConfig
) -> list[dict[str, Any]]:
    out = []
    task = test["task"].to_numpy()
    for key in sorted(keys, key=lambda k: (int(k.rpartition("-")[2]), ARMS.index(k.rpartition("-")[0]))):
        arm, _, dimension = key.rpartition("-")
        wrong = (test[f"{key}:retrieved"] != test["task"]).to_numpy()
        right = ~wrong & (test[f"{key}:prediction"] == test["label"]).to_numpy()
        columns = _energies(key, names)
        scores = test[columns].to_numpy()
        sets = conformal_sets(query[columns].to_numpy(), query["task"].to_numpy(), scores, ALPHA)
        pure = {b: batch_errors(scores, task, b, generator(config.seed, "batch", key, b)) for b in config.retrieval.batches}
        out.append(
            {
                "arm": arm,
                "dimension": int(dimension),
                "measured": Measured(int(wrong.sum()), wrong.size, config.bounds.confidence).to_dict(),
                "task_error": {name: float(wrong[task == k].mean()) for k, name in enumerate(names)},
                "macro_error": float(np.mean([wrong[task == k].mean() for k in range(len(names))])),
                "accuracy": float(right.mean()),
                "within_task_accuracy": float(right.sum() / max(1, (~wrong).sum())),
                "batch_error": {str(size): float(np.nanmean(errors)) for size, errors in pure.items()},
                "conformal": {
                    "alpha": ALPHA,
                    "coverage": float(sets[np.arange(len(task)), task].mean()),
                    "mean_size": float(sets.sum(axis=1).mean()),
                },
            }
        )
    return out


def _energies(key: str, names: tuple[str, ...]) -> list[str]:
    """Columns of the task scores of an arm in a dimension."""
    return [f"{key}:energy:{name}" for name in names]


def load_rule(path: Path, names: tuple[str, ...], config: RunConfig) -> Rule:
    """The signatures of an arm with their background, as a run keeps them.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    return Rule(*read_rule_tensors(read_tensors(path), names), config.retrieval.rule)


def load_law(path: Path, name: str) -> QueryLaw:
    """A query law, as a run keeps it.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    t = read_tensors(path)
    return QueryLaw(t["means"], t["covariances"], t["task"], t["cluster"], t["weights"], name=name)
