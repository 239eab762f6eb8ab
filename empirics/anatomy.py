"""Where an encoder keeps its blocks and linear maps, and what it does after the last block; each answer is checked by running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import nn

from theory.errors import InputError

# The same projection goes by several names, between architectures and between releases of transformers.
_ALIASES = {
    "query": ("query", "q_proj", "q_lin"),
    "key": ("key", "k_proj", "k_lin"),
    "value": ("value", "v_proj", "v_lin"),
}
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Anatomy:
    """How to run an encoder block by block.

    Attributes
    ----------
    layers : str
        Dotted path of the block list.
    final : str or None
        Dotted path of the module applied to the last block's output, such as a layer normalisation.
    """

    layers: str
    final: str | None


def find_blocks(model: nn.Module, layers: str | None = None) -> str:
    """Dotted path of the list of repeated blocks.

    Parameters
    ----------
    model : torch.nn.Module
    layers : str, optional
        The answer, if it is known; only checked then.

    Raises
    ------
    InputError
        If `layers` names no list of blocks, or there is none or more than one to choose from.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)}
    if layers is not None:
        if layers not in lists:
            raise InputError("backbone.layers", f"{layers!r} is no list of blocks of {type(model).__name__}; it has {_names(lists)}")
        return layers
    found = [name for name, blocks in lists.items() if len(blocks) > 1 and _repeated(blocks) and not _inside(name, lists)]
    if len(found) != 1:
        have = "no list" if not found else "several lists"
        raise InputError("backbone.layers", f"{type(model).__name__} has {have} of repeated blocks; name one of {_names(lists)}")
    return found[0]


def find_linear(block: nn.Module, target: str) -> list[str]:
    """Paths within a block of the linear maps whose dotted name is `target` or ends in it; all of them, as in PEFT.

    Raises
    ------
    InputError
        If there is none.
    """
    linear = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
    names = _ALIASES.get(target, (target,))
    found = [name for name in linear if any(name == n or name.endswith(f".{n}") for n in names)]
    if not found:
        raise InputError("adapter.targets", f"{target!r} is no linear map of a {type(block).__name__}; it has {_names(linear)}")
    return found


def additive(mask: Bool[torch.Tensor, "n t"] | None, dtype: torch.dtype) -> Float[torch.Tensor, "n 1 1 t"] | None:
    """The attention mask as a bias: none if nothing is padded."""
    if mask is None or bool(mask.all()):
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
    return bias[:, None, None, :]


def run_block(block: nn.Module, hidden: Float[torch.Tensor, "n t d"], bias: torch.Tensor | None) -> Float[torch.Tensor, "n t d"]:
    """One block; releases of transformers differ in whether it returns a tuple."""
    output = block(hidden, bias)
    return output[0] if isinstance(output, tuple) else output


def examine(model: nn.Module, inputs: Mapping[str, torch.Tensor], layers: str | None) -> tuple[Anatomy, Any, Float[torch.Tensor, "n t d"]]:
    """Find the anatomy and hold it against the model's own forward pass, to 1e-4 of the largest entry.

    Parameters
    ----------
    model : torch.nn.Module
    inputs : mapping
        A small batch as the model takes it; `attention_mask` among them for text.
    layers : str, optional

    Returns
    -------
    anatomy : Anatomy
    output : ModelOutput
        Of the model's own forward pass.
    entering : (n, t, d) tensor
        What the first block received.

    Raises
    ------
    InputError
        If blocks cannot be run on hidden states and an attention mask alone, as with rotary or relative positions, or
        what follows the last block is no single module.
    """
    path = find_blocks(model, layers)
    blocks = model.get_submodule(path)
    kind = type(model).__name__
    entered: list[torch.Tensor] = []
    hook = blocks[0].register_forward_pre_hook(lambda _, args, kwargs: entered.append(first_argument(args, kwargs)), with_kwargs=True)
    try:
        with torch.inference_mode():
            output = model(**inputs)
    finally:
        hook.remove()
    mask = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    real = mask if mask is not None else ...
    last = getattr(output, "last_hidden_state", None)
    if len(entered) != 1 or last is None:
        raise InputError("backbone.layers", f"{path} of {kind} does not run once in its forward pass; name another list of blocks")
    with torch.inference_mode():
        hidden = entered[0]
        try:
            for block in blocks:
                hidden = run_block(block, hidden, additive(mask, hidden.dtype))
        except Exception as error:  # whatever a block says that misses an argument
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                "backbone.path", f"blocks of {kind} need more than hidden states and a mask ({reason}); choose another"
            ) from None
        if _same(hidden, last, real):
            return Anatomy(path, None), output, entered[0]
        for name, module in model.named_modules():
            apart = not f"{path}.".startswith(f"{name}.") and not name.startswith(f"{path}.")
            if name and apart and _gives(module, hidden, last, real):
                return Anatomy(path, name), output, entered[0]
    raise InputError("backbone.path", f"running the blocks of {kind} one by one does not give its output; choose another encoder")


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states among the arguments of a block."""
    return args[0] if args else kwargs["hidden_states"]


def _gives(module: nn.Module, hidden: torch.Tensor, last: torch.Tensor, real: Any) -> bool:
    try:
        return _same(module(hidden), last, real)
    except Exception:  # a module that takes something else is not the one
        return False


def _same(x: Any, y: torch.Tensor, real: Any) -> bool:
    if not isinstance(x, torch.Tensor) or x.shape != y.shape:
        return False
    x, y = x[real], y[real]
    return bool((x - y).abs().max() <= _TOLERANCE * y.abs().max())


def _repeated(blocks: nn.ModuleList) -> bool:
    return len({type(b) for b in blocks}) == 1 and any(isinstance(m, nn.Linear) for m in blocks[0].modules())


def _inside(name: str, lists: Mapping[str, nn.Module]) -> bool:
    return any(name.startswith(f"{other}.") for other in lists if other)


def _names(names: Any) -> str:
    return ", ".join(names) or "none"
