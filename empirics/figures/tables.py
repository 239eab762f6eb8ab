"""The tables behind the figures: what `empirics.figures.plotting` draws, and what a figure's CSV holds. No torch, no plotting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from empirics.reports.report import Report, Unit
from theory.errors import InputError
from theory.finite import own_distance
from theory.mixture import Rule, Signatures


def rung_table(units: Sequence[Unit]) -> pd.DataFrame:
    """Measured error and every rung of some units, a row for each pair.

    Columns `unit`, `n`, `measured`, `low`, `high`, `rung`, `level`, `value`, `vacuous`, `guarantee`, `holds`, `broken_assumption`,
    `law` (the verdict on it) and `reasons`.

    Raises
    ------
    InputError
        Without units.
    """
    if not units:
        raise InputError("units", "are none")
    return pd.DataFrame(
        {
            "unit": unit.name,
            "n": unit.measured.n,
            "measured": unit.measured.error,
            "low": unit.measured.low,
            "high": unit.measured.high,
            "rung": name,
            "level": rung.level,
            "value": rung.value,
            "vacuous": rung.vacuous,
            "guarantee": rung.guarantee,
            "holds": rung.holds,
            "broken_assumption": rung.broken_assumption or "",
            "law": unit.law.verdict,
            "reasons": ", ".join(unit.law.reasons),
        }
        for unit in units
        for name, rung in unit.rungs.items()
    )


def own_distance_table(
    measured: Float[np.ndarray, " n"],
    dimension: int,
    count: int | Int[np.ndarray, " n"] | None = None,
    law: Float[np.ndarray, " p"] | None = None,
) -> pd.DataFrame:
    """How often a squared own distance exceeds each measured one: measured, under chi-square, under F, and under the query law.

    Parameters
    ----------
    measured : (n,) array
        Squared Mahalanobis distances to the own component.
    dimension : int
        Degrees of freedom d of the chi-square, which a query of the signature's own law would follow.
    count : int or (n,) int array, optional
        Samples of the mean and covariance of the component of each distance; with several counts F stands for the mixture of their
        laws. F is exact for the plain sample covariance only; a shrunk one has no such law (theory/README.md, finite samples).
    law : (p,) array, optional
        Draws from the query law.

    Returns
    -------
    DataFrame
        Rows in ascending order of `distance`: `measured` is the share of distances at least as large, `low` and `high` its band, which
        holds at every distance at once with 95% (Massart 1990), `chi_square`, `f` (NaN unless every count exceeds d) and `query_law`.

    Raises
    ------
    InputError
        For no distances, ones that are negative or not finite, counts that do not fit them, or a dimension below one.
    """
    distance = np.sort(np.asarray(measured, dtype=np.float64))
    if distance.ndim != 1 or not distance.size or not np.isfinite(distance).all() or distance[0] < 0:
        raise InputError("measured", "needs a list of squared distances, finite and not negative")
    if dimension < 1:
        raise InputError("dimension", f"is {dimension}; needs at least 1")
    from scipy import stats

    n = distance.size
    share = 1 - np.arange(n) / n
    band = np.sqrt(np.log(2 / 0.05) / (2 * n))
    return pd.DataFrame(
        {
            "distance": distance,
            "measured": share,
            "low": np.maximum(share - band, 0.0),
            "high": np.minimum(share + band, 1.0),
            "chi_square": stats.chi2.sf(distance, dimension),
            "f": _f_exceeded(distance, dimension, count),
            "query_law": np.nan if law is None else 1 - np.searchsorted(np.sort(law), distance) / len(law),
        }
    )


def _f_exceeded(distance: Float[np.ndarray, " n"], dimension: int, count: int | Int[np.ndarray, " n"] | None) -> Any:
    """Probability of a larger plug-in distance under F, averaged over the counts."""
    if count is None:
        return np.nan
    sizes, times = np.unique(count, return_counts=True)
    if np.ndim(count) and np.size(count) != len(distance):
        raise InputError("count", f"holds {np.size(count)} for {len(distance)} distances; give one, or one for each")
    if (sizes <= dimension).any():
        return np.nan
    return np.average([own_distance(int(n), dimension).sf(distance) for n in sizes], axis=0, weights=times)


def prediction_table(reports: Sequence[Report], arm: str) -> pd.DataFrame:
    """Measured error of an arm, and what each query law fitted to held-out documents predicts, over runs of several dimensions.

    Columns `dimension`, `arm`, `law`, `n`, `measured`, `low`, `high`, `predicted`, `predicted_low`, `predicted_high`, `verdict`, in
    ascending dimension; of runs of one dimension the first counts.

    Raises
    ------
    InputError
        If a run has no such arm.
    """
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for report in reports:
        own = [one for one in report.arms if one.arm == arm]
        if not own:
            raise InputError("arm", f"{arm!r} is not in every run; choose from {', '.join(dict.fromkeys(one.arm for one in report.arms))}")
        for one in own:
            law, measured = one.overall.law, one.overall.measured
            row = {"dimension": one.dimension, "arm": arm, "law": one.law, "n": measured.n, "measured": measured.error}
            row |= {"low": measured.low, "high": measured.high, "predicted": law.predicted}
            row |= {"predicted_low": law.predicted_low, "predicted_high": law.predicted_high, "verdict": law.verdict}
            rows.setdefault((one.dimension, one.law), row)
    return pd.DataFrame(rows.values()).sort_values("dimension", kind="stable", ignore_index=True).astype({"predicted": "float64"})


def matrix_table(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> pd.DataFrame:
    """A stage matrix as rows: columns `stage` (from 1), `task`, `share`; tasks not learned yet have no row.

    Raises
    ------
    InputError
        If the matrix is not so long, or holds what is no share.
    """
    m = len(names)
    if not m or len(matrix) != m or any(len(row) < i + 1 for i, row in enumerate(matrix)):
        raise InputError("matrix", f"needs {m} rows, row i with at least i + 1 entries")
    table = pd.DataFrame([{"stage": i + 1, "task": names[j], "share": float(matrix[i][j])} for i in range(m) for j in range(i + 1)])
    if not table["share"].between(0, 1).all():
        raise InputError("matrix", "holds what is no share between 0 and 1")
    return table


def decomposition_table(comparison: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy of each method of a comparison as what is left after both ways to err, in the comparison's order.

    Columns `method`, `role`, `accuracy`, `low`, `high`, `retrieval` (task right), `within_task` (class right, given the task),
    `lost_within_task` (task right, class wrong), `lost_to_retrieval` (task wrong). Accuracy is retrieval times within-task exactly in
    one cell where no class belongs to two tasks; `lost_within_task` is what is left, so that the parts add up to one.
    """
    rows = []
    for row in _methods(comparison):
        low, high = row["intervals"]["accuracy"]
        retrieval = 1 - row["retrieval_error"]
        rows.append(
            {
                "method": row["name"],
                "role": row["role"],
                "accuracy": row["accuracy"],
                "low": low,
                "high": high,
                "retrieval": retrieval,
                "within_task": row["within_task_accuracy"],
                "lost_within_task": max(0.0, retrieval - row["accuracy"]),
                "lost_to_retrieval": row["retrieval_error"],
            }
        )
    return pd.DataFrame(rows)


