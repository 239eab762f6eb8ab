"""Send each input to one of several adapters, by the rule and the signatures that a certificate or the report of a run speaks of."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from empirics.adapters.adapter import Adapter, adapter_digest, load_adapter, update_digest
from empirics.adapters.multi import embed_all
from empirics.adapters.peft_folders import for_adapters, read_peft_folder
from empirics.adapters.stack import AdapterStack, stack_adapters
from empirics.config import BackboneConfig, RunConfig
from empirics.data.documents import check_inputs
from empirics.encoders.backbone import Backbone, embedding_settings
from empirics.encoders.loading import load_backbone
from empirics.encoders.prefix import encode_prefix
from empirics.files.record import read_tensors
from empirics.retrieval.signatures import Projection, read_rule_tensors
from empirics.routing.certificate import certified_settings, read_certificate
from empirics.routing.certify import embed_under
from empirics.routing.noted import Noted
from empirics.runs.evaluation import ARMS, load_rule, spaces_of
from empirics.runs.origin import encoder_digest
from empirics.runs.run_folder import PROJECTIONS, check_files, finished, need_unchanged, read_about
from theory.errors import InputError
from theory.mixture import Rule


@dataclass(frozen=True)
class Router:
    """A rule with the encoder and adapters that it embeds with. It has no state: no input changes how another is routed.

    One thread at a time may embed: adapters take places in the encoder while they do (`empirics.routing.serving` sees to that).

    Attributes
    ----------
    tasks : tuple of str
        In the order of the signatures.
    name : str
        "ratio", "paper", "frozen", or, of a run, "both".
    rule : Rule
    projections : tuple of Projection
        For the frozen space, if the rule looks at that, then for each task's space, if it looks at those.
    adapters : tuple of Adapter
        Empty where the rule embeds without any.
    backbone : Backbone
    unverified : str
        Why adapters or encoder are not known to be those that the certificate or report speaks of; empty if they are.
    """

    tasks: tuple[str, ...]
    name: str
    rule: Rule
    projections: tuple[Projection, ...]
    adapters: tuple[Adapter, ...]
    backbone: Backbone
    unverified: str = ""

    @functools.cached_property
    def stack(self) -> AdapterStack | None:
        """The adapters as they are embedded with together; None if there are none, or something behind the layers is adapted."""
        if not self.adapters or any(not n.startswith(f"{self.backbone.layers}.") for x in self.adapters for n in x.folded):
            return None
        return stack_adapters(self.backbone, self.adapters)

    def embed(self, inputs: Sequence[Any]) -> Float[np.ndarray, "n S d"]:
        """Projected embeddings of every input in the spaces that the rule looks at.

        Parameters
        ----------
        inputs : sequence
            Texts, or images as `empirics.data.images.Image` or pixels: what the samples of the certificate were.

        Raises
        ------
        InputError
            If there is no input or one that cannot be used (its number is named), or an embedding is not finite.
        """
        inputs = check_inputs(inputs, self.backbone.modality)
        cache = encode_prefix(self.backbone, inputs)
        spaces = []
        if len(self.projections) > len(self.adapters):
            spaces.append(cache.frozen[:, None])
        if self.stack is not None:
            spaces.append(embed_all(self.backbone, cache, np.arange(len(inputs)), self.stack))
        elif self.adapters:
            spaces.append(embed_under(self.backbone, cache, self.adapters))
        x = np.concatenate(spaces, axis=1)
        return np.stack([projection(x[:, s]) for s, projection in enumerate(self.projections)], axis=1)

    def scores(self, inputs: Sequence[Any]) -> Float[np.ndarray, "n m"]:
        """Score of every task for every input; the least one wins.

        Raises
        ------
        InputError
            As `embed`.
        """
        return self.rule.task_scores(self.rule.scores(self.embed(inputs)))

    def route(self, inputs: Sequence[Any]) -> list[str]:
        """The task whose adapter each input is sent to.

        Raises
        ------
        InputError
            As `scores`.
        """
        return [self.tasks[k] for k in self.scores(inputs).argmin(axis=1)]


def load_router(
    folder: Path | str, rule: str | None = None, *, folders: Mapping[str, Path | str] | None = None, backbone: Backbone | None = None
) -> Router:
    """The router of a folder that `empirics.routing.certify.certify` or `empirics.runs.pipeline.run` wrote.

    What the folder says holds for the adapters and the encoder that it was made with, of which it notes digests. Others are refused: an
    adapter that was trained again, a folder that was swapped, an encoder of other weights; and so are signatures that are not those of the
    manifest. The same update saved anew is the same. Of what an earlier version noted no digests it is not known; there is a warning then,
    and `Router.unverified` says so.

    Parameters
    ----------
    folder : Path or str
    rule : str, optional
        "ratio", "paper" or "frozen", or, of a run, "both": needed where several were certified; of a run that which heads its report, by
        default.
    folders : mapping from task to Path or str, optional
        The adapters, where they have moved; by default the paths in the certificate, and the folder `adapters` of a run.
    backbone : Backbone, optional
        Loaded by the settings of certificate or run by default; must be the encoder that they speak of, and pool, scale and cut texts as
        they say. Its precision and device are its own. One that has embedded before, in bfloat16, has rounded its weights in place: if its
        digest was not taken before (`empirics.runs.origin.encoder_digest`), as this function does, it is not checked, which
        `Router.unverified` says.

    Raises
    ------
    InputError
        For a folder, rule or adapter that is missing or does not fit; before anything is embedded, for an adapter that is run (naming its
        folder and task) or an encoder that is not the one that was certified or measured.

    Warns
    -----
    UserWarning
        Where that is not known.
    """
    folder = Path(folder)
    router = (_of_run if (folder / "run.json").is_file() else _of_certificate)(folder, rule, folders, backbone)
    if router.unverified:
        warnings.warn(f"{folder}: {router.unverified}", UserWarning, stacklevel=2)
    return router


def _of_certificate(folder: Path, rule: str | None, folders: Mapping[str, Path | str] | None, backbone: Backbone | None) -> Router:
    record = folder / "certificate.json"
    found = read_certificate(record)
    tasks, known = tuple(task.name for task in found.tasks), [item.rule for item in found.rules]
    name = _chosen(folder, rule, known)
    paths = _adapter_folders(tasks, folders, {task.name: Path(task.folder) for task in found.tasks})
    config = certified_settings(record, found).backbone.model_copy(update={"adapted_layers": 1})
    noted = Noted(record, found.sha256.encoder, {task.name: task.sha256 for task in found.tasks}, "certified", "certify again")
    # Earlier versions noted settings of an encoder that was not asked for, if certify was given one.
    backbone, encoder = _encoder(config, backbone, noted, as_set=found.sha256.samples is not None)
    # Others, of the same tasks and sizes, would be served under limits that are not theirs.
    signatures = f"signatures/{name}.safetensors"
    need_unchanged(folder, [signatures], "put that one back, or certify again")
    tensors = read_tensors(folder / signatures)
    fitted = Rule(*read_rule_tensors(tensors, tasks))
    projections = _projections(tensors, folder, 1 if name == "frozen" else len(tasks), fitted.signatures.dimension)
    adapters: tuple[Adapter, ...] = ()
    if name != "frozen":
        adapters = tuple(read_peft_folder(paths[task], backbone, task).adapter for task in tasks)
        for adapter in adapters:
            noted.check_adapter(paths[adapter.task], adapter.task, update_digest(adapter))
        backbone = for_adapters(backbone, adapters)
    unverified = noted.unverified(encoder, [adapter.task for adapter in adapters])
    return Router(tasks, name, fitted, projections, adapters, backbone, unverified)


def _of_run(folder: Path, rule: str | None, folders: Mapping[str, Path | str] | None, backbone: Backbone | None) -> Router:
    about = read_about(folder)
    if not finished(about):
        raise InputError(str(folder), "holds a run that did not finish; proteus-bounds report tells how far it came")
    check_files(folder, about)
    config, tasks = RunConfig.model_validate(about["config"]), tuple(task["name"] for task in about["tasks"])
    name = _chosen(folder, config.bounds.arm if rule is None else rule, list(ARMS))
    path = folder / PROJECTIONS
    if not path.is_file():
        raise InputError(str(path), "is missing, as in all runs of older versions; run it again to serve from it")
    tensors = read_tensors(path)
    paths = _adapter_folders(tasks, folders, {task: folder / "adapters" / task for task in tasks})
    spaces = spaces_of(name)
    projections = tuple(map(Projection, tensors["mean"][spaces], tensors["axes"][spaces]))
    fitted = load_rule(folder / "signatures" / f"{name}-{config.signature.dimension}.safetensors", tasks, config)
    trained = about.get("training", {})
    digests = {task: trained.get(task, {}).get("sha256") or None for task in tasks}
    noted = Noted(folder / "run.json", about.get("sha256", {}).get("encoder"), digests, "measured", "run again")
    run = () if name == "frozen" else tasks
    adapters = tuple(load_adapter(paths[task]) for task in run)
    for task, adapter in zip(run, adapters, strict=True):
        noted.check_adapter(paths[task], task, adapter_digest(adapter))
    backbone, encoder = _encoder(config.backbone, backbone, noted, as_set=True)
    return Router(tasks, name, fitted, projections, adapters, backbone, noted.unverified(encoder, run))


def _encoder(config: BackboneConfig, given: Backbone | None, noted: Noted, *, as_set: bool) -> tuple[Backbone, str | None]:
    """The encoder that was given, or that of the settings; and its digest. What is noted, and if it was set so, settings have to agree."""
    backbone = load_backbone(config) if given is None else given
    digest = None if noted.encoder is None else encoder_digest(backbone)
    noted.check_encoder(str(config.path or config.packaged) if given is None else "backbone", digest)
    if as_set and given is not None:
        noted.check_settings("backbone", embedding_settings(config, given), embedding_settings(given.config, given))
    return backbone, digest


def _projections(tensors: Mapping[str, np.ndarray], folder: Path, spaces: int, dimension: int) -> tuple[Projection, ...]:
    """The projection of every space."""
    mean, axes = tensors.get("projection_mean"), tensors.get("projection_axes")
    if mean is None or axes is None or mean.ndim != 2 or len(mean) != spaces or axes.shape != (spaces, dimension, mean.shape[1]):
        raise InputError(str(folder), f"holds no projections of {spaces} spaces to {dimension} dimensions")
    if not (np.isfinite(mean).all() and np.isfinite(axes).all()):
        raise InputError(str(folder), "holds NaN or infinite values in a projection")
    return tuple(map(Projection, mean, axes))


def _chosen(folder: Path, rule: str | None, known: Sequence[str]) -> str:
    if rule is None and len(known) > 1:
        raise InputError("rule", f"is not given, and {folder} holds {', '.join(known)}; choose one")
    name = known[0] if rule is None else rule
    if name not in known:
        raise InputError("rule", f"{name!r} is not in {folder}, which holds {', '.join(known)}")
    return name


def _adapter_folders(tasks: Sequence[str], folders: Mapping[str, Path | str] | None, default: Mapping[str, Path]) -> dict[str, Path]:
    paths = {task: Path(path) for task, path in (default if folders is None else folders).items()}
    if missing := [task for task in tasks if task not in paths]:
        raise InputError("folders", f"lack the adapter of the task {missing[0]!r}")
    return paths
