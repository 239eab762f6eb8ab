"""What a run writes: whole files or none, equal bytes for equal content, and refusals that say what to do."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from empirics.files.claim import claim_folder
from empirics.files.record import read_json, read_parquet, read_tensors, write_bytes, write_json, write_parquet, write_tensors
from theory.errors import InputError

FRAME = pd.DataFrame({"n": [1, 2, 3], "x": [0.1, float("nan"), 3.0], "s": ["a", None, "é"], "b": [True, False, True]})
TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1, 2], dtype=np.int64),
    "e": np.zeros((0, 4)),
    "s": np.array(3.5),
}
META = {f"key{i}": f"value {i}" for i in range(20)}


def content(path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


# --- atomicity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    before = content(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(file, {"new": 2})
    monkeypatch.undo()
    assert content(tmp_path) == before


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "a", b"x")
    assert content(tmp_path) == {}


def test_the_file_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda h: (calls.append("fsync"), fsync(h)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_bytes(tmp_path / "deep" / "er" / "a", b"x")
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "deep" / "er" / "a").read_bytes() == b"x"


def test_content_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    before = content(tmp_path)
    for bad in (math.nan, math.inf, {"x": [-math.inf]}):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(tmp_path / "a.json", bad)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    with pytest.raises(Exception, match="object"):
        write_tensors(tmp_path / "a.safetensors", {"o": np.array([1, "a"], dtype=object)})
    assert content(tmp_path) == before


# --- round trips and repeatable bytes --------------------------------------------------------------------------------


def test_json_round_trip_is_utf8_with_a_newline_and_repeatable(tmp_path):
    value = {"é": [1, 0.1, None, True], "a": {"b": "c"}}
    write_json(tmp_path / "1", value)
    write_json(tmp_path / "2", value)
    raw = (tmp_path / "1").read_bytes()
    assert raw == (tmp_path / "2").read_bytes()
    assert raw.endswith(b"}\n")
    assert "é".encode() in raw
    assert read_json(tmp_path / "1") == value


def test_parquet_round_trip_is_repeatable_and_forgets_the_index(tmp_path):
    write_parquet(tmp_path / "1", FRAME)
    write_parquet(tmp_path / "2", FRAME.copy().set_axis([7, 8, 9], axis=0))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "1"), FRAME, check_dtype=False)


def test_tensor_bytes_do_not_depend_on_order_memory_layout_or_process(tmp_path):
    write_tensors(tmp_path / "1", TENSORS, META)
    reordered = {name: np.array(TENSORS[name], order="F") for name in reversed(TENSORS)}
    write_tensors(tmp_path / "2", reordered, dict(reversed(META.items())))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    # The order of the format's own map is drawn anew in each process, so one process proves nothing.
    code = (
        "import sys, numpy as np; from pathlib import Path; from empirics.files.record import write_tensors;"
        "write_tensors(Path(sys.argv[1]), {'b': np.arange(6, dtype=np.float32).reshape(2, 3), 'a': np.array([1, 2]),"
        "'e': np.zeros((0, 4)), 's': np.array(3.5)},"
        "{f'key{i}': f'value {i}' for i in range(20)})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "3")], check=True)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()


def test_tensors_round_trip_with_dtypes_and_shapes(tmp_path):
    write_tensors(tmp_path / "t", TENSORS)
    back = read_tensors(tmp_path / "t")
    assert sorted(back) == sorted(TENSORS)
    for name, value in TENSORS.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value, strict=True)


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_json, read_parquet, read_tensors])
@pytest.mark.parametrize("junk", [None, b"", b"\x00\xff junk", b"PAR1" + bytes(40) + b"PAR1", b"\xff" * 8 + b"{}"])
def test_missing_and_corrupt_files_are_named(tmp_path, read, junk):
    file = tmp_path / "file"
    if junk is not None:
        file.write_bytes(junk)
    with pytest.raises(InputError, match=re.escape(str(file))):
        read(file)


@pytest.mark.parametrize(("write", "read", "value"), [(write_parquet, read_parquet, FRAME), (write_tensors, read_tensors, TENSORS)])
def test_a_truncated_file_is_refused(tmp_path, write, read, value):
    file = tmp_path / "file"
    write(file, value)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match=re.escape(str(file))):
        read(file)


# --- environment, memory, phases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["NaN", "[1, Infinity]", "[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_damage_anywhere_in_a_parquet_file_is_one_line_or_harmless(tmp_path):
    file = tmp_path / "a.parquet"
    write_parquet(file, FRAME)
    raw = np.frombuffer(file.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = raw.copy()
        damaged[rng.integers(raw.size, size=3)] = rng.integers(256, size=3)
        file.write_bytes(damaged.tobytes())
        try:
            read_parquet(file)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 30


def test_claim_refuses_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written"):
        claim_folder(tmp_path)
