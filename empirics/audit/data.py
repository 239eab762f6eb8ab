"""The audit with data and encoder at hand: the stream is dealt anew, and documents are embedded anew in other company.

Reading a stream and running an encoder is what the project does; that a run's files hold what comes out is what is checked here. Everything
after the embeddings (principal components, energies, estimates) is done by other code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.audit.laws import ledoit_wolf
from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally
from empirics.config import RunConfig
from empirics.runs.run_folder import PROJECTIONS
from empirics.seeding import generator

if TYPE_CHECKING:
    from empirics.data.streams import Stream

# Documents of each table that are embedded anew: drawn at random, and those that were nearest to being sent elsewhere.
DRAWN, NEAREST = 24, 8
# Documents in a batch, which differs from what runs use.
BATCH = 7
# Deviation of what is embedded anew, relative to the spread of the numbers compared: single precision in other batches and by other vector
# instructions (1.5e-5 was seen), and bfloat16.
TOLERANCE, COARSE = 1e-4, 5e-2


def check_stream(files: RunFiles) -> tuple[Check, Stream]:
    """Deal the stream anew and hold the tables of documents against it; returns the stream, too."""
    from empirics.data.streams import load_stream
    from empirics.runs.origin import data_digest

    tally = Tally(
        "stream", "documents, parts, tasks and labels against the data, dealt anew from the run's seed; no text in two parts", "reproduced"
    )
    config = RunConfig.model_validate(files.config)
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    about = files.about
    tally.same("run.json: stream", about["stream"], stream.name)
    tally.same("run.json: exchangeable", about.get("exchangeable", True), stream.exchangeable)
    tally.same("run.json: tasks", about["tasks"], [{"name": task.name, "classes": list(task.classes)} for task in stream.tasks])
    for part, n in about["documents"].items():
        tally.same(f"run.json: documents.{part}", n, int((stream.part == part).sum()))
    tally.same("run.json: sha256.data", about["sha256"]["data"], data_digest(stream))
    for table, frame, part in (("predictions", files.test, "test"), ("calibration", files.query, "query")):
        rows = np.flatnonzero(stream.part == part)
        for column, expected in (("document", rows), ("task", stream.task[rows]), ("label", stream.label[rows])):
            tally.same(lambda j, t=table, c=column: f"{t}.parquet, row {j}, {c}", frame[column].to_numpy(), expected)
    if stream.modality == "text":
        where: dict[str, str] = {}
        for text, part in zip(stream.inputs, stream.part.tolist(), strict=True):
            tally.true("the stream", where.setdefault(str(text), part) == part, f"has a text both in {where[str(text)]} and in {part}")
    return tally.check(), stream


@dataclass(frozen=True)
class _Anew:
    """Documents embedded anew, and where they stand.

    Attributes
    ----------
    stream : Stream
    rows : dict from part to (r,) int array
        Which rows of the tables "test" and "query" were embedded.
    held : dict from part to (n, 1 + m, D) array
        Those, and the reservoir, in the frozen space and under every adapter.
    train : (t,) int array
        Training documents, if these were embedded, too.
    frozen : (t, D) array
        These in the frozen space.
    own : tuple of (t_k, D) arrays
        Those of each task under its own adapter.
    """

    stream: Stream
    rows: Mapping[str, Int[np.ndarray, " r"]]
    held: Mapping[str, Float[np.ndarray, "n S D"]]
    train: Int[np.ndarray, " t"]
    frozen: Float[np.ndarray, "t D"]
    own: tuple[Float[np.ndarray, "s D"], ...]

    def of_task(self, k: int) -> np.ndarray:
        """Which training documents are of a task."""
        return self.stream.task[self.train] == k

    def maps(self, spaces: slice, d: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Projections of some spaces, from the reservoir."""
        reservoir = self.held["reservoir"][:, spaces]
        return [principal(reservoir[:, s], d) for s in range(reservoir.shape[1])]


def check_embeddings(files: RunFiles, stream: Stream, thorough: bool) -> Check:
    """Embed documents anew under the saved adapters, alone or with others than the run did; then project and score them."""
    coarse = files.about["environment"]["accelerator"] is not None or files.config["backbone"]["precision"] == "bfloat16"
    tally = Tally(
        "embeddings",
        "documents embedded anew under the saved adapters, in other batches; projections, scores in every dimension, retrieved tasks"
        + ("; signatures and heads from training documents" if thorough else ""),
        "reproduced",
        COARSE if coarse else TOLERANCE,
    )
    if not (files.folder / "adapters").is_dir():
        tally.skip("embeddings: the folder holds no adapters")
        return tally.check()
    anew = _embedded(tally, files, stream, thorough)
    _projections(tally, files, anew)
    for key in files.keys:
        _scores(tally, files, key, anew)
        if thorough:
            _refitted(tally, files, key, anew)
    if thorough:
        _heads(tally, files, anew)
    else:
        tally.skip("all other documents, signatures and heads: --thorough embeds everything anew")
    return tally.check()


