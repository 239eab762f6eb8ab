"""Finite samples: the retrieval error of estimated signatures, bounded and simulated (theory/README.md, finite samples).

What estimating does to a component's own distance and determinant is in `theory.sample_moments`, whose names this module has, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy import special
from scipy.linalg import cho_solve
from scipy.special import gammaln, logsumexp

from theory.bound import Assumption, Bound
from theory.errors import InputError, check_generator, check_whole
from theory.exact import tail_probability
from theory.frames import data_frame
from theory.margin import accuracy, form_rounding, margins, outwards
from theory.mixture import QueryLaw, Rule, well_specified
from theory.quadratic import QuadraticLaw
from theory.sample_moments import ADVICE, inverse_bias, log_det_bias, own_distance, own_distance_mean, plug_in_favour
from theory.signatures import Signatures
from theory.tails import log_chernoff, log_chernoff_upper

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Estimator",
    "PlugInBound",
    "PlugInErrors",
    "exceedance",
    "inverse_bias",
    "log_det_bias",
    "log_det_limit",
    "own_distance",
    "own_distance_mean",
    "pair_forms",
    "plug_in_bound",
    "plug_in_errors",
    "plug_in_favour",
]

_GIVEN = "each component is estimated by the mean and unbiased covariance of independent samples of its own Gaussian"
_MARKOV = "expected error over the draw of the signature; P(error >= x) <= value / x"
# Floor of the log-probability of a cell: below it scipy's distribution functions round to zero.
_LEAST_LOG = -690.0
# Relative error allowed for in scipy's chi-square distribution functions and in the sums over cells.
_ROUNDING = 1e-9
# Exponents, beyond the pair's own, at which the log-determinants may cross their limit.
_SPARE = (2.0, 4.0, 6.0, 8.0)
# Parts of the pair's own exponent that are tried.
_PARTS = (1.0, 0.5, 0.2)
# Exponents beyond it for the chi-squares: beyond it the pair is given up.
_FAR = 6.0
# Bytes of dense forms that are decomposed at once.
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PlugInBound:
    """Bounds on the expected retrieval error of plug-in signatures.

    Attributes
    ----------
    clusters : dict from (task, cluster) to Bound
    tasks : dict from task to Bound
    overall : Bound
    """

    clusters: dict[tuple[int, int], Bound]
    tasks: dict[int, Bound]
    overall: Bound


def plug_in_bound(signatures: Signatures, law: QueryLaw | None = None, counts: ArrayLike | None = None, cells: int = 12) -> PlugInBound:
    """A proved bound on the expected error of the rule "max" over the draw of the signature, given the true components.

    For a query of component c with reference component t of its task, an error needs ``Ehat_s <= Ehat_t`` for some
    wrong s, with plug-in energies ``Ehat = Qhat + log det S`` (and known weights). Write ``y_s = x - xbar_s`` and
    ``R_s = y_s' Lam_s^-1 y_s``. Given ``(y_t, y_s)``, ``G_s = (n_s - 1) R_s / Qhat_s`` is chi-square with ``n_s - d``
    degrees of freedom, and so is ``G_t``, independent of each other and of the y (a Wishart matrix in one direction).
    Hence

    ``Ehat_s - Ehat_t = (n_s - 1) R_s / G_s - (n_t - 1) R_t / G_t + log det S_s - log det S_t + const``.

    For fixed ``G`` and log-determinants replaced by a lower limit l of their difference this is a quadratic form in
    jointly Gaussian variables, whose lower tail is exact. The bound is the sum over cells of ``(G_t, G_s)`` of the
    cell's probability times the tail at its worst corner, plus the Chernoff bound of
    ``P(log det S_s - log det S_t <= l)`` (Bartlett: a sum of logarithms of independent chi-squares, with moments in
    gamma functions), summed over s. Every l and every set of cells gives a bound; they are chosen by a small search. As
    all n grow it comes close to L5.

    Parameters
    ----------
    signatures : Signatures
        The true components, each estimated from samples of its own Gaussian; weights, if any, are taken as known.
    law : QueryLaw, optional
        Of queries, in one shared space; the signatures themselves if None (well-specified).
    counts : (K,) int array, optional
        Samples per component, more than d; ``signatures.counts`` by default.
    cells : int
        Cells for each of the two chi-squares of a pair; the cost grows with its square.

    Returns
    -------
    PlugInBound
        Each bounds an expected error; with `exceedance`, the probability over signatures that the error is large.

    Raises
    ------
    InputError
        If a count is missing or at most d, the law does not live in one shared space of the right dimension, or a covariance is too
        ill-conditioned.
    """
    counts = _counts(signatures, counts, plug_in=True)
    check_whole("cells", cells, 1)
    law = well_specified(signatures) if law is None else law
    if not law.shared:
        raise InputError("query law", f"lives in {law.means.shape[1]} spaces; the plug-in bound needs one shared space")
    if law.means.shape[2] != signatures.dimension:
        raise InputError("query law", f"has dimension {law.means.shape[2]}; signatures have {signatures.dimension}")
    if law.task.min() < 0 or law.task.max() >= signatures.tasks:
        raise InputError("query task", f"holds task {int(law.task.max())}; signatures know 0 to {signatures.tasks - 1}")
    known = accuracy(Rule(signatures))
    C = len(law)
    upper, binding = np.empty(C), np.empty(C, dtype=np.int64)
    for c in range(C):
        t = _reference(signatures, law, c)
        wrong = signatures.wrong(int(law.task[c]))
        pairs = np.array([_pair(signatures, law, counts, c, t, int(s), int(cells), known) for s in wrong])
        upper[c] = logsumexp(pairs) + 1e-14 * pairs.size
        binding[c] = wrong[int(np.argmax(pairs))]

    def bound(members: Bool[np.ndarray, " C"]) -> Bound:
        share = law.weights[members] / law.weights[members].sum()
        part = upper[members]
        idle = part >= 0
        log_formula = float(logsumexp(part if idle.all() else np.minimum(part, 0.0), b=share)) + 1e-14
        s = int(binding[members][np.argmax(np.minimum(part, 0.0) + np.log(share))])
        return Bound(
            "plug-in",
            Assumption.A4,
            log_formula,
            source="exact pairs at the worst corner of each cell of the estimates' fluctuations",
            given=_GIVEN,
            binding=(int(signatures.task[s]), s),
            note=_MARKOV,
        )

    keys = sorted({(int(k), int(t)) for k, t in zip(law.task, law.cluster, strict=True)})
    return PlugInBound(
        clusters={(k, t): bound(law.members(k, t)) for k, t in keys},
        tasks={k: bound(law.members(k)) for k in sorted({k for k, _ in keys})},
        overall=bound(np.ones(C, dtype=bool)),
    )


def exceedance(bound: Bound, error: float) -> Bound:
    """Markov's inequality: a bound on the probability, over the draw of the signature, that its true error is at least `error`.

    Parameters
    ----------
    bound : Bound
        On the expected error, from `plug_in_bound`.
    error : float
        Inside (0, 1].

    Raises
    ------
    InputError
        If the error is out of range, or the bound is another one: one that holds with a confidence says nothing of an expectation.
    """
    if bound.name != "plug-in":
        raise InputError("bound", f"is {bound.name}, no bound on the expected error; give one of plug_in_bound")
    if not 0 < error <= 1:
        raise InputError("error", f"{error} is not inside (0, 1]")
    return Bound(
        "plug-in exceedance",
        bound.level,
        bound.log_value - float(np.log(error)) + 1e-14,
        source=f"Markov's inequality on: {bound.source}",
        given=bound.given,
        note=f"probability over signatures of an error of {error:.3g} or more",
    )


def _reference(signatures: Signatures, law: QueryLaw, c: int) -> int:
    """The component of the true task of least expected energy: fixed by the laws alone, as any valid reference must be."""
    own = signatures.own(int(law.task[c]))
    whiteners = signatures.gaussians.whiteners[own]
    F = whiteners @ law.factors[c]
    a = np.einsum("kij,kj->ki", whiteners, law.means[c, 0] - signatures.means[own])
    return int(own[np.argmin((F**2).sum(axis=(1, 2)) + (a**2).sum(axis=1) + signatures.constants[own])])


def _pair(signatures: Signatures, law: QueryLaw, counts: np.ndarray, c: int, t: int, s: int, cells: int, known: float) -> float:
    """Log of the bound on the expected probability of ``Ehat_s <= Ehat_t`` under component c, at most 0; `known` as for `outwards`."""
    from scipy.stats import chi2

    d = signatures.dimension
    n_t, n_s = int(counts[t]), int(counts[s])
    own, other = pair_forms(signatures, law, c, t, n_t, s, n_s)
    constant = signatures.constants[s] - signatures.constants[t]
    unsure_own, unsure_other = (float(form_rounding((A[None], g[None], np.array([k])), known)[0]) for A, g, k in (own, other))
    constant -= 8 * known * (abs(signatures.constants[s]) + abs(signatures.constants[t]))

    def margin(G_t: np.ndarray, G_s: np.ndarray) -> QuadraticLaw:
        parts = []
        rows = max(1, _CHUNK_BYTES // (8 * 4 * d * d))
        for start in range(0, G_t.size, rows):
            a, b = ((n_s - 1) / G_s[start : start + rows]), ((n_t - 1) / G_t[start : start + rows])
            A, g, const = (
                np.multiply.outer(a, np.asarray(y)) - np.multiply.outer(b, np.asarray(x)) for x, y in zip(own, other, strict=True)
            )
            parts.append(QuadraticLaw.of_forms(A, g, const + constant - a * unsure_other - b * unsure_own))
        return QuadraticLaw(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("w", "g", "s", "c")))

    # Where the pair stands when nothing fluctuates. With few samples the expected error is far larger, so milder levels
    # are tried too: the level decides how far into the tails of G and of the log-determinants the search looks.
    middle = margin(np.array([float(n_t - d)]), np.array([float(n_s - d)])).shifted(log_det_bias(n_s, d) - log_det_bias(n_t, d))
    level = max(float(log_chernoff(middle)[0]), _LEAST_LOG)
    best: tuple[float, tuple[Any, ...]] = (np.inf, ())
    for part in _PARTS:
        # The own distance is largest for small G_t, the wrong one smallest for large G_s; beyond the last edge the pair
        # is given up.
        scores = np.linspace(special.ndtri_exp(part * level - _FAR), 1.5, cells + 1)
        edges_t = chi2.ppf(special.ndtr(scores), n_t - d)
        edges_s = chi2.isf(special.ndtr(scores), n_s - d)
        if edges_t[0] <= 0:
            continue
        below, above = chi2.cdf(edges_t, n_t - d), chi2.sf(edges_s, n_s - d)
        i, j = (index.ravel() for index in np.meshgrid(np.arange(cells + 1), np.arange(cells + 1), indexing="ij"))
        mass = _log_steps(below)[i] + _log_steps(above)[j]
        corners = margin(edges_t[i], edges_s[j])
        for spare in _SPARE:
            exponent = spare - part * level
            moved = corners.shifted(log_det_limit(n_s, n_t, d, exponent))
            rough = mass + log_chernoff(moved)
            given_up = logsumexp([-exponent, _floor(below[0]), _floor(above[0])])
            # What is given up stays as it is; exact tails are smaller than Chernoff's by about this factor.
            promise = float(np.logaddexp(given_up, logsumexp(rough) - 1.0))
            best = min(best, (promise, (given_up, mass, moved, rough)), key=lambda found: found[0])
    if not best[1]:
        return 0.0
    given_up, mass, moved, rough = best[1]
    # Exact tails only where they can show in the sum, and are not one to three digits.
    matter = (rough > logsumexp(rough) - np.log(1e3 * rough.size)) & (log_chernoff_upper(moved, 0.0) > np.log(1e-3))
    rough[matter] = np.minimum(rough[matter], mass[matter] + tail_probability(moved[matter]).log_high)
    return min(0.0, float(outwards(float(logsumexp(np.r_[given_up, rough])) + _ROUNDING, known, d)))


Form = tuple[Float[np.ndarray, "D D"], Float[np.ndarray, " D"], float]


def pair_forms(signatures: Signatures, law: QueryLaw, c: int, t: int, n_t: int, s: int, n_s: int) -> tuple[Form, Form]:
    """``R_t`` and ``R_s`` of `plug_in_bound` as ``z'Az + b'z + k`` in one standard normal z of ``D = 2d`` dimensions.

    ``(y_t, y_s)`` has covariance blocks ``C + Lam_t/n_t``, ``C`` and ``C + Lam_s/n_s``, nearly singular for large n;
    the Schur complement of the first is ``Lam_s/n_s + C (C + Lam_t/n_t)^-1 Lam_t/n_t``, which needs no difference.
    """
    C = law.covariances[c]
    noise_t, noise_s = signatures.covariances[t] / n_t, signatures.covariances[s] / n_s
    first = np.linalg.cholesky(C + noise_t)
    solved = cho_solve((first, True), noise_t)
    schur = C @ solved + noise_s
    second = np.linalg.cholesky((schur + schur.T) / 2)
    cross = np.linalg.solve(first, C).T
    d = signatures.dimension
    factors = (np.hstack([first, np.zeros((d, d))]), np.hstack([cross, second]))
    out = []
    for component, factor in zip((t, s), factors, strict=True):
        whitener = signatures.gaussians.whiteners[component]
        F = whitener @ factor
        a = whitener @ (law.means[c, 0] - signatures.means[component])
        out.append((F.T @ F, 2 * F.T @ a, float(a @ a)))
    return out[0], out[1]


def _log_steps(values: np.ndarray) -> np.ndarray:
    """Logs of the probabilities between increasing values of a distribution function, and above the last."""
    return _floor(np.diff(np.r_[values, 1.0]))


def _floor(probability: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.maximum(probability, 0.0)), _LEAST_LOG)


def log_det_limit(n_s: int, n_t: int, d: int, exponent: float) -> float:
    """A limit l with ``P(log det S_s/Lam_s - log det S_t/Lam_t <= l) <= exp(-exponent)``, by Chernoff.

    ``E chi2_k^a = 2^a Gamma(k/2 + a)/Gamma(k/2)`` for ``a > -k/2``. Every theta gives a valid limit; the largest on a
    grid is taken.
    """
    theta = (n_s - d) / 2 * np.r_[np.geomspace(1e-6, 0.5, 300), 1 - np.geomspace(0.5, 1e-3, 50)[1:]]
    j = np.arange(1, d + 1)[:, None]
    k_s, k_t = (n_s - j) / 2, (n_t - j) / 2
    log_mgf = (gammaln(k_s - theta) - gammaln(k_s) + theta * np.log((n_s - 1) / 2)).sum(axis=0)
    log_mgf += (gammaln(k_t + theta) - gammaln(k_t) - theta * np.log((n_t - 1) / 2)).sum(axis=0)
    # gammaln is accurate to a few ulps of its value.
    slack = 1e-14 * (np.abs(gammaln(k_s)).sum() + np.abs(gammaln(k_t + theta)).sum(axis=0) + np.abs(gammaln(k_s - theta)).sum(axis=0))
    return float(((-exponent - log_mgf - slack) / theta).max())


@dataclass(frozen=True)
class PlugInErrors:
    """The true retrieval error of signatures drawn at random, one entry a draw.

    Attributes
    ----------
    log_error : (N,) array
        Natural logarithm of the error: exact where `exact`, else the share of errors among simulated queries (``-inf``
        for none).
    log_upper : (N,) array
        L5: exact pair probabilities, summed over wrong components, clipped at one for every query component.
    exact : (N,) bool array
        Two tasks of one component each, where the only pair is the error, and the tail reached its accuracy.
    log_limit : float
        L5 of the true signature, the limit of many samples.
    """

    log_error: Float[np.ndarray, " N"]
    log_upper: Float[np.ndarray, " N"]
    exact: Bool[np.ndarray, " N"]
    log_limit: float

    @property
    def mean(self) -> float:
        """Average error over the draws: an estimate of what `plug_in_bound` bounds."""
        return float(np.exp(self.log_error).mean())

    def quantiles(self, levels: ArrayLike = (0.05, 0.25, 0.5, 0.75, 0.95)) -> pd.DataFrame:
        """Quantiles over the draws of the error and of its upper bound."""
        levels = np.atleast_1d(np.asarray(levels, dtype=np.float64))
        return data_frame(
            {
                "level": levels,
                "error": np.quantile(np.exp(self.log_error), levels),
                "upper": np.quantile(np.exp(self.log_upper), levels),
            }
        )

    def frame(self) -> pd.DataFrame:
        """One row a draw: `error`, `upper`, `exact`."""
        return data_frame({"error": np.exp(self.log_error), "upper": np.exp(self.log_upper), "exact": self.exact})


Estimator = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "d d"]]


def plug_in_errors(
    signatures: Signatures,
    counts: ArrayLike | None,
    draws: int,
    rng: np.random.Generator,
    estimator: Estimator | None = None,
    *,
    law: QueryLaw | None = None,
    simulations: int = 10_000,
) -> PlugInErrors:
    """Simulate the distribution of the true retrieval error over the draw of the signature.

    Each draw estimates every component from independent samples of its own Gaussian and computes the error of the rule
    "max" with the estimates under the unchanged query law.

    Parameters
    ----------
    signatures : Signatures
        The true components; weights, if any, are taken as known.
    counts : (K,) int array or None
        Samples per component; ``signatures.counts`` if None.
    draws : int
        Signatures to draw.
    rng : numpy.random.Generator
    estimator : callable, optional
        From samples (n, d) to a positive definite covariance (d, d), such as a shrinkage estimator; the unbiased sample
        covariance if None, drawn directly by Bartlett's decomposition. The mean is always the sample mean.
    law : QueryLaw, optional
        Of queries; the signatures themselves if None.
    simulations : int
        Queries drawn, once for all signatures, where the error is not exact.

    Raises
    ------
    InputError
        If a count is missing, or at most d without an estimator; if an estimate is no covariance; or if a setting is
        out of range.
    """
    counts = _counts(signatures, counts, plug_in=estimator is None)
    for name, value in (("draws", draws), ("simulations", simulations)):
        check_whole(name, value, 1)
    check_generator(rng)
    law = well_specified(signatures) if law is None else law
    drawn = [_draw(signatures, counts, rng, estimator) for _ in range(draws)]
    log_pairs = [_log_pairs(candidate, law) for candidate in (signatures, *drawn)]
    C = len(law)
    tail = tail_probability(_join([pairs[0] for pairs in log_pairs]))
    sizes = np.cumsum([len(pairs[0]) for pairs in log_pairs])
    upper, exact, error = np.empty(draws + 1), np.zeros(draws + 1, dtype=bool), np.empty(draws + 1)
    single = signatures.tasks == 2 and len(signatures) == 2
    for j, ((_, component), stop) in enumerate(zip(log_pairs, sizes, strict=True)):
        rows = slice(stop - component.size, stop)
        union = np.full(C, -np.inf)
        np.logaddexp.at(union, component, tail.log_high[rows])
        upper[j] = min(0.0, logsumexp(np.minimum(union, 0.0), b=law.weights) + 1e-14)
        exact[j] = single and tail.exact[rows].all()
        error[j] = min(upper[j], logsumexp(tail.log_p[rows], b=law.weights[component])) if exact[j] else np.nan
    if not exact[1:].all():
        x, label = law.sample(simulations, rng)
        truth = law.task[label]
        for row in np.flatnonzero(~exact[1:]):
            share = float((Rule(drawn[row]).retrieve(x) != truth).mean())
            error[1 + row] = np.log(share) if share else -np.inf
    return PlugInErrors(log_error=error[1:], log_upper=upper[1:], exact=exact[1:], log_limit=float(upper[0]))


def _log_pairs(signatures: Signatures, law: QueryLaw) -> tuple[QuadraticLaw, Int[np.ndarray, " P"]]:
    found = margins(Rule(signatures), law)
    return found.margin, found.component


def _join(laws: list[QuadraticLaw]) -> QuadraticLaw:
    return QuadraticLaw(*(np.concatenate([getattr(law, name) for law in laws]) for name in ("w", "g", "s", "c")))


def _draw(signatures: Signatures, counts: np.ndarray, rng: np.random.Generator, estimator: Estimator | None) -> Signatures:
    """Signatures with every component estimated afresh."""
    K, d = signatures.means.shape
    means, covariances = np.empty((K, d)), np.empty((K, d, d))
    for k in range(K):
        n, factor = int(counts[k]), np.linalg.cholesky(signatures.covariances[k])
        if estimator is None:
            means[k] = signatures.means[k] + factor @ rng.standard_normal(d) / np.sqrt(n)
            # Bartlett: the Cholesky factor of a Wishart matrix has normals below and chis on the diagonal.
            bartlett = np.tril(rng.standard_normal((d, d)), -1)
            bartlett[np.diag_indices(d)] = np.sqrt(rng.chisquare(n - 1 - np.arange(d)))
            root = factor @ bartlett / np.sqrt(n - 1)
            covariances[k] = root @ root.T
        else:
            samples = signatures.means[k] + rng.standard_normal((n, d)) @ factor.T
            means[k] = samples.mean(axis=0)
            estimate = np.asarray(estimator(samples), dtype=np.float64)
            if estimate.shape != (d, d):
                raise InputError("estimator", f"gave shape {estimate.shape} for samples of shape {samples.shape}; needs {(d, d)}")
            covariances[k] = estimate
    return Signatures(means, covariances, signatures.task, signatures.weights)


def _counts(signatures: Signatures, counts: ArrayLike | None, plug_in: bool) -> Int[np.ndarray, " K"]:
    K, d = signatures.means.shape
    given = signatures.counts if counts is None else counts
    if given is None:
        raise InputError("counts", f"are missing; give the samples of each of the {K} components")
    given = np.asarray(given)
    if given.shape != (K,) or not np.issubdtype(given.dtype, np.integer) or (given < 1).any():
        raise InputError("counts", f"needs {K} positive integers, one a component")
    if plug_in and (given <= d).any():
        k = int(np.argmin(given))
        raise InputError(f"counts[{k}]", f"{given[k]} samples leave the covariance in {d} dimensions singular; {ADVICE}")
    return given.astype(np.int64)
