"""The numbers of the README and of other pages, from the results kept in `docs/results` and that of the benchmark of costs.

Every block of such a page (`page_blocks`) is what `blocks` names it by::

    python docs/readme_tables.py                                    # write the blocks anew
    python docs/readme_tables.py --keep RUN ABLATION COMPARISON COMPARISON   # first take over other results
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import page_blocks

from empirics.files.record import read_json, write_bytes, write_json
from empirics.reports.report import Report, Unit, markdown_table, rung_text, verdict

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "reproduction.md", ROOT / "docs" / "explanation" / "cost-model.md")
RESULTS = Path(__file__).parent / "results"
COSTS = ROOT / "benchmarks" / "results" / "cost_model.json"
# Rungs that the front page shows; the report has all.
_SHOWN = ("L1b", "L2", "L3", "L5", "L5b", "L6", "L8")


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


def claims(report: Report, comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What the paper's summary claims and the kept results can tell, with the figures; every verdict is a rule applied to them."""
    streams = {c["stream"]: {row["name"]: row for row in c["methods"]} for c in comparisons}

    def figures(name: str, field: str) -> str:
        return ", ".join(f"{methods[name][field]:.3f}" for methods in streams.values())

    def verdict_of(confirmed: bool) -> str:
        return "confirmed" if confirmed else "not confirmed"

    def below(name: str, other: str) -> bool:
        """Whether on every stream intervals are apart, and the paired difference to our default stands after Holm's correction."""
        ends = [(m[name]["intervals"]["retrieval_error"][1], m[other]["intervals"]["retrieval_error"][0]) for m in streams.values()]
        paired = [m[other]["against_reference"]["retrieval_error"] for m in streams.values()]
        return all(high < low for high, low in ends) and all(p["difference"] > 0 and p["p_holm"] < 0.05 for p in paired)

    def errors(name: str, other: str) -> str:
        return f"retrieval error of `{name}` {figures(name, 'retrieval_error')}; of `{other}` {figures(other, 'retrieval_error')}"

    published = next(arm for arm in report.arms if (arm.arm, arm.law) == ("paper", "mixture"))
    signature = next(arm for arm in report.arms if arm.law == "well-specified")
    rejected = [arm.law for arm in (signature, published) for unit in arm.tasks if unit.law.verdict == "rejected"]
    useful = [unit for unit in published.tasks if unit.rungs["L1"].guarantee]
    whole = published.overall.rungs["L1"]
    compare = "`proteus-bounds compare`"
    rows = [
        (
            "The task is found by the likelihood of signatures, with no task given and no parameter trained for it",
            verdict_of(below("proteus", "random")),
            errors("proteus", "random"),
            compare,
        ),
        (
            "What a later task learns leaves earlier tasks as they are",
            verdict_of(all(methods["told"]["forgetting"] == 0 for methods in streams.values())),
            f"forgetting if the task is told {figures('told', 'forgetting')}; "
            f"if it is retrieved (`proteus`) {figures('proteus', 'forgetting')}",
            compare,
        ),
        (
            "It errs less than one adapter trained on task after task",
            verdict_of(below("proteus", "sequential")),
            errors("proteus", "sequential"),
            compare,
        ),
        (
            "It errs less than keys matched in the frozen space",
            verdict_of(below("proteus", "keys")),
            errors("proteus", "keys"),
            compare,
        ),
        (
            "Adapted embeddings retrieve better than frozen ones",
            verdict_of(below("proteus", "frozen-signatures")),
            errors("proteus", "frozen-signatures"),
            compare,
        ),
        (
            "Composition of earlier adapters and orthogonal new parts retrieve better than adapters trained alone",
            verdict_of(below("proteus-ratio", "independent")),
            errors("proteus-ratio", "independent"),
            f"{compare}, `proteus-bounds ablate`",
        ),
        (
            "Clusters of embeddings are Gaussian (Assumption A.1)",
            verdict_of(not rejected),
            f"tests of the law on test documents reject the signature itself (`frozen`) in {rejected.count('well-specified')} of "
            f"{len(signature.tasks)} tasks, a mixture in each class (`paper`) in {rejected.count('mixture')} of {len(published.tasks)}",
            "`make verify`",
        ),
        (
            "The separation bound says something of data: a guarantee below one",
            verdict_of(len(useful) == len(published.tasks)),
            f"L1 of the published rule is a guarantee in {len(useful)} of {len(published.tasks)} tasks, overall {whole.value:.3f}"
            f"{'' if whole.guarantee else ' under a rejected law'}; measured {published.overall.measured.error:.3f}",
            "`make verify`",
        ),
    ]
    return markdown_table(["claim", "verdict", f"figures ({', '.join(streams)})", "shown by"], [list(row) for row in rows])


def blocks() -> page_blocks.Makers:
    """What each block is made by."""
    report = Report.model_validate(read_json(RESULTS / "default.json"))
    comparisons = [read_json(RESULTS / f"compare-{stream}.json") for stream in ("text-5t", "news-4t")]
    return {
        "sentence": lambda: sentence(report),
        "headline": lambda: headline(report),
        "prediction": lambda: prediction(report),
        "text-5t": lambda: rivals(comparisons[0]),
        "news-4t": lambda: rivals(comparisons[1]),
        "claims": lambda: claims(report, comparisons),
        **cost_blocks(),
    }


