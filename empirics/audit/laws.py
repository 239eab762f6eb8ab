"""Query laws anew from the held-out embeddings: that they were fitted to these documents, and to no test document."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from empirics.audit.opened import ARMS, RunFiles
from empirics.audit.result import Check, Tally
from empirics.seeding import generator, sklearn_seed

# What covariances are raised by, in units of the spread within clusters.
_FLOOR = 1e-2
_TOLERANCE = 1e-7


def check_laws(files: RunFiles) -> Check:
    """Moments of every query law, from the embeddings of the query documents.

    The formulas are written out; where a cluster has several components, scikit-learn deals its documents to them anew,
    from the run's seed.
    """
    tally = Tally(
        "query laws",
        "means, covariances and weights, from the query documents alone; weights also from the shares of classes among test documents",
        "recomputed",
        _TOLERANCE,
    )
    for arm in ARMS:
        for name in ("mixture", "gaussian"):
            where = f"laws/{arm}-{files.dimension}-{name}.safetensors"
            settings = dict(files.config["query_law"])
            rng = generator(files.config["seed"], "query law", arm, name)
            if settings["covariance"] == "auto":
                tally.skip("which covariance and number of components were chosen under covariance auto; the laws are those of the choice")
                _spend(files.query["cluster"].to_numpy(), settings["samples_per_component"], 1 if name == "gaussian" else None, rng)
                settings |= files.about["query_laws"][f"{arm}-{files.dimension}-{name}"]
            cluster, task = files.query["cluster"].to_numpy(), files.query["task"].to_numpy()
            shares = np.bincount(files.test["cluster"], minlength=sum(files.classes)) / len(files.test)
            expected = refit(files.embeddings(arm)["query"], task, cluster, shares, settings, 1 if name == "gaussian" else None, rng)
            told = files.tensors(where)
            for field in ("task", "cluster"):
                tally.same(f"{where}: {field}", told[field], expected[field])
            if told["means"].shape != expected["means"].shape:
                tally.find(f"{where}: means", f"has the shape {told['means'].shape}, refitted {expected['means'].shape}")
                continue
            for field in ("means", "covariances", "weights"):
                unit = np.abs(expected[field]).max()
                tally.near(lambda j, f=field, w=where: f"{w}: {f}, entry {j}", told[field] / unit, expected[field] / unit)
    return tally.check()


def _spend(cluster: Int[np.ndarray, " n"], usual: int, components: int | None, rng: np.random.Generator) -> None:
    """Draw what the choice of a law draws: a deal into four folds for every cluster, and a seed for every mixture fitted in one."""
    members = np.unique(cluster, return_counts=True)[1]
    sizes = [int(members.max()), 2 * usual, usual, max(2, usual // 2)] if components is None else [usual]
    for n in members:
        folds = min(4, n // 3)
        rng.permutation(np.arange(n) % folds)
        for _ in range(folds * len({components or max(1, n // size) for size in sizes})):
            sklearn_seed(rng)


def refit(
    x: Float[np.ndarray, "n S d"],
    task: Int[np.ndarray, " n"],
    cluster: Int[np.ndarray, " n"],
    shares: Float[np.ndarray, " K"],
    settings: Mapping[str, Any],
    components: int | None,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Tensors of the query law that held-out samples give.

    Parameters
    ----------
    x : (n, S, d) array
    task, cluster : (n,) int arrays
    shares : (K,) array
        Of the clusters in the traffic.
    settings : mapping
        Group `query_law`, with a covariance other than "auto".
    components : int, optional
        Of every cluster; by default as many as its samples ask for.
    rng : Generator
    """
    from sklearn.mixture import GaussianMixture

    n, S, d = x.shape
    flat = x.astype(np.float64).reshape(n, -1)
    within = np.concatenate([flat[cluster == t] - flat[cluster == t].mean(axis=0) for t in np.unique(cluster)])
    unit = np.sqrt((within**2).mean(axis=0))
    out: dict[str, list] = {key: [] for key in ("means", "covariances", "task", "cluster", "weights")}
    for t in np.unique(cluster):
        own = flat[cluster == t] / unit
        count = components or max(1, len(own) // settings["samples_per_component"])
        model = GaussianMixture(count, covariance_type="diag", reg_covar=_FLOOR, random_state=sklearn_seed(rng), max_iter=200)
        if count == 1:
            hard, weights = np.zeros(len(own), dtype=int), np.ones(1)
            soft = own.mean(axis=0)[None], own.var(axis=0)[None] + _FLOOR
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                hard = model.fit(own).predict(own)
            weights, soft = model.weights_, (model.means_, model.covariances_)
        for c in range(count):
            if weights[c] * shares[t] <= 0:
                continue
            members = own[hard == c]
            if settings["covariance"] == "diagonal" or len(members) < 3:
                mean, covariance = soft[0][c], np.diag(soft[1][c])
            else:
                mean, covariance = members.mean(axis=0), estimate(members, settings) + _FLOOR * np.eye(unit.size)
            out["means"].append((mean * unit).reshape(S, d))
            out["covariances"].append(covariance * np.outer(unit, unit))
            out["task"].append(int(task[cluster == t][0]))
            out["cluster"].append(int(t))
            out["weights"].append(weights[c] * shares[t])
    weights = np.array(out.pop("weights"))
    return {key: np.array(value) for key, value in out.items()} | {"weights": weights / weights.sum()}


def estimate(x: Float[np.ndarray, "n D"], settings: Mapping[str, Any]) -> Float[np.ndarray, "D D"]:
    """Covariance of one component, by the estimator that settings name."""
    kind = settings["covariance"]
    if kind == "diagonal":
        return np.diag(x.var(axis=0, ddof=1))
    if kind == "full":
        return np.atleast_2d(np.cov(x, rowvar=False))
    if kind == "oas":
        return _oracle(x)
    shrunk = ledoit_wolf(x)
    if kind == "ledoit-wolf":
        return shrunk
    # Leading eigenvectors with what their variances exceed the mean of the others by, and the variances of the estimate itself.
    values, vectors = np.linalg.eigh(shrunk)
    values, r = np.maximum(values, 0.0), min(settings["rank"], values.size - 1)
    noise = values[: values.size - r].mean()
    lead = vectors[:, values.size - r :]
    dense = (lead * np.maximum(values[values.size - r :] - noise, 0.0)) @ lead.T
    np.fill_diagonal(dense, np.diagonal(shrunk))
    return dense


def ledoit_wolf(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "p p"]:
    """Shrunk covariance, from the formulas of Ledoit and Wolf (2004): ``b^2 / d^2`` of the way to a multiple of the identity."""
    n, p = x.shape
    y = x - x.mean(axis=0)
    S = y.T @ y / n
    m = np.trace(S) / p
    target = m * np.eye(p)
    d2 = ((S - target) ** 2).sum() / p
    b2 = min(d2, (((y**2).sum(axis=1) ** 2).sum() / n - (S**2).sum()) / (n * p))
    rho = b2 / d2 if d2 > 0 else 0.0
    return (1 - rho) * S + rho * target


def _oracle(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "p p"]:
    """Shrunk covariance, by the oracle-approximating amount of Chen, Wiesel, Eldar and Hero (2010), less its terms in ``2 / p``."""
    n, p = x.shape
    S = np.cov(x, rowvar=False, ddof=0).reshape(p, p)
    m = np.trace(S) / p
    # Mean squares of the entries, of which a multiple of the identity has the least.
    square = (S**2).mean()
    apart = (n + 1) * (square - m**2 / p)
    rho = min(1.0, (square + m**2) / apart) if apart > 0 else 1.0
    return (1 - rho) * S + rho * m * np.eye(p)
