"""Task retrieval as a scikit-learn classifier: signatures of any embeddings, and bounds on the error of the rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.random import RandomState
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from empirics.config import QueryLawConfig, SignatureConfig
from empirics.reports.judged import Judged, judge_ladder
from empirics.reports.verdicts import Distances
from empirics.retrieval.query_law import fit_query_law
from empirics.retrieval.signatures import (
    Background,
    Projection,
    TaskSignature,
    fit_background,
    fit_projection,
    fit_task_signature,
    join_signatures,
    own_distances,
    predicted_own_distances,
)
from empirics.seeding import generator
from theory.errors import InputError
from theory.ladder import HeldOut, Ladder, ladder
from theory.mixture import QueryLaw, Rule, Signatures, well_specified

_CLUSTERS = ("task", "mixture", "dp-mixture")
_COVARIANCES = ("full", "ledoit-wolf", "oas", "diagonal", "low-rank")
# Kinds of NumPy types of labels that are numbers.
_NUMBERS = "biuf"
# Shrinkage sums fourth powers.
_LARGEST = 1e70


@dataclass(frozen=True)
class _Frame:
    """What the first samples settle for good: the settings, the projection, the background, and the seed of all mixtures."""

    config: SignatureConfig
    projection: Projection | None
    background: Background | None
    seed: int

    def project(self, x: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n d"]:
        return x if self.projection is None else self.projection(x)


class SignatureRetriever(ClassifierMixin, BaseEstimator):
    """Retrieve the task of an embedding by the Gaussian-mixture signature under which it is likeliest.

    The labels are tasks, and all tasks share one embedding space. A task's signature comes from its own samples alone, so that
    learning another task changes no bit of it.

    Parameters
    ----------
    clusters : {"task", "mixture", "dp-mixture"}
        One Gaussian a task, a mixture of `n_components`, or a Dirichlet-process mixture that starts from so many
        (`empirics.retrieval.signatures`).
    n_components : int
    min_samples : int
        A component of a mixture that holds fewer samples is dropped.
    covariance : {"ledoit-wolf", "oas", "full", "diagonal", "low-rank"}
        Estimator of a component's covariance (`empirics.retrieval.estimators`).
    rank : int
        Factors of a low-rank covariance.
    dimension : int, optional
        Principal components of the first samples fitted (all tasks of `fit`, or those of the first `partial_fit`) that
        signatures live in; the embedding as it is if None.
    rule : {"max", "mixture"}
        Score a task by its best component (the published rule) or by its whole mixture.
    background : {None, "pooled"} or array of shape (n_samples, n_features)
        Samples of a Gaussian that `log_likelihood` is taken relative to: those of the first fit, or the given ones. It
        changes no prediction, for it would shift all tasks alike; it tells an embedding that no task explains.
    random_state : int, RandomState or None
        Starts the mixtures. With an integer the signatures do not depend on the order in which tasks come.

    Attributes
    ----------
    classes_ : array
        The tasks, sorted, in the order of the columns of every score.
    signatures_ : theory.Signatures or None
        The signatures, tasks in the order of `classes_`; None until there are two tasks.
    n_features_in_ : int
    feature_names_in_ : array of str
        Where the first samples had names.

    Notes
    -----
    Bad settings and samples raise `theory.InputError`, a ValueError.
    """

    def __init__(
        self,
        clusters: Literal["task", "mixture", "dp-mixture"] = "task",
        *,
        n_components: int = 6,
        min_samples: int = 8,
        covariance: Literal["full", "ledoit-wolf", "oas", "diagonal", "low-rank"] = "ledoit-wolf",
        rank: int = 8,
        dimension: int | None = None,
        rule: Literal["max", "mixture"] = "max",
        background: Literal["pooled"] | Float[np.ndarray, "n D"] | None = None,
        random_state: int | RandomState | None = None,
    ) -> None:
        self.clusters = clusters
        self.n_components = n_components
        self.min_samples = min_samples
        self.covariance = covariance
        self.rank = rank
        self.dimension = dimension
        self.rule = rule
        self.background = background
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the signatures of all tasks anew.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Embeddings.
        y : array-like of shape (n_samples,)
            Task of each.

        Raises
        ------
        InputError
            If a setting is out of range, or a task has too few samples for the estimator.
        """
        self._config()
        X, y = validate_data(self, X, y, dtype=np.float64)
        return self._learn(X, y, self._start(X, y))

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Learn new tasks, and leave the signatures of those before as they are, bit for bit.

        All samples of a task must come at once: a signature is fitted, not updated.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        classes : array-like, optional
            Checked to hold the tasks of y; otherwise not needed, since tasks may always be added.

        Raises
        ------
        InputError
            As `fit`, for a task that is known, and if settings of the signatures have changed since the first fit.
        """
        first = not hasattr(self, "classes_")
        config = self._config()
        for name in () if first else ("clusters", "covariance", "dimension", "rank"):
            if getattr(config, name) != getattr(self._frame.config, name):
                raise InputError(name, "was changed since the first tasks were fitted; set it back, or start anew with fit")
        X, y = validate_data(self, X, y, dtype=np.float64, reset=first)
        if classes is not None and not np.isin(y, classes).all():
            raise InputError("classes", "lacks tasks that y holds; leave it out or name them all")
        if first:
            return self._learn(X, y, self._start(X, y))
        known = np.intersect1d(y, self.classes_)
        if known.size:
            raise InputError(
                "y", f"holds task {known[0]!s}, which has its signature; give all samples of a task at once, or start anew with fit"
            )
        return self._learn(X, y, self._frame, self.classes_, self._parts)

    def log_likelihood(self, X: Any) -> Float[np.ndarray, "n m"]:
        """Log-density of each sample under each task, relative to the background if there is one.

        With rule "max" it is that of the best component, weighted. Without a background it has its unit of volume, and can be
        compared between tasks only; with one, values below zero say that the background explains the sample better.

        Raises
        ------
        InputError
            If there are fewer than two tasks.
        """
        z = self._embed(X)
        self._joined("log_likelihood")
        density, background = self._log_density(z), self._frame.background
        if background is None:
            return density
        return density + (background.energies(z) + z.shape[1] * np.log(2 * np.pi)) / 2

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n m"]:
        """Log-probability of each task: normalised likelihoods, that is, with all tasks equally frequent."""
        return log_softmax(self._log_density(self._embed(X)), axis=1)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n m"]:
        """Probability of each task, with all tasks equally frequent."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest task of each sample, one sample at a time."""
        best = np.argmax(self._log_density(self._embed(X)), axis=1)
        return self.classes_[best]

    def ladder(
        self,
        X: Any = None,
        y: Any = None,
        *,
        query_law: QueryLawConfig | None = None,
        simulations: int = 100_000,
        confidence: float = 0.95,
        batch: int = 1,
        intersections: int = 4,
    ) -> Ladder:
        """Every rung of the ladder of bounds on the error of `predict`, overall and for each task.

        Without samples the query law is the signature itself, with all tasks equally frequent: what the error would be were the
        embeddings Gaussian mixtures as fitted, which they are not. With held-out samples (X, y), which must have had no part in any fit,
        the query law is a finer mixture fitted to them, tasks as frequent as in y, and L8 counts their errors. No rung but L8 can be relied
        on unless its law is tested on further samples, as `judge` does.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), optional
        y : array-like of shape (n_samples,), optional
        query_law : QueryLawConfig, optional
            How the law is fitted to (X, y).
        simulations : int
            Draws for L6.
        confidence : float
            Of L6 and L8.
        batch, intersections : int
            Of L4 and L5b, as for `theory.ladder.ladder`.

        Returns
        -------
        Ladder
            Tasks by their number in `classes_`; `theory.slack` tells where its bounds lose.

        Raises
        ------
        InputError
            If there are fewer than two tasks, X comes without y, y holds unknown tasks or lacks known ones, or a task has too
            few samples.
        """
        return self._bounded(X, y, query_law, simulations, confidence, batch, intersections)[0]

    def judge(
        self,
        X: Any,
        y: Any,
        test_X: Any,
        test_y: Any,
        *,
        query_law: QueryLawConfig | None = None,
        simulations: int = 100_000,
        confidence: float = 0.95,
        batch: int = 1,
        intersections: int = 4,
    ) -> Judged:
        """The ladder under a query law fitted to (X, y), judged on further samples: which rungs may be relied on.

        Parameters
        ----------
        X, y, query_law, simulations, confidence, batch, intersections
            As for `ladder`; with X and y None the law is the signature itself.
        test_X : array-like of shape (n_samples, n_features)
            Samples that had no part in any fit, nor in (X, y): they measure the error and test the query law.
        test_y : array-like of shape (n_samples,)

        Raises
        ------
        InputError
            As `ladder`, and for test samples of unknown tasks, or none of a known one.
        """
        found, law = self._bounded(X, y, query_law, simulations, confidence, batch, intersections)
        signatures = self._joined("bounds")
        test_X, test_y = validate_data(self, test_X, test_y, dtype=np.float64, reset=False)
        task, z = self._tasks_of(test_y), self._frame.project(test_X)
        # Components of a mixture are no clusters that a sample is known to belong to: a task is one cluster.
        law = replace(law, cluster=law.task)
        rng = generator(self._frame.seed, "own distances")
        distances = Distances(
            {k: own_distances(signatures, z[task == k], k) for k in range(self.classes_.size)},
            predicted_own_distances(signatures, law, rng, clusters_are_components=False),
            z.shape[1],
        )
        wrong = np.argmax(self._log_density(z), axis=1) != task
        return judge_ladder(found, wrong, task, distances, signatures.names, confidence)

    def bounds(
        self,
        X: Any = None,
        y: Any = None,
        *,
        query_law: QueryLawConfig | None = None,
        simulations: int = 100_000,
        confidence: float = 0.95,
    ) -> pd.DataFrame:
        """The bounds of `ladder` as a table.

        Parameters
        ----------
        X, y, query_law, simulations, confidence
            As for `ladder`.

        Returns
        -------
        DataFrame
            As `theory.Ladder.frame`, and columns `law` and `name` (the task; None for overall).

        Raises
        ------
        InputError
            As `ladder`.
        """
        found = self.ladder(X, y, query_law=query_law, simulations=simulations, confidence=confidence)
        frame = found.frame().drop(columns="cluster")
        names = [None if pd.isna(k) else self.classes_[k] for k in frame["task"]]
        return frame.assign(law=found.law, name=pd.Series(names, dtype=object))

    def _bounded(
        self, X: Any, y: Any, query_law: QueryLawConfig | None, simulations: int, confidence: float, batch: int, intersections: int
    ) -> tuple[Ladder, QueryLaw]:
        """Bounds, and the query law that they hold under."""
        check_is_fitted(self)
        signatures = self._joined("bounds")
        if not isinstance(query_law, QueryLawConfig | None):
            raise InputError("query_law", f"is a {type(query_law).__name__}; give a QueryLawConfig")
        if (X is None) != (y is None):
            raise InputError("X" if X is None else "y", "is missing; give both, or neither for bounds under the signature itself")
        rule, rng = Rule(signatures, kind=self.rule), generator(self._frame.seed, "bounds")
        if X is None:
            law, held_out = well_specified(signatures), None
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, reset=False)
            task = self._tasks_of(y)
            z = self._frame.project(X)
            weights = np.bincount(task) / task.size
            law = fit_query_law(z[:, None], task, task, weights, query_law or QueryLawConfig(), rng, name="held-out mixture")
            held_out = _held_out(signatures, np.argmax(self._log_density(z), axis=1) != task, task)
        found = ladder(
            rule,
            law,
            rng=rng,
            simulations=simulations,
            confidence=confidence,
            held_out=held_out,
            batch=batch,
            intersections=intersections,
            units="tasks",
        )
        return found, law

    def _config(self) -> SignatureConfig:
        for name, known in (("clusters", _CLUSTERS), ("covariance", _COVARIANCES), ("rule", ("max", "mixture"))):
            if getattr(self, name) not in known:
                raise InputError(name, f"{getattr(self, name)!r} is unknown; choose one of {', '.join(known)}")
        least = {"n_components": 1, "min_samples": 3, "rank": 1} | ({} if self.dimension is None else {"dimension": 1})
        for name, value in least.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < value:
                raise InputError(name, f"{given!r} is no whole number of at least {value}")
        if isinstance(self.background, str) and self.background != "pooled":
            raise InputError("background", f"{self.background!r} is unknown; give samples, 'pooled' or None")
        return SignatureConfig(
            clusters=self.clusters,
            covariance=self.covariance,
            dimension=1 if self.dimension is None else int(self.dimension),
            rank=int(self.rank),
            components=int(self.n_components),
            min_samples=int(self.min_samples),
        )

    def _start(self, X: Float[np.ndarray, "n D"], y: np.ndarray) -> _Frame:
        check_classification_targets(y)
        if (largest := np.abs(X).max()) > _LARGEST:
            raise InputError("X", f"holds values up to {largest:.3g}, whose fourth powers overflow in covariances; scale it")
        projection: Projection | None = None
        if self.dimension is not None and self.dimension < X.shape[1]:
            projection = fit_projection(X, self.dimension)
        elif self.dimension is not None and self.dimension > X.shape[1]:
            raise InputError("dimension", f"{self.dimension} exceeds the {X.shape[1]} features; lower it")
        z = X if projection is None else projection(X)
        background = None
        if self.background is not None:
            own = z
            if not isinstance(self.background, str):
                own = check_array(self.background, dtype=np.float64, input_name="background")
                if own.shape[1] != X.shape[1]:
                    raise InputError("background", f"has {own.shape[1]} features; X has {X.shape[1]}")
                own = own if projection is None else projection(own)
            background = fit_background([own], self._config())
        return _Frame(self._config(), projection, background, int(check_random_state(self.random_state).randint(2**31 - 1)))

    def _learn(
        self,
        X: Float[np.ndarray, "n D"],
        y: np.ndarray,
        frame: _Frame,
        classes: np.ndarray | None = None,
        parts: tuple[TaskSignature, ...] = (),
    ) -> Self:
        """Add the tasks of y to those that are known; changes nothing if it fails."""
        check_classification_targets(y)
        config, z = self._config(), frame.project(X)
        new = np.unique(y)
        classes = new[:0] if classes is None else classes
        if classes.size and (new.dtype.kind in _NUMBERS) != (classes.dtype.kind in _NUMBERS):
            raise InputError("y", "names tasks by numbers and by texts; use one of them")
        label = np.zeros(len(z), dtype=np.int64)
        # Each task has its own stream, so that its mixture depends neither on the other tasks nor on their order.
        fitted = [
            fit_task_signature(z[y == t], label[y == t], str(t), config, generator(frame.seed, "signature", str(t))) for t in new.tolist()
        ]
        everything, classes = (*parts, *fitted), np.concatenate([classes, new])
        order = np.argsort(classes, kind="stable")
        classes, parts = classes[order], tuple(everything[j] for j in order)
        signatures = join_signatures(parts, tuple(str(t) for t in classes.tolist())) if len(parts) > 1 else None
        self.classes_, self.signatures_, self._parts, self._frame = classes, signatures, parts, frame
        return self

    def _joined(self, asked: str) -> Signatures:
        """The signatures, which there are from the second task on."""
        if self.signatures_ is None:
            raise InputError(asked, "needs at least two tasks; fit another")
        return self.signatures_

    def _embed(self, X: Any) -> Float[np.ndarray, "n d"]:
        check_is_fitted(self)
        self._config()
        return self._frame.project(validate_data(self, X, dtype=np.float64, reset=False))

    def _log_density(self, z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n m"]:
        if self.signatures_ is None:
            return np.zeros((len(z), 1))
        rule = Rule(self.signatures_, kind=self.rule)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = rule.task_scores(rule.scores(z[:, None]))
        if not np.isfinite(scores).all():
            far = np.flatnonzero(~np.isfinite(scores).all(axis=1))[0]
            raise InputError("X", f"row {far} lies so far from all signatures that energies overflow; is it scaled as in fit?")
        # Rule "mixture" counts equal weights where none are stored, as a density must.
        return -(scores + z.shape[1] * np.log(2 * np.pi)) / 2

    def _tasks_of(self, y: np.ndarray) -> np.ndarray:
        unknown, lacking = np.setdiff1d(y, self.classes_), np.setdiff1d(self.classes_, y)
        if unknown.size:
            raise InputError("y", f"holds task {unknown[0]!s}, which has no signature")
        if lacking.size:
            raise InputError("y", f"holds no sample of task {lacking[0]!s}; bounds need some of every task")
        return np.searchsorted(self.classes_, y)


def _held_out(signatures: Signatures, wrong: Bool[np.ndarray, " n"], task: Int[np.ndarray, " n"]) -> HeldOut:
    """Errors and samples of each component; the ladder adds up those of a task, whose samples stand with its first one."""
    first = np.searchsorted(signatures.task, np.arange(signatures.tasks))
    errors, n = np.zeros(signatures.task.size, dtype=np.int64), np.zeros(signatures.task.size, dtype=np.int64)
    errors[first] = np.bincount(task[wrong], minlength=signatures.tasks)
    n[first] = np.bincount(task)
    return HeldOut(errors, n)
