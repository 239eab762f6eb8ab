"""What names something of ours becomes a link to it, and a name of ours that does not exist is an error.

In pages and docstrings alike: code such as `theory.ladder.ladder`, `proteus-bounds compare` and `stream.split`, and citations of the page
of theorems by the key of a heading ("theory/README.md, L5b").
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_parser.slugs import github_slugify
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

from empirics.config import CertifyConfig, RunConfig

_OBJECT = re.compile(r"(?:theory|empirics)(?:\.[A-Za-z]\w*)+")
_GROUPS = "|".join({**RunConfig.model_fields, **CertifyConfig.model_fields})
# Not the names of files, such as bounds.parquet.
_SETTING = re.compile(rf"((?:{_GROUPS})\.(?!parquet)[a-z]\w*)(?:=\S+)?")
_COMMAND = re.compile(r"proteus-bounds((?: (?:data|plan))? [a-z-]+)\b.*")
_THEOREMS = Path(__file__).parents[2] / "theory" / "README.md"
_THEOREMS_PAGE = "explanation/theorems"


def theorem_keys(text: str) -> dict[str, str]:
    """The keys by which docstrings cite the page of theorems, and the headings that bear them."""
    keys: dict[str, str] = {}
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M):
        key = heading.split(":")[0].split(". ")[-1]
        keys |= {part: heading for part in (key, *re.split(", | and ", key))}
    return keys


_KEYS = theorem_keys(_THEOREMS.read_text("utf-8"))
# Longest first, so that no key cuts another short; words may stand on two lines.
_WORDS = [r"\s+".join(map(re.escape, key.split())) for key in sorted(_KEYS, key=len, reverse=True)]
_CITATION = re.compile(rf"theory/README\.md(?:, ({'|'.join(_WORDS)}))?")


def _target(text: str) -> tuple[str, str, str] | None:
    """Domain, kind and name of what a piece of code stands for; None if it is code only."""
    if _OBJECT.fullmatch(text):
        return "py", "obj", text
    if found := _SETTING.fullmatch(text):
        return "std", "setting", found[1]
    if found := _COMMAND.fullmatch(text):
        return "std", "command", "command-" + "-".join(found[1].split())
    return None


def link_code(app: Sphinx, document: nodes.document) -> None:
    """Wrap such code in references."""
    for node in list(document.findall(nodes.literal)):
        if isinstance(node.parent, nodes.reference | pending_xref | nodes.title) or (found := _target(node.astext())) is None:
            continue
        domain, kind, name = found
        attributes = {
            "refdomain": domain,
            "reftype": kind,
            "reftarget": name,
            "refdoc": app.env.docname,
            "refwarn": True,
            "refexplicit": True,
        }
        reference = pending_xref("", **attributes)
        reference.source, reference.line = node.source, node.line
        node.replace_self(reference)
        reference += node
    _link_citations(document, app.env.docname)


def _link_citations(document: nodes.document, page: str) -> None:
    for node in list(document.findall(nodes.Text)):
        text, parts, end = node.astext(), [], 0
        if isinstance(node.parent, nodes.literal | nodes.literal_block | nodes.reference) or page == _THEOREMS_PAGE:
            continue
        for found in _CITATION.finditer(text):
            key = " ".join((found[1] or "").split())
            parts += [nodes.Text(text[end : found.start()]), pending_xref("", nodes.inline("", found[0]), reftype="theorem", reftarget=key)]
            parts[-1]["refdoc"], end = page, found.end()
        if parts:
            node.parent.replace(node, [*parts, nodes.Text(text[end:])])


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Node | None:
    """Find theorems, commands, and names that stand elsewhere: `theory.Bound` is written in `theory.bound`, a constant in its module."""
    if node["reftype"] == "theorem":
        heading = _KEYS.get(node["reftarget"])
        anchor = github_slugify(heading) if heading else ""
        return make_refnode(app.builder, node["refdoc"], _THEOREMS_PAGE, anchor, content)
    if node["reftype"] == "command":
        page, anchor = env.domains.standard_domain.anonlabels.get(node["reftarget"], ("", ""))
        return make_refnode(app.builder, node["refdoc"], page, anchor, content) if page else None
    if node.get("refdomain") != "py" or not _OBJECT.fullmatch(name := node["reftarget"]):
        return None
    domain: Any = env.get_domain("py")
    for place in _places(name):
        if found := domain.resolve_xref(env, node["refdoc"], app.builder, "obj", place, node, content):
            return found
    return None


def _places(name: str) -> list[str]:
    """Where to look for a name that can be imported, best first; nowhere for one that cannot."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        module = ".".join(parts[:size])
        try:
            found = import_module(module)
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part):
                return []
            found = getattr(found, part)
        home = getattr(found, "__module__", None) or module
        return [f"{home}.{found.__qualname__}", home] if hasattr(found, "__qualname__") else [module]
    return []


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the transform."""
    app.connect("doctree-read", link_code)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
