"""The formulas of the ladder: thresholds, exponents, bounds and moments, with what each claims and where."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import sympy
from sympy import Expr, Ge, Rational, Symbol, erfc, exp, log, sqrt

from theory.bound import Assumption
from theory.errors import InputError
from theory.symbolic.symbols import (
    B_,
    HALF,
    N_,
    V_,
    Delta_,
    a_,
    beta_,
    c_,
    d_,
    delta_,
    g_,
    kappa_,
    l_,
    mean_,
    n_,
    nu_,
    p_,
    r_,
    s_,
    shift_,
    sigma_,
    t_,
    w_,
    w_minus_,
    weight_,
)

# Integers above this are not exact in float64.
_LARGEST_INTEGER = 2**53


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

    def _repr_markdown_(self) -> str:
        """How a notebook shows it."""
        domain = "".join(f", ${sympy.latex(relation)}$" for relation in self.domain)
        return f"**{self.name}** ({self.assumption.value}{domain}). {plain_text(self.statement)}\n\n$$ {self.latex()} $$"

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


def greatest_t(gap: Expr, a: Expr, b: Expr) -> Expr:
    """The greatest t with ``a sqrt(t) + b t`` at most the gap, in the form that does not cancel."""
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
    gap = d_ * delta_ + kappa_
    v = (1 - l_) * v_wrong + l_ * v_own
    j = Symbol("j", integer=True)
    root = sqrt(t_ / d_)
    ratio = V_ / (V_ + r_**2)
    pair = {"mean": r_, "V": V_}
    spread = {"distance": r_, "sigma": sigma_}
    rows = (
        Formula(
            "delta",
            "Separation of a wrong component: its expected squared Mahalanobis distance per dimension, less one; T is the trace of "
            "the query covariance whitened by the component, D^2 the squared Mahalanobis distance of the query mean.",
            (trace + distance) / d_ - 1,
            {"trace": trace, "distance": distance, "d": d_},
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
            d_ + 2 * sqrt(d_ * t_) + 2 * t_,
            {"d": d_, "t": t_},
            A2,
        ),
        Formula(
            "T2",
            "A generalised chi-square of mean mu and variance V with no negative weight is at most this with probability at most exp(-t).",
            mean_ - sqrt(2 * V_ * t_),
            {"mean": mean_, "V": V_, "t": t_},
            A2,
        ),
        Formula(
            "T3",
            "A generalised chi-square of mean mu, variance V and greatest weight w is at least this with probability at most exp(-t).",
            mean_ + sqrt(2 * V_ * t_) + 2 * w_ * t_,
            {"mean": mean_, "V": V_, "w": w_, "t": t_},
            A2,
        ),
        Formula(
            "T4",
            "Log of E exp(-l M) for a margin M = c + w z^2 + g z + s z_0 of one coordinate; coordinates add up, and every l gives a bound.",
            -l_ * c_ + (l_ * s_) ** 2 / 2 - log(1 + 2 * l_ * weight_) / 2 + (l_ * g_) ** 2 / (2 * (1 + 2 * l_ * weight_)),
            {"l": l_, "w": weight_, "g": g_, "s": s_, "c": c_},
            A3,
            (1 + 2 * l_ * weight_ > 0,),
        ),
        Formula(
            "L1",
            "Separation bound, well-specified: log of the retrieval error is at most this, with N - 1 wrong components and the values of "
            "the one for which it is greatest.",
            log(N_) - greatest_t(gap, 2 * sqrt(d_) + sqrt(2 * V_), 2),
            {"d": d_, "delta": delta_, "kappa": kappa_, "V": V_, "N": N_},
            A2,
            (gap > 0,),
        ),
        Formula(
            "L1-measured",
            "Separation bound for any Gaussian query: log of the retrieval error is at most this, from the means and variances of the "
            "true and a wrong score and the greatest weight w_k of the true one, with N and the choice as for L1.",
            log(N_) - greatest_t(wrong_mean - own_mean, sqrt(2 * own_V) + sqrt(2 * wrong_V), 2 * own_w),
            {"own_mean": own_mean, "own_V": own_V, "own_w": own_w, "wrong_mean": wrong_mean, "wrong_V": wrong_V, "N": N_},
            A2,
            (wrong_mean > own_mean,),
        ),
        Formula(
            "L1-exponent",
            "Exponent of the separation bound: the greatest t with a sqrt(t) + 2 t at most Delta.",
            greatest_t(Delta_, a_, 2),
            {"a": a_, "Delta": Delta_},
            A2,
        ),
        Formula(
            "L1-delta",
            "Separation that the separation bound, well-specified, requires for an error of N exp(-t), at a given variance V.",
            (2 * sqrt(d_ * t_) + 2 * t_ + sqrt(2 * V_ * t_) - kappa_) / d_,
            {"d": d_, "t": t_, "V": V_, "kappa": kappa_},
            A2,
        ),
        Formula(
            "L1-delta-isotropic",
            "Separation that the separation bound, well-specified, requires for an error of N exp(-t) when all covariances are equal and "
            "there are no weights; it depends on t/d alone.",
            2 * root + 6 * root**2 + 2 * root * sqrt(1 + 4 * root + 8 * root**2),
            {"d": d_, "t": t_},
            A4,
        ),
        Formula(
            "L1b",
            "Margin bound: log of the probability that a margin of mean r, variance V and least weight -w is not positive is at most this.",
            -greatest_t(r_, sqrt(2 * V_), 2 * w_minus_),
            {**pair, "w_minus": w_minus_},
            A3,
        ),
        Formula(
            "L1b-tilt",
            "The l at which the log-moment-generating function gives the margin bound.",
            sqrt(2 * t_ / V_) / (1 + 2 * w_minus_ * sqrt(2 * t_ / V_)),
            {"t": t_, "V": V_, "w_minus": w_minus_},
            A3,
        ),
        Formula(
            "L2",
            "Split bound for one wrong component in closed form: own score above c by T3, or wrong score below c by T2.",
            exp(-greatest_t(c_ - own_mean, sqrt(2 * own_V), 2 * own_w)) + exp(-((wrong_mean - c_) ** 2) / (2 * wrong_V)),
            {"c": c_, "own_mean": own_mean, "own_V": own_V, "own_w": own_w, "wrong_mean": wrong_mean, "wrong_V": wrong_V},
            A2,
            (c_ > own_mean, wrong_mean > c_),
        ),
        Formula(
            "L3",
            "Pairwise Chernoff, well-specified: log of the expected likelihood ratio to the power l, one coordinate; coordinates add up.",
            -l_ * (1 - l_) * shift_**2 / (2 * v) - log(v) / 2 + l_ * log(v_own) / 2 + (1 - l_) * log(v_wrong) / 2,
            {"l": l_, "shift": shift_, "v_own": v_own, "v_wrong": v_wrong},
            A4,
            (l_ < 1,),
        ),
        Formula(
            "L3-bhattacharyya",
            "L3 at l = 1/2, the log of the Bhattacharyya coefficient, one coordinate; coordinates add up.",
            -(shift_**2) / (4 * (v_own + v_wrong)) - log((v_own + v_wrong) / (2 * sqrt(v_own * v_wrong))) / 2,
            {"shift": shift_, "v_own": v_own, "v_wrong": v_wrong},
            A4,
        ),
        Formula(
            "L4",
            "Two isotropic tasks, a batch of B queries scored together: log of the probability that the wrong task wins is at most this.",
            -B_ * r_**2 / (8 * sigma_**2),
            {"B": B_, **spread},
            A4,
        ),
        Formula(
            "L5",
            "Two tasks of one Gaussian each with common covariance sigma^2 times the identity and means at distance r: the exact error.",
            erfc(r_ / (2 * sqrt(2) * sigma_)) / 2,
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
            1 - beta_ ** (1 / n_),
            {"beta": beta_, "n": n_},
            A0,
            (beta_ < 1,),
        ),
        Formula(
            "L9",
            "Unimodal margin of mean r above 0 and variance V: it is not positive with probability at most this.",
            sympy.Piecewise((4 * ratio / 9, Ge(r_**2, 5 * V_ / 3)), (4 * ratio / 3 - Rational(1, 3), True)),
            pair,
            A1,
        ),
        Formula(
            "L10",
            "Margin of mean r above 0 and absolute central moment M_p of order p: it is not positive with probability at most this.",
            moment / r_**p_,
            {"moment": moment, "p": p_, "mean": r_},
            A1,
        ),
        Formula(
            "L11",
            "Two tasks as for L5 with a common Student scale of nu degrees of freedom: the exact error, a tail of Student's t.",
            sympy.betainc_regularized(nu_ / 2, HALF, 0, nu_ / (nu_ + (r_ / (2 * sigma_)) ** 2)) / 2,
            {**spread, "nu": nu_},
            A4,
        ),
        Formula(
            "L12-chi2",
            "Error under any law whose chi-square divergence from the model is at most chi2, the model's own error being exactly p.",
            p_ + sqrt(chi2 * p_ * (1 - p_)),
            {"p": p_, "chi2": chi2},
            A3,
            (p_ < 1,),
        ),
        Formula(
            "L12-kl",
            "Least Kullback-Leibler divergence, in nats, of a law with error q above p from a model with error p; the greatest q that a "
            "given divergence allows is its inverse.",
            error * (log(error) - log(p_)) + (1 - error) * (log(1 - error) - log(1 - p_)),
            {"q": error, "p": p_},
            A3,
            (p_ < 1, error < 1, error >= p_),
        ),
        Formula(
            "floor-chi2",
            "Least chi-square divergence of a law with error q from a model with error p.",
            (error - p_) ** 2 / (p_ * (1 - p_)),
            {"q": error, "p": p_},
            A0,
            (p_ < 1, error < 1),
        ),
        Formula(
            "F1",
            "Expected squared Mahalanobis distance of a fresh point to mean and unbiased covariance from n samples.",
            d_ * (n_**2 - 1) / (n_ * (n_ - d_ - 2)),
            {"d": d_, "n": n_},
            A2,
            (n_ > d_ + 2,),
        ),
        Formula(
            "F2",
            "Bias of the log-determinant of an unbiased covariance from n samples.",
            sympy.Sum(sympy.digamma((n_ - 1 - j) / 2), (j, 0, d_ - 1)) - d_ * log((n_ - 1) * HALF),
            {"d": d_, "n": n_},
            A2,
            (n_ > d_,),
        ),
        Formula(
            "F3",
            "Factor by which the inverse of an unbiased covariance from n samples exceeds the true inverse on average.",
            (n_ - 1) / (n_ - d_ - 2),
            {"d": d_, "n": n_},
            A2,
            (n_ > d_ + 2,),
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


def expression(name: str, **values: Expr | int) -> Expr:
    """The expression of a formula, with the symbols of these keywords replaced all at once."""
    row = formula(name)
    return row.expression.xreplace({row.symbols[key]: sympy.sympify(value) for key, value in values.items()})


def latex_table() -> str:
    """All formulas as one LaTeX ``tabular``: name, level, expression, statement (needs ``amsmath``)."""
    rows = [rf"{row.name} & {row.assumption.value} & $\displaystyle {row.latex()}$ & {_escape(row.statement)} \\" for row in formulas()]
    head = [r"\begin{tabular}{llp{0.45\linewidth}p{0.4\linewidth}}", r"name & level & formula & statement \\", r"\hline"]
    return "\n".join([*head, *rows, r"\end{tabular}"])


def plain_text(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*_<>$|])", r"\\\1", text)


def _escape(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, f"\\{character}")
    return text.replace("^", r"\textasciicircum{}")
