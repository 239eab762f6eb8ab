from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory import (
    ErrorMonitor,
    InputError,
    betting_interval,
    bounded_mean_interval,
    confidence_sequence,
    empirical_bernstein,
    first_alarm,
)
from theory.monitor import error_limits, log_capital

_REPETITIONS = 10_000
_PRIORS = ((1.0, 1.0), (1.0, 20.0), (3.0, 2.0))


def _allowed(failure: float) -> int:
    """Failures in the repetitions that a true failure probability of at most `failure` makes plausible."""
    return int(stats.binom.ppf(1 - 1e-6, _REPETITIONS, failure))


def _table(T: int, alpha: float, side: str, prior: tuple[float, float]) -> np.ndarray:
    """Limits for every count of errors s <= n <= T, (T + 1, T + 1, 2), indexed by n and s."""
    n, s = np.tril_indices(T + 1)
    out = np.tile([0.0, 1.0], (T + 1, T + 1, 1))
    out[n, s] = error_limits(s, n, alpha, side, prior)
    return out


def _ever_violated(table: np.ndarray, p: float) -> float:
    """Exact probability that independent errors of rate p ever leave their limits, by recursion over counts."""
    T = table.shape[0] - 1
    alive, violated = np.zeros(T + 1), 0.0
    alive[0] = 1.0
    for n in range(1, T + 1):
        alive = alive * (1 - p) + np.concatenate([[0.0], alive[:-1]]) * p
        out = (table[n, :, 0] > p) | (table[n, :, 1] < p)
        violated += alive[out].sum()
        alive[out] = 0
    return violated


@pytest.mark.parametrize("prior", _PRIORS)
def test_the_capital_is_the_mixture_of_bets_above_the_promise(prior):
    for s, n, p in ((0, 5, 0.1), (3, 10, 0.2), (9, 10, 0.6), (2, 40, 0.01)):
        law = stats.beta(*prior)
        mixed = law.expect(lambda q, s=s, n=n, p=p: (q / p) ** s * ((1 - q) / (1 - p)) ** (n - s), lb=p, conditional=True)
        assert log_capital(s, n, p, prior) == pytest.approx(np.log(mixed), rel=1e-6)


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0.001, 0.999), st.floats(0, 1), st.sampled_from(_PRIORS))
def test_the_capital_is_a_supermartingale_whenever_the_next_query_keeps_the_promise(s, f, promised, part, prior):
    now = np.exp(log_capital(s, s + f, promised, prior))
    error, none = np.exp(log_capital(np.array([s + 1, s]), s + f + 1, promised, prior))
    r = promised * part
    assert r * error + (1 - r) * none <= now * (1 + 1e-9)
    # At the promise itself it is a martingale.
    assert promised * error + (1 - promised) * none == pytest.approx(now, rel=1e-9)


