"""Symbols that formulas and proofs share; the trailing underscore keeps them apart from a function's own.

A symbol's assumptions are part of its identity: ``w_`` is a positive weight, ``weight_`` one of either sign.
"""

from __future__ import annotations

import sympy
from sympy import Interval, Rational, Symbol, oo

d_, n_, N_, B_, m_ = sympy.symbols("d n N B m", integer=True, positive=True)
t_, V_, l_, r_, q_, a_, Delta_ = sympy.symbols("t V l r q a Delta", positive=True)
w_ = Symbol("w", positive=True)
w_minus_ = Symbol("w_{-}", nonnegative=True)
delta_, kappa_, mean_, c_, g_, weight_ = sympy.symbols("delta kappa mu c g w", real=True)
s_ = Symbol("s", nonnegative=True)
sigma_, p_, beta_, eps_, nu_ = sympy.symbols("sigma p beta epsilon nu", positive=True)
z_, b_, shift_ = sympy.symbols("z b D", real=True)
y_ = Symbol("y", nonnegative=True)
x_ = Symbol("x", nonnegative=True)

HALF = Rational(1, 2)
RIGHT = Interval(0, oo)
TO_HALF = Interval.Ropen(0, HALF)
