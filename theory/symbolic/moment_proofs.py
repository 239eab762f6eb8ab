"""Proofs of the moments of a score, of the tails T1 to T4 and of the finite-sample moments F1 to F3."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy import Expr, Symbol, exp, log, oo, sqrt

from theory.symbolic.formulas import expression, formula
from theory.symbolic.lemmas import MARKOV, ROTATION, cumulants, legendre, log_expectation, smaller_weight
from theory.symbolic.prover import Derivation, Step, identity, inequality
from theory.symbolic.symbols import RIGHT, TO_HALF, V_, b_, c_, d_, g_, l_, mean_, n_, s_, t_, w_, weight_, x_, y_, z_

_C = Symbol("C", positive=True)


def _log_mgf_of_distance() -> Expr:
    """``log E exp(l Q)`` for one coordinate of a squared distance, the query having variance C and shift b there."""
    return log_expectation(l_ * (sqrt(_C) * z_ + b_) ** 2)


def _prove_delta() -> Derivation:
    mean = sympy.diff(_log_mgf_of_distance(), l_).subs(l_, 0)
    return [identity("in one coordinate, E Q - 1", mean - 1, expression("delta", trace=_C, distance=b_**2, d=1))], ROTATION


def _prove_kappa() -> Derivation:
    own, wrong, pi_own, pi_wrong = formula("kappa").symbols.values()
    other = Symbol("Q", real=True)
    energies = (other + wrong - 2 * log(pi_wrong)) - (other + own - 2 * log(pi_own))
    return [identity("energies at equal distances differ by kappa", energies, expression("kappa"))], "the definition of the energy"


def _prove_v() -> Derivation:
    variance = sympy.diff(_log_mgf_of_distance(), l_, 2).subs(l_, 0)
    return [identity("in one coordinate, Var Q", variance, expression("V", squared=_C**2, pulled=_C * b_**2))], ROTATION


def _prove_t1() -> Derivation:
    log_mgf = log_expectation(x_ * z_**2)
    bound = x_**2 / (1 - 2 * x_)
    solved, threshold = legendre(2 * d_, sympy.Integer(1))
    steps = [
        identity("log of E exp(x z^2), from the Gaussian integral", log_mgf, -log(1 - 2 * x_) / 2),
        *cumulants("z^2", log_mgf, x_, 1, 2),
        identity("the slack has derivative 2 x^2/(1 - 2x)^2", sympy.diff(bound - log_mgf + x_, x_), 2 * x_**2 / (1 - 2 * x_) ** 2),
        inequality("-log(1 - 2x)/2 - x <= x^2/(1 - 2x) for 0 <= x < 1/2", bound, log_mgf - x_, x_, TO_HALF),
        identity("d coordinates add up to l^2 V/2/(1 - 2l) with V = 2d", d_ * bound, x_**2 * (2 * d_) / 2 / (1 - 2 * x_)),
        *solved,
        identity("mean plus x is T1", d_ + threshold, expression("T1")),
    ]
    return steps, MARKOV


def _prove_t2() -> Derivation:
    log_mgf = log_expectation(-y_ * (z_ + b_) ** 2)
    variance = 2 + 4 * b_**2
    slack = y_**2 - y_ + log(1 + 2 * y_) / 2
    shift = y_ * b_**2
    below = mean_ - expression("T2")
    parabola = l_**2 * V_ / 2 - l_ * below
    (best,) = sympy.solve(sympy.diff(parabola, l_), l_)
    steps = [
        identity("log of E exp(-y (z + b)^2), from the Gaussian integral", log_mgf, -log(1 + 2 * y_) / 2 - shift / (1 + 2 * y_)),
        *cumulants("-(z + b)^2", log_mgf, y_, -(1 + b_**2), variance),
        identity("f(y) = y^2 - y + log(1 + 2y)/2 is 0 at 0", slack.subs(y_, 0), 0),
        identity("and has derivative 4 y^2/(1 + 2y)", sympy.diff(slack, y_), 4 * y_**2 / (1 + 2 * y_)),
        inequality("y - log(1 + 2y)/2 <= y^2 for y >= 0", slack, 0, y_, RIGHT),
        inequality("y b^2 - y b^2/(1 + 2y) <= 2 y^2 b^2", 2 * y_ * shift, shift - shift / (1 + 2 * y_), y_, RIGHT),
        inequality("so log E exp of the centred coordinate <= y^2 Var/2", y_**2 * variance / 2, log_mgf + y_ * (1 + b_**2), y_, RIGHT),
        inequality("the sum over coordinates, less l x, is convex in l", sympy.diff(parabola, l_, 2), 0, l_, RIGHT),
        identity("and its infimum is -t at T2's distance x below the mean", parabola.subs(l_, best), -t_),
    ]
    return steps, MARKOV


def _prove_t3() -> Derivation:
    log_mgf = log_expectation(x_ * (z_ + b_) ** 2)
    variance = 2 + 4 * b_**2
    bound = x_**2 * variance / 2 / (1 - 2 * x_)
    solved, threshold = legendre(V_, w_)
    steps = [
        identity("log of E exp(x (z + b)^2), from the Gaussian integral", log_mgf, -log(1 - 2 * x_) / 2 + x_ * b_**2 / (1 - 2 * x_)),
        *cumulants("(z + b)^2", log_mgf, x_, 1 + b_**2, variance),
        inequality("log E exp of the centred coordinate <= x^2 Var/2/(1 - 2x)", bound, log_mgf - x_ * (1 + b_**2), x_, TO_HALF),
        smaller_weight(),
        *solved,
        identity("mean plus x is T3", mean_ + threshold, expression("T3")),
    ]
    return steps, MARKOV


def _prove_t4() -> Derivation:
    coordinate = log_expectation(-l_ * (weight_ * z_**2 + g_ * z_))
    normal = log_expectation(-l_ * s_ * z_)
    total = coordinate + normal - l_ * c_
    return [identity("coordinate, normal term and constant add up", total, expression("T4"))], MARKOV


def _chi_square_moment(k: Expr, power: Expr | int) -> Expr:
    """``E chi2_k^power``, integrated by the machine."""
    x = Symbol("x", positive=True)
    integral = sympy.integrate(x ** (power + k / 2 - 1) * exp(-x / 2), (x, 0, oo))
    return sympy.simplify(sympy.gammasimp(integral / (2 ** (k / 2) * sympy.gamma(k / 2))))


def _inverse_chi_square() -> tuple[Step, Expr]:
    """``E 1/chi2_{n-d}``, with the step to it."""
    f = Symbol("f", positive=True)
    found = _chi_square_moment(2 + f, -1)
    step = identity("E 1/chi2_k = 1/(k - 2), integrated by the machine for k = 2 + f", found, 1 / f)
    return step, found.subs(f, n_ - d_ - 2)


def _prove_f1() -> Derivation:
    step, inverse = _inverse_chi_square()
    # An F variable is (chi2_d / d) / (chi2_{n-d} / (n-d)), its parts independent, and the mean above the line is 1.
    mean = d_ * (n_**2 - 1) / (n_ * (n_ - d_)) * (n_ - d_) * inverse
    by_f3 = expression("F3") * (1 + 1 / n_) * d_
    steps = [
        step,
        identity("mean of the scaled F(d, n - d)", mean, expression("F1")),
        identity("and by F3, the whitened fresh point less the mean having variance 1 + 1/n", by_f3, expression("F1")),
    ]
    return steps, "Hotelling 1931: the distance is distributed as d (n^2 - 1)/(n (n - d)) F(d, n - d)"


def _prove_f2() -> Derivation:
    k, s = sympy.symbols("k s", positive=True)
    log_mean = sympy.diff(log(_chi_square_moment(k, s)), s).subs(s, 0)
    bias = expression("F2")
    (total,) = bias.atoms(sympy.Sum)
    j = total.variables[0]
    common = sympy.summation(log(2) - log(n_ - 1), (j, 0, d_ - 1))
    steps = [
        identity("E log chi2_k = digamma(k/2) + log 2, from its Mellin transform", log_mean, sympy.digamma(k / 2) + log(2)),
        identity("term j of the sum", log_mean.subs(k, n_ - 1 - j) - log(2), total.function),
        identity("and what all terms share", bias - total, common),
    ]
    return steps, "Bartlett 1933: the determinant of (n - 1) S over that of the true covariance is a product of chi2_{n-1-j}, j < d"


def _prove_f3() -> Derivation:
    step, inverse = _inverse_chi_square()
    steps = [step, identity("with k = n - d, times n - 1", (n_ - 1) * inverse, expression("F3"))]
    given = (
        "whitened, the mean inverse of (n - 1) S is a multiple of the identity, and 1 over a diagonal entry of the inverse is chi2_{n-d}"
    )
    return steps, given


PROOFS: dict[str, Callable[[], Derivation]] = {
    "delta": _prove_delta,
    "kappa": _prove_kappa,
    "V": _prove_v,
    "T1": _prove_t1,
    "T2": _prove_t2,
    "T3": _prove_t3,
    "T4": _prove_t4,
    "F1": _prove_f1,
    "F2": _prove_f2,
    "F3": _prove_f3,
}
