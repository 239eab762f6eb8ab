"""Components of a signature index: float32 operands that a product scores all at once, and float64 ones that decide.

With ``Lam^-1 = diag(p) - W'W`` (Woodbury) and ``t`` the query less a common centre, in common units, the energy is::

    E(t) = [t^2, t] . [p, b] + c - |W t|^2,      b = -2 Lam^-1 m,      c = E(0),

with ``m`` the mean in the same coordinates: for all queries and components one product with a matrix of 2 d columns, and r with one of d.

**The error of float32.** A sum of n products, in whatever order, errs by at most ``gamma_n sum |a_j| |b_j|`` with
``gamma_n = n u / (1 - n u)``, ``u = 2^-24`` (Higham 2002, section 3.1), and the sum is at most ``|a| |b|``. So with ``a = [t^2, t]``,
``B = [p, b]``, ``omega`` and ``phi`` the spectral and the Frobenius norm of ``W``::

    |error| <= (gamma_{2d+6} + gamma_{r+4}) |a| |B| + gamma_{r+4} |c|
               + (2 gamma_{d+4} omega phi + gamma_{d+4}^2 phi^2 + gamma_{r+4} omega^2) |t|^2

where a few terms more than were added count the rounding of operands and queries to float32. The bound is itself a product, and two more
columns of the operands subtract it: what is computed is a *lower bound* of the energy, whose own rounding one per cent on top pays for. It
speaks of the worst case: at d = 768 it is some 1e-4 of the energy, which is seldom off by more than 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from theory.lowrank import LowRankGaussians

# Components that one block holds at most: enough for products to be fast, and few enough that one is soon written anew.
BLOCK = 1024
_UNIT_ROUNDOFF = 2.0**-24
# Beyond this size products of operands may leave float32; such a component is a candidate for every query.
_LARGEST = 1e15
# What pays for the rounding of the error bound itself.
_ALLOWANCE = 1.01

Part = Literal["screen", "exact"]
Tensors = Mapping[str, torch.Tensor]


def _gamma(n: int) -> float:
    return n * _UNIT_ROUNDOFF / (1 - n * _UNIT_ROUNDOFF)


class Block:
    """Up to `BLOCK` components in the slots of tensors; those past `size` are free.

    Attributes
    ----------
    size : int
        Slots in use, alive or not.
    task : (capacity,) int array
        Task of each slot; -1 where its component was removed, or none was there.
    stored : object
        Where its tensors were read from, for `empirics.routing.index_files`; None if they were made here.
    """

    def __init__(
        self,
        parts: Mapping[Part, Tensors | Callable[[], Tensors]],
        task: Int[np.ndarray, " capacity"],
        size: int,
        stored: object = None,
    ) -> None:
        self._parts = dict(parts)
        self.task = task
        self.size = size
        self.stored = stored

    @classmethod
    def empty(cls, capacity: int, d: int, r: int, device: torch.device) -> Block:
        """A block without components."""

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        single, double = torch.float32, torch.float64
        screen = {
            "linear": zeros(capacity, 2 * d + 2, dtype=single),
            "loadings": zeros(r, capacity, d, dtype=single),
            "constant": zeros(capacity, dtype=single),
            "error": zeros(capacity, 3, dtype=double),
        }
        exact = {
            "means": zeros(capacity, d, dtype=double),
            "scales": zeros(capacity, d, dtype=double),
            "axes": zeros(capacity, d, r, dtype=double),
            "shrink": zeros(capacity, r, dtype=double),
            "offsets": zeros(capacity, dtype=double),
        }
        return cls({"screen": screen, "exact": exact}, np.full(capacity, -1, dtype=np.int64), 0)

    def part(self, name: Part) -> Tensors:
        """The tensors of one precision, read from their file at the first call if they are in one."""
        part = self._parts[name]
        if not isinstance(part, Mapping):
            part = self._parts[name] = part()
        return part

    @property
    def capacity(self) -> int:
        """The number of slots."""
        return len(self.task)

    @property
    def alive(self) -> Int[np.ndarray, " S"]:
        """Slots whose component was not removed."""
        return np.flatnonzero(self.task[: self.size] >= 0)

    def resized(self, capacity: int, d: int, r: int, device: torch.device) -> Block:
        """The components alive, in their order, in a block of another capacity."""
        kept = self.alive
        out = Block.empty(capacity, d, r, device)
        for name in ("screen", "exact"):
            new = out.part(name)
            for key, value in self.part(name).items():
                dim = 1 if key == "loadings" else 0
                new[key].narrow(dim, 0, kept.size).copy_(value.index_select(dim, torch.from_numpy(kept).to(value.device)))
        out.task[: kept.size], out.size = self.task[kept], kept.size
        return out

    def append(self, new: Mapping[Part, Tensors], first: int, task: int) -> int:
        """Fill the free slots with components of a task, from the first one given on; returns how many found room.

        Parameters
        ----------
        new : dict of tensors
            As `operands` makes them.
        """
        count = min(len(new["exact"]["offsets"]) - first, self.capacity - self.size)
        for name in ("screen", "exact"):
            mine = self.part(name)
            for key, value in new[name].items():
                dim = 1 if key == "loadings" else 0
                mine[key].narrow(dim, self.size, count).copy_(value.narrow(dim, first, count))
        self.task[self.size : self.size + count] = task
        self.size += count
        self.stored = None
        return count


def operands(
    gaussians: LowRankGaussians, offsets: Float[np.ndarray, " S"], centre: Float[np.ndarray, " d"], unit: Float[np.ndarray, " d"], r: int
) -> dict[Part, dict[str, torch.Tensor]]:
    """The tensors of a block for some components, with the columns of their loadings padded to r.

    Parameters
    ----------
    gaussians : LowRankGaussians
    offsets : (S,) array
        What is added to the squared distances.
    centre, unit : (d,) arrays
        The coordinates of the float32 operands.
    r : int
        At least the rank that the Gaussians have.
    """
    S, d = gaussians.means.shape
    p = gaussians.axes.shape[2]
    exact = {
        "means": gaussians.means,
        "scales": gaussians.scales,
        "axes": np.concatenate([gaussians.axes, np.zeros((S, d, r - p))], axis=2),
        "shrink": np.concatenate([gaussians.shrink, np.ones((S, r - p))], axis=1),
        "offsets": offsets,
    }
    with np.errstate(over="ignore", invalid="ignore"):
        m = (gaussians.means - centre) / unit
        weight = (gaussians.scales * unit) ** 2
        loadings = np.concatenate([gaussians.loadings * unit, np.zeros((S, r - p, d))], axis=1)
        projected = np.einsum("srd,sd->sr", loadings, m)
        pulled = np.einsum("srd,sr->sd", loadings, projected)
        linear = np.concatenate([weight, 2 * (pulled - weight * m)], axis=1)
        constant = gaussians.mahalanobis(centre[None])[0] + offsets
        frobenius = np.sqrt((loadings**2).sum(axis=(1, 2)))
        # The gram matrix overflows or is not finite only where the component is a candidate anyway.
        gram = np.nan_to_num(loadings @ np.swapaxes(loadings, 1, 2), posinf=0.0, neginf=0.0)
        spectral = np.minimum(np.sqrt(np.abs(np.linalg.eigvalsh(gram)).max(axis=1, initial=0.0)) * (1 + 1e-6), frobenius)
        # What float64 itself loses where the two parts of b cancel, far below the first term's share of it.
        lost = 1e-8 * (np.linalg.norm(weight * m, axis=1) + np.linalg.norm(pulled, axis=1))
        size = np.linalg.norm(linear, axis=1) + lost
    products, rest = _gamma(d + 4), _gamma(r + 4)
    error = _ALLOWANCE * np.stack(
        [
            (_gamma(2 * d + 6) + rest) * size,
            2 * products * spectral * frobenius + (products * frobenius) ** 2 + rest * spectral**2,
            rest * np.abs(constant),
        ],
        axis=1,
    )
    wild = ~(np.maximum(np.maximum(size, frobenius**2), np.abs(constant)) < _LARGEST)
    linear[wild], loadings[wild], error[wild] = 0.0, 0.0, 0.0
    lower = np.where(wild, -np.inf, constant - error[:, 2])
    error[wild, 2] = np.inf
    screen: dict[str, np.ndarray] = {
        "linear": np.concatenate([linear, -error[:, :2]], axis=1).astype(np.float32),
        "loadings": np.ascontiguousarray(np.swapaxes(loadings, 0, 1)).astype(np.float32),
        "constant": lower.astype(np.float32),
        "error": error,
    }
    parts: dict[Part, dict[str, np.ndarray]] = {"screen": screen, "exact": exact}
    return {name: {key: torch.from_numpy(np.array(value)) for key, value in part.items()} for name, part in parts.items()}


class Queries:
    """Queries in the coordinates of the float32 operands, and what their errors are proportional to."""

    def __init__(
        self, x: Float[np.ndarray, "n d"], centre: Float[np.ndarray, " d"], unit: Float[np.ndarray, " d"], device: torch.device
    ) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            t = (x - centre) / unit
            square = t**2
            length = (square.sum(axis=1)) * (1 + 1e-6)
            size = np.sqrt((square**2).sum(axis=1) + length) * (1 + 1e-6)
        # Rows for which products may leave float32: no lower bound of theirs is trusted.
        self.wild = ~(size < _LARGEST)
        square[self.wild], t[self.wild], length[self.wild], size[self.wild] = 0.0, 0.0, 0.0, 0.0
        self.scale = np.stack([size, length, np.ones(len(t))], axis=1)
        stacked = np.empty((len(t), 2 * t.shape[1] + 2), dtype=np.float32)
        d = t.shape[1]
        stacked[:, :d], stacked[:, d : 2 * d], stacked[:, 2 * d], stacked[:, 2 * d + 1] = square, t, size, length
        self.stacked = torch.from_numpy(stacked).to(device)
        self.t = torch.from_numpy(t.astype(np.float32)).to(device)


def lower_bounds(block: Block, queries: Queries, out: Float[torch.Tensor, "n S"], buffer: Float[torch.Tensor, "n S"]) -> None:
    """Lower bounds of the energies of all slots in use, into `out`; `buffer` is as large."""
    screen, S = block.part("screen"), block.size
    torch.addmm(screen["constant"][:S], queries.stacked, screen["linear"][:S].T, out=out)
    for loadings in screen["loadings"]:
        torch.mm(queries.t, loadings[:S].T, out=buffer)
        out.addcmul_(buffer, buffer, value=-1)


def energies(block: Block, x: Float[torch.Tensor, "P d"], slots: Int[torch.Tensor, " P"]) -> Float[torch.Tensor, " P"]:
    """Scores of pairs of a query and a slot in float64, as `theory.lowrank.LowRankGaussians` computes them."""
    exact = block.part("exact")
    y = (x - exact["means"][slots]) * exact["scales"][slots]
    axes = exact["axes"][slots]
    along = torch.bmm(y[:, None], axes)
    y -= torch.bmm(along, axes.mT)[:, 0]
    along = along[:, 0] * exact["shrink"][slots]
    return (y * y).sum(dim=1) + (along * along).sum(dim=1) + exact["offsets"][slots]
