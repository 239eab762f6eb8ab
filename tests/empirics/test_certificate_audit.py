"""The audit of certificates: sound ones pass, whatever their settings, and planted alterations are found, as those of runs are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import tiny
from alphabets import ALPHABETS, as_schema_1, table, trained
from alterations import change_table
from certificate_alterations import ALTERATIONS
from typer.testing import CliRunner

from empirics.audit import Audit, audit
from empirics.cli import app
from empirics.config import load_certify_config
from empirics.data.samples import read_samples
from empirics.files.manifest import write_manifest
from empirics.files.record import MARKER, read_json, write_json
from empirics.routing.certified_cascade import fit_pruning
from empirics.routing.certify import certify
from theory.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An encoder, adapters that PEFT trained for it, and a table of samples."""
    place = tmp_path_factory.mktemp("certified")
    (place / "encoder").mkdir()
    model = tiny.save_bert(place / "encoder", layers=2, positions=64)
    for seed, task in enumerate(ALPHABETS):
        trained(model, place / task, task, seed)
    frame = table()
    frame.to_csv(place / "samples.csv", index=False)
    frame.drop(columns="label").to_csv(place / "bare.csv", index=False)
    few = frame.assign(label=["rare" if j < 3 else label for j, label in enumerate(frame["label"])])
    pd.concat([few, few.iloc[:5]]).to_csv(place / "repeats.csv", index=False)
    # Tasks so far apart that errors are drawn by importance.
    bits = [f"{n:05b}" for n in range(32)]
    pairs = {task: dict(zip(map(ord, "01"), letters, strict=False)) for task, letters in ALPHABETS.items()}
    far = [{"task": task, "text": ("000000000" + text).translate(own)} for task, own in pairs.items() for text in bits]
    pd.DataFrame(far).to_csv(place / "far.csv", index=False)
    return place


def _certified(home: Path, out: Path, samples: str = "samples.csv", **settings) -> Path:
    own = {"simulations": 4000, "backbone": {"path": home / "encoder", "max_length": 24}}
    config = load_certify_config({**own, "signature": {"dimension": 6}, **settings})
    certify({task: home / task for task in ALPHABETS}, read_samples(home / samples), config, out=out)
    return out


@pytest.fixture(scope="module")
def sound(home):
    return _certified(home, home / "out", rule="all")


def _audited(folder: Path, home: Path, option: str, samples: str = "samples.csv") -> Audit:
    return audit(folder, samples=home / samples, thorough=option == "--thorough", repeat=option == "--repeat")


def test_a_sound_certificate_passes_and_says_what_it_looked_at(sound, home):
    found = audit(sound)
    assert found.passed, found.findings[:5]
    assert all(check.count for check in found.checks)
    assert {check.how for check in found.checks} == {"recomputed", "compared", "printed again"}
    options = {
        option for check in found.checks for what in check.not_checked for option in ("--data", "--thorough", "--cascade") if option in what
    }
    assert options == {"--data", "--thorough", "--cascade"}
    found = audit(sound, samples=home / "samples.csv", thorough=True, repeat=True)
    assert found.passed, found.findings[:5]
    assert {check.name for check in found.checks} >= {"samples", "embeddings", "projections", "fit", "query laws", "repeated"}
    assert [what.partition(":")[0] for check in found.checks for what in check.not_checked if "cascade" not in what] == [
        "versions and machine",
        "that rule and settings were chosen before the samples were seen, and the adapters not trained on these",
    ]
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["passed"] and len(told["checks"]) == len(found.checks)


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({"rule": "frozen", "confidence": 0.6, "signature": {"dimension": 10, "covariance": "full"}}, "bare.csv"),
        ({"signature": {"dimension": 3, "clusters": "dp-mixture", "min_samples": 4}, "query_law": {"covariance": "auto"}}, "repeats.csv"),
        ({"signature": {"dimension": 3, "clusters": "task", "covariance": "oas"}}, "far.csv"),
        ({"rule": "paper", "alpha": 0.3, "signature": {"dimension": 32}, "simulations": 1000}, "samples.csv"),
    ],
    ids=["bare", "mixtures", "far", "whole"],
)
def test_a_sound_certificate_passes_whatever_its_settings(settings, samples, home, tmp_path):
    folder = _certified(home, tmp_path / "out", samples, **settings)
    drawn = read_json(folder / "certificate.json")["rules"][0]["overall"]["rungs"]["L6"]["source"]
    assert ("importance" in drawn) == (samples == "far.csv")
    found = _audited(folder, home, "--thorough", samples)
    assert found.passed, found.findings[:5]


def test_where_no_law_was_fitted_only_limits_are_checked(home, tmp_path, monkeypatch):
    monkeypatch.setattr("empirics.routing.certify._LARGEST_LAW", 4)
    folder = _certified(home, tmp_path / "out")
    missed = {finding.where.rpartition(": ")[2] for finding in audit(folder).findings}
    assert missed == {"law", "rungs"}
    monkeypatch.setattr("empirics.audit.certificates.bounds._LARGEST", 4)
    found = _audited(folder, home, "--thorough")
    assert found.passed, found.findings[:5]
    assert next(check for check in found.checks if check.name == "query laws").count == 0


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=lambda a: a.name)
def test_an_alteration_is_found_though_the_manifest_fits_it(alteration, sound, home, tmp_path):
    """By the option that it takes: of some no other file tells, and without it these are found by the manifest alone."""
    folder = tmp_path / "out"
    shutil.copytree(sound, folder)
    alteration.apply(folder)
    assert not audit(folder).checks[0].passed
    write_manifest(folder)
    found = audit(folder)
    assert found.checks[0].passed
    assert found.passed == bool(alteration.option), found.findings[:5]
    if alteration.option:
        assert alteration.option == "--repeat" or any(alteration.option in what for check in found.checks for what in check.not_checked)
        assert not _audited(folder, home, alteration.option).passed


