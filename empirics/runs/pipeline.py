"""A run from data to report: `run`, and the stage that fits.

It has three stages, each a function of what the one before left: `empirics.runs.embedding.train_and_embed`; `fit`, which writes files; and
`empirics.runs.evaluation.evaluate`, which makes the report from those files and from nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.base import ClassifierMixin

from empirics.config import RunConfig, SignatureConfig, check_settings
from empirics.data.streams import Stream, TrainingParts, training_parts
from empirics.files.claim import claimed, finish_folder
from empirics.files.manifest import MANIFEST
from empirics.files.record import CHECKPOINTS, read_json, write_json, write_parquet, write_tensors
from empirics.processes import leave_to_main
from empirics.reports.report import SCHEMA, Report
from empirics.retrieval.heads import fit_head
from empirics.retrieval.query_law import choose_query_law, fit_query_law
from empirics.retrieval.signatures import (
    Projection,
    fit_background,
    fit_projection,
    fit_signatures,
    own_distances,
    rule_tensors,
    signature_bytes,
)
from empirics.runs.checkpoints import Checkpoints, open_checkpoints
from empirics.runs.evaluation import ARMS, components_are_classes, make_report, spaces_of
from empirics.runs.machine import PhaseClock, peak_memory_bytes
from empirics.runs.origin import origin
from empirics.runs.run_folder import PROJECTIONS, finished
from empirics.seeding import generator
from theory.errors import InputError
from theory.mixture import QueryLaw, Rule

if TYPE_CHECKING:
    from empirics.encoders.backbone import Backbone
    from empirics.runs.embedding import Embedded


def run(
    config: RunConfig,
    folder: Path | str,
    *,
    quiet: bool = False,
    resume: bool = False,
    then: Callable[[Path], object] | None = None,
    opened: tuple[Stream, Backbone] | None = None,
) -> Report:
    """Train, embed, fit, retrieve, and report.

    Stages that are done are kept in the folder while the run is not, and a run that was cut short goes on after the last of them to the
    same bytes, but for its times (`empirics.files.times`).

    Parameters
    ----------
    config : RunConfig
    folder : Path or str
        Made here; must not hold anything but a run of the same settings that was cut short. That one goes on; or begins anew if versions,
        machine, data or weights are not what they were.
    quiet : bool
        No progress on standard error.
    resume : bool
        Refuse a folder that holds no such run, or one that would have to begin anew.
    then : callable, optional
        Given the folder when the report is there and before the run is finished: for what else is to lie in it.
    opened : (Stream, Backbone), optional
        What `empirics.runs.embedding.open_stream` gave for these settings, where that has been asked before.

    Raises
    ------
    InputError
        For data, weights or settings that cannot be used, before any long work where that can be known; for a folder that another process
        is writing; and for what `resume` refuses, naming what differs.
    """
    # torch takes seconds to import, and a report that is made again does without.
    from empirics.runs.embedding import encode, open_stream, train_and_embed, use_threads

    check_settings(config, RunConfig)
    folder = Path(folder)
    use_threads(config)
    stream, backbone = open_stream(config) if opened is None else opened
    check_signatures(config, stream, backbone.dimension)
    came_from, clock = origin(stream, backbone), PhaseClock(quiet)
    with claimed(folder, config.model_dump(mode="json"), resume=resume):
        if is_fitted(folder):
            leave_to_main()
        else:
            about = _about(config, stream, came_from)
            kept = open_checkpoints(folder / CHECKPOINTS, folder / "run.json", about, clock, resume=resume)
            source = functools.cache(lambda: encode(stream, backbone, clock, kept))
            embedded = train_and_embed(config, stream, backbone, source, clock, kept, came_from)
            # It holds the states of all documents.
            del source
            leave_to_main()
            fit(config, embedded, folder, clock, kept)
        report = make_report(folder, clock)
        if then is not None:
            then(folder)
        finish_folder(folder)
        return report


def is_fitted(folder: Path) -> bool:
    """Whether a run lacks nothing but perhaps its report."""
    return (folder / "run.json").is_file() and finished(read_json(folder / "run.json"))


def _about(config: RunConfig, stream: Stream, came_from: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "config": config.model_dump(mode="json"),
        **came_from,
        "stream": stream.name,
        "exchangeable": stream.exchangeable,
        "left_out": list(stream.left_out),
        "tasks": [{"name": t.name, "classes": list(t.classes)} for t in stream.tasks],
        "documents": {p: int(stream.where(p).size) for p in ("train", "query", "test", "reservoir")},
        "training": {},
        "signatures": {},
        "query_laws": {},
    }


def fit(config: RunConfig, embedded: Embedded, folder: Path, clock: PhaseClock, kept: Checkpoints | None = None) -> None:
    """Fit signatures and query laws, retrieve, and write the files that `empirics.runs.evaluation.evaluate` reads.

    Parameters
    ----------
    config : RunConfig
        Its settings of training must be those that gave the embeddings.
    embedded : Embedded
    folder : Path
    clock : PhaseClock
        Holds the seconds of training.
    kept : Checkpoints, optional
        Signatures that are there are not fitted again.

    Raises
    ------
    InputError
        For signatures that the documents cannot give.
    """
    from empirics.adapters.adapter import save_adapter
    from empirics.runs.embedding import encoder_name

    stream = embedded.stream
    kept = Checkpoints(None, clock) if kept is None else kept
    # Of files that are made again now.
    (folder / MANIFEST).unlink(missing_ok=True)
    about = _about(config, stream, embedded.origin)
    about["training"] = {task.name: asdict(log) for task, log in zip(stream.tasks, embedded.logs, strict=True)}
    write_json(folder / "run.json", about)
    for adapter in embedded.adapters:
        save_adapter(folder / "adapters" / adapter.task, adapter, encoder_name(config.backbone))
    D = embedded.frozen.shape[1]
    # The full sample covariance is not to be had in the full dimension, where samples are too few.
    dimensions = [config.signature.dimension] if config.signature.covariance == "full" else [config.signature.dimension, D]
    dimensions = list(dict.fromkeys(dimensions))
    columns: dict[str, dict[str, Any]] = {part: _document_columns(stream, stream.where(part)) for part in ("query", "test")}
    heads = _heads(embedded, config)
    with clock.phase("signatures and retrieval", len(ARMS) * len(dimensions)) as advance:
        for dimension in dimensions:
            missing = [arm for arm in ARMS if f"fitted-{arm}-{dimension}" not in kept]
            if missing or dimension == config.signature.dimension:
                projections, z = _project(embedded, dimension)
            if dimension == config.signature.dimension:
                _save_projections(folder / PROJECTIONS, projections)
            for arm in ARMS:
                key = f"{arm}-{dimension}"
                if arm in missing:
                    found = _fit_arm(config, stream, folder, arm, z[:, spaces_of(arm)], heads[arm == "frozen"])
                    found.write(kept, key)
                else:
                    found = _Fitted.read(kept, key)
                about["signatures"][key] = found.signatures
                about["query_laws"] |= found.query_laws
                for part, own in found.columns.items():
                    columns[part] |= own
                advance(1)
    write_parquet(folder / "predictions.parquet", pd.DataFrame(columns["test"]))
    write_parquet(folder / "calibration.parquet", pd.DataFrame(columns["query"]))
    about["phases_seconds"] = {k: round(v, 3) for k, v in clock.seconds.items()}
    about["phases_peak_bytes"] = dict(clock.peak_bytes)
    about["peak_memory_bytes"] = max(peak_memory_bytes(), *clock.peak_bytes.values())
    write_json(folder / "run.json", about)


@dataclass(frozen=True)
class _Fitted:
    """What one arm in one dimension adds to the tables and to `run.json`."""

    columns: dict[str, dict[str, np.ndarray]]
    signatures: dict[str, Any]
    query_laws: dict[str, Any]

    def write(self, kept: Checkpoints, key: str) -> None:
        tensors = {f"{part}/{name}": values for part, own in self.columns.items() for name, values in own.items()}
        facts = {"columns": {part: list(own) for part, own in self.columns.items()}}
        kept.write(f"fitted-{key}", tensors, {**facts, "signatures": self.signatures, "query_laws": self.query_laws})

    @classmethod
    def read(cls, kept: Checkpoints, key: str) -> _Fitted:
        tensors, facts = kept.read(f"fitted-{key}")
        # In the order in which they were made, which is that of the table.
        columns = {part: {name: tensors[f"{part}/{name}"] for name in names} for part, names in facts["columns"].items()}
        return cls(columns, facts["signatures"], facts["query_laws"])


def _fit_arm(
    config: RunConfig,
    stream: Stream,
    folder: Path,
    arm: str,
    z: Float[np.ndarray, "n S d"],
    heads: list[tuple[ClassifierMixin, np.ndarray]],
) -> _Fitted:
    """Signatures of an arm in one dimension, what they retrieve, and in the run's own dimension the query laws."""
    dimension = z.shape[2]
    key, test, query = f"{arm}-{dimension}", stream.where("test"), stream.where("query")
    rule = _fit_rule(stream, training_parts(stream, config.signature, config.seed), z, arm, config)
    _save_rule(folder / "signatures" / f"{key}.safetensors", rule, z.shape[1])
    parts = {"query": query, "test": test}
    columns = {part: _retrieval_columns(key, rule, z[chosen], stream, chosen, heads, config) for part, chosen in parts.items()}
    choices: dict[str, Any] = {}
    if dimension == config.signature.dimension:
        write_tensors(folder / "embeddings" / f"{key}.safetensors", {"query": z[query], "test": z[test]})
        weights = np.bincount(stream.cluster[test], minlength=stream.cluster.max() + 1) / test.size
        for components, name in ((None, "mixture"), (1, "gaussian")):
            rng = generator(config.seed, "query law", arm, name)
            law_config = config.query_law
            if law_config.covariance == "auto":
                choice = choose_query_law(z[query], stream.cluster[query], law_config, rng, components=components)
                law_config = choice.config
                choices[f"{key}-{name}"] = choice.to_dict()
            labels = stream.task[query], stream.cluster[query]
            law = fit_query_law(z[query], *labels, weights, law_config, rng, components=components, name=name)
            _save_law(folder / "laws" / f"{key}-{name}.safetensors", law)
    about = {"components": np.bincount(rule.signatures.task).tolist(), "bytes": signature_bytes(rule.signatures)}
    return _Fitted(columns, about, choices)


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


