"""Which fields of files are times: what a run took. All else of a run is the same to the bit whenever it is repeated on one machine."""

from __future__ import annotations

from typing import Any

# Fields of JSON files at any depth, and columns of tables.
TIMES = frozenset(
    {
        "phases_seconds",
        "phases_peak_bytes",
        "peak_memory_bytes",
        "samples_per_second",
        "frozen_pass_seconds",
        "seconds",
        "train_seconds",
        "fit_seconds",
        "test_seconds",
        "peak_bytes",
    }
)


def without_times(content: Any) -> Any:
    """JSON less its times.

    What is printed from it, such as `report.md`, holds them too, and `manifest.json` the digests of files that do.
    """
    if isinstance(content, dict):
        return {key: without_times(value) for key, value in content.items() if key not in TIMES}
    return [without_times(value) for value in content] if isinstance(content, list) else content
