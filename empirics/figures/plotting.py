"""Runs, comparisons and ablations drawn. The one module here that needs matplotlib; what is drawn comes from `empirics.figures.tables`.

Every function takes data and an Axes, draws and returns the Axes; without one a new figure is made. Marks are those of
`theory.marks`: hollow and struck through is no guarantee, crossed is contradicted, a strip of its own is vacuous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib.axes import Axes

from empirics.figures.tables import (
    batch_table,
    decomposition_table,
    matrix_table,
    own_distance_table,
    phase_table,
    plane_table,
    rung_table,
)
from empirics.reports.report import Unit
from theory import palette
from theory.marks import (
    BELOW,
    axes_or_new,
    draw_bounds,
    draw_rate,
    error_scale,
    key_of_marks,
    literal,
    log_ticks,
    need_columns,
)
from theory.mixture import Rule, Signatures
from theory.plotting import plot_gaussians

_SIZE = 4.0
# Colour, mark and dashes of what a search costs.
_COSTS = {
    "full search": (palette.BLACK, "s", "-"),
    "any answer kept": (palette.BLUE, "o", "-"),
    "right answers kept": (palette.GREEN, "^", "--"),
    "screen alone": (palette.ORANGE, "d", ":"),
}
# Height of a line of a label, in units of the font.
_LINE = 1.4


def plot_rungs(units: Sequence[Unit], *, ax: Axes | None = None) -> Axes:
    """Measured error against every rung, a row for each unit, on a logarithmic axis.

    A band spans the measured interval: a bound to the left of it is contradicted, and crossed. Below a unit's name stands that its
    law was rejected, or which assumption broke. Rungs that are vacuous for every unit are named below instead of being drawn in every row.

    Parameters
    ----------
    units : sequence of Unit
        Clusters, tasks or everything, of one arm and query law.
    ax : Axes, optional

    Raises
    ------
    InputError
        Without units.
    """
    table = rung_table(units)
    ax = axes_or_new(ax)
    silent = [name for name, rows in table.groupby("rung", sort=False) if rows["vacuous"].all()]
    shown = [name for name in dict.fromkeys(table["rung"]) if name not in silent]
    rows = table[table["rung"].isin(shown)] if shown else table
    _, edge = error_scale(ax, [*table["measured"], *table["low"], *table["high"], *rows["value"]], strip=True)
    for j, unit in enumerate(units):
        low = max(unit.measured.low, ax.get_xlim()[0])
        ax.barh(j, unit.measured.high - low, 0.9, low, color=palette.LIGHT, edgecolor="none", zorder=0, label=f"_{unit.name} band")
        draw_rate(ax, j - 0.27, unit.measured, label=f"_{unit.name} measured")
    for name in shown:
        rungs = [unit.rungs[name] for unit in units]
        # Side by side in the strip: there is nothing else to tell them apart.
        idle = [[n for n in shown if unit.rungs[n].vacuous] for unit in units]
        spread = [edge ** ((names.index(name) + 0.5) / len(names)) if name in names else edge for names in idle]
        draw_bounds(ax, [j + 0.17 for j in range(len(units))], rungs, name, spread, [unit.measured for unit in units])
    rejected = "no guarantee" if (~table["guarantee"] & ~table["vacuous"]).any() else ""
    handles = key_of_marks(shown, contradicted="" if table["holds"].all() else "contradicted", rejected=rejected)
    ax.set_yticks(range(len(units)), [_with_verdict(unit) for unit in units])
    ax.set_ylim(len(units) - 0.5, -0.5)
    throughout = wrap(f"vacuous throughout: {', '.join(silent)}", 40) if silent else []
    # The strip's name takes a line below the ticks.
    below = BELOW | {"borderaxespad": BELOW["borderaxespad"] + _LINE * (1 + len(throughout))}
    ax.legend(handles=handles, **below, ncols=5, frameon=False, columnspacing=1.0, handletextpad=0.2)
    ax.set_xlabel("\n".join(["retrieval error", *throughout]))
    return ax


def _with_verdict(unit: Unit) -> str:
    """The name of a unit, and below it what of its assumptions broke: which level under a contradicted rung, or the query law."""
    broken = dict.fromkeys(rung.level for rung in unit.rungs.values() if not rung.holds)
    verdict = f"{', '.join(broken)} broke" if broken else "law rejected" if unit.law.verdict == "rejected" else ""
    return "\n".join(filter(None, (literal(unit.name), verdict)))


def plot_own_distances(
    measured: Float[np.ndarray, " n"],
    *,
    dimension: int,
    count: int | Int[np.ndarray, " n"] | None = None,
    law: Float[np.ndarray, " p"] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How often squared own distances exceed a value: measured, with a band, against chi-square, F and the query law.

    Parameters
    ----------
    measured, dimension, count, law
        As for `empirics.figures.tables.own_distance_table`.
    ax : Axes, optional
    """
    table = own_distance_table(measured, dimension, count, law)
    ax = axes_or_new(ax)
    least = 0.5 / len(table)
    edge = np.concatenate([[table["distance"].iloc[0]], table["distance"]])
    ax.fill_between(
        table["distance"], table["low"].clip(lower=least), table["high"], step="pre", color=palette.LIGHT, linewidth=0, label="95% band"
    )
    ax.step(edge[1:], table["measured"], where="pre", color=palette.MEASURED, linewidth=1.2, label="measured")
    for column, label, style in (
        ("chi_square", rf"$\chi^2_{{{dimension}}}$", palette.Style(palette.BLUE, "", "--")),
        ("f", "F, by samples", palette.Style(palette.ORANGE, "", "-.")),
        ("query_law", "query law", palette.Style(palette.GREEN, "", ":")),
    ):
        line = table[table[column] > 0]
        if len(line):
            ax.plot(line["distance"], line[column], color=style.colour, linestyle=style.line, linewidth=1.2, label=label)
    ax.set_yscale("log")
    ax.set_ylim(least, 1.2)
    log_ticks(ax, "y", least, 1.2)
    ax.set_xlabel("squared own distance")
    ax.set_ylabel("share beyond")
    ax.legend(frameon=False)
    return ax


