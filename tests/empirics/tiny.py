"""A tiny random encoder of the supported architecture, and texts for it."""

from __future__ import annotations

import numpy as np
import torch
from transformers import BertConfig, BertModel

from empirics.backbone import Backbone
from empirics.config import BackboneConfig


def tokenizer(texts, truncation, max_length):
    """One token a character; enough structure for a random encoder."""
    return {"input_ids": [[1, *(3 + ord(c) % 60 for c in text), 2][:max_length] for text in texts]}


def backbone(batch_size: int = 8, normalize: bool = True) -> Backbone:
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, max_position_embeddings=40
    )
    shape._attn_implementation = "sdpa"
    model = BertModel(shape).eval().requires_grad_(False)
    config = BackboneConfig(adapted_layers=2, batch_size=batch_size, max_length=24, normalize=normalize)
    return Backbone(model, tokenizer, config, torch.device("cpu"), 1)


def texts(n: int = 40) -> tuple[list[str], np.ndarray]:
    """Texts of two classes, of all lengths."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    letters = ("abcdefg", "tuvwxyz")
    return ["".join(rng.choice(list(letters[k]), size=rng.integers(1, 30))) for k in labels], labels
