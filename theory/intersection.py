"""Exact probability that two quadratic forms in one Gaussian are both at most 0 (theory/README.md, L5b).

``P(M_1 <= 0, M_2 <= 0) = (2 pi i)^-2 int int exp(K(theta)) / (theta_1 theta_2) d theta`` over ``theta = a + i y``, ``a`` the
saddlepoint of the whole integrand and ``K(theta) = log E exp(-theta . M)``. Along any ray of y the integrand's modulus
is that of the characteristic function of one quadratic law (under the tilted measure) over two lengths that grow: it falls
monotonically, so that cutting it off is safe. In polar coordinates, whitened by the Hessian at the saddle, each angle costs
one symmetric eigendecomposition and all radii share it; the rule is trapezoidal in the angle (periodic, hence of
geometric convergence) and Gauss-Legendre in the radius.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from theory.quadratic import QuadraticLaw

_NEWTON_STEPS = 60
_FIRST_ANGLES, _MOST_ANGLES = 16, 64
_FIRST_RADII, _MOST_RADII = 32, 128
# Log of the modulus, relative to the saddle, below which the rest of a ray is left out.
_NEGLIGIBLE = -25.0
_ACCEPTED = 1e-7
_LEAST_DIMENSION = 4


@dataclass(frozen=True)
class Forms:
    """Quadratic forms ``M_i = z' A_i z + b_i' z + c_i`` in one standard normal z.

    Parameters
    ----------
    A : (n, D, D) array
    b : (n, D) array
    c : (n,) array
    """

    A: Float[np.ndarray, "n D D"]
    b: Float[np.ndarray, "n D"]
    c: Float[np.ndarray, " n"]

    def covariance(self) -> Float[np.ndarray, "n n"]:
        """``Cov(M_i, M_j) = 2 tr(A_i A_j) + b_i' b_j``."""
        flat = self.A.reshape(len(self.c), -1)
        return 2 * flat @ flat.T + self.b @ self.b.T

    def __getitem__(self, rows: slice | list[int] | np.ndarray) -> Forms:
        """Some of the forms."""
        return Forms(self.A[rows], self.b[rows], self.c[rows])


@dataclass(frozen=True)
class _Tilted:
    """``z`` under the density tilted by ``exp(-theta . M)``: normal, of mean m and precision ``R = L L'``."""

    log_mgf: float
    mean: Float[np.ndarray, " D"]
    factor: Float[np.ndarray, "D D"]
    gradients: Float[np.ndarray, "n D"]
    values: Float[np.ndarray, " n"]


def _tilt(forms: Forms, theta: np.ndarray) -> _Tilted | None:
    """The tilted law at a real theta; None where the generating function is infinite."""
    D = forms.b.shape[1]
    R = np.eye(D) + 2 * np.tensordot(theta, forms.A, axes=1)
    try:
        L = np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        return None
    half = solve_triangular(L, theta @ forms.b, lower=True, check_finite=False)
    mean = -solve_triangular(L, half, lower=True, trans="T", check_finite=False)
    log_mgf = -theta @ forms.c - np.log(np.diagonal(L)).sum() + 0.5 * half @ half
    pulled = forms.A @ mean
    values = pulled @ mean + forms.b @ mean + forms.c
    return _Tilted(float(log_mgf), mean, L, 2 * pulled + forms.b, values)


def _whitened(forms: Forms, tilted: _Tilted) -> Forms:
    """The forms in ``e`` with ``z = m + L^-T e``, standard normal under the tilted law."""
    L = tilted.factor
    half = solve_triangular(L, forms.A.transpose(1, 0, 2).reshape(L.shape[0], -1), lower=True, check_finite=False)
    half = half.reshape(L.shape[0], len(forms.c), -1).transpose(1, 2, 0)
    A = solve_triangular(L, half.transpose(1, 0, 2).reshape(L.shape[0], -1), lower=True, check_finite=False)
    A = A.reshape(L.shape[0], len(forms.c), -1).transpose(1, 0, 2)
    b = solve_triangular(L, tilted.gradients.T, lower=True, check_finite=False).T
    return Forms((A + A.transpose(0, 2, 1)) / 2, b, tilted.values)


def _saddle(forms: Forms) -> tuple[np.ndarray, _Tilted, Forms, np.ndarray] | None:
    """Minimum of ``K(theta) - sum log theta`` over theta > 0, a convex function, by damped Newton steps."""
    n = len(forms.c)
    variance = np.diagonal(forms.covariance())
    if not ((variance > 0) & np.isfinite(variance)).all():
        return None
    theta = 0.5 / np.sqrt(variance)
    tilted = _tilt(forms, theta)
    while tilted is None:
        theta = theta / 4
        tilted = _tilt(forms, theta)
    value = tilted.log_mgf - np.log(theta).sum()
    for _ in range(_NEWTON_STEPS):
        white = _whitened(forms, tilted)
        hessian = white.covariance() + np.diag(1 / theta**2)
        gradient = -_expected(white) - 1 / theta
        try:
            step = -np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            # Forms all but dependent, far out: no saddle to be found, and nothing to subtract.
            return None
        decrement = -gradient @ step
        if not np.isfinite(decrement):
            return None
        if decrement < 1e-12 * n:
            return theta, tilted, white, hessian
        size = 1.0
        while True:
            ahead = theta + size * step
            found = _tilt(forms, ahead) if (ahead > 0).all() else None
            if found is not None:
                reached = found.log_mgf - np.log(ahead).sum()
                if reached <= value - 0.1 * size * decrement:
                    break
            size /= 2
            if size < 1e-12:
                return theta, tilted, white, hessian
        theta, tilted, value = ahead, found, reached
    return None


