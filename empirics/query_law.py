"""The law that bounds assume of a query: fitted to held-out samples of its own, finer than the signature."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from empirics.config import QueryLawConfig
from empirics.seeding import sklearn_seed
from empirics.signatures import shrunk_gaussian
from theory.errors import InputError
from theory.mixture import QueryLaw

# Floor on variances, relative to the spread within clusters: a component of a few samples must not collapse on them.
_FLOOR = 1e-2


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
    rng : numpy.random.Generator
    components : int, optional
        Components a cluster; by default one for every `samples_per_component` samples.
    name : str

    Raises
    ------
    InputError
        For a cluster with fewer than three samples.
    """
    n, S, d = x.shape
    flat = x.reshape(n, S * d)
    # Shrinkage pulls a covariance towards a multiple of the identity. In principal coordinates, whose spreads differ by
    # orders of magnitude, that would inflate the narrow ones; in units of the spread within clusters it does not.
    _, code = np.unique(cluster, return_inverse=True)
    centres = np.stack([np.bincount(code, column) for column in flat.T], axis=1) / np.bincount(code)[:, None]
    unit = np.sqrt(((flat - centres[code]) ** 2).mean(axis=0))
    if not (unit > 0).all():
        raise InputError("query law", f"coordinate {int(np.argmin(unit))} does not vary within any cluster; lower signature.dimension")
    flat = flat / unit
    means, covariances, tasks, clusters, masses = [], [], [], [], []
    for t in np.unique(cluster):
        own = flat[cluster == t]
        if own.shape[0] < 3:
            raise InputError(f"query law of cluster {t}", f"has {own.shape[0]} held-out samples; needs at least 3")
        count = components or max(1, own.shape[0] // config.samples_per_component)
        model = GaussianMixture(count, covariance_type="diag", reg_covar=_FLOOR, random_state=sklearn_seed(rng), max_iter=200)
        with warnings.catch_warnings():
            # A mixture stopped early is as good a law as any: it is judged on other samples, not by its likelihood.
            warnings.simplefilter("ignore", ConvergenceWarning)
            hard = model.fit(own).predict(own)
        for c in range(count):
            members = own[hard == c]
            if config.covariance == "ledoit-wolf" and members.shape[0] >= 3:
                mean, covariance = shrunk_gaussian(members, "ledoit-wolf", f"query component {c} of cluster {t}")
                covariance = covariance + _FLOOR * np.eye(S * d)
            else:
                mean, covariance = model.means_[c], np.diag(model.covariances_[c])
            if model.weights_[c] * weights[t] <= 0:
                continue
            means.append((mean * unit).reshape(S, d))
            covariances.append(covariance * np.outer(unit, unit))
            tasks.append(int(task[cluster == t][0]))
            clusters.append(int(t))
            masses.append(float(model.weights_[c] * weights[t]))
    return QueryLaw(np.stack(means), np.stack(covariances), np.array(tasks), np.array(clusters), np.array(masses), name=name)
