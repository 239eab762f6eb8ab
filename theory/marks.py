"""The marks of every figure: scales of errors, measured rates, and bounds as what they are worth. Drawn with by the plotting modules.

What no figure may lose: a bound that is no guarantee is hollow and struck through, one that a measurement contradicts is crossed,
a vacuous one stands in a strip of its own beyond one, and no errors among n is an arrow from the interval's upper limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from theory import palette
from theory.errors import InputError, MissingExtra

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Probabilities below this are drawn at it: a little further down the floats end.
LEAST = 1e-300
# Points across a marker.
SIZE = 5.0
# Where a legend goes that would hide something inside: below the labels of the axis, however tall the axes are.
BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 5.0}
_DOLLAR = re.compile(r"(?<!\\)\$")
Direction = Literal["x", "y"]


class Rate(Protocol):
    """A measured error rate with its interval, such as `theory.certificates.Measured`."""

    @property
    def error(self) -> float:
        """The observed rate."""

    @property
    def low(self) -> float:
        """Lower limit."""

    @property
    def high(self) -> float:
        """Upper limit."""


class Limit(Protocol):
    """A bound, such as `theory.bound.Bound`; a rung of a report has also its verdict, `guarantee`."""

    @property
    def log_value(self) -> float:
        """Natural logarithm of the bound."""

    @property
    def vacuous(self) -> bool:
        """Whether it says nothing."""


def axes_or_new(ax: Axes | None) -> Axes:
    """The Axes given, or those of a new figure.

    Raises
    ------
    MissingExtra
        If Matplotlib, of the extra `figures`, is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise MissingExtra("matplotlib", "figures") from error

    return pyplot.subplots(layout="constrained")[1]


def need_columns(frame: pd.DataFrame, *names: str) -> None:
    """Refuse a frame without rows, or without columns that a figure is drawn from.

    Raises
    ------
    InputError
    """
    missing = [name for name in names if name not in frame]
    if missing:
        raise InputError("frame", f"lacks the columns {', '.join(missing)}")
    if frame.empty:
        raise InputError("frame", "has no rows")


def literal(text: str) -> str:
    """Text in which a dollar sign is one, not the start of mathematics; what is escaped already stays so."""
    return _DOLLAR.sub(r"\$", text)


def probability(log_value: float) -> float:
    """A probability from its logarithm, no less than what an axis can show."""
    return math.exp(max(log_value, math.log(LEAST)))


