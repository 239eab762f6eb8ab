"""Retrieval in two stages against the full search over all adapters, in the same run, at growing numbers of tasks.

Tasks are real, or beyond those SIMULATED, as `cascade_tasks` says. Queries are real, and of real tasks, throughout: a simulated task can
only be a wrong answer.

Two full searches: "both" adds frozen and adapted energies, "paper" takes adapted ones alone, as published. For every number of tasks, the
cascade is fitted to held-out queries (loss at most alpha with confidence 0.95) and judged on others. The rule that is timed was fixed
beforehand: "adaptive" for both, whose final score contains the stage-1 score, and "threshold" for paper; and it promises the harder thing,
that any answer of the full search is kept, right or wrong.

    python benchmarks/cascade.py            # small: less than 90 s
    python benchmarks/cascade.py --full     # 300 real tasks, up to 1,000; what was trained and searched is kept under build/
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cascade_tasks import BACKBONE, WAYS, Tasks, draw_queries, make_tasks, read_pools, settings_key
from threadpoolctl import threadpool_limits

from empirics.adapters.stack import stack_adapters
from empirics.config import RunConfig
from empirics.encoders.backbone import Backbone
from empirics.encoders.loading import load_backbone
from empirics.files.record import read_tensors, write_json, write_tensors
from empirics.retrieval.signatures import Projection
from empirics.routing.cascade import AdapterStages, Cascade
from empirics.runs.embedding import use_threads
from empirics.seeding import generator
from theory import Measured, Pruning, Rule
from theory.pruning import Kind, least_score

KINDS: tuple[Kind, ...] = ("adaptive", "threshold", "best", "absolute")
ARMS: dict[str, Kind] = {"both": "adaptive", "paper": "threshold"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="300 real tasks, up to 1,000; loss at most 1%%")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, and random deals of the scored queries")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path("build/cascade"), help="what was trained and searched is kept here")
    parser.add_argument("--out", type=Path, help="also write the numbers here, as JSON")
    options = parser.parse_args()
    use_threads(RunConfig(threads=options.threads))
    threadpool_limits(options.threads)
    real, sizes = (300, [10, 30, 100, 300, 1000]) if options.full else (24, [24, 72, 200])
    held, test, alpha, timed = (304, 96, 0.01, 4) if options.full else (64, 32, 0.05, 4)
    folder = options.cache / settings_key(real)
    load = os.getloadavg()[0]
    where = f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads used, load {load:.1f} at the start"
    print(f"{where}; {real} real tasks, the others SIMULATED; {held} held-out and {test} other queries, loss at most {alpha:g}")
    backbone = load_backbone(BACKBONE)
    pools = read_pools(generator(0, "pools"))
    order = generator(0, "tasks").permutation(len(pools) * len(WAYS))[:real]
    tasks, projection = make_tasks(backbone, pools, order, max(sizes), folder)
    results: list[dict[str, Any]] = []
    scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    # The largest first: where queries come from the same tasks, its scores hold those of a smaller number.
    for m in sorted(sizes, reverse=True):
        stages, known = _stages(backbone, tasks, projection, m), min(m, real)
        true, texts = draw_queries(pools, order[:m], held + test, generator(0, "queries", str(known)))
        fresh = draw_queries(pools, order[:m], timed * options.repeats, generator(0, "timed", str(known)))[1]
        if known not in scores:
            scores[known] = _searched(stages["paper"], texts, folder / f"scores-{m}")
        stage_one, adapted = (x[:, :m] for x in scores[known])
        record: dict[str, Any] = {"tasks": m, "real": known, "simulated": m - known, "arms": {}}
        record["error_of_stage_one_alone"] = float((stage_one[held:].argmin(axis=1) != true[held:]).mean())
        for arm, kind in ARMS.items():
            full = adapted + stage_one if arm == "both" else adapted
            record["arms"][arm] = found = _judged(stage_one, full, true, held, alpha, options.repeats)
            if arm == "both":
                found["lossless"] = _lossless(stage_one, full, tasks.rules(m)["paper"])
            fitted = stages[arm].cascade(kind=kind, alpha=alpha).fit_scores(stage_one[:held], full[:held])
            found["timed"] = _timed(fitted, stages[arm], [fresh[j :: options.repeats] for j in range(options.repeats)])
        _show(record)
        results.insert(0, record)
        if options.out:
            about = {
                "machine": where,
                "torch": torch.__version__,
                "encoder": "all-MiniLM-L6-v2, adapters of rank 4 in the last layer, texts of at most 16 tokens, bfloat16",
                "simulated": "tasks beyond the real ones: adapters and signatures drawn from the law of the real ones; queries are real",
                "real_tasks": real,
                "held_out_queries": held,
                "other_queries": test,
                "alpha": alpha,
                "confidence": 0.95,
            }
            write_json(options.out, about | {"results": results})


def _stages(backbone: Backbone, tasks: Tasks, projection: Projection, m: int) -> dict[str, AdapterStages]:
    rules, stack = tasks.rules(m), stack_adapters(backbone, tasks.adapters[:m])
    return {arm: AdapterStages(backbone, stack, rules["frozen"], projection, rules[arm], [projection] * m) for arm in ARMS}


def _searched(stages: AdapterStages, texts: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a full search; blocks of queries that are in the folder are read from it."""
    cascade, parts = stages.cascade(), []
    for start in range(0, len(texts), 16):
        block = texts[start : start + 16]
        key = hashlib.sha256("\n".join(block).encode()).hexdigest()[:12]
        path = folder / f"{key}.safetensors"
        if not path.exists():
            stage_one, full = cascade.full_search(block)
            write_tensors(path, {"stage_one": stage_one, "full": full})
        parts.append(read_tensors(path))
    return np.concatenate([x["stage_one"] for x in parts]), np.concatenate([x["full"] for x in parts])


