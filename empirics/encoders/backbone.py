"""A frozen encoder of text or images that can be run from its middle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from empirics.config import BackboneConfig
from empirics.encoders.anatomy import (
    FirstToken,
    Rounded,
    additive,
    examine,
    find_linear,
    find_narrow,
    find_rounded,
    placed,
    run_block,
)
from theory.errors import InputError

_PROBE_TOKENS = 6
Advance = Callable[[int], None]
# Models that have been rounded in place; their types do not tell, for an encoder that is assembled again is widened.
_LOWERED: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class Backbone:
    """A frozen encoder of text or images.

    Attributes
    ----------
    model : torch.nn.Module
        From `transformers.AutoModel`, or of the same interface; every parameter frozen.
    tokenizer : callable or None
        For text.
    processor : callable or None
        For images: from a list of (H, W, 3) uint8 arrays to ``pixel_values``.
    config : BackboneConfig
    device : torch.device
    first : int
        Index of the first adapted layer.
    layers : str
        Dotted path of the block list.
    final : str or None
        Dotted path of what follows the last block, such as the last normalisation of a vision transformer.
    narrow : tuple of str
        What of the last block is run on the first token only, because the pooling looks at no other; dotted paths.
    rounded : tuple of str
        Normalisations whose output enters products alone, and is rounded once for all of them; dotted paths, and none unless products
        are in bfloat16.
    pooling : str
        "mean" over real tokens, "cls" (the first token) or "pooler" (the model's own, of the first token).
    width : int
        Dimension of the states that enter the first adapted layer.
    tokens : int or None
        Tokens of an image there; None for text, where it varies.
    dimension : int
        Embedding dimension.
    """

    model: nn.Module
    tokenizer: Any
    processor: Any
    config: BackboneConfig
    device: torch.device
    first: int
    layers: str
    final: str | None
    narrow: tuple[str, ...]
    rounded: tuple[str, ...]
    pooling: Literal["mean", "cls", "pooler"]
    width: int
    tokens: int | None
    dimension: int

    @property
    def modality(self) -> Literal["text", "image"]:
        """What it encodes."""
        return "text" if self.tokens is None else "image"

    @property
    def blocks(self) -> nn.ModuleList:
        """All layers."""
        return self.model.get_submodule(self.layers)

    @property
    def adapted(self) -> list[nn.Module]:
        """The layers that carry adapters."""
        return list(self.blocks[self.first :])

    def projections(self, targets: Sequence[str]) -> dict[str, nn.Linear]:
        """The adapted linear maps by their full names.

        Raises
        ------
        InputError
            If a target names no linear map of a layer.
        """
        out = {}
        for j in range(self.first, len(self.blocks)):
            for target in targets:
                for name in find_linear(self.blocks[j], target):
                    out[f"{self.layers}.{j}.{name}"] = self.blocks[j].get_submodule(name)
        return out

    @property
    def low_precision(self) -> bool:
        """Whether products are in bfloat16: by default on a GPU that has it, never on the CPU."""
        return _low_precision(self.config, self.device)

    def precision(self) -> AbstractContextManager[Any]:
        """Autocast to bfloat16 where products are to be so."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.low_precision else nullcontext()

    def finish(self, hidden: Float[torch.Tensor, "n t w"], mask: Bool[torch.Tensor, "n t"] | None) -> Float[torch.Tensor, "n d"]:
        """What follows the last adapted layer, then the pooling."""
        return self.pool(self.model.get_submodule(self.final)(hidden) if self.final else hidden, mask)

    def pool(self, last: Float[torch.Tensor, "n t w"], mask: Bool[torch.Tensor, "n t"] | None) -> Float[torch.Tensor, "n d"]:
        """Pool the last hidden states; scaled to unit length if asked for."""
        if self.pooling == "pooler":
            pooled = self.model.pooler(last)
        elif self.pooling == "cls":
            pooled = last[:, 0]
        else:
            pooled = token_mean(last, mask)
        return nn.functional.normalize(pooled.float(), dim=-1) if self.config.normalize else pooled.float()


def _default_pooling(model: nn.Module, modality: Literal["text", "image"]) -> Literal["mean", "cls", "pooler"]:
    return "mean" if modality == "text" else getattr(model, "preferred_pooling", "cls")


def embedding_settings(config: BackboneConfig, backbone: Backbone) -> dict[str, Any]:
    """What decides, of some settings, what an encoder's embeddings are beside its weights: pooling, scaling, and where texts are cut."""
    settings = {"pooling": config.pooling or _default_pooling(backbone.model, backbone.modality), "normalize": config.normalize}
    return settings | ({"max_length": config.max_length} if backbone.modality == "text" else {})


def _low_precision(config: BackboneConfig, device: torch.device) -> bool:
    auto = config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return auto or config.precision == "bfloat16"


def token_mean(x: Float[torch.Tensor, "n t c"], mask: Bool[torch.Tensor, "n t"] | None) -> Float[torch.Tensor, "n c"]:
    """Mean over the tokens of each document: those that the mask is True on, or all if there is none."""
    if mask is None:
        return x.mean(1)
    weight = mask.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1)


