r"""Every formula of the ladder as a SymPy expression, and machine-checked proofs of what it takes to derive it.

SymPy is needed by this module alone; nothing else in the package imports it. A proof here is a list of steps, each of
which the machine derived or verified when it was asked: an identity whose two sides' difference simplifies to zero, an
equation that it solved, a limit or an integral that it took, or an inequality in one variable that it proved by
derivatives of manifest sign. What a proof takes for granted (Markov's inequality, say) is stated with it in words::

    from theory.symbolic import formula, prove

    print(formula("L1").latex())
    assert prove("L1").holds

Lambdified formulas are plain float64, for reading, plotting and cross-checks; they are not rounded in the direction of
the bound. The ladder's own numbers are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy
from sympy import Eq, Expr, Ge, Interval, Rational, Symbol, erfc, exp, log, oo, pi, sqrt

from theory.bound import Assumption
from theory.errors import InputError

# Derivatives taken before the prover gives up; kl(q, p) needs two.
_DEPTH = 3
# Integers above this are not exact in float64.
_LARGEST_INTEGER = 2**53
_HALF = Rational(1, 2)


@dataclass(frozen=True)
class Formula:
    """One formula: a threshold, an exponent, a bound or a moment, as its statement says.

    Parameters
    ----------
    name : str
        As in the ladder, such as ``"L1"``; variants add a suffix.
    statement : str
        What the expression is, in one sentence.
    expression : sympy.Expr
    symbols : dict from str to sympy.Symbol
        Keyword of the lambdified function to the symbol it stands for, whose assumptions (positive, integer) are checked.
    assumption : Assumption
        The level under which the statement is proved.
    domain : tuple of sympy relations
        What the arguments must satisfy beyond their own assumptions; the formula claims nothing outside.

    Raises
    ------
    ValueError
        If `symbols` are not exactly the expression's free symbols.
    """

    name: str
    statement: str
    expression: Expr
    symbols: dict[str, Symbol]
    assumption: Assumption
    domain: tuple[sympy.Basic, ...] = ()

    def __post_init__(self) -> None:
        if set(self.symbols.values()) != self.expression.free_symbols:
            raise ValueError(f"formula {self.name}: symbols {sorted(self.symbols)} are not those of {self.expression}")

    def latex(self) -> str:
        """The expression in LaTeX, without delimiters."""
        return sympy.latex(self.expression)

    def lambdify(self) -> Callable[..., float]:
        """A float function of keyword arguments named as in `symbols`.

        Returns
        -------
        callable
            Raises `InputError` for a missing, unknown, NaN, infinite or inadmissible argument, arguments outside the
            formula's domain, and a value that overflows.
        """
        names, symbols = list(self.symbols), list(self.symbols.values())
        value = sympy.lambdify(symbols, self.expression, modules=["scipy", "numpy"])
        conditions = [(relation, sympy.lambdify(symbols, relation, modules="numpy")) for relation in self.domain]

        def evaluate(**arguments: float) -> float:
            unknown = sorted(set(arguments) - set(names))
            if unknown:
                raise InputError(unknown[0], f"is not an argument of {self.name}; it takes {', '.join(names)}")
            missing = [name for name in names if name not in arguments]
            if missing:
                raise InputError(missing[0], f"is missing; {self.name} takes {', '.join(names)}")
            numbers = [_number(name, self.symbols[name], arguments[name]) for name in names]
            for relation, holds in conditions:
                if not holds(*numbers):
                    culprits = [name for name in names if self.symbols[name] in relation.free_symbols]
                    raise InputError(", ".join(culprits), f"must satisfy {relation}; {self.name} claims nothing outside")
            with np.errstate(all="ignore"):
                try:
                    found = float(value(*numbers))
                except (OverflowError, ZeroDivisionError):
                    found = math.nan
            if not math.isfinite(found):
                raise InputError(", ".join(names), f"give no finite value of {self.name} in float64; rescale them")
            return found

        return evaluate


@dataclass(frozen=True)
class Step:
    """One step of a proof: what it says, the equation or inequality, and whether the machine confirmed it."""

    claim: str
    expression: sympy.Basic
    holds: bool


@dataclass(frozen=True)
class Proof:
    """Machine-checked steps behind a formula.

    Attributes
    ----------
    name : str
        Of the formula.
    steps : tuple of Step
    given : str
        What the steps take for granted: general theorems that are cited, not checked.
    """

    name: str
    steps: tuple[Step, ...]
    given: str = ""

    @property
    def holds(self) -> bool:
        """Whether every step was confirmed."""
        return bool(self.steps) and all(step.holds for step in self.steps)


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


def _number(name: str, symbol: Symbol, value: float) -> float | int:
    """An argument as float, or as int where its symbol is an integer, checked against the symbol's assumptions."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(name, f"is {value!r}; needs a number") from None
    if not math.isfinite(number):
        raise InputError(name, f"is {number}; needs a finite number")
    if symbol.is_positive and number <= 0:
        raise InputError(name, f"is {number}; needs a number above 0")
    if symbol.is_nonnegative and number < 0:
        raise InputError(name, f"is {number}; needs a number of at least 0")
    if not symbol.is_integer:
        return number
    if number != round(number) or abs(number) > _LARGEST_INTEGER:
        raise InputError(name, f"is {number}; needs a whole number up to 2^53")
    return round(number)


# --- the prover -------------------------------------------------------------------------------------------------------


def _polynomial_sign(base: Expr) -> tuple[int, bool] | None:
    """Sign of a polynomial all of whose monomials have one sign, and whether it cannot vanish; None if not manifest."""
    if base.is_number:
        return (1, True) if base.is_positive else (-1, True) if base.is_negative else None
    poly = sympy.Poly(base)
    signs, strict = set(), False
    for powers, coefficient in poly.terms():
        present = [(generator, power) for generator, power in zip(poly.gens, powers, strict=True) if power]
        for generator, power in present:
            if not (generator.is_nonnegative or (power % 2 == 0 and generator.is_real)):
                return None
        if not (coefficient.is_positive or coefficient.is_negative):
            return None
        signs.add(1 if coefficient.is_positive else -1)
        strict = strict or all(generator.is_nonzero for generator, _ in present)
    return (signs.pop(), strict) if len(signs) == 1 else None


def _sign(expression: Expr) -> tuple[int, bool] | None:
    """Manifest sign of a product of powers (1, -1, or 0 for zero), and whether it cannot vanish; None if not manifest.

    Each base must be a polynomial with monomials of one sign, or stand to an even power; none with a negative power may
    vanish, none with a fractional one be negative, and any with a power that is a symbol must be positive.
    """
    whole = sympy.factor(sympy.together(expression))
    if whole.is_zero:
        return 0, False
    sign, strict = 1, True
    for factor in sympy.Mul.make_args(whole):
        base, power = factor.as_base_exp() if factor.is_Pow else (factor, sympy.Integer(1))
        try:
            found = _polynomial_sign(base)
        except sympy.PolynomialError:
            return None
        if found is None:
            if not (power.is_Integer and power % 2 == 0 and base.is_real):
                return None
            found = (1, False)
        if not power.is_Rational and not (power.is_real and found == (1, True)):
            return None
        if (power.is_Rational and power < 0 and not found[1]) or (not power.is_Integer and found[0] < 0):
            return None
        if power.is_Integer and power % 2:
            sign *= found[0]
        strict = strict and found[1]
    return sign, strict


def _nonnegative(expression: Expr) -> bool:
    """Whether an expression is manifestly at least 0."""
    found = _sign(expression)
    return found is not None and found[0] >= 0


def _positive(expression: Expr) -> bool:
    """Whether an expression is manifestly above 0."""
    return _sign(expression) == (1, True)


def _smooth(expression: Expr) -> bool:
    """Whether an expression has derivatives of all orders wherever its symbols satisfy their assumptions.

    Without this a pole inside the interval would let a derivative of constant sign prove a falsehood.
    """
    if expression.is_Atom:
        return bool(expression.is_real)
    if not all(_smooth(argument) for argument in expression.args):
        return False
    if expression.is_Add or expression.is_Mul or isinstance(expression, exp | erfc):
        return True
    if isinstance(expression, log):
        return _positive(expression.args[0])
    if expression.is_Pow:
        base, power = expression.args
        if power.is_Integer and power >= 0:
            return True
        found = _sign(base)
        return found is not None and found[1] and (found[0] > 0 or bool(power.is_Integer))
    return False


