"""Read inputs that are led by coverage: one that reaches new lines of the code is kept and changed further (libFuzzer, by atheris).

    python tests/fuzz/guided.py settings --inputs 100000 --out found.json

An input is a sound folder with one of its files replaced. atheris is built for Linux on x86-64 and in no lock: `pip install atheris`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import atheris

# Code that is imported in here counts its branches; the loader of YAML is Python as well.
with atheris.instrument_imports(include=["theory", "empirics", "yaml"]):
    from full import NAMES, Tally, place, written
    from guard import Guard, limited_memory
    from mutator import Files, changed_bytes

    chosen = importlib.import_module(f"readers.{sys.argv[1]}").TARGET if sys.argv[1:2] and sys.argv[1] in NAMES else None

if TYPE_CHECKING:
    from target import Target

_LONGEST = 2**16


def fuzz(target: Target, count: int, number: int, out: Path) -> None:
    """Read so many inputs and write what became of them; libFuzzer then ends the process."""
    sound = target.seeds()
    places = [(files, name) for files in sound for name, content in sorted(files.items()) if isinstance(content, bytes)][:256]
    contents = [files[name] for files, name in places]
    guard, folder = Guard(), Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "input"
    folder.mkdir()
    before: Files = {}
    tally = Tally(target, folder)

    def read(data: bytes) -> None:
        nonlocal before
        files, name = places[data[0] % len(places)] if data else places[0]
        made = {**files, name: data[1:]}
        place(made, before, folder)
        before = made
        tally.add(guard.read(target.read, folder))
        if tally.kinds.total() == count:
            written({target.name.replace(" ", "_"): tally.result(number)}, out)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if not data or rng.random() < 0.5:
            return atheris.Mutate(data, most)
        return data[:1] + changed_bytes(data[1:], contents, target.tokens, rng)[: most - 1]

    with tempfile.TemporaryDirectory() as corpus:
        for index, content in enumerate(contents):
            Path(corpus, f"{index:03}").write_bytes(bytes([index]) + content[:_LONGEST])
        for files in sound:  # late imports
            place(files, before, folder)
            before = files
            target.read(folder)
        # It reads the corpus first, and an empty input.
        options = [
            f"-atheris_runs={count}",
            f"-seed={number + 1}",
            f"-max_len={_LONGEST + 1}",
            "-timeout=3600",
            "-rss_limit_mb=0",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], corpus, *options], read, custom_mutator=change)
        with limited_memory():
            atheris.Fuzz()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=NAMES)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    assert chosen is not None
    fuzz(chosen, options.inputs, options.seed, options.out)


if __name__ == "__main__":
    main()
