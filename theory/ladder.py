"""The ladder: every rung, for every true cluster, task and overall, under one query law.

All rungs are unions over the wrong components of statements about one margin or its two scores, so each is computed as
one number per query component and averaged with the law's weights. Which statement is proved where: theory.md, sections
2, 3 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from theory.bound import LOG_IMPOSSIBLE, Assumption, Bound, nothing_known
from theory.certificates import certificate, clopper_pearson, upper_limit
from theory.errors import InputError
from theory.exact import TailProbability, tail_probability
from theory.margin import Margins, margins
from theory.mixture import QueryLaw, Rule, Signatures, well_specified
from theory.quadratic import QuadraticLaw
from theory.tails import exponent, log_chernoff, log_chernoff_upper, log_lower_bernstein

RUNGS = ("L1", "L1b", "L2", "L3", "L5", "L6", "L7", "L8")
SOURCES = {
    "L1": "separation bound: T3 on the own score, T2 on every wrong score, one exponent",
    "L1b": "margin bound: Bernstein on each margin, summed over wrong components",
    "L2": "split bound: own score above a threshold or a wrong score below it, Chernoff or exact tails",
    "L3": "pairwise Chernoff, summed over wrong components",
    "L5": "exact pair probabilities, summed over wrong components",
    "L6": "Monte Carlo of rule and law, Clopper-Pearson limit",
    "L7": "Cantelli's inequality on each margin, summed over wrong components",
    "L8": "Clopper-Pearson limit from held-out samples",
}
# Thresholds of the split bound, in standard deviations of the own score above its mean, and (for scores far apart) in
# parts of the way to the nearest wrong score's mean; any threshold is valid.
_THRESHOLDS = np.concatenate([np.linspace(0.25, 4, 8), np.geomspace(5, 40, 5)])
_PARTS = np.array([0.2, 0.4, 0.6])


@dataclass(frozen=True)
class HeldOut:
    """Retrieval errors on held-out samples, for L8: per true cluster, summed upwards.

    Parameters
    ----------
    errors, n : (K,) int arrays
        Errors and samples for each signature component as the true cluster; n = 0 where there are none.
    """

    errors: Int[np.ndarray, " K"]
    n: Int[np.ndarray, " K"]


@dataclass(frozen=True)
class Ladder:
    """All rungs under one query law.

    Attributes
    ----------
    law : str
        Name of the query law.
    clusters : dict from (task, cluster) to dict of rung name to Bound
    tasks : dict from task to the same
    overall : dict of rung name to Bound
    pairs : PairTable
        What the rungs were summed from, one row per (query component, wrong component).
    """

    law: str
    clusters: dict[tuple[int, int], dict[str, Bound]]
    tasks: dict[int, dict[str, Bound]]
    overall: dict[str, Bound]
    pairs: PairTable

    def frame(self) -> pd.DataFrame:
        """One row per level, unit and rung, with the fields of `Bound.to_dict`."""
        rows = [("overall", None, None, self.overall)]
        rows += [("task", k, None, rungs) for k, rungs in self.tasks.items()]
        rows += [("cluster", k, t, rungs) for (k, t), rungs in self.clusters.items()]
        table = [
            {"level_of": level, "task": k, "cluster": t, "rung": name, "log_lower": None, "estimate": None, **bound.to_dict()}
            for level, k, t, rungs in rows
            for name, bound in rungs.items()
        ]
        frame = pd.DataFrame(table)
        binding = frame.pop("binding")
        frame["binding_task"] = [b[0] if b else None for b in binding]
        frame["binding_component"] = [b[1] if b else None for b in binding]
        whole = ["task", "cluster", "binding_task", "binding_component"]
        numbers = ["log_lower", "estimate", "confidence"]
        return frame.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(numbers, "float64")})


@dataclass(frozen=True)
class PairTable:
    """One row per (query component, wrong component): the pair's own numbers, natural logarithms.

    Attributes
    ----------
    component, wrong, reference : (P,) int arrays
    mean, variance : (P,) arrays
        Of the margin.
    log_exact, log_exact_low, log_chernoff, log_bernstein, log_cantelli : (P,) arrays
    exact : (P,) bool array
        Whether the exact tail reached its accuracy (else `log_exact` is the Chernoff bound).
    """

    component: Int[np.ndarray, " P"]
    wrong: Int[np.ndarray, " P"]
    reference: Int[np.ndarray, " P"]
    mean: Float[np.ndarray, " P"]
    variance: Float[np.ndarray, " P"]
    log_exact: Float[np.ndarray, " P"]
    log_exact_low: Float[np.ndarray, " P"]
    log_chernoff: Float[np.ndarray, " P"]
    log_bernstein: Float[np.ndarray, " P"]
    log_cantelli: Float[np.ndarray, " P"]
    exact: Bool[np.ndarray, " P"]


def ladder(
    rule: Rule | Signatures,
    law: QueryLaw | None = None,
    *,
    rng: np.random.Generator | None = None,
    simulations: int = 100_000,
    confidence: float = 0.95,
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] | None = None,
) -> Ladder:
    """Compute every rung of the ladder.

    Parameters
    ----------
    rule : Rule or Signatures
        Signatures and how they are scored; bare signatures are scored by their energies.
    law : QueryLaw, optional
        What the bounds assume of a query; the signatures themselves in one shared space if None (well-specified).
    rng : numpy.random.Generator, optional
        For L6; a fixed generator if None.
    simulations : int
        Draws from the whole law for L6; 0 leaves L6 out (vacuous).
    confidence : float
        Of L6 and L8.
    held_out : HeldOut, optional
        Error counts for L8; vacuous without.
    advance : callable, optional
        Told the number of query components whose margins are done.

    Returns
    -------
    Ladder

    Raises
    ------
    InputError
        If law and signatures do not fit, or a setting is out of range.
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", f"{confidence} is not inside (0, 1)")
    if simulations < 0:
        raise InputError("simulations", f"{simulations} is negative")
    if isinstance(rule, Signatures):
        rule = Rule(rule)
    if law is None:
        law = well_specified(rule.signatures)
    found = margins(rule, law, advance)
    tail = tail_probability(found.margin)
    pairs = _pair_table(found, tail)
    per_component = _rungs_per_component(found, pairs, law)
    errors = _simulate(rule, law, simulations, np.random.default_rng(0) if rng is None else rng) if simulations else None
    joint = law.level
    levels = {"L1": Assumption.A2, "L1b": joint, "L2": Assumption.A2, "L3": joint, "L5": joint, "L6": joint, "L7": Assumption.A1}
    tasks_of_clusters = rule.signatures.task

    def rows(members: Bool[np.ndarray, " C"], held: Bool[np.ndarray, " K"], simultaneous: int) -> dict[str, Bound]:
        out = {}
        for name in ("L1", "L1b", "L2", "L3", "L5", "L7"):
            out[name] = _average(name, levels[name], per_component[name], law.weights, members, found, rule)
        if found.single[members].all():
            weights = law.weights[members] / law.weights[members].sum()
            lower = float(logsumexp(per_component["L5"].lower[members], b=weights))
            out["L5"] = _with_lower(out["L5"], lower)
        else:
            out["L5"] = _with_note(out["L5"], "no lower side: another component of the true task can rescue the query")
        out["L6"] = _monte_carlo(errors, members, confidence, levels["L6"])
        if held_out is None or not held_out.n[held].sum():
            out["L8"] = nothing_known("L8", Assumption.A0, "needs held-out samples", SOURCES["L8"])
        else:
            out["L8"] = certificate(int(held_out.errors[held].sum()), int(held_out.n[held].sum()), confidence, simultaneous)
        return {name: out[name] for name in RUNGS}

    everything = np.ones(len(law), dtype=bool)
    keys = sorted({(int(k), int(t)) for k, t in zip(law.task, law.cluster, strict=True)})
    present = sorted({k for k, _ in keys})
    index = np.arange(len(rule.signatures))
    return Ladder(
        law=law.name,
        clusters={(k, t): rows(law.members(k, t), index == t, len(keys)) for k, t in keys},
        tasks={k: rows(law.members(k), tasks_of_clusters == k, len(present)) for k in present},
        overall=rows(everything, np.ones(len(rule.signatures), dtype=bool), 1),
        pairs=pairs,
    )


