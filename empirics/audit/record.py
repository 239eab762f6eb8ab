"""The folder itself, and `run.json`: the manifest, settings that files must show, training logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from empirics.audit.opened import ARMS, RunFiles
from empirics.audit.result import Check, Tally
from empirics.files.manifest import MANIFEST, check_manifest, read_manifest

# Settings that leave no trace in the files beyond run.json, report.json and the digests, and what shows that the run had them.
_UNSEEN = (
    "settings that embeddings follow from (max_length, normalize, pooling): --data embeds documents anew",
    "settings of heads: --thorough fits them",
    "settings of training (learning rate, weight decay, warmup, temperature, l1, l2, orthogonality) and precision: --repeat trains anew",
)


def check_settings(files: RunFiles) -> Check:
    """Settings against what the files show of them."""
    tally = Tally(
        "settings", "settings against what files show of them: sizes, counts of components, logged steps; training logs", "compared", 1e-9
    )
    config, about = files.config, files.about
    d = files.dimension
    for arm in ARMS:
        tally.true(f"signatures/{arm}-{d}.safetensors", f"{arm}-{d}" in files.keys, "is missing, for the dimension of the settings")
        x = files.embeddings(arm)
        for part in ("query", "test"):
            tally.same(f"embeddings/{arm}-{d}.safetensors: {part}, dimension", x[part].shape[2], d)
    trained = np.bincount(files.signatures(files.keys[0])["task"], files.signatures(files.keys[0])["counts"]).astype(int)
    whole = config["signature"]["held_out"] == 0
    tally.same("run.json: training", sorted(about["training"]), sorted(files.names))
    real = (files.folder / "adapters").is_dir()
    for k, name in enumerate(files.names):
        log = about["training"].get(name)
        if not real or not whole or log is None:
            continue
        steps = config["training"]["epochs"] * -(-int(trained[k]) // config["training"]["batch_size"])
        tally.same(f"run.json: training.{name}.losses", len(log["losses"]), steps)
        right = log["accuracy"] * trained[k]
        tally.near(f"run.json: training.{name}.accuracy, times the documents", right, round(right))
    if not real or not whole:
        tally.skip("training logs against settings: no adapters in the folder, or documents held out from training")
    train_cap = config["stream"]["train_per_class"]
    counts = files.signatures(files.keys[0])["counts"]
    tally.true(
        "run.json: config.stream.train_per_class",
        not files.by_class or counts.max() <= train_cap,
        f"is {train_cap}; a class has {counts.max()}",
    )
    tally.true("run.json: documents", all(n >= 0 for n in about["documents"].values()), "holds a negative number")
    tally.same("run.json: schema", about["schema"], files.report["schema_version"])
    if "stream" in about and config["stream"]["path"] is None:
        tally.same("run.json: stream", about["stream"], config["stream"]["name"])
    for what in _UNSEEN:
        tally.skip(what)
    tally.skip("seconds, memory, versions and machine in run.json: nothing on file says them twice")
    return tally.check()


def check_files(folder: Path) -> Check:
    """The folder against its manifest."""
    tally = Tally("files", "every file against the size and SHA-256 in the manifest, and no file besides", "compared")
    if not (folder / MANIFEST).is_file():
        tally.skip(f"digests of files: the folder has no {MANIFEST} (those of earlier versions have none)")
        return tally.check()
    tally.count += len(read_manifest(folder).files)
    for difference in check_manifest(folder):
        tally.find(difference.path, f"is {difference.kind}, says {MANIFEST}")
    return tally.check()
