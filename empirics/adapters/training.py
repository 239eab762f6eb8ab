"""Training of one task's adapter from the states of the frozen prefix."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from empirics import processes
from empirics.adapters.adapter import Adapter, LowRankLinear, Units, adapter_digest, fold, pool_units, principal_angles, rounded
from empirics.config import AdapterConfig, TrainingConfig
from empirics.encoders.anatomy import placed
from empirics.encoders.backbone import Advance, Backbone, suffix
from empirics.encoders.feeding import moved
from empirics.encoders.prefix import PrefixSource
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
    sha256 : str
        Of the adapter as it was trained (`empirics.adapters.adapter.adapter_digest`); empty if nothing was.
    """

    losses: tuple[float, ...]
    accuracy: float
    samples_per_second: float
    nonzero: float
    smallest_angle: float
    sha256: str = ""


class _Projections:
    """Projections of one shape in training: the pool's frozen units under trained scalars, and new units; one tensor for all of them.

    Attributes
    ----------
    modules : dict from projection name to LowRankLinear
        To be put in the place of the projections; `compose` gives them their units.
    a, b : (projections, rank, in or out) parameters
        New units.
    s : (projections, pool) parameter
        Scalars on the pool's units.
    """

    def __init__(
        self, bases: Mapping[str, nn.Linear], pools: Sequence[Units], starts: np.ndarray, config: AdapterConfig, device: torch.device
    ) -> None:
        self.modules = {name: LowRankLinear(base, torch.empty(0), torch.empty(0)) for name, base in bases.items()}
        self.pools, self.alpha = pools, config.alpha
        size = next(iter(bases.values()))
        sides = "ab" if config.orthogonal_sides == "both" else "a"
        self.exact = {side: np.stack([_basis(getattr(pool, side)) for pool in pools]) for side in sides}
        # New directions begin orthogonal to the pool; penalty or projection then only has to keep them there.
        starts = np.stack([x - (x @ basis) @ basis.T for x, basis in zip(starts, self.exact["a"], strict=True)])
        self.a = nn.Parameter(torch.tensor(starts, dtype=torch.float32, device=device))
        self.b = nn.Parameter(torch.zeros(len(pools), config.rank, size.out_features, device=device))
        self.s = nn.Parameter(torch.zeros(len(pools), len(pools[0].a), device=device))
        self.pool_a, self.pool_b = (torch.tensor(np.stack([getattr(pool, side) for pool in pools]), device=device) for side in "ab")
        self.basis = {side: torch.tensor(x, dtype=torch.float32, device=device) for side, x in self.exact.items()}

    def compose(self) -> None:
        """Give every module its units as they are now, the pool's before the new ones."""
        a, b = self.a, self.b if self.alpha == 1 else self.alpha * self.b
        if self.s.numel():
            a, b = torch.cat([self.pool_a, a], dim=1), torch.cat([self.pool_b * self.s[..., None], b], dim=1)
        for module, own_a, own_b in zip(self.modules.values(), rounded(a).unbind(), rounded(b).unbind(), strict=True):
            module.a, module.b = own_a, own_b

    def overlap(self) -> Float[torch.Tensor, " projections"]:
        """Share of the new directions' squared length that lies in the pool's span; the sum over sides if both are asked for."""
        total = (self.a @ self.basis["a"]).square().sum((1, 2)) / self.a.square().sum((1, 2))
        if "b" in self.basis:
            # b starts at zero, where the share is nothing over nothing.
            total = total + (self.b @ self.basis["b"]).square().sum((1, 2)) / self.b.square().sum((1, 2)).clamp_min(1e-12)
        return total

    def project(self) -> None:
        """Take the new units off the pool's span."""
        with torch.no_grad():
            for side, basis in self.basis.items():
                units = getattr(self, side)
                units -= (units @ basis) @ basis.mT

    def shrink(self, rate: float, l1: float, l2: float) -> None:
        """The proximal step of the elastic net on the scalars: soft threshold, then shrinkage."""
        with torch.no_grad():
            shrunk = torch.sign(self.s) * torch.clamp(self.s.abs() - rate * l1, min=0)
            self.s.copy_(shrunk / (1 + 2 * rate * l2))

    def results(self, *, projected: bool) -> Iterator[tuple[str, tuple[Units, Float[np.ndarray, " pool"], Units]]]:
        """Name, new units, scalars and folded units of each; `projected` once more in double precision, to float32 rounding."""
        new = {side: getattr(self, side).detach().cpu().numpy().copy() for side in "ab"}
        if projected:
            for side, basis in self.exact.items():
                x = new[side].astype(np.float64)
                new[side] = (x - (x @ basis) @ basis.swapaxes(1, 2)).astype(np.float32)
        scalars = self.s.detach().cpu().numpy().copy()
        for k, name in enumerate(self.modules):
            units = Units(new["a"][k], new["b"][k])
            yield name, (units, scalars[k], fold(self.pools[k], scalars[k], units, self.alpha))


