"""Generic corpora: passages and lines that belong to no task, none of which quotes a document of the stream."""

from __future__ import annotations

import numpy as np
import pytest
from test_corpora import shipped

from empirics.config import RunConfig
from empirics.data.corpora import corpus, tales
from empirics.data.generic_corpus import generic_corpus, passages
from empirics.data.streams import Stream, Task
from theory import InputError

DOCUMENTS = ("the cat sat on the mat and ate a fish, all by itself", "one two three")


def stream(documents=DOCUMENTS, modality="text") -> Stream:
    tasks = (Task("a", ("x", "y")), Task("b", ("x", "y")))
    n = len(documents)
    return Stream("s", tasks, tuple(documents), np.zeros(n, int), np.zeros(n, int), np.full(n, "query"), modality)


def config(path=None, own=None, **changes) -> RunConfig:
    compare = {"background": path, "background_documents": changes.pop("count", 500)}
    return RunConfig.model_validate({"compare": compare, "stream": {"path": own}, **changes})


def written(tmp_path, *lines: str):
    path = tmp_path / "texts.txt"
    path.write_bytes("\n".join(lines).encode())
    return path


def test_passages_are_whole_sentences_and_lose_only_the_end_of_a_text():
    text = 'One two three. “Four!” five six? Seven\neight "nine." Ten. Twelve'
    three = ["One two three.", "“Four!” five six?", 'Seven eight "nine."']
    assert passages([text, "Thirteen, 14 15 16."], 3) == [*three, "Thirteen, 14 15 16."]
    assert passages([text], 4) == ["One two three. “Four!”", 'five six? Seven eight "nine."']
    assert passages(["", "a b"], 3) == []


def test_lines_of_a_file_are_texts_once_each_without_blank_ones(tmp_path):
    path = written(tmp_path, "\ufefffirst line", "", "  second line \r", "first line", "third\u2028line", "fourth line", "   ")
    assert generic_corpus(config(path), stream()) == ("first line", "second line", "third\u2028line", "fourth line")


def test_what_shares_eight_words_with_a_document_is_left_out(tmp_path):
    quotes = (
        "He said: The CAT sat on\tthe mat and ate what he found",  # eight words of a longer text, in other case and space
        "one two three",
        "Two, three!",  # a shorter text within a document
    )
    free = ("the cat sat on the mat and slept", "three two one", "two three four", "nothing of the kind")
    assert generic_corpus(config(written(tmp_path, *quotes, *free)), stream()) == free


def test_texts_are_spread_evenly_and_the_seed_has_no_say(tmp_path):
    path = written(tmp_path, *(f"text {k}" for k in range(101)))
    found = generic_corpus(config(path, count=5), stream())
    assert found == ("text 0", "text 25", "text 50", "text 75", "text 100")
    assert generic_corpus(config(path, count=5, seed=9), stream()) == found
    assert len(generic_corpus(config(path), stream())) == 101


def test_what_cannot_be_a_corpus_is_refused_with_its_reason(tmp_path):
    good = [f"text {k}" for k in range(8)]
    for lines, count, signature, what in (
        (("one two three", "free", "also free"), 500, {}, r"compare\.background: has 2 texts .* needs 3"),
        (good, 4, {"covariance": "full", "dimension": 5}, r"has 8 texts .* of which 4 are used; a background needs 6"),
        (("good", "b\0d"), 500, {}, r"texts\.txt: line 2 has a text with a NUL"),
    ):
        with pytest.raises(InputError, match=what):
            generic_corpus(config(written(tmp_path, *lines), count=count, signature=signature), stream())
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin\.txt: line 1 is not UTF-8 \(byte 0xe9\)"):
        generic_corpus(config(tmp_path / "latin.txt"), stream())
    with pytest.raises(InputError, match=r"cannot be read"):
        generic_corpus(config(tmp_path), stream())
    with pytest.raises(InputError, match="holds images"):
        generic_corpus(config(written(tmp_path, *good)), stream((), "image"))
    with pytest.raises(InputError, match=r"is not set.*own data"):
        generic_corpus(config(own="mine.csv"), stream())


@shipped
def test_no_tale_quotes_a_document_of_a_shipped_stream():
    texts = [text for name in ("newsgroups", "reuters-r8", "election-tweets", "book-excerpts") for text in corpus(name)["text"]]
    whole = passages(tales(), 48)
    found = generic_corpus(config(count=10_000), stream(texts))
    assert found == tuple(whole) and len(set(found)) > 1000
    assert all(48 <= len(text.split()) < 200 for text in found)
    assert len(tales()) == 57
    few = generic_corpus(config(), stream())
    assert len(few) == 500 and set(few) < set(found)
    assert few != generic_corpus(config(backbone={"max_length": 24}), stream())
