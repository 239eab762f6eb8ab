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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, logsumexp, ndtri_exp

from theory.bound import Assumption, Bound
from theory.errors import InputError
from theory.frames import data_frame
from theory.plug_in import plug_in_pairs
from theory.tails import exponent

if TYPE_CHECKING:
    import pandas as pd

PLANNED_RUNGS = ("L1", "L3", "L5")

_CANONICAL = (
    "canonical model: after one common whitening every component, and the query in every embedding, has the identity "
    "covariance; the query's mean is that of its own component, and every wrong component lies at squared distance d delta or "
    "more from it; whether so many components fit at that distance in a bounded region is not checked"
)
_PLUG_IN = (
    "the rule scores with the mean and unbiased covariance of n independent samples of each component, rightly assigned "
    "to it, independent of each other and of the query, and with no mixture weights; error is averaged over the draw of "
    "these samples and of the query"
)
_BATCH = "the batch holds independent queries of one task, and the scores of a task are summed over it"
_SIGNATURES = "the bases given are upper bounds, or exact values, of L4's infima under the query law that they were computed for"

# Answers are rounded to this many significant digits, so that a printed separation is the one that was checked.
_DIGITS = 6
# Below this separation the question "how little is enough" is answered "any".
_LEAST_SEPARATION = 1e-12
# Largest squared distance: beyond it sums of squares leave the floats.
_FARTHEST = 1e100
# Greatest dimension, and most samples per cluster, that are looked at.
_MOST_DIMENSIONS = 10**6
_MOST_SAMPLES = 10**12
# A logarithm of a base this close to 0 is no exponent: the batch would have more queries than a float can count.
_NO_EXPONENT = 1e-300
# Relative allowance for rounding in sums of logarithms.
_ULPS = 1e-14