@given(st.integers(1, 2000), st.data(), st.sampled_from([0.6, 0.1, 1e-3, 1e-9]), st.sampled_from([*_PRIORS, (1.0, 300.0)]))
def test_every_rate_beyond_a_limit_is_excluded_and_rates_just_inside_are_not(n, data, alpha, prior):
    s = data.draw(st.integers(0, n))
    low = error_limits(s, n, alpha, "lower", prior)[0]
    assert low <= s / n
    if low > 0:
        beyond = low * np.concatenate([np.linspace(0.001, 1, 500), np.geomspace(1e-9, 1e-3, 50)])
        assert min(log_capital(s, n, p, prior) for p in beyond) >= -np.log(alpha)
        inside = low * (1 + 1e-5)
        assert log_capital(s, n, inside, prior) < -np.log(alpha) + 1e-9 or low == pytest.approx(s / (n + prior[1]))
    # The upper limit is the mirrored lower one.
    high = error_limits(n - s, n, alpha, "upper", prior[::-1])[1]
    assert high == pytest.approx(1 - low, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("side", ["both", "lower", "upper"])
@pytest.mark.parametrize("prior", _PRIORS[:2])
def test_exact_probability_of_ever_leaving_the_limits(side, prior):
    alpha = 0.1
    table = _table(250, alpha, side, prior)
    worst = max(_ever_violated(table, p) for p in (0.002, 0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.97))
    assert worst <= alpha
    # The statement is not empty: a large part of alpha is spent.
    assert worst >= 0.15 * alpha


@pytest.mark.parametrize(("p", "side"), [(0.02, "both"), (0.3, "both"), (0.1, "lower"), (0.1, "upper")])
def test_limits_hold_at_all_times_together_in_repetitions(p, side):
    T, alpha = 300, 0.1
    table = _table(T, alpha, side, (1.0, 1.0))
    counts = np.cumsum(np.random.default_rng(0).random((_REPETITIONS, T)) < p, axis=1)
    limits = table[np.arange(1, T + 1), counts]
    ever = ((limits[..., 0] > p) | (limits[..., 1] < p)).any(axis=1)
    assert ever.sum() <= _allowed(alpha)
    # Intersecting with the past changes nothing about that.
    sample = np.diff(np.concatenate([[0], counts[0]]))
    running = confidence_sequence(sample, alpha, side, running=True)
    assert (running[:, 0] == np.maximum.accumulate(limits[0, :, 0])).all()
    assert (running[:, 1] == np.minimum.accumulate(limits[0, :, 1])).all()


def test_the_clopper_pearson_interval_read_at_all_times_would_fail():
    """The violation counted above is what fixed-n intervals suffer when they are watched."""
    T, alpha, p = 300, 0.1, 0.3
    n, s = np.tril_indices(T + 1)
    table = np.tile([0.0, 1.0], (T + 1, T + 1, 1))
    table[n, s, 0] = np.where(s > 0, stats.beta.ppf(alpha / 2, np.maximum(s, 1), n - s + 1), 0)
    table[n, s, 1] = np.where(s < n, stats.beta.ppf(1 - alpha / 2, s + 1, np.maximum(n - s, 1)), 1)
    assert _ever_violated(table, p) > 2 * alpha


def _adaptive(promised: float, T: int, rng: np.random.Generator) -> np.ndarray:
    """Dependent errors whose conditional rate never exceeds the promise: bold while ahead, and idle after lucky runs."""
    errors = np.zeros((_REPETITIONS, T), dtype=bool)
    count = np.zeros(_REPETITIONS)
    for t in range(T):
        ahead = count >= promised * t
        rate = np.where(ahead, promised, promised * rng.random(_REPETITIONS))
        errors[:, t] = rng.random(_REPETITIONS) < rate
        count += errors[:, t]
    return errors


@pytest.mark.parametrize("kind", ["at the promise", "adaptive", "drifting"])
def test_false_alarms_over_all_time_in_repetitions(kind):
    rng = np.random.default_rng(1)
    T, alpha, promised = 400, 0.1, 0.05
    if kind == "adaptive":
        errors = _adaptive(promised, T, rng)
    else:
        rate = np.full(T, promised) if kind == "at the promise" else promised * np.abs(np.sin(np.arange(T) / 30))
        errors = rng.random((_REPETITIONS, T)) < rate
    # The capital depends on the counts only, so it is found once for each pair of them.
    n, s = np.tril_indices(T + 1)
    table = np.zeros((T + 1, T + 1))
    table[n, s] = log_capital(s, n, promised, (1.0, 1 / promised))
    capital = table[np.arange(1, T + 1), np.cumsum(errors, axis=1)]
    sounded = capital >= -np.log(alpha)
    assert sounded.any(axis=1).sum() <= _allowed(alpha)
    picked = np.concatenate([np.flatnonzero(sounded.any(axis=1))[:100], np.arange(100)])
    for row in picked:
        expected = int(np.argmax(sounded[row])) + 1 if sounded[row].any() else None
        assert first_alarm(errors[row], promised, alpha) == expected


def test_an_alarm_sounds_when_the_promise_is_broken_and_when_the_lower_limit_passes_it():
    rng = np.random.default_rng(2)
    errors = rng.random(3000) < 0.1
    found = first_alarm(errors, 0.05, 0.05, prior=(1.0, 1.0))
    assert found is not None
    low = confidence_sequence(errors, 0.05, "lower")[:, 0]
    assert found == int(np.argmax(low > 0.05)) + 1
    assert first_alarm(errors[: found - 1], 0.05, 0.05, prior=(1.0, 1.0)) is None
    assert first_alarm(rng.random(3000) < 0.03, 0.05, 0.05) is None
    assert first_alarm(np.zeros(0, dtype=bool), 0.05, 0.05) is None


def test_lower_limits_cover_the_largest_conditional_rate_of_drifting_errors():
    T, alpha = 300, 0.1
    rate = 0.02 + 0.18 * (np.arange(T) / T)
    table = _table(T, alpha, "both", (1.0, 1.0))
    counts = np.cumsum(np.random.default_rng(3).random((_REPETITIONS, T)) < rate, axis=1)
    limits = table[np.arange(1, T + 1), counts]
    assert ((limits[..., 0] > rate.max()) | (limits[..., 1] < rate.min())).any(axis=1).sum() <= _allowed(alpha)


@given(st.lists(st.booleans(), max_size=80), st.integers(0, 80))
def test_a_monitor_does_not_depend_on_how_outcomes_are_batched(errors, cut):
    errors = np.array(errors, dtype=bool)
    whole = ErrorMonitor(0.9).update(errors)
    assert whole == ErrorMonitor(0.9).update(errors[:cut]).update(errors[cut:])
    low, high = whole.interval
    bound = whole.bound()
    assert bound.level == "A0"
    if errors.size:
        assert [low, high] == confidence_sequence(errors, 1 - 0.9)[-1].tolist()
        assert bound.value >= high and bound.estimate == errors.mean() and "Ville" in bound.source and bound.confidence == 0.9
        assert (bound.log_lower is None) == (low == 0)
    else:
        assert (low, high) == (0, 1) and bound.vacuous


def test_a_monitor_raises_the_alarm_on_the_capital():
    monitor = ErrorMonitor(0.95).update(np.ones(20, dtype=int))
    assert monitor.alarm(0.2) and not ErrorMonitor(0.95).update(np.zeros(20, dtype=int)).alarm(0.2)
    assert monitor.log_capital(0.2) == pytest.approx(float(log_capital(20, 20, 0.2)))


def test_limits_at_extremes():
    assert error_limits(0, 0, 0.05).tolist() == [0, 1]
    low, high = error_limits(np.array([0, 10**9]), np.array([10**9, 10**9]), 1e-12).T
    assert low[0] == 0 and 0 < high[0] < 1e-6 and 1 - 1e-6 < low[1] < 1 and high[1] == 1
    low, high = error_limits(1, 10**7, 0.05)
    assert 0 < low < 1e-7 < high < 1e-5


# Bounded values.


def _samples(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    if kind == "rare":
        return (rng.random(shape) < 0.03).astype(float), 0.03
    if kind == "coin":
        return (rng.random(shape) < 0.5).astype(float), 0.5
    if kind == "weights":
        return rng.random(shape) ** 9, 0.1
    return rng.beta(20, 5, size=shape), 0.8


_KINDS = ("rare", "coin", "weights", "narrow")


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("method", ["betting", "lower", "upper", "bernstein"])
def test_mean_intervals_hold_in_repetitions(kind, method):
    values, mean = _samples(kind, (_REPETITIONS, 60), np.random.default_rng(4))
    confidence = 0.9
    if method == "bernstein":
        limits = empirical_bernstein(values, confidence)
    else:
        limits = betting_interval(values, confidence, "both" if method == "betting" else method)
    missed = (limits[:, 0] > mean) | (limits[:, 1] < mean)
    assert missed.sum() <= _allowed(1 - confidence)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["weights", "narrow"])
def test_time_uniform_betting_holds_at_any_time_in_repetitions(kind):
    values, mean = _samples(kind, (_REPETITIONS, 16), np.random.default_rng(5))
    ever = np.zeros(_REPETITIONS, dtype=bool)
    for n in (2, 6, 16):
        limits = betting_interval(values[:, :n], 0.7, time_uniform=True)
        ever |= (limits[:, 0] > mean) | (limits[:, 1] < mean)
    assert ever.sum() <= _allowed(0.3)


def test_exact_probability_that_time_uniform_betting_ever_misses_a_rate():
    """For 0 and 1 the mixture's interval depends on the counts only, so every time up to T can be gone through exactly."""
    T, confidence = 40, 0.8
    table = np.tile([0.0, 1.0], (T + 1, T + 1, 1))
    for n in range(1, T + 1):
        table[n, : n + 1] = betting_interval(np.tri(n + 1, n, -1), confidence, time_uniform=True)
    worst = max(_ever_violated(table, p) for p in (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 0.97))
    assert 0.02 <= worst <= 1 - confidence


@pytest.mark.parametrize("time_uniform", [False, True])
@pytest.mark.parametrize("support", [(0.0, 1.0), (0.0, 0.5, 1.0)])
def test_exact_coverage_by_enumerating_every_sequence(support, time_uniform):
    n = 11 if len(support) == 2 else 7
    sequences = np.array(list(itertools.product(support, repeat=n)))
    confidence = 0.7
    limits = betting_interval(sequences, confidence, time_uniform=time_uniform)
    bernstein = empirical_bernstein(sequences, confidence)
    for p in np.linspace(0.01, 0.99, 50):
        law = {0.0: 1 - p, 1.0: p} if len(support) == 2 else {0.0: (1 - p) ** 2, 0.5: 2 * p * (1 - p), 1.0: p**2}
        chance = np.prod(np.vectorize(law.get)(sequences), axis=1)
        assert chance[(limits[:, 0] > p) | (limits[:, 1] < p)].sum() <= 1 - confidence
        assert chance[(bernstein[:, 0] > p) | (bernstein[:, 1] < p)].sum() <= 1 - confidence


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.sampled_from([0.3, 0.9, 0.999]), st.booleans())
def test_betting_intervals_are_mirrored_nested_and_inside_the_unit_interval(values, confidence, time_uniform):
    values = np.array(values)
    low, high = betting_interval(values, confidence, time_uniform=time_uniform)
    assert 0 <= low <= high <= 1
    mirrored = betting_interval(1 - values, confidence, time_uniform=time_uniform)
    assert [1 - mirrored[1], 1 - mirrored[0]] == pytest.approx([low, high], abs=3e-5)
    one_sided = betting_interval(values, confidence, "upper", time_uniform)
    assert one_sided[0] == 0
    batch = betting_interval(np.stack([values, 1 - values]), confidence, time_uniform=time_uniform)
    assert batch[0] == pytest.approx([low, high], abs=1e-12)


