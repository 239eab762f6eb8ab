"""Retrieval in two stages against the full search over all adapters, in the same run, at growing numbers of tasks.

Real tasks: two classes of a packaged corpus each, written in one of twenty ways (behind a fixed phrase, in another order of words, in
another vocabulary); for each an adapter of the last layer is trained on texts of 16 tokens, and signatures are fitted to further documents
in the frozen and in its own space. Beyond those, tasks are SIMULATED: their adapters' rank-one units are drawn from those of all
real adapters, with random signs; their signatures are drawn from the law of the real ones (mean: a real task's, moved as another one's
near neighbour is from that; covariances: the real task's; from the frozen mean to the adapted one: the map that the simulated adapter
itself makes of reservoir documents, plus the real tasks' deviations from it). Queries are real, and of real tasks, throughout: a
simulated task can only be a wrong answer.

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
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from empirics.adapters.adapter import Adapter, Units, active
from empirics.adapters.pairs import embed_pairs, stack_adapters
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, BackboneConfig, RunConfig, SignatureConfig, TrainingConfig
from empirics.data.corpora import corpus
from empirics.encoders.backbone import Backbone, embed, encode_prefix, load_backbone
from empirics.files.record import read_tensors, write_json, write_tensors
from empirics.retrieval.estimators import shrunk_gaussian
from empirics.retrieval.signatures import Projection, fit_projection
from empirics.routing.cascade import AdapterStages, Cascade
from empirics.runs.embedding import use_threads
from empirics.seeding import generator
from theory import Measured, Pruning, Rule, Signatures
from theory.files import signatures_from
from theory.pruning import Kind, least_score

KINDS: tuple[Kind, ...] = ("adaptive", "threshold", "best", "absolute")
ARMS: dict[str, Kind] = {"both": "adaptive", "paper": "threshold"}
CLASSES = {
    "newsgroups": [
        ("rec.sport.hockey", "sci.crypt"),
        ("rec.sport.baseball", "comp.graphics"),
        ("rec.motorcycles", "sci.med"),
        ("rec.autos", "talk.politics.mideast"),
        ("sci.space", "misc.forsale"),
        ("sci.electronics", "alt.atheism"),
        ("comp.sys.ibm.pc.hardware", "talk.politics.guns"),
        ("comp.windows.x", "soc.religion.christian"),
        ("comp.os.ms-windows.misc", "talk.politics.misc"),
        ("comp.sys.mac.hardware", "talk.religion.misc"),
    ],
    "reuters-r8": [("earn", "crude"), ("acq", "trade"), ("money-fx", "interest")],
    "election-tweets": [("realDonaldTrump", "HillaryClinton")],
    "book-excerpts": [("children", "adult")],
}
PHRASES = (
    "dear customer service team ,",
    "breaking news from our reporter :",
    "once upon a time it was said that",
    "note to the nurse on duty :",
    "the defendant stated in court that",
    "recipe step one :",
    "captain ' s log , day nine :",
    "professor , a question on the lecture :",
    "my landlord wrote me this :",
    "error in line forty two :",
    "good evening , this is radio five :",
    "translated from the latin :",
)
WAYS: tuple[Callable[[list[str]], list[str]], ...] = (
    *((lambda words, phrase=phrase: [*phrase.split(), *words]) for phrase in PHRASES),
    lambda words: words[::-1],
    sorted,
    lambda words: [*words[len(words) // 2 :], *words[: len(words) // 2]],
    lambda words: [w for pair in zip(words[1::2], words[::2], strict=False) for w in pair],
    lambda words: ["".join(c for c in w if c not in "aeiou") or w for w in words],
    lambda words: [f"{w[1:]}{w[0]}ay" for w in words],
    lambda words: [w for w in words if len(w) > 4] or words,
    lambda words: [w for word in words for w in (word, "indeed")],
)
DIMENSION, TRAINED, FITTED, RESERVOIR, WORDS, NEIGHBOURS = 32, 32, 96, 48, 10, 5
BACKBONE = BackboneConfig(max_length=16, adapted_layers=1, batch_size=64, device="cpu", precision="bfloat16")
TRAINING = TrainingConfig(epochs=8, batch_size=16, learning_rate=5e-3)
ADAPTER = AdapterConfig(rank=4).alone()


@dataclass(frozen=True)
class Pool:
    """Texts of a pair of classes: the documents that train and fit, and those that queries come from."""

    documents: list[list[list[str]]]
    queries: list[list[str]]


@dataclass(frozen=True)
class Tasks:
    """Adapters, and what signatures are made of: real tasks first, then simulated ones."""

    adapters: list[Adapter]
    tensors: dict[str, np.ndarray]

    def rules(self, m: int) -> dict[str, Rule]:
        """Of stage 1 (frozen) and of the full searches, for the first m tasks."""
        t = {name: x[:m] for name, x in self.tensors.items()}
        names, task = tuple(map(str, range(m))), np.arange(m)
        frozen = Signatures(t["common_means"], t["common_covariances"], task)
        own = Signatures(t["means"], t["covariances"], task)
        return {"frozen": Rule(frozen), "both": Rule(signatures_from(t | {"task": task}, names)), "paper": Rule(own)}


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
    made = [real, str(BACKBONE), str(TRAINING), str(ADAPTER), DIMENSION, TRAINED, FITTED, RESERVOIR, WORDS, NEIGHBOURS, PHRASES]
    key = hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]
    folder = options.cache / key
    load = os.getloadavg()[0]
    where = f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads used, load {load:.1f} at the start"
    print(f"{where}; {real} real tasks, the others SIMULATED; {held} held-out and {test} other queries, loss at most {alpha:g}")
    backbone = load_backbone(BACKBONE)
    pools = _pools(generator(0, "pools"))
    order = generator(0, "tasks").permutation(len(pools) * len(WAYS))[:real]
    tasks, projection = _tasks(backbone, pools, order, max(sizes), folder)
    results: list[dict[str, Any]] = []
    scores: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    # The largest first: where queries come from the same tasks, its scores hold those of a smaller number.
    for m in sorted(sizes, reverse=True):
        stages, known = _stages(backbone, tasks, projection, m), min(m, real)
        true, texts = _queries(pools, order[:m], held + test, generator(0, "queries", str(known)))
        fresh = _queries(pools, order[:m], timed * options.repeats, generator(0, "timed", str(known)))[1]
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


def _pools(rng: np.random.Generator) -> list[Pool]:
    """Documents of each pair of classes, split at random in two: nothing that trains or fits is ever a query."""
    out = []
    for name, pairs in CLASSES.items():
        frame = corpus(name)
        for pair in pairs:
            documents: list[list[list[str]]] = []
            queries: list[list[str]] = []
            for label in pair:
                words = [text.lower().split() for text in frame["text"][frame["label"] == label]]
                words = [w for w in words if len(w) >= WORDS // 2]
                order = rng.permutation(len(words))
                half = len(words) // 2
                documents.append([words[j] for j in order[:half]])
                queries += [words[j] for j in order[half:]]
            out.append(Pool(documents, queries))
    return out


def _text(words: list[str], way: int, rng: np.random.Generator) -> str:
    """Some consecutive words of a document, written in one of the ways."""
    start = int(rng.integers(max(1, len(words) - WORDS + 1)))
    return " ".join(WAYS[way](words[start : start + WORDS]))


def _queries(pools: list[Pool], order: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Independent draws: a real task, then a document of its own that trained nothing."""
    true = rng.integers(len(order), size=n)
    texts = []
    for k in true:
        subset, way = divmod(int(order[k]), len(WAYS))
        own = pools[subset].queries
        texts.append(_text(own[int(rng.integers(len(own)))], way, rng))
    return true, texts


