"""Works that are timed in turn, several times over, so that what else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float


def in_turn(
    works: Mapping[str, Callable[[], object]], repeats: int, *, one_thread: bool, wait: Callable[[], object] = lambda: None
) -> Float[np.ndarray, "repeats works"]:
    """Seconds that each work takes.

    Parameters
    ----------
    works : mapping from name to callable
    repeats : int
    one_thread : bool
        Whether one thread of the processor does it all. Its time is then the time of the work, whatever else the machine is doing.
    wait : callable
        Waits until a device has done what it was given.
    """
    clock = time.process_time if one_thread else time.perf_counter
    times = np.empty((repeats, len(works)))
    for r in range(repeats):
        for j, work in enumerate(works.values()):
            wait()
            start = clock()
            work()
            wait()
            times[r, j] = clock() - start
    return times