def _expected(white: Forms) -> np.ndarray:
    return white.c + np.trace(white.A, axis1=1, axis2=2)


def log_both(forms: Forms) -> tuple[float, float]:
    """Log of ``P(M_1 <= 0, M_2 <= 0)`` and its relative error (a-posteriori, from doubling the nodes).

    Parameters
    ----------
    forms : Forms
        Two forms.

    Returns
    -------
    log_p, error : float
        ``(-inf, inf)`` where no accuracy was reached (forms without variance, or all but dependent ones).
    """
    # Far out, or for forms all but dependent, powers leave the floats: it ends in "no accuracy", not in a warning.
    with np.errstate(all="ignore"):
        return _log_both(forms)


def _log_both(forms: Forms) -> tuple[float, float]:
    if np.linalg.matrix_rank(forms.covariance()) < len(forms.c) or _slow(forms):
        return -np.inf, np.inf
    found = _saddle(forms)
    if found is None:
        return -np.inf, np.inf
    theta, tilted, white, hessian = found
    try:
        L = np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:
        return -np.inf, np.inf
    log_scale = tilted.log_mgf - np.log(theta).sum() - np.log(np.diagonal(L)).sum() - 2 * np.log(2 * np.pi) + np.log(2.0)
    total, weights, error = 0.0, 0, np.inf
    previous, current, slip = None, np.nan, np.inf
    angles, radii = _FIRST_ANGLES, _FIRST_RADII
    phi = np.pi * np.arange(angles) / angles
    while angles <= _MOST_ANGLES:
        law, y = _along(white, L, phi)
        end = _end(law, np.abs(y / theta))
        if not np.isfinite(end).all():
            return -np.inf, np.inf
        value = _radial(law, y / theta, end, radii)
        if previous is None:
            # The first angles decide how fine the radial rule must be for all.
            while radii < _MOST_RADII and slip > 0.1 * _ACCEPTED:
                radii *= 2
                coarse, value = value, _radial(law, y / theta, end, radii)
                slip = float(np.abs(value - coarse).max() / np.abs(value).max())
        total, weights = total + value.sum(), weights + phi.size
        current = total * np.pi / weights
        if previous is not None and current > 0:
            error = abs(current - previous) / current + slip * np.abs(value).max() * np.pi / current
            if error <= _ACCEPTED:
                break
        previous = current
        # The next angles lie half-way between those so far, so that nothing is computed twice.
        phi = np.pi * (np.arange(angles) + 0.5) / angles
        angles *= 2
    if not (current > 0 and error < 0.1):
        return -np.inf, np.inf
    rounding = QuadraticLaw.of(np.ones((1, 1)), c=tilted.log_mgf).rounding(np.ones(1))[0]
    return float(log_scale + np.log(current)), float(error + 1e-9 + rounding)


def _slow(forms: Forms) -> bool:
    """Whether the integrand decays too slowly to be worth a try: quadratic forms in fewer than four coordinates."""
    return forms.b.shape[1] < _LEAST_DIMENSION and bool(np.abs(forms.A).max() > 1e-12 * np.abs(forms.b).max(initial=1e-300))


def _along(white: Forms, L: np.ndarray, phi: np.ndarray) -> tuple[QuadraticLaw, np.ndarray]:
    """Laws of ``y . M`` under the tilted measure along each angle, and the directions y, of unit Hessian length."""
    y = solve_triangular(L, np.stack([np.cos(phi), np.sin(phi)]), lower=True, trans="T", check_finite=False).T
    return QuadraticLaw.of_forms(np.tensordot(y, white.A, axes=1), y @ white.b, y @ white.c), y


def _radial(law: QuadraticLaw, ratio: np.ndarray, end: np.ndarray, nodes: int) -> np.ndarray:
    """Integral over the radius for each angle, relative to the saddle."""
    x, weight = _legendre(nodes)
    u = end[:, None] * (x + 1) / 2
    r = np.sinh(u)
    log_f = law.log_laplace(1j * r) - np.log1p(1j * r * ratio[:, :1]) - np.log1p(1j * r * ratio[:, 1:])
    return (r * np.cosh(u) * np.exp(log_f).real) @ weight * end / 2


@lru_cache
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(nodes)


def _end(law: QuadraticLaw, reach: np.ndarray) -> np.ndarray:
    """The ``u = asinh r`` from which on the modulus, which only falls, is negligible; one for each ray."""
    grid = np.concatenate([np.arange(1.0, 4, 0.25), np.arange(4, 8, 0.5), np.arange(8, 40, 2.0)])
    r = np.sinh(grid)
    size = 2 * np.log(r) - np.log(np.hypot(1, reach[:, :1] * r)) - np.log(np.hypot(1, reach[:, 1:] * r))
    for j in range(law.w.shape[1]):
        e = (2 * law.w[:, j, None] * r) ** 2
        size = size - 0.25 * np.log1p(e) - 0.5 * (law.g[:, j, None] * r) ** 2 / (1 + e)
    below = size - 0.5 * (law.s[:, None] * r) ** 2 < _NEGLIGIBLE
    return np.where(below.any(axis=1), grid[np.argmax(below, axis=1)], np.nan)
