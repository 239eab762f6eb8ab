"""Run folders without an encoder: embeddings are drawn, and everything after them is the pipeline's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from empirics.adapters.training import TrainingLog
from empirics.config import load_config
from empirics.data.streams import Stream, Task
from empirics.reports.report import Report
from empirics.runs.embedding import Embedded
from empirics.runs.evaluation import evaluate
from empirics.runs.machine import PhaseClock, environment
from empirics.runs.pipeline import fit

TASKS = {"mail": ("spam", "ham"), "news": ("sports", "politics"), "shop": ("books", "toys")}
# What a user's file may call a task or a class.
HOSTILE = {
    "<script>window.hostile = 1</script>": ("<img src=x onerror='window.hostile = 2'>", '"quoted" & <b>bold</b>'),
    "$\\frac{1}$ [red]a[/red] {{ 7 * 7 }}": ("</script><script>window.hostile = 3</script>", "$x"),
    "新聞 " + "long" * 60: ("'); window.hostile = 4; ('", "</style></svg>"),
}
_PARTS = {"train": 24, "query": 24, "test": 20, "reservoir": 8}


def write_run(
    folder: Path,
    *,
    tasks: dict[str, tuple[str, ...]] = TASKS,
    seed: int = 0,
    exchangeable: bool = True,
    gap: float = 2.0,
    surprise: float = 1.0,
    settings: tuple[str, ...] = (),
) -> Report:
    """Write a run of drawn embeddings.

    Parameters
    ----------
    gap : float
        Between the means of classes, in standard deviations of an embedding.
    surprise : float
        Spread of the test documents over that of all others: what makes every query law wrong.
    """
    fixed = ("signature.dimension=3", "bounds.simulations=1000", "retrieval.batches=[4]", f"seed={seed}")
    config = load_config(overrides=[*fixed, *settings])
    rng = np.random.default_rng(seed)
    of = [(k, c) for k, classes in enumerate(tasks.values()) for c in range(len(classes))]
    part = np.tile(np.repeat(list(_PARTS), list(_PARTS.values())), len(of))
    each = sum(_PARTS.values())
    task, label = (np.repeat([pair[j] for pair in of], each) for j in (0, 1))
    mean = gap * rng.normal(size=(len(of), 1 + len(tasks), 5))
    noise = rng.normal(size=(part.size, 1 + len(tasks), 5)) * np.where(part == "test", surprise, 1.0)[:, None, None]
    x = (np.repeat(mean, each, axis=0) + noise).astype(np.float32)
    stream = Stream("drawn", tuple(Task(*item) for item in tasks.items()), ("",) * part.size, task, label, part, exchangeable=exchangeable)
    logs = (TrainingLog((1.0, 0.5), 0.75, 120.0, 0.5, 88.5),) * len(tasks)
    clock = PhaseClock(quiet=True)
    # As if it had been trained, and always alike.
    clock.seconds["train"] = 1.5
    came_from = {"environment": {**environment(), "accelerator": None}}
    fit(config, Embedded(stream, (), logs, x[:, 1:], x[:, 0], came_from), folder, clock)
    return evaluate(folder, PhaseClock(quiet=True))
