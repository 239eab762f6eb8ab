"""Every claim tabulated, and the page that ``python -m theory.published`` prints."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from theory.files import write_whole
from theory.frames import data_frame
from theory.published.criterion import Reading
from theory.published.search import Family, counterexample
from theory.published.tails import LOG_RATIOS, failure_table, first_failure, tail_claim, tail_table, tied_limit

if TYPE_CHECKING:
    import pandas as pd


def claims_table(
    rng: np.random.Generator,
    dimensions: Sequence[int] = (1, 2, 768),
    levels: Sequence[float] = (1e-2, 1e-4),
    generations: int = 10,
    population: int = 8,
) -> pd.DataFrame:
    """Every claim in both readings and, beside them, L1's: where it is proved, and the worst that a search found.

    Returns
    -------
    DataFrame
        One row per claim, dimension, eps and reading: ``claim``, ``d``, ``eps`` (NaN for the tail claim, which knows ``eps/N'`` only),
        ``reading``, ``holds`` (the regime in which it is proved; for the tail claim, in which it holds), ``evaluations``,
        ``log10_ratio`` (largest exact probability over its target; for the tail claim over the grid `LOG_RATIOS`), ``counterexample``
        (or how many settings were tried without one).
    """
    rows = []
    for d in dimensions:
        for reading in Reading:
            stop = first_failure(d, reading)
            theorem = reading is Reading.LADDER or (reading is Reading.TAIL_INVERSION and d <= 2)
            rows.append(
                {
                    "claim": "P(chi2_d >= d + second) <= eps/N'",
                    "d": d,
                    "eps": math.nan,
                    "reading": reading.value,
                    "holds": "everywhere" if theorem else f"log(N'/eps) < {stop:.4g}",
                    "evaluations": len(LOG_RATIOS),
                    "log10_ratio": max(tail_claim(d, t, reading).orders for t in LOG_RATIOS),
                    "counterexample": "none exists" if theorem else f"d = {d}: log(N'/eps) = {stop:.4g}",
                }
            )
    for family in Family:
        for d in dimensions:
            for eps in levels:
                for reading in Reading:
                    found = counterexample(reading, family, d, eps, rng, generations, population)
                    rows.append(
                        {
                            "claim": f"passing implies error <= eps: {family.value}",
                            "d": d,
                            "eps": eps,
                            "reading": reading.value,
                            "holds": _regime(reading, family, d),
                            "evaluations": found.evaluations,
                            "log10_ratio": found.log_ratio / math.log(10),
                            "counterexample": str(found),
                        }
                    )
    return data_frame(rows)


def _regime(reading: Reading, family: Family, d: int) -> str:
    if reading is Reading.LADDER:
        return "everywhere (A2)"
    if family is Family.TIED:
        limit = tied_limit(d, 1.0, reading)
        return f"log(N'/eps) <= {limit:.3g}" if limit > math.log(3) else "nowhere proved"
    return "nowhere proved"


def _markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table, numbers to four digits."""

    def cell(value: object) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        if isinstance(value, float | np.floating):
            return "" if math.isnan(value) else "none" if value == math.inf else f"{value:.4g}"
        return str(value)

    lines = ["| " + " | ".join(frame.columns) + " |", "|" + " --- |" * frame.shape[1]]
    lines += ["| " + " | ".join(cell(v) for v in row) + " |" for row in frame.itertuples(index=False)]
    return "\n".join(lines)


def report(rng: np.random.Generator) -> str:
    """All tables of this package as one Markdown page."""
    tails = tail_table()
    wide = tails.pivot(index="d", columns=["reading", "log_ratio"], values="orders")
    claims = claims_table(rng)
    unit = ["claim", "d", "eps"]
    readings = [(r.value, claims[claims["reading"] == r.value].set_index(unit)) for r in Reading]
    columns = {name: part["log10_ratio"] for name, part in readings} | {f"{name} holds": part["holds"] for name, part in readings}
    ratios = data_frame(columns).reset_index()
    parts = [
        "# The published criterion, as claims",
        "The paper's text was not available. The criterion is restated from a public script that verifies it, in two readings: (a) as "
        "coded, (b) as the inversion of a tail bound would give. Counterexamples are to the criterion as restated; assumptions that the "
        "restatement does not carry may exclude them. L1 is the ladder's separation bound, put to the same tests.",
        "## The tail claim: P(chi2_d >= d + second) <= eps/N'",
        "Orders of magnitude by which the probability exceeds eps/N', by log(N'/eps); negative where the claim holds. For L1 the "
        "threshold is T1's, 2 sqrt(d t) + 2 t.",
    ]
    for reading in Reading:
        part = wide[reading.value].reset_index()
        part.columns = [f"{c:.4g}" if isinstance(c, float) else str(c) for c in part.columns]
        parts += [f"### {reading.value}", _markdown(part)]
    parts += [
        "## Where each claim stops",
        "Values of log(N'/eps). tail_a, tail_b: the tail claim first fails. tail_b_proved: it is proved up to here. tied_a, tied_b: with "
        "equal covariances of unit variance and queries that follow the signature, passing is proved to imply the error up to here. "
        "N' is at least 3, so log(N'/eps) exceeds 1.1.",
        _markdown(failure_table()),
        "## All claims, and L1 beside them",
        "The whole criterion is tried on two tasks of one component each, one shared embedding, own component standard normal. A cell is "
        "the largest exact probability over its target that was found, in orders of magnitude: above 0 the claim is false there. Not "
        "finding a counterexample proves nothing, except with equal covariances and well-specified queries, where only the distance is "
        "left to vary. The last columns say where each is proved; for the tail claim, where it holds.",
        _markdown(ratios),
        "## Counterexamples",
        "The simplest that rounding the worst setting left, or how many settings were tried without one.",
        _markdown(claims[[*unit, "reading", "counterexample"]]),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables as Markdown, and write them with ``--out FILE``."""
    parser = argparse.ArgumentParser(prog="python -m theory.published", description="The published criterion, tested as claims.")
    parser.add_argument("--out", type=Path, help="also write the page to this file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches, at least 0 (default 0)")
    options = parser.parse_args(arguments)
    if options.seed < 0:
        parser.error(f"--seed: {options.seed} is negative")
    if options.out is not None and (options.out.is_dir() or not options.out.parent.is_dir()):
        parser.error(f"--out: {options.out} is a folder, or is in none that exists; name a file in a folder that does")
    page = report(np.random.default_rng(options.seed))
    if options.out is not None:
        write_whole(options.out, page.encode())
    print(page, end="")
