"""Adapters that PEFT trained and saved, certified from a table of samples; and everything that can be wrong with either."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tiny
import torch
from alphabets import ALPHABETS, table, trained
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from empirics.adapters.adapter import active
from empirics.adapters.peft_folders import for_adapters, read_peft_folder
from empirics.cli import main
from empirics.config import load_certify_config
from empirics.data.documents import column
from empirics.data.samples import LEAST, PARTS, check_samples, read_samples
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import read_tensors
from empirics.routing.certificate import Certificate
from empirics.routing.certify import certify, named_folders
from theory import InputError, Rule, clopper_pearson, read_signatures, simultaneous_certificates
from theory.certificates import upper_limit
from theory.mixture import Gaussians

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def bert():
    return tiny.backbone()


@pytest.fixture(scope="module")
def folders(bert, tmp_path_factory):
    home = tmp_path_factory.mktemp("adapters")
    for seed, task in enumerate(ALPHABETS):
        trained(bert.model, home / task, task, seed)
    return {task: home / task for task in ALPHABETS}


@pytest.fixture(scope="module")
def all_rules(bert, folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "certificate"
    config = load_certify_config({"rule": "all", "simulations": 4000, "signature": {"dimension": 6}})
    return certify(folders, table(), config, backbone=bert, out=out), out


def test_the_numbers_are_those_of_the_samples(all_rules):
    """Measured error, its interval and L8 are recomputed from the table of retrieved tasks."""
    found, out = all_rules
    frame = pd.read_parquet(out / "samples.parquet")
    assert {item.rule for item in found.rules} == {"ratio", "paper", "frozen"}
    for item in found.rules:
        wrong = frame[f"{item.rule}:retrieved"] != frame["task"]
        test, held = frame["part"] == "measurement", frame["part"] == "certificate"
        for unit in [*item.tasks, item.overall]:
            own = np.ones(len(frame), dtype=bool) if unit.name == "overall" else frame["task"] == unit.name
            assert (unit.measured.errors, unit.measured.n) == (wrong[own & test].sum(), (own & test).sum())
            assert (unit.measured.low, unit.measured.high) == pytest.approx(clopper_pearson(unit.measured.errors, unit.measured.n, 0.95))
            # Three tasks and the pool, for each of three rules, share the probability of failure.
            errors, n = int(wrong[own & held].sum()), int((own & held).sum())
            assert unit.certificate.value == pytest.approx(upper_limit(errors, n, 0.05 / 3 / 4))
            assert unit.certificate.level == "A0" and unit.law is not None and "L5" in unit.rungs
        assert item.macro_error == pytest.approx(np.mean([wrong[test & (frame["task"] == t)].mean() for t in ALPHABETS]))


def test_one_rule_keeps_the_whole_confidence(bert, folders, all_rules):
    config = load_certify_config({"rule": "ratio", "simulations": 4000, "signature": {"dimension": 6}})
    found = certify(folders, table(), config, backbone=bert)
    several = next(item for item in all_rules[0].rules if item.rule == "ratio")
    assert [u.measured for u in found.rules[0].tasks] == [u.measured for u in several.tasks]
    assert all(a.certificate.value < b.certificate.value for a, b in zip(found.rules[0].tasks, several.tasks, strict=True))
    assert "fixed before" in found.statement and "all 3 rules" in all_rules[0].statement


def test_parts_are_disjoint_and_random_within_a_class():
    frame = table(50)
    dealt = check_samples(frame, tuple(ALPHABETS), "s", np.random.default_rng(0))
    assert len(set(dealt.row)) == len(dealt.row) == len(frame)
    labels = frame["label"].to_numpy()[dealt.row]
    for k, task in enumerate(ALPHABETS):
        for label in ("short", "long"):
            members = (dealt.task == k) & (labels == label)
            assert len(set(dealt.cluster[members])) == 1
            sizes = [int((dealt.part[members] == part).sum()) for part in PARTS]
            assert np.allclose(sizes, np.array([0.4, 0.4, 0.2]) * members.sum(), atol=1), task
    again = check_samples(frame, tuple(ALPHABETS), "s", np.random.default_rng(1))
    assert (again.part != dealt.part).mean() > 0.3


def test_saved_signatures_retrieve_the_same(all_rules, bert, folders):
    """What is written is enough to serve: embed, project, score."""
    found, out = all_rules
    frame = pd.read_parquet(out / "samples.parquet")
    texts = [table()["text"].iloc[row] for row in frame["row"]]
    adapters = [read_peft_folder(folder, bert, name).adapter for name, folder in folders.items()]
    cut = for_adapters(bert, adapters)
    assert cut.first == 0
    cache = encode_prefix(cut, texts)
    spaces = []
    for adapter in adapters:
        with active(cut, adapter):
            spaces.append(embed(cut, cache, np.arange(len(texts))))
    for item in found.rules:
        path = out / "signatures" / f"{item.rule}.safetensors"
        signatures, extra = read_signatures(path), read_tensors(path)
        assert len(signatures) == item.components == 6 and item.signature_bytes > 0
        x = np.stack([cache.frozen] if item.rule == "frozen" else spaces, axis=1).astype(float)
        z = np.einsum("nsD,sdD->nsd", x - extra["projection_mean"], extra["projection_axes"])
        background = Gaussians(extra["background_means"], extra["background_covariances"]) if item.rule == "ratio" else None
        retrieved = Rule(signatures, background).retrieve(z)
        assert [list(ALPHABETS)[k] for k in retrieved] == frame[f"{item.rule}:retrieved"].tolist()


def test_without_labels_each_task_has_one_gaussian_or_a_mixture(bert, folders):
    for clusters, sizes in (("class", [1, 1, 1]), ("dp-mixture", None)):
        config = load_certify_config({"simulations": 4000, "signature": {"clusters": clusters, "dimension": 4, "min_samples": 4}})
        found = certify(folders, table(labelled=False), config, backbone=bert)
        assert [task.clusters for task in found.tasks] == [1, 1, 1]
        assert sizes is None or found.rules[0].components == 3
        assert found.rules[0].overall.law is not None


def test_the_same_seed_gives_the_same_certificate(bert, folders):
    config = load_certify_config({"rule": "frozen", "simulations": 1000, "signature": {"dimension": 4}})
    a, b = (certify(folders, table(), config, backbone=bert) for _ in range(2))
    assert a.model_dump(exclude={"environment"}) == b.model_dump(exclude={"environment"})
    other = certify(folders, table(), config.model_copy(update={"seed": 1}), backbone=bert)
    assert other.rules != a.rules


def test_adapters_together_or_one_after_the_other_are_the_same(bert, folders, tmp_path):
    """A folder that adapts the pooler, too, takes the slower way where that is looked at, to the same numbers if it changes nothing."""
    wrapped = PeftModel.from_pretrained(copy.deepcopy(bert.model), folders["late"])
    wrapped.peft_config["default"].target_modules = {"query", "value", "intermediate.dense", "pooler.dense"}
    wrapped.save_pretrained(tmp_path / "late")
    extra = load_file(tmp_path / "late" / "adapter_model.safetensors")
    rank = wrapped.peft_config["default"].r
    extra |= {f"base_model.model.pooler.dense.lora_{x}.weight": torch.ones(rank, 32) if x == "A" else torch.zeros(32, rank) for x in "AB"}
    save_file(extra, tmp_path / "late" / "adapter_model.safetensors")
    config = load_certify_config({"rule": "paper", "simulations": 1000, "signature": {"dimension": 4}})
    given = folders, {**folders, "late": tmp_path / "late"}
    for pooling, more in (("pooler", 1), ("mean", 0)):
        a, b = (certify(each, table(), config, backbone=tiny.backbone(pooling=pooling)) for each in given)
        assert b.tasks[2].adapted == a.tasks[2].adapted + more
        assert [u.measured for u in a.rules[0].tasks] == [u.measured for u in b.rules[0].tasks]


def test_a_law_too_large_for_memory_leaves_l8_alone(bert, folders, monkeypatch):
    monkeypatch.setattr("empirics.routing.certify._LARGEST_LAW", 4)
    found = certify(folders, table(), load_certify_config({}), backbone=bert)
    assert all(unit.law is None and unit.rungs == {} and unit.certificate.value < 1 for unit in found.rules[0].tasks)


def test_the_certificate_holds_as_often_as_it_says(monkeypatch):
    """Samples with known error rates through the dealing and the certificate: all limits hold together in 90% of draws."""
    rates, broken, draws = {"a": 0.05, "b": 0.3, "c": 0.0}, 0, 300
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        sizes = rng.integers(40, 80, size=3)
        tasks = np.repeat(list(rates), sizes)
        frame = pd.DataFrame({"text": [f"{draw} {j}" for j in range(tasks.size)], "task": tasks})
        dealt = check_samples(frame, tuple(rates), "s", rng)
        wrong = rng.random(dealt.task.size) < np.array(list(rates.values()))[dealt.task]
        held = dealt.where("certificate")
        counts = [np.bincount(dealt.task[rows], minlength=3) for rows in (held[wrong[held]], held)]
        limits = simultaneous_certificates(*counts, 0.9, dealt.names)
        pooled = (counts[1] @ list(rates.values())) / counts[1].sum()
        broken += any(limits.tasks[name].value < rate for name, rate in rates.items()) or limits.overall.value < pooled
    assert broken / draws <= 0.1 + 3 * np.sqrt(0.09 / draws)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random encoder with a tokenizer, as a folder that AutoModel loads."""
    folder = tmp_path_factory.mktemp("encoder")
    return folder, tiny.save_bert(folder, layers=2, positions=64)


