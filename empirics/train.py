"""Training of one task's adapter from the cached prefix."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics.adapters import Adapter, Units, fold, installed, low_rank, pool_units, principal_angles
from empirics.backbone import Advance, Backbone, PrefixSource, suffix
from empirics.config import AdapterConfig, TrainingConfig
from theory.errors import InputError


@dataclass(frozen=True)
class TrainingLog:
    """How a training went.

    Attributes
    ----------
    losses : tuple of float
        Cross-entropy of each step.
    accuracy : float
        Training accuracy over the last epoch.
    samples_per_second : float
    nonzero : float
        Share of composition scalars that are not zero (1 if there is no pool).
    smallest_angle : float
        Degrees between new and earlier units, the smallest over projections.
    """

    losses: tuple[float, ...]
    accuracy: float
    samples_per_second: float
    nonzero: float
    smallest_angle: float


class _Composed(nn.Module):
    """A projection in training: the pool's frozen units under trained scalars, and new units."""

    def __init__(self, base: nn.Linear, pool: Units, config: AdapterConfig, rng: np.random.Generator, device: torch.device) -> None:
        super().__init__()
        self.base, self.alpha = base, config.alpha
        start = rng.standard_normal((config.rank, base.in_features)) / np.sqrt(base.in_features)
        self.exact = {"a": _basis(pool.a, base.in_features)}
        if config.orthogonal_sides == "both":
            self.exact["b"] = _basis(pool.b, base.out_features)
        # New directions begin orthogonal to the pool; penalty or projection then only has to keep them there.
        start = start - (start @ self.exact["a"]) @ self.exact["a"].T
        self.a = nn.Parameter(torch.tensor(start, dtype=torch.float32, device=device))
        self.b = nn.Parameter(torch.zeros(config.rank, base.out_features, device=device))
        self.s = nn.Parameter(torch.zeros(pool.a.shape[0], device=device))
        self.pool_a, self.pool_b = torch.tensor(pool.a, device=device), torch.tensor(pool.b, device=device)
        self.basis = {side: torch.tensor(x, dtype=torch.float32, device=device) for side, x in self.exact.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.cat([self.pool_a, self.a])
        b = torch.cat([self.pool_b * self.s[:, None], self.alpha * self.b])
        return low_rank(self.base, a, b, x)

    def overlap(self) -> torch.Tensor:
        """Share of the new directions' squared length that lies in the pool's span; the sum over sides if both are asked for."""
        total = (self.a @ self.basis["a"]).square().sum() / self.a.square().sum()
        if "b" in self.basis:
            # b starts at zero, where the share is nothing over nothing.
            total = total + (self.b @ self.basis["b"]).square().sum() / self.b.square().sum().clamp_min(1e-12)
        return total

    def project(self) -> None:
        """Take the new units off the pool's span."""
        with torch.no_grad():
            for side, basis in self.basis.items():
                units = getattr(self, side)
                units -= (units @ basis) @ basis.T

    def units(self, *, projected: bool) -> Units:
        """The new units; `projected` once more in double precision, which leaves float32 rounding only."""
        out = {side: getattr(self, side).detach().cpu().numpy().copy() for side in ("a", "b")}
        if projected:
            for side, basis in self.exact.items():
                x = out[side].astype(np.float64)
                out[side] = (x - (x @ basis) @ basis.T).astype(np.float32)
        return Units(out["a"], out["b"])


def _basis(rows: Float[np.ndarray, "units k"], size: int) -> Float[np.ndarray, "k units"]:
    """An orthonormal basis of a space that holds the rows."""
    return np.linalg.qr(rows.T.astype(np.float64))[0] if rows.size else np.zeros((size, 0))


def train_adapter(
    backbone: Backbone,
    cache: PrefixSource,
    indices: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    task: str,
    earlier: Sequence[Adapter],
    adapter_config: AdapterConfig,
    config: TrainingConfig,
    rng: np.random.Generator,
    advance: Advance | None = None,
) -> tuple[Adapter, TrainingLog]:
    """Train the adapter of one task; earlier adapters are read and never changed.

    The loss is the cross-entropy of a cosine head (started at the class means of the frozen embeddings) plus the
    orthogonality penalty, unless new units are projected off the pool's span after each update instead (then to float32
    rounding). The elastic net acts on the composition scalars as a proximal step after each update, as
    AdamW's decay does, so that unused units end at exactly zero.

    Parameters
    ----------
    backbone, cache
    indices : (n,) int array
        Training documents of the task.
    labels : (n,) int array
        Their classes, 0 to C - 1.
    task : str
    earlier : sequence of Adapter
        Adapters of the tasks before.
    adapter_config, config
    rng : numpy.random.Generator
    advance : callable, optional
        Told the number of samples just trained on.

    Raises
    ------
    InputError
        For a task of one class, labels that do not fit, a loss that is not finite, or exact projection where the pool leaves no
        room for new units.
    """
    classes = np.unique(labels)
    if classes.size < 2:
        raise InputError(f"task {task}", "has one class only; a task needs at least two")
    if not np.array_equal(classes, np.arange(classes.size)) or len(labels) != len(indices):
        raise InputError("labels", f"of task {task} are not 0 to C - 1, one a document")
    means = _class_means(cache, indices, labels)
    modules = _modules(backbone, earlier if adapter_config.compose else (), adapter_config, rng)
    adapter, log, _ = _train(backbone, cache, indices, labels, task, earlier, modules, means, adapter_config, config, rng, advance)
    return adapter, log


def continue_adapter(
    backbone: Backbone,
    cache: PrefixSource,
    indices: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    task: str,
    before: tuple[Adapter, Float[np.ndarray, "C d"]] | None,
    adapter_config: AdapterConfig,
    config: TrainingConfig,
    rng: np.random.Generator,
) -> tuple[Adapter, Float[np.ndarray, "C d"]]:
    """Train one adapter and one growing head further, on the next task: sequential fine-tuning.

    Parameters
    ----------
    backbone, cache
    indices : (n,) int array
    labels : (n,) int array
        Classes numbered over the stream; those of this task follow those of `before`'s head.
    task : str
    before : (Adapter, (C, d) array) or None
        Adapter and head after the tasks before; None for the first task.
    adapter_config, config
        Composition and orthogonality have no meaning here and are not used.
    rng : numpy.random.Generator

    Returns
    -------
    (Adapter, (C + c, d) array)
        The head compares by cosine.

    Raises
    ------
    InputError
        If the labels do not follow the head's, or the loss is not finite.
    """
    known = 0 if before is None else len(before[1])
    classes = np.unique(labels)
    if not np.array_equal(classes, known + np.arange(classes.size)):
        raise InputError("labels", f"of task {task} are not {known} to {known + classes.size - 1}, which follow the classes known so far")
    alone = adapter_config.alone()
    modules, head = _modules(backbone, (), alone, rng), _class_means(cache, indices, labels)
    if before is not None:
        head = np.concatenate([before[1], head])
        with torch.no_grad():
            for name, module in modules.items():
                module.a.copy_(torch.from_numpy(before[0].new[name].a))
                module.b.copy_(torch.from_numpy(before[0].new[name].b))
    adapter, _, head = _train(backbone, cache, indices, labels, task, (), modules, head, alone, config, rng, None)
    return adapter, head


def _class_means(cache: PrefixSource, indices: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "c d"]:
    """Mean frozen embedding of each class that there is, in order."""
    return np.stack([cache.frozen[indices[labels == c]].mean(axis=0) for c in np.unique(labels)])


def _modules(backbone: Backbone, earlier: Sequence[Adapter], config: AdapterConfig, rng: np.random.Generator) -> dict[str, _Composed]:
    """A projection in training for each that is adapted, over the pool of earlier adapters."""
    modules = {}
    for name, base in backbone.projections(config.targets).items():
        pool = pool_units(earlier, name, (base.in_features, base.out_features))
        _check_room(name, base, pool, config)
        modules[name] = _Composed(base, pool, config, rng, backbone.device)
    return modules


def _train(
    backbone: Backbone,
    cache: PrefixSource,
    indices: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    task: str,
    earlier: Sequence[Adapter],
    modules: Mapping[str, _Composed],
    means: Float[np.ndarray, "C d"],
    adapter_config: AdapterConfig,
    config: TrainingConfig,
    rng: np.random.Generator,
    advance: Advance | None,
) -> tuple[Adapter, TrainingLog, Float[np.ndarray, "C d"]]:
    """The training loop: adapter, log and head."""
    projecting = adapter_config.orthogonal == "projection"
    head = nn.Parameter(torch.tensor(means / np.linalg.norm(means, axis=1, keepdims=True), device=backbone.device))
    trained = [p for m in modules.values() for p in (m.a, m.b)]
    scalars = [m.s for m in modules.values() if m.s.numel()]
    groups = [
        {"params": [*trained, head], "weight_decay": config.weight_decay},
        {"params": scalars, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)
    per_epoch = -(-len(indices) // config.batch_size)
    steps = per_epoch * config.epochs
    warm = max(1, int(config.warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / warm, (steps - k) / max(1, steps - warm)))
    target = torch.tensor(labels, device=backbone.device)
    losses: list[float] = []
    # Counted on the device: a step that waits for a number on the host would hold up a GPU.
    correct, start = torch.zeros((), dtype=torch.int64, device=backbone.device), time.perf_counter()
    with installed(backbone, modules):
        for epoch in range(config.epochs):
            order = rng.permutation(len(indices))
            totals, entropies = [], []
            for batch in np.array_split(order, per_epoch):
                optimizer.zero_grad(set_to_none=True)
                total, entropy = torch.zeros((), device=backbone.device), torch.zeros((), device=backbone.device)
                for piece in np.array_split(batch, min(config.accumulate, batch.size)):
                    hidden, mask = cache.padded(indices[piece], backbone.device)
                    z = nn.functional.normalize(suffix(backbone, hidden, mask), dim=-1)
                    logits = z @ nn.functional.normalize(head, dim=-1).T / config.temperature
                    wanted = target[torch.as_tensor(piece)]
                    own = nn.functional.cross_entropy(logits, wanted)
                    loss = own
                    if not projecting:
                        loss = own + adapter_config.orthogonality * torch.stack([m.overlap() for m in modules.values()]).mean()
                    # Weighted by size, the pieces add up to the step that the whole batch would give.
                    share = piece.size / batch.size
                    (share * loss).backward()
                    total, entropy = total + share * loss.detach(), entropy + share * own.detach()
                    if epoch == config.epochs - 1:
                        correct += (logits.argmax(1) == wanted).sum()
                optimizer.step()
                rate = schedule.get_last_lr()[0]
                with torch.no_grad():
                    for s in scalars:
                        shrunk = torch.sign(s) * torch.clamp(s.abs() - rate * adapter_config.l1, min=0)
                        s.copy_(shrunk / (1 + 2 * rate * adapter_config.l2))
                if projecting:
                    for module in modules.values():
                        module.project()
                schedule.step()
                totals.append(total)
                entropies.append(entropy)
                if advance is not None:
                    advance(batch.size)
            if not torch.isfinite(torch.stack(totals)).all():
                raise InputError("training.learning_rate", f"{config.learning_rate} makes the loss of task {task} diverge; lower it")
            losses += torch.stack(entropies).tolist()
    elapsed = time.perf_counter() - start
    new, composition, folded = {}, {}, {}
    for name, module in modules.items():
        new[name] = module.units(projected=projecting)
        composition[name] = module.s.detach().cpu().numpy().copy()
        pool = Units(module.pool_a.cpu().numpy(), module.pool_b.cpu().numpy())
        folded[name] = fold(pool, composition[name], new[name], adapter_config.alpha)
    adapter = Adapter(task, adapter_config.alpha, new, composition, folded)
    used = np.concatenate(list(composition.values()))
    log = TrainingLog(
        losses=tuple(losses),
        accuracy=int(correct) / len(indices),
        samples_per_second=len(indices) * config.epochs / elapsed,
        nonzero=float(np.mean(used != 0)) if used.size else 1.0,
        smallest_angle=min(principal_angles(adapter, earlier).values()),
    )
    return adapter, log, head.detach().cpu().numpy().copy()


def _check_room(name: str, base: nn.Linear, pool: Units, config: AdapterConfig) -> None:
    """Refuse exact projection where the pool's span leaves fewer directions than there are new units."""
    if config.orthogonal != "projection":
        return
    sizes = {"a": base.in_features, "b": base.out_features}
    for side in "ab" if config.orthogonal_sides == "both" else "a":
        if pool.a.shape[0] + config.rank > sizes[side]:
            raise InputError(
                "adapter.orthogonal",
                f"projection leaves no room in {name}: {pool.a.shape[0]} earlier and {config.rank} new units in {sizes[side]} dimensions; "
                "lower adapter.rank or use the penalty",
            )
