"""One adapter a task, trained once and never changed; and the ways to retrieve which one a document needs."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp
from sklearn.base import ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from empirics.adapters.adapter import Adapter, active, composed_adapter, composition_tensors
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig
from empirics.data.documents import Input
from empirics.data.images import item_bytes
from empirics.encoders.prefix import embed, encode_prefix
from empirics.methods.arrow import gate_shares
from empirics.methods.problem import Outcome, Problem, from_task_scores
from empirics.methods.retrieval import Remedy, Space, fit_retrieval, joined
from empirics.retrieval.estimators import shrunk_gaussian
from empirics.retrieval.heads import fit_head, head_bytes
from empirics.retrieval.signatures import rule_tensors, signature_bytes
from empirics.seeding import sklearn_seed


@dataclass(frozen=True)
class AdapterSet:
    """Adapters of all tasks, what they make of every document, and a head for each.

    Attributes
    ----------
    adapters : tuple of Adapter
    z : (N, m, D) array
        Embeddings under every adapter: of its task's training documents, of the reservoir and of test documents; others NaN.
    predicted : (n, m) int array
        Class, numbered over the stream, that each task's head gives to each test document.
    stored : dict of str to int
        Bytes of "adapters" and of "heads".
    seconds : dict of str to float
        "train", "fit" (heads), "test" (test documents under all adapters).
    """

    adapters: tuple[Adapter, ...]
    z: Float[np.ndarray, "N m D"]
    predicted: Int[np.ndarray, "n m"]
    stored: dict[str, int]
    seconds: dict[str, float]

    @property
    def nbytes(self) -> int:
        """Memory that the set takes while methods use it."""
        folded = sum(units.a.nbytes + units.b.nbytes for adapter in self.adapters for units in adapter.folded.values())
        return self.z.nbytes + self.predicted.nbytes + folded + sum(map(adapter_bytes, self.adapters))


def train_adapters(problem: Problem, config: AdapterConfig) -> AdapterSet:
    """Train, embed and fit heads, task by task."""
    stream, backbone = problem.stream, problem.backbone
    test = stream.where("test")
    # A task's own training documents give its signature; those of other tasks are never seen in its space.
    z = np.full((len(stream.task), problem.tasks, backbone.dimension), np.nan, dtype=np.float32)
    predicted = np.empty((test.size, problem.tasks), dtype=np.int64)
    adapters: list[Adapter] = []
    heads: list[ClassifierMixin] = []
    seconds = {"train": 0.0, "fit": 0.0, "test": 0.0}
    for k, task in enumerate(stream.tasks):
        own, start = problem.train(k), time.perf_counter()
        adapter, _ = train_adapter(
            backbone,
            problem.source,
            own,
            stream.label[own],
            task.name,
            adapters,
            config,
            problem.config.training,
            problem.generator("train", task.name),
        )
        trained = time.perf_counter()
        with active(backbone, adapter):
            seen = np.concatenate([own, stream.where("reservoir")])
            z[seen, k] = embed(backbone, problem.source, seen)
            embedded = time.perf_counter()
            z[test, k] = embed(backbone, problem.source, test)
        answered = time.perf_counter()
        head = fit_head(z[own, k], stream.label[own], problem.config.head, problem.generator("head", task.name))
        predicted[:, k] = problem.starts[k] + head.predict(z[test, k].astype(np.float64))
        adapters.append(adapter)
        heads.append(head)
        seconds["train"] += trained - start
        seconds["fit"] += embedded - trained + time.perf_counter() - answered
        seconds["test"] += answered - embedded
    stored = {"adapters": sum(map(adapter_bytes, adapters)), "heads": sum(map(head_bytes, heads))}
    return AdapterSet(tuple(adapters), z, predicted, stored, seconds)


def adapter_set_content(adapted: AdapterSet) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All of a set as arrays and JSON, from which `adapter_set` restores it bit for bit."""
    tensors = {"z": adapted.z, "predicted": adapted.predicted}
    for k, adapter in enumerate(adapted.adapters):
        tensors |= {f"{k}/{name}": value for name, value in composition_tensors(adapter).items()}
    facts = {"tasks": [x.task for x in adapted.adapters], "stored": adapted.stored, "seconds": adapted.seconds}
    return tensors, facts