@dataclass(frozen=True)
class _PerComponent:
    upper: Float[np.ndarray, " C"]
    binding: Int[np.ndarray, " C"]
    lower: Float[np.ndarray, " C"]


def log_cantelli(law: QuadraticLaw) -> Float[np.ndarray, " P"]:
    """L7: log of ``Var M / (Var M + (E M)^2)``, a bound on ``P(M <= 0)`` when ``E M > 0``; 0 otherwise."""
    mean, variance = law.mean(), law.variance()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = -np.log1p(mean**2 / variance)
    return np.where(mean > 0, np.where(np.isnan(value), 0.0, np.maximum(value, LOG_IMPOSSIBLE)), 0.0)


def _pair_table(found: Margins, tail: TailProbability) -> PairTable:
    return PairTable(
        component=found.component,
        wrong=found.wrong,
        reference=found.reference[found.component],
        mean=found.margin.mean(),
        variance=found.margin.variance(),
        log_exact=tail.log_high,
        log_exact_low=tail.log_low,
        log_chernoff=log_chernoff(found.margin),
        log_bernstein=log_lower_bernstein(found.margin),
        log_cantelli=log_cantelli(found.margin),
        exact=tail.exact,
    )


def _union(values: Float[np.ndarray, " P"], component: Int[np.ndarray, " P"], C: int) -> tuple[np.ndarray, np.ndarray]:
    """Log of the sum over each component's pairs, rounded up, and the index of the largest pair."""
    total, binding = np.empty(C), np.empty(C, dtype=np.int64)
    edges = np.searchsorted(component, np.arange(C + 1))
    for c in range(C):
        part = values[edges[c] : edges[c + 1]]
        total[c] = logsumexp(part) + 1e-14 * part.size
        binding[c] = edges[c] + int(np.argmax(part))
    return total, binding


