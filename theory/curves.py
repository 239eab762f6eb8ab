"""Synthetic sweeps as tables: bounds over the separation, separation over tasks and dimension, error over samples.

All speak of the canonical model of `theory.planner`: components ``N(mu, I)``, queries of the signature's own law. Here every wrong
component lies at squared distance exactly ``rho^2 = d delta``: means are corners of a regular simplex, ``rho / sqrt(2) e_k``. Statements:
theory/README.md, planner; theory/README.md, finite samples; theory/README.md, The published criterion. Nothing here draws a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, logsumexp

from theory.certificates import Measured
from theory.errors import InputError
from theory.exact import tail_probability
from theory.finite import own_distance, plug_in_bound, plug_in_errors
from theory.frames import data_frame
from theory.lowrank import LowRankGaussians, LowRankSignatures
from theory.margin import Margins
from theory.mixture import Rule
from theory.monitor import bounded_mean_interval
from theory.planner import PLANNED_RUNGS, Plan, canonical_bound, separation_for
from theory.published import Inputs, Reading, criterion, tail_claim, tied_proved
from theory.quadratic import QuadraticLaw
from theory.robust import log_cantelli, log_moments, log_unimodal
from theory.tails import log_chernoff, log_lower_bernstein
from theory.unions import PerComponent, separation_bound, split_bound, summed

if TYPE_CHECKING:
    import pandas as pd

# Bytes of simulated queries that are held at once.
_BLOCK_BYTES = 2**26
_CONFIDENCE = 0.95
# The integrand of the exact error is a smooth bump within these limits, on which the trapezoid rule converges faster than any power.
_LIMIT, _POINTS = 45.0, 20_001
# The published criterion's terms as they stand in a legend.
PUBLISHED = {Reading.AS_CODED: "published, reading (a)", Reading.TAIL_INVERSION: "published, reading (b)"}


def simplex_signatures(dimension: int, tasks: int, delta: float) -> LowRankSignatures:
    """Tasks of one component ``N(rho / sqrt(2) e_k, I)`` each, all pairs at squared distance ``rho^2 = d delta``.

    Raises
    ------
    InputError
        If there are fewer dimensions than tasks, fewer than two tasks, or the separation is not positive and finite.
    """
    canonical_bound("L5", dimension, tasks, 1, delta)
    if dimension < tasks:
        raise InputError("dimension", f"{dimension} has no room for {tasks} tasks at right angles; needs at least {tasks}")
    means = np.zeros((tasks, dimension))
    means[np.arange(tasks), np.arange(tasks)] = math.sqrt(dimension * delta / 2)
    spheres = LowRankGaussians(means, np.zeros((tasks, dimension, 0)), np.ones((tasks, dimension)))
    return LowRankSignatures(spheres, np.arange(tasks))


def simplex_margins(dimension: int, tasks: int, delta: float) -> Margins:
    """The laws of own score, wrong scores and margins of one query of `simplex_signatures`, without a matrix.

    Own score ``chi2_d``; wrong ones noncentral with ``rho^2``; margins ``N(rho^2, 4 rho^2)``. All query components are alike.
    `theory.margin.margins` gives the same laws at d^3 a pair.
    """
    canonical_bound("L5", dimension, tasks, 1, delta)
    n, rho2 = tasks - 1, dimension * delta
    rho = math.sqrt(rho2)
    other = np.zeros((n, dimension))
    other[:, 0] = 2 * rho
    return Margins(
        component=np.zeros(n, dtype=np.int64),
        wrong=np.arange(1, tasks),
        reference=np.zeros(1, dtype=np.int64),
        margin=QuadraticLaw(np.zeros((n, 1)), np.zeros((n, 1)), np.full(n, 2 * rho), np.full(n, rho2)),
        own=QuadraticLaw(np.ones((1, dimension)), np.zeros((1, dimension)), np.zeros(1), np.zeros(1)),
        other=QuadraticLaw(np.ones((n, dimension)), other, np.zeros(n), np.full(n, rho2)),
        slack=np.zeros(n),
        single=np.ones(1, dtype=bool),
    )


def simplex_error(tasks: int, rho: float) -> float:
    """Natural logarithm of the exact error of `simplex_signatures`, which does not depend on the dimension.

    A query of task k is right if ``xi_k + rho / sqrt(2)`` exceeds every other ``xi_s``, with ``xi`` independent standard normal:
    ``P(error) = int phi(z) (1 - Phi(z + rho / sqrt(2))^(m-1)) dz``.
    """
    z = np.linspace(-_LIMIT, _LIMIT, _POINTS)
    log_right = (tasks - 1) * log_ndtr(z + rho / math.sqrt(2))
    with np.errstate(divide="ignore"):
        log_wrong = np.log(-np.expm1(log_right))
    return float(min(0.0, logsumexp(log_wrong - z**2 / 2) - math.log(2 * math.pi) / 2 + math.log(2 * _LIMIT / (_POINTS - 1))))


# The rungs that need no more than the laws of `simplex_margins`. L4 and L5b at one component a task add nothing to L3 and L5 that
# could be seen; L6 is what is simulated, L8 needs held-out samples, and L11 and L12 a law or a divergence of their own.
_RUNGS: dict[str, Callable[[Margins], PerComponent]] = {
    "L1": separation_bound,
    "L1b": lambda found: summed(log_lower_bernstein(found.margin), found.edges),
    "L2": split_bound,
    "L3": lambda found: summed(log_chernoff(found.margin), found.edges),
    "L5": lambda found: summed(tail_probability(found.margin).log_high, found.edges),
    "L7": lambda found: summed(log_cantelli(found.margin), found.edges),
    "L9": lambda found: summed(log_unimodal(found.margin), found.edges),
    "L10": lambda found: summed(log_moments(found.margin), found.edges),
}
CURVE_RUNGS = tuple(_RUNGS)


def bound_against_separation(
    dimensions: Sequence[int] = (8, 32, 128, 512, 1024),
    *,
    tasks: int = 5,
    deltas: Sequence[float] | None = None,
    points: int = 12,
    rungs: Sequence[str] = CURVE_RUNGS,
    simulations: int = 20_000,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Every rung over the separation in several dimensions, beside the exact and the simulated error.

    Simulated errors come from drawing queries in d dimensions and retrieving them with `theory.mixture.Rule`.

    Parameters
    ----------
    dimensions : sequence of int
        At least `tasks` each.
    tasks : int
        Of one component each.
    deltas : sequence of float, optional
        Separations; if None, `points` of them in each dimension, from where the sum of exact pairs is one half to where L1 is 0.001.
    points : int
    rungs : sequence of str
        Among `CURVE_RUNGS`.
    simulations : int
        Queries at each separation; 0 for none.
    rng : numpy.random.Generator, optional
        A fixed generator if None.

    Returns
    -------
    DataFrame
        Columns `dimension`, `delta`, `rung`, `log_value` (at most 0), `value`, `vacuous`, `error`, `low`, `high`, `n`. The rung "exact"
        is `simplex_error`; rows of the rung "simulated" have the last four only, with a Clopper-Pearson interval at 95%.

    Raises
    ------
    InputError
        For an unknown rung, or a number out of range.
    """
    for name in rungs:
        if name not in _RUNGS:
            raise InputError("rungs", f"{name!r} is unknown; choose from {', '.join(_RUNGS)}")
    if simulations < 0 or points < 2:
        raise InputError("simulations" if simulations < 0 else "points", f"is {min(simulations, points)}; needs at least 0, and points 2")
    rng = np.random.default_rng(0) if rng is None else rng
    rows: list[dict[str, Any]] = []
    for d in dimensions:
        for delta in _separations(d, tasks, points) if deltas is None else deltas:
            found, at = simplex_margins(d, tasks, delta), {"dimension": int(d), "delta": float(delta)}
            logs = {name: float(_RUNGS[name](found).upper[0]) for name in rungs}
            logs["exact"] = simplex_error(tasks, math.sqrt(d * delta))
            for name, log_value in logs.items():
                shown = min(log_value, 0.0)
                rows.append({**at, "rung": name, "log_value": shown, "value": math.exp(shown), "vacuous": log_value >= 0})
            if simulations:
                seen = _simulated(simplex_signatures(d, tasks, delta), simulations, rng)
                limits = {"error": seen.error, "low": seen.low, "high": seen.high, "n": seen.n}
                rows.append({**at, "rung": "simulated", "log_value": np.nan, "value": np.nan, "vacuous": False, **limits})
    return data_frame(rows, columns=["dimension", "delta", "rung", "log_value", "value", "vacuous", "error", "low", "high", "n"])