def test_the_mean_below_a_betting_limit_is_excluded_all_the_way_down():
    """The bisection rests on this: the largest capital so far is non-increasing in the mean that is bet against."""
    rng = np.random.default_rng(6)
    values = rng.beta(1, 4, size=200)
    bets = rng.gamma(1.0, size=200) * 3
    grid = np.linspace(0.001, 0.999, 400)
    gains = np.log1p(np.minimum(bets, 0.5 / grid[:, None]) * (values - grid[:, None]))
    largest = np.cumsum(gains, axis=1).max(axis=1)
    assert (np.diff(largest) <= 1e-12).all()


@pytest.mark.parametrize("mean", [0.01, 0.1, 0.5])
def test_a_hundred_thousand_weights_give_an_interval_near_the_normal_one(mean):
    rng = np.random.default_rng(7)
    values = 3.0 * rng.beta(2 * mean, 2 * (1 - mean), size=100_000)
    normal = 1.96 * values.std() / np.sqrt(values.size)
    low, high = bounded_mean_interval(values, 3.0, 0.95)
    assert low <= values.mean() <= high and high - low <= 2 * 1.45 * normal
    assert tuple(betting_interval(values / 3, 0.95) * 3) == pytest.approx((low, high), rel=1e-12)
    bernstein = empirical_bernstein(values / 3, 0.95)
    assert high - low <= 3 * np.diff(bernstein)[0]
    running = betting_interval(values / 3, 0.95, time_uniform=True)
    assert np.diff(running)[0] * 3 <= 2 * 2.2 * normal


