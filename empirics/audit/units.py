"""What reports and certificates say of one unit alike: its interval, the tests of a query law, and which rungs hold and are guarantees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from empirics.audit.intervals import binary_kl, interval, kolmogorov_smirnov
from empirics.audit.result import Tally

# Level of the tests of distances.
_LEVEL = 0.01


def check_interval(tally: Tally, where: str, told: Mapping[str, Any], errors: int, n: int, confidence: float) -> tuple[float, float]:
    """A measured rate; returns its limits."""
    low, high = interval(errors, n, confidence)
    tally.same(f"{where}.errors", told["errors"], errors)
    tally.same(f"{where}.n", told["n"], n)
    tally.same(f"{where}.confidence", told["confidence"], confidence)
    tally.near(f"{where}.error", told["error"], errors / n, 1e-15)
    tally.near(f"{where}.low", told["low"], low)
    tally.near(f"{where}.high", told["high"], high)
    return low, high


def law_tests(seen: Mapping[int, np.ndarray], drawn: Mapping[int, np.ndarray], dimension: int) -> dict[str, float]:
    """Spread of squared own distances against a chi-squared law and the query law, and the least p-value; NaN where clusters are too small.

    Parameters
    ----------
    seen, drawn : mapping from cluster to (n,) array
        Measured, and drawn from the law.
    dimension : int
    """
    told = {t: x for t, x in seen.items() if x.size >= 2 and t in drawn}
    if not told:
        return dict.fromkeys(("overdispersion_chi2", "overdispersion_law", "distance_p"), math.nan)
    return {
        "overdispersion_chi2": math.sqrt(np.mean([x.var(ddof=1) / (2 * dimension) for x in told.values()])),
        "overdispersion_law": math.sqrt(np.mean([x.var(ddof=1) / drawn[t].var(ddof=1) for t, x in told.items()])),
        "distance_p": min(1.0, len(told) * min(kolmogorov_smirnov(x, drawn[t]) for t, x in told.items())),
    }


def check_law(
    tally: Tally,
    where: str,
    told: Mapping[str, Any],
    measured: tuple[float, float],
    simulated: Mapping[str, Any],
    tests: Mapping[str, float] | None,
) -> str:
    """What is said of a query law; returns the verdict.

    Parameters
    ----------
    tally : Tally
    where : str
    told : mapping
        The law's row.
    measured : tuple of float
        Limits of the measured error.
    simulated : mapping
        L6.
    tests : mapping, optional
        As of `law_tests`; those that are told where there is nothing to recompute them from.
    """
    low = math.exp(simulated["log_lower"]) if simulated.get("log_lower") is not None else 0.0
    tally.same(f"{where}.predicted", told["predicted"], simulated["estimate"])
    tally.near(f"{where}.predicted_low", told["predicted_low"], low)
    tally.near(f"{where}.predicted_high", told["predicted_high"], simulated["value"])
    floor = binary_kl(measured[0], simulated["value"]) if measured[0] > simulated["value"] else 0.0
    tally.near(f"{where}.misfit_floor_nats", told["misfit_floor_nats"], floor)
    for field, value in (tests or {}).items():
        tally.near(f"{where}.{field}", math.nan if told[field] is None else told[field], value)
    p = told["distance_p"] if tests is None else tests["distance_p"]
    reasons = []
    if measured[0] > simulated["value"]:
        reasons.append("predicts too few errors")
    elif measured[1] < low:
        reasons.append("predicts too many errors")
    if p is not None and p < _LEVEL:
        reasons.append("own distances do not follow it")
    verdict = "rejected" if reasons else "not rejected"
    tally.same(f"{where}.reasons", told["reasons"], reasons)
    tally.same(f"{where}.verdict", told["verdict"], verdict)
    return verdict


def check_flags(tally: Tally, where: str, row: Mapping[str, Any]) -> None:
    """That a bound's value is what its logarithm says, and whether it is vacuous."""
    log_value, value = row["log_value"], row["value"]
    tally.true(
        f"{where}: value", _is_value_of(value, log_value), f"is {value!r}, which is not the exponential of {log_value!r}, rounded up"
    )
    tally.same(f"{where}: vacuous", bool(row["vacuous"]), value >= 1)
    tally.same(f"{where}: direction", row["direction"], "upper")


