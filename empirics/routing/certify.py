"""Certify the retrieval error of adapters trained elsewhere, from a few samples of each task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.adapters.adapter import Adapter, active, update_digest
from empirics.adapters.multi import embed_all
from empirics.adapters.peft_folders import PeftFolder, for_adapters, read_peft_folder
from empirics.config import CertifyConfig, check_settings
from empirics.data.samples import PARTS, Samples, check_samples
from empirics.encoders.backbone import Advance, Backbone, embedding_settings
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import PrefixSource, embed, encode_prefix
from empirics.files.claim import claimed, finish_folder
from empirics.files.record import write_json, write_parquet, write_tensors
from empirics.reports.verdicts import Distances, judge_law, judge_rung
from empirics.retrieval.query_law import fit_query_law
from empirics.retrieval.signatures import (
    Projection,
    fit_background,
    fit_projection,
    fit_signatures,
    own_distances,
    predicted_own_distances,
    rule_tensors,
    signature_bytes,
)
from empirics.routing.certificate import (
    SCHEMA,
    Certificate,
    CertifiedDigests,
    CertifiedRule,
    CertifiedTask,
    CertifiedUnit,
    RuleName,
    statement,
)
from empirics.routing.certified_samples import SAMPLES, score_column
from empirics.runs.machine import PhaseClock
from empirics.runs.origin import computing_environment, encoder_digest
from empirics.seeding import generator
from theory.certificates import Certificates, Measured, simultaneous_certificates
from theory.conformal import conformal_sets
from theory.errors import InputError
from theory.ladder import Ladder, ladder
from theory.mixture import QueryLaw, Rule

RULES: tuple[RuleName, ...] = ("ratio", "paper", "frozen")
# Principal components by default: as many as half of the pooled signature samples carry, and no more than this.
_DIMENSION = 32
# Adapters whose embeddings are in memory at once.
_TOGETHER = 8
# A joint law over all spaces has the square of this many numbers in every component.
_LARGEST_LAW = 1024


@dataclass(frozen=True)
class _Fitted:
    """One rule fitted to the signature samples, and the task scores of all samples."""

    rule: Rule
    projections: list[Projection]
    z: Float[np.ndarray, "n S d"]
    scores: Float[np.ndarray, "n m"]


def certify(
    folders: Mapping[str, Path | str],
    samples: pd.DataFrame,
    config: CertifyConfig | None = None,
    *,
    source: str = "samples",
    backbone: Backbone | None = None,
    out: Path | str | None = None,
    quiet: bool = True,
    resume: bool = False,
) -> Certificate:
    """Fit signatures of given adapters to some samples of each task, retrieve the others, and certify the error.

    A task's samples are dealt at random to three disjoint parts: signature (40%), certificate and query law (40%),
    measurement (20%); with labels, class by class. Nothing is fitted to the certificate part before the rule is finished,
    so that L8 holds for the rule as it is returned.

    The certificate notes SHA-256 of every adapter's update, of the encoder's weights and of the samples, and speaks of these and no others.

    Parameters
    ----------
    folders : mapping from task to Path or str
        PEFT LoRA folders, at least two.
    samples : DataFrame
        Columns `task` and either `text` or `image`, and optionally `label` (`empirics.data.samples`). Must not hold what the adapters were
        trained on.
    config : CertifyConfig, optional
    source : str
        Where the samples come from, for messages.
    backbone : Backbone, optional
        Loaded by ``config.backbone`` by default; of one that is given, the settings that decide its embeddings take the place of those. One
        that has embedded before, in bfloat16, has rounded its weights in place: if its digest was not taken before
        (`empirics.runs.origin.encoder_digest`), the certificate says null, and binds no encoder.
    out : Path or str, optional
        Folder for `certificate.json`, `samples.parquet` (a row per sample: part, retrieved task and the score of every task) and
        `signatures/RULE.safetensors`, which `theory.read_signatures` reads and which also hold projections and background: what
        `empirics.routing.router.load_router` serves from. Must not hold anything but what the same call left when it was cut short.
    quiet : bool
        No progress on standard error.
    resume : bool
        Refuse an `out` that holds nothing of the kind.

    Raises
    ------
    InputError
        For adapters, samples or settings that cannot be used, before any long work; for an `out` that holds what was begun with others,
        whether the folders are called the same or not.
    """
    import torch

    if not isinstance(folders, Mapping):
        raise InputError("folders", f"is a {type(folders).__name__}; give a mapping from task to folder")
    if not isinstance(samples, pd.DataFrame):
        raise InputError("samples", f"is a {type(samples).__name__}; give a DataFrame with columns task, and text or image")
    folders = {name: Path(folder) for name, folder in folders.items()}
    config, out = CertifyConfig() if config is None else config, None if out is None else Path(out)
    check_settings(config, CertifyConfig)
    names = tuple(folders)
    if len(names) < 2:
        raise InputError("ADAPTERS", f"names {len(names)} adapters; retrieval needs at least two")
    dealt = check_samples(samples, names, source, generator(config.seed, "samples"))
    if backbone is None:
        # Where the encoder is cut depends on the adapters; any number of layers will do until they are read.
        backbone = load_backbone(config.backbone.model_copy(update={"adapted_layers": 1}))
    else:
        own = {name: getattr(backbone.config, name) for name in embedding_settings(backbone.config, backbone)}
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update=own)})
    if dealt.modality != backbone.modality:
        raise InputError(
            source, f"holds {dealt.modality}s, and the encoder takes {backbone.modality}s; give another encoder or other samples"
        )
    read = [read_peft_folder(folders[name], backbone, name) for name in names]
    adapters = [item.adapter for item in read]
    cut = for_adapters(backbone, adapters)
    dimension = _dimension(config, dealt, cut.dimension)
    if out is None and resume:
        raise InputError("--resume", "needs --out, the folder that is gone on with")
    digests = CertifiedDigests(encoder=encoder_digest(backbone), samples=dealt.sha256)
    updates = {adapter.task: update_digest(adapter) for adapter in adapters}
    given = {"adapters": {name: str(folder) for name, folder in folders.items()}, "samples": source}
    settings = {**given, "settings": config.model_dump(mode="json"), "sha256": {"adapters": updates, **digests.model_dump()}}
    torch.use_deterministic_algorithms(True)
    with nullcontext() if out is None else claimed(out, settings, resume=resume):
        return _certify(folders, dealt, cut, read, digests, dimension, config, out, PhaseClock(quiet))


def _certify(
    folders: Mapping[str, Path],
    dealt: Samples,
    cut: Backbone,
    read: Sequence[PeftFolder],
    digests: CertifiedDigests,
    dimension: int,
    config: CertifyConfig,
    out: Path | None,
    clock: PhaseClock,
) -> Certificate:
    names, adapters = tuple(folders), [item.adapter for item in read]
    rules: list[RuleName] = list(RULES) if config.rule == "all" else [config.rule]
    spaces = _spaces(cut, dealt, adapters, rules, dimension, clock)
    # Every rule gets its share of the failure probability, so that all statements hold together.
    confidence = 1 - (1 - config.confidence) / len(rules)
    reported: list[CertifiedRule] = []
    columns: dict[str, Any] = {}
    with clock.phase("signatures and bounds", len(rules)) as advance:
        for name in rules:
            fitted = _fit(name, dealt, *spaces[name == "frozen"], config)
            reported.append(_certified(name, fitted, dealt, config, confidence))
            columns[f"{name}:retrieved"] = [names[k] for k in fitted.scores.argmin(axis=1)]
            columns |= {score_column(name, task): fitted.scores[:, k] for k, task in enumerate(names)}
            if out is not None:
                _save(out / "signatures" / f"{name}.safetensors", fitted)
            advance(1)
    found = Certificate(
        schema_version=SCHEMA,
        statement=statement(config.confidence, rules),
        confidence=config.confidence,
        rules=reported,
        tasks=[_task(k, folders[names[k]], read[k], dealt) for k in range(len(names))],
        sha256=digests,
        notes=[*(note for item in read for note in item.notes), *dealt.notes],
        settings=config.model_dump(mode="json"),
        environment=computing_environment(cut),
    )
    if out is not None:
        table = {"row": dealt.row, "task": [names[k] for k in dealt.task], "part": dealt.part, **columns}
        write_parquet(out / SAMPLES, pd.DataFrame(table))
        write_json(out / "certificate.json", found.model_dump(mode="json"))
        finish_folder(out)
    return found


def named_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Tasks and their folders, from arguments FOLDER (the task bears the folder's name) and TASK=FOLDER.

    Raises
    ------
    InputError
        If two folders are given for one task, or a name is empty.
    """
    out: dict[str, Path] = {}
    for item in arguments:
        name, equals, path = item.partition("=")
        folder = Path(path) if equals and not Path(item).exists() else Path(item)
        name = name if equals and not Path(item).exists() else folder.resolve().name
        if not name:
            raise InputError("ADAPTERS", f"gives {item!r} no name; write NAME=FOLDER")
        if name in out:
            raise InputError(
                "ADAPTERS", f"gives two folders for the task {name!r}: {out[name]} and {folder}; write NAME=FOLDER for one of them"
            )
        out[name] = folder
    return out


