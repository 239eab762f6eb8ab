"""A served retriever that searches in two stages: frozen signatures screen, and only the candidates' adapters are run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from empirics.encoders.backbone import Backbone
from empirics.reports.report import RungRow
from empirics.routing.cascade import AdapterStages, Cascade
from empirics.routing.router import Router, load_router
from empirics.routing.serving import Answer, Guarantee, Limits, Served, certified, held_out, worker_of
from theory.conformal import RetrievalSets
from theory.pruning import Kind, Pruning


@dataclass(frozen=True)
class ServedCascade(Served):
    """What answers for a share of the forward passes; build with `load_served_cascade`.

    The router is that of the full search. The sets are calibrated on the screen's scores, which all tasks have. The guarantee is without
    limits of single tasks: what the cascade loses is certified over all inputs, and not of each task.

    Attributes
    ----------
    cascade : Cascade
    """

    cascade: Cascade

    def answer(self, inputs: Sequence[Any]) -> list[Answer]:
        """As `empirics.routing.serving.Served.answer`; without margins, for not all tasks are scored.

        Raises
        ------
        InputError
            As there.
        """
        kept = self.limits.check(inputs, self.router.backbone.modality)
        worker = worker_of(self.router.backbone)
        # Opened once for search and sets.
        opened = worker.submit(self.cascade.open, kept).result()
        found = worker.submit(self.cascade.search_opened, opened).result()
        sets = self.sets.predict(self.cascade.screen(opened))
        return [
            Answer(self.tasks[k], None, tuple(self.tasks[j] for j in np.flatnonzero(chosen)))
            for k, chosen in zip(found.task, sets, strict=True)
        ]


def load_served_cascade(
    folder: Path | str,
    rule: str | None = None,
    *,
    kind: Kind = "threshold",
    loss: float = 0.05,
    confidence: float = 0.95,
    alpha: float | None = None,
    limits: Limits | None = None,
    folders: Mapping[str, Path | str] | None = None,
    backbone: Backbone | None = None,
) -> ServedCascade:
    """Load a cascade from the folder of a run, or from one that was certified with all rules.

    It is fitted to the scores of the held-out documents that the folder keeps, so that nothing is embedded. They have a part in the rule's
    limit L8, too; the error is at most the sum of limit and loss, unless one of the two fails, and each does with a probability of its own.

    Parameters
    ----------
    folder : Path or str
    rule : str, optional
        Of the full search; not "frozen", which runs no adapter. Of a run, that which heads its report by default.
    kind, loss, confidence
        `kind`, `alpha` and `confidence` of `empirics.routing.cascade.Cascade`, fixed before the held-out documents are seen.
    alpha : float, optional
        Rate at which a set may miss the true task; that of the folder by default.
    limits : Limits, optional
    folders : mapping from task to Path or str, optional
        The adapters, where they have moved.
    backbone : Backbone, optional

    Raises
    ------
    InputError
        As `empirics.routing.serving.load_served`; if the rule runs no adapter, an adapter changes something behind the layers, or the
        held-out documents are too few for the loss.
    """
    folder = Path(folder)
    router = load_router(folder, rule, folders=folders, backbone=backbone)
    screen = load_router(folder, "frozen", backbone=router.backbone)
    stages = AdapterStages.of(router, screen)
    (first, task, level), (full, _, _) = (held_out(folder, of) for of in (screen, router))
    cascade = stages.cascade(kind=kind, alpha=loss, confidence=confidence).fit_scores(first, full, task)
    sets = RetrievalSets.calibrate(first, task, level if alpha is None else alpha)
    return ServedCascade(router, sets, _guarantee(folder, router, cascade.pruning_, sets), limits or Limits(), cascade)


def _guarantee(folder: Path, router: Router, pruning: Pruning, sets: RetrievalSets) -> Guarantee:
    _, overall, statement = certified(folder, router)
    more, confidence = pruning.loss, None
    if overall.confidence is not None and more.confidence is not None:
        confidence = math.nextafter(overall.confidence + more.confidence - 1, -math.inf)
    value = min(1.0, math.nextafter(overall.value + more.value, math.inf))
    vacuous = value >= 1 or confidence is None or confidence <= 0
    row = RungRow(
        log_value=math.log(value),
        value=value,
        direction="upper",
        level=overall.level,
        vacuous=vacuous,
        binding=None,
        confidence=confidence,
        source=f"{overall.source}; {more.source}",
        given=overall.given,
        note=f"the limit L8 of the full search, {overall.value:.6g}, and the loss of the cascade, {more.value:.6g}",
        holds=overall.holds,
        broken_assumption=overall.broken_assumption,
        guarantee=overall.guarantee and not vacuous,
    )
    added = (
        f"{statement} That is the full search. The cascade loses right answers of it for a share of at most {more.value:.4g} of the "
        f"inputs of all tasks in the proportion of the samples, with a confidence of {more.confidence:g} by itself: its error is at most "
        "the sum of that and the limit of all tasks."
    )
    return Guarantee({}, row, 1 - sets.alpha, added, sets.note)
