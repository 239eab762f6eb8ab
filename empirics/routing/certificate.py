"""What `proteus-bounds certify` says: the schema of `certificate.json`, and how it is read and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from empirics.config import CertifyConfig
from empirics.files.record import read_json
from empirics.reports.report import Conformal, Interval, LawRow, RungRow, rung_text
from empirics.runs.run_folder import first_problem
from theory.errors import InputError

SCHEMA: Final = 2
RuleName: TypeAlias = Literal["ratio", "paper", "frozen"]
MEANING: dict[RuleName, str] = {
    "ratio": "adapted embeddings, ratio to a background",
    "paper": "adapted embeddings, least energy (the published rule)",
    "frozen": "frozen shared space, least energy",
}
_LEGEND = (
    "[x] marks a value whose query law the measurement rejected, which is no guarantee; ! one that the measured error contradicts. "
    "L8 needs no law."
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CertifiedUnit(_Model):
    """A task, or everything."""

    name: str = Field(description="of the task, or overall")
    measured: Interval = Field(description="on samples that had no part in signatures, certificate or query law")
    certificate: RungRow = Field(description="L8: holds together with those of all other tasks, the pool and all rules reported")
    law: LawRow | None = Field(description="tests of the query law; null where none was fitted")
    rungs: dict[str, RungRow] = Field(description="the other rungs under the query law; empty where none was fitted")
    conformal: Conformal = Field(description="sets of tasks calibrated on the certificate samples of all tasks")


class CertifiedRule(_Model):
    """One way of retrieval."""

    rule: RuleName = Field(description="what tasks are scored by")
    dimension: int = Field(description="principal components that signatures live in")
    components: int = Field(description="Gaussians in the signatures")
    signature_bytes: int = Field(description="what the signatures take as stored")
    macro_error: float = Field(description="mean of the tasks' measured errors")
    overall: CertifiedUnit = Field(description="all tasks together, in the proportion of the samples")
    tasks: list[CertifiedUnit] = Field(description="each task, in the order of the adapters given")


class CertifiedTask(_Model):
    """What a task was certified with."""

    name: str = Field(description="of the task")
    folder: str = Field(description="of its adapter, as it was given")
    sha256: str | None = Field(description="of its update, tensor by tensor: that of a folder saved anew is the same; null if not noted")
    base: str | None = Field(description="the encoder that the folder says it was trained on")
    adapted: int = Field(description="linear maps with an update")
    parameters: int = Field(description="numbers in the update")
    clusters: int = Field(description="Gaussians of its signature: one a class, or one")
    signature: int = Field(description="samples that fitted the signature")
    certificate: int = Field(description="samples that fitted certificate, query law and conformal sets")
    measurement: int = Field(description="samples that measured the error")


class CertifiedDigests(_Model):
    """SHA-256 of what else was certified; null if not noted, as in certificates of schema 1."""

    encoder: str | None = Field(description="weights by their names; null, too, if they had been rounded before certify was given them")
    samples: str | None = Field(description="rows of the table in their order: task, text or image, and label")


class Certificate(_Model):
    """`certificate.json`."""

    schema_version: Literal[2] = Field(description="of this file")
    statement: str = Field(description="what is guaranteed, and under which assumptions")
    confidence: float = Field(description="of all certificates together")
    rules: list[CertifiedRule] = Field(min_length=1, description="one, or all of them, which share the confidence")
    tasks: list[CertifiedTask] = Field(description="in the order of the adapters given")
    sha256: CertifiedDigests = Field(description="of encoder and samples")
    notes: list[str] = Field(description="what the reader should know of adapters and samples")
    settings: dict[str, Any] = Field(description="those of `proteus-bounds certify`, whole")
    environment: dict[str, Any] = Field(description="versions, source commit, machine and what it computed with")


def read_certificate(path: Path) -> Certificate:
    """Read what `proteus-bounds certify` says.

    Certificates of schema 1 noted no digests of adapters, encoder and samples: theirs are None.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of a schema that this version cannot read.
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version not in (1, SCHEMA):
        raise InputError(str(path), f"has schema {version}; this version reads 1 to {SCHEMA}")
    try:
        if version == 1:
            content = _from_1(content)
    except (TypeError, ValueError, LookupError):
        raise InputError(str(path), "is no certificate of schema 1, which it says it is") from None
    try:
        return Certificate.model_validate(content)
    except ValidationError as error:
        raise InputError(str(path), f"is no certificate ({first_problem(error)})") from None


