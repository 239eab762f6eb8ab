"""`empirics.data.corpora.read_tab`: Orange files."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st
from mutator import Files
from target import Target, only

from empirics.data.corpora import read_tab

_SEED = "Category\tText\nd\tstring\nclass\tmeta\n" + "".join(f"{'ab'[i % 2]}\tsome text {i}\n" for i in range(12))
_QUOTED = 'A\tB\tC\n\n\n"a\tb"\t"two\nlines"\t"say ""so"""\n'.replace("\n\n\n", "\nd\ts\ts\nc\tm\tm\n")


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    cell = st.text(max_size=6) | st.sampled_from(["", '"', '""', "\0", "a\tb", "x" * 200])
    width = draw(st.integers(1, 4))
    table = draw(st.lists(st.lists(cell, min_size=max(1, width - 1), max_size=width), max_size=6))
    return {"corpus.tab": "\n".join("\t".join(row) for row in table).encode("utf-8", "surrogatepass")}


TARGET = Target(
    "Orange corpora",
    lambda: [{"corpus.tab": _SEED.encode()}, {"corpus.tab": _QUOTED.encode()}],
    lambda folder: read_tab(Path(only(folder))),
    _structured(),
    tokens=(b"\t", b"\n", b'"', b'""', b"\r", b"class", b"meta", b"Category", b"Text"),
)