def batch_table(comparison: Mapping[str, Any]) -> pd.DataFrame:
    """Mean retrieval error over tasks by the size of batches that hold one task only, for each method that scores tasks.

    Columns `method`, `role`, `batch`, `error`. A named leak control: the batch tells what the method is asked.

    Raises
    ------
    InputError
        If no method of the comparison was scored in batches.
    """
    rows = []
    for row in _methods(comparison):
        if row["batch_retrieval_error"]:
            errors = {1: row["macro_retrieval_error"]} | {int(b): v for b, v in row["batch_retrieval_error"].items()}
            rows += [{"method": row["name"], "role": row["role"], "batch": b, "error": v} for b, v in sorted(errors.items())]
    if not rows:
        raise InputError("comparison", "scored no method in batches; run it again with retrieval.batches")
    return pd.DataFrame(rows)


def _methods(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    methods = comparison.get("methods")
    if not methods:
        raise InputError("comparison", "has no methods; give what comparison.json holds")
    return methods


def phase_table(run: Mapping[str, Any]) -> pd.DataFrame:
    """Seconds of each phase of a run, in order, and the largest resident memory up to its end where the run has it.

    Columns `phase`, `seconds`, `peak_bytes` (NaN where it is not known).

    Parameters
    ----------
    run : mapping
        What `run.json` holds.

    Raises
    ------
    InputError
        If the run did not finish.
    """
    seconds = run.get("phases_seconds")
    if not seconds:
        raise InputError("run", "did not finish, or is no run: it holds no phases_seconds")
    peaks = run.get("phases_peak_bytes", {})
    return pd.DataFrame({"phase": name, "seconds": value, "peak_bytes": peaks.get(name, np.nan)} for name, value in seconds.items())


@dataclass(frozen=True)
class Plane:
    """A plane in which embeddings are looked at.

    Attributes
    ----------
    centre : (d,) array
    basis : (d, 2) array
        Orthonormal columns.
    share : float
        Of the embeddings' variance, how much lies in the plane.
    """

    centre: Float[np.ndarray, " d"]
    basis: Float[np.ndarray, "d 2"]
    share: float

    def points(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
        """Coordinates in the plane."""
        return (z - self.centre) @ self.basis


def spread_plane(means: Float[np.ndarray, "K d"], z: Float[np.ndarray, "n d"]) -> Plane:
    """The plane in which the means spread most: their two leading principal directions.

    Where the means lie on a line, or are one, the embeddings' own directions complete the plane.

    Raises
    ------
    InputError
        For embeddings of another dimension than the means, or of fewer than two.
    """
    means, z = np.asarray(means, dtype=np.float64), np.asarray(z, dtype=np.float64)
    if z.ndim != 2 or z.shape[1:] != means.shape[1:] or z.shape[1] < 2:
        raise InputError("z", f"has shape {z.shape} beside means of shape {means.shape}; needs the same dimension, at least 2")
    centre = means.mean(axis=0)
    _, sizes, directions = np.linalg.svd(means - centre, full_matrices=False)
    basis = directions[: int((sizes[:2] > 1e-9 * max(1.0, np.abs(means).max())).sum())]
    rest = z - z.mean(axis=0)
    total = float((rest**2).sum())
    if len(basis) < 2:
        left = rest - rest @ basis.T @ basis
        basis = np.vstack([basis, np.linalg.svd(left, full_matrices=False)[2][: 2 - len(basis)]])
    # Singular vectors have no sign of their own: the largest entry is made positive.
    signs = np.sign(basis[np.arange(2), np.abs(basis).argmax(axis=1)])
    basis = (basis * signs[:, None]).T
    return Plane(centre, basis, float(((rest @ basis) ** 2).sum() / total) if total else 1.0)


def seen_from(z: Float[np.ndarray, "n S d"], signatures: Signatures, space: int) -> tuple[Float[np.ndarray, "n D"], Int[np.ndarray, " K"]]:
    """What one task sees of each document, and the signature components that live there: all in a shared space, else the task's own.

    Raises
    ------
    InputError
        For a task that does not exist, or spaces that do not fit the signatures.
    """
    if not 0 <= space < signatures.tasks:
        raise InputError("space", f"{space} is none of the tasks, 0 to {signatures.tasks - 1}")
    views = Rule(signatures).views(*z.shape[1:])
    shared = all(np.array_equal(view, views[0]) for view in views)
    return z[:, views[space]].reshape(len(z), -1), np.arange(len(signatures)) if shared else signatures.own(space)


def embedding_table(plane: Plane, z: Float[np.ndarray, "n d"], task: Int[np.ndarray, " n"], names: Sequence[str]) -> pd.DataFrame:
    """Documents in a plane: columns `task`, `x`, `y`.

    Raises
    ------
    InputError
        If tasks do not fit the documents or the names.
    """
    task = np.asarray(task)
    if task.shape != (len(z),) or (task < 0).any() or (task >= len(names)).any():
        raise InputError("task", f"needs {len(z)} integers from 0 to {len(names) - 1}, one a document")
    x, y = plane.points(z).T
    return pd.DataFrame({"task": [names[k] for k in task], "x": x, "y": y})


def ellipse_table(plane: Plane, signatures: Signatures, components: Int[np.ndarray, " K"], names: Sequence[str]) -> pd.DataFrame:
    """Signature components in a plane: columns `task`, `x`, `y` (mean), `xx`, `xy`, `yy` (covariance)."""
    covariances = plane.basis.T @ signatures.covariances[components] @ plane.basis
    x, y = plane.points(signatures.means[components]).T
    return pd.DataFrame(
        {
            "task": [names[k] for k in signatures.task[components]],
            "x": x,
            "y": y,
            "xx": covariances[:, 0, 0],
            "xy": covariances[:, 0, 1],
            "yy": covariances[:, 1, 1],
        }
    )


def plane_table(
    z: Float[np.ndarray, "n S d"], task: Int[np.ndarray, " n"], rule: Rule | Signatures, names: Sequence[str], space: int = 0
) -> pd.DataFrame:
    """Documents and signatures of one space in the plane in which the signatures' means spread most.

    Columns `kind` ("document" or "signature"), `task`, `x`, `y`, for signatures also their covariance `xx`, `xy`, `yy`; and `share`,
    how much of the documents' variance lies in the plane.

    Parameters
    ----------
    z : (n, S, d) array
        In the spaces that `theory.mixture.Rule.views` knows.
    task : (n,) int array
    rule : Rule or Signatures
        In a task's own space only its components count.
    names : sequence of str
    space : int
        The task whose space is looked at; of no matter where all share one.

    Raises
    ------
    InputError
        For shapes that do not fit, or a space that does not exist.
    """
    signatures = rule.signatures if isinstance(rule, Rule) else rule
    seen, components = seen_from(np.asarray(z, dtype=np.float64), signatures, space)
    plane = spread_plane(signatures.means[components], seen)
    documents = embedding_table(plane, seen, task, names).assign(kind="document")
    ellipses = ellipse_table(plane, signatures, components, names).assign(kind="signature")
    columns = ["kind", "task", "x", "y", "xx", "xy", "yy"]
    return pd.concat([documents, ellipses]).reindex(columns=columns).assign(share=plane.share).reset_index(drop=True)


def cascade_table(results: Mapping[str, Any], arm: str = "both", rule: str = "adaptive") -> pd.DataFrame:
    """What a search costs over the number of tasks, from the results of `benchmarks/cascade.py`: a row for each panel, line and m.

    Columns `panel` ("adapter passes", "milliseconds"), `line`, `tasks`, `simulated` (of them), and `median`, `low` and `high` over deals
    of the queries (passes) or repetitions (time).

    Raises
    ------
    InputError
        If the results hold no such arm or rule.
    """
    rows = []
    for found in results["results"]:
        try:
            cells, timed = found["arms"][arm], found["arms"][arm]["timed"]
            promises = {"any answer kept": cells["any_answer"][rule], "right answers kept": cells["rules"][rule]}
        except KeyError as error:
            raise InputError("results", f"hold no {error.args[0]} at {found['tasks']} tasks") from None
        m = found["tasks"]
        values = {("adapter passes", "full search"): np.array([float(m)])}
        for name, cell in promises.items():
            values["adapter passes", name] = np.array([cell["passes"], *(m / ratio for ratio in cell["pass_ratio_of_deals"])])
        for name, key in (("full search", "full_wall"), ("any answer kept", "cascade_wall"), ("screen alone", "screen")):
            values["milliseconds", name] = 1e3 * np.array(timed[f"{key}_seconds"])
        for (panel, line), x in values.items():
            point = {"panel": panel, "line": line, "tasks": m, "simulated": found["simulated"]}
            rows.append({**point, "median": float(np.median(x)), "low": float(x.min()), "high": float(x.max())})
    return pd.DataFrame(rows).sort_values(["panel", "line", "tasks"], ignore_index=True)
