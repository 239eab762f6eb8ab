"""What a certificate says it was made of: its settings and statement, the parts that samples were dealt to, and the signatures."""

from __future__ import annotations

import json
import re

import numpy as np

from empirics.audit.certificates.opened import PARTS, RULES, SAMPLES, CertificateFiles
from empirics.audit.energies import check_gaussians
from empirics.audit.result import Check, Tally
from empirics.files.record import read_metadata

# Fewest samples of a class, or of a task without classes.
_LEAST = 7
# Principal components by default.
_DIMENSION = 32
# Rounding of a product of axes, and of scores that two rules share.
_TOLERANCE = 1e-9
_SHA256 = re.compile("[0-9a-f]{64}")


def check_certificate(files: CertificateFiles) -> Check:
    """`certificate.json` against its settings, the samples and the signatures."""
    tally = Tally("certificate", "rules, tasks, counts, sizes and settings against one another, the samples and the signatures", "compared")
    about, settings, where = files.about, files.settings, "certificate.json"
    wanted = list(RULES) if settings["rule"] == "all" else [settings["rule"]]
    tally.same(f"{where}: rules", [rule["rule"] for rule in about["rules"]], wanted)
    tally.same(f"{where}: confidence", about["confidence"], settings["confidence"])
    tally.true(f"{where}: tasks", len(set(files.names)) == len(files.names) >= 2, "are not two different ones or more")
    there = sorted(path.name for path in (files.folder / "signatures").iterdir())
    tally.same("signatures", there, sorted(f"{rule}.safetensors" for rule in wanted))
    columns = [f"{rule}:{what}" for rule in wanted for what in ("retrieved", *(f"score:{name}" for name in files.names))]
    tally.same(f"{SAMPLES}: columns", list(files.samples), ["row", "task", "part", *columns])
    for k, task in enumerate(about["tasks"]):
        for part in PARTS:
            tally.same(f"{where}: tasks, {task['name']}, {part}", task[part], int((files.task[files.of(part)] == k).sum()))
        tally.true(f"{where}: tasks, {task['name']}, adapted", task["adapted"] > 0 and task["parameters"] > 0, "is no adapter")
    _digests(tally, files)
    for name, rule in files.rules.items():
        tally.same(f"{where}: {name}, tasks", [unit["name"] for unit in rule["tasks"]], files.names)
        tally.same(f"{where}: {name}, overall", rule["overall"]["name"], "overall")
        _sizes(tally, files, name)
    tally.skip("adapters, encoder and samples, of which the folder holds none: --data reads them and embeds some samples anew")
    tally.skip("versions and machine: nothing on file says them twice")
    tally.skip("that rule and settings were chosen before the samples were seen, and the adapters not trained on these: no file tells")
    return tally.check()


def _digests(tally: Tally, files: CertificateFiles) -> None:
    """That all are noted; the encoder's may be missing, if its weights were gone when certify was given it."""
    about, where = files.about, "certificate.json"
    if not files.digests:
        tally.skip("which adapters, encoder and samples were certified, of which a certificate of schema 1 notes no digests: certify again")
        return
    noted = {f"{where}: tasks, {task['name']}, sha256": task["sha256"] for task in about["tasks"]}
    noted[f"{where}: sha256.samples"] = about["sha256"]["samples"]
    if about["sha256"]["encoder"] is None:
        tally.skip("which encoder was certified: its weights had been rounded before, and no digest is noted")
    else:
        noted[f"{where}: sha256.encoder"] = about["sha256"]["encoder"]
    for name, value in noted.items():
        tally.true(name, isinstance(value, str) and bool(_SHA256.fullmatch(value)), f"is {value!r}, which is no SHA-256")


def _sizes(tally: Tally, files: CertificateFiles, rule: str) -> None:
    """Dimensions, components and bytes of a rule."""
    told, tensors, where = files.rules[rule], files.signatures(rule), f"certificate.json: {rule}"
    projection, spaces = tensors["projection_axes"], 1 if rule == "frozen" else len(files.names)
    d, full = projection.shape[1:]
    tally.same(f"signatures/{rule}.safetensors: spaces", len(projection), spaces)
    tally.same(f"signatures/{rule}.safetensors: dimension of the signatures", tensors["means"].shape[1], d)
    tally.same(f"{where}, dimension", told["dimension"], d)
    wanted = files.settings["signature"]["dimension"]
    half = files.of("signature").size // 2
    tally.same(f"{where}, dimension, by the settings", told["dimension"], max(1, min(_DIMENSION, full, half)) if wanted is None else wanted)
    tally.same(f"{where}, components", told["components"], tensors["task"].size)
    own = sum(x.nbytes for name, x in tensors.items() if not name.startswith(("background_", "projection_")))
    tally.same(f"{where}, signature_bytes", told["signature_bytes"], own)


