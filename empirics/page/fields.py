"""Values of a run's files, each shown with the place it stands in and the format it is shown in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from empirics.reports.rounding import rounded_down, rounded_up

# Below this a value is told from its logarithm, whose precision does not end with that of the value.
_TINY = 1e-300


@dataclass(frozen=True)
class Value:
    """A value of a file, as a page shows it.

    Attributes
    ----------
    text : str
        What is shown.
    field : str
        Where it stands: a file's name, ``#``, and a JSON pointer (RFC 6901). In a table the first step is the row.
    format : str
        Key of `FORMATS`, which makes the text of the value.
    """

    text: str
    field: str
    format: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Field:
    """A value inside a document, which knows its place; steps into it as the value itself would.

    Parameters
    ----------
    value : JSON value
    place : str
        A file's name, ``#``, and a JSON pointer.
    """

    value: Any
    place: str

    def __getitem__(self, step: str | int) -> Field:
        return Field(self.value[step], f"{self.place}/{str(step).replace('~', '~0').replace('/', '~1')}")

    def __iter__(self) -> Iterator[Field]:
        """The entries of a list, or the values of a mapping."""
        return (self[step] for step in (self.value if isinstance(self.value, Mapping) else range(len(self.value))))

    def items(self) -> Iterator[tuple[str, Field]]:
        """The entries of a mapping."""
        return ((step, self[step]) for step in self.value)

    def shown(self, format: str) -> Value:
        """The value in one of `FORMATS`."""
        return Value(FORMATS[format](self.value), self.place, format)


def document(content: Any, name: str) -> Field:
    """The root of a file's content: a mapping, or a list of the rows of a table."""
    return Field(content, f"{name}#")


def resolve(documents: Mapping[str, Any], place: str) -> Any:
    """The value that stands at a place.

    Parameters
    ----------
    documents : mapping from file name to content
    place : str
        As `Value.field`.

    Raises
    ------
    KeyError, IndexError
        If there is none.
    """
    name, _, pointer = place.partition("#")
    found = documents[name]
    for step in pointer.split("/")[1:]:
        found = found[int(step)] if isinstance(found, Sequence) else found[step.replace("~1", "/").replace("~0", "~")]
    return found


def _bound(rung: Mapping[str, Any]) -> str:
    """The value of a rung, rounded to its safe side."""
    rounded = rounded_up if rung["direction"] == "upper" else rounded_down
    if rung["value"] >= _TINY or rung["direction"] == "lower":
        return rounded(rung["value"])
    # log10 is rounded up by more than it errs, so that the power of ten is an upper bound too.
    return f"1e{math.ceil(rung['log_value'] / math.log(10) + 1e-9)}"


def _bytes(value: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value} bytes"


def _optional(show: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "–" if value is None else show(value)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# Every format of a page by its name: the value as it stands in the file, to text.
FORMATS: Mapping[str, Callable[[Any], str]] = {
    "text": _optional(str),
    "length": lambda value: f"{len(value)}",
    "list": lambda value: ", ".join(map(str, value)),
    "setting": _json,
    "count": lambda value: f"{value:,}",
    "rate": _optional(lambda value: f"{value:.3f}"),
    "difference": _optional(lambda value: f"{value:+.3f}"),
    "bound": _bound,
    "floor": rounded_down,
    "number": _optional(lambda value: f"{value:.3g}"),
    "share": _optional(lambda value: f"{100 * value:.3g}%" if value < 0.99 else f"{100 * value:.6g}%"),
    "orders": lambda value: "" if value is None or math.isnan(value) or value == 0 else f"{value:+.2f}",
    "size": _optional(lambda value: f"{value:.2f}"),
    "p": _optional(lambda value: f"{value:.2g}"),
    "count per second": lambda value: f"{value:.0f}",
    "seconds": lambda value: f"{value:.1f} s",
    "total seconds": lambda value: f"{sum(value.values()):.0f} s",
    "angle": lambda value: f"{value:.1f}°",
    "bytes": _optional(_bytes),
    "complement": lambda value: f"{100 * (1 - value):.4g}%",
}
