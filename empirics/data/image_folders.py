"""Own data: folders of images, whose names tell part, task and class."""

from __future__ import annotations

from pathlib import Path

from empirics.data.documents import OTHER_PARTS, PARTS, Documents, check_task_names, document_frame, name_of
from empirics.data.images import ENDINGS, Image, check_inside
from theory.errors import InputError

_LAYOUT = "ROOT/task/class/file or ROOT/split/task/class/file"


def read_folder(root: Path, outside: bool = False) -> Documents:
    """Read ROOT/task/class/file or ROOT/split/task/class/file; tasks in alphabetical order.

    Parameters
    ----------
    root : Path
    outside : bool
        Whether links may lead out of it. A folder from somebody else could show any file of the machine.

    Raises
    ------
    InputError
        Naming the file or folder that does not fit.
    """
    bound = None if outside else root
    top = _folders(root, bound)
    if not top:
        raise InputError(str(root), f"holds no folders; a folder of images is {_LAYOUT}")
    parts = [folder.name.lower() in PARTS for folder in top]
    if any(parts) and not all(parts):
        odd = top[parts.index(False)].name
        hint = f"; call it {OTHER_PARTS[odd.lower()]}" if odd.lower() in OTHER_PARTS else ""
        raise InputError(str(root), f"mixes folders of parts ({top[parts.index(True)].name}) with {odd!r}{hint}")
    inputs: list[Image] = []
    cells: dict[str, list[str]] = {role: [] for role in ("task", "label", *(("split",) if parts[0] else ()))}
    places = []
    for part in top if parts[0] else [root]:
        for task in _folders(part, bound):
            for kind in _folders(task, bound):
                try:
                    label = name_of(kind.name, "label")
                except InputError as error:
                    raise InputError(str(kind), error.problem) from None
                for file in _files(kind, bound):
                    inputs.append(Image(path=file))
                    places.append(str(file.relative_to(root)))
                    for role, value in (("task", task.name), ("label", label), ("split", part.name.lower())):
                        if role in cells:
                            cells[role].append(value)
    if not inputs:
        raise InputError(str(root), f"holds no image at {_LAYOUT}")
    tasks = tuple(sorted(set(cells["task"])))
    try:
        check_task_names(tasks)
    except InputError as error:
        raise InputError(str(root), f"{error.argument}: {error.problem}") from None
    return Documents(root.resolve().name, str(root), "image", tasks, document_frame(inputs, cells, places))


def _entries(folder: Path, root: Path | None) -> list[Path]:
    """What a folder holds, sorted, without what systems put there by themselves; links must not lead out of the root, if one is given."""
    try:
        found = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.name not in ("Thumbs.db", "desktop.ini"))
    except OSError as error:
        raise InputError(str(folder), f"cannot be read ({error.strerror})") from None
    for path in found:
        if root is not None and path.is_symlink():
            try:
                check_inside(path, root)
            except InputError as error:
                raise InputError(str(path), error.problem) from None
    return found


def _folders(folder: Path, root: Path | None) -> list[Path]:
    entries = _entries(folder, root)
    for entry in entries:
        if not entry.is_dir():
            raise InputError(str(entry), f"is a file where a folder is expected; images lie at {_LAYOUT}")
    return entries


def _files(folder: Path, root: Path | None) -> list[Path]:
    entries = _entries(folder, root)
    for entry in entries:
        if entry.is_dir():
            raise InputError(str(entry), f"is a folder where an image is expected; images lie at {_LAYOUT}")
        if entry.suffix.lower() not in ENDINGS:
            raise InputError(str(entry), f"is no image by its ending; known are {', '.join(sorted(ENDINGS))}")
    return entries
