"""Execute notebooks and store their outputs, so that executing them again gives the same bytes: ``python notebooks/execute.py [FILE ...]``.

What would change without a change of content is left out of the stored file: times, identifiers and states of widgets, versions, and the
settings of whoever runs it (IPython's and matplotlib's are replaced). Figures are stored as SVG.
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
# A kernel's own settings: figures as vectors without a date in them, and identifiers in them that do not change.
_IPYTHON = """c.InlineBackend.figure_formats = {"png"}
c.InlineBackend.print_figure_kwargs = {"bbox_inches": "tight"}
"""
_MATPLOTLIB = "svg.hashsalt: proteus-bounds\nfigure.figsize: 6, 4\n"
# Roots of absolute paths on the usual systems.
_PATH = re.compile(
    r"(?<![\w./:~-])(?:/(?:home|root|tmp|Users|usr|opt|var|mnt|private|data|work)/|[A-Za-z]:\\\\?(?:Users|Temp))"
)


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


def execute(
    notebook: NotebookNode, settings: str = "", appended: str = "", timeout: int = 600
) -> NotebookNode:
    """A copy of a notebook, executed in a fresh kernel and an empty folder, without what changes from one execution to the next.

    Parameters
    ----------
    notebook : NotebookNode
    settings : str
        Runs in the place of the cell of settings; that cell keeps its source.
    appended : str
        Source of one more cell at the end, for tests.
    timeout : int
        Seconds a cell.
    """
    out = nbformat.from_dict(notebook)
    cell = settings_of(out)
    kept, cell.source = cell.source, settings or cell.source
    if appended:
        out.cells.append(nbformat.v4.new_code_cell(appended, id="appended"))
    with tempfile.TemporaryDirectory() as folder, _environment(Path(folder)):
        place = Path(folder) / "run"
        place.mkdir()
        client = NotebookClient(
            out,
            timeout=timeout,
            # Sockets of the file system, where there are any: those of the network are open to others on the machine.
            km=AsyncKernelManager(
                kernel_name="python3",
                **({"transport": "ipc", "ip": f"{folder}/k"} if os.name == "posix" else {}),
            ),
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
    out.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
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
        cell.outputs = [
            output for output in cell.outputs if WIDGET not in output.get("data", {})
        ]
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = nbformat.from_dict({})
            if output.output_type == "execute_result":
                output.execution_count = count
    return out


def flaws(notebook: NotebookNode) -> list[str]:
    """What no stored notebook may hold: errors, anything on standard error, warnings, paths of a machine, widgets, cells out of order."""
    found, count = [], 0
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count != count:
            found.append(
                f"cell {number}: is number {cell.execution_count} of the execution and not {count}"
            )
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number}: {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"cell {number}: standard error: {output.text[:200]}")
            for kind, text in texts(output):
                if kind == WIDGET:
                    found.append(f"cell {number}: the state of a widget")
                if kind != "image/svg+xml" and (hit := re.search(r"\w*Warning:", text)):
                    found.append(f"cell {number}: {hit[0]}")
                if hit := _PATH.search(text):
                    found.append(
                        f"cell {number}: a path of a machine: {text[hit.start() : hit.start() + 60]}"
                    )
    return found


def texts(output: NotebookNode) -> Iterator[tuple[str, str]]:
    """Every representation of an output, by its media type."""
    if output.output_type == "stream":
        yield "text/plain", output.text
    for kind, content in output.get("data", {}).items():
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
    """Execute the notebooks named, or all, and store their outputs; nothing is stored of one that has flaws."""
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
