"""What each choice is worth: named variants of one run, each an ordinary run folder, side by side with the base they change.

A variant is a table of settings that differ from the base's. Variants that train alike share adapters and embeddings.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError
from rich.console import Console

from empirics import processes
from empirics.comparisons.ablation_table import BASE, SCHEMA, TABLES, Variant, summarise
from empirics.config import RunConfig, changed_config, read_table
from empirics.files.claim import SETTINGS, claimed_parts, finish_folder, setting_differences
from empirics.files.manifest import MANIFEST
from empirics.files.record import CHECKPOINTS, read_json
from empirics.reports import report
from empirics.runs.checkpoints import Checkpoints, open_checkpoints
from empirics.runs.evaluation import evaluate
from empirics.runs.machine import PhaseClock
from empirics.runs.origin import origin
from empirics.runs.pipeline import check_signatures, fit, is_fitted
from empirics.runs.sharing import encoding_key, training_key
from theory.errors import InputError

if TYPE_CHECKING:
    from empirics.data.streams import Stream
    from empirics.encoders.backbone import Backbone

# Names are those of folders, too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def shipped_variants() -> dict[str, Any]:
    """The shipped table of variants: groups of names of settings."""
    return yaml.safe_load(resources.files("empirics").joinpath("configs", "ablation", "text.yaml").read_text("utf-8"))


def read_variants(base: RunConfig, path: Path | None = None) -> tuple[Variant, ...]:
    """The base, and the variants of a file in its order.

    Parameters
    ----------
    base : RunConfig
    path : Path, optional
        YAML or TOML: groups, in them names, in them groups of settings; the shipped file if None.

    Raises
    ------
    InputError
        For a file that cannot be read or is no such table, a name that cannot be a folder's, and an unknown setting or a value out of
        range, naming the variant.
    """
    source = "shipped variants" if path is None else str(path)
    table = shipped_variants() if path is None else read_table(path)
    out = [Variant("", BASE, {}, base, f"runs/{BASE}")]
    for group, names in table.items():
        if not isinstance(names, dict) or not names:
            raise InputError(f"{source}: {group}", "holds no variants; write group: {name: {settings}}")
        for name, changes in names.items():
            where = f"{source}: {group}/{name}"
            for part in (group, name):
                if not _NAME.fullmatch(str(part)) or str(part) == BASE:
                    raise InputError(where, f"{part!r} cannot name a folder here; use letters, digits, '-', '_' and '.', and not {BASE!r}")
            if not isinstance(changes, dict):
                raise InputError(where, "holds no table of settings; write {group: {key: value}}")
            config = changed_config(base, changes, where)
            run = next((v.run for v in out if v.config == config), f"runs/{group}/{name}")
            out.append(Variant(str(group), str(name), dict(_leaves(changes)), config, run))
    return tuple(out)


def _leaves(changes: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in changes.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def chosen_variants(variants: Sequence[Variant], only: Sequence[str]) -> list[Variant]:
    """The base and the variants of some groups; all if none is named.

    Raises
    ------
    InputError
        For an unknown group.
    """
    groups = list(dict.fromkeys(v.group for v in variants if v.group))
    for name in only:
        if name not in groups:
            raise InputError("--only", f"{name!r} is unknown; choose from {', '.join(groups)}")
    return [v for v in variants if not v.group or not only or v.group in only]


def ablate(
    base: RunConfig, variants: Sequence[Variant], folder: Path | str, *, quiet: bool = False, resume: bool = False
) -> dict[str, Any]:
    """Run every variant that has not been run, and write one table.

    Each variant has a run folder that `proteus-bounds report` can read; a folder that holds runs of the same settings is continued. A
    variant that the documents cannot carry (too few for its dimension, its estimator or its share held out) is left out, and said to be.
    `ablation.json`, `ablation.md` and `ablation.parquet` (a row for each variant and arm) are made from the runs.

    Parameters
    ----------
    base : RunConfig
    variants : sequence of Variant
        As `read_variants` gave them for this base, the base first.
    folder : Path or str
    quiet : bool
        No progress on standard error.
    resume : bool
        Refuse a folder that does not hold an ablation of this base that lacks some of these variants or its tables.

    Returns
    -------
    dict
        What `ablation.json` holds.

    Raises
    ------
    InputError
        For data, weights or settings that cannot be used, a base that the documents cannot carry, or a folder that holds anything else.
    """
    folder = Path(folder)
    left_out: dict[str, str] = {}
    opened: dict[str, tuple[Stream, Backbone]] = {}
    for variant in variants:
        _check_variant(variant, opened, left_out)
    if (folder / SETTINGS).is_file():
        _need_same_base(base, folder)
    runs: dict[str, Variant] = {}
    for variant in variants:
        if str(variant) not in left_out:
            runs.setdefault(variant.run, variant)
    for run, variant in runs.items():
        about = folder / run / "run.json"
        if about.is_file() and not _holds(read_json(about), report.SCHEMA, "config", variant.config):
            raise InputError(str(folder / run), f"holds a run with other settings than {variant}; choose another folder with --out")
    missing = [v for run, v in runs.items() if not all((folder / run / name).is_file() for name in ("report.md", MANIFEST))]
    # What there is to do is read off the folder, which the main process now begins to change.
    processes.wait()
    settings = {"schema": SCHEMA, "base": base.model_dump(mode="json")}
    with claimed_parts(folder, settings, complete=not missing, resume=resume):
        for encoding in dict.fromkeys(encoding_key(v.config) for v in missing):
            _run_sharing(opened[encoding], [v for v in missing if encoding_key(v.config) == encoding], folder, quiet, resume)
        processes.leave_to_main()
        found = summarise(base, variants, left_out, folder)
        finish_folder(folder, TABLES)
        return found


def _need_same_base(base: RunConfig, folder: Path) -> None:
    there = read_json(folder / SETTINGS)
    if _holds(there, SCHEMA, "base", base):
        return
    differ = setting_differences(there["base"], base.model_dump(mode="json")) if isinstance(there, dict) and "base" in there else ""
    what = f"an ablation of another base: {differ}" if differ else "something else, or an ablation of another version"
    raise InputError(str(folder), f"holds {what}; choose another folder with --out")


def _holds(saved: Any, schema: int, key: str, config: RunConfig) -> bool:
    """Whether a file holds these settings; what it lacks because it is older stands at its default."""
    try:
        return saved["schema"] == schema and RunConfig.model_validate(saved[key]) == config
    except (KeyError, TypeError, ValidationError):
        return False


def _check_variant(variant: Variant, opened: dict[str, tuple[Stream, Backbone]], left_out: dict[str, str]) -> None:
    """Find out before anything is trained whether the documents can carry a variant."""
    from empirics.runs.embedding import open_stream, use_threads

    key = encoding_key(variant.config)
    with _named(variant):
        if key not in opened:
            use_threads(variant.config)
            opened[key] = open_stream(variant.config)
        stream, backbone = opened[key]
        backbone.projections(variant.config.adapter.targets)
    try:
        check_signatures(variant.config, stream, backbone.dimension)
    except InputError as error:
        if not variant.group:
            raise
        left_out[str(variant)] = f"{error.argument}: {error.problem}"


@contextmanager
def _named(variant: Variant) -> Iterator[None]:
    """Lay an error on the variant; the base's is that of an ordinary run."""
    try:
        yield
    except InputError as error:
        if not variant.group:
            raise
        raise InputError(f"variant {variant}", f"{error.argument}: {error.problem}") from None


