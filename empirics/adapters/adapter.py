"""Adapters: a selective composition of earlier tasks' rank-one units plus new ones (after Le et al., arXiv:2603.13235).

The adapted weight of task k is ``W0 + sum_j s_kj b_j a_j' + alpha sum_r b_r a_r'``. Folded, that is one low-rank update of
rank (pool + new), which is how it is applied and how it is saved for PEFT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ValidationError
from torch import nn

from empirics.encoders.anatomy import placed, rounded
from empirics.encoders.backbone import Backbone
from empirics.files.record import read_json, read_tensors, write_json, write_tensors
from theory.errors import InputError


@dataclass(frozen=True)
class Units:
    """Rank-one units ``b_j a_j'`` of one projection.

    Attributes
    ----------
    a : (units, in) float32 array
    b : (units, out) float32 array
    """

    a: Float[np.ndarray, "units in"]
    b: Float[np.ndarray, "units out"]


@dataclass(frozen=True)
class Adapter:
    """The adapter of one task; immutable, so that its embeddings never change afterwards.

    Attributes
    ----------
    task : str
    alpha : float
    new : dict from projection name to Units
        The task's own units, unscaled.
    composition : dict from projection name to (pool,) array
        The scalars ``s_k`` on the pool's units.
    folded : dict from projection name to Units
        The whole update ``sum_j b_j a_j'`` with all scales inside b.
    """

    task: str
    alpha: float
    new: Mapping[str, Units]
    composition: Mapping[str, Float[np.ndarray, " pool"]]
    folded: Mapping[str, Units]


def pool_units(adapters: Sequence[Adapter], name: str, sizes: tuple[int, int]) -> Units:
    """All units of earlier tasks in one projection of size (in, out), oldest first; empty for the first task."""
    if not adapters:
        return Units(np.zeros((0, sizes[0]), np.float32), np.zeros((0, sizes[1]), np.float32))
    return Units(np.concatenate([x.new[name].a for x in adapters]), np.concatenate([x.new[name].b for x in adapters]))


def fold(pool: Units, s: Float[np.ndarray, " pool"], new: Units, alpha: float) -> Units:
    """The update as one list of units, scales folded into b."""
    return Units(np.concatenate([pool.a, new.a]), np.concatenate([pool.b * s[:, None], new.b * np.float32(alpha)]))


def low_rank(base: nn.Linear, a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``base(x) + (x a') b``: the update is never formed as a matrix."""
    x = rounded(x)
    y = base(x)
    return torch.addmm(y.flatten(0, -2), (x @ a.T).flatten(0, -2), b).view(y.shape)