def _rungs_per_component(found: Margins, pairs: PairTable, law: QueryLaw) -> dict[str, _PerComponent]:
    C = len(law)
    nothing = np.full(C, -np.inf)
    out = {}
    for name, values in (("L1b", pairs.log_bernstein), ("L3", pairs.log_chernoff), ("L5", pairs.log_exact), ("L7", pairs.log_cantelli)):
        upper, binding = _union(values, found.component, C)
        lower = nothing
        if name == "L5":
            lower = np.array([pairs.log_exact_low[found.component == c].max() for c in range(C)])
        out[name] = _PerComponent(upper, binding, lower)
    upper, binding = _separation(found, C)
    out["L1"] = _PerComponent(upper, binding, nothing)
    upper, binding = _split(found, C)
    out["L2"] = _PerComponent(upper, binding, nothing)
    return out


def _separation(found: Margins, C: int) -> tuple[np.ndarray, np.ndarray]:
    """L1: ``N exp(-t*)`` with the smallest over wrong components of the largest exponent t that their gap affords.

    With ``X`` the own and ``Y`` a wrong score, an error needs ``X >= Y``. If ``E Y - E X >= sqrt(2 V_X t) + 2 w_+(X) t +
    sqrt(2 V_Y t) + 2 w_-(Y) t``, a threshold separates them up to ``exp(-t)`` on each side (T3 above, T2 below). For the
    well-specified rule "max" this is ``d delta + kappa >= 2 sqrt(d t) + 2 t + sqrt(2 V t)``.
    """
    own, other, of = found.own, found.other, found.component
    gap = other.mean() - own.mean()[of]
    a = np.sqrt(2 * own.variance())[of] + np.sqrt(2 * other.variance())
    b = 2 * (own.greatest_weight()[of] + other.least_weight())
    t = exponent(gap, a, b)
    edges = np.searchsorted(of, np.arange(C + 1))
    binding = np.array([edges[c] + int(np.argmin(t[edges[c] : edges[c + 1]])) for c in range(C)])
    N = 1 + np.diff(edges)
    return np.where(t[binding] > 0, np.log(N) - t[binding], np.log(N)), binding


