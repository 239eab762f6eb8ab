"""`empirics.adapters.peft_folders`: LoRA folders that others trained."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import made
import numpy as np
from hypothesis import strategies as st
from mutator import Files
from safetensors.numpy import save
from target import Target

from empirics.adapters.peft_folders import CONFIG, WEIGHTS, for_adapters, read_peft_folder

assert made  # makes `tiny` importable


@cache
def _backbone() -> Any:
    import tiny

    return tiny.backbone()


def _targets() -> list[str]:
    return [f"encoder.layer.{i}.attention.self.{kind}" for i in (1, 2) for kind in ("query", "value")]


def _folder(
    settings: dict[str, Any], ranks: dict[str, int], prefix: str = "base_model.model.", dtype: str = "f4", value: float = 0.25
) -> Files:
    tensors = {}
    for name, rank in ranks.items():
        tensors[f"{prefix}{name}.lora_A.weight"] = np.full((rank, 32), value).astype(dtype)
        tensors[f"{prefix}{name}.lora_B.weight"] = np.full((32, rank), value).astype(dtype)
    return {CONFIG: json.dumps(settings).encode(), WEIGHTS: save(tensors)}


_SETTINGS: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["query", "value"],
    "layers_to_transform": [1, 2],
    "layers_pattern": "layer",
    "bias": "none",
    "base_model_name_or_path": "x",
    "task_type": "FEATURE_EXTRACTION",
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}


@cache
def _saved() -> Files:
    """A folder as the project itself writes it."""
    from empirics.adapters.adapter import Adapter, Units, save_adapter

    rng = np.random.default_rng(0)
    units = {n: Units(rng.normal(size=(2, 32)).astype(np.float32), rng.normal(size=(2, 32)).astype(np.float32)) for n in _targets()}
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), Adapter("a", 1.0, units, {n: np.zeros(0, np.float32) for n in units}, units), "x")
        return {name: Path(folder, name).read_bytes() for name in (CONFIG, WEIGHTS)}


_PATTERNS = st.sampled_from(
    [".*query", "(a*)*b", "((.*)*)*x", ".*" * 12 + "x", "(", "all-linear", "", "query|value", r"(\w+\.)+query!", "[a-z.]*" * 10, "x" * 5000]
)
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 4),
    st.sampled_from(
        [
            10**9,
            10**30,
            0.5,
            -1.5,
            1e308,
            "",
            "none",
            "all",
            "LORA",
            "gaussian",
            "pissa",
            "../x",
            [],
            [""],
            ["query"],
            {},
            {"query": 3},
            {"(a*)*b": 2},
            {".*": 0},
        ]
    ),
    _PATTERNS,
    st.lists(st.integers(-2, 5), max_size=3),
    st.lists(st.text(max_size=4), max_size=3),
)
_FIELDS = [
    *_SETTINGS,
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "init_lora_weights",
    "exclude_modules",
    "auto_mapping",
    "lora_bias",
    "trainable_token_indices",
    "megatron_config",
    "x",
]


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    """Settings of other values than the tensors were made with, and tensors of other names, types and values."""
    settings = dict(_SETTINGS)
    for name in draw(st.lists(st.sampled_from(_FIELDS), max_size=3)):
        settings[name] = draw(_VALUES)
    ranks = {
        name: draw(st.sampled_from([2, 2, 2, 2, 1, 3]))
        for name in draw(st.sampled_from([_targets(), _targets()[:2], [], ["pooler.dense"], ["../x"]]))
    }
    prefix = draw(st.sampled_from(["base_model.model.", "base_model.model.bert.", "", "x"]))
    files = _folder(
        settings, ranks, prefix, draw(st.sampled_from(["f4", "f4", "f2", "f8", "i8", "i1"])), draw(st.sampled_from([0.25, 0.0, 6e4]))
    )
    return files


def _read(folder: Path) -> object:
    found = read_peft_folder(folder, _backbone(), "a")
    return for_adapters(_backbone(), [found.adapter]) if found.adapter.folded else found


TARGET = Target(
    "PEFT folders",
    lambda: [
        _saved(),
        _folder(_SETTINGS, dict.fromkeys(_targets(), 2)),
        _folder(
            {**_SETTINGS, "target_modules": r".*layer\.[12]\..*(query|value)", "layers_to_transform": None, "layers_pattern": None},
            dict.fromkeys(_targets(), 2),
        ),
    ],
    _read,
    _structured(),
    tokens=(
        b"F32",
        b"F16",
        b"BF16",
        b"F8_E4M3",
        b"I8",
        b"lora_A",
        b"lora_B",
        b"base_model.model.",
        b"[2,32]",
        b"(a*)*b",
        b".*.*.*.*.*.*.*.*.*.*.*.*x",
        b'"r"',
        b"target_modules",
    ),
    links=("/dev/zero", "nowhere", ".", CONFIG),
)
