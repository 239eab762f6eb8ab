"""LoRA folders written by PEFT, as this project's adapters: read exactly, or refused with the field that stands in the way.

Which modules a folder adapts, and with which rank and scale, is left to PEFT itself: its layers are placed in a copy of the
encoder's module tree that shares the encoder's weights, its own loader fills them, and the units are read off. What a
low-rank update of linear maps cannot express is refused, and so is every field that this module does not know.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from empirics.adapters.adapter import Adapter, Units
from empirics.encoders.backbone import Backbone, assemble
from empirics.files.record import read_json
from theory.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Other files that PEFT takes for the weights, all of them pickles.
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth")
# Written by PEFT before every tensor name.
_ROOT = "base_model.model."
# Without a say in what a finished adapter computes: bookkeeping, and settings of its training or its start.
_IDLE = frozenset(
    "peft_type auto_mapping revision inference_mode lora_dropout peft_version megatron_core qalora_group_size runtime_config "
    "eva_config corda_config loftq_config lora_ga_config ensure_weight_tying".split()
)
# Starts that leave the base weights alone; any other (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) makes the update relative to changed ones.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# In a regular expression: what is escaped, a set of characters, or a repeat, perhaps of a group. A name of fifty characters is matched in
# a tenth of a second by six repeats of single characters, and not in a lifetime by a repeat of a repeat.
_REPEAT = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?|(?P<group>\))?(?P<what>[*+]|\?|\{\d*,?\d*\})[?+]?", re.DOTALL)
_MOST_REPEATS = 6
_PLAUSIBLE_RANK = 1024
_Rank = Annotated[int, Field(ge=1, strict=True)]
_Scale = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(BaseModel):
    """The fields of `adapter_config.json` that are honoured; all others are kept to be judged."""

    model_config = ConfigDict(extra="allow", frozen=True)

    r: _Rank = 8
    lora_alpha: _Scale = 8
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Scale] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    init_lora_weights: bool | str = True
    task_type: str | None = None
    base_model_name_or_path: str | None = None


@dataclass(frozen=True)
class PeftFolder:
    """What a PEFT folder holds.

    Attributes
    ----------
    adapter : Adapter
        Without composition; PEFT's scale is folded into b.
    base : str or None
        The encoder that the folder says it was trained on.
    notes : tuple of str
        What the reader should know and what does not stand in the way.
    """

    adapter: Adapter
    base: str | None
    notes: tuple[str, ...]


def read_peft_folder(folder: Path | str, backbone: Backbone, task: str | None = None) -> PeftFolder:
    """Read a LoRA folder so that the encoder under the adapter computes what PEFT computes, to float tolerance.

    Folders trained on a model with a head (names such as ``bert.encoder...``) are read for their encoder; the head has no
    part in an embedding and is left out with a note.

    Parameters
    ----------
    folder : Path or str
        With `adapter_config.json` and `adapter_model.safetensors`.
    backbone : Backbone
        The encoder that the adapter is for; it is not changed.
    task : str, optional
        Name of the task; the folder's name by default.

    Raises
    ------
    InputError
        For a file that is missing or corrupt, a pickle, another method than LoRA or a variant of it that cannot be expressed
        exactly (the field is named), an adapter for another encoder, and tensors that are missing, left over or not finite.
    """
    folder = Path(folder)
    fields = _read_config(folder)
    tensors = _read_weights(folder)
    _check_ranks(folder, fields, tensors)
    model, prefix = _skeleton(backbone.model, tensors)
    _check_saved_modules(folder, fields, model)
    tensors, head = _without_head(tensors, prefix)
    idle = None if backbone.pooling == "pooler" else f"{prefix}pooler."
    layers, left_out = _inject(folder, fields, model, tensors, idle)
    units = {name.removeprefix(prefix): found for name, found in layers.items()}
    notes = []
    if head:
        notes.append(f"{folder.name}: {len(head)} tensors of a head outside the encoder are left out, such as {head[0]}")
    if left_out:
        notes.append(f"{folder.name}: {left_out[0]} is left out: the pooler has no part in these embeddings")
    known = _encoder_name(backbone)
    base = fields.base_model_name_or_path or None
    if base is None:
        notes.append(f"{folder.name}: does not say which encoder it was trained on; it fits this one by names and shapes")
    elif base != getattr(backbone.model, "name_or_path", None) and _short_name(base) != _short_name(known):
        notes.append(
            f"{folder.name}: says that it was trained on {base!r}, and is used with {known!r}; make sure that the weights are the same"
        )
    composition = {name: np.zeros(0, np.float32) for name in units}
    return PeftFolder(Adapter(task or folder.resolve().name, 1.0, units, composition, units), base, tuple(notes))


def for_adapters(backbone: Backbone, adapters: Sequence[Adapter]) -> Backbone:
    """The same encoder, cut before the first layer that any of the adapters changes.

    Raises
    ------
    InputError
        If an adapter changes something before the first layer, where no prefix can be shared.
    """
    order = {name: j for j, (name, _) in enumerate(backbone.model.named_modules())}
    count = 1
    for adapter in adapters:
        for name in adapter.folded:
            if inside := re.match(rf"{re.escape(backbone.layers)}\.(\d+)\.", name):
                count = max(count, len(backbone.blocks) - int(inside[1]))
            # What comes after the layers (a pooler) needs no prefix.
            elif order[name] < order[backbone.layers]:
                raise InputError(f"adapter {adapter.task}", f"adapts {name}, before the first layer; only the layers can carry adapters")
    config = backbone.config.model_copy(update={"adapted_layers": count})
    return assemble(backbone.model, backbone.tokenizer, backbone.processor, config)


def _read_config(folder: Path) -> _Fields:
    path = folder / CONFIG
    if not folder.is_dir():
        raise InputError(str(folder), f"is no folder; give one with {CONFIG} and {WEIGHTS}")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError(str(path), "holds no table of settings")
    if raw.get("peft_type") != "LORA":
        raise InputError(str(path), f"peft_type is {raw.get('peft_type')!r}; only LORA can be read exactly")
    try:
        fields = _Fields.model_validate(raw)
    except ValidationError as error:
        item = error.errors()[0]
        raise InputError(str(path), f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got {str(item['input'])[:80]!r}") from None
    if fields.bias != "none":
        raise InputError(
            str(path), f"bias is {fields.bias!r}: trained biases of the base are no low-rank update; only 'none' can be read exactly"
        )
    if fields.init_lora_weights not in _STARTS:
        raise InputError(
            str(path),
            f"init_lora_weights is {fields.init_lora_weights!r}, which changes the base weights; convert the adapter to plain LoRA when "
            "saving it (path_initial_model_for_weight_conversion)",
        )
    for name, pattern in _patterns(fields):
        repeats = [found for found in _REPEAT.finditer(pattern) if found["what"]]
        if len(repeats) > _MOST_REPEATS or any(found["group"] and found["what"] != "?" for found in repeats):
            raise InputError(
                str(path),
                f"{name} holds the pattern {pattern[:60]!r}, which could take for ever to match: it repeats a group, or has more than "
                f"{_MOST_REPEATS} repeats; list the modules' names instead",
            )
    for name, value in (fields.model_extra or {}).items():
        if name not in _IDLE and value not in (None, False, "", [], {}):
            raise InputError(str(path), f"{name} is {str(value)[:60]}: only plain LoRA can be read exactly; leave it out and train again")
    return fields


def _patterns(fields: _Fields) -> Iterator[tuple[str, str]]:
    """What PEFT matches names of modules with as regular expressions, and the setting it stands in."""
    for name in ("target_modules", "exclude_modules"):
        if isinstance(value := getattr(fields, name), str):
            yield name, value
    for name in ("rank_pattern", "alpha_pattern"):
        yield from ((name, key) for key in getattr(fields, name) or {})
    layers = fields.layers_pattern
    yield from (("layers_pattern", item) for item in ([layers] if isinstance(layers, str) else layers or []))


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    for name in _PICKLES:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise InputError(str(folder / name), f"is a pickle, which is never loaded; save the adapter as {WEIGHTS} and remove this file")
    path = folder / WEIGHTS
    # A link is followed, as the hub's cache consists of them, but only to a regular file.
    if not path.is_file():
        raise InputError(str(path), "is a link to nothing or to no regular file" if path.is_symlink() else "is missing")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(str(path), f"is not a valid safetensors file ({' '.join(str(error).split())})") from None
    for name, tensor in tensors.items():
        if not name.startswith(_ROOT):
            raise InputError(str(path), f"holds {name}, which is no tensor of a PEFT adapter; names begin with {_ROOT}")
        if not tensor.is_floating_point():
            raise InputError(str(path), f"holds {name} as {tensor.dtype}; quantised adapters cannot be read exactly")
        if not torch.isfinite(tensor).all():
            raise InputError(str(path), f"holds NaN or infinite values in {name}")
    # Half precision is widened, as PEFT does.
    return {name: tensor.float() for name, tensor in tensors.items()}


def _check_ranks(folder: Path, fields: _Fields, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse ranks far beyond those of the tensors: PEFT would make room for them before it looks."""
    most = max([_PLAUSIBLE_RANK, *(size for tensor in tensors.values() for size in tensor.shape)])
    for name, rank in {"r": fields.r, **(fields.rank_pattern or {})}.items():
        if rank > most:
            raise InputError(str(folder / CONFIG), f"gives {name} a rank of more than {most}, and no tensor is larger")


