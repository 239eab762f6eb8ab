"""Alterations of a certificate that an audit must find, each a function of the folder; files stay readable and of the same shape.

Some are made good in every place that repeats the number, as a careful forger would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from alterations import Alteration, change_json, change_table, change_tensors

from empirics.files.record import read_json, read_tensors, write_tensors
from empirics.routing.certificate import statement
from theory.certificates import clopper_pearson

JSON, SAMPLES = "certificate.json", "samples.parquet"


def _units(about: dict, rule: str = "ratio") -> list[dict]:
    told = next(item for item in about["rules"] if item["rule"] == rule)
    return [*told["tasks"], told["overall"]]


def _all_units(about: dict) -> list[dict]:
    return [unit for rule in about["rules"] for unit in [*rule["tasks"], rule["overall"]]]


def _lower(rung: dict, by: float) -> None:
    rung["log_value"] += float(np.log1p(-by))
    rung["value"] = float(np.nextafter(np.exp(rung["log_value"]), 2))


def lowered_limits(folder: Path) -> None:
    def change(about: dict) -> None:
        for unit in _all_units(about):
            if not unit["certificate"]["vacuous"]:
                _lower(unit["certificate"], 1e-6)

    change_json(folder, JSON, change)


def raised_confidence(folder: Path) -> None:
    """That of the whole, in every place that says it, with the intervals that follow; the limits stay."""

    def change(about: dict) -> None:
        about["confidence"] = about["settings"]["confidence"] = 0.99
        about["statement"] = statement(0.99, [rule["rule"] for rule in about["rules"]])
        for unit in _all_units(about):
            measured = unit["measured"]
            low, high = clopper_pearson(measured["errors"], measured["n"], 0.99)
            measured |= {"confidence": 0.99, "low": low, "high": high}
            for rung in (unit["certificate"], unit["rungs"]["L6"]):
                rung["confidence"] = 1 - 0.01 / len(about["rules"])

    change_json(folder, JSON, change)


def unshared_confidence(folder: Path) -> None:
    """Two of three rules are left out as if there had been one; the limit that is kept says what share it had."""

    def change(about: dict) -> None:
        about["rules"] = about["rules"][:1]
        about["settings"]["rule"] = "ratio"
        about["statement"] = statement(about["confidence"], ["ratio"])

    change_json(folder, JSON, change)
    change_table(folder, SAMPLES, lambda f: f[["row", "task", "part", *(c for c in f if c.startswith("ratio:"))]])
    for rule in ("paper", "frozen"):
        (folder / "signatures" / f"{rule}.safetensors").unlink()


def fewer_errors(folder: Path) -> None:
    def change(about: dict) -> None:
        measured = next(unit["measured"] for unit in _units(about) if unit["measured"]["errors"])
        errors = measured["errors"] - 1
        low, high = clopper_pearson(errors, measured["n"], measured["confidence"])
        measured |= {"errors": errors, "error": errors / measured["n"], "low": low, "high": high}

    change_json(folder, JSON, change)


def flipped_answer(folder: Path) -> None:
    change_table(folder, SAMPLES, lambda f: f.__setitem__("frozen:retrieved", ["late", *f["frozen:retrieved"].tolist()[1:]]))


def righted_samples(folder: Path) -> None:
    """Samples that were sent wrong are said to be of the task that they were sent to."""
    change_table(folder, SAMPLES, lambda f: f.__setitem__("task", f["paper:retrieved"]))


def repeated_sample(folder: Path) -> None:
    change_table(folder, SAMPLES, lambda f: f.__setitem__("row", [f["row"].iloc[1], *f["row"].tolist()[1:]]))


def judged_by_what_fitted(folder: Path) -> None:
    """A sample of the signature is said to be one of the measurement."""

    def change(frame) -> None:
        row = frame.index[frame["part"] == "signature"][0]
        frame.loc[row, "part"] = "measurement"

    change_table(folder, SAMPLES, change)


def smaller_sets(folder: Path) -> None:
    def change(about: dict) -> None:
        for unit in _units(about):
            unit["conformal"]["mean_size"] *= 0.99

    change_json(folder, JSON, change)


def lowered_rung(folder: Path) -> None:
    """L5 and L5b of one task."""
    change_json(folder, JSON, lambda about: [_lower(_units(about)[1]["rungs"][rung], 1e-6) for rung in ("L5", "L5b")])


def fewer_drawn(folder: Path) -> None:
    """One error fewer among the draws of a task, in estimate, limits and law."""

    def change(about: dict) -> None:
        unit = _units(about)[1]
        rung = unit["rungs"]["L6"]
        n = int(rung["source"].split()[-2])
        errors = round(rung["estimate"] * n) - 1
        low, high = clopper_pearson(errors, n, rung["confidence"])
        rung |= {"estimate": errors / n, "log_estimate": float(np.log(errors / n)), "log_lower": float(np.log(low))}
        rung |= {"log_value": float(np.log(high)), "value": float(np.nextafter(high, 2))}
        unit["law"] |= {"predicted": errors / n, "predicted_low": low, "predicted_high": rung["value"]}

    change_json(folder, JSON, change)


def unrejected_law(folder: Path) -> None:
    """A rejected law is said to stand, and its rungs to be guarantees."""

    def change(about: dict) -> None:
        unit = next(unit for unit in _all_units(about) if unit["law"]["verdict"] == "rejected")
        unit["law"] |= {"verdict": "not rejected", "reasons": []}
        for rung in unit["rungs"].values():
            rung["guarantee"] = rung["holds"] and not rung["vacuous"]

    change_json(folder, JSON, change)


def claimed_guarantee(folder: Path) -> None:
    def change(about: dict) -> None:
        _units(about)[0]["rungs"]["L12"]["guarantee"] = True

    change_json(folder, JSON, change)


def bold_statement(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about.__setitem__("statement", about["statement"].partition(" Assumes")[0]))


def covariance_entry(folder: Path) -> None:
    """Of one rule; another holds the same covariance."""
    _rewritten(folder, "ratio", lambda t: t["covariances"].__setitem__((0, 0, 0), 1.001 * t["covariances"][0, 0, 0]))


def uneven_covariance(folder: Path) -> None:
    _rewritten(folder, "frozen", lambda t: t["covariances"].__setitem__((0, 0, 1), 1.001 * t["covariances"][0, 0, 1]))


def long_axis(folder: Path) -> None:
    _rewritten(folder, "frozen", lambda t: t["projection_axes"].__setitem__((0, 0), 1.001 * t["projection_axes"][0, 0]))


def renamed_tasks(folder: Path) -> None:
    """The signatures of two tasks change places."""
    tensors = read_tensors(folder / "signatures/frozen.safetensors")
    write_tensors(folder / "signatures/frozen.safetensors", tensors, {"tasks": json.dumps(["middle", "early", "late"])})


def more_samples(folder: Path) -> None:
    _rewritten(folder, "paper", lambda t: t["counts"].__setitem__(0, t["counts"][0] + 1))


def miscounted_task(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["tasks"][0].__setitem__("measurement", about["tasks"][0]["measurement"] + 1))


def other_dimension(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["settings"]["signature"].__setitem__("dimension", 5))


def other_alpha(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["settings"].__setitem__("alpha", 0.1))


def lost_rule(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["rules"].pop())


def unnoted_adapter(folder: Path) -> None:
    """Any adapter of that name would do."""
    change_json(folder, JSON, lambda about: about["tasks"][1].__setitem__("sha256", None))


def unnoted_samples(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["sha256"].__setitem__("samples", ""))


# --- of these the folder does not tell -------------------------------------------------------------------------------


def swapped_parts(folder: Path) -> None:
    """A sample of the signature and one of the certificate, alike in all that is counted, change places."""

    def change(frame) -> None:
        own = frame[frame["task"] == frame["ratio:retrieved"]]
        own = own[(own["task"] == own["paper:retrieved"]) & (own["task"] == own["frozen:retrieved"]) & (own["task"] == "early")]
        # Far from the threshold of the sets on both sides.
        gap = own["ratio:score:late"] - own["ratio:score:early"]
        a, b = (gap[own["part"] == part].idxmax() for part in ("signature", "certificate"))
        frame.loc[[a, b], "part"] = ["certificate", "signature"]

    change_table(folder, SAMPLES, change)


def shifted_scores(folder: Path) -> None:
    """All scores of a rule, which changes no answer."""

    def change(frame) -> None:
        columns = [column for column in frame if column.startswith("paper:score:")]
        frame[columns] += 3.0

    change_table(folder, SAMPLES, change)


def background_entry(folder: Path) -> None:
    _rewritten(folder, "ratio", lambda t: t["background_means"].__setitem__((0, 0), t["background_means"][0, 0] + 0.05))


def turned_axes(folder: Path) -> None:
    _rewritten(folder, "frozen", lambda t: t["projection_axes"].__setitem__((0, [0, 1]), t["projection_axes"][0, [1, 0]]))


def other_parameters(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["tasks"][0].__setitem__("parameters", about["tasks"][0]["parameters"] // 2))


def silenced_notes(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about.__setitem__("notes", []))


def other_adapter(folder: Path) -> None:
    """The digest of another update, as of a folder that was swapped."""
    change_json(folder, JSON, lambda about: about["tasks"][0].__setitem__("sha256", about["tasks"][1]["sha256"]))


def other_encoder(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["sha256"].__setitem__("encoder", "0" * 64))


def other_samples(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["sha256"].__setitem__("samples", "f" * 64))


def other_seed(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["settings"].__setitem__("seed", 1))


def other_length(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["settings"]["backbone"].__setitem__("max_length", 6))


def moved_score(folder: Path) -> None:
    """A score of a sample that a quick look passes by, and not its least."""
    from empirics.audit.certificates.data import _chosen
    from empirics.audit.certificates.opened import CertificateFiles

    def change(frame) -> None:
        row = np.setdiff1d(np.arange(len(frame)), _chosen(CertificateFiles(folder)))[0]
        columns = [column for column in frame if column.startswith("ratio:score:")]
        worst = frame.loc[row, columns].astype(float).idxmax()
        frame.loc[row, worst] += 0.5

    change_table(folder, SAMPLES, change)


def other_law(folder: Path) -> None:
    change_json(folder, JSON, lambda about: about["settings"]["query_law"].__setitem__("covariance", "diagonal"))


def lowered_everywhere(by: float) -> Callable[[Path], None]:
    """L10 of all units of a rule, by the same part of itself: means stay means, and it stands in no order."""

    def alter(folder: Path) -> None:
        def change(about: dict) -> None:
            units = _units(about)
            assert not any(unit["rungs"]["L10"]["vacuous"] for unit in units)
            for unit in units:
                _lower(unit["rungs"]["L10"], by)
                unit["rungs"]["L10"]["holds"] = True

        change_json(folder, JSON, change)

    return alter


def _rewritten(folder: Path, rule: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change tensors, and keep the names of the tasks beside them."""
    name = f"signatures/{rule}.safetensors"
    change_tensors(folder, name, change)
    tensors = read_tensors(folder / name)
    write_tensors(folder / name, tensors, {"tasks": json.dumps([task["name"] for task in read_json(folder / JSON)["tasks"]])})


