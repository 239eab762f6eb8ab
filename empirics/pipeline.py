"""A run from data to report. `run` writes files; `evaluate` makes the report from those files and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from empirics.compare import Distances, judge_law, judge_rung, predicted_distances
from empirics.config import BoundsConfig, RunConfig
from empirics.query_law import fit_query_law
from empirics.record import (
    PhaseClock,
    claim_folder,
    environment,
    peak_memory_bytes,
    read_json,
    read_parquet,
    read_tensors,
    write_bytes,
    write_json,
    write_parquet,
    write_tensors,
)
from empirics.report import SCHEMA, Report, markdown
from empirics.seeding import generator
from empirics.signatures import fit_background, fit_projection, fit_signatures
from empirics.streams import Stream, load_stream
from theory.certificates import Measured
from theory.conformal import conformal_sets
from theory.errors import InputError
from theory.ladder import Ball, HeldOut, Ladder, ladder
from theory.mixture import Gaussians, QueryLaw, Rule, Signatures, well_specified
from theory.robust import Student
from theory.slack import slack

ARMS = ("paper", "ratio", "frozen")
# Rate at which a conformal retrieval set may miss the true task.
_ALPHA = 0.05


@dataclass(frozen=True)
class Space:
    """Embeddings of all documents for one arm, projected: in every task's space, or in one shared space."""

    z: Float[np.ndarray, "n S d"]
    dimension: int


def run(config: RunConfig, folder: Path, *, quiet: bool = False) -> Report:
    """Train, embed, fit, retrieve, and report.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        Made here; must not hold anything.
    quiet : bool
        No progress on standard error.

    Raises
    ------
    InputError
        For data, weights or settings that cannot be used, before any long work where that can be known.
    """
    import torch

    from empirics.adapters import active, save_adapter
    from empirics.backbone import embed, encode_prefix, load_backbone
    from empirics.train import train_adapter

    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    backbone = load_backbone(config.backbone)
    backbone.projections(config.adapter.targets)
    _check_dimension(config, stream, backbone.dimension)
    claim_folder(folder)
    clock = PhaseClock(quiet)
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "environment": {**environment(), "accelerator": torch.cuda.get_device_name() if backbone.device.type == "cuda" else None},
        "tasks": [{"name": t.name, "classes": list(t.classes)} for t in stream.tasks],
        "documents": {p: int(stream.where(p).size) for p in ("train", "query", "test", "reservoir")},
        "training": {},
    }
    write_json(folder / "run.json", about)

    n, m, D = len(stream.texts), len(stream.tasks), backbone.dimension
    with clock.phase("frozen prefix", n) as advance:
        cache = encode_prefix(backbone, stream.texts, advance)
    # Own training documents are embedded for the signature; those of other tasks are never needed in a task's space.
    adapted = np.full((n, m, D), np.nan, dtype=np.float32)
    held = np.flatnonzero(stream.part != "train")
    adapters = []
    for k, task in enumerate(stream.tasks):
        own = stream.where("train", k)
        with clock.phase(f"train {task.name}", own.size * config.training.epochs) as advance:
            rng = generator(config.seed, "train", task.name)
            adapter, log = train_adapter(
                backbone, cache, own, stream.label[own], task.name, adapters, config.adapter, config.training, rng, advance
            )
        adapters.append(adapter)
        about["training"][task.name] = asdict(log)
        save_adapter(folder / "adapters" / task.name, adapter)
        wanted = np.concatenate([own, held])
        with clock.phase(f"embed {task.name}", wanted.size) as advance, active(backbone, adapter):
            adapted[wanted, k] = embed(backbone, cache, wanted, advance)
    frozen = cache.frozen
    del cache

    test, query = stream.where("test"), stream.where("query")
    dimensions = list(dict.fromkeys([config.signature.dimension, D]))
    weights = np.bincount(stream.cluster[test], minlength=stream.cluster.max() + 1) / test.size
    columns: dict[str, dict[str, Any]] = {part: _document_columns(stream, stream.where(part)) for part in ("query", "test")}
    heads = _heads(stream, adapted, frozen)
    with clock.phase("signatures and retrieval", len(ARMS) * len(dimensions)) as advance:
        for dimension in dimensions:
            for arm in ARMS:
                key = f"{arm}-{dimension}"
                space = _project(stream, frozen[:, None] if arm == "frozen" else adapted, dimension)
                rule = _fit_rule(stream, space, arm, config)
                _save_rule(folder / "signatures" / f"{key}.safetensors", rule)
                for part, chosen in (("query", query), ("test", test)):
                    columns[part] |= _retrieval_columns(key, rule, space.z[chosen], stream, chosen, heads[arm == "frozen"])
                if dimension == config.signature.dimension:
                    for components, name in ((None, "mixture"), (1, "gaussian")):
                        law = fit_query_law(
                            space.z[query],
                            stream.task[query],
                            stream.cluster[query],
                            weights,
                            config.query_law,
                            generator(config.seed, "query law", arm, name),
                            components=components,
                            name=name,
                        )
                        _save_law(folder / "laws" / f"{key}-{name}.safetensors", law)
                advance(1)
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns["test"]))
    write_parquet(folder / "calibration.parquet", pd.DataFrame(columns["query"]))
    about["phases_seconds"] = {k: round(v, 3) for k, v in clock.seconds.items()}
    about["peak_memory_bytes"] = peak_memory_bytes()
    write_json(folder / "run.json", about)
    return evaluate(folder, clock)


