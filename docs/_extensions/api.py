"""The Python API: a page for each module, made from its docstrings, and tables of modules."""

from __future__ import annotations

import fnmatch
import re
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

PACKAGES = ("theory", "empirics")
# The commands have a page of their own.
_ELSEWHERE = "empirics.cli"
_PAGE = "# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"


def modules(package: str) -> list[str]:
    """Full names of a package's modules, itself first; those that only run something are left out."""
    found = [module.name for module in walk_packages(import_module(package).__path__, f"{package}.")]
    return [package, *sorted(name for name in found if not f"{name}.".startswith(f"{_ELSEWHERE}.") and not name.endswith(".__main__"))]


def table(*patterns: str) -> str:
    """Modules, named or by a pattern such as ``empirics.page*``, with the first paragraph of what each says of itself."""
    found = [name for pattern in patterns for name in fnmatch.filter(modules(pattern.partition(".")[0]), pattern)]
    return "\n".join(f"{{py:mod}}`{name}`\n: {_summary(name)}\n" for name in found)


def exports(package: str) -> str:
    """What a package exports, with the first sentence of what each name says of itself."""
    module = import_module(package)
    rows = []
    for name in module.__all__:
        text = getdoc(getattr(module, name)) if callable(getattr(module, name)) else None
        rows.append(f"| {{py:obj}}`{package}.{name}` | {_first_sentence(text or 'a constant').replace('|', chr(92) + '|')} |")
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows])


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^.]\.)\s", " ".join(text.partition("\n\n")[0].split()))[0].replace("``", "`")


def others(package: str) -> str:
    """The modules of a package that no table on its page names, so that none is missing however new; a note if there are none."""
    page = (Path(__file__).parents[1] / "reference" / f"{package}.md").read_text("utf-8")
    named = [word for line in re.findall(r"api:table (.*)", page) for word in line.strip("` }").split()]
    left = [name for name in modules(package) if not any(fnmatch.fnmatchcase(name, pattern) for pattern in named)]
    return table(*left) if left else "None: every module stands in a table above."


def _summary(name: str) -> str:
    return " ".join((getdoc(import_module(name)) or "").partition("\n\n")[0].split())


def write_pages(app: Sphinx) -> None:
    """Write the source of every module's page, and remove those of modules that are gone."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(exist_ok=True)
    pages = {folder / f"{name}.md": _PAGE.format(name=name) for package in PACKAGES for name in modules(package)}
    for path in set(folder.glob("*.md")) - pages.keys():
        path.unlink()
    for path, text in pages.items():
        path.write_text(text, "utf-8")


def foreign(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Skip what other packages wrote: imported names, and methods that scikit-learn adds to its estimators."""
    home = getattr(member, "__module__", None)
    return True if isinstance(home, str) and home.partition(".")[0] not in PACKAGES else None


def setup(app: Sphinx) -> ExtensionMetadata:
    """Write the pages before sources are looked for."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", foreign)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
