"""Signatures and query moments from files: `.safetensors` or `.npz`, never pickle (theory/README.md, Setting); and whole files written."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from theory.errors import InputError
from theory.gaussians import Gaussians
from theory.lowrank import LowRankGaussians, LowRankSignatures
from theory.mixture import QueryLaw, Rule, RuleKind
from theory.product import ProductGaussians, ProductSignatures
from theory.signatures import Signatures

# What a damaged archive makes its readers raise: the last of headers that ask for more memory than there is, others of fields that no
# archive of ours has (a later version, a password, another compression).
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)
# How the name of a temporary file ends; one stays behind only if the process is killed while it writes.
UNFINISHED = ".unfinished"


def write_whole(path: Path, data: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all: a temporary file beside it, synced, then renamed over it, and the folder synced.

    When this returns, the file outlasts a loss of power, so that what is written next may rely on it.

    Parameters
    ----------
    path : Path
    data : bytes, or a function that writes them to the file it is given
        The latter for what should not be in memory twice.

    Raises
    ------
    OSError
        Naming the file; what stood there before still does, or the whole new file if only the folder could not be synced.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:
            # Not the temporary name, and a full disk is reported without any.
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a loss of power, where the file system can be asked to.

    Raises
    ------
    OSError
        If that fails.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems do not sync folders, and say so.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def check_regular(path: Path) -> None:
    """Refuse what is there and no file: a folder, or a device, pipe or socket, which may have no end or never begin.

    What does not exist, or cannot be looked at, is left to whoever reads it.

    Raises
    ------
    InputError
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise InputError(str(path), "cannot be read (it is a folder)" if stat.S_ISDIR(mode) else "is no regular file")


def read_whole(path: Path) -> bytes:
    """All bytes of a regular file.

    Raises
    ------
    InputError
        If it is missing, something else than a file, or cannot be read.
    """
    check_regular(path)
    try:
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error or 'it is too large'})") from None


