"""Own data: every format gives the same stream, and every fault is told with file, row and column."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from empirics.config import StreamConfig
from empirics.data.documents import LONGEST_TEXT
from empirics.data.streams import load_stream
from empirics.data.tables import read_data
from theory.errors import InputError

CAPS = {"train_per_class": 8, "query_per_class": 6, "test_per_class": 4, "reservoir_per_class": 2}


def documents(tasks: str = "ab", classes: str = "xy", n: int = 24, split: bool = False) -> list[dict]:
    rows = [
        {"text": f"{task} {label}, number {i}", "label": label, "task": task, "split": "test" if i % 3 == 0 else "train"}
        for task in tasks
        for label in classes
        for i in range(n)
    ]
    return rows if split else [{k: v for k, v in row.items() if k != "split"} for row in rows]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


def load(path: Path, seed: int = 0, **fields):
    return load_stream(StreamConfig(path=path, **{**CAPS, **fields}), np.random.default_rng(seed))


def refused(path: Path, **fields) -> str:
    with pytest.raises(InputError) as caught:
        load(path, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def picture(seed: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_stream(tmp_path, ending):
    found = load(write(tmp_path / f"own{ending}", documents()))
    reference = load(write(tmp_path / "reference.csv", documents()))
    assert found.inputs == found.texts == reference.texts
    assert np.array_equal(found.part, reference.part)
    assert (found.name, found.modality, found.exchangeable) == ("own", "text", True)
    assert [(t.name, t.classes) for t in found.tasks] == [("a", ("x", "y")), ("b", ("x", "y"))]
    for text, k, c in zip(found.texts, found.task, found.label, strict=True):
        assert text.startswith(f"{'ab'[k]} {'xy'[c]}, ")


def test_no_order_of_classes_or_parts_is_left(tmp_path):
    """Documents come in random order, whatever the order of the file: consecutive ones do not share a class more often than by chance."""
    stream = load(write(tmp_path / "own.csv", documents(n=20)))
    same = (stream.cluster[1:] == stream.cluster[:-1]).mean()
    assert abs(same - 1 / 4) < 5 * np.sqrt(3 / 16 / stream.cluster.size)
    test = stream.cluster[stream.where("test")]
    assert not (np.diff(test) >= 0).all()


def test_texts_are_stripped_and_numbers_name_classes(tmp_path):
    rows = [{**row, "text": f"  {row['text']}\n", "label": {"x": 0, "y": 1.0}[row["label"]]} for row in documents()]
    stream = load(write(tmp_path / "own.jsonl", rows))
    assert stream.tasks[0].classes == ("0", "1")
    assert all(text == text.strip() for text in stream.texts)


def test_columns_may_be_named_and_ignored(tmp_path):
    rows = [{"id": i, "body": r["text"], "topic": r["label"], "task": r["task"]} for i, r in enumerate(documents())]
    path = write(tmp_path / "own.parquet", rows)
    stream = load(path, columns={"text": "body", "label": "topic"}, ignore=("id",))
    assert sorted(stream.texts) == sorted(load(write(tmp_path / "plain.csv", documents())).texts)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"a": "3", "b": "10", "c": "2"}, ("c", "a", "b")),
        ({"a": "2024-05-01", "b": "2023-12-31T23:59", "c": "2024-05-02"}, ("b", "a", "c")),
        ({"a": "1", "b": "1", "c": "0"}, ("c", "a", "b")),
    ],
)
def test_time_orders_the_tasks(tmp_path, times, expected):
    rows = [{**row, "time": times[row["task"]]} for row in documents("abc")]
    assert read_data(StreamConfig(path=write(tmp_path / "own.csv", rows))).tasks == expected


def test_a_task_begins_with_its_earliest_row(tmp_path):
    rows = [{**row, "time": i} for i, row in enumerate(documents("ab"))]
    rows[-1]["time"] = -1
    assert read_data(StreamConfig(path=write(tmp_path / "own.jsonl", rows))).tasks == ("b", "a")
    frame = pd.DataFrame({**row, "time": datetime(2024, 1, 1 + (row["task"] == "a"))} for row in documents("ab"))
    frame.to_parquet(tmp_path / "dates.parquet")
    assert read_data(StreamConfig(path=tmp_path / "dates.parquet")).tasks == ("b", "a")


def test_tasks_choose_and_order(tmp_path):
    path = write(tmp_path / "own.csv", documents("abc"))
    stream = load(path, tasks=("c", "a"))
    assert [t.name for t in stream.tasks] == ["c", "a"]
    assert {text[0] for text in stream.texts} == {"a", "c"}
    assert "no task 'd'" in refused(path, tasks=("a", "d"))
    assert "twice" in refused(path, tasks=("a", "a"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": ""}, ["line 10", "empty text"]),
        ({"text": " \t"}, ["line 10", "empty text"]),
        ({"text": "a x, number 0"}, ["line 10", "repeats the text of line 2;"]),
        ({"text": "b x, number 0"}, ["line 50", "repeats the text of line 10, which has another task or label"]),
        ({"text": "a\0b"}, ["line 10", "NUL"]),
        ({"label": ""}, ["line 10, column label", "empty"]),
        ({"label": "NaN"}, ["line 10, column label", "'NaN'"]),
        ({"task": "  "}, ["line 10, column task", "empty"]),
        ({"task": "../up"}, ["task '../up'", "folder"]),
        ({"task": ".."}, ["task '..'", "folder"]),
        ({"task": "A"}, ["'a' and 'A'", "case"]),
        ({"task": "alone"}, ["task alone", "one class only"]),
        ({"label": "once"}, ["task a, class once", "has 1 documents"]),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_bad_rows_are_named(tmp_path, change, expected, ending):
    rows = documents()
    rows[8] |= change
    # JSON Lines have no header line.
    shift = 0 if ending == ".csv" else -1
    expected = [e.replace("10", str(10 + shift)).replace("line 2", f"line {2 + shift}").replace("50", str(50 + shift)) for e in expected]
    message = refused(write(tmp_path / f"own{ending}", rows))
    assert f"own{ending}" in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("value", "column", "expected"),
    [
        (None, "label", "empty"),
        (None, "text", "not a text"),
        (7, "text", "7, not a text"),
        ([1], "label", "[1]"),
        (1.5, "label", "1.5; a label is a text or a whole number"),
        ("\ud800", "text", "half a surrogate"),
        ("soon", "time", "'soon'"),
        (True, "time", "True"),
        ("2024-01-01", "time", "mixes numbers and dates"),
        ("dev", "split", "called query here"),
    ],
)
def test_values_of_the_wrong_kind_are_named(tmp_path, value, column, expected):
    rows = [{**row, "time": 1, "split": "train" if i % 2 else "test"} for i, row in enumerate(documents())]
    rows[5][column] = value
    message = refused(write(tmp_path / "own.jsonl", rows))
    assert expected in message
    assert "line 6" in message or "time" in message


def test_missing_values_of_a_parquet_file_are_named(tmp_path):
    frame = pd.DataFrame(documents())
    frame["label"] = frame["label"].map({"x": 0.0, "y": 1.0})
    frame.loc[7, "label"] = np.nan
    frame.to_parquet(tmp_path / "own.parquet")
    assert "row 7, column label: is" in refused(tmp_path / "own.parquet")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("text,lable,task", "unknown column 'lable'; did you mean 'label'?"),
        ("text,label,task,id", "unknown column 'id'"),
        ("text,label,text", "two columns 'text'"),
        ("text,label,when", "unknown column 'when'"),
        ("body,label,task", "unknown column 'body'"),
        ("text,label", "no column task"),
        ("label,task", "no column text or image"),
        ("text,image,label,task", "a stream is of one kind"),
        ("text;label;task", "separates columns by ','"),
        (" ", "no header"),
    ],
)
def test_bad_headers_are_named(tmp_path, header, expected):
    (tmp_path / "own.csv").write_text(header + "\n" + ",".join("abcd"[: header.count(",") + 1]) + "\n")
    message = refused(tmp_path / "own.csv")
    assert expected in message and "own.csv" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("own.csv", b"text,label,task\nok,x,a\n\xff\xfe,y,b\n", "line 3 is not UTF-8"),
        ("own.csv", "text,label,task\n".encode("utf-16"), "UTF-16"),
        ("own.csv", b'text,label,task\n"open,x,a\nb,y,b\n', "line 2 is not valid CSV"),
        ("own.csv", b"text,label,task\na,b\n", "line 2 has 2 fields, the header 3"),
        ("own.csv", b"text,label,task\n" + b"a" * (LONGEST_TEXT + 1) + b",x,a\n", "line 2 is not valid CSV"),
        ("own.csv", b"text,label,task\n", "no rows"),
        ("own.csv", b"", "no header"),
        ("own.jsonl", b'{"text": "a"\n', "line 1 is not valid JSON"),
        ("own.jsonl", b'\n{"text": "a", "text": "b"}\n', "line 2 is not valid JSON (a key occurs twice)"),
        ("own.jsonl", b'{"text": NaN}\n', "NaN is not JSON"),
        ("own.jsonl", b"[1]\n", "line 1 is [1], not an object"),
        ("own.jsonl", b"[" * 100_000, "line 1 is not valid JSON"),
        ("own.jsonl", b'{"text": "a", "label": "x", "task": "a"}\n{"text": "b", "label": "x"}\n', "line 2, column task: is missing"),
        ("own.jsonl", b"", "no rows"),
        ("own.jsonl", json.dumps({"text": "a" * (LONGEST_TEXT + 1), "label": "x", "task": "a"}).encode(), "line 1: has a text of"),
        ("own.parquet", b"PAR1junkPAR1", "not a Parquet file"),
        ("own.xlsx", b"", "no known ending"),
    ],
)
def test_broken_files_are_told(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert expected in message and name in message


def test_a_byte_order_mark_and_crlf_are_read(tmp_path):
    path = write(tmp_path / "own.csv", documents())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert b"\r\n" in path.read_bytes()
    assert len(load(path).tasks) == 2


def test_a_damaged_parquet_file_is_told(tmp_path):
    path = write(tmp_path / "own.parquet", documents(n=400))
    content = bytearray(path.read_bytes())
    content[200:600] = bytes(400)
    path.write_bytes(content)
    assert "own.parquet" in refused(path)


@pytest.mark.parametrize("roles", [{"txt": "text"}, {"text": "none"}])
def test_columns_that_are_not_there_are_told(tmp_path, roles):
    assert "stream.columns" in refused(write(tmp_path / "own.csv", documents()), columns=roles)


def test_what_cannot_be_used_is_left_out_if_asked(tmp_path):
    rows = documents(split=True)
    rows += [
        {"text": "", "label": "x", "task": "a", "split": "train"},
        {**rows[0], "split": "train"},  # a repeat of a test document among the training documents
        {"text": "odd one", "label": "rare", "task": "a", "split": "train"},
        {**rows[1], "label": "y"},  # contradicts rows[1]
    ]
    stream = load(write(tmp_path / "own.csv", rows), unusable="drop")
    assert len(stream.left_out) == 3 and "a/rare" in stream.left_out[2]
    assert stream.left_out[:2] == ("1 empty or unreadable texts", "3 repeated documents")
    assert rows[1]["text"] not in stream.texts and "odd one" not in stream.texts
    documents_ = load(write(tmp_path / "all.csv", rows), unusable="drop", query_per_class=50, test_per_class=100, train_per_class=50)
    assert documents_.part[documents_.texts.index(rows[0]["text"])] == "test"


def test_a_task_of_which_nothing_is_left_is_told(tmp_path):
    rows = documents()
    message = refused(write(tmp_path / "own.csv", rows + [{**row, "task": "copy"} for row in rows if row["task"] == "a"]), unusable="drop")
    assert "task a: has no class of which documents are left" in message


def given_parts(stream, rows) -> dict[str, set[str]]:
    """For each part of the stream, the given parts its documents come from."""
    of = {row["text"]: row["split"] for row in rows}
    return {p: {of[stream.texts[j]] for j in stream.where(p)} for p in ("train", "query", "test", "reservoir")}


@pytest.mark.parametrize(
    ("mode", "exchangeable", "expected"),
    [
        ("given", False, {"train": {"train"}, "query": {"train"}, "test": {"test"}, "reservoir": {"train"}}),
        ("given-at-random", True, {"train": {"train"}, "query": {"train"}, "test": {"test"}, "reservoir": {"train"}}),
        ("held-out", True, {"train": {"train"}, "query": {"test"}, "test": {"test"}, "reservoir": {"train"}}),
    ],
)
def test_missing_parts_are_dealt_and_the_stream_says_what_that_means(tmp_path, mode, exchangeable, expected):
    rows = documents(n=30, split=True)
    stream = load(write(tmp_path / "own.csv", rows), split=mode)
    assert stream.exchangeable is exchangeable
    assert given_parts(stream, rows) == expected
    assert len(set(stream.texts)) == len(stream.texts)


def test_a_given_split_may_be_dealt_anew(tmp_path):
    rows = documents(n=60, split=True)
    stream = load(write(tmp_path / "own.csv", rows), split="random", test_per_class=30)
    assert stream.exchangeable
    assert given_parts(stream, rows)["test"] == {"train", "test"}


def test_parts_of_other_proportions_are_not_exchangeable(tmp_path):
    """Each class split at random, but one at a half and the other at a tenth: the pooled error is of another mixture."""
    rows = documents(n=200)
    rows = [{**row, "split": "test" if i % (2 if row["label"] == "x" else 10) == 0 else "train"} for i, row in enumerate(rows)]
    path = write(tmp_path / "own.csv", rows)
    many = {"split": "given-at-random", "query_per_class": 200, "test_per_class": 200}
    assert not load(path, **many).exchangeable
    assert load(path, split="given-at-random").exchangeable
    assert load(path, **{**many, "split": "held-out"}).exchangeable


def test_four_given_parts_stay_where_they_are(tmp_path):
    rows = documents(n=40)
    rows = [{**row, "split": ("Train", "query", "test", "reservoir")[i % 4]} for i, row in enumerate(rows)]
    stream = load(write(tmp_path / "own.csv", rows))
    assert {p: {s.lower() for s in found} for p, found in given_parts(stream, rows).items()} == {
        p: {p} for p in ("train", "query", "test", "reservoir")
    }
    assert not stream.exchangeable


def test_a_class_unseen_in_training_is_named_by_its_row(tmp_path):
    rows = documents(split=True)
    rows += [{"text": f"new {i}", "label": "z", "task": "b", "split": "test"} for i in range(9)]
    assert "task b, class z: is not among the training documents (line 98 has it)" in refused(write(tmp_path / "own.csv", rows))


@pytest.mark.parametrize(("part", "missing"), [("train", "test"), ("test", "train")])
def test_a_split_without_train_or_test_is_told(tmp_path, part, missing):
    rows = [{**row, "split": part} for row in documents()]
    assert f"gives no document to {missing}" in refused(write(tmp_path / "own.csv", rows))


def test_one_task_is_no_stream(tmp_path):
    assert "retrieval needs at least two" in refused(write(tmp_path / "own.csv", documents("a")))


def image_folder(root: Path, layout: str = "{task}/{label}/{i}.png", n: int = 24) -> Path:
    number = 0
    for task in "ab":
        for label in "xy":
            for i in range(n):
                path = root / layout.format(task=task, label=label, i=i, split="test" if i % 3 == 0 else "train")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(number))
                number += 1
    return root


def test_image_folder(tmp_path):
    root = image_folder(tmp_path / "own")
    (root / ".DS_Store").write_bytes(b"")
    (root / "a/x/Thumbs.db").write_bytes(b"")
    stream = load(root)
    assert (stream.name, stream.modality, stream.exchangeable) == ("own", "image", True)
    for item, k, c in zip(stream.inputs, stream.task, stream.label, strict=True):
        assert item.path.parent == root / "ab"[k] / "xy"[c]
    with pytest.raises(InputError, match="holds images"):
        _ = stream.texts


def test_image_folder_with_parts(tmp_path):
    root = image_folder(tmp_path / "own", "{split}/{task}/{label}/{i}.png")
    stream = load(root)
    assert not stream.exchangeable
    assert {stream.inputs[j].path.relative_to(root).parts[0] for j in stream.where("test")} == {"test"}
    (root / "val").mkdir()
    assert "call it query" in refused(root)


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("a/x/broken.png", picture(0)[:60], "does not decode"),
        ("a/x/text.png", b"no image", "no image in a known format"),
        ("a/x/notes.txt", b"", "no image by its ending"),
        ("a/x/deep/1.png", picture(999), "is a folder where an image is expected"),
        ("a/1.png", picture(999), "is a file where a folder is expected"),
        ("b/y/again.png", picture(0), "repeats the image of a/x/0.png, which has another task or label"),
        ("bad:name/x/1.png", picture(999), "cannot name a folder"),
    ],
)
def test_bad_image_folders_are_told(tmp_path, path, content, expected):
    root = image_folder(tmp_path / "own", n=2)
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    message = refused(root)
    assert expected in message
    assert str(root) in message


def test_images_that_do_not_decode_are_left_out_if_asked(tmp_path):
    root = image_folder(tmp_path / "own")
    (root / "a/x/0.png").write_bytes(picture(0)[:60])
    assert load(root, unusable="drop").left_out == ("1 images that do not decode",)


def test_paths_of_images_are_relative_to_the_table(tmp_path):
    root = image_folder(tmp_path / "pictures")
    rows = [
        {"image": str(p.relative_to(tmp_path)), "label": p.parent.name, "task": p.parent.parent.name}
        for p in sorted(root.glob("*/*/*.png"))
    ]
    stream = load(write(tmp_path / "own.csv", rows))
    assert stream.modality == "image" and {item.path.parent.parent.parent for item in stream.inputs} == {root}
    for value, expected in (
        ("pictures/none.png", "is no file"),
        ("https://x.org/a.png", "nothing is downloaded"),
        ("", "empty"),
        ("a\0", "no file"),
    ):
        bad = [{**rows[0], "image": value}, *rows[1:]]
        message = refused(write(tmp_path / "bad.jsonl", bad))
        assert "line 1, column image: " in message and expected in message


def test_parquet_holds_images_as_bytes_or_as_datasets_stores_them(tmp_path):
    rows = [{"image": picture(i), "label": "xy"[i % 2], "task": "ab"[i // 2 % 2]} for i in range(96)]
    plain = load(write(tmp_path / "own.parquet", rows))
    stored = load(write(tmp_path / "hf.parquet", [{**row, "image": {"bytes": row["image"], "path": None}} for row in rows]))
    assert plain.inputs == stored.inputs and plain.modality == "image"
    broken = [{**row, "image": b"x" if i == 70 else row["image"]} for i, row in enumerate(rows)]
    assert "row 70" in refused(write(tmp_path / "broken.parquet", broken))


def test_classes_that_datasets_numbers_get_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = documents()
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sport", "trade"]), "task": datasets.Value("string")}
    )
    numbered = [{**row, "label": "xy".index(row["label"])} for row in rows]
    datasets.Dataset.from_list(numbered, features=features).to_parquet(str(tmp_path / "own.parquet"))
    assert load(tmp_path / "own.parquet").tasks[0].classes == ("sport", "trade")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    return {ending: write(folder / f"own{ending}", documents(n=3, split=True)).read_bytes() for ending in (".csv", ".jsonl", ".parquet")}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([".csv", ".jsonl", ".parquet"]), st.data())
def test_damage_gives_a_stream_or_one_line(tmp_path, seeds, ending, data):
    content = bytearray(seeds[ending])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            del content[place : place + data.draw(st.integers(1, 40))]
            content = content or bytearray(b" ")
    path = tmp_path / f"fuzz{ending}"
    path.write_bytes(content)
    try:
        load(path, train_per_class=4, query_per_class=4, test_per_class=1)
    except InputError as error:
        assert "\n" not in str(error) and "fuzz" in str(error)


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    root = image_folder(tmp_path / "own")
    odd = os.fsdecode(os.fsencode(str(root / "a/x/")) + b"/\xff.png")
    try:
        Path(odd).write_bytes(picture(999))
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    assert load(root, train_per_class=20, query_per_class=20).modality == "image"
    Path(odd).write_bytes(b"broken")
    assert "no image in a known format" in refused(root)


def test_paths_and_links_do_not_lead_out_of_the_data_unless_asked(tmp_path):
    """A table or an archive from somebody else could otherwise have any file of the machine read."""
    root = image_folder(tmp_path / "inner" / "pictures")
    (tmp_path / "else.png").write_bytes(picture(999))
    rows = [
        {"image": str(p.relative_to(root.parent)), "label": p.parent.name, "task": p.parent.parent.name} for p in sorted(root.glob("*/*/*"))
    ]
    (root / "link.png").symlink_to(tmp_path / "else.png")
    for path in ("../else.png", str(tmp_path / "else.png"), "pictures/link.png", "pictures/../../else.png"):
        table = write(root.parent / "own.csv", [{**rows[0], "image": path}, *rows[1:]])
        assert "lies outside" in refused(table)
        assert len(load(table, outside=True, train_per_class=30).inputs) == len(rows)
    (root / "link.png").unlink()
    (root / "a" / "x" / "0.png").unlink()
    (root / "a" / "x" / "0.png").symlink_to(tmp_path / "else.png")
    assert "lies outside" in refused(root)
    assert len(load(root, outside=True, train_per_class=30).inputs) == len(rows)
    (root / "a" / "x" / "0.png").unlink()
    (root / "a" / "x" / "0.png").symlink_to("../x/1.png")
    assert "repeats the image" in refused(root)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("CON", "Windows"), ("nul.txt", "Windows"), ("Com1", "Windows"), ("é" * 100, None), ("新" * 90, "255 bytes"), ("console", None)],
)
def test_names_that_no_folder_can_bear_somewhere(tmp_path, name, expected):
    path = write(tmp_path / "own.csv", [{**row, "task": {"a": name}.get(row["task"], "b")} for row in documents()])
    if expected is None:
        assert {task.name for task in load(path).tasks} == {name, "b"}
    else:
        assert expected in refused(path)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(pa.timestamp("us"), 2**62), (pa.date64(), 2**62 // 86_400_000 * 86_400_000), (pa.timestamp("ns", "Nowhere/Land"), 1)],
)
def test_times_that_python_has_not(tmp_path, dtype, value):
    table = pa.Table.from_pylist(documents())
    time = pa.array([value] * table.num_rows, pa.int64()).view(dtype)
    pq.write_table(table.append_column("time", time), tmp_path / "own.parquet")
    assert "is damaged after row 0" in refused(tmp_path / "own.parquet")


def test_cells_nested_deeper_than_python_can_show(tmp_path):
    for depth in (300, 600, 900, 20_000):
        (tmp_path / "own.jsonl").write_text('{"text": ' + "[" * depth + "]" * depth + ', "label": "x", "task": "a"}\n')
        assert "line 1" in refused(tmp_path / "own.jsonl")


def test_names_of_columns_are_valid_unicode(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"text": "a", "label": "x", "task": "a", "\\ud800": 1}\n')
    assert "is not valid Unicode" in refused(tmp_path / "own.jsonl")
