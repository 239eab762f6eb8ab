"""Where an encoder keeps its blocks and linear maps, and what it does after the last block; each answer is checked by running it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    """The attention mask as a bias; none if there is no mask."""
    if mask is None:
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


def find_narrow(block: nn.Module, hidden: Float[torch.Tensor, "n t d"]) -> tuple[str, ...]:
    """Paths of what a block may be given the first token of, and no other, without a change of that token in the block's output.

    In a transformer that is all that follows the attention: where only the first token of the last block is looked at, three
    quarters of that block need not be computed for the others. Found by trying, from the outside to the inside, in double
    precision: what is only nearly without effect is not narrow.

    Parameters
    ----------
    block : torch.nn.Module
    hidden : (n, t, d) tensor
        What the block may receive.
    """
    block, hidden = copy.deepcopy(block).double(), hidden.double()
    seen: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 3:
            seen[name] = args[0].shape[1]

    found: list[str] = []
    with torch.inference_mode():
        want = run_block(block, hidden, None)[:, :1]
        tried: set[str] = set()
        while True:
            seen.clear()
            hooks = [m.register_forward_pre_hook(functools.partial(note, name)) for name, m in block.named_modules() if name]
            try:
                with placed(block, {name: FirstToken(block.get_submodule(name)) for name in found}):
                    run_block(block, hidden, None)
            finally:
                for hook in hooks:
                    hook.remove()
            left = [
                n for n, tokens in seen.items() if tokens > 1 and n not in tried and not any(f"{n}.".startswith(f"{f}.") for f in found)
            ]
            if not left:
                return tuple(found)
            tried.add(left[0])
            if _keeps_first(block, hidden, [*found, left[0]], want):
                found.append(left[0])


def _keeps_first(block: nn.Module, hidden: torch.Tensor, names: Sequence[str], want: torch.Tensor) -> bool:
    with placed(block, {name: FirstToken(block.get_submodule(name)) for name in names}):
        try:
            got = run_block(block, hidden, None)
        except Exception:  # a module that needs every token fails in its own way
            return False
    return got.dim() == 3 and bool((got[:, :1] - want).abs().max() <= 1e-10 * want.abs().max())


def find_rounded(blocks: nn.ModuleList, hidden: Float[torch.Tensor, "n t d"]) -> tuple[str, ...]:
    """Paths within a list of blocks of normalisations whose output enters linear maps, and nothing else.

    Under autocast each of these maps rounds what it gets. Where nobody else reads it, it may be rounded once, as it is made, and no
    bit changes: so it is found, by rounding what enters the maps of a block in single precision, and then the output of one
    normalisation as well.

    Parameters
    ----------
    blocks : torch.nn.ModuleList
    hidden : (n, t, d) tensor
        What the first block may receive.
    """

    def lowered(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16).to(x.dtype)

    blocks = copy.deepcopy(blocks)
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args: tuple(map(lowered, args)))
    found = []
    with torch.inference_mode():
        for j, block in enumerate(blocks):
            want = run_block(block, hidden, None)
            for name, module in block.named_modules():
                if isinstance(module, nn.LayerNorm):
                    hook = module.register_forward_hook(lambda _, args, output: lowered(output))
                    if torch.equal(run_block(block, hidden, None), want):
                        found.append(f"{j}.{name}")
                    hook.remove()
            hidden = want
    return tuple(found)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What enters several products, in the precision that autocast would give it in each of them anew."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class Rounded(nn.Module):
    """A module whose output is rounded to what products take, but where gradients are: of several products they add up in float32."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the module."""
        y = self.base(x)
        return y if torch.is_grad_enabled() else rounded(y)


class FirstToken(nn.Module):
    """A module that is given the first token only."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Apply the module."""
        return self.base(x[:, :1], *args, **kwargs)


@contextmanager
def placed(root: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules in the place of others by their dotted paths, and put those back whatever happens."""
    before = {name: root.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            _place(root, name, module)
        yield
    finally:
        for name, module in before.items():
            _place(root, name, module)


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


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
