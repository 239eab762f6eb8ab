"""Steps that several proofs share: Gaussian integrals, the Chernoff infimum and its inverse, Cantelli's shift."""

from __future__ import annotations

from functools import cache

import sympy
from sympy import Eq, Expr, Interval, Symbol, exp, log, oo, pi, sqrt

from theory.symbolic.formulas import expression
from theory.symbolic.prover import Step, identity, inequality, manifest, nonnegative, positive
from theory.symbolic.symbols import RIGHT, TO_HALF, V_, l_, q_, r_, t_, x_, y_, z_

MARKOV = "Markov's inequality for exp(l X); independent coordinates, so that their log-moment-generating functions add up"
DIAGONAL = "whitening by one covariance and rotating by the eigenvectors of the other makes both diagonal, for any two covariances"
ROTATION = "whitening by the component and rotating makes the query covariance diagonal, so that coordinates are independent and add up"


@cache
def _gaussian_expectation() -> tuple[Expr, Symbol, Symbol]:
    """``log E exp((1 - S) z^2 / 2 + B z)`` for standard normal z and S > 0, with S and B; the machine takes the integral."""
    S, B = Symbol("S", positive=True), Symbol("B", real=True)
    integral = sympy.integrate(exp(-S * z_**2 / 2 + B * z_) / sqrt(2 * pi), (z_, -oo, oo))
    return sympy.expand_log(log(sympy.simplify(integral))), S, B


def log_expectation(exponent: Expr) -> Expr:
    """``log E exp(exponent)`` for an exponent quadratic in the standard normal z, wherever it is finite.

    It is finite where the S under the logarithm is positive, which the prover demands of every logarithm.
    """
    value, S, B = _gaussian_expectation()
    poly = sympy.Poly(sympy.expand(exponent), z_)
    quadratic, linear, constant = (poly.coeff_monomial(z_**k) for k in (2, 1, 0))
    return value.xreplace({S: sympy.factor(1 - 2 * quadratic), B: linear}) + constant


def cumulants(of: str, log_mgf: Expr, variable: Symbol, mean: Expr | int, variance: Expr | int) -> list[Step]:
    """That the derivatives of a log-moment-generating function at 0 are the stated mean and variance."""
    first, second = sympy.diff(log_mgf, variable), sympy.diff(log_mgf, variable, 2)
    return [
        identity(f"mean of {of}", first.subs(variable, 0), mean),
        identity(f"variance of {of}", second.subs(variable, 0), variance),
    ]


def legendre(V: Expr, w: Expr) -> tuple[list[Step], Expr]:
    """The x, in t, for which the infimum over l of ``l^2 V / 2 / (1 - 2 l w) - l x`` is -t, with the steps to it."""
    x = Symbol("x", positive=True)
    h = l_**2 * V / 2 / (1 - 2 * l_ * w) - l_ * x
    (of_l,) = sympy.solve(sympy.diff(h, l_), x)
    lowest = sympy.factor(h.subs(x, of_l))
    # -t is written -q^2 V / 2, which keeps the equation rational.
    free = Symbol("l", real=True)
    roots = sympy.solve(Eq(lowest, -(q_**2) * V / 2).subs(l_, free), free)
    inside = [root for root in roots if positive(root * (1 / (2 * w) - root))]
    # Above times below the line, which has the sign of the ratio wherever there is a ratio.
    outside = [root for root in roots if nonnegative(sympy.Mul(*sympy.fraction(sympy.together(root * (root - 1 / (2 * w))))))]
    only = len(inside) == 1 and len(outside) == len(roots) - 1
    l0 = inside[0] if only else sympy.nan
    back = {q_: sqrt(2 * t_ / V)}
    threshold = sympy.simplify(of_l.subs(l_, l0)).subs(back)
    tilt = expression("L1b-tilt", V=V, w_minus=w)
    steps = [
        inequality("the log-moment bound less l x is convex in l", sympy.diff(h, l_, 2), 0, l_, Interval.Ropen(0, 1 / (2 * w))),
        Step("its infimum, where it is stationary, is -t for exactly one l inside (0, 1/(2w))", Eq(l_, l0), only),
        identity("which is l0 = q/(1 + 2 w q), q = sqrt(2t/V)", l0.subs(back), tilt),
        identity("the x whose infimum it is: sqrt(2 V t) + 2 w t", threshold, sqrt(2 * V * t_) + 2 * w * t_),
        identity("and there the infimum is -t", h.subs(x, threshold).subs(l_, tilt), -t_),
    ]
    return steps, threshold


def positive_root(claim: str, quadratic: Expr, root: Symbol) -> tuple[Step, Expr]:
    """That a quadratic has two roots of negative product, and the greater of them; NaN if the machine cannot tell."""
    roots = sympy.solve(quadratic, root)
    greater = [r for r in roots if all(positive(r - other) for other in roots if other != r)]
    single = len(roots) == 2 and len(greater) == 1 and positive(-sympy.expand(roots[0] * roots[1]))
    found = greater[0] if single else sympy.nan
    return Step(claim, Eq(root, found), single), found


def inverse(t: Expr, gap: Expr, a: Expr, b: Expr) -> list[Step]:
    """That t is the greatest with ``a sqrt(t) + b t <= gap``, solved by the machine for positive arguments."""
    root = Symbol("s", real=True)
    claim = "its roots in s have a negative product, so that one is positive: the greater"
    step, s = positive_root(claim, b * root**2 + a * root - gap, root)
    cancelling = ((sqrt(a**2 + 4 * b * gap) - a) / (2 * b)) ** 2
    return [
        inequality("a s + b s^2 grows with s = sqrt(t), so that the condition holds up to one t", a + 2 * b * y_, 0, y_, RIGHT),
        step,
        identity("its square is ((sqrt(a^2 + 4 b gap) - a)/(2b))^2", s**2, cancelling),
        identity("which is the form that does not cancel", sympy.radsimp(t), cancelling),
        identity("and which substituted back gives the gap", a * sqrt(t) + b * t, gap),
    ]


def smaller_weight() -> Step:
    """That ``1/(1 - 2 l w)`` grows with w, so that the greatest weight may stand for all."""
    lesser = x_ / (1 + Symbol("k", nonnegative=True))
    return inequality("a lesser weight has the lesser factor 1/(1 - 2 l w)", 1 / (1 - 2 * x_), 1 / (1 - 2 * lesser), x_, TO_HALF)


def best_shift() -> tuple[list[Step], Expr]:
    """The least of ``E(M - E M - u)^2 / (r + u)^2`` over shifts u >= 0, with the steps to it."""
    u = Symbol("u", nonnegative=True)
    centred = Symbol("X", real=True)
    square = sympy.Poly((centred - u) ** 2, centred)
    expected = sum(square.coeff_monomial(centred**k) * moment for k, moment in enumerate((1, 0, V_)))
    ratio = expected / (r_ + u) ** 2
    (best,) = sympy.solve(sympy.diff(ratio, u), u)
    least = sympy.simplify(ratio.subs(u, best))
    steps = [
        identity("with X of mean 0 and variance V, E(X - u)^2", expected, V_ + u**2),
        identity("the ratio is stationary at u = V/r", best, V_ / r_),
        identity("where it is V/(V + r^2)", least, V_ / (V_ + r_**2)),
        manifest("and nowhere less", ratio, least),
    ]
    return steps, least
