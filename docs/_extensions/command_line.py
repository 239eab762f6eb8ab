"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any

import typer

from empirics.cli import app

PROGRAM = "proteus-bounds"
_KINDS = {"str": "TEXT", "int": "INTEGER", "float": "NUMBER", "path": "PATH"}


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Every command: the words that call it, the command and its context; groups before what they hold."""
    root = typer.main.get_command(app)
    yield from _below(PROGRAM, root, None)


def _below(words: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
    context = command.context_class(command, info_name=words.rpartition(" ")[2], parent=parent)
    yield words, command, context
    for name, child in getattr(command, "commands", {}).items():
        yield from _below(f"{words} {name}", child, context)


def reference() -> str:
    """A section for each command."""
    return "\n\n".join(_section(*found) for found in commands() if found[0] != PROGRAM)


def _section(words: str, command: Any, context: Any) -> str:
    inside = words.split()[1:]
    parts = [f"(command-{'-'.join(inside)})=", f"{'#' * (1 + len(inside))} {words}", cleandoc(command.help or "")]
    if not getattr(command, "commands", {}):
        parts.append(f"```text\n{words} {' '.join(command.collect_usage_pieces(context))}\n```")
        parts.append(f"```{{program}} {words}\n```")
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and record[0] != "--help":
                parts.append(_option(*record))
    return "\n\n".join(parts)


def _option(signature: str, meaning: str) -> str:
    # The library writes <path> and <list[str]>; what may be repeated says so in its help.
    signature = re.sub(r"<(?:list\[)?(\w+)\]?>", lambda kind: _KINDS.get(kind[1], kind[1].upper()), signature).replace(" / ", ", ")
    meaning, _, bracket = meaning.partition("[")
    extra = f" [{bracket}" if bracket else ""
    return f"```{{option}} {signature}\n{meaning.strip()}{extra}\n```"
