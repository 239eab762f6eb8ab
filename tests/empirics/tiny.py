"""Tiny random encoders of the supported architectures, and texts and images for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

from empirics.config import BackboneConfig
from empirics.encoders.backbone import Backbone, assemble


def tokenizer(texts, truncation, max_length):
    """One token a character; enough structure for a random encoder."""
    return {"input_ids": [[1, *(3 + ord(c) % 60 for c in text), 2][:max_length] for text in texts]}


def save_bert(folder: Path, *, layers: int, positions: int) -> BertModel:
    """Save a random encoder of letters with its tokenizer, as a folder that AutoModel loads."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(p + c for c in "abcdefghijklmnopqrstuvwxyz" for p in ("", "##"))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=64, num_hidden_layers=layers, max_position_embeddings=positions, **shape)
    model = BertModel(config).eval()
    model.save_pretrained(folder)
    return model


def assembled(model, config: BackboneConfig) -> Backbone:
    model.eval()
    if model.main_input_name == "pixel_values":
        return assemble(model, None, processor, config)
    return assemble(model, tokenizer, None, config)


def processor(images, return_tensors, input_data_format):
    """Nearest pixels of a 16 x 16 grid, to [-1, 1]."""
    out = []
    for x in images:
        rows, columns = (np.arange(16) * x.shape[0] // 16, np.arange(16) * x.shape[1] // 16)
        out.append(x[rows][:, columns].transpose(2, 0, 1) / 127.5 - 1)
    return {"pixel_values": np.stack(out)}


SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 64, "max_position_embeddings": 40, **SHAPE}
IMAGE = {"image_size": 16, "patch_size": 4, **SHAPE}
# One tiny random model of each supported kind.
MODELS = {
    "bert": lambda: BertModel(BertConfig(**TEXT)),
    "roberta": lambda: RobertaModel(RobertaConfig(**TEXT)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=64, max_position_embeddings=40, dim=32, n_layers=3, n_heads=4, hidden_dim=48)
    ),
    "electra": lambda: ElectraModel(ElectraConfig(embedding_size=16, **TEXT)),
    "vit": lambda: ViTModel(ViTConfig(**IMAGE)),
    "deit": lambda: DeiTModel(DeiTConfig(**IMAGE)),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**IMAGE)),
    "dinov2-registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**IMAGE)),
}


def backbone(batch_size: int = 8, normalize: bool = True, kind: str = "bert", **settings) -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(adapted_layers=2, batch_size=batch_size, max_length=24, normalize=normalize, **settings)
    return assembled(MODELS[kind](), config)


def texts(n: int = 40) -> tuple[list[str], np.ndarray]:
    """Texts of two classes, of all lengths."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    letters = ("abcdefg", "tuvwxyz")
    return ["".join(rng.choice(list(letters[k]), size=rng.integers(1, 30))) for k in labels], labels


def images(n: int = 40) -> tuple[list[np.ndarray], np.ndarray]:
    """Images of two classes, of several sizes: stripes along rows or along columns, in noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    out = []
    for k in labels:
        side = int(rng.integers(16, 24))
        stripes = np.tile(np.arange(side) % 4 < 2, (side, 1)) * 160
        noisy = (stripes if k else stripes.T)[..., None] + rng.integers(0, 90, (side, side, 3))
        out.append(noisy.astype(np.uint8))
    return out, labels


def documents(kind: str, n: int = 40) -> tuple[list, np.ndarray]:
    """What a backbone of that kind encodes."""
    return images(n) if "pixel_values" == MODELS[kind]().main_input_name else texts(n)
