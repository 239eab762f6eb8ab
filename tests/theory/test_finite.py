"""Finite samples: exact laws against simulation, and the bound on the expected error against the error itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.covariance import ledoit_wolf, oas
from strategies import covariance, signatures

from theory import InputError, QuadraticLaw, QueryLaw, Signatures, ladder, tail_probability, well_specified
from theory.finite import (
    exceedance,
    inverse_bias,
    log_det_bias,
    log_det_limit,
    own_distance,
    own_distance_mean,
    pair_forms,
    plug_in_bound,
    plug_in_errors,
    plug_in_favour,
)

_SIZES = [(3, 1), (8, 3), (40, 3), (30, 8)]


def _estimates(n, d, draws, seed):
    """Sample means and unbiased covariances of standard normal samples, and fresh points."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((draws, n, d))
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    return mean, np.einsum("rni,rnj->rij", centred, centred) / (n - 1), rng.standard_normal((draws, d))


@pytest.mark.parametrize(("n", "d"), _SIZES)
def test_f1_is_the_law_of_a_fresh_points_distance(n, d):
    mean, S, x = _estimates(n, d, 8000, 1)
    found = np.einsum("ri,ri->r", x - mean, np.linalg.solve(S, (x - mean)[..., None])[..., 0])
    assert stats.kstest(found, own_distance(n, d).cdf).pvalue > 1e-4


@pytest.mark.parametrize(("n", "d"), _SIZES[1:])
def test_means_and_biases_match_simulation(n, d):
    draws = 8000
    _, S, _ = _estimates(n, d, draws, 2)
    assert own_distance(n, d).mean() == pytest.approx(own_distance_mean(n, d), rel=1e-12)
    log_det = np.linalg.slogdet(S)[1]
    assert log_det.mean() == pytest.approx(log_det_bias(n, d), abs=5 * log_det.std() / np.sqrt(draws))
    first = np.linalg.inv(S)[:, 0, 0]
    assert first.mean() == pytest.approx(inverse_bias(n, d), abs=5 * first.std() / np.sqrt(draws))


@pytest.mark.parametrize(("n", "d"), _SIZES)
def test_f1_is_the_quadratic_law_that_the_bound_uses(n, d):
    """``Qhat >= a`` if and only if ``a G - (n-1) R <= 0`` with ``R ~ (1 + 1/n) chi2_d`` and ``G ~ chi2_{n-d}`` independent."""
    a = own_distance(n, d).isf([0.5, 1e-3, 1e-8])
    w = np.concatenate([np.repeat(a[:, None], n - d, axis=1), np.full((3, d), -(n - 1) * (1 + 1 / n))], axis=1)
    assert tail_probability(QuadraticLaw.of(w)).log_p == pytest.approx(np.log([0.5, 1e-3, 1e-8]), abs=1e-6)


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_a_plug_in_rule_favours_components_of_many_samples(delta):
    d = 8
    table = plug_in_favour([11, 12, 20, 80, 1000, 10**6], d, delta)
    assert (table["excess"] > 0).all() and (np.diff(table["excess"]) < 0).all()
    assert table["excess"].iloc[-1] < 1e-3
    assert (table["log_det"] < 0).all()


def test_the_favour_is_that_of_simulated_energies():
    n, d, delta, draws = 30, 4, 1.5, 20_000
    mean, S, x = _estimates(n, d, draws, 3)
    x[:, 0] += np.sqrt(delta * d)
    energy = np.einsum("ri,ri->r", x - mean, np.linalg.solve(S, (x - mean)[..., None])[..., 0]) + np.linalg.slogdet(S)[1]
    expected = plug_in_favour(n, d, delta)["energy"].iloc[0]
    assert energy.mean() == pytest.approx(expected, abs=5 * energy.std() / np.sqrt(draws))


