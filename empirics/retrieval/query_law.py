"""The law that bounds assume of a query: fitted to held-out samples of its own, finer than the signature.

Inside every true cluster a small Gaussian mixture over all spaces jointly. It is found with diagonal covariances; then each
component's covariance is estimated from its own samples (`QueryLawConfig.covariance`):

=========== =============================================================================================================
ledoit-wolf full and shrunk
diagonal    the variances that the mixture found
low-rank    leading eigenvectors of the shrunk estimate plus a diagonal (`empirics.retrieval.estimators`)
auto        that of the three, and that number of components, under which samples left out of the fit are likeliest
=========== =============================================================================================================

Every choice is made on the query part of the data; the test part, against which the law is judged, has no say.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from empirics.config import QueryLawConfig
from empirics.retrieval.estimators import factored_gaussian, shrunk_gaussian
from empirics.seeding import sklearn_seed
from theory.errors import InputError
from theory.mixture import Gaussians, QueryLaw

# Floor on variances, relative to the spread within clusters: a component of a few samples must not collapse on them.
_FLOOR = 1e-2
# Covariances among which "auto" chooses, those of fewest parameters first: the first wins a tie.
_CANDIDATES = ("diagonal", "low-rank", "ledoit-wolf")
# Nats a sample within which two candidates are equal: a low-rank covariance of full rank differs from its origin by rounding.
_TIE = 1e-6
# Parts into which "auto" deals each cluster's samples; each is scored by the law fitted to the others.
_FOLDS = 4


@dataclass(frozen=True)
class _Component:
    """One component of a cluster's mixture, in units of the spread within clusters."""

    mean: Float[np.ndarray, " D"]
    covariance: Float[np.ndarray, "D D"]
    weight: float


@dataclass(frozen=True)
class LawChoice:
    """What "auto" chose, and by how much.

    Attributes
    ----------
    config : QueryLawConfig
        With the covariance and the samples a component that were chosen.
    log_likelihood : dict of str to float
        Cross-validated log-likelihood in nats a sample of every candidate, "covariance, samples a component", relative to
        the chosen one.
    """

    config: QueryLawConfig
    log_likelihood: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "covariance": self.config.covariance,
            "samples_per_component": self.config.samples_per_component,
            "log_likelihood": self.log_likelihood,
        }


