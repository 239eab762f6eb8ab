"""Separation statistics of all component pairs in one shared space (theory.md, sections 1 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from theory.mixture import QueryLaw, Signatures


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
        ``Var Q_s = 2 tr((Lam_s^-1 C)^2) + 4 D' Lam_s^-1 C Lam_s^-1 D``.
    """

    delta: Float[np.ndarray, "C K"]
    kappa: Float[np.ndarray, "K K"]
    variance: Float[np.ndarray, "C K"]


def separation(signatures: Signatures, law: QueryLaw) -> Separation:
    """delta, kappa and V of every (query component, signature component) pair under a law in one shared space.

    The factors ``F = L_s^-1 L_c`` of all s for one c are one product; every statistic is a norm of them.
    """
    d = signatures.dimension
    whiteners, means = signatures.gaussians.whiteners, signatures.means
    C, K = len(law), len(signatures)
    delta, variance = np.empty((C, K)), np.empty((C, K))
    for c in range(C):
        F = whiteners @ law.factors[c]
        a = np.einsum("kij,kj->ki", whiteners, law.means[c, 0] - means)
        gram = np.swapaxes(F, -1, -2) @ F
        trace = np.einsum("kij,kij->k", F, F)
        delta[c] = (trace + np.einsum("ki,ki->k", a, a)) / d - 1
        pulled = np.einsum("kij,ki->kj", F, a)
        variance[c] = 2 * np.einsum("kij,kij->k", gram, gram) + 4 * np.einsum("kj,kj->k", pulled, pulled)
    constants = signatures.constants
    return Separation(delta, constants[None, :] - constants[:, None], variance)