def _nonnegative_on(f: Expr, variable: Symbol, domain: Interval) -> bool:
    """Whether the machine can prove ``f >= 0`` on an interval that contains its left end but not its right one.

    The interval is mapped to ``u >= 0``. Then either f is there a ratio of manifestly signed factors, or its value at the
    left end is manifestly nonnegative and its derivative is nonnegative by the same argument (up to `_DEPTH` times). All
    other symbols are free within their own assumptions. False means "not proved", never "false".

    Raises
    ------
    InputError
        If the domain is not a half-open interval with a finite left end.
    """
    if domain.left_open or not domain.right_open or not domain.start.is_finite:
        raise InputError("domain", f"is {domain}; needs an interval [a, b) with finite a")
    u = sympy.Dummy("u", nonnegative=True)
    width = domain.end - domain.start
    inside = domain.start + u if domain.end == oo else domain.start + width * u / (1 + u)
    if domain.end != oo and not _positive(width):
        return False
    if not _smooth(f.subs(variable, inside)):
        return False
    for _ in range(_DEPTH + 1):
        if _nonnegative(f.subs(variable, inside)):
            return True
        if not _nonnegative(sympy.simplify(f.subs(variable, domain.start))):
            return False
        f = sympy.diff(f, variable)
    return False


def _zero(expression: Expr) -> bool:
    """Whether an expression simplifies to zero under its symbols' assumptions."""
    if sympy.expand(expression) == 0:
        return True
    # Logarithms are expanded only where the symbols' assumptions allow it.
    expression = sympy.expand_log(expression.replace(log, lambda argument: log(sympy.factor(argument)))).rewrite(sympy.erf)
    return sympy.simplify(expression) == 0


def _identity(claim: str, left: Expr, right: Expr) -> Step:
    return Step(claim, Eq(left, right, evaluate=False), _zero(left - right))


def _inequality(claim: str, larger: Expr, smaller: Expr, variable: Symbol, domain: Interval) -> Step:
    return Step(claim, Ge(larger, smaller, evaluate=False), _nonnegative_on(larger - smaller, variable, domain))


def _manifest(claim: str, larger: Expr, smaller: Expr) -> Step:
    return Step(claim, Ge(larger, smaller, evaluate=False), _nonnegative(larger - smaller))


def _limit(claim: str, expression: Expr, variable: Symbol, point: Expr, value: Expr) -> Step:
    left = sympy.Limit(expression, variable, point, "+" if point == 0 else "-")
    return Step(claim, Eq(left, value, evaluate=False), _zero(left.doit() - value))


# --- symbols ----------------------------------------------------------------------------------------------------------

_d, _n, _N, _B, _m = sympy.symbols("d n N B m", integer=True, positive=True)
_t, _V, _l, _r, _q, _a, _D = sympy.symbols("t V l r q a Delta", positive=True)
_w = Symbol("w", positive=True)
_wm = Symbol("w_{-}", nonnegative=True)
_delta, _kappa, _mean, _c, _g, _weight = sympy.symbols("delta kappa mu c g w", real=True)
_s = Symbol("s", nonnegative=True)
_sigma, _p, _beta, _eps, _nu = sympy.symbols("sigma p beta epsilon nu", positive=True)
_z, _b, _h = sympy.symbols("z b D", real=True)
_y = Symbol("y", nonnegative=True)
_x = Symbol("x", nonnegative=True)

_RIGHT = Interval(0, oo)
_TO_HALF = Interval.Ropen(0, _HALF)


# --- formulas ---------------------------------------------------------------------------------------------------------


def _exponent(gap: Expr, a: Expr, b: Expr) -> Expr:
    """The root t of ``a sqrt(t) + b t = gap``, in the form that does not cancel."""
    return (2 * gap / (a + sqrt(a**2 + 4 * b * gap))) ** 2


@cache
def _registry() -> dict[str, Formula]:
    A0, A1, A2, A3, A4 = Assumption
    trace, distance, squared, pulled = sympy.symbols("T D^{2} S G", nonnegative=True)
    logdet_own, logdet_wrong = sympy.symbols(r"\log\det\Lambda_{kt} \log\det\Lambda_{is}", real=True)
    pi_own, pi_wrong = sympy.symbols("pi_kt pi_is", positive=True)
    v_own, v_wrong, own_V, wrong_V = sympy.symbols("v_k v_i V_k V_i", positive=True)
    own_mean, wrong_mean = sympy.symbols("mu_k mu_i", real=True)
    own_w, chi2 = sympy.symbols(r"w_k \chi^{2}", nonnegative=True)
    error = Symbol("q", positive=True)
    moment = Symbol("M_p", positive=True)
    gap = _d * _delta + _kappa
    v = (1 - _l) * v_wrong + _l * v_own
    j = Symbol("j", integer=True)
    root = sqrt(_t / _d)
    ratio = _V / (_V + _r**2)
    pair = {"mean": _r, "V": _V}
    spread = {"distance": _r, "sigma": _sigma}
    rows = (
        Formula(
            "delta",
            "Separation of a wrong component: its expected squared Mahalanobis distance per dimension, less one; T is the trace of "
            "the query covariance whitened by the component, D^2 the squared Mahalanobis distance of the query mean.",
            (trace + distance) / _d - 1,
            {"trace": trace, "distance": distance, "d": _d},
            A1,
        ),
        Formula(
            "kappa",
            "Advantage in log-determinant, and in weight, of the true component over a wrong one.",
            logdet_wrong - logdet_own + 2 * log(pi_own / pi_wrong),
            {"log_det_own": logdet_own, "log_det_wrong": logdet_wrong, "pi_own": pi_own, "pi_wrong": pi_wrong},
            A1,
        ),
        Formula(
            "V",
            "Variance of a wrong component's squared Mahalanobis distance; S is the squared Frobenius norm of the whitened query "
            "covariance, G its quadratic form in the whitened shift of means.",
            2 * squared + 4 * pulled,
            {"squared": squared, "pulled": pulled},
            A2,
        ),
        Formula(
            "T1",
            "A chi-square variable of d degrees of freedom is at least this with probability at most exp(-t).",
            _d + 2 * sqrt(_d * _t) + 2 * _t,
            {"d": _d, "t": _t},
            A2,
        ),
        Formula(
            "T2",
            "A generalised chi-square of mean mu and variance V with no negative weight is at most this with probability at most exp(-t).",
            _mean - sqrt(2 * _V * _t),
            {"mean": _mean, "V": _V, "t": _t},
            A2,
        ),
        Formula(
            "T3",
            "A generalised chi-square of mean mu, variance V and greatest weight w is at least this with probability at most exp(-t).",
            _mean + sqrt(2 * _V * _t) + 2 * _w * _t,
            {"mean": _mean, "V": _V, "w": _w, "t": _t},
            A2,
        ),
        Formula(
            "T4",
            "Log of E exp(-l M) for a margin M = c + w z^2 + g z + s z_0 of one coordinate; coordinates add up, and every l gives a bound.",
            -_l * _c + (_l * _s) ** 2 / 2 - log(1 + 2 * _l * _weight) / 2 + (_l * _g) ** 2 / (2 * (1 + 2 * _l * _weight)),
            {"l": _l, "w": _weight, "g": _g, "s": _s, "c": _c},
            A3,
            (1 + 2 * _l * _weight > 0,),
        ),
        Formula(
            "L1",
            "Separation bound, well-specified: log of the retrieval error is at most this, with N - 1 wrong components and the values of "
            "the one for which it is greatest.",
            log(_N) - _exponent(gap, 2 * sqrt(_d) + sqrt(2 * _V), 2),
            {"d": _d, "delta": _delta, "kappa": _kappa, "V": _V, "N": _N},
            A2,
            (gap > 0,),
        ),
        Formula(
            "L1-measured",
            "Separation bound for any Gaussian query: log of the retrieval error is at most this, from the means and variances of the "
            "true and a wrong score and the greatest weight w_k of the true one, with N and the choice as for L1.",
            log(_N) - _exponent(wrong_mean - own_mean, sqrt(2 * own_V) + sqrt(2 * wrong_V), 2 * own_w),
            {"own_mean": own_mean, "own_V": own_V, "own_w": own_w, "wrong_mean": wrong_mean, "wrong_V": wrong_V, "N": _N},
            A2,
            (wrong_mean > own_mean,),
        ),
        Formula(
            "L1-exponent",
            "Exponent of the separation bound: the greatest t with a sqrt(t) + 2 t at most Delta.",
            _exponent(_D, _a, 2),
            {"a": _a, "Delta": _D},
            A2,
        ),
        Formula(
            "L1-delta",
            "Separation that the separation bound, well-specified, requires for an error of N exp(-t), at a given variance V.",
            (2 * sqrt(_d * _t) + 2 * _t + sqrt(2 * _V * _t) - _kappa) / _d,
            {"d": _d, "t": _t, "V": _V, "kappa": _kappa},
            A2,
        ),
        Formula(
            "L1-delta-isotropic",
            "Separation that the separation bound, well-specified, requires for an error of N exp(-t) when all covariances are equal and "
            "there are no weights; it depends on t/d alone.",
            2 * root + 6 * root**2 + 2 * root * sqrt(1 + 4 * root + 8 * root**2),
            {"d": _d, "t": _t},
            A4,
        ),
        Formula(
            "L1b",
            "Margin bound: log of the probability that a margin of mean r, variance V and least weight -w is not positive is at most this.",
            -_exponent(_r, sqrt(2 * _V), 2 * _wm),
            {**pair, "w_minus": _wm},
            A3,
        ),
        Formula(
            "L1b-tilt",
            "The l at which the log-moment-generating function gives the margin bound.",
            sqrt(2 * _t / _V) / (1 + 2 * _wm * sqrt(2 * _t / _V)),
            {"t": _t, "V": _V, "w_minus": _wm},
            A3,
        ),
        Formula(
            "L2",
            "Split bound for one wrong component in closed form: own score above c by T3, or wrong score below c by T2.",
            exp(-_exponent(_c - own_mean, sqrt(2 * own_V), 2 * own_w)) + exp(-((wrong_mean - _c) ** 2) / (2 * wrong_V)),
            {"c": _c, "own_mean": own_mean, "own_V": own_V, "own_w": own_w, "wrong_mean": wrong_mean, "wrong_V": wrong_V},
            A2,
            (_c > own_mean, wrong_mean > _c),
        ),
        Formula(
            "L3",
            "Pairwise Chernoff, well-specified: log of the expected likelihood ratio to the power l, one coordinate; coordinates add up.",
            -_l * (1 - _l) * _h**2 / (2 * v) - log(v) / 2 + _l * log(v_own) / 2 + (1 - _l) * log(v_wrong) / 2,
            {"l": _l, "shift": _h, "v_own": v_own, "v_wrong": v_wrong},
            A4,
            (_l < 1,),
        ),
        Formula(
            "L3-bhattacharyya",
            "L3 at l = 1/2, the log of the Bhattacharyya coefficient, one coordinate; coordinates add up.",
            -(_h**2) / (4 * (v_own + v_wrong)) - log((v_own + v_wrong) / (2 * sqrt(v_own * v_wrong))) / 2,
            {"shift": _h, "v_own": v_own, "v_wrong": v_wrong},
            A4,
        ),
        Formula(
            "L4",
            "Two isotropic tasks, a batch of B queries scored together: log of the probability that the wrong task wins is at most this.",
            -_B * _r**2 / (8 * _sigma**2),
            {"B": _B, **spread},
            A4,
        ),
        Formula(
            "L5",
            "Two tasks of one Gaussian each with common covariance sigma^2 times the identity and means at distance r: the exact error.",
            erfc(_r / (2 * sqrt(2) * _sigma)) / 2,
            spread,
            A4,
        ),
        Formula(
            "L7",
            "Cantelli: a margin of mean r above 0 and variance V is not positive with probability at most this.",
            ratio,
            pair,
            A1,
        ),
        Formula(
            "L8",
            "Upper limit of the error rate at confidence 1 - beta after n held-out samples without an error.",
            1 - _beta ** (1 / _n),
            {"beta": _beta, "n": _n},
            A0,
            (_beta < 1,),
        ),
        Formula(
            "L9",
            "Unimodal margin of mean r above 0 and variance V: it is not positive with probability at most this.",
            sympy.Piecewise((4 * ratio / 9, Ge(_r**2, 5 * _V / 3)), (4 * ratio / 3 - Rational(1, 3), True)),
            pair,
            A1,
        ),
        Formula(
            "L10",
            "Margin of mean r above 0 and absolute central moment M_p of order p: it is not positive with probability at most this.",
            moment / _r**_p,
            {"moment": moment, "p": _p, "mean": _r},
            A1,
        ),
        Formula(
            "L11",
            "Two tasks as for L5 with a common Student scale of nu degrees of freedom: the exact error, a tail of Student's t.",
            sympy.betainc_regularized(_nu / 2, _HALF, 0, _nu / (_nu + (_r / (2 * _sigma)) ** 2)) / 2,
            {**spread, "nu": _nu},
            A4,
        ),
        Formula(
            "L12-chi2",
            "Error under any law whose chi-square divergence from the model is at most chi2, the model's own error being exactly p.",
            _p + sqrt(chi2 * _p * (1 - _p)),
            {"p": _p, "chi2": chi2},
            A3,
            (_p < 1,),
        ),
        Formula(
            "L12-kl",
            "Least Kullback-Leibler divergence, in nats, of a law with error q above p from a model with error p; the greatest q that a "
            "given divergence allows is its inverse.",
            error * (log(error) - log(_p)) + (1 - error) * (log(1 - error) - log(1 - _p)),
            {"q": error, "p": _p},
            A3,
            (_p < 1, error < 1, error >= _p),
        ),
        Formula(
            "floor-chi2",
            "Least chi-square divergence of a law with error q from a model with error p.",
            (error - _p) ** 2 / (_p * (1 - _p)),
            {"q": error, "p": _p},
            A0,
            (_p < 1, error < 1),
        ),
        Formula(
            "F1",
            "Expected squared Mahalanobis distance of a fresh point to mean and unbiased covariance from n samples.",
            _d * (_n**2 - 1) / (_n * (_n - _d - 2)),
            {"d": _d, "n": _n},
            A2,
            (_n > _d + 2,),
        ),
        Formula(
            "F2",
            "Bias of the log-determinant of an unbiased covariance from n samples.",
            sympy.Sum(sympy.digamma((_n - 1 - j) / 2), (j, 0, _d - 1)) - _d * log((_n - 1) * _HALF),
            {"d": _d, "n": _n},
            A2,
            (_n > _d,),
        ),
        Formula(
            "F3",
            "Factor by which the inverse of an unbiased covariance from n samples exceeds the true inverse on average.",
            (_n - 1) / (_n - _d - 2),
            {"d": _d, "n": _n},
            A2,
            (_n > _d + 2,),
        ),
    )
    return {row.name: row for row in rows}


