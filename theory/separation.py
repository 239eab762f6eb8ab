"""Separation statistics of all component pairs in one shared space (theory/README.md, separation statistics at scale).

Of ``E Q_s = tr(P C) + D'P D`` and ``Var Q_s = 2 tr((P C)^2) + 4 D'P C P D``, with ``P = Lam_s^-1`` and ``D = nu - mu_s``, all
pairs of ``tr(P C)`` are one product of a (C, d^2) with a (d^2, K) matrix, and the terms in D take d^2 operations a pair.
``tr((P C)^2)`` is quadratic in both factors and takes d^3 a pair. One more product gives an upper bound of it::

    tr((P C)^2) = |P C|_F^2 - |P C - C P|_F^2 / 2 <= |P C|_F^2 = <P^2, C^2>

(expand ``|P C - C P|_F^2``; P and C are symmetric). So the bound is exact where P and C commute. The left side is the same in
all coordinates and the right side is not: it is taken where the signatures' mean covariance is the identity, since there P
and C are the closer to the identity, and the closer to commuting, the more alike the components are. With ``P = I + E`` and
``C = I + F`` the excess is ``|E F - F E|_F^2 / 2``, of fourth order in the differences. Also ``tr((P C)^2) <= tr(P C)^2``, as
``P C`` has positive eigenvalues; it is the smaller one where covariances differ by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dlauum, dpotrf

from theory.errors import InputError
from theory.mixture import QueryLaw
from theory.signatures import Signatures

# Bytes of dense matrices that are worked on at once for exact variances.
_CHUNK_BYTES = 64 * 2**20
# Bytes of query covariances that stay packed at once; those of the signatures come in blocks of so many.
_PACKED_BYTES = 720 * 2**20
_BLOCK = 96
# Rows of a packed matrix's strips are at least this many, and there are at most eight strips.
_STRIP = 64
# Relative error from rounding in the products at which a pair is computed by itself.
_TOLERATED = 1e-9

Method = Literal["exact", "bound"]


@dataclass(frozen=True)
class Separation:
    """Statistics of ``Q_s`` under query component c, for all (c, s).

    Attributes
    ----------
    delta : (C, K) array
        ``E Q_s / d - 1``.
    kappa : (K, K) array
        ``log det Lam_s - log det Lam_t`` (plus ``2 log(pi_t / pi_s)`` with weights) at ``[t, s]``.
    variance : (C, K) array
        ``Var Q_s = 2 tr((Lam_s^-1 C)^2) + 4 D' Lam_s^-1 C Lam_s^-1 D``, or an upper bound of it.
    exact : (C, K) bool array
        Where `variance` is the variance and not only an upper bound. Statements that get weaker as it grows (L1, T2 and
        every other use of it in the ladder) hold either way.
    """

    delta: Float[np.ndarray, "C K"]
    kappa: Float[np.ndarray, "K K"]
    variance: Float[np.ndarray, "C K"]
    exact: Bool[np.ndarray, "C K"]


def separation(signatures: Signatures, law: QueryLaw | None = None, *, variance: Method = "exact") -> Separation:
    """delta, kappa and V of every (query component, signature component) pair under a law in one shared space.

    Parameters
    ----------
    signatures : Signatures
    law : QueryLaw, optional
        In one shared space. If None, the signatures themselves (well-specified), without building that law.
    variance : {"exact", "bound"}
        "exact" takes two products of d x d matrices a pair: for 1,000 clusters at d = 384 that is hours. "bound" takes
        d^2 operations a pair: delta and the part of V due to the means are as before, and the part ``2 tr((P C)^2)`` is
        replaced by the upper bound above. Beside signatures and result it holds under 0.9 GiB at d = 384.

    Returns
    -------
    Separation

    Raises
    ------
    InputError
        If the law does not fit the signatures or has several spaces, or `variance` is neither of the two.

    Notes
    -----
    The products lose digits where covariances are nearly singular in different directions. With "bound" an allowance for
    this is added to V, and pairs where it is above 1e-9 of delta + 1 or of V are computed exactly instead, one by one.
    """
    nu, factor = _queries(signatures, law)
    if variance == "exact":
        C, K = nu.shape[0], len(signatures)
        mean, spread, exact = np.empty((C, K)), np.empty((C, K)), np.ones((C, K), dtype=bool)
        for c in range(C):
            mean[c], spread[c] = _direct(signatures, nu[c], factor(c), np.arange(K))
    elif variance == "bound":
        mean, spread, exact = _by_products(signatures, nu, factor)
    else:
        raise InputError("variance", f"{variance!r} is unknown; choose 'exact' or 'bound'")
    constants = signatures.constants
    return Separation(mean / signatures.dimension - 1, constants[None, :] - constants[:, None], spread, exact)


def exact_variance(
    signatures: Signatures, component: Int[np.ndarray, " P"], wrong: Int[np.ndarray, " P"], law: QueryLaw | None = None
) -> Float[np.ndarray, " P"]:
    """``Var Q_s`` of chosen pairs, for those that the upper bound shows to matter.

    Parameters
    ----------
    signatures, law
        As for `separation`.
    component, wrong : (P,) int arrays
        Query component and signature component of each pair.

    Raises
    ------
    InputError
        As `separation`, and for indices out of range.
    """
    nu, factor = _queries(signatures, law)
    component, wrong = np.asarray(component), np.asarray(wrong)
    if component.ndim != 1 or component.shape != wrong.shape:
        raise InputError("component", f"has shape {component.shape} beside wrong's {wrong.shape}; needs one of each for every pair")
    for name, value, size in (("component", component, nu.shape[0]), ("wrong", wrong, len(signatures))):
        if value.size and not (np.issubdtype(value.dtype, np.integer) and value.min() >= 0 and value.max() < size):
            raise InputError(name, f"needs integers from 0 to {size - 1}")
    out = np.empty(component.size)
    for c in np.unique(component):
        rows = np.flatnonzero(component == c)
        out[rows] = _direct(signatures, nu[c], factor(int(c)), wrong[rows])[1]
    return out


_Factor = Callable[[int], Float[np.ndarray, "d d"]]


def _queries(signatures: Signatures, law: QueryLaw | None) -> tuple[Float[np.ndarray, "C d"], _Factor]:
    """Means of the query components, and the Cholesky factor of any one of their covariances."""
    if law is None:
        # dpotrf sees the transpose, which is in its own order, and returns its upper factor: ours after transposing back.
        return signatures.means, lambda c: dpotrf(signatures.covariances[c].T, lower=0, clean=1)[0].T
    if not law.shared:
        raise InputError("query law", f"lives in {law.means.shape[1]} spaces; separation needs one shared space")
    if law.means.shape[2] != signatures.dimension:
        raise InputError("query law", f"has dimension {law.means.shape[2]}; signatures have {signatures.dimension}")
    return law.means[:, 0], lambda c: law.factors[c]


def _direct(
    signatures: Signatures, nu: Float[np.ndarray, " d"], factor: Float[np.ndarray, "d d"], components: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean and variance of ``Q_s`` under one query component: every statistic is a norm of ``F = L_s^-1 L_c``."""
    mean, variance = np.empty(components.size), np.empty(components.size)
    rows = max(1, _CHUNK_BYTES // (8 * factor.size))
    for start in range(0, components.size, rows):
        part = components[start : start + rows]
        whiteners = signatures.gaussians.whiteners[part]
        F = whiteners @ factor
        a = np.einsum("kij,kj->ki", whiteners, nu - signatures.means[part])
        gram = np.swapaxes(F, -1, -2) @ F
        pulled = np.einsum("kij,ki->kj", F, a)
        mean[start : start + rows] = np.einsum("kij,kij->k", F, F) + np.einsum("ki,ki->k", a, a)
        variance[start : start + rows] = 2 * np.einsum("kij,kij->k", gram, gram) + 4 * np.einsum("kj,kj->k", pulled, pulled)
    return mean, variance


def _by_products(
    signatures: Signatures, nu: Float[np.ndarray, "C d"], factor: _Factor
) -> tuple[Float[np.ndarray, "C K"], Float[np.ndarray, "C K"], Bool[np.ndarray, "C K"]]:
    """Mean of ``Q_s``, upper bound of its variance, and where that is exact, by products over blocks of pairs."""
    C, K, d = nu.shape[0], len(signatures), signatures.dimension
    root = _common_root(signatures)
    whitener = np.ascontiguousarray(solve_triangular(root, np.eye(d), lower=True, check_finite=False))
    centre = signatures.means.mean(axis=0)
    strips = _strips(d)
    size = sum(rows * end for _, rows, end in strips)
    tile = max(1, min(C, _PACKED_BYTES // (16 * size)))
    mean, variance, exact = np.empty((C, K)), np.empty((C, K)), np.zeros((C, K), dtype=bool)
    # What overflows here is computed exactly below.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        mu, nu_white = (signatures.means - centre) @ whitener.T, (nu - centre) @ whitener.T
        queries, buffers = np.empty((2, tile, size)), _Buffers(d, size)
        for start in range(0, C, tile):
            n = min(tile, C - start)
            norms = np.empty((2, n))
            for c in range(n):
                G = _lower_product(whitener, factor(start + c))
                covariance = G @ G.T
                norms[:, c] = _pack_with_square(covariance, strips, queries[:, c], 2.0)
            for first in range(0, K, _BLOCK):
                rows, block = slice(start, start + n), slice(first, min(first + _BLOCK, K))
                mean[rows, block], variance[rows, block], allowance = _block(
                    signatures.gaussians.whiteners[block], root, strips, mu[block], nu_white[rows], queries[:, :n], norms, buffers
                )
                exact[rows, block] = ~(allowance <= _TOLERATED)
    for left in np.flatnonzero(exact.any(axis=1)):
        alone = np.flatnonzero(exact[left])
        mean[left, alone], variance[left, alone] = _direct(signatures, nu[left], factor(int(left)), alone)
    return mean, variance, exact


class _Buffers:
    """What a block works in, allocated once: fresh pages for every block would take longer to fetch than to fill."""

    def __init__(self, d: int, size: int) -> None:
        self.precisions = np.empty((_BLOCK, d, d))
        self.packed = np.empty((2, _BLOCK, size))
        self.y = np.empty((_BLOCK, _BLOCK, d))


def _block(
    whiteners: Float[np.ndarray, "n d d"],
    root: Float[np.ndarray, "d d"],
    strips: list[tuple[int, int, int]],
    mu: Float[np.ndarray, "n d"],
    nu: Float[np.ndarray, "C d"],
    queries: Float[np.ndarray, "2 C size"],
    query_norms: Float[np.ndarray, "2 C"],
    buffers: _Buffers,
) -> tuple[Float[np.ndarray, "C n"], Float[np.ndarray, "C n"], Float[np.ndarray, "C n"]]:
    """Means, upper bounds of variances, and the share that rounding may have in either, for some signature components."""
    n, d, C = len(whiteners), root.shape[0], nu.shape[0]
    precisions, packed, y, norms = buffers.precisions[:n], buffers.packed[:, :n], buffers.y[:n], np.empty((2, n))
    for s in range(n):
        # The product W'W of a triangular W with itself, one triangle of it in place of W; the other stays zero.
        half = dlauum(_lower_product(whiteners[s], root).T, lower=0)[0].T
        half[np.diag_indices(d)] /= 2
        np.add(half, half.T, out=precisions[s])
        norms[:, s] = _pack_with_square(precisions[s], strips, packed[:, s], 1.0)
    trace, square = queries[0] @ packed[0].T, queries[1] @ packed[1].T
    distance, pulled = np.empty((C, n)), np.zeros((C, n))
    for start in range(0, C, _BLOCK):
        rows = slice(start, min(start + _BLOCK, C))
        for s in range(n):
            D = nu[rows] - mu[s]
            np.matmul(D, precisions[s], out=y[s, : len(D)])
            distance[rows, s] = np.einsum("cd,cd->c", D, y[s, : len(D)])
        for c in range(start, rows.stop):
            at, filled = y[:, c - start], 0
            for top, height, end in strips:
                strip = queries[0, c, filled : filled + height * end].reshape(height, end)
                pulled[c] += np.einsum("sh,sh->s", at[:, :end] @ strip.T, at[:, top : top + height])
                filled += height * end
    # Allowances for rounding: some ulps, times the root of the number of terms, of the sizes that were multiplied.
    ulps = 16 * np.finfo(np.float64).eps
    slack = ulps * d * query_norms[:, :, None] * norms[:, None, :]
    far = np.sqrt(np.maximum(0.0, (nu**2).sum(axis=1)[:, None] + (mu**2).sum(axis=1) - 2 * nu @ mu.T))
    sizes = ulps * np.sqrt(d) * norms[0] * far
    mean_slack = slack[0] + sizes * far
    pulled_slack = sizes * query_norms[0][:, None] * np.sqrt(norms[0] * np.maximum(0.0, distance))
    mean = trace + distance
    variance = 2 * np.minimum(square + slack[1], (trace + slack[0]) ** 2) + 4 * (pulled + pulled_slack)
    # A lower bound of the variance, to which its slack is compared: tr(X^2) >= tr(X)^2 / d.
    share = np.maximum(mean_slack / mean, (2 * slack[1] + 4 * pulled_slack) / (2 * trace**2 / d + 4 * pulled))
    return mean, variance, np.where((trace > 0) & (pulled + pulled_slack >= 0), share, np.inf)


def _common_root(signatures: Signatures) -> Float[np.ndarray, "d d"]:
    """Lower Cholesky factor of the mean covariance of the signatures; of its diagonal, should rounding make it indefinite."""
    with np.errstate(over="ignore"):
        mean = signatures.covariances.mean(axis=0)
    try:
        return np.linalg.cholesky(mean)
    except np.linalg.LinAlgError:
        return np.diag(np.sqrt(np.diagonal(mean)))


def _lower_product(A: Float[np.ndarray, "d d"], B: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    """``A B`` of two lower triangular matrices, at half the cost of a general product."""
    return dtrmm(1.0, B.T, A.T, lower=0).T


def _strips(d: int) -> list[tuple[int, int, int]]:
    """First row, rows and columns of the strips that hold the lower triangle of a (d, d) matrix, block by block.

    Eight strips of a symmetric matrix hold 9/16 of it, each as a dense matrix.
    """
    height = max(_STRIP, -(-d // 8))
    return [(top, min(height, d - top), min(top + height, d)) for top in range(0, d, height)]


def _pack_with_square(
    X: Float[np.ndarray, "d d"], strips: list[tuple[int, int, int]], out: Float[np.ndarray, "2 size"], weight: float
) -> tuple[float, float]:
    """Strips of a symmetric X and of ``X^2``, what is left of their diagonal blocks times a weight; returns both norms.

    With weight 2 on one side and 1 on the other the inner product of two packed matrices is that of the whole ones.
    """
    # NumPy takes the product with the own transpose for symmetric and computes one half.
    norms = []
    for j, matrix in enumerate((X, X @ X.T)):
        filled = 0
        for top, height, end in strips:
            strip = out[j, filled : filled + height * end].reshape(height, end)
            strip[...] = matrix[top : top + height, :end]
            if weight != 1.0:
                strip[:, :top] *= weight
            filled += height * end
        norms.append(float(np.sqrt(np.vdot(matrix, matrix))))
    return norms[0], norms[1]
