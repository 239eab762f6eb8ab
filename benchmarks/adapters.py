"""Embedding and training under an adapter: ours against the same work through PEFT, from the same cached prefix.

Prints ratios (PEFT's time over ours, median of alternating repeats, with their range); above one, ours is faster.
"""

from __future__ import annotations

import copy
import dataclasses
import time

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from empirics.adapters import active
from empirics.backbone import embed, encode_prefix, load_backbone, padded, suffix
from empirics.config import AdapterConfig, BackboneConfig, StreamConfig, TrainingConfig
from empirics.streams import load_stream
from empirics.train import train_adapter

REPEATS, DOCUMENTS = 5, 192


def main() -> None:
    rng = np.random.default_rng(0)
    backbone = load_backbone(BackboneConfig(max_length=64))
    stream = load_stream(StreamConfig(name="news-4t"), rng)
    chosen = rng.permutation(stream.where("train", 0))[:DOCUMENTS]
    labels = np.unique(stream.label[chosen], return_inverse=True)[1]
    cache = encode_prefix(backbone, [stream.texts[j] for j in chosen])
    index = np.arange(chosen.size)
    config, training = AdapterConfig(), TrainingConfig(epochs=1)
    adapter, _ = train_adapter(backbone, cache, index, labels, "t", (), config, training, rng)

    names = list(backbone.projections(config.targets))
    wrapped = get_peft_model(copy.deepcopy(backbone.model), LoraConfig(r=config.rank, target_modules=names, lora_dropout=0.0))
    rival = dataclasses.replace(backbone, model=wrapped.base_model.model)

    def ours_embed() -> None:
        with active(backbone, adapter):
            embed(backbone, cache, index)

    def peft_train() -> None:
        head = torch.nn.Parameter(torch.randn(int(labels.max()) + 1, backbone.dimension))
        trained = [p for p in wrapped.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW([*trained, head], lr=1e-3)
        for batch in np.array_split(rng.permutation(index.size), index.size // training.batch_size):
            z = suffix(rival, *padded(cache, batch, rival.device))
            loss = torch.nn.functional.cross_entropy(z @ head.T, torch.as_tensor(labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    pairs = {
        "embedding": (ours_embed, lambda: embed(rival, cache, index)),
        "training": (lambda: train_adapter(backbone, cache, index, labels, "t", (), config, training, rng), peft_train),
    }
    for name, works in pairs.items():
        times = np.empty((REPEATS, 2))
        for r in range(REPEATS):
            for j, work in enumerate(works):
                start = time.perf_counter()
                work()
                times[r, j] = time.perf_counter() - start
        ratio = times[:, 1] / times[:, 0]
        rate = DOCUMENTS / np.median(times[:, 0])
        spread = f"({ratio.min():.2f} to {ratio.max():.2f})"
        print(f"{name}: peft / ours = {np.median(ratio):.2f} {spread}; ours {rate:.0f} documents/s at length 64")


if __name__ == "__main__":
    main()
