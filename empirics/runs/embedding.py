"""The part of a run that trains: from documents to embeddings under every adapter. Signatures, retrieval and bounds have no say in it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from empirics.adapters.adapter import Adapter, active, composed_adapter, composition_tensors
from empirics.adapters.multi import embed_all
from empirics.adapters.training import TrainingLog, train_adapter
from empirics.config import BackboneConfig, RunConfig
from empirics.data.hub import fetch_command, missing_copies
from empirics.data.streams import Stream, load_stream, training_parts
from empirics.encoders.backbone import Backbone
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import PrefixCache, PrefixSource, embed, encode_prefix, restored_prefix
from empirics.processes import begin
from empirics.runs.checkpoints import Checkpoints
from empirics.runs.machine import PhaseClock
from empirics.runs.origin import origin
from empirics.seeding import generator
from theory.errors import InputError


@dataclass(frozen=True)
class Embedded:
    """What training leaves, and all that the rest of a run needs of it.

    Attributes
    ----------
    stream : Stream
    adapters : tuple of Adapter
        One a task.
    logs : tuple of TrainingLog
    adapted : (n, m, D) float32 array
        Embeddings of all documents under every adapter; NaN for training documents under the adapters of other tasks.
    frozen : (n, D) float32 array
        Embeddings without any adapter.
    origin : dict
        Versions, machine, data and weights that they are of (`empirics.runs.origin.origin`).
    """

    stream: Stream
    adapters: tuple[Adapter, ...]
    logs: tuple[TrainingLog, ...]
    adapted: Float[np.ndarray, "n m D"]
    frozen: Float[np.ndarray, "n D"]
    origin: Mapping[str, Any]


def use_threads(config: RunConfig) -> None:
    """Set what holds for the whole process: the others that it works with, computing threads, and sums in a fixed order."""
    begin(cpu=config.backbone.device == "cpu")
    if config.threads:
        torch.set_num_threads(config.threads)
    # Without a workspace of fixed size cuBLAS refuses to be deterministic; it reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Memory that is about to be written need not be filled before; it is in this mode, to show who reads what he has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    # Asked for float32, a GPU's convolutions would round what they multiply to ten bits. Some releases warn of the name of this setting.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = False


def open_stream(config: RunConfig) -> tuple[Stream, Backbone]:
    """Read the documents and load the encoder.

    Raises
    ------
    InputError
        For data or weights that cannot be used, or an encoder of something else than the stream holds.
    """
    path = config.backbone.path
    # A large stream takes minutes to read, a wrong path no time to see.
    if path is not None and not path.is_dir():
        raise InputError("backbone.path", f"{path} is no folder; {_how_to_mend(config, path)}")
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    backbone = load_backbone(config.backbone)
    if stream.modality != backbone.modality:
        raise InputError("backbone", f"encodes {backbone.modality}s, and stream {stream.name} holds {stream.modality}s; choose another")
    backbone.projections(config.adapter.targets)
    return stream, backbone


def _how_to_mend(config: RunConfig, path: Path) -> str:
    """What to do about an encoder that is not there: everything that the run lacks at once, where the hub has it."""
    hub = config.stream.hub
    if not path.is_relative_to(hub) or len(path.relative_to(hub).parts) != 2:
        return "give one that AutoModel can load, or null for the packaged encoder"
    fetch = fetch_command(path.relative_to(hub).as_posix(), path, data=False)
    data = "" if config.stream.download else missing_copies(config.stream)
    return f"run: {fetch}" + (f". Also, {data}" if data else "")


def encoder_name(config: BackboneConfig) -> str | None:
    """Name or folder from which transformers loads the encoder; None where it cannot."""
    if config.path is not None:
        return str(config.path)
    return "sentence-transformers/all-MiniLM-L6-v2" if config.packaged == "minilm" else None


def encode(
    stream: Stream, backbone: Backbone, clock: PhaseClock, kept: Checkpoints | None = None, name: str = "frozen prefix"
) -> PrefixSource:
    """One frozen pass over all documents, a phase of this name; or what one left in the checkpoints."""
    if kept is not None and "prefix" in kept:
        tensors, _ = kept.read("prefix")
        return restored_prefix(backbone, kept.read_large("prefix-states"), **tensors)
    with clock.phase(name, len(stream.inputs)) as advance:
        source = encode_prefix(backbone, stream.inputs, advance)
    # States that are too many for memory are computed when they are asked for, and not kept on disk either.
    if kept is not None and isinstance(source, PrefixCache) and kept.write_large("prefix-states", source.states.cpu().numpy()):
        kept.write("prefix", {"starts": source.starts, "lengths": source.lengths, "frozen": source.frozen})
    return source


def train_and_embed(
    config: RunConfig,
    stream: Stream,
    backbone: Backbone,
    source: Callable[[], PrefixSource],
    clock: PhaseClock,
    kept: Checkpoints | None = None,
    came_from: Mapping[str, Any] | None = None,
) -> Embedded:
    """Train the adapter of each task in turn, and embed what a run looks at.

    Depends on the seed, the groups `stream`, `backbone`, `adapter` and `training`, and on `signature.held_out`, and on no other setting.

    Parameters
    ----------
    config : RunConfig
    stream, backbone
        As `open_stream` gave them.
    source : callable
        Gives the states of all documents, as `encode` does; called only if something is left to be computed.
    clock : PhaseClock
    kept : Checkpoints, optional
        Stages that are there are read, the others written: each task's training, its documents embedded, and the held-out ones.
    came_from : mapping, optional
        As `empirics.runs.origin.origin` gives it, which is asked if this is left out.

    Raises
    ------
    InputError
        As `empirics.adapters.training.train_adapter` and `empirics.data.streams.training_parts`.
    """
    kept = Checkpoints(None, clock) if kept is None else kept
    n, m, D = len(stream.inputs), len(stream.tasks), backbone.dimension
    # Own training documents are embedded for signature and head; those of other tasks are never needed in a task's space.
    adapted = np.full((n, m, D), np.nan, dtype=np.float32)
    held = np.flatnonzero(stream.part != "train")
    parts = training_parts(stream, config.signature, config.seed)
    adapters: list[Adapter] = []
    logs = []
    for k, task in enumerate(stream.tasks):
        own, trained = stream.where("train", k), parts[k].adapter
        if f"trained-{k}" in kept:
            tensors, log = kept.read(f"trained-{k}")
            adapter, log = composed_adapter(task.name, tensors), TrainingLog(**{**log, "losses": tuple(log["losses"])})
        else:
            states = source()
            with clock.phase(f"train {task.name}", trained.size * config.training.epochs) as advance:
                rng = generator(config.seed, "train", task.name)
                adapter, log = train_adapter(
                    backbone, states, trained, stream.label[trained], task.name, adapters, config.adapter, config.training, rng, advance
                )
            kept.write(f"trained-{k}", composition_tensors(adapter), asdict(log))
        adapters.append(adapter)
        logs.append(log)
        if f"embedded-{k}" in kept:
            adapted[own, k] = kept.read(f"embedded-{k}")[0]["own"]
        else:
            states = source()
            with clock.phase(f"embed {task.name}", own.size) as advance, active(backbone, adapter):
                adapted[own, k] = embed(backbone, states, own, advance)
            kept.write(f"embedded-{k}", {"own": adapted[own, k]})
    if "held-out" in kept:
        tensors, _ = kept.read("held-out")
        adapted[held], frozen = tensors["held"], tensors["frozen"]
    else:
        states = source()
        with clock.phase("embed held-out documents", held.size * m) as advance:
            adapted[held] = embed_all(backbone, states, held, adapters, advance)
        frozen = states.frozen
        kept.write("held-out", {"held": adapted[held], "frozen": frozen})
    came_from = origin(stream, backbone) if came_from is None else came_from
    return Embedded(stream, tuple(adapters), tuple(logs), adapted, frozen, came_from)