def _is_value_of(value: float, log_value: float) -> bool:
    """Whether a value is what its logarithm says: rounded up, but by no more than a few floats."""
    if log_value > 0 or not 0 <= value <= 1:
        return False
    return value == 1 if log_value == 0 else math.exp(log_value) <= value <= math.exp(log_value) * (1 + 1e-15) + 1e-323 or value == 1


def check_rung(
    tally: Tally,
    where: str,
    told: Mapping[str, Any],
    measured: tuple[float, float] | None,
    law: Mapping[str, Any] | None,
    verdict: str,
    exchangeable: bool,
) -> None:
    """Whether a rung holds and may be relied on.

    Parameters
    ----------
    tally : Tally
    where : str
    told : mapping
        The rung's row.
    measured : tuple of float, optional
        Limits of the measured error; without, nothing is known of it.
    law : mapping, optional
        The row of the query law, of whose reasons a broken rung tells; L8 needs none.
    verdict : str
        On that law, recomputed.
    exchangeable : bool
        Whether held-out and measured samples are from one pool.
    """
    if measured is None:
        tally.same(f"{where}: guarantee", told["guarantee"], False)
        return
    free = told["level"] == "A0"
    holds = measured[0] <= told["value"]
    relied = holds and told["value"] < 1 and (exchangeable if free else verdict == "not rejected")
    tally.same(f"{where}: holds", told["holds"], bool(holds))
    tally.same(f"{where}: guarantee", told["guarantee"], bool(relied))
    broken = None
    if not holds:
        reasons = [] if law is None else law["reasons"]
        what = "A0: samples independent from one law" if free else f"query law ({told['level']}): {', '.join(reasons) or 'too narrow'}"
        broken = f"{what}; true law at least {binary_kl(measured[0], told['value']):.3g} nats away"
    tally.same(f"{where}: broken_assumption", told["broken_assumption"], broken)


def check_conformal(
    tally: Tally,
    where: str,
    told: Mapping[str, Any],
    sets: np.ndarray,
    task: np.ndarray,
    alpha: float,
) -> None:
    """Coverage and mean size of sets of tasks.

    Parameters
    ----------
    tally : Tally
    where : str
    told : mapping
    sets : (n, m) bool array
        As `conformal_sets` gives them.
    task : (n,) int array
        True tasks.
    alpha : float
    """
    tally.same(f"{where}.alpha", told["alpha"], alpha)
    tally.near(f"{where}.coverage", told["coverage"], sets[np.arange(task.size), task].mean())
    tally.near(f"{where}.mean_size", told["mean_size"], sets.sum(axis=1).mean())


def conformal_sets(held: np.ndarray, task: np.ndarray, fresh: np.ndarray, alpha: float) -> np.ndarray:
    """Sets of tasks of fresh samples, by the threshold that held-out ones give; alpha is the decimal number that it prints as."""
    own = np.sort(_nonconformity(held)[np.arange(task.size), task])
    # The least rank r with r / (n + 1) >= 1 - alpha, in whole numbers.
    share = 1 - Fraction(repr(float(alpha)))
    rank = -(-share.numerator * (own.size + 1) // share.denominator)
    return _nonconformity(fresh) <= (own[rank - 1] if rank <= own.size else np.inf)


def _nonconformity(scores: np.ndarray) -> np.ndarray:
    """Each task's score less the least of the others."""
    m = scores.shape[1]
    return np.stack([scores[:, k] - np.delete(scores, k, axis=1).min(axis=1) for k in range(m)], axis=1)


def check_retrieved(tally: Tally, where: str, retrieved: np.ndarray, scores: np.ndarray) -> None:
    """That scores are finite, and that the task of the least one is that retrieved."""
    tally.true(where, np.isfinite(scores).all(), "holds scores that are not finite")
    tally.same(lambda j: f"{where}, row {j}: retrieved", retrieved, scores.argmin(axis=1))
