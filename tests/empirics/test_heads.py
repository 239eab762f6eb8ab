"""Heads: ridge regression on random projections that learns class after class, and the discriminant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from empirics.config import HeadConfig
from empirics.retrieval.heads import RandomProjectionRidge, fit_head, head_bytes
from theory import InputError

REFUSED: dict[str, str] = {}


def classes(n: int = 40, d: int = 6, c: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(c), n)
    return rng.normal(size=(c * n, d)) + 3 * np.eye(c, d)[y], y


@parametrize_with_checks([RandomProjectionRidge(40)], expected_failed_checks=lambda estimator: REFUSED)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_keeps_the_conventions(estimator, check):
    check(estimator)


@given(st.integers(0, 1000), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_in_pieces_it_is_one_ridge_solution(seed, pieces):
    """Whatever the pieces and whichever classes are in them: the solution of the normal equations for the penalty it chose."""
    x, y = classes(12, seed=seed)
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, len(y)), sum(pieces), replace=False))
    order = np.arange(len(y)) if seed % 2 else rng.permutation(len(y))
    head = RandomProjectionRidge(30, 7)
    for rows in np.split(order, cuts):
        head.partial_fit(x[rows], y[rows])
    H = np.maximum(x @ np.random.default_rng([7, 0]).standard_normal((6, 30)), 0)
    shift = head.penalty_ * (H**2).sum() / 30
    direct = np.linalg.solve(H.T @ H + shift * np.eye(30), H.T @ np.eye(4)[y])
    assert np.allclose(H @ direct, head.indicators(x), atol=1e-6)
    assert np.array_equal(head.classes_, np.arange(4))


def test_earlier_classes_stay_where_they_were_and_are_still_told():
    x, y = classes(60)
    head = RandomProjectionRidge(200)
    known = []
    for k in range(0, 4, 2):
        own = (y == k) | (y == k + 1)
        head.partial_fit(x[own], y[own])
        known.append(head.classes_.tolist())
    assert known == [[0, 1], [0, 1, 2, 3]]
    unseen, wanted = classes(60, seed=1)
    assert (head.predict(unseen) == wanted).mean() > 0.9


def test_a_later_piece_does_not_need_the_earlier_samples():
    x, y = classes()
    head = RandomProjectionRidge(50).partial_fit(x[y < 2].copy(), y[y < 2])
    kept = {name: value for name, value in vars(head).items() if isinstance(value, np.ndarray)}
    assert {value.shape for value in kept.values()} <= {(50, 50), (50, 2), (6, 50), (2,)}


def test_classes_that_are_named_must_hold_those_that_come():
    x, y = classes()
    RandomProjectionRidge(20).partial_fit(x, y, classes=range(9))
    with pytest.raises(InputError, match="lacks classes"):
        RandomProjectionRidge(20).partial_fit(x, y, classes=[0, 1])


def test_fit_forgets():
    x, y = classes()
    again = RandomProjectionRidge(50).fit(x[:, :3], y).fit(x, y)
    assert np.array_equal(again.decision_function(x), RandomProjectionRidge(50).fit(x, y).decision_function(x))


def test_the_scale_of_the_features_does_not_matter():
    x, y = classes()
    small, large = (RandomProjectionRidge(50).fit(x * scale, y) for scale in (1e-3, 1e3))
    assert small.penalty_ == large.penalty_
    assert np.allclose(small.decision_function(x * 1e-3), large.decision_function(x * 1e3))


def test_features_that_are_all_zero_leave_finite_scores():
    head = RandomProjectionRidge(10).fit(np.zeros((8, 3)), np.arange(8) % 2)
    assert np.isfinite(head.indicators(np.zeros((2, 3)))).all()


@pytest.mark.parametrize(("kind", "kept"), [("lda", 8 * (4 * 6 + 4)), ("ridge", 8 * 100 * 4)])
def test_heads_of_the_settings_and_their_bytes(kind, kept):
    x, y = classes()
    config = HeadConfig(kind=kind, random_features=100)
    first, second = (fit_head(x.astype(np.float32), y, config, np.random.default_rng(0)) for _ in range(2))
    assert isinstance(first, LinearDiscriminantAnalysis) == (kind == "lda")
    assert np.array_equal(first.decision_function(x), second.decision_function(x))
    assert (first.predict(x) == y).mean() > 0.9
    assert head_bytes(first) == kept