def evaluate(folder: Path, clock: PhaseClock) -> Report:
    """Make `report.json`, `report.md`, and the tables `bounds`, `pairs` and `slack` from the other files of a run.

    Raises
    ------
    InputError
        If the folder is no finished run, or a file of it is missing or corrupt.
    """
    about = read_json(folder / "run.json")
    if about.get("schema") != SCHEMA:
        raise InputError(str(folder / "run.json"), f"has schema {about.get('schema')}; this version reads {SCHEMA}")
    if "phases_seconds" not in about:
        raise InputError(str(folder), "holds a run that did not finish; start it again in another folder")
    config = RunConfig.model_validate(about["config"])
    names = tuple(t["name"] for t in about["tasks"])
    test, query = read_parquet(folder / "predictions.parquet"), read_parquet(folder / "calibration.parquet")
    class_names = [f"{t['name']}/{c}" for t in about["tasks"] for c in t["classes"]]
    dimension = config.signature.dimension
    laws = {"paper": ("mixture", "gaussian"), "ratio": ("mixture", "gaussian"), "frozen": ("mixture", "gaussian", "well-specified")}
    arms, frames, pair_frames, slack_frames = [], [], [], []
    rules = {path.stem: _load_rule(path, names) for path in sorted((folder / "signatures").glob("*.safetensors"))}
    with clock.phase("bounds", sum(map(len, laws.values()))) as advance:
        for arm in ARMS:
            key = f"{arm}-{dimension}"
            rule = rules[key]
            held_out = _held_out(query, key, len(rule.signatures))
            for name in laws[arm]:
                weights = np.bincount(test["task"], minlength=len(names)) / len(test)
                if name == "well-specified":
                    law = well_specified(rule.signatures, weights)
                else:
                    law = _load_law(folder / "laws" / f"{key}-{name}.safetensors", name)
                rng = generator(config.seed, "simulation", arm, name)
                found = ladder(rule, law, rng=rng, held_out=held_out, **_settings(config.bounds))
                arms.append(_judged(arm, dimension, found, rule, law, test, config, class_names, rng))
                slack_frames.append(_slack(found, arms[-1]).assign(arm=arm, dimension=dimension, law=name))
                frames.append(found.frame().assign(arm=arm, dimension=dimension, law=name))
                pair_frames.append(pd.DataFrame(asdict(found.pairs)).assign(arm=arm, dimension=dimension, law=name))
                advance(1)
    measured = _measured_table(test, query, list(rules), names, config)
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


