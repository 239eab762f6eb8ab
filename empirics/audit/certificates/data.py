"""The audit of a certificate with its samples at hand: dealt anew, and embedded anew in other company.

Reading a table and running an encoder under adapters is what the project does; that the folder holds what comes out is what is checked. The
dealing, projections, energies and estimates are done by other code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.audit.adapters import digest
from empirics.audit.certificates.opened import PARTS, SAMPLES, CertificateFiles
from empirics.audit.data import BATCH, COARSE, DRAWN, NEAREST, TOLERANCE, alike, projected
from empirics.audit.forms import read_scores
from empirics.audit.result import Check, Tally
from empirics.config import CertifyConfig
from empirics.seeding import generator

if TYPE_CHECKING:
    from empirics.adapters.peft_folders import PeftFolder
    from empirics.encoders.backbone import Backbone

# Fewest samples of a class.
_LEAST = 7


@dataclass(frozen=True)
class Dealt:
    """The samples of a table that are not repeats, dealt to parts.

    Attributes
    ----------
    row : (n,) int array
        Of the table.
    inputs : list
        Texts or images.
    task, cluster : (n,) int arrays
        A cluster is a class, or a whole task where its classes are not known or too small.
    part : (n,) array of str
    notes : list of str
        What was done to the table.
    """

    row: Int[np.ndarray, " n"]
    inputs: list[Any]
    task: Int[np.ndarray, " n"]
    cluster: Int[np.ndarray, " n"]
    part: np.ndarray
    notes: list[str]

    def of(self, part: str) -> Int[np.ndarray, " k"]:
        """Samples of one part."""
        return np.flatnonzero(self.part == part)


def check_dealing(files: CertificateFiles, samples: pd.DataFrame) -> tuple[Check, Dealt]:
    """Deal the samples anew and hold the folder against it; returns them, too."""
    tally = Tally(
        "samples", "rows, tasks and parts against the table of samples, dealt anew from the seed; repeats and classes", "reproduced"
    )
    dealt = _deal(samples, files)
    if files.digests:
        tally.same("certificate.json: sha256.samples", files.about["sha256"]["samples"], _digest(samples))
    table = files.samples
    names = np.array(files.names)
    for column, expected in (("row", dealt.row), ("task", names[dealt.task]), ("part", dealt.part)):
        tally.same(lambda j, c=column: f"{SAMPLES}, row {j}: {c}", table[column].to_numpy(), expected)
    for k, told in enumerate(files.about["tasks"]):
        clusters = np.unique(dealt.cluster[dealt.task == k]).size
        tally.same(f"certificate.json: tasks, {told['name']}, clusters", told["clusters"], clusters)
    if files.by_class:
        fitted = np.bincount(dealt.cluster[dealt.of("signature")])
        for rule in files.rules:
            tally.same(lambda j, r=rule: f"signatures/{r}.safetensors: counts, entry {j}", files.signatures(rule)["counts"], fitted)
    # Those on adapters stand before them (`check_embedded`).
    told = files.about["notes"]
    tally.same("certificate.json: notes on samples", told[len(told) - len(dealt.notes) :], dealt.notes)
    return tally.check(), dealt


def _digest(table: pd.DataFrame) -> str:
    """SHA-256 of all rows: of each that of its text or image, then its task and label, or null, as a JSON array."""
    from empirics.data import images
    from empirics.data.documents import name_of

    total = hashlib.sha256()
    gaps = table["label"].isna().to_numpy() if "label" in table else np.ones(len(table), dtype=bool)
    for row, gap in zip(table.to_dict("records"), gaps, strict=True):
        item = row["image"] if "image" in row else row["text"].encode("utf-8")
        total.update(hashlib.sha256(item).digest() if isinstance(item, bytes) else images.digest(item))
        label = "" if gap else row["label"]
        # 1 and 1.0 are one label.
        told = str(int(label) if isinstance(label, float) and label == label // 1 else label)
        total.update(json.dumps([name_of(row["task"], "task"), told if told.strip() else None]).encode("ascii"))
    return total.hexdigest()


def _deal(table: pd.DataFrame, files: CertificateFiles) -> Dealt:
    """Every class of every task in an order drawn from the seed, and cut at 40 and 80%; what repeats within a task is left out."""
    from empirics.data.documents import identity, name_of

    inputs = table["image" if "image" in table and "text" not in table else "text"].tolist()
    names = [name_of(task, "task") for task in table["task"]]
    first: dict[tuple[str, str | bytes], int] = {}
    for j, key in enumerate(zip(names, map(identity, inputs), strict=True)):
        first.setdefault(key, j)
    kept = np.array(sorted(first.values()))
    rng, part, cluster, notes = generator(files.settings["seed"], "samples"), {}, {}, []
    if kept.size < len(inputs):
        notes.append(f"{len(inputs) - kept.size} samples repeat another of their task and are left out: all numbers are of distinct inputs")
    number = 0
    for name in files.names:
        own = np.array([j for j in kept if names[j] == name])
        for members in _classes(own, table, name, notes):
            order, n = rng.permutation(members), members.size
            for place, j in enumerate(order):
                # Nearest whole numbers to 40 and 80%, which never lie between two.
                part[j] = PARTS[(place >= (4 * n + 5) // 10) + (place >= (8 * n + 5) // 10)]
                cluster[j] = number
            number += 1
    task = np.array([files.names.index(names[j]) for j in kept])
    return Dealt(kept, [inputs[j] for j in kept], task, *(np.array([of[j] for j in kept]) for of in (cluster, part)), notes)


def _classes(own: Int[np.ndarray, " k"], table: pd.DataFrame, name: str, notes: list[str]) -> list[Int[np.ndarray, " c"]]:
    """The classes of a task in the order of their names, or the task as a whole."""
    if "label" not in table:
        return [own]
    labels = table["label"].iloc[own]
    if labels.isna().any() or not all(str(label).strip() for label in labels):
        notes.append(f"not all samples of {name} have a label: it gets one Gaussian")
        return [own]
    text = np.array([str(label) for label in labels])
    groups = [own[text == label] for label in sorted(set(text))]
    least = min(map(len, groups))
    if least < _LEAST:
        notes.append(f"{name} has a class of {least} samples, fewer than {_LEAST}: it gets one Gaussian")
        return [own]
    return groups


@dataclass(frozen=True)
class Embedded:
    """Samples embedded anew.

    Attributes
    ----------
    dealt : Dealt
    rows : (r,) int array
        Which of them.
    spaces : (r, 1 + m, D) array
        In the frozen space and under every adapter.
    tolerance : float
        Deviation of embeddings in other batches, relative to their spread.
    """

    dealt: Dealt
    rows: Int[np.ndarray, " r"]
    spaces: Float[np.ndarray, "r S D"]
    tolerance: float

    def projected(self, files: CertificateFiles, rule: str) -> Float[np.ndarray, "r S d"]:
        """By the projections on file, in the spaces that a rule looks at."""
        return projected(self.spaces[:, :1] if rule == "frozen" else self.spaces[:, 1:], files.projections(rule))


def check_embeddings(files: CertificateFiles, dealt: Dealt, thorough: bool) -> tuple[Check, Embedded]:
    """Embed samples anew under the adapters, in other batches than certify did; then project and score them."""
    from empirics.adapters.peft_folders import for_adapters, read_peft_folder
    from empirics.encoders.loading import load_backbone
    from empirics.runs.origin import weights_digest

    config = CertifyConfig.model_validate(files.settings)
    backbone = load_backbone(config.backbone.model_copy(update={"adapted_layers": 1, "batch_size": BATCH}))
    tolerance = COARSE if backbone.device.type != "cpu" or config.backbone.precision == "bfloat16" else TOLERANCE
    tally = Tally(
        "embeddings",
        "samples embedded anew under the adapters, in other batches; scores and retrieved tasks by signatures and projections on file",
        "reproduced",
        tolerance,
    )
    if files.digests and files.about["sha256"]["encoder"] is not None:
        # Before anything is embedded, which may round the weights.
        tally.same("certificate.json: sha256.encoder", files.about["sha256"]["encoder"], weights_digest(backbone.model))
    read = [read_peft_folder(Path(task["folder"]), backbone, task["name"]) for task in files.about["tasks"]]
    _adapters(tally, files, read)
    adapters = [item.adapter for item in read]
    rows = np.arange(len(dealt.row)) if thorough else _chosen(files)
    x = _embedded(for_adapters(backbone, adapters), adapters, dealt, rows, config.seed)
    found = Embedded(dealt, rows, x, tolerance)
    for rule in files.rules:
        scores = read_scores(files.signatures(rule), "max").tasks(found.projected(files, rule))
        for k, name in enumerate(files.names):
            alike(tally, f"{SAMPLES}, {rule}:score:{name}", files.scores(rule)[rows, k], scores[:, k], rows)
        # Where two tasks score alike to what other batches move, either may be retrieved.
        clear = np.partition(scores, 1, axis=1)[:, 1] - scores.min(axis=1) > 2 * tolerance * scores.std()
        tally.true(
            lambda j, r=rule: f"{SAMPLES}, row {rows[j]}, {r}:retrieved",
            (files.retrieved(rule)[rows] == scores.argmin(axis=1)) | ~clear,
            "is another task than that of the sample embedded anew",
        )
    if not thorough:
        tally.skip("all other samples, signatures, projections and query laws: --thorough embeds everything anew")
    return tally.check(), found


def _adapters(tally: Tally, files: CertificateFiles, read: Sequence[PeftFolder]) -> None:
    """What is said of the adapters, against the folders."""
    for told, folder in zip(files.about["tasks"], read, strict=True):
        units = folder.adapter.folded.values()
        update = {f"{name}.{side}": x for name, own in folder.adapter.folded.items() for side, x in (("a", own.a), ("b", own.b))}
        where = f"certificate.json: tasks, {told['name']}"
        if files.digests:
            tally.same(f"{where}, sha256", told["sha256"], digest(update))
        tally.same(f"{where}, base", told["base"], folder.base)
        tally.same(f"{where}, adapted", told["adapted"], len(units))
        tally.same(f"{where}, parameters", told["parameters"], sum(unit.a.size + unit.b.size for unit in units))
    notes = [note for folder in read for note in folder.notes]
    tally.same("certificate.json: notes on adapters", files.about["notes"][: len(notes)], notes)


def _chosen(files: CertificateFiles) -> Int[np.ndarray, " r"]:
    """Some samples of every part: drawn at random, and those nearest to being sent elsewhere."""
    rule = next(iter(files.rules))
    scores, out = np.sort(files.scores(rule), axis=1), []
    for part in PARTS:
        rows = files.of(part)
        gap = scores[rows, 1] - scores[rows, 0]
        out.append(rows[np.argsort(gap, kind="stable")[:NEAREST]])
        rng = generator(files.settings["seed"], "audit", "samples", part)
        out.append(rng.choice(rows, size=min(rows.size, DRAWN), replace=False))
    return np.unique(np.concatenate(out))


def _embedded(backbone: Backbone, adapters: Sequence[Any], dealt: Dealt, rows: Int[np.ndarray, " r"], seed: int) -> np.ndarray:
    from empirics.adapters.adapter import active
    from empirics.encoders.prefix import embed, encode_prefix

    # In an order of its own, so that neighbours in a batch are not those that certify had.
    order = generator(seed, "audit").permutation(rows.size)
    source = encode_prefix(backbone, [dealt.inputs[rows[j]] for j in order])
    spaces = [source.frozen]
    for adapter in adapters:
        with active(backbone, adapter):
            spaces.append(embed(backbone, source, np.arange(rows.size)))
    out = np.empty((rows.size, len(spaces), spaces[0].shape[1]))
    out[order] = np.stack(spaces, axis=1)
    return out
