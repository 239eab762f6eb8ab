"""Where the command `proteus-bounds` starts: what is not installed is told with the extra that brings it."""

from __future__ import annotations

import sys

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


def main() -> None:
    """Run the command; if a package is missing, one line on standard error says which, and the exit status is 2."""
    try:
        from empirics import cli

        cli.main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        print(f"proteus-bounds: {MissingExtra(package, EXTRAS[package])}", file=sys.stderr)
        sys.exit(2)
