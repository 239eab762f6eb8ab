"""Adapters: that each is what it was when later ones were made of it, and that all copies of one agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from scipy.linalg import subspace_angles

from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally
from empirics.files.record import read_json


def check_adapters(files: RunFiles) -> Check:
    """Units of every adapter against the copies in later adapters and in its own PEFT file, bit by bit; logged angles and scalars."""
    tally = Tally(
        "adapters",
        "adapters of earlier tasks against the copies that later ones hold, PEFT files against what they were folded from, logged angles",
        "recomputed",
        1e-4,
    )
    if not (files.folder / "adapters").is_dir():
        tally.skip("adapters: the folder holds none")
        return tally.check()
    settings, earlier = files.config["adapter"], []
    adapted = len(settings["targets"]) * files.config["backbone"]["adapted_layers"]
    tally.same("adapters", sorted(path.name for path in (files.folder / "adapters").iterdir()), sorted(files.names))
    for name in files.names:
        where = f"adapters/{name}"
        own, about = files.tensors(f"{where}/composition.safetensors"), read_json(files.folder / where / "composition.json")
        projections = about["projections"]
        tally.same(f"{where}/composition.json: task", about["task"], name)
        tally.same(f"{where}/composition.json: projections", len(projections), adapted)
        tally.same(f"{where}/composition.safetensors: alpha", float(own["alpha"]), float(settings["alpha"]))
        for p in projections:
            tally.same(f"{where}/composition.safetensors: rank of {p}", own[f"{p}.a"].shape[0], settings["rank"])
            _folded(tally, where, own, p, earlier if settings["compose"] else [], settings["alpha"])
        _peft(tally, files, where, own, projections)
        _logged(tally, files, name, own, projections, earlier)
        earlier.append(own)
    alone = f"the adapter of {files.names[-1]}" if settings["compose"] else "an adapter"
    tally.skip(
        f"{alone}, if its digest in run.json was changed with it: no other adapter holds a copy of it; --data embeds documents with it"
    )
    return tally.check()


def _folded(tally: Tally, where: str, own: dict, p: str, pool: list[dict], alpha: float) -> None:
    """The whole update: units of all earlier tasks, scaled by the composition, then the own ones."""
    a = np.concatenate([*(x[f"{p}.a"] for x in pool), own[f"{p}.a"]])
    s = own[f"{p}.s"]
    before = sum(len(x[f"{p}.a"]) for x in pool)
    tally.same(f"{where}/composition.safetensors: {p}.s", s.shape, (before,))
    if s.shape != (before,):
        return
    scaled = [x[f"{p}.b"] for x in pool]
    b = np.concatenate([*([np.concatenate(scaled) * s[:, None]] if scaled else []), own[f"{p}.b"] * np.float32(alpha)])
    tally.same(lambda j: f"{where}/composition.safetensors: {p}.folded_a, which holds the units of earlier tasks", own[f"{p}.folded_a"], a)
    tally.same(lambda j: f"{where}/composition.safetensors: {p}.folded_b, which holds the units of earlier tasks", own[f"{p}.folded_b"], b)


def _peft(tally: Tally, files: RunFiles, where: str, own: dict, projections: list[str]) -> None:
    """The PEFT folder applies the same update: matrices bit by bit, and a scaling of one."""
    weights, config = files.tensors(f"{where}/adapter_model.safetensors"), read_json(files.folder / where / "adapter_config.json")
    expected = {f"base_model.model.{p}.lora_{side}.weight" for p in projections for side in "AB"}
    tally.same(f"{where}/adapter_model.safetensors: tensors", sorted(weights), sorted(expected))
    for p in projections:
        for side, matrix in (("A", own[f"{p}.folded_a"]), ("B", own[f"{p}.folded_b"].T)):
            tally.same(
                lambda j, s=side, p=p: f"{where}/adapter_model.safetensors: lora_{s} of {p}",
                weights.get(f"base_model.model.{p}.lora_{side}.weight"),
                matrix,
            )
    ranks = {own[f"{p}.folded_a"].shape[0] for p in projections}
    tally.same(f"{where}/adapter_config.json: target_modules", sorted(config["target_modules"]), sorted(projections))
    if len(ranks) == 1:
        tally.same(f"{where}/adapter_config.json: r", config["r"], ranks.pop())
    tally.same(f"{where}/adapter_config.json: lora_alpha, which over r scales the update", config["lora_alpha"], config["r"])
    tally.same(f"{where}/adapter_config.json: alpha_pattern", config["alpha_pattern"], config["rank_pattern"])
    for field in ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"):
        tally.same(f"{where}/adapter_config.json: {field}", bool(config.get(field)), False)


def digest(own: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the tensors in the order of their names, each after a line of its name, type and shape."""
    total = hashlib.sha256()
    for name in sorted(own):
        total.update(f"{name} {own[name].dtype} {own[name].shape}\n".encode() + np.ascontiguousarray(own[name]).tobytes())
    return total.hexdigest()


def _logged(tally: Tally, files: RunFiles, name: str, own: dict, projections: list[str], earlier: list[dict]) -> None:
    """What the training log says of the adapter that came out."""
    log = files.about["training"].get(name)
    if log is None:
        tally.find("run.json: training", f"says nothing of {name}")
        return
    tally.same(f"run.json: training.{name}.sha256, noted when the adapter was trained", log["sha256"], digest(own))
    scalars = np.concatenate([own[f"{p}.s"] for p in projections])
    tally.near(f"run.json: training.{name}.nonzero", log["nonzero"], float((scalars != 0).mean()) if scalars.size else 1.0, 1e-12)
    angle = 90.0
    for p in projections if earlier else []:
        before = np.concatenate([x[f"{p}.a"] for x in earlier]).T.astype(np.float64)
        angle = min(angle, float(np.degrees(subspace_angles(before, own[f"{p}.a"].T.astype(np.float64)).min())))
    tally.near(f"run.json: training.{name}.smallest_angle", log["smallest_angle"], angle)
