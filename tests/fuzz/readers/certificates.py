"""`empirics.routing.router`: what `proteus-bounds certify` wrote, read to serve from."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from hypothesis import strategies as st
from mutator import Files
from safetensors.numpy import save
from target import Target

from empirics.config import BackboneConfig, CertifyConfig
from empirics.routing.certificate import SCHEMA, statement
from empirics.routing.router import load_router
from empirics.runs.origin import weights_digest

_TENSORS = {
    "means": np.arange(6.0).reshape(3, 2),
    "covariances": np.stack([np.eye(2)] * 3),
    "task": np.array([0, 0, 1]),
    "counts": np.array([9, 9, 9]),
    "projection_mean": np.zeros((1, 4)),
    "projection_axes": np.eye(4)[None, :2],
}
_ENCODER = torch.nn.Linear(1, 1).requires_grad_(False)


@cache
def _certificate() -> dict[str, Any]:
    measured = {"errors": 1, "n": 20, "error": 0.05, "low": 0.01, "high": 0.2, "confidence": 0.95}
    rung = {"value": 0.2, "log_value": -1.6, "direction": "upper", "level": "A0", "vacuous": False, "binding": None, "confidence": 0.95}
    rung |= {"source": "", "note": "", "holds": True, "broken_assumption": None, "guarantee": True}
    unit: dict[str, Any] = {"name": "a", "measured": measured, "certificate": rung, "law": None, "rungs": {}}
    unit["conformal"] = {"alpha": 0.05, "coverage": 0.95, "mean_size": 1.0}
    task = {
        "name": "a",
        "folder": "adapters/a",
        "sha256": "0" * 64,
        "base": None,
        "adapted": 1,
        "parameters": 10,
        "clusters": 1,
        "signature": 9,
        "certificate": 9,
        "measurement": 4,
    }
    rule = {
        "rule": "frozen",
        "dimension": 2,
        "components": 3,
        "signature_bytes": 100,
        "macro_error": 0.05,
        "overall": unit,
        "tasks": [unit],
    }
    return {
        "schema_version": SCHEMA,
        "statement": statement(0.95, ["frozen"]),
        "confidence": 0.95,
        "rules": [rule],
        "tasks": [task, {**task, "name": "b", "folder": "adapters/b"}],
        "sha256": {"encoder": weights_digest(_ENCODER), "samples": "0" * 64},
        "notes": [],
        "settings": CertifyConfig().model_dump(mode="json"),
        "environment": {},
    }


def _files(tensors: dict[str, np.ndarray]) -> Files:
    return {"certificate.json": json.dumps(_certificate()).encode(), "signatures/frozen.safetensors": save(tensors)}


@st.composite
def _structured(draw: st.DrawFn) -> Files:
    tensors = dict(_TENSORS)
    for name in draw(st.sets(st.sampled_from([*tensors, "weights", "background_means", "background_covariances"]), max_size=2)):
        if draw(st.integers(0, 3)) == 0:
            tensors.pop(name, None)
            continue
        shape = draw(st.sampled_from([(), (0,), (1,), (2,), (3,), (2, 2), (3, 2, 2), (1, 4), (1, 2, 4), (1, 1, 4), (1, 2, 5)]))
        value = draw(st.sampled_from([0.0, 1.0, -1.0, np.nan, np.inf, 1e308, 7.0]))
        with np.errstate(invalid="ignore"):
            tensors[name] = np.full(shape, value).astype(draw(st.sampled_from(["f8", "f4", "i8", "?"])))
    return _files(tensors)


def _read(folder: Path) -> object:
    # The frozen rule needs an encoder only to embed.
    with warnings.catch_warnings():
        # Of digests that are null.
        warnings.simplefilter("ignore", UserWarning)
        router = load_router(
            folder, backbone=cast(Any, SimpleNamespace(dimension=4, model=_ENCODER, modality="text", config=BackboneConfig()))
        )
    x = np.zeros((2, 1, 4))
    z = np.stack([projection(x[:, s]) for s, projection in enumerate(router.projections)], axis=1)
    return router.rule.task_scores(router.rule.scores(z))


TARGET = Target(
    "certificates",
    lambda: [_files(_TENSORS)],
    _read,
    _structured(),
    tokens=(b"F64", b"shape", b"[3,2]", b"frozen", b"ratio"),
    links=("/dev/zero", "nowhere", "."),
)
