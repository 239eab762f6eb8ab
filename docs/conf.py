"""How the documentation is built: `make docs`."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

project = "proteus-bounds"
author = "the proteus-bounds developers"
release = metadata.version("proteus-bounds")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "api",
    "generated",
    "links",
    "mathml",
    "models",
]
exclude_patterns = ["_build"]
nitpicky = True
# Single backticks in docstrings: a name of ours, which must exist, or code.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", r"(?!(theory|empirics)\.).*")]

# An option's two dashes must stay two.
smartquotes = False

myst_enable_extensions = ["deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True, "exclude-members": "model_config"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"
copybutton_remove_prompts = True
