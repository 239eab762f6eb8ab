"""Energies, distances and retrieved tasks, from embeddings and signatures, each document by itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from empirics.audit.forms import blocks, covariances
from empirics.audit.opened import ARMS, RunFiles
from empirics.audit.result import Check, Tally
from empirics.audit.units import check_retrieved
from empirics.runs.run_folder import PROJECTIONS

# Rounding of distances, relative to their size; inverses of ill-conditioned covariances cost some digits.
_TOLERANCE = 1e-8


def check_energies(files: RunFiles) -> Check:
    """Scores of every document in every task, recomputed where the embeddings are on file."""
    tally = Tally(
        "energies",
        "scores, own distances and retrieved tasks of every document, from its own embedding and the signatures alone, whatever its batch",
        "recomputed",
        _TOLERANCE,
    )
    for arm in ARMS:
        key = f"{arm}-{files.dimension}"
        scores, tensors = files.scores(key), files.embeddings(arm)
        for part, table, frame in (("test", "predictions", files.test), ("query", "calibration", files.query)):
            x = tensors[part].astype(np.float64)
            if len(x) != len(frame):
                tally.find(f"embeddings/{key}.safetensors: {part}", f"has {len(x)} documents, {table}.parquet {len(frame)}")
                continue
            found, told = scores.tasks(x), files.energies(frame, key)
            for k, name in enumerate(files.names):
                tally.near(lambda j, c=f"{key}:energy:{name}", t=table: f"{t}.parquet, row {j}, {c}", told[:, k], found[:, k])
            retrieved = frame[f"{key}:retrieved"].to_numpy()
            # Where two tasks score alike to rounding either may be retrieved.
            clear = np.partition(found, 1, axis=1)[:, 1] - found.min(axis=1) > _TOLERANCE * np.abs(found).max(axis=1)
            tally.true(
                lambda j, c=f"{key}:retrieved", t=table: f"{t}.parquet, row {j}, {c}",
                (retrieved == found.argmin(axis=1)) | ~clear,
                lambda j, r=retrieved, f=found: f"is {r[j]}; task {f[j].argmin()} scores least",
            )
            cluster, task = frame["cluster"].to_numpy(), frame["task"].to_numpy()
            for t in np.unique(cluster):
                rows = np.flatnonzero(cluster == t)
                distance = scores.own_distances(x[rows], int(task[rows][0]), int(t) if files.by_class else None)
                tally.near(
                    lambda j, r=rows, t=table, key=key: f"{t}.parquet, row {r[j]}, {key}:distance",
                    frame[f"{key}:distance"].to_numpy()[rows],
                    distance,
                )
    if (files.folder / PROJECTIONS).is_file():
        tally.skip(
            f"{PROJECTIONS}, by which fresh documents are projected: no embedding of the full dimension is kept; --data fits it anew"
        )
    return tally.check()


def check_other_dimensions(files: RunFiles) -> Check:
    """What the columns of dimensions without embeddings must agree on: with themselves, with one another, and with the signatures."""
    tally = Tally(
        "arms, dimensions",
        "dimensions whose embeddings are not on file: least energies; what arms share: embeddings, signatures, distances, classes",
        "compared",
        _TOLERANCE,
    )
    others = [key for key in files.keys if key.rpartition("-")[2] != str(files.dimension)]
    for key in others:
        for table, frame in (("predictions", files.test), ("calibration", files.query)):
            check_retrieved(tally, f"{table}.parquet, {key}", frame[f"{key}:retrieved"].to_numpy(), files.energies(frame, key))
    if others:
        tally.skip(f"energies in {', '.join(others)}: their embeddings are not kept in a run; --data embeds some documents anew")
    for d in {key.rpartition("-")[2] for key in files.keys}:
        _arms_agree(files, d, tally)
    _predictions_agree(files, tally)
    _embeddings_agree(files, tally)
    return tally.check()


def _arms_agree(files: RunFiles, d: str, tally: Tally) -> None:
    """Arms that embed alike have the same signatures, block by block, and so the same distances."""
    if not files.by_class or not {f"{arm}-{d}" for arm in ARMS} <= set(files.keys):
        return
    paper, ratio, frozen, both = (files.signatures(f"{arm}-{d}") for arm in ARMS)
    same = [("ratio", ratio, "", paper, ""), ("both", both, "", paper, ""), ("both", both, "common_", frozen, "")]
    for arm, mine, prefix, its, other in same:
        for name in ("means", "covariances", "factors", "diagonals"):
            if other + name in its:
                tally.same(f"signatures/{arm}-{d}.safetensors: {prefix}{name}", mine.get(prefix + name), its[other + name])
    for name in ("background_means", "background_covariances"):
        if name in ratio:
            tally.same(f"signatures/both-{d}.safetensors: {name}", both.get(name), ratio[name])
    for table, frame in (("predictions", files.test), ("calibration", files.query)):
        column = {arm: frame[f"{arm}-{d}:distance"].to_numpy() for arm in ARMS}
        tally.near(lambda j, t=table: f"{t}.parquet, row {j}, ratio-{d}:distance", column["ratio"], column["paper"])
        tally.near(lambda j, t=table: f"{t}.parquet, row {j}, both-{d}:distance", column["both"], column["paper"] + column["frozen"])


def _embeddings_agree(files: RunFiles, tally: Tally) -> None:
    """The frozen space and those of the tasks are the same in all arms that look at them."""
    paper, ratio, frozen, both = (files.embeddings(arm) for arm in ARMS)
    for part in ("test", "query"):
        for arm, mine, its in (
            ("ratio", ratio[part], paper[part]),
            ("both", both[part][:, 1:], paper[part]),
            ("both", both[part][:, :1], frozen[part]),
        ):
            tally.same(f"embeddings/{arm}-{files.dimension}.safetensors: {part}, which other arms hold, too", mine, its)


def _predictions_agree(files: RunFiles, tally: Tally) -> None:
    """The class of a document depends on the retrieved task and on the embedding, frozen or adapted, and on nothing else."""
    sizes = np.array(files.classes)
    for table, frame in (("predictions", files.test), ("calibration", files.query)):
        for frozen in (True, False):
            known = np.full((len(frame), sizes.size), -1)
            for key in files.keys:
                if key.startswith("frozen-") != frozen:
                    continue
                retrieved, told = frame[f"{key}:retrieved"].to_numpy(), frame[f"{key}:prediction"].to_numpy()
                tally.true(
                    lambda j, t=table, key=key: f"{t}.parquet, row {j}, {key}:prediction",
                    (told >= 0) & (told < sizes[np.clip(retrieved, 0, sizes.size - 1)]),
                    "is no class of the retrieved task",
                )
                rows = np.arange(len(frame))
                before = known[rows, retrieved]
                tally.true(
                    lambda j, t=table, key=key: f"{t}.parquet, row {j}, {key}:prediction",
                    (before == -1) | (before == told),
                    lambda j, a=told, b=before: f"is class {a[j]}, but {b[j]} where another arm retrieves the same task",
                )
                known[rows, retrieved] = told
    tally.skip("classes that heads predict, beyond that: heads and training embeddings are not kept in a run; --thorough fits them")


def check_signatures(files: RunFiles) -> Check:
    """Signature files: symmetric, positive definite, one number of samples a component, sizes as run.json tells them."""
    tally = Tally(
        "signatures", "components, samples and bytes of the signatures, and that their covariances are positive definite", "compared"
    )
    told = files.about["signatures"]
    tally.same("run.json: signatures", sorted(told), files.keys)
    samples = {}
    for key in files.keys:
        tensors, where = files.signatures(key), f"signatures/{key}.safetensors"
        task, counts = tensors["task"], tensors["counts"]
        tally.same(f"run.json: signatures.{key}.components", told.get(key, {}).get("components"), np.bincount(task).tolist())
        if "spaces" in tensors:
            arm, m = key.partition("-")[0], len(files.classes)
            tally.same(f"{where}: spaces", int(tensors["spaces"]), {"frozen": 1, "both": 1 + m}.get(arm, m))
        own = sum(x.nbytes for name, x in tensors.items() if not name.startswith(("background_", "spaces")))
        tally.same(f"run.json: signatures.{key}.bytes", told.get(key, {}).get("bytes"), own)
        check_gaussians(tally, where, tensors)
        if files.by_class:
            tally.same(f"{where}: task", task, np.repeat(np.arange(len(files.classes)), files.classes))
            samples[key] = counts.tolist()
        trained = files.about["documents"]["train"]
        whole = files.config["signature"]["held_out"] == 0 or files.config["signature"].get("source") == "both"
        tally.true(f"{where}: counts", counts.sum() == trained if whole else counts.sum() < trained, f"do not sum to {trained}")
    for key, counts in samples.items():
        tally.same(f"signatures/{key}.safetensors: counts", counts, next(iter(samples.values())))
    tally.skip("the signatures' own fit: training embeddings are not kept in a run; --thorough fits them")
    return tally.check()


def check_gaussians(tally: Tally, where: str, tensors: Mapping[str, np.ndarray]) -> None:
    """That the tensors of a file are finite, and its covariances symmetric and positive definite."""
    for name, value in tensors.items():
        tally.true(f"{where}: {name}", np.isfinite(value).all(), "holds values that are not finite")
    for prefix in ("", "background_"):
        if prefix + "means" not in tensors:
            continue
        for block in blocks(tensors, prefix):
            dense = covariances(tensors, block)
            skew = np.abs(dense - np.swapaxes(dense, 1, 2)).max(axis=(1, 2)) / np.abs(dense).max(axis=(1, 2))
            tally.true(lambda j, b=block: f"{where}: {b}covariances[{j}]", skew < 1e-10, "is not symmetric")
            tally.true(lambda j, b=block: f"{where}: {b}covariances[{j}]", _definite(dense), "is not positive definite")


def _definite(dense: np.ndarray) -> np.ndarray:
    try:
        np.linalg.cholesky(dense)
        return np.ones(len(dense), dtype=bool)
    except np.linalg.LinAlgError:
        return np.linalg.eigvalsh(dense)[:, 0] > 0
