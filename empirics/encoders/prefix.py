"""The frozen first layers of an encoder, run once: what enters the adapted layers, kept or computed anew, and embeddings from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from empirics import processes
from empirics.encoders.anatomy import first_argument
from empirics.encoders.backbone import Advance, Backbone, batches, check_embeddings, lower, shortened, suffix
from empirics.encoders.feeding import ahead, image_threads, moved, prepared_images
from theory.errors import InputError

Padded = tuple[Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"] | None]


class PrefixSource(Protocol):
    """Where the states that enter the first adapted layer come from.

    Attributes
    ----------
    frozen : (n, d) float32 array
        Pooled embedding of each document without any adapter.
    lengths : (n,) int array
        Tokens of each document.
    """

    @property
    def frozen(self) -> Float[np.ndarray, "n d"]:
        """Pooled embedding of each document without any adapter."""

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each document."""

    def padded(self, batches: Iterable[Int[np.ndarray, " b"]], device: torch.device) -> Iterator[Padded]:
        """States of each batch of documents, padded with zeros, and the mask of real tokens, none if nothing is padded."""


@dataclass(frozen=True)
class PrefixCache:
    """Hidden states that enter the first adapted layer, packed without padding, and the frozen embeddings.

    Memory is 4 bytes x tokens x dimension: 0.6 GB for 8,000 documents of 48 tokens at dimension 384, 0.6 MB for an image of 197
    tokens at 768.

    Attributes
    ----------
    states : (tokens + 1, w) float32 tensor
        On the backbone's device, or in pinned memory of the host. The last row is zero: what padding reads.
    starts : (n,) int array
        Document j owns rows ``starts[j]`` to ``starts[j] + lengths[j]``.
    lengths : (n,) int array
    frozen : (n, d) float32 array
        Pooled embedding without any adapter.
    """

    states: Float[torch.Tensor, "rows w"]
    starts: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]
    frozen: Float[np.ndarray, "n d"]

    def padded(self, batches: Iterable[Int[np.ndarray, " b"]], device: torch.device) -> Iterator[Padded]:
        """States of each batch of documents, padded with zeros, and the mask of real tokens, none if nothing is padded."""
        if self.states.device.type == device.type:
            yield from map(self._gathered, batches)
        else:
            yield from ahead(lambda batch: self._copied(batch, device), batches, device)

    def _rows(self, batch: Int[np.ndarray, " b"]) -> tuple[Int[torch.Tensor, "b t"], bool]:
        """Rows of the states that a batch reads, and whether some of them are padding."""
        lengths = self.lengths[batch, None]
        token = np.arange(lengths.max())
        rows = np.where(token < lengths, self.starts[batch, None] + token, len(self.states) - 1)
        return torch.from_numpy(rows), bool(lengths.min() < token.size)

    def _gathered(self, batch: Int[np.ndarray, " b"]) -> Padded:
        rows, padding = self._rows(batch)
        rows = moved(rows, self.states.device)
        hidden = self.states.index_select(0, rows.flatten()).view(*rows.shape, -1)
        return hidden, rows < len(self.states) - 1 if padding else None

    def _copied(self, batch: Int[np.ndarray, " b"], device: torch.device) -> Padded:
        rows, padding = self._rows(batch)
        hidden = torch.empty(rows.numel(), self.states.shape[1], pin_memory=True)
        torch.index_select(self.states, 0, rows.flatten(), out=hidden)
        mask = moved(rows < len(self.states) - 1, device) if padding else None
        return hidden.view(*rows.shape, -1).to(device, non_blocking=True), mask


@dataclass(frozen=True)
class PrefixRecomputed:
    """The same states, computed anew for each batch, for inputs whose states take more memory than `backbone.cache_gib`.

    Attributes
    ----------
    backbone : Backbone
    inputs : sequence
        Token lists or images.
    lengths : (n,) int array
    frozen : (n, d) float32 array
    """

    backbone: Backbone
    inputs: Sequence[Any]
    lengths: Int[np.ndarray, " n"]
    frozen: Float[np.ndarray, "n d"]

    def padded(self, batches: Iterable[Int[np.ndarray, " b"]], device: torch.device) -> Iterator[Padded]:
        """States of each batch of documents, padded with zeros, and the mask of real tokens, none if nothing is padded."""
        for model_input, mask in prepared(self.backbone, self.inputs, self.lengths, batches):
            # The model's own forward pass makes embeddings and masks; it stops where the adapters begin.
            entered: list[torch.Tensor] = []
            with torch.no_grad(), self.backbone.precision(), shortened(self.backbone), _entering(self.backbone, entered, stop=True):
                try:
                    _forward(self.backbone, model_input, mask)
                except _Stop:
                    pass
            hidden = entered[0].float()
            yield hidden if mask is None else hidden.masked_fill(~mask[..., None], 0.0), mask


