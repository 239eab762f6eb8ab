"""The union of all exact pairs (L5) for very many components, where most pairs are too unlikely to be worth their exact probability.

Four values bound the probability of one and the same pair, each closer and dearer than the one before:

1. L1b in closed form from the statistics of `theory.all_pairs`. The margin ``M = Q_s - Q_c + kappa`` of a query from c itself has the mean
   ``E Q_s - d + kappa``, the variance ``2 e + 4 D'P C P D`` and no weight below ``-min(1, sqrt(e))``, with
   ``e = |C^1/2 P C^1/2 - I|_F^2``; T3 is monotone in all three, so bounds of them serve, and rounding goes the safe way;
2. where that is not negligible, L3 at one half: the Bhattacharyya coefficient, from the factors;
3. of the heaviest pairs L3 itself, which takes the margin's eigenvalues;
4. where that is not negligible either, L5, the exact probability.

The sum of whichever is known of each pair is a bound at any moment. Pairs are refined, those of the component with most to gain first,
until what is not exact can no longer lower the sum by more than the tolerance. Well-specified queries in one shared space (A4).
Proofs: theory/README.md, screening.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from theory.all_pairs import MEMORY, PairBlock, least_memory, log_bhattacharyya, pair_blocks
from theory.bound import Assumption, Bound
from theory.errors import InputError
from theory.exact import tail_probability
from theory.gaussians import Gaussians
from theory.lowrank import LowRankGaussians
from theory.margin import LEAST_ACCURACY, outwards, score_forms, score_rounding
from theory.mixture import Rule
from theory.quadratic import QuadraticLaw
from theory.tails import exponent, log_chernoff

# Dense matrices of the embedding's dimension that one pair takes while it is refined, and pairs of one component refined at once.
_DENSE, _AT_ONCE = 10, 8


@dataclass(frozen=True)
class PairSummary:
    """What all pairs of a true component c and a wrong one s come to, by L1b in closed form or L3 at one half. Natural logarithms.

    Attributes
    ----------
    least_delta : (K,) array
        Of each component as the true one, the least separation ``E Q_s / d - 1`` from a wrong one.
    nearest : (K,) int array
        The wrong component that it is likeliest to be mistaken for, by these bounds.
    log_union : (K,) array
        Bound on the probability of an error given the component; above 0 it says nothing.
    component, wrong : (N,) int arrays
        The pairs that weigh most in the overall error, the heaviest first.
    log_pair : (N,) array
        Their bounds, each at most 0.
    log_rest : (K,) array
        Of each component, the sum over all its other pairs.
    between : (m, m) array or None
        At ``[k, i]``, the greatest bound of a pair from task k to task i; -inf on the diagonal.
    """

    least_delta: Float[np.ndarray, " K"]
    nearest: Int[np.ndarray, " K"]
    log_union: Float[np.ndarray, " K"]
    component: Int[np.ndarray, " N"]
    wrong: Int[np.ndarray, " N"]
    log_pair: Float[np.ndarray, " N"]
    log_rest: Float[np.ndarray, " K"]
    between: Float[np.ndarray, "m m"] | None


@dataclass(frozen=True)
class Screened:
    """The union of all pairs, each by the closest value that was computed.

    Attributes
    ----------
    bound : Bound
        On the overall error.
    log_exact : float
        Logarithm of the part of it that comes of exact pairs, each component's clipped at one. The whole union of exact pairs, L5,
        lies between this and the bound; the error need not.
    log_closed : float
        Logarithm of the bound as it was before any pair was refined.
    log_tasks : (m,) array
        Bounds on each task's error, at most 0.
    exact, chernoff, pairs : int
        Pairs of which the exact probability, or L3, was computed; and all there are.
    settled : bool
        Whether the tolerance was reached.
    summary : PairSummary
    """

    bound: Bound
    log_exact: float
    log_closed: float
    log_tasks: Float[np.ndarray, " m"]
    exact: int
    chernoff: int
    pairs: int
    settled: bool
    summary: PairSummary


def log_closed_form(block: PairBlock, own: Float[np.ndarray, " n"], other: Float[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
    """Log of the closed form of L1b for a block of pairs.

    Parameters
    ----------
    block : PairBlock
        Of well-specified queries.
    own, other : (n,), (k,) arrays
        What is added to the distances: offsets of the query components, and those of the wrong ones less their tasks' slack.
    """
    gap = block.mean - block.mean_error - block.dimension + (other - own[:, None])
    gap -= 8 * np.finfo(np.float64).eps * (np.abs(other) + np.abs(own)[:, None] + block.dimension)
    spread = np.sqrt(2 * (2 * block.excess + 4 * block.pulled + block.variance_error))
    least = np.minimum(1.0, np.sqrt(block.excess + block.variance_error))
    return -exponent(gap, spread * (1 + 1e-14), 2 * least * (1 + 1e-14))


def summarise(
    rule: Rule,
    *,
    worst: int = 1000,
    between: bool = False,
    negligible: float = 1e-9,
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> PairSummary:
    """Look at every pair once and keep what a reader asks for.

    Parameters
    ----------
    rule : Rule
        "max" or "mixture", of `theory.lowrank.LowRankSignatures`.
    worst : int
        Pairs to keep.
    between : bool
        Whether to keep a number for each pair of tasks.
    negligible : float
        Probability of an error that is not worth telling from 0: a pair whose closed form is below its share of this is left at
        that. 1 leaves all pairs at that.
    memory : int
        Bytes that may be worked in, beside the signatures and the result.
    advance : callable, optional
        Told the number of pairs just done.

    Raises
    ------
    InputError
        If the signatures are dense or the rule is "angular", a number is out of range, or the memory is too small.
    """
    gaussians, weights = _checked(rule)
    if worst < 1:
        raise InputError("worst", f"{worst} is not at least 1")
    if not 0 < negligible <= 1:
        raise InputError("negligible", f"{negligible} is not inside (0, 1]")
    least = least_memory(gaussians)
    if memory < 3 * least:
        raise InputError("memory", f"{memory} bytes are too few to look at one pair; needs at least {3 * least}")
    task, m, K = rule.signatures.task, rule.signatures.tasks, len(gaussians)
    other = rule.offsets - rule.slack[task]
    log_weight = np.log(weights)
    least_delta, nearest, greatest = np.full(K, np.inf), np.zeros(K, dtype=np.int64), np.full(K, -np.inf)
    rest = np.full(K, -np.inf)
    kept = np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    table = np.full((m, m), -np.inf) if between else None
    floor = -np.inf
    # A third for what is done with a block once it is there.
    for block in pair_blocks(gaussians, memory=memory * 2 // 3, advance=advance):
        rows, columns = np.arange(block.rows.start, block.rows.stop), np.arange(block.columns.start, block.columns.stop)
        log_p = log_closed_form(block, rule.offsets[rows], other[columns])
        log_p[task[rows][:, None] == task[columns]] = -np.inf
        if negligible < 1:
            n, k = np.nonzero(log_p > np.log(negligible / (2 * K)))
            extra = (other - gaussians.log_dets)[columns[k]] - (rule.offsets - gaussians.log_dets)[rows[n]]
            half = log_bhattacharyya(gaussians, rows[n], columns[k], memory=memory // 3) - extra / 4
            log_p[n, k] = np.minimum(log_p[n, k], _up(half, 4))
        delta = np.where(np.isneginf(log_p), np.inf, block.mean).min(axis=1) / block.dimension - 1
        least_delta[rows] = np.minimum(least_delta[rows], delta)
        at = log_p.argmax(axis=1)
        top = log_p[np.arange(rows.size), at]
        closer = top > greatest[rows]
        nearest[rows[closer]], greatest[rows[closer]] = columns[at[closer]], top[closer]
        if table is not None:
            np.maximum.at(table, (task[rows][:, None], task[columns]), log_p)
        n, k = np.nonzero(log_p + log_weight[rows][:, None] > floor)
        new = np.stack([rows[n], columns[k]], axis=1), log_p[n, k]
        log_p[n, k] = -np.inf
        rest[rows] = np.logaddexp(rest[rows], _row_sums(log_p))
        kept = np.concatenate([kept[0], new[0]]), np.concatenate([kept[1], new[1]])
        if len(kept[1]) > worst:
            heavy = kept[1] + log_weight[kept[0][:, 0]]
            order = np.argsort(-heavy, kind="stable")
            floor = heavy[order[worst - 1]]
            gone = order[worst:]
            np.logaddexp.at(rest, kept[0][gone, 0], kept[1][gone])
            kept = kept[0][order[:worst]], kept[1][order[:worst]]
    real = np.isfinite(kept[1])
    pairs, values = kept[0][real], kept[1][real]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -(values + log_weight[pairs[:, 0]])))
    pairs, values = pairs[order], values[order]
    union = rest.copy()
    np.logaddexp.at(union, pairs[:, 0], values)
    return PairSummary(least_delta, nearest, _up(union, K), pairs[:, 0], pairs[:, 1], values, _up(rest, K), table)


def screened(
    rule: Rule,
    *,
    tolerance: float = 0.01,
    refine: int = 1000,
    negligible: float = 1e-9,
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
    refined: Callable[[int], None] | None = None,
) -> Screened:
    """Bound the overall error by the union of all pairs, exact where it matters.

    Pairs of a component so ill-conditioned that rounding could change a bound (`theory.margin.accuracy`) are not refined.

    Parameters
    ----------
    rule : Rule
        "max" or "mixture", of `theory.lowrank.LowRankSignatures`; queries are as the signatures say (`theory.well_specified`).
    tolerance : float
        Share of the bound that pairs which are not exact may make up.
    refine : int
        Most pairs of which L3 is computed and, if need be, the exact probability.
    negligible : float
        As for `summarise`; and as much may be left that is not exact, whatever its share.
    memory : int
        Bytes that may be worked in, beside the signatures and the result.
    advance, refined : callable, optional
        Told the number of pairs just done in closed form, and the number just refined.

    Returns
    -------
    Screened
        A bound whether or not the tolerance was reached.

    Raises
    ------
    InputError
        As `summarise`, and if the tolerance is not inside (0, 1) or the memory too small to refine a pair.
    """
    gaussians, weights = _checked(rule)
    if not 0 < tolerance < 1:
        raise InputError("tolerance", f"{tolerance} is not inside (0, 1)")
    if refine < 0:
        raise InputError("refine", f"{refine} is negative")
    dense = 8 * _DENSE * gaussians.dimension**2
    if refine and memory < 2 * dense:
        raise InputError("memory", f"{memory} bytes are too few to refine a pair; needs at least {2 * dense}")
    summary = summarise(rule, worst=max(1, refine), negligible=negligible, memory=memory, advance=advance)
    state = _State(summary, np.log(weights), np.log(negligible))
    log_closed = state.log_total()
    at_once = int(max(1, min(_AT_ONCE, memory // dense - 1)))
    left = refine
    heap = [(-state.gap(c), c) for c in np.unique(summary.component)]
    heapq.heapify(heap)
    while heap and left > 0 and not state.settled(np.log(tolerance)):
        _, c = heapq.heappop(heap)
        rows = state.waiting(c)[: min(at_once, left)]
        fit, laws, known = _laws(rule, gaussians, int(c), summary.wrong[rows])
        state.seen[rows] = True
        if laws is not None:
            state.update(rows[fit], laws, known, np.log(tolerance))
        left -= rows.size
        if refined is not None:
            refined(int(rows.size))
        if state.waiting(c).size:
            heapq.heappush(heap, (-state.gap(c), c))
    settled = state.settled(np.log(tolerance))
    task = rule.signatures.task
    pairs = int(len(task) ** 2 - (np.bincount(task) ** 2).sum())
    log_upper = np.minimum(state.log_upper, 0.0)
    log_tasks = np.array(
        [logsumexp(log_upper[task == k], b=weights[task == k] / weights[task == k].sum()) for k in range(rule.signatures.tasks)]
    )
    exact, chernoff = int((state.level == 2).sum()), int((state.level == 1).sum())
    note = f"{exact} of {pairs} pairs exact, {chernoff} by L3, the others by L1b or L3 at one half"
    if unfit := int((state.seen & (state.level == 0)).sum()):
        note += f"; {unfit} of the heaviest too ill-conditioned to be refined"
    if not settled:
        note += f"; what is not exact may make up more than {tolerance:g} of it: refine more pairs"
    heaviest = int(np.argmax(log_upper + np.log(weights)))
    wrong = int(summary.nearest[heaviest])
    bound = Bound(
        "L5",
        Assumption.A4,
        state.log_total(),
        source="union of pairs, each by L5, L3 or L1b",
        binding=(int(task[wrong]), wrong),
        note=note,
    )
    return Screened(
        bound, state.log_settled(), log_closed, np.minimum(_up(log_tasks, len(task)), 0.0), exact, chernoff, pairs, settled, summary
    )


class _State:
    """What is known of each kept pair, and of each component's sum."""

    def __init__(self, summary: PairSummary, log_weight: Float[np.ndarray, " K"], log_negligible: float) -> None:
        self.summary, self.log_weight, self.log_negligible = summary, log_weight, log_negligible
        self.value = summary.log_pair.copy()
        # 0 as summarised, 1 L3, 2 exact; and whether it was looked at.
        self.level = np.zeros(self.value.size, dtype=np.int64)
        self.seen = np.zeros(self.value.size, dtype=bool)
        self.rows: dict[int, np.ndarray] = {}
        order = np.argsort(summary.component, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(summary.component[order])) + 1):
            if rows.size:
                self.rows[int(summary.component[rows[0]])] = rows
        self.log_upper = summary.log_union.copy()
        self.log_sure = np.full(self.log_upper.size, -np.inf)

    def waiting(self, c: int) -> Int[np.ndarray, " n"]:
        """Pairs of a component that were not refined, the heaviest first."""
        rows = self.rows[int(c)]
        return rows[~self.seen[rows]]

    def gap(self, c: int) -> float:
        """By how much the bound could fall at most if all of a component's kept pairs were exact, logarithm."""
        upper, sure = min(0.0, self.log_upper[c]), min(0.0, self.log_sure[c])
        gone = np.expm1(min(0.0, sure - upper))
        return float(self.log_weight[c] + upper + (np.log(-gone) if gone < 0 else -np.inf))

    def log_total(self) -> float:
        """The bound."""
        return float(_up(logsumexp(self.log_weight + np.minimum(self.log_upper, 0.0)), self.log_upper.size))

    def log_settled(self) -> float:
        """The part of it that is exact."""
        return float(logsumexp(self.log_weight + np.minimum(self.log_sure, 0.0)))

    def settled(self, log_tolerance: float) -> bool:
        """Whether what is not exact is within the tolerance, or negligible."""
        total = self.log_total()
        gone = np.expm1(min(0.0, self.log_settled() - total))
        return bool(gone >= 0 or total + np.log(-gone) <= max(self.log_negligible, log_tolerance + total))

    def update(self, rows: Int[np.ndarray, " n"], laws: QuadraticLaw, known: Float[np.ndarray, " n"], log_tolerance: float) -> None:
        """Take in the laws of some pairs of one component, and the relative errors that rounding may have left in their distances."""
        c, d = int(self.summary.component[rows[0]]), laws.w.shape[1]
        self.value[rows] = np.minimum(self.value[rows], outwards(log_chernoff(laws), known, d))
        self.level[rows] = 1
        # Half of what may be left is for pairs that L3 alone shows not to matter, in equal shares.
        allowed = max(self.log_negligible, log_tolerance + self.log_settled())
        matter = np.flatnonzero(self.log_weight[c] + self.value[rows] > allowed - np.log(2 * self.value.size))
        if matter.size:
            tail = tail_probability(laws[matter])
            self.value[rows[matter]] = np.minimum(self.value[rows[matter]], outwards(tail.log_high, known[matter], d))
            self.level[rows[matter[tail.exact]]] = 2
        mine = self.rows[c]
        self.log_upper[c] = _up(np.logaddexp(self.summary.log_rest[c], logsumexp(self.value[mine])), mine.size + 1)
        sure = mine[self.level[mine] == 2]
        self.log_sure[c] = logsumexp(self.value[sure]) if sure.size else -np.inf


