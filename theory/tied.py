"""Linear margins: one embedding and one covariance for all (the signature of LDA), where the whole error is exact.

With ``D_s = mu_k - mu_s`` and ``P = Lam^-1`` the margins are ``M_s = 2 D_s' P (x - mu_k) + D_s' P D_s`` plus a constant,
jointly normal with covariance ``4 D_s' P D_t`` when ``x ~ N(mu_k, Lam)``; the error of rule "max" on a task of one component
is the probability that any is at most 0 (theory/README.md, tied covariances). No union is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import log_ndtr, logsumexp

from theory.errors import InputError, check_generator
from theory.signatures import Signatures

# Differences this small, relative to the largest entry, are rounding.
_LINEAR = 1e-9
# Independent randomisations of the quasi-Monte Carlo rule, and its points per dimension.
_REPEATS = 8
_POINTS = 20_000


@dataclass(frozen=True)
class OrthantUnion:
    """Log of ``P(M_s <= 0 for some s)`` for jointly normal margins.

    Attributes
    ----------
    log_p : float
    relative_error : float
        Standard error of the randomised quasi-Monte Carlo rule, relative; 0 for one margin. An estimate, no proof: a bound
        must not be quoted from it.
    """

    log_p: float
    relative_error: float


def log_any_below(b: Float[np.ndarray, "n D"], c: Float[np.ndarray, " n"], rng: np.random.Generator) -> OrthantUnion:
    """Log of ``P(b_s' z + c_s <= 0 for some s)``, right in the relative sense however small.

    ``1 - Phi_n(...)`` would lose a small probability to cancellation; the disjoint events "s is the first below 0, likeliest
    first" are orthant probabilities, each with a small relative error, and their sum has no cancellation.

    Parameters
    ----------
    b : (n, D) array
        A margin whose row is zero is constant: it never or always lies below 0.
    c : (n,) array
    rng : numpy.random.Generator
        For SciPy's randomised quasi-Monte Carlo rule (Genz 1992).
    """
    from scipy.stats import multivariate_normal

    size = np.linalg.norm(b, axis=1)
    varies = size > _LINEAR * size.max(initial=0.0)
    if (c[~varies] <= 0).any():
        return OrthantUnion(0.0, 0.0)
    if not varies.any():
        return OrthantUnion(-np.inf, 0.0)
    unit, level = b[varies] / size[varies, None], c[varies] / size[varies]
    order = np.argsort(level)
    unit, level = unit[order], level[order]
    correlation = np.clip(unit @ unit.T, -1.0, 1.0)
    logs = np.empty((_REPEATS, level.size))
    for s in range(level.size):
        alone = float(log_ndtr(-level[s]))
        logs[:, s] = alone
        if s == 0 or alone < -700:
            continue
        sign = np.append(-np.ones(s), 1.0)
        covariance = correlation[: s + 1, : s + 1] * np.outer(sign, sign)
        # The rule stops at its absolute tolerance, which must be far below this one term.
        rule = {"maxpts": _POINTS * (s + 1), "abseps": 1e-8 * np.exp(alone), "releps": 1e-7, "allow_singular": True}
        for repeat in range(_REPEATS):
            p = float(multivariate_normal.cdf(-sign * level[: s + 1], None, covariance, rng=rng, **rule))
            logs[repeat, s] = min(np.log(p), alone) if p > 0 else -np.inf
    totals = logsumexp(logs, axis=1)
    log_p = float(logsumexp(totals) - np.log(_REPEATS))
    spread = float(np.std(np.exp(totals - log_p), ddof=1) / np.sqrt(_REPEATS))
    return OrthantUnion(min(log_p, 0.0), spread)


def tied_error(signatures: Signatures, rng: np.random.Generator) -> dict[int, OrthantUnion]:
    """Exact error of rule "max" for every task of one component, under tied covariances in one shared space.

    Assumes A4, well-specified.

    Parameters
    ----------
    signatures : Signatures
        All covariances equal (to rounding); tasks of several components are left out, because another of them can rescue
        a query.
    rng : numpy.random.Generator

    Returns
    -------
    dict from component to OrthantUnion

    Raises
    ------
    InputError
        If the covariances differ.
    """
    check_generator(rng)
    covariances = signatures.covariances
    apart = np.abs(covariances - covariances[0]).max(axis=(1, 2))
    if (apart > _LINEAR * np.abs(covariances[0]).max()).any():
        raise InputError(f"covariances[{int(np.argmax(apart))}]", "differs from the first; the tied-covariance error needs one for all")
    white = signatures.means @ signatures.gaussians.whiteners[0].T
    sizes = np.bincount(signatures.task)
    out = {}
    for t in np.flatnonzero(sizes[signatures.task] == 1):
        wrong = signatures.wrong(int(signatures.task[t]))
        D = white[t] - white[wrong]
        kappa = signatures.constants[wrong] - signatures.constants[t]
        out[int(t)] = log_any_below(2 * D, (D**2).sum(axis=1) + kappa, rng)
    return out
