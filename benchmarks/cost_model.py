"""What retrieval costs as a function of its sizes: measured on small ones, fitted, and held against larger ones that had no part in it.

Every stage is timed alone, on one core, in processor time, which other work on the machine touches little. Its cost is a sum of a few
products of sizes with non-negative coefficients, those of the operations that it does, fitted by least squares of relative errors. Peak
memory of the stages in NumPy is fitted in the same way; bytes of what is stored are counted, not fitted.

    python benchmarks/cost_model.py --quick                                        # under a minute, for a look
    python benchmarks/cost_model.py --out benchmarks/results/cost_model.json       # what docs/explanation/cost-model.md is made of
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoders import bert, random_adapter
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from empirics.adapters.adapter import Adapter, Units
from empirics.adapters.pairs import embed_pairs
from empirics.adapters.stack import stack_adapters
from empirics.config import RunConfig, SignatureConfig
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import encode_prefix
from empirics.files.record import write_json
from empirics.retrieval.signatures import fit_signatures, signature_bytes
from empirics.runs.embedding import use_threads
from theory import Rule, Signatures, separation
from theory.files import signatures_from

Sizes = dict[str, int]
Terms = Mapping[str, Callable[[Sizes], float]]
# Seconds that a repeat takes at least: short works are done several times over.
_LEAST = 0.02
_LAYERS, _TOKENS = 3, 48


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Attributes
    ----------
    name : str
    seconds, bytes : mapping from a product of sizes to its value
        Terms of the model; of memory, beside what is there before the work begins; none where it is not measured.
    small, large : sequence of sizes
        What the model is fitted to, and what it has to predict.
    make : callable
        From sizes to the work.
    """

    name: str
    seconds: Terms
    bytes: Terms
    small: Sequence[Sizes]
    large: Sequence[Sizes]
    make: Callable[[Sizes], Callable[[], object]]


def _grid(**values: Sequence[int]) -> list[Sizes]:
    names = list(values)
    return [dict(zip(names, map(int, row), strict=True)) for row in np.stack(np.meshgrid(*values.values()), -1).reshape(-1, len(names))]


# --- stages ----------------------------------------------------------------------------------------------------------


def _signatures(s: Sizes, rank: int | None = None) -> Signatures:
    rng = np.random.default_rng(0)
    m, d = s["m"], s["d"]
    means, task = rng.normal(size=(m, d)), np.arange(m)
    if rank is not None:
        arrays = {"means": means, "factors": rng.normal(size=(m, d, rank)), "diagonals": np.ones((m, d)), "task": task}
        return signatures_from(arrays, tuple(map(str, range(m))))
    factors = rng.normal(size=(m, d, d)) / np.sqrt(d)
    return Signatures(means, factors @ np.swapaxes(factors, 1, 2) + np.eye(d), task)


