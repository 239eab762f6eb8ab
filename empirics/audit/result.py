"""What an audit found: checks, each with what it compared and how, findings, and what could not be checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.errors import InputError

# How a check came to its numbers. "recomputed": from raw files, by other code than the run's. "reproduced": by the same draws, scored by
# other code. "compared": one file against another. "printed again" and "repeated": by the code that made them.
How = Literal["recomputed", "reproduced", "compared", "printed again", "repeated"]
# Findings of one kind that are told one by one.
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    where : str
        File, and row, column or field.
    problem : str
        What was expected, and what stands there.
    """

    where: str
    problem: str


@dataclass(frozen=True)
class Check:
    """One subject of an audit.

    Attributes
    ----------
    name : str
    what : str
        What was looked at, in a sentence.
    how : {"recomputed", "reproduced", "compared", "printed again", "repeated"}
    count : int
        Numbers or facts that were looked at.
    worst : float or None
        Largest deviation that was let pass, and the deviation that is not, in the units of the check.
    tolerance : float or None
    findings : tuple of Finding
    not_checked : tuple of str
        What could not be checked, and why; naming the option of the audit that looks at it, if one does.
    """

    name: str
    what: str
    how: How
    count: int = 0
    worst: float | None = None
    tolerance: float | None = None
    findings: tuple[Finding, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


@dataclass(frozen=True)
class Audit:
    """The result of an audit of one run.

    Attributes
    ----------
    folder : str
    checks : tuple of Check
    seconds : float
    """

    folder: str
    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return all(check.passed for check in self.checks)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of all checks."""
        return tuple(finding for check in self.checks for finding in check.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"folder": self.folder, "passed": self.passed, "seconds": round(self.seconds, 1), "checks": checks}


Where = str | Callable[[int], str]


@dataclass
class Tally:
    """Gathers what one check looks at.

    Parameters
    ----------
    name, what, how
        As of `Check`.
    tolerance : float, optional
        Greatest deviation that `near` lets pass, relative to numbers above one.
    """

    name: str
    what: str
    how: How
    tolerance: float | None = None
    count: int = 0
    worst: float | None = None
    findings: list[Finding] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)

    def near(self, where: Where, reported: ArrayLike, expected: ArrayLike, tolerance: float | None = None) -> None:
        """Numbers that must agree to the tolerance; NaN, None and infinities agree with themselves only."""
        a, b = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (reported, expected))
        if a.shape != b.shape:
            self.find(_at(where, 0), f"has the shape {a.shape}, where {b.shape} is expected")
            return
        limit = self.tolerance if tolerance is None else tolerance
        a, b = a.ravel(), b.ravel()
        with np.errstate(invalid="ignore"):
            off = np.abs(a - b) / np.maximum(1.0, np.abs(b))
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, off)
        bad = ~(off <= limit)
        self.count += a.size
        if (~bad).any():
            self.worst = max(self.worst or 0.0, float(off[~bad].max()))
        self._tell(where, np.flatnonzero(bad), lambda j: f"is {a[j]:.17g}, recomputed {b[j]:.17g}")

    def same(self, where: Where, reported: Any, expected: Any) -> None:
        """Values that must be equal; arrays entry by entry."""
        if not isinstance(expected, np.ndarray):
            self.count += 1
            if not equal(reported, expected):
                self.find(_at(where, 0), f"is {_short(reported)}, expected {_short(expected)}")
            return
        reported = np.asarray(reported)
        if reported.shape != expected.shape:
            self.find(_at(where, 0), f"has the shape {reported.shape}, where {expected.shape} is expected")
            return
        self.count += expected.size
        unequal = np.flatnonzero((reported != expected).ravel())
        self._tell(where, unequal, lambda j: f"is {_short(reported.ravel()[j])}, expected {_short(expected.ravel()[j])}")

    def true(self, where: Where, held: ArrayLike, problem: str | Callable[[int], str]) -> None:
        """Facts that must hold."""
        held = np.atleast_1d(np.asarray(held))
        self.count += held.size
        self._tell(where, np.flatnonzero(~held.ravel()), lambda j: problem(j) if callable(problem) else problem)

    def find(self, where: str, problem: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(where, problem))

    def skip(self, what: str) -> None:
        """Note what could not be checked, and why."""
        if what not in self.not_checked:
            self.not_checked.append(what)

    def _tell(self, where: Where, rows: Sequence[int] | np.ndarray, problem: Callable[[int], str]) -> None:
        for j in rows[:_SHOWN]:
            self.find(_at(where, int(j)), problem(int(j)))
        if len(rows) > _SHOWN:
            self.find(_at(where, int(rows[_SHOWN])), f"and {len(rows) - _SHOWN} more of the kind")

    def check(self) -> Check:
        """What was gathered."""
        return Check(
            self.name,
            self.what,
            self.how,
            self.count,
            self.worst,
            self.tolerance,
            tuple(dict.fromkeys(self.findings)),
            tuple(self.not_checked),
        )


def equal(a: Any, b: Any) -> bool:
    """Whether two values read from files are the same; NaN is."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)


def guarded(name: str, check: Callable[[], Check], advance: Callable[[str], None] | None) -> Check:
    """A check, or the finding that files do not fit one another well enough for it to be made; `advance` is told its name before."""
    if advance is not None:
        advance(name)
    try:
        return check()
    except InputError as error:
        problem = Finding(error.argument, error.problem)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What the files of a sound folder never raise; linear algebra's own error is a ValueError.
        problem = Finding(
            name,
            f"cannot be recomputed, for the files do not fit one another ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
        )
    return Check(name, "not finished", "compared", findings=(problem,))


def less(check: Check, settled: Sequence[str]) -> Check:
    """A check less what it left to options that were given: what it could not look at names the option that does."""
    return replace(check, not_checked=tuple(what for what in check.not_checked if not any(option in what for option in settled)))


def _at(where: Where, j: int) -> str:
    return where(j) if callable(where) else where


def _short(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