def log_ticks(ax: Axes, direction: Direction, low: float, high: float, *extra: tuple[float, str]) -> None:
    """Ticks of a logarithmic axis from `low` to `high` as plain numbers or powers of ten, some five of them, and some extra ones."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    orders = math.log10(high / low)
    steps = (1, 2, 5) if orders < 1.7 else (1,)
    every = max(1, math.ceil(orders / 5))
    # Counted from one, so that one is a tick wherever it is in sight.
    first = every * math.floor(math.log10(low) / every)
    exact = [m * 10.0**k for k in range(first, math.ceil(math.log10(high)) + 1, every) for m in steps]
    shown = [(t, _number(t)) for t in exact if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
    axis = ax.xaxis if direction == "x" else ax.yaxis
    where, labels = zip(*shown, *extra, strict=True) if shown or extra else ((), ())
    axis.set_major_locator(FixedLocator(where))
    axis.set_major_formatter(FixedFormatter(labels))
    axis.set_minor_locator(NullLocator())


def _number(t: float) -> str:
    return f"{t:g}" if 5e-4 < t < 2e4 else f"$10^{{{round(math.log10(t))}}}$"


def log_scale(ax: Axes, direction: Direction, values: Iterable[float]) -> None:
    """Make one axis logarithmic about positive values, with readable ticks."""
    known = [v for v in values if v > 0 and math.isfinite(v)]
    low, high = min(known), max(known)
    room = max((high / low) ** 0.05, 1.05)
    (ax.set_xscale if direction == "x" else ax.set_yscale)("log")
    (ax.set_xlim if direction == "x" else ax.set_ylim)(low / room, high * room)
    log_ticks(ax, direction, low / room, high * room)


def error_scale(ax: Axes, values: Iterable[float], direction: Direction = "x", strip: bool = True) -> tuple[float, float]:
    """Make one axis a logarithmic one of error rates up to one, with a strip beyond it for vacuous bounds.

    Parameters
    ----------
    ax : Axes
    values : iterable of float
        All that will be drawn; zeros and what is not finite are left out of the limits.
    direction : {"x", "y"}
    strip : bool
        Whether any bound is vacuous.

    Returns
    -------
    middle, edge : float
        Of the strip, where vacuous bounds stand.
    """
    known = [min(v, 1.0) for v in values if v > 0 and math.isfinite(v)]
    low = max(min([*known, 0.3]) / 1.6, LEAST)
    edge = low ** -(0.15 if strip else 0.02)
    (ax.set_xscale if direction == "x" else ax.set_yscale)("log")
    (ax.set_xlim if direction == "x" else ax.set_ylim)(low, edge)
    middle = math.sqrt(edge)
    # On a line of its own, or at the far end: "1" stands close by.
    name = (middle, "\nvacuous") if direction == "x" else (edge, "vacuous")
    log_ticks(ax, direction, low, 1.0, *([name] if strip else []))
    if strip:
        (ax.axvspan if direction == "x" else ax.axhspan)(1.0, edge, facecolor=palette.LIGHT, edgecolor="none", zorder=0)
    return middle, edge


def draw_rate(
    ax: Axes, at: float, rate: Rate, *, along: Direction = "x", colour: str = palette.MEASURED, marker: str = "o", label: str = ""
) -> None:
    """A measured rate with its interval on a logarithmic axis; an arrow from the upper limit if no error was seen."""

    def put(values: Sequence[float], **style: Any) -> None:
        where = [at] * len(values)
        ax.plot(*((values, where) if along == "x" else (where, values)), color=colour, **style)

    if rate.error > 0:
        least = (ax.get_xlim() if along == "x" else ax.get_ylim())[0]
        cap = "|" if along == "x" else "_"
        put([max(rate.low, least), rate.high], linestyle="-", linewidth=1.0, marker=cap, markersize=SIZE, label="_interval", zorder=3)
        put([rate.error], linestyle="none", marker=marker, markersize=SIZE - 1, label=label or "_measured", zorder=4)
        return
    end, start = ((0, at), (rate.high, at)) if along == "x" else ((at, 0), (at, rate.high))
    transform = ax.get_yaxis_transform() if along == "x" else ax.get_xaxis_transform()
    ax.annotate(
        "",
        end,
        start,
        xycoords=transform,
        textcoords="data",
        arrowprops={"arrowstyle": "->,head_length=0.25,head_width=0.15", "color": colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
    )
    put([rate.high], linestyle="none", marker="|" if along == "x" else "_", markersize=SIZE, label=label or "_none seen", zorder=4)


def draw_bounds(
    ax: Axes,
    positions: Sequence[float],
    rungs: Sequence[Limit],
    name: str,
    vacuous_at: Sequence[float],
    measured: Sequence[Rate | None],
) -> None:
    """One rung of several units: filled if it may be relied on, hollow and struck through if not, crossed if a measurement contradicts it.

    A bound without a verdict (`guarantee`) of its own may be relied on unless it is vacuous. `vacuous_at` says where on the axis of
    errors each stands if it is.
    """
    style = palette.rung(name)
    groups: dict[str, list[tuple[float, float]]] = {"": [], " no guarantee": [], " vacuous": [], " contradicted": []}
    for y, rung, idle, rate in zip(positions, rungs, vacuous_at, measured, strict=True):
        # A rung of a report was judged there, perhaps by another event than the unit's own error (L4 of batches).
        broken = not getattr(rung, "holds", rate is None or rate.low <= probability(rung.log_value))
        stands = getattr(rung, "guarantee", not rung.vacuous) and not broken
        kind = " vacuous" if rung.vacuous else "" if stands else " no guarantee"
        point = (idle if rung.vacuous else probability(rung.log_value), y)
        groups[kind].append(point)
        if broken:
            groups[" contradicted"].append(point)
    for kind, points in groups.items():
        if not points:
            continue
        x, height = zip(*points, strict=True)
        if kind == " contradicted":
            ax.plot(x, height, "x", color=palette.BROKEN, markersize=SIZE + 3, markeredgewidth=1.2, label=f"_{name}{kind}", zorder=6)
            continue
        face = style.colour if kind == "" else "white"
        ax.plot(
            x,
            height,
            style.marker,
            color=style.colour,
            markerfacecolor=face,
            markersize=SIZE,
            markeredgewidth=0.8,
            label=name if kind == "" else f"_{name}{kind}",
            clip_on=kind != " vacuous",
            zorder=5,
        )
        if kind == " no guarantee":
            ax.plot(x, height, "_", color=style.colour, markersize=SIZE + 4, markeredgewidth=0.8, label=f"_{name} struck", zorder=5)


def key_of_marks(names: Sequence[str] = (), contradicted: str = "", rejected: str = "no guarantee") -> list[Line2D]:
    """Handles of a legend: the rungs, and what struck through and crossed mean, where either occurs."""
    from matplotlib.lines import Line2D

    def mark(marker: str, colour: str, face: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=face, markersize=SIZE, label=label)

    handles = [mark(palette.rung(name).marker, palette.rung(name).colour, palette.rung(name).colour, name) for name in names]
    if rejected:
        handles.append(mark("$\u2013\\!\\circ\\!\u2013$", palette.GREY, "white", rejected))
        handles[-1].set_markersize(SIZE * 2.2)
    if contradicted:
        handles.append(mark("x", palette.BROKEN, "none", contradicted))
    return handles
