"""Gaussians whose covariance is low rank plus diagonal: stored in O(d r) numbers, scored in O(d r) operations a sample.

What they stand for: theory/README.md, Setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from theory.arrays import check_finite, real_array
from theory.errors import InputError
from theory.gaussians import Gaussians, GaussianStack
from theory.signatures import StructuredSignatures

# Scoring takes blocks of rows of about this many bytes, so that they stay in cache.
_SCORE_BYTES = 2**20
# Fewer rows than this make a matrix product inefficient.
_SCORE_ROWS = 128


def _checked(argument: str, values: np.ndarray, wanted: tuple[int, ...] | None = None) -> np.ndarray:
    """A read-only float64 copy of finite values."""
    out = real_array(argument, values).copy()
    if wanted is not None and out.shape != wanted:
        raise InputError(argument, f"has shape {out.shape}; the means need {wanted}")
    check_finite(argument, out)
    out.flags.writeable = False
    return out


@dataclass(frozen=True)
class LowRankGaussians(GaussianStack):
    """A stack of Gaussians with covariances ``Lam_k = diag(psi_k) + F_k F_k'``.

    Where a `Gaussians` is scored with or read, this can stand: distances, energies and log-determinants come from the
    factors, and the dense covariances and whiteners that bounds need are made when first asked for.

    With ``y = psi^-1/2 (x - mu)`` and the thin singular value decomposition ``psi^-1/2 F = U diag(s) V'``::

        Q(x) = |y - U U'y|^2 + sum_j (u_j'y)^2 / (1 + s_j^2),      log det Lam = sum log psi + sum_j log(1 + s_j^2)

    This is Woodbury's identity (Woodbury 1950) and the determinant lemma with the r x r capacitance ``I + V diag(s^2) V'``
    in its own coordinates. The usual ``|y|^2 - |L^-1 F' psi^-1/2 y|^2`` with the capacitance's Cholesky factor L subtracts two
    numbers as large as the condition number to leave one of order d; here every term is a square, and the relative error
    grows as the root of the condition number.

    Parameters
    ----------
    means : (K, d) array
    factors : (K, d, r) array
        ``F_k``; r = 0 makes the covariances diagonal, and columns of zeros do no harm.
    diagonals : (K, d) array
        ``psi_k``, positive.

    Attributes
    ----------
    log_dets : (K,) array
        ``log det Lam_k``.
    axes : (K, d, p) array
        ``U``, with p = min(d, r).
    shrink : (K, p) array
        ``1 / sqrt(1 + s_j^2)``.
    scales : (K, d) array
        ``psi^-1/2``.

    Raises
    ------
    InputError
        If shapes disagree, a value is NaN or infinite, a diagonal is not positive, or a factor is so large beside its
        diagonal that the covariance is singular to working precision.
    """

    means: Float[np.ndarray, "K d"]
    factors: Float[np.ndarray, "K d r"]
    diagonals: Float[np.ndarray, "K d"]
    log_dets: Float[np.ndarray, " K"] = field(init=False, repr=False)
    axes: Float[np.ndarray, "K d p"] = field(init=False, repr=False)
    shrink: Float[np.ndarray, "K p"] = field(init=False, repr=False)
    scales: Float[np.ndarray, "K d"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        means = _checked("means", self.means)
        if means.ndim != 2 or 0 in means.shape:
            raise InputError("means", f"has shape {means.shape}; needs (K, d) with K, d >= 1")
        K, d = means.shape
        factors = np.asarray(self.factors)
        if factors.ndim != 3:
            raise InputError("factors", f"has shape {factors.shape}; needs (K, d, r)")
        factors = _checked("factors", factors, (K, d, factors.shape[2]))
        diagonals = _checked("diagonals", self.diagonals, (K, d))
        if (diagonals <= 0).any():
            k, j = (int(i) for i in np.argwhere(diagonals <= 0)[0])
            raise InputError(f"diagonals[{k}]", f"entry {j} is {diagonals[k, j]:.3g}; every entry must be positive")
        roots = np.sqrt(diagonals)
        with np.errstate(over="ignore"):
            whitened = factors / roots[:, :, None]
        if not np.isfinite(whitened).all():
            raise InputError("diagonals", "are too small beside the factors: the quotient overflows; rescale the embedding")
        axes, s, _ = np.linalg.svd(whitened, full_matrices=False)
        # What is left of y after its part along U is rounding noise of size s eps, beside distances of order one.
        far = np.flatnonzero(s.max(axis=1, initial=0.0) * 4 * d * np.finfo(np.float64).eps >= 1)
        if far.size:
            raise InputError(f"factors[{far[0]}]", "makes a covariance that is singular to working precision; raise the diagonal")
        spread = np.hypot(1.0, s)
        log_dets = np.log(diagonals).sum(axis=1) + 2 * np.log(spread).sum(axis=1)
        for name, value in (
            ("means", means),
            ("factors", factors),
            ("diagonals", diagonals),
            ("log_dets", log_dets),
            ("axes", axes),
            ("shrink", 1 / spread),
            ("scales", 1 / roots),
        ):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @property
    def rank(self) -> int:
        """The number of columns r of each factor."""
        return self.factors.shape[2]

    def part(self, components: Int[np.ndarray, " S"] | slice) -> LowRankGaussians:
        """Some of the Gaussians, in the order given, without decomposing anything anew."""
        out = object.__new__(LowRankGaussians)
        for item in fields(self):
            value = getattr(self, item.name)[components]
            value.flags.writeable = False
            object.__setattr__(out, item.name, value)
        return out

    @property
    def loadings(self) -> Float[np.ndarray, "K p d"]:
        """``W_k`` with ``Lam_k^-1 = diag(1 / psi_k) - W_k' W_k``; made anew at each call.

        The difference loses digits as the condition number grows, which distances and energies do not: see above.
        """
        return np.swapaxes(self.axes * self.scales[:, :, None], 1, 2) * np.sqrt((1 - self.shrink) * (1 + self.shrink))[:, :, None]

    @property
    def nbytes(self) -> int:
        """Bytes of what defines the Gaussians: means, factors and diagonals."""
        return self.means.nbytes + self.factors.nbytes + self.diagonals.nbytes

    def mahalanobis(self, x: Float[np.ndarray, "n d"], components: Int[np.ndarray, " S"] | None = None) -> Float[np.ndarray, "n S"]:
        """Squared Mahalanobis distances ``Q_k(x)`` of every row to every component.

        Parameters
        ----------
        x : (n, d) array
        components : (S,) int array, optional
            The components to score; all by default.
        """
        chosen = np.arange(len(self)) if components is None else components
        out = np.empty((x.shape[0], len(chosen)))
        rows = max(_SCORE_ROWS, _SCORE_BYTES // (8 * self.dimension))
        for start in range(0, x.shape[0], rows):
            block = x[start : start + rows]
            for j, k in enumerate(chosen):
                y = (block - self.means[k]) * self.scales[k]
                along = y @ self.axes[k]
                y -= along @ self.axes[k].T
                along *= self.shrink[k]
                out[start : start + rows, j] = np.einsum("nd,nd->n", y, y) + np.einsum("nr,nr->n", along, along)
        return out

    @cached_property
    def dense(self) -> Gaussians:
        """The same Gaussians with dense covariances, which bounds need: O(d^2) numbers a component, made once.

        Raises
        ------
        InputError
            If a dense covariance is singular to working precision, which limits its condition number to about 1e13.
        """
        covariances = self.factors @ np.swapaxes(self.factors, 1, 2)
        covariances[:, np.arange(self.dimension), np.arange(self.dimension)] += self.diagonals
        return Gaussians(self.means, covariances)

    @property
    def covariances(self) -> Float[np.ndarray, "K d d"]:
        """Dense covariances, as `Gaussians` has them."""
        return self.dense.covariances

    @property
    def whiteners(self) -> Float[np.ndarray, "K d d"]:
        """Inverse Cholesky factors, as `Gaussians` has them."""
        return self.dense.whiteners

    @property
    def accuracies(self) -> Float[np.ndarray, " K"]:
        """Relative error of squared distances from the dense covariances, as `Gaussians` has it."""
        return self.dense.accuracies


class LowRankSignatures(StructuredSignatures):
    """Signatures whose components are `LowRankGaussians`: rules score them from the factors."""

    gaussians: LowRankGaussians

    def __repr__(self) -> str:
        return f"LowRankSignatures({len(self)} components of {self.tasks} tasks, d = {self.dimension}, r = {self.gaussians.rank})"
