"""PROTEUS and its rivals, as functions from one problem to one outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from empirics.methods.frozen import nearest_mean, ridge
from empirics.methods.one_adapter import joint, sequential
from empirics.methods.per_task import AdapterSet, at_random, by_arrow, by_keys, by_replay, by_signatures, told
from empirics.methods.problem import Outcome, Problem
from empirics.methods.retrieval import Remedy, Space

Kind = Literal["composed", "independent"]


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    Attributes
    ----------
    name : str
    about : str
        What it does, in a line.
    adapters : {None, "composed", "independent"}
        Which set of one adapter a task it uses: as the settings say, or each trained alone.
    answer : callable
        From the problem (and the adapters) to the outcome.
    role : {"method", "rival", "control"}
    remedy : str or None
        How it scores by signatures (`empirics.methods.retrieval`); None if it fits none.
    """

    name: str
    about: str
    adapters: Kind | None
    answer: Callable[..., Outcome]
    role: Literal["method", "rival", "control"] = "rival"
    remedy: Remedy | None = None

    def __call__(self, problem: Problem, sets: dict[str, AdapterSet]) -> Outcome:
        """Answer the problem, with the adapters that the method asks for."""
        return self.answer(problem) if self.adapters is None else self.answer(problem, sets[self.adapters])


def _by_signatures(
    name: str, about: str, space: Space, remedy: Remedy, adapters: Kind = "composed", role: Literal["method", "rival"] = "method"
) -> Method:
    return Method(name, about, adapters, partial(by_signatures, space=space, remedy=remedy), role, remedy)


METHODS = (
    _by_signatures("proteus", "composed adapters, least energy (the published rule)", "adapted", "none"),
    _by_signatures("proteus-ratio", "composed adapters, ratio to a background", "adapted", "ratio"),
    _by_signatures("proteus-corpus", "composed adapters, ratio to a background of generic texts", "adapted", "corpus"),
    _by_signatures("proteus-traffic", "composed adapters, ratio to a background of all test inputs, unlabelled", "adapted", "traffic"),
    _by_signatures("proteus-calibrated", "composed adapters, energies standardised by each task's own law", "adapted", "calibrated"),
    _by_signatures("proteus-angular", "composed adapters, angular rule", "adapted", "angular"),
    _by_signatures("proteus-joined", "composed adapters, signatures of [frozen, adapted], ratio to a background", "joined", "ratio"),
    _by_signatures("proteus-both", "composed adapters, frozen signatures plus the ratio of adapted ones", "both", "ratio"),
    _by_signatures("frozen-signatures", "composed adapters, retrieved by signatures of frozen features", "frozen", "none", role="rival"),
    _by_signatures(
        "independent", "an adapter trained alone for each task, ratio to a background", "adapted", "ratio", "independent", "rival"
    ),
    Method("keys", "independent adapters, nearest K-means key of frozen features (S-Prompts)", "independent", by_keys),
    Method("replay", "independent adapters, task classifier on replayed statistics (HiDe)", "independent", by_replay),
    Method("arrow", "independent adapters, routing from their weights (Arrow)", "independent", by_arrow),
    Method("sequential", "one adapter and head, trained task after task", None, sequential),
    Method("nearest-mean", "frozen features, nearest class mean", None, nearest_mean),
    Method("ridge", "frozen features, ridge on random projections (RanPAC's second phase)", None, ridge),
    Method("joint", "one adapter trained on all tasks at once (not continual)", None, joint, "control"),
    Method("told", "composed adapters, the task is told", "composed", told, "control"),
    Method("random", "composed adapters, a task is drawn", "composed", at_random, "control"),
)