def _basis(rows: Float[np.ndarray, "units k"]) -> Float[np.ndarray, "k units"]:
    """An orthonormal basis of a space that holds the rows."""
    return np.linalg.qr(rows.T.astype(np.float64))[0]


def train_adapter(
    backbone: Backbone,
    source: PrefixSource,
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
    backbone, source
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
    means = _class_means(source, indices, labels)
    groups = _grouped(backbone, earlier if adapter_config.compose else (), adapter_config, rng)
    adapter, log, _ = _train(backbone, source, indices, labels, task, earlier, groups, means, adapter_config, config, rng, advance)
    return adapter, log


def continue_adapter(
    backbone: Backbone,
    source: PrefixSource,
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
    backbone, source
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
    groups, head = _grouped(backbone, (), alone, rng), _class_means(source, indices, labels)
    if before is not None:
        head = np.concatenate([before[1], head])
        with torch.no_grad():
            for group in groups:
                group.a.copy_(torch.from_numpy(np.stack([before[0].new[name].a for name in group.modules])))
                group.b.copy_(torch.from_numpy(np.stack([before[0].new[name].b for name in group.modules])))
    adapter, _, head = _train(backbone, source, indices, labels, task, (), groups, head, alone, config, rng, None)
    return adapter, head


def _class_means(source: PrefixSource, indices: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "c d"]:
    """Mean frozen embedding of each class that there is, in order."""
    return np.stack([source.frozen[indices[labels == c]].mean(axis=0) for c in np.unique(labels)])


def _grouped(backbone: Backbone, earlier: Sequence[Adapter], config: AdapterConfig, rng: np.random.Generator) -> list[_Projections]:
    """All adapted projections over the pool of earlier adapters, those of one shape together."""
    alike: dict[tuple[int, ...], list[tuple[str, nn.Linear, Units, np.ndarray]]] = {}
    for name, base in backbone.projections(config.targets).items():
        pool = pool_units(earlier, name, (base.in_features, base.out_features))
        _check_room(name, base, pool, config)
        start = rng.standard_normal((config.rank, base.in_features)) / np.sqrt(base.in_features)
        alike.setdefault((base.in_features, base.out_features, len(pool.a)), []).append((name, base, pool, start))
    return [
        _Projections({n: base for n, base, _, _ in own}, [p for _, _, p, _ in own], np.stack([x for *_, x in own]), config, backbone.device)
        for own in alike.values()
    ]


def _train(
    backbone: Backbone,
    source: PrefixSource,
    indices: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    task: str,
    earlier: Sequence[Adapter],
    projections: Sequence[_Projections],
    means: Float[np.ndarray, "C d"],
    adapter_config: AdapterConfig,
    config: TrainingConfig,
    rng: np.random.Generator,
    advance: Advance | None,
) -> tuple[Adapter, TrainingLog, Float[np.ndarray, "C d"]]:
    """The training loop: adapter, log and head."""
    projecting = adapter_config.orthogonal == "projection"
    device = backbone.device
    head = nn.Parameter(torch.tensor(means / np.linalg.norm(means, axis=1, keepdims=True), device=device))
    composed = [p for p in projections if p.s.numel()]
    modules = {name: module for p in projections for name, module in p.modules.items()}
    groups = [
        {"params": [*(x for p in projections for x in (p.a, p.b)), head], "weight_decay": config.weight_decay},
        {"params": [p.s for p in composed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=device.type == "cuda")
    per_epoch = -(-len(indices) // config.batch_size)
    steps = per_epoch * config.epochs
    warm = max(1, int(config.warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / warm, (steps - k) / max(1, steps - warm)))
    target = torch.tensor(labels, device=device)
    losses: list[float] = []
    # Counted on the device: a step that waits for a number on the host would hold up a GPU. It is waited for once an epoch.
    correct, start = torch.zeros((), dtype=torch.int64, device=device), time.perf_counter()
    with placed(backbone.model, modules):
        for epoch in range(config.epochs):
            batches = np.array_split(rng.permutation(len(indices)), per_epoch)
            split = [_pieces(batch, config.accumulate) for batch in batches]
            mine = [piece for pieces in split for piece in pieces]
            states = source.padded((indices[piece] for piece in mine), device)
            order = torch.from_numpy(np.concatenate([*mine, np.empty(0, dtype=np.int64)]))
            wanted = iter(target[moved(order, device)].split([piece.size for piece in mine]))
            totals, entropies = [], []
            for batch, pieces in zip(batches, split, strict=True):
                optimizer.zero_grad(set_to_none=True)
                total, entropy = torch.zeros((), device=device), torch.zeros((), device=device)
                for piece in pieces:
                    hidden, mask = next(states)
                    with backbone.precision():
                        for p in projections:
                            p.compose()
                    z = nn.functional.normalize(suffix(backbone, hidden, mask), dim=-1)
                    logits = z @ nn.functional.normalize(head, dim=-1).T / config.temperature
                    labelled = next(wanted)
                    own = nn.functional.cross_entropy(logits, labelled)
                    loss = own
                    if composed and not projecting and adapter_config.orthogonality > 0:
                        overlap = torch.cat([p.overlap() for p in composed])
                        loss = own + adapter_config.orthogonality * (overlap.sum() / len(modules))
                    # Weighted by size, the pieces add up to the step that the whole batch would give.
                    share = piece.size / batch.size
                    (share * loss).backward()
                    total, entropy = total + share * loss.detach(), entropy + share * own.detach()
                    if epoch == config.epochs - 1:
                        correct += (logits.argmax(1) == labelled).sum()
                processes.add_up_gradients([x for group in optimizer.param_groups for x in group["params"]])
                optimizer.step()
                for p in composed:
                    p.shrink(schedule.get_last_lr()[0], adapter_config.l1, adapter_config.l2)
                    if projecting:
                        p.project()
                schedule.step()
                totals.append(total)
                entropies.append(entropy)
                if advance is not None:
                    advance(batch.size)
            summed = torch.stack(totals), torch.stack(entropies)
            processes.add_up(summed)
            if not torch.isfinite(summed[0]).all():
                raise InputError("training.learning_rate", f"{config.learning_rate} makes the loss of task {task} diverge; lower it")
            losses += summed[1].tolist()
    processes.add_up([correct])
    elapsed = time.perf_counter() - start
    found = dict(result for p in projections for result in p.results(projected=projecting))
    # In the encoder's order, which the groups of one shape have not.
    results = {name: found[name] for name in backbone.projections(adapter_config.targets)}
    adapter = Adapter(
        task,
        adapter_config.alpha,
        new={name: units for name, (units, _, _) in results.items()},
        composition={name: s for name, (_, s, _) in results.items()},
        folded={name: units for name, (_, _, units) in results.items()},
    )
    used = np.concatenate(list(adapter.composition.values()))
    log = TrainingLog(
        losses=tuple(losses),
        accuracy=int(correct) / len(indices),
        samples_per_second=len(indices) * config.epochs / elapsed,
        nonzero=float(np.mean(used != 0)) if used.size else 1.0,
        smallest_angle=min(principal_angles(adapter, earlier).values()),
        sha256=adapter_digest(adapter),
    )
    return adapter, log, head.detach().cpu().numpy().copy()


def _pieces(batch: Int[np.ndarray, " b"], count: int) -> list[Int[np.ndarray, " p"]]:
    """What this process computes of a step, in so many pieces."""
    own = processes.share(batch)
    return np.array_split(own, min(count, own.size)) if own.size else []


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
