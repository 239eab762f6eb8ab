"""Execute notebooks and store their outputs, the same bytes whenever they are executed again.

``python notebooks/execute.py [FILE ...]``

What would change without a change of content is not stored: times, identifiers and states of
widgets, versions, and what IPython and matplotlib are set to by whoever runs it.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"
# The kernel's settings. Vectors would be sharper, but hatches and many points make them large.
_IPYTHON = 'c.InlineBackend.figure_formats = {"png"}\n'
_MATPLOTLIB = "figure.figsize: 6, 4\nfigure.dpi: 100\n"
# Roots of absolute paths on the usual systems, and those of this one.
_ROOTS = "home|root|tmp|Users|usr|opt|var|mnt|private"
_PATH = re.compile(rf"(?<![\w./:~-])(?:/(?:{_ROOTS})/|[A-Za-z]:\\(?:Users|Temp))")
_HERE = [str(path) for path in (FOLDER.parent, Path.home(), Path(sys.prefix)) if path.name]
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebooks() -> list[Path]:
    """All notebooks here, in order."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook, checked against its schema."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def settings_of(notebook: NotebookNode) -> NotebookNode:
    """The cell of plain settings, tagged ``parameters`` as papermill expects it."""
    found = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(found) != 1:
        raise ValueError(f"{len(found)} cells are tagged parameters; needs one")
    return found[0]


def execute(notebook: NotebookNode, settings: str = "", appended: str = "") -> NotebookNode:
    """A copy of a notebook, executed in a fresh kernel and an empty folder, and normalised.

    Parameters
    ----------
    notebook : NotebookNode
    settings : str
        Runs in the place of the cell of settings; that cell keeps its source.
    appended : str
        Source of one more cell at the end, for tests.
    """
    out = nbformat.from_dict(notebook)
    cell = settings_of(out)
    kept, cell.source = cell.source, settings or cell.source
    if appended:
        out.cells.append(nbformat.v4.new_code_cell(appended, id="appended"))
    with tempfile.TemporaryDirectory() as folder, _environment(Path(folder)):
        place = Path(folder) / "run"
        place.mkdir()
        # Those of the network are open to others on the machine.
        sockets = {"transport": "ipc", "ip": f"{folder}/k"} if os.name == "posix" else {}
        client = NotebookClient(
            out,
            timeout=600,
            km=AsyncKernelManager(kernel_name="python3", **sockets),
            resources={"metadata": {"path": str(place)}},
            record_timing=False,
            allow_errors=True,
            coalesce_streams=True,
        )
        client.execute(cleanup_kc=True)
    cell.source = kept
    return normalised(out)


def normalised(notebook: NotebookNode) -> NotebookNode:
    """The same notebook with outputs and metadata that a second execution would give again."""
    out = nbformat.from_dict(notebook)
    out.metadata = nbformat.from_dict(_METADATA)
    count = 0
    for number, cell in enumerate(out.cells):
        cell.id = cell.id if cell.id == "appended" else f"cell-{number:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        # A widget without its kernel is a broken promise: it shows up when the cell is run.
        cell.outputs = [item for item in cell.outputs if WIDGET not in item.get("data", {})]
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = nbformat.from_dict({})
            if output.output_type == "execute_result":
                output.execution_count = count
    return out


def flaws(notebook: NotebookNode) -> list[str]:
    """What no stored notebook may hold.

    Errors, anything on standard error, warnings, a machine's paths, widgets, a wrong order.
    """
    found, count = [], 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            found.append(f"cell {number}: is number {cell.execution_count} and not {count}")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number}: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"cell {number}: standard error: {output.text[:200]}")
            for kind, text in texts(output):
                if kind == WIDGET:
                    found.append(f"cell {number}: the state of a widget")
                if hit := re.search(r"\w*Warning:", text):
                    found.append(f"cell {number}: {hit[0]}")
                hit = _PATH.search(text)
                if kind != "image/png" and (hit or any(path in text for path in _HERE)):
                    found.append(
                        f"cell {number}: a path of a machine{': ' + hit[0] if hit else ''}"
                    )
    return found


def texts(output: NotebookNode) -> Iterator[tuple[str, str]]:
    """Every representation of an output by its media type, in a fixed order."""
    if output.output_type == "stream":
        yield "text/plain", output.text
    for kind, content in sorted(output.get("data", {}).items()):
        yield kind, content if isinstance(content, str) else str(content)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Settings of the kernel's process, which inherits this one's environment."""
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.py").write_text(_IPYTHON)
    (folder / "matplotlibrc").write_text(_MATPLOTLIB)
    changed = {
        "IPYTHONDIR": str(folder / "ipython"),
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # Sums in another order would move the last digits of what a model learns.
        "OMP_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    """Execute the notebooks named, or all, and store those without flaws."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="notebooks; all by default")
    failed = False
    for path in parser.parse_args().files or notebooks():
        done = execute(read(path))
        if problems := flaws(done):
            failed = True
            print(f"{path.name}: not stored", *problems, sep="\n  ", file=sys.stderr)
            continue
        nbformat.write(done, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
    sys.exit(failed)


if __name__ == "__main__":
    main()
