"""From pairs to an error: unions over the wrong components (L1, L2, sums of pairs) and what is tighter than a sum (L5b).

An error on a query component needs ``M_s <= 0`` for some wrong component s. Adding the pairs' probabilities counts an
overlap as often as components share it; with many wrong components that is the weak link of the ladder. `second_order`
subtracts overlaps that are known exactly, or removes the part that all of them share.

Proofs: theory/README.md, L1; theory/README.md, L2; theory/README.md, L5b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.special import logsumexp, ndtr, ndtri

from theory.exact import tail_probability
from theory.intersection import Forms, log_both
from theory.margin import Margins, accuracy, law_views, outwards, score_forms, stacked_rows
from theory.mixture import QueryLaw, Rule
from theory.quadratic import QuadraticLaw
from theory.tails import exponent, log_chernoff, log_chernoff_upper

# Thresholds of the split bound, in standard deviations of the own score above its mean, and (for scores far apart) in
# parts of the way to the nearest wrong score's mean; any threshold is valid.
_THRESHOLDS = np.concatenate([np.linspace(0.25, 4, 8), np.geomspace(5, 40, 5)])
_PARTS = np.array([0.2, 0.4, 0.6])
# The common threshold is worth its cost only where the sum is large; below, overlaps are small beside their parts.
_LARGE_SUM = np.log(0.2)
# A second event this much rarer than the first leaves nothing to gain.
_NO_OVERLAP = np.log(1e-3)


@dataclass(frozen=True)
class PerComponent:
    """A rung for every query component.

    Attributes
    ----------
    upper, lower : (C,) arrays
        Logs of the two sides (`lower` is ``-inf`` where nothing is proved).
    binding : (C,) int array
        Index of the pair that contributes most.
    """

    upper: Float[np.ndarray, " C"]
    binding: Int[np.ndarray, " C"]
    lower: Float[np.ndarray, " C"]


def summed(values: Float[np.ndarray, " P"], edges: Int[np.ndarray, " C1"]) -> PerComponent:
    """Log of the sum over each component's pairs, rounded up."""
    C = edges.size - 1
    total, binding = np.empty(C), np.empty(C, dtype=np.int64)
    for c in range(C):
        part = values[edges[c] : edges[c + 1]]
        total[c] = logsumexp(part) + 1e-14 * part.size
        binding[c] = edges[c] + int(np.argmax(part))
    return PerComponent(total, binding, np.full(C, -np.inf))


def separation_bound(found: Margins) -> PerComponent:
    """L1: ``N exp(-t*)`` with the smallest over wrong components of the largest exponent t that their gap affords.

    With ``X`` the own and ``Y`` a wrong score, an error needs ``X >= Y``. If ``E Y - E X >= sqrt(2 V_X t) + 2 w_+(X) t +
    sqrt(2 V_Y t) + 2 w_-(Y) t``, a threshold separates them up to ``exp(-t)`` on each side (T3 above, T2 below). For the
    well-specified rule "max" this is ``d delta + kappa >= 2 sqrt(d t) + 2 t + sqrt(2 V t)``.
    """
    own, other, of, edges = found.own, found.other, found.component, found.edges
    gap = other.mean() - own.mean()[of]
    a = np.sqrt(2 * own.variance())[of] + np.sqrt(2 * other.variance())
    b = 2 * (own.greatest_weight()[of] + other.least_weight())
    t = exponent(gap, a, b)
    C = edges.size - 1
    binding = np.array([edges[c] + int(np.argmin(t[edges[c] : edges[c + 1]])) for c in range(C)])
    N = 1 + np.diff(edges)
    return PerComponent(np.where(t[binding] > 0, np.log(N) - t[binding], np.log(N)), binding, np.full(C, -np.inf))


