"""Simulation of the error: plain, and importance sampling for rare events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from scipy import stats

from theory import Assumption, QueryLaw, Rule, Signatures, ladder, well_specified
from theory.margin import margins
from theory.sampling import simulate, simulate_rare
from theory.testing import settings


def _tied(distance: float, d: int = 4) -> Signatures:
    means = np.zeros((2, d))
    means[1, 0] = distance
    return Signatures(means, np.stack([np.eye(d)] * 2), np.array([0, 1]))


def _everything(law: QueryLaw) -> np.ndarray:
    return np.ones(len(law), dtype=bool)


@pytest.mark.parametrize("distance", [2.0, 8.0, 14.0, 40.0])
def test_a_rare_error_is_right_with_an_interval_from_1e5_draws(distance):
    """Down to 1e-89; at distance 14 the error is 1.3e-12."""
    sig = _tied(distance)
    law = well_specified(sig)
    bound = simulate_rare(Rule(sig), law, 100_000, np.random.default_rng(0)).bound(_everything(law), 1 - 1e-6, Assumption.A4)
    truth = stats.norm.logcdf(-distance / 2)
    assert bound.log_lower <= truth <= bound.log_value
    assert bound.log_estimate == pytest.approx(truth, abs=0.06)
    assert bound.log_value - bound.log_lower < 0.2


def test_an_error_below_the_least_float_keeps_its_logarithm():
    sig = _tied(100.0)
    law = well_specified(sig)
    bound = simulate_rare(Rule(sig), law, 20_000, np.random.default_rng(0)).bound(_everything(law), 0.99, Assumption.A4)
    assert bound.log_estimate == pytest.approx(stats.norm.logcdf(-50.0), abs=0.1)
    assert bound.value > 0


@given(settings())
@hypothesis_settings(max_examples=25)
def test_weights_lie_between_zero_and_one_and_both_methods_agree(setting):
    rule, law = setting.build()
    rng = np.random.default_rng(0)
    rare = simulate_rare(rule, law, 4000, rng)
    assert ((rare.values >= 0) & (rare.values <= 1)).all()
    confidence = 1 - 1e-7
    a = rare.bound(_everything(law), confidence, law.level)
    b = simulate(rule, law, 4000, rng).bound(_everything(law), confidence, law.level)
    low_a, low_b = (np.exp(x.log_lower) if x.log_lower is not None else 0.0 for x in (a, b))
    assert low_a <= b.value and low_b <= a.value


@given(settings())
@hypothesis_settings(max_examples=15)
def test_the_upper_side_of_importance_sampling_never_exceeds_the_union_of_chernoff_bounds(setting):
    rule, law = setting.build()
    found = ladder(rule, law, simulations=500, sampling="importance", intersections=0).overall
    assert found["L6"].log_value <= found["L3"].log_value + 1e-9


def test_units_are_estimated_from_their_own_draws():
    rng = np.random.default_rng(0)
    means = np.array([[0.0], [3.0], [30.0]])
    sig = Signatures(means, np.ones((3, 1, 1)), np.array([0, 1, 2]))
    law = well_specified(sig)
    drawn = simulate_rare(Rule(sig), law, 60_000, rng, margins(Rule(sig), law))
    for c, truth in ((0, stats.norm.sf(1.5)), (2, stats.norm.sf(13.5))):
        bound = drawn.bound(np.arange(3) == c, 0.999, Assumption.A4)
        assert np.exp(bound.log_lower) <= truth <= bound.value
        assert bound.estimate == pytest.approx(truth, rel=0.05)


def test_an_impossible_error_is_vanishingly_bounded():
    """A query law that cannot leave its side: the certain answer is reported as a limit, not as zero."""
    sig = Signatures(np.array([[0.0], [0.0]]), np.array([[[1.0]], [[4.0]]]), np.array([0, 1]))
    law = QueryLaw(np.zeros((1, 1, 1)), np.array([[[1e-12]]]), np.array([0]), np.array([0]), np.ones(1))
    bound = simulate_rare(Rule(sig), law, 1000, np.random.default_rng(0)).bound(_everything(law), 0.95, Assumption.A4)
    assert 0 < bound.value < 1e-100


@pytest.mark.slow
def test_intervals_of_importance_sampling_cover_in_10000_repetitions():
    sig = _tied(9.0, d=1)
    law, rule = well_specified(sig), Rule(sig)
    truth, confidence = stats.norm.logcdf(-4.5), 0.9
    # One long draw in blocks: each block is a repetition of its own.
    drawn = simulate_rare(rule, law, 10_000 * 60, np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(drawn.values.size)
    values = drawn.values[order].reshape(10_000, 60)
    from theory.monitor import bounded_mean_interval

    scale = np.logaddexp.reduce(drawn.log_mass)
    misses = 0
    for row in values:
        low, high = bounded_mean_interval(row, 1.0, confidence)
        misses += not (np.log(max(low, 1e-300)) + scale <= truth <= np.log(high) + scale)
    assert misses <= stats.binom.ppf(1 - 1e-6, 10_000, 1 - confidence)
