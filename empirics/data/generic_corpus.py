"""Texts that belong to no task, which a background can be fitted to once and for ever: folk tales, or a file of one's own.

Unlike a reservoir, such a corpus is nobody's private data: it can be kept, or fetched again, whenever a new task brings a new space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from empirics.config import RunConfig
from empirics.data.corpora import tales
from empirics.data.documents import check_text
from empirics.data.rows import read_text
from empirics.data.streams import Stream
from theory.errors import InputError

# Words in a row that two texts share only if one quotes the other or both quote a third.
_QUOTED = 8
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'’”)])\s+")


def generic_corpus(config: RunConfig, stream: Stream) -> tuple[str, ...]:
    """The generic corpus of a stream's comparison: `compare.background_documents` texts, spread evenly over the file or the tales.

    Texts that share eight words in a row with any document of the stream are left out.

    Parameters
    ----------
    config : RunConfig
        `compare.background` names a file of texts, one a line; without it, the shipped streams of texts get folk tales in passages that
        fill the encoder's `backbone.max_length`.
    stream : Stream
        With all its parts.

    Raises
    ------
    InputError
        If the stream can have no such corpus; the file cannot be read, or a line of it cannot be used; or fewer texts are left than a
        background in `signature.dimension` dimensions needs.
    """
    path, argument = config.compare.background, "compare.background"
    if stream.modality != "text":
        raise InputError(argument, f"stream {stream.name} holds {stream.modality}s, and a generic corpus is of texts")
    if path is None and config.stream.path is not None:
        raise InputError(argument, "is not set, and folk tales may have nothing in common with own data: name a file of texts")
    found = passages(tales(), config.backbone.max_length) if path is None else _lines(path)
    apart = list(_apart(found, stream.texts))
    rows = np.unique(np.linspace(0, len(apart) - 1, min(len(apart), config.compare.background_documents)).round().astype(int))
    least = 3 if config.signature.covariance != "full" else max(3, config.signature.dimension + 1)
    if rows.size < least:
        raise InputError(
            argument,
            f"has {len(apart)} texts that share no eight words with the stream, of which {rows.size} are used; a background needs "
            f"{least}: add texts, or raise compare.background_documents",
        )
    return tuple(apart[j] for j in rows)


def passages(texts: Iterable[str], words: int) -> list[str]:
    """Cut texts at the ends of sentences into passages of at least so many words; what is left at the end of a text is dropped."""
    out = []
    for text in texts:
        begun: list[str] = []
        for sentence in _BETWEEN_SENTENCES.split(text.strip()):
            begun += sentence.split()
            if len(begun) >= words:
                out.append(" ".join(begun))
                begun = []
    return out


def _lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, each checked like a document of a stream."""
    found: dict[str, None] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        try:
            found |= {check_text(line): None} if line.strip() else {}
        except InputError as error:
            raise InputError(str(path), f"line {number} {error.problem}; remove it") from None
    return list(found)


def _apart(texts: Sequence[str], documents: Sequence[str]) -> Iterator[str]:
    """Those texts that share no run of words with a document; a shorter text is one run."""
    runs = [_runs(text) for text in texts]
    wanted = set().union(*runs)
    sizes = sorted({len(run) for run in wanted})
    shared = {run for document in documents for size in sizes for run in _windows(_words(document), size) if run in wanted}
    return (text for text, own in zip(texts, runs, strict=True) if not own & shared)


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _runs(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return set(_windows(words, min(_QUOTED, len(words))))


def _windows(words: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    return (words[i : i + size] for i in range(len(words) - size + 1))