def plot_prediction(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Measured error over the dimension of the signatures, and what each query law predicts.

    Parameters
    ----------
    frame : DataFrame
        Rows of one arm: `dimension`, `law`, `measured`, `low`, `high`, `predicted`, `predicted_low`, `predicted_high`, `verdict`.
        Predictions of a rejected law are hollow.
    ax : Axes, optional

    Raises
    ------
    InputError
        If columns are missing.
    """
    need_columns(frame, "dimension", "law", "measured", "low", "high", "predicted", "predicted_low", "predicted_high", "verdict")
    ax = axes_or_new(ax)
    ax.set_xscale("log", base=2)
    error_scale(ax, [*frame["low"], *frame["high"], *frame["predicted"], *frame["predicted_high"]], "y", strip=False)
    once = frame.drop_duplicates("dimension").sort_values("dimension")
    ax.plot(once["dimension"], once["measured"].where(once["measured"] > 0), color=palette.MEASURED, linewidth=1.2, label="measured")
    for row in once.itertuples():
        draw_rate(ax, row.dimension, SimpleNamespace(error=row.measured, low=row.low, high=row.high), along="y", label="_measured point")
    laws = list(dict.fromkeys(frame["law"]))
    for j, law in enumerate(laws):
        style = palette.Style(palette.SERIES[j], palette.MARKERS[j + 1], palette.LINES[1 + j % 3])
        rows = frame[frame["law"] == law].sort_values("dimension")
        # Beside one another: at one dimension they would hide each other.
        at = rows["dimension"] * 2 ** (0.08 * (j + 1))
        ax.plot(
            at,
            rows["predicted"].where(rows["predicted"] > 0),
            color=style.colour,
            linestyle=style.line,
            linewidth=1.0,
            label=f"_{law} line",
        )
        for x, row in zip(at, rows.itertuples(), strict=True):
            rate = SimpleNamespace(error=row.predicted, low=row.predicted_low, high=row.predicted_high)
            draw_rate(ax, x, rate, along="y", colour=style.colour, marker="", label=f"_{law}")
        for rejected, face in ((False, style.colour), (True, "white")):
            part = (rows["verdict"] == "rejected") == rejected
            label = f"predicted, {law}: law rejected" if rejected else f"predicted, {law}"
            if part.any():
                ax.plot(
                    at[part],
                    rows["predicted"][part],
                    style.marker,
                    color=style.colour,
                    markerfacecolor=face,
                    markersize=_SIZE,
                    label=label,
                    zorder=5,
                )
    ax.set_ylim(top=min(1.0, 2.0 * max(frame["high"].max(), frame["predicted_high"].max())))
    ticks = once["dimension"].tolist()
    ax.set_xticks(ticks, [str(d) for d in ticks])
    ax.minorticks_off()
    ax.set_xlabel("dimension of the signatures")
    ax.set_ylabel("retrieval error")
    ax.legend(frameon=False)
    return ax


def plot_retrieval_matrix(matrix: Sequence[Sequence[float]], names: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Share of each task's documents that are retrieved rightly after each stage.

    Parameters
    ----------
    matrix : sequence of m rows
        Row i holds tasks 0 to i after stage i; what stands beyond the diagonal is not drawn.
    names : sequence of m str
        Tasks in the order in which they were learned.
    ax : Axes, optional

    Raises
    ------
    InputError
        If the matrix is not so long, or holds what is no share.
    """
    table, m = matrix_table(matrix, names), len(names)
    full = np.full((m, m), np.nan)
    full[np.tri(m, dtype=bool)] = table["share"]
    ax = axes_or_new(ax)
    # One scale for every matrix, so that two can be compared. A mesh stays a vector; an image would not.
    mesh = np.ma.masked_invalid(full)
    edges = np.arange(m + 1)
    ax.pcolormesh(edges, edges, mesh, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    for i, j in zip(*np.tril_indices(m), strict=True):
        text = "1" if full[i, j] == 1 else f"{min(full[i, j], 0.994):.2f}".removeprefix("0")
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", color="white" if full[i, j] < 0.5 else "black")
    ax.set_xticks(np.arange(m) + 0.5, [literal(name) for name in names], rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(np.arange(m) + 0.5, [str(i + 1) for i in range(m)])
    ax.set_ylim(m, 0)
    ax.set_ylabel("after stage")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def plot_decomposition(comparison: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Accuracy of every method, and what it loses within the right task and to wrong retrieval.

    Parameters
    ----------
    comparison : mapping
        What `comparison.json` holds. Controls are named in brackets.
    ax : Axes, optional
    """
    table = decomposition_table(comparison)
    ax = axes_or_new(ax)
    at, left = np.arange(len(table)), np.zeros(len(table))
    parts = (
        ("accuracy", "right", palette.BLUE, ""),
        ("lost_within_task", "task right, class wrong", palette.SKY, "...."),
        ("lost_to_retrieval", "task wrong", palette.ORANGE, "////"),
    )
    for column, label, colour, hatch in parts:
        ax.barh(at, table[column], 0.8, left, facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0, label=label)
        left = left + table[column].to_numpy()
    spread = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    ax.errorbar(table["accuracy"], at, xerr=spread, fmt="none", ecolor=palette.BLACK, elinewidth=0.9, capsize=1.5, label="interval")
    ax.set_yticks(at, [_shown(row) for row in table.itertuples()])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of test documents")
    ax.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), ncols=2, frameon=False)
    return ax


def _shown(row: Any) -> str:
    return literal(f"({row.method})" if row.role == "control" else row.method)


def plot_batch_leak(comparison: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Leak control: retrieval error over the size of batches that hold one task only. No method may be judged by it.

    Zeros stand on a line of their own below the logarithmic axis.

    Parameters
    ----------
    comparison : mapping
        What `comparison.json` holds.
    ax : Axes, optional
    """
    table = batch_table(comparison)
    ax = axes_or_new(ax)
    ax.set_xscale("log", base=2)
    error_scale(ax, table["error"], "y", strip=False)
    low, high = ax.get_ylim()
    zero = low / 2
    ax.set_ylim(low / 3, high)
    ax.axhline(zero, color=palette.LIGHT, linewidth=4, zorder=0)
    for j, (_, rows) in enumerate(table.groupby("method", sort=False)):
        style = palette.series(j)
        shown = _shown(rows.iloc[0])
        ax.plot(
            rows["batch"],
            rows["error"].where(rows["error"] > 0, zero),
            style.line,
            marker=style.marker,
            color=style.colour,
            linewidth=0.9,
            markersize=_SIZE - 0.5,
            label=shown,
        )
    ticks = sorted(set(table["batch"]))
    ax.set_xticks(ticks, [str(b) for b in ticks])
    ax.minorticks_off()
    ax.set_yticks([zero, *ax.get_yticks()], ["0", *[t.get_text() for t in ax.get_yticklabels()]])
    ax.set_xlabel("documents known to be of one task, scored together")
    ax.set_ylabel("retrieval error")
    ax.set_title("leak control, not a method")
    ax.legend(**BELOW, ncols=3, frameon=False, columnspacing=1.0)
    return ax


def plot_embedding(
    z: Float[np.ndarray, "n S d"],
    task: Int[np.ndarray, " n"],
    rule_or_signatures: Rule | Signatures,
    names: Sequence[str],
    *,
    space: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Embeddings with the ellipses of the signatures, in the plane in which the signatures' means spread most.

    Parameters
    ----------
    z : (n, S, d) or (n, d) array
        In one shared space, in one for each task, or in a common one before those.
    task : (n,) int array
        True tasks.
    rule_or_signatures : Rule or Signatures
        Components of all tasks in a shared space; in a task's own space only that task's are drawn, for no other lives there.
    names : sequence of str
    space : int
        The task whose space is looked at; of no matter where all share one.
    ax : Axes, optional

    Raises
    ------
    InputError
        For shapes that do not fit.
    """
    z = np.asarray(z)
    table = plane_table(z[:, None] if z.ndim == 2 else z, task, rule_or_signatures, names, space)
    ax = axes_or_new(ax)
    documents, ellipses = table[table["kind"] == "document"], table[table["kind"] == "signature"]
    for k, name in enumerate(names):
        rows, style = documents[documents["task"] == name], palette.series(k)
        ax.plot(
            rows["x"], rows["y"], style.marker, color=style.colour, markersize=_SIZE - 2, markeredgewidth=0, alpha=0.6, label=literal(name)
        )
    covariances = ellipses[["xx", "xy", "xy", "yy"]].to_numpy().reshape(-1, 2, 2)
    styles = [palette.series(list(names).index(name)) for name in ellipses["task"]]
    # Smaller than usual: of many components, ellipses that hold nearly all hide each other.
    plot_gaussians(ellipses[["x", "y"]].to_numpy(), covariances, styles=styles, mass=0.5, ax=ax)
    share = f"plane of the signatures' means: {table['share'].iloc[0]:.0%} of the variance"
    ax.set_xlabel(f"{share}\nellipses: half of each component")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.legend(**BELOW, ncols=2, frameon=False, markerscale=2)
    return ax


def plot_phases(run: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Seconds of each phase of a run, and the largest memory up to its end.

    Parameters
    ----------
    run : mapping
        What `run.json` holds.
    ax : Axes, optional

    Raises
    ------
    InputError
        If the run did not finish.
    """
    table = phase_table(run)
    ax = axes_or_new(ax)
    at = np.arange(len(table))
    ax.barh(at, table["seconds"], 0.7, color=palette.SKY, label="seconds")
    for j, row in enumerate(table.itertuples()):
        memory = "" if np.isnan(row.peak_bytes) else f", {row.peak_bytes / 2**30:.2f} GiB"
        ax.annotate(f"{row.seconds:.1f} s{memory}", (row.seconds, j), xytext=(3, 0), textcoords="offset points", va="center")
    ax.set_yticks(at, [literal(name) for name in table["phase"]])
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.margins(x=0.35)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds")
    if run.get("peak_memory_bytes"):
        ax.set_title(f"{table['seconds'].sum():.0f} s; peak memory {run['peak_memory_bytes'] / 2**30:.2f} GiB")
    return ax


def plot_cascade_cost(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """What a search costs over the number of tasks, on logarithmic axes; bars span the deals or repetitions.

    A hollow mark holds simulated tasks.

    Parameters
    ----------
    table : DataFrame
        One panel of `empirics.figures.tables.cascade_table`.
    ax : Axes, optional
    """
    need_columns(table, "panel", "line", "tasks", "simulated", "median", "low", "high")
    ax = axes_or_new(ax)
    for name, (colour, marker, dashes) in _COSTS.items():
        rows = table[table["line"] == name]
        if rows.empty:
            continue
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["median"].to_numpy())
        ax.errorbar(rows["tasks"], rows["median"], spread, color=colour, linestyle=dashes, linewidth=1, capsize=1.5)
        ax.plot([], [], color=colour, linestyle=dashes, linewidth=1, marker=marker, markersize=_SIZE, label=name)
        for hollow, part in rows.groupby(rows["simulated"] > 0):
            ax.plot(part["tasks"], part["median"], marker, color=colour, markersize=_SIZE, markerfacecolor="white" if hollow else colour)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("tasks")
    ax.set_ylabel(f"{table['panel'].iloc[0]} a query")
    ax.legend()
    return ax
