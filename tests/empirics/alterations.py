"""Alterations of a finished run that an audit must find, each a function of the folder; files stay readable and of the same shape.

Some are made good in every file that repeats the number, as a careful forger would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from empirics.adapters.adapter import adapter_digest, load_adapter
from empirics.audit.data import _chosen
from empirics.audit.opened import RunFiles
from empirics.config import RunConfig
from empirics.files.record import read_json, read_parquet, read_tensors, write_bytes, write_json, write_parquet, write_tensors
from empirics.reports.report import Report, markdown
from empirics.retrieval.signatures import own_distances
from empirics.runs.evaluation import evaluate, load_rule
from empirics.runs.machine import PhaseClock


@dataclass(frozen=True)
class Alteration:
    """Attributes: what it is called, what does it, and the option of the audit that it takes to find it under a manifest that fits."""

    name: str
    apply: Callable[[Path], None]
    option: str = ""


def change_table(folder: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    """Change a Parquet file, in place or by another table."""
    frame = read_parquet(folder / name)
    changed = change(frame)
    write_parquet(folder / name, frame if changed is None else changed)


def change_json(folder: Path, name: str, change: Callable[[dict], None]) -> None:
    """Change a JSON file."""
    content = read_json(folder / name)
    change(content)
    write_json(folder / name, content)


def change_tensors(folder: Path, name: str, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Change a file of tensors."""
    tensors = {key: value.copy() for key, value in read_tensors(folder / name).items()}
    change(tensors)
    write_tensors(folder / name, tensors)


def _dimension(folder: Path) -> int:
    return read_json(folder / "run.json")["config"]["signature"]["dimension"]


def _full(folder: Path) -> int:
    """The dimension of which no embeddings are kept."""
    return max(int(path.stem.rpartition("-")[2]) for path in (folder / "signatures").iterdir())


def _again(folder: Path) -> None:
    """Make the report and its tables fit what the raw files say now."""
    evaluate(folder, PhaseClock(quiet=True))


def _text(folder: Path) -> None:
    write_bytes(folder / "report.md", markdown(Report.model_validate(read_json(folder / "report.json"))).encode())


def _about(folder: Path, change: Callable[[dict], None]) -> None:
    """What a run says of itself, in both files that hold it."""
    change_json(folder, "run.json", change)
    change_json(folder, "report.json", lambda report: change(report["run"]))


def _settings(folder: Path, change: Callable[[dict], None]) -> None:
    _about(folder, lambda about: change(about["config"]))