def _checked(rule: Rule) -> tuple[LowRankGaussians, Float[np.ndarray, " K"]]:
    """The components, and their weights in the traffic: tasks equally, within a task as the signatures say."""
    signatures = rule.signatures
    if not isinstance(signatures.gaussians, LowRankGaussians):
        raise InputError("signatures", "have dense covariances; screening needs low rank plus diagonal (theory.lowrank), or use `ladder`")
    if rule.kind == "angular":
        raise InputError("kind", "'angular' cannot be screened; use max or mixture, or `ladder`")
    within = signatures.weights
    if within is None:
        within = 1 / np.bincount(signatures.task)[signatures.task]
    return signatures.gaussians, within / signatures.tasks


def _up(log_sum: Float[np.ndarray, "*n"] | float, terms: int) -> Float[np.ndarray, "*n"]:
    """A logarithm of a sum of so many terms, plus what their addition may have lost."""
    known = np.where(np.isfinite(log_sum), log_sum, 0.0)
    return np.asarray(log_sum) + 4 * np.finfo(np.float64).eps * terms * (1 + np.abs(known))


def _row_sums(log_p: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
    """Log of the sum of each row; rows may be empty of mass."""
    top = log_p.max(axis=1)
    shifted = log_p - np.where(np.isfinite(top), top, 0.0)[:, None]
    np.exp(shifted, out=shifted)
    with np.errstate(divide="ignore"):
        return np.where(np.isfinite(top), top, 0.0) + np.log(shifted.sum(axis=1))


def _laws(
    rule: Rule, gaussians: LowRankGaussians, c: int, wrong: Int[np.ndarray, " n"]
) -> tuple[Bool[np.ndarray, " n"], QuadraticLaw | None, Float[np.ndarray, " k"]]:
    """Laws of the margins of a query from component c with some wrong components, lowered by what rounding may do to them.

    Returns which pairs are well enough conditioned to have one, their laws (None if none is), and the accuracies of their distances.
    """
    own, others = _dense(gaussians, c), [_dense(gaussians, int(s)) for s in wrong]
    fit = np.array([own is not None and other is not None for other in others])
    usable = [other for other in others if other is not None]
    if own is None or not usable:
        return fit, None, np.zeros(0)
    wrong = wrong[fit]
    whiteners = np.concatenate([other.whiteners for other in usable])
    known = np.maximum(own.accuracies, np.concatenate([other.accuracies for other in usable]))
    A, b, constant = score_forms(rule, wrong, None, gaussians.means[c], np.linalg.cholesky(own.covariances[0]), whiteners)
    rounding = score_rounding(rule, known, (A, b, constant), wrong)
    # The own distance is that of a standard normal vector to 0.
    unit = np.eye(A.shape[1])
    rounding += score_rounding(rule, known, (unit[None], np.zeros((1, len(unit))), rule.offsets[[c]]), np.array([c]))
    constant = constant - rule.offsets[c] - rule.slack[rule.signatures.task[wrong]]
    return fit, QuadraticLaw.of_forms(A - unit, b, constant - rounding), known


def _dense(gaussians: LowRankGaussians, k: int) -> Gaussians | None:
    """One component with the factors of its dense covariance; None where their rounding could change a bound."""
    try:
        dense = gaussians.part(np.array([k])).dense
    except InputError:
        return None
    return dense if dense.accuracies[0] <= LEAST_ACCURACY else None
