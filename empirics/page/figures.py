"""Drawings of a page: `empirics.figures.plotting` as SVG that takes the colours of the page around it, and one chart to hover over."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from empirics.figures.finished_run import OwnDistances
from empirics.page.model import Drawing, Mark, worth
from empirics.page.phrases import of_batches
from empirics.reports.report import Report, Unit
from empirics.reports.rounding import rounded_up
from theory import palette

# What has no colour of its own is drawn in those of the page, which has a light and a dark scheme.
_SCHEME = {
    palette.BLACK.lower(): "currentColor",
    "#ffffff": "var(--ground)",
    palette.LIGHT.lower(): "var(--band)",
    palette.GREY.lower(): "var(--muted)",
}
_COLOUR = re.compile("|".join(_SCHEME), re.IGNORECASE)
_STYLE = {
    "font.size": 9,
    # Verdana is as wide as DejaVu Sans, by which the text was set.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "page",
}
_WIDTH = 8.0
# Of the chart: pixels a row, and the mark of a bound that is no guarantee, a ring with a line through it.
_ROW = 64
_STRUCK = "M-.8,0A.8,.8,0,1,1,.8,0A.8,.8,0,1,1,-.8,0M-1.5,0L1.5,0"


def run_drawings(report: Report, slack: pd.DataFrame, distances: OwnDistances | None = None) -> dict[str, Drawing]:
    """The figures of a run.

    Parameters
    ----------
    report : Report
    slack : DataFrame
        `slack.parquet`.
    distances : OwnDistances, optional
        Squared distances of the test documents to their own cluster, of the headline's arm.
    """
    from empirics.figures.plotting import plot_own_distances, plot_rungs
    from theory.plotting import plot_slack

    units = [_readable(unit) for unit in _of_single_queries(report)]
    out = {"rungs": Drawing(drawn("rungs", lambda ax: plot_rungs(units, ax=ax), 1.5 + 0.5 * len(units)), ladder_chart(report))}
    head = report.headline
    chosen = (slack["arm"] == head.arm) & (slack["dimension"] == head.dimension) & (slack["law"] == head.law)
    rows = slack[chosen & (slack["level_of"] == "overall")]
    if len(rows):
        out["slack"] = Drawing(drawn("slack", lambda ax: plot_slack(rows, ax=ax), 1.5 + 0.3 * len(rows)))
    if distances is not None:
        out["distances"] = Drawing(
            drawn(
                "distances",
                lambda ax: plot_own_distances(
                    distances.measured, dimension=distances.dimension, count=distances.counts, law=distances.law, ax=ax
                ),
                3.2,
            )
        )
    return out


def drawn(name: str, draw: Callable[[Any], object], height: float) -> str:
    """Draw into new axes and return SVG for the inside of a page.

    Parameters
    ----------
    name : str
        Unique on the page; all that the SVG refers to inside itself is named after it.
    draw : callable
        Takes the Axes.
    height : float
        Inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # A name may be in a script that the font lacks; it is written as text, and the reader's browser has a font for it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(file.getvalue(), name)


