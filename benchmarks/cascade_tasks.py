"""The tasks of `cascade.py`: real ones, and simulated ones beyond them.

Real tasks: two classes of a packaged corpus each, written in one of twenty ways (behind a fixed phrase, in another order of words, in
another vocabulary); for each an adapter of the last layer is trained on texts of 16 tokens, and signatures are fitted to further documents
in the frozen and in its own space. Beyond those, tasks are SIMULATED: their adapters' rank-one units are drawn from those of all
real adapters, with random signs; their signatures are drawn from the law of the real ones (mean: a real task's, moved as another one's
near neighbour is from that; covariances: the real task's; from the frozen mean to the adapted one: the map that the simulated adapter
itself makes of reservoir documents, plus the real tasks' deviations from it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from empirics.adapters.adapter import Adapter, Units, active
from empirics.adapters.pairs import embed_pairs
from empirics.adapters.stack import stack_adapters
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, BackboneConfig, SignatureConfig, TrainingConfig
from empirics.data.corpora import corpus
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import embed, encode_prefix
from empirics.files.record import read_tensors, write_tensors
from empirics.retrieval.estimators import shrunk_gaussian
from empirics.retrieval.signatures import Projection, fit_projection
from empirics.seeding import generator
from theory import Rule, Signatures
from theory.files import signatures_from

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


def settings_key(real: int) -> str:
    """What names the folder of what is made here: a digest of the number of real tasks and of all that they are made by."""
    made = [real, str(BACKBONE), str(TRAINING), str(ADAPTER), DIMENSION, TRAINED, FITTED, RESERVOIR, WORDS, NEIGHBOURS, PHRASES]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()[:12]


def read_pools(rng: np.random.Generator) -> list[Pool]:
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


def draw_queries(pools: list[Pool], order: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Independent draws: a real task, then a document of its own that trained nothing."""
    true = rng.integers(len(order), size=n)
    texts = []
    for k in true:
        subset, way = divmod(int(order[k]), len(WAYS))
        own = pools[subset].queries
        texts.append(_text(own[int(rng.integers(len(own)))], way, rng))
    return true, texts


def make_tasks(backbone: Backbone, pools: list[Pool], order: np.ndarray, m: int, folder: Path) -> tuple[Tasks, Projection]:
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
