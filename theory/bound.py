"""What a bound is: one frozen value that carries its assumptions and cannot lie about being vacuous (theory/README.md, Setting)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np


class Assumption(StrEnum):
    """Assumption levels, from the weakest to the strongest; see `statement` for each."""

    A0 = "A0"
    A1 = "A1"
    A2 = "A2"
    A3 = "A3"
    A4 = "A4"

    @property
    def statement(self) -> str:
        """What the level assumes of a query, in one sentence."""
        return _STATEMENTS[self]


_STATEMENTS = {
    Assumption.A0: "held-out samples are independent draws from the law of a query",
    Assumption.A1: "margins have the stated finite mean and variance",
    Assumption.A2: "the embeddings u and v_i are Gaussian given the query component, their dependence unknown",
    Assumption.A3: "u and v_i are jointly Gaussian given the query component",
    Assumption.A4: "all tasks share one embedding, Gaussian given the query component",
}


class Direction(StrEnum):
    """The side on which the true probability lies."""

    UPPER = "upper"
    LOWER = "lower"


# The log of an upper bound on an event that cannot happen: finite, so that it survives JSON, and still a bound.
LOG_IMPOSSIBLE = -float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Bound:
    """A bound on a probability, with everything needed to judge it.

    `log_formula` is what the formula gave, which may exceed 0 (a union over many pairs easily does). What may be
    quoted is `log_value` and `value`, which never exceed one, and `vacuous`, which is derived from the value and cannot
    be set: a bound of one that reads as a guarantee, and a NaN, cannot be constructed.

    Parameters
    ----------
    name : str
        Name of the rung, such as ``"L3"``.
    level : Assumption
        The assumption under which the statement is proved.
    log_formula : float
        Natural logarithm of the formula's value. ``-inf`` (an impossible event) is stored as `LOG_IMPOSSIBLE`
        for an upper bound, and makes a lower bound vacuous.
    direction : Direction
        Whether the true probability is at most (upper) or at least (lower) the value.
    source : str
        The statement that proves it.
    given : str
        What it assumes beyond its level, if anything.
    binding : tuple of int, optional
        ``(i, s)``: the wrong task and the index of its component among all components that contribute most.
    confidence : float, optional
        For a bound that holds with a probability over drawn data only, that probability; None if it is deterministic.
    log_lower : float, optional
        Natural logarithm of a proved lower side of the same probability, where there is one.
    estimate, log_estimate : float, optional
        A point estimate that goes with a statistical bound, and its natural logarithm where the estimate may underflow.
    note : str
        Why it is vacuous, or what is not proved.

    Raises
    ------
    ValueError
        If a number is NaN, a lower bound exceeds one, the sides cross, or the confidence is outside (0, 1).
    """

    name: str
    level: Assumption
    log_formula: float
    direction: Direction = Direction.UPPER
    source: str = ""
    given: str = ""
    binding: tuple[int, int] | None = None
    confidence: float | None = None
    log_lower: float | None = None
    estimate: float | None = None
    log_estimate: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.log_formula):
            raise ValueError(f"bound {self.name}: NaN is not a bound")
        if self.direction is Direction.LOWER and self.log_formula > 0:
            raise ValueError(f"bound {self.name}: a lower bound above one is false (log {self.log_formula})")
        if self.direction is Direction.UPPER and self.log_formula == -math.inf:
            object.__setattr__(self, "log_formula", LOG_IMPOSSIBLE)
        if self.log_lower is not None:
            if math.isnan(self.log_lower) or self.log_lower > self.log_value:
                raise ValueError(f"bound {self.name}: lower side {self.log_lower} is above the upper side {self.log_value}")
            if self.log_lower == -math.inf:
                object.__setattr__(self, "log_lower", None)
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"bound {self.name}: confidence {self.confidence} is not inside (0, 1)")
        if self.estimate is not None and not 0 <= self.estimate <= 1:
            raise ValueError(f"bound {self.name}: estimate {self.estimate} is not a probability")
        if self.log_estimate is not None and not -math.inf < self.log_estimate <= 0:
            raise ValueError(f"bound {self.name}: log estimate {self.log_estimate} is not that of a probability")

    @property
    def log_value(self) -> float:
        """Natural logarithm of the quotable value, at most 0."""
        return min(self.log_formula, 0.0)

    @property
    def value(self) -> float:
        """The quotable value in [0, 1], rounded in the direction of the bound.

        An upper bound on a possible event is never rounded to 0, however small, nor a lower bound to 1.
        """
        if self.log_formula >= 0:
            return 1.0
        value = math.exp(self.log_formula)
        if self.direction is Direction.UPPER:
            return min(1.0, math.nextafter(value, 2.0))
        return max(0.0, math.nextafter(value, -1.0))

    @property
    def vacuous(self) -> bool:
        """Whether the bound says nothing (at least one above, zero below)."""
        return self.value >= 1.0 if self.direction is Direction.UPPER else self.value <= 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, as they stand in ``report.json``."""
        out: dict[str, Any] = {
            "log_value": self.log_value,
            "value": self.value,
            "direction": self.direction.value,
            "level": self.level.value,
            "vacuous": self.vacuous,
            "binding": list(self.binding) if self.binding is not None else None,
            "confidence": self.confidence,
            "source": self.source,
            "given": self.given,
            "note": self.note,
        }
        if self.direction is Direction.LOWER and self.log_formula == -math.inf:
            out["log_value"] = LOG_IMPOSSIBLE
        if self.log_lower is not None:
            out["log_lower"] = self.log_lower
        if self.estimate is not None:
            out["estimate"] = self.estimate
        if self.log_estimate is not None:
            out["log_estimate"] = self.log_estimate
        return out


Rungs = Mapping[str, Bound]


def nothing_known(name: str, level: Assumption, note: str, source: str = "", given: str = "") -> Bound:
    """The vacuous upper bound, saying why nothing better is known.

    Parameters
    ----------
    name, level, source, given
        As for `Bound`.
    note : str
        Why no better statement is available.
    """
    return Bound(name=name, level=level, log_formula=0.0, source=source, given=given, note=note)
