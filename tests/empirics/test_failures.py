"""What may go wrong with a command: bad input is one line before anything is made; a full disk or a kill at any write leaves whole files,
and the same command may be started again.
"""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import pickle
import re
import shutil
import stat
import sys
from contextlib import contextmanager
from pathlib import Path

import letters
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tiny
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file

from empirics.cli import main
from empirics.config import StreamConfig
from empirics.data.streams import load_stream
from empirics.files.record import read_json, read_parquet, read_tensors
from empirics.runs import embedding, machine
from theory.files import UNFINISHED

pytestmark = pytest.mark.filterwarnings("ignore")

READERS = {".json": read_json, ".parquet": read_parquet, ".safetensors": read_tensors}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is tidied up after it."""


class Fault:
    """Lets a number of writes through and stops at the next."""

    def __init__(self, writes: int, killed: bool) -> None:
        self.left, self.killed, self.struck = writes, killed, False

    def fsync(self, handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            return
        self.left -= 1
        if self.left < 0 and not self.struck:
            self.struck = True
            if self.killed:
                raise Killed
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def at_work(self):
        unlink = Path.unlink

        def tidy(path: Path, **options: bool) -> None:
            if not (self.struck and self.killed):
                unlink(path, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", self.fsync)
            patch.setattr(Path, "unlink", tidy)
            yield


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An encoder, a table of documents that serves as samples too, adapters that PEFT saved, and variants."""
    folder = tmp_path_factory.mktemp("home")
    letters.write_material(folder)
    return folder


@pytest.fixture(scope="module")
def commands(home):
    return letters.long_commands(home)


@pytest.fixture(scope="module")
def kept() -> dict[str, object]:
    return {}


@pytest.fixture
def once(kept, monkeypatch):
    """Documents, frozen pass and training happen once, however often commands are started: their settings agree in these."""

    def cached(name, real):
        def answer(*arguments):
            if name == "encode" and len(arguments) > 4:
                # A comparison's, of fewer documents and under a name of its own.
                return real(*arguments)
            if name not in kept:
                kept[name] = real(*arguments)
            return kept[name]

        return answer

    for name in ("open_stream", "encode", "train_and_embed"):
        monkeypatch.setattr(embedding, name, cached(name, getattr(embedding, name)))
    monkeypatch.setattr(machine, "_git", cached("_git", machine._git))
    # It takes longer than all else here, in a process that holds a library of encoders.
    monkeypatch.setattr(gc, "collect", lambda: 0)