def certified_settings(path: Path, found: Certificate) -> CertifyConfig:
    """The settings of a certificate that was read from a file.

    Raises
    ------
    InputError
        If this version does not know them.
    """
    try:
        return CertifyConfig.model_validate(found.settings)
    except ValidationError as error:
        raise InputError(str(path), f"holds settings that this version does not know (settings.{first_problem(error)})") from None


def _from_1(content: dict[str, Any]) -> dict[str, Any]:
    tasks = [{**task, "sha256": None} for task in content["tasks"]]
    return {**content, "schema_version": SCHEMA, "tasks": tasks, "sha256": {"encoder": None, "samples": None}}


def statement(confidence: float, rules: list[RuleName]) -> str:
    """What L8 guarantees here, in words that name every assumption."""
    chosen = (
        f"The rule ({MEANING[rules[0]]}) was fixed before the samples were seen."
        if len(rules) == 1
        else f"They hold for all {len(rules)} rules together, so that one of them may be chosen by looking at them."
    )
    return (
        f"With probability at least {confidence:g} over the drawn samples, the limits L8 hold together for every task and for the pool of "
        f"tasks in the proportion of the samples: of fresh inputs of a task, at most that share is sent to a wrong adapter. {chosen} "
        "Assumes (A0) that the samples of a task are independent draws from its traffic, with its classes in these proportions, and that "
        "the adapters were not trained on them."
    )


def print_certificate(found: Certificate, console: Console) -> None:
    """Print every rule's table, then what is assumed."""
    for item in found.rules:
        console.print(_rule_table(item, found.confidence))
        console.print(Text(_law_line(item)))
    if any(unit.law is not None for item in found.rules for unit in item.tasks):
        console.print(Text(_LEGEND))
    console.print(Text(found.statement))
    for note in found.notes:
        console.print(Text(f"Note: {note}"))


def _rule_table(item: CertifiedRule, confidence: float) -> Table:
    shown = [name for name in ("L5", "L6") if all(name in unit.rungs for unit in [*item.tasks, item.overall])]
    table = Table(title=f"{item.rule}: {MEANING[item.rule]}, dimension {item.dimension}", title_justify="left", pad_edge=False)
    size = f"mean set at {1 - item.overall.conformal.alpha:g}"
    header = ["", "n", "measured error", f"{confidence:.0%} interval", "certified at most (L8)", *shown, "coverage", size, "query law"]
    for j, name in enumerate(header):
        table.add_column(name, justify="left" if j in (0, len(header) - 1) else "right")
    for unit in [*item.tasks, item.overall]:
        measured, sets = unit.measured, unit.conformal
        law = "none" if unit.law is None else unit.law.verdict
        cells = [unit.name, str(measured.n), f"{measured.error:.3f}", f"{measured.low:.3f}-{measured.high:.3f}"]
        cells += map(rung_text, [unit.certificate, *(unit.rungs[name] for name in shown)])
        # Text, not markup: names of tasks may hold brackets.
        table.add_row(*map(Text, [*cells, f"{sets.coverage:.3f}", f"{sets.mean_size:.2f}", law]))
    return table


def _law_line(item: CertifiedRule) -> str:
    overall = item.overall
    if overall.law is None:
        return "No query law was fitted, so that only L8 is given."
    rest = [f"{name} {rung_text(rung)}" for name, rung in overall.rungs.items() if not rung.vacuous]
    reasons = f" ({', '.join(overall.law.reasons)})" if overall.law.reasons else ""
    return f"Overall, under the query law, {overall.law.verdict}{reasons}: {', '.join(rest) or 'all vacuous'}."
