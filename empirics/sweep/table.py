"""One table of a sweep: a row for each cell and arm or method, and one for each cell that is not there, with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.files.record import write_bytes, write_json, write_parquet
from empirics.sweep.store import Place, failure, read_cell, state

# As much of a key as a reader needs.
SHORT = 12
_NUMBERS = (int, float)
LEGEND = (
    "error: task wrong, one document at a time; accuracy: class right without being told the task; both with Clopper-Pearson intervals of "
    "the one cell, whose documents are its own. predicted: error under the mixture law of queries (L6), [x] where test documents reject "
    "that; bounds below 1: rungs that say something of the pooled error, in brackets if they are no guarantee. To choose a setting by this "
    "table is to choose on test documents: measure the choice on others."
)


def frame(found: Sequence[Place]) -> pd.DataFrame:
    """The table of some cells.

    Returns
    -------
    DataFrame
        `cell` (the start of its key), a column for each setting that the grid changes, `state`, then what
        `empirics.sweep.rows` says; `seconds` that the cell would have taken alone; `reason` of a cell that failed.

    Raises
    ------
    InputError
        If the record of a cell is damaged.
    """
    paths = list(dict.fromkeys(path for place in found for path in place.cell.changes))
    rows: list[dict[str, Any]] = []
    for place in found:
        own = {"cell": place.key[:SHORT], **{path: place.cell.changes.get(path) for path in paths}, "kind": place.cell.kind}
        now = state(place.folder)
        if now == "done":
            record = read_cell(place)
            rows += [own | {"state": now, "seconds": record["seconds"], "reason": ""} | row for row in record["rows"]]
        else:
            rows.append(own | {"state": now, "reason": failure(place.folder)})
    table = pd.DataFrame(rows)
    for path in paths:
        table[path] = _column([row[path] for row in rows])
    last = ["seconds", "reason"]
    return table[[c for c in table if c not in last] + [c for c in last if c in table]]


def _column(values: Sequence[Any]) -> list[Any]:
    """Numbers as they are, if there is nothing else; else texts, for a column holds one kind."""
    if all(isinstance(value, _NUMBERS) and not isinstance(value, bool) for value in values):
        return list(values)
    return [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]


def write_table(found: Sequence[Place], store: Path, name: str) -> pd.DataFrame:
    """Make `NAME.parquet`, `NAME.csv` and `NAME.cells.json`, which says what the cells are, in the folder of a sweep."""
    table = frame(found)
    write_parquet(store / f"{name}.parquet", table)
    write_bytes(store / f"{name}.csv", table.to_csv(index=False).encode())
    write_cells(found, store, name)
    return table


def write_cells(found: Sequence[Place], store: Path, name: str) -> None:
    """Note which cells a sweep of that name has, and under which keys."""
    cells = [{"key": place.key, "changes": dict(place.cell.changes), "settings": place.about["config"]} for place in found]
    write_json(store / f"{name}.cells.json", {"cells": cells})


def table_rows(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The finished cells as text, a row for each arm or method."""
    settings = list(table.columns[1 : table.columns.get_loc("kind")])
    done = table[table["state"] == "done"]
    header = [*settings, "method", "error", "interval", "accuracy", "interval"]
    bounds = "predicted" in table and bool(done["predicted"].notna().any())
    header += ["predicted", "law", "bounds below 1"] if bounds else []
    body, before = [], None
    for row in done.to_dict("records"):
        own = ["" if row["cell"] == before else str(row[path]) for path in settings]
        before = row["cell"]
        own += [str(row["method"]), f"{row['retrieval_error']:.3f}", f"{row['low']:.3f}-{row['high']:.3f}"]
        own += [f"{row['accuracy']:.3f}", f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}"]
        body.append(own + (_bounds(row) if bounds else []))
    return header, body


def _bounds(row: Mapping[str, Any]) -> list[str]:
    if not isinstance(row["law"], str):
        return ["-", "-", "-"]
    kept = row["guarantees"].split(", ")
    names = [name if name in kept else f"({name})" for name in row["below_one"].split(", ") if name]
    predicted = "-" if pd.isna(row["predicted"]) else f"{row['predicted']:.3f}"
    return [predicted, "[x]" if row["law"] == "rejected" else "", " ".join(names) or "none"]


def print_table(table: pd.DataFrame, console: Console) -> None:
    """Print the finished cells, and then those that are not."""
    header, body = table_rows(table)
    if body:
        shown = Table(pad_edge=False)
        first = header.index("method")
        for j, name in enumerate(header):
            shown.add_column(Text(name), justify="left" if j <= first or name.startswith("bounds") else "right", overflow="fold")
        for j, row in enumerate(body):
            # Text, not markup: "[x]" must not be read as a style.
            shown.add_row(*map(Text, row), end_section=j + 1 < len(body) and any(body[j + 1][:first]))
        console.print(shown)
        console.print(Text(LEGEND))
    settings = list(table.columns[1 : table.columns.get_loc("kind")])
    for row in table[table["state"] != "done"].to_dict("records"):
        told = ", ".join(f"{path}={row[path]}" for path in settings)
        console.print(Text(f"{row['state']}: {row['cell']} ({told})" + (f": {row['reason']}" if row["reason"] else ""), style="bold"))
