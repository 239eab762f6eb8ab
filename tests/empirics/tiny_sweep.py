"""Sweeps of tiny cells: a random encoder, a table of letters, and a few settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tiny

SETTINGS = {
    "stream": {"train_per_class": 8, "query_per_class": 4, "test_per_class": 4, "reservoir_per_class": 4},
    "backbone": {"adapted_layers": 1, "max_length": 12},
    "adapter": {"rank": 1},
    "training": {"epochs": 1},
    "signature": {"dimension": 2, "pool": 0.0},
    "bounds": {"simulations": 1000},
    "compare": {"methods": ["nearest-mean", "ridge"], "reference": "ridge", "random_features": 9},
}


def write_home(folder: Path) -> Path:
    """An encoder and documents of two tasks."""
    (folder / "encoder").mkdir()
    tiny.save_bert(folder / "encoder", layers=2, positions=16)
    rng = np.random.default_rng(0)
    rows = [
        {"text": "".join(rng.choice(list(own), size=9)), "label": label, "task": task}
        for task, pair in {"early": ("abc", "cde"), "late": ("uvw", "wxy")}.items()
        for label, own in zip("xy", pair, strict=True)
        for _ in range(22)
    ]
    pd.DataFrame(rows).drop_duplicates("text").to_csv(folder / "letters.csv", index=False)
    return folder


def write_grid(home: Path, path: Path, **table) -> Path:
    """A grid of these settings and more; JSON is YAML."""
    settings = {group: dict(values) for group, values in SETTINGS.items()}
    settings["stream"]["path"], settings["backbone"]["path"] = str(home / "letters.csv"), str(home / "encoder")
    path.write_text(json.dumps({"settings": settings, **table}), "utf-8")
    return path