def started(command: list[str], out: Path, capsys) -> tuple[int, str]:
    """Exit status and standard error of a command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["proteus-bounds", *command, "--out", str(out), "--quiet"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), capsys.readouterr().err


DATA_FAULTS = {
    "empty text": ({"text": "  "}, r"letters\.csv: line 90: has an empty text"),
    "task of one sample": ({"task": "alone"}, r"letters\.csv: task alone: has one class only"),
    "class of one sample": ({"label": "once"}, r"letters\.csv: task late, class once: has 1 documents"),
    "label unseen in training": ({"label": "z", "split": "test"}, r"letters\.csv: task late, class z: is not among the training documents"),
    "image that does not decode": ({"image": "broken.png"}, r"letters\.csv: line 90: the image is no image in a known format"),
    "image that is not there": ({"image": "absent.png"}, r"letters\.csv: line 90, column image: names 'absent\.png', which is no file"),
}


@pytest.mark.parametrize("command", ["verify", "compare", "ablate"])
@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_documents_that_cannot_be_used_are_one_line(commands, home, command, fault, tmp_path, capsys):
    change, expected = DATA_FAULTS[fault]
    rows = pd.read_csv(home / "letters.csv").to_dict("records")
    if "split" in change:
        rows = [{**row, "split": "test" if j % 3 == 0 else "train"} for j, row in enumerate(rows)]
    if "image" in change:
        for j, row in enumerate(rows):
            PIL.Image.fromarray(np.full((4, 4, 3), j, dtype=np.uint8)).save(tmp_path / f"{j}.png")
            row["image"] = f"{j}.png"
            del row["text"]
        (tmp_path / "broken.png").write_bytes(b"no image")
    write_csv(tmp_path / "letters.csv", [*rows, {**rows[-1], "text": "new text"} | change])
    code, said = started([*commands[command], "--set", f"stream.path={tmp_path / 'letters.csv'}"], tmp_path / "out", capsys)
    assert code == 2 and said.count("\n") == 1
    assert re.search(expected.replace("line 90", f"line {len(rows) + 2}"), said), said
    assert not (tmp_path / "out").exists()


def write_csv(path: Path, rows: list[dict]) -> None:
    pd.DataFrame(rows, columns=[name for name in rows[0] if name in ("image", "text", "label", "task", "split")]).to_csv(path, index=False)


@pytest.mark.parametrize("command", ["verify", "compare", "ablate", "certify"])
def test_an_encoder_in_a_pickle_is_not_opened(commands, home, command, tmp_path, capsys):
    shutil.copytree(home / "encoder", tmp_path / "encoder")
    (tmp_path / "encoder/model.safetensors").unlink()
    (tmp_path / "encoder/pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    place = str(tmp_path / "encoder")
    other = ["--backbone", place] if command == "certify" else ["--set", f"backbone.path={place}"]
    code, said = started([*commands[command], *other], tmp_path / "out", capsys)
    assert code == 2 and said.count("\n") == 1 and "holds no usable encoder" in said
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "out").exists()


class Trap:
    """Unpickling this leaves a folder behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def other_encoder(folder: Path) -> None:
    wrapped = get_peft_model(tiny.MODELS["vit"](), LoraConfig(r=1, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(folder)


def wider_encoder(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: np.ones((1, 64), np.float32) if "lora_A" in name else x for name, x in load_file(path).items()}, path)


def lost_tensor(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    del found[max(found)]
    save_file(found, path)


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "elsewhere")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(folder.parent / "sprung")))


def pickled_beside(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Trap(folder.parent / "sprung")))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (other_encoder, "another encoder"),
        (wider_encoder, r"lora_A has shape .*\[1, 64\]"),
        (lost_tensor, "lacks 1 tensors"),
        (pickled, r"adapter_model\.bin"),
        (pickled_beside, r"adapter_model\.bin"),
        (shutil.rmtree, "late"),
    ],
)
def test_adapters_that_do_not_fit_are_one_line(commands, home, spoil, expected, tmp_path, capsys):
    shutil.copytree(home / "adapters", tmp_path / "adapters")
    spoil(tmp_path / "adapters/late")
    command = [word.replace(str(home / "adapters/late"), str(tmp_path / "adapters/late")) for word in commands["certify"]]
    code, said = started(command, tmp_path / "out", capsys)
    assert code == 2 and said.count("\n") == 1 and re.search(expected, said), said
    assert not (tmp_path / "adapters/sprung").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "  "}, "sample 89 has an empty text"),
        ({"task": "lone"}, "names the task 'lone', for which there is no adapter"),
        ({"task": " "}, "sample 89, column task: is empty"),
        ({"image": "broken.png"}, r"sample 89 has the image .*broken\.png, which is no image"),
        ({"image": "absent.png"}, r"line 90, column image: names 'absent\.png', which is no file"),
    ],
)
def test_samples_that_cannot_be_used_are_one_line(commands, home, change, expected, tmp_path, capsys):
    rows = pd.read_csv(home / "letters.csv").to_dict("records")
    if "image" in change:
        PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "good.png")
        rows = [{"image": "good.png", "task": row["task"]} for row in rows]
        (tmp_path / "broken.png").write_bytes(b"no image")
    write_csv(tmp_path / "letters.csv", [*rows, {**rows[-1], **change}])
    command = [word.replace(str(home / "letters.csv"), str(tmp_path / "letters.csv")) for word in commands["certify"]]
    code, said = started(command, tmp_path / "out", capsys)
    expected = expected.replace("89", str(len(rows) + 1)).replace("90", str(len(rows) + 2))
    assert code == 2 and said.count("\n") == 1 and re.search(expected, said), said
    assert not (tmp_path / "out").exists()


