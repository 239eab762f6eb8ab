"""The published separation criterion as testable claims, beside the ladder's L1 (theory.md, section 4).

The paper's text was not available: the criterion is restated from a public script that verifies it on trained models, and
that script and the derivation suggest two readings of one term. Both are computed, and tested as claims rather than
trusted. A counterexample found here is one to the criterion *as restated*; the paper may make assumptions that the
restatement does not carry. ``python -m theory.published`` prints every table of this module.

With ``N' = (m - 1) sum_i tau_i + 1``, ``t = log(N'/eps)``, ``kappa`` the least log-determinant ratio, ``sigma2`` the
largest per-coordinate variance of any ``h_i`` on the cluster and ``M = 3 d sigma2 - kappa``, a cluster passes if
``delta > (2/d) max(first, second)``, where ``first = (M + sqrt(M^2 - 24 d sigma2 kappa)) / 4 - kappa`` and ``second`` is

* (a) as coded: ``log((N'/eps) (sqrt(1 + 4 d / t) + 1)) = t + log(sqrt(1 + 4 d / t) + 1)``;
* (b) as the inversion of a tail bound would give: ``t (sqrt(1 + 4 d / t) + 1) = t + sqrt(t^2 + 4 d t)``.

What can be said without a search, each proved where it is computed:

* `first` is measured in the embedding's units and `second` is not, so a change of units, which changes no retrieval, can
  change the verdict.
* Reading (b) of the tail claim is true in a stated region (`tail_proved`) and false beyond `first_failure`.
* With equal covariances and queries that follow the signature, passing does imply the error in a stated range (`tied_proved`).
* The criterion measures the spread of queries in the embedding's units (`sigma2`), and nowhere in a wrong component's, which
  decide how much its score varies. L1 carries that as ``sqrt(2 V t)``.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.optimize import differential_evolution
from scipy.special import gammaincc, gammaln, log_ndtr

from theory.errors import InputError
from theory.exact import tail_probability
from theory.ladder import ladder
from theory.mixture import QueryLaw, Signatures, well_specified
from theory.quadratic import QuadraticLaw
from theory.separation import separation
from theory.tails import exponent

# gammaincc is accurate until its value nears the least float; below this the continued fraction takes over.
_LEAST_GAMMAINCC = 1e-280
_MOST_TERMS = 100_000
# M^2 - 24 D kappa = (kappa - _LOW_ROOT D) (kappa - _HIGH_ROOT D) with D = d sigma2; 15 - 6 sqrt(6) without cancellation.
_HIGH_ROOT = 15 + 6 * math.sqrt(6)
_LOW_ROOT = 9 / _HIGH_ROOT
# Search ranges, as natural logarithms: a wrong component's variances, and the spread of queries, both relative to the own cluster's.
_WRONG_RANGE = (math.log(1e-4), math.log(1e4))
_SPREAD_RANGE = (math.log(0.1), math.log(1e3))
# A counterexample that is reported must fail by more than rounding: its error exceeds eps by this factor at least.
_CLEAR = 1.05
# Whole numbers beyond this are not floats, and no float eps brings log(N'/eps) near the second.
_LARGEST, _LARGEST_LOG = 2**53, 1e9
# What a search minimises where nothing passes or the error is zero: worse than any value that can occur.
_HOPELESS = 1e6


class Reading(StrEnum):
    """Which `second` is meant; `LADDER` is our own L1, whose own-cluster tail is T1, put to the same tests."""

    AS_CODED = "a"
    TAIL_INVERSION = "b"
    LADDER = "L1"


class Family(StrEnum):
    """Which settings a search ranges over: two tasks of one component each, one shared embedding, Gaussian (A4).

    The own component is standard normal (per-coordinate variance 1). `TIED`: the wrong component has the same covariance.
    `FREE`: its variances are free in up to two coordinates. `WIDER`: queries have the own component's mean and a multiple
    of its covariance; otherwise they follow it exactly (well-specified).
    """

    TIED = "equal covariances, well-specified"
    FREE = "any diagonal covariance, well-specified"
    TIED_WIDER = "equal covariances, queries spread by a factor"
    FREE_WIDER = "any diagonal covariance, queries spread by a factor"

    @property
    def wider(self) -> bool:
        """Whether the query law differs from the signature."""
        return self in (Family.TIED_WIDER, Family.FREE_WIDER)

    @property
    def tied(self) -> bool:
        """Whether both components have one covariance."""
        return self in (Family.TIED, Family.TIED_WIDER)


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
        _whole("d", self.d, 1, "a dimension is at least 1")
        _whole("tasks", self.tasks, 2, "retrieval needs at least two tasks")
        _whole("components", self.components, int(self.tasks), "every task has at least one component")
        _inside_unit("eps", self.eps)
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
        None where ``M^2 - 24 d sigma2 kappa < 0``, which is so exactly for ``kappa / (d sigma2)`` between
        ``15 - 6 sqrt(6)`` (0.303) and ``15 + 6 sqrt(6)`` (29.7): the formula then has no real value, the criterion does not
        apply, and nothing passes. (As the larger root of ``2 x^2 - M x + 3 d sigma2 kappa`` it might mean that any delta
        would do; the restatement does not say so, and we do not guess a guarantee.) For ``kappa < 0`` it always exists.
    second_a, second_b : float
    required_a, required_b : float or None
        ``(2/d) max(first, second)``; delta must exceed it.
    passes_a, passes_b : bool
    required_l1 : float or None
        ``(2 sqrt(d t) + 2 t + sqrt(2 V t) - kappa) / d`` with ``t = log(N/eps)``, which delta must reach; ``N`` is taken as the
        number of components, its largest possible value. Well-specified own cluster (A2). None if V was not given:
        the criterion's own inputs do not determine what a wrong score's lower tail is.
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
        return {Reading.AS_CODED: self.passes_a, Reading.TAIL_INVERSION: self.passes_b, Reading.LADDER: self.passes_l1}[_reading(reading)]


def criterion(inputs: Inputs) -> Verdict:
    """Evaluate the published criterion in both readings, and L1's condition on the same numbers.

    Source of the formulas: theory.md, section 4 (the criterion) and section 3 (L1).
    """
    d, t = int(inputs.d), inputs.log_ratio
    value, real = _first(d, np.array([inputs.kappa]), np.array([inputs.sigma2]))
    first = float(value[0]) if real[0] else None
    seconds = [float(second(d, t, reading)) for reading in (Reading.AS_CODED, Reading.TAIL_INVERSION)]
    required = [None if first is None else 2 / d * max(first, s) for s in seconds]
    passes = [r is not None and inputs.delta > r for r in required]
    notes = []
    if first is None:
        notes.append(f"not applicable: the square root in `first` has no real value at kappa / (d sigma2) = {_relative(inputs):.3g}")
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


def second(d: int, log_ratio: Float[np.ndarray, "..."] | float, reading: Reading | str) -> Float[np.ndarray, "..."]:
    """How far above d the own distance is allowed to be, at ``t = log(N'/eps) > 0``: the term `second`, or T1's.

    ``2 sqrt(d t) + 2 t`` for L1 (T1: Laurent and Massart 2000). (b) never exceeds it: the difference is
    ``4 t sqrt(d t) / (t + 2 sqrt(d t) + sqrt(t^2 + 4 d t))``, between 0 and ``min(t, 2 sqrt(d t))``, and (b) is at least 0.8 of
    it, attained at ``d = 4 t / 9`` (with ``r = sqrt(d/t)`` the quotient is ``(1 + sqrt(1 + 4 r^2)) / (2 + 2 r)``, least at r = 2/3).
    """
    t = np.asarray(log_ratio, dtype=np.float64)
    reading = _reading(reading)
    if reading is Reading.LADDER:
        return 2 * np.sqrt(d * t) + 2 * t
    if reading is Reading.TAIL_INVERSION:
        return t + np.sqrt(t) * np.sqrt(t + 4 * d)
    return t + np.log1p(np.sqrt(t + 4 * d) / np.sqrt(t))


def _first(d: int, kappa: Float[np.ndarray, " n"], sigma2: Float[np.ndarray, " n"]) -> tuple[np.ndarray, Bool[np.ndarray, " n"]]:
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


def _relative(inputs: Inputs) -> float:
    return inputs.kappa / (inputs.d * inputs.sigma2)


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
        required delta and verdict in both readings, natural logarithms of L1 and of both sides of L5 (lower: NaN where not
        proved), and whether each verdict is contradicted, that is the cluster passes and L5's lower side exceeds eps.

    Raises
    ------
    InputError
        If eps is outside (0, 1), or law and signatures do not fit.
    """
    _inside_unit("eps", eps)
    signatures = dataclasses.replace(signatures, weights=None)
    law = well_specified(signatures) if law is None else law
    known = len(signatures)
    # NumPy would read an index of -1 as the last component.
    strangers = (law.cluster < 0) | (law.cluster >= known)
    if strangers.any():
        raise InputError("query cluster", f"holds {int(law.cluster[strangers][0])}; signatures have components 0 to {known - 1}")
    if (signatures.task[law.cluster] != law.task).any():
        c = int(np.flatnonzero(signatures.task[law.cluster] != law.task)[0])
        raise InputError("query cluster", f"component {c} of the law names cluster {int(law.cluster[c])}, which is of another task")
    # Only L1 and L5 are read, so nothing is spent on simulation or on overlaps of pairs.
    rungs = ladder(signatures, law, simulations=0, intersections=0).clusters
    delta = _delta(signatures, law)
    log_dets, d = signatures.gaussians.log_dets, signatures.dimension
    rows = []
    for (k, t), found in rungs.items():
        members = law.members(k, t)
        share = law.weights[members] / law.weights[members].sum()
        wrong = signatures.wrong(k)
        verdict = criterion(
            inputs := Inputs(
                d=d,
                tasks=signatures.tasks,
                components=known,
                kappa=float((log_dets[wrong] - log_dets[t]).min()),
                sigma2=_largest_variance(law, members, share),
                eps=eps,
                delta=float((share @ delta[members])[wrong].min()),
            )
        )
        low = found["L5"].log_lower
        low = math.nan if low is None else low
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
                "passes_l1": found["L1"].log_value <= math.log(eps),
                "log_l1": found["L1"].log_value,
                "log_exact_lower": low,
                "log_exact_upper": found["L5"].log_value,
                "contradicted_a": verdict.passes_a and broken,
                "contradicted_b": verdict.passes_b and broken,
            }
        )
    return pd.DataFrame(rows)


