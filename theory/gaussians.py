"""Stacks of Gaussians, each factored once, and the energies that rules compare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from theory.arrays import check_finite, kept, symmetrised
from theory.errors import InputError

# Scoring whitens blocks of rows whose products take about this many bytes, so that they stay in cache.
_SCORE_BYTES = 2**21
# Fewer rows than this make a matrix product inefficient.
_SCORE_ROWS = 128


class GaussianStack(ABC):
    """K Gaussians in one space of d dimensions, scored alike in whatever form their covariances are kept."""

    means: Float[np.ndarray, "K d"]
    log_dets: Float[np.ndarray, " K"]

    if TYPE_CHECKING:
        # Fields of some and made when asked for by others.
        @property
        def covariances(self) -> Float[np.ndarray, "K d d"]:
            """Dense covariances."""

        @property
        def whiteners(self) -> Float[np.ndarray, "K d d"]:
            """Inverse Cholesky factors ``L_k^-1``, lower triangular."""

        @property
        def accuracies(self) -> Float[np.ndarray, " K"]:
            """Relative error that rounding may leave in the squared distances of each component."""

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def dimension(self) -> int:
        """The embedding dimension d."""
        return self.means.shape[1]

    @abstractmethod
    def mahalanobis(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Squared Mahalanobis distances ``Q_k(x)`` of every row to every component; all components by default."""

    def energies(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Energies ``Q_k(x) + log det Lam_k`` (minus twice the log-density, up to a constant)."""
        chosen = slice(None) if components is None else components
        return self.mahalanobis(x, components) + self.log_dets[chosen]


@dataclass(frozen=True)
class Gaussians(GaussianStack):
    """A stack of Gaussians, each factored once.

    Parameters
    ----------
    means : (K, d) array
    covariances : (K, d, d) array
        Symmetric (to rounding) and positive definite.

    Attributes
    ----------
    whiteners : (K, d, d) array
        Inverse Cholesky factors ``L_k^-1``, lower triangular, so that ``Q_k(x) = |L_k^-1 (x - mu_k)|^2``.
    log_dets : (K,) array
        ``log det Lam_k``.

    Raises
    ------
    InputError
        If shapes disagree, a value is NaN or infinite, or a covariance is not symmetric positive definite.
    """

    means: Float[np.ndarray, "K d"]
    covariances: Float[np.ndarray, "K d d"]
    whiteners: Float[np.ndarray, "K d d"] = field(init=False, repr=False)
    log_dets: Float[np.ndarray, " K"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        means, covariances = kept("means", self.means), kept("covariances", self.covariances)
        if means.ndim != 2 or 0 in means.shape:
            raise InputError("means", f"has shape {means.shape}; needs (K, d) with K, d >= 1")
        K, d = means.shape
        if covariances.shape != (K, d, d):
            raise InputError("covariances", f"has shape {covariances.shape}; means of shape {means.shape} need {(K, d, d)}")
        check_finite("means", means)
        # One matrix at a time from here on: temporaries of the whole stack would double the memory.
        for k in range(K):
            check_finite(f"covariances[{k}]", covariances[k])
        covariances = symmetrised("covariances", covariances)
        identity = np.eye(d)
        whiteners = np.empty_like(covariances)
        log_dets = np.empty(K)
        for k in range(K):
            try:
                factor = np.linalg.cholesky(covariances[k])
            except np.linalg.LinAlgError:
                low = float(np.linalg.eigvalsh(covariances[k])[0])
                raise InputError(
                    f"covariances[{k}]", f"is not positive definite (smallest eigenvalue {low:.3g}); shrink it or drop the component"
                ) from None
            pivots = np.diagonal(factor)
            # A pivot this small is rounding noise: the factor exists but the energies it gives would be arbitrary.
            if pivots.min() ** 2 <= 4 * d * np.finfo(np.float64).eps * pivots.max() ** 2:
                raise InputError(f"covariances[{k}]", "is singular to working precision; shrink it or drop the component")
            whiteners[k] = solve_triangular(factor, identity, lower=True, check_finite=False)
            log_dets[k] = 2 * np.log(pivots).sum()
        for name, value in (("means", means), ("covariances", covariances), ("whiteners", whiteners), ("log_dets", log_dets)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @cached_property
    def accuracies(self) -> Float[np.ndarray, " K"]:
        """Relative error that rounding in the factors may leave in the squared distances of each component.

        The factors of ``Lam + E`` are found, with ``|E_ij|`` some ``d eps sqrt(Lam_ii Lam_jj)`` (Higham, Accuracy and Stability of
        Numerical Algorithms, 2nd ed., theorem 10.3), and ``L^-1 E L^-T`` is as large as ``L^-1`` makes it. Scales of coordinates do not
        matter.
        """
        out = np.empty(len(self))
        for k, whitener in enumerate(self.whiteners):
            out[k] = (whitener**2 @ np.diagonal(self.covariances[k])).max()
        return 2 * self.dimension * np.finfo(np.float64).eps * out

    def mahalanobis(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Squared Mahalanobis distances ``Q_k(x)`` of every row to every component, as one product per block of rows.

        Parameters
        ----------
        x : (n, d) array
        components : (S,) int array, optional
            The components to score; all by default.
        """
        centre, stacked = self._stacked
        d, S = self.dimension, len(self)
        if components is not None:
            S = len(components)
            first = int(components[0]) if S else 0
            if np.array_equal(components, np.arange(first, first + S)):
                stacked = stacked[:, first * d : (first + S) * d]
            else:
                stacked = np.ascontiguousarray(stacked.reshape(d + 1, len(self), d)[:, components].reshape(d + 1, S * d))
        out = np.empty((x.shape[0], S))
        rows = min(max(_SCORE_ROWS, _SCORE_BYTES // (8 * S * d)), max(1, x.shape[0]))
        block, white = np.ones((rows, d + 1)), np.empty((rows, S * d))
        for start in range(0, x.shape[0], rows):
            n = min(rows, x.shape[0] - start)
            np.subtract(x[start : start + n], centre, out=block[:n, :d])
            product = np.matmul(block[:n], stacked, out=white[:n]).reshape(n, S, d)
            np.einsum("nkd,nkd->nk", product, product, out=out[start : start + n])
        return out

    @cached_property
    def _stacked(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d1 Kd"]]:
        """A common centre, and all whiteners side by side over a last row of offsets: scoring is one product with it.

        Centring keeps ``|L^-1 x|`` small (whitening far-off rows and subtracting would cancel digits), and the offset as one
        more row saves a pass over the products.
        """
        K, d = self.means.shape
        centre = self.means.mean(axis=0)
        stacked = np.empty((d + 1, K * d))
        stacked[:d] = self.whiteners.reshape(K * d, d).T
        stacked[d] = -np.einsum("kij,kj->ki", self.whiteners, self.means - centre).reshape(K * d)
        return centre, stacked
