"""`empirics.runs.run_folder`: runs that others made, finished or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st
from made import run
from mutator import Files, Link
from target import Target

from empirics.files.manifest import MANIFEST, check_manifest
from empirics.runs.run_folder import check_files, finished, progress, read_about, read_run


def _seeds() -> Sequence[Files]:
    # Without a manifest nothing is held against the digests of the sound files before it is read.
    whole = {name: content for name, content in run().items() if name != MANIFEST}
    about = json.loads(whole["run.json"])
    broken = {name: whole[name] for name in whole if name != "report.json"}
    broken["run.json"] = json.dumps({k: v for k, v in about.items() if k not in ("phases_seconds", "peak_memory_bytes")}).encode()
    return [whole, broken, run()]


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["../..", "/etc", "\0", "a" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Sound runs with other values under the keys of `run.json` and of the report, and with files missing."""
    files = dict(draw(st.sampled_from(_seeds())))
    name = draw(st.sampled_from([n for n in ("run.json", "report.json") if n in files]))
    content = json.loads(files[name])
    for _ in range(draw(st.integers(0, 2))):
        content[draw(st.sampled_from([*content, "tasks", "config", "schema", "environment"]))] = draw(_VALUES)
    if name == "run.json" and draw(st.integers(0, 3)) == 0:
        content["tasks"] = [{"name": draw(st.sampled_from(["../../..", "/etc", "\0", "a" * 300, "mail"])), "classes": ["x", "y"]}]
    files[name] = json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")
    for gone in draw(st.sets(st.sampled_from(sorted(files)), max_size=1)):
        files.pop(gone)
    return files or {"run.json": Link("nowhere")}


def _read(folder: Path) -> object:
    about = read_about(folder)
    if not finished(about):
        return progress(folder)
    if (folder / MANIFEST).exists():
        check_manifest(folder)
    check_files(folder, about)
    return read_run(folder)


TARGET = Target(
    "run folders",
    _seeds,
    _read,
    _structured(),
    tokens=(b"schema_version", b"PAR1", b"task", b"means", b"F64", b"NaN"),
    links=("/dev/zero", "nowhere", ".", "run.json", "../.."),
)
