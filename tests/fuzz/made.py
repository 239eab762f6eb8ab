"""Sound folders of the project's own, made once a process and kept as files."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mutator import Files

from empirics.files.manifest import MANIFEST, write_manifest

sys.path[:0] = [str(Path(__file__).parents[1] / "empirics")]


_LEFT_OUT = ("adapters", "checkpoints", "embeddings", "bounds", "pairs", "projections", "report.md", "report.html")


def files_of(folder: Path, names: Sequence[str] = ()) -> Files:
    """The files of a folder; those that are named, or all."""
    found = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not names or name in names}


def short(value: Any) -> Any:
    """The same JSON with the first table of every list of tables only."""
    if isinstance(value, dict):
        return {key: short(inside) for key, inside in value.items()}
    return [short(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else value


@cache
def run() -> Files:
    """A run of drawn embeddings without checkpoints, adapters and what is made for people, its report cut short."""
    from synthetic_run import write_run

    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), tasks={"mail": ("spam", "ham"), "news": ("sports", "politics")})
        for name, content in files_of(Path(folder)).items():
            if name.startswith(_LEFT_OUT):
                Path(folder, name).unlink()
            elif name == "report.json":
                Path(folder, name).write_text(json.dumps(short(json.loads(content)), ensure_ascii=False), "utf-8")
        Path(folder, MANIFEST).unlink()
        write_manifest(Path(folder))
        return files_of(Path(folder))
