"""Rungs anew, from the margins of `empirics.audit.forms` and the tails of `empirics.audit.tails`, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from empirics.audit import tails
from empirics.audit.forms import Pairs, QueryLaw, Scores
from empirics.audit.tails import Laws

# The thresholds that L2 tries are part of what the number is, for any threshold is valid: in deviations of the own score above its mean,
# and in parts of the way to the nearest wrong score's mean.
_DEVIATIONS = np.array([0.25, *(0.25 + 3.75 * j / 7 for j in range(1, 8)), *(5 * 8 ** (j / 4) for j in range(5))])
_PARTS = np.array([0.2, 0.4, 0.6])
# Newton steps for the exponent of L4.
_STEPS = 200
# Contributions of two pairs, in logarithms, that are alike to rounding.
_ALIKE = 1e-8
SUMMED = ("L1", "L1b", "L2", "L3", "L5", "L5b", "L7", "L9", "L10")


@dataclass(frozen=True)
class Unit:
    """What a unit's rung should be.

    Attributes
    ----------
    log_value : float
        Natural logarithm, at most 0.
    binding : tuple of int or None
        Wrong task and component that contribute most.
    also : tuple of tuples
        Others that contribute as much, to rounding.
    note : str or None
        Which query components say nothing; None where that is not recomputed.
    log_lower : float or None
    """

    log_value: float
    binding: tuple[int, int] | None = None
    also: tuple[tuple[int, int], ...] = ()
    note: str | None = None
    log_lower: float | None = None


@dataclass(frozen=True)
class Recomputed:
    """All pairs and sums of a rule under a query law.

    Parameters
    ----------
    scores : Scores
    law : QueryLaw
    pairs : Pairs
    """

    scores: Scores
    law: QueryLaw
    pairs: Pairs
    _bases: dict[bytes, np.ndarray] = field(default_factory=dict)

    @cached_property
    def by_pair(self) -> dict[str, np.ndarray]:
        """Columns of `pairs.parquet`, natural logarithms."""
        margin, mean, variance = self.pairs.margin, self.pairs.mean, self.pairs.variance
        exact, error = tails.log_probability(margin)
        low = exact
        if self.pairs.slack.any():
            # With a slack the pair alone proves an error only where the margin lies below it.
            low = np.where(self.pairs.slack > 0, tails.log_probability(margin.plus(self.pairs.slack))[0], exact)
        return {
            "mean": mean,
            "variance": variance,
            "log_exact": exact,
            "log_exact_low": low,
            "log_chernoff": tails.log_chernoff(margin),
            "log_bernstein": tails.log_bernstein(margin),
            "log_cantelli": tails.log_cantelli(mean, variance),
            "log_unimodal": tails.log_unimodal(mean, variance),
            "log_moments": tails.log_moments(margin),
            "error": error,
        }

    @cached_property
    def contributions(self) -> dict[str, np.ndarray]:
        """What each pair adds to a rung of its query component, as logarithms (the greatest binds)."""
        p = self.by_pair
        return {
            "L1": -self._exponents,
            "L1b": p["log_bernstein"],
            "L2": self._split[1],
            "L3": p["log_chernoff"],
            "L5": p["log_exact"],
            "L5b": p["log_exact"],
            "L7": p["log_cantelli"],
            "L9": p["log_unimodal"],
            "L10": p["log_moments"],
        }

    @cached_property
    def by_component(self) -> dict[str, tuple[Float[np.ndarray, " C"], np.ndarray]]:
        """Upper side of every rung, and the pair that contributes most to it, for each query component."""
        parts = [self.pairs.rows(c) for c in range(len(self.law))]
        out = {}
        for rung, values in self.contributions.items():
            binding = np.array([rows.start + values[rows].argmax() for rows in parts])
            if rung == "L1":
                # N exp(-t), t the least over pairs.
                upper = np.log([1 + rows.stop - rows.start for rows in parts]) + values[binding]
            elif rung == "L2":
                upper = self._split[0]
            else:
                upper = np.array([logsumexp(values[rows]) for rows in parts])
            out[rung] = (upper, binding)
        upper, binding = out["L5b"]
        out["L5b"] = (np.minimum(upper, out["L2"][0]), binding)
        return out

    @cached_property
    def _exponents(self) -> np.ndarray:
        """The largest exponent that the gap between each pair's scores affords, for L1."""
        own, other, of = self.pairs.own, self.pairs.other, self.pairs.component
        gap = other.mean() - own.mean()[of]
        a = np.sqrt(2 * own.variance())[of] + np.sqrt(2 * other.variance())
        b = 2 * (np.maximum(0.0, own.w.max(axis=1))[of] + np.maximum(0.0, -other.w.min(axis=1)))
        return tails.largest_exponent(gap, a, b)

    @cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """L2: ``P(X >= c) + sum P(Y_s <= c)`` at the best threshold, by exact tails; or one for each pair, by Chernoff's."""
        own, other, of = self.pairs.own, self.pairs.other, self.pairs.component
        parts = [self.pairs.rows(c) for c in range(len(self.law))]
        gap = other.mean() - own.mean()[of]
        nearest = np.array([max(0.0, gap[rows].min()) for rows in parts])
        spread = np.sqrt(own.variance())
        levels = own.mean()[:, None] + np.concatenate([spread[:, None] * _DEVIATIONS, nearest[:, None] * _PARTS], axis=1)
        above = np.stack([tails.log_chernoff((-own).plus(level)) for level in levels.T], axis=1)
        below = np.stack([tails.log_chernoff(other.plus(-level[of])) for level in levels.T], axis=1)
        common = np.stack([np.logaddexp(above[c], logsumexp(below[rows], axis=0)) for c, rows in enumerate(parts)])
        threshold = levels[np.arange(len(parts)), common.argmin(axis=1)]
        exact_above = tails.log_probability((-own).plus(threshold))[0]
        exact_below = tails.log_probability(other.plus(-threshold[of]))[0]
        each = np.minimum(0.0, np.logaddexp(above[of], below).min(axis=1))
        value = [min(np.logaddexp(exact_above[c], logsumexp(exact_below[rows])), logsumexp(each[rows])) for c, rows in enumerate(parts)]
        return np.array(value), exact_below

    def average(self, rung: str, members: Bool[np.ndarray, " C"]) -> Unit:
        """A rung of a unit: the mean over its query components, each at most one."""
        upper, binding = self.by_component[rung]
        share = self.law.weights[members] / self.law.weights[members].sum()
        upper = upper[members]
        heaviest = np.flatnonzero(members)[np.argmax(np.minimum(upper, 0.0) + np.log(share))]
        rows = self.pairs.rows(int(heaviest))
        alike = np.flatnonzero(self.contributions[rung][rows] >= self.contributions[rung][binding[heaviest]] - _ALIKE)
        also = tuple(self._named(rows.start + int(j)) for j in alike)
        idle = upper >= 0
        note = ""
        if idle.all():
            note = "vacuous: the formula exceeds one for every query component"
        elif idle.any():
            note = f"{int(idle.sum())} of {idle.size} query components, weight {share[idle].sum():.2f}, contribute one"
        log_value = min(0.0, float(logsumexp(np.minimum(upper, 0.0), b=share)))
        return Unit(log_value, self._named(int(binding[heaviest])), also, note, self._lower(rung, members, share))

    def _named(self, pair: int) -> tuple[int, int]:
        wrong = int(self.pairs.wrong[pair])
        return int(self.scores.task[wrong]), wrong

    def _lower(self, rung: str, members: np.ndarray, share: np.ndarray) -> float | None:
        """Where every true task has one component, a pair alone proves an error: the likeliest pair is a lower side."""
        if rung not in ("L5", "L5b") or not self.pairs.single[members].all():
            return None
        low = self.by_pair["log_exact_low"]
        return float(logsumexp([low[self.pairs.rows(c)].max() for c in np.flatnonzero(members)], b=share))

    def batches(self, members: Bool[np.ndarray, " C"], size: int) -> Unit:
        """L4: for each true task the sum over wrong tasks of the least base to the power of the batch's size."""
        tasks = np.unique(self.law.task[members])
        share = np.array([self.law.weights[members & (self.law.task == k)].sum() for k in tasks])
        total = []
        for k in tasks:
            part = members & (self.law.task == k)
            if part.tobytes() not in self._bases:
                self._bases[part.tobytes()] = self._log_bases(part, int(k))
            total.append(logsumexp(np.minimum(size * self._bases[part.tobytes()], 0.0)))
        idle = all(value >= 0 for value in total)
        log_value = 0.0 if idle else min(0.0, float(logsumexp(np.minimum(total, 0.0), b=share / share.sum())))
        return Unit(log_value, note="vacuous: the formula exceeds one for every task" if idle else "")

    def _log_bases(self, members: np.ndarray, k: int) -> np.ndarray:
        log_weight = np.log(self.law.weights / self.law.weights[members].sum())
        out = []
        for i in range(self.scores.sizes.size):
            if i == k:
                continue
            rows = np.flatnonzero(members[self.pairs.component] & (self.scores.task[self.pairs.wrong] == i))
            slack = float(self.scores.slack[i])
            out.append(_log_base(self.pairs.margin[rows].plus(slack), log_weight[self.pairs.component[rows]], slack))
        return np.array(out)