def assemble(model: nn.Module, tokenizer: Any, processor: Any, config: BackboneConfig) -> Backbone:
    """Freeze a model and find out, by running it on a tiny input, how to run it from its middle.

    Parameters
    ----------
    model : torch.nn.Module
    tokenizer : callable or None
        For text.
    processor : callable or None
        For images; exactly one of the two is given.
    config : BackboneConfig

    Raises
    ------
    InputError
        If it cannot be run block by block, has no such pooled output, takes fewer tokens than `backbone.max_length`, or has fewer
        layers than are to be adapted; or if `backbone.compile` is asked for where nothing compiles.
    """
    model = model.to("cpu", torch.float32).eval().requires_grad_(False)
    inputs = _probe(model, processor, config)
    try:
        anatomy, output, states = examine(model, inputs, config.layers)
    except InputError:
        raise
    except (IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError("backbone.path", f"{type(model).__name__} fails on a small input ({reason}); is max_length right?") from None
    blocks = model.get_submodule(anatomy.layers)
    if config.adapted_layers > len(blocks):
        raise InputError("backbone.adapted_layers", f"{config.adapted_layers} exceeds the encoder's {len(blocks)} layers")
    first = len(blocks) - config.adapted_layers
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    entering = states
    with torch.inference_mode():
        for block in blocks[:first]:
            entering = run_block(block, entering, None)
    pooling = config.pooling or _default_pooling(model, "text" if processor is None else "image")
    pooled = output.last_hidden_state[:, 0]
    if pooling == "pooler":
        pooled = getattr(output, "pooler_output", None)
        own = getattr(model, "pooler", None)
        if pooled is None or own is None or not torch.allclose(own(output.last_hidden_state), pooled, atol=1e-5):
            raise InputError("backbone.pooling", f"{type(model).__name__} has no pooler of its own; use mean or cls")
    narrow: tuple[str, ...] = ()
    if pooling != "mean":
        last = f"{anatomy.layers}.{len(blocks) - 1}"
        narrow = tuple(f"{last}.{name}" for name in find_narrow(blocks[-1], states))
    rounded = tuple(f"{anatomy.layers}.{name}" for name in find_rounded(blocks, states)) if _low_precision(config, device) else ()
    if config.compile:
        _check_compiler(device)
    return Backbone(
        model.to(device),
        tokenizer,
        processor,
        config,
        device,
        first,
        anatomy.layers,
        anatomy.final,
        narrow,
        rounded,
        pooling,
        int(entering.shape[-1]),
        None if processor is None else int(entering.shape[1]),
        int(pooled.shape[-1]),
    )


def _probe(model: nn.Module, processor: Any, config: BackboneConfig) -> dict[str, torch.Tensor]:
    if processor is not None:
        grey = np.linspace(0, 255, 24 * 32 * 3).astype(np.uint8).reshape(24, 32, 3)
        return {"pixel_values": pixels(processor, [grey, grey[::-1]])}
    pad = getattr(model.config, "pad_token_id", None) or 0
    ids = torch.arange(2 * config.max_length).reshape(2, -1) % 7 + 3
    mask = torch.ones_like(ids)
    mask[1, min(_PROBE_TOKENS, config.max_length - 1) :] = 0
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


def pixels(processor: Any, images: Sequence[np.ndarray]) -> Float[torch.Tensor, "n 3 h w"]:
    """Preprocessed images as one tensor."""
    prepared = processor(images=list(images), return_tensors="np", input_data_format="channels_last")["pixel_values"]
    return torch.from_numpy(np.asarray(prepared, dtype=np.float32))


def lower(backbone: Backbone) -> None:
    """Round the frozen weights of linear maps, in place, to what their products take, rather than in each product anew."""
    if backbone.low_precision:
        _LOWERED.add(backbone.model)
        for module in backbone.model.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)


