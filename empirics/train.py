"""Training of one task's adapter from the cached prefix."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from empirics.adapters import Adapter, Units, fold, installed, low_rank, pool_units, principal_angles
from empirics.backbone import Advance, Backbone, PrefixCache, padded, suffix
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
        basis = np.linalg.qr(pool.a.T.astype(np.float64))[0] if pool.a.size else np.zeros((base.in_features, 0))
        # New directions begin orthogonal to the pool; the penalty then only has to keep them there.
        start = start - (start @ basis) @ basis.T
        self.a = nn.Parameter(torch.tensor(start, dtype=torch.float32, device=device))
        self.b = nn.Parameter(torch.zeros(config.rank, base.out_features, device=device))
        self.s = nn.Parameter(torch.zeros(pool.a.shape[0], device=device))
        self.pool_a, self.pool_b = torch.tensor(pool.a, device=device), torch.tensor(pool.b, device=device)
        self.basis = torch.tensor(basis, dtype=torch.float32, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.cat([self.pool_a, self.a])
        b = torch.cat([self.pool_b * self.s[:, None], self.alpha * self.b])
        return low_rank(self.base, a, b, x)

    def overlap(self) -> torch.Tensor:
        """Share of the new directions' squared length that lies in the pool's span."""
        return (self.a @ self.basis).square().sum() / self.a.square().sum()


def train_adapter(
    backbone: Backbone,
    cache: PrefixCache,
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
    orthogonality penalty. The elastic net acts on the composition scalars as a proximal step after each update, as
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
        For a task of one class, labels that do not fit, or a loss that is not finite.
    """
    classes = np.unique(labels)
    if classes.size < 2:
        raise InputError(f"task {task}", "has one class only; a task needs at least two")
    if not np.array_equal(classes, np.arange(classes.size)) or len(labels) != len(indices):
        raise InputError("labels", f"of task {task} are not 0 to C - 1, one a document")
    pool_adapters = earlier if adapter_config.compose else ()
    modules = {}
    for name, base in backbone.projections(adapter_config.targets).items():
        pool = pool_units(pool_adapters, name, (base.in_features, base.out_features))
        modules[name] = _Composed(base, pool, adapter_config, rng, backbone.device)
    means = np.stack([cache.frozen[indices[labels == c]].mean(axis=0) for c in classes])
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
    losses, correct, start = [], 0, time.perf_counter()
    with installed(backbone, modules):
        for epoch in range(config.epochs):
            order = rng.permutation(len(indices))
            for batch in np.array_split(order, per_epoch):
                hidden, mask = padded(cache, indices[batch], backbone.device)
                z = nn.functional.normalize(suffix(backbone, hidden, mask), dim=-1)
                logits = z @ nn.functional.normalize(head, dim=-1).T / config.temperature
                entropy = nn.functional.cross_entropy(logits, target[torch.as_tensor(batch)])
                overlap = torch.stack([m.overlap() for m in modules.values()]).mean()
                loss = entropy + adapter_config.orthogonality * overlap
                if not torch.isfinite(loss):
                    raise InputError("training.learning_rate", f"{config.learning_rate} makes the loss of task {task} diverge; lower it")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rate = schedule.get_last_lr()[0]
                with torch.no_grad():
                    for s in scalars:
                        shrunk = torch.sign(s) * torch.clamp(s.abs() - rate * adapter_config.l1, min=0)
                        s.copy_(shrunk / (1 + 2 * rate * adapter_config.l2))
                schedule.step()
                losses.append(float(entropy.detach()))
                if epoch == config.epochs - 1:
                    correct += int((logits.argmax(1) == target[torch.as_tensor(batch)]).sum())
                if advance is not None:
                    advance(batch.size)
    elapsed = time.perf_counter() - start
    new, composition, folded = {}, {}, {}
    for name, module in modules.items():
        new[name] = Units(module.a.detach().cpu().numpy().copy(), module.b.detach().cpu().numpy().copy())
        composition[name] = module.s.detach().cpu().numpy().copy()
        pool = Units(module.pool_a.cpu().numpy(), module.pool_b.cpu().numpy())
        folded[name] = fold(pool, composition[name], new[name], adapter_config.alpha)
    adapter = Adapter(task, adapter_config.alpha, new, composition, folded)
    used = np.concatenate(list(composition.values()))
    log = TrainingLog(
        losses=tuple(losses),
        accuracy=correct / len(indices),
        samples_per_second=len(indices) * config.epochs / elapsed,
        nonzero=float(np.mean(used != 0)) if used.size else 1.0,
        smallest_angle=min(principal_angles(adapter, earlier).values()),
    )
    return adapter, log
