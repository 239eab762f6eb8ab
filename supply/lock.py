"""Pins with hashes, from the ranges in pyproject.toml: `make lock`.

Writes one file for each layer of `LAYERS`: `run.txt` is what set-up installs, the others what they need on top of it::

    python supply/lock.py                    # after a change of pyproject.toml or materials.in: pins that still fit stay
    python supply/lock.py --upgrade numpy    # let one package move; --upgrade alone lets all move

The pins are resolved once for every platform and every Python that pyproject.toml allows, and each carries the hashes of all its files, as
the package index that the machine is set up to use gives them. PyTorch and what only its accelerator builds bring have no hashes: their
files differ between indexes. `torch.txt` pins its version.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUPPLY = ROOT / "supply"
# Extras of each layer. The first is set up for every command, so the others leave out what it has.
LAYERS: dict[str, tuple[str, ...]] = {
    "run": ("empirics", "serve", "test"),
    "notebooks": ("notebooks",),
    "docs": ("docs",),
    "tools": ("tools",),
}
_PLATFORM = re.compile(r"(torch|triton|(nvidia|cuda)-.*)$")
_NAME = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)")
_HEADER = "# Written by supply/lock.py from {source}; `make lock` writes it anew.\n"


def blocks(text: str) -> dict[str, str]:
    """Every pin of a lock with its hashes, by package; one package may have several, for different markers."""
    found: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        if match := _NAME.match(block):
            found[match[1]] = found.get(match[1], "") + block.rstrip() + "\n"
    return found


def pins(text: str) -> list[str]:
    """The pins of a lock without their hashes."""
    return [f"{match[0]}" for line in text.splitlines() if (match := _NAME.match(line))]


def resolve(sources: Iterable[Path], options: Sequence[str], prefer: Sequence[str], upgrade: Sequence[str] = ()) -> str:
    """The pins, with hashes, that satisfy the sources on every platform; `prefer` are kept where they fit and not upgraded."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "lock.txt"
        # The resolver takes the pins that it finds in its output for those to keep.
        output.write_text("".join(f"{pin}\n" for pin in prefer))
        python = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"].removeprefix(">=")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", python]
        command += ["--fork-strategy", "fewest", "--generate-hashes", "--no-header", "--no-annotate", "--output-file", str(output)]
        command += [*options, *upgrade, *map(str, sources)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return output.read_text("utf-8")


def lock(upgrade: Sequence[str] = ()) -> Mapping[str, str]:
    """The text of every file, by name."""
    before = [pin for path in sorted(SUPPLY.glob("*.txt")) for pin in pins(path.read_text("utf-8"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "build.in"
        build.write_text("\n".join(project["build-system"]["requires"]))
        sources = [ROOT / "pyproject.toml", build]
        extras = [option for names in LAYERS.values() for name in names for option in ("--extra", name)]
        whole = pins(resolve(sources, extras, before, upgrade))
        files: dict[str, str] = {}
        base: dict[str, str] = {}
        for layer, names in LAYERS.items():
            found = blocks(resolve(sources, [option for name in names for option in ("--extra", name)], whole))
            new = {name: block for name, block in found.items() if base.get(name) != block and not _PLATFORM.match(name)}
            base = base or new
            files[layer] = _HEADER.format(source="pyproject.toml") + "".join(new.values())
    materials = resolve([SUPPLY / "materials.in"], ["--no-deps"], before)
    files["materials"] = _HEADER.format(source="materials.in") + "".join(blocks(materials).values())
    files["torch"] = _HEADER.format(source="pyproject.toml") + next(f"{pin}\n" for pin in whole if pin.startswith("torch=="))
    return files


def main() -> None:
    """Write the locks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", nargs="*", metavar="PACKAGE", help="let these packages move to newer versions, or all")
    chosen = parser.parse_args().upgrade
    upgrade = ["--upgrade"] if chosen == [] else [part for name in chosen or () for part in ("--upgrade-package", name)]
    for name, text in lock(upgrade).items():
        (SUPPLY / f"{name}.txt").write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
