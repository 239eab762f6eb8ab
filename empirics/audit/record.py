"""The folder itself, and `run.json`: the manifest, settings that files must show, training logs."""

from __future__ import annotations

import re

import numpy as np

from empirics.audit.opened import ARMS, RunFiles
from empirics.audit.result import Check, Tally
from empirics.reports.report import Report, markdown

# Settings that leave no trace in the files beyond run.json, report.json and the digests.
_UNSEEN = (
    "learning rate, weight decay, warmup, temperature, l1, l2, orthogonality, max_length, normalize, pooling, head and precision: "
    "only training or embedding anew shows that the run had these settings"
)
_MARKS = re.compile(r"\[x\]|!|vacuous|not rejected|rejected|-?\d+\.?\d*(?:e[-+]?\d+)?")


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
    tally.skip(_UNSEEN)
    tally.skip("seconds, memory, versions and machine in run.json: nothing on file says them twice")
    return tally.check()


def check_text(files: RunFiles) -> Check:
    """`report.md` line by line against what `report.json` says."""
    tally = Tally("report.md", "every number and mark of the text, and that bounds are rounded up", "compared")
    told = (files.folder / "report.md").read_text("utf-8")
    expected = markdown(Report.model_validate(files.report))
    ours, its = expected.splitlines(), told.splitlines()
    tally.count += len(_MARKS.findall(told))
    if ours != its:
        tally.same("report.md: lines", len(its), len(ours))
        for number, (a, b) in enumerate(zip(its, ours, strict=False), start=1):
            if _MARKS.findall(a) != _MARKS.findall(b):
                tally.find(f"report.md, line {number}", f"is {a[:200]!r}, which is not what report.json says")
        if not tally.findings:
            tally.skip("the wording of report.md: it is not this version's, though every number and mark is right")
    _rounded_up(files, told, tally)
    return tally.check()


def _rounded_up(files: RunFiles, told: str, tally: Tally) -> None:
    """No bound of a table is below the one that it stands for; read without the code that wrote the table."""
    units = {(arm["arm"], arm["law"]): {u["name"]: u for u in [*arm["tasks"], arm["overall"]]} for arm in files.report["arms"]}
    order = iter(units)
    here, header = None, []
    for number, line in enumerate(told.splitlines(), start=1):
        if line.startswith("## "):
            here = next(order, None) if ", query law: " in line and not line.startswith("## Every") else None
            header = []
        elif here is not None and line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if "interval" in cells:
                header = cells
            elif header and len(cells) == len(header) and cells[0] in units[here]:
                rungs = units[here][cells[0]]["rungs"]
                for rung, cell in zip(header, cells, strict=True):
                    if rung in rungs and cell != "vacuous":
                        shown, value = float(cell.split()[-1]), rungs[rung]["value"]
                        tally.true(
                            f"report.md, line {number}, {rung}", value <= shown <= value * 1.0101 + 1e-300, f"shows {shown} for {value!r}"
                        )
            else:
                header = []


def check_files(files: RunFiles) -> Check:
    """The folder against its manifest."""
    tally = Tally("files", "every file against the size and SHA-256 in the manifest, and no file besides", "compared")
    try:
        from empirics.files.manifest import MANIFEST, check_manifest, read_manifest
    except ImportError:
        tally.skip("the manifest")
        return tally.check()
    if not (files.folder / MANIFEST).is_file():
        tally.skip(f"digests of files: the folder has no {MANIFEST} (runs of earlier versions have none)")
        return tally.check()
    tally.count += len(read_manifest(files.folder).files)
    for difference in check_manifest(files.folder):
        tally.find(difference.path, f"is {difference.kind}, says {MANIFEST}")
    return tally.check()