def _check_dimension(config: RunConfig, stream: Stream, full: int) -> None:
    reservoir = stream.where("reservoir").size
    if config.signature.dimension != full and config.signature.dimension > min(reservoir - 1, full):
        raise InputError(
            "signature.dimension",
            f"{config.signature.dimension} exceeds what {reservoir} reservoir documents of dimension {full} span; lower it",
        )


def _project(stream: Stream, x: Float[np.ndarray, "n S D"], dimension: int) -> Space:
    reservoir = stream.where("reservoir")
    z = np.stack([fit_projection(x[reservoir, s], dimension)(x[:, s]) for s in range(x.shape[1])], axis=1)
    return Space(z, dimension)


def _fit_rule(stream: Stream, space: Space, arm: str, config: RunConfig) -> Rule:
    spaces, labels = [], []
    for k in range(len(stream.tasks)):
        own = stream.where("train", k)
        spaces.append(space.z[own, k if space.z.shape[1] > 1 else 0])
        labels.append(stream.label[own])
    signatures = fit_signatures(spaces, labels, tuple(t.name for t in stream.tasks), config.signature)
    if arm != "ratio":
        return Rule(signatures)
    reservoir = stream.where("reservoir")
    return Rule(signatures, fit_background([space.z[reservoir, k] for k in range(len(stream.tasks))], config.signature))


def _heads(stream: Stream, adapted: np.ndarray, frozen: np.ndarray) -> dict[bool, list[tuple[LinearDiscriminantAnalysis, np.ndarray]]]:
    """One linear discriminant head per task, on its adapted (False) and on the frozen (True) embedding."""
    out: dict[bool, list[tuple[LinearDiscriminantAnalysis, np.ndarray]]] = {False: [], True: []}
    for k in range(len(stream.tasks)):
        own = stream.where("train", k)
        for shared in (False, True):
            x = frozen[own] if shared else adapted[own, k]
            head = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x.astype(np.float64), stream.label[own])
            out[shared].append((head, frozen if shared else adapted[:, k]))
    return out


def _document_columns(stream: Stream, chosen: np.ndarray) -> dict[str, Any]:
    return {"document": chosen, "task": stream.task[chosen], "label": stream.label[chosen], "cluster": stream.cluster[chosen]}


def _retrieval_columns(key: str, rule: Rule, z: np.ndarray, stream: Stream, chosen: np.ndarray, heads: list[Any]) -> dict[str, Any]:
    signatures = rule.signatures
    scores = rule.scores(z)
    per_task = rule.task_scores(scores)
    retrieved = np.argmin(per_task, axis=1)
    true = stream.task[chosen]
    # With one cluster a task the true cluster is the task's; with one a class it is the class's.
    cluster = stream.cluster[chosen] if len(signatures) > signatures.tasks else true
    own = z[np.arange(len(chosen)), true if z.shape[1] > 1 else 0]
    distance = np.empty(len(chosen))
    for t in np.unique(cluster):
        rows = cluster == t
        distance[rows] = signatures.gaussians.mahalanobis(own[rows], np.array([t]))[:, 0]
    prediction = np.empty(len(chosen), dtype=np.int64)
    for k, (head, x) in enumerate(heads):
        rows = retrieved == k
        if rows.any():
            prediction[rows] = head.predict(x[chosen[rows]].astype(np.float64))
    columns = {f"{key}:retrieved": retrieved, f"{key}:prediction": prediction, f"{key}:distance": distance}
    return columns | {f"{key}:energy:{name}": per_task[:, k] for k, name in enumerate(signatures.names)}


def _save_rule(path: Path, rule: Rule) -> None:
    signatures = rule.signatures
    tensors = {"means": signatures.means, "covariances": signatures.covariances, "task": signatures.task, "counts": signatures.counts}
    if rule.background is not None:
        tensors |= {"background_means": rule.background.means, "background_covariances": rule.background.covariances}
    write_tensors(path, tensors)


