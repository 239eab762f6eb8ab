"""Retrieval in two stages: how often a cheap first stage prunes the task that the full search would have found.

Stage 1 scores all m tasks in one cheap shared space; stage 2 looks at candidates only. Four ways of choosing them, each with one
parameter, and each keeping more the larger it is:

=========== ================================================================================================
threshold   every task whose stage-1 score is within `parameter` of the least
best        the `parameter` tasks of least stage-1 score
adaptive    one after the other in the order of stage 1, until the next one, if stage 2 changed its score as it
            changed the first one's, would exceed the least final score so far by more than `parameter`
absolute    the same if stage 2 changed no score: until the next one's stage-1 score exceeds the least final
            score so far by more than `parameter`
=========== ================================================================================================

`Pruning.calibrate` certifies the loss from held-out queries, without a query law: ``error(cascade) <= error(full search) + loss``.
What a query law says before any query is seen: `theory.pruning_law`.

Proofs: theory/README.md, pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log, log1p
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from theory.bound import Assumption, Bound, nothing_known
from theory.certificates import upper_limit
from theory.conformal import conformal_confidence, conformal_threshold
from theory.errors import InputError
from theory.mixture import Rule

Kind = Literal["threshold", "best", "adaptive", "absolute"]


def least_score(rule: Rule) -> float:
    """The score that no task can go below, whatever the input: distances are at least 0, so the least offset (less the slack).

    ``-inf`` with a background, which scores are relative to.
    """
    return -np.inf if rule.background is not None else float((rule.offsets - rule.slack[rule.signatures.task]).min())


def parameter_needed(
    kind: Kind, stage_one: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " n"]:
    """The least parameter with which each query keeps the task that the full search finds.

    The candidates grow with the parameter, so a query is lost for every smaller parameter and for no larger one: one number a query
    says all of a family of rules.

    Parameters
    ----------
    kind : {"threshold", "best", "adaptive", "absolute"}
    stage_one : (n, m) array
        Stage-1 scores; the least is the best.
    full : (n, m) array
        Final scores of all tasks, which only the full search knows.
    task : (n,) int array, optional
        True tasks. If given, only the loss of right answers counts: ``-inf`` where the full search is wrong.

    Raises
    ------
    InputError
        If the kind is unknown, shapes disagree, a score is NaN or infinite, or a task is unknown.
    """
    stage_one, full = _checked(kind, stage_one, full)
    n, m = full.shape
    rows, index = np.arange(n), np.arange(m)
    answer = full.argmin(axis=1)
    own = stage_one[rows, answer]
    ahead = (stage_one < own[:, None]) | ((stage_one == own[:, None]) & (index < answer[:, None]))
    if kind == "threshold":
        needed = own - stage_one.min(axis=1)
    elif kind == "best":
        needed = 1.0 + ahead.sum(axis=1)
    else:
        needed = own + _added(kind, stage_one, full) - np.where(ahead, full, np.inf).min(axis=1)
    if task is None:
        return needed
    task = np.asarray(task)
    if task.shape != (n,) or not np.issubdtype(task.dtype, np.integer) or task.min() < 0 or task.max() >= m:
        raise InputError("task", f"needs one integer from 0 to {m - 1} for each of {n} queries")
    return np.where(answer == task, needed, -np.inf)


@dataclass(frozen=True)
class Pruning:
    """A rule that chooses candidates, and what is known of its loss; build with `calibrate`, `given` or `lossless`.

    Attributes
    ----------
    kind : {"threshold", "best", "adaptive", "absolute"}
    parameter : float
        Infinite: nothing is pruned.
    loss : Bound
        On the probability that the answer of the full search is pruned (with true tasks: a right one). The error of the cascade exceeds
        that of the full search by at most so much.
    """

    kind: Kind
    parameter: float
    loss: Bound

    @classmethod
    def calibrate(
        cls,
        kind: Kind,
        stage_one: Float[np.ndarray, "n m"],
        full: Float[np.ndarray, "n m"],
        alpha: float,
        confidence: float | None = 0.95,
        task: Int[np.ndarray, " n"] | None = None,
    ) -> Pruning:
        """The least parameter whose loss is certified to be at most `alpha`, from held-out queries that were searched in full (A0).

        The queries must have had no part in either stage, and be draws from the traffic that the statement is about. The parameter is an
        order statistic of `parameter_needed`. That is also what Learn-then-Test (Angelopoulos et al. 2021) finds if it tests all
        parameters from the largest down, each by a binomial tail at level ``1 - confidence``, and stops at the first that it cannot
        certify: losses only grow on the way, so no correction for the number of tests is needed, and the choice costs nothing.
        With a confidence of at least 0.75 the queries may also be drawn in fixed numbers from several tasks: the statement is then about
        traffic in these proportions (as for `theory.certificates.upper_limit`).

        Parameters
        ----------
        kind : {"threshold", "best", "adaptive", "absolute"}
            Fixed before the queries are seen.
        stage_one, full : (n, m) arrays
            As for `parameter_needed`.
        alpha : float
            The loss that may be, inside (0, 1).
        confidence : float, optional
            Probability, over the held-out queries, with which the loss is at most alpha (0.95). With None the statement is marginal:
            a fresh query's answer is lost with probability at most alpha over its draw and that of the held-out queries together.
        task : (n,) int array, optional
            True tasks: then only right answers of the full search can be lost, which is less.

        Raises
        ------
        InputError
            If a level is out of range, the queries are too few for it, or as `parameter_needed`.
        """
        if not 0 < alpha < 1:
            raise InputError("alpha", f"{alpha} is not inside (0, 1)")
        if confidence is not None and not 0 < confidence < 1:
            raise InputError("confidence", f"{confidence} is not inside (0, 1)")
        needed = parameter_needed(kind, stage_one, full, task)
        n, beta = needed.size, None if confidence is None else 1 - confidence
        if n < queries_needed(alpha, confidence):
            level = "" if confidence is None else f" at confidence {confidence:g}"
            raise InputError(
                "queries", f"are {n}; a loss of at most {alpha:g}{level} needs at least {queries_needed(alpha, confidence)} held-out ones"
            )
        parameter = conformal_threshold(needed, alpha, beta)
        # No less than what keeps the first task of stage 1.
        parameter = max(parameter, {"threshold": 0.0, "best": 1.0, "adaptive": -np.inf, "absolute": -np.inf}[kind])
        certified = alpha if beta is None else min(alpha, upper_limit(n - conformal_confidence(n, alpha, beta), n, beta))
        right = "right " if task is not None else ""
        loss = Bound(
            "L8",
            Assumption.A0,
            log(certified),
            source=f"order statistic of {n} held-out queries: the {right}answer of the full search is pruned, rule {kind!r}",
            confidence=confidence,
            note="marginal: over the held-out queries and a fresh one together" if confidence is None else "",
        )
        return cls(kind, float(parameter), loss)

    @classmethod
    def given(cls, kind: Kind, parameter: float) -> Pruning:
        """A parameter chosen otherwise; count `lost` on queries that did not choose it, and certify with `theory.certificate`.

        Raises
        ------
        InputError
            If the kind is unknown or the parameter NaN, or would keep no task.
        """
        if kind not in get_args(Kind):
            raise InputError("kind", f"{kind!r} is unknown; choose {', '.join(get_args(Kind))}")
        least = {"threshold": 0.0, "best": 1.0, "adaptive": -np.inf, "absolute": -np.inf}[kind]
        if not parameter >= least:
            raise InputError("parameter", f"{parameter} leaves no candidate for rule {kind!r}; needs at least {least:g}")
        if parameter == np.inf:
            return cls(kind, parameter, _no_loss("nothing is pruned"))
        return cls(kind, float(parameter), nothing_known("L8", Assumption.A0, "the loss of this parameter was not measured"))

    @classmethod
    def lossless(cls, floor: float) -> Pruning:
        """The rule "absolute" that loses nothing, where a final score is at least the stage-1 score plus `floor`, whatever the input.

        So it is where stage 2 adds an energy: `least_score` of its rule is that floor. A task that is not looked at then scores above
        the best one seen, and no statistics is needed.

        Raises
        ------
        InputError
            If the floor is NaN or infinite.
        """
        if not np.isfinite(floor):
            raise InputError("floor", f"{floor} is no least score; calibrate the rule instead")
        # A little further, for the rounding of sums of scores.
        parameter = -floor + 1e-9 * (1 + abs(floor))
        return cls("absolute", parameter, _no_loss(f"every final score exceeds its stage-1 score by at least {floor:.6g}"))

    def visited(self, stage_one: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"]) -> Bool[np.ndarray, "n m"]:
        """The tasks that each query looks at.

        Raises
        ------
        InputError
            As `parameter_needed`.
        """
        stage_one, full = _checked(self.kind, stage_one, full)
        if self.kind in ("threshold", "best"):
            return self.kept(stage_one)
        order = np.argsort(stage_one, axis=1, kind="stable")
        before = np.full(full.shape, np.inf)
        before[:, 1:] = np.minimum.accumulate(np.take_along_axis(full, order, axis=1), axis=1)[:, :-1]
        out = np.empty(full.shape, dtype=bool)
        following = np.take_along_axis(stage_one, order, axis=1)
        np.put_along_axis(out, order, ~self.settled(following, before, _added(self.kind, stage_one, full)[:, None]), axis=1)
        return out

    def kept(self, stage_one: Float[np.ndarray, "n m"]) -> Bool[np.ndarray, "n m"]:
        """The candidates of rules that need no final score to choose them: "threshold" and "best"."""
        if self.kind == "threshold":
            return stage_one - stage_one.min(axis=1, keepdims=True) <= self.parameter
        out = np.zeros(stage_one.shape, dtype=bool)
        count = int(min(self.parameter, stage_one.shape[1]))
        np.put_along_axis(out, np.argsort(stage_one, axis=1, kind="stable")[:, :count], True, axis=1)
        return out

    def settled(
        self, following: Float[np.ndarray, "..."], least: Float[np.ndarray, "..."], added: Float[np.ndarray, "..."]
    ) -> Bool[np.ndarray, "..."]:
        """Whether a rule that stops by itself ("adaptive", "absolute") does so.

        Once true it stays true: the next stage-1 score grows and the least final score falls.

        Parameters
        ----------
        following : array
            Stage-1 score of the next candidate.
        least : array
            The least final score so far, infinite before the first.
        added : array
            Final less stage-1 score of the first candidate, once known; "absolute" makes no use of it.
        """
        return following + (added if self.kind == "adaptive" else 0.0) - least > self.parameter

    def lost(
        self, stage_one: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"], task: Int[np.ndarray, " n"] | None = None
    ) -> Bool[np.ndarray, " n"]:
        """Whether the answer of the full search is pruned (with true tasks: if it is right); `parameter_needed` tells the arguments."""
        return parameter_needed(self.kind, stage_one, full, task) > self.parameter


def _added(kind: Kind, stage_one: Float[np.ndarray, "n m"], full: Float[np.ndarray, "n m"]) -> Float[np.ndarray, " n"]:
    """What stage 2 adds to the score of the first task in the order of stage 1; 0 for rules that make no use of it."""
    if kind != "adaptive":
        return np.zeros(len(full))
    rows, first = np.arange(len(full)), stage_one.argmin(axis=1)
    return full[rows, first] - stage_one[rows, first]


def queries_needed(alpha: float, confidence: float | None = 0.95) -> int:
    """The fewest held-out queries from which a loss of at most alpha can be certified (`Pruning.calibrate`).

    ``ln(1 - confidence) / ln(1 - alpha)`` without a loss among them, and ``1/alpha - 1`` for the marginal statement, rounded up.

    Raises
    ------
    InputError
        If a level is outside (0, 1).
    """
    for name, level in (("alpha", alpha), ("confidence", confidence)):
        if level is not None and not 0 < level < 1:
            raise InputError(name, f"{level} is not inside (0, 1)")
    if confidence is None:
        n = max(0, ceil(1 / alpha) - 2)
        while conformal_threshold(np.zeros(n), alpha) == np.inf:
            n += 1
        return n
    n = max(1, int(log(1 - confidence) / log1p(-alpha)) - 1)
    while conformal_confidence(n, alpha, 1 - confidence) > n:
        n += 1
    return n


def _no_loss(why: str) -> Bound:
    return Bound("L8", Assumption.A0, -np.inf, source=why, note="holds for every input, without any law")


def _checked(kind: Kind, stage_one: np.ndarray, full: np.ndarray) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
    if kind not in get_args(Kind):
        raise InputError("kind", f"{kind!r} is unknown; choose {', '.join(get_args(Kind))}")
    stage_one, full = np.asarray(stage_one, dtype=np.float64), np.asarray(full, dtype=np.float64)
    for name, scores in (("stage_one", stage_one), ("full", full)):
        if scores.ndim != 2 or 0 in scores.shape:
            raise InputError(name, f"has shape {scores.shape}; needs a row for each query, a column for each task")
        bad = ~np.isfinite(scores)
        if bad.any():
            raise InputError(name, f"holds {int(bad.sum())} NaN or infinite values; remove or mend them")
    if stage_one.shape != full.shape:
        raise InputError("full", f"has shape {full.shape}, and stage_one {stage_one.shape}; needs the same queries and tasks")
    return stage_one, full