def adapter_set(tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> AdapterSet:
    """The set that `adapter_set_content` took apart."""
    adapters = []
    for k, task in enumerate(facts["tasks"]):
        start = f"{k}/"
        own = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
        adapters.append(composed_adapter(task, own))
    return AdapterSet(tuple(adapters), tensors["z"], tensors["predicted"], dict(facts["stored"]), dict(facts["seconds"]))


def adapter_bytes(adapter: Adapter) -> int:
    """Bytes of an adapter as it is learned: its new units and its scalars on earlier ones."""
    own = sum(units.a.nbytes + units.b.nbytes for units in adapter.new.values())
    return own + sum(s.nbytes for s in adapter.composition.values())


def by_signatures(problem: Problem, adapted: AdapterSet, *, space: Space, remedy: Remedy) -> Outcome:
    """Retrieve by Gaussian signatures (see `empirics.methods.retrieval`).

    Parameters
    ----------
    problem : Problem
    adapted : AdapterSet
    space : {"adapted", "frozen", "joined", "both"}
        Where signatures live: in the adapted embeddings, the frozen ones, or the pair of both; "both" takes the two for independent
        given the component, so that their energies add.
    remedy : {"none", "ratio", "traffic", "corpus", "angular", "calibrated"}
        For adapted scores; frozen ones live in one space and need none.
    """
    stream, frozen, config = problem.stream, problem.source.frozen, problem.config.signature
    test, common = stream.where("test"), space == "both"
    x = frozen[:, None] if space == "frozen" else _in_space(space, frozen, adapted.z)
    rng, begun = problem.generator("retrieve", space, remedy), time.perf_counter()
    corpus = _corpus_embeddings(problem, adapted, space) if remedy == "corpus" else None
    # No other method embeds the corpus, so that its frozen pass is this one's cost too.
    stages, fit, answer = [], time.perf_counter() - begun, 0.0
    for i in range(problem.tasks):
        start = time.perf_counter()
        fitted = fit_retrieval(stream, x, i + 1, config, remedy, rng, corpus, common=common)
        ready = time.perf_counter()
        stages.append(fitted.scores(x[test]))
        fit, answer = fit + ready - start, time.perf_counter() - ready
    rule = fitted.rule
    # A stream has two tasks at least.
    assert rule is not None
    stored = Counter(adapted.stored)
    stored["signatures"] += signature_bytes(rule.signatures)
    if rule.background is not None:
        tensors = rule_tensors(rule.signatures, rule.background)
        stored["background"] += sum(tensor.nbytes for name, tensor in tensors.items() if name.startswith("background"))
    if config.dimension != x.shape[2]:
        stored["projections"] += 4 * sum(p.mean.size + p.axes.size for p in fitted.projections)
        # When the next task changes the projections, signatures are fitted anew from these.
        stored["training embeddings"] += 4 * stream.where("train").size * x.shape[2] * (2 if common else 1)
    # Projections, and backgrounds in a new task's space, need these documents again.
    if stored["background"] and remedy == "corpus":
        stored["corpus"] = documents_bytes(problem.corpus)
    if stored["projections"] or (stored["background"] and remedy != "corpus"):
        stored["reservoir"] = documents_bytes([stream.inputs[j] for j in stream.where("reservoir")])
    own = adapted.seconds
    seconds = {"train": own["train"], "fit": own["fit"] + fit, "test": own["test"] + answer}
    if space == "frozen":
        # Under the retrieved task's adapter alone.
        seconds = _one_pass(problem, adapted, fit, answer)
    kept = {what: size for what, size in stored.items() if size}
    return from_task_scores(problem, stages.__getitem__, adapted.predicted, kept, seconds)


def _corpus_embeddings(problem: Problem, adapted: AdapterSet, space: Space) -> Float[np.ndarray, "k S E"]:
    """Documents of the generic corpus in every task's space; stages look at the spaces of known tasks only."""
    source = encode_prefix(problem.backbone, problem.corpus)
    everything, passes = np.arange(len(problem.corpus)), []
    for adapter in adapted.adapters:
        with active(problem.backbone, adapter):
            passes.append(embed(problem.backbone, source, everything))
    return _in_space(space, source.frozen, np.stack(passes, axis=1))


def _in_space(space: Space, frozen: Float[np.ndarray, "n D"], adapted: Float[np.ndarray, "n m D"]) -> Float[np.ndarray, "n S E"]:
    """What adapted signatures see: every task's space, the pairs with the frozen embedding, or that as a common space before them."""
    if space == "joined":
        return joined(frozen, adapted)
    return np.concatenate([frozen[:, None], adapted], axis=1) if space == "both" else adapted


def documents_bytes(documents: Sequence[Input]) -> int:
    """Bytes of documents as they are: UTF-8, an encoded image, or its pixels."""
    return sum(len(x.encode()) if isinstance(x, str) else item_bytes(x) for x in documents)


def by_keys(problem: Problem, adapted: AdapterSet) -> Outcome:
    """Retrieve the task of the nearest key, keys being K-means centres of a task's frozen features.

    What prompt pools do (S-Prompts: Wang et al. 2022); the prompt is an adapter here.
    """
    frozen, start = problem.source.frozen.astype(np.float64), time.perf_counter()
    rng, keys = problem.generator("keys"), []
    for k in range(problem.tasks):
        own = frozen[problem.train(k)]
        count = min(problem.config.compare.keys, len(np.unique(own, axis=0)))
        keys.append(KMeans(count, n_init=4, random_state=sklearn_seed(rng)).fit(own).cluster_centers_.astype(np.float32))
    fitted = time.perf_counter()
    asked = frozen[problem.stream.where("test")]
    scores = np.stack([((asked[:, None] - centres) ** 2).sum(axis=2).min(axis=1) for centres in keys], axis=1)
    seconds = _one_pass(problem, adapted, fitted - start, time.perf_counter() - fitted)
    stored = {**adapted.stored, "keys": sum(c.nbytes for c in keys)}
    return from_task_scores(problem, lambda i: scores[:, : i + 1], adapted.predicted, stored, seconds)


def by_replay(problem: Problem, adapted: AdapterSet) -> Outcome:
    """Retrieve by a classifier trained on features replayed from class statistics (Wang et al. 2023, HiDe-Prompt, its task identity).

    One shrunk Gaussian of frozen features a class is kept, in float32; at each stage features drawn from all of them train a multinomial
    logistic regression over classes, whose probabilities are summed within tasks.
    """
    frozen, start = problem.source.frozen.astype(np.float64), time.perf_counter()
    own, test = problem.stream.where("train"), problem.stream.where("test")
    cluster, replayed = problem.stream.cluster, problem.config.compare.replayed
    rng, drawn, kept = problem.generator("replay"), [], 0
    for c in range(problem.starts[-1]):
        fitted = shrunk_gaussian(frozen[own[cluster[own] == c]], "ledoit-wolf", f"class {c}")
        mean, covariance = (part.astype(np.float32) for part in fitted)
        kept += mean.nbytes + covariance.nbytes
        # By eigenvalues, because rounding may leave one of them below zero.
        drawn.append(rng.multivariate_normal(mean.astype(np.float64), covariance.astype(np.float64), replayed, "ignore", method="eigh"))
    stages, fit, answer = [], time.perf_counter() - start, 0.0
    for i in range(problem.tasks):
        start, C = time.perf_counter(), problem.starts[i + 1]
        y = np.repeat(np.arange(C), replayed)
        with warnings.catch_warnings():
            # Stopped early, it is a classifier that is as good as any.
            warnings.simplefilter("ignore", ConvergenceWarning)
            # The features have unit length or less: without a weak penalty the fit would be all penalty.
            model = LogisticRegression(C=100.0, max_iter=500).fit(np.concatenate(drawn[:C]), y)
        fit, start = fit + time.perf_counter() - start, time.perf_counter()
        logits = model.decision_function(frozen[test])
        # Of two classes there is one logit, for the second.
        log_p = log_softmax(logits if C > 2 else np.stack([np.zeros_like(logits), logits], axis=1), axis=1)
        owner = problem.class_task[:C]
        stages.append(-np.stack([logsumexp(log_p[:, owner == k], axis=1) for k in range(i + 1)], axis=1))
        answer = time.perf_counter() - start
    stored = {**adapted.stored, "class statistics": kept, "task classifier": model.coef_.nbytes + model.intercept_.nbytes}
    return from_task_scores(problem, stages.__getitem__, adapted.predicted, stored, _one_pass(problem, adapted, fit, answer))


def by_arrow(problem: Problem, adapted: AdapterSet) -> Outcome:
    """Retrieve from the adapters' weights alone (Ostapenko et al. 2024, Arrow): no statistic of the data is kept.

    Each adapted projection routes each token to the adapters whose top right singular vector it is most aligned with; the
    task whose adapter gets the largest share over tokens and projections is retrieved.
    """
    test, stages = problem.stream.where("test"), []
    for i in range(problem.tasks):
        start = time.perf_counter()
        stages.append(-gate_shares(problem.backbone, problem.source, test, adapted.adapters[: i + 1]))
    answer = time.perf_counter() - start
    return from_task_scores(problem, stages.__getitem__, adapted.predicted, adapted.stored, _one_pass(problem, adapted, 0.0, answer))


def told(problem: Problem, adapted: AdapterSet) -> Outcome:
    """Control: the task is told."""
    true = problem.stream.task[problem.stream.where("test")]
    scores = (np.arange(problem.tasks) != true[:, None]).astype(np.float64)
    return from_task_scores(problem, lambda i: scores[:, : i + 1], adapted.predicted, adapted.stored, _one_pass(problem, adapted, 0.0, 0.0))


def at_random(problem: Problem, adapted: AdapterSet) -> Outcome:
    """Control: a task is drawn, all being as likely."""
    scores = problem.generator("random task").random((problem.stream.where("test").size, problem.tasks))
    return from_task_scores(problem, lambda i: scores[:, : i + 1], adapted.predicted, adapted.stored, _one_pass(problem, adapted, 0.0, 0.0))


def _one_pass(problem: Problem, adapted: AdapterSet, fit: float, answer: float) -> dict[str, float]:
    """Seconds of a method that runs one adapter a document."""
    seconds = adapted.seconds
    return {"train": seconds["train"], "fit": seconds["fit"] + fit, "test": seconds["test"] / problem.tasks + answer}
