"""What a run was made from, with and on, as part of a page."""

from __future__ import annotations

from collections.abc import Mapping

from empirics.page.fields import Field
from empirics.page.model import Block, Listing, Prose, Section, Table, joined, words


def provenance(root: Field) -> Section:
    """Everything that a run was made with, and what it took."""
    run = root["run"]
    seconds = run["phases_seconds"]
    rows = (
        *environment_rows(run),
        (("Peak memory",), (run["peak_memory_bytes"].shown("bytes"),)),
        (("Time before the bounds",), (seconds.shown("total seconds"),)),
    )
    peaks = run["phases_peak_bytes"] if "phases_peak_bytes" in run.value else None
    phases = Table(
        ("Seconds of each phase, and the most memory held up to its end",) if peaks is not None else ("Seconds of each phase",),
        ("Phase", "Seconds", *(() if peaks is None else ("Memory",))),
        tuple(
            (
                words(name),
                words(value.shown("seconds")),
                *(() if peaks is None else (words(peaks[name].shown("bytes")) if name in peaks.value else words("–"),)),
            )
            for name, value in seconds.items()
        ),
    )
    blocks: tuple[Block, ...] = (Listing(rows), *_training(run), phases, settings_listing(run["config"]))
    return Section("provenance", "Settings and provenance", blocks)


def environment_rows(run: Field) -> tuple[tuple[Prose, Prose], ...]:
    """What a run was made from and on."""
    environment = run["environment"]
    machine = environment["machine"]
    commit: Prose = (environment["commit"].shown("text"), *((" with local changes",) if environment.value["dirty"] else ()))
    packages = joined([(f"{name} ", version.shown("text")) for name, version in environment["packages"].items()])
    documents = joined([(f"{part} ", number.shown("count")) for part, number in run["documents"].items()])
    accelerator: Prose = () if not environment.value.get("accelerator") else (", ", environment["accelerator"].shown("text"))
    rows: list[tuple[Prose, Prose]] = [
        (("Commit",), commit),
        (("Python",), (environment["python"].shown("text"),)),
        (("Packages",), packages),
        (
            ("Machine",),
            (
                machine["system"].shown("text"),
                ", ",
                machine["cores"].shown("text"),
                " cores, ",
                machine["memory_bytes"].shown("bytes"),
                *accelerator,
            ),
        ),
        (("Documents",), documents),
    ]
    if run.value.get("left_out"):
        rows.append((("Left out",), (run["left_out"].shown("list"),)))
    return tuple(rows)


def _training(run: Field) -> tuple[Table, ...]:
    rows = tuple(
        (
            words(name),
            words(log["accuracy"].shown("rate")),
            words(log["samples_per_second"].shown("count per second")),
            words(log["nonzero"].shown("share")),
            words(log["smallest_angle"].shown("angle")),
        )
        for name, log in run["training"].items()
    )
    header = ("Task", "Training accuracy", "Documents/s", "Composed", "Smallest angle")
    caption: Prose = (
        "Training: composed is the share of scalars on earlier units that are not zero, the angle that of new units to all earlier ones",
    )
    return (Table(caption, header, rows),) if rows else ()


def settings_listing(config: Field) -> Listing:
    """Every setting under its dotted name."""
    return Listing(tuple(((key,), (value.shown("setting"),)) for key, value in flattened(config)), title="Settings", compact=True)


def flattened(config: Field, prefix: str = "") -> list[tuple[str, Field]]:
    """The leaves of nested settings, by dotted name."""
    out = []
    for key, value in config.items():
        if isinstance(value.value, Mapping) and value.value:
            out += flattened(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", value))
    return out
