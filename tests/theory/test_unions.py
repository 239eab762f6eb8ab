"""What is tighter than a sum of pairs: exact overlaps, a common threshold, linear margins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from theory import Rule, Signatures, ladder, tail_probability, well_specified
from theory.intersection import Forms, log_both
from theory.margin import margins
from theory.quadratic import QuadraticLaw
from theory.testing import Setting, covariance
from theory.tied import log_any_below, tied_error
from theory.unions import second_order


def _forms(seed: int, D: int, level: float) -> Forms:
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(2, D, D)) / np.sqrt(D)
    A, b = (g + g.transpose(0, 2, 1)) / 4, rng.normal(size=(2, D))
    spread = np.sqrt(np.diagonal(Forms(A, b, np.zeros(2)).covariance()))
    return Forms(A, b, level * spread - np.trace(A, axis1=1, axis2=2))


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.95])
@pytest.mark.parametrize("level", [0.5, 2.0, 6.0])
def test_linear_forms_are_bivariate_normal(rho, level):
    b = np.array([[1.0, 0.0], [rho, np.sqrt(1 - rho**2)]])
    log_p, error = log_both(Forms(np.zeros((2, 2, 2)), b, np.array([level, level + 0.3])))
    truth = stats.multivariate_normal.cdf([-level, -level - 0.3], None, [[1, rho], [rho, 1]], abseps=1e-300, releps=1e-12)
    if truth > 1e-13:
        assert np.exp(log_p) == pytest.approx(truth, rel=2 * error + 1e-6)
    assert log_p <= stats.norm.logcdf(-level - 0.3) + 2 * error


def test_independent_forms_multiply_far_into_the_tail():
    # Two chi-squares of eight degrees of freedom each on coordinates of their own.
    A = np.zeros((2, 16, 16))
    A[0, :8, :8] = A[1, 8:, 8:] = -np.eye(8)
    log_p, error = log_both(Forms(A, np.zeros((2, 16)), np.array([60.0, 400.0])))
    truth = stats.chi2.logsf(60, 8) + stats.chi2.logsf(400, 8)
    assert truth < -190
    assert np.expm1(log_p - truth) == pytest.approx(0, abs=2 * error + 1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(6, 12), st.sampled_from([0.0, 1.0, 2.0]))
@hypothesis_settings(max_examples=25)
def test_an_intersection_lies_in_the_interval_of_simulation(seed, D, level):
    forms = _forms(seed, D, level)
    log_p, error = log_both(forms)
    assert error < 1e-2
    z = np.random.default_rng(seed).standard_normal((20_000, D))
    M = np.einsum("nd,kde,ne->nk", z, forms.A, z, optimize=True) + z @ forms.b.T + forms.c
    k = int((M <= 0).all(axis=1).sum())
    low = stats.beta.ppf(1e-8, k, 20_000 - k + 1) if k else 0.0
    assert low <= np.exp(log_p) * (1 + 2 * error) and np.exp(log_p) * (1 - 2 * error) <= stats.beta.isf(1e-8, k + 1, 20_000 - k)


@given(st.integers(0, 2**32 - 1), st.integers(6, 10), st.sampled_from([0.0, 1.0, 2.5]))
@hypothesis_settings(max_examples=25)
def test_an_intersection_is_at_most_either_event_and_at_least_what_bonferroni_leaves(seed, D, level):
    forms = _forms(seed, D, level)
    log_p, error = log_both(forms)
    single = tail_probability(QuadraticLaw.of_forms(forms.A, forms.b, forms.c))
    assert log_p <= single.log_high.min() + 2 * error
    assert np.exp(log_p) * (1 + 2 * error) >= np.exp(single.log_low).sum() - 1


def test_forms_without_variance_give_no_answer_rather_than_a_wrong_one():
    log_p, error = log_both(Forms(np.zeros((2, 3, 3)), np.zeros((2, 3)), np.ones(2)))
    assert log_p == -np.inf and error == np.inf


def test_overlaps_close_most_of_the_union_gap():
    """Many wrong components on one side overlap: the sum says twice the error, overlaps give most of that back."""
    rng = np.random.default_rng(1)
    means = np.concatenate([np.zeros((1, 8)), 2.5 + 0.3 * rng.standard_normal((6, 8)) * np.r_[0, np.ones(7)]])
    means[1:, 1:] -= 2.5
    sig = Signatures(means, np.stack([covariance(rng, 8, 3.0) for _ in range(7)]), np.arange(7))
    found = ladder(sig, simulations=100_000, intersections=6)
    task = found.tasks[0]
    assert task["L5b"].value < 0.8 * task["L5"].value
    assert np.exp(task["L6"].log_lower) <= task["L5b"].value <= task["L5"].value
    assert task["L5b"].log_lower is not None and task["L5b"].log_lower <= task["L5b"].log_value


def test_more_overlaps_never_loosen_the_bound():
    rule, law = Setting(3, 6, (1, 1, 1, 1, 1), 1.0, spaces="cross").build()
    found = margins(rule, law)
    log_pairs = tail_probability(found.margin).log_high
    by_count = [second_order(rule, law, found, log_pairs, n).upper for n in (0, 1, 3)]
    assert (by_count[1] <= by_count[0] + 1e-12).all()
    assert (by_count[2] <= by_count[0] + 1e-12).all()


def test_two_tied_tasks_err_at_phi_of_minus_half_the_distance():
    rng = np.random.default_rng(0)
    sig = Signatures(np.array([[0.0, 0.0], [3.0, 1.0]]), np.stack([covariance(rng, 2)] * 2), np.array([0, 1]))
    D = np.diff(sig.means, axis=0)[0]
    distance = np.sqrt(D @ np.linalg.solve(sig.covariances[0], D))
    for found in tied_error(sig, rng).values():
        assert found.log_p == pytest.approx(stats.norm.logcdf(-distance / 2), rel=1e-12)


def test_the_tied_error_lies_between_the_largest_pair_and_their_sum_and_in_the_simulated_interval():
    rng = np.random.default_rng(4)
    sig = Signatures(rng.normal(size=(6, 4)) * 1.2, np.stack([covariance(rng, 4)] * 6), np.arange(6))
    exact = tied_error(sig, rng)
    found = ladder(sig, simulations=200_000, intersections=0)
    for k in range(6):
        bounds = found.tasks[k]
        assert bounds["L5"].log_lower - 1e-4 <= exact[k].log_p <= bounds["L5"].log_value + 1e-4
        assert np.exp(bounds["L6"].log_lower) <= np.exp(exact[k].log_p) * 1.001 and np.exp(exact[k].log_p) <= bounds["L6"].value * 1.001
        assert exact[k].relative_error < 1e-3


def test_linear_margins_keep_relative_accuracy_where_one_minus_phi_would_be_zero():
    b = np.eye(3)
    found = log_any_below(b, np.array([20.0, 20.0, 21.0]), np.random.default_rng(0))
    truth = np.logaddexp(np.log(2) + stats.norm.logcdf(-20), stats.norm.logcdf(-21))
    assert found.log_p == pytest.approx(truth, rel=1e-6)


def test_constant_linear_margins_are_certain_or_impossible():
    rng = np.random.default_rng(0)
    assert log_any_below(np.zeros((1, 2)), np.array([-1.0]), rng).log_p == 0.0
    assert log_any_below(np.zeros((1, 2)), np.array([1.0]), rng).log_p == -np.inf


def test_tied_errors_need_one_covariance():
    rng = np.random.default_rng(0)
    from theory import InputError

    with pytest.raises(InputError, match=r"covariances\[1\]"):
        tied_error(Signatures(np.zeros((2, 2)), np.stack([np.eye(2), 2 * np.eye(2)]), np.array([0, 1])), rng)


def test_a_rule_with_several_true_components_leaves_tied_errors_out():
    sig = Signatures(np.arange(6.0).reshape(3, 2), np.stack([np.eye(2)] * 3), np.array([0, 0, 1]))
    assert set(tied_error(sig, np.random.default_rng(0))) == {2}
    assert Rule(sig).slack.tolist() == [0.0, 0.0] and len(well_specified(sig)) == 3
