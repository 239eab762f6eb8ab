"""Drawings of a page: figures of `empirics.plotting` as SVG that takes the colours of the page around it, and one chart to hover over."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from empirics.report import Report, Unit
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


@dataclass(frozen=True)
class Drawing:
    """A figure as markup, and a chart to take its place where scripts run.

    Attributes
    ----------
    svg : str
        An ``svg`` element without a name for a screen reader: the page gives it the figure's caption.
    chart : dict, optional
        A Vega-Lite specification.
    """

    svg: str
    chart: dict[str, Any] | None = None


def run_drawings(report: Report, slack: pd.DataFrame, distances: Sequence[float] | None = None) -> dict[str, Drawing]:
    """The figures of a run.

    Parameters
    ----------
    report : Report
    slack : DataFrame
        `slack.parquet`.
    distances : sequence of float, optional
        Squared distances of the test documents to their own cluster, of the headline's arm.
    """
    from empirics.plotting import plot_own_distances, plot_phases, plot_rungs
    from theory.plotting import plot_slack

    units = [_readable(unit) for unit in [*report.tasks, report.overall]]
    out = {"rungs": Drawing(drawn("rungs", lambda ax: plot_rungs(units, ax=ax), 1.5 + 0.5 * len(units)), ladder_chart(report))}
    head = report.headline
    chosen = (slack["arm"] == head.arm) & (slack["dimension"] == head.dimension) & (slack["law"] == head.law)
    rows = slack[chosen & (slack["level_of"] == "overall")]
    if len(rows):
        out["slack"] = Drawing(drawn("slack", lambda ax: plot_slack(rows, ax=ax), 1.5 + 0.3 * len(rows)))
    if distances is not None:
        out["distances"] = Drawing(drawn("distances", lambda ax: plot_own_distances(distances, dimension=head.dimension, ax=ax), 3.2))
    phases = {_literal(name): seconds for name, seconds in report.run["phases_seconds"].items()}
    out["phases"] = Drawing(drawn("phases", lambda ax: plot_phases({**report.run, "phases_seconds": phases}, ax=ax), 1 + 0.25 * len(phases)))
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

    from empirics.page.fields import rounded_up
    from empirics.page.run import worth

    units = [*report.tasks, report.overall]
    points = [
        {
            "unit": unit.name,
            "rung": name,
            "value": max(rung.value, 1e-300),
            "at most": rounded_up(rung.value),
            "worth": str(worth(rung.model_dump())),
            "assumes": rung.level,
            "what": rung.source,
        }
        for unit in units
        for name, rung in unit.rungs.items()
    ]
    measured = [
        {
            "unit": unit.name,
            "error": unit.measured.error,
            "low": unit.measured.low,
            "high": unit.measured.high,
            "errors": f"{unit.measured.errors} of {unit.measured.n}",
        }
        for unit in units
    ]
    names = [unit.name for unit in units]
    least = min([p["value"] for p in points] + [m["low"] for m in measured if m["low"] > 0])
    for row in measured:
        # On a logarithmic axis there is no zero: such an interval starts at the edge.
        row["from"], row["at"] = max(row["low"], least / 1.5), max(row["error"], least / 1.5)
    x = {"type": "log", "domain": [least / 1.5, 1.0], "nice": False}
    axis = alt.Axis(title="retrieval error", format=".3~g", tickCount=8, grid=True)
    rows = alt.Y("unit:N", sort=names, title=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False, labelPadding=8))
    band = alt.Chart(alt.InlineData(measured)).encode(y=rows)
    tips = [alt.Tooltip(f"{key}:{kind}", format=form) for key, kind, form in (("unit", "N", ""), ("error", "Q", ".3f"), ("low", "Q", ".3f"), ("high", "Q", ".3f"), ("errors", "N", ""))]
    known = list(dict.fromkeys(p["rung"] for p in points))
    colours = alt.Color(
        "rung:N", sort=known, legend=alt.Legend(title="Rung", symbolType="circle"), scale=alt.Scale(domain=known, range=[palette.rung(n).colour for n in known])
    )
    shapes = alt.Shape(
        "worth:N",
        legend=alt.Legend(title="Worth"),
        scale=alt.Scale(domain=["guarantee", "no guarantee", "contradicted", "vacuous"], range=["circle", "stroke", "cross", "triangle-right"]),
    )
    chart = alt.layer(
        band.mark_bar(height=30, opacity=0.25, color="grey").encode(x=alt.X("from:Q", scale=alt.Scale(**x), axis=axis), x2="high:Q"),
        band.mark_tick(height=30, thickness=2, color="currentColor").encode(x=alt.X("at:Q"), tooltip=tips),
        alt.Chart(alt.InlineData(points))
        .mark_point(size=70, strokeWidth=2)
        .encode(
            x=alt.X("value:Q"),
            y=rows,
            yOffset=alt.YOffset("rung:N", sort=known),
            color=colours,
            shape=shapes,
            tooltip=[alt.Tooltip(f"{key}:N") for key in ("unit", "rung", "at most", "worth", "assumes", "what")],
        ),
    )
    plain = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12}
    lines = {"domainColor": "grey", "tickColor": "grey", "gridColor": "grey", "gridOpacity": 0.25}
    chart = chart.properties(width="container", height=alt.Step(64)).configure_view(stroke=None).configure_axis(**plain, **lines)
    return chart.configure_legend(**plain, orient="bottom").configure(background="transparent", font="system-ui, sans-serif").to_dict()