def _judged(stage_one: np.ndarray, full: np.ndarray, true: np.ndarray, held: int, alpha: float, repeats: int) -> dict[str, Any]:
    """Each rule fitted to held-out queries and judged on the others; then once more for random deals of all of them."""
    n, m = full.shape
    deals = [np.arange(n), *(generator(0, "deal", str(j)).permutation(n) for j in range(repeats))]
    out: dict[str, Any] = {"error_of_full_search": float((full[held:].argmin(axis=1) != true[held:]).mean())}
    # Of right answers only what is right can be lost, which is little where the full search errs much; so any answer, too.
    for what, truth in (("rules", true), ("any_answer", None)):
        out[what] = {}
        for kind in KINDS:
            rows = [_one_deal(kind, stage_one, full, true, truth, deal[:held], deal[held:], alpha) for deal in deals]
            lost, ratios = Measured(rows[0]["lost"], n - held, 0.95), [m / row["passes"] for row in rows]
            out[what][kind] = rows[0] | {"measured_loss": lost.to_dict(), "pass_ratio": ratios[0], "pass_ratio_of_deals": ratios[1:]}
    return out


def _one_deal(
    kind: Kind,
    stage_one: np.ndarray,
    full: np.ndarray,
    true: np.ndarray,
    truth: np.ndarray | None,
    fit: np.ndarray,
    other: np.ndarray,
    alpha: float,
) -> dict[str, Any]:
    """A rule fitted to some queries, and what it does with the others."""
    found = Pruning.calibrate(kind, stage_one[fit], full[fit], alpha, 0.95, None if truth is None else truth[fit])
    visited = found.visited(stage_one[other], full[other])
    answer = np.where(visited, full[other], np.inf).argmin(axis=1)
    lost = found.lost(stage_one[other], full[other], None if truth is None else truth[other])
    return {
        # JSON knows no infinity; the least of all parameters keeps the first task of stage 1 only.
        "parameter": found.parameter if np.isfinite(found.parameter) else None,
        "certified_loss": found.loss.value,
        "passes": float(visited.sum(axis=1).mean()),
        "most_passes": int(visited.sum(axis=1).max()),
        "lost": int(lost.sum()),
        "error": float((answer != true[other]).mean()),
    }


def _lossless(stage_one: np.ndarray, full: np.ndarray, own: Rule) -> dict[str, Any]:
    found = Pruning.lossless(least_score(own))
    assert not found.lost(stage_one, full).any()
    return {"passes": float(found.visited(stage_one, full).sum(axis=1).mean()), "certified_loss": 0.0}


def _timed(fitted: Cascade, stages: AdapterStages, blocks: list[list[str]]) -> dict[str, Any]:
    """Full search and cascade in turn on the same queries, several times over; seconds and passes a query."""
    rows = []
    fitted.predict(blocks[0])
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for block in blocks:
        start, wall = clock(), time.perf_counter()
        _, full = fitted.full_search(block)
        middle, wall_middle = clock(), time.perf_counter()
        found = fitted.search(block)
        end, wall_end = clock(), time.perf_counter()
        opened = stages.opened(block)
        screen_start = clock()
        stages.screen(opened)
        screened = clock()
        n = len(block)
        rows.append(
            {
                "full_seconds": (middle - start) / n,
                "cascade_seconds": (end - middle) / n,
                "screen_seconds": (screened - screen_start) / n,
                "full_wall_seconds": (wall_middle - wall) / n,
                "cascade_wall_seconds": (wall_end - wall_middle) / n,
                "passes": float(found.passes.mean()),
                "same_answers": float((full.argmin(axis=1) == found.task).mean()),
                "ratio": (middle - start) / (end - middle),
                "wall_ratio": (wall_middle - wall) / (wall_end - wall_middle),
                "pass_ratio": full.shape[1] / float(found.passes.mean()),
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]} | {"queries": len(blocks[0])}


def _show(record: dict[str, Any]) -> None:
    what = f"{record['simulated']} of them SIMULATED" if record["simulated"] else "all real"
    print(f"\n{record['tasks']} tasks, {what}; error of stage 1 alone {record['error_of_stage_one_alone']:.3f}")
    for arm, found in record["arms"].items():
        print(f" {arm}: error of the full search {found['error_of_full_search']:.3f}")
        for what, title in (("rules", "right answers"), ("any_answer", "any answer")):
            for kind, row in found[what].items():
                lost, deals = row["measured_loss"], row["pass_ratio_of_deals"]
                print(
                    f"  {title}, {kind}: {row['passes']:.1f} passes, {row['pass_ratio']:.1f} x fewer ({min(deals):.1f} to {max(deals):.1f} "
                    f"in other deals); certified loss {row['certified_loss']:.4f}, measured {lost['error']:.4f} ({lost['low']:.4f} to "
                    f"{lost['high']:.4f}); error {row['error']:.3f}"
                )
        if "lossless" in found:
            print(f"  lossless for every input: {found['lossless']['passes']:.1f} passes")
        timed = found["timed"]
        for name, title in (("ratio", "processor time"), ("wall_ratio", "wall time"), ("pass_ratio", "passes")):
            x = timed[name]
            print(f"  timed, {ARMS[arm]}: full search over cascade, {title}: {np.median(x):.1f} x ({min(x):.1f} to {max(x):.1f})")
        full, cascade, screen = (1e3 * np.median(timed[f"{name}_seconds"]) for name in ("full", "cascade", "screen"))
        print(f"  a query: full {full:.1f} ms, cascade {cascade:.1f} ms, of which the screen {screen:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