def _expected_error(sig, counts, law, draws, seed):
    """Errors of one fresh query for each fresh signature: independent draws of the expected error."""
    rng = np.random.default_rng(seed)
    d = sig.dimension
    energies = np.empty((draws, len(sig)))
    x, label = law.sample(draws, rng)
    x, label = x[:, 0], label
    for s in range(len(sig)):
        n = int(counts[s])
        factor = np.linalg.cholesky(sig.covariances[s])
        bartlett = np.tril(rng.standard_normal((draws, d, d)), -1)
        bartlett[:, np.arange(d), np.arange(d)] = np.sqrt(rng.chisquare(n - 1 - np.arange(d), size=(draws, d)))
        root = factor @ bartlett / np.sqrt(n - 1)
        white = np.linalg.solve(root, (x - sig.means[s] - rng.standard_normal((draws, d)) @ factor.T / np.sqrt(n))[..., None])[..., 0]
        weight = 0.0 if sig.weights is None else -2 * np.log(sig.weights[s])
        energies[:, s] = (white**2).sum(axis=1) + 2 * np.log(np.abs(np.diagonal(root, axis1=1, axis2=2))).sum(axis=1) + weight
    return sig.task[np.argmin(energies, axis=1)] != law.task[label], label


@st.composite
def plug_ins(draw: st.DrawFn):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = draw(st.integers(1, 4))
    task = draw(st.sampled_from([[0, 1], [0, 1, 2], [0, 0, 1, 1]]))
    sig = signatures(rng, d, task, draw(st.sampled_from([1.0, 2.0, 4.0])))
    if draw(st.booleans()):
        sig = Signatures(sig.means, sig.covariances, sig.task, rng.uniform(0.2, 1.0, size=len(task)))
    counts = rng.integers(d + 1, draw(st.sampled_from([d + 3, 30, 300])), size=len(task))
    law = well_specified(sig)
    if draw(st.booleans()):
        moved = sig.means[:, None] + 0.3 * rng.normal(size=(len(task), 1, d))
        law = QueryLaw(moved, np.stack([covariance(rng, d) for _ in task]), sig.task, np.arange(len(task)), np.ones(len(task)))
    return sig, counts, law


@given(plug_ins(), st.sampled_from([1, 2, 6]))
@hypothesis_settings(max_examples=12)
def test_the_bound_is_at_least_the_expected_error(setting, cells):
    sig, counts, law = setting
    found = plug_in_bound(sig, law, counts, cells=cells)
    wrong, label = _expected_error(sig, counts, law, 20_000, 0)
    units = [(found.overall, np.ones(label.size, dtype=bool))]
    units += [(bound, law.task[label] == k) for k, bound in found.tasks.items()]
    units += [(bound, law.cluster[label] == t) for (_, t), bound in found.clusters.items()]
    for bound, rows in units:
        n, k = int(rows.sum()), int(wrong[rows].sum())
        assert bound.value >= (stats.beta.ppf(1e-7, k, n - k + 1) if k else 0.0)


@pytest.mark.parametrize("counts", [(12, 12), (12, 10**6), (10**6, 12)])
def test_one_cell_is_a_bound_already_and_more_cells_a_better_one(counts):
    sig = signatures(np.random.default_rng(11), 2, [0, 1], 2.0)
    found = [plug_in_bound(sig, counts=np.array(counts), cells=cells) for cells in (1, 3, 12)]
    wrong, label = _expected_error(sig, np.array(counts), well_specified(sig), 20_000, 1)
    for k in (0, 1):
        # With one count large, only the own or only the wrong component fluctuates, and nothing hides an error in its cells.
        coarse, middle, fine = (bound.tasks[k].value for bound in found)
        assert coarse > middle > fine > wrong[label == k].mean()


def test_a_log_determinant_that_is_too_small_attracts_queries():
    d = 10
    sig = Signatures(np.array([np.zeros(d), np.r_[3.0, np.zeros(d - 1)]]), np.stack([np.eye(d)] * 2), np.array([0, 1]))
    counts = np.array([10**6, 12])
    wrong, label = _expected_error(sig, counts, well_specified(sig), 20_000, 1)
    for k, bound in plug_in_bound(sig, counts=counts).tasks.items():
        assert bound.value > wrong[label == k].mean()


@pytest.mark.parametrize(("n_s", "n_t", "d"), [(4, 40, 3), (40, 4, 3), (12, 12, 8), (500, 500, 2)])
@pytest.mark.parametrize("exponent", [1.0, 4.0])
def test_the_log_determinants_cross_their_limit_as_rarely_as_claimed(n_s, n_t, d, exponent):
    rng = np.random.default_rng(12)
    draws = 100_000
    difference = np.zeros(draws)
    for sign, n in ((1, n_s), (-1, n_t)):
        difference += sign * np.log(rng.chisquare(n - 1 - np.arange(d), size=(draws, d)) / (n - 1)).sum(axis=1)
    share = (difference <= log_det_limit(n_s, n_t, d, exponent)).mean()
    assert share <= np.exp(-exponent) + 4 * np.sqrt(np.exp(-exponent) / draws)
    # Chernoff is off by a factor that is polynomial in the exponent.
    assert share > np.exp(-exponent) / 40