def test_a_task_of_one_sample_is_one_line_or_left_out_if_asked(commands, home, tmp_path, capsys):
    rows = pd.read_csv(home / "letters.csv").to_dict("records")
    write_csv(tmp_path / "letters.csv", [row for j, row in enumerate(rows) if row["task"] == "early" or j == len(rows) - 1])
    command = [word.replace(str(home / "letters.csv"), str(tmp_path / "letters.csv")) for word in commands["certify"]]
    code, said = started(command, tmp_path / "out", capsys)
    assert code == 2 and "has 1 different samples of the task 'late'" in said
    write_csv(tmp_path / "more.csv", [*rows, {**rows[0], "text": "only one", "task": "alone"}])
    stream = load_stream(StreamConfig(path=tmp_path / "more.csv", unusable="drop"), np.random.default_rng(0))
    assert [task.name for task in stream.tasks] == ["early", "late"]
    assert stream.left_out == ("1 classes too small for their parts: alone/x",)


def files(folder: Path) -> dict[str, bytes]:
    # The lock ends with the process that held it, and its file is left by one that was killed.
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def timeless(found: dict[str, bytes]) -> dict[str, bytes]:
    """What does not depend on how long things took."""
    kept = (".safetensors", "predictions.parquet", "calibration.parquet", "samples.parquet", "bounds.parquet")
    return {name: data for name, data in found.items() if name.endswith(kept)}


@pytest.mark.parametrize("killed", [False, True], ids=["disk full", "killed"])
@pytest.mark.parametrize(("name", "least"), [("verify", 20), ("compare", 4), ("ablate", 20), ("certify", 6)])
def test_every_write_may_fail(commands, name, least, killed, once, tmp_path, capsys):
    """The first attempt fails at its first write, the next at its second, and so on, until one comes through."""
    command, out = commands[name], tmp_path / "out"
    assert started(command, tmp_path / "undisturbed", capsys) == (0, "")
    expected = files(tmp_path / "undisturbed")
    finished: set[str] = set()
    for writes in itertools.count():
        fault = Fault(writes, killed)
        with fault.at_work():
            try:
                code, said = started(command, out, capsys)
            except Killed:
                code, said = -9, ""
        if not fault.struck:
            break
        assert code == (-9 if killed else 1)
        if not killed:
            assert said.count("\n") == 1 and "No space left on device" in said and str(out) in said and UNFINISHED not in said
        for path, data in files(out).items():
            if path.endswith(UNFINISHED):
                assert killed
            else:
                READERS.get(Path(path).suffix, lambda _: None)(out / path)
                assert data
                # Checkpoints go when the run is finished.
                if not path.startswith("checkpoints/"):
                    finished.add(path)
        # Whatever was whole stays.
        assert all((out / path).is_file() for path in finished)
    assert (code, said) == (0, "")
    # All go on, and fail at ever later writes of what is left.
    assert writes >= least - 1
    assert files(out).keys() == expected.keys()
    assert timeless(files(out)) == timeless(expected) != {}


def test_an_unfinished_run_of_other_settings_is_left_alone(commands, once, tmp_path, capsys):
    for name, other in (("verify", ["--set", "seed=1"]), ("certify", ["--seed", "1"])):
        out = tmp_path / name
        with Fault(3, True).at_work(), pytest.raises(Killed):
            started(commands[name], out, capsys)
        before = files(out)
        assert json.loads(before["unfinished.json"])
        code, said = started([*commands[name], *other], out, capsys)
        assert code == 2 and "holds another run" in said
        assert files(out) == before


def test_a_run_that_lacks_its_report_only_is_not_trained_again(commands, once, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert started(commands["verify"], out, capsys) == (0, "")
    expected = files(out)
    (out / "unfinished.json").write_text(json.dumps(read_json(out / "run.json")["config"]))
    (out / "report.md").unlink()
    monkeypatch.setattr(embedding, "train_and_embed", lambda *_: pytest.fail("it was trained again"))
    assert started(commands["verify"], out, capsys) == (0, "")
    assert files(out) == expected
