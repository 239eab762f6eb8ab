"""The cascade of a certified folder, fitted, judged and served from its files: frozen signatures screen, adapted embeddings decide.

The certificate's samples were embedded under every adapter when they were certified, so that fitting embeds nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from empirics.encoders.backbone import Backbone
from empirics.reports.rounding import rounded_up
from empirics.routing.cascade import AdapterStages, Cascade
from empirics.routing.certified_samples import read_scores
from empirics.routing.router import load_router
from theory.certificates import Measured
from theory.errors import InputError
from theory.pruning import Kind, Pruning

AdaptedRule: TypeAlias = Literal["ratio", "paper"]


@dataclass(frozen=True)
class JudgedCascade:
    """A cascade that was fitted to the certificate's samples, and what it does with those of the measurement.

    Attributes
    ----------
    rule : str
        Of the full search.
    pruning : Pruning
        Its `loss` is the certificate.
    tasks : int
    passes : float
        Mean number of adapters that an input of the measurement is embedded under.
    lost : Measured
        Right answers of the full search that were pruned there.
    full, cascade : Measured
        Errors of the full search and of the cascade there.
    """

    rule: str
    pruning: Pruning
    tasks: int
    passes: float
    lost: Measured
    full: Measured
    cascade: Measured

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        measured = {name: getattr(self, name).to_dict() for name in ("lost", "full", "cascade")}
        # JSON knows no infinity: a rule that keeps nothing but the first task has no least parameter.
        parameter = self.pruning.parameter if np.isfinite(self.pruning.parameter) else None
        about = {"rule": self.rule, "kind": self.pruning.kind, "parameter": parameter, "tasks": self.tasks, "passes": self.passes}
        return about | {"loss": self.pruning.loss.to_dict()} | measured

    def __str__(self) -> str:
        loss, level = self.pruning.loss, self.pruning.loss.confidence
        lost, first = self.lost, "frozen signatures, then the candidates' adapters"
        return (
            f"{first} ({self.rule}), rule {self.pruning.kind!r}: of all inputs, at most {rounded_up(loss.value)} are lost that the full "
            f"search sends right (L8, {level:.0%} confidence).\n"
            f"On {lost.n} other samples: {self.passes:.2f} of {self.tasks} adapters an input; {lost.errors} lost "
            f"({lost.low:.4f} to {lost.high:.4f}); error {self.cascade.error:.4f}, of the full search {self.full.error:.4f}."
        )


def fit_pruning(certified: Path, rule: AdaptedRule, kind: Kind, alpha: float, confidence: float) -> tuple[Pruning, JudgedCascade]:
    """Choose the candidates by the certificate's samples, and judge the choice on those of the measurement.

    Its certificate is beside those of the folder: the error of the cascade is at most the limit L8 of the rule plus the loss, if both
    hold, and each fails with a probability of its own.

    Parameters
    ----------
    certified : Path
        Written by `empirics.routing.certify.certify` with rule "all".
    rule : {"ratio", "paper"}
        Of the full search.
    kind, alpha, confidence
        As for `theory.pruning.Pruning.calibrate`, fixed before the samples are seen.

    Raises
    ------
    InputError
        If the folder is none, lacks a rule, or holds too few samples for the certificate.
    """
    pruning = _calibrated(certified, rule, kind, alpha, confidence)
    stage_one, true = read_scores(certified, "frozen", "measurement")
    full, _ = read_scores(certified, rule, "measurement")
    visited = pruning.visited(stage_one, full)
    wrong = np.where(visited, full, np.inf).argmin(axis=1) != true
    counts = pruning.lost(stage_one, full, true), full.argmin(axis=1) != true, wrong
    measured = (Measured(int(x.sum()), true.size, confidence) for x in counts)
    return pruning, JudgedCascade(rule, pruning, full.shape[1], float(visited.sum(axis=1).mean()), *measured)


def load_cascade(
    certified: Path | str,
    rule: AdaptedRule = "ratio",
    *,
    kind: Kind = "threshold",
    alpha: float = 0.05,
    confidence: float = 0.95,
    folders: Mapping[str, Path | str] | None = None,
    backbone: Backbone | None = None,
) -> tuple[Cascade, tuple[str, ...]]:
    """What serves the folder's adapters in two stages.

    Parameters
    ----------
    certified, rule, kind, alpha, confidence
        As for `fit_pruning`.
    folders : mapping from task to Path or str, optional
        The adapters, where they have moved.
    backbone : Backbone, optional
        Loaded by the certificate's settings by default.

    Returns
    -------
    Cascade, tuple of str
        Fitted; and the tasks, in the order of its numbers.

    Raises
    ------
    InputError
        As `fit_pruning` and `empirics.routing.router.load_router`.
    """
    certified = Path(certified)
    pruning = _calibrated(certified, rule, kind, alpha, confidence)
    full = load_router(certified, rule, folders=folders, backbone=backbone)
    screen = load_router(certified, "frozen", backbone=full.backbone)
    return AdapterStages.of(full, screen).cascade(kind=kind, alpha=alpha, confidence=confidence).with_pruning(pruning), full.tasks


def _calibrated(certified: Path, rule: AdaptedRule, kind: Kind, alpha: float, confidence: float) -> Pruning:
    """The candidates that the certificate's samples choose."""
    if rule not in ("ratio", "paper"):
        raise InputError("rule", f"{rule!r} runs no adapter, and needs no cascade; choose ratio or paper")
    stage_one, true = read_scores(certified, "frozen", "certificate")
    full, _ = read_scores(certified, rule, "certificate")
    return Pruning.calibrate(kind, stage_one, full, alpha, confidence, true)
