"""A retriever for a service: loaded once from files, safe under threads, with limits on its inputs, and with its certificate."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from empirics.config import RunConfig
from empirics.data.documents import check_inputs, identity
from empirics.encoders.backbone import Backbone
from empirics.files.record import read_parquet
from empirics.reports.report import RungRow
from empirics.routing.certificate import certified_settings, read_certificate
from empirics.routing.certified_samples import read_scores
from empirics.routing.router import Router, load_router
from empirics.runs.evaluation import ALPHA
from empirics.runs.run_folder import read_about, read_run
from theory.conformal import RetrievalSets, nonconformity
from theory.errors import InputError, check_whole

HeldOut = tuple[Float[np.ndarray, "n m"], Int[np.ndarray, " n"], float]
Certified = tuple[dict[str, RungRow], RungRow, str]

# Modules take places in an encoder while it embeds, so that one thread at a time may, whichever retrievers it serves. It is always the
# same one, to which requests come in their order: a lock may go again to the thread that has just let go of it, and every thread that
# computes has a team of others that torch starts for it.
_WORKERS: WeakKeyDictionary[nn.Module, ThreadPoolExecutor] = WeakKeyDictionary()
_WORKERS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """What one request may hold.

    Attributes
    ----------
    inputs : int
        Documents in a batch.
    characters : int
        Of a text. What exceeds `backbone.max_length` tokens is cut off anyway, as in certification, but has to be read for that.
    image_bytes : int
        Of an image file, or of pixels.
    """

    inputs: int = 256
    characters: int = 100_000
    image_bytes: int = 2**24

    def __post_init__(self) -> None:
        for name in ("inputs", "characters", "image_bytes"):
            check_whole(name, getattr(self, name), 1, "less lets nothing through")

    def check(self, inputs: Sequence[Any], modality: Literal["text", "image"]) -> list[Any]:
        """The inputs as a list, if they are within the limits.

        Raises
        ------
        InputError
            If there are none or too many, or one (its number is named) is too long, empty or of another kind.
        """
        if not isinstance(inputs, str | bytes) and len(inputs) > self.inputs:
            raise InputError("inputs", f"are {len(inputs)}, and at most {self.inputs} are answered at once; send fewer")
        kept = check_inputs(inputs, modality)
        for j, item in enumerate(kept):
            self._check_one(j, item)
        return kept

    def _check_one(self, j: int, item: Any) -> None:
        if isinstance(item, str):
            if len(item) > self.characters:
                raise InputError("inputs", f"hold a text of {len(item)} characters as number {j}, more than {self.characters}")
            return
        size = item.nbytes if isinstance(item, np.ndarray) else len(item.encoded())
        if size > self.image_bytes:
            raise InputError("inputs", f"hold an image of {size} bytes as number {j}, more than {self.image_bytes}")
        try:
            identity(item)
        except InputError as error:
            raise InputError("inputs", f"cannot be used: number {j} {error.problem}") from None


@dataclass(frozen=True)
class Answer:
    """Where one input is sent.

    Attributes
    ----------
    task : str
    margin : float or None
        How much less its score is than that of the second best task: of a likelihood rule, twice the logarithm of a ratio of likelihoods.
        None where not all tasks were scored.
    tasks : tuple of str
        A set that holds the true task with the probability that `Guarantee.coverage` says; it may be empty, and need not hold `task`.
    """

    task: str
    margin: float | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Guarantee:
    """What may be relied on, of all answers alike.

    Attributes
    ----------
    limits : dict from task to RungRow
        L8 of each task: of fresh inputs of that task, at most this share is sent elsewhere. No guarantee where `guarantee` is false.
    overall : RungRow
        The same of inputs of all tasks in the proportion of the held-out samples.
    coverage : float
        Probability that a set holds the true task, over held-out samples and input together (A0, tasks in the same proportion).
    statement : str
        The limits in words, with what they assume.
    note : str
        What the sets do not achieve; empty if nothing.
    """

    limits: dict[str, RungRow]
    overall: RungRow
    coverage: float
    statement: str
    note: str


@dataclass(frozen=True)
class Served:
    """A retriever with its sets and its certificate. Nothing changes it, and any number of threads may ask it; build with `load_served`.

    Attributes
    ----------
    router : Router
    sets : RetrievalSets
        Calibrated on held-out samples that had no part in the rule.
    guarantee : Guarantee
    limits : Limits
    """

    router: Router
    sets: RetrievalSets
    guarantee: Guarantee
    limits: Limits

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks."""
        return self.router.tasks

    def answer(self, inputs: Sequence[Any]) -> list[Answer]:
        """Where each input is sent, by itself: others in the batch change no answer, but for float rounding of its scores.

        One thread embeds for all that ask, in their order; everything else runs in the thread that asks.

        Parameters
        ----------
        inputs : sequence
            Texts, or images as `empirics.data.images.Image` or pixels: what the encoder takes.

        Raises
        ------
        InputError
            Before any work, if there are no inputs or too many, or one (its number is named) is too long, empty or of another kind.
        """
        kept = self.limits.check(inputs, self.router.backbone.modality)
        z = worker_of(self.router.backbone).submit(self.router.embed, kept).result()
        scores = self.router.rule.task_scores(self.router.rule.scores(z))
        found, sets = scores.argmin(axis=1), self.sets.predict(scores)
        margins = -nonconformity(scores)[np.arange(len(kept)), found]
        return [
            Answer(self.tasks[k], float(margin), tuple(self.tasks[j] for j in np.flatnonzero(chosen)))
            for k, margin, chosen in zip(found, margins, sets, strict=True)
        ]


