"""Prediction heads on fixed embeddings: linear discriminant, or ridge regression on random projections (RanPAC's second phase)."""

from __future__ import annotations

from typing import Self

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from empirics.config import HeadConfig
from empirics.seeding import sklearn_seed
from theory.errors import InputError

# Ridge penalties that are tried, as RanPAC does: the right one spans many orders with width and sample size.
_PENALTIES = 10.0 ** np.arange(-6, 7)
# Share of each fit's samples that chooses the penalty.
_HELD_BACK = 0.2


class RandomProjectionRidge(ClassifierMixin, BaseEstimator):
    """Ridge regression of one-hot classes on ``relu(x W)``, W Gaussian and fixed (McDonnell et al. 2023, RanPAC, section 4.2).

    What it keeps of the data are the Gram matrix and the class sums of the projected features, to which `partial_fit` adds: the
    classes of a new task join without a look at earlier samples.

    Parameters
    ----------
    width : int
        Random features.
    random_state : int

    Attributes
    ----------
    classes_ : (C,) array
    coef_ : (width, C) array
        From random features to indicators of the classes.
    penalty_ : float
        Chosen on a fifth of the samples of the latest call, held back, by squared error; then all are used.
    """

    def __init__(self, width: int = 2000, random_state: int = 0) -> None:
        self.width = width
        self.random_state = random_state

    def fit(self, X: Float[np.ndarray, "n d"], y: np.ndarray) -> Self:
        """Forget everything and fit.

        Raises
        ------
        ValueError
            As scikit-learn has it, for samples or classes that cannot be used.
        """
        for name in ("_gram", "_sums", "_seen", "_projection", "classes_"):
            self.__dict__.pop(name, None)
        return self.partial_fit(X, y)

    def partial_fit(self, X: Float[np.ndarray, "n d"], y: np.ndarray, classes: np.ndarray | None = None) -> Self:
        """Add samples, of known or of new classes.

        Parameters
        ----------
        X : (n, d) array
        y : (n,) array
        classes : array, optional
            Checked to hold the classes of y; otherwise not needed, since classes may always be added.

        Raises
        ------
        InputError
            If it does not hold them.
        """
        first = not hasattr(self, "_gram")
        X, y = validate_data(self, X, y, reset=first, dtype=np.float64)
        check_classification_targets(y)
        if classes is not None and not np.isin(y, classes).all():
            raise InputError("classes", "lacks classes that y holds; leave it out or name them all")
        rng = np.random.default_rng([self.random_state, 0 if first else int(self._seen)])
        if first:
            self._projection = rng.standard_normal((X.shape[1], self.width))
            self._gram, self._seen = np.zeros((self.width, self.width)), 0
            self.classes_, self._sums = np.empty(0, dtype=y.dtype), np.empty((self.width, 0))
        known = np.union1d(self.classes_, y)
        sums = np.zeros((self.width, known.size))
        sums[:, np.searchsorted(known, self.classes_)] = self._sums
        self.classes_ = known
        H, Y = self._features(X), (y[:, None] == known).astype(np.float64)
        back = rng.permutation(len(y)) < int(_HELD_BACK * len(y))
        gram, held = self._gram + H[~back].T @ H[~back], sums + H[~back].T @ Y[~back]
        losses = [((H[back] @ _ridge(gram, held, p) - Y[back]) ** 2).sum() for p in _PENALTIES] if back.any() else [0.0]
        self.penalty_ = float(_PENALTIES[int(np.argmin(losses))]) if back.any() else 1.0
        self._gram, self._sums, self._seen = gram + H[back].T @ H[back], held + H[back].T @ Y[back], self._seen + len(y)
        self.coef_ = _ridge(self._gram, self._sums, self.penalty_)
        return self

    def indicators(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n C"]:
        """Regressed indicators of the classes."""
        check_is_fitted(self)
        return self._features(validate_data(self, X, reset=False, dtype=np.float64)) @ self.coef_

    def decision_function(self, X: Float[np.ndarray, "n d"]) -> np.ndarray:
        """The indicators; of two classes, as scikit-learn has it, the second less the first."""
        found = self.indicators(X)
        return found[:, 1] - found[:, 0] if self.classes_.size == 2 else found

    def predict(self, X: Float[np.ndarray, "n d"]) -> np.ndarray:
        """Class of the largest indicator."""
        # Before classes_ is looked up, so that an estimator that is not fitted says so.
        best = self.indicators(X).argmax(axis=1)
        return self.classes_[best]

    def _features(self, X: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n M"]:
        return np.maximum(X @ self._projection, 0.0)


def _ridge(gram: Float[np.ndarray, "M M"], sums: Float[np.ndarray, "M C"], penalty: float) -> Float[np.ndarray, "M C"]:
    # In units of the mean diagonal: a penalty means the same for any scale of the features.
    shift = penalty * (np.trace(gram) / len(gram) or 1.0)
    return cho_solve(cho_factor(gram + shift * np.eye(len(gram)), lower=True, overwrite_a=True), sums)


def fit_head(x: Float[np.ndarray, "n D"], label: Int[np.ndarray, " n"], config: HeadConfig, rng: np.random.Generator) -> ClassifierMixin:
    """Fit the head that the settings name to one task's training embeddings."""
    if config.kind == "lda":
        head: ClassifierMixin = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    else:
        head = RandomProjectionRidge(config.random_features, sklearn_seed(rng))
    return head.fit(x.astype(np.float64), label)


def head_bytes(head: ClassifierMixin) -> int:
    """Bytes that prediction needs, in float64: coefficients, and the seed instead of a random projection."""
    if isinstance(head, LinearDiscriminantAnalysis):
        return head.coef_.nbytes + head.intercept_.nbytes
    return head.coef_.nbytes
