"""An audit on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.audit.result import Audit

# Findings of one check that are printed; all of them are in the JSON.
_SHOWN = 12


def print_audit(found: Audit, console: Console) -> None:
    """Print what was checked, what was found, and what could not be checked."""
    table = Table(title=f"Audit of {found.folder}", title_justify="left", pad_edge=False)
    for name, justify in (
        ("", "left"),
        ("found", "right"),
        ("looked at", "right"),
        ("how", "left"),
        ("largest deviation", "right"),
        ("what", "left"),
    ):
        table.add_column(name, justify=justify, no_wrap=name != "what")
    for check in found.checks:
        deviation = "" if check.worst is None else f"{check.worst:.1e} of {check.tolerance:.0e}"
        mark = Text("-", style="green") if check.passed else Text(str(len(check.findings)), style="bold red")
        table.add_row(Text(check.name), mark, f"{check.count:,}", check.how, deviation, Text(check.what))
    console.print(table)
    for check in found.checks:
        for finding in check.findings[:_SHOWN]:
            console.print(Text(f"! {check.name}: {finding.where}: {finding.problem}", style="bold red"))
        if len(check.findings) > _SHOWN:
            console.print(Text(f"! {check.name}: and {len(check.findings) - _SHOWN} more", style="bold red"))
    skipped = [item for check in found.checks for item in check.not_checked]
    if skipped:
        console.print(Text("Not checked:", style="bold"))
        for item in skipped:
            console.print(Text(f"- {item}"))
    looked = sum(check.count for check in found.checks)
    n = len(found.findings)
    verdict = "nothing is amiss" if found.passed else f"{n} finding{'s' if n > 1 else ''}"
    console.print(
        Text(f"{looked:,} numbers and facts looked at in {found.seconds:.0f} s: {verdict}.", style="bold" if found.passed else "bold red")
    )