def _separations(d: int, tasks: int, points: int) -> Float[np.ndarray, " p"]:
    return np.geomspace(_answer(separation_for(tasks, 1, d, 0.5, "L5")), _answer(separation_for(tasks, 1, d, 1e-3, "L1")), points)


def _answer(plan: Plan) -> float:
    assert plan.answer is not None, plan.note
    return float(plan.answer)


def _given(required: float | None) -> float:
    # It is missing where log-determinants favour the wrong component too much; here they are equal.
    assert required is not None
    return required


def _simulated(signatures: LowRankSignatures, n: int, rng: np.random.Generator) -> Measured:
    """Errors among n queries of the signatures' own law, as many of each task as of any other."""
    m, d = signatures.means.shape
    rule, wrong = Rule(signatures), 0
    block = max(1, _BLOCK_BYTES // (8 * d))
    for start in range(0, n, block):
        truth = np.arange(start, min(start + block, n)) % m
        x = signatures.means[truth] + rng.standard_normal((truth.size, d))
        wrong += int((rule.retrieve(x[:, None]) != truth).sum())
    return Measured(wrong, n, _CONFIDENCE)


def required_separation(
    tasks: Sequence[int] = (10,), dimensions: Sequence[int] = (384,), *, components: int = 1, eps: float = 0.01
) -> pd.DataFrame:
    """The separation that each criterion asks for, at every number of tasks in every dimension.

    Our rungs as `theory.planner.separation_for` answers them; the published criterion in both readings as `theory.published.criterion`
    restates it (its text was not available), at ``kappa = 0`` and ``sigma2 = 1``, the canonical model's own.

    Parameters
    ----------
    tasks, dimensions : sequences of int
    components : int
        Of each task.
    eps : float
        Target error.

    Returns
    -------
    DataFrame
        Columns `tasks`, `dimension`, `components`, `eps`, `criterion`, `delta`; `error` (exact error of `simplex_signatures` at that
        separation; NaN with several components, or where so many tasks have no room); `proved` (in the canonical model meeting it
        is proved to imply the error: always for ours, `theory.published.tied_proved` for the readings); `fails` (`error` exceeds eps);
        and `tail_holds` (of the readings, whether the tail claim ``P(chi2_d >= d + second) <= eps / N'`` is true,
        `theory.published.tail_claim`; for ours true).

    Raises
    ------
    InputError
        For a number out of range.
    """
    rows = []
    for m in tasks:
        for d in dimensions:
            inputs = Inputs(d=d, tasks=m, components=m * components, kappa=0.0, sigma2=1.0, eps=eps, delta=0.0)
            verdict, t = criterion(inputs), inputs.log_ratio
            asked = {rung: (_answer(separation_for(m, components, d, eps, rung)), True, True) for rung in PLANNED_RUNGS}
            for reading, required in ((Reading.AS_CODED, verdict.required_a), (Reading.TAIL_INVERSION, verdict.required_b)):
                asked[PUBLISHED[reading]] = (_given(required), tied_proved(d, 1.0, t, reading), tail_claim(d, t, reading).holds)
            for name, (delta, proved, tail_holds) in asked.items():
                room = components == 1 and m <= d + 1
                error = math.exp(simplex_error(m, math.sqrt(d * delta))) if room else math.nan
                at = {"tasks": int(m), "dimension": int(d), "components": int(components), "eps": float(eps), "criterion": name}
                rows.append({**at, "delta": delta, "error": error, "proved": proved, "fails": error > eps, "tail_holds": tail_holds})
    return data_frame(rows)


def finite_sample(
    dimension: int = 16,
    ratios: Sequence[float] = (1.25, 1.5, 2, 3, 5, 10, 20, 50, 100),
    *,
    tasks: int = 2,
    eps: float = 0.01,
    draws: int = 400,
    simulations: int = 2_000,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """The error of signatures estimated from n samples a component, over n/d, at the separation whose true signature errs `eps`.

    Parameters
    ----------
    dimension : int
        At least `tasks`.
    ratios : sequence of float
        n/d; n is rounded up, and at least d + 1.
    tasks : int
        Of one component each. With two the error of each drawn signature is exact, with more it is simulated.
    eps : float
        Sum of the true signature's exact pairs (L5), which with two tasks is its error.
    draws : int
        Signatures drawn at each n.
    simulations : int
        Queries a signature, where its error is simulated.
    rng : numpy.random.Generator, optional
        A fixed generator if None.

    Returns
    -------
    DataFrame
        Columns `dimension`, `n`, `ratio`, `kind`, `error`, `low`, `high`, `vacuous`. Kinds: "true signature" (exact: the limit of many
        samples), "plug-in, drawn" (mean over the draws, its interval by betting on a mean in [0, 1], at 95%), "plug-in, proved bound"
        (`theory.finite.plug_in_bound` on the expectation that the draws estimate).

    Raises
    ------
    InputError
        For a number out of range.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    signatures = simplex_signatures(dimension, tasks, _answer(separation_for(tasks, 1, dimension, eps, "L5"))).to_dense()
    true = math.exp(simplex_error(tasks, float(np.linalg.norm(signatures.means[0] - signatures.means[1]))))
    rows = []
    for n, at in _counts(dimension, ratios):
        counts = np.full(tasks, n)
        found = np.exp(plug_in_errors(signatures, counts, draws, rng, simulations=simulations).log_error)
        low, high = bounded_mean_interval(found, 1.0, _CONFIDENCE)
        bound = plug_in_bound(signatures, counts=counts).overall
        rows += [
            {**at, "kind": "true signature", "error": true, "low": np.nan, "high": np.nan, "vacuous": False},
            {**at, "kind": "plug-in, drawn", "error": float(found.mean()), "low": low, "high": high, "vacuous": False},
            {**at, "kind": "plug-in, proved bound", "error": bound.value, "low": np.nan, "high": np.nan, "vacuous": bound.vacuous},
        ]
    return data_frame(rows)


def own_ellipsoid(
    dimension: int = 16,
    ratios: Sequence[float] = (1.25, 1.5, 2, 3, 5, 10, 20, 50, 100),
    *,
    mass: float = 0.95,
    draws: int = 2_000,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """How often a fresh point falls outside the ellipsoid that is to hold `mass` of its own component, over n/d: exact and simulated.

    The ellipsoid is that of the estimated mean and covariance at the quantile of chi2_d, which the plug-in distance exceeds far more
    often than ``1 - mass``: exactly as often as F1's law says (`theory.finite.own_distance`).

    Parameters
    ----------
    dimension, ratios, rng
        As for `finite_sample`.
    mass : float
    draws : int
        Sets of n samples at each n, with one fresh point for each, so that errors are independent.

    Returns
    -------
    DataFrame
        As `finite_sample`, with kinds "outside, exact (F)", "outside, simulated" (Clopper-Pearson at 95%), and "outside, true signature".

    Raises
    ------
    InputError
        For a number out of range.
    """
    if not 0 < mass < 1:
        raise InputError("mass", f"{mass} is not inside (0, 1)")
    rng = np.random.default_rng(0) if rng is None else rng
    from scipy.stats import chi2

    limit = chi2.ppf(mass, dimension)
    rows = []
    for n, at in _counts(dimension, ratios):
        exact = float(own_distance(n, dimension).sf(limit))
        seen = Measured(sum(_own_distance(n, dimension, rng) > limit for _ in range(draws)), draws, _CONFIDENCE)
        rows += [
            {**at, "kind": "outside, exact (F)", "error": exact, "low": np.nan, "high": np.nan, "vacuous": False},
            {**at, "kind": "outside, simulated", "error": seen.error, "low": seen.low, "high": seen.high, "vacuous": False},
            {**at, "kind": "outside, true signature", "error": 1 - mass, "low": np.nan, "high": np.nan, "vacuous": False},
        ]
    return data_frame(rows)


def _own_distance(n: int, d: int, rng: np.random.Generator) -> float:
    """Squared plug-in distance of a fresh standard normal point to n others."""
    samples, x = rng.standard_normal((n, d)), rng.standard_normal(d)
    centred = samples - (mean := samples.mean(axis=0))
    return float((x - mean) @ np.linalg.solve(centred.T @ centred / (n - 1), x - mean))


def _counts(d: int, ratios: Sequence[float]) -> list[tuple[int, dict[str, Any]]]:
    """Samples at each ratio, and what every row of them holds."""
    if not len(ratios) or not all(math.isfinite(r) and r > 0 for r in ratios):
        raise InputError("ratios", "need positive, finite numbers of samples per dimension")
    counts = [max(d + 1, math.ceil(r * d)) for r in ratios]
    return [(n, {"dimension": int(d), "n": n, "ratio": n / d}) for n in counts]


__all__ = [
    "CURVE_RUNGS",
    "PUBLISHED",
    "bound_against_separation",
    "finite_sample",
    "own_ellipsoid",
    "required_separation",
    "simplex_error",
    "simplex_margins",
    "simplex_signatures",
]