@pytest.mark.parametrize("n", [4, 10**12])
def test_the_forms_have_the_moments_of_plug_in_distances_under_the_true_covariance(n):
    rng = np.random.default_rng(13)
    sig = signatures(rng, 3, [0, 1], 1.0)
    law = QueryLaw(rng.normal(size=(1, 1, 3)), covariance(rng, 3)[None], np.array([0]), np.array([0]), np.ones(1))
    C, own, other = law.covariances[0], sig.covariances[0] / n, sig.covariances[1] / (2 * n)
    forms = pair_forms(sig, law, 0, 0, n, 1, 2 * n)
    expected, form_means = [], []
    for s, noise, (A, _, k) in zip((0, 1), (own, other), forms, strict=True):
        D = law.means[0, 0] - sig.means[s]
        expected.append(np.trace(np.linalg.solve(sig.covariances[s], C + noise)) + D @ np.linalg.solve(sig.covariances[s], D))
        form_means.append(k + np.trace(A))
    assert form_means == pytest.approx(expected, rel=1e-9)
    # Cov(R_t, R_s) = 2 tr(P_t C P_s C) + 4 D_t' P_t C P_s D_s: the two distances share only the query.
    P = [np.linalg.inv(c) for c in sig.covariances]
    D = [law.means[0, 0] - mu for mu in sig.means]
    covariance_of_both = 2 * np.trace(P[0] @ C @ P[1] @ C) + 4 * D[0] @ P[0] @ C @ P[1] @ D[1]
    (A, b, _), (A2, b2, _) = forms
    assert 2 * (A * A2).sum() + b @ b2 == pytest.approx(covariance_of_both, rel=1e-9)


def test_separations_at_which_everything_underflows_give_small_finite_bounds():
    for distance in (1e3, 1e6):
        sig = Signatures(np.array([[0.0, 0], [distance, 0]]), np.stack([np.eye(2)] * 2), np.array([0, 1]))
        bound = plug_in_bound(sig, counts=np.array([100, 10**6]), cells=4).overall
        assert 0 < bound.value < 1e-12 and np.isfinite(bound.log_value)
    same = Signatures(np.zeros((2, 2)), np.stack([np.eye(2)] * 2), np.array([0, 1]))
    assert plug_in_bound(same, counts=np.array([100, 100])).overall.value >= 0.5


def test_the_bound_comes_close_to_l5_as_samples_grow():
    sig = signatures(np.random.default_rng(4), 3, [0, 1, 2], 3.0)
    limit = ladder(sig, simulations=0).overall["L5"].log_value
    found = [plug_in_bound(sig, counts=np.full(3, n)).overall.log_value for n in (10, 100, 10_000, 10**7)]
    assert (np.diff(found) < 0).all()
    assert 0 <= found[-1] - limit < 0.1


def test_markov_turns_an_expected_error_into_a_probability_over_signatures():
    sig = signatures(np.random.default_rng(4), 2, [0, 1], 3.0)
    bound = plug_in_bound(sig, counts=np.array([30, 30])).overall
    assert exceedance(bound, 10 * bound.value).value == pytest.approx(0.1)
    assert exceedance(bound, bound.value / 2).vacuous
    with pytest.raises(InputError, match="error"):
        exceedance(bound, 0.0)


def test_two_single_components_have_an_exact_error_for_every_draw():
    rng = np.random.default_rng(5)
    sig = signatures(rng, 3, [0, 1], 1.5)
    found = plug_in_errors(sig, np.array([12, 40]), 40, rng)
    assert found.exact.all() and (found.log_error <= found.log_upper).all()
    assert found.log_error == pytest.approx(found.log_upper, abs=1e-6)
    many = plug_in_errors(sig, np.array([10**8, 10**8]), 3, rng)
    assert many.log_error == pytest.approx(np.full(3, found.log_limit), abs=1e-2)
    assert found.mean > np.exp(found.log_limit)
    table = found.quantiles([0.1, 0.5, 0.9])
    assert table["error"].is_monotonic_increasing and len(found.frame()) == 40


