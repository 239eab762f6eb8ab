"""How large a batch of queries of one task must be, by L4 (theory/README.md, planner)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from theory.bound import Assumption, Bound
from theory.canonical import CANONICAL, log_wrong_components, rounded_up, squared_distance
from theory.errors import InputError
from theory.plans import Plan, check_target, log_goal

_BATCH = "the batch holds independent queries of one task, and the scores of a task are summed over it"
_SIGNATURES = "the bases given are upper bounds, or exact values, of L4's infima under the query law that they were computed for"
# A logarithm of a base this close to 0 is no exponent: the batch would have more queries than a float can count.
_NO_EXPONENT = 1e-300

_Terms = tuple[Float[np.ndarray, " i"], Float[np.ndarray, " i"]]


def batch_for(tasks: int, components: int, d: int, delta: float, eps: float) -> Plan:
    """The least number of queries of one task, their scores summed, for which L4 is at most `eps`.

    L4 in the canonical model: with ``l = 1/4`` each of the tau wrong components of task i contributes ``exp(-rho^2/8)`` or less,
    so ``P(error) <= (m - 1) (tau exp(-rho^2/8))^B``. Where ``tau exp(-rho^2/8) >= 1`` no batch size works by this rung.

    Parameters
    ----------
    tasks, components, d, delta
        As for `canonical_bound`.
    eps : float
        Target error, inside (0, 1).

    Raises
    ------
    InputError
        For a number out of range.
    """
    rho2 = squared_distance(d, components, delta)
    log_tasks = log_wrong_components(tasks, 1)
    check_target("eps", eps)
    base = rounded_up(math.log(components) - rho2 / 8, math.log(components), rho2 / 8)
    given = {"tasks": int(tasks), "components": int(components), "d": int(d), "delta": float(delta), "eps": float(eps)}
    note = "tau exp(-rho^2/8) is not below one, so by this rung no batch size works"
    return _batch_plan([(np.array([base]), np.array([log_tasks]))], eps, given, f"{CANONICAL}; {_BATCH}", note)


@dataclass(frozen=True)
class BatchPlans:
    """The least batch for each true task, and for all of them.

    Attributes
    ----------
    tasks : dict from task to Plan
    overall : Plan
        The batch at which every task meets the target.
    """

    tasks: dict[int, Plan]
    overall: Plan


def batch_for_signatures(log_bases: Float[np.ndarray, "m m"], eps: float, level: Assumption = Assumption.A4) -> BatchPlans:
    """The least batch of queries of one task for which L4 is at most `eps`, from the pairs of tasks of real signatures.

    ``P(error | task k) <= sum over i != k of exp(B b_ki)``, where ``b_ki`` is the logarithm of L4's infimum
    ``inf_l sum_t pi_kt sum_s E exp(l (E_kt - E_is))``.

    Parameters
    ----------
    log_bases : (m, m) array
        ``b_ki`` at ``[k, i]``; the diagonal is ignored. ``-inf`` (task i can never win) and ``inf`` (nothing known) are allowed.
    eps : float
        Target error, inside (0, 1).
    level : Assumption
        Of the bases.

    Raises
    ------
    InputError
        If the array is not square, is smaller than 2 x 2, or holds a NaN off the diagonal, or for eps outside (0, 1).
    """
    table = np.array(log_bases, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or table.shape[0] < 2:
        raise InputError("log_bases", f"has shape {table.shape}; needs (m, m) with m >= 2")
    check_target("eps", eps)
    m = table.shape[0]
    off = ~np.eye(m, dtype=bool)
    if np.isnan(table[off]).any():
        k, i = (int(j) for j in np.argwhere(np.isnan(table) & off)[0])
        raise InputError("log_bases", f"holds a NaN at task {k}, wrong task {i}; give inf where nothing is known")
    note = "a base is not below one, so by this rung no batch size works"
    assumptions = f"{_BATCH}; {_SIGNATURES}"
    terms = [(table[k, off[k]], np.zeros(m - 1)) for k in range(m)]
    plans = {k: _batch_plan([terms[k]], eps, {"task": k, "eps": float(eps)}, assumptions, note, level) for k in range(m)}
    return BatchPlans(plans, _batch_plan(terms, eps, {"eps": float(eps)}, assumptions, note, level))


def _batch_bound(terms: Sequence[_Terms], B: int, level: Assumption) -> Bound:
    """L4 for the worst of several tasks, each ``sum exp(B base + log count)`` over its terms (base, log count)."""
    source = "L4: Chernoff bound on the sum of a batch's margins, per wrong task, summed over wrong tasks"
    worst = -math.inf
    for bases, counts in terms:
        parts = float(B) * bases + counts
        top = float(parts.max())
        if math.isfinite(top):
            worst = max(worst, rounded_up(float(logsumexp(parts)), top, float(counts.max()), parts.size))
        else:
            worst = max(worst, top)
    return Bound("L4", level, worst, source=source)


def _batch_plan(
    terms: Sequence[_Terms], eps: float, given: dict[str, Any], assumptions: str, note: str, level: Assumption = Assumption.A4
) -> Plan:
    """Least B at which `_batch_bound` meets the target."""
    goal = log_goal(eps)
    question = "least batch B of queries of one task"
    greatest = max(float(bases.max()) for bases, _ in terms)
    if greatest >= -_NO_EXPONENT:
        first = _batch_bound(terms, 1, level)
        # A base of nearly one may meet a lax target with one query all the same; it then needs no exponent.
        if first.log_value > goal:
            return Plan(question, None, first, eps, given=given, assumptions=assumptions, note=f"{note}; the bound is that for one query")
    low, high = 0, 1
    while _batch_bound(terms, high, level).log_value > goal:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _batch_bound(terms, middle, level).log_value <= goal else (middle, high)
    # No query at all is no answer, so one query has no neighbour.
    below = low if low >= 1 else None
    below_bound = None if below is None else _batch_bound(terms, below, level)
    return Plan(question, high, _batch_bound(terms, high, level), eps, below, below_bound, given, assumptions)
