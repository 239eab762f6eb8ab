"""A disk that is full, or a process that is killed, at each write of each command: one line, whole files, and the same command again."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from peft import LoraConfig, get_peft_model

from empirics import embedding, record
from empirics.cli import main
from empirics.record import read_json, read_parquet, read_tensors
from theory.files import UNFINISHED

pytestmark = pytest.mark.filterwarnings("ignore")

READERS = {".json": read_json, ".parquet": read_parquet, ".safetensors": read_tensors}
SETTINGS = {
    "stream.train_per_class": 8,
    "stream.query_per_class": 4,
    "stream.test_per_class": 4,
    "stream.reservoir_per_class": 4,
    "backbone.adapted_layers": 1,
    "backbone.max_length": 12,
    "adapter.rank": 1,
    "training.epochs": 1,
    "signature.dimension": 2,
    "bounds.simulations": 1000,
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is tidied up after it."""


class Fault:
    """Lets a number of writes through and stops at the next."""

    def __init__(self, writes: int, killed: bool) -> None:
        self.left, self.killed, self.struck = writes, killed, False

    def fsync(self, handle: int) -> None:
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
    (folder / "encoder").mkdir()
    model = tiny.save_bert(folder / "encoder", layers=2, positions=16)
    rng = np.random.default_rng(0)
    rows = [
        {"text": "".join(rng.choice(list(own), size=9)), "label": label, "task": task}
        for task, pair in {"early": ("abc", "cde"), "late": ("uvw", "wxy")}.items()
        for label, own in zip("xy", pair, strict=True)
        for _ in range(22)
    ]
    pd.DataFrame(rows).drop_duplicates("text").to_csv(folder / "letters.csv", index=False)
    for task in ("early", "late"):
        wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(r=1, target_modules=["query"], init_lora_weights=False))
        wrapped.save_pretrained(folder / "adapters" / task)
    (folder / "variants.yaml").write_text("dimension: {three: {signature: {dimension: 3}}}")
    return folder


@pytest.fixture(scope="module")
def commands(home):
    changes = {**SETTINGS, "stream.path": home / "letters.csv", "backbone.path": home / "encoder"}
    own = [x for key, value in changes.items() for x in ("--set", f"{key}={value}")]
    compared = ["--methods", "ridge,nearest-mean", "--reference", "ridge", "--seeds", "1", "--orders", "2"]
    return {
        "verify": ["verify", *own],
        "compare": ["compare", *own, *compared, "--set", "compare.random_features=9", "--set", "signature.pool=0"],
        "ablate": ["ablate", *own, "--variants", str(home / "variants.yaml")],
        "certify": [
            *("certify", str(home / "adapters/early"), str(home / "adapters/late"), "--samples", str(home / "letters.csv")),
            *("--backbone", str(home / "encoder"), "--dimension", "2", "--rule", "all"),
            *("--set", "simulations=1000", "--set", "backbone.max_length=12"),
        ],
    }


@pytest.fixture(scope="module")
def once():
    """Documents, frozen pass and training happen once, however often commands are started: their settings agree in these."""
    kept: dict[str, object] = {}

    def cached(name, real):
        def answer(*arguments):
            if name not in kept:
                kept[name] = real(*arguments)
            return kept[name]

        return answer

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open_stream", "encode", "train_and_embed"):
            patch.setattr(embedding, name, cached(name, getattr(embedding, name)))
        patch.setattr(record, "_git", cached("_git", record._git))
        yield


def started(command: list[str], out: Path, capsys) -> tuple[int, str]:
    """Exit status and standard error of a command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["proteus-bounds", *command, "--out", str(out), "--quiet"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), capsys.readouterr().err


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def timeless(found: dict[str, bytes]) -> dict[str, bytes]:
    """What does not depend on how long things took."""
    kept = (".safetensors", "predictions.parquet", "calibration.parquet", "samples.parquet", "bounds.parquet")
    return {name: data for name, data in found.items() if name.endswith(kept)}


@pytest.mark.parametrize("killed", [False, True], ids=["disk full", "killed"])
@pytest.mark.parametrize(("name", "least"), [("verify", 28), ("compare", 4), ("ablate", 28), ("certify", 6)])
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
                finished.add(path)
        # Whatever was whole stays.
        assert all((out / path).is_file() for path in finished)
    assert (code, said) == (0, "")
    # Those that start over fail at each of their writes, the others at ever later ones of what is left.
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