def test_empirical_bernstein_is_its_formula():
    values = np.array([0.0, 0.25, 0.5, 1.0] * 50)
    radius = np.sqrt(2 * values.var(ddof=1) * np.log(40) / 200) + 7 * np.log(40) / (3 * 199)
    low, high = empirical_bernstein(values, 0.9)
    assert (low, high) == pytest.approx((values.mean() - radius, values.mean() + radius), rel=1e-12)
    assert empirical_bernstein(values, 0.95, "upper").tolist() == pytest.approx([0, high], rel=1e-12)
    assert empirical_bernstein(np.array([0.3]), 0.9).tolist() == [0, 1]


def test_constant_and_single_values():
    for values in (np.zeros(50), np.ones(50), np.full(50, 0.25), np.array([0.7])):
        for time_uniform in (False, True):
            low, high = betting_interval(values, 0.95, time_uniform=time_uniform)
            assert low <= values[0] <= high
    assert bounded_mean_interval(np.zeros(1000), 1e-300, 0.95)[1] < 1e-302 * 2
    assert bounded_mean_interval(np.full(5, 7.0), 7.0, 0.95)[1] == 7.0


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: confidence_sequence(np.array([0, 2]), 0.05), "errors"),
        (lambda: confidence_sequence(np.array([0.5]), 0.05), "errors"),
        (lambda: confidence_sequence(np.zeros((2, 2)), 0.05), "errors"),
        (lambda: confidence_sequence(np.zeros(2), 1.0), "alpha"),
        (lambda: confidence_sequence(np.zeros(2), 0.05, "left"), "side"),
        (lambda: confidence_sequence(np.zeros(2), 0.05, prior=(0.5, 0.5)), "prior"),
        (lambda: error_limits(3, 2, 0.05), "errors"),
        (lambda: error_limits(1.5, 2, 0.05), "errors"),
        (lambda: log_capital(1, 2, 1.0), "promised"),
        (lambda: log_capital(3, 2, 0.5), "errors"),
        (lambda: first_alarm(np.zeros(2), 0.0, 0.05), "promised"),
        (lambda: first_alarm(np.zeros(2), 0.5, 0.0), "alpha"),
        (lambda: ErrorMonitor(1.0), "confidence"),
        (lambda: ErrorMonitor(errors=2, n=1), "errors"),
        (lambda: ErrorMonitor().update(np.array([np.nan])), "errors"),
        (lambda: betting_interval(np.array([0.1, 1.1]), 0.95), "values"),
        (lambda: betting_interval(np.array([np.nan]), 0.95), "values"),
        (lambda: betting_interval(np.zeros(0), 0.95), "values"),
        (lambda: betting_interval(np.zeros(3), 0.0), "confidence"),
        (lambda: betting_interval(np.zeros(3), 0.9, "left"), "side"),
        (lambda: empirical_bernstein(np.array([-0.1]), 0.95), "values"),
        (lambda: bounded_mean_interval(np.zeros(3), 0.0, 0.95), "upper"),
        (lambda: bounded_mean_interval(np.array([2.0]), 1.0, 0.95), "values"),
        (lambda: bounded_mean_interval(np.zeros((3, 3)), 1.0, 0.95), "values"),
    ],
)
def test_bad_input_is_named(call, what):
    with pytest.raises(InputError, match=what):
        call()
