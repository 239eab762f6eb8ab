"""What a computation asks of a device, whatever the device: kernels, bytes that they read and write, and operations of products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Tally:
    """What was asked for.

    Attributes
    ----------
    kernels : int
        Operations that are no views.
    bytes : int
        Of their tensors, each read or written once; of a broadcast one, what there is of it.
    flops : int
        Operations of matrix products and attention, as PyTorch counts them.
    """

    kernels: int
    bytes: int
    flops: int


def tally(work: Callable[[], object]) -> Tally:
    """Do a work once on this machine, and count what it asks for."""
    with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        work()
    return Tally(traffic.kernels, traffic.bytes, flops.get_total_flops())


class _Traffic(TorchDispatchMode):
    """Counts kernels and bytes. Composite operations are taken apart; attention counts as one kernel, which it is on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        # Memory that is only set aside is not touched.
        if not func.is_view and not func._opname.startswith(("empty", "new_empty")):
            read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            written = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
            if func._opname in ("index_select", "index", "embedding"):
                # Of a table the rows that are asked for.
                read = written
            elif func._opname == "copy_":
                read = read[1:]
            self.kernels += 1
            self.bytes += sum(map(_size, read)) + sum(map(_size, written))
        return out


def _size(x: torch.Tensor) -> int:
    count = x.element_size()
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else 1
    return count
