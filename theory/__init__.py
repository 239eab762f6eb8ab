"""Bounds on the retrieval error of Gaussian-mixture signatures.

Needs means and covariances, and knows nothing of models or training::

    from theory import ladder, read_signatures

    bounds = ladder(read_signatures("signatures.safetensors"))
    print(bounds.frame())
"""

from theory.bound import Assumption, Bound, Direction
from theory.certificates import Certificates, Measured, certificate, clopper_pearson, misfit_floor, simultaneous_certificates
from theory.conformal import Reject, RetrievalSets, conformal_confidence, conformal_sets
from theory.errors import InputError
from theory.exact import TailProbability, tail_probability
from theory.files import read_queries, read_signatures
from theory.ladder import RUNGS, HeldOut, Ladder, ladder
from theory.margin import Margins, margins
from theory.mixture import Gaussians, QueryLaw, Rule, Signatures, well_specified
from theory.monitor import ErrorMonitor, betting_interval, bounded_mean_interval, confidence_sequence, empirical_bernstein, first_alarm
from theory.quadratic import QuadraticLaw
from theory.separation import Separation, separation

__all__ = [
    "RUNGS",
    "Assumption",
    "Bound",
    "Certificates",
    "Direction",
    "ErrorMonitor",
    "Gaussians",
    "HeldOut",
    "InputError",
    "Ladder",
    "Margins",
    "Measured",
    "QuadraticLaw",
    "QueryLaw",
    "Reject",
    "RetrievalSets",
    "Rule",
    "Separation",
    "Signatures",
    "TailProbability",
    "betting_interval",
    "bounded_mean_interval",
    "certificate",
    "clopper_pearson",
    "confidence_sequence",
    "conformal_confidence",
    "conformal_sets",
    "empirical_bernstein",
    "first_alarm",
    "ladder",
    "margins",
    "misfit_floor",
    "read_queries",
    "read_signatures",
    "separation",
    "simultaneous_certificates",
    "tail_probability",
    "well_specified",
]
