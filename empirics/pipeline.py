"""A run from data to report. `run` writes files; `evaluate` makes the report from those files and from nothing else.

It has three stages, each a function of what the one before left: `empirics.embedding.train_and_embed`, `fit` and `evaluate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.base import ClassifierMixin

from empirics.config import RunConfig, SignatureConfig
from empirics.evaluation import ARMS, components_are_classes, evaluate
from empirics.heads import fit_head
from empirics.processes import leave_to_main
from empirics.query_law import choose_query_law, fit_query_law
from empirics.record import PhaseClock, claim_folder, environment, peak_memory_bytes, read_json, write_json, write_parquet, write_tensors
from empirics.report import SCHEMA, Report
from empirics.run_folder import PROJECTIONS
from empirics.seeding import generator
from empirics.signatures import fit_background, fit_projection, fit_signatures, own_distances, rule_tensors, signature_bytes
from empirics.streams import Stream, TrainingParts, training_parts
from theory.errors import InputError
from theory.mixture import QueryLaw, Rule

if TYPE_CHECKING:
    from empirics.embedding import Embedded

__all__ = ["ARMS", "check_signatures", "evaluate", "fit", "is_fitted", "run"]


def run(config: RunConfig, folder: Path, *, quiet: bool = False) -> Report:
    """Train, embed, fit, retrieve, and report.

    Parameters
    ----------
    config : RunConfig
    folder : Path
        Made here; must not hold anything but a run of the same settings that was cut short, which is done again,
        or reported if that is all that it lacks.
    quiet : bool
        No progress on standard error.

    Raises
    ------
    InputError
        For data, weights or settings that cannot be used, before any long work where that can be known.
    """
    # torch takes seconds to import, and a report that is made again does without.
    from empirics.embedding import accelerator, encode, open_stream, train_and_embed, use_threads

    use_threads(config)
    stream, backbone = open_stream(config)
    check_signatures(config, stream, backbone.dimension)
    claim_folder(folder, config.model_dump(mode="json"))
    clock = PhaseClock(quiet)
    if is_fitted(folder):
        leave_to_main()
        return evaluate(folder, clock)
    write_json(folder / "run.json", _about(config, stream, accelerator(backbone)))
    embedded = train_and_embed(config, stream, backbone, encode(stream, backbone, clock), clock)
    leave_to_main()
    fit(config, embedded, folder, clock)
    return evaluate(folder, clock)


def is_fitted(folder: Path) -> bool:
    """Whether a run lacks nothing but perhaps its report."""
    return (folder / "run.json").is_file() and "phases_seconds" in read_json(folder / "run.json")


def _about(config: RunConfig, stream: Stream, accelerator: str | None) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        "environment": {**environment(), "accelerator": accelerator},
        "stream": stream.name,
        "exchangeable": stream.exchangeable,
        "left_out": list(stream.left_out),
        "tasks": [{"name": t.name, "classes": list(t.classes)} for t in stream.tasks],
        "documents": {p: int(stream.where(p).size) for p in ("train", "query", "test", "reservoir")},
        "training": {},
        "signatures": {},
        "query_laws": {},
    }


def fit(config: RunConfig, embedded: Embedded, folder: Path, clock: PhaseClock) -> None:
    """Fit signatures and query laws, retrieve, and write the files that `evaluate` reads.

    Parameters
    ----------
    config : RunConfig
        Its settings of training must be those that gave the embeddings.
    embedded : Embedded
    folder : Path
    clock : PhaseClock
        Holds the seconds of training.

    Raises
    ------
    InputError
        For signatures that the documents cannot give.
    """
    from empirics.adapters import save_adapter
    from empirics.embedding import encoder_name

    stream = embedded.stream
    parts = training_parts(stream, config.signature, config.seed)
    about = _about(config, stream, embedded.accelerator)
    about["training"] = {task.name: asdict(log) for task, log in zip(stream.tasks, embedded.logs, strict=True)}
    write_json(folder / "run.json", about)
    for adapter in embedded.adapters:
        save_adapter(folder / "adapters" / adapter.task, adapter, encoder_name(config.backbone))
    test, query, D = stream.where("test"), stream.where("query"), embedded.frozen.shape[1]
    # The full sample covariance is not to be had in the full dimension, where samples are too few.
    dimensions = [config.signature.dimension] if config.signature.covariance == "full" else [config.signature.dimension, D]
    dimensions = list(dict.fromkeys(dimensions))
    weights = np.bincount(stream.cluster[test], minlength=stream.cluster.max() + 1) / test.size
    columns: dict[str, dict[str, Any]] = {part: _document_columns(stream, stream.where(part)) for part in ("query", "test")}
    heads = _heads(embedded, config)
    with clock.phase("signatures and retrieval", len(ARMS) * len(dimensions)) as advance:
        for dimension in dimensions:
            for arm in ARMS:
                key = f"{arm}-{dimension}"
                z = _project(stream, embedded, arm, dimension)
                rule = _fit_rule(stream, parts, z, arm, config)
                about["signatures"][key] = {
                    "components": np.bincount(rule.signatures.task).tolist(),
                    "bytes": signature_bytes(rule.signatures),
                }
                _save_rule(folder / "signatures" / f"{key}.safetensors", rule)
                for part, chosen in (("query", query), ("test", test)):
                    columns[part] |= _retrieval_columns(key, rule, z[chosen], stream, chosen, heads[arm == "frozen"], config)
                if dimension == config.signature.dimension:
                    write_tensors(folder / "embeddings" / f"{key}.safetensors", {"query": z[query], "test": z[test]})
                    for components, name in ((None, "mixture"), (1, "gaussian")):
                        rng = generator(config.seed, "query law", arm, name)
                        law_config = config.query_law
                        if law_config.covariance == "auto":
                            choice = choose_query_law(z[query], stream.cluster[query], law_config, rng, components=components)
                            law_config = choice.config
                            about["query_laws"][f"{key}-{name}"] = choice.to_dict()
                        law = fit_query_law(
                            z[query],
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
    _save_projections(folder / PROJECTIONS, embedded, config.signature.dimension)
    about["phases_seconds"] = {k: round(v, 3) for k, v in clock.seconds.items()}
    about["phases_peak_bytes"] = dict(clock.peak_bytes)
    about["peak_memory_bytes"] = peak_memory_bytes()
    write_json(folder / "run.json", about)


def check_signatures(config: RunConfig, stream: Stream, full: int) -> None:
    """Refuse signatures that the documents cannot give, before anything is trained.

    Parameters
    ----------
    config : RunConfig
    stream : Stream
    full : int
        Dimension D of the encoder.

    Raises
    ------
    InputError
        For a dimension that the reservoir does not span, too few samples for full covariances, or too few to hold any out.
    """
    parts = training_parts(stream, config.signature, config.seed)
    reservoir = stream.where("reservoir").size
    if config.signature.covariance == "full":
        _check_full(config.signature, stream, parts)
    if config.signature.dimension != full and config.signature.dimension > min(reservoir - 1, full):
        raise InputError(
            "signature.dimension",
            f"{config.signature.dimension} exceeds what {reservoir} reservoir documents of dimension {full} span; lower it",
        )


def _check_full(config: SignatureConfig, stream: Stream, parts: Sequence[TrainingParts]) -> None:
    train = np.concatenate([part.signature for part in parts])
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


def _project(stream: Stream, embedded: Embedded, arm: str, dimension: int) -> Float[np.ndarray, "n S d"]:
    """What an arm sees of all documents, in the spaces that `theory.mixture.Rule.views` knows, projected.

    In single precision, so that the file of embeddings holds exactly what was scored.
    """
    x = embedded.frozen[:, None] if arm == "frozen" else embedded.adapted
    if arm == "both":
        x = np.concatenate([embedded.frozen[:, None], x], axis=1)
    reservoir = stream.where("reservoir")
    z = [fit_projection(x[reservoir, s], dimension)(x[:, s]).astype(np.float32) for s in range(x.shape[1])]
    return np.stack(z, axis=1)


def _fit_rule(stream: Stream, parts: Sequence[TrainingParts], z: Float[np.ndarray, "n S d"], arm: str, config: RunConfig) -> Rule:
    """Signatures of an arm, and its background if it takes a ratio."""
    m, reservoir = len(stream.tasks), z[stream.where("reservoir")].astype(np.float64)
    first = 1 if arm == "both" else 0
    spaces = [0] * m if arm == "frozen" else range(first, first + m)
    samples = [z[part.signature].astype(np.float64) for part in parts]
    own = [x[:, s] for x, s in zip(samples, spaces, strict=True)]
    labels = [stream.label[part.signature] for part in parts]
    rng = generator(config.seed, "signatures", arm, z.shape[2])
    names = tuple(t.name for t in stream.tasks)
    signatures = fit_signatures(own, labels, names, config.signature, rng, [x[:, 0] for x in samples] if arm == "both" else None)
    background = None
    if arm in ("ratio", "both"):
        background = fit_background([reservoir[:, s] for s in spaces], config.signature, reservoir[:, 0] if arm == "both" else None)
    return Rule(signatures, background, config.retrieval.rule)


def _heads(embedded: Embedded, config: RunConfig) -> dict[bool, list[tuple[ClassifierMixin, np.ndarray]]]:
    """One head per task, on its adapted (False) and on the frozen (True) embedding; fitted to all its training documents."""
    stream, out = embedded.stream, {False: [], True: []}
    for k, task in enumerate(stream.tasks):
        own = stream.where("train", k)
        for shared in (False, True):
            x = embedded.frozen if shared else embedded.adapted[:, k]
            rng = generator(config.seed, "head", task.name, "frozen" if shared else "adapted")
            out[shared].append((fit_head(x[own], stream.label[own], config.head, rng), x))
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
    seen = rule.views(*z.shape[1:])[true]
    own = z[np.arange(len(chosen))[:, None], seen].reshape(len(chosen), -1)
    distance = np.empty(len(chosen))
    for t in np.unique(cluster):
        rows = cluster == t
        component = int(t) if components_are_classes(config) else None
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


def _save_projections(path: Path, embedded: Embedded, dimension: int) -> None:
    """Those of `_project`, for the frozen space and then for each task's."""
    reservoir = embedded.stream.where("reservoir")
    spaces = [embedded.frozen, *np.moveaxis(embedded.adapted, 1, 0)]
    found = [fit_projection(x[reservoir], dimension) for x in spaces]
    write_tensors(path, {name: np.stack([getattr(p, name) for p in found]) for name in ("mean", "axes")})


def _save_law(path: Path, law: QueryLaw) -> None:
    fields = ("means", "covariances", "task", "cluster", "weights")
    write_tensors(path, {name: getattr(law, name) for name in fields})
