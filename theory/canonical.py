"""The canonical model of the planner and the curves: one covariance, one distance, rungs in closed form (theory/README.md, planner)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import log_ndtr

from theory.bound import Assumption, Bound
from theory.errors import InputError, check_whole
from theory.tails import exponent

PLANNED_RUNGS = ("L1", "L3", "L5")
CANONICAL = (
    "canonical model: after one common whitening every component, and the query in every embedding, has the identity "
    "covariance; the query's mean is that of its own component, and every wrong component lies at squared distance d delta or "
    "more from it; whether so many components fit at that distance in a bounded region is not checked"
)
# Largest squared distance: beyond it sums of squares leave the floats.
_FARTHEST = 1e100
# Greatest dimension that is looked at.
_MOST_DIMENSIONS = 10**6
# Relative allowance for rounding in sums of logarithms.
_ULPS = 1e-14


def canonical_bound(rung: str, d: int, tasks: int, components: int, delta: float) -> Bound:
    """One rung of the ladder in the canonical model, in closed form.

    With ``rho^2 = d delta`` and ``N = 1 + (m - 1) tau``: L1 is ``N exp(-t*)``, with t* the largest t for which
    ``rho^2 >= 2 sqrt(d t) + 2 t + sqrt(2 V t)``, ``V = 2 d + 4 rho^2``; L3 the Bhattacharyya sum ``(N - 1) exp(-rho^2/8)``; L5
    the exact sum ``(N - 1) Phi(-rho/2)``. All three fall as rho grows, so they hold for wrong components that lie
    farther away, too. For L1: at equality ``rho >= (2 + sqrt 2) sqrt t``, where the left side grows faster in rho^2 than the
    right.

    Parameters
    ----------
    rung : {"L1", "L3", "L5"}
    d : int
        Embedding dimension.
    tasks, components : int
        The number m of tasks, and the number tau of components of each.
    delta : float
        Separation ``E Q / d - 1`` of the wrong components.

    Raises
    ------
    InputError
        For an unknown rung or a number out of range.
    """
    rho2 = squared_distance(d, components, delta)
    return canonical_rung(check_rung(rung), d, log_wrong_components(tasks, components), rho2)


def check_dimension(d: int) -> None:
    """Refuse what is no dimension, or one beyond what is looked at."""
    check_whole("d", d, 1, "an embedding dimension", _MOST_DIMENSIONS)


def check_rung(rung: str) -> str:
    """Refuse a rung that has no closed form here."""
    if rung not in PLANNED_RUNGS:
        raise InputError("rung", f"{rung!r} is unknown; give one of {', '.join(PLANNED_RUNGS)}")
    return rung


def squared_distance(d: int, components: int, delta: float) -> float:
    """Check dimension, components and separation; returns ``rho^2 = d delta``, rounded down."""
    check_dimension(d)
    check_whole("components", components, 1)
    if isinstance(delta, bool) or not isinstance(delta, int | float | np.number) or not delta > 0:
        raise InputError("delta", f"{delta!r} is not a positive separation")
    if not d * float(delta) <= _FARTHEST:
        raise InputError("delta", f"{delta!r} times d = {d} exceeds {_FARTHEST:g}; give a smaller separation")
    return math.nextafter(int(d) * float(delta), 0.0)


def log_wrong_components(tasks: int, components: int) -> float:
    """``log(N - 1)``, the number of wrong components."""
    check_whole("tasks", tasks, 2, "retrieval needs at least two tasks")
    check_whole("components", components, 1)
    return math.log((int(tasks) - 1) * int(components))


def rounded_up(total: float, *parts: float) -> float:
    """A sum of logarithms, rounded up by an allowance for its parts."""
    return total + _ULPS * (1 + sum(abs(part) for part in parts))


def canonical_rung(rung: str, d: int, log_wrong: float, rho2: float) -> Bound:
    """`canonical_bound`, of checked arguments; `log_wrong` is the logarithm of the number of wrong components."""
    if rung == "L1":
        t = float(exponent(np.asarray(rho2), 2 * math.sqrt(d) + math.sqrt(2 * (2 * d + 4 * rho2)), 2.0))
        log_n = float(np.logaddexp(0.0, log_wrong))
        source = "L1, N exp(-t*): T1 on the own distance, T2 on every wrong one, one exponent"
        return Bound("L1", Assumption.A2, rounded_up(log_n - t, log_n, t), source=source)
    if rung == "L3":
        source = "L3, (N - 1) exp(-rho^2/8): Bhattacharyya coefficient of each pair, summed over wrong components"
        return Bound("L3", Assumption.A4, rounded_up(log_wrong - rho2 / 8, log_wrong, rho2 / 8), source=source)
    tail = float(log_ndtr(-math.sqrt(rho2) / 2))
    source = "L5, (N - 1) Phi(-rho/2): exact probability of each pair, summed over wrong components"
    return Bound("L5", Assumption.A4, rounded_up(log_wrong + tail, log_wrong, tail), source=source)
