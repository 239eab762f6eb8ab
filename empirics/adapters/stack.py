"""The low-rank updates of many adapters as a few tensors on the device, from which those of any choice of adapters are read."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics.adapters.adapter import Adapter
from empirics.encoders.anatomy import placed, run_block
from empirics.encoders.backbone import Backbone
from empirics.encoders.feeding import moved
from theory.errors import InputError


@dataclass(frozen=True)
class StackedUnits:
    """The units of one projection, adapter after adapter.

    Attributes
    ----------
    a : (units + 1, in) tensor
        The last row is zero: what an adapter of lower rank than others beside it reads.
    b : (units + 1, out) tensor
    starts : (m + 1,) int array
        Adapter k owns rows ``starts[k]`` to ``starts[k + 1]``.
    """

    a: Float[torch.Tensor, "rows in"]
    b: Float[torch.Tensor, "rows out"]
    starts: Int[np.ndarray, " m1"]

    def chosen(self, adapters: Int[np.ndarray, " g"]) -> tuple[Float[torch.Tensor, " g in r"], Float[torch.Tensor, "g r out"]] | None:
        """Factors of some adapters, filled up with zero units to the largest rank among them; none if all ranks are zero.

        Adapters of one rank that follow each other are read where they lie.
        """
        starts, ranks = self.starts[adapters], self.starts[adapters + 1] - self.starts[adapters]
        most = int(ranks.max())
        if most == 0:
            return None
        rows = starts[:, None] + np.arange(most)
        if np.array_equal(rows.ravel(), np.arange(rows[0, 0], rows[0, 0] + rows.size)) and (ranks == most).all():
            lie = slice(int(rows[0, 0]), int(rows[0, 0]) + rows.size)
            a, b = self.a[lie], self.b[lie]
        else:
            rows = np.where(np.arange(most) < ranks[:, None], rows, len(self.a) - 1)
            index = moved(torch.from_numpy(rows.ravel()), self.a.device)
            a, b = self.a.index_select(0, index), self.b.index_select(0, index)
        return a.view(*rows.shape, -1).transpose(1, 2), b.view(*rows.shape, -1)


@dataclass(frozen=True)
class AdapterStack:
    """The folded units of m adapters, put together once, on the device and in the precision of the products.

    Each projection takes as many rows as its adapters have units there (and one), whatever the ranks: adapters may differ in rank and
    in the projections they adapt, and nothing is padded.

    Attributes
    ----------
    tasks : tuple of str
        Of the adapters, in their order.
    units : dict from projection name to StackedUnits
        All projections that some adapter changes.
    untouched : tuple of str
        Linear maps and normalisations of the first adapted layer whose input no adapter changes: the same for one document under all of
        them.
    """

    tasks: tuple[str, ...]
    units: Mapping[str, StackedUnits]
    untouched: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def nbytes(self) -> int:
        """Bytes that the units take on the device."""
        return sum(x.numel() * x.element_size() for u in self.units.values() for x in (u.a, u.b))


def stack_adapters(backbone: Backbone, adapters: Sequence[Adapter]) -> AdapterStack:
    """Put the folded units of adapters together, for this backbone and no other.

    Raises
    ------
    InputError
        If there are none, one changes a map before the cached prefix ends, or does not fit the map it changes.
    """
    if not adapters:
        raise InputError("adapters", "are none; give at least one")
    names = list(dict.fromkeys(n for x in adapters for n in x.folded))
    untouched = _untouched(backbone, names)
    return AdapterStack(tuple(x.task for x in adapters), {n: _stacked(backbone, adapters, n) for n in names}, tuple(untouched))


def _stacked(backbone: Backbone, adapters: Sequence[Adapter], name: str) -> StackedUnits:
    base = backbone.model.get_submodule(name)
    for adapter in adapters:
        if name in adapter.folded:
            units = adapter.folded[name]
            got, want = (units.a.shape, units.b.shape), ((len(units.a), base.in_features), (len(units.a), base.out_features))
            if got != want:
                raise InputError("adapters", f"have units of shapes {got} for {name} in {adapter.task!r}, where {want} are needed")
    folded = [x.folded[name] for x in adapters if name in x.folded]
    ranks = [len(x.folded[name].a) if name in x.folded else 0 for x in adapters]
    kind = torch.bfloat16 if backbone.low_precision else torch.float32

    def whole(parts: list[np.ndarray], size: int) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([*parts, np.zeros((1, size), np.float32)])).to(backbone.device, kind)

    a, b = whole([u.a for u in folded], base.in_features), whole([u.b for u in folded], base.out_features)
    return StackedUnits(a, b, starts=np.concatenate([[0], np.cumsum(ranks)]))


def _untouched(backbone: Backbone, names: Sequence[str]) -> list[str]:
    """Maps and norms of the first adapted layer whose input depends on no adapted map, found by disturbing every adapted map there.

    Raises
    ------
    InputError
        If an adapted map is outside of the adapted layers.
    """
    inside = tuple(f"{backbone.layers}.{j}." for j in range(backbone.first, len(backbone.blocks)))
    for name in names:
        if not name.startswith(inside):
            problem = f"change {name}, which lies before the cached prefix ends; raise backbone.adapted_layers"
            raise InputError("adapters", problem)
    block = backbone.adapted[0]
    asked = {n: m for n, m in block.named_modules() if isinstance(m, (nn.Linear, nn.LayerNorm))}
    states = torch.randn(1, backbone.tokens or 4, backbone.width, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    disturbed = {n: _Disturbed(backbone.model.get_submodule(n)) for n in names if n.startswith(inside[0])}
    with backbone.precision():
        plain = _inputs(block, asked, states)
        with placed(backbone.model, disturbed):
            disturbed_inputs = _inputs(block, asked, states)
    return [f"{inside[0]}{n}" for n in asked if n in plain and torch.equal(plain[n], disturbed_inputs[n])]


class _Disturbed(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        # Different for every token and entry: attention does not see what is added to all keys alike.
        return y + torch.linspace(-2, 3, y[0].numel(), device=y.device).square().view(y.shape[1:])


def _inputs(block: nn.Module, asked: Mapping[str, nn.Module], states: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each of some modules of a block receives."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen[name] = args[0].clone()

    hooks = [module.register_forward_pre_hook(functools.partial(note, name)) for name, module in asked.items()]
    try:
        with torch.no_grad():
            run_block(block, states, None)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