def _embedded(tally: Tally, files: RunFiles, stream: Stream, thorough: bool) -> _Anew:
    from empirics.adapters.adapter import active, load_adapter
    from empirics.encoders.loading import load_backbone
    from empirics.encoders.prefix import embed, encode_prefix
    from empirics.runs.origin import weights_digest

    config = RunConfig.model_validate(files.config)
    backbone = load_backbone(config.backbone.model_copy(update={"batch_size": BATCH}))
    if "encoder" in files.about["sha256"]:
        tally.same("run.json: sha256.encoder", files.about["sha256"]["encoder"], weights_digest(backbone.model))
    else:
        tally.skip("the encoder's weights, whose digest run.json does not note: --repeat trains with them")
    rows = {part: _chosen(files, frame, thorough) for part, frame in (("test", files.test), ("query", files.query))}
    documents = {"reservoir": stream.where("reservoir")} | {part: stream.where(part)[chosen] for part, chosen in rows.items()}
    train = stream.where("train") if thorough else np.empty(0, dtype=np.int64)
    # In an order of its own, so that neighbours in a batch are not those that the run had.
    shuffled = generator(config.seed, "audit").permutation(np.concatenate([*documents.values(), train]))
    source = encode_prefix(backbone, [stream.inputs[j] for j in shuffled])
    place = np.empty(len(stream.inputs), dtype=np.int64)
    place[shuffled] = np.arange(shuffled.size)
    held = place[np.concatenate(list(documents.values()))]
    spaces, own = [source.frozen[held]], []
    for k, name in enumerate(files.names):
        with active(backbone, load_adapter(files.folder / "adapters" / name)):
            spaces.append(embed(backbone, source, held))
            if thorough:
                own.append(embed(backbone, source, place[train[stream.task[train] == k]]))
    x = np.stack(spaces, axis=1).astype(np.float64)
    parts = np.split(x, np.cumsum([chosen.size for chosen in documents.values()])[:-1])
    return _Anew(stream, rows, dict(zip(documents, parts, strict=True)), train, source.frozen[place[train]], tuple(own))


def _scores(tally: Tally, files: RunFiles, key: str, anew: _Anew) -> None:
    """Embeddings, energies and retrieved tasks of an arm in a dimension."""
    arm, _, d = key.rpartition("-")
    seen = {"frozen": slice(0, 1), "both": slice(None)}.get(arm, slice(1, None))
    maps, scores = anew.maps(seen, int(d)), files.scores(key)
    for part, frame, table in (("test", files.test, "predictions"), ("query", files.query, "calibration")):
        rows = anew.rows[part]
        z = projected(anew.held[part][:, seen], maps)
        if int(d) == files.dimension:
            alike(tally, f"embeddings/{key}.safetensors: {part}", files.embeddings(arm)[part][rows], z, rows)
        energies = scores.tasks(z)
        alike(tally, f"{table}.parquet, {key}:energy", files.energies(frame, key)[rows], energies, rows)
        clear = np.partition(energies, 1, axis=1)[:, 1] - energies.min(axis=1) > 2 * tally.tolerance * energies.std()
        tally.true(
            lambda j, t=table, r=rows: f"{t}.parquet, row {r[j]}, {key}:retrieved",
            (frame[f"{key}:retrieved"].to_numpy()[rows] == energies.argmin(axis=1)) | ~clear,
            "is another task than that of the document embedded anew",
        )


def _chosen(files: RunFiles, frame: pd.DataFrame, thorough: bool) -> Int[np.ndarray, " r"]:
    n = len(frame)
    if thorough:
        return np.arange(n)
    energies = np.sort(files.energies(frame, f"{files.config['bounds']['arm']}-{files.dimension}"), axis=1)
    nearest = np.argsort(energies[:, 1] - energies[:, 0], kind="stable")[:NEAREST]
    drawn = generator(files.config["seed"], "audit", "documents", n).choice(n, size=min(n, DRAWN), replace=False)
    return np.union1d(nearest, drawn)


