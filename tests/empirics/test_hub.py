"""The paper's streams: missing copies are told at once with the commands; real loading code on tiny copies in every layout."""

from __future__ import annotations

import io
import socket
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from empirics.config import StreamConfig, load_config
from empirics.data.hub import HUB_STREAMS, read_hub
from empirics.data.streams import load_stream
from empirics.runs.embedding import open_stream
from theory.errors import InputError

datasets = pytest.importorskip("datasets")
CAPS = {"train_per_class": 6, "query_per_class": 4, "test_per_class": 4, "reservoir_per_class": 4}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def picture(seed: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8))


def table(classes: int, n: int, seed: int, image: str = "image", label: str = "label", named: bool = True) -> datasets.Dataset:
    names = [f"class {c:02d}" for c in range(classes)]
    rows = {image: [picture(1000 * seed + i) for i in range(classes * n)], label: [i % classes for i in range(classes * n)]}
    kind = datasets.ClassLabel(names=names)
    if not named:
        rows[label] = [names[c] for c in rows[label]]
        kind = datasets.Value("string")
    return datasets.Dataset.from_dict(rows, features=datasets.Features({image: datasets.Image(), label: kind}))


def copy_of_cifar(hub: Path, classes: int = 20, train: int = 10, test: int = 8, label: str = "fine_label") -> Path:
    folder = hub / "uoft-cs/cifar100"
    (folder / "cifar100").mkdir(parents=True)
    table(classes, train, 0, "img", label).to_parquet(str(folder / "cifar100/train-00000-of-00001.parquet"))
    table(classes, test, 1, "img", label).to_parquet(str(folder / "cifar100/test-00000-of-00001.parquet"))
    return folder


def load(name: str, hub: Path, seed: int = 0, **fields):
    return load_stream(StreamConfig(name=name, hub=hub, **{**CAPS, **fields}), np.random.default_rng(seed))


@pytest.mark.parametrize("name", sorted(HUB_STREAMS))
def test_a_run_tells_at_once_what_to_fetch_and_where_to_put_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_config(preset=name)
    with pytest.raises(InputError) as caught:
        open_stream(settings)
    weights = settings.backbone.path.relative_to(settings.stream.hub)
    assert f"hf download {weights} --local-dir {settings.backbone.path}" in str(caught.value)
    for source in HUB_STREAMS[name].sources:
        assert f"hf download {source.repository} --repo-type dataset --local-dir data/hub/{source.repository}" in str(caught.value)
    (tmp_path / settings.backbone.path).mkdir(parents=True)
    with pytest.raises(InputError, match=r"stream\.name: .* needs a copy"):
        open_stream(settings)
    with pytest.raises(InputError, match="my/encoder is no folder; give one that AutoModel can load"):
        open_stream(load_config(preset=name, overrides=["backbone.path=my/encoder"]))


@pytest.mark.parametrize("name", sorted(HUB_STREAMS))
def test_missing_copies_are_told_with_the_commands(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    settings = load_config(preset=name)
    assert settings.stream.name == name
    with pytest.raises(InputError) as caught:
        read_hub(settings.stream)
    for source in HUB_STREAMS[name].sources:
        assert f"hf download {source.repository} --repo-type dataset --local-dir data/hub/{source.repository}" in str(caught.value)
    assert "stream.download=true" in str(caught.value)


def test_split_cifar_from_parquet(tmp_path):
    copy_of_cifar(tmp_path)
    stream = load("cifar100-10t", tmp_path, split="held-out")
    assert (stream.modality, stream.exchangeable) == ("image", True)
    assert [len(t.classes) for t in stream.tasks] == [2] * 10
    assert sorted(c for t in stream.tasks for c in t.classes) == [f"class {c:02d}" for c in range(20)]
    # Every image is where its class is, and the given test images are tested.
    for item, k, c, part in zip(stream.inputs, stream.task, stream.label, stream.part, strict=True):
        _, split, row = item.name.split(", ")
        assert stream.tasks[k].classes[c] == f"class {int(row.split()[1]) % 20:02d}"
        assert (split == "test") == (part in ("query", "test"))
    # Nothing was written beside the copy.
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]


def test_a_published_split_is_no_guarantee_unless_dealt(tmp_path):
    copy_of_cifar(tmp_path)
    assert not load("cifar100-10t", tmp_path).exchangeable
    assert load("cifar100-10t", tmp_path, split="random").exchangeable


def test_the_class_order_follows_the_seed_or_its_own(tmp_path):
    copy_of_cifar(tmp_path)

    def order(seed, **fields):
        return [t.classes for t in load("cifar100-10t", tmp_path, seed, **fields).tasks]

    assert order(0) == order(0) != order(1)
    assert order(0, class_order=5) == order(1, class_order=5) != order(0, class_order=6)


def test_too_few_classes_for_the_tasks_are_told(tmp_path):
    copy_of_cifar(tmp_path, classes=30)
    with pytest.raises(InputError, match="30 classes left, too few for 20 tasks"):
        load("cifar100-20t", tmp_path)


