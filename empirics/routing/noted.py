"""What a certificate or a run notes of its adapters and its encoder, held against those that are about to be served under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theory.errors import InputError


@dataclass(frozen=True)
class Noted:
    """Digests from when the numbers were made.

    Attributes
    ----------
    record : Path
        The file that notes them.
    encoder : str or None
        Of its weights; None if that is not noted.
    adapters : mapping from task to str or None
    made : str
        What was done with them: "certified".
    again : str
        How to have the same of others: "certify again".
    """

    record: Path
    encoder: str | None
    adapters: Mapping[str, str | None]
    made: str
    again: str

    def check_encoder(self, argument: str, found: str | None) -> None:
        """Refuse another encoder.

        Parameters
        ----------
        argument : str
            What gave it.
        found : str or None
            Its digest (`empirics.runs.origin.encoder_digest`); None if that cannot be told.

        Raises
        ------
        InputError
        """
        if found is not None:
            self._check(argument, self.encoder, found, "encoder", "give")

    def check_settings(self, argument: str, told: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Refuse an encoder that embeds by other settings than those on record.

        Raises
        ------
        InputError
        """
        for name, value in told.items():
            if found[name] != value:
                raise InputError(
                    argument,
                    f"is not what was {self.made}: its {name} is {found[name]}, and {value} in {self.record}; give that, or {self.again}",
                )

    def check_adapter(self, folder: Path, task: str, found: str) -> None:
        """Refuse another adapter of a task than that of this digest.

        Raises
        ------
        InputError
            Naming the folder that it is in.
        """
        self._check(str(folder), self.adapters[task], found, f"adapter of the task {task!r}", "put back")

    def _check(self, argument: str, told: str | None, found: str, what: str, remedy: str) -> None:
        if told not in (None, found):
            raise InputError(
                argument, f"is not what was {self.made}: {self.record} speaks of another {what}; {remedy} that one, or {self.again}"
            )

    def unverified(self, encoder: str | None, tasks: Sequence[str]) -> str:
        """What could not be held against it, and why, in words; empty if all could.

        Parameters
        ----------
        encoder : str or None
            As `check_encoder` was given it.
        tasks : sequence of str
            Those whose adapters are run.
        """
        silent = [task for task in tasks if self.adapters[task] is None]
        missing = ["the encoder"] if self.encoder is None else []
        if silent:
            missing.append("the adapters" if len(silent) == len(tasks) else f"the adapters of {', '.join(silent)}")
        reasons = [f"{self.record.name} notes no digest of {' and '.join(missing)}"] if missing else []
        if self.encoder is not None and encoder is None:
            reasons.append("the encoder had embedded, and rounded its weights, before its digest was taken")
        return f"that these are what was {self.made} is not known: {'; '.join(reasons)}" if reasons else ""
