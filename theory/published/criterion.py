"""The criterion itself: on the numbers that it looks at, and on every cluster of real signatures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from theory.errors import InputError, check_whole
from theory.exact import tail_probability
from theory.frames import data_frame
from theory.margin import margins
from theory.mixture import QueryLaw, Rule, well_specified
from theory.signatures import Signatures
from theory.unions import separation_bound, summed

if TYPE_CHECKING:
    import pandas as pd

# M^2 - 24 D kappa = (kappa - _LOW_ROOT D) (kappa - _HIGH_ROOT D) with D = d sigma2; 15 - 6 sqrt(6) without cancellation.
_HIGH_ROOT = 15 + 6 * math.sqrt(6)
_LOW_ROOT = 9 / _HIGH_ROOT
# Whole numbers beyond this are not floats.
LARGEST = 2**53


class Reading(StrEnum):
    """Which `second` is meant; `LADDER` is our own L1, whose own-cluster tail is T1, put to the same tests."""

    AS_CODED = "a"
    TAIL_INVERSION = "b"
    LADDER = "L1"

    @classmethod
    def _missing_(cls, value: object) -> Reading:
        raise InputError("reading", f'{value!r} is unknown; use "a", "b" or "L1"')


@dataclass(frozen=True)
class Inputs:
    """Everything that the criterion looks at for one cluster.

    Parameters
    ----------
    d : int
        Embedding dimension.
    tasks : int
        Number of tasks m, at least 2.
    components : int
        Components of all tasks together, ``sum_i tau_i``.
    kappa : float
        Least ``log(det Lam_is / det Lam_kt)`` over wrong components, in nats; of any sign.
    sigma2 : float
        Largest per-coordinate variance of any ``h_i`` on the cluster, in squared units of the embedding.
    eps : float
        Target error.
    delta : float
        Least separation over wrong components, ``E Q_is / d - 1``.
    variance : float, optional
        Largest ``Var Q_is`` over wrong components. The criterion does not use it; L1 cannot do without it.

    Raises
    ------
    InputError
        If a value is NaN, infinite, of the wrong sign or not a whole number where one is needed.
    """

    d: int
    tasks: int
    components: int
    kappa: float
    sigma2: float
    eps: float
    delta: float
    variance: float | None = None

    def __post_init__(self) -> None:
        check_whole("d", self.d, 1, "an embedding dimension", LARGEST)
        check_whole("tasks", self.tasks, 2, "retrieval needs at least two tasks", LARGEST)
        check_whole("components", self.components, int(self.tasks), "every task has at least one component", LARGEST)
        check_inside_unit("eps", self.eps)
        for name in ("kappa", "sigma2", "delta"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(name, f"{getattr(self, name)} is not a finite number; mend the moments that it came from")
        if self.sigma2 <= 0:
            raise InputError("sigma2", f"{self.sigma2} is not positive; a variance of zero means that the cluster is a point")
        if self.delta < -1:
            raise InputError("delta", f"{self.delta} is below -1, but E Q >= 0; pass E Q / d - 1")
        if not math.isfinite(float(3 * self.d * self.sigma2) + abs(self.kappa)):
            raise InputError("sigma2", f"{self.sigma2} overflows in 3 d sigma2 - kappa; express the embedding in larger units")
        if self.variance is not None and not (math.isfinite(self.variance) and self.variance >= 0):
            raise InputError("variance", f"{self.variance} is not a finite variance; needs at least 0, or None if unknown")

    @property
    def n_prime(self) -> int:
        """``N' = (m - 1) sum_i tau_i + 1``."""
        return (int(self.tasks) - 1) * int(self.components) + 1

    @property
    def log_ratio(self) -> float:
        """``t = log(N'/eps)``."""
        return math.log(self.n_prime) - math.log(self.eps)


@dataclass(frozen=True)
class Verdict:
    """What the criterion says of one cluster in both readings, and what L1 says of the same numbers.

    Attributes
    ----------
    n_prime : int
        ``N'``.
    log_ratio : float
        ``log(N'/eps)``.
    M : float
        ``3 d sigma2 - kappa``.
    first : float or None
        None where ``M^2 < 24 d sigma2 kappa``, that is for ``kappa / (d sigma2)`` between ``15 - 6 sqrt(6)`` (0.303) and
        ``15 + 6 sqrt(6)`` (29.7): the formula then has no real value, the criterion does not apply, and nothing passes. (As
        the larger root of ``2 x^2 - M x + 3 d sigma2 kappa`` it might mean that any delta would do; the restatement does not
        say so, and we do not guess a guarantee.)
    second_a, second_b : float
    required_a, required_b : float or None
        ``(2/d) max(first, second)``; delta must exceed it.
    passes_a, passes_b : bool
    required_l1 : float or None
        ``(2 sqrt(d t) + 2 t + sqrt(2 V t) - kappa) / d`` with ``t = log(N/eps)``, which delta must reach; ``N`` is taken as the
        number of components, its largest possible value. Well-specified own cluster (A2). None if V was not given.
    passes_l1 : bool
    note : str
        Why something is None.
    """

    n_prime: int
    log_ratio: float
    M: float
    first: float | None
    second_a: float
    second_b: float
    required_a: float | None
    required_b: float | None
    passes_a: bool
    passes_b: bool
    required_l1: float | None
    passes_l1: bool
    note: str = ""

    @property
    def applicable(self) -> bool:
        """Whether the criterion's formula has a real value."""
        return self.first is not None

    def passes(self, reading: Reading | str) -> bool:
        """Whether the cluster passes in one reading."""
        return {Reading.AS_CODED: self.passes_a, Reading.TAIL_INVERSION: self.passes_b, Reading.LADDER: self.passes_l1}[Reading(reading)]