def _tasks(backbone: Backbone, pools: list[Pool], order: np.ndarray, m: int, folder: Path) -> tuple[Tasks, Projection]:
    """Real tasks, trained or read from the folder, and simulated ones up to m."""
    rng = generator(0, "reservoir")
    reservoir = [_text(pool.documents[0][j], j % len(WAYS), rng) for pool in pools for j in range(max(20, -(-RESERVOIR // len(pools))))]
    frozen = encode_prefix(backbone, reservoir).frozen
    projection = fit_projection(frozen, DIMENSION)
    few = encode_prefix(backbone, [reservoir[j] for j in rng.permutation(len(reservoir))[:RESERVOIR]])
    parts = []
    for start in range(0, len(order), 25):
        path = folder / f"real-{start}.safetensors"
        if not path.exists():
            write_tensors(path, _real(backbone, pools, order[start : start + 25], projection))
            print(f"trained {min(start + 25, len(order))} of {len(order)} adapters", flush=True)
        parts.append(read_tensors(path))
    tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    adapters = _adapters(tensors, len(order))
    signatures = {n: tensors[n] for n in ("common_means", "common_covariances", "means", "covariances")}
    if m > len(order):
        path = folder / f"simulated-{m}.safetensors"
        if not path.exists():
            write_tensors(path, _simulated(backbone, adapters, signatures, few, projection, m))
        new = read_tensors(path)
        adapters += [replace(x, task=f"simulated-{x.task}") for x in _adapters(new, m - len(order))]
        signatures = {name: np.concatenate([signatures[name], new[name]]) for name in signatures}
    return Tasks(adapters, signatures), projection


def _real(backbone: Backbone, pools: list[Pool], order: np.ndarray, projection: Projection) -> dict[str, np.ndarray]:
    """Train the adapters of some real tasks, and fit their signatures to further documents."""
    units: dict[str, list[np.ndarray]] = {}
    parts: dict[str, list[np.ndarray]] = {n: [] for n in ("common_means", "common_covariances", "means", "covariances")}
    for code in order:
        subset, way = divmod(int(code), len(WAYS))
        rng = generator(0, "task", str(int(code)))
        label = np.arange(TRAINED + FITTED) % 2
        own = pools[subset].documents
        texts = [_text(own[c][int(rng.integers(len(own[c])))], way, rng) for c in label]
        cache = encode_prefix(backbone, texts)
        rows = np.arange(TRAINED)
        adapter, _ = train_adapter(backbone, cache, rows, label[rows], str(int(code)), [], ADAPTER, TRAINING, rng)
        with active(backbone, adapter):
            adapted = embed(backbone, cache, np.arange(TRAINED, TRAINED + FITTED))
        for prefix, x in (("common_", cache.frozen[TRAINED:]), ("", adapted)):
            mean, covariance = shrunk_gaussian(projection(x), SignatureConfig().covariance, f"task {code}")
            parts[f"{prefix}means"].append(mean)
            parts[f"{prefix}covariances"].append(covariance)
        for name, unit in adapter.folded.items():
            units.setdefault(f"a:{name}", []).append(unit.a)
            units.setdefault(f"b:{name}", []).append(unit.b)
    return {name: np.stack(x) for name, x in (units | parts).items()}


def _adapters(units: dict[str, np.ndarray], m: int) -> list[Adapter]:
    names = [name[2:] for name in units if name.startswith("a:")]
    out = []
    for k in range(m):
        own = {name: Units(units[f"a:{name}"][k], units[f"b:{name}"][k]) for name in names}
        out.append(Adapter(str(k), 1.0, own, {name: np.zeros(0, np.float32) for name in names}, own))
    return out


def _simulated(
    backbone: Backbone, real: list[Adapter], signatures: dict[str, np.ndarray], few: Any, projection: Projection, m: int
) -> dict[str, np.ndarray]:
    """Units and signatures of simulated tasks up to m, as told at the head of this file."""
    rng, r = generator(0, "simulated"), len(real)
    units = {}
    for name in real[0].folded:
        a = np.stack([x.folded[name].a for x in real])
        b = np.stack([x.folded[name].b for x in real])
        # Each rank-one unit of a simulated adapter is one of a real adapter, with a random sign.
        chosen = rng.integers(r, size=(m - r, a.shape[1])), rng.integers(a.shape[1], size=(m - r, a.shape[1]))
        sign = rng.choice([-1, 1], size=(*chosen[0].shape, 1)).astype(np.float32)
        units |= {f"a:{name}": a[chosen], f"b:{name}": sign * b[chosen]}
    adapters = [*real, *_adapters(units, m - r)]
    # The affine map that each adapter makes of reservoir documents, in the projected space.
    n = len(few.lengths)
    documents, tasks = (x.ravel() for x in np.meshgrid(np.arange(n), np.arange(m), indexing="ij"))
    moved = projection(embed_pairs(backbone, few, documents, tasks, stack_adapters(backbone, adapters))).reshape(n, m, -1)
    z = projection(few.frozen)
    centre, d = z.mean(axis=0), z.shape[1]
    ridge = np.linalg.solve((z - centre).T @ (z - centre) + 0.05 * np.trace(np.cov(z.T)) * np.eye(d), (z - centre).T)
    # Of the change only, so that a weak map changes little.
    slopes = np.einsum("dn,nmk->mdk", ridge, moved - z[:, None])
    shifts = (moved - z[:, None]).mean(axis=0)

    def carried(means: np.ndarray, rows: slice) -> np.ndarray:
        return means + shifts[rows] + np.einsum("md,mdk->mk", means - centre, slopes[rows])

    means = signatures["common_means"]
    deviations = signatures["means"] - carried(means, slice(0, r))
    like, (from_, to) = rng.integers(r, size=m - r), rng.integers(r, size=(2, m - r))
    # Another task's neighbour, relative to it: so simulated tasks lie as close to real ones as these do to each other.
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    to = np.argsort(apart, axis=1)[from_, 1 + to % min(NEIGHBOURS, r - 1)]
    new_means = means[like] + means[to] - means[from_]
    return units | {
        "common_means": new_means,
        "common_covariances": signatures["common_covariances"][like],
        "means": carried(new_means, slice(r, m)) + deviations[like] + deviations[to] - deviations[from_],
        "covariances": signatures["covariances"][like],
    }


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
