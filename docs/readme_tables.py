"""The README's numbers, from the results kept in `docs/results`.

A block of the README between `<!-- results: NAME -->` and `<!-- end -->` is what the function of that name gives::

    python docs/readme_tables.py                                    # write the blocks anew
    python docs/readme_tables.py --keep RUN ABLATION COMPARISON COMPARISON   # first take over other results
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from empirics.record import read_json, write_bytes, write_json
from empirics.report import Report, Unit, markdown_table, rung_text, verdict

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
# Rungs that the front page shows; the report has all.
_SHOWN = ("L1b", "L2", "L3", "L5", "L5b", "L6", "L8")
_BLOCK = re.compile(r"(<!-- results: ([\w-]+) -->\n)(.*?)(<!-- end -->)", flags=re.S)


def headline(report: Report) -> str:
    """The ladder of every task."""
    header = ["", "n", "measured", "95% interval", *_SHOWN, "query law"]
    return markdown_table(header, [_ladder_row(u) for u in [*report.tasks, report.overall]])


def _ladder_row(unit: Unit) -> list[str]:
    m = unit.measured
    law = unit.law.verdict + (f": {', '.join(unit.law.reasons)}" if unit.law.reasons else "")
    name = f"**{unit.name}**" if unit.name == "overall" else unit.name
    return [name, str(m.n), f"{m.error:.3f}", f"{m.low:.3f}-{m.high:.3f}", *(rung_text(unit.rungs[r]) for r in _SHOWN), law]


def sentence(report: Report) -> str:
    """The run in one sentence."""
    return f"> {verdict(report)}"


def prediction(report: Report) -> str:
    """Error predicted under every query law, beside the measured one, in the dimension of the bounds and in the full one."""
    laws = {"mixture": "mixture in each class", "gaussian": "one Gaussian in each class", "well-specified": "signature itself"}
    full = max(r.dimension for r in report.retrieval)
    body = []
    for arm in dict.fromkeys(a.arm for a in report.arms):
        units = {a.law: a.overall for a in report.arms if a.arm == arm}
        shown = [f"{units[law].law.predicted:.3f}" if law in units else "" for law in laws]
        whole = next(r for r in report.retrieval if (r.arm, r.dimension) == (arm, full))
        body.append([arm, f"{next(iter(units.values())).measured.error:.3f}", *shown, f"{whole.measured.error:.3f}"])
    return markdown_table(["retrieval", "measured", *laws.values(), f"measured in all {full} dimensions"], body)


def rivals(summary: Mapping[str, Any]) -> str:
    """The comparison, a row for each method."""
    body = []
    for row in summary["methods"]:
        versus = row["against_reference"]
        difference = "reference"
        if versus is not None:
            found = versus["retrieval_error"]
            difference = f"{found['difference']:+.3f}" + (" *" if found["p_holm"] < 1 - summary["confidence"] else "")
        batches = row["batch_retrieval_error"]
        body.append(
            [
                f"({row['name']})" if row["role"] == "control" else row["name"],
                f"{row['accuracy']:.3f}",
                f"{row['retrieval_error']:.3f}",
                "{:.3f}-{:.3f}".format(*row["intervals"]["retrieval_error"]),
                difference,
                f"{row['told_accuracy']:.3f}",
                f"{row['forgetting']:.3f}",
                f"{sum(row['stored'].values()) / 1e6:.1f}",
                f"{batches['16']:.3f}" if "16" in batches else "-",
            ]
        )
    header = [
        "",
        "accuracy",
        "retrieval error",
        "95% interval",
        f"less {summary['reference']}",
        "told",
        "forgetting",
        "stored MB",
        "B = 16",
    ]
    cells = summary["cells"]
    seeds = sorted({c["seed"] for c in cells})
    about = f"{summary['stream']}, seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{summary['stream']}, seed {seeds[0]}"
    return f"{about}, {summary['documents']['test']} test documents each:\n\n{markdown_table(header, body)}"


def blocks() -> dict[str, Callable[[], str]]:
    """What each block of the README is made by."""
    report = Report.model_validate(read_json(RESULTS / "default.json"))
    return {
        "sentence": lambda: sentence(report),
        "headline": lambda: headline(report),
        "prediction": lambda: prediction(report),
        "text-5t": lambda: rivals(read_json(RESULTS / "compare-text-5t.json")),
        "news-4t": lambda: rivals(read_json(RESULTS / "compare-news-4t.json")),
    }


def rendered(page: str) -> str:
    """The page with every block made anew."""
    made = blocks()
    return _BLOCK.sub(lambda m: f"{m[1]}{made[m[2]]()}\n{m[4]}", page)


def keep(run: Path, ablation: Path, *comparisons: Path) -> None:
    """Take over the report of a run, less the clusters of arms that do not head it, an ablation, and the summaries of comparisons."""
    report = read_json(run / "report.json")
    for arm in report["arms"]:
        arm["clusters"] = []
    write_json(RESULTS / "default.json", report)
    write_bytes(RESULTS / "ablation.markdown", (ablation / "ablation.md").read_bytes())
    for folder in comparisons:
        summary = read_json(folder / "comparison.json")
        write_json(RESULTS / f"compare-{summary['stream']}.json", summary)


def main() -> None:
    """Write the README's blocks anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs="+", type=Path, metavar="FOLDER", help="a run, an ablation, then comparisons")
    options = parser.parse_args()
    if options.keep:
        keep(*options.keep)
    page = README.read_text("utf-8")
    write_bytes(README, rendered(page).encode())


if __name__ == "__main__":
    sys.exit(main())