def _dimension(config: CertifyConfig, dealt: Samples, full: int) -> int:
    n, wanted = dealt.where("signature").size, config.signature.dimension
    if wanted is None:
        return max(1, min(_DIMENSION, full, n // 2))
    if wanted > min(n - 1, full):
        raise InputError("signature.dimension", f"{wanted} exceeds what {n} signature samples of dimension {full} span; lower it")
    return wanted


def _spaces(
    backbone: Backbone, dealt: Samples, adapters: Sequence[Adapter], rules: Sequence[RuleName], dimension: int, clock: PhaseClock
) -> dict[bool, tuple[list[Projection], Float[np.ndarray, "n S d"]]]:
    """Projected embeddings of all samples in the frozen space (True) and in those of all adapters (False), as the rules need them."""
    n, m, reference = len(dealt.inputs), len(adapters), dealt.where("signature")
    with clock.phase("frozen prefix", n) as advance:
        cache = encode_prefix(backbone, dealt.inputs, advance)
    out = {}
    if "frozen" in rules:
        projection = fit_projection(cache.frozen[reference], dimension)
        out[True] = [projection], projection(cache.frozen)[:, None]
    if set(rules) != {"frozen"}:
        projections, z = [], np.empty((n, m, dimension))
        with clock.phase("adapters", n * m) as advance:
            # A few adapters at a time, and only what is projected is kept: memory must not grow with their number.
            for start in range(0, m, _TOGETHER):
                x = embed_under(backbone, cache, adapters[start : start + _TOGETHER], advance)
                for k in range(x.shape[1]):
                    projections.append(fit_projection(x[reference, k], dimension))
                    z[:, start + k] = projections[-1](x[:, k])
        out[False] = projections, z
    return out


def embed_under(
    backbone: Backbone, cache: PrefixSource, adapters: Sequence[Adapter], advance: Advance | None = None
) -> Float[np.ndarray, "n m D"]:
    """Pooled embeddings of all documents of a prefix under each of m adapters; together, where all adapt the layers only."""
    everything = np.arange(len(cache.lengths))
    if all(name.startswith(f"{backbone.layers}.") for adapter in adapters for name in adapter.folded):
        return embed_all(backbone, cache, everything, adapters, advance)
    # One after the other where something behind the layers is adapted, such as a pooler.
    out = []
    for adapter in adapters:
        with active(backbone, adapter):
            out.append(embed(backbone, cache, everything, advance))
    return np.stack(out, axis=1)


def _fit(name: RuleName, dealt: Samples, projections: list[Projection], z: np.ndarray, config: CertifyConfig) -> _Fitted:
    """Signatures from the signature part of every task, and for the ratio a background from that of all tasks."""
    own = [dealt.where("signature", k) for k in range(len(dealt.names))]
    spaces = [z[rows, k if z.shape[1] > 1 else 0] for k, rows in enumerate(own)]
    rng = generator(config.seed, "signatures", name)
    signatures = fit_signatures(spaces, [dealt.cluster[rows] for rows in own], dealt.names, config.signature, rng)
    background = None
    if name == "ratio":
        pooled = np.concatenate(own)
        background = fit_background([z[pooled, k] for k in range(len(own))], config.signature)
    rule = Rule(signatures, background)
    return _Fitted(rule, projections, z, rule.task_scores(rule.scores(z)))


def _certified(name: RuleName, fitted: _Fitted, dealt: Samples, config: CertifyConfig, confidence: float) -> CertifiedRule:
    held, test = dealt.where("certificate"), dealt.where("measurement")
    wrong = fitted.scores.argmin(axis=1) != dealt.task
    counts = [np.bincount(dealt.task[rows], minlength=len(dealt.names)) for rows in (held[wrong[held]], held)]
    limits = simultaneous_certificates(counts[0], counts[1], confidence, dealt.names)
    sets = conformal_sets(fitted.scores[held], dealt.task[held], fitted.scores[test], config.alpha)
    found, distances = None, None
    if fitted.z.shape[1] * fitted.z.shape[2] <= _LARGEST_LAW:
        weights = np.bincount(dealt.cluster[test]) / test.size
        law = fit_query_law(
            fitted.z[held],
            dealt.task[held],
            dealt.cluster[held],
            weights,
            config.query_law,
            generator(config.seed, "query law", name),
            name="mixture",
        )
        rng = generator(config.seed, "simulation", name)
        found = ladder(fitted.rule, law, rng=rng, simulations=config.simulations, confidence=confidence, intersections=0, units="tasks")
        distances = _distances(fitted, law, dealt, test, config.signature.clusters == "class", rng)
    judge = _Judge(dealt, fitted, wrong, test, sets, limits, found, distances, config)
    tasks = [judge.unit(k) for k in range(len(dealt.names))]
    signatures = fitted.rule.signatures
    return CertifiedRule(
        rule=name,
        dimension=signatures.dimension,
        components=len(signatures),
        signature_bytes=signature_bytes(signatures),
        macro_error=float(np.mean([unit.measured.error for unit in tasks])),
        overall=judge.unit(None),
        tasks=tasks,
    )


def _distances(
    fitted: _Fitted, law: QueryLaw, dealt: Samples, test: Int[np.ndarray, " p"], alike: bool, rng: np.random.Generator
) -> Distances:
    """Squared distances of the measurement samples to their own component, and draws of them; `alike` if clusters are components."""
    signatures = fitted.rule.signatures
    measured = {}
    for t in np.unique(dealt.cluster[test]):
        rows = test[dealt.cluster[test] == t]
        task = int(dealt.task[rows[0]])
        measured[int(t)] = own_distances(signatures, fitted.z[rows, 0 if law.shared else task], task, int(t) if alike else None)
    return Distances(measured, predicted_own_distances(signatures, law, rng, clusters_are_components=alike), signatures.dimension)


@dataclass(frozen=True)
class _Judge:
    """Everything that a row of the report is made of."""

    dealt: Samples
    fitted: _Fitted
    wrong: np.ndarray
    test: Int[np.ndarray, " p"]
    sets: np.ndarray
    limits: Certificates
    found: Ladder | None
    distances: Distances | None
    config: CertifyConfig

    def unit(self, k: int | None) -> CertifiedUnit:
        """One task, or all of them (None)."""
        true = self.dealt.task[self.test]
        rows = np.ones(true.size, dtype=bool) if k is None else true == k
        measured = Measured(int(self.wrong[self.test][rows].sum()), int(rows.sum()), self.config.confidence)
        name = "overall" if k is None else self.dealt.names[k]
        limit = self.limits.overall if k is None else self.limits.tasks[name]
        law: dict[str, Any] = {}
        rungs: dict[str, Any] = {}
        if self.found is not None and self.distances is not None:
            bounds = self.found.overall if k is None else self.found.tasks[k]
            clusters = np.unique(self.dealt.cluster[self.test][rows])
            law = judge_law(measured, bounds["L6"], self.distances, clusters)
            rungs = {rung: judge_rung(bound, measured, law) for rung, bound in bounds.items() if rung != "L8"}
        coverage = self.sets[np.arange(true.size), true][rows].mean()
        return CertifiedUnit.model_validate(
            {
                "name": name,
                "measured": measured.to_dict(),
                "certificate": judge_rung(limit, measured, law),
                "law": law or None,
                "rungs": rungs,
                "conformal": {
                    "alpha": self.config.alpha,
                    "coverage": float(coverage),
                    "mean_size": float(self.sets[rows].sum(axis=1).mean()),
                },
            }
        )


def _task(k: int, folder: Path, read: PeftFolder, dealt: Samples) -> CertifiedTask:
    units = read.adapter.folded.values()
    return CertifiedTask(
        name=dealt.names[k],
        folder=str(folder),
        sha256=update_digest(read.adapter),
        base=read.base,
        adapted=len(units),
        parameters=sum(unit.a.size + unit.b.size for unit in units),
        clusters=np.unique(dealt.cluster[dealt.task == k]).size,
        **{part: dealt.where(part, k).size for part in PARTS},
    )


def _save(path: Path, fitted: _Fitted) -> None:
    # One projection for every space, so that a fresh embedding can be scored.
    projections = {f"projection_{name}": np.stack([getattr(p, name) for p in fitted.projections]) for name in ("mean", "axes")}
    names = {"tasks": json.dumps(fitted.rule.signatures.names)}
    write_tensors(path, rule_tensors(fitted.rule.signatures, fitted.rule.background) | projections, names)
