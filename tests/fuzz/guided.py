"""Read inputs that are led by coverage: one that reaches new lines of the code is kept and changed further (libFuzzer, by atheris).

    python tests/fuzz/guided.py settings --inputs 100000 --out found.json

An input is a sound folder with one of its files replaced. atheris is built for Linux on x86-64 and in no lock: `pip install atheris`.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import atheris

# Code that is imported in here counts its branches; the loader of YAML is Python as well.
with atheris.instrument_imports(include=["theory", "empirics", "yaml"]):
    from full import NAMES, Readings, shared_memory, written
    from guard import limited_memory
    from mutator import changed_bytes

    chosen = importlib.import_module(f"readers.{sys.argv[1]}").TARGET if sys.argv[1:2] and sys.argv[1] in NAMES else None

if TYPE_CHECKING:
    from target import Target

_LONGEST = 2**16


def fuzz(name: str, target: Target, count: int, number: int, out: Path) -> None:
    """Read so many inputs and write what became of them; libFuzzer then ends the process."""
    places = [(files, at) for files in target.seeds() for at, content in sorted(files.items()) if isinstance(content, bytes)][:256]
    contents = [files[at] for files, at in places]
    # Removed by hand: libFuzzer leaves no block.
    parent = Path(tempfile.mkdtemp(dir=shared_memory()))
    readings = Readings(target, parent / "input")
    corpus = parent / "corpus"
    corpus.mkdir()
    for index, content in enumerate(contents):
        (corpus / f"{index:03}").write_bytes(bytes([index]) + content[:_LONGEST])

    def read(data: bytes) -> None:
        files, at = places[data[0] % len(places)] if data else places[0]
        readings.add({**files, at: data[1:]})
        if readings.count == count:
            written({name: readings.result(number)}, out)
            shutil.rmtree(parent)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if not data or rng.random() < 0.5:
            return atheris.Mutate(data, most)
        return data[:1] + changed_bytes(data[1:], contents, target.tokens, rng)[: most - 1]

    # Time and memory are the guard's to watch; 0 is no limit of memory, but of time it is one.
    limits = ["-timeout=3600", "-rss_limit_mb=0", f"-max_len={_LONGEST + 1}"]
    options = [f"-atheris_runs={count}", f"-seed={number + 1}", "-verbosity=0", *limits]
    atheris.Setup([sys.argv[0], str(corpus), *options], read, custom_mutator=change)
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
    fuzz(options.reader, chosen, options.inputs, options.seed, options.out)


if __name__ == "__main__":
    main()
