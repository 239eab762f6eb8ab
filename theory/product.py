"""Gaussians over two blocks of coordinates that are independent given the component, such as frozen and adapted embeddings.

What they stand for: theory/README.md, Setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import block_diag

from theory.errors import InputError
from theory.gaussians import GaussianStack
from theory.signatures import StructuredSignatures


@dataclass(frozen=True)
class ProductGaussians(GaussianStack):
    """A stack of Gaussians over stacked coordinates ``(x, y)`` whose covariances are block-diagonal.

    Distances, energies and log-determinants are sums over the two blocks, so that neither storage nor scoring pays for the zeros; the
    dense covariances and whiteners that bounds need are made when first asked for.

    Parameters
    ----------
    common, own : Gaussians or LowRankGaussians
        The blocks, of K components each and of the same dimension.

    Attributes
    ----------
    means : (K, d) array
    log_dets : (K,) array
        ``log det Lam_k``.

    Raises
    ------
    InputError
        If the blocks differ in number of components or in dimension.
    """

    common: GaussianStack
    own: GaussianStack
    means: Float[np.ndarray, "K d"] = field(init=False, repr=False)
    log_dets: Float[np.ndarray, " K"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.common.means.shape != self.own.means.shape:
            raise InputError("own", f"has means of shape {self.own.means.shape}; those of the common block have {self.common.means.shape}")
        means, log_dets = np.concatenate([self.common.means, self.own.means], axis=1), self.common.log_dets + self.own.log_dets
        for name, value in (("means", means), ("log_dets", log_dets)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    def mahalanobis(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Squared Mahalanobis distances ``Q_k(x)`` of every row to every component; all components by default."""
        half = self.common.dimension
        return self.common.mahalanobis(x[:, :half], components) + self.own.mahalanobis(x[:, half:], components)

    @cached_property
    def covariances(self) -> Float[np.ndarray, "K d d"]:
        """Dense covariances, as `Gaussians` has them."""
        return _blocks(self.common.covariances, self.own.covariances)

    @cached_property
    def whiteners(self) -> Float[np.ndarray, "K d d"]:
        """Inverse Cholesky factors, as `Gaussians` has them: those of the blocks."""
        return _blocks(self.common.whiteners, self.own.whiteners)

    @property
    def accuracies(self) -> Float[np.ndarray, " K"]:
        """Relative error of squared distances, as `Gaussians` has it."""
        return np.maximum(self.common.accuracies, self.own.accuracies)


def _blocks(first: Float[np.ndarray, "K a a"], second: Float[np.ndarray, "K b b"]) -> Float[np.ndarray, "K ab ab"]:
    out = np.stack([block_diag(x, y) for x, y in zip(first, second, strict=True)])
    out.flags.writeable = False
    return out


class ProductSignatures(StructuredSignatures):
    """Signatures whose components are `ProductGaussians`: rules score them block by block."""

    gaussians: ProductGaussians

    def __repr__(self) -> str:
        return f"ProductSignatures({len(self)} components of {self.tasks} tasks, d = {self.dimension} in two blocks)"
