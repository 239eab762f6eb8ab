"""What files hold is what comes back, what cannot be read is refused by name, and nothing is half-written."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from theory import InputError, LowRankSignatures, ladder, read_queries, read_signatures
from theory.files import UNFINISHED, read_arrays, write_whole

MEANS = np.array([[0.0, 0], [4, 0], [0, 4]])
DENSE = {"means": MEANS, "covariances": np.stack([np.eye(2), np.diag([1.0, 2]), np.eye(2)]), "task": np.array([0, 1, 1])}
FACTORED = {"means": MEANS, "factors": np.ones((3, 2, 1)), "diagonals": np.ones((3, 2)), "task": np.array([0, 1, 2])}


def _written(folder, arrays, ending=".npz"):
    path = folder / f"given{ending}"
    save_file(arrays, path) if ending == ".safetensors" else np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_signatures_come_back(tmp_path, ending):
    extra = {"weights": np.array([1.0, 3, 1]), "counts": np.array([5, 6, 7])}
    found = read_signatures(_written(tmp_path, DENSE | extra, ending))
    assert np.array_equal(found.means, MEANS) and np.array_equal(found.covariances, DENSE["covariances"])
    assert found.weights == pytest.approx([1, 0.75, 0.25]) and list(found.counts) == [5, 6, 7] and found.names == ("0", "1")


def test_factors_make_signatures_of_low_rank(tmp_path):
    found = read_signatures(_written(tmp_path, FACTORED))
    assert isinstance(found, LowRankSignatures) and found.gaussians.rank == 1
    dense = {**FACTORED, "covariances": np.ones((3, 2, 2)) + np.eye(2)}
    both = read_signatures(_written(tmp_path, {k: v for k, v in dense.items() if k not in ("factors", "diagonals")}))
    assert np.allclose(found.covariances, both.covariances)
    assert found.gaussians.log_dets == pytest.approx(both.gaussians.log_dets)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("none.npz", None, "is no file"),
        ("given.csv", b"means", "unknown ending '.csv'"),
        ("given.npz", b"not an archive", "cannot be read"),
        ("given.safetensors", b"\x00" * 4, "cannot be read"),
    ],
)
def test_what_is_no_file_of_arrays_is_refused(tmp_path, name, content, what):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_arrays(tmp_path / name)
    assert caught.value.argument == str(tmp_path / name)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "given.npz", means=np.array([{"not": "numbers"}], dtype=object))
    with pytest.raises(InputError, match=r"cannot be read .*pickle"):
        read_arrays(tmp_path / "given.npz")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"task": None}, "lacks task; it holds covariances, means"),
        ({"covariances": None}, "lacks covariances"),
        ({"covariances": None, "factors": np.ones((3, 2, 1))}, "lacks diagonals"),
        ({"task": np.array([0, 0, 0])}, r"given.npz: task: names one task only"),
        ({"covariances": np.zeros((3, 2, 2))}, r"given.npz: covariances\[0\]: is not positive definite"),
    ],
)
def test_signatures_that_cannot_be_scored_are_named_with_their_file(tmp_path, change, what):
    arrays = {name: value for name, value in (DENSE | change).items() if value is not None}
    with pytest.raises(InputError, match=what):
        read_signatures(_written(tmp_path, arrays))


def test_queries_refine_the_components_of_the_file_and_all_tasks_weigh_the_same(tmp_path):
    signatures = read_signatures(_written(tmp_path, DENSE))
    law = read_queries(_written(tmp_path, DENSE), signatures)
    assert law.shared and list(law.cluster) == [0, 1, 2] and law.weights == pytest.approx([0.5, 0.25, 0.25])
    finer = {name: np.repeat(value, 2, axis=0) for name, value in DENSE.items()} | {"cluster": np.repeat(np.arange(3), 2)}
    twice = read_queries(_written(tmp_path, finer), signatures)
    assert twice.weights == pytest.approx(np.repeat([0.25, 0.125, 0.125], 2))
    # The same law in another order of components has the same bounds.
    assert ladder(signatures, twice).overall["L5"].log_value == pytest.approx(ladder(signatures, law).overall["L5"].log_value)
    weighed = read_queries(_written(tmp_path, DENSE | {"weights": np.array([1.0, 1, 2])}), signatures)
    assert weighed.weights == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"covariances": None}, "lacks covariances"),
        ({"task": np.array([0, 1, 2])}, "task: needs integers from 0 to 1"),
        ({"task": np.array([0.0, 1, 1])}, "task: needs integers"),
        ({"task": np.array([1, 0, 1])}, "cluster: is missing"),
        ({"cluster": np.array([0, 1, 3])}, "cluster: needs one integer from 0 to 2"),
        ({"cluster": np.array([1, 1, 2])}, "cluster: names components of other tasks"),
        ({"weights": np.array([1.0, 0, 1])}, "query weights: must be positive"),
        ({"covariances": np.zeros((3, 2, 2))}, r"query covariances\[0\]: is not positive definite"),
    ],
)
def test_queries_that_are_no_law_are_named_with_their_file(tmp_path, change, what):
    signatures = read_signatures(_written(tmp_path, DENSE))
    arrays = {name: value for name, value in (DENSE | change).items() if value is not None}
    with pytest.raises(InputError, match=what) as caught:
        read_queries(_written(tmp_path, arrays), signatures)
    assert caught.value.argument.startswith(str(tmp_path / "given.npz"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, b"first")
    assert path.read_bytes() == b"first" and path.stat().st_mode & 0o777 == 0o644

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, b"second")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"first" and not list(tmp_path.glob(f"*{UNFINISHED}"))


def test_a_folder_that_is_missing_is_told_by_the_name_of_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "none" / "result.json", b"")
    assert caught.value.filename == str(tmp_path / "none" / "result.json")


def test_an_interrupt_leaves_no_temporary_file(tmp_path, monkeypatch):
    def stop(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "result.json", b"x")
    assert not list(tmp_path.iterdir())
