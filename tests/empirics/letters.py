"""The least material of every long command: two tasks of random letters, a tiny encoder, adapters that PEFT saved, and variants."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import tiny
from peft import LoraConfig, get_peft_model
from transformers import BertModel

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


def write_home(folder: Path) -> BertModel:
    """Write an encoder, and a table of documents of two tasks; the encoder."""
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
    return model


def write_material(folder: Path) -> None:
    """Write an encoder, a table of documents that serves as samples too, adapters, and variants."""
    model = write_home(folder)
    for task in ("early", "late"):
        wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(r=1, target_modules=["query"], init_lora_weights=False))
        wrapped.save_pretrained(folder / "adapters" / task)
    (folder / "variants.yaml").write_text("dimension: {three: {signature: {dimension: 3}}}")


def long_commands(home: Path, methods: str = "ridge,nearest-mean") -> dict[str, list[str]]:
    """Arguments of every command that runs long, on the material in a folder."""
    changes = {**SETTINGS, "stream.path": home / "letters.csv", "backbone.path": home / "encoder"}
    own = [x for key, value in changes.items() for x in ("--set", f"{key}={value}")]
    compared = ["--methods", methods, "--reference", methods.split(",")[0], "--seeds", "1", "--orders", "2"]
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


def write_crossed(folder: Path) -> None:
    """Write an encoder, and longer documents (data.csv) of two tasks, whose two classes each share letters."""
    (folder / "encoder").mkdir()
    tiny.save_bert(folder / "encoder", layers=2, positions=40)
    rng, rows = np.random.default_rng(0), []
    for task, letters in (("a", "abcdefgh"), ("b", "ijklmnop")):
        for label in range(2):
            for _ in range(40):
                chosen = list(letters[4 * label : 4 * label + 4]) + list(letters)
                rows.append({"text": "".join(rng.choice(chosen, rng.integers(8, 30))), "label": f"{task}{label}", "task": task})
    pd.DataFrame(rows).drop_duplicates("text").to_csv(folder / "data.csv", index=False)
