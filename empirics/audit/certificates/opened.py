"""The files of a certificate as raw data: JSON, scores and tensors, read when first asked for and interpreted by nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.audit.opened import Files
from empirics.files.record import read_json, read_parquet

RULES = ("ratio", "paper", "frozen")
PARTS = ("signature", "certificate", "measurement")
SAMPLES = "samples.parquet"


class CertificateFiles(Files):
    """A folder that `proteus-bounds certify` wrote."""

    @cached_property
    def about(self) -> dict[str, Any]:
        """`certificate.json`."""
        return read_json(self.folder / "certificate.json")

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings, as `certificate.json` has them."""
        return self.about["settings"]

    @property
    def digests(self) -> bool:
        """Whether SHA-256 of adapters, encoder and samples are noted, as they are since schema 2."""
        return self.about["schema_version"] > 1

    @property
    def names(self) -> list[str]:
        """Names of the tasks, in the order of their numbers."""
        return [task["name"] for task in self.about["tasks"]]

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """What is said of each rule, by its name."""
        return {rule["rule"]: rule for rule in self.about["rules"]}

    @property
    def by_class(self) -> bool:
        """Whether the components of a signature are the classes, or whole tasks where these have none."""
        return self.settings["signature"]["clusters"] == "class"

    @property
    def each(self) -> float:
        """Confidence of the statements of one rule: all rules together fail as often as the certificate may."""
        return 1 - (1 - self.settings["confidence"]) / len(RULES if self.settings["rule"] == "all" else [self.settings["rule"]])

    @cached_property
    def samples(self) -> pd.DataFrame:
        """`samples.parquet`."""
        return read_parquet(self.folder / SAMPLES)

    @cached_property
    def task(self) -> Int[np.ndarray, " n"]:
        """Task of every sample, by number."""
        number = {name: k for k, name in enumerate(self.names)}
        return np.array([number[name] for name in self.samples["task"]], dtype=np.int64)

    def of(self, part: str) -> Int[np.ndarray, " k"]:
        """Rows of the samples of one part."""
        return np.flatnonzero(self.samples["part"].to_numpy() == part)

    def scores(self, rule: str) -> Float[np.ndarray, "n m"]:
        """Score of every task for every sample."""
        return self.samples[[f"{rule}:score:{name}" for name in self.names]].to_numpy(dtype=np.float64)

    def retrieved(self, rule: str) -> Int[np.ndarray, " n"]:
        """Task that every sample is sent to, by number; -1 for what is none."""
        number = {name: k for k, name in enumerate(self.names)}
        return np.array([number.get(name, -1) for name in self.samples[f"{rule}:retrieved"]], dtype=np.int64)

    def projections(self, rule: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Mean and axes of the map into each space that a rule looks at."""
        tensors = self.signatures(rule)
        return list(zip(tensors["projection_mean"], tensors["projection_axes"], strict=True))

    def units(self, rule: str) -> list[tuple[int | None, dict[str, Any]]]:
        """What is said of each task, by its number, and of all together (None)."""
        told = self.rules[rule]
        return [*enumerate(told["tasks"]), (None, told["overall"])]