def test_more_components_are_simulated_below_their_upper_bound():
    rng = np.random.default_rng(6)
    sig = signatures(rng, 2, [0, 0, 1, 2], 2.0)
    found = plug_in_errors(sig, np.full(4, 20), 20, rng, simulations=4000)
    assert not found.exact.any()
    assert (np.exp(found.log_error) <= np.exp(found.log_upper) + 5 * np.sqrt(0.25 / 4000)).all()


@pytest.mark.parametrize("estimator", [lambda x: oas(x)[0], lambda x: ledoit_wolf(x)[0]], ids=["oas", "ledoit_wolf"])
def test_shrinkage_works_with_fewer_samples_than_dimensions_and_helps_with_few(estimator):
    rng = np.random.default_rng(7)
    d = 10
    means = np.zeros((2, d))
    means[1, :4] = 1.5
    sig = Signatures(means, np.stack([np.eye(d), 1.3 * np.eye(d)]), np.array([0, 1]))
    few = plug_in_errors(sig, np.array([8, 8]), 20, rng, estimator)
    assert few.exact.all() and 0 < few.mean < 0.5
    shrunk, plain = (plug_in_errors(sig, np.array([14, 14]), 30, rng, e) for e in (estimator, None))
    assert shrunk.mean < plain.mean
    with pytest.raises(InputError, match=r"counts\[0\].*shrinkage"):
        plug_in_errors(sig, np.array([8, 14]), 20, rng)


def test_bad_input_is_named():
    sig = signatures(np.random.default_rng(0), 3, [0, 1], 1.0)
    rng = np.random.default_rng(0)
    for call in (own_distance, log_det_bias):
        with pytest.raises(InputError, match=r"singular.*at least 6.*shrinkage"):
            call(5, 5)
    for call in (own_distance_mean, inverse_bias):
        with pytest.raises(InputError, match=r"no finite mean.*at least 8"):
            call(7, 5)
    assert np.isinf(own_distance(7, 5).mean())
    with pytest.raises(InputError, match="whole number"):
        own_distance(20.0, 5)
    with pytest.raises(InputError, match="delta"):
        plug_in_favour([20], 3, -2.0)
    with pytest.raises(InputError, match="counts: are missing"):
        plug_in_bound(sig)
    for wrong in ([10], [10.5, 10], [0, 10]):
        with pytest.raises(InputError, match="counts: needs 2 positive integers"):
            plug_in_bound(sig, counts=wrong)
    with pytest.raises(InputError, match=r"counts\[1\].*singular"):
        plug_in_bound(sig, counts=[10, 3])
    with pytest.raises(InputError, match="cells"):
        plug_in_bound(sig, counts=[10, 10], cells=0)
    with pytest.raises(InputError, match="draws"):
        plug_in_errors(sig, [10, 10], 0, rng)
    with pytest.raises(InputError, match="estimator"):
        plug_in_errors(sig, [10, 10], 2, rng, lambda x: np.eye(2))
    spaces = QueryLaw(np.zeros((2, 2, 3)), np.stack([np.eye(6)] * 2), np.array([0, 1]), np.array([0, 1]), np.ones(2))
    with pytest.raises(InputError, match="shared"):
        plug_in_bound(sig, spaces, [10, 10])


@pytest.mark.slow
@pytest.mark.parametrize(("n", "distance"), [(5, 6.0), (12, 4.0), (40, 5.0)])
def test_guarantee_of_the_expected_error_and_of_markov(n, distance):
    sig = Signatures(np.array([[0.0, 0], [distance, 0]]), np.stack([np.eye(2), np.diag([0.5, 2.0])]), np.array([0, 1]))
    counts = np.array([n, 2 * n])
    bound = plug_in_bound(sig, counts=counts).overall
    draws = 200_000
    wrong, _ = _expected_error(sig, counts, well_specified(sig), draws, 0)
    errors = int(wrong.sum())
    assert errors > 50
    assert bound.value >= stats.beta.ppf(1e-6, errors, draws - errors + 1)
    found = plug_in_errors(sig, counts, 500, np.random.default_rng(1))
    for x in (0.5 * bound.value, 2 * bound.value, 5 * bound.value):
        if x < 1:
            above = int((np.exp(found.log_error) >= x).sum())
            assert exceedance(bound, x).value >= (stats.beta.ppf(1e-6, above, 500 - above + 1) if above else 0.0)
