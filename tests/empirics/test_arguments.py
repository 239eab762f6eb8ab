"""The public functions take a folder's path as a text, too, and name what was given by mistake before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

import empirics
from empirics.comparisons.ablation import Variant
from theory import InputError

NONE = "no/such/folder"


@pytest.mark.parametrize(
    "call",
    [
        empirics.load_config,
        empirics.load_router,
        empirics.load_served,
        empirics.load_cascade,
        empirics.load_served_cascade,
        empirics.open_run,
        empirics.open_comparison,
        empirics.open_ablation,
        lambda path: empirics.compare_runs([path, path + "2"]),
        lambda path: empirics.read_peft_folder(path, tiny.backbone()),
    ],
)
def test_a_folder_that_is_not_there_is_named_though_its_path_is_a_text(call):
    with pytest.raises(InputError) as refused:
        call(NONE)
    assert Path(refused.value.argument).is_relative_to(NONE)


def test_settings_are_read_from_a_path_that_is_a_text(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 7\n")
    assert empirics.load_config(str(tmp_path / "mine.yaml")).seed == 7


@pytest.mark.parametrize(
    "call",
    [
        empirics.run,
        empirics.compare,
        lambda config, folder: empirics.ablate(config, [Variant("", "base", {}, config, "base")], folder),
    ],
)
def test_a_folder_to_write_to_may_be_a_text(call, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be used as the output folder"):
        call(empirics.load_config(preset="small"), str(tmp_path / "taken"))


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("folders", (["a", "b"], pd.DataFrame())),
        ("samples", ({"a": "a", "b": "b"}, {"task": ["a", "b"], "text": ["x", "y"]})),
        ("config", ({"a": "a", "b": "b"}, pd.DataFrame(), {"rule": "frozen"})),
        (str(Path("a")), ({"a": "a", "b": "b"}, pd.DataFrame({"task": ["a", "b"] * 7, "text": [str(j) for j in range(14)]}))),
    ],
)
def test_what_certify_cannot_take_is_named(argument, arguments):
    with pytest.raises(InputError) as refused:
        empirics.certify(*arguments, backbone=tiny.backbone())
    assert refused.value.argument == argument


@pytest.mark.parametrize(
    "call",
    [
        lambda: empirics.run({"seed": 1}, "out"),
        lambda: empirics.compare({"seed": 1}, "out"),
        lambda: empirics.check_data({"seed": 1}),
        lambda: empirics.load_stream(empirics.load_config(preset="small"), np.random.default_rng(0)),
        lambda: empirics.load_backbone("encoder"),
    ],
    ids=["run", "compare", "check_data", "load_stream", "load_backbone"],
)
def test_what_are_no_settings_is_told(call):
    with pytest.raises(InputError, match=r"config: is a \w+; give a \w+Config"):
        call()