def fit_query_law(
    x: Float[np.ndarray, "n S d"],
    task: Int[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " K"],
    config: QueryLawConfig,
    rng: np.random.Generator,
    *,
    components: int | None = None,
    name: str,
) -> QueryLaw:
    """A Gaussian mixture inside every true cluster, over all spaces jointly.

    Parameters
    ----------
    x : (n, S, d) array
        Held-out samples in every space.
    task, cluster : (n,) int arrays
    weights : (K,) array
        Probability of each cluster in the traffic that the bounds speak of.
    config : QueryLawConfig
        With covariance "auto", `choose_query_law` is asked first.
    rng : numpy.random.Generator
    components : int, optional
        Components a cluster; by default one for every `samples_per_component` samples.
    name : str

    Raises
    ------
    InputError
        For a cluster with fewer than three samples.
    """
    if config.covariance == "auto":
        config = choose_query_law(x, cluster, config, rng, components=components).config
    _, S, d = x.shape
    flat, unit = _in_units(x, cluster)
    means, covariances, tasks, clusters, masses = [], [], [], [], []
    for t in np.unique(cluster):
        own = flat[cluster == t]
        count = components or max(1, own.shape[0] // config.samples_per_component)
        for part in _fit_cluster(own, count, (config.covariance,), config.rank, rng, f"cluster {t}")[config.covariance]:
            if part.weight * weights[t] <= 0:
                continue
            means.append((part.mean * unit).reshape(S, d))
            covariances.append(part.covariance * np.outer(unit, unit))
            tasks.append(int(task[cluster == t][0]))
            clusters.append(int(t))
            masses.append(float(part.weight * weights[t]))
    return QueryLaw(np.stack(means), np.stack(covariances), np.array(tasks), np.array(clusters), np.array(masses), name=name)


def choose_query_law(
    x: Float[np.ndarray, "n S d"],
    cluster: Int[np.ndarray, " n"],
    config: QueryLawConfig,
    rng: np.random.Generator,
    *,
    components: int | None = None,
) -> LawChoice:
    """The covariance and number of components with the greatest cross-validated log-likelihood, one choice for all clusters.

    Candidates are every covariance with one component a cluster, and with one for each 2 s, s and s / 2 samples, where s is
    `samples_per_component` (those that come to other numbers than the one before). A law chosen so is an estimate like any
    other: bounds under it still assume it.

    Parameters
    ----------
    x, cluster, config, rng, components
        As for `fit_query_law`; with `components` given, only covariances are compared.

    Raises
    ------
    InputError
        For a cluster with fewer than six samples, which cannot be fitted on one half and scored on the other.
    """
    flat, _ = _in_units(x, cluster)
    _, members = np.unique(cluster, return_counts=True)
    sizes = _sizes(members, config.samples_per_component) if components is None else [config.samples_per_component]
    totals = {(covariance, size): 0.0 for size in sizes for covariance in _CANDIDATES}
    for t in np.unique(cluster):
        own = flat[cluster == t]
        if own.shape[0] < 6:
            raise InputError(
                f"query law of cluster {t}", f"has {own.shape[0]} held-out samples; covariance auto needs at least 6: name another"
            )
        fold = rng.permutation(np.arange(own.shape[0]) % min(_FOLDS, own.shape[0] // 3))
        for f in range(fold.max() + 1):
            train, left_out = own[fold != f], own[fold == f]
            # Sizes that come to the same number of components share one fit.
            counts = {size: components or max(1, own.shape[0] // size) for size in sizes}
            for count in sorted(set(counts.values())):
                fitted = _fit_cluster(train, min(count, train.shape[0]), _CANDIDATES, config.rank, rng, f"cluster {t}")
                for covariance, parts in fitted.items():
                    score = _log_likelihood(parts, left_out)
                    for size in sizes:
                        totals[covariance, size] += score if counts[size] == count else 0.0
    greatest = max(totals.values())
    # The first of equals: fewer components, then simpler covariances.
    best = next(key for key, value in totals.items() if value >= greatest - _TIE * x.shape[0])
    chosen = config.model_copy(update={"covariance": best[0], "samples_per_component": best[1]})
    return LawChoice(chosen, {f"{kind}, {size}": (value - totals[best]) / x.shape[0] for (kind, size), value in totals.items()})


def _sizes(members: Int[np.ndarray, " K"], usual: int) -> list[int]:
    """Samples a component to try, in falling order, beginning with one component for every cluster."""
    sizes, seen = [], set()
    for size in (int(members.max()), 2 * usual, usual, max(2, usual // 2)):
        counts = tuple(np.maximum(1, members // size).tolist())
        if counts not in seen:
            sizes.append(size)
            seen.add(counts)
    return sizes


def _in_units(x: Float[np.ndarray, "n S d"], cluster: Int[np.ndarray, " n"]) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, " D"]]:
    """Samples over all spaces in units of the spread within clusters, and these units.

    Shrinkage pulls a covariance towards a multiple of the identity. In principal coordinates, whose spreads differ by orders
    of magnitude, that would inflate the narrow ones; in units of the spread within clusters it does not.
    """
    flat = x.reshape(x.shape[0], -1)
    known, code, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    if sizes.min() < 3:
        t = int(np.argmin(sizes))
        raise InputError(f"query law of cluster {known[t]}", f"has {sizes[t]} held-out samples; needs at least 3")
    centres = np.stack([np.bincount(code, column) for column in flat.T], axis=1) / sizes[:, None]
    unit = np.sqrt(((flat - centres[code]) ** 2).mean(axis=0))
    if not (unit > 0).all():
        raise InputError("query law", f"coordinate {int(np.argmin(unit))} does not vary within any cluster; lower signature.dimension")
    return flat / unit, unit


def _fit_cluster(
    own: Float[np.ndarray, "n D"], count: int, covariances: tuple[str, ...], rank: int, rng: np.random.Generator, what: str
) -> dict[str, list[_Component]]:
    """A cluster's mixture with each of some kinds of covariance; means and weights differ by the estimator only."""
    model = GaussianMixture(count, covariance_type="diag", reg_covar=_FLOOR, random_state=sklearn_seed(rng), max_iter=200)
    with warnings.catch_warnings():
        # A mixture stopped early is as good a law as any: it is judged on other samples, not by its likelihood.
        warnings.simplefilter("ignore", ConvergenceWarning)
        hard = model.fit(own).predict(own)
    out: dict[str, list[_Component]] = {kind: [] for kind in covariances}
    for c in range(count):
        members = own[hard == c]
        for kind, parts in out.items():
            if kind == "diagonal" or members.shape[0] < 3:
                mean, covariance = model.means_[c], np.diag(model.covariances_[c])
            else:
                mean, covariance = _estimate(members, kind, rank, f"query component {c} of {what}")
            parts.append(_Component(mean, covariance, float(model.weights_[c])))
    return out


def _estimate(x: Float[np.ndarray, "n D"], kind: str, rank: int, what: str) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, "D D"]]:
    floor = _FLOOR * np.eye(x.shape[1])
    if kind == "ledoit-wolf":
        mean, covariance = shrunk_gaussian(x, "ledoit-wolf", what)
        return mean, covariance + floor
    mean, factor, diagonal = factored_gaussian(x, kind, rank, what)
    return mean, factor @ factor.T + np.diag(diagonal) + floor


def _log_likelihood(parts: list[_Component], x: Float[np.ndarray, "n D"]) -> float:
    """Total log-density of some samples, up to a constant that all candidates share."""
    weights = np.array([part.weight for part in parts])
    keep = weights > 0
    gaussians = Gaussians(np.stack([p.mean for p in parts])[keep], np.stack([p.covariance for p in parts])[keep])
    return float(logsumexp(-gaussians.energies(x) / 2, b=weights[keep], axis=1).sum())
