"""L4: Chernoff bounds on the level of tasks, for batches of queries of one task whose scores are added.

For a batch of B independent queries of task k, ``P(task i beats k) <= inf_l (sum_t pi_kt sum_s E exp(-l M_ts))^B``: a task's
score is at most that of the reference component and its exponential at most the sum over its components, and the
expectation of a product of independent factors is the product (theory/README.md, L4). The exponent is linear in B, and
at B = 1 no union over the true task's clusters is taken.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from theory.arrays import real_array
from theory.bound import LOG_IMPOSSIBLE
from theory.errors import InputError, check_whole
from theory.margin import Margins, margins
from theory.mixture import QueryLaw, Rule
from theory.quadratic import QuadraticLaw

# Golden-section steps over log l: the bracket shrinks by 0.618 each, to 1e-7 in l and so to rounding in the bound.
_STEPS = 42
_GOLDEN = (np.sqrt(5) - 1) / 2


def log_bases(rule: Rule, law: QueryLaw, found: Margins, members: Bool[np.ndarray, " C"]) -> Float[np.ndarray, " m"]:
    """Log of the base ``inf_l sum_c w_c sum_s E exp(-l M_cs)`` for each wrong task; ``-inf`` at the true one.

    Parameters
    ----------
    rule, law
        From which `found` was computed.
    found : Margins
    members : (C,) bool array
        The query components that a batch is drawn from, all of one task; their weights are normalised here.

    Returns
    -------
    (m,) array
        A base of one or more (log >= 0) bounds nothing at any batch size.
    """
    tasks = np.unique(law.task[members])
    if tasks.size != 1:
        raise InputError("members", f"belong to tasks {tasks.tolist()}; a batch holds queries of one task")
    wrong = rule.signatures.task[found.wrong]
    rows = np.flatnonzero(members[found.component] & (wrong != tasks[0]))
    rows = rows[np.argsort(wrong[rows], kind="stable")]
    log_weight = np.log(law.weights / law.weights[members].sum())
    out = np.full(rule.signatures.tasks, -np.inf)
    others = np.unique(wrong[rows])
    out[others] = _least_sums(found.margin[rows], wrong[rows], log_weight[found.component[rows]], rule.slack)
    return out


def _least_sums(
    margin: QuadraticLaw, task: Int[np.ndarray, " P"], log_weight: Float[np.ndarray, " P"], slacks: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " g"]:
    """The least sum over l of each of g tasks, whose margins lie one after another; all searches go step by step together."""
    others, start, group = np.unique(task, return_index=True, return_inverse=True)
    slack = slacks[others]
    # Margins carry the slack of rule "mixture"; a power of a sum needs less of it: none up to l = 1/2.
    law = margin.shifted(slacks[task])
    limit = np.minimum.reduceat(law.limit(), start)
    scale = np.sqrt(np.maximum.reduceat(law.variance(), start))
    sure = np.logical_and.reduceat(law.surely_positive(), start) & (slack == 0)

    def values(log_theta: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            theta = np.exp(log_theta)
            each = theta[group]
            terms = log_weight + law.log_laplace(each[:, None])[:, 0] + law.rounding(each)
            top = np.maximum.reduceat(terms, start)
            total = top + np.log(np.add.reduceat(np.exp(terms - top[group]), start)) + np.maximum(0.0, theta - 0.5) * slack
        # Beyond the limit a moment is infinite, or no number, as its allowance for rounding is: such an l bounds nothing.
        return np.where(np.isnan(total), np.inf, total)

    natural = -np.log(np.where(scale > 0, scale, 1.0))
    high = np.where(np.isfinite(limit), np.log(limit) - 1e-12, natural + 25)
    # The sum is convex in l, hence unimodal in log l; whatever the search returns is a bound.
    a, b = natural - 25, high
    x, y = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
    fx, fy = values(x), values(y)
    for _ in range(_STEPS):
        left = fx <= fy
        a, b = np.where(left, a, x), np.where(left, y, b)
        inner = np.where(left, b - _GOLDEN * (b - a), a + _GOLDEN * (b - a))
        found = values(inner)
        x, y = np.where(left, inner, y), np.where(left, x, inner)
        fx, fy = np.where(left, found, fy), np.where(left, fx, found)
    return np.where(sure, LOG_IMPOSSIBLE, np.minimum(fx, fy))


def batch_bound(bases: Float[np.ndarray, " m"], size: int) -> float:
    """Log of the union over wrong tasks of ``base^size``, each term at most one; may exceed 0.

    Raises
    ------
    InputError
        If the size is no whole number of at least 1, or there is no base.
    """
    check_whole("batch", size, 1, "a number of queries")
    bases = real_array("bases", bases)
    if bases.ndim != 1 or not (bases > -np.inf).any():
        raise InputError("bases", f"of shape {bases.shape} hold none above -inf; give a row of task_exponents")
    with np.errstate(over="ignore"):
        terms = np.maximum(np.minimum(size * bases[bases > -np.inf], 0.0), LOG_IMPOSSIBLE)
    top = terms.max()
    return float(top + np.log(np.exp(terms - top).sum()) + 1e-14 * (1 + terms.size))


def task_exponents(rule: Rule, law: QueryLaw) -> Float[np.ndarray, "m m"]:
    """`log_bases` of every true task (row) against every wrong one (column); the diagonal is ``-inf``.

    Raises
    ------
    InputError
        As `margins`.
    """
    found = margins(rule, law)
    return np.stack([log_bases(rule, law, found, law.members(k)) for k in range(rule.signatures.tasks)])
