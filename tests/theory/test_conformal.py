from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory import InputError, Reject, RetrievalSets, conformal_confidence, conformal_sets
from theory.conformal import conformal_threshold, nonconformity

_REPETITIONS = 10_000
_TASKS = 4
_SHARE = np.array([0.5, 0.3, 0.15, 0.05])


def _allowed(failure: float) -> int:
    """Failures in the repetitions that a true failure probability of at most `failure` makes plausible."""
    return int(stats.binom.ppf(1 - 1e-6, _REPETITIONS, failure))


def _queries(n: int, rng: np.random.Generator, task: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Task scores of queries whose difficulty differs between tasks, with ties."""
    task = rng.choice(_TASKS, size=n, p=_SHARE) if task is None else task
    scores = rng.normal(size=(n, _TASKS)) + 3
    scores[np.arange(n), task] -= np.array([4.0, 2.0, 1.0, 0.5])[task]
    return np.round(scores, 1), task


def test_nonconformity_is_the_own_score_less_the_best_other():
    scores, _ = _queries(200, np.random.default_rng(0))
    found = nonconformity(scores)
    for k in range(_TASKS):
        assert found[:, k] == pytest.approx(scores[:, k] - np.delete(scores, k, axis=1).min(axis=1))


@given(st.integers(0, 60), st.integers(1, 99))
def test_the_threshold_is_the_order_statistic_of_the_decimal_alpha(n, percent):
    rank = -(-(n + 1) * (100 - percent) // 100)
    found = conformal_threshold(np.random.default_rng(0).permutation(n), percent / 100)
    assert found == (rank - 1 if rank <= n else np.inf)


@given(st.integers(0, 300), st.floats(0.01, 0.99), st.floats(1e-6, 0.99))
def test_the_pac_rank_is_the_least_that_its_beta_law_allows(n, alpha, beta):
    rank = conformal_confidence(n, alpha, beta)
    # Given the calibration, miscoverage of the rank-th of n is Beta(n + 1 - rank, rank).
    exceeds = stats.beta.sf(alpha, n + 1 - np.arange(1, n + 1), np.arange(1, n + 1))
    if rank <= n:
        assert exceeds[rank - 1] <= beta * (1 + 1e-9)
    if rank > 1:
        assert exceeds[rank - 2] > beta * (1 - 1e-9)


def test_too_few_samples_give_an_infinite_threshold():
    assert conformal_confidence(58, 0.05, 0.05) == 59 and conformal_confidence(59, 0.05, 0.05) == 59
    assert conformal_threshold(np.zeros(18), 0.05) == np.inf and conformal_threshold(np.zeros(19), 0.05) == 0
    assert conformal_confidence(0, 0.5, 0.5) == 1 and conformal_threshold(np.zeros(0), 0.5) == np.inf


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_marginal_sets_cover_in_repetitions(alpha):
    rng = np.random.default_rng(1)
    n = 37
    scores, task = _queries(_REPETITIONS * (n + 1), rng)
    scores, task = scores.reshape(_REPETITIONS, n + 1, _TASKS), task.reshape(_REPETITIONS, n + 1)
    missed = sum(not conformal_sets(scores[r, :n], task[r, :n], scores[r, n:], alpha)[0, task[r, n]] for r in range(_REPETITIONS))
    assert missed <= _allowed(alpha)


def test_marginal_sets_are_no_larger_than_needed():
    rng = np.random.default_rng(2)
    sets = RetrievalSets.calibrate(*_queries(2000, rng), 0.1)
    fresh, task = _queries(20_000, rng)
    covered = sets.predict(fresh)[np.arange(20_000), task].mean()
    # Ties of rounded scores cover a little more than asked.
    assert 0.88 <= covered <= 0.95


def test_per_task_sets_cover_every_task_in_repetitions_where_marginal_ones_do_not():
    rng = np.random.default_rng(3)
    alpha, fixed = 0.2, np.repeat(np.arange(_TASKS), [20, 15, 9, 4])
    per_task, marginal = np.zeros(_TASKS, int), np.zeros(_TASKS, int)
    for _ in range(_REPETITIONS):
        scores, task = _queries(fixed.size, rng, fixed)
        fresh, _ = _queries(_TASKS, rng, np.arange(_TASKS))
        per_task += ~np.diagonal(RetrievalSets.calibrate(scores, task, alpha, per_task=True).predict(fresh))
        marginal += ~np.diagonal(RetrievalSets.calibrate(scores, task, alpha).predict(fresh))
    assert (per_task <= _allowed(alpha)).all()
    assert marginal[3] > _allowed(alpha)


def test_per_task_coverage_in_ten_thousand_repetitions_of_one_task():
    rng = np.random.default_rng(4)
    n, alpha = 13, 0.15
    own = np.round(rng.gamma(2.0, size=(_REPETITIONS, n + 1)), 2)
    missed = sum(own[r, n] > conformal_threshold(own[r, :n], alpha) for r in range(_REPETITIONS))
    assert missed <= _allowed(alpha)
    # Without ties and with (n + 1) alpha an integer, the guarantee is exact.
    own = rng.normal(size=(_REPETITIONS, 20))
    missed = sum(own[r, 19] > conformal_threshold(own[r, :19], 0.15) for r in range(_REPETITIONS))
    assert missed >= stats.binom.ppf(1e-6, _REPETITIONS, 0.15)


@pytest.mark.parametrize(("n", "alpha", "beta"), [(60, 0.05, 0.1), (200, 0.1, 0.05), (30, 0.3, 0.3)])
def test_the_pac_rank_bounds_miscoverage_given_the_calibration(n, alpha, beta):
    rng = np.random.default_rng(5)
    for scores, miscoverage in (
        (rng.random((_REPETITIONS, n)), lambda t: 1 - t),
        # Ties: scores on a grid of eighths.
        (np.ceil(rng.random((_REPETITIONS, n)) * 8) / 8, lambda t: 1 - t),
    ):
        found = np.array([conformal_threshold(row, alpha, beta) for row in scores])
        assert (miscoverage(found) > alpha).sum() <= _allowed(beta)


def test_pac_sets_hold_for_all_tasks_together():
    rng = np.random.default_rng(6)
    task = np.repeat(np.arange(2), [60, 40])
    alpha, beta = 0.1, 0.2
    failures = 0
    for _ in range(_REPETITIONS):
        # The difference of the two scores is uniform for either task, so a threshold's miscoverage is known.
        own = rng.random(100)
        scores = np.zeros((100, 2))
        scores[np.arange(100), task] = own
        sets = RetrievalSets.calibrate(scores, task, alpha, per_task=True, beta=beta)
        failures += bool((1 - sets.thresholds > alpha).any())
    assert failures <= _allowed(beta)


def test_tasks_with_too_few_samples_are_always_included_and_named():
    scores, task = _queries(103, np.random.default_rng(7), np.repeat(np.arange(_TASKS), [60, 40, 3, 0]))
    sets = RetrievalSets.calibrate(scores, task, 0.1, per_task=True)
    assert sets.always_included.tolist() == [False, False, True, True]
    assert "2 (3 samples), 3 (0 samples)" in sets.note
    assert sets.predict(scores)[:, 2:].all()
    marginal = RetrievalSets.calibrate(scores, task, 0.1)
    assert marginal.note == "" and not marginal.always_included.any()
    few = RetrievalSets.calibrate(scores[:5], task[:5], 0.1)
    assert "every set" in few.note and few.predict(scores).all()


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_sets_shrink_as_alpha_grows_and_follow_a_permutation_of_tasks(seed, per_task):
    rng = np.random.default_rng(seed)
    (scores, task), (fresh, _) = _queries(80, rng), _queries(30, rng)
    large, small = (RetrievalSets.calibrate(scores, task, a, per_task).predict(fresh) for a in (0.1, 0.3))
    assert (small <= large).all()
    order = rng.permutation(_TASKS)
    moved = RetrievalSets.calibrate(scores[:, order], np.argsort(order)[task], 0.1, per_task).predict(fresh[:, order])
    assert (moved == large[:, order]).all()


def test_known_queries_are_seldom_rejected_in_repetitions():
    rng = np.random.default_rng(8)
    n, alpha = 29, 0.1
    scores, _ = _queries(_REPETITIONS * (n + 1), rng)
    scores = scores.reshape(_REPETITIONS, n + 1, _TASKS)
    rejected = sum(Reject.calibrate(scores[r, :n], alpha).rejected(scores[r, n:])[0] for r in range(_REPETITIONS))
    assert rejected <= _allowed(alpha)


def test_a_reject_option_per_task_protects_every_task_in_repetitions():
    rng = np.random.default_rng(9)
    alpha, fixed = 0.2, np.repeat(np.arange(_TASKS), 9)
    rejected, pooled = np.zeros(_TASKS, int), np.zeros(_TASKS, int)
    for _ in range(_REPETITIONS):
        scores, task = _queries(fixed.size, rng, fixed)
        fresh, _ = _queries(_TASKS, rng, np.arange(_TASKS))
        rejected += Reject.calibrate(scores, alpha, task).rejected(fresh)
        pooled += Reject.calibrate(scores, alpha).rejected(fresh)
    assert (rejected <= _allowed(alpha)).all()
    assert pooled.max() > _allowed(alpha)


def test_the_false_accept_certificate_holds_in_repetitions():
    rng = np.random.default_rng(10)
    n, confidence = 40, 0.9
    # One known task's winning score is uniform; an unknown one's has distribution function t^2.
    calibration = np.stack([rng.random((_REPETITIONS, 19)), np.full((_REPETITIONS, 19), 2.0)], axis=-1)
    unknown = np.stack([np.sqrt(rng.random((_REPETITIONS, n))), np.full((_REPETITIONS, n), 2.0)], axis=-1)
    missed = 0
    for r in range(_REPETITIONS):
        option = Reject.calibrate(calibration[r], 0.1)
        missed += option.false_accepts(unknown[r], confidence).value < option.threshold**2
    assert missed <= _allowed(1 - confidence)


def test_false_accepts_are_counted_and_the_bound_names_its_level():
    option = Reject(threshold=1.0, tasks=2, alpha=0.1, per_task=False, beta=None)
    unknown = np.array([[2.0, 3.0], [0.5, 3.0], [1.0, 9.0], [5.0, 5.0]])
    assert option.rejected(unknown).tolist() == [True, False, False, True]
    bound = option.false_accepts(unknown, 0.95)
    assert bound.level == "A0" and bound.estimate == 0.5 and bound.confidence == 0.95 and not bound.vacuous
    assert option.false_accepts(unknown, 0.95, simultaneous=4).value > bound.value
    never = Reject.calibrate(unknown, 0.1)
    assert never.threshold == np.inf and never.false_accepts(unknown, 0.95).vacuous
    assert "nothing is rejected" in never.false_accepts(unknown, 0.95).note
    assert Reject.calibrate(np.tile(unknown, (20, 1)), 0.1, np.zeros(80, int)).threshold == np.inf


_GOOD = np.zeros((4, 2))
_TASK = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: conformal_threshold(np.array([np.nan]), 0.1), "scores"),
        (lambda: conformal_threshold(np.zeros(3), 0.0), "alpha"),
        (lambda: conformal_confidence(-1, 0.1, 0.1), "n"),
        (lambda: conformal_confidence(5, 0.1, 1.0), "beta"),
        (lambda: nonconformity(np.zeros((3, 1))), "two tasks"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK[:3], 0.1), "task"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK + 1, 0.1), "task"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK * 1.0, 0.1), "task"),
        (lambda: RetrievalSets.calibrate(np.full((4, 2), np.inf), _TASK, 0.1), "task_scores"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK, 1.5), "alpha"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK, 0.5, beta=0.0), "beta"),
        (lambda: RetrievalSets.calibrate(_GOOD, _TASK, 0.5).predict(np.zeros((1, 3))), "calibration had 2"),
        (lambda: Reject.calibrate(_GOOD, 0.5).rejected(np.zeros((1, 3))), "calibration had 2"),
        (lambda: Reject.calibrate(_GOOD, 0.5).false_accepts(np.zeros((0, 2)), 0.95), "unknown"),
        (lambda: Reject.calibrate(_GOOD, 0.5).false_accepts(_GOOD, 1.0), "confidence"),
        (lambda: Reject.calibrate(_GOOD, 0.5).false_accepts(_GOOD, 0.9, 0), "simultaneous"),
        (lambda: Reject.calibrate(_GOOD, 0.0), "alpha"),
    ],
)
def test_bad_input_is_named(call, what):
    with pytest.raises(InputError, match=what):
        call()


def test_huge_scores_raise_no_warning():
    scores = np.array([[1e308, -1e308], [-1e308, 1e308]])
    assert RetrievalSets.calibrate(scores, np.array([1, 0]), 0.5).predict(scores).tolist() == [[False, True], [True, False]]