def _delta(signatures: Signatures, law: QueryLaw) -> Float[np.ndarray, "C K"]:
    """Delta of every (query component, signature component): each component in its own task's space."""
    if law.shared:
        return separation(signatures, law).delta
    d, out = signatures.dimension, np.empty((len(law), len(signatures)))
    for i in range(signatures.tasks):
        block = slice(i * d, (i + 1) * d)
        space = QueryLaw(law.means[:, i : i + 1], law.covariances[:, block, block], law.task, law.cluster, law.weights)
        own = signatures.own(i)
        out[:, own] = separation(signatures, space).delta[:, own]
    return out


def _largest_variance(law: QueryLaw, members: Bool[np.ndarray, " C"], share: Float[np.ndarray, " n"]) -> float:
    """Largest per-coordinate variance over all spaces, within and between the law's components of one cluster."""
    means = law.means[members].reshape(share.size, -1)
    within = np.diagonal(law.covariances[members], axis1=1, axis2=2)
    between = (means - share @ means) ** 2
    return float((share @ (within + between)).max())


@dataclass(frozen=True)
class TailClaim:
    """The claim ``P(chi2_d >= d + second) <= eps/N'``, decided.

    Attributes
    ----------
    d : int
    log_ratio : float
        ``log(N'/eps)``; the log of the target is its negative.
    reading : Reading
    threshold : float
        ``d + second``.
    log_probability, log_target : float
        Natural logarithms.
    holds : bool
        Whether the probability, plus an allowance for rounding, is at most the target.
    orders : float
        Orders of magnitude by which the probability exceeds the target; negative where there is room.
    """

    d: int
    log_ratio: float
    reading: Reading
    threshold: float
    log_probability: float
    log_target: float
    holds: bool
    orders: float


