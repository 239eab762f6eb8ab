"""Files of signatures that are damaged or meant ill: one line, and no pickle is opened."""

from __future__ import annotations

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from theory import InputError, LowRankGaussians, QueryLaw, Signatures, read_signatures
from theory.files import read_arrays, read_whole

SOUND = {"means": np.zeros((2, 1)), "covariances": np.ones((2, 1, 1)), "task": np.arange(2)}


def refused(path, expected):
    with pytest.raises(InputError, match=expected) as caught:
        read_signatures(path)
    assert str(caught.value).isprintable()


def test_arrays_of_objects_are_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "opened"),))

    np.savez(tmp_path / "s.npz", **{**SOUND, "means": np.array([[Trap()], [Trap()]])})
    refused(tmp_path / "s.npz", "cannot be read")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [(6, 198, "a later version"), (8, 1, "a password"), (10, 99, "another compression")],
)
def test_archives_of_kinds_that_are_not_ours(tmp_path, offset, value, what):
    out = io.BytesIO()
    np.savez(out, **SOUND)
    data = bytearray(out.getvalue())
    # The first entry of the archive's directory, and the header of the file that it lists.
    at = data.index(b"PK\x01\x02")
    data[at + offset : at + offset + 2] = struct.pack("<H", value)
    (tmp_path / "s.npz").write_bytes(data)
    refused(tmp_path / "s.npz", "cannot be read")


def test_a_header_that_asks_for_more_memory_than_there_is(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999999,), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("means.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    refused(tmp_path / "s.npz", "cannot be read")


@pytest.mark.parametrize("kind", ["complex128", "f4,i4", "U3"])
def test_numbers_that_are_not_real_are_refused(kind):
    with pytest.raises(InputError, match=r"means: is of type .*, which holds no real numbers"):
        Signatures(np.full((2, 1), "x").astype(kind) if kind == "U3" else np.zeros((2, 1), kind), SOUND["covariances"], SOUND["task"])


def test_weights_and_factors_that_are_no_numbers_are_refused():
    for weights in (np.zeros(2, "f4,i4"), np.array(["1e-", "x"]), np.zeros(2, complex)):
        with pytest.raises(InputError, match=r"weights: is of type .*, which holds no real numbers"):
            Signatures(*SOUND.values(), weights)
        with pytest.raises(InputError, match="query weights: is of type"):
            QueryLaw(np.zeros((2, 1, 1)), SOUND["covariances"], np.arange(2), np.arange(2), weights)
    with pytest.raises(InputError, match="factors: is of type"):
        LowRankGaussians(np.zeros((2, 1)), np.zeros((2, 1, 1), "f4,i4"), np.ones((2, 1)))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, expected in (("pipe", "no regular file"), ("link", "no regular file"), (".", "it is a folder"), ("none", "cannot be read")):
        with pytest.raises(InputError, match=expected):
            read_whole(tmp_path / name)
    with pytest.raises(InputError, match="is no file"):
        read_arrays(tmp_path / "pipe")


def test_a_message_is_one_line_that_a_terminal_shows():
    message = str(InputError("file\n\x1b[31m", "x" * 9000 + "\u202e\ud800 end"))
    assert message.startswith("file \\x1b[31m: xxx") and message.endswith("\\u202e\\ud800 end")
    assert message.isprintable() and len(message) < 3100
