"""How every figure looks, and the bytes that it becomes: the same for the same data."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import rc_context
from matplotlib.figure import Figure

# Inches: one column of a page in two columns.
WIDTH = 3.3
SUFFIXES = (".pdf", ".svg", ".png")

# The font comes with matplotlib, so that no machine lacks it and all draw alike.
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 7,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "legend.handlelength": 1.6,
    "legend.labelspacing": 0.3,
    "legend.borderaxespad": 0.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    # Ids in an SVG file are random without it.
    "svg.hashsalt": "proteus-bounds",
    "path.simplify": False,
}
# What would tell when, or by which version, a file was made.
_METADATA = {
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the figures; nothing of it stays."""
    with rc_context(STYLE), warnings.catch_warnings():
        # A task may be named in a script that the font lacks; the figure is drawn all the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def figure_bytes(figure: Figure, suffix: str) -> bytes:
    """A figure as the contents of a file.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    suffix : {".pdf", ".svg", ".png"}
    """
    file = io.BytesIO()
    figure.savefig(file, format=suffix.removeprefix("."), metadata=_METADATA[suffix])
    return file.getvalue()
