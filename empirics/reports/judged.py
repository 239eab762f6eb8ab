"""A ladder set against the samples that measured the error: per task and overall, with the verdict on its query law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from empirics.reports.report import Unit
from empirics.reports.verdicts import Distances, judge_unit
from theory.bound import Bound
from theory.certificates import Measured
from theory.ladder import Ladder
from theory.slack import slack


@dataclass(frozen=True)
class Judged:
    """Bounds, and what measured samples say of them.

    Attributes
    ----------
    ladder : Ladder
    overall : Unit
        `guarantee` of a rung says whether it may be relied on.
    tasks : tuple of Unit
    """

    ladder: Ladder
    overall: Unit
    tasks: tuple[Unit, ...]

    def slack(self) -> pd.DataFrame:
        """Where each rung's excess over the measured error comes from, overall and per task (`theory.slack.slack`)."""
        units = [("overall", None), *(("task", k) for k in self.ladder.tasks)]
        intervals = [unit.measured for unit in (self.overall, *self.tasks)]
        measured = {key: Measured(i.errors, i.n, i.confidence) for key, i in zip(units, intervals, strict=True)}
        return slack(self.ladder, measured)


def judge_ladder(
    found: Ladder, wrong: Bool[np.ndarray, " n"], task: Int[np.ndarray, " n"], distances: Distances, names: Sequence[str], confidence: float
) -> Judged:
    """Judge the query law and every rung, task by task and overall.

    Parameters
    ----------
    found : Ladder
        With tasks as units.
    wrong : (n,) bool array
        Whether each sample was sent to a wrong task; samples that had no part in rule, query law or L8.
    task : (n,) int array
        True tasks, with at least one sample of every task that `found` speaks of.
    distances : Distances
        Squared own distances of these samples, measured and drawn from the query law; each task is a cluster.
    names : sequence of str
    confidence : float
        Of the intervals.
    """

    def unit(name: str, rows: np.ndarray, rungs: Mapping[str, Bound]) -> Unit:
        return Unit.model_validate(judge_unit(name, wrong[rows], rungs, distances, np.unique(task[rows]), confidence))

    everything = np.ones(task.size, dtype=bool)
    tasks = tuple(unit(names[k], task == k, rungs) for k, rungs in found.tasks.items())
    return Judged(found, unit("overall", everything, found.overall), tasks)