def tail_claim(d: int, log_ratio: float, reading: Reading | str) -> TailClaim:
    """Decide whether ``P(chi2_d >= d + second) <= eps/N'``, in log space.

    Parameters
    ----------
    d : int
    log_ratio : float
        ``log(N'/eps)``, positive.
    reading : Reading or str
        "a", "b", or "L1" for T1's threshold, for which it is a theorem.

    Raises
    ------
    InputError
        If d is not a whole number of at least 1, or `log_ratio` is not positive and finite.
    """
    _whole("d", d, 1, "a dimension is at least 1")
    _log_ratio(log_ratio)
    t, d = np.array([float(log_ratio)]), int(d)
    value, allowance = _log_tail(d, t, reading)
    return TailClaim(
        d=d,
        log_ratio=float(t[0]),
        reading=_reading(reading),
        threshold=float(d + second(d, t, reading)[0]),
        log_probability=float(value[0]),
        log_target=-float(t[0]),
        holds=bool(value[0] + allowance[0] <= -t[0]),
        orders=float((value[0] + t[0]) / math.log(10)),
    )


def _log_tail(d: int, t: Float[np.ndarray, " n"], reading: Reading | str) -> tuple[np.ndarray, np.ndarray]:
    """Log of ``P(chi2_d >= d + second)``, and an allowance for rounding."""
    x = d + second(d, t, reading)
    # The log-density of chi2 has slope at most 1/2 + 1/x at these x, so rounding of x weighs as little as that of x/2 itself.
    allowance = 16 * np.finfo(np.float64).eps * (x + d * np.log(x + 1))
    return log_chi_square_tail(d, x), allowance