def flipped_prediction(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        column = f"frozen-{_dimension(folder)}:retrieved"
        frame.loc[3, column] = (frame.loc[3, column] + 1) % 3

    change_table(folder, "predictions.parquet", change)


def flipped_prediction_and_report(folder: Path) -> None:
    flipped_prediction(folder)
    _again(folder)


def flipped_class(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        column = f"paper-{_dimension(folder)}:prediction"
        frame.loc[5, column] = 1 - min(frame.loc[5, column], 1)

    change_table(folder, "predictions.parquet", change)


def nudged_energy(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        column = next(c for c in frame if c.startswith(f"both-{_dimension(folder)}:energy:"))
        frame.loc[7, column] *= 1 + 1e-6

    change_table(folder, "predictions.parquet", change)


def nudged_energy_of_a_query_document(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        column = next(c for c in frame if c.startswith(f"ratio-{_dimension(folder)}:energy:"))
        frame.loc[2, column] += 1e-5 * max(1.0, abs(frame.loc[2, column]))

    change_table(folder, "calibration.parquet", change)
    _again(folder)


def nudged_energy_without_embedding(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        columns = [c for c in frame if c.startswith(f"paper-{_full(folder)}:energy:")]
        # The greatest of a document, so that the least stays what it is.
        worst = frame.loc[7, columns].astype(float).idxmax()
        frame.loc[7, worst] *= 1 + 1e-6

    change_table(folder, "predictions.parquet", change)


def nudged_distance(folder: Path) -> None:
    change_table(folder, "predictions.parquet", lambda f: f.__setitem__(f"paper-{_dimension(folder)}:distance", _scaled(f, folder)))
    _again(folder)


def _scaled(frame: pd.DataFrame, folder: Path) -> pd.Series:
    column = frame[f"paper-{_dimension(folder)}:distance"].copy()
    column[11] *= 1.01
    return column


def swapped_labels(folder: Path) -> None:
    """Two documents of one task take each other's class, and the report is made anew."""

    def change(frame: pd.DataFrame) -> None:
        own = frame[frame["task"] == 0]
        a, b = own.index[0], own.index[own["label"] != own["label"].iloc[0]][0]
        for column in ("label", "cluster"):
            frame.loc[[a, b], column] = frame.loc[[b, a], column].to_numpy()

    change_table(folder, "predictions.parquet", change)
    _again(folder)


def overlapped_split(folder: Path) -> None:
    query = read_parquet(folder / "calibration.parquet")["document"]
    change_table(folder, "predictions.parquet", lambda f: f.__setitem__("document", [int(query.iloc[0]), *f["document"].tolist()[1:]]))


def repeated_document(folder: Path) -> None:
    change_table(
        folder, "predictions.parquet", lambda f: f.__setitem__("document", [*f["document"].tolist()[:-1], int(f["document"].iloc[0])])
    )


def dropped_document(folder: Path) -> None:
    """The first test document that errs, in every file, and the report is made anew."""
    d = _dimension(folder)
    frame = read_parquet(folder / "predictions.parquet")
    row = int(np.flatnonzero(frame[f"paper-{d}:retrieved"] != frame["task"])[0])
    write_parquet(folder / "predictions.parquet", frame.drop(index=row))
    for path in (folder / "embeddings").iterdir():
        change_tensors(folder, f"embeddings/{path.name}", lambda t: t.__setitem__("test", np.delete(t["test"], row, axis=0)))
    _again(folder)


def covariance_entry(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["covariances"][0, 0, 0] *= 1.001

    change_tensors(folder, f"signatures/ratio-{_dimension(folder)}.safetensors", change)


def covariance_entry_and_report(folder: Path) -> None:
    covariance_entry(folder)
    _again(folder)


def covariance_entry_without_embedding(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["covariances"][1, 2, 2] *= 1.001

    change_tensors(folder, f"signatures/paper-{_full(folder)}.safetensors", change)


def mean_entry(folder: Path) -> None:
    change_tensors(
        folder, f"signatures/frozen-{_dimension(folder)}.safetensors", lambda t: t["means"].__setitem__((0, 0), t["means"][0, 0] + 1e-3)
    )
    _again(folder)


def background_entry(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["background_covariances"][0, 1, 1] *= 1.001

    change_tensors(folder, f"signatures/both-{_dimension(folder)}.safetensors", change)
    _again(folder)


def law_covariance(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["covariances"][0] *= 0.99

    change_tensors(folder, f"laws/both-{_dimension(folder)}-mixture.safetensors", change)
    _again(folder)


def law_weight(folder: Path) -> None:
    """Traffic that prefers the first cluster."""
    change_tensors(
        folder, f"laws/both-{_dimension(folder)}-gaussian.safetensors", lambda t: t["weights"].__setitem__(0, 1.1 * t["weights"][0])
    )
    _again(folder)


def law_of_test_documents(folder: Path) -> None:
    """A law whose first mean is that of the test documents: chosen on what judges it."""
    d = _dimension(folder)
    x, cluster = read_tensors(folder / f"embeddings/paper-{d}.safetensors")["test"], read_parquet(folder / "predictions.parquet")["cluster"]
    mean = x[(cluster == 0).to_numpy()].mean(axis=0)
    change_tensors(folder, f"laws/paper-{d}-gaussian.safetensors", lambda t: t["means"].__setitem__(0, mean))
    _again(folder)


def embedding_entry(folder: Path) -> None:
    change_tensors(
        folder, f"embeddings/frozen-{_dimension(folder)}.safetensors", lambda t: t["test"].__setitem__((0, 0, 0), t["test"][0, 0, 0] + 1e-2)
    )


def lowered_in_report(folder: Path) -> None:
    def change(report: dict) -> None:
        rung = report["overall"]["rungs"]["L5"]
        rung["value"] *= 1 - 1e-6

    change_json(folder, "report.json", change)


def lowered_in_bounds(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        row = frame.index[(frame["rung"] == "L3") & ~frame["vacuous"]][0]
        frame.loc[row, "value"] *= 1 - 1e-6

    change_table(folder, "bounds.parquet", change)


def lowered_everywhere(rung: str, by: float = 1e-6) -> Callable[[Path], None]:
    """Lower a rung of the first unit where it is not vacuous, relatively, in every file that repeats it."""

    def alter(folder: Path) -> None:
        frame = read_parquet(folder / "bounds.parquet")
        rows = frame[(frame["rung"] == rung) & ~frame["vacuous"]]
        if rows.empty:
            pytest.skip(f"{rung} is vacuous throughout")
        # Tasks before clusters, for more files repeat them.
        row = rows.sort_values("level_of", ascending=False, kind="stable").iloc[0]
        log_value = float(row["log_value"] + np.log1p(-by))
        value = float(np.nextafter(np.exp(log_value), 2))
        frame.loc[row.name, ["log_value", "value"]] = [log_value, value]
        write_parquet(folder / "bounds.parquet", frame)

        def lower(unit: dict) -> None:
            unit["rungs"][rung] |= {"log_value": log_value, "value": value}

        def report(content: dict) -> None:
            arms = [arm for arm in content["arms"] if (arm["arm"], arm["law"]) == (row["arm"], row["law"])]
            if (row["arm"], row["law"]) == (content["headline"]["arm"], content["headline"]["law"]):
                arms.append(content)
            for entry in arms:
                units = {"overall": lambda e=entry: e["overall"], "task": lambda e=entry: e["tasks"][int(row["task"])]}
                lower(units.get(row["level_of"], lambda e=entry: e["clusters"][int(row["cluster"])])())

        change_json(folder, "report.json", report)

        def pieces(table: pd.DataFrame) -> None:
            same = (
                (table["arm"] == row["arm"])
                & (table["law"] == row["law"])
                & (table["level_of"] == row["level_of"])
                & (table["rung"] == rung)
            )
            if row["level_of"] == "task":
                same &= table["task"] == row["task"]
            part = {"L8": "statistical", "L6": "statistical", "L5": "union", "L5b": "union", "L7": "robustness", "L9": "robustness"}
            table.loc[same, "value"] = value
            for column in ("total", part.get(rung, "robustness" if rung == "L10" else "inequality")):
                table.loc[same, column] += np.log1p(-by) / np.log(10)

        change_table(folder, "slack.parquet", pieces)
        _text(folder)

    return alter


def lowered_pair(folder: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        row = frame["log_exact"].idxmin()
        frame.loc[row, ["log_exact", "log_exact_low"]] -= 1e-6

    change_table(folder, "pairs.parquet", change)


def fewer_simulated_errors(folder: Path) -> None:
    """One error fewer among the draws, in estimate and limits of all files."""
    from theory.certificates import clopper_pearson

    frame = read_parquet(folder / "bounds.parquet")
    row = frame[(frame["rung"] == "L6") & (frame["level_of"] == "overall") & ~frame["source"].str.contains("importance")].iloc[-1]
    n = int(row["source"].split()[-2])
    errors = round(row["estimate"] * n) - 1
    low, high = clopper_pearson(errors, n, row["confidence"])
    new = {"estimate": errors / n, "log_estimate": np.log(errors / n), "log_lower": np.log(low), "log_value": np.log(high)}
    new |= {"value": float(np.nextafter(high, 2))}
    frame.loc[row.name, list(new)] = list(new.values())
    write_parquet(folder / "bounds.parquet", frame)

    def report(content: dict) -> None:
        for arm in content["arms"]:
            if (arm["arm"], arm["law"]) == (row["arm"], row["law"]):
                arm["overall"]["rungs"]["L6"] |= {key: float(value) for key, value in new.items()}
                arm["overall"]["law"] |= {"predicted": errors / n, "predicted_low": low, "predicted_high": new["value"]}

    change_json(folder, "report.json", report)
    _text(folder)


def other_seed(folder: Path) -> None:
    _settings(folder, lambda config: config.__setitem__("seed", config["seed"] + 1))


def other_confidence(folder: Path) -> None:
    _settings(folder, lambda config: config["bounds"].__setitem__("confidence", 0.9))


def other_grain(folder: Path) -> None:
    _settings(folder, lambda config: config["query_law"].__setitem__("samples_per_component", 7))


def other_learning_rate(folder: Path) -> None:
    _settings(folder, lambda config: config["training"].__setitem__("learning_rate", 1e-4))


def claimed_guarantee(folder: Path) -> None:
    def change(report: dict) -> None:
        for arm in report["arms"]:
            for unit in (arm["overall"], *arm["tasks"]):
                for rung in unit["rungs"].values():
                    if not rung["guarantee"] and not rung["vacuous"]:
                        rung["guarantee"] = True
                        return

    change_json(folder, "report.json", change)
    _text(folder)


def verdict_turned(folder: Path) -> None:
    """A law that is not rejected any more, with the guarantees that this would give."""

    def change(report: dict) -> None:
        for arm in report["arms"]:
            unit = arm["overall"]
            if unit["law"]["verdict"] == "rejected":
                unit["law"] |= {"verdict": "not rejected", "reasons": []}
                for rung in unit["rungs"].values():
                    rung["guarantee"] = rung["holds"] and not rung["vacuous"]
                return

    change_json(folder, "report.json", change)
    _text(folder)


def distance_test_turned(folder: Path) -> None:
    """The p-value of the distances, to what rejects nothing or something else."""

    def change(report: dict) -> None:
        law = report["arms"][0]["tasks"][0]["law"]
        law["distance_p"] = law["distance_p"] / 2 + 0.2

    change_json(folder, "report.json", change)


def fewer_measured_errors(folder: Path) -> None:
    def change(report: dict) -> None:
        from theory.certificates import Measured

        for entry in (
            report,
            next(a for a in report["arms"] if (a["arm"], a["law"]) == (report["headline"]["arm"], report["headline"]["law"])),
        ):
            m = entry["overall"]["measured"]
            entry["overall"]["measured"] = Measured(m["errors"] - 1, m["n"], m["confidence"]).to_dict()

    change_json(folder, "report.json", change)
    _text(folder)


def certificate_of_fewer_errors(folder: Path) -> None:
    """A query document that erred did not, in the column alone; the report is made anew."""

    def change(frame: pd.DataFrame) -> None:
        columns = [f"{arm}-{_dimension(folder)}:retrieved" for arm in ("both", "paper", "frozen")]
        column = next(c for c in columns if (frame[c] != frame["task"]).any())
        row = frame.index[frame[column] != frame["task"]][0]
        frame.loc[row, column] = frame.loc[row, "task"]

    change_table(folder, "calibration.parquet", change)
    _again(folder)


def number_in_text(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    at = text.index("\n| overall |")
    line = text[at : text.index("\n", at + 1)]
    cells = line.split(" | ")
    # The last rung of the row.
    cells[-2] = cells[-2][:-1] + str((int(cells[-2][-1]) + 9) % 10)
    write_bytes(folder / "report.md", text.replace(line, " | ".join(cells), 1).encode())


def mark_in_text(folder: Path) -> None:
    text = (folder / "report.md").read_text("utf-8")
    at = text.index("| [x] ", text.index("\n|"))
    write_bytes(folder / "report.md", (text[:at] + "| " + text[at + 6 :]).encode())


def slack_piece(folder: Path) -> None:
    change_table(folder, "slack.parquet", lambda f: f.__setitem__("union", f["union"] * (1 + 1e-6)))


def coverage(folder: Path) -> None:
    change_json(folder, "report.json", lambda r: r["retrieval"][0]["conformal"].__setitem__("coverage", 0.999))
    _text(folder)


def leak_control(folder: Path) -> None:
    def change(report: dict) -> None:
        batch = report["retrieval"][0]["batch_error"]
        batch[next(iter(batch))] += 1e-4

    change_json(folder, "report.json", change)


def accuracy(folder: Path) -> None:
    change_json(
        folder, "report.json", lambda r: r["retrieval"][-1].__setitem__("accuracy", min(1.0, r["retrieval"][-1]["accuracy"] + 1e-3))
    )
    _text(folder)


def document_counts(folder: Path) -> None:
    def change(about: dict) -> None:
        about["documents"]["train"] += 1

    _about(folder, change)
    _text(folder)


def truncated_file(folder: Path) -> None:
    path = folder / "pairs.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def missing_file(folder: Path) -> None:
    (folder / "slack.parquet").unlink()


def page(folder: Path) -> None:
    """The page, or another file that only people read."""
    path = folder / "report.html"
    path.write_text(path.read_text("utf-8") + " " if path.is_file() else "<p>All is well.</p>", "utf-8")


def _adapter(folder: Path, task: int) -> Path:
    return folder / "adapters" / read_json(folder / "run.json")["tasks"][task]["name"]


def earlier_adapter(folder: Path) -> None:
    """A unit of the first adapter, consistently in all files of its own folder."""
    own = _adapter(folder, 0)
    name = json.loads((own / "composition.json").read_text("utf-8"))["projections"][0]

    def units(tensors: dict[str, np.ndarray]) -> None:
        for key in (f"{name}.a", f"{name}.folded_a"):
            tensors[key][0, 0] *= np.float32(1.0001)

    change_tensors(own, "composition.safetensors", units)
    folded = read_tensors(own / "composition.safetensors")[f"{name}.folded_a"]
    change_tensors(own, "adapter_model.safetensors", lambda t: t.__setitem__(f"base_model.model.{name}.lora_A.weight", folded))


def peft_scale(folder: Path) -> None:
    change_json(_adapter(folder, 1), "adapter_config.json", lambda config: config.__setitem__("lora_alpha", 2 * config["lora_alpha"]))


def peft_weight(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        next(iter(tensors.values())).flat[0] += np.float32(1e-3)

    change_tensors(_adapter(folder, 1), "adapter_model.safetensors", change)


def composition_scalar(folder: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        key = next(key for key in sorted(tensors) if key.endswith(".s"))
        tensors[key][0] += np.float32(1e-3)

    change_tensors(_adapter(folder, 1), "composition.safetensors", change)


def fewer_losses(folder: Path) -> None:
    name = read_json(folder / "run.json")["tasks"][0]["name"]
    _about(folder, lambda about: about["training"][name]["losses"].pop())


def _changed_last_adapter(folder: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change the up-projections of the last adapter, consistently in its folder: of these no later adapter holds a copy."""
    own = _adapter(folder, -1)
    names = json.loads((own / "composition.json").read_text("utf-8"))["projections"]

    def units(tensors: dict[str, np.ndarray]) -> None:
        for name in names:
            b = tensors[f"{name}.b"]
            change(b)
            tensors[f"{name}.folded_b"][-len(b) :] = b * np.float32(tensors["alpha"])

    change_tensors(own, "composition.safetensors", units)
    made = read_tensors(own / "composition.safetensors")
    folded = {f"base_model.model.{name}.lora_B.weight": made[f"{name}.folded_b"].T for name in names}
    change_tensors(own, "adapter_model.safetensors", lambda tensors: tensors.update(folded))


def _digest_again(folder: Path) -> None:
    own = _adapter(folder, -1)
    _about(folder, lambda about: about["training"][own.name].__setitem__("sha256", adapter_digest(load_adapter(own))))


def _nudge(b: np.ndarray) -> None:
    b[0, 0] *= np.float32(1.0001)


def last_adapter(folder: Path) -> None:
    """A number of every projection of the last adapter."""
    _changed_last_adapter(folder, _nudge)


def last_adapter_and_digest(folder: Path) -> None:
    """The same, with the digest in `run.json` made to fit."""
    last_adapter(folder)
    _digest_again(folder)


def scaled_last_adapter(folder: Path, by: float = 0.05) -> None:
    """All of the last adapter, and its digest."""

    def scale(b: np.ndarray) -> None:
        b *= np.float32(1 + by)

    _changed_last_adapter(folder, scale)
    _digest_again(folder)


def _move(folder: Path, rows: slice, by: float) -> None:
    """Move test documents in the frozen space, by parts of its spread, and all that follows from where they lie."""
    config = RunConfig.model_validate(read_json(folder / "run.json")["config"])
    names, d = tuple(task["name"] for task in read_json(folder / "run.json")["tasks"]), config.signature.dimension
    frame = read_parquet(folder / "predictions.parquet")
    for arm in ("frozen", "both"):
        key = f"{arm}-{d}"

        def move(tensors: dict[str, np.ndarray]) -> None:
            frozen = tensors["test"][:, 0]
            frozen[rows] += np.float32(by) * frozen.std(axis=0)

        change_tensors(folder, f"embeddings/{key}.safetensors", move)
        x = read_tensors(folder / f"embeddings/{key}.safetensors")["test"].astype(np.float64)
        rule = load_rule(folder / f"signatures/{key}.safetensors", names, config)
        scores = rule.task_scores(rule.scores(x))
        frame[[f"{key}:energy:{name}" for name in names]] = scores
        frame[f"{key}:retrieved"] = scores.argmin(axis=1)
        for (task, cluster), own in frame.groupby(["task", "cluster"]).groups.items():
            seen = x[own][:, rule.views(*x.shape[1:])[task]].reshape(len(own), -1)
            frame.loc[own, f"{key}:distance"] = own_distances(rule.signatures, seen, task, cluster)
    paper = frame[f"paper-{d}:distance"]
    frame[f"both-{d}:distance"] = paper + frame[f"frozen-{d}:distance"]
    write_parquet(folder / "predictions.parquet", frame)
    _again(folder)


def moved_documents(folder: Path, by: float = 1e-3) -> None:
    """All test documents."""
    _move(folder, slice(None), by)


def moved_document(folder: Path, by: float = 1e-3) -> None:
    """One that is not among those that `--data` draws."""
    drawn = set(_chosen(RunFiles(folder), read_parquet(folder / "predictions.parquet"), False).tolist())
    row = next((row for row in range(len(read_parquet(folder / "predictions.parquet"))) if row not in drawn), 0)
    _move(folder, slice(row, row + 1), by)


def moved_energies_without_embedding(folder: Path, by: float = 0.01) -> None:
    """The greatest of every document, so that the least stays what it is."""

    def change(frame: pd.DataFrame) -> None:
        columns = [c for c in frame if c.startswith(f"paper-{_full(folder)}:energy:")]
        energies = frame[columns].to_numpy(copy=True)
        energies[np.arange(len(frame)), energies.argmax(axis=1)] += by * energies.std()
        frame[columns] = energies

    change_table(folder, "predictions.parquet", change)
    _again(folder)


def covariance_entry_in_all_arms(folder: Path, by: float = 0.01) -> None:
    """Where no embeddings are kept."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["covariances"][1, 2, 2] *= 1 + by

    for arm in ("paper", "ratio", "both"):
        change_tensors(folder, f"signatures/{arm}-{_full(folder)}.safetensors", change)


def other_max_length(folder: Path) -> None:
    _settings(folder, lambda config: config["backbone"].__setitem__("max_length", config["backbone"]["max_length"] // 2))


def other_pooling(folder: Path) -> None:
    _settings(folder, lambda config: config["backbone"].__setitem__("normalize", not config["backbone"]["normalize"]))


def set_data_digest(folder: Path, digest: str) -> None:
    """What `run.json` says of the data."""
    _about(folder, lambda about: about["sha256"].__setitem__("data", digest))


def other_version(folder: Path) -> None:
    """No alteration that an audit could find: versions and commits are said once."""
    _about(folder, lambda about: about["environment"]["packages"].__setitem__("torch", "1.0"))


def other_commit(folder: Path) -> None:
    _about(folder, lambda about: about["environment"].__setitem__("commit", "0" * 40))


def other_data(folder: Path) -> None:
    set_data_digest(folder, "0" * 64)


def other_encoder(folder: Path) -> None:
    _about(folder, lambda about: about["sha256"].__setitem__("encoder", "0" * 64))


def projection_entry(folder: Path, by: float = 1e-3) -> None:
    """One of an axis, by parts of its length."""
    change_tensors(folder, "projections.safetensors", lambda t: t["axes"].__setitem__((1, 0, 0), t["axes"][1, 0, 0] + np.float32(by)))


_RUNGS = ("L1", "L1b", "L2", "L3", "L5", "L5b", "L7", "L8", "L9", "L10")
_PLAIN = (
    flipped_prediction,
    flipped_prediction_and_report,
    flipped_class,
    nudged_energy,
    nudged_energy_of_a_query_document,
    nudged_distance,
    swapped_labels,
    overlapped_split,
    repeated_document,
    dropped_document,
    covariance_entry,
    covariance_entry_and_report,
    covariance_entry_without_embedding,
    mean_entry,
    background_entry,
    law_covariance,
    law_weight,
    law_of_test_documents,
    embedding_entry,
    lowered_in_report,
    lowered_in_bounds,
    lowered_pair,
    fewer_simulated_errors,
    other_seed,
    other_confidence,
    other_grain,
    claimed_guarantee,
    verdict_turned,
    distance_test_turned,
    fewer_measured_errors,
    certificate_of_fewer_errors,
    number_in_text,
    mark_in_text,
    slack_piece,
    coverage,
    leak_control,
    accuracy,
    document_counts,
    truncated_file,
    missing_file,
    page,
    earlier_adapter,
    last_adapter,
    peft_scale,
    peft_weight,
    composition_scalar,
    fewer_losses,
)
_EMBEDDED = (
    scaled_last_adapter,
    moved_documents,
    moved_energies_without_embedding,
    other_max_length,
    other_pooling,
    other_data,
    other_encoder,
    projection_entry,
)
_FITTED = (moved_document, covariance_entry_in_all_arms)
_TRAINED = (nudged_energy_without_embedding, other_learning_rate, last_adapter_and_digest)
ALTERATIONS = (
    *(Alteration(change.__name__, change) for change in _PLAIN),
    *(Alteration(f"lowered_everywhere_{rung}", lowered_everywhere(rung)) for rung in _RUNGS),
    # Of these no other file tells.
    *(Alteration(change.__name__, change, "--data") for change in _EMBEDDED),
    *(Alteration(change.__name__, change, "--thorough") for change in _FITTED),
    *(Alteration(change.__name__, change, "--repeat") for change in _TRAINED),
)
