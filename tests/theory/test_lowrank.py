"""Low rank plus diagonal: the same distances, determinants, retrievals and bounds as the dense covariances, in fewer bytes."""

from __future__ import annotations

import pickle

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import Gaussians, InputError, LowRankGaussians, LowRankSignatures, QueryLaw, Rule, Signatures, ladder


def factored(rng: np.random.Generator, K: int, d: int, r: int, condition: float = 10.0, *, carried_by: str = "factors") -> LowRankGaussians:
    factors = rng.normal(size=(K, d, r))
    diagonals = rng.uniform(0.5, 2.0, size=(K, d))
    if carried_by == "diagonals":
        diagonals *= np.geomspace(1, condition, d)
        factors *= np.sqrt(diagonals)[:, :, None]
    elif r:
        factors *= np.sqrt(condition / d) * np.geomspace(1, 1e-2, r)
    return LowRankGaussians(rng.normal(size=(K, d)), factors, diagonals)


def exact(low: LowRankGaussians, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and log-determinants of the dense matrices in 60 digits."""
    with mpmath.workdps(60):
        distances, log_dets = np.empty((len(x), len(low))), np.empty(len(low))
        for k in range(len(low)):
            F = mpmath.matrix(low.factors[k].tolist())
            dense = F * F.T + mpmath.diag(low.diagonals[k].tolist())
            log_dets[k] = mpmath.log(mpmath.det(dense))
            for j, row in enumerate(x):
                y = mpmath.matrix(row.tolist()) - mpmath.matrix(low.means[k].tolist())
                distances[j, k] = (y.T * mpmath.lu_solve(dense, y))[0]
    return distances, log_dets


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 14), st.sampled_from([2.0, 1e2, 1e4]))
def test_low_rank_scoring_equals_dense(seed, d, r, condition):
    rng = np.random.default_rng(seed)
    low = factored(rng, 3, d, r, condition)
    dense = low.dense
    x = rng.normal(size=(20, d)) * 3
    assert np.allclose(low.mahalanobis(x), dense.mahalanobis(x), rtol=1e-9, atol=0)
    assert np.allclose(low.log_dets, dense.log_dets, rtol=1e-9, atol=1e-10)
    assert np.array_equal(low.mahalanobis(x, np.array([2, 0])), low.mahalanobis(x)[:, [2, 0]])
    assert np.array_equal(low.energies(x, np.array([1])), low.energies(x)[:, [1]])


def test_coordinates_of_unlike_scales_cost_no_digits():
    """A condition of 1e10 that lies in the scales of coordinates: dense and factored agree."""
    rng = np.random.default_rng(0)
    low = factored(rng, 4, 24, 3, 1e10, carried_by="diagonals")
    assert np.linalg.cond(low.covariances[0]) > 1e9
    x = low.means[0] + rng.normal(size=(50, 24)) * np.sqrt(low.diagonals[0])
    assert np.allclose(low.mahalanobis(x), low.dense.mahalanobis(x), rtol=1e-9, atol=0)
    assert np.allclose(low.log_dets, low.dense.log_dets, rtol=1e-9, atol=0)


@pytest.mark.parametrize("condition", [1e6, 1e10, 1e12])
def test_wide_factors_are_scored_right_where_the_dense_matrix_has_lost_the_digits(condition):
    """A condition that lies in the factors: right to 1e-9 against 60 digits, and closer than the rounded dense matrix."""
    rng = np.random.default_rng(1)
    low = factored(rng, 2, 10, 3, condition)
    assert np.linalg.cond(low.covariances[0]) > condition / 30
    x = np.concatenate([low.means[0] + low.factors[0] @ rng.normal(size=3) + rng.normal(size=10) for _ in range(6)]).reshape(6, 10)
    distances, log_dets = exact(low, x)
    assert np.allclose(low.mahalanobis(x), distances, rtol=1e-9, atol=0)
    assert np.allclose(low.log_dets, log_dets, rtol=1e-12, atol=0)
    off, off_dense = (np.abs(g.mahalanobis(x) / distances - 1).max() for g in (low, low.dense))
    assert off <= off_dense


def test_rows_scored_in_blocks_or_alone_are_the_same_rows():
    rng = np.random.default_rng(2)
    low = factored(rng, 2, 300, 4)
    x = rng.normal(size=(1000, 300))
    whole = low.mahalanobis(x)
    assert np.allclose(whole, np.concatenate([low.mahalanobis(part) for part in np.array_split(x, 7)]), rtol=1e-12)
    assert low.mahalanobis(x[:0]).shape == (0, 2)


def test_bytes_grow_as_dimension_times_rank():
    low = factored(np.random.default_rng(3), 5, 384, 8)
    assert low.nbytes == 8 * 5 * 384 * (8 + 2)
    assert 30 * low.nbytes < low.covariances.nbytes + low.means.nbytes


def test_rules_score_from_the_factors_and_bounds_read_dense_covariances():
    rng = np.random.default_rng(4)
    low = factored(rng, 5, 6, 2)
    task, weights = np.array([0, 0, 1, 2, 2]), np.array([0.3, 0.7, 1.0, 0.5, 0.5])
    signatures = LowRankSignatures(low, task, weights, np.full(5, 20), ("a", "b", "c"))
    dense = signatures.to_dense()
    assert type(dense) is Signatures and dense.names == signatures.names
    background = factored(rng, 3, 6, 1, condition=50.0)
    means = np.repeat(low.means[:, None], 3, axis=1) + 0.3 * rng.normal(size=(5, 3, 6))
    g = rng.normal(size=(18, 40))
    law = QueryLaw(means, np.stack([g @ g.T / 40] * 5), task, np.arange(5), np.ones(5))
    x, _ = law.sample(400, rng)
    for kind, other, other_dense in [("max", None, None), ("mixture", background, background.dense), ("angular", None, None)]:
        rule, reference = Rule(signatures, other, kind), Rule(dense, other_dense, kind)
        assert np.allclose(rule.scores(x), reference.scores(x), rtol=1e-9, atol=1e-9)
        assert np.array_equal(rule.retrieve(x), reference.retrieve(x))
        found, expected = (ladder(r, law, simulations=2000, intersections=2) for r in (rule, reference))
        for name in ("L1", "L3", "L5", "L5b", "L6", "L10"):
            assert found.overall[name].log_value == pytest.approx(expected.overall[name].log_value, rel=1e-7, abs=1e-9)


def test_scoring_makes_no_dense_matrix():
    rng = np.random.default_rng(5)
    low = factored(rng, 4, 30, 2)
    signatures = LowRankSignatures(low, np.array([0, 1, 1, 2]))
    Rule(signatures).retrieve(rng.normal(size=(10, 1, 30)))
    assert "dense" not in vars(low)
    assert repr(signatures) == "LowRankSignatures(4 components of 3 tasks, d = 30, r = 2)"


def test_a_copy_through_pickle_scores_the_same():
    low = factored(np.random.default_rng(6), 2, 4, 1)
    signatures = LowRankSignatures(low, np.array([0, 1]), names=("a", "b"))
    x = np.random.default_rng(7).normal(size=(5, 1, 4))
    assert np.array_equal(Rule(pickle.loads(pickle.dumps(signatures))).scores(x), Rule(signatures).scores(x))


def test_what_is_given_is_copied():
    means = np.zeros((2, 3))
    low = LowRankGaussians(means, np.ones((2, 3, 1)), np.ones((2, 3)))
    means[:] = 7
    assert not low.means.any()
    with pytest.raises(ValueError, match="read-only"):
        low.factors[0] = 0


@pytest.mark.parametrize(
    ("means", "factors", "diagonals", "argument"),
    [
        (np.zeros(3), np.ones((1, 3, 1)), np.ones((1, 3)), "means"),
        (np.zeros((0, 3)), np.ones((0, 3, 1)), np.ones((0, 3)), "means"),
        (np.full((1, 3), np.nan), np.ones((1, 3, 1)), np.ones((1, 3)), "means"),
        (np.zeros((1, 3)), np.ones((1, 3)), np.ones((1, 3)), "factors"),
        (np.zeros((1, 3)), np.ones((1, 2, 1)), np.ones((1, 3)), "factors"),
        (np.zeros((1, 3)), np.full((1, 3, 1), np.inf), np.ones((1, 3)), "factors"),
        (np.zeros((1, 3)), np.full((1, 3, 1), 1e16), np.ones((1, 3)), "factors[0]"),
        (np.zeros((1, 3)), np.ones((1, 3, 1)), np.ones(3), "diagonals"),
        (np.zeros((1, 3)), np.ones((1, 3, 1)), np.array([[1.0, 0.0, 1.0]]), "diagonals[0]"),
        (np.zeros((1, 3)), np.ones((1, 3, 1)), -np.ones((1, 3)), "diagonals[0]"),
        (np.zeros((1, 3)), np.full((1, 3, 1), 1e200), np.full((1, 3), 1e-250), "diagonals"),
    ],
)
def test_bad_input_is_named(means, factors, diagonals, argument):
    with pytest.raises(InputError) as caught:
        LowRankGaussians(means, factors, diagonals)
    assert caught.value.argument == argument


def test_signatures_check_tasks_as_ever():
    low = LowRankGaussians(np.zeros((2, 2)), np.zeros((2, 2, 0)), np.ones((2, 2)))
    with pytest.raises(InputError, match="one task only"):
        LowRankSignatures(low, np.zeros(2, dtype=int))
    with pytest.raises(InputError, match="weights"):
        LowRankSignatures(low, np.arange(2), weights=np.array([1.0, 0.0]))


def test_dense_covariances_too_ill_conditioned_for_bounds_are_refused_when_asked_for():
    rng = np.random.default_rng(8)
    low = LowRankGaussians(np.zeros((1, 3)), rng.normal(size=(1, 3, 1)) * 1e9, np.ones((1, 3)))
    assert np.isfinite(low.mahalanobis(np.ones((1, 3)))).all()
    with pytest.raises(InputError, match=r"covariances\[0\]"):
        _ = low.dense


def test_without_factors_it_is_the_diagonal_gaussian():
    low = LowRankGaussians(np.zeros((1, 3)), np.zeros((1, 3, 0)), np.array([[1.0, 4.0, 9.0]]))
    x = np.array([[1.0, 2.0, 3.0]])
    assert low.mahalanobis(x) == pytest.approx(3.0)
    assert low.log_dets == pytest.approx(np.log(36.0))
    assert isinstance(low.dense, Gaussians)
