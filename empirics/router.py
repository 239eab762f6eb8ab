"""Serve what was certified: send each input to one of several adapters, by the rule and the signatures that the certificate speaks of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from empirics.adapters import Adapter
from empirics.backbone import Backbone, encode_prefix, load_backbone
from empirics.certificate import SCHEMA, Certificate, RuleName
from empirics.certify import embed_under
from empirics.config import CertifyConfig
from empirics.peft_folders import for_adapters, read_peft_folder
from empirics.record import read_json, read_tensors
from empirics.signatures import Projection, read_rule_tensors
from theory.errors import InputError
from theory.mixture import Rule


@dataclass(frozen=True)
class Router:
    """A certified rule with the encoder and adapters that it embeds with. It has no state: no input changes how another is routed.

    Attributes
    ----------
    tasks : tuple of str
        In the order of the certificate.
    name : str
        "ratio", "paper" or "frozen".
    rule : Rule
    projections : tuple of Projection
        One for each task's space, or one for the frozen space.
    adapters : tuple of Adapter
        None where the rule embeds without any.
    backbone : Backbone
    """

    tasks: tuple[str, ...]
    name: RuleName
    rule: Rule
    projections: tuple[Projection, ...]
    adapters: tuple[Adapter, ...]
    backbone: Backbone

    def scores(self, inputs: Sequence[Any]) -> Float[np.ndarray, "n m"]:
        """Score of every task for every input; the least one wins.

        Parameters
        ----------
        inputs : sequence
            Texts, or images as `empirics.images.Image` or pixels: what the samples of the certificate were.

        Raises
        ------
        InputError
            If there is no input, or an embedding is not finite.
        """
        if not len(inputs):
            raise InputError("inputs", "are none; give at least one")
        cache = encode_prefix(self.backbone, list(inputs))
        if self.adapters:
            x = embed_under(self.backbone, cache, self.adapters)
        else:
            x = cache.frozen[:, None]
        z = np.stack([projection(x[:, s]) for s, projection in enumerate(self.projections)], axis=1)
        return self.rule.task_scores(self.rule.scores(z))

    def route(self, inputs: Sequence[Any]) -> list[str]:
        """The task whose adapter each input is sent to.

        Raises
        ------
        InputError
            As `scores`.
        """
        return [self.tasks[k] for k in self.scores(inputs).argmin(axis=1)]


def load_router(
    certified: Path, rule: RuleName | None = None, *, folders: Mapping[str, Path] | None = None, backbone: Backbone | None = None
) -> Router:
    """The router of a folder that `empirics.certify.certify` wrote.

    Parameters
    ----------
    certified : Path
    rule : {"ratio", "paper", "frozen"}, optional
        Needed where several were certified.
    folders : mapping from task to Path, optional
        The adapters, where they have moved; the paths in the certificate by default.
    backbone : Backbone, optional
        Loaded by the certificate's settings by default; must be the encoder that was certified.

    Raises
    ------
    InputError
        For a folder, rule or adapter that is missing or does not fit.
    """
    found = _certificate(certified / "certificate.json")
    tasks, known = tuple(task.name for task in found.tasks), [item.rule for item in found.rules]
    if rule is None and len(known) > 1:
        raise InputError("rule", f"is not given, and {certified} holds {', '.join(known)}; choose one")
    name = known[0] if rule is None else rule
    if name not in known:
        raise InputError("rule", f"{name!r} is not in {certified}, which holds {', '.join(known)}")
    paths = {task.name: Path(task.folder) for task in found.tasks} if folders is None else dict(folders)
    if missing := [task for task in tasks if task not in paths]:
        raise InputError("folders", f"lack the adapter of the task {missing[0]!r}")
    if backbone is None:
        config = CertifyConfig.model_validate(found.settings).backbone
        backbone = load_backbone(config.model_copy(update={"adapted_layers": 1}))
    tensors = read_tensors(certified / "signatures" / f"{name}.safetensors")
    fitted = Rule(*read_rule_tensors(tensors, tasks))
    projections = tuple(map(Projection, tensors["projection_mean"], tensors["projection_axes"]))
    adapters: tuple[Adapter, ...] = ()
    if name != "frozen":
        adapters = tuple(read_peft_folder(paths[task], backbone, task).adapter for task in tasks)
        backbone = for_adapters(backbone, adapters)
    return Router(tasks, name, fitted, projections, adapters, backbone)


def _certificate(path: Path) -> Certificate:
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA:
        raise InputError(str(path), f"has schema {version}; this version reads {SCHEMA}")
    try:
        return Certificate.model_validate(content)
    except ValidationError as error:
        raise InputError(str(path), f"is no certificate ({error.errors()[0]['msg']})") from None
