"""Bounds on the retrieval error of Gaussian-mixture signatures.

Needs means and covariances, and knows nothing of models or training::

    from theory import ladder, read_signatures

    bounds = ladder(read_signatures("signatures.safetensors"))
    print(bounds.frame())
"""

from theory.balls import chi_square_ball, kl_ball, renyi_ball
from theory.batch import batch_bound, task_exponents
from theory.bound import Assumption, Bound, Direction
from theory.certificates import Certificates, Measured, certificate, clopper_pearson, misfit_floor, simultaneous_certificates
from theory.confidence import Confident, DivergenceRadius, confident, confident_ladder, divergence_radius
from theory.conformal import Reject, RetrievalSets, conformal_confidence, conformal_sets
from theory.errors import InputError
from theory.exact import TailProbability, lugannani_rice, tail_probability
from theory.files import read_queries, read_signatures
from theory.finite import PlugInBound, PlugInErrors, exceedance, plug_in_bound, plug_in_errors, plug_in_favour
from theory.gaussians import Gaussians
from theory.ladder import RUNGS, Ball, HeldOut, Ladder, ladder
from theory.lowrank import LowRankGaussians, LowRankSignatures
from theory.margin import Margins, margins
from theory.mixture import QueryLaw, Rule, well_specified
from theory.monitor import ErrorMonitor, betting_interval, bounded_mean_interval, confidence_sequence, empirical_bernstein, first_alarm
from theory.planner import Plan, batch_for, batch_for_signatures, plan_frame, samples_per_cluster, separation_for, tasks_for
from theory.product import ProductGaussians, ProductSignatures
from theory.pruning import Pruning, parameter_needed, queries_needed
from theory.pruning_law import PruningLaw
from theory.quadratic import QuadraticLaw
from theory.robust import Student
from theory.separation import Separation, separation
from theory.signatures import Signatures
from theory.slack import slack
from theory.tied import tied_error

__all__ = [
    "RUNGS",
    "Assumption",
    "Ball",
    "Bound",
    "Certificates",
    "Confident",
    "Direction",
    "DivergenceRadius",
    "ErrorMonitor",
    "Gaussians",
    "HeldOut",
    "InputError",
    "Ladder",
    "LowRankGaussians",
    "LowRankSignatures",
    "Margins",
    "Measured",
    "Plan",
    "PlugInBound",
    "PlugInErrors",
    "ProductGaussians",
    "ProductSignatures",
    "Pruning",
    "PruningLaw",
    "QuadraticLaw",
    "QueryLaw",
    "Reject",
    "RetrievalSets",
    "Rule",
    "Separation",
    "Signatures",
    "Student",
    "TailProbability",
    "batch_bound",
    "batch_for",
    "batch_for_signatures",
    "betting_interval",
    "bounded_mean_interval",
    "certificate",
    "chi_square_ball",
    "clopper_pearson",
    "confidence_sequence",
    "confident",
    "confident_ladder",
    "conformal_confidence",
    "conformal_sets",
    "divergence_radius",
    "empirical_bernstein",
    "exceedance",
    "first_alarm",
    "kl_ball",
    "ladder",
    "lugannani_rice",
    "margins",
    "misfit_floor",
    "parameter_needed",
    "plan_frame",
    "plug_in_bound",
    "plug_in_errors",
    "plug_in_favour",
    "queries_needed",
    "read_queries",
    "read_signatures",
    "renyi_ball",
    "samples_per_cluster",
    "separation",
    "separation_for",
    "simultaneous_certificates",
    "slack",
    "tail_probability",
    "task_exponents",
    "tasks_for",
    "tied_error",
    "well_specified",
]