def _split(found: Margins, C: int) -> tuple[np.ndarray, np.ndarray]:
    """L2: the least over thresholds of ``P(X >= c) + sum P(Y <= c)``, or with a threshold per pair; exact tails at the end."""
    own, of = found.own, found.component
    mean, spread = own.mean(), np.sqrt(own.variance())
    edges = np.searchsorted(of, np.arange(C + 1))
    gap = found.other.mean() - mean[of]
    nearest = np.maximum(0.0, np.minimum.reduceat(gap, edges[:-1]))
    levels = np.concatenate([mean[:, None] + spread[:, None] * _THRESHOLDS, mean[:, None] + nearest[:, None] * _PARTS], axis=1)
    above = np.stack([log_chernoff_upper(own, levels[:, j]) for j in range(levels.shape[1])], axis=1)
    below = np.stack([log_chernoff(found.other, levels[of, j]) for j in range(levels.shape[1])], axis=1)
    shared = np.empty((C, levels.shape[1]))
    for c in range(C):
        shared[c] = np.logaddexp(above[c], logsumexp(below[edges[c] : edges[c + 1]], axis=0))
    chosen = np.argmin(shared, axis=1)
    threshold = levels[np.arange(C), chosen]
    above_exact = tail_probability((-own).shifted(threshold)).log_high
    below_exact = tail_probability(found.other.shifted(-threshold[of])).log_high
    per_pair = np.minimum(0.0, np.logaddexp(above[of], below).min(axis=1))
    total, binding = np.empty(C), np.empty(C, dtype=np.int64)
    for c in range(C):
        rows = slice(edges[c], edges[c + 1])
        common = np.logaddexp(above_exact[c], logsumexp(below_exact[rows]))
        total[c] = min(common, logsumexp(per_pair[rows])) + 1e-14 * (edges[c + 1] - edges[c])
        binding[c] = edges[c] + int(np.argmax(below_exact[rows]))
    return total, binding


def _average(
    name: str, level: Assumption, value: _PerComponent, weights: np.ndarray, members: np.ndarray, found: Margins, rule: Rule
) -> Bound:
    """Average over query components, each clipped at one first; if all say nothing, the formula's own excess is kept."""
    share = weights[members] / weights[members].sum()
    upper = value.upper[members]
    heaviest = int(np.flatnonzero(members)[np.argmax(np.minimum(upper, 0.0) + np.log(share))])
    wrong = int(found.wrong[value.binding[heaviest]])
    idle = upper >= 0
    note = ""
    if idle.all():
        log_formula = float(logsumexp(upper, b=share))
        note = "vacuous: the formula exceeds one for every query component"
    else:
        # Ulps of the average itself; weights sum to one only to rounding.
        log_formula = float(logsumexp(np.minimum(upper, 0.0), b=share)) + 1e-14
        if idle.any():
            note = f"{int(idle.sum())} of {idle.size} query components, weight {share[idle].sum():.2f}, contribute one"
    return Bound(name, level, log_formula, source=SOURCES[name], binding=(int(rule.signatures.task[wrong]), wrong), note=note)


def _with_lower(bound: Bound, lower: float) -> Bound:
    return Bound(
        bound.name,
        bound.level,
        bound.log_formula,
        source=bound.source,
        binding=bound.binding,
        log_lower=min(lower, bound.log_value),
        note=bound.note,
    )


def _with_note(bound: Bound, note: str) -> Bound:
    joined = f"{bound.note}; {note}" if bound.note else note
    return Bound(bound.name, bound.level, bound.log_formula, source=bound.source, binding=bound.binding, note=joined)


@dataclass(frozen=True)
class _Simulated:
    errors: Int[np.ndarray, " C"]
    n: Int[np.ndarray, " C"]


def _simulate(rule: Rule, law: QueryLaw, n: int, rng: np.random.Generator) -> _Simulated:
    """Draw from the whole law and count errors by query component."""
    block = max(1, 2**26 // (8 * law.means.shape[1] * law.means.shape[2] + 8 * len(rule.signatures)))
    errors, drawn = np.zeros(len(law), dtype=np.int64), np.zeros(len(law), dtype=np.int64)
    for start in range(0, n, block):
        x, label = law.sample(min(block, n - start), rng)
        wrong = rule.retrieve(x) != law.task[label]
        errors += np.bincount(label[wrong], minlength=len(law))
        drawn += np.bincount(label, minlength=len(law))
    return _Simulated(errors, drawn)


def _monte_carlo(simulated: _Simulated | None, members: np.ndarray, confidence: float, level: Assumption) -> Bound:
    if simulated is None or not simulated.n[members].sum():
        return nothing_known("L6", level, "no draws; raise the number of simulations", SOURCES["L6"])
    errors, n = int(simulated.errors[members].sum()), int(simulated.n[members].sum())
    # Labels are drawn, so given their number the draws of a cluster or task are independent from its own law.
    limit = upper_limit(errors, n, (1 - confidence) / 2)
    low = clopper_pearson(errors, n, confidence)[0]
    return Bound(
        "L6",
        level,
        float(np.log(limit)),
        source=f"{SOURCES['L6']}, {n} draws",
        confidence=confidence,
        log_lower=float(np.log(low)) if low > 0 else None,
        estimate=errors / n,
    )
