"""Embeddings of chosen (document, adapter) pairs: sequences under different adapters travel through the layers in one batch.

Against one adapter after the other this saves the prefix (computed once), the maps and normalisations of the first adapted layer whose
input no adapter has touched yet (computed once a document), and the cost of starting many small products (one large one each instead).
Products with the low-rank factors are batched ones (`torch.baddbmm`), on a GPU as on the CPU; no kernel of our own, which would have to
be measured on a GPU to be worth having.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics import processes
from empirics.adapters.stack import AdapterStack, stack_adapters
from empirics.encoders.anatomy import Rounded, placed, rounded
from empirics.encoders.backbone import Advance, Backbone, check_embeddings, suffix
from empirics.encoders.feeding import moved
from empirics.encoders.prefix import PrefixSource, embed_batches
from theory.errors import InputError

__all__ = ["AdapterStack", "embed_pairs", "stack_adapters"]


def embed_pairs(
    backbone: Backbone,
    source: PrefixSource,
    documents: Int[np.ndarray, " p"],
    adapters: Int[np.ndarray, " p"],
    stack: AdapterStack,
    advance: Advance | None = None,
) -> Float[np.ndarray, "p d"]:
    """Pooled embedding of document ``documents[i]`` under adapter ``adapters[i]``, for every pair i.

    The same as `embed` under that adapter, up to float rounding, whatever the other pairs and the order of all. Never more than
    `backbone.batch_size` sequences are in the layers at once, and the states of no more than so many documents beside them: memory grows
    with the number of adapters by their stack only, and with the number of pairs by the result. All pairs of a document go through the
    layers together, as far as the batch holds them, and documents follow each other by length, so that little is padded; within a batch
    the pairs of one adapter lie together, and where each has equally many its factors are applied to all of them at once.

    Parameters
    ----------
    backbone : Backbone
    source : PrefixSource
    documents : (p,) int array
        In [0, n) for n encoded documents.
    adapters : (p,) int array
        In [0, m).
    stack : AdapterStack
        Of this backbone, from `stack_adapters`.
    advance : callable, optional
        Told the number of pairs just embedded.

    Returns
    -------
    (p, d) float32 array
        Empty if there are no pairs.

    Raises
    ------
    InputError
        If an index is out of range or no whole number, the two differ in length, or an embedding is not finite.
    """
    documents = _index("documents", documents, len(source.lengths))
    adapters = _index("adapters", adapters, len(stack))
    if documents.size != adapters.size:
        raise InputError("adapters", f"are {adapters.size} for {documents.size} documents; give one for each")
    distinct, row = np.unique(documents, return_inverse=True)
    # Pairs by document, and where those of each document begin.
    by_document = np.lexsort((adapters, row))
    starts = np.searchsorted(row[by_document], np.arange(distinct.size + 1))
    out = np.zeros((documents.size, backbone.dimension), dtype=np.float32)
    with processes.together(), torch.inference_mode():
        for batch, states, real in embed_batches(backbone, source, distinct):
            counts, lengths = starts[batch + 1] - starts[batch], source.lengths[distinct[batch]]
            pairs = np.concatenate([by_document[starts[j] : starts[j + 1]] for j in batch])
            place = np.repeat(np.arange(batch.size), counts)
            order, found = [], []
            for part in _parts(counts, backbone.config.batch_size):
                own = part.start + np.argsort(adapters[pairs[part]], kind="stable")
                # Sorted by length within the batch, so that the last document is the longest.
                chosen = slice(int(place[part.start]), int(place[part.stop - 1]) + 1)
                shortest, width = int(lengths[chosen].min()), int(lengths[chosen].max())
                mask = real[chosen, :width] if real is not None and shortest < width else None
                modules, repeat = _modules(backbone, stack, place[own] - chosen.start, adapters[pairs[own]])
                with placed(backbone.model, modules):
                    hidden = states[chosen, :width].index_select(0, repeat)
                    found.append(suffix(backbone, hidden, None if mask is None else mask.index_select(0, repeat)))
                order.append(pairs[own])
                if advance is not None:
                    advance(own.size)
            # Fetched from the device once a batch: a GPU that is waited for more often would stand still.
            out[np.concatenate(order)] = torch.cat(found).cpu().numpy()
        check_embeddings(out, documents)
    processes.add_up([torch.from_numpy(out)])
    return out


def _index(name: str, index: Int[np.ndarray, " p"], size: int) -> Int[np.ndarray, " p"]:
    index = np.asarray(index)
    if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
        raise InputError(name, f"are of shape {index.shape} and type {index.dtype}; give one whole number for each pair")
    index = index.astype(np.int64)
    if index.size and not 0 <= index.min() <= index.max() < size:
        wrong = index[(index < 0) | (index >= size)][0]
        raise InputError(name, f"hold {wrong}, and there are {size}, numbered from 0")
    return index


def _parts(counts: Iterable[int], size: int) -> Iterator[slice]:
    """Pairs that are embedded at once: those of whole documents, and of one alone if it has more than fit."""
    start = stop = 0
    for count in counts:
        if start < stop and stop + count - start > size:
            yield slice(start, stop)
            start = stop
        stop += int(count)
        while stop - start > size:
            yield slice(start, start + size)
            start += size
    if start < stop:
        yield slice(start, stop)


def _modules(
    backbone: Backbone, stack: AdapterStack, place: Int[np.ndarray, " p"], adapters: Int[np.ndarray, " p"]
) -> tuple[dict[str, nn.Module], Int[torch.Tensor, " p"]]:
    """Modules in the place of those that an adapter changes or whose output is shared, and the document of each row.

    Parameters
    ----------
    backbone : Backbone
    stack : AdapterStack
    place : (p,) int array
        Document of each pair, numbered from zero without a gap.
    adapters : (p,) int array
        Sorted.
    """
    groups, sizes = np.unique(adapters, return_counts=True)
    if not (sizes == sizes[0]).all():
        # As if each pair had an adapter of its own.
        groups = adapters
    # A row of each document stands for all of them.
    first = np.unique(place, return_index=True)[1]
    once, repeat = (moved(torch.from_numpy(x), backbone.device) for x in (first, place))
    every = np.array_equal(place, np.tile(np.arange(first.size), groups.size))
    spread = _Spread(once, repeat, every) if first.size < place.size else None
    out: dict[str, nn.Module] = {}
    for name in dict.fromkeys([*stack.units, *stack.untouched]):
        base = backbone.model.get_submodule(name)
        factors = stack.units[name].chosen(groups) if name in stack.units else None
        shared = spread if name in stack.untouched else None
        if shared is not None and factors is None:
            out[name] = _Shared(Rounded(base) if name in backbone.rounded else base, shared)
        elif factors is not None:
            out[name] = _Grouped(base, factors, shared)
    return out, repeat


@dataclass(frozen=True)
class _Spread:
    """Rows of pairs that are the same for all pairs of a document: which to keep of each document, and which of those each pair gets.

    Attributes
    ----------
    once : (documents,) int tensor
    repeat : (p,) int tensor
    every : bool
        Whether the pairs are every document under the first adapter, every document under the second, and so on.
    """

    once: Int[torch.Tensor, " documents"]
    repeat: Int[torch.Tensor, " p"]
    every: bool


class _Shared(nn.Module):
    """A module that is run once a document, where all its pairs are the same."""

    def __init__(self, base: nn.Module, spread: _Spread) -> None:
        super().__init__()
        self.base, self.spread = base, spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x.index_select(0, self.spread.once)).index_select(0, self.spread.repeat)


class _Grouped(nn.Module):
    """A frozen linear map plus a low-rank update for each of several equal groups of rows: ``x_k W' + (x_k A_k') B_k``."""

    def __init__(self, base: nn.Module, factors: tuple[torch.Tensor, torch.Tensor], spread: _Spread | None) -> None:
        super().__init__()
        self.base, self.factors, self.spread = base, factors, spread

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.factors
        groups, size, rank = a.shape
        shape = x.shape[:-1]
        if self.spread is None:
            x = rounded(x)
            y = self.base(x)
        else:
            documents = rounded(x.index_select(0, self.spread.once))
            y = self.base(documents)
            if self.spread.every:
                # What every adapter gets is one matrix: one product for all of them.
                low = documents.flatten(0, -2) @ a.transpose(1, 2).reshape(groups * rank, size).T
                low = low.view(-1, groups, rank).transpose(0, 1)
                return torch.baddbmm(y.view(1, -1, y.shape[-1]).expand(groups, -1, -1), low, b).view(*shape, -1)
            x, y = rounded(x), y.index_select(0, self.spread.repeat)
        low = torch.bmm(x.reshape(groups, -1, size), a)
        # In place, which autocast does not see; all three have the precision of the products already.
        return y.view(groups, -1, y.shape[-1]).baddbmm_(low, b).view(*shape, -1)
