"""Everything that certify fitted, fitted to samples embedded anew: projections, signatures, query laws, and bounds under these.

Embeddings are those of other batches, so that numbers agree to the rounding of single precision, and to what that grows to in an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from empirics.audit.certificates.bounds import MEANS, RARE
from empirics.audit.certificates.data import Embedded
from empirics.audit.certificates.opened import CertificateFiles
from empirics.audit.draws import draw, own_distances
from empirics.audit.forms import QueryLaw, covariances, pairs, read_scores
from empirics.audit.intervals import interval
from empirics.audit.laws import estimate, refit
from empirics.audit.rare import Rare, draw_rare
from empirics.audit.result import Check, Tally
from empirics.audit.rungs import Recomputed, units
from empirics.audit.units import law_tests
from empirics.seeding import generator

# Deviation of logarithms of bounds by embeddings of other batches (4e-7 was seen); of what importance draws and tests give ten times that.
_RUNGS = 1e-3
# Draws that may fall to the other side.
_DRAWS = 3
# Changes of embeddings and, by these, of a law, in parts of their spread and size, beyond which its fit turns on rounding.
_SHAKEN, _TURNED = 1e-5, 1e-2


def check_projections(files: CertificateFiles, anew: Embedded) -> Check:
    """Means and principal axes of the samples of the signatures.

    Axes of nearly equal variances may be turned by rounding. So they are not compared one by one: coordinates have to be uncorrelated, in
    order, and of as much variance as any.
    """
    tally = Tally("projections", "principal components of the samples of the signatures, in every space", "recomputed", 10 * anew.tolerance)
    own = anew.dealt.of("signature")
    for rule in files.rules:
        spaces = anew.spaces[:, :1] if rule == "frozen" else anew.spaces[:, 1:]
        for s, (mean, axes) in enumerate(files.projections(rule)):
            where, x = f"signatures/{rule}.safetensors: projection of space {s}", spaces[own, s]
            spread = x.std()
            tally.near(f"{where}, mean", mean / spread, x.mean(axis=0) / spread)
            if len(axes) == x.shape[1]:
                tally.same(f"{where}, axes", axes, np.eye(len(axes)))
                continue
            covariance = np.cov(x, rowvar=False)
            values = np.linalg.eigvalsh(covariance)[::-1][: len(axes)]
            found = axes @ covariance @ axes.T
            tally.near(f"{where}, variances and correlations of coordinates", found / values[0], np.diag(values) / values[0])
            tally.true(f"{where}, signs", axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)] > 0, "is turned round")
    return tally.check()


def check_fit(files: CertificateFiles, anew: Embedded) -> Check:
    """Means and covariances of the components, and of the background."""
    tally = Tally("fit", "means and covariances of signatures and background", "recomputed", 10 * anew.tolerance)
    settings, dealt = files.settings["signature"], anew.dealt
    own = dealt.of("signature")
    if settings["clusters"] not in ("class", "task"):
        tally.skip(f"components of signatures, which a mixture finds (clusters {settings['clusters']}): --repeat")
    group = {"class": dealt.cluster, "task": dealt.task}.get(settings["clusters"])
    for rule in files.rules:
        z, where = anew.projected(files, rule), f"signatures/{rule}.safetensors"
        seen = [z[own, k if z.shape[1] > 1 else 0] for k in range(len(files.names))]
        if group is not None:
            for k, x in enumerate(seen):
                mine = dealt.task[own] == k
                _gaussians(tally, where, files.signatures(rule), "", x[mine], group[own][mine], settings)
        if rule == "ratio":
            for k, x in enumerate(seen):
                _gaussians(tally, where, files.signatures(rule), "background_", x, np.full(len(x), k), settings)
    return tally.check()


def _gaussians(
    tally: Tally,
    where: str,
    tensors: Mapping[str, np.ndarray],
    prefix: str,
    x: Float[np.ndarray, "n d"],
    group: Int[np.ndarray, " n"],
    settings: Mapping[str, Any],
) -> None:
    """The components of one task, numbered by groups of its samples; they may borrow from one another."""
    entries, dense = np.unique(group), covariances(tensors, prefix)
    share = settings["pool"] if len(entries) > 1 and settings["covariance"] not in ("diagonal", "low-rank") else 0.0
    within = np.concatenate([x[group == t] - x[group == t].mean(axis=0) for t in entries])
    for t in entries:
        mean, expected = x[group == t].mean(axis=0), estimate(x[group == t], settings)
        if share:
            expected = (1 - share) * expected + share * estimate(within, settings)
        spread = math.sqrt(np.trace(expected) / len(expected))
        tally.near(f"{where}: {prefix}means, entry {t}", tensors[f"{prefix}means"][t] / spread, mean / spread)
        tally.near(f"{where}: {prefix}covariances, entry {t}", dense[t] / spread**2, expected / spread**2)


def check_laws(files: CertificateFiles, anew: Embedded) -> Check:
    """Every rung and every test of the query law, which is fitted to the samples of the certificate."""
    tolerance = max(_RUNGS, 10 * anew.tolerance)
    tally = Tally(
        "query laws",
        "the query law fitted anew to the samples of the certificate; rungs, simulated errors and tests of the law under it",
        "reproduced",
        tolerance,
    )
    if files.settings["query_law"]["covariance"] == "auto":
        tally.skip("query laws of covariance auto, whose choice no file tells, with rungs and tests under them: --repeat")
        return tally.check()
    for rule in files.rules:
        if files.rules[rule]["overall"]["law"] is not None:
            _law(tally, files, anew, rule, 10 * tolerance)
    return tally.check()


def _law(tally: Tally, files: CertificateFiles, anew: Embedded, rule: str, tolerance: float) -> None:
    dealt, settings, z = anew.dealt, files.settings, anew.projected(files, rule)
    held, test = dealt.of("certificate"), dealt.of("measurement")
    shares = np.bincount(dealt.cluster[test], minlength=dealt.cluster.max() + 1) / test.size
    rng = generator(settings["seed"], "query law", rule)
    own = dealt.task[held], dealt.cluster[held], shares, settings["query_law"], None
    t = refit(z[held], *own, rng)
    if _turns(t, z[held], own, files, rule):
        tally.skip(
            f"the query law of rule {rule}, and rungs and tests under it: which components samples fall to turns on rounding; --repeat"
        )
        return
    law = QueryLaw("mixture", t["means"], t["covariances"], t["task"], t["cluster"], t["weights"])
    scores = read_scores(files.signatures(rule), "max")
    it = Recomputed(scores, law, pairs(scores, law))
    rng = generator(settings["seed"], "simulation", rule)
    rare, n = logsumexp(np.minimum(it.by_component["L3"][0], 0.0), b=law.weights) < RARE, settings["simulations"]
    drawn = draw_rare(scores, law, it.pairs, n, rng) if rare else draw(scores, law, n, rng)
    distances = own_distances(scores, law, files.by_class, rng)
    measured = {}
    for c in np.unique(dealt.cluster[test]):
        rows = test[dealt.cluster[test] == c]
        measured[int(c)] = scores.own_distances(z[rows], int(dealt.task[rows[0]]), int(c) if files.by_class else None)
    members = units(law)
    for k, unit in files.units(rule):
        where, mask = f"certificate.json: {rule}, {unit['name']}", members["overall" if k is None else "task", k]
        for rung in MEANS:
            expected = it.batches(mask, 1) if rung == "L4" else it.average(rung, mask)
            tally.near(f"{where}, {rung}: log_value", unit["rungs"][rung]["log_value"], expected.log_value)
        if isinstance(drawn, Rare):
            _, _, high, _ = drawn.limits(mask, law.weights, files.each)
        else:
            high = _nearest(unit["rungs"]["L6"]["log_value"], *drawn.count(mask), files.each)
        tally.near(f"{where}, L6: log_value", unit["rungs"]["L6"]["log_value"], high, tolerance)
        mine = {c: x for c, x in measured.items() if k is None or dealt.task[dealt.cluster == c][0] == k}
        for field, value in law_tests(mine, distances, files.signatures(rule)["means"].shape[1]).items():
            told = unit["law"][field]
            tally.near(f"{where}, law.{field}", math.nan if told is None else told, value, tolerance)


def _turns(t: Mapping[str, np.ndarray], z: Float[np.ndarray, "n S d"], own: tuple[Any, ...], files: CertificateFiles, rule: str) -> bool:
    """Whether a law changes much if embeddings change as little as other batches may change them."""
    seed = files.settings["seed"]
    shaken = z + _SHAKEN * z.std(axis=0) * generator(seed, "audit", "shaken", rule).standard_normal(z.shape)
    other = refit(shaken, *own, generator(seed, "query law", rule))
    fields = ("means", "covariances", "weights")
    return any(
        other[field].shape != t[field].shape or np.abs(other[field] - t[field]).max() > _TURNED * np.abs(t[field]).max() for field in fields
    )


def _nearest(told: float, errors: int, n: int, confidence: float) -> float:
    """What is told, if it lies between the limits that a few draws less and more would give; else the nearer of these."""
    low, high = (math.log(interval(min(max(errors + by, 0), n), n, confidence)[1]) for by in (-_DRAWS, _DRAWS))
    return min(max(told, low), high)