def test_samples_and_adapters_that_are_not_those_are_found(sound, home, tmp_path):
    frame = pd.read_csv(home / "samples.csv")
    frame.assign(text=frame["text"].str.replace("a", "b")).to_csv(tmp_path / "samples.csv", index=False)
    found = audit(sound, samples=tmp_path / "samples.csv")
    assert [finding.where for finding in found.findings] == ["certificate.json: sha256.samples"]
    frame.iloc[1:].to_csv(tmp_path / "samples.csv", index=False)
    found = audit(sound, samples=tmp_path / "samples.csv")
    assert {check.name for check in found.checks if not check.passed} == {"samples"}
    about = read_json(sound / "certificate.json")
    about["tasks"][0]["folder"], about["tasks"][1]["folder"] = about["tasks"][1]["folder"], about["tasks"][0]["folder"]
    for schema in (2, 1):
        shutil.copytree(sound, tmp_path / f"{schema}")
        write_json(tmp_path / f"{schema}" / "certificate.json", about)
        if schema == 1:
            as_schema_1(tmp_path / "1")
        write_manifest(tmp_path / f"{schema}")
        found = audit(tmp_path / f"{schema}", samples=home / "samples.csv")
        # Digests tell to the bit, and embeddings where there are none.
        assert any("early, sha256" in finding.where for finding in found.findings) == (schema == 2)
        assert any("score" in finding.where for finding in found.findings)


def test_a_certificate_of_schema_1_is_audited_as_far_as_it_goes(sound, home, tmp_path):
    shutil.copytree(sound, tmp_path / "out")
    as_schema_1(tmp_path / "out")
    write_manifest(tmp_path / "out")
    found = _audited(tmp_path / "out", home, "--repeat")
    assert found.passed, found.findings[:5]
    skipped = "\n".join(what for check in found.checks for what in check.not_checked)
    assert "notes no digests: certify again" in skipped and "a certificate of schema 1 cannot be" in skipped


def test_a_certificate_from_elsewhere_is_not_made_again(sound, home, tmp_path):
    shutil.copytree(sound, tmp_path / "out")
    about = read_json(tmp_path / "out" / "certificate.json")
    about["environment"]["packages"]["torch"] = "1.0"
    write_json(tmp_path / "out" / "certificate.json", about)
    write_manifest(tmp_path / "out")
    found = _audited(tmp_path / "out", home, "--repeat")
    assert found.passed, found.findings[:5]
    skipped = "\n".join(what for check in found.checks for what in check.not_checked)
    assert "environment.packages.torch is 1.0 there" in skipped and "--thorough" in skipped


@pytest.mark.parametrize("kind", ["threshold", "best", "adaptive", "absolute"])
def test_what_cascade_prints_is_recomputed(kind, sound, tmp_path):
    _, judged = fit_pruning(sound, "ratio", kind, 0.1, 0.9)
    told, path = judged.to_dict(), tmp_path / "cascade.json"
    write_json(path, told)
    found = audit(sound, cascade=path)
    assert found.passed, found.findings[:5]
    assert not any("--cascade" in what for check in found.checks for what in check.not_checked)
    lost = {**told["lost"], "errors": told["lost"]["errors"] + 1}
    loss = {**told["loss"], "log_value": told["loss"]["log_value"] - 1e-6, "value": told["loss"]["value"] * (1 - 1e-6)}
    for name, value in {"passes": told["passes"] * 0.99, "parameter": 77.0, "tasks": 4, "lost": lost, "loss": loss}.items():
        write_json(path, {**told, name: value})
        found = audit(sound, cascade=path)
        assert {check.name for check in found.checks if not check.passed} == {"cascade"}, name


def test_the_command_says_what_it_found_and_fails(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "out")
    about = read_json(tmp_path / "out" / "certificate.json")
    about["rules"][0]["overall"]["certificate"]["value"] /= 2
    write_json(tmp_path / "out" / "certificate.json", about)
    shown = CliRunner().invoke(app, ["audit", str(tmp_path / "out")])
    assert shown.exit_code == 1
    assert "! files: certificate.json: is changed, says manifest.json" in shown.stdout
    assert "! limits: certificate.json: ratio, overall, L8: value: is 0." in shown.stdout
    assert "--data" in shown.stdout.partition("Not checked:")[2]


def test_what_does_not_fit_is_refused(sound, home, tmp_path):
    with pytest.raises(InputError, match="--samples: is needed"):
        audit(sound, repeat=True)
    with pytest.raises(InputError, match="--cascade: is for certificates"):
        audit(tmp_path, cascade=home / "cascade.json")
    with pytest.raises(InputError, match=r"nowhere.csv: is missing|nowhere.csv"):
        audit(sound, samples=home / "nowhere.csv")
    shutil.copytree(sound, tmp_path / "out")
    (home / "early").rename(home / "elsewhere")
    try:
        with pytest.raises(InputError, match="early: is no folder, and the adapter of early lay there"):
            audit(sound, samples=home / "samples.csv")
    finally:
        (home / "elsewhere").rename(home / "early")
    change_table(tmp_path / "out", "samples.parquet", lambda f: f[[c for c in f if ":score:" not in c]])
    with pytest.raises(InputError, match="holds no scores"):
        audit(tmp_path / "out")
    write_json(tmp_path / "out" / MARKER, {})
    with pytest.raises(InputError, match="holds a certificate that is not finished"):
        audit(tmp_path / "out")
    write_json(tmp_path / "out" / "certificate.json", {"schema_version": 0})
    with pytest.raises(InputError, match="has schema 0; this version reads 1 to 2"):
        audit(tmp_path / "out")
