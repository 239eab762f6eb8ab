"""`empirics.data.image_folders`: own data in folders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
from hypothesis import strategies as st
from mutator import Files, Link
from target import Target

from empirics.config import RunConfig
from empirics.data.check import check_data
from empirics.data.tables import read_data
from readers.tables import CAPS


def _png(i: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(out, "PNG")
    return out.getvalue()


def _tree(layout: str, n: int) -> dict[str, bytes | Link]:
    names = [(task, label, i) for task in "ab" for label in "xy" for i in range(n)]
    return {layout.format(part="test" if i % 2 else "train", task=t, label=c, i=i): _png(j) for j, (t, c, i) in enumerate(names)}


def _seeds() -> list[Files]:
    return [_tree("{task}/{label}/{i}.png", 8), _tree("{part}/{task}/{label}/{i}.png", 8)]


_NAMES = st.one_of(
    st.sampled_from(
        [
            "train",
            "test",
            "val",
            "CON",
            "aux.x",
            "a.",
            ".a",
            "A",
            "x" * 120,
            "é" * 90,
            "新" * 80,
            "-rf",
            "a b",
            "\u202ex",
            "a\tb",
            "nan",
            "😀" * 60,
        ]
    ),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda s: s not in (".", "..")
    ),
)


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Sound folders with one name or one file of another kind."""
    tree = _tree("{task}/{label}/{i}.png", 8)
    level, new = draw(st.integers(0, 3)), draw(_NAMES)
    if level == 3:
        ending = draw(st.sampled_from(["png", "jpg", "gif", "txt", "PNG", "eps"]))
        tree[f"a/x/{new[:40]}.{ending}"] = draw(
            st.sampled_from(
                [
                    b"",
                    b"x",
                    _png(200),
                    _png(0),
                    Link("/etc/hostname"),
                    Link("0.png"),
                    Link("../../../../x.png"),
                    Link("/dev/zero"),
                    Link("nowhere"),
                ]
            )
        )
        return tree
    old = draw(st.sampled_from(["a", "x", "0"])) if level < 2 else "a"
    moved = {}
    for name, content in tree.items():
        parts = name.split("/")
        if len(new.encode()) < 250 and parts[level % 3].startswith(old):
            parts[level % 3] = new + (".png" if level % 3 == 2 else "")
        moved["/".join(parts)] = content
    return moved


def _read(folder: Path) -> object:
    entries = sum(path.lstat().st_size + 1 for path in folder.rglob("*"))
    config = RunConfig.model_validate({"stream": {"path": folder, "unusable": ("refuse", "drop")[entries % 2], "split": "random", **CAPS}})
    # Names are told by the walk alone; decoding every image takes most of the time.
    return check_data(config) if entries % 4 < 2 else read_data(config.stream)


TARGET = Target(
    "image folders",
    _seeds,
    _read,
    _structured(),
    links=("/etc/hostname", "/dev/zero", "nowhere", ".", "..", "../../../../outside.png", "0.png"),
)
