"""The ladder: every rung, for every true cluster, task and overall, under one query law.

Rungs on pairs are unions over the wrong components of statements about one margin or its two scores, so each is computed
as one number per query component and averaged with the law's weights. Which statement is proved where: `theory/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from theory.balls import chi_square_ball, kl_ball
from theory.batch import batch_bound, log_bases
from theory.bound import Assumption, Bound, nothing_known
from theory.certificates import certificate
from theory.errors import InputError, check_generator, check_whole
from theory.exact import TailProbability, tail_probability
from theory.frames import data_frame
from theory.margin import Margins, accuracy, margins, outwards
from theory.mixture import QueryLaw, Rule, well_specified
from theory.robust import Student, log_cantelli, log_moments, log_scale_mixture, log_unimodal
from theory.sampling import SOURCE as SIMULATION
from theory.sampling import Simulated, simulate, simulate_rare
from theory.signatures import Signatures
from theory.tails import log_chernoff, log_lower_bernstein
from theory.unions import PerComponent, second_order, separation_bound, split_bound, summed

if TYPE_CHECKING:
    import pandas as pd

RUNGS = ("L1", "L1b", "L2", "L3", "L4", "L5", "L5b", "L6", "L7", "L8", "L9", "L10", "L11", "L12")
SOURCES = {
    "L1": "separation bound: T3 on the own score, T2 on every wrong score, one exponent",
    "L1b": "margin bound: Bernstein on each margin, summed over wrong components",
    "L2": "split bound: own score above a threshold or a wrong score below it, Chernoff or exact tails",
    "L3": "pairwise Chernoff, summed over wrong components",
    "L4": "Chernoff on the level of tasks, summed over wrong tasks",
    "L5": "exact pair probabilities, summed over wrong components",
    "L5b": "exact pair probabilities less exact overlaps, or cut at a common threshold",
    "L6": SIMULATION,
    "L7": "Cantelli's inequality on each margin, summed over wrong components",
    "L8": "Clopper-Pearson limit from held-out samples",
    "L9": "Vysochanskii-Petunin on each margin, summed over wrong components",
    "L10": "Markov on the best even moment of each margin, summed over wrong components",
    "L11": "exact pair probabilities given a common random scale, averaged over it",
    "L12": "L5 raised to the greatest error within a divergence of the query law",
}
GIVEN = {
    "L9": "each margin is unimodal",
    "L10": "the moments used are those of the query law",
    "L11": "the query's covariance is multiplied by W = dof / chi2_dof",
    "L12": "the true law of the unit spoken of lies within the stated divergence of the query law",
}
# Rungs that are a sum over pairs or its refinement, one number per query component.
_BY_COMPONENT = ("L1", "L1b", "L2", "L3", "L5", "L5b", "L7", "L9", "L10")
# Below this union of Chernoff bounds plain draws would see too few errors, and importance sampling takes over.
_RARE = np.log(1e-2)
# A margin that is this near to nothing, in mean and deviation, is rounding of two equal scores.
_TIE = 1e-9


@dataclass(frozen=True)
class HeldOut:
    """Retrieval errors on held-out samples, for L8: per true cluster, summed upwards.

    Parameters
    ----------
    errors, n : (K,) int arrays
        Errors and samples for each signature component as the true cluster; n = 0 where there are none. Only the sums over a task count
        for tasks, so that a task's samples may stand with any of its components.

    Raises
    ------
    InputError
        If the two are no whole numbers, or differ in length.
    """

    errors: Int[np.ndarray, " K"]
    n: Int[np.ndarray, " K"]

    def __post_init__(self) -> None:
        for name in ("errors", "n"):
            value = np.asarray(getattr(self, name))
            # Rates, rounded down to counts, would certify what was never measured.
            if value.ndim != 1 or not np.issubdtype(value.dtype, np.integer):
                raise InputError(name, f"has shape {value.shape} and dtype {value.dtype}; needs one integer for each signature component")
            object.__setattr__(self, name, value)
        if self.errors.shape != self.n.shape:
            raise InputError("errors", f"has {self.errors.size} entries, and n {self.n.size}; needs one for each signature component")


@dataclass(frozen=True)
class Ball:
    """A set of laws around the query law, for L12; a radius for all traffic says nothing of a single task or cluster.

    Parameters
    ----------
    divergence : {"kl", "chi2"}
        ``KL(Q, P) <= radius`` in nats, or ``chi2(Q, P) <= radius``, with Q the true law and P the query law.
    radius : float
        At least 0.
    """

    divergence: Literal["kl", "chi2"]
    radius: float

    def __post_init__(self) -> None:
        if self.divergence not in ("kl", "chi2"):
            raise InputError("divergence", f"{self.divergence!r} is unknown; choose kl or chi2")
        if not (np.isfinite(self.radius) and self.radius >= 0):
            raise InputError("radius", f"{self.radius} is not a finite divergence of at least 0")

    def worst(self, log_p: float) -> float:
        """Log of the greatest probability, within the ball, of an event of probability at most ``exp(log_p)``."""
        ball = kl_ball if self.divergence == "kl" else chi_square_ball
        return float(np.squeeze(ball(np.array([min(log_p, 0.0)]), self.radius)))


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
        rows: list[tuple[str, int | None, int | None, dict[str, Bound]]] = [("overall", None, None, self.overall)]
        rows += [("task", k, None, rungs) for k, rungs in self.tasks.items()]
        rows += [("cluster", k, t, rungs) for (k, t), rungs in self.clusters.items()]
        optional = dict.fromkeys(("log_lower", "estimate", "log_estimate"))
        table = [
            {"level_of": level, "task": k, "cluster": t, "rung": name, **optional, **bound.to_dict()}
            for level, k, t, rungs in rows
            for name, bound in rungs.items()
        ]
        frame = data_frame(table)
        binding = frame.pop("binding")
        frame["binding_task"] = [b[0] if b else None for b in binding]
        frame["binding_component"] = [b[1] if b else None for b in binding]
        whole = ["task", "cluster", "binding_task", "binding_component"]
        numbers = [*optional, "confidence"]
        return frame.astype({**dict.fromkeys(whole, "Int64"), **dict.fromkeys(numbers, "float64")})


@dataclass(frozen=True)
class PairTable:
    """One row per (query component, wrong component): the pair's own numbers, natural logarithms.

    Attributes
    ----------
    component, wrong, reference : (P,) int arrays
    mean, variance : (P,) arrays
        Of the margin.
    log_exact, log_exact_low, log_chernoff, log_bernstein, log_cantelli, log_unimodal, log_moments : (P,) arrays
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
    log_unimodal: Float[np.ndarray, " P"]
    log_moments: Float[np.ndarray, " P"]
    exact: Bool[np.ndarray, " P"]


