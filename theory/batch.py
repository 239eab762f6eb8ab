"""L4: Chernoff bounds on the level of tasks, for batches of queries of one task whose scores are added.

For a batch of B independent queries of task k, ``P(task i beats k) <= inf_l (sum_t pi_kt sum_s E exp(-l M_ts))^B``: a task's
score is at most that of the reference component and its exponential at most the sum over its components, and the
expectation of a product of independent factors is the product (theory/README.md, L4). The exponent is linear in B, and
at B = 1 no union over the true task's clusters is taken.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from theory.bound import LOG_IMPOSSIBLE
from theory.errors import InputError
from theory.margin import Margins, margins
from theory.mixture import QueryLaw, Rule

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
    log_weight = np.log(law.weights / law.weights[members].sum())
    out = np.full(rule.signatures.tasks, -np.inf)
    task = rule.signatures.task[found.wrong]
    for i in range(rule.signatures.tasks):
        if i != tasks[0]:
            rows = np.flatnonzero(members[found.component] & (task == i))
            out[i] = _log_base(found, rows, log_weight[found.component[rows]], float(rule.slack[i]))
    return out


def _log_base(found: Margins, rows: np.ndarray, log_weight: np.ndarray, slack: float) -> float:
    # Margins carry the slack of rule "mixture"; a power of a sum needs less of it: none up to l = 1/2.
    law = found.margin[rows].shifted(slack)
    sure = law.surely_positive()

    def value(log_theta: float) -> float:
        theta = np.full(len(law), np.exp(log_theta))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            terms = log_weight + law.log_laplace(theta[:, None])[:, 0] + law.rounding(theta)
        if np.isnan(terms).any():
            return np.inf
        top = terms.max()
        if not np.isfinite(top):
            return float(top)
        return float(top + np.log(np.exp(terms - top).sum()) + max(0.0, np.exp(log_theta) - 0.5) * slack)

    limit = float(law.limit().min())
    scale = float(np.sqrt(law.variance()).max())
    natural = 1 / scale if scale > 0 else 1.0
    low = np.log(natural) - 25
    high = np.log(limit) - 1e-12 if np.isfinite(limit) else np.log(natural) + 25
    if high <= low:
        low = high - 25
    if sure.all() and slack == 0:
        return float(LOG_IMPOSSIBLE)
    # The sum is convex in l, hence unimodal in log l; whatever the search returns is a bound.
    a, b = low, high
    x, y = b - _GOLDEN * (b - a), a + _GOLDEN * (b - a)
    fx, fy = value(x), value(y)
    for _ in range(_STEPS):
        if fx <= fy:
            b, y, fy = y, x, fx
            x = b - _GOLDEN * (b - a)
            fx = value(x)
        else:
            a, x, fx = x, y, fy
            y = a + _GOLDEN * (b - a)
            fy = value(y)
    return min(fx, fy)


def batch_bound(bases: Float[np.ndarray, " m"], size: int) -> float:
    """Log of the union over wrong tasks of ``base^size``, each term at most one; may exceed 0.

    Raises
    ------
    InputError
        If the size is not at least 1.
    """
    if size < 1:
        raise InputError("batch", f"{size} is no batch size; needs at least 1")
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
