"""Machine-checked proofs of all formulas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import sympy

from theory.symbolic import moment_proofs, rung_proofs
from theory.symbolic.formulas import formula, formulas, plain_text
from theory.symbolic.prover import Step

_PROOFS = moment_proofs.PROOFS | rung_proofs.PROOFS


@dataclass(frozen=True)
class Proof:
    """Machine-checked steps behind a formula.

    Attributes
    ----------
    name : str
        Of the formula.
    steps : tuple of Step
    given : str
        What the steps take for granted: general theorems that are cited, not checked.
    """

    name: str
    steps: tuple[Step, ...]
    given: str = ""

    @property
    def holds(self) -> bool:
        """Whether every step was confirmed."""
        return bool(self.steps) and all(step.holds for step in self.steps)

    def _repr_markdown_(self) -> str:
        """How a notebook shows it: what it takes for granted, then every step with what the machine confirmed."""
        lines = [f"**Proof of {self.name}**" + ("" if self.holds else " (does not hold)")]
        if self.given:
            lines.append(f"Taken for granted: {plain_text(self.given)}.")
        steps = [
            f"{number}. {plain_text(step.claim)}: ${sympy.latex(step.expression)}$ ({'confirmed' if step.holds else 'not confirmed'})"
            for number, step in enumerate(self.steps, start=1)
        ]
        return "\n\n".join([*lines, "\n".join(steps)])


@cache
def prove(name: str) -> Proof:
    """Prove a formula: every step is derived or verified by the machine when first asked.

    Raises
    ------
    InputError
        If there is no formula of this name.
    """
    steps, given = _PROOFS[formula(name).name]()
    return Proof(name, tuple(steps), given)


def proofs() -> tuple[Proof, ...]:
    """Proofs of all formulas, in the order of the ladder."""
    return tuple(prove(row.name) for row in formulas())