class _Stop(Exception):
    pass


@contextmanager
def _entering(backbone: Backbone, entered: list[torch.Tensor], *, stop: bool = False) -> Iterator[None]:
    """Note what enters the first adapted layer, and end the forward pass there if asked to."""

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(first_argument(args, kwargs))
        if stop:
            raise _Stop

    hook = backbone.adapted[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def prepared(
    backbone: Backbone, inputs: Sequence[Any], lengths: Int[np.ndarray, " n"], batches: Iterable[Int[np.ndarray, " b"]]
) -> Iterator[tuple[torch.Tensor, Bool[torch.Tensor, "b t"] | None]]:
    """For each batch what the model takes, on its device, and the mask of real tokens, none if nothing is padded.

    Parameters
    ----------
    backbone : Backbone
    inputs : sequence
        Token lists or images.
    lengths : (n,) int array
    batches : iterable of int arrays
    """
    threads = image_threads() if backbone.modality == "image" else 1
    pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def fetch(batch: Int[np.ndarray, " b"]) -> tuple[torch.Tensor, torch.Tensor | None]:
        chosen = [inputs[j] for j in batch]
        if backbone.modality == "image":
            return prepared_images(backbone.processor, chosen, backbone.device, pool), None
        real = torch.arange(int(lengths[batch].max())) < torch.from_numpy(lengths[batch])[:, None]
        ids = torch.full(real.shape, getattr(backbone.model.config, "pad_token_id", None) or 0)
        ids[real] = torch.tensor([token for tokens in chosen for token in tokens])
        return moved(ids, backbone.device), None if bool(real.all()) else moved(real, backbone.device)

    with pool or nullcontext():
        yield from ahead(fetch, batches, backbone.device)


def _forward(backbone: Backbone, model_input: torch.Tensor, mask: torch.Tensor | None) -> Any:
    """The model's own forward pass."""
    if backbone.modality == "image":
        return backbone.model(pixel_values=model_input)
    # Some models read the mask for more than attention, and make up their own if they get none.
    return backbone.model(input_ids=model_input, attention_mask=torch.ones_like(model_input) if mask is None else mask.long())


def encode_prefix(backbone: Backbone, inputs: Sequence[Any], advance: Advance | None = None) -> PrefixSource:
    """One frozen forward pass over all inputs, in batches of similar length.

    Parameters
    ----------
    backbone : Backbone
    inputs : sequence
        Texts, or images as `empirics.data.images.decode` takes them.
    advance : callable, optional
        Told the number of documents just encoded.

    Returns
    -------
    PrefixSource
        States kept in memory, or, if they take more than `backbone.cache_gib`, computed anew when they are asked for.

    Raises
    ------
    InputError
        If there is no input, an image does not decode, or an embedding is not finite.
    """
    if not len(inputs):
        raise InputError("inputs", "are none; give at least one")
    lower(backbone)
    if backbone.modality == "text":
        inputs = backbone.tokenizer(list(inputs), truncation=True, max_length=backbone.config.max_length)["input_ids"]
        lengths = np.array([len(t) for t in inputs])
    else:
        lengths = np.full(len(inputs), backbone.tokens)
    split = list(batches(lengths, backbone.config.batch_size))
    # In the order of the batches, so that each of them is one piece.
    starts = np.empty_like(lengths)
    order = np.concatenate(split)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]
    states = _states_memory(backbone, int(lengths.sum()))
    own, pooled = processes.share(split), []
    with processes.together(), torch.inference_mode(), backbone.precision(), shortened(backbone):
        for batch, (model_input, mask) in zip(own, prepared(backbone, inputs, lengths, own), strict=True):
            entered: list[torch.Tensor] = []
            with _entering(backbone, entered):
                output = _forward(backbone, model_input, mask)
            if states is not None:
                packed = entered[0].flatten(0, 1)
                if mask is not None:
                    real = np.flatnonzero(np.arange(entered[0].shape[1]) < lengths[batch, None])
                    packed = packed.index_select(0, moved(torch.from_numpy(real), backbone.device))
                states[starts[batch[0]] :][: len(packed)].copy_(packed, non_blocking=True)
            pooled.append(backbone.pool(output.last_hidden_state, mask))
            if advance is not None:
                advance(batch.size)
        frozen = _in_rows(pooled, own, len(inputs), backbone)
    processes.add_up([torch.from_numpy(frozen)])
    if states is None:
        return PrefixRecomputed(backbone, inputs, lengths, frozen)
    processes.add_up([states])
    return PrefixCache(states, starts, lengths, frozen)


