"""Measured error against every rung: whether it held, and if not, which assumption broke and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from theory.bound import Assumption, Bound
from theory.certificates import Measured, misfit_floor

# Level of the tests of a query law, before Bonferroni over the clusters tested together.
_TEST_LEVEL = 0.01


@dataclass(frozen=True)
class Distances:
    """Squared distances to the own cluster.

    Attributes
    ----------
    measured : dict from cluster to (n,) array
        Of the documents that measured the error.
    predicted : dict from cluster to (p,) array
        Draws from the query law.
    dimension : int
    """

    measured: dict[int, Float[np.ndarray, " n"]]
    predicted: dict[int, Float[np.ndarray, " p"]]
    dimension: int


def judge_law(measured: Measured, predicted: Bound, distances: Distances, clusters: Int[np.ndarray, " k"]) -> dict[str, Any]:
    """Tests of the query law on the samples that measured the error.

    Two tests, and a description. The law is `rejected` if the measured interval and the simulated one do not meet, or if
    a Kolmogorov-Smirnov test of the squared own distances rejects at 1% (Bonferroni over the unit's clusters).

    Returns
    -------
    dict
        `predicted` error with limits; `misfit_floor_nats`; `overdispersion_chi2` and `overdispersion_law`, the standard
        deviation of the measured squared distances over that of chi2_d and over that of the law itself (each the root
        mean square over clusters); `distance_p`, the least KS p-value times the number of clusters; `verdict`, `reasons`.
    """
    d = distances.dimension
    ratios_chi2, ratios_law, p_values = [], [], []
    for t in clusters:
        seen, drawn = distances.measured.get(int(t)), distances.predicted.get(int(t))
        if seen is None or drawn is None or seen.size < 2:
            continue
        ratios_chi2.append(seen.var(ddof=1) / (2 * d))
        ratios_law.append(seen.var(ddof=1) / drawn.var(ddof=1))
        p_values.append(float(stats.ks_2samp(seen, drawn, method="asymp").pvalue))
    p = min(1.0, min(p_values) * len(p_values)) if p_values else None
    low = float(np.exp(predicted.log_lower)) if predicted.log_lower is not None else 0.0
    reasons = []
    if measured.low > predicted.value:
        reasons.append("predicts too few errors")
    elif measured.high < low:
        reasons.append("predicts too many errors")
    if p is not None and p < _TEST_LEVEL:
        reasons.append("own distances do not follow it")
    return {
        "predicted": predicted.estimate,
        "predicted_low": low,
        "predicted_high": predicted.value,
        "misfit_floor_nats": misfit_floor(measured.low, predicted.value),
        "overdispersion_chi2": float(np.sqrt(np.mean(ratios_chi2))) if ratios_chi2 else None,
        "overdispersion_law": float(np.sqrt(np.mean(ratios_law))) if ratios_law else None,
        "distance_p": p,
        "verdict": "rejected" if reasons else "not rejected",
        "reasons": reasons,
    }


def judge_rung(bound: Bound, measured: Measured, law: dict[str, Any], exchangeable: bool = True) -> dict[str, Any]:
    """A rung as it stands in the report.

    `holds` says that the measured interval does not lie above the value. `guarantee` says that it may be relied on: not
    vacuous, not contradicted, and under no rejected law; A0 needs no law, but held-out and test samples from one pool
    (`exchangeable`).
    """
    holds = measured.low <= bound.value
    free = bound.level is Assumption.A0
    broken = None
    if not holds:
        broken = (
            "A0: samples independent from one law"
            if free
            else f"query law ({bound.level.value}): {', '.join(law['reasons']) or 'too narrow'}"
        )
        floor = misfit_floor(measured.low, bound.value)
        broken += f"; true law at least {floor:.3g} nats away"
    return {
        **bound.to_dict(),
        "holds": holds,
        "broken_assumption": broken,
        "guarantee": bool(holds and not bound.vacuous and (exchangeable if free else law["verdict"] == "not rejected")),
    }


def judge_unit(
    name: str,
    wrong: Bool[np.ndarray, " n"],
    rungs: Mapping[str, Bound],
    distances: Distances,
    clusters: Int[np.ndarray, " k"],
    confidence: float,
    exchangeable: bool = True,
) -> dict[str, Any]:
    """A unit (a cluster, a task, or all) as it stands in the report: what was measured, its query law and every rung, judged.

    Parameters
    ----------
    name : str
    wrong : (n,) bool array
        Whether each sample of the unit was sent to a wrong task.
    rungs : mapping from str to Bound
    distances : Distances
    clusters : (k,) int array
        The true clusters that the unit holds.
    confidence : float
        Of the interval of the measured error.
    exchangeable : bool
        As for `judge_rung`.
    """
    measured = Measured(int(wrong.sum()), wrong.size, confidence)
    law = judge_law(measured, rungs["L6"], distances, clusters)
    judged = {rung: judge_rung(bound, measured, law, exchangeable) for rung, bound in rungs.items()}
    return {"name": name, "measured": measured.to_dict(), "law": law, "rungs": judged}