_PLAIN = (
    lowered_limits,
    raised_confidence,
    unshared_confidence,
    fewer_errors,
    flipped_answer,
    righted_samples,
    repeated_sample,
    judged_by_what_fitted,
    smaller_sets,
    lowered_rung,
    fewer_drawn,
    unrejected_law,
    claimed_guarantee,
    bold_statement,
    covariance_entry,
    uneven_covariance,
    long_axis,
    renamed_tasks,
    more_samples,
    miscounted_task,
    other_dimension,
    other_alpha,
    lost_rule,
    unnoted_adapter,
    unnoted_samples,
)
_EMBEDDED = (
    swapped_parts,
    shifted_scores,
    background_entry,
    turned_axes,
    other_parameters,
    silenced_notes,
    other_adapter,
    other_encoder,
    other_samples,
    other_seed,
    other_length,
)
_FITTED = (moved_score, other_law)
ALTERATIONS = (
    *(Alteration(change.__name__, change) for change in _PLAIN),
    *(Alteration(change.__name__, change, "--data") for change in _EMBEDDED),
    *(Alteration(change.__name__, change, "--thorough") for change in _FITTED),
    Alteration("lowered_everywhere", lowered_everywhere(0.01), "--thorough"),
    Alteration("hardly_lowered_everywhere", lowered_everywhere(1e-6), "--repeat"),
)
