"""Bounds as text, rounded to the side on which they stay bounds."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

_DIGITS = 3


def rounded_up(value: float) -> str:
    """A number in [0, 1] with three significant digits, never below it: what is said of an upper bound stays true.

    One that is less than one is never shown as one, whatever digits that takes.
    """
    return _rounded(value, ROUND_CEILING)


def rounded_down(value: float) -> str:
    """A number with three significant digits, never above it: what is said of a lower bound stays true."""
    return _rounded(value, ROUND_FLOOR)


def _rounded(value: float, rounding: str) -> str:
    exact = Decimal(value)
    digits = _DIGITS
    shown = Context(prec=digits, rounding=rounding).create_decimal(exact)
    while shown == 1 != exact:
        digits += 1
        shown = Context(prec=digits, rounding=rounding).create_decimal(exact)
    return _plain(shown)


def _plain(number: Decimal) -> str:
    if number == 0:
        return "0"
    return f"{number:f}" if number >= Decimal("1e-4") else f"{number:e}"
