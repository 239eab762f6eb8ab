"""What the bits of a run depend on besides its settings: versions, machine, data and weights; and in what two differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from empirics import processes
from empirics.data.documents import content_digest
from empirics.files.claim import flat
from empirics.runs.machine import environment

if TYPE_CHECKING:
    import torch

    from empirics.data.streams import Stream
    from empirics.encoders.backbone import Backbone

# Facts of `run.json` that may differ between two processes whose numbers are the same.
_IRRELEVANT = ("environment.dirty", "environment.machine.memory_bytes", "environment.machine.system", "environment.machine.cores")

# Of encoders that were asked for before they were rounded in place.
_TAKEN: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def origin(stream: Stream, backbone: Backbone) -> dict[str, Any]:
    """What `run.json` says of versions, machine, data and weights.

    Returns
    -------
    dict
        `environment` (`computing_environment`) and `sha256` of the data (`data_digest`) and of the encoder (`encoder_digest`), if that can
        be told.
    """
    encoder = encoder_digest(backbone)
    return {
        "environment": computing_environment(backbone),
        "sha256": {"data": data_digest(stream), **({} if encoder is None else {"encoder": encoder})},
    }


def computing_environment(backbone: Backbone) -> dict[str, Any]:
    """Versions, commit and machine; the name of the GPU that an encoder is on, or None, threads, vector instructions and processes."""
    import torch

    return {
        **environment(),
        "accelerator": torch.cuda.get_device_name() if backbone.device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "processes": processes.count(),
    }


def data_digest(stream: Stream) -> str:
    """SHA-256 of all documents with their tasks, labels and parts, in the order of the stream."""
    total = hashlib.sha256(repr([(task.name, task.classes) for task in stream.tasks]).encode())
    for item, *where in zip(stream.inputs, stream.task.tolist(), stream.label.tolist(), stream.part.tolist(), strict=True):
        total.update(content_digest(item))
        total.update(repr(where).encode())
    return total.hexdigest()


def encoder_digest(backbone: Backbone) -> str | None:
    """SHA-256 of an encoder's weights as they were loaded (`weights_digest`); of nothing else that it has, such as its tokenizer.

    Where products are in bfloat16, the first embedding rounds weights in place. Of an encoder that has embedded before it was first asked
    for, it cannot be told any more, and is None.
    """
    from empirics.encoders.backbone import is_lowered

    if not is_lowered(backbone):
        _TAKEN[backbone.model] = weights_digest(backbone.model)
    return _TAKEN.get(backbone.model)


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of all tensors of a model by their names."""
    import torch

    total = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        total.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def origin_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of a run's origin is not the same here, as far as the older of two versions noted it.

    Parameters
    ----------
    there, here : mapping
        `run.json`, or as `origin` gives it.

    Returns
    -------
    list of str
        "environment.packages.torch is 2.12.0 there and 2.13.0 here".
    """
    before, now = (flat({part: about.get(part, {}) for part in ("environment", "sha256")}) for about in (there, here))
    shared = [name for name in before if name in now and name not in _IRRELEVANT]
    packages = [name for name in {**before, **now} if name.startswith("environment.packages.") and not (name in before and name in now)]
    absent = "not installed"
    return [
        f"{name} is {before.get(name, absent)} there and {now.get(name, absent)} here"
        for name in [*shared, *packages]
        if before.get(name) != now.get(name)
    ]
