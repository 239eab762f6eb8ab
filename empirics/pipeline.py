"""A run from data to report. `run` writes files; `evaluate` makes the report from those files and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from empirics.compare import Distances, judge_law, judge_rung
from empirics.config import BoundsConfig, RunConfig, SignatureConfig
from empirics.query_law import choose_query_law, fit_query_law
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
from empirics.signatures import (
    fit_background,
    fit_projection,
    fit_signatures,
    own_distances,
    predicted_own_distances,
    read_rule_tensors,
    rule_tensors,
    signature_bytes,
)
from empirics.streams import Stream, load_stream
from theory.bound import Bound
from theory.certificates import Measured, certificate
from theory.conformal import conformal_sets
from theory.errors import InputError
from theory.ladder import Ball, Ladder, ladder
from theory.mixture import QueryLaw, Rule, well_specified
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
    from empirics.multi import embed_all
    from empirics.train import train_adapter

    if config.threads:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True)
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    backbone = load_backbone(config.backbone)
    if stream.modality != backbone.modality:
        raise InputError("backbone", f"encodes {backbone.modality}s, and stream {stream.name} holds {stream.modality}s; choose another")
    backbone.projections(config.adapter.targets)
    _check_dimension(config, stream, backbone.dimension)
    claim_folder(folder)
    clock = PhaseClock(quiet)
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "environment": {**environment(), "accelerator": torch.cuda.get_device_name() if backbone.device.type == "cuda" else None},
        "stream": stream.name,
        "exchangeable": stream.exchangeable,
        "left_out": list(stream.left_out),
        "tasks": [{"name": t.name, "classes": list(t.classes)} for t in stream.tasks],
        "documents": {p: int(stream.where(p).size) for p in ("train", "query", "test", "reservoir")},
        "training": {},
        "signatures": {},
        "query_laws": {},
    }
    write_json(folder / "run.json", about)

    n, m, D = len(stream.inputs), len(stream.tasks), backbone.dimension
    with clock.phase("frozen prefix", n) as advance:
        cache = encode_prefix(backbone, stream.inputs, advance)
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
        with clock.phase(f"embed {task.name}", own.size) as advance, active(backbone, adapter):
            adapted[own, k] = embed(backbone, cache, own, advance)
    with clock.phase("embed held-out documents", held.size * m) as advance:
        adapted[held] = embed_all(backbone, cache, held, adapters, advance)
    frozen = cache.frozen
    del cache

    test, query = stream.where("test"), stream.where("query")
    # The full sample covariance is not to be had in the full dimension, where samples are too few.
    dimensions = [config.signature.dimension] if config.signature.covariance == "full" else [config.signature.dimension, D]
    dimensions = list(dict.fromkeys(dimensions))
    weights = np.bincount(stream.cluster[test], minlength=stream.cluster.max() + 1) / test.size
    columns: dict[str, dict[str, Any]] = {part: _document_columns(stream, stream.where(part)) for part in ("query", "test")}
    heads = _heads(stream, adapted, frozen)
    with clock.phase("signatures and retrieval", len(ARMS) * len(dimensions)) as advance:
        for dimension in dimensions:
            for arm in ARMS:
                key = f"{arm}-{dimension}"
                space = _project(stream, frozen[:, None] if arm == "frozen" else adapted, dimension)
                rule = _fit_rule(stream, space, arm, config)
                about["signatures"][key] = {
                    "components": np.bincount(rule.signatures.task).tolist(),
                    "bytes": signature_bytes(rule.signatures),
                }
                _save_rule(folder / "signatures" / f"{key}.safetensors", rule)
                for part, chosen in (("query", query), ("test", test)):
                    columns[part] |= _retrieval_columns(key, rule, space.z[chosen], stream, chosen, heads[arm == "frozen"], config)
                if dimension == config.signature.dimension:
                    for components, name in ((None, "mixture"), (1, "gaussian")):
                        rng = generator(config.seed, "query law", arm, name)
                        law_config = config.query_law
                        if law_config.covariance == "auto":
                            choice = choose_query_law(space.z[query], stream.cluster[query], law_config, rng, components=components)
                            law_config = choice.config
                            about["query_laws"][f"{key}-{name}"] = choice.to_dict()
                        law = fit_query_law(
                            space.z[query],
                            stream.task[query],
                            stream.cluster[query],
                            weights,
                            law_config,
                            rng,
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
            for name in laws[arm]:
                weights = np.bincount(test["task"], minlength=len(names)) / len(test)
                if name == "well-specified":
                    law = well_specified(rule.signatures, weights)
                    if not _by_class(name, config):
                        # Components found by a mixture are no clusters that a document could be said to belong to.
                        law = replace(law, cluster=law.task)
                else:
                    law = _load_law(folder / "laws" / f"{key}-{name}.safetensors", name)
                rng = generator(config.seed, "simulation", arm, name)
                found = _certified(ladder(rule, law, rng=rng, **_settings(config.bounds)), query, key, config)
                arms.append(_judged(arm, dimension, found, rule, law, test, config, class_names, about.get("exchangeable", True), rng))
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
    if config.signature.covariance == "full":
        _check_full(config.signature, stream)
    if config.signature.dimension != full and config.signature.dimension > min(reservoir - 1, full):
        raise InputError(
            "signature.dimension",
            f"{config.signature.dimension} exceeds what {reservoir} reservoir documents of dimension {full} span; lower it",
        )


def _check_full(config: SignatureConfig, stream: Stream) -> None:
    train = stream.where("train")
    least = {
        "class": np.bincount(stream.cluster[train]).min(),
        "task": np.bincount(stream.task[train]).min(),
    }.get(config.clusters, config.min_samples)
    if least <= config.dimension or stream.where("reservoir").size <= config.dimension:
        raise InputError(
            "signature.covariance",
            f"full needs more samples than dimensions, and a component may have {least} for {config.dimension} (the background "
            f"{stream.where('reservoir').size}); lower signature.dimension, or choose ledoit-wolf, oas, diagonal or low-rank",
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
    rng = generator(config.seed, "signatures", arm, space.dimension)
    signatures = fit_signatures(spaces, labels, tuple(t.name for t in stream.tasks), config.signature, rng)
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


def _retrieval_columns(
    key: str, rule: Rule, z: np.ndarray, stream: Stream, chosen: np.ndarray, heads: list[Any], config: RunConfig
) -> dict[str, Any]:
    signatures = rule.signatures
    scores = rule.scores(z)
    per_task = rule.task_scores(scores)
    retrieved = np.argmin(per_task, axis=1)
    true, cluster = stream.task[chosen], stream.cluster[chosen]
    own = z[np.arange(len(chosen)), true if z.shape[1] > 1 else 0]
    distance = np.empty(len(chosen))
    for t in np.unique(cluster):
        rows = cluster == t
        component = int(t) if _components_are_classes(config) else None
        distance[rows] = own_distances(signatures, own[rows], int(true[rows][0]), component)
    prediction = np.empty(len(chosen), dtype=np.int64)
    for k, (head, x) in enumerate(heads):
        rows = retrieved == k
        if rows.any():
            prediction[rows] = head.predict(x[chosen[rows]].astype(np.float64))
    columns = {f"{key}:retrieved": retrieved, f"{key}:prediction": prediction, f"{key}:distance": distance}
    return columns | {f"{key}:energy:{name}": per_task[:, k] for k, name in enumerate(signatures.names)}


def _save_rule(path: Path, rule: Rule) -> None:
    write_tensors(path, rule_tensors(rule.signatures, rule.background))


def _load_rule(path: Path, names: tuple[str, ...]) -> Rule:
    return Rule(*read_rule_tensors(read_tensors(path), names))


def _save_law(path: Path, law: QueryLaw) -> None:
    fields = ("means", "covariances", "task", "cluster", "weights")
    write_tensors(path, {name: getattr(law, name) for name in fields})


def _load_law(path: Path, name: str) -> QueryLaw:
    t = read_tensors(path)
    return QueryLaw(t["means"], t["covariances"], t["task"], t["cluster"], t["weights"], name=name)


def _components_are_classes(config: RunConfig) -> bool:
    return config.signature.clusters == "class"


def _by_class(law: str, config: RunConfig) -> bool:
    """Whether the true clusters of a query law are the classes: but for the signature's own law, whose clusters are its components."""
    return law != "well-specified" or _components_are_classes(config)


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
    predicted = predicted_own_distances(signatures, law, rng, clusters_are_components=_components_are_classes(config))
    distances = Distances({int(t): distance[cluster == t] for t in np.unique(cluster)}, predicted, dimension)

    def unit(name: str, rows: np.ndarray, rungs: Mapping[str, Any], clusters: np.ndarray) -> dict[str, Any]:
        measured = Measured(int(wrong[rows].sum()), int(rows.sum()), config.bounds.confidence)
        judged = judge_law(measured, rungs["L6"], distances, clusters)
        return {
            "name": name,
            "measured": measured.to_dict(),
            "law": judged,
            "rungs": {rung: judge_rung(b, measured, judged, exchangeable) for rung, b in rungs.items()},
        }

    cluster_names = class_names if _by_class(law.name, config) else signatures.names
    return {
        "arm": arm,
        "dimension": dimension,
        "law": found.law,
        "overall": unit("overall", np.ones(len(test), dtype=bool), found.overall, np.unique(cluster)),
        "tasks": [unit(signatures.names[k], task == k, r, np.unique(cluster[task == k])) for k, r in found.tasks.items()],
        "clusters": [unit(cluster_names[t], cluster == t, r, np.array([t])) for (_, t), r in found.clusters.items()],
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