@dataclass(frozen=True)
class Plan:
    """An answer, the bound that it rests on, and the next cheaper answer with the bound that rules it out.

    Parameters
    ----------
    question : str
        What was asked.
    answer : int or float, optional
        The least (for numbers of tasks the greatest) value at which `bound` meets the target; ``inf`` if it exceeds
        the largest float; None if there is none.
    bound : Bound
        At the answer; where there is none, the best value within reach, and `note` says where.
    target : float
        The error asked for.
    neighbour : int or float, optional
        The next cheaper answer, at which the same statement misses the target; None if nothing cheaper exists.
    neighbour_bound : Bound, optional
        The bound there.
    given : mapping
        The inputs.
    assumptions : str
        What the answer assumes, besides what the bound's level says.
    note : str
        Why there is no answer, or what else to know.

    Raises
    ------
    ValueError
        If the bound at an answer exceeds the target, or the bound at the neighbour does not: such a plan cannot be built.
    """

    question: str
    answer: int | float | None
    bound: Bound
    target: float
    neighbour: int | float | None = None
    neighbour_bound: Bound | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    assumptions: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        goal = _goal(self.target)
        if (self.answer is not None) != (self.bound.log_value <= goal):
            raise ValueError(f"{self.question}: answer {self.answer} with bound {self.bound.value} and target {self.target}")
        if (self.neighbour is None) != (self.neighbour_bound is None):
            raise ValueError(f"{self.question}: a neighbour goes with its bound")
        if self.neighbour_bound is not None and self.neighbour_bound.log_value <= goal:
            raise ValueError(f"{self.question}: {self.neighbour} meets the target too")

    @property
    def rung(self) -> str:
        """Name of the rung relied on."""
        return self.bound.name

    @property
    def level(self) -> Assumption:
        """Assumption level of the rung."""
        return self.bound.level

    @property
    def value(self) -> float:
        """The bound at the answer, rounded up."""
        return self.bound.value

    @property
    def feasible(self) -> bool:
        """Whether there is an answer."""
        return self.answer is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; an infinite answer is given as None, `feasible` and a note."""
        other = self.neighbour_bound
        return {
            "question": self.question,
            "feasible": self.feasible,
            "answer": None if self.answer is None or math.isinf(self.answer) else self.answer,
            "rung": self.rung,
            "level": self.level.value,
            "target": self.target,
            "value": self.value,
            "log_value": self.bound.log_value,
            "neighbour": self.neighbour,
            "neighbour_value": None if other is None else other.value,
            "neighbour_log_value": None if other is None else other.log_value,
            "given": dict(self.given),
            "assumptions": f"{self.level.statement}; {self.assumptions}",
            "source": self.bound.source,
            "note": self.note,
        }


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
    rho2 = _setting(d, components, delta)
    return _canonical(_rung(rung), d, _log_wrong(tasks, components), rho2)


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
    _dimension(d)
    _unit("eps", eps)
    rung = _rung(rung)
    log_wrong = _log_wrong(tasks, components)
    goal = _goal(eps)
    if rung == "L1":
        t = float(np.logaddexp(0.0, log_wrong)) - goal
        c = 2 * math.sqrt(d * t) + 2 * t
        rho2 = c + 4 * t + math.sqrt(8 * c * t + 16 * t**2 + 4 * d * t)
    elif rung == "L3":
        rho2 = 8 * (log_wrong - goal)
    else:
        rho2 = 4 * min(0.0, float(ndtri_exp(min(goal - log_wrong, -1e-300)))) ** 2
    found = _least_decimal(lambda x: _canonical(rung, d, log_wrong, d * x).log_value <= goal, rho2 / d)
    below = None if found.below is None else _canonical(rung, d, log_wrong, d * found.below)
    return Plan(
        question="least separation delta",
        answer=found.value,
        bound=_canonical(rung, d, log_wrong, d * found.value),
        target=eps,
        neighbour=found.below,
        neighbour_bound=below,
        given={"tasks": int(tasks), "components": int(components), "d": int(d), "eps": float(eps)},
        assumptions=_CANONICAL,
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
    rho2 = _setting(d, components, delta)
    _unit("eps", eps)
    rung = _rung(rung)
    goal = _goal(eps)

    def bound(m: int) -> Bound:
        return _canonical(rung, d, _log_wrong(m, components), rho2)

    pair = _canonical(rung, d, 0.0, rho2).log_formula
    # L1 multiplies N, L3 and L5 multiply N - 1; `pair` is their value at N - 1 = 1.
    log_ratio = goal - pair + (math.log(2) if rung == "L1" else 0.0)
    given = {"delta": float(delta), "d": int(d), "components": int(components), "eps": float(eps)}
    question = "greatest number of tasks m"
    if log_ratio >= math.log(sys.float_info.max):
        size = (log_ratio - math.log(components)) / math.log(10)
        note = f"about 10^{size:.6g} tasks, more than a float can hold; the value is that for the largest float"
        return Plan(question, math.inf, bound(int(sys.float_info.max) // components), eps, given=given, assumptions=_CANONICAL, note=note)
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
        return Plan(question, None, bound(2), eps, given=given, assumptions=_CANONICAL, note=note)
    return Plan(question, m, bound(m), eps, m + step, bound(m + step), given, _CANONICAL)


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
    rho2 = _setting(d, components, delta)
    log_tasks = _log_wrong(tasks, 1)
    _unit("eps", eps)
    base = _up(math.log(components) - rho2 / 8, math.log(components), rho2 / 8)
    given = {"tasks": int(tasks), "components": int(components), "d": int(d), "delta": float(delta), "eps": float(eps)}
    note = "tau exp(-rho^2/8) is not below one, so by this rung no batch size works"
    return _batch_plan([(np.array([base]), np.array([log_tasks]))], eps, given, f"{_CANONICAL}; {_BATCH}", note)


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
    _unit("eps", eps)
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
    rho2 = _setting(d, components, delta)
    log_wrong = _log_wrong(tasks, components)
    _unit("eps", eps)
    goal = _goal(eps)
    limit = _canonical("L5", d, log_wrong, rho2)
    seen: dict[int, Bound] = {}

    def bound(n: int) -> Bound:
        if n not in seen:
            seen[n] = plug_in_pairs(n, d, log_wrong, rho2)
        return seen[n]

    given = {"d": int(d), "tasks": int(tasks), "components": int(components), "delta": float(delta), "eps": float(eps)}
    question = "least samples per cluster n"
    assumptions = f"{_CANONICAL}; {_PLUG_IN}"
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
    rho2 = _setting(d, components, delta)
    log_wrong = _log_wrong(tasks, components)
    _whole("n", n, d + 1, f"the unbiased covariance of n <= d = {d} samples is singular")
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


# --- Checks of arguments.


def _whole(argument: str, value: Any, least: int, reason: str = "") -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InputError(argument, f"{value!r} is not a whole number")
    if value < least:
        raise InputError(argument, f"{value} is below {least}" + (f": {reason}" if reason else "; give a larger number"))


def _dimension(d: int) -> None:
    _whole("d", d, 1)
    if d > _MOST_DIMENSIONS:
        raise InputError("d", f"{d} exceeds {_MOST_DIMENSIONS}; give a smaller dimension")


def _unit(argument: str, value: Any) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise InputError(argument, f"{value!r} is not inside (0, 1)")


def _rung(rung: str) -> str:
    if rung not in PLANNED_RUNGS:
        raise InputError("rung", f"{rung!r} is unknown; give one of {', '.join(PLANNED_RUNGS)}")
    return rung


def _setting(d: int, components: int, delta: float) -> float:
    """Check dimension, components and separation; returns ``rho^2 = d delta``, rounded down."""
    _dimension(d)
    _whole("components", components, 1)
    if isinstance(delta, bool) or not isinstance(delta, int | float | np.number) or not delta > 0:
        raise InputError("delta", f"{delta!r} is not a positive separation")
    if not d * float(delta) <= _FARTHEST:
        raise InputError("delta", f"{delta!r} times d = {d} exceeds {_FARTHEST:g}; give a smaller separation")
    return math.nextafter(int(d) * float(delta), 0.0)


def _log_wrong(tasks: int, components: int) -> float:
    """``log(N - 1)``, the number of wrong components."""
    _whole("tasks", tasks, 2, "retrieval needs at least two tasks")
    _whole("components", components, 1)
    return math.log((int(tasks) - 1) * int(components))


# --- The rungs in the canonical model.


def _goal(eps: float) -> float:
    """``log eps``, rounded down, so that a logarithm below it is a value below eps."""
    log_eps = math.log(eps)
    return log_eps - 1e-15 * (1 + abs(log_eps))


def _up(total: float, *parts: float) -> float:
    """A sum of logarithms, rounded up by an allowance for its parts."""
    return total + _ULPS * (1 + sum(abs(part) for part in parts))


def _canonical(rung: str, d: int, log_wrong: float, rho2: float) -> Bound:
    if rung == "L1":
        t = float(exponent(np.asarray(rho2), 2 * math.sqrt(d) + math.sqrt(2 * (2 * d + 4 * rho2)), 2.0))
        log_n = float(np.logaddexp(0.0, log_wrong))
        source = "L1, N exp(-t*): T1 on the own distance, T2 on every wrong one, one exponent"
        return Bound("L1", Assumption.A2, _up(log_n - t, log_n, t), source=source)
    if rung == "L3":
        source = "L3, (N - 1) exp(-rho^2/8): Bhattacharyya coefficient of each pair, summed over wrong components"
        return Bound("L3", Assumption.A4, _up(log_wrong - rho2 / 8, log_wrong, rho2 / 8), source=source)
    tail = float(log_ndtr(-math.sqrt(rho2) / 2))
    source = "L5, (N - 1) Phi(-rho/2): exact probability of each pair, summed over wrong components"
    return Bound("L5", Assumption.A4, _up(log_wrong + tail, log_wrong, tail), source=source)


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


_Terms = tuple[Float[np.ndarray, " i"], Float[np.ndarray, " i"]]


def _batch_bound(terms: Sequence[_Terms], B: int, level: Assumption) -> Bound:
    """L4 for the worst of several tasks, each ``sum exp(B base + log count)`` over its terms (base, log count)."""
    source = "L4: Chernoff bound on the sum of a batch's margins, per wrong task, summed over wrong tasks"
    worst = -math.inf
    for bases, counts in terms:
        parts = float(B) * bases + counts
        top = float(parts.max())
        if math.isfinite(top):
            worst = max(worst, _up(float(logsumexp(parts)), top, float(counts.max()), parts.size))
        else:
            worst = max(worst, top)
    return Bound("L4", level, worst, source=source)


def _batch_plan(
    terms: Sequence[_Terms], eps: float, given: dict[str, Any], assumptions: str, note: str, level: Assumption = Assumption.A4
) -> Plan:
    """Least B at which `_batch_bound` meets the target."""
    goal = _goal(eps)
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