def restored_prefix(
    backbone: Backbone,
    states: Float[np.ndarray, "rows w"],
    starts: Int[np.ndarray, " n"],
    lengths: Int[np.ndarray, " n"],
    frozen: Float[np.ndarray, "n d"],
) -> PrefixCache:
    """The states of a frozen pass that was done before, in the memory that `encode_prefix` would have put them in."""
    lower(backbone)
    memory = _states_memory(backbone, len(states) - 1)
    # The settings are those under which there were states to keep.
    assert memory is not None
    # Rows at a time: what is read is mapped from a file, and must not be in memory twice.
    for start in range(0, len(states), 2**16):
        memory[start : start + 2**16].copy_(torch.from_numpy(states[start : start + 2**16].copy()))
    return PrefixCache(memory, starts, lengths, frozen)


def _states_memory(backbone: Backbone, tokens: int) -> Float[torch.Tensor, "rows w"] | None:
    """Memory for the states of so many tokens and a row of zeros: on the GPU, in pinned memory, or none (`backbone.cache_gib`)."""
    size = 4 * tokens * backbone.width
    if size > backbone.config.cache_gib * 2**30:
        return None
    if backbone.device.type == "cuda" and size <= torch.cuda.mem_get_info(backbone.device)[0] / 2:
        states = torch.empty(tokens + 1, backbone.width, device=backbone.device)
    else:
        states = torch.empty(tokens + 1, backbone.width, pin_memory=backbone.device.type == "cuda")
    # The row of zeros; all of them, if other processes add theirs.
    states[-1 if processes.count() == 1 else 0 :] = 0.0
    return states


def _in_rows(
    pooled: Sequence[Float[torch.Tensor, "b d"]], split: Sequence[Int[np.ndarray, " b"]], n: int, backbone: Backbone
) -> Float[np.ndarray, "n d"]:
    """Embeddings of batches in the rows of their documents, zeros in others; fetched from the device at once, so that no batch waits.

    Raises
    ------
    InputError
        If an embedding is NaN or infinite.
    """
    out = np.zeros((n, backbone.dimension), dtype=np.float32)
    if split:
        out[np.concatenate(split)] = torch.cat(list(pooled)).cpu().numpy()
    check_embeddings(out)
    return out


def embed(
    backbone: Backbone, source: PrefixSource, indices: Int[np.ndarray, " n"], advance: Advance | None = None
) -> Float[np.ndarray, "n d"]:
    """Pooled embeddings of encoded documents under whatever adapter is active now (see `empirics.adapters.adapter.active`).

    Raises
    ------
    InputError
        If an embedding is NaN or infinite.
    """
    pooled, split = [], []
    with processes.together(), torch.inference_mode():
        for rows, hidden, mask in embed_batches(backbone, source, indices):
            pooled.append(suffix(backbone, hidden, mask))
            split.append(rows)
            if advance is not None:
                advance(rows.size)
        out = _in_rows(pooled, split, len(indices), backbone)
    processes.add_up([torch.from_numpy(out)])
    return out


def embed_batches(
    backbone: Backbone, source: PrefixSource, indices: Int[np.ndarray, " n"]
) -> Iterator[tuple[Int[np.ndarray, " b"], Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"] | None]]:
    """Batches of similar length that fall to this process: rows in `indices`, states that enter the first adapted layer, and mask."""
    indices = np.asarray(indices)
    split = processes.share(list(batches(source.lengths[indices], backbone.config.batch_size)))
    for rows, (hidden, mask) in zip(split, source.padded((indices[rows] for rows in split), backbone.device), strict=True):
        yield rows, hidden, mask