def criterion(inputs: Inputs) -> Verdict:
    """Evaluate the published criterion in both readings, and L1's condition on the same numbers.

    Source of the formulas: theory/README.md, The published criterion; and theory/README.md, L1.
    """
    d, t = int(inputs.d), inputs.log_ratio
    value, real = first_term(d, np.array([inputs.kappa]), np.array([inputs.sigma2]))
    first = float(value[0]) if real[0] else None
    seconds = [float(second(d, t, reading)) for reading in (Reading.AS_CODED, Reading.TAIL_INVERSION)]
    required = [None if first is None else 2 / d * max(first, s) for s in seconds]
    passes = [r is not None and inputs.delta > r for r in required]
    notes = []
    if first is None:
        relative = inputs.kappa / (d * inputs.sigma2)
        notes.append(f"not applicable: the square root in `first` has no real value at kappa / (d sigma2) = {relative:.3g}")
    required_l1 = None
    if inputs.variance is None:
        notes.append("L1 needs the variance of the wrong scores")
    else:
        n = math.log(inputs.components) - math.log(inputs.eps)
        required_l1 = (2 * math.sqrt(d * n) + 2 * n + math.sqrt(2 * inputs.variance) * math.sqrt(n) - inputs.kappa) / d
    return Verdict(
        n_prime=inputs.n_prime,
        log_ratio=t,
        M=3 * d * inputs.sigma2 - inputs.kappa,
        first=first,
        second_a=seconds[0],
        second_b=seconds[1],
        required_a=required[0],
        required_b=required[1],
        passes_a=passes[0],
        passes_b=passes[1],
        required_l1=required_l1,
        passes_l1=required_l1 is not None and inputs.delta >= required_l1,
        note="; ".join(notes),
    )


def first_term(d: int, kappa: Float[np.ndarray, " n"], sigma2: Float[np.ndarray, " n"]) -> tuple[np.ndarray, Bool[np.ndarray, " n"]]:
    """The term `first`, and where it is real (its value is 0 elsewhere)."""
    D = d * sigma2
    low, high = kappa - _LOW_ROOT * D, kappa - _HIGH_ROOT * D
    real = (low <= 0) | (high >= 0)
    # Square roots before the product, which could overflow.
    root = np.where(real, np.sqrt(np.abs(low)) * np.sqrt(np.abs(high)), 0.0)
    M = 3 * D - kappa
    # (M + root) (M - root) = 24 D kappa: the quotient avoids the cancellation for M < 0, where kappa is at least 29 D.
    positive = M > 0
    quotient = 6 * kappa * (D / np.where(positive, 1.0, M - root))
    return np.where(real, np.where(positive, (M + root) / 4, quotient) - kappa, 0.0), real


def second(d: int, log_ratio: Float[np.ndarray, "..."] | float, reading: Reading | str) -> Float[np.ndarray, "..."]:
    """How far above d the own distance is allowed to be, at ``t = log(N'/eps) > 0``: the term `second`, or T1's.

    ``2 sqrt(d t) + 2 t`` for L1 (T1: Laurent and Massart 2000). (b) never exceeds it: the difference is
    ``4 t sqrt(d t) / (t + 2 sqrt(d t) + sqrt(t^2 + 4 d t))``, between 0 and ``min(t, 2 sqrt(d t))``, and (b) is at least 0.8 of
    it, attained at ``d = 4 t / 9`` (with ``r = sqrt(d/t)`` the quotient is ``(1 + sqrt(1 + 4 r^2)) / (2 + 2 r)``, least at r = 2/3).
    """
    t, reading = np.asarray(log_ratio, dtype=np.float64), Reading(reading)
    if reading is Reading.LADDER:
        return 2 * np.sqrt(d * t) + 2 * t
    if reading is Reading.TAIL_INVERSION:
        return t + np.sqrt(t) * np.sqrt(t + 4 * d)
    return t + np.log1p(np.sqrt(t + 4 * d) / np.sqrt(t))