def worker_of(backbone: Backbone) -> ThreadPoolExecutor:
    """The one thread that embeds with an encoder, whoever asks."""
    with _WORKERS_LOCK:
        return _WORKERS.setdefault(backbone.model, ThreadPoolExecutor(1, "encoder"))


def load_served(
    folder: Path | str,
    rule: str | None = None,
    *,
    alpha: float | None = None,
    limits: Limits | None = None,
    folders: Mapping[str, Path | str] | None = None,
    backbone: Backbone | None = None,
) -> Served:
    """Load what a service needs from the folder of a run, or from one that `proteus-bounds certify` wrote.

    Parameters
    ----------
    folder : Path or str
    rule : str, optional
        As for `empirics.routing.router.load_router`. To be fixed before certificates are looked at, or, of a folder that was
        certified with all rules, at will: those limits hold together.
    alpha : float, optional
        Rate at which a set may miss the true task, fixed before any is seen; that of the folder by default.
    limits : Limits, optional
    folders : mapping from task to Path or str, optional
        The adapters, where they have moved.
    backbone : Backbone, optional
        Loaded by the folder's settings by default.

    Raises
    ------
    InputError
        For a folder, rule, adapter or level that cannot be used.
    """
    folder = Path(folder)
    router = load_router(folder, rule, folders=folders, backbone=backbone)
    scores, task, level = held_out(folder, router)
    sets = RetrievalSets.calibrate(scores, task, level if alpha is None else alpha)
    tasks, overall, statement = certified(folder, router)
    # What is built when it is first used is built now.
    _ = router.stack
    return Served(router, sets, Guarantee(tasks, overall, 1 - sets.alpha, statement, sets.note), limits or Limits())


def held_out(folder: Path, router: Router) -> HeldOut:
    """Scores and tasks of the held-out documents that a rule was certified with, and the level at which its sets were reported."""
    return (_held_out_of_run if (folder / "run.json").is_file() else _held_out_samples)(folder, router)


def certified(folder: Path, router: Router) -> Certified:
    """The limits L8 of a rule: of each task, of all, and in words, which say where the router is not known to be what was certified."""
    tasks, overall, said = (_limits_of_run if (folder / "run.json").is_file() else _certified_limits)(folder, router)
    # It is an assumption then, and as much a part of the statement as the others.
    return tasks, overall, f"{said} {router.unverified[0].upper()}{router.unverified[1:]}." if router.unverified else said


def _held_out_samples(folder: Path, router: Router) -> HeldOut:
    path = folder / "certificate.json"
    settings = certified_settings(path, read_certificate(path))
    return *read_scores(folder, router.name, "certificate", router.tasks), settings.alpha


def _certified_limits(folder: Path, router: Router) -> Certified:
    found = read_certificate(folder / "certificate.json")
    item = next(r for r in found.rules if r.rule == router.name)
    return {unit.name: unit.certificate for unit in item.tasks}, item.overall.certificate, found.statement


def _held_out_of_run(folder: Path, router: Router) -> HeldOut:
    dimension = RunConfig.model_validate(read_about(folder)["config"]).signature.dimension
    frame = read_parquet(folder / "calibration.parquet")
    scores = frame[[f"{router.name}-{dimension}:energy:{task}" for task in router.tasks]].to_numpy()
    return scores, frame["task"].to_numpy(), ALPHA


def _limits_of_run(folder: Path, router: Router) -> Certified:
    report = read_run(folder).report
    arm = next(a for a in report.arms if (a.arm, a.dimension, a.law) == (router.name, report.headline.dimension, "mixture"))
    tasks, overall = {unit.name: unit.rungs["L8"] for unit in arm.tasks}, arm.overall.rungs["L8"]
    statement = (
        f"With probability at least {overall.confidence:g} over the held-out documents, the limits L8 of the tasks hold together; that of "
        "all tasks, in the proportion of these documents, holds with the same probability by itself: of fresh documents of a task, at most "
        f"that share is sent to a wrong adapter. The arm ({router.name}) was fixed before these documents were seen. Assumes (A0) that the "
        "held-out documents of a task are independent draws from its traffic, with its classes in these proportions."
    )
    return tasks, overall, statement
