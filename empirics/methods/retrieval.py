"""Task scores from Gaussian signatures: the published rule and the remedies for scores that live in different spaces.

Every score is smaller for likelier tasks. At stage i only tasks 0 to i are known: projections, signatures and backgrounds see no
document of a later task. The principal components that signatures live in are those of the reservoir of all tasks known so far, so that
they change when a task is added; signatures of earlier tasks are then fitted anew from the embeddings of their training documents, which
therefore have to be kept. Only in the full dimension, where nothing is projected, does a signature stay as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from sklearn.model_selection import StratifiedKFold

from empirics.config import SignatureConfig
from empirics.data.streams import Stream
from empirics.retrieval.signatures import Projection, fit_background, fit_projection, fit_signatures
from empirics.seeding import sklearn_seed
from theory.errors import InputError
from theory.mixture import Rule

Remedy = Literal["none", "ratio", "traffic", "corpus", "angular", "calibrated"]
Space = Literal["adapted", "frozen", "joined", "both"]
# Folds in which training documents are scored by signatures that have not seen them.
FOLDS = 4


@dataclass(frozen=True)
class Fitted:
    """A rule at one stage.

    Attributes
    ----------
    rule : Rule or None
        None for a single task, where there is nothing to choose.
    projections : tuple of Projection
        Into the space of each task's signature, or into the one that is shared; before those of tasks, into a common one if there is one.
    centre, spread : (t,) arrays
        What a task's score is standardised by.
    """

    rule: Rule | None
    projections: tuple[Projection, ...] = ()
    centre: Float[np.ndarray, " t"] | float = 0.0
    spread: Float[np.ndarray, " t"] | float = 1.0

    def scores(self, x: Float[np.ndarray, "n S D"]) -> Float[np.ndarray, "n t"]:
        """Scores of documents, embedded as `fit_retrieval` was given them; a column for each task known."""
        if self.rule is None:
            return np.zeros((len(x), 1))
        z = np.stack([p(x[:, s]) for s, p in enumerate(self.projections)], axis=1)
        return (self.rule.task_scores(self.rule.scores(z)) - self.centre) / self.spread


def fit_retrieval(
    stream: Stream,
    x: Float[np.ndarray, "N S D"],
    tasks: int,
    config: SignatureConfig,
    remedy: Remedy,
    rng: np.random.Generator,
    corpus: Float[np.ndarray, "k S D"] | None = None,
    *,
    common: bool = False,
) -> Fitted:
    """Fit signatures of the first tasks.

    Parameters
    ----------
    stream : Stream
    x : (N, S, D) array
        Embeddings of all documents in every task's space, or in one shared space (S = 1). Read are those of each known task's training
        documents in its own space and of the known tasks' reservoir.
    tasks : int
        Tasks known so far.
    config : SignatureConfig
    remedy : {"none", "ratio", "traffic", "corpus", "angular", "calibrated"}
        "none" is the published rule. "ratio" subtracts the energy under one Gaussian fitted to the reservoir of the known tasks in the
        same space (theory/README.md, rules). "traffic" fits that Gaussian to the test documents of the known tasks instead, unlabelled,
        as if they had all arrived before the first is answered: it is transductive, and no single document could be answered so.
        "corpus" fits it to documents that belong to no task.
        "angular" divides out the length of an embedding. "calibrated" standardises each task's least energy by its mean and spread
        over the task's own training documents, each scored by signatures fitted without it.
    rng : numpy.random.Generator
        Deals the folds of "calibrated", and starts signatures that are mixtures.
    corpus : (k, S, D) array, optional
        Embeddings of the documents of "corpus"; read in the spaces of known tasks only.
    common : bool
        The first space is common to all tasks, and those of tasks follow (S = m + 1): signatures see the pair of both, and take the two
        for independent given the component.

    Raises
    ------
    InputError
        As `empirics.retrieval.signatures.fit_signatures`, or if "corpus" lacks its documents.
    """
    if tasks == 1:
        return Fitted(None)
    known = np.flatnonzero(stream.task < tasks)
    reservoir = known[stream.part[known] == "reservoir"]
    # Early on there may be fewer documents than the dimension needs.
    dimension = config.dimension if config.dimension == x.shape[2] else min(config.dimension, reservoir.size - 1)
    shared, first = x.shape[1] == 1, 1 if common else 0
    projections = tuple(fit_projection(x[reservoir, s], dimension) for s in range(1 if shared else first + tasks))
    own, beside, labels = [], [], []
    for k in range(tasks):
        rows = stream.where("train", k)
        s = 0 if shared else first + k
        own.append(projections[s](x[rows, s]))
        beside.append(projections[0](x[rows, 0]))
        labels.append(stream.label[rows])
    names = tuple(t.name for t in stream.tasks[:tasks])
    background = None
    # In one shared space a background shifts all scores alike.
    if remedy in ("ratio", "traffic", "corpus") and not shared:
        if remedy == "corpus":
            if corpus is None:
                raise InputError("corpus", "is missing; a background of generic documents needs their embeddings")
            reference = corpus
        else:
            reference = x[reservoir if remedy == "ratio" else known[stream.part[known] == "test"]]
        seen = [p(reference[:, s]) for s, p in enumerate(projections)]
        background = fit_background(seen[first:], config, seen[0] if common else None)
    signatures = fit_signatures(own, labels, names, config, rng, beside if common else None)
    rule = Rule(signatures, background, kind="angular" if remedy == "angular" else "max")
    if remedy == "calibrated":
        return Fitted(rule, projections, *_own_law(own, labels, names, config, rng))
    return Fitted(rule, projections)


def _own_law(
    own: list[np.ndarray], labels: list[np.ndarray], names: tuple[str, ...], config: SignatureConfig, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Mean and standard deviation of each task's least energy over its own documents, each scored out of its fold."""
    energies = [np.empty(len(x)) for x in own]
    folds = [StratifiedKFold(FOLDS, shuffle=True, random_state=sklearn_seed(rng)).split(x, y) for x, y in zip(own, labels, strict=True)]
    for splits in zip(*folds, strict=True):
        kept = [(x[rows], y[rows]) for x, y, (rows, _) in zip(own, labels, splits, strict=True)]
        rule = Rule(fit_signatures([x for x, _ in kept], [y for _, y in kept], names, config, rng))
        for k, (_, left) in enumerate(splits):
            energies[k][left] = rule.task_scores(rule.scores(own[k][left][:, None]))[:, k]
    return np.array([e.mean() for e in energies]), np.array([e.std(ddof=1) for e in energies])


def joined(frozen: Float[np.ndarray, "N D"], adapted: Float[np.ndarray, "N m D"]) -> Float[np.ndarray, "N m E"]:
    """Embeddings [frozen, adapted] in every task's space: signatures of the pair know how the two vary together."""
    return np.concatenate([np.repeat(frozen[:, None], adapted.shape[1], axis=1), adapted], axis=2)
