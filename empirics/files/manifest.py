"""What a finished folder holds, to the byte: `manifest.json` names every file with its size and SHA-256, and is written last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from empirics.files.record import CHECKPOINTS, LOCK, MARKER, read_json, write_json
from theory.errors import InputError
from theory.files import UNFINISHED

MANIFEST = "manifest.json"
SCHEMA: Literal[1] = 1
_PASSING = (MARKER, LOCK)


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or str(path) != name:
        raise ValueError("names no file inside the folder")
    return name


_Name = Annotated[str, AfterValidator(_inside)]


class Entry(BaseModel):
    """One file.

    Attributes
    ----------
    bytes : int
    sha256 : str
        In hexadecimal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What `manifest.json` holds.

    Attributes
    ----------
    schema_version : int
    files : dict from name to Entry
        Every file but the manifest itself, by its path from the folder with "/" between the parts.
    folders : tuple of str
        Folders inside that have a manifest of their own, such as the runs of an ablation; their files are not among `files`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    files: dict[_Name, Entry]
    folders: tuple[_Name, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One way in which a folder is not what its manifest says.

    Attributes
    ----------
    path : str
        Of the file, from the folder.
    kind : str
        "missing", "changed" or "unknown" (not in the manifest).
    """

    path: str
    kind: Literal["missing", "changed", "unknown"]

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.path} is {'not in the manifest' if self.kind == 'unknown' else self.kind}"


def write_manifest(folder: Path) -> Manifest:
    """Write `manifest.json` for all that a folder holds now.

    Raises
    ------
    OSError
        If a file cannot be read or written.
    """
    files, folders = _listed(folder)
    return _write(folder, {name: _entry(folder / name) for name in files}, folders)


def update_manifest(folder: Path, names: Iterable[str]) -> None:
    """Enter files that have just been made again or removed, and leave all other entries as they are; nothing without a manifest.

    Parameters
    ----------
    folder : Path
    names : iterable of str
        Paths from the folder.

    Raises
    ------
    InputError
        If the manifest is damaged.
    """
    if not (folder / MANIFEST).is_file():
        return
    found = read_manifest(folder)
    files = dict(found.files)
    for name in names:
        files.pop(name, None)
        if (folder / name).is_file():
            files[name] = _entry(folder / name)
    if files != found.files:
        _write(folder, files, found.folders)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        item = error.errors()[0]
        raise InputError(str(path), f"is no manifest ({'.'.join(map(str, item['loc']))}: {item['msg']})") from None


def check_manifest(folder: Path, names: Iterable[str] | None = None) -> list[Difference]:
    """Hold a folder against its manifest, and folders inside against theirs.

    Parameters
    ----------
    folder : Path
    names : iterable of str, optional
        Look at these files only, as far as the manifest knows them; by default at all, and at what it does not know.

    Returns
    -------
    list of Difference
        In the order of paths; empty if there is none.

    Raises
    ------
    InputError
        If a manifest is missing or damaged.
    """
    found = read_manifest(folder)
    if names is not None:
        return [d for name in sorted(set(names) & found.files.keys()) for d in _compared(folder, name, found.files[name])]
    out = [d for name, entry in found.files.items() for d in _compared(folder, name, entry)]
    there, inside = _listed(folder)
    out += [Difference(name, "unknown") for name in there if name not in found.files]
    for name in dict.fromkeys([*found.folders, *inside]):
        if name not in found.folders:
            out.append(Difference(f"{name}/{MANIFEST}", "unknown"))
        elif name not in inside:
            out.append(Difference(f"{name}/{MANIFEST}", "missing"))
        else:
            out += [Difference(f"{name}/{d.path}", d.kind) for d in check_manifest(folder / name)]
    return sorted(out, key=lambda d: d.path)


def _write(folder: Path, files: Mapping[str, Entry], folders: Iterable[str]) -> Manifest:
    made = Manifest(schema_version=SCHEMA, files={name: files[name] for name in sorted(files)}, folders=tuple(sorted(folders)))
    write_json(folder / MANIFEST, made.model_dump(mode="json"))
    return made


def _compared(folder: Path, name: str, entry: Entry) -> Iterator[Difference]:
    path = folder / name
    if not path.is_file():
        yield Difference(name, "missing")
    # A file of another size need not be read.
    elif path.stat().st_size != entry.bytes or _entry(path) != entry:
        yield Difference(name, "changed")


def _entry(path: Path) -> Entry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Entry(bytes=file.tell(), sha256=digest.hexdigest())


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Files that belong into a manifest, and folders that have their own."""
    files: list[str] = []
    folders: list[str] = []

    def look(place: Path, prefix: str) -> None:
        for path in sorted(place.iterdir()):
            name = f"{prefix}{path.name}"
            if path.is_dir():
                if path.name == CHECKPOINTS and not prefix:
                    continue
                if (path / MANIFEST).is_file():
                    folders.append(name)
                else:
                    look(path, f"{name}/")
            elif name != MANIFEST and path.name not in _PASSING and not path.name.endswith(UNFINISHED):
                files.append(name)

    look(folder, "")
    return files, folders
