"""Colours, markers and hatches of every figure, so that a rung looks the same in all of them.

Colours are those of Okabe and Ito (2008), told apart under every common colour blindness; nothing is told by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#767676"
LIGHT = "#E4E4E4"

# For things that have no colour of their own, such as tasks and methods. Yellow is too faint for a line on white.
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
LINES = ("-", "--", ":", "-.")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "++++")

MEASURED = BLACK
BROKEN = VERMILLION


@dataclass(frozen=True)
class Style:
    """How one series is drawn."""

    colour: str
    marker: str
    line: str = "-"


# One colour a family: the error itself, one exponent, split, Chernoff, exact pairs, limits of samples, moments.
RUNGS = {
    "exact": Style(BLACK, ".", "-"),
    "L1": Style(ORANGE, "o", "-"),
    "L1b": Style(ORANGE, "s", "--"),
    "L2": Style(SKY, "^", "-"),
    "L3": Style(GREEN, "D", "-"),
    "L4": Style(GREEN, "v", "--"),
    "L5": Style(BLUE, "o", "-"),
    "L5b": Style(BLUE, "s", "--"),
    "L6": Style(PURPLE, "P", ":"),
    "L7": Style(GREY, "<", "-"),
    "L8": Style(PURPLE, "*", "-"),
    "L9": Style(GREY, ">", "--"),
    "L10": Style(GREY, "p", ":"),
    "L11": Style(BLUE, "X", "-."),
    "L12": Style(BLUE, "h", ":"),
}


def series(position: int) -> Style:
    """The style of the n-th thing that has none of its own; 24 differ in colour or marker."""
    return Style(SERIES[position % len(SERIES)], MARKERS[position % len(MARKERS)], LINES[position % len(LINES)])


def rung(name: str) -> Style:
    """The style of a rung; names that are none of the ladder's share one."""
    return RUNGS.get(name, Style(GREY, "d", "-"))
