"""delta, kappa and V of all pairs of very many components of low rank plus diagonal, block by block within a given memory.

With ``P = Lam_s^-1 = diag(p) - W'W`` (`LowRankGaussians.loadings`), ``C = diag(psi) + F F'`` and ``D = nu - mu_s``, all that
`theory.separation` computes from dense matrices comes from inner products of length d, and so, for all pairs, from a few matrix products::

    H = W F,  X = W diag(p psi) F,  G = W diag(psi) W',  Y = F' diag(p) F,  q = W D,  e = F' diag(p) D,  a = W diag(p psi) D
    tr(P C)     = p.(psi + f) - psi.w - |H|^2,                  f, w the squared row lengths of F and of W'
    tr((P C)^2) = p^2.(psi^2 + 2 psi f) - 2 psi^2.(p w) + |G|^2 - 4 <X, H> + 2 <G, H H'> + |Y - H'H|^2
    D'P D       = p.D^2 - |q|^2
    D'P C P D   = (p^2 psi).D^2 - 2 a.q + q'G q + |e - H'q|^2

(products of vectors by entry; expand ``P C`` and count equal traces). No d x d matrix is formed; most of the work is some 3 r^2 inner
products a pair. Covariances that are diagonal (r = 0) need nine; one covariance for all is that case after whitening (`tied`).

The differences lose digits where a covariance is much longer along its factors than across. An allowance for rounding, in ulps of what
was subtracted, goes with every number; a pair for which it exceeds 1e-7 of the number is computed by itself, from dense matrices.
What it is for: theory/README.md, separation statistics at scale.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from theory.errors import InputError
from theory.files import UNFINISHED
from theory.lowrank import LowRankGaussians

# Bytes that are worked in unless told otherwise.
MEMORY = 256 * 2**20
# Relative error from rounding at which a pair is computed by itself.
_TOLERATED = 1e-7
# More pairs than this at once would leave the cache.
_PAIRS_AT_ONCE = 64


@dataclass(frozen=True)
class PairBlock:
    """Statistics of ``Q_s(x)``, ``x ~ N(nu_c, C_c)``, for a block of pairs (query component c, signature component s).

    Attributes
    ----------
    rows, columns : slice
        The query components and the signature components.
    mean : (n, k) array
        ``E Q_s = tr(P C) + D'P D``; ``delta`` is this over d, less one.
    variance : (n, k) array
        ``V = Var Q_s = 2 tr((P C)^2) + 4 D'P C P D``.
    excess : (n, k) array
        ``|C^1/2 P C^1/2 - I|_F^2 = tr((P C)^2) - 2 tr(P C) + d``: 0 where the covariances agree. Of the margin
        ``Q_s - Q_c`` of a query from c itself the variance is ``2 excess + 4 D'P C P D``, and no eigenvalue is below ``-sqrt(excess)``.
    pulled : (n, k) array
        ``D'P C P D``.
    mean_error, variance_error : (n, k) arrays
        Allowances for rounding, absolute: of `mean`, and of ``2 excess + 4 pulled`` as of `variance`.
    dimension : int
    """

    rows: slice
    columns: slice
    mean: Float[np.ndarray, "n k"]
    variance: Float[np.ndarray, "n k"]
    excess: Float[np.ndarray, "n k"]
    pulled: Float[np.ndarray, "n k"]
    mean_error: Float[np.ndarray, "n k"]
    variance_error: Float[np.ndarray, "n k"]
    dimension: int

    @property
    def delta(self) -> Float[np.ndarray, "n k"]:
        """Separations ``E Q_s / d - 1``."""
        return self.mean / self.dimension - 1


def tied(means: Float[np.ndarray, "K d"], covariance: Float[np.ndarray, "d d"]) -> LowRankGaussians:
    """Gaussians of one covariance, in coordinates in which it is the identity; delta, kappa and V are the same in any.

    Raises
    ------
    InputError
        If the covariance is not positive definite, or shapes disagree.
    """
    means, covariance = np.asarray(means, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if means.ndim != 2 or covariance.shape != (means.shape[1],) * 2:
        raise InputError("covariance", f"has shape {covariance.shape}; means of shape {means.shape} need one of their dimension")
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise InputError("covariance", "is not positive definite; shrink it") from None
    white = solve_triangular(root, (means - means.mean(axis=0)).T, lower=True).T
    return LowRankGaussians(white, np.zeros((*means.shape, 0)), np.ones(means.shape))


def pair_blocks(
    signatures: LowRankGaussians,
    queries: LowRankGaussians | None = None,
    *,
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> Iterator[PairBlock]:
    """The statistics of all pairs, block by block: all signature components for some query components, then the next ones.

    Parameters
    ----------
    signatures : LowRankGaussians
    queries : LowRankGaussians, optional
        The query components; the signatures themselves if None (well-specified).
    memory : int
        Bytes that may be worked in, the block that is handed out included.
    advance : callable, optional
        Told the number of pairs just done.

    Raises
    ------
    InputError
        If dimensions differ, or the memory is too small for one pair.
    """
    queries = signatures if queries is None else queries
    d = signatures.dimension
    if queries.dimension != d:
        raise InputError("queries", f"have dimension {queries.dimension}; signatures have {d}")
    rows, columns = _tile(d, queries.factors.shape[2], signatures.axes.shape[2], len(queries), len(signatures), memory)
    centre = signatures.means.mean(axis=0)
    # Any units would do in exact arithmetic; in these the coordinates are alike.
    unit = np.sqrt(signatures.diagonals.mean(axis=0))
    return _blocks(signatures, queries, centre, unit, rows, columns, advance)


def write_pairs(
    path: Path | str,
    signatures: LowRankGaussians,
    queries: LowRankGaussians | None = None,
    *,
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write delta and V of all pairs into a `.npy` file of shape (2, C, K), block by block; ``np.load(path, mmap_mode="r")`` reads it.

    kappa needs no file: it is ``log_dets[s] - log_dets[c]``, and what a rule adds.

    Parameters
    ----------
    path : path
        Replaced in one step once all is written.
    signatures, queries, memory, advance
        As for `pair_blocks`; the pages of the file are the operating system's.

    Raises
    ------
    InputError
        As `pair_blocks`.
    OSError
        If it cannot be written; what stood there before still does.
    """
    path = Path(path)
    blocks = pair_blocks(signatures, queries, memory=memory, advance=advance)
    temporary = path.with_name(f".{path.name}{UNFINISHED}")
    shape = (2, len(signatures if queries is None else queries), len(signatures))
    try:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float64, shape=shape)
        for block in blocks:
            out[0, block.rows, block.columns] = block.delta
            out[1, block.rows, block.columns] = block.variance
        out.flush()
        del out
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(
    signatures: LowRankGaussians,
    queries: LowRankGaussians,
    centre: np.ndarray,
    unit: np.ndarray,
    rows: int,
    columns: int,
    advance: Callable[[int], None] | None,
) -> Iterator[PairBlock]:
    buffers: dict[str, np.ndarray] = {}
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        for start in range(0, len(queries), rows):
            some = slice(start, min(start + rows, len(queries)))
            left = _Left(queries, some, centre, unit)
            for first in range(0, len(signatures), columns):
                others = slice(first, min(first + columns, len(signatures)))
                block = _block(left, _Right(signatures, others, centre, unit), some, others, buffers)
                _mend(block, signatures, queries)
                yield block
                if advance is not None:
                    advance(block.mean.size)
                del block