def _run_sharing(opened: tuple[Stream, Backbone], variants: Sequence[Variant], folder: Path, quiet: bool, resume: bool) -> None:
    """Run variants of one frozen pass: each distinct training once, then its variants."""
    from empirics.runs.embedding import encode, train_and_embed, use_threads

    use_threads(variants[0].config)
    shared = PhaseClock(quiet)
    came_from = origin(*opened)

    def checkpoints(key: str, clock: PhaseClock) -> Checkpoints:
        place = folder / CHECKPOINTS / hashlib.sha256(key.encode()).hexdigest()[:16]
        return open_checkpoints(place, place / "origin.json", came_from, clock, resume=resume)

    source = functools.cache(lambda: encode(*opened, shared, checkpoints(encoding_key(variants[0].config), shared)))
    console = Console(stderr=True, quiet=quiet or not processes.is_main())
    # Read off the folder before the main process, which may be ahead of this one, changes it.
    fitted = {variant.run for variant in variants if is_fitted(folder / variant.run)}
    for training in dict.fromkeys(training_key(v.config) for v in variants):
        embedded = None
        clock = PhaseClock(quiet)
        for variant in [v for v in variants if training_key(v.config) == training]:
            # Phases bear the same names in every variant.
            console.print(f"variant {variant}", markup=False, highlight=False)
            path = folder / variant.run
            if variant.run not in fitted:
                own = PhaseClock(quiet)
                with _named(variant):
                    if embedded is None:
                        kept = checkpoints(training, clock)
                        embedded = train_and_embed(variant.config, *opened, source, clock, kept, came_from)
                    # A run's seconds are what it would have taken alone.
                    own.seconds |= shared.seconds | clock.seconds
                    own.peak_bytes |= shared.peak_bytes | clock.peak_bytes
                    if processes.is_main():
                        fit(variant.config, embedded, path, own)
            if processes.is_main():
                evaluate(path, PhaseClock(quiet))
        del embedded
        gc.collect()
