"""What the machine can confirm: identities, limits, and inequalities in one variable.

An inequality is proved by derivatives of manifest sign. Whatever cannot be confirmed does not hold, here: the prover
never says that a statement is false.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Eq, Expr, Ge, Interval, Symbol, erfc, exp, log, oo

from theory.errors import InputError

# Derivatives taken before the prover gives up; kl(q, p) needs two.
_DEPTH = 3


@dataclass(frozen=True)
class Step:
    """One step of a proof.

    Attributes
    ----------
    claim : str
        What it says.
    expression : sympy.Basic
        The equation or inequality.
    holds : bool
        Whether the machine confirmed it.
    """

    claim: str
    expression: sympy.Basic
    holds: bool


# Steps, and what they take for granted in words.
Derivation = tuple[list[Step], str]


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


def nonnegative(expression: Expr) -> bool:
    """Whether an expression is manifestly at least 0."""
    found = _sign(expression)
    return found is not None and found[0] >= 0


def positive(expression: Expr) -> bool:
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
        return positive(expression.args[0])
    if expression.is_Pow:
        base, power = expression.args
        if power.is_Integer and power >= 0:
            return True
        found = _sign(base)
        return found is not None and found[1] and (found[0] > 0 or bool(power.is_Integer))
    return False


def nonnegative_on(f: Expr, variable: Symbol, domain: Interval) -> bool:
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
    if domain.end != oo and not positive(width):
        return False
    if not _smooth(f.subs(variable, inside)):
        return False
    for _ in range(_DEPTH + 1):
        if nonnegative(f.subs(variable, inside)):
            return True
        if not nonnegative(sympy.simplify(f.subs(variable, domain.start))):
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


def identity(claim: str, left: Expr | int, right: Expr | int) -> Step:
    """That two sides are equal: their difference simplifies to zero."""
    return Step(claim, Eq(left, right, evaluate=False), _zero(left - right))


def inequality(claim: str, larger: Expr | int, smaller: Expr | int, variable: Symbol, domain: Interval) -> Step:
    """That one side is at least the other on an interval of one variable, by `nonnegative_on`."""
    return Step(claim, Ge(larger, smaller, evaluate=False), nonnegative_on(larger - smaller, variable, domain))


def manifest(claim: str, larger: Expr | int, smaller: Expr | int) -> Step:
    """That one side is at least the other for all values of all symbols, by `nonnegative`."""
    return Step(claim, Ge(larger, smaller, evaluate=False), nonnegative(larger - smaller))


def limit(claim: str, expression: Expr, variable: Symbol, point: Expr | int, value: Expr | int) -> Step:
    """That a limit from above at zero, or from below elsewhere, is this value."""
    left = sympy.Limit(expression, variable, point, "+" if point == 0 else "-")
    return Step(claim, Eq(left, value, evaluate=False), _zero(left.doit() - value))
