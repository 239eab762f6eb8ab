"""Every extra installed alone, in a fresh environment, and used: `make extras-test`.

Of each it is checked that what it is for works, and that what belongs to another extra is refused with the name of that extra. The pins are
those of the locks; the corpora and the encoder, which no extra brings, are not installed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path

from lock import ROOT, SUPPLY, pins

# Signatures as anyone may have them, for what follows.
_SIGNATURES = """
import numpy as np
from theory import ladder, Rule, Signatures, InputError, well_specified
from theory.errors import MissingExtra
signatures = Signatures(np.array([[0.0, 0], [4, 0], [0, 4]]), np.stack([np.eye(2)] * 3), np.arange(3))
bounds = ladder(Rule(signatures), well_specified(signatures), rng=np.random.default_rng(0), simulations=1000)
assert bounds.overall["L6"].estimate <= bounds.overall["L5"].value <= bounds.overall["L3"].value < 1
np.savez("signatures.npz", means=signatures.means, covariances=np.stack([np.eye(2)] * 3), task=np.arange(3))
def refused(extra, function, *arguments):
    try:
        function(*arguments)
    except MissingExtra as error:
        assert f"proteus-bounds[{extra}]" in str(error), error
    else:
        raise AssertionError(f"{extra} is not missed")
def command(*words, extra=None):
    import subprocess, sys, shutil
    done = subprocess.run(["proteus-bounds", *words], capture_output=True, text=True)
    assert done.returncode == (2 if extra else 0), done.stderr
    assert extra is None or done.stderr.count("\\n") == 1 and f"proteus-bounds[{extra}]" in done.stderr, done.stderr
    return done.stdout
"""
_RETRIEVER = """
from empirics.retrieval.retriever import SignatureRetriever
rng = np.random.default_rng(0)
X, y = rng.normal(size=(300, 8)) + 3 * np.repeat(np.eye(3, 8), 100, axis=0), np.repeat(["a", "b", "c"], 100)
assert SignatureRetriever().fit(X[::2], y[::2]).score(X[1::2], y[1::2]) > 0.9
"""
USES = {
    "": """
        from theory import symbolic, read_signatures
        assert symbolic.prove("L3").holds
        assert ladder(Rule(read_signatures("signatures.npz"))).overall["L5"].value < 1
        refused("tables", bounds.frame)
        from theory.plotting import plot_ladder
        refused("figures", plot_ladder, bounds.overall)
        command("bound", "signatures.npz", extra="command")
        """,
    "tables": """
        assert set(bounds.frame()["rung"]) == set(bounds.overall)
        """,
    "command": """
        assert "L5" in command("bound", "signatures.npz", "--simulations", "1000", "--why")
        assert "L3" in command("plan", "separation", "--tasks", "3", "--components", "1", "--dimension", "8", "--error", "0.1")
        command("verify", "--preset", "small", extra="retriever")
        """,
    "retriever": """
        command("verify", "--preset", "small", extra="empirics")
        """,
    "figures": """
        import matplotlib
        matplotlib.use("agg")
        from theory.plotting import plot_ladder
        plot_ladder(bounds.overall).figure.savefig("ladder.png")
        """,
    "report": """
        from empirics.page.html import html, need_report_extra
        from empirics.page.model import Page
        need_report_extra()
        """,
    "empirics": """
        import empirics.runs.pipeline, empirics.routing.certify, torch
        from theory.errors import InputError
        """,
    "dask": """
        import distributed
        from empirics.sweep.engines import Cluster
        """,
    "images": """
        import empirics.data.images
        from PIL import Image
        """,
    "hub": """
        import empirics.data.hub, datasets
        """,
    "serve": """
        import fastapi, uvicorn
        import empirics.routing.serving
        """,
    "notebooks": """
        import jupyterlab, ipywidgets
        """,
    "docs": """
        import sphinx, myst_parser, numpydoc, furo
        """,
    "test": """
        import pytest, hypothesis, gx2
        """,
    "tools": """
        import mypy, coverage, mutmut
        """,
}
_ALSO = {"retriever": _RETRIEVER, "empirics": _RETRIEVER}


def build_wheel(folder: Path) -> Path:
    """The wheel of the project, built from a copy, so that nothing left from an earlier build is in it."""
    source = folder / "source"
    for name in ("theory", "empirics"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "-q", "--no-deps", "-w", str(folder), str(source)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def try_extra(extra: str, folder: Path, wheel: Path, constraints: Path) -> None:
    """Install the project with one extra into a new environment in the folder, and use it."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    binaries = folder / "venv" / "bin"
    install = [str(binaries / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-c", str(constraints)]
    # Named exactly at first: a build of PyTorch that the index offers beside the default one is then found.
    if "torch" in needs(extra):
        subprocess.run([*install, (SUPPLY / "torch.txt").read_text().splitlines()[-1]], check=True)
    subprocess.run([*install, f"{wheel}[{extra}]" if extra else str(wheel)], check=True)
    code = _SIGNATURES + _ALSO.get(extra, "") + textwrap.dedent(USES[extra])
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run([str(binaries / "python"), "-I", "-c", code], check=True, cwd=folder, env=environment)


def needs(extra: str) -> set[str]:
    """The packages that an extra names, through the extras that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found: set[str] = set()
    waiting = [extra] if extra else []
    while waiting:
        for line in project["optional-dependencies"][waiting.pop()]:
            name, _, rest = line.partition("[")
            if name == project["name"]:
                waiting += rest.partition("]")[0].split(",")
            else:
                found.add(line.partition(">")[0].partition("=")[0])
    return found


def main() -> None:
    """Try the extras that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extra", nargs="*", help="all, and none of them, by default")
    chosen = parser.parse_args().extra or list(USES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for path in sorted(SUPPLY.glob("*.txt")) for pin in pins(path.read_text("utf-8"))))
        wheel = build_wheel(folder)
        for extra in chosen:
            with tempfile.TemporaryDirectory() as place:
                try_extra(extra, Path(place), wheel, constraints)
            print(f"{extra or 'no extra'}: works alone", flush=True)


if __name__ == "__main__":
    sys.exit(main())