def is_lowered(backbone: Backbone) -> bool:
    """Whether its weights have been rounded in place (`lower`), so that those it was loaded with are gone."""
    return backbone.model in _LOWERED


@contextmanager
def shortened(backbone: Backbone) -> Iterator[None]:
    """Within, the model spares what nobody looks at: other tokens than the first after the last attention, roundings of one value."""
    model = backbone.model
    norms = {name: Rounded(model.get_submodule(name)) for name in backbone.rounded}
    with placed(model, norms), placed(model, {name: FirstToken(model.get_submodule(name)) for name in backbone.narrow}):
        yield


def suffix(backbone: Backbone, hidden: Float[torch.Tensor, "n t w"], mask: Bool[torch.Tensor, "n t"] | None) -> Float[torch.Tensor, "n d"]:
    """The adapted layers and the pooling, on padded states; mask is True on real tokens, and none if nothing is padded."""
    with backbone.precision(), shortened(backbone):
        bias = additive(mask, hidden.dtype)
        for block in backbone.adapted:
            if backbone.config.compile:
                _mark_sizes(hidden, bias, backbone.modality)
                hidden = _compiled_block()(block, hidden, bias)
            else:
                hidden = run_block(block, hidden, bias)
        return backbone.finish(hidden, mask)


def _mark_sizes(hidden: torch.Tensor, bias: torch.Tensor | None, modality: Literal["text", "image"]) -> None:
    """Compile for any number of documents, and for texts of any length, rather than for those of the first batch."""
    torch._dynamo.maybe_mark_dynamic(hidden, [0, 1] if modality == "text" else 0)
    if bias is not None:
        torch._dynamo.maybe_mark_dynamic(bias, [0, 3])


@functools.cache
def _compiled_block() -> Callable[..., torch.Tensor]:
    """`run_block`, compiled for all blocks of one kind at once; units are its inputs, so that other adapters compile nothing anew."""
    # One function stands for first, middle and last layers in training and embedding, with and without padding.
    torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    return torch.compile(run_block)


def _check_compiler(device: torch.device) -> None:
    """Refuse to compile where a trifle does not."""
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception as error:  # a compiler that is missing or broken shows in many ways
        reason = " ".join(str(error).split())[:160]
        raise InputError("backbone.compile", f"does not work on this machine ({reason}); set it to false") from None


def batches(lengths: Int[np.ndarray, " n"], size: int) -> Iterator[Int[np.ndarray, " b"]]:
    """Batches of similar length: little is padded, and results go back to their own rows."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, order.size, size):
        yield order[start : start + size]


def check_embeddings(x: Float[np.ndarray, "n d"], documents: Int[np.ndarray, " n"] | None = None) -> None:
    """Refuse embeddings that are NaN or infinite.

    Parameters
    ----------
    x : (n, d) array
    documents : (n,) int array, optional
        Number of the document that each row is of; that of the row by default.

    Raises
    ------
    InputError
        With the first document at fault.
    """
    if not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        wrong = np.unique(rows if documents is None else documents[rows])
        raise InputError(
            "embeddings", f"{wrong.size} documents have NaN or infinite embeddings, the first is number {wrong[0]}; check the weights"
        )