def split_bound(found: Margins) -> PerComponent:
    """L2: the least over thresholds of ``P(X >= c) + sum P(Y <= c)``, or with a threshold per pair; exact tails at the end."""
    own, of, edges = found.own, found.component, found.edges
    C = edges.size - 1
    mean, spread = own.mean(), np.sqrt(own.variance())
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
    return PerComponent(total, binding, np.full(C, -np.inf))


def second_order(
    rule: Rule,
    law: QueryLaw,
    found: Margins,
    log_pairs: Float[np.ndarray, " P"],
    intersections: int,
) -> PerComponent:
    """L5b: the least of two bounds on ``P(M_s <= 0 for some s)`` and the sum of exact pairs.

    - Hunter (1976), Worsley (1982): ``sum_s P(A_s) - sum over edges P(A_s and A_t)`` for any tree on the events; here a
      tree on the likeliest of them, the heaviest by a normal approximation (which decides tightness, not validity).
    - A common threshold: ``P(X >= c) + sum_s P(A_s and X < c)`` with ``X`` the own score (Gallager's first technique; the
      shared-threshold version of L2). Large own scores make all wrong components win at once, and are counted once.

    All intersections are exact (`theory.intersection`), less their error estimate and what rounding may have done to the margins.
    (With tied covariances in one space the union itself is exact: `theory.tied`.)

    Parameters
    ----------
    rule, law
        From which `found` was computed.
    found : Margins
    log_pairs : (P,) array
        Logs of upper sides of the exact pair probabilities.
    intersections : int
        Intersections to compute per query component and bound; 0 leaves the plain sum.
    """
    plain = summed(log_pairs, found.edges)
    rounding = np.broadcast_to(found.rounding, log_pairs.shape)
    upper = plain.upper.copy()
    # A difference may be small beside its parts, so that these are moved: twice, once for the overlaps, none of which exceeds its pair.
    moved = outwards(log_pairs, 2 * accuracy(rule), law.means.shape[2])
    edges = found.edges
    for c in range(len(law)):
        rows = np.arange(edges[c], edges[c + 1])
        if rows.size < 2 or intersections < 1:
            continue
        order = rows[np.argsort(-log_pairs[rows], kind="stable")]
        if log_pairs[order[1]] < log_pairs[order[0]] + _NO_OVERLAP:
            continue
        likely = order[: intersections + 1]
        forms, own = _joint_forms(rule, law, c, int(found.reference[c]), found.wrong[likely])
        # Margins as large as rounding allows where their overlaps are subtracted, and as small where they are added. The own score that
        # is split at a threshold may be any.
        high, low = (Forms(forms.A, forms.b, forms.c - found.slack[likely] + sign * rounding[likely]) for sign in (1, -1))
        upper[c] = min(upper[c], _hunter(high, moved[likely], moved[order], intersections))
        if upper[c] > _LARGE_SUM:
            upper[c] = min(upper[c], _common_threshold(low, own, moved[likely], moved[order]))
    return PerComponent(np.maximum(upper, log_pairs[plain.binding]), plain.binding, plain.lower)


def _joint_forms(rule: Rule, law: QueryLaw, c: int, reference: int, wrong: np.ndarray) -> tuple[Forms, Forms]:
    """Margins of some wrong components, and the own score, as forms in one z over the spaces that they live in."""
    d, task = law.means.shape[2], rule.signatures.task
    views, mean = law_views(rule, law), law.means[c].ravel()
    # Coordinates that only other tasks see are left out.
    pick = stacked_rows(np.unique(views[np.append(task[wrong], law.task[c])]), d)
    factor = np.linalg.cholesky(law.covariances[c][np.ix_(pick, pick)])

    def score(s: int) -> tuple[np.ndarray, np.ndarray, float]:
        rows = stacked_rows(views[task[s]], d)
        A, b, constant = score_forms(
            rule, np.array([s]), None if law.shared else int(task[s]), mean[rows], factor[np.searchsorted(pick, rows)]
        )
        return A[0], b[0], float(constant[0])

    own = score(reference)
    scores = [score(int(s)) for s in wrong]
    A, b, constant = (np.stack([s[j] - own[j] for s in scores]) for j in range(3))
    return Forms(A, b, constant), Forms(own[0][None], own[1][None], np.array([own[2]]))


