"""Where the slack goes: why a rung is as large as it is (theory/README.md, slack)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from theory.bound import Bound
from theory.certificates import Measured
from theory.errors import InputError
from theory.frames import data_frame
from theory.ladder import Ladder

if TYPE_CHECKING:
    import pandas as pd

PIECES = ("assumption", "union", "inequality", "robustness", "statistical")
# What separates each rung from the exact pairs, besides the union that all of them take.
_ROBUST = ("L9", "L10", "L11", "L12", "L7")


def slack(
    found: Ladder,
    measured: Mapping[tuple[str, int | None], Measured] | Measured | None = None,
    scale: Literal["log10", "probability"] = "log10",
) -> pd.DataFrame:
    """Decompose the excess of every rung over the measured error, for every task and overall.

    With e the measured error, s the simulated error under the query law (L6) and u the union of exact pairs (L5), a rung
    of value r exceeds e by

    - `assumption`: s against e (the query law; negative if the law predicts too few errors);
    - `union`: u against s (adding pairs that overlap; for L5b what is left of it);
    - `inequality`: r against u (Chernoff, splitting, one exponent for all);
    - `robustness`: r against u for rungs that assume less than the law (L7, L9 to L12);
    - `statistical`: r against s or e for rungs that are limits of a measurement (L6, L8).

    The pieces of a row add up to its `total`.

    Parameters
    ----------
    found : Ladder
    measured : Measured, or dict from ("overall", None) or ("task", k) to Measured, optional
        Without it the simulated error takes its place and `assumption` is 0.
    scale : {"log10", "probability"}
        Factors as decimal logarithms, or differences of probabilities.

    Returns
    -------
    DataFrame
        Columns `level_of`, `task`, `rung`, `vacuous`, `value`, `reference`, the five pieces, `total`. A piece is NaN where
        it is not defined: no simulation, or a logarithm of a rate of 0.

    Raises
    ------
    InputError
        If the scale is unknown, or something is measured that the ladder does not bound.
    """
    if scale not in ("log10", "probability"):
        raise InputError("scale", f"{scale!r} is unknown; choose log10 or probability")
    given: dict[tuple[str, int | None], Measured] = (
        {("overall", None): measured} if isinstance(measured, Measured) else dict(measured or {})
    )
    units: list[tuple[str, int | None, Mapping[str, Bound]]] = [("overall", None, found.overall)]
    units += [("task", k, rungs) for k, rungs in found.tasks.items()]
    # Left out in silence, a rate under another key would make the assumption's piece 0.
    if strangers := [key for key in given if key not in {(level, k) for level, k, _ in units}]:
        raise InputError("measured", f'has the key {strangers[0]!r}; give a Measured, or keys ("overall", None) and ("task", k)')
    rows = []
    for level, k, rungs in units:
        at = given.get((level, k))
        for name, bound in rungs.items():
            rows.append({"level_of": level, "task": k, "rung": name, **_row(name, bound, rungs, at, scale)})
    return data_frame(rows).astype({"task": "Int64"})


def _row(name: str, bound: Bound, rungs: Mapping[str, Bound], at: Measured | None, scale: str) -> dict[str, float | bool | None]:
    def coordinate(log_p: float | None) -> float:
        if log_p is None or log_p == -np.inf:
            return 0.0 if scale == "probability" and log_p is not None else np.nan
        return float(log_p / np.log(10)) if scale == "log10" else float(np.exp(log_p))

    simulated, exact = rungs["L6"], rungs["L5"]
    log_s = simulated.log_estimate
    if log_s is None and simulated.estimate == 0.0:
        log_s = -np.inf
    s, u, r = coordinate(log_s), coordinate(exact.log_value), coordinate(bound.log_value)
    if at is None:
        e, reference = s, simulated.estimate
    else:
        e, reference = coordinate(float(np.log(at.error)) if at.errors else -np.inf), at.error
    pieces = dict.fromkeys(PIECES, 0.0)
    if name == "L8":
        pieces["statistical"] = r - e
    else:
        pieces["assumption"] = s - e
        if name == "L6":
            pieces["statistical"] = r - s
        elif name in ("L5", "L5b"):
            pieces["union"] = r - s
        else:
            pieces["union"] = u - s
            pieces["robustness" if name in _ROBUST else "inequality"] = r - u
    return {"vacuous": bound.vacuous, "value": bound.value, "reference": reference, **pieces, "total": r - e}