def _project(embedded: Embedded, dimension: int) -> tuple[list[Projection], Float[np.ndarray, "n S d"]]:
    """Projections of the frozen space and then of each task's, and all documents under them.

    In single precision, so that the file of embeddings holds exactly what was scored.
    """
    reservoir = embedded.stream.where("reservoir")
    spaces = [embedded.frozen, *np.moveaxis(embedded.adapted, 1, 0)]
    found = [fit_projection(x[reservoir], dimension) for x in spaces]
    return found, np.stack([own(x).astype(np.float32) for own, x in zip(found, spaces, strict=True)], axis=1)


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
    stream = embedded.stream
    out: dict[bool, list[tuple[ClassifierMixin, np.ndarray]]] = {False: [], True: []}
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
) -> dict[str, np.ndarray]:
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


def _save_rule(path: Path, rule: Rule, spaces: int) -> None:
    # Whoever reads the signatures alone must not take them for those of one space.
    write_tensors(path, {**rule_tensors(rule.signatures, rule.background), "spaces": np.array(spaces)})


def _save_projections(path: Path, projections: Sequence[Projection]) -> None:
    write_tensors(path, {name: np.stack([getattr(p, name) for p in projections]) for name in ("mean", "axes")})


def _save_law(path: Path, law: QueryLaw) -> None:
    fields = ("means", "covariances", "task", "cluster", "weights")
    write_tensors(path, {name: getattr(law, name) for name in fields})
