"""A plan: an answer, the bound that it was checked with, and the next cheaper answer with the bound that rules it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from theory.bound import Assumption, Bound
from theory.errors import InputError


@dataclass(frozen=True)
class Plan:
    """An answer, the bound that it rests on, and the next cheaper answer with the bound that rules it out.

    Parameters
    ----------
    question : str
        What was asked.
    answer : int or float, optional
        The least (for numbers of tasks the greatest) value at which `bound` meets the target; ``inf`` if it exceeds
        the largest float; None if there is none.
    bound : Bound
        At the answer; where there is none, the best value within reach, and `note` says where.
    target : float
        The error asked for.
    neighbour : int or float, optional
        The next cheaper answer, at which the same statement misses the target; None if nothing cheaper exists.
    neighbour_bound : Bound, optional
        The bound there.
    given : mapping
        The inputs.
    assumptions : str
        What the answer assumes, besides what the bound's level says.
    note : str
        Why there is no answer, or what else to know.

    Raises
    ------
    ValueError
        If the bound at an answer exceeds the target, or the bound at the neighbour does not: such a plan cannot be built.
    """

    question: str
    answer: int | float | None
    bound: Bound
    target: float
    neighbour: int | float | None = None
    neighbour_bound: Bound | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    assumptions: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        goal = log_goal(self.target)
        if (self.answer is not None) != (self.bound.log_value <= goal):
            raise ValueError(f"{self.question}: answer {self.answer} with bound {self.bound.value} and target {self.target}")
        if (self.neighbour is None) != (self.neighbour_bound is None):
            raise ValueError(f"{self.question}: a neighbour goes with its bound")
        if self.neighbour_bound is not None and self.neighbour_bound.log_value <= goal:
            raise ValueError(f"{self.question}: {self.neighbour} meets the target too")

    @property
    def rung(self) -> str:
        """Name of the rung relied on."""
        return self.bound.name

    @property
    def level(self) -> Assumption:
        """Assumption level of the rung."""
        return self.bound.level

    @property
    def value(self) -> float:
        """The bound at the answer, rounded up."""
        return self.bound.value

    @property
    def feasible(self) -> bool:
        """Whether there is an answer."""
        return self.answer is not None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; an infinite answer is given as None, `feasible` and a note."""
        other = self.neighbour_bound
        return {
            "question": self.question,
            "feasible": self.feasible,
            "answer": None if self.answer is None or math.isinf(self.answer) else self.answer,
            "rung": self.rung,
            "level": self.level.value,
            "target": self.target,
            "value": self.value,
            "log_value": self.bound.log_value,
            "neighbour": self.neighbour,
            "neighbour_value": None if other is None else other.value,
            "neighbour_log_value": None if other is None else other.log_value,
            "given": dict(self.given),
            "assumptions": f"{self.level.statement}; {self.assumptions}",
            "source": self.bound.source,
            "note": self.note,
        }


def check_target(argument: str, value: Any) -> None:
    """Refuse what is no probability inside (0, 1)."""
    if not isinstance(value, int | float | np.number) or not 0 < value < 1:
        raise InputError(argument, f"{value!r} is not inside (0, 1)")


def log_goal(eps: float) -> float:
    """``log eps``, rounded down, so that a logarithm below it is a value below eps."""
    log_eps = math.log(eps)
    return log_eps - 1e-15 * (1 + abs(log_eps))