def principal(reference: Float[np.ndarray, "n D"], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and leading principal axes, from the eigenvectors of the covariance; all coordinates as they are in the full dimension."""
    mean, D = reference.mean(axis=0), reference.shape[1]
    if d == D:
        return mean, np.eye(D)
    _, vectors = np.linalg.eigh(np.cov(reference, rowvar=False))
    axes = vectors[:, ::-1][:, :d].T
    return mean, axes * np.sign(axes[np.arange(d), np.abs(axes).argmax(axis=1)])[:, None]


def _projections(tally: Tally, files: RunFiles, anew: _Anew) -> None:
    """The projections on file, which are for fresh documents, against those that the reservoir gives, in what they make of documents."""
    if not (files.folder / PROJECTIONS).is_file():
        return
    told, x = files.tensors(PROJECTIONS), np.concatenate(list(anew.held.values()))
    made = [projected(x, maps) for maps in (list(zip(told["mean"], told["axes"], strict=True)), anew.maps(slice(None), files.dimension))]
    alike(tally, PROJECTIONS, *made, np.arange(len(x)))


def projected(x: Float[np.ndarray, "n S D"], maps: list[tuple[np.ndarray, np.ndarray]]) -> Float[np.ndarray, "n S d"]:
    """Embeddings in every space through its map: a mean and axes."""
    return np.stack([(x[:, s] - mean) @ axes.T for s, (mean, axes) in enumerate(maps)], axis=1)


def alike(tally: Tally, where: str, told: np.ndarray, found: np.ndarray, rows: np.ndarray) -> None:
    """Numbers that agree to the tolerance, in units of their spread."""
    centre, unit, per_row = float(np.mean(found)), float(np.std(found)), int(np.prod(found.shape[1:]))
    a, b = ((np.asarray(x, dtype=np.float64) - centre) / unit for x in (told, found))
    tally.near(lambda j: f"{where}, row {rows[j // per_row]}, less their mean, over their spread", a, b)


def _refitted(tally: Tally, files: RunFiles, key: str, anew: _Anew) -> None:
    """Means and covariances of the classes, where the estimator is the shrunk or the plain one."""
    signature = files.config["signature"]
    if (
        signature["clusters"] != "class"
        or signature["covariance"] not in ("ledoit-wolf", "full")
        or signature["pool"]
        or signature["held_out"]
    ):
        tally.skip("the fit of signatures: only classes with shrunk or full covariances, neither pooled nor held out, are fitted anew")
        return
    estimate = ledoit_wolf if signature["covariance"] == "ledoit-wolf" else (lambda z: np.cov(z, rowvar=False))
    tensors, (arm, _, d) = files.signatures(key), key.rpartition("-")
    maps = anew.maps(slice(None), int(d))
    for prefix in ("common_", "") if arm == "both" else ("",):
        component = 0
        for k, classes in enumerate(files.classes):
            adapted = arm != "frozen" and prefix == ""
            mean, axes = maps[1 + k if adapted else 0]
            mine = anew.of_task(k)
            z = ((anew.own[k] if adapted else anew.frozen[mine]).astype(np.float64) - mean) @ axes.T
            label = anew.stream.label[anew.train[mine]]
            for c in range(classes):
                where, x = f"signatures/{key}.safetensors: {prefix}means and covariances, entry {component}", z[label == c]
                spread = np.sqrt(np.trace(np.atleast_2d(estimate(x))) / int(d))
                tally.near(where, tensors[f"{prefix}means"][component] / spread, x.mean(axis=0) / spread)
                tally.near(where, tensors[f"{prefix}covariances"][component] / spread**2, estimate(x) / spread**2, 5 * tally.tolerance)
                component += 1


def _heads(tally: Tally, files: RunFiles, anew: _Anew) -> None:
    """Classes that the retrieved tasks' heads give; near a boundary, embeddings in other batches may fall to the other side."""
    from empirics.retrieval.heads import fit_head

    config = RunConfig.model_validate(files.config)
    differ = total = 0
    for k, name in enumerate(files.names):
        mine = anew.of_task(k)
        for shared in (False, True):
            rng = generator(config.seed, "head", name, "frozen" if shared else "adapted")
            head = fit_head(anew.frozen[mine] if shared else anew.own[k], anew.stream.label[anew.train[mine]], config.head, rng)
            for part, frame in (("test", files.test), ("query", files.query)):
                for key in files.keys:
                    if (key.rpartition("-")[0] == "frozen") == shared:
                        sent = frame[f"{key}:retrieved"].to_numpy() == k
                        if sent.any():
                            found = head.predict(anew.held[part][sent, 0 if shared else 1 + k])
                            differ += int((found != frame[f"{key}:prediction"].to_numpy()[sent]).sum())
                            total += int(sent.sum())
    tally.true(
        "predictions.parquet and calibration.parquet: classes",
        differ <= total * 1e-3,
        f"{differ} of {total} are not those of heads fitted anew",
    )
    tally.count += total