def least_memory(signatures: LowRankGaussians, queries: LowRankGaussians | None = None) -> int:
    """The fewest bytes that `pair_blocks` can work in."""
    queries = signatures if queries is None else queries
    return sum(_bytes(signatures.dimension, queries.factors.shape[2], signatures.axes.shape[2]))


def _bytes(d: int, q: int, r: int) -> tuple[int, int, int, int]:
    """Bytes that a query component, a signature component and a pair take, and a pair that is computed by itself."""
    left = 8 * d * (14 + 6 * q + q * (q + 1))
    right = 8 * d * (14 + 8 * r + r * (r + 1))
    # Those of the last block live until this one is handed out.
    pair = 8 * (_inner(q, r) + 2 * r * (q + 1) + 40)
    return left, right, pair, 8 * 5 * d * (d + q)


def _tile(d: int, q: int, r: int, C: int, K: int, memory: int) -> tuple[int, int]:
    """Query components and signature components of a block, within so many bytes."""
    left, right, pair, alone = _bytes(d, q, r)
    least = left + right + pair + alone
    if memory < least:
        raise InputError("memory", f"{memory} bytes are too few for one pair; needs at least {least}")
    memory -= alone
    # Signature components are prepared anew for every block of query components, of which there are therefore more at once.
    rows = max(1, min(C, memory // 2 // left))
    while rows > 1 and memory < rows * left + right + rows * pair:
        rows //= 2
    return rows, max(1, min(K, (memory - rows * left) // (right + rows * pair)))


def _inner(q: int, r: int) -> int:
    """Inner products that a pair takes, beside those of lengths alone."""
    return r * (r + 1) // 2 + r + (q + 1) * (r + 1) + (q + 1) * r + q * (q + 1) // 2 + q + 8


class _Left:
    """What inner products need of some query components."""

    def __init__(self, queries: LowRankGaussians, rows: slice, centre: np.ndarray, unit: np.ndarray) -> None:
        psi = queries.diagonals[rows] / unit**2
        nu = (queries.means[rows] - centre) / unit
        F = np.moveaxis(queries.factors[rows], 2, 0) / unit
        q = self.q = len(F)
        f = np.einsum("jcd,jcd->cd", F, F)
        self.psi, self.nu, self.f = psi, nu, f
        # By the vector of the other side that they meet: p, p^2, and psi with what is left of it.
        self.square = psi**2
        self.second = psi**2 + 2 * psi * f
        self.far = psi * nu**2
        self.plain = np.concatenate([nu[None], F])
        self.scaled = self.plain * psi
        upper = [(j, k) for j in range(q) for k in range(j, q)]
        self.upper = upper
        self.products = np.stack([*(F[j] * F[k] for j, k in upper), *(F[j] * nu for j in range(q))]) if q else F

    def __len__(self) -> int:
        return len(self.psi)


class _Right:
    """What inner products need of some signature components."""

    def __init__(self, signatures: LowRankGaussians, columns: slice, centre: np.ndarray, unit: np.ndarray) -> None:
        part = signatures.part(columns)
        p = (part.scales * unit) ** 2
        mu = (part.means - centre) / unit
        W = np.moveaxis(part.loadings * unit, 1, 0)
        r = self.r = len(W)
        self.p, self.mu = p, mu
        self.p2 = p**2
        self.w = np.einsum("akd,akd->kd", W, W)
        self.pmu = p * mu
        self.scaled = W * p
        upper = [(a, b) for a in range(r) for b in range(a, r)]
        self.upper = upper
        self.plain = np.concatenate([W, self.pmu[None]])
        self.products = np.stack([*(W[a] * W[b] for a, b in upper), *(self.scaled[a] * mu for a in range(r))]) if r else W
        self.Wmu = np.einsum("akd,kd->ak", W, mu)
        self.length = np.einsum("kd,kd->k", self.pmu, mu)

    def __len__(self) -> int:
        return len(self.p)


def _inner_products(name: str, left: np.ndarray, right: np.ndarray, buffers: dict[str, np.ndarray]) -> np.ndarray:
    """Inner products of stacks (i, n, d) and (j, k, d), as (i, n, j, k), in a buffer of that name."""
    i, n, d = left.shape
    j, k, _ = right.shape
    size = i * n * j * k
    if name not in buffers or buffers[name].size < size:
        # Fresh pages for every block would take longer to fetch than to fill.
        buffers[name] = np.empty(size)
    out = buffers[name][:size].reshape(i * n, j * k)
    np.matmul(left.reshape(i * n, d), right.reshape(j * k, d).T, out=out)
    return out.reshape(i, n, j, k)


def _block(left: _Left, right: _Right, rows: slice, columns: slice, buffers: dict[str, np.ndarray]) -> PairBlock:
    n, k, d = len(left), len(right), left.psi.shape[1]
    q, r = left.q, right.r
    diagonal, factors = left.psi @ right.p.T, left.f @ right.p.T
    trace = diagonal + factors
    square = left.second @ right.p2.T
    # p.D^2 and (p^2 psi).D^2, from what they are the differences of.
    near = (left.nu**2) @ right.p.T
    mixed = _inner_products("plain", left.plain, right.plain, buffers)
    distance_size = near + right.length
    distance = distance_size - 2 * mixed[0, :, r]
    pulled_size = left.far @ right.p2.T + left.psi @ (right.pmu**2).T
    pulled = pulled_size - 2 * (left.scaled[0] @ (right.p * right.pmu).T)
    lost = np.zeros((n, k))
    size = square.copy()
    if r:
        weight = left.psi @ right.w.T
        share = left.square @ (right.p * right.w).T
        trace -= weight
        square -= 2 * share
        size += 2 * share
        lost = weight
        G = _inner_products("grams", left.psi[None], right.products, buffers)[0]
        crossed = _inner_products("scaled", left.scaled, right.scaled, buffers)
        along = mixed[0, :, :r] - right.Wmu
        a = crossed[0] - G[:, len(right.upper) :]
        distance -= np.einsum("nak,nak->nk", along, along)
        pulled -= 2 * np.einsum("nak,nak->nk", a, along)
        for j, (x, y) in enumerate(right.upper):
            times = 1 if x == y else 2
            g = G[:, j]
            # <G, G>, q'G q and <G, H H'>, an entry of G at a time.
            rest = g.copy()
            if q:
                rest += 2 * np.einsum("jnk,jnk->nk", mixed[1:, :, x], mixed[1:, :, y])
            square += times * g * rest
            pulled += times * g * along[:, x] * along[:, y]
    if q:
        Y = _inner_products("squares", left.products, right.p[None], buffers)[:, :, 0]
        pairs = len(left.upper)
        e = Y[pairs:] - mixed[1:, :, r]
        if r:
            H = mixed[1:, :, :r]
            trace -= np.einsum("jnak,jnak->nk", H, H)
            square -= 4 * np.einsum("jnak,jnak->nk", crossed[1:], H)
            e -= np.einsum("jnak,nak->jnk", H, along)
        for j, (x, y) in enumerate(left.upper):
            rest = Y[j] - np.einsum("nak,nak->nk", H[x], H[y]) if r else Y[j]
            square += (1 if x == y else 2) * rest**2
        pulled += np.einsum("jnk,jnk->nk", e, e)
    # Ulps, times the root of the number of terms, of the sizes that were added and subtracted: every row of W is at most 1 long in the
    # component's own units, so that inner products with it are at most as long as the other factor.
    ulps = 16 * np.finfo(np.float64).eps * np.sqrt(d)
    spread = lost + factors
    trace_error = ulps * (diagonal + factors + lost + r * factors)
    square_error = ulps * (1 + r + q) * (size + spread**2 + spread * (diagonal + lost))
    distance_error = ulps * (1 + r) * distance_size
    pulled_error = ulps * (1 + r + q) * (pulled_size + spread * distance_size + np.sqrt(lost * pulled_size * distance_size))
    distance, pulled = np.maximum(distance, 0.0), np.maximum(pulled, 0.0)
    excess = np.maximum(square - 2 * trace + d, 0.0)
    return PairBlock(
        rows=rows,
        columns=columns,
        mean=trace + distance,
        variance=2 * square + 4 * pulled,
        excess=excess,
        pulled=pulled,
        mean_error=trace_error + distance_error,
        variance_error=2 * square_error + 4 * trace_error + ulps * d + 4 * pulled_error,
        dimension=d,
    )


def _mend(block: PairBlock, signatures: LowRankGaussians, queries: LowRankGaussians) -> None:
    """Compute the pairs that lost too many digits by themselves."""
    sure = (block.mean_error <= _TOLERATED * block.mean) & (block.variance_error <= _TOLERATED * block.variance)
    for n, k in np.argwhere(~sure):
        trace, square, distance, pulled, excess, lost = _direct(signatures, queries, block.columns.start + k, block.rows.start + n)
        block.mean[n, k], block.variance[n, k] = trace + distance, 2 * square + 4 * pulled
        block.excess[n, k], block.pulled[n, k] = excess, pulled
        # Sums of squares: what is left is ulps of themselves, and of what the whitening took away.
        slack = 64 * block.dimension * np.finfo(np.float64).eps
        block.mean_error[n, k] = slack * block.mean[n, k] + lost[0]
        block.variance_error[n, k] = slack * (block.variance[n, k] + 4 * trace + 2 * block.dimension) + lost[1]


def _direct(
    signatures: LowRankGaussians, queries: LowRankGaussians, s: int, c: int
) -> tuple[float, float, float, float, float, tuple[float, float]]:
    """tr(P C), tr((P C)^2), D'P D, D'P C P D and the excess of one pair, as sums of squares of dense matrices.

    Last, what they may have lost in whitening, where a long vector becomes a short one: of ``tr(P C) + D'P D``, and of the variance.
    """
    ulps = 8 * signatures.dimension * np.finfo(np.float64).eps

    def whitened(x: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d n"]:
        y = x * signatures.scales[s][:, None]
        return y - signatures.axes[s] @ ((1 - signatures.shrink[s])[:, None] * (signatures.axes[s].T @ y))

    root = np.concatenate([np.diag(np.sqrt(queries.diagonals[c])), queries.factors[c]], axis=1)
    F = whitened(root)
    a = whitened((queries.means[c] - signatures.means[s])[:, None])[:, 0]
    inner, pulled = F @ F.T, F.T @ a
    distance = float(a @ a)
    trace, square = float(np.trace(inner)), float((inner**2).sum())
    inner[np.diag_indices_from(inner)] -= 1
    excess, energy = float((inner**2).sum()), float(pulled @ pulled)
    # Errors of F and of a, and of F F' - I and F'a through them.
    scales = signatures.scales[s]
    of_F = ulps * float(np.linalg.norm(root * scales[:, None]))
    of_a = ulps * float(np.linalg.norm((queries.means[c] - signatures.means[s]) * scales))
    size, length = np.sqrt(trace), np.sqrt(distance)
    of_inner, of_pulled = (2 * size + of_F) * of_F, size * of_a + (length + of_a) * of_F
    of_mean = of_inner + (2 * length + of_a) * of_a
    of_variance = 2 * (2 * np.sqrt(excess) + of_inner) * of_inner + 4 * (2 * np.sqrt(energy) + of_pulled) * of_pulled
    return trace, square, distance, energy, excess, (float(of_mean), float(of_variance))


def log_bhattacharyya(
    signatures: LowRankGaussians,
    component: Int[np.ndarray, " P"],
    wrong: Int[np.ndarray, " P"],
    *,
    memory: int = MEMORY,
) -> Float[np.ndarray, " P"]:
    """Upper bounds on the log of ``integral sqrt(f_c f_s)`` for chosen pairs: Chernoff's bound at one half, not optimised.

    With ``S = (C + Lam_s) / 2``, itself of low rank plus diagonal, it is
    ``-D'S^-1 D / 8 - log det S / 2 + (log det C + log det Lam_s) / 4``, and takes 4 d r^2 operations a pair. What rounding may have
    lost is added.

    Raises
    ------
    InputError
        If the memory is too small for one pair.
    """
    d, r = signatures.dimension, signatures.rank
    each = 8 * (d * (4 * r + 8) + 3 * (2 * r) ** 2)
    if memory < each:
        raise InputError("memory", f"{memory} bytes are too few for one pair; needs at least {each}")
    out = np.empty(component.size)
    at_once = max(1, min(_PAIRS_AT_ONCE, memory // each))
    for start in range(0, component.size, at_once):
        c, s = component[start : start + at_once], wrong[start : start + at_once]
        middle = (signatures.diagonals[c] + signatures.diagonals[s]) / 2
        root = np.sqrt(middle)
        A = np.concatenate([signatures.factors[c], signatures.factors[s]], axis=2)
        A /= np.sqrt(2) * root[:, :, None]
        y = (signatures.means[c] - signatures.means[s]) / root
        capacitance = np.swapaxes(A, 1, 2) @ A
        capacitance[:, np.arange(2 * r), np.arange(2 * r)] += 1
        z = np.einsum("pdr,pd->pr", A, y)
        factor = np.linalg.cholesky(capacitance)
        pulled = np.linalg.solve(factor, z[:, :, None])[:, :, 0]
        length = np.einsum("pd,pd->p", y, y)
        logs, pivots = np.log(middle), np.log(np.einsum("pii->pi", factor))
        # No eigenvalue of the capacitance is below 1, so that its norm is its condition number, for the distance and the determinant.
        size = (1 + length) * (1 + np.linalg.norm(capacitance, axis=(1, 2))) + np.abs(logs).sum(axis=1) + np.abs(pivots).sum(axis=1)
        size += np.abs(signatures.log_dets[c]) + np.abs(signatures.log_dets[s]) + r
        distance = length - np.einsum("pr,pr->p", pulled, pulled)
        log_det = logs.sum(axis=1) + 2 * pivots.sum(axis=1)
        value = (signatures.log_dets[c] + signatures.log_dets[s]) / 4 - distance / 8 - log_det / 2
        out[start : start + at_once] = value + 16 * np.finfo(np.float64).eps * np.sqrt(d) * size
    return out
