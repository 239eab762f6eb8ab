"""What formulas come to as the dimension, the number of tasks or the sample grows, with machine-checked limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import sympy
from sympy import Expr, Symbol, log, oo, sqrt

from theory.bound import Assumption
from theory.errors import InputError
from theory.symbolic.formulas import Formula, expression
from theory.symbolic.prover import Step, identity, limit, manifest
from theory.symbolic.symbols import d_, eps_, m_, n_, t_


@dataclass(frozen=True)
class Asymptotic:
    """A formula in the limit.

    Attributes
    ----------
    formula : Formula
        The leading terms.
    exact : sympy.Expr
        What they approximate.
    growing : str
        Name of the quantity that grows.
    checks : tuple of Step
        That the limits are right.
    """

    formula: Formula
    exact: Expr
    growing: str
    checks: tuple[Step, ...]

    @property
    def holds(self) -> bool:
        """Whether every check was confirmed."""
        return bool(self.checks) and all(step.holds for step in self.checks)


def required_delta(growing: str) -> Asymptotic:
    """The separation that L1 requires, well-specified, as the dimension or the number of tasks grows.

    Parameters
    ----------
    growing : {"d", "m", "m, V fixed"}
        ``"d"``: equal covariances, t fixed. ``"m"``: equal covariances, tau components per task, d and eps fixed.
        ``"m, V fixed"``: any covariances, the wrong scores' variance and kappa held fixed as well.

    Raises
    ------
    InputError
        For any other word.
    """
    if growing not in _REQUIRED:
        raise InputError("growing", f"is {growing!r}; needs one of {', '.join(map(repr, _REQUIRED))}")
    return _REQUIRED[growing]()


def asymptotics() -> tuple[Asymptotic, ...]:
    """All asymptotic forms: the separation required, then the finite-sample moments."""
    return (*(required_delta(growing) for growing in _REQUIRED), _distance_as_n_grows(), _distance_at_fixed_ratio(), _log_det_as_n_grows())


@cache
def _delta_as_d_grows() -> Asymptotic:
    e, dimension = Symbol("epsilon", positive=True), Symbol("d", positive=True)
    # It depends on e = sqrt(t/d) alone; growing d is vanishing e.
    of_e = sympy.simplify(expression("L1-delta-isotropic", t=e**2 * d_))
    leading = 4 * e + 10 * e**2
    in_d = 4 * sqrt(t_ / d_) + 10 * t_ / d_

    def of_root(delta: Expr) -> Expr:
        """What the square root in the exact form is when the whole is delta."""
        return sympy.expand((delta - 2 * e - 6 * e**2) / (2 * e))

    square = sympy.expand(of_root(of_e) ** 2)
    checks = (
        identity("the two terms in e = sqrt(t/d)", in_d.subs(t_, e**2 * d_), leading),
        identity("series in e = sqrt(t/d) to second order", sympy.series(of_e, e, 0, 3).removeO(), leading),
        limit("leading term", of_e / (4 * e), e, 0, 1),
        limit("next term", (of_e - 4 * e) / (10 * e**2), e, 0, 1),
        limit("leading term in d itself", expression("L1-delta-isotropic", d=dimension) / sqrt(t_ / dimension), dimension, oo, 4),
        # On squares, because the sides are positive.
        manifest("two terms are never more than what is required", square, sympy.expand(of_root(leading) ** 2)),
        manifest("and with 4 e^3 more never less", sympy.expand(of_root(leading + 4 * e**3) ** 2), square),
    )
    statement = (
        "Separation that L1 requires when all covariances are equal, as d grows at fixed t: two leading terms, never more than the "
        "exact value."
    )
    row = Formula("L1-delta as d grows", statement, in_d, {"d": d_, "t": t_}, Assumption.A4)
    return Asymptotic(row, expression("L1-delta-isotropic"), "d", checks)


@cache
def _level() -> tuple[Expr, Step]:
    """``t = log(N/eps)`` with N = 1 + (m - 1) tau components, and that it grows as log m."""
    tasks, tau = sympy.symbols("m tau", positive=True)
    level = log((1 + (tasks - 1) * tau) / eps_)
    step = limit("t/log m with t = log(N/eps) and N = 1 + (m - 1) tau", level / log(tasks), tasks, oo, 1)
    return level.subs(tasks, m_), step


@cache
def _delta_as_m_grows() -> Asymptotic:
    e = Symbol("epsilon_1", positive=True)
    of_e = sympy.simplify(expression("L1-delta-isotropic", t=e**2 * d_))
    slope = 6 + 4 * sqrt(2)
    level, grows = _level()
    checks = (limit("delta/e^2 as e = sqrt(t/d) grows", of_e / e**2, e, oo, slope), grows)
    statement = "Separation that L1 requires when all covariances are equal, as m grows at fixed d: the leading term."
    row = Formula("L1-delta as m grows", statement, slope * log(m_) / d_, {"m": m_, "d": d_}, Assumption.A4)
    return Asymptotic(row, expression("L1-delta-isotropic", t=level), "m", checks)


@cache
def _delta_as_m_grows_at_fixed_v() -> Asymptotic:
    level, grows = _level()
    checks = (limit("delta/t", expression("L1-delta") / t_, t_, oo, 2 / d_), grows)
    statement = "Separation that L1 requires as m grows, the variance V, kappa and d held fixed: the leading term."
    row = Formula("L1-delta as m grows, V fixed", statement, 2 * log(m_) / d_, {"m": m_, "d": d_}, Assumption.A2)
    return Asymptotic(row, expression("L1-delta", t=level), "m", checks)


_REQUIRED: dict[str, Callable[[], Asymptotic]] = {
    "d": _delta_as_d_grows,
    "m": _delta_as_m_grows,
    "m, V fixed": _delta_as_m_grows_at_fixed_v,
}


@cache
def _distance_as_n_grows() -> Asymptotic:
    size = Symbol("n", positive=True)
    exact = expression("F1") / d_ - 1
    of_n = sympy.factor(exact.subs(n_, size))
    leading = (d_ + 2) / n_ + ((d_ + 2) ** 2 - 1) / n_**2
    u = Symbol("u", positive=True)
    checks = (
        identity("relative excess", exact, ((d_ + 2) * n_ - 1) / (n_ * (n_ - d_ - 2))),
        identity("series in 1/n", sympy.series(sympy.cancel(of_n.subs(size, 1 / u)), u, 0, 3).removeO(), leading.subs(n_, 1 / u)),
        limit("leading term", of_n * size, size, oo, d_ + 2),
        limit("next term", (of_n - (d_ + 2) / size) * size**2, size, oo, (d_ + 2) ** 2 - 1),
        limit("the distance itself exceeds d by d (d + 2)/n", d_ * of_n * size, size, oo, d_ * (d_ + 2)),
    )
    statement = "Relative excess of the expected distance F1 over d as n grows at fixed d: two leading terms."
    return Asymptotic(Formula("F1 as n grows", statement, leading, {"d": d_, "n": n_}, Assumption.A2), exact, "n", checks)


@cache
def _distance_at_fixed_ratio() -> Asymptotic:
    rho, dimension = Symbol("rho", positive=True), Symbol("d", positive=True)
    at_ratio = sympy.cancel(expression("F1", n=rho * dimension, d=dimension) / dimension - 1)
    checks = (limit("relative excess at n = rho d", at_ratio, dimension, oo, 1 / (rho - 1)),)
    statement = "Relative excess of the expected distance F1 over d as both grow at n = rho d, rho above 1: the limit."
    row = Formula("F1 as d grows, n = rho d", statement, 1 / (rho - 1), {"rho": rho}, Assumption.A2, (rho > 1,))
    return Asymptotic(row, expression("F1") / d_ - 1, "d", checks)


@cache
def _log_det_as_n_grows() -> Asymptotic:
    size, place = sympy.symbols("n j", positive=True)
    index = Symbol("j", integer=True)
    parts = (sympy.digamma((size - 1 - place) / 2), -log((size - 1) / 2))
    term = sum(sympy.series(part, size, oo, 2).removeO() for part in parts)
    each = sympy.simplify(sympy.expand_log(term) * size)
    leading = -d_ * (d_ + 1) / (2 * n_)
    checks = (
        identity("term j of the sum, with its share of the logarithm, in series: -(j + 1)/n", each, -(place + 1)),
        identity("summed over j < d", sympy.summation(each.subs(place, index), (index, 0, d_ - 1)) / n_, leading),
    )
    statement = "Bias F2 of the log-determinant as n grows at fixed d: the leading term."
    return Asymptotic(Formula("F2 as n grows", statement, leading, {"d": d_, "n": n_}, Assumption.A2), expression("F2"), "n", checks)
