from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory import InputError, Measured, certificate, clopper_pearson, misfit_floor, simultaneous_certificates
from theory.certificates import upper_limit

_REPETITIONS = 10_000
_EXTREMES = (0.5, 0.025, 1e-8, 1e-12 / 50, 1e-16, 1e-30)


def _allowed(failure: float) -> int:
    """Failures in the repetitions that a true failure probability of at most `failure` makes plausible."""
    return int(stats.binom.ppf(1 - 1e-6, _REPETITIONS, failure))


def _cdf(errors: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    return mpmath.fsum(mpmath.binomial(n, j) * p**j * (1 - p) ** (n - j) for j in range(errors + 1))


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("beta", _EXTREMES)
def test_upper_limit_solves_its_equation_to_60_digits_and_is_rounded_up(n, beta):
    for errors in {0, 1, 2, n // 10, n - 2} & set(range(n - 1)):
        limit = upper_limit(errors, n, beta)
        with mpmath.workdps(60):
            assert _cdf(errors, n, mpmath.mpf(limit)) <= beta
            assert _cdf(errors, n, mpmath.mpf(limit) * (1 - mpmath.mpf(3e-12))) > beta


@pytest.mark.parametrize("n", [2, 3, 10, 300])
@pytest.mark.parametrize("confidence", [0.1, 0.95, 1 - 1e-8, 1 - 1e-12, 1 - 1e-15])
def test_lower_limit_solves_its_equation_to_60_digits_and_is_rounded_down(n, confidence):
    half = (1 - confidence) / 2
    for errors in {2, n // 10, n // 2, n} - {0, 1}:
        low = clopper_pearson(errors, n, confidence)[0]
        with mpmath.workdps(60):
            assert _cdf(n - errors, n, 1 - mpmath.mpf(low)) <= half
            assert _cdf(n - errors, n, 1 - mpmath.mpf(low) * (1 + mpmath.mpf(3e-12))) > half


@pytest.mark.parametrize("n", [1, 7, 10**6, 10**12])
def test_without_errors_the_limit_is_the_root_of_beta_without_cancellation(n):
    beta = 1 - (1 - 1e-12)
    with mpmath.workdps(60):
        exact = 1 - mpmath.mpf(beta) ** (mpmath.mpf(1) / n)
    assert upper_limit(0, n, beta) == pytest.approx(float(exact), rel=2e-12)
    assert certificate(0, n, 1 - 1e-12).value >= float(exact)


def test_all_errors_leave_the_certificate_vacuous_and_the_interval_closed_at_one():
    assert certificate(7, 7, 0.95).vacuous
    low, high = clopper_pearson(7, 7, 0.95)
    assert high == 1 and low == pytest.approx(0.025 ** (1 / 7), rel=1e-9)
    assert clopper_pearson(0, 7, 0.95)[0] == 0


def test_one_sample_and_a_confidence_beyond_rounding():
    assert certificate(0, 1, 0.95).value == pytest.approx(0.95, rel=1e-9)
    assert certificate(1, 1, 0.95).vacuous
    # 1 - beta is 1 in floating point here; a limit found from it would be 1.
    assert upper_limit(0, 1000, 1e-20) == pytest.approx(1 - 1e-20 ** (1 / 1000), rel=1e-9)
    assert upper_limit(3, 1000, 1e-20) < 0.09


@pytest.mark.parametrize("n", [1, 2, 5, 17, 60, 250])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_exact_coverage_is_at_least_nominal_at_every_rate(n, confidence):
    limits = np.array([clopper_pearson(k, n, confidence) for k in range(n + 1)])
    upper = np.array([upper_limit(k, n, 1 - confidence) for k in range(n + 1)])
    # Coverage is least just beside the limits themselves.
    edges = np.concatenate([limits.ravel(), upper])
    rates = np.unique(np.clip(np.concatenate([np.linspace(0, 1, 1001), edges * (1 - 1e-9), edges * (1 + 1e-9)]), 0, 1))
    chance = stats.binom.pmf(np.arange(n + 1), n, rates[:, None])
    inside = (limits[:, 0] <= rates[:, None]) & (rates[:, None] <= limits[:, 1])
    assert (chance * inside).sum(axis=1).min() >= confidence - 1e-9
    assert (chance * (rates[:, None] <= upper)).sum(axis=1).min() >= confidence - 1e-9


def _poisson_binomial(rates: np.ndarray) -> np.ndarray:
    law = np.ones(1)
    for p in rates:
        law = np.convolve(law, [1 - p, p])
    return law


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.5, 0.9, 0.99]))
def test_exact_coverage_of_the_mean_rate_of_any_strata(seed, n, confidence):
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.0, 1.0, rng.random(), rng.random() * 0.1, 1 - rng.random() * 0.1], size=n)
    law = _poisson_binomial(rates)
    limits = np.array([clopper_pearson(k, n, confidence) for k in range(n + 1)])
    mean = rates.mean()
    assert law[limits[:, 1] < mean].sum() <= (1 - confidence) / 2 + 1e-9
    assert law[limits[:, 0] > mean].sum() <= (1 - confidence) / 2 + 1e-9


def test_the_textbook_limit_at_n_less_one_errors_fails_for_strata_and_ours_does_not():
    rates = np.array([1.0, 0.9496])
    textbook = 0.95 ** (1 / 2)
    assert rates.mean() > textbook and 1 - rates.prod() > 0.05
    assert rates.mean() <= upper_limit(1, 2, 0.05)


