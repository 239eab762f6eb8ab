"""Settings: every shipped file parses, the three sources override in order, and each bad input is told in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from empirics import config as module
from empirics.config import RunConfig, load_config, presets
from theory.errors import InputError

SHIPPED = Path(module.__file__).parent / "configs"


def refused(**arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_config(**arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("preset", sorted(p.stem for p in SHIPPED.glob("*.yaml")))
def test_every_shipped_config_parses_and_changes_what_it_names(preset):
    settings = load_config(preset=preset)
    for group, values in (yaml.safe_load((SHIPPED / f"{preset}.yaml").read_text("utf-8")) or {}).items():
        for key, value in values.items():
            assert settings.model_dump(mode="json")[group][key] == value


def test_presets_are_the_shipped_files():
    assert presets() == sorted(p.stem for p in SHIPPED.glob("*.yaml"))
    assert {"default", "news-4t", "small"} <= set(presets())


def test_default_preset_is_the_defaults_in_code():
    assert load_config() == RunConfig()


def test_small_preset_asks_for_less_than_the_default():
    small, default = load_config(preset="small"), load_config()
    assert small.stream.train_per_class < default.stream.train_per_class
    assert small.training.epochs < default.training.epochs
    assert small.backbone.max_length < default.backbone.max_length
    assert small.bounds.simulations < default.bounds.simulations


@pytest.mark.parametrize(
    ("suffix", "text"), [(".yaml", "training: {epochs: 7}\nseed: 3\n"), (".toml", "seed = 3\n[training]\nepochs = 7\n")]
)
def test_a_partial_file_overrides_the_preset_and_is_overridden(tmp_path, suffix, text):
    file = tmp_path / f"own{suffix}"
    file.write_text(text, "utf-8")
    settings = load_config(file, "small", ["training.epochs=9"])
    assert (settings.seed, settings.training.epochs) == (3, 9)
    assert settings.stream == load_config(preset="small").stream
    assert settings.training.batch_size == load_config(preset="small").training.batch_size


def test_the_last_override_wins_and_values_are_yaml():
    settings = load_config(
        preset="small",
        overrides=["seed=1", "seed=2", "stream.classes_per_task=null", "training.learning_rate=2e-3", "adapter.targets=[query]"],
    )
    assert settings.seed == 2
    assert settings.stream.classes_per_task is None
    assert settings.training.learning_rate == 2e-3
    assert settings.adapter.targets == ("query",)


def test_an_override_may_hold_an_equals_sign():
    assert load_config(overrides=["backbone.path=/models/a=b"]).backbone.path == Path("/models/a=b")


def test_settings_are_frozen_and_dump_to_json():
    settings = load_config(preset="small", overrides=["backbone.path=/models/m"])
    with pytest.raises(ValidationError):
        settings.seed = 1
    with pytest.raises(ValidationError):
        settings.training.epochs = 1
    assert RunConfig.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.epoch=2", ["training.epoch", "did you mean training.epochs?"]),
        ("stream.nam=news-4t", ["stream.nam", "did you mean stream.name?"]),
        ("trainin=1", ["trainin", "did you mean training?"]),
        ("qqqqqq=1", ["unknown key qqqqqq"]),
        ("training.epochs=many", ["training.epochs", "'many'"]),
        ("training.epochs=0", ["training.epochs", "greater than or equal to 1"]),
        ("training.epochs.deep=2", ["training.epochs"]),
        ("training=3", ["training", "3"]),
        ("training.learning_rate=0", ["training.learning_rate"]),
        ("training.learning_rate=.nan", ["training.learning_rate"]),
        ("training.learning_rate=.inf", ["training.learning_rate"]),
        ("training.epochs=true", ["training.epochs", "true and false"]),
        ("seed=2020-13-45", ["seed", "not YAML"]),
        ("seed=0x_", ["seed", "not YAML"]),
        ("seed=" + "[" * 5000, ["seed", "not YAML", "..."]),
        ("training.warmup=1.0", ["training.warmup"]),
        ("stream.name=text-6t", ["stream.name", "text-5t", "news-4t"]),
        ("stream.classes_per_task=1", ["stream.classes_per_task"]),
        ("backbone.device=tpu", ["backbone.device", "cuda"]),
        ("adapter.alpha=0", ["adapter.alpha"]),
        ("adapter.alpha=1.01", ["adapter.alpha"]),
        ("adapter.targets=[]", ["adapter.targets"]),
        ("bounds.confidence=1", ["bounds.confidence"]),
        ("seed=-1", ["seed"]),
        ("threads=0", ["threads"]),
        ("training.epochs", ["training.epochs", "'='"]),
        ("=3", ["'='"]),
        ("seed=[1", ["seed", "not YAML"]),
    ],
)
def test_bad_overrides_name_the_key(override, expected):
    message = refused(overrides=[override])
    for part in expected:
        assert part in message


def test_all_problems_are_listed_at_once():
    message = refused(overrides=["seed=-1", "training.epochs=0", "adapter.rnk=2"])
    assert "seed" in message
    assert "training.epochs" in message
    assert "did you mean adapter.rank?" in message


def test_unknown_preset_lists_the_known():
    message = refused(preset="tiny")
    assert "'tiny'" in message
    assert "small" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.yaml", b"seed: [1", "not valid"),
        ("a.yaml", b"- 1\n- 2\n", "no table"),
        ("a.yaml", b"seed: \xff\n", "not valid"),
        ("a.yaml", b"seed: !!python/object/apply:os.getcwd []\n", "not valid"),
        ("a.yaml", b"{1: 2}", "1"),
        ("a.yaml", b"seed: 2020-13-45", "not valid"),
        ("a.yaml", b"[" * 5000, "not valid"),
        ("a.yaml", b"training: {epoch: 1}", "training.epochs?"),
        ("a.toml", b"seed = ", "not valid"),
        ("a.toml", b"[training]\nepochs = 'x'\n", "training.epochs"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, expected):
    file = tmp_path / name
    file.write_bytes(content)
    message = refused(path=file)
    assert str(file) in message
    assert expected in message


def test_missing_file_and_folder_are_named(tmp_path):
    assert str(tmp_path / "none.yaml") in refused(path=tmp_path / "none.yaml")
    assert str(tmp_path) in refused(path=tmp_path)


def test_a_faulty_override_is_not_laid_on_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 3", "utf-8")
    message = refused(path=file, overrides=["training.epochs=0"])
    assert str(file) not in message
    assert message.startswith("--set")


def test_an_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# nothing yet\n", "utf-8")
    assert load_config(file) == RunConfig()


def test_every_setting_is_described():
    def bare(model, prefix=""):
        for name, info in model.model_fields.items():
            if hasattr(info.annotation, "model_fields"):
                yield from bare(info.annotation, f"{prefix}{name}.")
            elif not info.description:
                yield prefix + name

    assert list(bare(RunConfig)) == []


BOMB = "a: &a {x: 1}\n" + "".join(f"{c}: &{c} {{<<: [{', '.join([f'*{b}'] * 9)}]}}\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize("content", [BOMB, "a: &a [1]\nb: [*a, *a]\n", "&a {stream: *a}"])
def test_aliases_which_a_bomb_is_made_of_are_refused(tmp_path, content):
    (tmp_path / "own.yaml").write_text(content)
    assert "holds an alias" in refused(path=tmp_path / "own.yaml")
    with pytest.raises(InputError, match="is not YAML"):
        load_config(overrides=["stream=&a [*a]"])


@pytest.mark.parametrize(
    "content", ["training: {epochs: 2}\nseed: 1\ntraining: {rank: 4}\n", "seed: 1\nstream: {name: digits, name: mnist}\n"]
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, content):
    """The last would count alone, and what the first one held be lost without a word."""
    (tmp_path / "own.yaml").write_text(content)
    assert re.search("line [23] holds the key (training|name) again", refused(path=tmp_path / "own.yaml"))


@pytest.mark.parametrize("value", ["!!timestamp x", "!!int ''", "!!bool x", "!!float ''", "!!python/object/apply:os.system [x]"])
def test_tags_that_do_not_fit_their_value(tmp_path, value):
    (tmp_path / "own.yaml").write_text(f"seed: {value}\n")
    assert "is not valid YAML" in refused(path=tmp_path / "own.yaml")


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "{a: " * 150 + "1" + "}" * 150])
def test_values_that_cannot_be_shown_are_still_told(value):
    assert "bounds.confidence" in refused(overrides=[f"bounds.confidence={value}"])


def test_a_key_of_thousands_of_parts_is_told():
    assert "stream.tasks" in refused(overrides=["stream.tasks." + "x." * 3000 + "y=1"])