def _log_base(law: Laws, log_weight: np.ndarray, slack: float) -> float:
    """``inf_l sum w E exp(-l M)``: the logarithm is convex in l, so the sign of its slope brackets the least."""
    if slack == 0 and (law.floor() > 0).all():
        return -np.inf
    limit = float(law.limit().min())

    def at(theta: float) -> tuple[float, float]:
        points = np.full(len(law), theta)
        terms = log_weight + law.log_laplace(points)
        top = terms.max()
        parts = np.exp(terms - top)
        total, slope = float(top + np.log(parts.sum())), float((parts * law.slope(points)).sum() / parts.sum())
        return total + max(0.0, theta - 0.5) * slack, slope + (slack if theta > 0.5 else 0.0)

    low, high = 0.0, min(limit, 1 / float(np.sqrt(law.variance().max())))
    while high < limit and at(high)[1] < 0:
        low, high = high, min(limit, 4 * high)
    best = np.inf
    for _ in range(_STEPS):
        theta = (low + high) / 2
        value, slope = at(theta)
        best = min(best, value)
        low, high = (theta, high) if slope < 0 else (low, theta)
        if high - low <= 1e-7 * min(high, limit - low if np.isfinite(limit) else np.inf):
            break
    return best


def kl_ball(log_p: float, radius: float) -> float:
    """L12: log of the largest q with ``kl(q, p) <= radius``, by bisection of ``log q``."""
    p = float(np.exp(log_p))
    if radius == 0 or p == 0:
        return log_p
    if p >= 1 or -log_p <= radius:
        return 0.0
    low, high = log_p, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        q = np.exp(middle)
        kl = q * (middle - log_p) + (1 - q) * (np.log(-np.expm1(middle)) - np.log1p(-p))
        low, high = (middle, high) if kl <= radius else (low, middle)
    return high


def levels(law: QueryLaw) -> dict[str, str]:
    """Assumption level of every rung under a law."""
    joint = "A4" if law.means.shape[1] == 1 else "A3"
    out = dict.fromkeys(("L1b", "L3", "L4", "L5", "L5b", "L6", "L11", "L12"), joint)
    return out | {"L1": "A2", "L2": "A2", "L8": "A0"} | dict.fromkeys(("L7", "L9", "L10"), "A1")


def units(law: QueryLaw) -> Mapping[tuple[str, int | None], np.ndarray]:
    """Members of every unit that a report speaks of: overall, tasks, clusters."""
    out: dict[tuple[str, int | None], np.ndarray] = {("overall", None): np.ones(len(law), dtype=bool)}
    out |= {("task", int(k)): law.task == k for k in np.unique(law.task)}
    return out | {("cluster", int(t)): law.cluster == t for t in np.unique(law.cluster)}
