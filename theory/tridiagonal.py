"""Eigenvalues of a symmetric matrix and the squared coordinates of one vector in its eigenvectors, without eigenvectors.

What it serves: theory/README.md, pairs.

The law of ``z'Az + b'z`` depends on the eigenvectors of A only through the sizes of b's coordinates in them, and those
follow from two spectra. Householder reflections that bring b onto the first axis turn A into a tridiagonal T, and with
``lam`` the eigenvalues of T and ``mu`` those of T without its first row and column, the two sides of ::

    b'(A - x)^-1 b = |b|^2 prod_i (mu_i - x) / prod_j (lam_j - x)

have the same residues at ``x = lam_j``: ``g_j^2 = |b|^2 prod_i (lam_j - mu_i) / prod_{i != j} (lam_j - lam_i)``. One
reduction and two spectra of a tridiagonal matrix take about half as long as a decomposition with eigenvectors.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg.lapack import dsterf, dsytrd, dsytrd_lwork

# Rows of the table of ratios that are worked on at once, to stay in cache.
_ROWS = 64


def spectra(A: Float[np.ndarray, "P D D"], b: Float[np.ndarray, "P D"]) -> tuple[Float[np.ndarray, "P D"], Float[np.ndarray, "P D"]]:
    """Eigenvalues of each A, ascending, and the absolute coordinates of each b in the eigenvectors of its A.

    Parameters
    ----------
    A : (P, D, D) array
        Symmetric; only one triangle is read. D >= 3.
    b : (P, D) array

    Returns
    -------
    w : (P, D) array
        With the accuracy of `numpy.linalg.eigvalsh`: a few ulps of the largest eigenvalue.
    g : (P, D) array
        ``|v_j' b|`` at least 0. Among equal eigenvalues, where the eigenvectors are not unique, one holds the whole length.

    Notes
    -----
    The accuracy is that of a nearby pair of spectra: every ``lam`` and ``mu`` is off by a few ulps of the largest eigenvalue,
    and the weights are those of the spectra as computed, to a few times D ulps. So single coordinates of a vector in
    eigenvectors of close eigenvalues are as uncertain as those eigenvectors themselves, whereas ``b'(A - x)^-1 b``, which is
    what a law depends on, is right at any x that is not itself that close to an eigenvalue. This needs the two spectra to
    interlace, which exact ones do and which rounding undoes by ulps: `mu` is clipped.
    """
    P, D = b.shape
    w, g = np.empty((P, D)), np.empty((P, D))
    # Powers of two, so that scaling is exact; squares of what is left neither overflow nor vanish.
    scale_A = np.frexp(np.maximum(A.max(axis=(1, 2)), -A.min(axis=(1, 2))))[1]
    scale_b = np.frexp(np.abs(b).max(axis=1))[1]
    work = int(dsytrd_lwork(D + 1, lower=1)[0])
    for p in range(P):
        # Bordered by b, the reduction's first reflection is the one that brings b onto the first axis; later ones leave it there.
        bordered = np.zeros((D + 1, D + 1))
        bordered[0, 1:] = np.ldexp(b[p], -scale_b[p])
        np.ldexp(A[p], -scale_A[p], out=bordered[1:, 1:])
        # The transposed view is in Fortran's order, so it is reduced in place.
        _, diagonal, off, _, _ = dsytrd(bordered.T, lower=1, lwork=work, overwrite_a=1)
        lam, failed = dsterf(diagonal[1:], off[1:])
        mu, failed_too = dsterf(diagonal[2:], off[2:])
        if failed or failed_too:
            w[p], vectors = np.linalg.eigh(A[p])
            g[p] = np.abs(vectors.T @ b[p])
            continue
        w[p] = np.ldexp(lam, scale_A[p])
        g[p] = np.ldexp(np.abs(off[0]) * np.sqrt(_residues(lam, mu)), scale_b[p])
    return w, g


def _residues(lam: Float[np.ndarray, " D"], mu: Float[np.ndarray, " D1"]) -> Float[np.ndarray, " D"]:
    """``prod_i (lam_j - mu_i) / prod_{i != j} (lam_j - lam_i)`` for interlacing, ascending spectra; they sum to one."""
    D = lam.size
    mu = np.clip(mu, lam[:-1], lam[1:])
    ties = bool((lam[1:] == lam[:-1]).any())
    column = np.arange(D)
    out = np.ones(D)
    for start in range(0, D - 1, _ROWS):
        i = column[start : min(start + _ROWS, D - 1), None]
        # Each mu_i goes with that neighbour of it which is farther from lam_j: every ratio then lies in [0, 1].
        below = i < column
        ratio, apart = mu[i] - lam, np.where(below, lam[i], lam[i + 1]) - lam
        if ties:
            # Equal eigenvalues enclose a mu equal to them; counting such a pair once gives the last of them all the weight.
            tied = apart == 0
            np.divide(ratio, apart, out=ratio, where=~tied)
            ratio[tied] = below[tied]
        else:
            ratio /= apart
        out *= np.multiply.reduce(ratio, axis=0)
    return out
