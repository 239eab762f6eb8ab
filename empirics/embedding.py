"""The part of a run that trains: from documents to embeddings under every adapter. Signatures, retrieval and bounds have no say in it."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from empirics.adapters import Adapter, active
from empirics.backbone import Backbone, PrefixSource, embed, encode_prefix, load_backbone
from empirics.config import BackboneConfig, RunConfig
from empirics.multi import embed_all
from empirics.processes import begin
from empirics.record import PhaseClock
from empirics.seeding import generator
from empirics.streams import Stream, load_stream, training_parts
from empirics.train import TrainingLog, train_adapter
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
    accelerator : str or None
        Name of the GPU that computed them.
    """

    stream: Stream
    adapters: tuple[Adapter, ...]
    logs: tuple[TrainingLog, ...]
    adapted: Float[np.ndarray, "n m D"]
    frozen: Float[np.ndarray, "n D"]
    accelerator: str | None


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
        raise InputError("backbone.path", f"{path} is no folder; give one that AutoModel can load, or null for the packaged encoder")
    stream = load_stream(config.stream, generator(config.seed, "stream"))
    backbone = load_backbone(config.backbone)
    if stream.modality != backbone.modality:
        raise InputError("backbone", f"encodes {backbone.modality}s, and stream {stream.name} holds {stream.modality}s; choose another")
    backbone.projections(config.adapter.targets)
    return stream, backbone


def accelerator(backbone: Backbone) -> str | None:
    """Name of the GPU that the encoder is on, if it is on one."""
    return torch.cuda.get_device_name() if backbone.device.type == "cuda" else None


def encoder_name(config: BackboneConfig) -> str | None:
    """Name or folder from which transformers loads the encoder; None where it cannot."""
    if config.path is not None:
        return str(config.path)
    return "sentence-transformers/all-MiniLM-L6-v2" if config.packaged == "minilm" else None


def encode(stream: Stream, backbone: Backbone, clock: PhaseClock) -> PrefixSource:
    """One frozen pass over all documents."""
    with clock.phase("frozen prefix", len(stream.inputs)) as advance:
        return encode_prefix(backbone, stream.inputs, advance)


def train_and_embed(config: RunConfig, stream: Stream, backbone: Backbone, source: PrefixSource, clock: PhaseClock) -> Embedded:
    """Train the adapter of each task in turn, and embed what a run looks at.

    Depends on the seed, the groups `stream`, `backbone`, `adapter` and `training`, and on `signature.held_out`, and on no other setting.

    Parameters
    ----------
    config : RunConfig
    stream, backbone
        As `open_stream` gave them.
    source : PrefixSource
        Of all documents, as `encode` gave it.
    clock : PhaseClock

    Raises
    ------
    InputError
        As `empirics.train.train_adapter` and `empirics.streams.training_parts`.
    """
    n, m, D = len(stream.inputs), len(stream.tasks), backbone.dimension
    # Own training documents are embedded for signature and head; those of other tasks are never needed in a task's space.
    adapted = np.full((n, m, D), np.nan, dtype=np.float32)
    held = np.flatnonzero(stream.part != "train")
    parts = training_parts(stream, config.signature, config.seed)
    adapters: list[Adapter] = []
    logs = []
    for k, task in enumerate(stream.tasks):
        own, trained = stream.where("train", k), parts[k].adapter
        with clock.phase(f"train {task.name}", trained.size * config.training.epochs) as advance:
            rng = generator(config.seed, "train", task.name)
            adapter, log = train_adapter(
                backbone, source, trained, stream.label[trained], task.name, adapters, config.adapter, config.training, rng, advance
            )
        adapters.append(adapter)
        logs.append(log)
        with clock.phase(f"embed {task.name}", own.size) as advance, active(backbone, adapter):
            adapted[own, k] = embed(backbone, source, own, advance)
    with clock.phase("embed held-out documents", held.size * m) as advance:
        adapted[held] = embed_all(backbone, source, held, adapters, advance)
    return Embedded(stream, tuple(adapters), tuple(logs), adapted, source.frozen, accelerator(backbone))
