"""The paper's streams, from copies of repositories of the Hugging Face hub that lie on this machine."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empirics.config import StreamConfig
from empirics.data.documents import Documents, document_frame
from empirics.data.images import ENDINGS, Image, check_inside
from theory.errors import InputError

_INSTALL = 'install it with: pip install "proteus-bounds[hub]"'
# A repository is data: its programs and pickles are neither wanted nor fetched.
_NEVER_FETCHED = ("*.py", "*.pkl", "*.pickle", "*.pt", "*.bin", "*.zip", "*.tar", "*.tar.gz", "*.tgz")


@dataclass(frozen=True)
class Source:
    """A dataset of the hub: its repository, splits and columns.

    Attributes
    ----------
    repository : str
    image, label : str
        Columns.
    train, test : str or None
        Splits; a dataset with one split has no `train`, and its documents are dealt at random.
    task : str
        Name of the task; empty if the classes are split into tasks.
    """

    repository: str
    image: str = "image"
    label: str = "label"
    train: str | None = "train"
    test: str = "test"
    task: str = ""


@dataclass(frozen=True)
class HubStream:
    """What a stream is made of.

    Attributes
    ----------
    sources : tuple of Source
    tasks : int or None
        Number of tasks that the classes of the only source are split into; None if each source is a task.
    """

    sources: tuple[Source, ...]
    tasks: int | None = None


# The identifiers are those that public code loads these datasets by. Two hold a single split, which publications deal 80 to 20 at random.
_CIFAR = Source("uoft-cs/cifar100", image="img", label="fine_label")
# Check the id: copies of this repository differ in whether they hold Parquet files or an archive.
_IMAGENET_R = Source("axiong/imagenet-r", label="wnid", train=None, test="test")
_IMAGENET_A = Source("barkermrl/imagenet-a", train=None, test="train")
# The five datasets of class-incremental "VTAB" (Zhou et al., arXiv:2303.07338). Which five the paper's VTAB-5T holds was not at hand.
_VTAB = (
    Source("tanganke/resisc45", task="resisc45"),
    Source("tanganke/dtd", task="dtd"),
    Source("timm/oxford-iiit-pet", task="pets"),
    Source("tanganke/eurosat", task="eurosat"),
    Source("dpdl-benchmark/oxford_flowers102", task="flowers102"),
)
HUB_STREAMS = {
    "cifar100-10t": HubStream((_CIFAR,), 10),
    "cifar100-20t": HubStream((_CIFAR,), 20),
    "imagenet-r-10t": HubStream((_IMAGENET_R,), 10),
    "imagenet-a-10t": HubStream((_IMAGENET_A,), 10),
    "vtab-5t": HubStream(_VTAB),
}


def read_hub(config: StreamConfig) -> Documents:
    """Read a stream from `config.hub`; fetch what is missing only if `config.download` says so.

    A copy of REPOSITORY lies in HUB/REPOSITORY as the hub has it (Parquet files named by their split), as `datasets.save_to_disk` writes
    it, or as a folder of images SPLIT/CLASS/file. Encoded images are kept in memory, about as much as the files hold.

    Raises
    ------
    InputError
        At once if a copy is missing, with the commands that fetch it; if `datasets` is missing; if a copy lacks a split or a column.
    """
    stream = HUB_STREAMS[config.name]
    if (problem := missing_copies(config)) and not config.download:
        raise InputError("stream.name", problem)
    for name in _missing(config):
        _fetch(name, config.hub / name)
    inputs: list[Image] = []
    places: list[str] = []
    cells: dict[str, list[str]] = {"task": [], "label": [], "split": []}
    for source in stream.sources:
        for part, split in (("train", source.train), ("test", source.test)):
            if split is None:
                continue
            for number, (image, label) in enumerate(_read_split(config.hub / source.repository, source, split)):
                place = f"{source.repository}, {split}, row {number}"
                inputs.append(Image(path=image.path, data=image.data, name=place))
                places.append(place)
                for role, value in (("task", source.task or config.name), ("label", label), ("split", part)):
                    cells[role].append(value)
    frame = document_frame(inputs, cells, places)
    if any(source.train is None for source in stream.sources):
        frame = frame.drop(columns="split")
    return Documents(config.name, str(config.hub), "image", tuple(s.task or config.name for s in stream.sources), frame)


def missing_copies(config: StreamConfig) -> str:
    """Which copies a stream lacks and the commands that fetch them; empty if it lacks none, or is no stream of the hub."""
    if not (missing := _missing(config)):
        return ""
    commands = "; ".join(fetch_command(name, config.hub / name, data=True) for name in missing)
    what = f"{config.name} needs a copy of {', '.join(missing)} under {config.hub} and nothing is downloaded unasked"
    return f"{what}; run: {commands} (or set stream.download=true, or stream.hub to where the copies lie)"


def fetch_command(repository: str, folder: Path, *, data: bool) -> str:
    """What to type to have a copy of a repository of data, or of an encoder, in a folder."""
    kind = " --repo-type dataset" if data else ""
    return f"hf download {repository}{kind} --local-dir {shlex.quote(str(folder))}"


def _missing(config: StreamConfig) -> list[str]:
    if config.path is not None or config.name not in HUB_STREAMS:
        return []
    return [s.repository for s in HUB_STREAMS[config.name].sources if not _holds_data(config.hub / s.repository)]


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError("datasets", f"is needed to read copies from the hub and is not installed; {_INSTALL}") from None
    return datasets


def _holds_data(folder: Path) -> bool:
    return folder.is_dir() and any(not p.name.startswith(".") for p in folder.iterdir())


def _fetch(repository: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, repo_type="dataset", local_dir=folder, ignore_patterns=list(_NEVER_FETCHED))
    except Exception as error:
        # Of the network, the hub, or the disk: many types, none of them ours.
        raise InputError(repository, f"could not be downloaded to {folder} ({' '.join(str(error).split())[:300]})") from None


def _read_split(folder: Path, source: Source, split: str) -> Iterator[tuple[Image, str]]:
    """Images and class names of one split, by what lies in the folder. Readers are named, never guessed: some read pickles."""
    parquet = sorted(p for p in folder.rglob("*.parquet") if p.name.startswith((f"{split}-", f"{split}.")))
    if parquet or (folder / "dataset_dict.json").is_file():
        yield from _read_rows(folder, source, split, parquet)
        return
    files = sorted(p for p in (folder / split).glob("*/*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    if not files:
        what = f"neither Parquet files {split}-*.parquet, nor a saved dataset, nor images {split}/CLASS/FILE"
        raise InputError(str(folder), f"holds {what}; fetch {source.repository} again, or set stream.hub to where it lies")
    for file in files:
        yield Image(path=file), file.parent.name


def _read_rows(folder: Path, source: Source, split: str, parquet: list[Path]) -> Iterator[tuple[Image, str]]:
    datasets = _datasets()
    try:
        if parquet:
            # Streamed: the library would otherwise write a second copy of the data into its cache.
            files = [glob.escape(str(p)) for p in parquet]
            found = datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=True)
        else:
            saved = datasets.load_from_disk(str(folder))
            if split not in saved:
                raise InputError(str(folder), f"has no split {split!r}; it has {', '.join(saved)}")
            found = saved[split]
        features = found.features
        for name in (source.image, source.label):
            if name not in features:
                raise InputError(str(folder), f"has no column {name!r} in split {split}; it has {', '.join(features)}")
        if not isinstance(features[source.image], datasets.Image):
            raise InputError(str(folder), f"column {source.image!r} of split {split} holds no images")
        label = features[source.label]
        found = found.select_columns([source.image, source.label]).cast_column(source.image, datasets.Image(decode=False))
        for number, row in enumerate(found):
            image, value = row[source.image], row[source.label]
            if image is None or value is None or not str(value).strip():
                raise InputError(str(folder), f"split {split}, row {number}: lacks an image or a {source.label}")
            value = label.int2str(value) if isinstance(label, datasets.ClassLabel) else str(value)
            if image["bytes"] is None:
                # A path that comes with the data may lead anywhere.
                check_inside(folder / image["path"], folder)
            yield (Image(data=image["bytes"]) if image["bytes"] is not None else Image(path=folder / image["path"])), value
    except InputError:
        raise
    except Exception as error:
        # Of Arrow, JSON, the file system or the library itself.
        raise InputError(str(folder), f"cannot be read ({' '.join(str(error).split())[:300]}); fetch {source.repository} again") from None