def read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """All arrays of a `.safetensors` or `.npz` file.

    Raises
    ------
    InputError
        If the file is missing, of another kind, corrupt, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), "is no file; give a .safetensors or .npz file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            # Of a file that it opens itself, numpy forgets to close what is no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise InputError(str(path), f"cannot be read ({' '.join(str(error).split())}); write it again") from None
    raise InputError(str(path), f"has the unknown ending {path.suffix!r}; give a .safetensors or .npz file")


def _need(path: Path | str, arrays: Mapping[str, np.ndarray], *names: str) -> None:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(str(path), f"lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")


def read_signatures(path: Path | str) -> Signatures:
    """Signatures from `means` (K, d), `covariances` (K, d, d), `task` (K,), and optional `weights` (K,), `counts` (K,).

    Instead of `covariances`, `factors` (K, d, r) and `diagonals` (K, d) give `theory.lowrank.LowRankSignatures`. With the same once
    more under names that begin with `common_` they are `theory.product.ProductSignatures`, and what has no such name is the own block.
    """
    return _signatures(path, read_arrays(path))


def read_rule(path: Path | str, kind: RuleKind = "max", *, shared: bool = False) -> Rule:
    """The rule that a file of signatures is of: with the background that runs and certificates keep beside them, where there is one.

    Parameters
    ----------
    path : Path or str
        As for `read_signatures`; the background under names that begin with `background_`.
    kind : {"max", "mixture", "angular"}
    shared : bool
        Refuse what lies in several embedding spaces by the file's own word: `spaces`, a background for each, or more than one projection.
        Queries in one shared space have no scores under such a rule.

    Raises
    ------
    InputError
        As `read_signatures`, and for a background that does not fit.
    """
    arrays = read_arrays(path)
    signatures = _signatures(path, arrays)
    apart = any(name.startswith("background_") for name in arrays)
    several = apart or len(arrays.get("projection_mean", ())) > 1 or not np.array_equal(arrays.get("spaces", 1), 1)
    if shared and several:
        raise InputError(
            str(path),
            "holds signatures of several embedding spaces, which no query follows in a shared one; give a query law (--queries)",
        )
    if apart:
        _need(path, arrays, *gaussian_names(arrays, "background_"))
    try:
        return Rule(signatures, gaussians_from(arrays, "background_") if apart else None, kind)
    except InputError as error:
        raise InputError(f"{path}: {error.argument}", error.problem) from None


def _signatures(path: Path | str, arrays: Mapping[str, np.ndarray]) -> Signatures:
    _need(path, arrays, "task", *gaussian_names(arrays))
    try:
        return signatures_from(arrays)
    except InputError as error:
        raise InputError(f"{path}: {error.argument}", error.problem) from None


def gaussian_names(arrays: Mapping[str, np.ndarray], prefix: str = "") -> list[str]:
    """The arrays that hold Gaussians of the form that is there, under names that begin with a prefix."""
    if f"{prefix}common_means" in arrays:
        return [*gaussian_names(arrays, f"{prefix}common_"), *_block_names(arrays, prefix)]
    return _block_names(arrays, prefix)


def _block_names(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    factored = {f"{prefix}factors", f"{prefix}diagonals"} & set(arrays) and f"{prefix}covariances" not in arrays
    return [prefix + name for name in (("means", "factors", "diagonals") if factored else ("means", "covariances"))]


def gaussians_from(arrays: Mapping[str, np.ndarray], prefix: str = "") -> Gaussians | LowRankGaussians | ProductGaussians:
    """Gaussians from the arrays named by `gaussian_names`.

    Raises
    ------
    InputError
        If they cannot be scored.
    """

    def block(of: str) -> Gaussians | LowRankGaussians:
        values = [arrays[name] for name in _block_names(arrays, of)]
        return Gaussians(*values) if len(values) == 2 else LowRankGaussians(*values)

    return ProductGaussians(block(f"{prefix}common_"), block(prefix)) if f"{prefix}common_means" in arrays else block(prefix)


def signatures_from(arrays: Mapping[str, np.ndarray], names: tuple[str, ...] = ()) -> Signatures:
    """Signatures from the arrays that `read_signatures` describes, all of which must be there.

    Raises
    ------
    InputError
        If they cannot be scored.
    """
    rest = (arrays["task"], arrays.get("weights"), arrays.get("counts"), names)
    if gaussian_names(arrays) == ["means", "covariances"]:
        return Signatures(arrays["means"], arrays["covariances"], *rest)
    gaussians = gaussians_from(arrays)
    return (ProductSignatures if isinstance(gaussians, ProductGaussians) else LowRankSignatures)(gaussians, *rest)


def read_queries(path: Path | str, signatures: Signatures) -> QueryLaw:
    """A query law from measured moments.

    The file holds `means` (C, d), or (C, S, d) for S spaces (see `Rule.views`); `covariances` (C, d, d), or jointly (C, S d, S d);
    `task` (C,); and optional `weights` (C,) (equal tasks, equal components within a task by default) and `cluster` (C,),
    the signature component that each refines (the order of the file by default, if it has one entry a component).
    """
    arrays = read_arrays(path)
    _need(path, arrays, "means", "covariances", "task")
    means, task = arrays["means"], arrays["task"]
    if means.ndim == 2:
        means = means[:, None, :]
    K = len(signatures)
    try:
        if task.ndim != 1 or not np.issubdtype(task.dtype, np.integer) or (task < 0).any() or (task >= signatures.tasks).any():
            raise InputError("task", f"needs integers from 0 to {signatures.tasks - 1}")
        if "cluster" in arrays:
            cluster = arrays["cluster"]
        elif np.array_equal(task, signatures.task):
            cluster = np.arange(K)
        else:
            raise InputError("cluster", f"is missing, and the file's tasks are not those of the {K} components; add it")
        if cluster.shape != task.shape or not np.issubdtype(cluster.dtype, np.integer) or (cluster < 0).any() or (cluster >= K).any():
            raise InputError("cluster", f"needs one integer from 0 to {K - 1} for each query component")
        if not np.array_equal(signatures.task[cluster], task):
            raise InputError("cluster", "names components of other tasks than `task` says")
        weights = arrays.get("weights")
        if weights is None:
            weights = 1 / np.bincount(task, minlength=signatures.tasks)[task]
        return QueryLaw(means, arrays["covariances"], task, cluster, weights, name="given moments")
    except InputError as error:
        raise InputError(f"{path}: {error.argument}", error.problem) from None