class _Headed(nn.Module):
    """An encoder under the name that it has inside a model with a head."""

    def __init__(self, name: str, encoder: nn.Module) -> None:
        super().__init__()
        self.add_module(name, encoder)


def _skeleton(model: nn.Module, tensors: dict[str, torch.Tensor]) -> tuple[nn.Module, str]:
    """A copy of the module tree that shares all weights, and the prefix of the encoder's names in the folder."""
    shared = {id(x): x for x in [*model.parameters(), *model.buffers()]}
    out = copy.deepcopy(model, shared)
    name = getattr(model, "base_model_prefix", "")
    if name and not hasattr(model, name) and any(key.startswith(f"{_ROOT}{name}.") for key in tensors):
        return _Headed(name, out), f"{name}."
    return out, ""


def _check_saved_modules(folder: Path, fields: _Fields, model: nn.Module) -> None:
    names = [name for name, _ in model.named_modules()]
    for wanted in fields.modules_to_save or []:
        if inside := [name for name in names if name == wanted or name.endswith(f".{wanted}")]:
            raise InputError(
                str(folder / CONFIG),
                f"modules_to_save holds {wanted!r}, a whole trained module of the encoder ({inside[0]}); only LoRA can be read",
            )


def _without_head(tensors: dict[str, torch.Tensor], prefix: str) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors of the encoder, and the names of those of a head around it (none without a head)."""
    own = {name: value for name, value in tensors.items() if name.startswith(_ROOT + prefix)}
    return own, sorted(tensors.keys() - own.keys())


def _inject(
    folder: Path, fields: _Fields, model: nn.Module, tensors: dict[str, torch.Tensor], idle: str | None
) -> tuple[dict[str, Units], list[str]]:
    """Let PEFT place and fill its layers, and read the units off, scales folded into b; and the modules left out.

    Those are the ones whose names begin with `idle`. They may lack their tensors, too: models with a head for tokens are trained without a
    pooler, and what adapts all linear maps adapts none there.
    """
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    settings: dict[str, Any] = {
        name: getattr(fields, name)
        for name in ("r", "lora_alpha", "use_rslora", "fan_in_fan_out", "target_modules", "exclude_modules", "layers_to_transform")
    }
    settings |= {"layers_pattern": fields.layers_pattern, "modules_to_save": None, "task_type": fields.task_type}
    settings |= {"rank_pattern": fields.rank_pattern or {}, "alpha_pattern": fields.alpha_pattern or {}}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            # PEFT warns of settings that it puts right itself, such as fan_in_fan_out on a plain linear map.
            warnings.simplefilter("ignore")
            # Random A and zero B are overwritten: every tensor must be in the file.
            model = inject_adapter_in_model(LoraConfig(**settings), model)
    except (ValueError, TypeError, KeyError, re.error) as error:
        raise InputError(
            str(folder / CONFIG),
            f"names modules that this encoder does not have, or cannot be adapted ({' '.join(str(error).split())[:200]}); it is for "
            "another encoder, or for another release of transformers, which renames modules",
        ) from None
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        if not isinstance(layer.get_base_layer(), nn.Linear):
            raise InputError(
                str(folder / CONFIG),
                f"target_modules adapts {name}, a {type(layer.get_base_layer()).__name__}; only linear maps can be read",
            )
        # PEFT makes its layers in the precision of the base, which may be rounded.
        layer.float()
    try:
        found = set_peft_model_state_dict(model, tensors)
    except (RuntimeError, ValueError, KeyError) as error:
        what = re.search(r"size mismatch for (\S+?)(?:\.default)?\.weight: .*?(\[[^]]*\]).*?(\[[^]]*\])", str(error), re.DOTALL)
        problem = f"{what[1]} has shape {what[2]}, and this encoder needs {what[3]}" if what else " ".join(str(error).split())[:200]
        raise InputError(
            str(folder / WEIGHTS), f"does not fit ({problem}); the adapter is for another encoder or its settings are wrong"
        ) from None
    missing = sorted(name.replace(".default", "") for name in found.missing_keys if ".lora_" in name)
    left_out = [name for name in layers if idle is not None and name.startswith(idle)]
    missing = [name for name in missing if name.rpartition(".lora_")[0] not in left_out]
    if missing:
        raise InputError(str(folder / WEIGHTS), f"lacks {len(missing)} tensors, such as {missing[0]}; save the adapter again")
    if found.unexpected_keys:
        extra = sorted(name.replace(".default", "") for name in found.unexpected_keys)
        raise InputError(
            str(folder / WEIGHTS),
            f"holds {len(extra)} tensors that {CONFIG} or this encoder has no place for, such as {extra[0]}; is it for another encoder?",
        )
    return {name: _units(layer) for name, layer in layers.items() if name not in left_out}, left_out


def _units(layer: Any) -> Units:
    a, b = layer.lora_A["default"].weight.detach().cpu(), layer.lora_B["default"].weight.detach().cpu()
    return Units(a.numpy().copy(), np.ascontiguousarray((b * layer.scaling["default"]).T.numpy()))


def _encoder_name(backbone: Backbone) -> str:
    config = backbone.config
    if config.path:
        return str(config.path)
    # The packaged encoder of texts lies in a folder of its package, which tells nobody what it is.
    return "all-MiniLM-L6-v2" if config.packaged == "minilm" else config.packaged


def _short_name(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()
