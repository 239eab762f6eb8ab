"""Three tasks of texts from alphabets that overlap, adapters that PEFT trained on them, and the folder that certifies these."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import tiny
import torch
from peft import LoraConfig, get_peft_model

from empirics.config import load_certify_config
from empirics.encoders.backbone import Backbone
from empirics.files.record import read_json, write_json
from empirics.routing.certify import certify

ALPHABETS = {"early": "abcdefgh", "middle": "hijklmnop", "late": "opqrstuvw"}


def table(per_task: int = 60, labelled: bool = True, seed: int = 0) -> pd.DataFrame:
    """Texts of three tasks with letters of their own, some shared; the label is the length."""
    rng = np.random.default_rng(seed)
    rows = []
    for task, letters in ALPHABETS.items():
        for j in range(per_task):
            text = "".join(rng.choice(list(letters), size=rng.integers(4, 8) if j % 2 else rng.integers(12, 20)))
            rows.append({"text": text, "task": task, "label": "short" if j % 2 else "long"})
    frame = pd.DataFrame(rows).drop_duplicates("text")
    return frame if labelled else frame.drop(columns="label")


def trained(model, folder, task, seed):
    """A few steps of PEFT's own LoRA, telling short texts from long ones, saved by PEFT."""
    torch.manual_seed(seed)
    wrapped = get_peft_model(copy.deepcopy(model), LoraConfig(r=2 + seed, target_modules=["query", "value", "intermediate.dense"]))
    head = torch.nn.Linear(32, 2)
    own = table(30, seed=99)
    own = own[own["task"] == task]
    tokens = tiny.tokenizer(list(own["text"]), True, 24)["input_ids"]
    width = max(map(len, tokens))
    ids = torch.tensor([t + [0] * (width - len(t)) for t in tokens])
    target = torch.tensor((own["label"] == "long").to_numpy().astype(int))
    optimizer = torch.optim.AdamW([*(p for p in wrapped.parameters() if p.requires_grad), *head.parameters()], lr=1e-2)
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(head(wrapped(input_ids=ids, attention_mask=(ids > 0).long())[0].mean(1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wrapped.save_pretrained(folder)


def certified_in(home: Path, backbone: Backbone, **settings) -> Path:
    """Train the adapters, certify them with few simulations, and give the folder."""
    for seed, task in enumerate(ALPHABETS):
        trained(backbone.model, home / task, task, seed)
    config = load_certify_config({"simulations": 1000, "signature": {"dimension": 6}, **settings})
    certify({task: home / task for task in ALPHABETS}, table(), config, backbone=backbone, out=home / "out")
    return home / "out"


def as_schema_1(folder: Path) -> None:
    """The certificate of a folder as versions wrote it that noted no digests."""
    found = read_json(folder / "certificate.json")
    del found["sha256"]
    found["tasks"] = [{name: value for name, value in task.items() if name != "sha256"} for task in found["tasks"]]
    write_json(folder / "certificate.json", {**found, "schema_version": 1})