class LowRankLinear(nn.Module):
    """A frozen linear map plus ``(x A') B'``; A (units, in) and B (units, out) are given from outside."""

    def __init__(self, base: nn.Linear, a: torch.Tensor, b: torch.Tensor) -> None:
        super().__init__()
        self.base, self.a, self.b = base, a, b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply base and update."""
        return low_rank(self.base, self.a, self.b, x)


@contextmanager
def active(backbone: Backbone, adapter: Adapter | None) -> Iterator[None]:
    """Run the backbone under an adapter (or none); its base weights are never written."""
    modules = {}
    for name, units in (adapter.folded if adapter else {}).items():
        base = backbone.model.get_submodule(name)
        a, b = torch.from_numpy(units.a).to(backbone.device), torch.from_numpy(units.b).to(backbone.device)
        modules[name] = LowRankLinear(base, a, b)
    with placed(backbone.model, modules):
        yield


def principal_angles(adapter: Adapter, earlier: Sequence[Adapter]) -> dict[str, float]:
    """Smallest principal angle, in degrees, between the spans of new and earlier ``a`` in each projection (90 if none)."""
    out = {}
    for name, units in adapter.new.items():
        if not earlier:
            out[name] = 90.0
            continue
        new = np.linalg.qr(units.a.T.astype(np.float64))[0]
        old = np.linalg.qr(np.concatenate([x.new[name].a for x in earlier]).T.astype(np.float64))[0]
        out[name] = float(np.degrees(np.arccos(min(1.0, np.linalg.norm(old.T @ new, 2)))))
    return out


def save_adapter(folder: Path, adapter: Adapter, base: str | None = None) -> None:
    """Write a PEFT LoRA folder (composition folded in) and, beside it, what `load_adapter` needs to restore it bit for bit.

    Parameters
    ----------
    folder : Path
    adapter : Adapter
        Its rank may differ between projections.
    base : str, optional
        Name or folder of the encoder, from which PEFT's ``AutoPeftModel`` loads it.
    """
    from peft import LoraConfig

    names = sorted(adapter.folded)
    ranks = {name: adapter.folded[name].a.shape[0] for name in names}
    rank = ranks[names[0]]
    # PEFT reads the keys as patterns.
    others = {re.escape(name): own for name, own in ranks.items() if own != rank}
    # lora_alpha = r makes PEFT's scaling one; the module names are complete, so no other layer can match.
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=others,
        alpha_pattern=others,
        lora_dropout=0.0,
        bias="none",
        target_modules=names,
        inference_mode=True,
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=base,
    ).to_dict()
    write_json(folder / "adapter_config.json", {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()})
    tensors = {}
    for name in names:
        tensors[f"base_model.model.{name}.lora_A.weight"] = adapter.folded[name].a
        tensors[f"base_model.model.{name}.lora_B.weight"] = adapter.folded[name].b.T
    write_tensors(folder / "adapter_model.safetensors", tensors)
    write_tensors(folder / "composition.safetensors", composition_tensors(adapter))
    write_json(folder / "composition.json", {"task": adapter.task, "projections": names})


class _Composition(BaseModel):
    task: str
    projections: list[str]


def load_adapter(folder: Path) -> Adapter:
    """Restore an adapter that `save_adapter` wrote.

    Raises
    ------
    InputError
        If a file is missing or corrupt.
    """
    about, own = read_json(folder / "composition.json"), read_tensors(folder / "composition.safetensors")
    try:
        found = _Composition.model_validate(about)
    except ValidationError:
        raise InputError(str(folder / "composition.json"), "names no task with its projections; the file is damaged") from None
    try:
        if own["alpha"].ndim or own["alpha"].dtype.kind not in "fiu":
            raise InputError(str(folder), "holds an alpha that is no number and cannot be restored")
        adapter = composed_adapter(found.task, own)
        if sorted(adapter.new) == sorted(found.projections):
            return adapter
        missing = ", ".join(sorted(set(found.projections) ^ set(adapter.new)))
    except KeyError as error:
        missing = str(error)
    raise InputError(str(folder), f"lacks {missing} and cannot be restored")


def composition_tensors(adapter: Adapter) -> dict[str, np.ndarray]:
    """All numbers of an adapter by name, from which `composed_adapter` restores it bit for bit."""
    own: dict[str, np.ndarray] = {"alpha": np.array(adapter.alpha)}
    for name in sorted(adapter.folded):
        own |= {f"{name}.a": adapter.new[name].a, f"{name}.b": adapter.new[name].b, f"{name}.s": adapter.composition[name]}
        own |= {f"{name}.folded_a": adapter.folded[name].a, f"{name}.folded_b": adapter.folded[name].b}
    return own


def adapter_digest(adapter: Adapter) -> str:
    """SHA-256 of all numbers of an adapter, name by name in order: noted when it is trained, it tells whether it changed afterwards."""
    return _digest(composition_tensors(adapter))


def update_digest(adapter: Adapter) -> str:
    """SHA-256 of the update alone, module by module in the order of their names: the same however a folder of it is saved.

    It is of the bits that are applied: of `folded`, the arrays `MODULE.a` and `MODULE.b`. Neither names nor settings of training have a
    part in it, nor how scales were told.
    """
    return _digest({f"{name}.{side}": getattr(units, side) for name, units in adapter.folded.items() for side in "ab"})


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        total.update(f"{name} {x.dtype} {x.shape}\n".encode() + x.tobytes())
    return total.hexdigest()


def composed_adapter(task: str, tensors: Mapping[str, np.ndarray]) -> Adapter:
    """The adapter of a task from `composition_tensors`.

    Raises
    ------
    KeyError
        Naming a tensor that is missing.
    """
    names = [name.removesuffix(".folded_a") for name in sorted(tensors) if name.endswith(".folded_a")]
    return Adapter(
        task,
        float(tensors["alpha"]),
        {n: Units(tensors[f"{n}.a"], tensors[f"{n}.b"]) for n in names},
        {n: tensors[f"{n}.s"] for n in names},
        {n: Units(tensors[f"{n}.folded_a"], tensors[f"{n}.folded_b"]) for n in names},
    )
