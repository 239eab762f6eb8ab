"""Every formula of the ladder as a SymPy expression, and machine-checked proofs of what it takes to derive it (theory/README.md, symbolic).

SymPy is needed by this package alone; nothing else in `theory` imports it. A proof here is a list of steps, each of
which the machine derived or verified when it was asked: an identity whose two sides' difference simplifies to zero, an
equation that it solved, a limit or an integral that it took, or an inequality in one variable that it proved by
derivatives of manifest sign. What a proof takes for granted (Markov's inequality, say) is stated with it in words::

    from theory.symbolic import formula, prove

    print(formula("L1").latex())
    assert prove("L1").holds

Lambdified formulas are plain float64, for reading, plotting and cross-checks; they are not rounded in the direction of
the bound. The ladder's own numbers are.
"""

from theory.symbolic.asymptotics import Asymptotic, asymptotics, required_delta
from theory.symbolic.formulas import Formula, formula, formulas, latex_table
from theory.symbolic.proofs import Proof, proofs, prove
from theory.symbolic.prover import Step

__all__ = [
    "Asymptotic",
    "Formula",
    "Proof",
    "Step",
    "asymptotics",
    "formula",
    "formulas",
    "latex_table",
    "proofs",
    "prove",
    "required_delta",
]