def criterion_of(signatures: Signatures, law: QueryLaw | None = None, *, eps: float) -> pd.DataFrame:
    """Evaluate the criterion on every cluster of real signatures, beside L1 and the exact L5.

    Weights of the signatures are left aside, as the criterion knows none: every column speaks of the rule that scores by
    ``Q + log det Lam`` alone.

    Parameters
    ----------
    signatures : Signatures
    law : QueryLaw, optional
        What is assumed of a query, in one shared space or one per task; the signatures themselves if None.
    eps : float
        Target error, inside (0, 1).

    Returns
    -------
    DataFrame
        One row per (task, cluster): the criterion's inputs (delta averaged over the law's components of that cluster, and least
        over wrong components; kappa least; sigma2 largest over spaces and coordinates), ``first`` (NaN where undefined),
        required delta and verdict in both readings, natural logarithms of the ladder's L1 and of both sides of its L5 (lower: NaN
        where not proved), and whether each verdict is contradicted, that is the cluster passes and L5's lower side exceeds eps.

    Raises
    ------
    InputError
        If eps is outside (0, 1), or law and signatures do not fit.
    """
    check_inside_unit("eps", eps)
    signatures = Signatures(signatures.means, signatures.covariances, signatures.task, None, signatures.counts, signatures.names)
    law = well_specified(signatures) if law is None else law
    known, d, log_dets = len(signatures), signatures.dimension, signatures.gaussians.log_dets
    # NumPy would read an index of -1 as the last component.
    strangers = (law.cluster < 0) | (law.cluster >= known)
    if strangers.any():
        raise InputError("query cluster", f"holds {int(law.cluster[strangers][0])}; signatures have components 0 to {known - 1}")
    astray = np.flatnonzero(signatures.task[law.cluster] != law.task)
    if astray.size:
        c = int(astray[0])
        raise InputError("query cluster", f"component {c} of the law names cluster {int(law.cluster[c])}, which is of another task")
    # The ladder's own functions for the two rungs that are read: all of them take about nine times as long.
    found = margins(Rule(signatures), law)
    tail = tail_probability(found.margin)
    log_l1, log_exact = separation_bound(found).upper, summed(tail.log_high, found.edges).upper
    log_pair = np.maximum.reduceat(tail.log_low, found.edges[:-1])
    distance = found.other.mean() - signatures.constants[found.wrong]
    rows = []
    for k, t in sorted({(int(k), int(t)) for k, t in zip(law.task, law.cluster, strict=True)}):
        members = law.members(k, t)
        pairs = members[found.component]
        share = law.weights[members] / law.weights[members].sum()
        verdict = criterion(
            inputs := Inputs(
                d=d,
                tasks=signatures.tasks,
                components=known,
                kappa=float((log_dets[signatures.wrong(k)] - log_dets[t]).min()),
                sigma2=_largest_variance(law, members, share),
                eps=eps,
                # Wrong components come in the same order for every query component of one task.
                delta=float((share @ distance[pairs].reshape(share.size, -1)).min()) / d - 1,
            )
        )
        l1, high = _average(log_l1[members], share), _average(log_exact[members], share)
        # Weights sum to one only to rounding, and a lower side rounds down.
        low = min(float(logsumexp(log_pair[members], b=share)) - 1e-13, high) if found.single[members].all() else -math.inf
        broken = low > math.log(eps)
        rows.append(
            {
                "task": k,
                "cluster": t,
                "delta": inputs.delta,
                "kappa": inputs.kappa,
                "sigma2": inputs.sigma2,
                "first": math.nan if verdict.first is None else verdict.first,
                "required_a": math.nan if verdict.required_a is None else verdict.required_a,
                "required_b": math.nan if verdict.required_b is None else verdict.required_b,
                "passes_a": verdict.passes_a,
                "passes_b": verdict.passes_b,
                "passes_l1": l1 <= math.log(eps),
                "log_l1": l1,
                "log_exact_lower": low if low > -math.inf else math.nan,
                "log_exact_upper": high,
                "contradicted_a": verdict.passes_a and broken,
                "contradicted_b": verdict.passes_b and broken,
            }
        )
    return data_frame(rows)


def _average(upper: Float[np.ndarray, " n"], share: Float[np.ndarray, " n"]) -> float:
    """Log of the average of upper bounds, each clipped at one first; rounded up, as in the ladder."""
    return min(float(logsumexp(np.minimum(upper, 0.0), b=share)) + 1e-14, 0.0)


def _largest_variance(law: QueryLaw, members: Bool[np.ndarray, " C"], share: Float[np.ndarray, " n"]) -> float:
    """Largest per-coordinate variance over all spaces, within and between the law's components of one cluster."""
    means = law.means[members].reshape(share.size, -1)
    within = np.diagonal(law.covariances[members], axis1=1, axis2=2)
    between = (means - share @ means) ** 2
    return float((share @ (within + between)).max())


def check_inside_unit(argument: str, value: float) -> None:
    """Raise `InputError` unless a value is inside (0, 1)."""
    if not 0 < value < 1:
        raise InputError(argument, f"{value} is not inside (0, 1)")
