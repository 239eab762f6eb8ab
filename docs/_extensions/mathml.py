"""Formulas as MathML, which browsers set by themselves: no script and no network is needed to read them."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
_FUNCTION = r"<mi>(?:arg|cos|det|dim|exp|log|ln|sin)</mi>"
_SPACE = '<mspace width="0.167em"/>'
# What TeX does and the library leaves to the browser, which does otherwise.
_AS_IN_TEX = (
    # No space around a slash.
    (r"<mo>&#x0002F;</mo>", '<mo lspace="0" rspace="0">/</mo>'),
    # A minus after another operator or an opening bracket is a sign.
    (r"(<mo(?: [^>]*)?>(?!&#x00029;|\)|&#x0005D;|\]|&#x0007D;)[^<]*</mo>)<mo>&#x02212;</mo>", r'\1<mo form="prefix">&#x02212;</mo>'),
    # Capital Greek stands upright.
    (r"<mi>(&#x0039[1-9A-F];|&#x003A[0-9];)</mi>", r'<mi mathvariant="normal">\1</mi>'),
    (r"<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>"),
    (r'<mo movablelimits="true">det</mo>', "<mi>det</mi>"),
    # A thin space around the name of a function, but for one before a bracket.
    (rf"({_FUNCTION})(?=<m(?!o))", rf"\1{_SPACE}"),
    (rf"(</m(?:i|n|sub|sup|subsup|frac|row|style)>)(?={_FUNCTION})", rf"\1{_SPACE}"),
)


def mathml(formula: str, *, display: bool = False) -> str:
    """MathML of a formula in LaTeX.

    Raises
    ------
    ValueError
        For what cannot be set, such as an unknown command.
    """
    try:
        found = convert(formula, display="block" if display else "inline")
    except Exception as error:
        raise ValueError(f"cannot be set ({type(error).__name__}: {error})") from None
    if unknown := re.search(r"\\\w+", found):
        raise ValueError(f"has the unknown command {unknown[0]}")
    for pattern, replacement in _AS_IN_TEX:
        found = re.sub(pattern, replacement, found)
    return found


def _visit(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    display = isinstance(node, nodes.math_block)
    try:
        found = mathml(node.astext(), display=display)
    except ValueError as error:
        logger.warning("formula %r %s", node.astext(), error, location=node)
        found = ""
    self.body.append(f'<div class="math">{found}</div>\n' if display else found)
    raise nodes.SkipNode


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(_visit, None), block_renderers=(_visit, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