def formulas() -> tuple[Formula, ...]:
    """All formulas, in the order of the ladder."""
    return tuple(_registry().values())


def formula(name: str) -> Formula:
    """The formula of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in _registry():
        raise InputError("name", f"{name!r} is not a formula; known are {', '.join(_registry())}")
    return _registry()[name]


def latex_table() -> str:
    """All formulas as one LaTeX ``tabular``: name, level, expression, statement (needs ``amsmath``)."""
    rows = [rf"{row.name} & {row.assumption.value} & $\displaystyle {row.latex()}$ & {_escape(row.statement)} \\" for row in formulas()]
    head = [r"\begin{tabular}{llp{0.45\linewidth}p{0.4\linewidth}}", r"name & level & formula & statement \\", r"\hline"]
    return "\n".join([*head, *rows, r"\end{tabular}"])


def _escape(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, f"\\{character}")
    return text.replace("^", r"\textasciicircum{}")


# --- proofs -----------------------------------------------------------------------------------------------------------

_MARKOV = "Markov's inequality for exp(l X); independent coordinates, so that their log-moment-generating functions add up"


@cache
def _gaussian_expectation() -> tuple[Expr, Symbol, Symbol]:
    """``log E exp((1 - S) z^2 / 2 + B z)`` for standard normal z and S > 0, with S and B; the machine takes the integral."""
    S, B = Symbol("S", positive=True), Symbol("B", real=True)
    integral = sympy.integrate(exp(-S * _z**2 / 2 + B * _z) / sqrt(2 * pi), (_z, -oo, oo))
    return sympy.expand_log(log(sympy.simplify(integral))), S, B


def _log_expectation(exponent: Expr) -> Expr:
    """``log E exp(exponent)`` for an exponent quadratic in the standard normal z, wherever it is finite.

    It is finite where the S under the logarithm is positive, which the prover demands of every logarithm.
    """
    value, S, B = _gaussian_expectation()
    poly = sympy.Poly(sympy.expand(exponent), _z)
    quadratic, linear, constant = (poly.coeff_monomial(_z**k) for k in (2, 1, 0))
    return value.subs({S: sympy.factor(1 - 2 * quadratic), B: linear}, simultaneous=True) + constant


def _cumulants(of: str, log_mgf: Expr, variable: Symbol, mean: Expr, variance: Expr) -> list[Step]:
    """That the derivatives of a log-moment-generating function at 0 are the stated mean and variance."""
    first, second = sympy.diff(log_mgf, variable), sympy.diff(log_mgf, variable, 2)
    return [
        _identity(f"mean of {of}", first.subs(variable, 0), mean),
        _identity(f"variance of {of}", second.subs(variable, 0), variance),
    ]


def _legendre(V: Expr, w: Expr) -> tuple[list[Step], Expr]:
    """The infimum over l of ``l^2 V / 2 / (1 - 2 l w) - l x``, inverted: the x for which it is -t, solved by the machine.

    Returns
    -------
    steps : list of Step
    threshold : sympy.Expr
        That x, in t.
    """
    x = Symbol("x", positive=True)
    h = _l**2 * V / 2 / (1 - 2 * _l * w) - _l * x
    curvature = sympy.diff(h, _l, 2)
    (of_l,) = sympy.solve(sympy.diff(h, _l), x)
    lowest = sympy.factor(h.subs(x, of_l))
    # -t is written -q^2 V / 2, which keeps the equation rational.
    free = Symbol("l", real=True)
    roots = sympy.solve(Eq(lowest, -(_q**2) * V / 2).subs(_l, free), free)
    inside = [root for root in roots if _positive(root * (1 / (2 * w) - root))]
    # Above times below the line, which has the sign of the ratio wherever there is a ratio.
    outside = [root for root in roots if _nonnegative(sympy.Mul(*sympy.fraction(sympy.together(root * (root - 1 / (2 * w))))))]
    only = len(inside) == 1 and len(outside) == len(roots) - 1
    l0 = inside[0] if only else sympy.nan
    back = {_q: sqrt(2 * _t / V)}
    threshold = sympy.simplify(of_l.subs(_l, l0)).subs(back)
    tilt = formula("L1b-tilt").expression.subs({_V: V, _wm: w}, simultaneous=True)
    steps = [
        _inequality("the log-moment bound less l x is convex in l", curvature, 0, _l, Interval.Ropen(0, 1 / (2 * w))),
        Step("its infimum, where it is stationary, is -t for exactly one l inside (0, 1/(2w))", Eq(_l, l0), only),
        _identity("which is l0 = q/(1 + 2 w q), q = sqrt(2t/V)", l0.subs(back), tilt),
        _identity("the x whose infimum it is: sqrt(2 V t) + 2 w t", threshold, sqrt(2 * V * _t) + 2 * w * _t),
        _identity("and there the infimum is -t", h.subs(x, threshold).subs(_l, tilt), -_t),
    ]
    return steps, threshold


def _inverse(t: Expr, gap: Expr, a: Expr, b: Expr) -> list[Step]:
    """That t is the greatest with ``a sqrt(t) + b t <= gap``, solved by the machine for positive arguments."""
    root = Symbol("s", real=True)
    roots = sympy.solve(b * root**2 + a * root - gap, root)
    greater = [r for r in roots if all(_positive(r - other) for other in roots if other != r)]
    single = len(roots) == 2 and len(greater) == 1 and _positive(-sympy.expand(roots[0] * roots[1]))
    s = greater[0] if single else sympy.nan
    cancelling = ((sqrt(a**2 + 4 * b * gap) - a) / (2 * b)) ** 2
    return [
        _inequality("a s + b s^2 grows with s = sqrt(t), so that the condition holds up to one t", a + 2 * b * _y, 0, _y, _RIGHT),
        Step("its roots in s have a negative product, so that one is positive: the greater", Eq(root, s), single),
        _identity("its square is ((sqrt(a^2 + 4 b gap) - a)/(2b))^2", s**2, cancelling),
        _identity("which is the form that does not cancel", sympy.radsimp(t), cancelling),
        _identity("and which substituted back gives the gap", a * sqrt(t) + b * t, gap),
    ]


def _prove_delta() -> tuple[list[Step], str]:
    C, one = Symbol("C", positive=True), formula("delta")
    log_mgf = _log_expectation(_l * (sqrt(C) * _z + _b) ** 2)
    mean = sympy.diff(log_mgf, _l).subs(_l, 0)
    moments = {one.symbols["trace"]: C, one.symbols["distance"]: _b**2, _d: 1}
    return [_identity("in one coordinate, E Q - 1", mean - 1, one.expression.subs(moments))], _ROTATION


def _prove_kappa() -> tuple[list[Step], str]:
    one = formula("kappa")
    own, wrong = one.symbols["log_det_own"], one.symbols["log_det_wrong"]
    pi_own, pi_wrong = one.symbols["pi_own"], one.symbols["pi_wrong"]
    other = Symbol("Q", real=True)
    energies = (other + wrong - 2 * log(pi_wrong)) - (other + own - 2 * log(pi_own))
    return [_identity("energies at equal distances differ by kappa", energies, one.expression)], "the definition of the energy"


def _prove_v() -> tuple[list[Step], str]:
    C, one = Symbol("C", positive=True), formula("V")
    log_mgf = _log_expectation(_l * (sqrt(C) * _z + _b) ** 2)
    variance = sympy.diff(log_mgf, _l, 2).subs(_l, 0)
    moments = {one.symbols["squared"]: C**2, one.symbols["pulled"]: C * _b**2}
    return [_identity("in one coordinate, Var Q", variance, one.expression.subs(moments))], _ROTATION


def _prove_t1() -> tuple[list[Step], str]:
    log_mgf = _log_expectation(_x * _z**2)
    bound = _x**2 / (1 - 2 * _x)
    solved, threshold = _legendre(2 * _d, sympy.Integer(1))
    steps = [
        _identity("log of E exp(x z^2), from the Gaussian integral", log_mgf, -log(1 - 2 * _x) / 2),
        *_cumulants("z^2", log_mgf, _x, sympy.Integer(1), sympy.Integer(2)),
        _identity("the slack has derivative 2 x^2/(1 - 2x)^2", sympy.diff(bound - log_mgf + _x, _x), 2 * _x**2 / (1 - 2 * _x) ** 2),
        _inequality("-log(1 - 2x)/2 - x <= x^2/(1 - 2x) for 0 <= x < 1/2", bound, log_mgf - _x, _x, _TO_HALF),
        _identity("d coordinates add up to l^2 V/2/(1 - 2l) with V = 2d", _d * bound, _x**2 * (2 * _d) / 2 / (1 - 2 * _x)),
        *solved,
        _identity("mean plus x is T1", _d + threshold, formula("T1").expression),
    ]
    return steps, _MARKOV


def _prove_t2() -> tuple[list[Step], str]:
    log_mgf = _log_expectation(-_y * (_z + _b) ** 2)
    variance = 2 + 4 * _b**2
    slack = _y**2 - _y + log(1 + 2 * _y) / 2
    shift = _y * _b**2
    below = _mean - formula("T2").expression
    parabola = _l**2 * _V / 2 - _l * below
    (best,) = sympy.solve(sympy.diff(parabola, _l), _l)
    steps = [
        _identity("log of E exp(-y (z + b)^2), from the Gaussian integral", log_mgf, -log(1 + 2 * _y) / 2 - shift / (1 + 2 * _y)),
        *_cumulants("-(z + b)^2", log_mgf, _y, -(1 + _b**2), variance),
        _identity("f(y) = y^2 - y + log(1 + 2y)/2 is 0 at 0", slack.subs(_y, 0), sympy.Integer(0)),
        _identity("and has derivative 4 y^2/(1 + 2y)", sympy.diff(slack, _y), 4 * _y**2 / (1 + 2 * _y)),
        _inequality("y - log(1 + 2y)/2 <= y^2 for y >= 0", slack, 0, _y, _RIGHT),
        _inequality("y b^2 - y b^2/(1 + 2y) <= 2 y^2 b^2", 2 * _y * shift, shift - shift / (1 + 2 * _y), _y, _RIGHT),
        _inequality("so log E exp of the centred coordinate <= y^2 Var/2", _y**2 * variance / 2, log_mgf + _y * (1 + _b**2), _y, _RIGHT),
        _inequality("the sum over coordinates, less l x, is convex in l", sympy.diff(parabola, _l, 2), 0, _l, _RIGHT),
        _identity("and its infimum is -t at T2's distance x below the mean", parabola.subs(_l, best), -_t),
    ]
    return steps, _MARKOV


def _smaller_weight() -> Step:
    share = Symbol("k", nonnegative=True)
    lesser = _x / (1 + share)
    return _inequality("a lesser weight has the lesser factor 1/(1 - 2 l w)", 1 / (1 - 2 * _x), 1 / (1 - 2 * lesser), _x, _TO_HALF)


def _prove_t3() -> tuple[list[Step], str]:
    log_mgf = _log_expectation(_x * (_z + _b) ** 2)
    variance = 2 + 4 * _b**2
    bound = _x**2 * variance / 2 / (1 - 2 * _x)
    solved, threshold = _legendre(_V, _w)
    steps = [
        _identity("log of E exp(x (z + b)^2), from the Gaussian integral", log_mgf, -log(1 - 2 * _x) / 2 + _x * _b**2 / (1 - 2 * _x)),
        *_cumulants("(z + b)^2", log_mgf, _x, 1 + _b**2, variance),
        _inequality("log E exp of the centred coordinate <= x^2 Var/2/(1 - 2x)", bound, log_mgf - _x * (1 + _b**2), _x, _TO_HALF),
        _smaller_weight(),
        *solved,
        _identity("mean plus x is T3", _mean + threshold, formula("T3").expression),
    ]
    return steps, _MARKOV


def _prove_t4() -> tuple[list[Step], str]:
    coordinate = _log_expectation(-_l * (_weight * _z**2 + _g * _z))
    normal = _log_expectation(-_l * _s * _z)
    total = coordinate + normal - _l * _c
    return [_identity("coordinate, normal term and constant add up", total, formula("T4").expression)], _MARKOV


def _prove_l1() -> tuple[list[Step], str]:
    a = 2 * sqrt(_d) + sqrt(2 * _V)
    gap = _d * _delta + _kappa
    # On the scale of energies: the wrong score's T2 threshold less the own score's T1 threshold.
    between = formula("T2").expression.subs(_mean, _d * (1 + _delta)) + _kappa - formula("T1").expression
    exponent = formula("L1-exponent").expression
    steps = [
        _identity("T2's threshold lies above T1's by the gap less a sqrt(t) + 2t", between, gap - a * sqrt(_t) - 2 * _t),
        *_inverse(exponent, _D, _a, sympy.Integer(2)),
        _identity("L1 is log N less this exponent", formula("L1").expression, log(_N) - exponent.subs({_a: a, _D: gap})),
    ]
    return steps, "T1 and T2; the union bound over the own and N - 1 wrong scores, split at one threshold"


def _prove_l1_measured() -> tuple[list[Step], str]:
    one = formula("L1-measured")
    own_mean, own_V, own_w, wrong_mean, wrong_V = (one.symbols[k] for k in ("own_mean", "own_V", "own_w", "wrong_mean", "wrong_V"))
    above = formula("T3").expression.subs({_mean: own_mean, _V: own_V, _w: own_w}, simultaneous=True)
    below = formula("T2").expression.subs({_mean: wrong_mean, _V: wrong_V}, simultaneous=True)
    a = sqrt(2 * own_V) + sqrt(2 * wrong_V)
    slope = Symbol("b", positive=True)
    between = wrong_mean - own_mean - a * sqrt(_t) - 2 * own_w * _t
    exponent = _exponent(_D, _a, slope)
    solved = exponent.subs({_D: wrong_mean - own_mean, _a: a, slope: 2 * own_w}, simultaneous=True)
    steps = [
        _identity("T2's threshold lies above T3's by the gap less a sqrt(t) + 2 w_k t", below - above, between),
        *_inverse(exponent, _D, _a, slope),
        _identity("log N less this exponent", one.expression, log(_N) - solved),
    ]
    return steps, "T2 and T3; the union bound over the own and N - 1 wrong scores, split at one threshold"


def _prove_l1_exponent() -> tuple[list[Step], str]:
    grows = sympy.diff((sqrt(_a**2 + 8 * _y) - _a) / 4, _y)
    solved = _inverse(formula("L1-exponent").expression, _D, _a, sympy.Integer(2))
    return [*solved, _inequality("the exponent's root grows with the gap", grows, 0, _y, _RIGHT)], ""


def _prove_l1_delta() -> tuple[list[Step], str]:
    condition = Eq(_d * _delta + _kappa, 2 * sqrt(_d * _t) + 2 * _t + sqrt(2 * _V * _t))
    (needed,) = sympy.solve(condition, _delta)
    (level,) = sympy.solve(Eq(_N * exp(-_t), _eps), _t)
    steps = [
        _identity("L1's condition at equality, solved for delta", needed, formula("L1-delta").expression),
        _identity("N exp(-t) is eps at t = log(N/eps)", level, log(_N / _eps)),
    ]
    return steps, "L1"


def _prove_l1_delta_isotropic() -> tuple[list[Step], str]:
    e = Symbol("epsilon", positive=True)
    root = Symbol("y", real=True)
    separation, variance = formula("delta"), formula("V")
    square = _d * _delta
    found_delta = separation.expression.subs({separation.symbols["trace"]: _d, separation.symbols["distance"]: square})
    found_V = variance.expression.subs({variance.symbols["squared"]: _d, variance.symbols["pulled"]: square})
    condition = formula("L1-delta").expression.subs({_V: found_V, _kappa: 0}).subs(_t, e**2 * _d)
    # In y = sqrt(1 + 2 delta) the condition is a quadratic.
    quadratic = (root**2 - 1) / 2 - 2 * e - 2 * e**2 - 2 * e * root
    roots = sympy.solve(quadratic, root)
    greater = [r for r in roots if all(_positive(r - other) for other in roots if other != r)]
    single = len(roots) == 2 and len(greater) == 1 and _positive(-sympy.expand(roots[0] * roots[1]))
    y = greater[0] if single else sympy.nan
    closed = formula("L1-delta-isotropic").expression.subs(_t, e**2 * _d)
    steps = [
        _identity("with one covariance, delta is the squared Mahalanobis distance per dimension", found_delta, _delta),
        _identity("and V = 2d + 4d delta", found_V, 2 * _d + 4 * _d * _delta),
        _identity(
            "with t = e^2 d and delta = (y^2 - 1)/2 the condition is that a quadratic in y is not negative",
            condition,
            2 * e + 2 * e**2 + 2 * e * sqrt(1 + 2 * _delta),
        ),
        Step("whose roots have a negative product, so that it holds from the greater on", Eq(root, y), single),
        _identity("the separation there", sympy.expand((y**2 - 1) / 2), sympy.expand(closed)),
    ]
    return steps, "L1-delta; kappa = 0 with equal covariances and no weights"


def _prove_l1b() -> tuple[list[Step], str]:
    up = _log_expectation(-_l * (_y * _z**2 + _g * _z)) + _l * _y
    down = _log_expectation(_x * _z**2 + _b * _z) - _x
    solved, threshold = _legendre(_V, _w)
    slope = sqrt(2 * _V)
    exponent = -formula("L1b").expression
    steps = [
        _inequality(
            "an eigenvalue w >= 0, T2: log E exp(-l(M - E M)) <= l^2 (2 w^2 + g^2)/2", _l**2 * (2 * _y**2 + _g**2) / 2, up, _y, _RIGHT
        ),
        # With x = l |w| and b = -l g.
        _inequality("an eigenvalue below 0, T3: <= the same over 1 - 2 l |w|", (2 * _x**2 + _b**2) / 2 / (1 - 2 * _x), down, _x, _TO_HALF),
        _smaller_weight(),
        _inequality("T2's form is below T3's", 1 / (1 - 2 * _x), 1, _x, _TO_HALF),
        *solved,
        _identity("the margin bound's condition", threshold, slope * sqrt(_t) + 2 * _w * _t),
        *_inverse(exponent.subs(_wm, _w), _r, slope, 2 * _w),
        _limit("as w vanishes it becomes E M^2/(2V)", ((sqrt(_a**2 + 8 * _w * _r) - _a) / (4 * _w)) ** 2, _w, 0, _r**2 / _a**2),
        _identity("as the form that does not cancel has it at w = 0", exponent.subs(_wm, 0), _r**2 / (2 * _V)),
    ]
    return steps, _MARKOV


def _prove_l1b_tilt() -> tuple[list[Step], str]:
    log_bound = _l**2 * _V / 2 / (1 - 2 * _l * _w) - _l * (sqrt(2 * _V * _t) + 2 * _w * _t)
    tilt = formula("L1b-tilt").expression.subs(_wm, _w)
    steps = [
        _identity("l0 is stationary", sympy.diff(log_bound, _l).subs(_l, tilt), sympy.Integer(0)),
        _identity("and attains -t", log_bound.subs(_l, tilt), -_t),
        _manifest("l0 is below 1/(2w)", 1 / (2 * _w) - _q / (1 + 2 * _w * _q), sympy.Integer(0)),
    ]
    return steps, "L1b"


def _prove_l2() -> tuple[list[Step], str]:
    (t,) = sympy.solve(Eq(_mean - _c, sqrt(2 * _V * _t)), _t)
    gap = Symbol("x", positive=True)
    below = t.subs(_mean, _c + gap)
    one = formula("L2")
    k = one.symbols
    slope = Symbol("b", positive=True)
    exponent = _exponent(_D, _a, slope)
    above = exponent.subs({_D: _c - k["own_mean"], _a: sqrt(2 * k["own_V"]), slope: 2 * k["own_w"]}, simultaneous=True)
    wrong = t.subs({_mean: k["wrong_mean"], _V: k["wrong_V"]}, simultaneous=True)
    steps = [
        *_inverse(exponent, _D, _a, slope),
        _identity("T2's threshold at c, solved and substituted back", sqrt(2 * _V * below), gap),
        _identity("the sum of both tails", one.expression, exp(-above) + exp(-wrong)),
    ]
    return steps, "T2 and T3; an error needs the own score at or above c, or the wrong one at or below"


def _prove_l3() -> tuple[list[Step], str]:
    one, margin = formula("L3"), formula("T4")
    v_own, v_wrong = one.symbols["v_own"], one.symbols["v_wrong"]
    ratio = -((_h + sqrt(v_own) * _z) ** 2) / (2 * v_wrong) - log(v_wrong) / 2 + _z**2 / 2 + log(v_own) / 2
    in_margin = {
        _l: _l / 2,
        _weight: v_own / v_wrong - 1,
        _g: 2 * sqrt(v_own) * _h / v_wrong,
        _s: 0,
        _c: _h**2 / v_wrong + log(v_wrong) - log(v_own),
    }
    inside = (1 - _l) * v_wrong + _l * v_own
    steps = [
        _identity("log of E (p_wrong/p_own)^l, from the Gaussian integral", _log_expectation(_l * ratio), one.expression),
        _identity("T4 of the energy margin at l/2 is the same", margin.expression.subs(in_margin, simultaneous=True), one.expression),
        Step("it is finite for 0 <= l < 1, where l = y/(1 + y)", sympy.Gt(inside, 0), _positive(inside.subs(_l, _y / (1 + _y)))),
    ]
    return steps, f"{_MARKOV}; {_DIAGONAL}"


def _prove_bhattacharyya() -> tuple[list[Step], str]:
    one, chernoff = formula("L3-bhattacharyya"), formula("L3").expression
    v_own, v_wrong = one.symbols["v_own"], one.symbols["v_wrong"]
    both = exp(-(_z**2) / (4 * v_own) - (_z + _h) ** 2 / (4 * v_wrong)) / sqrt(2 * pi * sqrt(v_own * v_wrong))
    integral = log(sympy.simplify(sympy.integrate(sympy.expand(both), (_z, -oo, oo))))
    still = one.expression.subs(_h, 0)
    isotropic = -(_r**2) / (4 * (v_own + v_wrong)) - _d * log((v_own + v_wrong) / (2 * sqrt(v_own * v_wrong))) / 2
    variances = sympy.symbols("u1 u2 v1 v2", positive=True)
    shifts = sympy.Matrix(sympy.symbols("D1 D2", real=True))
    own, wrong = sympy.diag(*variances[:2]), sympy.diag(*variances[2:])
    middle = (own + wrong) / 2
    dense = -(shifts.T * middle.inv() * shifts)[0] / 8 - log(middle.det() / sqrt(own.det() * wrong.det())) / 2
    coordinates = [
        one.expression.subs({_h: shifts[k], v_own: variances[k], v_wrong: variances[k + 2]}, simultaneous=True) for k in range(2)
    ]
    T = sympy.Matrix(2, 2, sympy.symbols("T11 T12 T21 T22", real=True))
    first, cross, last = sympy.symbols("S11 S12 S22", real=True)
    S = sympy.Matrix([[first, cross], [cross, last]])
    mapped = T * S * T.T
    quadratic = ((T * shifts).T * mapped.adjugate() * (T * shifts))[0] / mapped.det()
    steps = [
        _identity("the pairwise Chernoff bound at l = 1/2", chernoff.subs(_l, _HALF), one.expression),
        _identity("log of the integral of sqrt(p_own p_wrong), taken by the machine", integral, one.expression),
        _identity("isotropic, any d: one coordinate along D, d - 1 across", one.expression.subs(_h, _r) + (_d - 1) * still, isotropic),
        _identity("diagonal, every variance its own (d = 2): the dense formula is the sum", dense, sum(coordinates)),
        _identity("determinants under an invertible map (d = 2)", mapped.det(), T.det() ** 2 * S.det()),
        _identity("and squared distances do not change", sympy.cancel(quadratic), (shifts.T * S.adjugate() * shifts)[0] / S.det()),
    ]
    return steps, _DIAGONAL


def _prove_l4() -> tuple[list[Step], str]:
    one = formula("L3")
    isotropic = one.expression.subs({one.symbols["v_own"]: _sigma**2, one.symbols["v_wrong"]: _sigma**2, _h: _r}, simultaneous=True)
    isotropic = sympy.simplify(sympy.expand_log(isotropic))
    (best,) = sympy.solve(sympy.diff(isotropic, _l), _l)
    bound = formula("L4").expression
    steps = [
        _identity("the coordinate along D", isotropic, -_l * (1 - _l) * _r**2 / (2 * _sigma**2)),
        _identity("those across contribute nothing", isotropic.subs(_r, 0), sympy.Integer(0)),
        _inequality("convex in l", sympy.diff(isotropic, _l, 2), 0, _l, Interval.Ropen(0, 1)),
        _identity("its infimum is at l = 1/2", best, _HALF),
        _identity("B independent copies add up", _B * isotropic.subs(_l, best), bound),
        _identity("the exponent is linear in B", sympy.diff(bound, _B) * _B, bound),
    ]
    return steps, _MARKOV


def _prove_l5() -> tuple[list[Step], str]:
    one, separation, advantage, variance = formula("L5"), formula("delta"), formula("kappa"), formula("V")
    x = Symbol("x", positive=True)
    # Along D the wrong mean lies r from the query's, and the wrong energy exceeds the own by this.
    margin = ((_r + _sigma * _z) ** 2 - (_sigma * _z) ** 2) / _sigma**2
    log_mgf = _log_expectation(_l * margin)
    below = sympy.simplify(sympy.integrate(exp(-(_z**2) / 2) / sqrt(2 * pi), (_z, -oo, -x)))
    square = _r**2 / _sigma**2
    logdet = Symbol("L", real=True)
    equal = {advantage.symbols["log_det_own"]: logdet, advantage.symbols["log_det_wrong"]: logdet}
    equal |= {advantage.symbols["pi_own"]: _p, advantage.symbols["pi_wrong"]: _p}
    steps = [
        _identity("the margin is linear in z", sympy.diff(margin, _z, 2), sympy.Integer(0)),
        *_cumulants("the margin", log_mgf, _l, square, 4 * square),
        _identity("Phi(-x), integrated by the machine", below, erfc(x / sqrt(2)) / 2),
        _identity("at x = mean/deviation it is the error", below.subs(x, sympy.simplify(square / sqrt(4 * square))), one.expression),
        _identity(
            "here d delta = r^2/sigma^2",
            _d * separation.expression.subs({separation.symbols["trace"]: _d, separation.symbols["distance"]: square}),
            square,
        ),
        _identity("kappa = 0", advantage.expression.subs(equal), sympy.Integer(0)),
        _identity(
            "and V = 2d + 4 r^2/sigma^2",
            variance.expression.subs({variance.symbols["squared"]: _d, variance.symbols["pulled"]: square}),
            2 * _d + 4 * square,
        ),
    ]
    return steps, "the law of an isotropic Gaussian does not change under rotation"


def _best_shift() -> tuple[list[Step], Expr]:
    """The least of ``E(M - E M - u)^2 / (r + u)^2`` over shifts u >= 0."""
    u = Symbol("u", nonnegative=True)
    centred = Symbol("X", real=True)
    square = sympy.Poly((centred - u) ** 2, centred)
    moments = (sympy.Integer(1), sympy.Integer(0), _V)
    expected = sum(square.coeff_monomial(centred**k) * moments[k] for k in range(3))
    ratio = expected / (_r + u) ** 2
    (best,) = sympy.solve(sympy.diff(ratio, u), u)
    least = sympy.simplify(ratio.subs(u, best))
    steps = [
        _identity("with X of mean 0 and variance V, E(X - u)^2", expected, _V + u**2),
        _identity("the ratio is stationary at u = V/r", best, _V / _r),
        _identity("where it is V/(V + r^2)", least, _V / (_V + _r**2)),
        _manifest("and nowhere less", ratio, least),
    ]
    return steps, least


def _prove_l7() -> tuple[list[Step], str]:
    steps, least = _best_shift()
    return [*steps, _identity("which is L7", least, formula("L7").expression)], "Markov's inequality for (M - E M - u)^2, u >= 0"


def _prove_l8() -> tuple[list[Step], str]:
    rate = Symbol("p", positive=True)
    (limit,) = sympy.solve(Eq(_n * log(1 - rate), log(_beta)), rate)
    none = sympy.binomial(_n, 0) * rate**0 * (1 - rate) ** _n
    steps = [
        _identity("the binomial chance of no error in n", none, (1 - rate) ** _n),
        _identity("is beta at the limit, solved by the machine", limit, formula("L8").expression),
        _inequality("and its logarithm falls with the rate", -sympy.diff(log(1 - rate), rate), 0, rate, Interval.Ropen(0, 1)),
    ]
    return steps, "Clopper and Pearson 1934: the limit is the rate at which so few errors have probability beta"


def _prove_l9() -> tuple[list[Step], str]:
    steps, least = _best_shift()
    (far, _), (near, _) = formula("L9").expression.args
    x = Symbol("x", positive=True)
    (equal,) = sympy.solve(Eq(4 * x / 9, 4 * x / 3 - Rational(1, 3)), x)
    (square,) = sympy.solve(Eq(least, equal).subs(_r, sqrt(x)), x)
    cantelli = formula("L7").expression
    beyond, short = (formula("L7").expression.subs(_r, root) for root in (sqrt(5 * _V / 3 + _y), sqrt(5 * _V / 3 / (1 + _y))))
    steps += [
        _identity("the far branch is 4/9 of the ratio", far, 4 * least / 9),
        _identity("the near branch is 4/3 of it less 1/3", near, 4 * least / 3 - Rational(1, 3)),
        _identity("they meet at a ratio of 3/8", equal, Rational(3, 8)),
        _identity("which is r^2 = 5V/3", square, 5 * _V / 3),
        _manifest("the ratio is at most 3/8 from there on", equal, beyond),
        _manifest("and at least 3/8 before", short, equal),
        _manifest("the far branch is at most L7", cantelli, far),
        _manifest("the near branch is at most L7", cantelli, near),
    ]
    given = "Vysochanskii and Petunin 1980, about any point a, for unimodal X: with R = E(X - a)^2/k^2, P(|X - a| >= k) is at most "
    return steps, given + "4R/9 if R <= 3/8, else 4R/3 - 1/3"


def _prove_l10() -> tuple[list[Step], str]:
    one = formula("L10")
    moment = one.symbols["moment"]
    # The variable whose mean the bound is, where M - E M = -(r + y).
    below = one.expression.subs(moment, (_r + _y) ** _p)
    steps = [
        _identity("|M - E M|^p/(E M)^p is 1 at M = 0", below.subs(_y, 0), sympy.Integer(1)),
        _inequality("and at least 1 below", below, 1, _y, _RIGHT),
        _manifest("at p = 2 it is at least L7", one.expression.subs({_p: 2, moment: _V}), formula("L7").expression),
    ]
    return steps, "Markov's inequality for |M - E M|^p: M <= 0 needs |M - E M| >= E M"


def _prove_l11() -> tuple[list[Step], str]:
    v, x = sympy.symbols("v x", positive=True)
    # v = 1/W is chi-square over nu, and sqrt(W) z has density sqrt(v) phi(x sqrt(v)) given v.
    weight = (_nu / 2) ** (_nu / 2) * v ** (_nu / 2 - 1) * exp(-_nu * v / 2) / sympy.gamma(_nu / 2)
    density = sympy.integrate(sympy.powsimp(sqrt(v) * exp(-(x**2) * v / 2) / sqrt(2 * pi) * weight), (v, 0, oo))
    tail = formula("L11").expression.subs(_r, 2 * _sigma * x)
    slope = sympy.diff(tail, x).rewrite(sympy.gamma)
    steps = [
        _identity(
            "minus the tail's slope in x = r/(2 sigma) over the density of sqrt(W) z", sympy.powsimp(-slope / density), sympy.Integer(1)
        ),
        _identity("and the tail is 1/2 at 0", tail.subs(x, 0).rewrite(sympy.Integral), _HALF),
    ]
    return steps, "given W the error is L5 at sigma sqrt(W), the chance that sqrt(W) z is at most -r/(2 sigma)"


def _prove_l12_chi2() -> tuple[list[Step], str]:
    one = formula("L12-chi2")
    chi2 = one.symbols["chi2"]
    F, G = sympy.symbols("F G", positive=True)
    C, q, s = sympy.symbols("C q s", real=True)
    parabola = F - 2 * s * C + s**2 * G
    (best,) = sympy.solve(sympy.diff(parabola, s), s)
    spread = _p * (1 - _p) ** 2 + (1 - _p) * _p**2
    two_valued = _p * (q / _p - 1) * (1 - _p) + (1 - _p) * ((1 - q) / (1 - _p) - 1) * (-_p)
    attained = _p * (q / _p - 1) ** 2 + (1 - _p) * ((1 - q) / (1 - _p) - 1) ** 2
    steps = [
        _identity("Cauchy-Schwarz: E(f - s g)^2 >= 0 is least at s = C/G, so that C^2 <= F G", parabola.subs(s, best), F - C**2 / G),
        _identity("with g = 1_A - p, G = p(1 - p)", spread, _p * (1 - _p)),
        _identity("with f = dQ/dP - 1, C = q - p", two_valued, q - _p),
        _identity("so q is at most L12", _p + sqrt(chi2 * sympy.factor(spread)), one.expression),
        _identity("a ratio dQ/dP of two values attains it", attained * spread, (q - _p) ** 2),
    ]
    return steps, "chi2 = E_P(dQ/dP - 1)^2; averaging dQ/dP over A and over its complement changes neither q nor C"


def _prove_l12_kl() -> tuple[list[Step], str]:
    kl = formula("L12-kl").expression
    q = formula("L12-kl").symbols["q"]
    share = Symbol("k", positive=True)
    above = Interval.Ropen(1 / (1 + share), 1)
    ours = kl.subs(_p, 1 / (1 + share))
    part = _x * log(_x) - _x + 1
    # Two outcomes inside the event and two outside, with their conditional probabilities under both laws.
    a, b, c, e = sympy.symbols("a b c e", positive=True)
    inside = q * a * (log(q * a) - log(_p * b)) + q * (1 - a) * (log(q * (1 - a)) - log(_p * (1 - b)))
    rest = (1 - q) * c * (log((1 - q) * c) - log((1 - _p) * e))
    rest += (1 - q) * (1 - c) * (log((1 - q) * (1 - c)) - log((1 - _p) * (1 - e)))
    within = [u * (log(u) - log(v)) + (1 - u) * (log(1 - u) - log(1 - v)) for u, v in ((a, b), (c, e))]
    split = kl + q * within[0] + (1 - q) * within[1]
    steps = [
        _inequality("x log x - x + 1 >= 0 for x >= 1", part, 0, _x, Interval(1, oo)),
        _inequality("and below 1, where x = 1/y", _y - 1 - log(_y), 0, _y, Interval(1, oo)),
        _identity(
            "chain rule, two outcomes inside the event and two outside: kl(q, p) and the divergences within",
            _logs(inside + rest),
            _logs(split),
        ),
        _identity("kl(p, p) = 0", kl.subs(q, _p), sympy.Integer(0)),
        _inequality("kl(q, p) grows with q above p", sympy.diff(ours, q), 0, q, above),
        _inequality("so that it is nonnegative there", ours, 0, q, above),
    ]
    return steps, "a divergence is the mean of x log x - x + 1 under P with x = dQ/dP"


def _logs(expression: Expr) -> Expr:
    """Logarithms of products expanded; arguments here are probabilities in (0, 1) and their complements."""
    return sympy.expand(sympy.expand_log(expression, force=True))


def _prove_floor_chi2() -> tuple[list[Step], str]:
    one = formula("floor-chi2")
    q, chi2, rise = one.symbols["q"], formula("L12-chi2").symbols["chi2"], Symbol("k", positive=True)
    inverse = sympy.solve(Eq(rise**2, chi2 * _p * (1 - _p)), chi2)
    steps = [_identity("L12-chi2 at equality, solved for chi2", inverse[0].subs(rise, q - _p), one.expression)]
    return steps, "L12-chi2, and for q below p the same for the complement"


def _inverse_chi_square() -> tuple[Step, Expr, Symbol]:
    """``E 1/chi2_k`` for k = 2 + f degrees of freedom, integrated by the machine."""
    x, f = sympy.symbols("x f", positive=True)
    k = 2 + f
    found = sympy.integrate(x ** (k / 2 - 2) * exp(-x / 2), (x, 0, oo)) / (2 ** (k / 2) * sympy.gamma(k / 2))
    found = sympy.simplify(sympy.gammasimp(found))
    return _identity("E 1/chi2_k = 1/(k - 2), integrated by the machine for k = 2 + f", found, 1 / f), found, f


def _prove_f1() -> tuple[list[Step], str]:
    step, inverse, f = _inverse_chi_square()
    # An F variable is (chi2_d / d) / (chi2_{n-d} / (n-d)), its parts independent, and the mean above the line is 1.
    mean_f = (_n - _d) * inverse.subs(f, _n - _d - 2)
    scale = _d * (_n**2 - 1) / (_n * (_n - _d))
    by_f3 = formula("F3").expression * (1 + 1 / _n) * _d
    steps = [
        step,
        _identity("mean of the scaled F(d, n - d)", scale * mean_f, formula("F1").expression),
        _identity("and by F3, the whitened fresh point less the mean having variance 1 + 1/n", by_f3, formula("F1").expression),
    ]
    return steps, "Hotelling 1931: the distance is distributed as d (n^2 - 1)/(n (n - d)) F(d, n - d)"


def _prove_f2() -> tuple[list[Step], str]:
    x, k, s = sympy.symbols("x k s", positive=True)
    mellin = sympy.integrate(x ** (s + k / 2 - 1) * exp(-x / 2), (x, 0, oo)) / (2 ** (k / 2) * sympy.gamma(k / 2))
    log_mean = sympy.diff(log(sympy.simplify(mellin)), s).subs(s, 0)
    one = formula("F2")
    (total,) = one.expression.atoms(sympy.Sum)
    j = total.variables[0]
    common = sympy.summation(log(2) - log(_n - 1), (j, 0, _d - 1))
    steps = [
        _identity("E log chi2_k = digamma(k/2) + log 2, from its Mellin transform", log_mean, sympy.digamma(k / 2) + log(2)),
        _identity("term j of the sum", log_mean.subs(k, _n - 1 - j) - log(2), total.function),
        _identity("and what all terms share", one.expression - total, common),
    ]
    return steps, "Bartlett 1933: the determinant of (n - 1) S over that of the true covariance is a product of chi2_{n-1-j}, j < d"


def _prove_f3() -> tuple[list[Step], str]:
    step, inverse, f = _inverse_chi_square()
    steps = [step, _identity("with k = n - d, times n - 1", (_n - 1) * inverse.subs(f, _n - _d - 2), formula("F3").expression)]
    return (
        steps,
        "whitened, the mean inverse of (n - 1) S is a multiple of the identity, and 1 over a diagonal entry of the inverse is chi2_{n-d}",
    )


_ROTATION = "whitening by the component and rotating makes the query covariance diagonal, so that coordinates are independent and add up"
_DIAGONAL = "whitening by one covariance and rotating by the eigenvectors of the other makes both diagonal, for any two covariances"
_PROOFS: dict[str, Callable[[], tuple[list[Step], str]]] = {
    "delta": _prove_delta,
    "kappa": _prove_kappa,
    "V": _prove_v,
    "T1": _prove_t1,
    "T2": _prove_t2,
    "T3": _prove_t3,
    "T4": _prove_t4,
    "L1": _prove_l1,
    "L1-measured": _prove_l1_measured,
    "L1-exponent": _prove_l1_exponent,
    "L1-delta": _prove_l1_delta,
    "L1-delta-isotropic": _prove_l1_delta_isotropic,
    "L1b": _prove_l1b,
    "L1b-tilt": _prove_l1b_tilt,
    "L2": _prove_l2,
    "L3": _prove_l3,
    "L3-bhattacharyya": _prove_bhattacharyya,
    "L4": _prove_l4,
    "L5": _prove_l5,
    "L7": _prove_l7,
    "L8": _prove_l8,
    "L9": _prove_l9,
    "L10": _prove_l10,
    "L11": _prove_l11,
    "L12-chi2": _prove_l12_chi2,
    "L12-kl": _prove_l12_kl,
    "floor-chi2": _prove_floor_chi2,
    "F1": _prove_f1,
    "F2": _prove_f2,
    "F3": _prove_f3,
}


@cache
def prove(name: str) -> Proof:
    """Prove a formula: every step is derived or verified by the machine when first asked.

    Raises
    ------
    InputError
        If there is no formula of this name.
    """
    steps, given = _PROOFS[formula(name).name]()
    return Proof(name, tuple(steps), given)


def proofs() -> tuple[Proof, ...]:
    """Proofs of all formulas, in the order of the ladder."""
    return tuple(prove(row.name) for row in formulas())


# --- asymptotics ------------------------------------------------------------------------------------------------------


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
    exact = formula("L1-delta-isotropic").expression
    # It depends on e = sqrt(t/d) alone; growing d is vanishing e.
    of_e = sympy.simplify(exact.subs(_t, e**2 * _d))
    leading = 4 * e + 10 * e**2
    in_d = 4 * sqrt(_t / _d) + 10 * _t / _d

    def of_root(delta: Expr) -> Expr:
        """What the square root in the exact form is when the whole is delta."""
        return sympy.expand((delta - 2 * e - 6 * e**2) / (2 * e))

    square = sympy.expand(of_root(of_e) ** 2)
    checks = (
        _identity("the two terms in e = sqrt(t/d)", in_d.subs(_t, e**2 * _d), leading),
        _identity("series in e = sqrt(t/d) to second order", sympy.series(of_e, e, 0, 3).removeO(), leading),
        _limit("leading term", of_e / (4 * e), e, 0, sympy.Integer(1)),
        _limit("next term", (of_e - 4 * e) / (10 * e**2), e, 0, sympy.Integer(1)),
        _limit("leading term in d itself", exact.subs(_d, dimension) / sqrt(_t / dimension), dimension, oo, sympy.Integer(4)),
        # On squares, because the sides are positive.
        _manifest("two terms are never more than what is required", square, sympy.expand(of_root(leading) ** 2)),
        _manifest("and with 4 e^3 more never less", sympy.expand(of_root(leading + 4 * e**3) ** 2), square),
    )
    statement = (
        "Separation that L1 requires when all covariances are equal, as d grows at fixed t: two leading terms, never more than the "
        "exact value."
    )
    row = Formula("L1-delta as d grows", statement, in_d, {"d": _d, "t": _t}, Assumption.A4)
    return Asymptotic(row, exact, "d", checks)


@cache
def _delta_as_m_grows() -> Asymptotic:
    e, tasks, tau = sympy.symbols("epsilon_1 m tau", positive=True)
    exact = formula("L1-delta-isotropic").expression
    of_e = sympy.simplify(exact.subs(_t, e**2 * _d))
    slope = 6 + 4 * sqrt(2)
    level = log((1 + (tasks - 1) * tau) / _eps)
    checks = (
        _limit("delta/e^2 as e = sqrt(t/d) grows", of_e / e**2, e, oo, slope),
        _limit("t/log m with t = log(N/eps) and N = 1 + (m - 1) tau", level / log(tasks), tasks, oo, sympy.Integer(1)),
    )
    statement = "Separation that L1 requires when all covariances are equal, as m grows at fixed d: the leading term."
    row = Formula("L1-delta as m grows", statement, slope * log(_m) / _d, {"m": _m, "d": _d}, Assumption.A4)
    return Asymptotic(row, exact.subs(_t, level.subs(tasks, _m)), "m", checks)


@cache
def _delta_as_m_grows_at_fixed_v() -> Asymptotic:
    t, tasks, tau = sympy.symbols("t m tau", positive=True)
    exact = formula("L1-delta").expression
    level = log((1 + (tasks - 1) * tau) / _eps)
    checks = (
        _limit("delta/t", exact.subs(_t, t) / t, t, oo, 2 / _d),
        _limit("t/log m", level / log(tasks), tasks, oo, sympy.Integer(1)),
    )
    statement = "Separation that L1 requires as m grows, the variance V, kappa and d held fixed: the leading term."
    row = Formula("L1-delta as m grows, V fixed", statement, 2 * log(_m) / _d, {"m": _m, "d": _d}, Assumption.A2)
    return Asymptotic(row, exact.subs(_t, level.subs(tasks, _m)), "m", checks)


_REQUIRED: dict[str, Callable[[], Asymptotic]] = {
    "d": _delta_as_d_grows,
    "m": _delta_as_m_grows,
    "m, V fixed": _delta_as_m_grows_at_fixed_v,
}


@cache
def _distance_as_n_grows() -> Asymptotic:
    size = Symbol("n", positive=True)
    exact = formula("F1").expression / _d - 1
    of_n = sympy.factor(exact.subs(_n, size))
    leading = (_d + 2) / _n + ((_d + 2) ** 2 - 1) / _n**2
    u = Symbol("u", positive=True)
    checks = (
        _identity("relative excess", exact, ((_d + 2) * _n - 1) / (_n * (_n - _d - 2))),
        _identity("series in 1/n", sympy.series(sympy.cancel(of_n.subs(size, 1 / u)), u, 0, 3).removeO(), leading.subs(_n, 1 / u)),
        _limit("leading term", of_n * size, size, oo, _d + 2),
        _limit("next term", (of_n - (_d + 2) / size) * size**2, size, oo, (_d + 2) ** 2 - 1),
        _limit("the distance itself exceeds d by d (d + 2)/n", _d * of_n * size, size, oo, _d * (_d + 2)),
    )
    statement = "Relative excess of the expected distance F1 over d as n grows at fixed d: two leading terms."
    return Asymptotic(Formula("F1 as n grows", statement, leading, {"d": _d, "n": _n}, Assumption.A2), exact, "n", checks)


@cache
def _distance_at_fixed_ratio() -> Asymptotic:
    rho, dimension = Symbol("rho", positive=True), Symbol("d", positive=True)
    exact = formula("F1").expression / _d - 1
    at_ratio = sympy.cancel(exact.subs({_n: rho * dimension, _d: dimension}, simultaneous=True))
    checks = (_limit("relative excess at n = rho d", at_ratio, dimension, oo, 1 / (rho - 1)),)
    statement = "Relative excess of the expected distance F1 over d as both grow at n = rho d, rho above 1: the limit."
    row = Formula("F1 as d grows, n = rho d", statement, 1 / (rho - 1), {"rho": rho}, Assumption.A2, (rho > 1,))
    return Asymptotic(row, exact, "d", checks)


@cache
def _log_det_as_n_grows() -> Asymptotic:
    size, place = sympy.symbols("n j", positive=True)
    index = Symbol("j", integer=True)
    exact = formula("F2").expression
    parts = (sympy.digamma((size - 1 - place) / 2), -log((size - 1) / 2))
    term = sum(sympy.series(part, size, oo, 2).removeO() for part in parts)
    each = sympy.simplify(sympy.expand_log(term) * size)
    leading = -_d * (_d + 1) / (2 * _n)
    checks = (
        _identity("term j of the sum, with its share of the logarithm, in series: -(j + 1)/n", each, -(place + 1)),
        _identity("summed over j < d", sympy.summation(each.subs(place, index), (index, 0, _d - 1)) / _n, leading),
    )
    statement = "Bias F2 of the log-determinant as n grows at fixed d: the leading term."
    return Asymptotic(Formula("F2 as n grows", statement, leading, {"d": _d, "n": _n}, Assumption.A2), exact, "n", checks)
