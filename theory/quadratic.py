"""The law of a quadratic form in a Gaussian: the one object that every tail and every rung is a function of.

With ``z`` standard normal, ``M = c + sum_j (w_j z_j^2 + g_j z_j) + s z_0``. Scores, their differences and hence
margins are all of this form (theory/README.md, pairs); whitening and one symmetric eigendecomposition give ``(w, g, s, c)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from theory.arrays import real_array
from theory.errors import InputError
from theory.tridiagonal import spectra

# Numbers that one slice of a sum over the weights may hold.
_SLICE = 200_000
# Dimension from which two spectra are measured to be faster than one decomposition with eigenvectors.
_EIGENVECTORS_BELOW = 64


@dataclass(frozen=True)
class QuadraticLaw:
    """A batch of laws ``c + sum_j (w_j z_j^2 + g_j z_j) + s z_0``; the leading axis runs over the batch.

    Parameters
    ----------
    w : (P, r) array
        Eigenvalues of the quadratic part, of any sign.
    g : (P, r) array
        Linear coefficients in the eigenvectors' coordinates.
    s : (P,) array
        Scale of an independent normal term, at least 0.
    c : (P,) array
        Constants.
    """

    w: Float[np.ndarray, "P r"]
    g: Float[np.ndarray, "P r"]
    s: Float[np.ndarray, " P"]
    c: Float[np.ndarray, " P"]

    @classmethod
    def of(cls, w: Any, g: Any = 0.0, s: Any = 0.0, c: Any = 0.0) -> QuadraticLaw:
        """One law, or a batch, from scalars and lists, broadcast together and checked.

        Raises
        ------
        InputError
            If one of them is not finite, does not fit the others, or a scale is negative.
        """
        w = np.atleast_2d(real_array("w", w))
        if w.ndim != 2:
            raise InputError("w", f"has shape {w.shape}; needs (P, r)")
        filled: dict[str, Any] = {}
        for name, value, shape in (("w", w, w.shape), ("g", g, w.shape), ("s", s, w.shape[:1]), ("c", c, w.shape[:1])):
            value = real_array(name, value)
            try:
                filled[name] = np.broadcast_to(value, shape).copy()
            except ValueError:
                raise InputError(name, f"has shape {value.shape}, and w {w.shape}; needs {shape}, or what fills it") from None
            if not np.isfinite(filled[name]).all():
                raise InputError(name, "a quadratic law needs finite coefficients")
        if (filled["s"] < 0).any():
            raise InputError("s", "a scale is at least 0")
        return cls(**filled)

    @classmethod
    def of_forms(cls, A: Float[np.ndarray, "P D D"], b: Float[np.ndarray, "P D"], c: Float[np.ndarray, " P"]) -> QuadraticLaw:
        """Law of ``z'Az + b'z + c`` for standard normal ``z`` (already whitened), by one eigendecomposition each.

        The signs of g do not matter to the law, so large forms go without eigenvectors (see `theory.tridiagonal`).
        """
        if A.shape[-1] < _EIGENVECTORS_BELOW:
            w, vectors = np.linalg.eigh(A)
            g = np.einsum("pij,pi->pj", vectors, b)
        else:
            w, g = spectra(A, b)
        return cls(w, g, np.zeros(w.shape[0]), np.asarray(c, dtype=np.float64))

    def __len__(self) -> int:
        return self.w.shape[0]

    def __getitem__(self, rows: Any) -> QuadraticLaw:
        """The laws at some rows, still a batch."""
        return QuadraticLaw(
            np.atleast_2d(self.w[rows]), np.atleast_2d(self.g[rows]), np.atleast_1d(self.s[rows]), np.atleast_1d(self.c[rows])
        )

    def __neg__(self) -> QuadraticLaw:
        return QuadraticLaw(-self.w, -self.g, self.s, -self.c)

    def shifted(self, by: Float[np.ndarray, " P"] | float) -> QuadraticLaw:
        """Law of ``M + by``."""
        return QuadraticLaw(self.w, self.g, self.s, self.c + by)

    def mean(self) -> Float[np.ndarray, " P"]:
        """``E M = c + sum w``."""
        return self.c + self.w.sum(axis=-1)

    def variance(self) -> Float[np.ndarray, " P"]:
        """``Var M = 2 sum w^2 + sum g^2 + s^2``."""
        return 2 * (self.w**2).sum(axis=-1) + (self.g**2).sum(axis=-1) + self.s**2

    def least_weight(self) -> Float[np.ndarray, " P"]:
        """``w_- = max(0, -min w)``."""
        # Adding 0.0 turns -0.0 into 0.0, whose reciprocal has the right sign.
        return np.maximum(0.0, -self.w.min(axis=-1)) + 0.0

    def greatest_weight(self) -> Float[np.ndarray, " P"]:
        """``w_+ = max(0, max w)``."""
        return np.maximum(0.0, self.w.max(axis=-1))

    def infimum(self) -> Float[np.ndarray, " P"]:
        """Greatest lower bound of the support; ``-inf`` unless the form is bounded below.

        Completing the squares gives ``c - sum g^2 / (4 w)``, provided that no weight is negative and no normal or purely
        linear term is left.
        """
        unbounded = (self.w < 0).any(axis=-1) | (self.s > 0) | ((self.w == 0) & (self.g != 0)).any(axis=-1)
        return np.where(unbounded, -np.inf, self.completed_constant())

    def surely_positive(self) -> Bool[np.ndarray, " P"]:
        """Whether ``M > 0`` on its whole support, by more than rounding in the completed squares could feign."""
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = np.where(self.w != 0, self.g**2 / (4 * np.abs(self.w)), 0.0).sum(axis=-1)
        return self.infimum() > 1e-12 * (np.abs(self.c) + squares)

    def completed_constant(self) -> Float[np.ndarray, " P"]:
        """``c - sum g^2 / (4 w)`` over the weights that are not zero: the constant left after completing all squares."""
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = np.where(self.w != 0, self.g**2 / (4 * self.w), 0.0)
        return self.c - squares.sum(axis=-1)

    def limit(self) -> Float[np.ndarray, " P"]:
        """Supremum ``1 / (2 w_-)`` of the theta at which ``E exp(-theta M)`` is finite (``inf`` if ``w_- = 0``)."""
        with np.errstate(divide="ignore", over="ignore"):
            return 1 / (2 * self.least_weight())

    def log_laplace(self, theta: np.ndarray) -> np.ndarray:
        """``K(theta) = log E exp(-theta M)`` on the real or complex points theta, shape (P, N)."""
        total = theta * (0.5 * self.s[:, None] ** 2 * theta - self.c[:, None])
        # The sum over j runs in slices, so that a batch never holds P x N x r numbers at once.
        step = max(1, _SLICE // max(1, theta.size))
        for start in range(0, self.w.shape[1], step):
            w, g = self.w[:, None, start : start + step], self.g[:, None, start : start + step]
            e = 2 * w * theta[..., None]
            terms = (g * theta[..., None]) ** 2 / (1 + e) - np.log1p(e)
            total = total + 0.5 * terms.sum(axis=-1)
        return total

    def laplace_derivatives(self, theta: Float[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``K'``, ``K''`` and ``K'''`` at one real theta per law, each of shape (P,)."""
        t = theta[:, None]
        # Quotients by e before products: powers of e overflow far to the right, where these terms vanish.
        with np.errstate(over="ignore"):
            e = 1 + 2 * self.w * t
            r, q = self.w / e, self.g / e
            first = -self.c + self.s**2 * theta + (-r + 0.5 * self.g**2 * (t / e) * (1 + 1 / e)).sum(axis=-1)
            second = self.s**2 + (2 * r**2 + q**2 / e).sum(axis=-1)
            third = (-8 * r**3 - 6 * (self.w / e) * (q / e) * q).sum(axis=-1)
        return first, second, third

    def rounding(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """An allowance for rounding in ``K(theta)``: a few ulps of its terms, and of what ``1 + 2 w theta`` loses near 0."""
        t = theta[:, None]
        e = 2 * self.w * t
        shifted = 0.5 * (self.g * t) ** 2 / (1 + e)
        # Relative error of 1 + e, which is rounding in e over 1 + e, carried through the logarithm and the quotient.
        parts = np.abs(0.5 * np.log1p(e)) + shifted + (0.5 + shifted) * np.abs(e) / (1 + e)
        total = np.abs(theta * self.c) + 0.5 * (self.s * theta) ** 2 + parts.sum(axis=-1)
        return 8 * np.finfo(np.float64).eps * (1 + total)

    def sample(self, n: int, rng: np.random.Generator) -> Float[np.ndarray, "P n"]:
        """Draw n independent values of each law."""
        z = rng.standard_normal((len(self), n, self.w.shape[1]))
        out = np.einsum("pj,pnj->pn", self.w, z**2) + np.einsum("pj,pnj->pn", self.g, z)
        return out + self.s[:, None] * rng.standard_normal((len(self), n)) + self.c[:, None]
