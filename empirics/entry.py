"""Where the command `proteus-bounds` starts: what is not installed is told with the extra that brings it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from theory.errors import MissingExtra

# The extra that brings each package that a command imports, by the name under which it is imported.
EXTRAS = {
    "pandas": "tables",
    "pydantic": "command",
    "rich": "command",
    "typer": "command",
    "filelock": "retriever",
    "psutil": "retriever",
    "pyarrow": "retriever",
    "sklearn": "retriever",
    "yaml": "retriever",
    "accelerate": "empirics",
    "joblib": "empirics",
    "threadpoolctl": "empirics",
    "peft": "empirics",
    "torch": "empirics",
    "transformers": "empirics",
    "matplotlib": "figures",
    "distributed": "dask",
}


def do_without_a_home() -> None:
    """Let libraries do without a folder of the user's own, and say nothing of it: nothing that is kept there is needed."""
    try:
        Path.home()
    except RuntimeError:
        # Altair asks when it is imported, and fails. Not a temporary folder: there others could lay settings for us to read.
        os.environ["HOME"] = os.sep
    # Where the user said nothing of it, Matplotlib takes a temporary folder, with two lines of warning.
    if not os.environ.get("MPLCONFIGDIR"):
        logging.getLogger("matplotlib").addFilter(_of_no_folder)


def _of_no_folder(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(("mkdir -p failed", "%s is not a writable", "Matplotlib created a temporary"))


def main() -> None:
    """Run the command; if a package is missing, one line on standard error says which, and the exit status is 2."""
    do_without_a_home()
    try:
        from empirics import cli

        cli.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"proteus-bounds: {MissingExtra(package, EXTRAS[package])}", file=sys.stderr)
        sys.exit(2)
