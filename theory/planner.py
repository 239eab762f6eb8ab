"""Planning: how many samples, how much separation, how many tasks, how large a batch a target error needs.

Formulas: theory/README.md, planner.

Every answer is read off one rung in one model, the canonical one: m tasks of tau components each, every component
``N(mu, I)`` after a common whitening, every wrong component at squared Mahalanobis distance ``rho^2 = d delta`` *or more*
from the query's own, queries drawn from the signature's own components. An answer is accepted only after its bound was
evaluated, rounded up, at the answer itself.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri_exp

from theory.batch_plans import BatchPlans, batch_for, batch_for_signatures
from theory.bound import Bound
from theory.canonical import (
    CANONICAL,
    PLANNED_RUNGS,
    canonical_bound,
    canonical_rung,
    check_dimension,
    check_rung,
    log_wrong_components,
    squared_distance,
)
from theory.errors import InputError, check_whole
from theory.frames import data_frame
from theory.plans import Plan, check_target, log_goal
from theory.plug_in import plug_in_pairs

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "PLANNED_RUNGS",
    "BatchPlans",
    "Plan",
    "batch_for",
    "batch_for_signatures",
    "canonical_bound",
    "plan_frame",
    "plug_in_canonical",
    "samples_per_cluster",
    "separation_for",
    "tasks_for",
]

_PLUG_IN = (
    "the rule scores with the mean and unbiased covariance of n independent samples of each component, rightly assigned "
    "to it, independent of each other and of the query, and with no mixture weights; error is averaged over the draw of "
    "these samples and of the query"
)

# Answers are rounded to this many significant digits, so that a printed separation is the one that was checked.
_DIGITS = 6
# Below this separation the question "how little is enough" is answered "any".
_LEAST_SEPARATION = 1e-12
_MOST_SAMPLES = 10**12


def separation_for(tasks: int, components: int, d: int, eps: float, rung: str = "L5") -> Plan:
    """The least separation at which a rung is at most `eps`, rounded up to six significant digits.

    L1 solves ``(X - c)^2 = (4 d + 8 X) t`` for ``X = rho^2``, ``c = 2 sqrt(d t) + 2 t``, ``t = log(N / eps)``:
    ``X = c + 4 t + sqrt(8 c t + 16 t^2 + 4 d t)``. L3 gives ``rho^2 = 8 log((N - 1) / eps)``, L5 ``rho = -2 Phi^-1(eps / (N - 1))``.

    Parameters
    ----------
    tasks, components, d, rung
        As for `canonical_bound`.
    eps : float
        Target error, inside (0, 1).

    Raises
    ------
    InputError
        For an unknown rung or a number out of range.
    """
    check_dimension(d)
    check_target("eps", eps)
    rung = check_rung(rung)
    log_wrong = log_wrong_components(tasks, components)
    goal = log_goal(eps)
    if rung == "L1":
        t = float(np.logaddexp(0.0, log_wrong)) - goal
        c = 2 * math.sqrt(d * t) + 2 * t
        rho2 = c + 4 * t + math.sqrt(8 * c * t + 16 * t**2 + 4 * d * t)
    elif rung == "L3":
        rho2 = 8 * (log_wrong - goal)
    else:
        rho2 = 4 * min(0.0, float(ndtri_exp(min(goal - log_wrong, -1e-300)))) ** 2
    found = _least_decimal(lambda x: canonical_rung(rung, d, log_wrong, d * x).log_value <= goal, rho2 / d)
    below = None if found.below is None else canonical_rung(rung, d, log_wrong, d * found.below)
    return Plan(
        question="least separation delta",
        answer=found.value,
        bound=canonical_rung(rung, d, log_wrong, d * found.value),
        target=eps,
        neighbour=found.below,
        neighbour_bound=below,
        given={"tasks": int(tasks), "components": int(components), "d": int(d), "eps": float(eps)},
        assumptions=CANONICAL,
        note="" if below else "any positive separation is enough",
    )


def tasks_for(delta: float, d: int, components: int, eps: float, rung: str = "L5") -> Plan:
    """The greatest number of tasks that a separation holds: ``N = 1 + (m - 1) tau`` solved for m, rounded down.

    The bound is rounded up before it is compared, which takes about one task in 10^11.

    Parameters
    ----------
    delta, d, components, rung
        As for `canonical_bound`.
    eps : float
        Target error, inside (0, 1).

    Raises
    ------
    InputError
        For an unknown rung or a number out of range.
    """
    rho2 = squared_distance(d, components, delta)
    check_target("eps", eps)
    rung = check_rung(rung)
    goal = log_goal(eps)

    def bound(m: int) -> Bound:
        return canonical_rung(rung, d, log_wrong_components(m, components), rho2)

    pair = canonical_rung(rung, d, 0.0, rho2).log_formula
    # L1 multiplies N, L3 and L5 multiply N - 1; `pair` is their value at N - 1 = 1.
    log_ratio = goal - pair + (math.log(2) if rung == "L1" else 0.0)
    given = {"delta": float(delta), "d": int(d), "components": int(components), "eps": float(eps)}
    question = "greatest number of tasks m"
    if log_ratio >= math.log(sys.float_info.max):
        size = (log_ratio - math.log(components)) / math.log(10)
        note = f"about 10^{size:.6g} tasks, more than a float can hold; the value is that for the largest float"
        return Plan(question, math.inf, bound(int(sys.float_info.max) // components), eps, given=given, assumptions=CANONICAL, note=note)
    wrong = math.floor(math.exp(log_ratio)) - (1 if rung == "L1" else 0)
    m = max(1, 1 + wrong // components)
    # The estimate is off by rounding only: step to where the rounded bound itself holds, and no further.
    step = max(1, m >> 44)
    while m >= 2 and bound(m).log_value > goal:
        m -= step
    while bound(m + step).log_value <= goal:
        m += step
    if m < 2:
        note = "not even two tasks hold at this separation by this rung; the bound is that for two"
        return Plan(question, None, bound(2), eps, given=given, assumptions=CANONICAL, note=note)
    return Plan(question, m, bound(m), eps, m + step, bound(m + step), given, CANONICAL)


def samples_per_cluster(d: int, tasks: int, components: int, delta: float, eps: float) -> Plan:
    """The least number n of samples per cluster at which the plug-in signature's expected error is proved to be at most `eps`.

    Relies on `plug_in_canonical`, which is proved and not sharp: fewer samples may do. Found by doubling and bisection.
    The bound is a minimum over a fixed search and is not proved to fall with n; what is checked is that n meets the target
    and n - 1 does not.

    Parameters
    ----------
    d, tasks, components, delta
        As for `canonical_bound`.
    eps : float
        Target error, inside (0, 1), in expectation over the samples and the query.

    Raises
    ------
    InputError
        For a number out of range.
    """
    rho2 = squared_distance(d, components, delta)
    log_wrong = log_wrong_components(tasks, components)
    check_target("eps", eps)
    goal = log_goal(eps)
    limit = canonical_rung("L5", d, log_wrong, rho2)
    seen: dict[int, Bound] = {}

    def bound(n: int) -> Bound:
        if n not in seen:
            seen[n] = plug_in_pairs(n, d, log_wrong, rho2)
        return seen[n]

    given = {"d": int(d), "tasks": int(tasks), "components": int(components), "delta": float(delta), "eps": float(eps)}
    question = "least samples per cluster n"
    assumptions = f"{CANONICAL}; {_PLUG_IN}"
    if limit.log_value > goal:
        note = "not met by the true signature, the limit as n grows, whose value this is; no number of samples is shown to do"
        return Plan(question, None, limit, eps, given=given, assumptions=assumptions, note=note)
    below, step = d, 1
    while bound(min(d + step, _MOST_SAMPLES)).log_value > goal:
        below = d + step
        step *= 2
        if below >= _MOST_SAMPLES:
            note = f"not met by {_MOST_SAMPLES} samples per cluster, whose value this is; as n grows it falls to {limit.value:.6g}"
            return Plan(question, None, bound(_MOST_SAMPLES), eps, given=given, assumptions=assumptions, note=note)
    n = min(d + step, _MOST_SAMPLES)
    while n - below > 1:
        middle = (below + n) // 2
        if bound(middle).log_value <= goal:
            n = middle
        else:
            below = middle
    # n = d leaves the covariance singular: nothing cheaper than d + 1 exists.
    cheaper = n - 1 if n > d + 1 else None
    note = f"as n grows the value falls to that of the true signature, {limit.value:.3g} (L5)"
    return Plan(question, n, bound(n), eps, cheaper, None if cheaper is None else bound(cheaper), given, assumptions, note)


def plug_in_canonical(n: int, d: int, tasks: int, components: int, delta: float) -> Bound:
    """A bound on the expected error of signatures estimated from n samples per component, in the canonical model.

    Each component is scored by the mean and unbiased covariance S of its n samples. Let y be the query less a component's
    sample mean. Then ``C = (n - 1) |y|^2 / (y' S^-1 y)`` is chi-square with ``n - d`` degrees of freedom, ``det S`` is
    ``C exp(R) / (n - 1)^d`` with ``exp(R)`` a product of independent chi-squares of ``n - 1, ..., n - d + 1`` degrees (Bartlett, with
    y along an axis), and y, C and R are independent. For the own and a wrong component, ``(y_o, y_w)`` is Gaussian:
    per coordinate each has variance ``s = 1 + 1/n``, their covariance is 1, and y_w has a mean of length rho. With
    ``alpha = (n - 1) / C`` an error implies, for some wrong component,

        ``alpha_w |y_w|^2 + log C_w + R_w  <=  alpha_o |y_o|^2 + log C_o + R_o``.

    C_o and C_w are cut into intervals. Given a cell, a pair of intervals, alpha and log C are replaced by their worst values
    there, and the probability p of what is left is bounded in two ways, of which the smaller counts. The sum of p over wrong
    components, averaged over C_w, is clipped at one for each interval of C_o and averaged over these, the probabilities of
    intervals being bounded by Stirling's inequality, ``Gamma(a) >= sqrt(2 pi / a) (a / e)^a``, and by their sum of one.

    *Chernoff* (L3): with ``D = 1 - 2 theta s (alpha_o - alpha_w) - 4 theta^2 alpha_o alpha_w (s^2 - 1)``,
    ``log E exp(-theta (alpha_w |y_w|^2 - alpha_o |y_o|^2)) = -(d/2) log D - theta rho^2 alpha_w (1 - 2 theta alpha_o s) / D``, where D is
    positive for ``2 theta alpha_o s < 1``, as ``(1 - 2 theta alpha_o s) (1 + 2 theta alpha_w s) + 4 theta^2 alpha_o alpha_w``, and the
    factor of rho^2 negative. R_o and R_w enter by their log-MGFs.

    *Half-space* (L5): five things fail with probability ``exp(-L)`` at most each, those of wrong components together:
    ``|y_o|^2 <= r``; ``R_o <= b_o``; ``R_w >= b_w``; and for ``x = y_w - y_o``, Gaussian around a vector of length rho with variance
    ``2/n`` per coordinate, the component along it is ``>= h``, and the square of the rest ``<= q``. An error then implies
    ``|y_w|^2 - |y_o|^2 <= eta``, ``eta = (max(0, alpha_o - alpha_w) r + log C_o - log C_w + b_o - b_w) / alpha_w``, or 0 if that is
    negative. Given x this is a half-space of ``(y_w + y_o) / 2``, which is independent of x, has variance ``sigma^2 = 1 + 1/(2 n)``
    per coordinate, and half of x's mean. So ``p <= Phi((eta / h - rho h / sqrt(h^2 + q)) / (2 sigma))``.

    Both fall as rho grows (h does grow), so wrong components may lie farther away. As n grows the first becomes the
    Bhattacharyya coefficient and the second ``Phi(-rho/2)``, so that the bound falls to L5 at the true signature.

    Parameters
    ----------
    n : int
        Samples per component, at least ``d + 1``.
    d, tasks, components, delta
        As for `canonical_bound`.

    Raises
    ------
    InputError
        For a number out of range.
    """
    rho2 = squared_distance(d, components, delta)
    log_wrong = log_wrong_components(tasks, components)
    check_whole("n", n, d + 1, f"the unbiased covariance of n <= d = {d} samples is singular")
    if n > _MOST_SAMPLES:
        raise InputError("n", f"{n} exceeds {_MOST_SAMPLES}; give fewer samples")
    return plug_in_pairs(n, d, log_wrong, rho2)


def plan_frame(planner: Callable[..., Plan], **settings: Any) -> pd.DataFrame:
    """A planner's answers over a grid: every setting that is a sequence is swept, all combinations in order.

    Parameters
    ----------
    planner : callable
        `separation_for`, `tasks_for`, `samples_per_cluster` or `batch_for`.
    **settings
        Its arguments, each one value or a sequence of values.

    Returns
    -------
    DataFrame
        One row per combination: the inputs, then answer (float64; NaN if there is none), rung, level, value, neighbour,
        neighbour_value and note.

    Examples
    --------
    ``plan_frame(separation_for, tasks=[2, 5, 10, 100, 1000], components=3, d=[16, 384], eps=0.01, rung=["L1", "L5"])``
    """
    swept = {name: list(value) if _is_sequence(value) else [value] for name, value in settings.items()}
    empty = [name for name, values in swept.items() if not values]
    if empty:
        raise InputError(empty[0], "is an empty sequence; give at least one value")
    rows = []
    for values in itertools.product(*swept.values()):
        plan = planner(**dict(zip(swept, values, strict=True)))
        fields = plan.to_dict()
        shown = {name: fields[name] for name in ("rung", "level", "value", "neighbour", "neighbour_value", "note")}
        rows.append({**plan.given, "answer": math.nan if plan.answer is None else float(plan.answer), **shown})
    return data_frame(rows).astype(dict.fromkeys(("answer", "value", "neighbour", "neighbour_value"), "float64"))


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)


@dataclass(frozen=True)
class _Decimal:
    value: float
    below: float | None


def _least_decimal(holds: Callable[[float], bool], guess: float) -> _Decimal:
    """The least positive number of `_DIGITS` significant digits that holds, for a property that holds from about `guess` on."""
    if guess <= _LEAST_SEPARATION:
        return _Decimal(_LEAST_SEPARATION, None)
    power = math.floor(math.log10(guess)) - _DIGITS + 1

    def at(k: int) -> float:
        # Read from text, so that the float is the one nearest to the decimal.
        return float(f"{k}e{power}")

    k = math.ceil(guess / 10.0**power)
    while not holds(at(k)):
        k += 1
    while holds(at(k - 1)):
        k -= 1
    return _Decimal(at(k), at(k - 1))