def ladder(
    rule: Rule | Signatures,
    law: QueryLaw | None = None,
    *,
    rng: np.random.Generator | None = None,
    simulations: int = 100_000,
    sampling: Literal["auto", "plain", "importance"] = "auto",
    confidence: float = 0.95,
    held_out: HeldOut | None = None,
    batch: int = 1,
    intersections: int = 4,
    scale: Student | None = None,
    ball: Ball | None = None,
    units: Literal["all", "tasks", "overall"] = "all",
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
    sampling : {"auto", "plain", "importance"}
        How L6 draws; "auto" takes importance sampling if L3 overall is below 1%, which depends on no draw.
    confidence : float
        Of L6 and L8.
    held_out : HeldOut, optional
        Error counts for L8; vacuous without.
    batch : int
        Queries of one task whose scores are added before L4 retrieves; every other rung speaks of single queries.
    intersections : int
        Exact overlaps that L5b computes per query component (each costs about as much as ten pairs); 0 leaves L5.
    scale : Student, optional
        Law of the common scale for L11; vacuous without.
    ball : Ball, optional
        Divergence for L12; vacuous without.
    units : {"all", "tasks", "overall"}
        What to report: clusters, tasks and overall, or only the latter; fewer take less time.
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
    check_whole("simulations", simulations, 0)
    if sampling not in ("auto", "plain", "importance"):
        raise InputError("sampling", f"{sampling!r} is unknown; choose auto, plain or importance")
    check_whole("batch", batch, 1, "a number of queries")
    if units not in ("all", "tasks", "overall"):
        raise InputError("units", f"{units!r} is unknown; choose all, tasks or overall")
    check_whole("intersections", intersections, 0)
    if rng is not None:
        check_generator(rng)
    if not isinstance(rule, Rule):
        rule = Rule(rule)
    if law is None:
        law = well_specified(rule.signatures)
    if held_out is not None and held_out.n.size != len(rule.signatures):
        raise InputError(
            "held_out", f"counts {held_out.n.size} clusters; needs one for each of {len(rule.signatures)} signature components"
        )
    known = accuracy(rule)
    found = margins(rule, law, advance)
    tail = tail_probability(found.margin)
    pairs = _pair_table(found, tail)
    values = _by_component(rule, law, found, pairs, intersections)
    if scale is not None:
        log_mixed, _ = log_scale_mixture(found.margin, found.component, len(law), scale)
        values["L11"] = replace(values["L5"], upper=log_mixed)
    drawn = _draw(rule, law, found, values["L3"], simulations, sampling, np.random.default_rng(0) if rng is None else rng)
    bases: dict[bytes, np.ndarray] = {}
    levels = _levels(law)
    tasks_of_clusters = rule.signatures.task

    def averages(members: Bool[np.ndarray, " C"]) -> dict[str, Bound]:
        out = {name: _average(name, levels[name], value, law.weights, members, found, rule) for name, value in values.items()}
        if found.single[members].all():
            share = law.weights[members] / law.weights[members].sum()
            # Weights sum to one only to rounding, and a lower side rounds down.
            lower = float(logsumexp(values["L5"].lower[members], b=share)) - 1e-13
            for name in ("L5", "L5b"):
                out[name] = replace(out[name], log_lower=min(lower, out[name].log_value))
        else:
            rescue = "no lower side: another component of the true task can rescue the query"
            out["L5"] = replace(out["L5"], note="; ".join(filter(None, (out["L5"].note, rescue))))
        if scale is None:
            out["L11"] = nothing_known("L11", levels["L11"], "needs the law of the scale", SOURCES["L11"], GIVEN["L11"])
        out["L12"] = _ball(out["L5"], ball)
        return out

    def rows(members: Bool[np.ndarray, " C"], held: Bool[np.ndarray, " K"], simultaneous: int) -> dict[str, Bound]:
        out = averages(members)
        out["L4"] = _batches(rule, law, found, members, batch, bases)
        if drawn is None:
            out["L6"] = nothing_known("L6", levels["L6"], "no draws; raise the number of simulations", SOURCES["L6"])
        else:
            out["L6"] = drawn.bound(members, confidence, levels["L6"])
        if held_out is None or not held_out.n[held].sum():
            out["L8"] = nothing_known("L8", Assumption.A0, "needs held-out samples", SOURCES["L8"])
        else:
            out["L8"] = certificate(int(held_out.errors[held].sum()), int(held_out.n[held].sum()), confidence, simultaneous)
        return {name: out[name] if name in ("L6", "L8") else _outwards(out[name], known, law.means.shape[2]) for name in RUNGS}

    everything = np.ones(len(law), dtype=bool)
    keys = sorted({(int(k), int(t)) for k, t in zip(law.task, law.cluster, strict=True)}) if units == "all" else []
    present = sorted(set(law.task.tolist())) if units != "overall" else []
    index = np.arange(len(rule.signatures))
    return Ladder(
        law=law.name,
        clusters={(k, t): rows(law.members(k, t), index == t, len(keys)) for k, t in keys},
        tasks={k: rows(law.members(k), tasks_of_clusters == k, len(present)) for k in present},
        overall=rows(everything, np.ones(len(rule.signatures), dtype=bool), 1),
        pairs=pairs,
    )


def _levels(law: QueryLaw) -> dict[str, Assumption]:
    """Assumption level of every rung: marginal, moment or joint statements."""
    joint = law.level
    levels = dict.fromkeys(RUNGS, joint)
    return levels | {"L1": Assumption.A2, "L2": Assumption.A2, "L8": Assumption.A0} | dict.fromkeys(("L7", "L9", "L10"), Assumption.A1)


def _pair_table(found: Margins, tail: TailProbability) -> PairTable:
    margin = found.margin
    low = tail.log_low
    # A pair implies an error without the slack that the upper side must grant (theory/README.md, L5), and without what it grants to
    # rounding, which near the edge of a law's support is not little. Only a task of one component has a lower side.
    grants = np.where(found.single[found.component], found.slack + 2 * found.rounding, found.slack)
    if (granted := np.flatnonzero(grants > 0)).size:
        low = low.copy()
        low[granted] = tail_probability(margin[granted].shifted(grants[granted])).log_low
    # Two components that score alike tie for ever: the upper side counts a tie as an error, but the rule may break it rightly.
    tied = np.abs(margin.mean()) + np.sqrt(margin.variance()) <= _TIE
    low = np.where(tied & (found.slack == 0), -np.inf, low)
    return PairTable(
        component=found.component,
        wrong=found.wrong,
        reference=found.reference[found.component],
        mean=margin.mean(),
        variance=margin.variance(),
        log_exact=tail.log_high,
        log_exact_low=low,
        log_chernoff=log_chernoff(margin),
        log_bernstein=log_lower_bernstein(margin),
        log_cantelli=log_cantelli(margin),
        log_unimodal=log_unimodal(margin),
        log_moments=log_moments(margin),
        exact=tail.exact,
    )


def _by_component(rule: Rule, law: QueryLaw, found: Margins, pairs: PairTable, intersections: int) -> dict[str, PerComponent]:
    edges = found.edges
    split, overlapped = split_bound(found), second_order(rule, law, found, pairs.log_exact, intersections)
    out = {
        "L1": separation_bound(found),
        "L1b": summed(pairs.log_bernstein, edges),
        "L2": split,
        "L3": summed(pairs.log_chernoff, edges),
        "L5": replace(summed(pairs.log_exact, edges), lower=np.maximum.reduceat(pairs.log_exact_low, edges[:-1])),
        # L2 is a common threshold too, with tails that may be cruder but for all wrong components at once.
        "L5b": replace(overlapped, upper=np.minimum(overlapped.upper, split.upper)),
        "L7": summed(pairs.log_cantelli, edges),
        "L9": summed(pairs.log_unimodal, edges),
        "L10": summed(pairs.log_moments, edges),
    }
    return {name: out[name] for name in _BY_COMPONENT}


def _draw(
    rule: Rule, law: QueryLaw, found: Margins, chernoff: PerComponent, n: int, sampling: str, rng: np.random.Generator
) -> Simulated | None:
    if n == 0:
        return None
    if sampling == "auto":
        sampling = "importance" if logsumexp(np.minimum(chernoff.upper, 0.0), b=law.weights) < _RARE else "plain"
    return simulate_rare(rule, law, n, rng, found) if sampling == "importance" else simulate(rule, law, n, rng)


def _batches(
    rule: Rule,
    law: QueryLaw,
    found: Margins,
    members: Bool[np.ndarray, " C"],
    size: int,
    bases: dict[bytes, np.ndarray],
) -> Bound:
    """L4 for batches drawn from one cluster, from one task, or from a task drawn by its weight."""
    total, note = [], ""
    for k in np.unique(law.task[members]):
        part = members & (law.task == k)
        # A task of one cluster, and every task within "overall", were met before.
        if part.tobytes() not in bases:
            bases[part.tobytes()] = log_bases(rule, law, found, part)
        total.append(batch_bound(bases[part.tobytes()], size))
    share = np.array([law.weights[members & (law.task == k)].sum() for k in np.unique(law.task[members])])
    log_formula = float(logsumexp(total, b=share / share.sum())) + 1e-14
    if all(value >= 0 for value in total):
        note = "vacuous: the formula exceeds one for every task"
    else:
        log_formula = float(logsumexp(np.minimum(total, 0.0), b=share / share.sum())) + 1e-14
    source = SOURCES["L4"] + (f", batches of {size} queries of one task" if size > 1 else "")
    return Bound("L4", law.level, log_formula, source=source, note=note)


def _outwards(bound: Bound, known: float, dimension: int) -> Bound:
    """A bound moved, on both sides, by what rounding in the factors of the covariances may do to it."""
    upper = float(outwards(bound.log_formula, known, dimension))
    lower = bound.log_lower
    if lower is not None:
        lower = min(lower - 4 * known * (abs(lower) + dimension), upper)
    return replace(bound, log_formula=upper, log_lower=lower)


def _ball(exact: Bound, ball: Ball | None) -> Bound:
    if ball is None:
        return nothing_known("L12", exact.level, "needs a divergence", SOURCES["L12"], GIVEN["L12"])
    name = "KL" if ball.divergence == "kl" else "chi-square"
    given = f"the true law of the unit spoken of lies within {name} divergence {ball.radius:.4g} of the query law"
    return replace(exact, name="L12", log_formula=ball.worst(exact.log_value), source=SOURCES["L12"], given=given, log_lower=None, note="")


def _average(
    name: str, level: Assumption, value: PerComponent, weights: np.ndarray, members: np.ndarray, found: Margins, rule: Rule
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
    binding = (int(rule.signatures.task[wrong]), wrong)
    return Bound(name, level, log_formula, source=SOURCES[name], given=GIVEN.get(name, ""), binding=binding, note=note)