@given(st.integers(1, 400), st.data(), st.floats(0.01, 0.999), st.floats(0.01, 0.999))
def test_limits_enclose_the_estimate_and_widen_with_confidence(n, data, a, b):
    errors = data.draw(st.integers(0, n))
    wide, narrow = (Measured(errors, n, c) for c in sorted((a, b), reverse=True))
    assert wide.low <= narrow.low <= errors / n <= narrow.high <= wide.high


def test_certificates_of_all_tasks_and_the_pool_hold_together_in_simulation():
    rng = np.random.default_rng(0)
    rate, n = np.array([0.0, 0.02, 0.1, 0.5, 0.97]), np.array([40, 300, 60, 25, 30])
    errors = rng.binomial(n, rate, size=(_REPETITIONS, 5))
    confidence = 0.8
    tables = [np.array([certificate(k, int(size), confidence, 6).value for k in range(size + 1)]) for size in n]
    pool = np.array([certificate(k, int(n.sum()), confidence, 6).value for k in range(n.sum() + 1)])
    missed = np.stack([tables[j][errors[:, j]] < rate[j] for j in range(5)], axis=1)
    pool_missed = pool[errors.sum(axis=1)] < (n * rate).sum() / n.sum()
    assert (missed.any(axis=1) | pool_missed).sum() <= _allowed(1 - confidence)
    # The function gives these numbers.
    found = simultaneous_certificates(errors[0], n, confidence, list("abcde"))
    assert [bound.value for bound in found.tasks.values()] == [tables[j][errors[0, j]] for j in range(5)]
    assert found.overall.value == pool[errors[0].sum()]


def test_a_single_certificate_and_interval_hold_in_simulation():
    rng = np.random.default_rng(1)
    for rate, n in ((0.01, 100), (0.3, 20), (0.9, 50)):
        errors = rng.binomial(n, rate, size=_REPETITIONS)
        values = np.array([certificate(k, n, 0.95).value for k in range(n + 1)])[errors]
        limits = np.array([clopper_pearson(k, n, 0.95) for k in range(n + 1)])[errors]
        assert (values < rate).sum() <= _allowed(0.05)
        assert ((limits[:, 0] > rate) | (limits[:, 1] < rate)).sum() <= _allowed(0.05)


def test_tasks_without_samples_are_vacuous_and_cost_nothing():
    with_gap = simultaneous_certificates(np.array([1, 0, 2]), np.array([50, 0, 60]), 0.95)
    without = simultaneous_certificates(np.array([1, 2]), np.array([50, 60]), 0.95)
    assert with_gap.tasks["1"].vacuous and "no held-out" in with_gap.tasks["1"].note
    assert with_gap.tasks["0"].value == without.tasks["0"].value
    assert with_gap.overall.value == without.overall.value
    assert with_gap.tasks["0"].value > certificate(1, 50, 0.95).value
    frame = with_gap.frame()
    assert len(frame) == 4 and frame["task"].isna().sum() == 1
    alone = simultaneous_certificates(np.array([1, 0]), np.array([50, 0]), 0.95)
    assert alone.tasks["0"].value == alone.overall.value == certificate(1, 50, 0.95).value


def test_the_misfit_floor_is_zero_unless_the_model_is_disproved():
    assert misfit_floor(0.1, 0.2) == 0
    assert misfit_floor(0.2, 0.1) == pytest.approx(0.2 * np.log(2) + 0.8 * np.log(0.8 / 0.9))
    assert np.isfinite(misfit_floor(0.2, 0.0))


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: clopper_pearson(5, 4, 0.95), "errors"),
        (lambda: clopper_pearson(-1, 4, 0.95), "errors"),
        (lambda: clopper_pearson(0, 0, 0.95), "errors"),
        (lambda: clopper_pearson(1, 4, 1.0), "confidence"),
        (lambda: clopper_pearson(1, 4, float("nan")), "confidence"),
        (lambda: upper_limit(1, 4, 0.0), "beta"),
        (lambda: certificate(1, 4, 0.95, 0), "simultaneous"),
        (lambda: simultaneous_certificates(np.array([1, 5]), np.array([4, 4]), 0.95), "errors: task 1"),
        (lambda: simultaneous_certificates(np.array([1.0]), np.array([4]), 0.95), "errors"),
        (lambda: simultaneous_certificates(np.array([1, 1]), np.array([4]), 0.95), "errors"),
        (lambda: simultaneous_certificates(np.array([0]), np.array([0]), 0.95), "n: no task"),
        (lambda: simultaneous_certificates(np.array([0, 0]), np.array([9, 9]), 0.95, ["a", "a"]), "names"),
        (lambda: simultaneous_certificates(np.array([0]), np.array([9]), 0.0), "confidence"),
    ],
)
def test_bad_input_is_named(call, what):
    with pytest.raises(InputError, match=what):
        call()


def test_the_pool_is_given_at_most_a_quarter_whatever_confidence_is_asked_for():
    # At failure probability 0.32 the limit would miss strata of rates (1, 0.434, 0.434) with probability 0.3204.
    found = simultaneous_certificates(np.array([1, 0, 0]), np.array([1, 1, 1]), 0.02)
    assert found.overall.value >= upper_limit(1, 3, 0.25)
    assert found.tasks["1"].value == pytest.approx(upper_limit(0, 1, 0.98 / 4))