def cost_blocks() -> page_blocks.Makers:
    """What each block of the cost model's page is made by."""
    found = read_json(COSTS)
    return {
        "cost-about": lambda: cost_about(found),
        "cost-seconds": lambda: cost_formulas(found, "seconds"),
        "cost-predictions": lambda: cost_predictions(found),
        "cost-bytes": lambda: cost_formulas(found, "bytes"),
        "cost-stored": lambda: cost_stored(found),
        "cost-million": lambda: cost_million(found),
    }


def cost_about(found: Mapping[str, Any]) -> str:
    """What was measured, in words."""
    encoder, machine = found["encoder"], found["machine"]
    return (
        f"Measured in processor time on one core ({machine['processor']}), medians of {found['repeats']}, at a load of "
        f"{machine['load']:.1f} on {machine['cores']} cores. The encoder has {encoder['layers']} layers of width {encoder['width']}, "
        f"adapters on query and value of the last {encoder['adapted_layers']}, and {encoder['tokens']} tokens a document, in float32."
    )


def cost_formulas(found: Mapping[str, Any], what: str) -> str:
    """Every stage's formula, with its errors."""
    body = []
    for name, models in found["stages"].items():
        if what not in models:
            continue
        model = models[what]
        amount = _small if what == "seconds" else "{:.3g} bytes".format
        terms = [amount(value) + (f" {term}" if term != "1" else "") for term, value in model["coefficients"].items() if value]
        errors = (model["fit_error"]["median"], model["prediction_error"]["median"], model["prediction_error"]["largest"])
        body.append([name, " + ".join(terms), *(f"{error:.0%}" for error in errors)])
    return markdown_table(["stage", "cost", "median error where fitted", "median error predicted", "largest error predicted"], body)


def cost_predictions(found: Mapping[str, Any]) -> str:
    """The predicted time of every large size beside the measured one."""
    body = []
    for name, models in found["stages"].items():
        for row in models["seconds"]["predictions"]:
            sizes = ", ".join(f"{key} = {value:,}" for key, value in row["sizes"].items())
            body.append([name, sizes, f"{row['measured']:.3g}", f"{row['measured'] * (1 + row['error']):.3g}", f"{row['error']:+.0%}"])
    return markdown_table(["stage", "sizes", "measured (s)", "predicted (s)", "error"], body)


def cost_stored(found: Mapping[str, Any]) -> str:
    """Bytes of one more task, and of a million."""
    many = found["million"]
    sizes, each = many["sizes"], many["bytes_a_task"]
    labels = {
        "signature, full": f"signature, full covariance, d = {sizes['d']}",
        "signature, low rank": f"signature, {sizes['factors']} factors, d = {sizes['wide']}",
        "adapter": f"adapter in the stack, r = {sizes['r']}",
    }
    body = [[labels[name], f"{each[name]:,}", f"{each[name] * sizes['m'] / 1e9:.0f} GB"] for name in labels]
    pairs = many["bytes_a_pair"]
    body.append(["separation, for each pair of tasks", f"{pairs:,} a pair", f"{pairs * sizes['m'] ** 2 / 1e12:.0f} TB"])
    return markdown_table(["", "bytes a task", f"{sizes['m']:,} tasks"], body)


def cost_million(found: Mapping[str, Any]) -> str:
    """What a million tasks would take: of a document, and once."""
    sizes, seconds = found["million"]["sizes"], found["million"]["seconds"]
    m, cores = sizes["m"], sizes["cores"]
    each = {
        "encode": "encode a document",
        "stage 1, full": f"stage 1: score it under all, d = {sizes['d']}",
        "stage 1, low rank": f"the same with {sizes['factors']} factors, d = {sizes['wide']}",
        "candidates": f"stage 2: run it under {sizes['c']} candidates",
        "all adapters": "instead, run it under all adapters",
    }
    once = {
        "embed all samples": f"embed {sizes['n']} samples of each task under its adapter",
        "fit all signatures": f"fit all signatures, d = {sizes['d']}",
        "separation of all pairs": f"separation of all pairs, d = {sizes['d']}",
    }
    answered = [[label, _duration(seconds[name]), f"{cores / seconds[name]:,.3g}"] for name, label in each.items()]
    made = [[label, _duration(seconds[name]), _duration(seconds[name] / cores)] for name, label in once.items()]
    return (
        markdown_table([f"{m:,} tasks, for each document", "one core", f"documents/s of {cores:,} cores"], answered)
        + "\n\n"
        + markdown_table(["once", "one core", f"{cores:,} cores"], made)
    )


def _small(seconds: float) -> str:
    unit, size = next(((unit, size) for unit, size in (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)) if seconds >= size), ("ps", 1e-12))
    return f"{seconds / size:.3g} {unit}"


def _duration(seconds: float) -> str:
    units = {"years": 365 * 86400, "days": 86400, "hours": 3600, "minutes": 60, "s": 1, "ms": 1e-3}
    unit = next((unit for unit, size in units.items() if seconds >= size), "ms")
    value = seconds / units[unit]
    return f"{value:.2g} {unit}" if value < 10 else f"{value:.0f} {unit}"


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
    """Write the pages' blocks anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs="+", type=Path, metavar="FOLDER", help="a run, an ablation, then comparisons")
    options = parser.parse_args()
    if options.keep:
        keep(*options.keep)
    page_blocks.write(PAGES, blocks())


if __name__ == "__main__":
    sys.exit(main())
