"""Mean and covariance of one component's samples.

How a component's covariance is estimated (`SignatureConfig.covariance`):

=========== =============================================================================================================
full        the unbiased sample covariance, which finite-sample statements of `theory` assume; needs more samples than
            dimensions
ledoit-wolf shrunk towards a multiple of the identity by Ledoit and Wolf's (2004) estimate of the best amount
oas         the same, by the oracle-approximating amount for Gaussians (Chen, Wiesel, Eldar, Hero 2010)
diagonal    unbiased sample variances, no correlations
low-rank    `rank` leading eigenvectors of the Ledoit-Wolf estimate, each with its variance above the mean of the
            remaining eigenvalues, as in probabilistic principal components (Tipping and Bishop 1999); plus the diagonal that makes
            every variance that of the Ledoit-Wolf estimate, as in factor analysis. Of rank d - 1 it is that estimate
=========== =============================================================================================================

The last two are stored and scored as `theory.lowrank.LowRankGaussians`, in O(d) and O(d rank) numbers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.covariance import OAS, LedoitWolf

from theory.errors import InputError

# Estimators whose covariances are kept as factors and a diagonal.
FACTORED = ("diagonal", "low-rank")


def shrunk_gaussian(x: Float[np.ndarray, "n d"], estimator: str, what: str) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Mean and dense covariance of some samples, by the estimator "ledoit-wolf", "oas" or "full" (which does not shrink).

    Raises
    ------
    InputError
        If there are fewer than three samples, or they are all equal; for "full", if there are not more samples than dimensions.
    """
    check_samples(x, estimator, what)
    if estimator == "full":
        n, d = x.shape
        if n <= d:
            raise InputError(
                what, f"has {n} samples of dimension {d}; the full estimator needs n > d: use ledoit-wolf, oas, diagonal or low-rank"
            )
        return x.mean(axis=0), np.cov(x, rowvar=False).reshape(d, d)
    model = (LedoitWolf if estimator == "ledoit-wolf" else OAS)(store_precision=False).fit(x)
    return model.location_, model.covariance_


def factored_gaussian(
    x: Float[np.ndarray, "n d"], estimator: str, rank: int, what: str
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d r"], Float[np.ndarray, " d"]]:
    """Mean, factor and diagonal of some samples, by the estimator "diagonal" (whose factor has no columns) or "low-rank".

    A rank of d or more is taken for d - 1, which leaves nothing out.

    Raises
    ------
    InputError
        If there are fewer than three samples, or a coordinate does not vary.
    """
    d = x.shape[1]
    if estimator == "diagonal":
        check_samples(x, estimator, what)
        mean, factor, diagonal = x.mean(axis=0), np.zeros((d, 0)), x.var(axis=0, ddof=1)
    else:
        mean, covariance = shrunk_gaussian(x, "ledoit-wolf", what)
        values, vectors = np.linalg.eigh(covariance)
        # Rounding may leave a least eigenvalue below zero where the estimate is singular.
        values = np.maximum(values, 0.0)
        r = min(rank, d - 1)
        rest, leading = slice(0, d - r), slice(d - r, d)
        noise = values[rest].mean()
        # Below zero by rounding where the estimate is a multiple of the identity.
        factor = vectors[:, leading] * np.sqrt(np.maximum(values[leading] - noise, 0.0))
        # What the factor leaves of each variance, as a sum of what cannot be negative rather than as a difference.
        diagonal = vectors[:, rest] ** 2 @ values[rest] + noise * (vectors[:, leading] ** 2).sum(axis=1)
    if not (diagonal > 0).all():
        raise InputError(what, f"coordinate {int(np.argmin(diagonal))} does not vary; lower the dimension or use ledoit-wolf or oas")
    return mean, factor, diagonal


def check_samples(x: Float[np.ndarray, "n d"], estimator: str, what: str) -> None:
    """Refuse samples that no estimator can use.

    Raises
    ------
    InputError
        If there are fewer than three samples, or they are all equal.
    """
    if x.shape[0] < 3:
        raise InputError(what, f"has {x.shape[0]} samples; the {estimator} estimator needs at least 3")
    if not (np.ptp(x, axis=0) > 0).any():
        raise InputError(what, "has equal samples only, which have no covariance; remove duplicates")
