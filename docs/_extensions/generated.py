"""Pages that are made from the code each time the documentation is built.

The directive ``generated`` takes a function, ``module:name``, with its arguments, and reads what it returns as Markdown.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata


class Generated(SphinxDirective):
    """What a function of these extensions says, as a part of the page."""

    required_arguments = 1
    optional_arguments = 99

    def run(self) -> list[nodes.Node]:
        """Call the function."""
        where, *arguments = self.arguments
        module, _, name = where.partition(":")
        return self.parse_text_to_nodes(getattr(import_module(module), name)(*arguments), allow_section_headings=True)


def without_outer_links(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Leave the words of links that lead out of the site, to files that no page shows."""
    content[0] = re.sub(r"\[([^\]]*)\]\(\.\./tests/?[^)]*\)", r"\1", content[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("generated", Generated)
    app.connect("include-read", without_outer_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
