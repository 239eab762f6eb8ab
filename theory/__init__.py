"""Bounds on the retrieval error of Gaussian-mixture signatures.

Needs means and covariances, and knows nothing of models or training::

    from theory import ladder, read_signatures

    bounds = ladder(read_signatures("signatures.safetensors"))
    print(bounds.frame())
"""

from theory.bound import Assumption, Bound, Direction
from theory.certificates import Measured, certificate, clopper_pearson, conformal_sets, misfit_floor
from theory.errors import InputError
from theory.exact import TailProbability, tail_probability
from theory.files import read_queries, read_signatures
from theory.ladder import RUNGS, HeldOut, Ladder, ladder
from theory.margin import Margins, margins
from theory.mixture import Gaussians, QueryLaw, Rule, Signatures, well_specified
from theory.quadratic import QuadraticLaw
from theory.separation import Separation, separation

__all__ = [
    "RUNGS",
    "Assumption",
    "Bound",
    "Direction",
    "Gaussians",
    "HeldOut",
    "InputError",
    "Ladder",
    "Margins",
    "Measured",
    "QuadraticLaw",
    "QueryLaw",
    "Rule",
    "Separation",
    "Signatures",
    "TailProbability",
    "certificate",
    "clopper_pearson",
    "conformal_sets",
    "ladder",
    "margins",
    "misfit_floor",
    "read_queries",
    "read_signatures",
    "separation",
    "tail_probability",
    "well_specified",
]