def log_chi_square_tail(d: int, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """``log P(chi2_d >= x)`` for ``x >= d``, right in the deep tail where SciPy's ``chi2.logsf`` returns ``-inf``.

    The regularised incomplete gamma function as long as it is a normal float, and below that its continued fraction in log
    space (Legendre's, DLMF 8.9.2, by the modified Lentz method, which converges for ``x > d``).
    """
    a, z = d / 2, np.asarray(x, dtype=np.float64) / 2
    direct = gammaincc(a, z)
    deep = direct < _LEAST_GAMMAINCC
    out = np.log(np.where(deep, 1.0, direct))
    if deep.any():
        out[deep] = a * np.log(z[deep]) - z[deep] - gammaln(a) - np.log(_continued_fraction(a, z[deep]))
    return out


def _continued_fraction(a: float, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """``z^a e^-z / Gamma(a, z) = z + 1 - a - 1 (1 - a) / (z + 3 - a - 2 (2 - a) / (z + 5 - a - ...))``."""
    b = z + 1 - a
    f, C, D = b.copy(), b.copy(), np.zeros_like(b)
    for n in range(1, _MOST_TERMS):
        an, b = n * (a - n), b + 2
        D = 1 / (b + an * D)
        C = b + an / C
        step = C * D
        f = f * step
        if (np.abs(step - 1) < 1e-15).all():
            return f
    raise ArithmeticError(f"the continued fraction of the incomplete gamma function did not converge at a = {a}")


def tail_proved(d: int, log_ratio: float) -> bool:
    """Whether the tail claim in reading (b) is proved at ``t = log(N'/eps)``, without evaluating the tail.

    Theorem (derived here). With ``y = t + sqrt(t^2 + 4 d t)`` and ``x = y / d``, ``P(chi2_d >= d + y) <= e^-t`` if ``d >= 2`` and
    ``(d/2) (log(1 + x) - 2 x / (2 + x)) <= log((y/2 + 1) sqrt(4 pi / d))``, in particular if ``d x^3 / 12 <= log(4 pi t)``; and for
    ``d = 1`` and ``d = 2`` it holds for every t.

    Proof. ``y`` solves ``t = y^2 / (4 d + 2 y)``. For ``a = d/2 >= 1`` and ``z = (d + y)/2``, ``Gamma(a, z) = z^a e^-z int_0^inf
    (1 + u)^(a-1) e^(-z u) du <= z^a e^-z / (z - a + 1)``; with Stirling's ``Gamma(a) >= sqrt(2 pi / a) (a/e)^a`` this is ``P <= e^-I
    sqrt(d / (4 pi)) / (y/2 + 1)``, where ``I = (y - d log(1 + x)) / 2`` is Chernoff's exponent; and ``t - I`` is the left side. In
    particular: the bracket is at most ``x^3 / 12``, having derivative ``x^2 / ((1 + x) (2 + x)^2) <= x^2 / 4``, and ``y >= 2 sqrt(d t)``.
    For ``d = 2``, ``P = exp(-1 - y/2)`` and ``y >= 2 t``. For ``d = 1``, ``P <= sqrt(2 / (pi w)) e^(-w/2)`` with ``w = 1 + y >= 1 + 2 t``.

    The bracket is positive: (b) asks of the tail a larger exponent than Chernoff's, so no Chernoff argument gives (b), and for ``d >= 3``
    it fails once the factor before ``e^-I`` no longer makes up for that.
    """
    _whole("d", d, 1, "a dimension is at least 1")
    _log_ratio(log_ratio)
    return bool(_tail_proved(int(d), np.array([float(log_ratio)]))[0])


def _tail_proved(d: int, t: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    if d <= 2:
        return np.ones(t.size, dtype=bool)
    y = second(d, t, Reading.TAIL_INVERSION)
    x = y / d
    missing = d / 2 * (np.log1p(x) - 2 * x / (2 + x))
    # The allowance for rounding is on the safe side.
    return missing + 16 * np.finfo(np.float64).eps * (y + d) <= np.log((y / 2 + 1) * np.sqrt(4 * np.pi / d))


def first_failure(d: int, reading: Reading | str, limit: float = 1e5) -> float:
    """Smallest ``log(N'/eps)`` at which the tail claim fails, to 1e-6 relative; ``inf`` if it holds at every point tried up to `limit`.

    A grid of 200 points from 0.01 to `limit` brackets the first failure and bisection narrows it.
    """
    _whole("d", d, 1, "a dimension is at least 1")
    _log_ratio(limit)

    def fails(t: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        value, allowance = _log_tail(int(d), t, reading)
        return value - allowance > -t

    return _first_true(fails, limit)


def _first_true(fails: Callable[[Float[np.ndarray, " n"]], Bool[np.ndarray, " n"]], limit: float) -> float:
    """First point of a grid up to `limit` at which a predicate of t is true, narrowed by bisection."""
    grid = np.geomspace(min(0.01, limit), limit, 200)
    failing = np.flatnonzero(fails(grid))
    if failing.size == 0:
        return math.inf
    j = int(failing[0])
    low, high = (grid[j - 1] if j else 0.0), grid[j]
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fails(np.array([middle]))[0] else (middle, high)
    return float(high)


def tied_proved(d: int, sigma2: float, log_ratio: float, reading: Reading | str) -> bool:
    """Whether passing is proved to imply ``error <= eps`` when all components have one covariance (A4, well-specified).

    Theorem (derived here), for any number of tasks and components, ``kappa = 0``, ``R = max(first, second)`` and ``first = 1.5 d
    sigma2``: a cluster that passes has error at most ``N' Phi(-sqrt(R/2))``. So passing suffices if ``log Phi(-sqrt(R/2)) <= -t`` with
    ``t = log(N'/eps)``, in particular in either reading if ``t <= 3 d sigma2 / 8``, and in reading (b) if ``t <= d/2``.

    Proof. The margin to wrong component s is normal with mean ``rho_s^2`` and standard deviation ``2 rho_s``, ``rho_s^2 = d delta_s
    > 2 R``, so its pair errs with probability ``Phi(-rho_s / 2) <= Phi(-sqrt(R/2))``, and there are fewer than N' of them. In
    particular: ``Phi(-x) <= e^(-x^2/2)``, hence ``R >= 4 t`` suffices; ``t + sqrt(t^2 + 4 d t) >= 4 t`` iff ``t <= d/2``.

    For L1 it is True: L1 needs no such restriction.

    Raises
    ------
    InputError
        If d, sigma2 or `log_ratio` is out of range.
    """
    _whole("d", d, 1, "a dimension is at least 1")
    if not (math.isfinite(sigma2) and sigma2 > 0):
        raise InputError("sigma2", f"{sigma2} is not a positive variance")
    _log_ratio(log_ratio)
    if _reading(reading) is Reading.LADDER:
        return True
    return not bool(_tied_unproved(int(d), sigma2, np.array([float(log_ratio)]), reading)[0])


def _tied_unproved(d: int, sigma2: float, t: Float[np.ndarray, " n"], reading: Reading | str) -> Bool[np.ndarray, " n"]:
    R = np.maximum(1.5 * d * sigma2, second(d, t, reading))
    return log_ndtr(-np.sqrt(R / 2)) > -t * (1 + 1e-12)


DIMENSIONS = (8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096)
LOG_RATIOS = (2.0, 5.0, 10.0, 13.604914, 20.0, 30.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


def tail_table(dimensions: Sequence[int] = DIMENSIONS, log_ratios: Sequence[float] = LOG_RATIOS) -> pd.DataFrame:
    """`tail_claim` over a grid: columns d, log_ratio, reading, log_probability, holds, orders, proved (by a theorem named here)."""
    rows = []
    for d in dimensions:
        for t in log_ratios:
            for reading in Reading:
                found = tail_claim(d, t, reading)
                proved = reading is Reading.LADDER or (reading is Reading.TAIL_INVERSION and tail_proved(d, t))
                rows.append(
                    {
                        "d": d,
                        "log_ratio": t,
                        "reading": reading.value,
                        "log_probability": found.log_probability,
                        "holds": found.holds,
                        "orders": found.orders,
                        "proved": proved,
                    }
                )
    return pd.DataFrame(rows)


def failure_table(dimensions: Sequence[int] = (1, 2, 3, 4, *DIMENSIONS), sigma2: float = 1.0) -> pd.DataFrame:
    """Where each reading stops holding, as values of ``log(N'/eps)``.

    Returns
    -------
    DataFrame
        Columns ``tail_a``, ``tail_b`` (first failure of the tail claim, ``inf`` if none up to 1e5), ``tail_b_proved`` (up to which
        `tail_proved` applies), ``tied_a``, ``tied_b`` (up to which `tied_proved` applies at that sigma2).
    """
    rows = []
    for d in dimensions:
        row = {"d": d, "tail_a": first_failure(d, Reading.AS_CODED), "tail_b": first_failure(d, Reading.TAIL_INVERSION)}
        # The proof says nothing of small t in high dimension; N' >= 3 keeps every real t above 1.
        row["tail_b_proved"] = _first_true(lambda t, d=d: (t >= 1) & ~_tail_proved(d, t), 1e5)
        for reading in (Reading.AS_CODED, Reading.TAIL_INVERSION):
            row[f"tied_{reading.value}"] = _first_true(lambda t, d=d, r=reading: _tied_unproved(d, sigma2, t, r), 1e5)
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Example:
    """Two tasks of one component each in one shared embedding, where a cluster passes at eps and errs more often.

    The own component is standard normal; queries have its mean and `spread` times its covariance. The wrong component differs from it
    in the first coordinates only.

    Attributes
    ----------
    reading : Reading
    d : int
    eps : float
    offsets, variances : tuple of float
        Mean and variance of the wrong component in its first coordinates; 0 and 1 in the others.
    spread : float
        Query variance over signature variance; 1 if well-specified.
    log_error : float
        Log of the exact error of the first task's queries, its lower side.
    """

    reading: Reading
    d: int
    eps: float
    offsets: tuple[float, ...]
    variances: tuple[float, ...]
    spread: float
    log_error: float

    def signatures(self) -> Signatures:
        """The two components, as signatures."""
        means, variances = np.zeros((2, self.d)), np.ones((2, self.d))
        means[1, : len(self.offsets)] = self.offsets
        variances[1, : len(self.variances)] = self.variances
        return Signatures(means, variances[:, :, None] * np.eye(self.d), np.array([0, 1]))

    def law(self) -> QueryLaw:
        """The law of the first task's queries."""
        return QueryLaw(np.zeros((1, 1, self.d)), self.spread * np.eye(self.d)[None], np.array([0]), np.array([0]), np.ones(1))

    def inputs(self) -> Inputs:
        """What the criterion sees of the first task's cluster."""
        statistics = _Settings.of(self.d, self.offsets, self.variances, self.spread)
        return Inputs(
            d=self.d,
            tasks=2,
            components=2,
            kappa=float(statistics.kappa()[0]),
            sigma2=self.spread,
            eps=self.eps,
            delta=float(statistics.gap()[0]) / self.d,
            variance=float(statistics.wrong_variance()[0]),
        )

    def __str__(self) -> str:
        """One line for a table."""
        wrong = ", ".join(f"N({a:.6g}, {v:.6g})" for a, v in zip(self.offsets, self.variances, strict=True))
        rest = f" in {len(self.offsets)} of {self.d} coordinates" if self.d > len(self.offsets) else ""
        queries = "" if self.spread == 1 else f", queries N(0, {self.spread:.6g})"
        return f"d = {self.d}: own N(0, 1){queries}, wrong {wrong}{rest}: passes at eps = {self.eps:g}, errs {math.exp(self.log_error):.3g}"


@dataclass(frozen=True)
class Search:
    """The outcome of one seeded search for a counterexample; not finding one proves nothing.

    Attributes
    ----------
    reading : Reading
    family : Family
    d : int
    eps : float
    evaluations : int
        Settings whose exact error was computed.
    log_ratio : float
        Largest ``log(exact error / eps)`` among those that pass; ``-inf`` if none passed.
    example : Example or None
        The simplest counterexample reached by rounding the worst setting; None if none was found.
    """

    reading: Reading
    family: Family
    d: int
    eps: float
    evaluations: int
    log_ratio: float
    example: Example | None

    @property
    def exhaustive(self) -> bool:
        """Whether the one setting tried is the worst: with equal covariances only the distance is left, and error falls with it."""
        return self.family is Family.TIED

    def __str__(self) -> str:
        """The counterexample, or how far its absence may be trusted."""
        if self.example is not None:
            return str(self.example)
        if self.log_ratio > 0:
            return "one found, none that is simple and clear"
        return "none exists in this family" if self.exhaustive else f"none found in {self.evaluations}"


def counterexample(
    reading: Reading | str, family: Family, d: int, eps: float, rng: np.random.Generator, generations: int = 10, population: int = 8
) -> Search:
    """Search a family for a setting that passes at eps and whose exact error exceeds eps, then simplify it.

    Differential evolution over the family's free parameters, maximising ``log(exact error) - log(eps)``; the distance between the means is
    not free but the least with which the setting passes, so that every candidate passes. The exact error of such a setting is
    `tail_probability` of its one margin: with two tasks of one component each both sides of L5 coincide.

    Parameters
    ----------
    reading : Reading or str
        "a", "b", or "L1", for which a counterexample would refute a theorem.
    family : Family
    d : int
    eps : float
    rng : numpy.random.Generator
    generations, population : int
        Of differential evolution; the population is per free parameter.

    Raises
    ------
    InputError
        If d, eps or a size is out of range.
    """
    reading, family = _reading(reading), Family(family)
    _whole("d", d, 1, "a dimension is at least 1")
    _inside_unit("eps", eps)
    _whole("generations", generations, 1, "one generation at least")
    _whole("population", population, 1, "one candidate per parameter at least")
    d = int(d)
    ranges = _ranges(family, d)
    evaluations = 0

    def objective(parameters: Float[np.ndarray, "p n"]) -> Float[np.ndarray, " n"]:
        nonlocal evaluations
        settings, passes = _least_passing(reading, _settings(family, d, parameters), eps)
        evaluations += int(passes.sum())
        value = np.full(passes.size, _HOPELESS)
        if passes.any():
            tail = tail_probability(settings[passes].margin())
            # Rounded so as never to overstate a failure of the criterion, nor understate one of ours.
            value[passes] = math.log(eps) - (tail.log_high if reading is Reading.LADDER else tail.log_low)
        return np.minimum(value, _HOPELESS)

    if ranges:
        found = differential_evolution(
            objective, ranges, maxiter=generations, popsize=population, tol=0, seed=rng, polish=False, vectorized=True, updating="deferred"
        )
        best, worst = found.x[:, None], float(found.fun)
    else:
        best = np.empty((0, 1))
        worst = float(objective(best)[0])
    log_ratio = -worst if worst < _HOPELESS else -math.inf
    example = _simplest(reading, family, d, eps, best) if log_ratio > math.log(_CLEAR) else None
    return Search(reading, family, d, eps, evaluations, log_ratio, example)


@dataclass(frozen=True)
class _Settings:
    """A batch of two-component settings, as in `Example`: offsets a, wrong variances v in r coordinates, query spread c."""

    d: int
    a: Float[np.ndarray, "n r"]
    v: Float[np.ndarray, "n r"]
    c: Float[np.ndarray, " n"]

    @classmethod
    def of(cls, d: int, a: Sequence[float], v: Sequence[float], c: float) -> _Settings:
        return cls(d, np.array([a], dtype=np.float64), np.array([v], dtype=np.float64), np.array([c], dtype=np.float64))

    def __getitem__(self, rows: np.ndarray) -> _Settings:
        return _Settings(self.d, self.a[rows], self.v[rows], self.c[rows])

    def scaled(self, by: Float[np.ndarray, " n"]) -> _Settings:
        return dataclasses.replace(self, a=self.a * by[:, None])

    @property
    def same(self) -> int:
        """Coordinates in which the components agree."""
        return self.d - self.a.shape[1]

    def kappa(self) -> np.ndarray:
        return np.log(self.v).sum(axis=1)

    def gap(self) -> np.ndarray:
        """``d delta``."""
        return ((self.c[:, None] + self.a**2) / self.v - 1).sum(axis=1) + self.same * (self.c - 1)

    def wrong_variance(self) -> np.ndarray:
        c = self.c[:, None]
        return 2 * ((c / self.v) ** 2).sum(axis=1) + 2 * self.same * self.c**2 + 4 * (self.a**2 * c / self.v**2).sum(axis=1)

    def margin(self) -> QuadraticLaw:
        """``Q_wrong - Q_own + kappa`` for queries ``sqrt(c) z``; the coordinates that agree cancel."""
        c = self.c[:, None]
        constant = (self.a**2 / self.v).sum(axis=1) + self.kappa()
        return QuadraticLaw(c / self.v - c, -2 * self.a * np.sqrt(c) / self.v, np.zeros(len(self.c)), constant)

    def passes(self, reading: Reading, eps: float) -> Bool[np.ndarray, " n"]:
        if reading is Reading.LADDER:
            # The ladder's L1 with the query's own moments (T3), which reduces to T1 for spread 1.
            own = self.d * self.c
            a = np.sqrt(2 * 2 * own * self.c) + np.sqrt(2 * self.wrong_variance())
            t = exponent(self.gap() + self.d + self.kappa() - own, a, 2 * self.c)
            return math.log(2) - t <= math.log(eps)
        first, real = _first(self.d, self.kappa(), self.c)
        required = 2 / self.d * np.maximum(first, second(self.d, math.log(3) - math.log(eps), reading))
        return real & (self.gap() / self.d > required)


def _ranges(family: Family, d: int) -> list[tuple[float, float]]:
    """Ranges of the free parameters: log wrong variances, the direction of the wrong mean, log spread."""
    r = min(d, 2)
    ranges = [] if family.tied else [_WRONG_RANGE] * r + [(0.0, math.pi / 2)] * (r - 1)
    return ranges + ([_SPREAD_RANGE] if family.wider else [])


def _settings(family: Family, d: int, parameters: Float[np.ndarray, "p n"]) -> _Settings:
    """Settings with the wrong mean at distance 1."""
    n = parameters.shape[1]
    c = np.exp(parameters[-1]) if family.wider else np.ones(n)
    if family.tied or d == 1:
        variances = np.ones((n, 1)) if family.tied else np.exp(parameters[:1].T)
        return _Settings(d, np.ones((n, 1)), variances, c)
    angle = parameters[2]
    return _Settings(d, np.stack([np.cos(angle), np.sin(angle)], axis=1), np.exp(parameters[:2].T), c)


def _least_passing(reading: Reading, settings: _Settings, eps: float) -> tuple[_Settings, Bool[np.ndarray, " n"]]:
    """Move the wrong mean along its direction to the least distance that passes; tells which pass at all."""
    n = len(settings.c)
    at_zero = settings.scaled(np.zeros(n)).passes(reading, eps)
    low, high = np.zeros(n), np.where(at_zero, 0.0, 1.0)
    for _ in range(40):
        short = ~settings.scaled(high).passes(reading, eps)
        if not short.any():
            break
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    for _ in range(60):
        middle = (low + high) / 2
        enough = settings.scaled(middle).passes(reading, eps)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    final = settings.scaled(high)
    return final, final.passes(reading, eps)


def _simplest(reading: Reading, family: Family, d: int, eps: float, best: Float[np.ndarray, "p 1"]) -> Example | None:
    """Round the worst setting found as far as it stays a clear counterexample: fewest coordinates, then fewest digits."""
    settings, _ = _least_passing(reading, _settings(family, d, best), eps)
    for keep in range(1, settings.a.shape[1] + 1):
        # The coordinates with the most unusual variance carry the example.
        order = np.argsort(-np.abs(np.log(settings.v[0])))[:keep]
        for digits in (1, 2, 3, 4):
            for still in (True, False):
                variances = [_rounded(v, digits) for v in settings.v[0, order]]
                spread = _rounded(float(settings.c[0]), digits)
                direction = np.zeros(keep) if still else settings.a[0, order]
                if not still and not direction.any():
                    direction = np.ones(keep)
                trial, passes = _least_passing(reading, _Settings.of(d, list(direction), variances, spread), eps)
                if not passes[0]:
                    continue
                offsets = [_rounded(a, digits, up=True) for a in trial.a[0]]
                trial = _Settings.of(d, offsets, variances, spread)
                if not trial.passes(reading, eps)[0]:
                    continue
                low = float(tail_probability(trial.margin()).log_low[0])
                if low > math.log(eps) + math.log(_CLEAR):
                    return Example(reading, d, eps, tuple(offsets), tuple(variances), spread, low)
    return None


def _rounded(value: float, digits: int, up: bool = False) -> float:
    """Round to some significant digits, away from zero if `up`."""
    if value == 0:
        return 0.0
    unit = digits - 1 - math.floor(math.log10(abs(value)))
    scaled = abs(value) * 10.0**unit
    # Dividing by a positive power of ten, not multiplying by a negative one, gives the float nearest the decimal.
    whole = math.ceil(scaled - 1e-9) if up else round(scaled)
    return math.copysign(whole / 10.0**unit if unit >= 0 else whole * 10.0**-unit, value)


def claims_table(
    rng: np.random.Generator,
    dimensions: Sequence[int] = (1, 2, 768),
    levels: Sequence[float] = (1e-2, 1e-4),
    generations: int = 10,
    population: int = 8,
) -> pd.DataFrame:
    """Every claim in both readings and, beside them, L1's: where it is proved, and the worst that a search found.

    Returns
    -------
    DataFrame
        One row per claim, dimension, eps and reading: ``claim``, ``d``, ``eps`` (NaN for the tail claim, which knows ``eps/N'`` only),
        ``reading``, ``holds`` (the regime in which it is proved; for the tail claim, in which it holds), ``evaluations``,
        ``log10_ratio`` (largest exact probability over its target; for the tail claim over the grid `LOG_RATIOS`), ``counterexample``
        (or how many settings were tried without one).
    """
    rows = []
    for d in dimensions:
        for reading in Reading:
            stop = first_failure(d, reading)
            theorem = reading is Reading.LADDER or (reading is Reading.TAIL_INVERSION and d <= 2)
            rows.append(
                {
                    "claim": "P(chi2_d >= d + second) <= eps/N'",
                    "d": d,
                    "eps": math.nan,
                    "reading": reading.value,
                    "holds": "everywhere" if theorem else f"log(N'/eps) < {stop:.4g}",
                    "evaluations": len(LOG_RATIOS),
                    "log10_ratio": max(tail_claim(d, t, reading).orders for t in LOG_RATIOS),
                    "counterexample": "none exists" if theorem else f"d = {d}: log(N'/eps) = {stop:.4g}",
                }
            )
    for family in Family:
        for d in dimensions:
            for eps in levels:
                for reading in Reading:
                    found = counterexample(reading, family, d, eps, rng, generations, population)
                    rows.append(
                        {
                            "claim": f"passing implies error <= eps: {family.value}",
                            "d": d,
                            "eps": eps,
                            "reading": reading.value,
                            "holds": _regime(reading, family, d),
                            "evaluations": found.evaluations,
                            "log10_ratio": found.log_ratio / math.log(10),
                            "counterexample": str(found),
                        }
                    )
    return pd.DataFrame(rows)


def _regime(reading: Reading, family: Family, d: int) -> str:
    if reading is Reading.LADDER:
        return "everywhere (A2)"
    if family is Family.TIED:
        limit = _first_true(lambda t: _tied_unproved(d, 1.0, t, reading), 1e5)
        return f"log(N'/eps) <= {limit:.3g}" if limit > math.log(3) else "nowhere proved"
    return "nowhere proved"


def _reading(reading: Reading | str) -> Reading:
    try:
        return Reading(reading)
    except ValueError:
        raise InputError("reading", f'{reading!r} is unknown; use "a", "b" or "L1"') from None


def _whole(argument: str, value: object, least: int, why: str) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or not least <= value <= _LARGEST:
        raise InputError(argument, f"{value!r} is not a whole number from {least} to 2^53; {why}")


def _inside_unit(argument: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(argument, f"{value} is not inside (0, 1)")


def _log_ratio(value: float) -> None:
    if not 0 < value <= _LARGEST_LOG:
        raise InputError("log_ratio", f"{value} is not inside (0, {_LARGEST_LOG:g}]; it is log(N'/eps) with N' >= 1 > eps")


def _markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, numbers to four digits."""

    def cell(value: object) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float | np.floating):
            return "" if math.isnan(value) else "none" if value == math.inf else f"{value:.4g}"
        return str(value)

    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * frame.shape[1]]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def report(rng: np.random.Generator) -> str:
    """All tables of this module as one Markdown page."""
    tails = tail_table()
    wide = tails.pivot(index="d", columns=["reading", "log_ratio"], values="orders")
    claims = claims_table(rng)
    unit = ["claim", "d", "eps"]
    readings = [(r.value, claims[claims["reading"] == r.value].set_index(unit)) for r in Reading]
    columns = {name: part["log10_ratio"] for name, part in readings} | {f"{name} holds": part["holds"] for name, part in readings}
    ratios = pd.DataFrame(columns).reset_index()
    parts = [
        "# The published criterion, as claims",
        "The paper's text was not available. The criterion is restated from a public script that verifies it, in two readings: (a) as "
        "coded, (b) as the inversion of a tail bound would give. Counterexamples are to the criterion as restated; assumptions that the "
        "restatement does not carry may exclude them. L1 is the ladder's separation bound, put to the same tests.",
        "## The tail claim: P(chi2_d >= d + second) <= eps/N'",
        "Orders of magnitude by which the probability exceeds eps/N', by log(N'/eps); negative where the claim holds. For L1 the "
        "threshold is T1's, 2 sqrt(d t) + 2 t.",
    ]
    for reading in Reading:
        part = wide[reading.value].reset_index()
        part.columns = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in part.columns]
        parts += [f"### {reading.value}", _markdown(part)]
    parts += [
        "## Where each claim stops",
        "Values of log(N'/eps). tail_a, tail_b: the tail claim first fails. tail_b_proved: it is proved up to here. tied_a, tied_b: with "
        "equal covariances of unit variance and queries that follow the signature, passing is proved to imply the error up to here. "
        "N' is at least 3, so log(N'/eps) exceeds 1.1.",
        _markdown(failure_table()),
        "## All claims, and L1 beside them",
        "The whole criterion is tried on two tasks of one component each, one shared embedding, own component standard normal. A cell is "
        "the largest exact probability over its target that was found, in orders of magnitude: above 0 the claim is false there. Not "
        "finding a counterexample proves nothing, except with equal covariances and well-specified queries, where only the distance is "
        "left to vary. The last columns say where each is proved; for the tail claim, where it holds.",
        _markdown(ratios),
        "## Counterexamples",
        "The simplest that rounding the worst setting left, or how many settings were tried without one.",
        _markdown(claims[[*unit, "reading", "counterexample"]]),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown, and write them with ``--out FILE``."""
    parser = argparse.ArgumentParser(prog="python -m theory.published", description="The published criterion, tested as claims.")
    parser.add_argument("--out", type=Path, help="also write the page to this file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches (default 0)")
    options = parser.parse_args(arguments)
    page = report(np.random.default_rng(options.seed))
    if options.out is not None:
        options.out.write_text(page, encoding="utf-8")
    print(page, end="")


if __name__ == "__main__":
    main()