def test_one_published_set_is_dealt_at_random(tmp_path):
    """ImageNet-A as `save_to_disk` writes it, ImageNet-R with names for classes."""
    datasets.DatasetDict({"train": table(20, 16, 0)}).save_to_disk(str(tmp_path / "barkermrl/imagenet-a"))
    folder = tmp_path / "axiong/imagenet-r/data"
    folder.mkdir(parents=True)
    table(20, 16, 1, label="wnid", named=False).to_parquet(str(folder / "test-00000-of-00001.parquet"))
    for name in ("imagenet-a-10t", "imagenet-r-10t"):
        stream = load(name, tmp_path)
        assert stream.exchangeable and len(stream.tasks) == 10
        assert np.unique(stream.part, return_counts=True)[1].tolist() == [80, 60, 80, 100]


def test_vtab_has_a_task_for_each_dataset_and_reads_image_folders(tmp_path):
    for j, source in enumerate(HUB_STREAMS["vtab-5t"].sources):
        for split, n in (("train", 10), ("test", 8)):
            for i in range(3 * n):
                file = tmp_path / source.repository / split / f"kind {i % 3}" / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture(10_000 * j + 100 * (split == "test") + i).save(file)
    stream = load("vtab-5t", tmp_path, split="held-out")
    assert [t.name for t in stream.tasks] == ["resisc45", "dtd", "pets", "eurosat", "flowers102"]
    assert all(t.classes == ("kind 0", "kind 1", "kind 2") for t in stream.tasks)
    assert {item.path.parent.parent.name for item in (stream.inputs[j] for j in stream.where("train"))} == {"train"}
    assert [t.name for t in load("vtab-5t", tmp_path, tasks=("dtd", "pets")).tasks] == ["dtd", "pets"]


def test_repeats_of_a_public_dataset_are_left_out_if_asked(tmp_path):
    folder = tmp_path / "uoft-cs/cifar100"
    folder.mkdir(parents=True)
    first, second = table(20, 10, 0, "img", "fine_label"), table(20, 8, 1, "img", "fine_label")
    datasets.concatenate_datasets([first, second.select([3])]).to_parquet(str(folder / "train-0.parquet"))
    second.to_parquet(str(folder / "test-0.parquet"))
    with pytest.raises(InputError, match="repeats the image of"):
        load("cifar100-10t", tmp_path)
    stream = load("cifar100-10t", tmp_path, unusable="drop")
    assert stream.left_out == ("1 repeated documents",)
    held = io.BytesIO()
    picture(1003).save(held, "PNG")
    assert not {item.data for item, part in zip(stream.inputs, stream.part, strict=True) if part != "test"} & {held.getvalue()}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: (folder / "README.md").write_text("x"), "holds neither Parquet files train-"),
        (lambda folder: (folder / "train-0.parquet").write_bytes(b"junk"), "cannot be read"),
        (lambda folder: table(4, 4, 0).to_parquet(str(folder / "train-0.parquet")), "no column 'img'"),
        (
            lambda folder: datasets.Dataset.from_dict({"img": ["a"], "fine_label": ["b"]}).to_parquet(str(folder / "train-0.parquet")),
            "holds no images",
        ),
        (lambda folder: datasets.DatasetDict({"other": table(2, 2, 0)}).save_to_disk(str(folder)), "no split 'train'; it has other"),
    ],
)
def test_copies_that_are_not_what_they_should_be_are_told(tmp_path, make, expected):
    folder = tmp_path / "uoft-cs/cifar100"
    folder.mkdir(parents=True)
    make(folder)
    with pytest.raises(InputError, match=expected) as caught:
        load("cifar100-10t", tmp_path)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_programs_and_pickles_in_a_copy_are_not_touched(tmp_path):
    folder = copy_of_cifar(tmp_path)
    (folder / "cifar100.py").write_text("raise SystemExit('ran')")
    (folder / "train.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    assert len(load("cifar100-10t", tmp_path).tasks) == 10


def test_download_fetches_only_when_asked_and_only_what_is_missing(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(repository, *, repo_type, local_dir, ignore_patterns):
        asked.append((repository, repo_type, Path(local_dir)))
        assert "*.py" in ignore_patterns and "*.pkl" in ignore_patterns
        copy_of_cifar(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(InputError, match="nothing is downloaded unasked"):
        load("cifar100-10t", tmp_path)
    assert not asked
    for _ in range(2):
        load("cifar100-10t", tmp_path, download=True)
    assert asked == [("uoft-cs/cifar100", "dataset", tmp_path / "uoft-cs/cifar100")]


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    def fetch(*_, **__):
        raise OSError("no\nroute")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(InputError, match=r"uoft-cs/cifar100: could not be downloaded to .* \(no route\)"):
        load("cifar100-10t", tmp_path, download=True)


def test_datasets_missing_says_how_to_install_it(tmp_path, monkeypatch):
    copy_of_cifar(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install .*hub"):
        load("cifar100-10t", tmp_path)
