"""A signature index on disk: a folder of safetensors that are mapped into memory, and a manifest that tells their sizes and checksums.

================================== ====================================================================================================
file                               what it holds
================================== ====================================================================================================
`index.json`                       dimension, rank, rule and tasks' names; each other file's name, bytes and SHA-256; a SHA-256 of all this
`frame-<hash>.safetensors`         the coordinates of the float32 operands, and the task of every slot
`screen-<hash>.safetensors`        the float32 operands of one block of components (`empirics.routing.index_blocks`)
`exact-<hash>.safetensors`         the float64 ones
================================== ====================================================================================================

Opening reads the manifest and the frame and looks at the other files' sizes. A block's file is checked against its checksum when it is
first needed, and then stays mapped: its pages are read as they are used. Files are named by their content and written before the manifest,
which replaces the old one in one step: an index saved over an older one writes only what changed, and at any moment the folder holds
one of the two whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from empirics.routing.index_blocks import Block, Part, Tensors
from empirics.routing.signature_index import SignatureIndex
from theory.errors import InputError
from theory.files import write_whole

MANIFEST = "index.json"
_VERSION = 1
_PARTS: tuple[Part, ...] = ("screen", "exact")
_OURS = re.compile(r"(frame|screen|exact)-[0-9a-f]{16}\.safetensors")


@dataclass(frozen=True)
class Shard:
    """One file of an index, as the manifest tells it."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Stored:
    """The files that hold a block's tensors."""

    folder: Path
    shards: dict[Part, Shard]


def save_index(index: SignatureIndex, folder: Path | str) -> None:
    """Write an index into a folder, which may hold an older one.

    Raises
    ------
    OSError
        If it cannot be written; an index that stood there before still does.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    blocks: list[dict[str, Any]] = []
    for block in index.blocks:
        if not (isinstance(block.stored, _Stored) and block.stored.folder == folder):
            block.stored = _Stored(folder, {name: _write(folder, name, _in_use(block, name)) for name in _PARTS})
        shards = block.stored.shards
        blocks.append({"size": block.size, **{str(name): vars(shards[name]) for name in _PARTS}})
    frame = {
        "centre": index.centre,
        "unit": index.unit,
        "task": np.concatenate([np.zeros(0, np.int64), *(b.task[: b.size] for b in index.blocks)]),
    }
    contents: dict[str, Any] = {
        "version": _VERSION,
        "dimension": index.dimension,
        "rank": index.rank,
        "kind": index.kind,
        "names": list(index.names),
        "frame": vars(_write(folder, "frame", {name: torch.from_numpy(value.copy()) for name, value in frame.items()})),
        "blocks": blocks,
    }
    text = json.dumps(contents | {"sha256": _checksum(contents)}, indent=1, ensure_ascii=False)
    write_whole(folder / MANIFEST, text.encode())
    named = {contents["frame"]["file"], *(block[name]["file"] for block in blocks for name in _PARTS)}
    for path in folder.iterdir():
        # A file that is still mapped stays readable until it is closed.
        if _OURS.fullmatch(path.name) and path.name not in named:
            path.unlink()


def open_index(folder: Path | str, device: str | torch.device = "cpu") -> SignatureIndex:
    """The index in a folder, its blocks mapped into memory and checked when first used.

    The index itself may be changed and saved over its files. Others must leave them alone while it is in use: what is changed after a
    file was checked goes unnoticed, and a file that another index saved there has replaced is missing when first needed.

    Raises
    ------
    InputError
        If there is none, or a file is missing, of another size or altered; for blocks, at their first use.
    """
    folder = Path(folder).resolve()
    contents = _manifest(folder)
    device = torch.device(device)
    frame = {name: tensor.numpy().copy() for name, tensor in _read(folder, Shard(**contents["frame"])).items()}
    blocks, sizes = [], [block["size"] for block in contents["blocks"]]
    for block, task in zip(contents["blocks"], np.split(frame["task"], np.cumsum(sizes)[:-1]), strict=False):
        shards = {name: Shard(**block[name]) for name in _PARTS}
        for shard in shards.values():
            _measure(folder, shard)
        parts = {name: _reader(folder, shard, device) for name, shard in shards.items()}
        blocks.append(Block(parts, task, block["size"], _Stored(folder, shards)))
    return SignatureIndex.restored(
        contents["names"], blocks, frame["centre"], frame["unit"], rank=contents["rank"], kind=contents["kind"], device=device
    )


def _in_use(block: Block, name: Part) -> dict[str, torch.Tensor]:
    return {key: value.narrow(1 if key == "loadings" else 0, 0, block.size).contiguous() for key, value in block.part(name).items()}


def _write(folder: Path, kind: str, tensors: Mapping[str, torch.Tensor]) -> Shard:
    data = save({name: tensor.cpu() for name, tensor in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    shard = Shard(f"{kind}-{digest[:16]}.safetensors", len(data), digest)
    write_whole(folder / shard.file, data)
    return shard


def _checksum(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(str(path), "is no file; a folder with an index holds one (empirics.routing.index_files.save_index)")
    try:
        contents = json.loads(path.read_bytes())
        told = contents.pop("sha256")
        whole = told == _checksum(contents)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(str(path), f"is no manifest of an index ({' '.join(str(error).split())}); save the index again") from None
    if not whole:
        raise InputError(str(path), "was altered: its checksum does not fit; save the index again")
    if contents.get("version") != _VERSION:
        raise InputError(str(path), f"has version {contents.get('version')}; this code reads {_VERSION}; save the index again")
    return contents


def _measure(folder: Path, shard: Shard) -> Path:
    path = folder / shard.file
    if not path.is_file():
        raise InputError(str(path), "is missing; save the index again")
    size = path.stat().st_size
    if size != shard.bytes:
        raise InputError(str(path), f"has {size} bytes; the manifest says {shard.bytes}; save the index again")
    return path


def _read(folder: Path, shard: Shard, device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a checked file, mapped into memory on the CPU."""
    path = _measure(folder, shard)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            raise InputError(str(path), "was altered: its checksum does not fit; save the index again")
    try:
        with safe_open(path, framework="pt", device=str(device or "cpu")) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(str(path), f"cannot be read ({' '.join(str(error).split())}); save the index again") from None


def _reader(folder: Path, shard: Shard, device: torch.device) -> Callable[[], Tensors]:
    return lambda: _read(folder, shard, device)