def _log_less(log_total: float, log_taken: float) -> float:
    """``log(exp(log_total) - exp(log_taken))``, rounded up."""
    if log_taken == -np.inf:
        return log_total
    gap = log_taken - log_total
    return -np.inf if gap >= 0 else float(log_total + np.log1p(-np.exp(gap)) + 1e-14)


def _log_both_low(forms: Forms) -> float:
    log_p, error = log_both(forms)
    return -np.inf if error >= 0.5 else log_p + np.log1p(-2 * error) if error < 0.25 else log_p - np.log(4)


def _hunter(forms: Forms, log_p: np.ndarray, log_all: np.ndarray, intersections: int) -> float:
    from scipy.stats import multivariate_normal

    n = log_p.size
    covariance = forms.covariance()
    spread = np.sqrt(np.diagonal(covariance))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.nan_to_num(covariance / np.outer(spread, spread))
    z = ndtri(np.clip(np.exp(log_p), 1e-15, 1 - 1e-15))
    weight = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            rho = float(np.clip(correlation[i, j], -0.999, 0.999))
            # Relative to the likelier event; a floor keeps the edge in the graph, whose zeros mean "no edge".
            guess = float(multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([z[i], z[j]]))
            weight[i, j] = -max(guess, 1e-300)
    # Sparse, because a dense graph loses its edges below 1e-8.
    tree = minimum_spanning_tree(csr_array(weight)).tocoo()
    chosen = sorted(zip(-tree.data, tree.row, tree.col, strict=True), reverse=True)[:intersections]
    overlaps = [_log_both_low(forms[[int(i), int(j)]]) for _, i, j in chosen]
    total = float(logsumexp(log_all)) + 1e-14 * log_all.size
    return _log_less(total, float(logsumexp(overlaps)) if overlaps else -np.inf)


def _common_threshold(forms: Forms, own: Forms, log_p: np.ndarray, log_all: np.ndarray) -> float:
    from scipy.optimize import brentq

    both = Forms(np.concatenate([forms.A, own.A]), np.concatenate([forms.b, own.b]), np.concatenate([forms.c, own.c]))
    covariance = both.covariance()
    mean = both.c + np.trace(both.A, axis1=1, axis2=2)
    n = log_p.size
    variance = covariance[n, n]
    if variance <= 0:
        return np.inf
    slope = covariance[:n, n] / variance
    alone = np.maximum(np.diagonal(covariance)[:n], 1e-300)
    rest = np.sqrt(np.maximum(alone - slope * covariance[:n, n], 1e-12 * alone))

    def winners(c: float) -> float:
        return float(ndtr(-(mean[:n] + slope * (c - mean[n])) / rest).sum()) - 1

    # The sum is stationary where one wrong component is expected to win at X = c; found in the normal approximation.
    low, high = mean[n] - 4 * np.sqrt(variance), mean[n] + 8 * np.sqrt(variance)
    if winners(low) >= 0 or winners(high) <= 0:
        return np.inf
    threshold = brentq(winners, low, high, xtol=1e-3 * np.sqrt(variance))
    above = tail_probability((-QuadraticLaw.of_forms(own.A, own.b, own.c)).shifted(threshold)).log_high[0]
    below = []
    for s in range(n):
        log_q, error = log_both(Forms(both.A[[s, n]], both.b[[s, n]], both.c[[s, n]] - np.array([0.0, threshold])))
        below.append(min(log_p[s], log_q + np.log1p(2 * error)) if np.isfinite(error) else log_p[s])
    return float(logsumexp(np.concatenate([[above], below, log_all[n:]]))) + 1e-14 * log_all.size
