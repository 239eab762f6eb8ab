"""A page as one HTML file: template, style and scripts inside, nothing asked for from outside."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from functools import partial
from importlib import resources
from typing import Any

from empirics.page.fields import Value
from empirics.page.model import Download, Figure, Listing, Page, Paragraph, Table, plain
from theory.errors import InputError


def need_report_extra() -> None:
    """Refuse to make a page without the packages of the extra `report`.

    Raises
    ------
    InputError
        Naming the missing package and the extra.
    """
    for name in ("altair", "jinja2", "matplotlib", "vl_convert"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                "the page", f"needs what the extra `report` installs: pip install 'proteus-bounds[report]' ({name} is missing)"
            )


def html(page: Page) -> bytes:
    """Write a page.

    Returns
    -------
    bytes
        The same for the same page: no date of its making, no random name. A content security policy in it lets a browser run the
        scripts that stand in it, by their digest, and load nothing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("empirics", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests |= {kind.__name__.lower(): partial(_is, kind) for kind in (Paragraph, Table, Figure, Listing, Download, Value)}
    environment.filters |= {"base64": lambda content: base64.b64encode(content).decode(), "plain": plain}
    figures = [block for section in page.sections for block in section.blocks if isinstance(block, Figure)]
    charts = {figure.name: figure.chart for figure in figures if figure.chart is not None}
    vega = _vega() if charts else ""
    scripts = [_file("page.js"), *([_file("charts.js")] if charts else [])]
    text = environment.get_template("page.html.j2").render(
        page=page,
        policy=_policy([*scripts, vega]),
        vega=_trusted(vega),
        style=_trusted(_file("page.css")),
        scripts=[_trusted(script) for script in scripts],
        drawings={figure.name: _trusted(figure.svg) for figure in figures},
        charts=charts,
    )
    return text.encode()


def _is(kind: type, thing: object) -> bool:
    return isinstance(thing, kind)


def _file(name: str) -> str:
    return resources.files("empirics").joinpath("templates", name).read_text("utf-8")


def _vega() -> str:
    """The scripts of Vega, Vega-Lite and vega-embed, as the package vl-convert ships them."""
    import vl_convert
    from altair.utils._importers import vl_version_for_vl_convert

    return vl_convert.javascript_bundle(vl_version=vl_version_for_vl_convert())


def _policy(scripts: list[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _trusted(text: str) -> Any:
    """What this package made or ships itself, and what must not be escaped: never a name or a number of a run."""
    from markupsafe import Markup

    return Markup(text)
