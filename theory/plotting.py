"""Bounds drawn: ladders, slack, curves and signatures (theory/README.md, curves).

Every function takes data and an Axes, draws and returns the Axes; without one a new figure is made. Marks: `theory.marks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from theory import palette
from theory.errors import InputError
from theory.marks import (
    BELOW,
    SIZE,
    Limit,
    Rate,
    axes_or_new,
    draw_bounds,
    draw_rate,
    error_scale,
    key_of_marks,
    literal,
    log_scale,
    need_columns,
    probability,
)
from theory.slack import PIECES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


def plot_ladder(rungs: Mapping[str, Limit], *, measured: Rate | None = None, ax: Axes | None = None) -> Axes:
    """The rungs of one unit on a logarithmic axis, a row for each.

    Parameters
    ----------
    rungs : mapping from name to Bound
        Or to rungs of a report, whose verdict is then shown.
    measured : Measured, optional
        A band from its lower to its upper limit; a bound to the left of the band is contradicted.
    ax : Axes, optional

    Raises
    ------
    InputError
        Without rungs.
    """
    if not rungs:
        raise InputError("rungs", "are none")
    ax = axes_or_new(ax)
    names = list(rungs)
    rates = [measured.low, measured.error, measured.high] if measured is not None else []
    values = [probability(rung.log_value) for rung in rungs.values()]
    edge, _ = error_scale(ax, [*values, *rates], strip=any(rung.vacuous for rung in rungs.values()))
    if measured is not None:
        ax.axvspan(measured.low or ax.get_xlim()[0], measured.high, facecolor=palette.LIGHT, edgecolor="none", zorder=0)
        draw_rate(ax, -1, measured, label="measured")
    for j, (name, rung) in enumerate(rungs.items()):
        low = getattr(rung, "log_lower", None)
        if low is not None and not rung.vacuous:
            ax.plot([probability(low), probability(rung.log_value)], [j, j], color=palette.rung(name).colour, linewidth=0.8, label="_sides")
        draw_bounds(ax, [j], [rung], name, [edge], [measured])
    first = [-1] if measured is not None else []
    ax.set_yticks([*first, *range(len(names))], [*(["measured"] if first else []), *names])
    ax.set_ylim(len(names) - 0.4, min([*first, 0]) - 0.6)
    ax.set_xlabel("retrieval error")
    return ax


def plot_slack(frame: pd.DataFrame, *, scale: Literal["log10", "probability"] = "log10", ax: Axes | None = None) -> Axes:
    """Where the slack of every rung goes, as a waterfall from the measured error to the rung.

    Parameters
    ----------
    frame : DataFrame
        Rows of `theory.slack.slack` for one unit, one a rung. Pieces are laid from the rung's value back, so that a piece that is not
        defined (no error seen, no simulation) ends the row there. With a column `guarantee`, a bound that is none is struck through.
    scale : {"log10", "probability"}
        That of the frame.
    ax : Axes, optional

    Raises
    ------
    InputError
        If columns are missing, the frame is of several units, or the scale is unknown.
    """
    if scale not in ("log10", "probability"):
        raise InputError("scale", f"{scale!r} is unknown; choose log10 or probability")
    need_columns(frame, "rung", "value", "reference", "vacuous", *PIECES)
    if frame["rung"].duplicated().any():
        raise InputError("frame", "holds a rung twice; give the rows of one unit (one arm, law and task)")
    ax = axes_or_new(ax)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    logs = scale == "log10"
    bars = _rows(frame)
    steps = {row.rung: _steps(row, logs) for row in bars}
    references = frame["reference"].dropna().unique()
    ends = [end for row in steps.values() for _, start, stop in row for end in (start, stop)]
    if logs:
        error_scale(ax, [*ends, *references, *frame["value"]], strip=False)
    else:
        ax.set_xlim(0, 1.02)
    styles = {piece: (palette.SERIES[j], palette.HATCHES[j]) for j, piece in enumerate(PIECES)}
    height = 0.8 / 3
    for j, row in enumerate(bars):
        for lane, (piece, start, stop) in enumerate(steps[row.rung]):
            y = j - 0.4 + height * (lane + 0.5)
            colour, hatch = styles[piece]
            ax.barh(
                y, stop - start, height, start, facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0, label=f"_{row.rung} {piece}"
            )
            ax.plot([stop, stop], [y, y + height], color=palette.BLACK, linewidth=0.6, label="_step")
        stands = getattr(row, "guarantee", True) and not row.vacuous
        marks: dict[str, Any] = {"color": palette.BLACK, "markersize": SIZE - 1, "clip_on": False}
        ax.plot([row.value], [j + 0.27], "d", markerfacecolor="black" if stands else "white", label=f"_{row.rung} value", **marks)
        if not stands and not row.vacuous:
            ax.plot([row.value], [j + 0.27], "_", **marks | {"markersize": SIZE + 3}, label=f"_{row.rung} struck")
    for reference in references:
        ax.axvline(reference, color=palette.MEASURED, linewidth=0.8, linestyle="--", label="measured")
    used = [piece for piece in PIECES if any(piece == p for row in steps.values() for p, _, _ in row)]
    handles: list[Artist] = [Patch(facecolor=styles[p][0], edgecolor="white", hatch=styles[p][1], linewidth=0, label=p) for p in used]
    handles.append(Line2D([], [], color=palette.MEASURED, linewidth=0.8, linestyle="--", label="measured"))
    handles += [
        Line2D([], [], linestyle="none", marker="d", color=palette.BLACK, markerfacecolor=face, markersize=SIZE - 1, label=label)
        for face, label in ((palette.BLACK, "bound"), ("white", "vacuous"))
    ]
    if "guarantee" in frame and (~frame["guarantee"] & ~frame["vacuous"]).any():
        handles += key_of_marks()
    ax.legend(handles=handles, **BELOW, ncols=3, frameon=False)
    ax.set_yticks(range(len(frame)), list(frame["rung"]))
    ax.set_ylim(len(frame) - 0.5, -0.5)
    ax.set_xlabel("retrieval error")
    return ax


def _rows(frame: pd.DataFrame) -> list[Any]:
    """The rows of a frame, with its columns as attributes."""
    return list(frame.itertuples())


def _steps(row: Any, logs: bool) -> list[tuple[str, float, float]]:
    """Pieces of a row with where each starts and stops, as probabilities, from the measured error on."""
    at, out = math.log10(row.value) if logs else row.value, []
    for piece in reversed(PIECES):
        size = getattr(row, piece)
        if not math.isfinite(size):
            break
        if size:
            start, stop = at - size, at
            out.append((piece, 10.0**start, 10.0**stop) if logs else (piece, start, stop))
            at -= size
    return out[::-1]


def plot_bound_against_separation(frame: pd.DataFrame, *, floor: float = 1e-6, ax: Axes | None = None) -> Axes:
    """Bounds as lines over the separation, simulated errors as points with their intervals.

    Parameters
    ----------
    frame : DataFrame
        As `theory.curves.bound_against_separation` gives it: `dimension`, `delta`, `rung`, `log_value`, `vacuous`, and for the rows of
        rung "simulated" `error`, `low` and `high`. Up to four dimensions, told apart by the line.
    floor : float
        Least error that the axis shows, if anything is so small; lines leave it below.
    ax : Axes, optional

    Raises
    ------
    InputError
        If columns are missing, or there are more dimensions than lines that can be told apart.
    """
    need_columns(frame, "dimension", "delta", "rung", "log_value", "vacuous", "error", "low", "high")
    dimensions = list(dict.fromkeys(frame["dimension"]))
    if len(dimensions) > len(palette.LINES):
        raise InputError("frame", f"holds {len(dimensions)} dimensions; give {len(palette.LINES)} at most, or one an Axes")
    ax = axes_or_new(ax)
    bounds, points = frame[frame["rung"] != "simulated"], frame[frame["rung"] == "simulated"]
    values = np.maximum([*np.exp(bounds["log_value"]), *points["error"], *points["high"]], floor)
    log_scale(ax, "x", frame["delta"])
    _, edge = error_scale(ax, values, "y", strip=bool(bounds["vacuous"].any()))
    groups: list[tuple[Any, pd.DataFrame]] = list(bounds.groupby(["dimension", "rung"], sort=False))
    for j, ((d, name), rows) in enumerate(groups):
        style = palette.rung(name)
        line = palette.LINES[dimensions.index(d)] if len(dimensions) > 1 else style.line
        label = f"{name}, d = {d}" if len(dimensions) > 1 else name
        drawn: dict[str, Any] = {"color": style.colour, "linestyle": line, "linewidth": 1.1}
        # A few markers on each line, elsewhere on the next, tell lines apart that have one colour to some eyes.
        drawn |= {"marker": style.marker, "markersize": SIZE - 2, "markevery": (j % 3, 3)}
        shown, silent = rows[~rows["vacuous"]], rows[rows["vacuous"]]
        ax.plot(shown["delta"], [probability(v) for v in shown["log_value"]], label=label, **drawn)
        # Each in its own lane of the strip, where lines that coincide would hide each other.
        ax.plot(silent["delta"], [edge ** ((j + 1) / (len(groups) + 1))] * len(silent), label=f"_{label} vacuous", **drawn)
    for row in _rows(points):
        draw_rate(ax, row.delta, row, along="y", label="_simulated")
    if len(points):
        ax.plot([], [], "o", color=palette.MEASURED, markersize=SIZE - 1, label="simulated")
    ax.legend(frameon=False)
    ax.set_xlabel(r"separation $\delta$")
    ax.set_ylabel("retrieval error")
    return ax


def plot_required_separation(frame: pd.DataFrame, *, x: Literal["tasks", "dimension"], ax: Axes | None = None) -> Axes:
    """The separation that each criterion asks for, over the number of tasks or the dimension.

    Parameters
    ----------
    frame : DataFrame
        As `theory.curves.required_separation` gives it: `tasks`, `dimension`, `criterion`, `delta`, `proved`, `fails`, `tail_holds`. Hollow
        and struck through where meeting the criterion is not proved to imply the error, crossed where the exact error exceeds it. How
        often the tail claim of a reading is false stands in the legend.
    x : {"tasks", "dimension"}
    ax : Axes, optional

    Raises
    ------
    InputError
        If columns are missing, x is neither, or a criterion has several values at one x.
    """
    if x not in ("tasks", "dimension"):
        raise InputError("x", f"{x!r} is unknown; choose tasks or dimension")
    need_columns(frame, x, "criterion", "delta", "proved", "fails", "tail_holds")
    if frame.duplicated([x, "criterion"]).any():
        raise InputError("frame", f"has several rows of one criterion at one {x}; give one of the other settings")
    ax = axes_or_new(ax)
    log_scale(ax, "x", frame[x])
    log_scale(ax, "y", frame["delta"])
    others = [name for name in dict.fromkeys(frame["criterion"]) if name not in palette.RUNGS]
    for criterion, rows in frame.groupby("criterion", sort=False):
        name = str(criterion)
        style = palette.RUNGS.get(name) or palette.Style(
            *((palette.VERMILLION, "^", ":"), (palette.PURPLE, "v", "-."))[others.index(name) % 2]
        )
        false = int((~rows["tail_holds"]).sum())
        label = f"{name} (tail claim false at {false} of {len(rows)})" if false else name
        ax.plot(rows[x], rows["delta"], color=style.colour, linestyle=style.line, linewidth=1.1, label=f"_{name} line")
        ax.plot([], [], style.marker, color=style.colour, linestyle=style.line, markersize=SIZE - 1, label=label)
        for proved, face in ((True, style.colour), (False, "white")):
            part = rows[rows["proved"] == proved]
            marks: dict[str, Any] = {"color": style.colour, "markerfacecolor": face, "markersize": SIZE - 1}
            ax.plot(part[x], part["delta"], style.marker, linestyle="none", label=f"_{name}{'' if proved else ' unproved'}", **marks)
            if not proved:
                ax.plot(part[x], part["delta"], "_", color=style.colour, markersize=SIZE + 3, label=f"_{name} struck")
        broken = rows[rows["fails"]]
        ax.plot(
            broken[x],
            broken["delta"],
            "x",
            color=palette.BROKEN,
            markersize=SIZE + 3,
            markeredgewidth=1.2,
            label=f"_{name} fails",
            zorder=6,
        )
    handles = [handle for handle, _ in zip(*ax.get_legend_handles_labels(), strict=True)]
    handles += key_of_marks(
        rejected="" if frame["proved"].all() else "not proved to suffice", contradicted="error exceeded" if frame["fails"].any() else ""
    )
    ax.legend(handles=handles, frameon=False)
    if frame[x].nunique() <= 10:
        ticks = sorted(frame[x].unique())
        ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xlabel("tasks $m$" if x == "tasks" else "dimension $d$")
    ax.set_ylabel(r"required separation $\delta$")
    return ax


def plot_finite_sample(frame: pd.DataFrame, *, quantity: str = "retrieval error", ax: Axes | None = None) -> Axes:
    """The plug-in error over samples per dimension: exact values and bounds as lines, simulations as points with intervals.

    Parameters
    ----------
    frame : DataFrame
        As `theory.curves.finite_sample` gives it: `ratio` (n/d), `kind`, `error`, `low`, `high`, `vacuous`. Kinds whose rows have limits
        are points, the others lines.
    quantity : str
        What the vertical axis shows.
    ax : Axes, optional

    Raises
    ------
    InputError
        If columns are missing.
    """
    need_columns(frame, "ratio", "kind", "error", "low", "high", "vacuous")
    ax = axes_or_new(ax)
    log_scale(ax, "x", frame["ratio"])
    edge, _ = error_scale(ax, [*frame["error"], *frame["high"]], "y", strip=bool(frame["vacuous"].any()))
    for j, (kind, rows) in enumerate(frame.groupby("kind", sort=False)):
        style = palette.series(j)
        if rows["low"].isna().all():
            shown, silent = rows[~rows["vacuous"]], rows[rows["vacuous"]]
            ax.plot(shown["ratio"], shown["error"], color=style.colour, linestyle=style.line, linewidth=1.1, label=kind)
            if len(silent):
                ax.plot(
                    silent["ratio"], [edge] * len(silent), style.marker, color=style.colour, markerfacecolor="white", markersize=SIZE - 1
                )
            continue
        for row in _rows(rows):
            draw_rate(ax, row.ratio, row, along="y", colour=style.colour, marker=style.marker, label=f"_{kind}")
        ax.plot([], [], style.marker, color=style.colour, markersize=SIZE - 1, label=kind)
    ax.set_xlabel("samples per dimension $n/d$")
    ax.set_ylabel(quantity)
    ax.legend(frameon=False)
    return ax


def plot_gaussians(
    means: Float[np.ndarray, "K 2"],
    covariances: Float[np.ndarray, "K 2 2"],
    *,
    labels: Sequence[str] | None = None,
    styles: Sequence[palette.Style] | None = None,
    mass: float = 0.9,
    ax: Axes | None = None,
) -> Axes:
    """Gaussians in two dimensions, each as its mean and the ellipse that holds a given share of it.

    Parameters
    ----------
    means : (K, 2) array
    covariances : (K, 2, 2) array
    labels : sequence of str, optional
        Written at the means.
    styles : sequence of palette.Style, optional
        One a Gaussian.
    mass : float
        Probability inside the ellipse: squared Mahalanobis radius ``-2 log(1 - mass)``, the quantile of chi2_2.
    ax : Axes, optional

    Raises
    ------
    InputError
        For shapes that do not fit, an indefinite covariance, or a mass outside (0, 1).
    """
    means, covariances = np.asarray(means, dtype=np.float64), np.asarray(covariances, dtype=np.float64)
    if means.ndim != 2 or means.shape[1] != 2 or covariances.shape != (len(means), 2, 2):
        raise InputError("means", f"have shape {means.shape} and covariances {covariances.shape}; needs (K, 2) and (K, 2, 2)")
    if not 0 < mass < 1:
        raise InputError("mass", f"{mass} is not inside (0, 1)")
    for name, given in (("labels", labels), ("styles", styles)):
        if given is not None and len(given) != len(means):
            raise InputError(name, f"are {len(given)} for {len(means)} Gaussians")
    ax = axes_or_new(ax)
    from matplotlib.patches import Ellipse

    radius = math.sqrt(-2 * math.log1p(-mass))
    for j, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        values, vectors = np.linalg.eigh(covariance)
        if not values[0] > 0:
            raise InputError(f"covariances[{j}]", "is not positive definite")
        style = palette.series(j) if styles is None else styles[j]
        width, height = 2 * radius * np.sqrt(values[::-1])
        angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
        edge = {"edgecolor": style.colour, "linestyle": style.line, "linewidth": 0.8}
        ax.add_patch(Ellipse(tuple(mean), width, height, angle=angle, facecolor="none", **edge))
        ax.plot(*mean, "+", color=style.colour, markersize=SIZE + 1, label="_mean")
        if labels is not None:
            ax.annotate(literal(labels[j]), mean, xytext=(2, 2), textcoords="offset points", color=style.colour)
    ax.autoscale_view()
    ax.set_aspect("equal", adjustable="datalim")
    return ax
