"""An index of the signatures of very many tasks in one shared space: the tasks of least score, as in float64, at the speed of float32.

Float32 products give a lower bound of every component's score (`empirics.routing.index_blocks`), and hence of every task's. What could
be among the k best is scored again in float64, and float64 alone decides: tasks and scores are those of `theory.Rule` for the same
signatures. Where two tasks' scores agree to float64's own rounding their order is arbitrary, as it is there; equal ones go to the task
that was added first.

Tasks are added and removed one at a time. Components live in blocks of limited size; a removed component leaves a hole, and a block of
which half is holes is written anew, so that both cost what the task's own components cost, amortised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from empirics.routing.index_blocks import BLOCK, Block, Queries, energies, lower_bounds, operands
from theory.errors import InputError, check_whole
from theory.lowrank import LowRankGaussians
from theory.mixture import Rule

IndexRule = Literal["max", "mixture"]

# Bytes that retrieval works in unless told otherwise.
MEMORY = 256 * 2**20
_SMALLEST_BLOCK = 16
# Rounding of a task's score from those of its components, in float32: ulps of the score, and of each component's share.
_ULP = 2.0**-23


@dataclass(frozen=True)
class Retrieved:
    """The tasks of least score for every query.

    Attributes
    ----------
    tasks : (n, k) int array
        Positions in `SignatureIndex.names` as they are now, the best task first.
    scores : (n, k) array
        Their scores, computed in float64.
    contested : (n,) bool array
        Where float32 alone would not have settled which tasks these are.
    rescored : (n,) int array
        Tasks that were scored in float64; k where nothing was contested.
    """

    tasks: Int[np.ndarray, "n k"]
    scores: Float[np.ndarray, "n k"]
    contested: Bool[np.ndarray, " n"]
    rescored: Int[np.ndarray, " n"]

    @property
    def margins(self) -> Float[np.ndarray, "n k"]:
        """By how much each task's score exceeds the best one's; 0 in the first column."""
        return self.scores - self.scores[:, :1]


class SignatureIndex:
    """Signatures of tasks with low-rank plus diagonal covariances, in one shared space.

    Parameters
    ----------
    dimension : int
        The embedding dimension d.
    rank : int
        Most columns that a factor may have; 0 for diagonal covariances.
    kind : {"max", "mixture"}
        How a task is scored from its components (`theory.Rule`).
    device : str or torch.device
        Where components are kept and scored.

    Raises
    ------
    InputError
        If a number is out of range or the rule is another.
    """

    def __init__(self, dimension: int, rank: int, kind: IndexRule = "max", device: str | torch.device = "cpu") -> None:
        check_whole("dimension", dimension, 1)
        check_whole("rank", rank, 0, "no more than the dimension", dimension)
        if kind not in get_args(IndexRule):
            raise InputError("kind", f"{kind!r} cannot be indexed; choose one of {', '.join(get_args(IndexRule))}")
        self.dimension, self.rank, self.kind = dimension, rank, kind
        self.device = torch.device(device)
        # The float32 operands' coordinates: settled by the first task, they decide how tight the error bound is, and no answer.
        self.centre: Float[np.ndarray, " d"] = np.zeros(dimension)
        self.unit: Float[np.ndarray, " d"] = np.ones(dimension)
        self.blocks: list[Block] = []
        self._position: dict[str, int] = {}

    @classmethod
    def of(cls, rule: Rule, device: str | torch.device = "cpu") -> Self:
        """The index of a rule's signatures, tasks in their order.

        A background is left out: in one shared space it shifts all tasks alike.

        Raises
        ------
        InputError
            If the covariances are dense, or the rule is neither "max" nor "mixture".
        """
        signatures = rule.signatures
        gaussians = signatures.gaussians
        if not isinstance(gaussians, LowRankGaussians):
            raise InputError("signatures", "have dense covariances; an index needs low rank plus diagonal (theory.lowrank)")
        out = cls(gaussians.dimension, min(gaussians.rank, gaussians.dimension), rule.kind, device)  # type: ignore[arg-type]
        out._settle(gaussians)
        for k, name in enumerate(signatures.names):
            own = signatures.own(k)
            out.add(name, gaussians.part(own), None if signatures.weights is None else signatures.weights[own])
        return out

    @classmethod
    def restored(
        cls,
        names: Sequence[str],
        blocks: Sequence[Block],
        centre: Float[np.ndarray, " d"],
        unit: Float[np.ndarray, " d"],
        *,
        rank: int,
        kind: IndexRule,
        device: str | torch.device = "cpu",
    ) -> Self:
        """The index that another one's parts make up; nothing is computed (`empirics.routing.index_files` keeps them).

        Parameters
        ----------
        names : sequence of str
            The tasks, in the order that the blocks number them in.
        blocks : sequence of Block
            In their order, on the device.
        centre, unit : (d,) array
            The coordinates of the blocks' float32 operands.
        rank, kind, device
            As of the other index.

        Raises
        ------
        InputError
            As the index itself.
        """
        out = cls(len(centre), rank, kind, device)
        out.centre, out.unit, out.blocks = centre, unit, list(blocks)
        out._position = {name: j for j, name in enumerate(names)}
        return out

    def __len__(self) -> int:
        return len(self._position)

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, in the order in which they were added."""
        return tuple(self._position)

    @property
    def components(self) -> int:
        """Components of all tasks."""
        return sum(block.alive.size for block in self.blocks)

    def add(self, name: str, gaussians: LowRankGaussians, weights: Float[np.ndarray, " T"] | None = None) -> None:
        """Add a task.

        Parameters
        ----------
        name : str
        gaussians : LowRankGaussians
            Its components.
        weights : (T,) array, optional
            Mixture weights, positive; they enter the scores as in `theory.Signatures`.

        Raises
        ------
        InputError
            If there is a task of that name, the dimension or rank does not fit, or a weight is not positive.
        """
        if name in self._position:
            raise InputError("name", f"task {name!r} is in the index already; remove it first")
        if not isinstance(gaussians, LowRankGaussians):
            raise InputError(f"task {name!r}", f"is a {type(gaussians).__name__}; an index needs low rank plus diagonal (theory.lowrank)")
        if gaussians.dimension != self.dimension:
            raise InputError(f"task {name!r}", f"has dimension {gaussians.dimension}; the index has {self.dimension}")
        if gaussians.axes.shape[2] > self.rank:
            raise InputError(f"task {name!r}", f"has factors of rank {gaussians.rank}; the index holds up to {self.rank}")
        offsets = gaussians.log_dets
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float64)
            if weights.shape != (len(gaussians),) or not (np.isfinite(weights) & (weights > 0)).all():
                raise InputError(f"weights of task {name!r}", f"need {len(gaussians)} positive numbers")
            offsets = offsets - 2 * np.log(weights / weights.sum())
        elif self.kind == "mixture":
            offsets = offsets + 2 * np.log(len(gaussians))
        if not self.blocks:
            self._settle(gaussians)
        new, done = operands(gaussians, offsets, self.centre, self.unit, self.rank), 0
        task, self._position[name] = len(self), len(self)
        while done < len(gaussians):
            block = self._room(len(gaussians) - done)
            done += block.append(new, done, task)

    def remove(self, name: str) -> None:
        """Remove a task; later tasks move up by one in `names`.

        Raises
        ------
        InputError
            If there is no such task.
        """
        if name not in self._position:
            raise InputError("name", f"task {name!r} is not in the index")
        gone = self._position.pop(name)
        self._position = {other: j for j, other in enumerate(self._position)}
        kept = []
        for block in self.blocks:
            hit = (block.task == gone).any()
            block.task = np.where(block.task == gone, -1, block.task - (block.task > gone))
            if hit and 2 * block.alive.size <= block.size:
                if not block.alive.size:
                    continue
                block = block.resized(max(_SMALLEST_BLOCK, block.alive.size), self.dimension, self.rank, self.device)
            kept.append(block)
        self.blocks = kept

    def retrieve(self, x: Float[np.ndarray, "n d"], k: int = 1, *, memory: int = MEMORY) -> Retrieved:
        """The k tasks of least score for every query.

        Parameters
        ----------
        x : (n, d) array
        k : int
            At most the number of tasks.
        memory : int
            Bytes that may be worked in, beside index, queries and result.

        Raises
        ------
        InputError
            If the queries' shape does not fit, one is NaN or infinite, k is out of range, or the memory is too small for one query.
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise InputError("queries", f"have shape {x.shape}; needs (n, {self.dimension})")
        if not np.isfinite(x).all():
            raise InputError("queries", f"hold NaN or infinite values, the first in row {int(np.argwhere(~np.isfinite(x))[0, 0])}")
        check_whole("k", k, 1, "the number of tasks", len(self))
        rows, pairs = self._within(memory)
        layout = _Layout(self.blocks, len(self))
        found: list[tuple[np.ndarray, ...]] = []
        with torch.inference_mode(), _full_float32():
            for start in range(0, len(x), rows):
                found.append(self._retrieve(x[start : start + rows], k, layout, pairs))
        columns = zip(*found, strict=True) if found else ([np.zeros((0, k), int)], [np.zeros((0, k))], [np.zeros(0, int)])
        tasks, scores, rescored = (np.concatenate(column) for column in columns)
        return Retrieved(tasks, scores, rescored > k, rescored)

    def _settle(self, gaussians: LowRankGaussians) -> None:
        """Take the centre and the spread of some components for the origin and the units of float32."""
        self.centre = gaussians.means.mean(axis=0)
        spread = (gaussians.diagonals + (gaussians.factors**2).sum(axis=2)).mean(axis=0)
        self.unit = np.sqrt(np.where(np.isfinite(spread), spread, 1.0))

    def _room(self, wanted: int) -> Block:
        """The last block, with at least one free slot: grown to twice its size, or followed by another, if need be."""
        last = self.blocks[-1] if self.blocks else None
        if last is not None and last.size < last.capacity:
            return last
        if last is None or last.alive.size == BLOCK:
            self.blocks.append(Block.empty(min(BLOCK, max(_SMALLEST_BLOCK, wanted)), self.dimension, self.rank, self.device))
        else:
            capacity = min(BLOCK, max(2 * last.capacity, last.alive.size + wanted))
            self.blocks[-1] = last.resized(capacity, self.dimension, self.rank, self.device)
        return self.blocks[-1]

    def _within(self, memory: int) -> tuple[int, int]:
        """Queries screened at once, and pairs scored at once in float64, within so many bytes."""
        d, r, m = self.dimension, self.rank, len(self)
        slots = sum(block.size for block in self.blocks)
        # Operands; the scores of slots and of tasks, and what combines them; up to every task of a query as a candidate.
        row = 4 * (5 * d) + 8 * 3 * d + 4 * BLOCK + 4 * slots * (6 if self.kind == "mixture" else 4) + 64 * m
        pair = 8 * (d * r + 5 * d + 2 * r) + 64
        least = row + pair
        if memory < least:
            raise InputError("memory", f"{memory} bytes are too few to score one query; needs at least {least}")
        return max(1, (memory - pair) // row), max(1, memory // (2 * pair))

    def _retrieve(self, x: Float[np.ndarray, "n d"], k: int, layout: _Layout, at_once: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        query, task = self._candidates(Queries(x, self.centre, self.unit, self.device), k, layout)
        scores = self._scores(x, query, task, layout, at_once)
        order = np.lexsort((task, scores, query))
        rescored = np.bincount(query, minlength=len(x))
        best = order[(np.cumsum(rescored) - rescored)[:, None] + np.arange(k)]
        return task[best], scores[best], rescored

    def _candidates(self, queries: Queries, k: int, layout: _Layout) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
        """Every (query, task) that may be among the query's k best, by query and task."""
        n = len(queries.t)
        lower = torch.empty((n, layout.slots), device=self.device)
        buffer = torch.empty(n * max(block.size for block in self.blocks), device=self.device)
        for block, start in zip(self.blocks, layout.starts, strict=True):
            part = buffer[: n * block.size].view(n, block.size)
            lower_bounds(block, queries, lower[:, start : start + block.size], part)
        # What is not a number was infinity less infinity: nothing is known.
        lower.nan_to_num_(nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        del buffer
        bounds = layout.by_task(lower, self.kind)
        del lower
        bounds[torch.from_numpy(np.flatnonzero(queries.wild)).to(self.device)] = -np.inf
        # The k tasks of least lower bound: the greatest of their upper bounds is one of the k-th best score.
        lowest = torch.topk(bounds, k, dim=1, largest=False)
        least, at = lowest.values.cpu().numpy().astype(np.float64), lowest.indices.cpu().numpy()
        error = np.einsum("nkj,nj->nk", layout.errors[at], queries.scale)
        error[~np.isfinite(least)] = np.inf
        known = np.where(np.isfinite(least), least, 0.0)
        upper = known + 2 * error + layout.rounding * _ULP * (np.abs(known) + 1)
        limit = torch.from_numpy(np.nextafter(upper.max(axis=1).astype(np.float32), np.float32(np.inf))).to(self.device)
        query, task = (bounds <= limit[:, None]).nonzero(as_tuple=True)
        return query.cpu().numpy(), task.cpu().numpy()

    def _scores(
        self, x: Float[np.ndarray, "n d"], query: Int[np.ndarray, " P"], task: Int[np.ndarray, " P"], layout: _Layout, at_once: int
    ) -> Float[np.ndarray, " P"]:
        """Float64 scores of (query, task) pairs."""
        counts = layout.counts[task]
        edges = np.concatenate([[0], np.cumsum(counts)])
        each = np.empty(edges[-1])
        for start in range(0, each.size, at_once):
            rows = np.arange(start, min(start + at_once, each.size))
            pair = np.searchsorted(edges, rows, side="right") - 1
            slot = layout.order[layout.first[task[pair]] + rows - edges[pair]]
            block = np.searchsorted(layout.starts, slot, side="right") - 1
            for b in np.unique(block):
                here = np.flatnonzero(block == b)
                seen = torch.from_numpy(x[query[pair[here]]]).to(self.device)
                local = torch.from_numpy(slot[here] - layout.starts[b]).to(self.device)
                each[rows[here]] = energies(self.blocks[b], seen, local).cpu().numpy()
        best = np.minimum.reduceat(each, edges[:-1])
        if self.kind != "mixture":
            return best
        return best - 2 * np.log(np.add.reduceat(np.exp(-(each - np.repeat(best, counts)) / 2), edges[:-1]))


class _Layout:
    """Where the slots of all blocks lie side by side, and which task each is of."""

    def __init__(self, blocks: list[Block], m: int) -> None:
        sizes = [block.size for block in blocks]
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        self.slots, self.tasks = int(sum(sizes)), m
        self.task = np.concatenate([block.task[: block.size] for block in blocks])
        # Slots by task, holes left out, and where each task's begin.
        order = np.argsort(self.task, kind="stable")
        self.order = order[np.searchsorted(self.task[order], 0) :]
        self.counts = np.bincount(self.task[self.order], minlength=m)
        self.first = np.cumsum(self.counts) - self.counts
        error = torch.cat([block.part("screen")["error"][: block.size] for block in blocks]).cpu().numpy()
        self.errors = np.maximum.reduceat(error[self.order], self.first)
        self.rounding = 8 + (self.counts.max() if self.counts.max() > 1 else 0)

    def by_task(self, scores: Float[torch.Tensor, "n slots"], kind: IndexRule) -> Float[torch.Tensor, "n m"]:
        """Scores of tasks from those of slots; holes are left out."""
        order = torch.from_numpy(self.order).to(scores.device)
        if self.counts.max() == 1:
            return scores if np.array_equal(self.order, np.arange(self.slots)) else scores.index_select(1, order)
        n, m = len(scores), self.tasks
        # Holes go to one more task, which is dropped.
        task = torch.from_numpy(np.where(self.task < 0, m, self.task)).to(scores.device)
        best = torch.full((n, m + 1), torch.inf, device=scores.device).scatter_reduce_(1, task.expand(n, -1), scores, "amin")
        if kind != "mixture":
            return best[:, :m]
        shares = torch.exp((best.index_select(1, task) - scores).mul_(0.5))
        # Infinity less infinity: the task's bound is infinite already.
        total = torch.zeros_like(best).index_add_(1, task, shares.nan_to_num_(nan=1.0))
        return best.sub_(2 * total.log_())[:, :m]


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 in float32, whatever was allowed before: the error bound is that of float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