def _rows(s: Sizes) -> int:
    """Rows that scoring whitens at once: their products stay in cache, if they are 128 or more (`theory.mixture.Gaussians`)."""
    return max(128, 2**18 // (s["m"] * s["d"]))


def _score(s: Sizes) -> Callable[[], object]:
    rule, x = Rule(_signatures(s, s.get("r"))), np.random.default_rng(1).normal(size=(s["n"], 1, s["d"]))
    return lambda: rule.task_scores(rule.scores(x))


def _separate(s: Sizes) -> Callable[[], object]:
    signatures = _signatures(s)
    return lambda: separation(signatures, variance="bound")


def _fit(s: Sizes) -> Callable[[], object]:
    rng, names = np.random.default_rng(0), tuple(f"t{k}" for k in range(s["m"]))
    mix = rng.normal(size=(s["d"], s["d"])) / np.sqrt(s["d"])
    spaces = [rng.normal(size=(s["n"], s["d"])) @ mix for _ in names]
    labels, config = [np.zeros(s["n"], int) for _ in names], SignatureConfig(clusters="task")
    return lambda: fit_signatures(spaces, labels, names, config)


def _encoder(batch: int, documents: int) -> tuple[Backbone, list[list[int]]]:
    backbone, inputs = bert({"adapted_layers": _LAYERS, "batch_size": batch}, documents)
    rng = np.random.default_rng(0)
    return backbone, [rng.integers(1000, 30000, _TOKENS).tolist() for _ in inputs]


def _adapter(backbone: Backbone, rank: int, seed: int) -> Adapter:
    found = random_adapter(backbone, f"t{seed}", seed)
    units = {name: Units(np.resize(u.a, (rank, u.a.shape[1])), np.resize(u.b, (rank, u.b.shape[1]))) for name, u in found.folded.items()}
    return Adapter(found.task, 1.0, units, found.composition, units)


def _encode(s: Sizes) -> Callable[[], object]:
    backbone, inputs = _encoder(s["B"], s["n"])
    return lambda: encode_prefix(backbone, inputs)


def _pass(s: Sizes) -> Callable[[], object]:
    backbone, inputs = _encoder(s["B"], s["n"])
    m = 2 * s["c"]
    stack, prefix = stack_adapters(backbone, [_adapter(backbone, s["r"], k) for k in range(m)]), encode_prefix(backbone, inputs)
    rng = np.random.default_rng(0)
    documents = np.repeat(np.arange(s["n"]), s["c"])
    adapters = np.concatenate([rng.choice(m, s["c"], replace=False) for _ in inputs])
    return lambda: embed_pairs(backbone, prefix, documents, adapters, stack)


def stages() -> list[Stage]:
    """All stages; of memory, only those that NumPy does are measured."""
    return [
        Stage(
            "scoring, full covariances",
            {
                "m d^2": lambda s: s["m"] * s["d"] ** 2,
                "n m": lambda s: s["n"] * s["m"],
                "n m d": lambda s: s["n"] * s["m"] * s["d"],
                "n m d^2": lambda s: s["n"] * s["m"] * s["d"] ** 2,
            },
            {"n m": lambda s: s["n"] * s["m"], "block": lambda s: min(s["n"], _rows(s)) * s["m"] * s["d"]},
            _grid(n=[16, 64], m=[32, 128, 512], d=[16, 32, 64]),
            [{"n": 64, "m": 4096, "d": 32}, {"n": 256, "m": 2048, "d": 64}, {"n": 128, "m": 512, "d": 128}, {"n": 1, "m": 8192, "d": 32}],
            _score,
        ),
        Stage(
            "scoring, low-rank covariances",
            {
                "m d r": lambda s: s["m"] * s["d"] * s["r"],
                "m": lambda s: s["m"],
                "n m d": lambda s: s["n"] * s["m"] * s["d"],
                "n m d r": lambda s: s["n"] * s["m"] * s["d"] * s["r"],
            },
            {"n m": lambda s: s["n"] * s["m"], "n d": lambda s: s["n"] * s["d"]},
            _grid(n=[16, 64], m=[32, 128, 512], d=[32, 128], r=[4, 16]),
            [{"n": 64, "m": 2048, "d": 384, "r": 8}, {"n": 256, "m": 2048, "d": 128, "r": 8}, {"n": 1, "m": 8192, "d": 128, "r": 8}],
            _score,
        ),
        Stage(
            "encoding documents without an adapter",
            {"1": lambda s: 1, "n": lambda s: s["n"], "n / B": lambda s: s["n"] / s["B"]},
            {},
            [{"n": n, "B": B} for n, B in ((4, 4), (8, 8), (16, 8), (24, 8), (16, 16), (32, 16), (32, 32))],
            [{"n": 128, "B": 64}, {"n": 192, "B": 32}],
            _encode,
        ),
        Stage(
            "passes under adapters",
            {
                "n": lambda s: s["n"],
                "n c": lambda s: s["n"] * s["c"],
                "n c r": lambda s: s["n"] * s["c"] * s["r"],
                "n c / B": lambda s: s["n"] * s["c"] / s["B"],
            },
            {},
            [
                {"n": n, "c": c, "r": r, "B": B}
                for n, c, r, B in (
                    (8, 1, 4, 8),
                    (8, 2, 32, 8),
                    (8, 4, 4, 16),
                    (16, 1, 32, 16),
                    (16, 2, 4, 8),
                    (16, 4, 32, 32),
                    (24, 1, 4, 8),
                    (24, 2, 32, 32),
                )
            ],
            [{"n": 64, "c": 4, "r": 8, "B": 64}, {"n": 96, "c": 4, "r": 64, "B": 32}, {"n": 32, "c": 16, "r": 8, "B": 64}],
            _pass,
        ),
        Stage(
            "separation of all pairs, V bounded",
            {
                "m": lambda s: s["m"],
                "m d^3": lambda s: s["m"] * s["d"] ** 3,
                "m^2 d": lambda s: s["m"] ** 2 * s["d"],
                "m^2 d^2": lambda s: s["m"] ** 2 * s["d"] ** 2,
            },
            {"d^2": lambda s: s["d"] ** 2, "m d^2": lambda s: s["m"] * s["d"] ** 2, "m^2": lambda s: s["m"] ** 2},
            _grid(m=[50, 100, 200, 400], d=[16, 32, 64]),
            [{"m": 1600, "d": 32}, {"m": 1000, "d": 64}, {"m": 400, "d": 128}],
            _separate,
        ),
        Stage(
            "fitting signatures",
            {
                "m": lambda s: s["m"],
                "m n d": lambda s: s["m"] * s["n"] * s["d"],
                "m n d^2": lambda s: s["m"] * s["n"] * s["d"] ** 2,
                "m d^3": lambda s: s["m"] * s["d"] ** 3,
            },
            {"1": lambda s: 1, "m d^2": lambda s: s["m"] * s["d"] ** 2, "n d": lambda s: s["n"] * s["d"]},
            _grid(m=[8, 32], n=[50, 100, 200], d=[16, 32, 64]),
            [{"m": 512, "n": 200, "d": 32}, {"m": 64, "n": 800, "d": 64}, {"m": 32, "n": 400, "d": 128}],
            _fit,
        ),
    ]


# --- measuring and fitting -------------------------------------------------------------------------------------------


def _seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    start = time.process_time()
    work()
    times = max(1, round(_LEAST / max(time.process_time() - start, 1e-6)))
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(times):
            work()
        taken.append((time.process_time() - start) / times)
    return float(np.median(taken))


def _peak(work: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _measured(stage: Stage, sizes: Sizes, repeats: int) -> dict[str, Any]:
    work = stage.make(sizes)
    found: dict[str, Any] = {"sizes": sizes, "seconds": _seconds(work, repeats)}
    if stage.bytes:
        found["bytes"] = _peak(work)
    return found


def fitted(terms: Terms, rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Coefficient of each term, none below zero, with the least sum of squared relative errors."""
    design = np.array([[term(row["sizes"]) / row[what] for term in terms.values()] for row in rows])
    # Columns of one length, or the solver would take small coefficients for zero.
    scale = np.linalg.norm(design, axis=0)
    return dict(zip(terms, (nnls(design / scale, np.ones(len(rows)))[0] / scale).tolist(), strict=True))


def predicted(terms: Terms, coefficients: Mapping[str, float], sizes: Sizes) -> float:
    """The cost of some sizes."""
    return sum(coefficients[name] * term(sizes) for name, term in terms.items())


def _model(stage: Stage, small: Sequence[dict[str, Any]], large: Sequence[dict[str, Any]], what: str) -> dict[str, Any]:
    terms = getattr(stage, what)
    coefficients = fitted(terms, small, what)
    errors = {
        name: np.array([predicted(terms, coefficients, row["sizes"]) / row[what] - 1 for row in rows])
        for name, rows in (("fit_error", small), ("prediction_error", large))
    }
    return {
        "coefficients": coefficients,
        **{name: {"median": float(np.median(abs(off))), "largest": float(abs(off).max())} for name, off in errors.items()},
        "predictions": [
            {"sizes": row["sizes"], "measured": row[what], "error": error}
            for row, error in zip(large, errors["prediction_error"].tolist(), strict=True)
        ],
    }


# --- what a million tasks would take ---------------------------------------------------------------------------------

# Of the scenario: tasks, samples a task, candidates that get their adapters run, documents at once, cores.
MANY = {"m": 10**6, "n": 200, "c": 4, "B": 64, "d": 32, "r": 8, "cores": 1000}
_WIDE, _FACTORS = 384, 8


def _bytes_stored() -> dict[str, int]:
    """Bytes that one more task takes, counted."""
    full, factored = _signatures({"m": 2, "d": MANY["d"]}), _signatures({"m": 2, "d": _WIDE}, _FACTORS)
    backbone, _ = _encoder(8, 1)
    one, two = (stack_adapters(backbone, [_adapter(backbone, MANY["r"], k) for k in range(m)]).nbytes for m in (1, 2))
    return {"signature, full": signature_bytes(full) // 2, "signature, low rank": signature_bytes(factored) // 2, "adapter": two - one}


def million(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the model says of a million tasks, in core-seconds and bytes."""
    by_name = {stage.name: stage for stage in stages()}

    def cost(name: str, **sizes: int) -> float:
        return predicted(by_name[name].seconds, models[name]["seconds"]["coefficients"], sizes)

    m, n, c, B, d, r = (MANY[k] for k in ("m", "n", "c", "B", "d", "r"))
    stored = _bytes_stored()
    encode = cost("encoding documents without an adapter", n=B, B=B) / B
    one = cost("passes under adapters", n=B, c=1, r=r, B=B) / B
    seconds = {
        "stage 1, full": cost("scoring, full covariances", n=B, m=m, d=d) / B,
        "stage 1, low rank": cost("scoring, low-rank covariances", n=B, m=m, d=_WIDE, r=_FACTORS) / B,
        "encode": encode,
        "candidates": cost("passes under adapters", n=B, c=c, r=r, B=B) / B,
        "all adapters": cost("passes under adapters", n=1, c=m, r=r, B=B),
        "fit all signatures": cost("fitting signatures", m=m, n=n, d=d),
        "embed all samples": m * n * (encode + one),
        "separation of all pairs": cost("separation of all pairs, V bounded", m=m, d=d),
    }
    pair = vars(separation(_signatures({"m": 2, "d": d}), variance="bound")).values()
    sizes = {**MANY, "wide": _WIDE, "factors": _FACTORS}
    return {"sizes": sizes, "seconds": seconds, "bytes_a_task": stored, "bytes_a_pair": sum(x.itemsize for x in pair)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of the small sizes, and the last of the large ones")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the model here, as JSON")
    options = parser.parse_args()
    use_threads(RunConfig(threads=1))
    threadpool_limits(1)
    load, models = os.getloadavg()[0], {}
    for stage in stages():
        small, large = stage.small, stage.large
        if options.quick:
            chosen = np.random.default_rng(0).permutation(len(small))[: len(stage.seconds) + 2]
            small, large = [small[j] for j in chosen], large[-1:]
        rows = [[_measured(stage, sizes, options.repeats) for sizes in some] for some in (small, large)]
        kinds = ("seconds", "bytes") if stage.bytes else ("seconds",)
        models[stage.name] = {what: _model(stage, *rows, what) for what in kinds} | {"measured": rows[0]}
        for what in kinds:
            found = models[stage.name][what]
            terms = ", ".join(f"{value:.2e} {name}" for name, value in found["coefficients"].items() if value)
            worst, own = found["prediction_error"]["largest"], found["fit_error"]["median"]
            print(
                f"{stage.name}: {what} = {terms}; off by {own:.0%} where fitted (median), by {worst:.0%} at most where predicted",
                flush=True,
            )
    about = {
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": load, "threads": 1, "clock": "processor"},
        "versions": {"numpy": np.__version__, "torch": torch.__version__},
        "encoder": {"layers": 6, "adapted_layers": _LAYERS, "width": 384, "tokens": _TOKENS},
        "repeats": options.repeats,
    }
    found = about | {"stages": models, "million": million(models)}
    for name, value in found["million"]["seconds"].items():
        print(f"a million tasks: {name}: {value:.3g} core-seconds")
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