def check_statement(files: CertificateFiles) -> Check:
    """What is guaranteed, in words."""
    from empirics.routing.certificate import statement

    tally = Tally("statement", "what is guaranteed and what is assumed, to the letter", "printed again")
    tally.same("certificate.json: statement", files.about["statement"], statement(files.settings["confidence"], list(files.rules)))
    return tally.check()


def check_parts(files: CertificateFiles) -> Check:
    """The three parts: every sample in one, tasks that are known, and sizes as dealing gives them."""
    tally = Tally("parts", "no sample in two parts or twice in one; known tasks; sizes as 40, 40 and 20% of every class", "compared")
    rows, part, task = (files.samples[name].to_numpy() for name in ("row", "part", "task"))
    values, counts = np.unique(rows, return_counts=True)
    tally.true(f"{SAMPLES}: row", (counts == 1).all(), f"number {values[counts.argmax()]} stands {counts.max()} times")
    tally.true(lambda j: f"{SAMPLES}, row {j}: row", rows >= 0, "is negative")
    tally.true(f"{SAMPLES}: row", bool((np.diff(rows) > 0).all()), "does not rise, as in the table of samples")
    tally.true(
        lambda j: f"{SAMPLES}, row {j}: part", np.isin(part, PARTS), lambda j: f"is {part[j]!r}, which is none of {', '.join(PARTS)}"
    )
    known = np.isin(task, files.names)
    tally.true(lambda j: f"{SAMPLES}, row {j}: task", known, lambda j: f"is {task[j]!r}, for which there is no adapter")
    for name, told in zip(files.names, files.about["tasks"], strict=True):
        own, clusters = task == name, told["clusters"]
        n, where = int(own.sum()), f"{SAMPLES}: samples of {name}"
        tally.true(where, n >= _LEAST * clusters, f"are {n}, too few for {clusters} classes")
        for share, its in ((0.4, "signature"), (0.8, "certificate")):
            # Every class is cut at the whole number next to its share.
            before = int((own & np.isin(part, PARTS[: PARTS.index(its) + 1])).sum())
            tally.true(
                where,
                abs(before - share * n) <= 0.5 * clusters + 1e-9,
                f"up to the part {its} are {before} of {n}, not {share:.0%} of each of {clusters} classes",
            )
    tally.skip("which sample was dealt to which part, and what is noted of repeats and classes: --data deals them anew")
    return tally.check()


def check_signatures(files: CertificateFiles) -> Check:
    """Signature files: sound covariances and axes, samples as they were dealt, and what rules share."""
    tally = Tally(
        "signatures",
        "covariances symmetric and positive definite, orthonormal axes, samples of every component; what rules share",
        "compared",
        _TOLERANCE,
    )
    for rule in files.rules:
        tensors, where = files.signatures(rule), f"signatures/{rule}.safetensors"
        check_gaussians(tally, where, tensors)
        tally.same(f"{where}: tasks", json.loads(read_metadata(files.folder / where).get("tasks", "null")), files.names)
        axes = tensors["projection_axes"]
        gram = axes @ np.swapaxes(axes, 1, 2)
        tally.near(lambda j, w=where: f"{w}: projection_axes, product {j}", gram, np.broadcast_to(np.eye(gram.shape[1]), gram.shape))
        tally.same(f"{where}: background", "background_means" in tensors, rule == "ratio")
        _components(tally, files, rule)
    if {"ratio", "paper"} <= files.rules.keys():
        ratio, paper = files.signatures("ratio"), files.signatures("paper")
        shared = [name for name in paper if files.by_class or name.startswith("projection_")]
        for name in shared:
            tally.same(f"signatures/ratio.safetensors: {name}, which rule paper has, too", ratio.get(name), paper[name])
    tally.skip("the fit of signatures and projections, whose samples' embeddings are not kept: --thorough fits them anew")
    return tally.check()


def _components(tally: Tally, files: CertificateFiles, rule: str) -> None:
    """Components of every task, and the samples that they were fitted to."""
    tensors, where = files.signatures(rule), f"signatures/{rule}.safetensors"
    task, counts = tensors["task"], tensors["counts"]
    tally.same(f"{where}: tasks of the components", np.unique(task), np.arange(len(files.names)))
    for k, told in enumerate(files.about["tasks"]):
        own = counts[task == k]
        tally.same(f"{where}: counts of {told['name']}", int(own.sum()), told["signature"])
        if files.by_class:
            tally.same(f"{where}: components of {told['name']}", own.size, told["clusters"])
        if "weights" in tensors:
            weights = tensors["weights"][task == k]
            tally.near(f"{where}: weights of {told['name']}", weights / weights.sum(), own / own.sum())
