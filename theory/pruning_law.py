"""How often a cheap first stage prunes the true task, under a query law: what can be said before any query is seen.

The rules, and what held-out queries certify of them: `theory.pruning`. Proofs: theory/README.md, pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import logsumexp

from theory.bound import Assumption, Bound
from theory.errors import InputError
from theory.exact import tail_probability
from theory.margin import accuracy, margins, outwards, score_forms, score_rounding
from theory.mixture import QueryLaw, Rule
from theory.quadratic import QuadraticLaw
from theory.tails import exponent, log_chernoff

Tail = Literal["exact", "chernoff", "bernstein"]

# Most pairs whose exact probabilities are worth their time: some milliseconds each.
_EXACT_PAIRS = 10_000
_RUNG = {"exact": "L5", "chernoff": "L3", "bernstein": "L1b"}
_TAILS = {
    "exact": "exact pair probabilities",
    "chernoff": "Chernoff on each pair",
    "bernstein": "Bernstein on each pair, from its mean and variance alone",
}
# Relative rounding of a sum of probabilities in logarithms.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PruningLaw:
    """What a query law says of stage 1, from the margins of all pairs; build with `of`.

    Attributes
    ----------
    rule : Rule
        Of stage 1.
    law : QueryLaw
        In the one space that stage 1 sees.
    tail : {"exact", "chernoff", "bernstein"}
        How the pairs' probabilities are bounded.
    component, wrong_task : (P,) int arrays
        Query component and wrong task of each pair (query component, wrong signature component), sorted.
    margin : QuadraticLaw or None
        Wrong less own score of each pair; None with tail "bernstein".
    mean, variance, steepest : (P,) arrays
        Of the margins, and the greatest eigenvalue of the own score's form, which no eigenvalue of ``-M`` exceeds.
    """

    rule: Rule
    law: QueryLaw
    tail: Tail
    component: Int[np.ndarray, " P"]
    wrong_task: Int[np.ndarray, " P"]
    margin: QuadraticLaw | None
    mean: Float[np.ndarray, " P"]
    variance: Float[np.ndarray, " P"]
    steepest: Float[np.ndarray, " P"]

    @classmethod
    def of(
        cls, rule: Rule, law: QueryLaw, tail: Tail | Literal["auto"] = "auto", advance: Callable[[int], None] | None = None
    ) -> PruningLaw:
        """Compute the margins of all pairs.

        Parameters
        ----------
        rule : Rule
        law : QueryLaw
        tail : {"auto", "exact", "chernoff", "bernstein"}
            "exact" and "chernoff" decompose a matrix for each pair and take milliseconds; "bernstein" takes means and variances only,
            which is what a thousand tasks allow. "auto": exact up to 10,000 pairs, then bernstein.
        advance : callable, optional
            Told the number of query components just done.

        Raises
        ------
        InputError
            If the law does not live in one shared space or does not fit the signatures, or a covariance is too ill-conditioned.
        """
        if tail not in ("auto", *get_args(Tail)):
            raise InputError("tail", f"{tail!r} is unknown; choose auto, {', '.join(get_args(Tail))}")
        if not law.shared:
            raise InputError("query law", f"lives in {law.means.shape[1]} spaces; stage 1 sees one that all tasks share")
        tasks = rule.signatures.task
        if tail == "auto":
            pairs = sum(len(tasks) - int((tasks == k).sum()) for k in law.task)
            tail = "exact" if pairs <= _EXACT_PAIRS else "bernstein"
        if tail != "bernstein":
            found = margins(rule, law, advance)
            component, wrong, margin = found.component, tasks[found.wrong], found.margin
            mean, variance, steepest = margin.mean(), margin.variance(), margin.least_weight()
        else:
            component, wrong, mean, variance, steepest = _moments(rule, law, advance)
            margin = None
        order = np.lexsort((wrong, component))
        return cls(
            rule,
            law,
            tail,
            component[order],
            wrong[order],
            None if margin is None else margin[order],
            mean[order],
            variance[order],
            steepest[order],
        )

    def threshold(self, tau: float, task: int | None = None) -> Bound:
        """Bound the probability that the true task's stage-1 score exceeds the least by more than `tau`.

        Then some wrong task is ahead by more than tau: a union over wrong tasks of pairs shifted by tau. It falls with tau as the
        pairs' tails do, exponentially.

        Parameters
        ----------
        tau : float
            At least 0.
        task : int, optional
            Of queries of one task; of all traffic by default.

        Raises
        ------
        InputError
            If tau is negative or NaN, or no query is of the task.
        """
        self._check_tau(tau)
        values = self._tasks(self._log_pairs(tau))
        log_union = np.array([_log_sum(row) for row in values])
        what = f"a wrong task is ahead of the true one by more than {tau:.6g} in stage 1: union over wrong tasks, {_TAILS[self.tail]}"
        return self._average(log_union, task, what)

    def best(self, c: int, task: int | None = None) -> Bound:
        """Bound the probability that the true task is not among the c of least stage-1 score.

        Then at least c wrong tasks are ahead of it. With the r likeliest of them left out at least ``c - r`` are, so by Markov's
        inequality the probability is at most the sum of the others' probabilities over ``c - r``; the best r counts (r = 0 is
        ``E N / c``). In c it falls no faster than so: where both keep equally many tasks (`candidates`), `threshold` is the tighter
        one by far once a wrong task has to be ahead by several standard deviations; for small c, and tasks that hardly differ in
        stage 1, this one.

        Parameters
        ----------
        c : int
            At least 1.
        task : int, optional
            As for `threshold`.

        Raises
        ------
        InputError
            If c is below 1, or no query is of the task.
        """
        if c < 1:
            raise InputError("c", f"{c} tasks are no candidates; keep at least 1")
        values = self._tasks(self._log_pairs(0.0))
        # Sums of the least probabilities: entry j leaves out all but the j + 1 least.
        sums = np.logaddexp.accumulate(np.sort(values, axis=1), axis=1) + _ROUNDING
        wrong, log_markov = sums.shape[1], np.full(len(sums), np.inf)
        for r in range(min(c, wrong)):
            log_markov = np.minimum(log_markov, sums[:, wrong - 1 - r] - log(c - r))
        if c > wrong:
            log_markov[:] = -np.inf
        what = f"at least {c} wrong tasks are ahead of the true one in stage 1: Markov's inequality on their number, {_TAILS[self.tail]}"
        return self._average(log_markov, task, what)

    def candidates(self, tau: float, task: int | None = None) -> float:
        """An upper bound on the expected number of tasks that the threshold rule keeps, the true one included.

        Raises
        ------
        InputError
            As `threshold`.
        """
        self._check_tau(tau)
        members = self._members(task)
        kept = 1 + np.exp(self._tasks(self._log_pairs(-tau))).sum(axis=1)
        share = self.law.weights[members] / self.law.weights[members].sum()
        return float(min(share @ kept[members] * (1 + _ROUNDING), self.rule.signatures.tasks))

    def _log_pairs(self, by: float) -> Float[np.ndarray, " P"]:
        """Log of a bound on ``P(M + by <= 0)`` for every pair."""
        if self.margin is None:
            log_p = -exponent(self.mean + by, np.sqrt(2 * self.variance), 2 * self.steepest)
        else:
            moved = self.margin.shifted(by)
            log_p = tail_probability(moved).log_high if self.tail == "exact" else log_chernoff(moved)
        return outwards(log_p, accuracy(self.rule), self.rule.signatures.dimension)

    def _tasks(self, log_pairs: Float[np.ndarray, " P"]) -> Float[np.ndarray, "C wrong"]:
        """Log of a bound for every wrong task: the sum over its components, at most 0."""
        keys = self.component * self.rule.signatures.tasks + self.wrong_task
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        return np.minimum(np.logaddexp.reduceat(log_pairs, starts), 0.0).reshape(len(self.law), self.rule.signatures.tasks - 1)

    def _average(self, log_components: Float[np.ndarray, " C"], task: int | None, source: str) -> Bound:
        members = self._members(task)
        share = self.law.weights[members] / self.law.weights[members].sum()
        log_formula = float(logsumexp(np.minimum(log_components[members], 0.0), b=share)) + _ROUNDING
        return Bound(_RUNG[self.tail], Assumption.A4, log_formula, source=source, given=f"queries follow the law {self.law.name!r}")

    def _members(self, task: int | None) -> Bool[np.ndarray, " C"]:
        members = self.law.members(task)
        if not members.any():
            raise InputError("task", f"{task} has no component in the query law")
        return members

    @staticmethod
    def _check_tau(tau: float) -> None:
        if not tau >= 0:
            raise InputError("tau", f"{tau} is no distance from the least score; needs at least 0")


def _moments(
    rule: Rule, law: QueryLaw, advance: Callable[[int], None] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Component, wrong task, mean, variance and steepest weight of all pairs, without decomposing their matrices.

    ``M = z'(A_s - A_t)z + ...`` with positive semidefinite A_s, so that no eigenvalue of ``A_t - A_s`` exceeds the greatest of
    A_t, one decomposition a query component; a Bernstein bound with a larger weight is a larger bound.
    """
    signatures, known, parts = rule.signatures, accuracy(rule), []
    if law.task.min() < 0 or law.task.max() >= signatures.tasks or law.means.shape[2] != signatures.dimension:
        raise InputError("query law", f"speaks of other tasks or another dimension than the signatures ({signatures.dimension})")
    for c in range(len(law)):
        k, mean, factor = int(law.task[c]), law.means[c, 0], law.factors[c]
        own = score_forms(rule, signatures.own(k), None, mean, factor)
        t = int(np.argmin(own[2] + np.trace(own[0], axis1=1, axis2=2)))
        foes = signatures.wrong(k)
        A, b, constant = score_forms(rule, foes, None, mean, factor)
        rounding = score_rounding(rule, known, (A, b, constant), foes) + score_rounding(rule, known, own, signatures.own(k))[t]
        A, b, constant = A - own[0][t], b - own[1][t], constant - own[2][t] - rule.slack[signatures.task[foes]] - rounding
        steepest = max(0.0, float(np.linalg.eigvalsh(own[0][t])[-1])) * (1 + _ROUNDING)
        variance = 2 * np.einsum("nij,nij->n", A, A) + np.einsum("ni,ni->n", b, b)
        expected = constant + np.trace(A, axis1=1, axis2=2)
        parts.append((np.full(foes.size, c), signatures.task[foes], expected, variance, np.full(foes.size, steepest)))
        if advance is not None:
            advance(1)
    component, wrong, mean, variance, greatest = (np.concatenate(column) for column in zip(*parts, strict=True))
    return component, wrong, mean, variance, greatest


def _log_sum(values: Float[np.ndarray, " n"]) -> float:
    return float(logsumexp(values)) + _ROUNDING
