"""The figures that there are, from their scripts."""

from __future__ import annotations

from paper_figures.__main__ import NAMES, figure_of


def table() -> str:
    """Each script, what it reads, what it shows, and its options with their defaults."""
    rows = ["| script | reads | shows | options |", "| --- | --- | --- | --- |"]
    for name in NAMES:
        figure = figure_of(name)
        options = ", ".join(f"`--{option.replace('_', '-')}`" for option in figure.options)
        rows.append(f"| `{name}` | {figure.source or 'nothing'} | {figure.about} | {options} |")
    return "\n".join(rows)