def _load_rule(path: Path, names: tuple[str, ...]) -> Rule:
    t = read_tensors(path)
    background = Gaussians(t["background_means"], t["background_covariances"]) if "background_means" in t else None
    return Rule(Signatures(t["means"], t["covariances"], t["task"], counts=t.get("counts"), names=names), background)


def _save_law(path: Path, law: QueryLaw) -> None:
    fields = ("means", "covariances", "task", "cluster", "weights")
    write_tensors(path, {name: getattr(law, name) for name in fields})


def _load_law(path: Path, name: str) -> QueryLaw:
    t = read_tensors(path)
    return QueryLaw(t["means"], t["covariances"], t["task"], t["cluster"], t["weights"], name=name)


def _held_out(query: pd.DataFrame, key: str, K: int) -> HeldOut:
    wrong = (query[f"{key}:retrieved"] != query["task"]).to_numpy()
    cluster = _cluster(query, K)
    return HeldOut(np.bincount(cluster[wrong], minlength=K), np.bincount(cluster, minlength=K))


def _cluster(frame: pd.DataFrame, K: int) -> np.ndarray:
    return (frame["cluster"] if frame["cluster"].max() < K and K > frame["task"].nunique() else frame["task"]).to_numpy()


def _judged(
    arm: str,
    dimension: int,
    found: Ladder,
    rule: Rule,
    law: QueryLaw,
    test: pd.DataFrame,
    config: RunConfig,
    class_names: list[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    key, signatures = f"{arm}-{dimension}", rule.signatures
    wrong = (test[f"{key}:retrieved"] != test["task"]).to_numpy()
    task, cluster = test["task"].to_numpy(), _cluster(test, len(signatures))
    distance = test[f"{key}:distance"].to_numpy()
    distances = Distances(
        {int(t): distance[cluster == t] for t in np.unique(cluster)}, predicted_distances(signatures, law, rng), dimension
    )

    def unit(name: str, rows: np.ndarray, rungs: Mapping[str, Any], clusters: np.ndarray) -> dict[str, Any]:
        measured = Measured(int(wrong[rows].sum()), int(rows.sum()), config.bounds.confidence)
        judged = judge_law(measured, rungs["L6"], distances, clusters)
        return {
            "name": name,
            "measured": measured.to_dict(),
            "law": judged,
            "rungs": {rung: judge_rung(b, measured, judged) for rung, b in rungs.items()},
        }

    per_class = len(signatures) > signatures.tasks
    return {
        "arm": arm,
        "dimension": dimension,
        "law": found.law,
        "overall": unit("overall", np.ones(len(test), dtype=bool), found.overall, np.unique(cluster)),
        "tasks": [unit(signatures.names[k], task == k, r, signatures.own(k)) for k, r in found.tasks.items()],
        "clusters": [
            unit(class_names[t] if per_class else signatures.names[k], cluster == t, r, np.array([t]))
            for (k, t), r in found.clusters.items()
        ],
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
        energies = [f"{key}:energy:{name}" for name in names]
        sets = conformal_sets(query[energies].to_numpy(), query["task"].to_numpy(), test[energies].to_numpy(), _ALPHA)
        out.append(
            {
                "arm": arm,
                "dimension": int(dimension),
                "measured": Measured(int(wrong.sum()), wrong.size, config.bounds.confidence).to_dict(),
                "task_error": {name: float(wrong[task == k].mean()) for k, name in enumerate(names)},
                "macro_error": float(np.mean([wrong[task == k].mean() for k in range(len(names))])),
                "accuracy": float(right.mean()),
                "within_task_accuracy": float(right.sum() / max(1, (~wrong).sum())),
                "conformal": {
                    "alpha": _ALPHA,
                    "coverage": float(sets[np.arange(len(task)), task].mean()),
                    "mean_size": float(sets.sum(axis=1).mean()),
                },
            }
        )
    return out
