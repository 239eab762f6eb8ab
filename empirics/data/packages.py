"""Files that installed packages ship, found without importing the package."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from theory.errors import InputError


def package_file(package: str, name: str, install: str) -> Path:
    """The first file of that name in an installed package.

    Parameters
    ----------
    package : str
        Name of the distribution.
    name : str
        File name without folders.
    install : str
        How to install it, for the message.

    Raises
    ------
    InputError
        If the package is not installed, or holds no such file.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(package, f"is not installed; {install}") from None
    found = next((entry for entry in files if entry.name == name), None)
    if found is None:
        raise InputError(package, f"holds no {name}; {install}")
    return Path(str(found.locate()))
