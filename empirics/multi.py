"""Embeddings under many adapters in one pass: their activations travel through the layers as one stack.

Against one adapter after the other this saves the prefix (computed once), the linear maps of the first adapted layer whose input
no adapter has touched yet (computed once), and the cost of starting many small products (one large one each instead).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics import processes
from empirics.adapters import Adapter, rounded
from empirics.anatomy import placed, run_block
from empirics.backbone import Advance, Backbone, PrefixSource, embed_batches, suffix
from empirics.encoder import check_embeddings
from theory.errors import InputError


class _Grouped(nn.Module):
    """A frozen linear map plus a low-rank update for each of m groups of rows: ``x_k W' + (x_k A_k') B_k``.

    If `shared`, the rows of every group are the same, and the frozen map is applied to the first group only. Without
    updates (`a` none) it only saves that.
    """

    def __init__(self, base: nn.Linear, groups: int, a: torch.Tensor | None, b: torch.Tensor | None, shared: bool) -> None:
        super().__init__()
        self.base, self.groups, self.a, self.b, self.shared = base, groups, a, b, shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = rounded(x).reshape(self.groups, -1, x.shape[-1])
        if self.shared:
            y = self.base(grouped[0]).expand(self.groups, -1, -1)
        else:
            y = self.base(grouped)
        if self.a is not None and self.b is not None:
            low = torch.bmm(grouped, self.a)
            # Out of place, because in place neither autocast nor the expanded y would do.
            y = torch.baddbmm(y, low, self.b)
        return y.reshape(*x.shape[:-1], -1)


def embed_all(
    backbone: Backbone,
    source: PrefixSource,
    indices: Int[np.ndarray, " n"],
    adapters: Sequence[Adapter],
    advance: Advance | None = None,
) -> Float[np.ndarray, "n m d"]:
    """Pooled embeddings of documents under each of m adapters; equal to `embed` under each in turn, up to float rounding.

    Never more than `backbone.batch_size` sequences are in the layers at once, whatever m, so that memory grows with m only by the
    adapters themselves (and the result). Adapters may differ in rank and in the projections they adapt: units that are
    missing count as zero.

    Parameters
    ----------
    backbone : Backbone
    source : PrefixSource
    indices : (n,) int array
    adapters : sequence of Adapter
        At least one.
    advance : callable, optional
        Told the number of documents times adapters just embedded.

    Raises
    ------
    InputError
        If an adapter changes a map before the cached prefix ends, or an embedding is not finite.
    """
    if not adapters:
        raise InputError("adapters", "are none; give at least one")
    indices = np.asarray(indices)
    rows = backbone.config.batch_size
    group = min(len(adapters), rows)
    parts = [slice(k, min(k + group, len(adapters))) for k in range(0, len(adapters), group)]
    independent = _untouched(backbone, adapters)
    stacks = [_modules(backbone, adapters[part], independent) for part in parts]
    out = np.zeros((indices.size, len(adapters), backbone.dimension), dtype=np.float32)
    with processes.together(), torch.inference_mode():
        for batch, states, real in embed_batches(backbone, source, indices):
            lengths = source.lengths[indices[batch]]
            # Fetched from the device once a batch: a GPU that is waited for more often would stand still.
            found = torch.empty(batch.size, len(adapters), backbone.dimension, device=backbone.device)
            for part, modules in zip(parts, stacks, strict=True):
                m = part.stop - part.start
                with placed(backbone.model, modules):
                    for start in range(0, batch.size, max(1, rows // m)):
                        chosen = slice(start, start + max(1, rows // m))
                        # Sorted by length within the batch, so that the last document is the longest.
                        shortest, width = int(lengths[chosen].min()), int(lengths[chosen].max())
                        hidden, mask = states[chosen, :width], None
                        if real is not None and shortest < width:
                            mask = real[chosen, :width].repeat(m, 1)
                        z = suffix(backbone, hidden.repeat(m, 1, 1), mask)
                        found[chosen, part] = z.view(m, hidden.shape[0], -1).transpose(0, 1)
                if advance is not None:
                    advance(batch.size * m)
            out[batch] = found.cpu().numpy()
        check_embeddings(out)
    processes.add_up([torch.from_numpy(out)])
    return out


def _modules(backbone: Backbone, adapters: Sequence[Adapter], independent: Sequence[str]) -> dict[str, nn.Module]:
    """Grouped modules in the place of every projection that an adapter changes or whose frozen part is shared."""
    out: dict[str, nn.Module] = {}
    for name in dict.fromkeys([*(n for x in adapters for n in x.folded), *independent]):
        base = backbone.model.get_submodule(name)
        a, b = _stacked([x.folded[name].a if name in x.folded else None for x in adapters], base.in_features), None
        if a is not None:
            b = _stacked([x.folded[name].b if name in x.folded else None for x in adapters], base.out_features)
            a, b = a.transpose(1, 2).contiguous().to(backbone.device), b.to(backbone.device)
        out[name] = _Grouped(base, len(adapters), a, b, name in independent)
    return out


def _stacked(units: Sequence[Float[np.ndarray, "units k"] | None], size: int) -> Float[torch.Tensor, "m units k"] | None:
    """Units of all adapters as one tensor, padded with zero units to the largest number; none if there are none at all."""
    most = max(0 if u is None else u.shape[0] for u in units)
    if most == 0:
        return None
    out = torch.zeros(len(units), most, size)
    for row, u in zip(out, units, strict=True):
        if u is not None:
            row[: u.shape[0]] = torch.from_numpy(u)
    return out


def _untouched(backbone: Backbone, adapters: Sequence[Adapter]) -> list[str]:
    """Linear maps of the first adapted layer whose input depends on no adapter, found by disturbing every adapted map there.

    Raises
    ------
    InputError
        If an adapter changes a map outside of the adapted layers.
    """
    names = list(dict.fromkeys(n for x in adapters for n in x.folded))
    inside = tuple(f"{backbone.layers}.{j}." for j in range(backbone.first, len(backbone.blocks)))
    for name in names:
        if not name.startswith(inside):
            problem = f"change {name}, which lies before the cached prefix ends; raise backbone.adapted_layers"
            raise InputError("adapters", problem)
    block = backbone.adapted[0]
    linear = {n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}
    states = torch.randn(1, backbone.tokens or 4, backbone.width, generator=torch.Generator().manual_seed(0)).to(backbone.device)
    disturbed = {n: _Disturbed(backbone.model.get_submodule(n)) for n in names if n.startswith(inside[0])}
    with backbone.precision():
        plain = _inputs(block, linear, states)
        with placed(backbone.model, disturbed):
            moved = _inputs(block, linear, states)
    return [f"{inside[0]}{n}" for n in linear if n in plain and torch.equal(plain[n], moved[n])]


class _Disturbed(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        # Different for every token and entry: attention does not see what is added to all keys alike.
        return y + torch.linspace(-2, 3, y[0].numel(), device=y.device).square().view(y.shape[1:])


def _inputs(block: nn.Module, linear: Mapping[str, nn.Module], states: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each linear map of a block receives."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen[name] = args[0].clone()

    hooks = [module.register_forward_pre_hook(functools.partial(note, name)) for name, module in linear.items()]
    try:
        with torch.no_grad():
            run_block(block, states, None)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
