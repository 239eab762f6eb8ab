"""Measures of continual learning: worked by hand, by enumeration, and by simulation of what they promise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from empirics.reports.metrics import (
    average_accuracy,
    backward_transfer,
    batch_errors,
    cumulative_average,
    forgetting,
    forward_transfer,
    holm,
    paired,
    resampled,
    stage_matrix,
)
from theory import InputError

A = np.array([[0.9, np.nan, np.nan], [0.6, 0.8, np.nan], [0.7, 0.5, 1.0]])


def test_the_matrix_holds_shares_and_does_not_read_later_tasks():
    task = np.array([0, 0, 1, 1, 1, 2])
    right = np.array([[1, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 0]], dtype=bool)
    found = stage_matrix(right, task)
    assert np.allclose(found, [[1 / 2, np.nan, np.nan], [1, 1 / 3, np.nan], [1 / 2, 1, 0]], equal_nan=True)
    right[0, 2:] = False
    assert np.array_equal(stage_matrix(right, task), found, equal_nan=True)


def test_a_task_without_documents_is_named():
    with pytest.raises(InputError, match="1 has no test document"):
        stage_matrix(np.ones((3, 2), dtype=bool), np.array([0, 2]))


def test_measures_of_a_matrix_worked_by_hand():
    assert average_accuracy(A) == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert cumulative_average(A) == pytest.approx((0.9 + 0.7 + 2.2 / 3) / 3)
    # Best before the last stage, less the last: 0.9 - 0.7 and 0.8 - 0.5.
    assert forgetting(A) == pytest.approx((0.2 + 0.3) / 2)
    # The last less the diagonal.
    assert backward_transfer(A) == pytest.approx((-0.2 - 0.3) / 2)
    assert forward_transfer(np.array([0.1, 0.8, 0.6]), np.array([0.9, 0.5, 0.7])) == pytest.approx((0.3 - 0.1) / 2)


def test_forgetting_looks_at_the_best_stage_and_backward_transfer_at_the_first():
    rising = np.array([[0.2, np.nan, np.nan], [0.9, 0.5, np.nan], [0.4, 0.6, 0.1]])
    assert forgetting(rising) == pytest.approx((0.5 - 0.1) / 2)
    assert backward_transfer(rising) == pytest.approx((0.2 + 0.1) / 2)


def test_one_task_is_neither_forgotten_nor_transferred():
    one = np.array([[0.4]])
    assert (forgetting(one), backward_transfer(one), forward_transfer(one[0], one[0] / 2)) == (0, 0, 0)
    assert average_accuracy(one) == cumulative_average(one) == 0.4


def test_batches_of_one_are_single_documents_and_batches_of_all_are_one_decision():
    rng = np.random.default_rng(0)
    scores, task = rng.normal(size=(90, 3)), np.repeat([0, 1, 2], 30)
    scores[np.arange(90), task] -= 0.3
    wrong = scores.argmin(axis=1) != task
    assert np.allclose(batch_errors(scores, task, 1, rng), [wrong[task == k].mean() for k in range(3)])
    whole = [scores[task == k].sum(axis=0).argmin() != k for k in range(3)]
    for size in (30, 1000):
        assert np.array_equal(batch_errors(scores, task, size, rng), np.array(whole, dtype=float))


def test_the_leak_is_as_large_as_it_should_be():
    """Scores of the true task are N(-a, 1), of the other N(0, 1): a batch of B errs with probability Phi(-a sqrt(B / 2))."""
    rng, n, a = np.random.default_rng(1), 40_000, 0.5
    scores = rng.normal(size=(2 * n, 2))
    task = np.repeat([0, 1], n)
    scores[np.arange(2 * n), task] -= a
    for size in (1, 4, 16):
        exact = stats.norm.cdf(-a * np.sqrt(size / 2))
        tolerance = 4.5 * np.sqrt(exact * (1 - exact) / (n / size))
        assert batch_errors(scores, task, size, rng, repeats=3) == pytest.approx(exact, abs=tolerance)


def test_the_order_of_documents_does_not_matter_to_batches_in_expectation():
    rng = np.random.default_rng(2)
    task = np.repeat([0, 1], 60)
    # Sorted by how hard they are: without a random cut, batches would be easy ones and hard ones.
    scores = np.stack([np.linspace(-1, 2.8, 120), np.zeros(120)], axis=1)
    order = rng.permutation(120)
    first, second = (
        np.mean([batch_errors(scores[rows], task[rows], 7, rng, 40) for _ in range(10)], axis=0) for rows in (np.arange(120), order)
    )
    assert np.allclose(first, second, atol=0.02)
    assert 0.05 < first[0] < 0.95


def test_a_task_without_documents_has_no_batch_error_and_a_batch_of_none_is_refused():
    found = batch_errors(np.zeros((4, 2)), np.zeros(4, dtype=int), 2, np.random.default_rng(0))
    assert found[0] == 0 and np.isnan(found[1])
    with pytest.raises(InputError, match="at least one document"):
        batch_errors(np.zeros((4, 2)), np.zeros(4, dtype=int), 0, np.random.default_rng(0))


def wrongs(both: int, first: int, second: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, first, second, none)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 7), (6, 6), (9, 1)])
def test_mcnemar_is_exact(first, second):
    """All ways in which the discordant samples could have fallen, each as likely: those at most as likely as what was seen."""
    k = first + second
    outcomes = [sum(way) for way in product((0, 1), repeat=k)]
    counts = np.bincount(outcomes, minlength=k + 1)
    p = counts[counts <= counts[first]].sum() / counts.sum()
    found = paired(*wrongs(5, first, second, 20))
    assert found.p == pytest.approx(p)
    assert (found.only_first, found.only_second) == (first, second)
    assert found.difference == pytest.approx((first - second) / (25 + k))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))
@settings(max_examples=20)
def test_exchanging_the_two_methods_turns_the_sign(both, first, second, none):
    one, other = paired(*wrongs(both, first, second, none)), paired(*wrongs(both, second, first, none))
    assert one.p == pytest.approx(other.p)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert -1 <= one.low <= one.difference <= one.high <= 1
    assert one.variance > 0


def test_the_paired_interval_covers():
    rng = np.random.default_rng(3)
    for shares in ((0.1, 0.2, 0.05), (0.02, 0.06, 0.03), (0.3, 0.1, 0.1)):
        true, covered = shares[1] - shares[2], 0
        for counts in rng.multinomial(80, (*shares, 1 - sum(shares)), size=400):
            found = paired(*wrongs(*counts), confidence=0.9)
            covered += found.low <= true <= found.high
        assert covered / 400 > 0.9 - 3 * np.sqrt(0.09 / 400)


def test_the_same_samples_are_asked_of_both():
    for second in (np.zeros(3, dtype=bool), np.zeros((4, 1), dtype=bool)):
        with pytest.raises(InputError, match="same samples"):
            paired(np.zeros(4, dtype=bool), second)
    with pytest.raises(InputError, match="at least one"):
        paired(np.zeros(0, dtype=bool), np.zeros(0, dtype=bool))


def test_the_resampled_interval_is_the_formula():
    values = np.array([0.1, 0.2, 0.4])
    variance = ((values - 0.7 / 3) ** 2).sum() / 2
    half = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 0.5) * variance)
    found = resampled(values, 0.5)
    assert (found.mean, found.low, found.high) == pytest.approx((0.7 / 3, 0.7 / 3 - half, 0.7 / 3 + half))
    plain = resampled(values, 0.0)
    assert plain.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert plain.p < found.p


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.floats(0, 1), st.floats(0.5, 0.99))
def test_p_and_interval_agree(values, ratio, confidence):
    found = resampled(np.array(values), ratio, confidence, least=1e-4)
    assert found.low < found.mean < found.high
    assert abs(found.p - (1 - confidence)) < 1e-9 or (found.p < 1 - confidence) == (found.low > 0 or found.high < 0)


def test_seeds_that_agree_by_chance_prove_nothing():
    found = resampled(np.array([0.02, 0.02]), 0.3, least=0.02 / 100)
    assert found.low < 0 < found.high and found.p > 0.05
    with pytest.raises(InputError, match="at least two"):
        resampled(np.array([0.1]), 0.3)


def test_the_correction_covers_where_a_plain_interval_does_not():
    """Seeds that deal 60 documents anew, 40 to train and 20 to test: what varies is the pool, and they all share it."""
    rng = np.random.default_rng(4)
    covered = {0.0: 0, 0.5: 0}
    for _ in range(800):
        pool = rng.normal(size=60)
        values = np.array([rng.permutation(pool)[:20].mean() for _ in range(10)])
        for ratio in covered:
            found = resampled(values, ratio, 0.9)
            covered[ratio] += found.low <= 0 <= found.high
    assert covered[0.0] / 800 < 0.8 < 0.87 < covered[0.5] / 800


def test_holm_is_step_down():
    p = np.array([0.04, 0.001, 0.3, 0.02])
    assert np.allclose(holm(p), [max(0.06, 0.08), 0.004, 0.3, 0.06])
    assert np.allclose(holm(np.array([0.5, 0.6])), [1.0, 1.0])
    assert holm(np.array([])).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_lies_between_no_correction_and_bonferronis(p, random):
    p = np.array(p)
    found = holm(p)
    assert (found >= p).all() and (found <= np.minimum(1, len(p) * p) + 1e-12).all()
    order = list(range(len(p)))
    random.shuffle(order)
    assert np.allclose(holm(p[order]), found[order])


def test_holm_keeps_the_family_level():
    rng = np.random.default_rng(5)
    false = sum((holm(rng.random(6)) < 0.1).any() for _ in range(3000))
    assert false / 3000 < 0.1 + 3 * np.sqrt(0.09 / 3000)
