"""Sweeps of tiny cells: a random encoder, a table of letters, and a few settings."""

from __future__ import annotations

import json
from pathlib import Path

SETTINGS = {
    "stream": {"train_per_class": 8, "query_per_class": 4, "test_per_class": 4, "reservoir_per_class": 4},
    "backbone": {"adapted_layers": 1, "max_length": 12},
    "adapter": {"rank": 1},
    "training": {"epochs": 1},
    "signature": {"dimension": 2, "pool": 0.0},
    "bounds": {"simulations": 1000},
    "compare": {"methods": ["nearest-mean", "ridge"], "reference": "ridge", "random_features": 9},
}


def write_grid(home: Path, path: Path, **table) -> Path:
    """A grid of these settings and more; JSON is YAML."""
    settings = {group: dict(values) for group, values in SETTINGS.items()}
    settings["stream"]["path"], settings["backbone"]["path"] = str(home / "letters.csv"), str(home / "encoder")
    path.write_text(json.dumps({"settings": settings, **table}), "utf-8")
    return path
