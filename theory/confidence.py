"""The confidence version of every rung: with probability ``1 - beta`` over the held-out data, the error is at most the value.

Proof: theory/README.md, confidence.

A rung is a bound on ``P(error)`` for the law P whose mean and covariance were estimated; the query follows the true law
Q. If both are Gaussian and the estimates are the sample mean and the unbiased covariance of n independent samples, the
divergences from Q to P are *pivotal*: an affine map brings Q to the standard normal and leaves them unchanged, so their
law depends on n and the dimension alone, and their quantiles can be simulated. With the divergences below their
quantiles, the balls of `theory.balls` bound ``Q(error)`` for every event at once, whatever the rule, the rung and the
signatures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from theory.balls import kl_ball, renyi_ball
from theory.bound import Bound
from theory.errors import InputError, check_generator, check_whole
from theory.frames import data_frame
from theory.ladder import ladder
from theory.mixture import QueryLaw, Rule
from theory.signatures import Signatures

if TYPE_CHECKING:
    import pandas as pd

# Orders of the Renyi balls; the best one grows with -log p and with n, and is limited by the smallest eigenvalue of the
# estimate.
ALPHAS = 1 + 0.1 * 1.3 ** np.arange(32)
# The rungs that are bounds on the error under a Gaussian law, each proved without further assumption.
CONFIDENT = ("L1", "L1b", "L2", "L3", "L5", "L5b", "L7")
_GIVEN = "each query component's moments come from labelled independent samples that the rule has not seen; weights are taken as given"
# Share of beta that pays for quantiles being simulated.
_SIMULATION = 0.1
# Relative rounding error of a simulated divergence.
_ROUNDING = 1e-9
# Simulated draws, by default, times the level of one statement.
_EVENTS = 80
# Numbers that one block of the simulation may hold.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class DivergenceRadius:
    """Radii that hold together: with probability ``1 - beta``, ``KL(Q, P) <= kl`` and ``D_alpha(Q, P) <= renyi`` for every alpha.

    Q is the true Gaussian, P the Gaussian with the sample mean and `widening` times the unbiased sample covariance of n
    independent samples of Q. The probability is over the samples and the simulation of the quantiles.

    Attributes
    ----------
    n : int
        Samples that the moments were estimated from.
    D : int
        Dimension, over all stacked spaces.
    beta : float
        Probability that a radius fails.
    kl : float
        In nats.
    alphas : (A,) array
    renyi : (A,) array
        In nats. Orders whose divergence is too often infinite are left out.
    widening : float
    """

    n: int
    D: int
    beta: float
    kl: float
    alphas: Float[np.ndarray, " A"]
    renyi: Float[np.ndarray, " A"]
    widening: float = 1.0


def divergence_radius(
    n: int, D: int, beta: float, rng: np.random.Generator, draws: int = 20_000, simultaneous: int = 1, widening: float = 1.0
) -> DivergenceRadius:
    """Simultaneous quantiles of the divergences from a Gaussian to its estimate.

    Half the draws give every divergence's marginal distribution; the other half, independent of it, give the largest
    marginal rank at which any divergence of a draw stands. One rank for all divergences is then an order statistic of
    the second half, chosen so that its coverage falls short of ``1 - 0.9 beta`` with probability at most ``0.1 beta``,
    by the binomial law: exact for any number of draws.

    Parameters
    ----------
    n : int
        Independent samples, more than D.
    D : int
        Dimension over all stacked spaces.
    beta : float
        Probability of failure of all `simultaneous` statements together.
    rng : numpy.random.Generator
        Independent of the data.
    draws : int
        Simulated pairs of estimates.
    simultaneous : int
        Number of radii that must hold together (Bonferroni).
    widening : float
        Factor on the estimated covariance, at least 1. A wider P has finite divergences of higher order, which matter
        for rare events, but makes errors more frequent under P. It must not depend on the data.

    Raises
    ------
    InputError
        If n <= D, a setting is out of range, or the draws are too few for beta.
    """
    check_generator(rng)
    n, D = _whole("n", n, 2), _whole("D", D, 1)
    draws, simultaneous = _whole("draws", draws, 2), _whole("simultaneous", simultaneous, 1)
    if n <= D:
        raise InputError(
            "n", f"{n} samples leave the covariance in {D} dimensions singular; gather more than {D}, or project to fewer dimensions"
        )
    _factor("widening", widening)
    each = _level("beta", beta) / simultaneous
    second = draws // 2
    # The least k whose k-th smallest of `second` values covers less than 1 - 0.9 beta with probability at most 0.1
    # beta.
    from scipy.stats import binom

    k = int(binom.isf(_SIMULATION * each, second, 1 - (1 - _SIMULATION) * each)) + 1
    if k > second:
        least = int(np.ceil(2.3 * np.log(1 / (_SIMULATION * each)) / each))
        raise InputError(
            "draws", f"{draws} draws cannot certify a level of {each:.3g}; more give tighter radii, and it takes at least {least}"
        )
    marginal = np.sort(divergences(n, D, ALPHAS, draws - second, rng, widening), axis=0)
    # An order that is infinite this often would use up beta by itself; judged on the first half only. KL is never
    # infinite.
    used = np.flatnonzero(np.isinf(marginal).mean(axis=0) <= 0.25 * each)
    marginal, alphas = marginal[:, used], ALPHAS[used[1:] - 1]
    fresh = divergences(n, D, alphas, second, rng, widening)
    rank = np.max([np.searchsorted(marginal[:, j], fresh[:, j]) for j in range(used.size)], axis=0)
    chosen = int(np.sort(rank)[k - 1])
    radii = np.full(used.size, np.inf) if chosen == marginal.shape[0] else marginal[chosen] * (1 + _ROUNDING)
    return DivergenceRadius(n, D, beta, float(radii[0]), alphas, radii[1:], float(widening))


def divergences(
    n: int, D: int, alphas: Float[np.ndarray, " A"], draws: int, rng: np.random.Generator, widening: float = 1.0
) -> Float[np.ndarray, "draws A1"]:
    """Draws of ``KL(Q, P)`` (first column) and ``D_alpha(Q, P)`` for Q standard normal and P its estimate from n samples.

    ``P = N(m, W)`` with ``m ~ N(0, I/n)`` and ``(n-1) W / widening`` Wishart, independent. Both divergences are
    invariant under rotation, so W is taken tridiagonal, as a product of a bidiagonal matrix of independent chi
    variables (Dumitriu and Edelman 2002): every determinant and quadratic form is then a recurrence of D steps. With
    ``M = alpha W - (alpha - 1) I``, which must be positive definite (else infinite),
    ``D_alpha = (alpha/2) m' M^-1 m - (log det M - alpha log det W)/(2 (alpha - 1))`` (Gil, Alajaji and Linder 2013).

    Parameters
    ----------
    n, D : int
        Samples and dimension, n > D.
    alphas : (A,) array
        Orders above 1.
    draws : int
    rng : numpy.random.Generator
    widening : float
        Factor on the covariance of P.
    """
    out = np.empty((draws, 1 + alphas.size))
    step = max(1, _BLOCK // (D + 4 * alphas.size))
    for start in range(0, draws, step):
        rows = slice(start, min(start + step, draws))
        out[rows] = _divergences(n, D, alphas, rows.stop - rows.start, rng, widening)
    return out


def _divergences(n: int, D: int, alphas: np.ndarray, draws: int, rng: np.random.Generator, widening: float) -> np.ndarray:
    scale = widening / (n - 1)
    diagonal = rng.chisquare(n - 1 - np.arange(D), size=(draws, D)) * scale
    below = np.zeros((draws, D))
    below[:, 1:] = rng.chisquare(np.arange(D - 1, 0, -1), size=(draws, D - 1)) * scale
    m = rng.standard_normal((draws, D)) / np.sqrt(n)
    log_det = np.log(diagonal).sum(axis=1)
    # KL from the bidiagonal factor B itself: |B^-1 m|^2 forwards, and |B^-1|^2 from the norms of its columns,
    # backwards.
    solved, square = np.zeros(draws), np.zeros(draws)
    for j in range(D):
        solved = (m[:, j] - np.sqrt(below[:, j]) * solved) / np.sqrt(diagonal[:, j])
        square += solved**2
    column, trace = np.zeros(draws), np.zeros(draws)
    for j in range(D - 1, -1, -1):
        column = (1 + (below[:, j + 1] * column if j + 1 < D else 0.0)) / diagonal[:, j]
        trace += column
    out = np.empty((draws, 1 + alphas.size))
    out[:, 0] = 0.5 * np.maximum(0.0, trace + square - D + log_det)
    # Renyi from the pivots of M; a pivot that is not positive makes the draw infinite, and is replaced to let the rest
    # go through.
    finite = np.ones((draws, alphas.size), dtype=bool)
    pivot, solved = np.ones((draws, alphas.size)), np.zeros((draws, alphas.size))
    log_pivots, squares = np.zeros((draws, alphas.size)), np.zeros((draws, alphas.size))
    for j in range(D):
        # W_jj = B_jj^2 + B_j,j-1^2, W_j,j-1 = B_j,j-1 B_j-1,j-1.
        off = np.sqrt(below[:, j] * diagonal[:, j - 1])[:, None] * alphas
        ratio = off / pivot
        pivot = (diagonal[:, j] + below[:, j])[:, None] * alphas - (alphas - 1) - off * ratio
        finite &= pivot > 0
        pivot = np.where(finite, pivot, 1.0)
        solved = np.where(finite, m[:, j, None] - ratio * solved, 0.0)
        squares += solved**2 / pivot
        log_pivots += np.log(pivot)
    value = 0.5 * alphas * squares - (log_pivots - alphas * log_det[:, None]) / (2 * (alphas - 1))
    out[:, 1:] = np.where(finite, np.maximum(0.0, value), np.inf)
    return out


def inflate(log_p: ArrayLike, radius: DivergenceRadius) -> Float[np.ndarray, "..."]:
    """Log of the bound under the true law, given a bound under the estimated one and radii that hold.

    The least of the KL ball and of all Renyi balls; increasing in `log_p`, never below it, at most 0, rounded up.

    Parameters
    ----------
    log_p : array
        Natural logarithms of bounds on probabilities under P, the estimated law (widened, if the radius is).
    radius : DivergenceRadius

    Raises
    ------
    InputError
        If a value is NaN.
    """
    best = kl_ball(log_p, radius.kl)
    for alpha, renyi in zip(radius.alphas, radius.renyi, strict=True):
        best = np.minimum(best, renyi_ball(log_p, float(alpha), renyi))
    return best


@dataclass(frozen=True)
class Confident:
    """Bounds that all hold together with one confidence.

    Attributes
    ----------
    law : str
        Name of the estimated query law.
    confidence : float
        ``1 - beta``, of all bounds jointly, over held-out data and simulated quantiles.
    radii : tuple of DivergenceRadius
        Of every query component, in the law's order.
    clusters : dict from (task, cluster) to dict of rung name to Bound
    tasks : dict from task to the same
    overall : dict of rung name to Bound
    """

    law: str
    confidence: float
    radii: tuple[DivergenceRadius, ...]
    clusters: dict[tuple[int, int], dict[str, Bound]]
    tasks: dict[int, dict[str, Bound]]
    overall: dict[str, Bound]

    def frame(self) -> pd.DataFrame:
        """One row per level, unit and rung, with the fields of `Bound.to_dict`."""
        rows: list[tuple[str, int | None, int | None, dict[str, Bound]]] = [("overall", None, None, self.overall)]
        rows += [("task", k, None, rungs) for k, rungs in self.tasks.items()]
        rows += [("cluster", k, t, rungs) for (k, t), rungs in self.clusters.items()]
        frame = data_frame(
            {"level_of": level, "task": k, "cluster": t, "rung": name, **bound.to_dict()}
            for level, k, t, rungs in rows
            for name, bound in rungs.items()
        )
        return frame.drop(columns="binding").astype({"task": "Int64", "cluster": "Int64"})


def confident(
    log_p: Mapping[str, ArrayLike],
    law: QueryLaw,
    counts: ArrayLike,
    beta: float,
    rng: np.random.Generator,
    *,
    draws: int | None = None,
    widening: float = 1.0,
) -> Confident:
    """Turn bounds under an estimated query law into bounds that hold with confidence under the true one.

    With probability at least ``1 - beta`` over the held-out samples and the simulated quantiles, *all* values returned
    (every rung, cluster and task, and overall) are at least the true error, provided that

    - the true law of each query component is Gaussian over the stacked spaces (level A3 or A4, whatever the rung assumed), and its
      mean and unbiased, unshrunken covariance in `law` come from ``counts[c]`` independent samples labelled with that
      component;
    - the rule was fixed without those samples;
    - the weights of the components are the true ones: they are taken as given.

    A mixture fitted by expectation maximisation meets none of this: its components have no labelled samples.

    Parameters
    ----------
    log_p : mapping from rung name to (C,) array
        Natural logarithms of bounds on ``P(error | component c)`` under ``N(mean, widening * covariance)``; above 0 is
        read as 0.
    law : QueryLaw
        The estimated law; its weights, tasks and clusters are used.
    counts : (C,) int array
        Samples behind each component, more than ``S * d``.
    beta : float
        Probability that any of the statements fails.
    rng : numpy.random.Generator
        Independent of the data.
    draws : int, optional
        Simulated estimates for each distinct count; enough for beta and the number of components by default.
    widening : float
        See `divergence_radius`.

    Raises
    ------
    InputError
        If shapes do not fit, a value is NaN, a count is too small, or a setting is out of range.
    """
    C = len(law)
    counts = _counts(counts, law)
    if not log_p:
        raise InputError("log_p", "holds no rung; give at least one")
    values = {}
    for name, given in log_p.items():
        values[name] = np.asarray(given, dtype=np.float64)
        if values[name].shape != (C,) or np.isnan(values[name]).any():
            raise InputError(f"log_p[{name!r}]", f"needs {C} natural logarithms without NaN, one a query component")
    D = law.means.shape[1] * law.means.shape[2]
    # One simulation serves all components of the same count.
    if draws is None:
        draws = max(20_000, int(np.ceil(_EVENTS * C / _level("beta", beta))))
    found = {n: divergence_radius(n, D, beta, rng, draws, C, widening) for n in sorted(set(counts.tolist()))}
    radii = tuple(found[n] for n in counts.tolist())
    upper = {name: np.empty(C) for name in values}
    for n, radius in found.items():
        rows_of_n = counts == n
        together = inflate(np.stack([value[rows_of_n] for value in values.values()]), radius)
        for name, inflated in zip(upper, together, strict=True):
            upper[name][rows_of_n] = inflated

    def rows(members: Bool[np.ndarray, " C"]) -> dict[str, Bound]:
        return {name: _average(name, law, upper[name][members], members, beta) for name in upper}

    keys = sorted({(int(k), int(t)) for k, t in zip(law.task, law.cluster, strict=True)})
    return Confident(
        law=law.name,
        confidence=1 - beta,
        radii=radii,
        clusters={(k, t): rows(law.members(k, t)) for k, t in keys},
        tasks={k: rows(law.members(k)) for k in sorted({k for k, _ in keys})},
        overall=rows(np.ones(C, dtype=bool)),
    )


def confident_ladder(
    rule: Rule | Signatures,
    law: QueryLaw,
    counts: ArrayLike,
    beta: float,
    rng: np.random.Generator,
    *,
    draws: int | None = None,
    widening: float = 1.0,
) -> Confident:
    """The ladder with confidence: the rungs `CONFIDENT` under an estimated law, inflated to hold under the true one.

    See `confident` for what is assumed. L6 and L8 are statistical already; L4 speaks of batches, whose divergence is
    that of one query times their size; and the robust rungs answer another question.

    Parameters
    ----------
    rule : Rule or Signatures
        Fixed without the samples behind `law`.
    law : QueryLaw
        Sample means and unbiased covariances of held-out samples, one Gaussian for every cluster.
    counts : (C,) int array
        Samples behind each component.
    beta, rng, draws, widening
        As for `confident`.

    Raises
    ------
    InputError
        As `confident`, and if a cluster has several query components.
    """
    counts = _counts(counts, law)
    keys = list(zip(law.task.tolist(), law.cluster.tolist(), strict=True))
    if len(set(keys)) < len(keys):
        k, t = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            "query law",
            f"has {keys.count((k, t))} components in cluster {t} of task {k}; a fitted mixture has no labelled counts, so give "
            "one Gaussian a cluster (its sample mean and unbiased covariance), or use the certificate L8, which needs no law",
        )
    _level("beta", beta)
    widened = dataclasses.replace(law, covariances=_factor("widening", widening) * law.covariances)
    clusters = ladder(rule, widened, simulations=0).clusters
    log_p = {name: np.array([clusters[key][name].log_value for key in keys]) for name in CONFIDENT if name in clusters[keys[0]]}
    return confident(log_p, law, counts, beta, rng, draws=draws, widening=widening)


def _average(name: str, law: QueryLaw, upper: np.ndarray, members: np.ndarray, beta: float) -> Bound:
    share = law.weights[members] / law.weights[members].sum()
    idle = upper >= 0
    # Ulps of the average itself; weights sum to one only to rounding.
    log_value = 0.0 if idle.all() else min(0.0, float(logsumexp(upper, b=share)) + 1e-14)
    note = f"{int(idle.sum())} of {idle.size} query components, weight {share[idle].sum():.2f}, contribute one" if idle.any() else ""
    return Bound(
        name,
        law.level,
        log_value,
        source=f"{name} under the estimated law, inflated by the divergence of the true law from it",
        given=_GIVEN,
        confidence=1 - beta,
        note=note,
    )


def _counts(counts: ArrayLike, law: QueryLaw) -> Int[np.ndarray, " C"]:
    counts = np.asarray(counts)
    C, S, d = law.means.shape
    if counts.shape != (C,) or not np.issubdtype(counts.dtype, np.integer):
        raise InputError("counts", f"needs {C} integers, one a query component")
    if (counts <= S * d).any():
        c = int(np.argmin(counts))
        raise InputError(
            f"counts[{c}]",
            f"is {counts[c]}, and the sample covariance of {S * d} stacked dimensions needs more than {S * d} samples; gather more or "
            "project to fewer dimensions (a shrunken covariance has no confidence version)",
        )
    return counts


def _level(argument: str, value: float) -> float:
    if not 0 < value < 1:
        raise InputError(argument, f"{value} is not inside (0, 1)")
    return float(value)


def _factor(argument: str, value: float) -> float:
    if not 1 <= value < np.inf:
        raise InputError(argument, f"{value} is not a finite factor of at least 1")
    return float(value)


def _whole(argument: str, value: int, least: int) -> int:
    check_whole(argument, value, least)
    return int(value)