def _inlined(svg: bytes, name: str) -> str:
    """An SVG file as an element of a page: no names that another figure may have too, no style for others, the page's colours."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style", "title"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _bare(element.tag)
        found = {_bare(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in found.items():
            value = _COLOUR.sub(lambda match: _SCHEME[match.group().lower()], value)
            value = re.sub(r"url\(#", f"url(#{name}-", value)
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" and value.startswith("#"):
                value = f"#{name}-{value[1:]}"
            element.set(key, value)
    referred = set(re.findall(rf"#({name}-[^\")]+)", ElementTree.tostring(root, encoding="unicode")))
    for element in root.iter():
        if element.get("id") not in referred:
            element.attrib.pop("id", None)
    # What matplotlib leaves out is black, and these are what its style sheet said.
    root.attrib = {"viewBox": root.attrib["viewBox"], "fill": "currentColor", "stroke-linejoin": "round", "stroke-linecap": "butt"}
    return ElementTree.tostring(root, encoding="unicode")


def _bare(tag: str) -> str:
    return tag.rpartition("}")[2]


def _of_single_queries(report: Report) -> list[Unit]:
    """Tasks and overall, without rungs that bound another event than the error drawn beside them."""
    batches = of_batches(report.run)
    units = [*report.tasks, report.overall]
    return [u.model_copy(update={"rungs": {name: rung for name, rung in u.rungs.items() if name not in batches}}) for u in units]


def _readable(unit: Unit) -> Unit:
    return unit.model_copy(update={"name": _literal(unit.name)})


def _literal(name: str) -> str:
    """A name as text of a figure: not so long that nothing is left for the figure, and no mathematics in it."""
    return (name if len(name) <= 32 else f"{name[:31]}…").replace("$", r"\$")


# --- the chart -------------------------------------------------------------------------------------------------------


def ladder_chart(report: Report) -> dict[str, Any]:
    """The same ladder as a Vega-Lite chart whose marks tell their values when pointed at.

    Returns
    -------
    dict
        A specification that names no colour for text and axes: a page's style gives them.
    """
    import altair as alt

    units = _of_single_queries(report)
    points: list[dict[str, Any]] = [
        {
            "unit": unit.name,
            "rung": name,
            "value": max(rung.value, 1e-300),
            "at most": rounded_up(rung.value),
            "worth": str(worth(rung.model_dump())),
            "assumes": rung.level,
            "what it is": rung.source,
        }
        for unit in units
        for name, rung in unit.rungs.items()
    ]
    measured: list[dict[str, Any]] = [
        {
            "unit": unit.name,
            "error": float(f"{unit.measured.error:.3g}"),
            "low": float(f"{unit.measured.low:.3g}"),
            "high": float(f"{unit.measured.high:.3g}"),
            "errors": f"{unit.measured.errors} of {unit.measured.n}",
        }
        for unit in units
    ]
    least = min([p["value"] for p in points] + [m["low"] for m in measured if m["low"] > 0]) / 1.5
    for row in measured:
        # On a logarithmic axis there is no zero: such an interval starts at the edge.
        row["from"], row["at"] = max(row["low"], least), max(row["error"], least)
    rungs = list(dict.fromkeys(p["rung"] for p in points))
    colours = alt.Scale(domain=rungs, range=[palette.rung(name).colour for name in rungs])
    shapes = alt.Scale(domain=[str(mark) for mark in Mark if mark], range=["circle", _STRUCK, "cross", "triangle-right"])
    x = alt.X("from:Q", title="retrieval error", scale=alt.Scale(type="log", domain=[least, 1.0], nice=False), axis=alt.Axis(format=".3~g"))
    y = alt.Y(
        "unit:N", sort=[unit.name for unit in units], title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=8)
    )
    band = alt.Chart(alt.InlineData(measured)).encode(y=y, tooltip=_tips("unit", "error", "low", "high", "errors"))
    chart = alt.layer(
        band.mark_bar(height=_ROW - 14, opacity=0.22, color="grey").encode(x=x, x2="high:Q"),
        band.mark_tick(height=_ROW - 14, thickness=2, color="currentColor").encode(x="at:Q"),
        alt.Chart(alt.InlineData(points))
        .mark_point(size=60, strokeWidth=1.5, opacity=1)
        .encode(
            x="value:Q",
            y=y,
            yOffset=alt.YOffset("rung:N", sort=rungs),
            stroke=alt.Stroke("rung:N", sort=rungs, scale=colours, legend=alt.Legend(title="Rung", symbolType="circle")),
            fill=alt.Fill("rung:N", sort=rungs, scale=colours, legend=alt.Legend(title="Rung", symbolType="circle")),
            fillOpacity=alt.condition("datum.worth === 'guarantee'", alt.value(1), alt.value(0)),
            shape=alt.Shape(
                "worth:N",
                scale=shapes,
                legend=alt.Legend(title="Worth", symbolFillColor="grey", symbolStrokeColor="grey", symbolStrokeWidth=2),
            ),
            tooltip=_tips("unit", "rung", "at most", "worth", "assumes", "what it is"),
        ),
    )
    text = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
    lines = {"domainColor": "grey", "tickColor": "grey", "gridColor": "grey", "gridOpacity": 0.25}
    chart = chart.properties(width="container", height=_ROW * len(units), background="transparent")
    chart = chart.configure_view(stroke=None).configure_axis(**text, **lines).configure_legend(**text)
    return {**chart.to_dict(), "autosize": {"type": "fit-x", "contains": "padding"}}


def _tips(*names: str) -> list[Any]:
    import altair as alt

    return [alt.Tooltip(f"{name}:N") for name in names]