def test_folders_of_peft_are_certified_from_the_command_line(encoder, tmp_path, monkeypatch, capsys):
    home, model = encoder
    for seed, task in enumerate(("early", "late")):
        trained(model, tmp_path / f"adapter-{task}", task, seed)
    frame = table(40)
    frame[frame["task"] != "middle"].to_csv(tmp_path / "samples.csv", index=False)
    arguments = ["certify", *(f"{task}={tmp_path / f'adapter-{task}'}" for task in ("early", "late")), "--quiet"]
    arguments += ["--samples", tmp_path / "samples.csv", "--backbone", home, "--set", "simulations=2000", "--set", "backbone.max_length=24"]
    command = [sys.executable, "-m", "empirics.cli", *map(str, arguments), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "certified at most" in done.stdout and "overall" in done.stdout and "independent draws" in done.stdout
    found = Certificate.model_validate_json((tmp_path / "out" / "certificate.json").read_text())
    assert [task.name for task in found.tasks] == ["early", "late"]
    assert found.rules[0].overall.certificate.value < 0.6

    def again(*more):
        monkeypatch.setattr(sys, "argv", ["proteus-bounds", *map(str, [*arguments, *more])])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    code, said = again("--out", tmp_path / "out")
    assert code == 2 and "holds what is finished" in said.err and len(said.err.strip().splitlines()) == 1
    code, said = again("--confidence", 1.5)
    assert code == 2 and "confidence" in said.err
    code, said = again("--json")
    assert code == 0
    assert json.loads(said.out)["rules"] == json.loads((tmp_path / "out" / "certificate.json").read_text())["rules"]


def test_adapters_of_an_image_encoder_are_certified_from_files(tmp_path):
    vit = tiny.backbone(kind="vit")
    for task in ("rows", "columns"):
        wrapped = get_peft_model(copy.deepcopy(vit.model), LoraConfig(r=2, target_modules=["q_proj", "fc1"], init_lora_weights=False))
        wrapped.save_pretrained(tmp_path / task)
    pixels, kind = tiny.images(60)
    paths = [f"{j}.png" for j in range(60)]
    for path, x in zip(paths, pixels, strict=True):
        PIL.Image.fromarray(x).save(tmp_path / path)
    pd.DataFrame({"image": paths, "task": np.array(["rows", "columns"])[kind]}).to_csv(tmp_path / "samples.csv", index=False)
    folders = {task: tmp_path / task for task in ("rows", "columns")}
    found = certify(folders, read_samples(tmp_path / "samples.csv"), load_certify_config({"simulations": 2000}), backbone=vit)
    assert found.rules[0].overall.measured.n == 12
    (tmp_path / "7.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"sample 8 has the image .*7\.png, which is no image"):
        certify(folders, read_samples(tmp_path / "samples.csv"), backbone=vit)
    with pytest.raises(InputError, match="holds texts, and the encoder takes images"):
        certify(folders, table().replace({"early": "rows", "late": "columns", "middle": "rows"}), backbone=vit)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda f: f.rename(columns={"text": "body"}), "no column 'text'"),
        (lambda f: f.drop(columns="task"), "no column 'task'"),
        (lambda f: f.assign(image="a.png"), "columns text and image"),
        (lambda f: f.rename(columns={"text": "image"}), "sample 1 has no image"),
        (lambda f: f.assign(task=f["task"].replace("late", "tardy")), "names the task 'tardy'"),
        (lambda f: f[f["task"] != "late"], "no samples of the task 'late'"),
        (lambda f: f[(f["task"] != "late") | (np.arange(len(f)) == len(f) - 1)], r"1 different samples of the task 'late'"),
        (lambda f: f.assign(text=["", *f["text"].iloc[1:]]), "sample 1 has an empty text"),
        (lambda f: f.assign(text=[*f["text"].iloc[:-1], " \n"]), "has an empty text"),
        (lambda f: f.assign(text=[None, *f["text"].iloc[1:]]), "sample 1 has no text"),
        (lambda f: f.assign(text=[3.5, *f["text"].iloc[1:]]), "sample 1 has no text"),
        (lambda f: f.assign(text=["a\0", *f["text"].iloc[1:]]), "sample 1 has a text with a NUL"),
        (
            lambda f: f.assign(text=column(["\ud800", *f["text"].iloc[1:]]).set_axis(f.index)),
            "sample 1 has a text that is not valid Unicode",
        ),
        (lambda f: f.assign(task=[None, *f["task"].iloc[1:]]), "sample 1, column task: is NaN"),
        (lambda f: f.assign(task=[*f["task"].iloc[:-1], " "]), "column task: is empty"),
        (lambda f: f.assign(text=f["task"]), "1 different samples"),
        (lambda f: f.iloc[:0], "no samples"),
    ],
)
def test_samples_that_do_not_fit_are_named(change, what, bert, folders, tmp_path):
    with pytest.raises(InputError, match=what):
        certify(folders, change(table(20)), load_certify_config({}), source="s.csv", backbone=bert, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_done_to_the_samples_is_noted(bert):
    frame = pd.concat([table(30), table(30).iloc[:5]])
    frame.loc[frame["task"] == "middle", "label"] = ["rare"] * 3 + ["often"] * (int((frame["task"] == "middle").sum()) - 3)
    frame.loc[frame["task"] == "late", "label"] = [None] + ["x"] * (int((frame["task"] == "late").sum()) - 1)
    dealt = check_samples(frame, tuple(ALPHABETS), "s", np.random.default_rng(0))
    assert len(dealt.inputs) == len(table(30))
    assert [
        what in note for what, note in zip(("5 samples repeat", f"3 samples, fewer than {LEAST}", "label"), dealt.notes, strict=True)
    ] == [True] * 3
    assert [np.unique(dealt.cluster[dealt.task == k]).size for k in range(3)] == [2, 1, 1]


def test_adapters_that_do_not_fit_are_refused_before_anything_is_made(bert, folders, tmp_path):
    with pytest.raises(InputError, match="at least two"):
        certify({"early": folders["early"]}, table(), backbone=bert)
    with pytest.raises(InputError, match="absent"):
        certify({**folders, "late": tmp_path / "absent"}, table(), backbone=bert, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"signature\.dimension"):
        certify(folders, table(), load_certify_config({"signature": {"dimension": 33}}), backbone=bert, out=tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        certify(folders, table(), backbone=bert, out=tmp_path / "full")
    assert not (tmp_path / "out").exists() and [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_what_was_begun_is_gone_on_with_under_the_same_adapters_encoder_and_samples_only(folders, tmp_path, monkeypatch):
    """Whatever they are called: paths tell nothing."""
    home, out = tmp_path / "adapters", tmp_path / "out"
    given = {task: shutil.copytree(folder, home / task) for task, folder in folders.items()}
    config = load_certify_config({"rule": "frozen", "simulations": 1000, "signature": {"dimension": 4}})
    bert = tiny.backbone()

    def call(samples=None, encoder=bert):
        return certify(given, table() if samples is None else samples, config, backbone=encoder, out=out, resume=out.exists())

    with monkeypatch.context() as patch:
        patch.setattr("empirics.routing.certify.write_parquet", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call()
    monkeypatch.setattr("empirics.routing.certify.encode_prefix", lambda *_: pytest.fail("work was begun"))
    other = tiny.backbone()
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1
    with pytest.raises(InputError, match=r"holds another run, unfinished: sha256\.encoder is \w{64} there and \w{64} here; choose"):
        call(encoder=other)
    with pytest.raises(InputError, match=r"unfinished: sha256\.samples is"):
        call(table(seed=1))
    kept = (given["late"] / "adapter_model.safetensors").read_bytes()
    tensors = load_file(given["late"] / "adapter_model.safetensors")
    save_file({name: -x for name, x in tensors.items()}, given["late"] / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"unfinished: sha256\.adapters\.late is"):
        call()
    (given["late"] / "adapter_model.safetensors").write_bytes(kept)
    monkeypatch.undo()
    found = call()
    assert found.model_dump(exclude={"environment"}) == certify(given, table(), config, backbone=bert).model_dump(exclude={"environment"})


def test_the_digest_of_samples_is_of_what_they_say_and_not_of_how_it_is_kept(tmp_path):
    frame = table(20).assign(more=1).reset_index(drop=True)
    frame["label"] = frame["label"].map({"short": 1, "long": 2})
    frame.loc[3, "text"] = " a b "

    def digest(samples):
        return check_samples(samples, tuple(ALPHABETS), "s", np.random.default_rng(0)).sha256

    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    read = [read_samples(tmp_path / f"a.{ending}") for ending in ("csv", "parquet", "jsonl")]
    assert {digest(samples) for samples in [*read, frame.drop(columns="more"), frame.set_index("text", drop=False)]} == {digest(frame)}
    gaps = frame.assign(label=frame["label"].where(frame["task"] != "late"))
    whole = gaps.assign(label=gaps["label"].astype("Int64"))
    whole.to_csv(tmp_path / "gaps.csv", index=False)
    # Read with gaps, whole numbers are fractions.
    assert gaps["label"].dtype == float and {digest(samples) for samples in (whole, read_samples(tmp_path / "gaps.csv"))} == {digest(gaps)}
    changes = {
        "text": frame.assign(text=[*frame["text"].iloc[:-1], "another"]),
        "space": frame.assign(text=frame["text"].str.strip()),
        "task": frame.assign(task=["late", *frame["task"].iloc[1:]]),
        "label": frame.assign(label=[1, *frame["label"].iloc[1:]]),
        "labels": frame.drop(columns="label"),
        "gaps": gaps,
        "order": frame.iloc[::-1],
        "repeat": pd.concat([frame, frame.iloc[:1]]),
    }
    assert len({digest(frame), *map(digest, changes.values())}) == 1 + len(changes)


def test_tasks_are_named_by_folder_or_by_argument(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert list(named_folders([str(tmp_path / "x"), f"y={tmp_path / 'z'}", str(tmp_path / "a=b"), f"{tmp_path}/"])) == [
        "x",
        "y",
        "a=b",
        tmp_path.name,
    ]
    with pytest.raises(InputError, match="no name"):
        named_folders([f"={tmp_path / 'x'}"])
    with pytest.raises(InputError, match="two folders"):
        named_folders([str(tmp_path / "x"), f"x={tmp_path / 'z'}"])


def test_settings_that_do_not_exist_are_named():
    for overrides, what in (
        (["rules=all"], "rule"),
        (["rule=best"], "rule"),
        (["confidence=1.5"], "confidence"),
        (["signature.dimensions=3"], "signature.dimension"),
    ):
        with pytest.raises(InputError, match=what):
            load_certify_config({}, overrides)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_reads_alike(kind, tmp_path):
    frame = table(10).reset_index(drop=True)
    frame.loc[0, "text"] = 'a "quoted",\ntext of two lines'
    path = tmp_path / f"samples.{kind}"
    {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(path),
    }[kind]()
    assert read_samples(path)[["text", "task", "label"]].to_numpy().tolist() == frame.to_numpy().tolist()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tasks_that_are_numbers_are_named_by_them(kind, tmp_path):
    frame = pd.DataFrame({"text": [f"text {j}" for j in range(20)], "task": [float(j % 2) for j in range(20)], "label": None})
    path = tmp_path / f"samples.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_json(path, orient="records", lines=True)
    dealt = check_samples(read_samples(path), ("1", "0"), "s", np.random.default_rng(0))
    assert np.array_equal(dealt.task, 1 - np.arange(20) % 2) and len(dealt.notes) == 2


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("s.csv", b"\xff\xfe\x00", "UTF-16"),
        ("s.csv", b"text,task\na\xff,x\n", "line 2 is not UTF-8"),
        ("s.csv", b"", "no header"),
        ("s.csv", b'text,task\nok,x\n"open,x\nb,y\n', "line 3 is not valid CSV"),
        ("s.csv", b"text,task\na,x,y\n", "line 2 has 3 fields, the header 2"),
        ("s.csv", b"text,text,task\na,b,c\n", "two columns 'text'"),
        ("s.csv", b"image,task\nnone.png,x\n", r"line 2, column image: names 'none\.png', which is no file"),
        ("s.csv", b"image,task\nhttps://x.org/a.png,x\n", "nothing is downloaded"),
        ("s.jsonl", b'{"task": "x"}\n{"image": "", "task": "x"}\n', "line 1, column image: is empty"),
        ("s.jsonl", b'{"text": ', "line 1 is not valid JSON"),
        ("s.jsonl", b'{"text": NaN}', "NaN is not JSON"),
        ("s.parquet", b"junk", "not a Parquet file"),
        ("s.txt", b"", "no known ending"),
    ],
)
def test_tables_that_are_no_tables_are_named(name, content, what, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_samples(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    if name == "s.txt":
        return
    with pytest.raises(InputError, match=r"absent.* cannot be read"):
        read_samples(tmp_path / f"absent{name[1:]}")
