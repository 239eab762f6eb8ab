"""What estimating a Gaussian from n samples does to its distances, determinant and inverse: F1 to F3 (theory/README.md, finite samples).

Throughout, a component is estimated by the mean and the unbiased covariance ``S`` of n independent samples of its own
Gaussian, so that ``(n-1) S`` is Wishart with n - 1 degrees of freedom, independent of the mean. The embedding dimension
d is at least 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma

from theory.errors import InputError, check_whole
from theory.frames import data_frame

if TYPE_CHECKING:
    import pandas as pd

ADVICE = "use a shrinkage estimator of the covariance (Ledoit-Wolf, OAS), a shared covariance, or fewer dimensions"


def own_distance(n: int, d: int) -> Any:
    """F1: the exact law of ``Qhat = (x - xbar)' S^-1 (x - xbar)`` for a fresh x of the same Gaussian.

    ``Qhat ~ d (n^2 - 1)/(n (n - d)) F(d, n - d)`` (Hotelling 1931: ``x - xbar`` has covariance ``(1 + 1/n) Lam`` and is
    independent of S). As n grows this is chi2_d, the law of Q under the true signature.

    Parameters
    ----------
    n : int
        Samples, more than d.
    d : int
        Dimension.

    Returns
    -------
    frozen distribution of scipy.stats
        Its mean is infinite for ``n <= d + 2``; see `own_distance_mean`.

    Raises
    ------
    InputError
        If n <= d: S is singular, and no plug-in distance exists.
    """
    n, d = _sizes(n, d, 1)
    from scipy.stats import f

    return f(d, n - d, scale=d * (n - 1) * (n + 1) / (n * (n - d)))


def own_distance_mean(n: int, d: int) -> float:
    """F1: ``E Qhat = d (n^2 - 1)/(n (n - d - 2))``, of a fresh point's plug-in distance to its own component.

    Raises
    ------
    InputError
        If n <= d + 2, where the mean is infinite.
    """
    n, d = _sizes(n, d, 3)
    return d * (n - 1) * (n + 1) / (n * (n - d - 2))


def log_det_bias(n: int, d: int) -> float:
    """F2: ``E log det S - log det Lam = sum_{j<d} digamma((n-1-j)/2) - d log((n-1)/2)``, at most 0.

    From Bartlett: ``det W = det Lam prod_j chi2_{n-1-j}`` with independent factors, and
    ``E log chi2_k = digamma(k/2) + log 2``.

    Raises
    ------
    InputError
        If n <= d.
    """
    n, d = _sizes(n, d, 1)
    return float((digamma((n - 1 - np.arange(d)) / 2) - np.log((n - 1) / 2)).sum())


def inverse_bias(n: int, d: int) -> float:
    """F3: the factor ``(n - 1)/(n - d - 2)`` in ``E S^-1 = factor * Lam^-1``.

    Raises
    ------
    InputError
        If n <= d + 2, where the mean is infinite.
    """
    n, d = _sizes(n, d, 3)
    return (n - 1) / (n - d - 2)


def plug_in_favour(n: ArrayLike, d: int, delta: float = 0.0) -> pd.DataFrame:
    """How much a plug-in energy is too large on average, by the number of samples: the rule favours components of small excess.

    For a query whose law has separation ``delta`` from the true component (0 for the component's own queries, under
    which ``E Q = d``), ``E Qhat = (n-1)/(n-d-2) d (1 + delta + 1/n)`` by F3 and the independence of mean and
    covariance, and the log-determinant adds F2. For ``delta = 0`` the excess is twice the expected Kullback-Leibler
    divergence from the component to its estimate, hence positive, and a positive delta adds to it: the distance is too
    large by more than the log-determinant is too small. On average a task with few samples loses own queries to tasks with
    many, and attracts fewer of theirs.

    Parameters
    ----------
    n : (N,) int array
        Samples per component, more than d + 2.
    d : int
    delta : float
        At least -1.

    Returns
    -------
    DataFrame
        One row an n: `n`, `distance` (``E Qhat``), `log_det` (F2), `energy` (their sum: expected plug-in energy less
        ``log det Lam``), and `excess` (`energy` less its limit ``d (1 + delta)``).

    Raises
    ------
    InputError
        If some n <= d + 2, or delta is below -1 or not finite.
    """
    if not -1 <= delta < np.inf:
        raise InputError("delta", f"{delta} is not a finite separation of at least -1")
    table = []
    for size in np.atleast_1d(np.asarray(n)).tolist():
        distance = inverse_bias(size, d) * d * (1 + delta + 1 / size)
        log_det = log_det_bias(size, d)
        energy = distance + log_det
        table.append({"n": size, "distance": distance, "log_det": log_det, "energy": energy, "excess": energy - d * (1 + delta)})
    return data_frame(table)


def _sizes(n: int, d: int, above: int) -> tuple[int, int]:
    for name, value in (("n", n), ("d", d)):
        check_whole(name, value, 1)
    if n < d + above:
        what = "the sample covariance is singular" if above == 1 else "the plug-in distance has no finite mean"
        raise InputError("n", f"with {n} samples in {d} dimensions {what}; needs at least {d + above}, or {ADVICE}")
    return int(n), int(d)
