"""The samples of a certified folder: the scores that each rule gave them, and their tasks, as `samples.parquet` keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from empirics.files.record import read_parquet
from empirics.runs.run_folder import need_unchanged
from theory.errors import InputError

SAMPLES = "samples.parquet"


def score_column(rule: str, task: str) -> str:
    """The column of the scores of a task under a rule."""
    return f"{rule}:score:{task}"


def read_scores(
    certified: Path, rule: str, part: Literal["certificate", "measurement"], tasks: Sequence[str] | None = None
) -> tuple[Float[np.ndarray, "n m"], Int[np.ndarray, " n"]]:
    """Scores of all tasks for the samples of one part, and the samples' tasks by number.

    Parameters
    ----------
    certified : Path
        Written by `empirics.routing.certify.certify`.
    rule : str
    part : {"certificate", "measurement"}
    tasks : sequence of str, optional
        In the order of their numbers; that of the columns by default.

    Raises
    ------
    InputError
        If the file is missing, damaged or not that of the manifest, or the folder was not certified under the rule.
    """
    path = certified / SAMPLES
    if not path.is_file():
        raise InputError(str(path), "is missing; give a folder that certify --out has written")
    # What is calibrated on them is called certified.
    need_unchanged(certified, [SAMPLES], "put that one back, or certify again")
    frame, start = read_parquet(path), score_column(rule, "")
    known = [column.removeprefix(start) for column in frame if column.startswith(start)]
    if not known:
        raise InputError(str(certified), f"was not certified under rule {rule}; certify with --rule all")
    number = {task: k for k, task in enumerate(known if tasks is None else tasks)}
    columns = [score_column(rule, task) for task in number]
    if missing := [name for name in ("part", "task", *columns) if name not in frame]:
        raise InputError(str(path), f"lacks the column {missing[0]}; certify again")
    frame = frame[frame["part"] == part]
    if strange := set(frame["task"]) - number.keys():
        raise InputError(str(path), f"holds samples of {min(map(repr, strange))}, for which it has no scores; certify again")
    return frame[columns].to_numpy(), np.array([number[task] for task in frame["task"]], dtype=np.int64)
