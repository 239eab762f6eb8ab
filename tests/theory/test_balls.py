"""The theorem: no law within the radius gives an event a larger probability, and some law attains it."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import InputError
from theory.balls import chi_square_ball, kl_ball, renyi_ball
from theory.bound import LOG_IMPOSSIBLE

_ALPHAS = (1.001, 1.1, 1.5, 2.0, 7.5, 100.0)
_LOGS = [-5000.0, -700.0, -50.0, -5.0, -0.7, -1e-3, -1e-12]


def _root(divergence, log_p, radius):
    """The largest log q within the radius, by bisection at 60 digits."""
    with mpmath.workdps(60):
        log_p, radius = mpmath.mpf(log_p), mpmath.mpf(radius)
        if radius >= -log_p:
            return mpmath.mpf(0)
        p = mpmath.e**log_p
        low, high = log_p, -(mpmath.mpf(10) ** -50)
        for _ in range(220):
            middle = (low + high) / 2
            low, high = (middle, high) if divergence(mpmath.e**middle, p) < radius else (low, middle)
        return high


def _kl(q, p):
    return q * mpmath.log(q / p) + (1 - q) * mpmath.log((1 - q) / (1 - p))


def _renyi(alpha):
    a = mpmath.mpf(alpha)
    return lambda q, p: mpmath.log(q**a * p ** (1 - a) + (1 - q) ** a * (1 - p) ** (1 - a)) / (a - 1)


def _chi_square(log_p, radius):
    """The supremum of ``p' + sqrt(chi2 p' (1 - p'))`` over p' up to p, in logs."""
    with mpmath.workdps(60):
        p, radius = mpmath.e ** mpmath.mpf(log_p), mpmath.mpf(radius)
        return mpmath.mpf(0) if p >= 1 / (1 + radius) else mpmath.log(p + mpmath.sqrt(radius * p * (1 - p)))


def _above_by_a_hair(found, truth):
    with mpmath.workdps(60):
        excess = float(mpmath.mpf(float(found)) - truth)
    return 0 <= excess <= 1e-11 * max(1.0, -float(truth))


@pytest.mark.parametrize("log_p", _LOGS)
@pytest.mark.parametrize("radius", [1e-18, 1e-9, 1e-3, 1.0, 30.0])
def test_rounded_up_from_sixty_digits(log_p, radius):
    assert _above_by_a_hair(kl_ball(log_p, radius), _root(_kl, log_p, radius))
    for alpha in _ALPHAS[::2]:
        assert _above_by_a_hair(renyi_ball(log_p, alpha, radius), _root(_renyi(alpha), log_p, radius)), alpha
    assert _above_by_a_hair(chi_square_ball(log_p, radius), _chi_square(log_p, radius))


@st.composite
def reweighted(draw: st.DrawFn):
    """A discrete law P, another Q, and an event."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(2, 8))
    p = rng.dirichlet(np.full(k, draw(st.sampled_from([0.3, 1.0, 10.0]))))
    p = np.maximum(p, 1e-30)
    p = p / p.sum()
    q = p * np.exp(rng.normal(size=k) * draw(st.sampled_from([1e-3, 0.3, 3.0])))
    q = q / q.sum()
    event = rng.random(k) < 0.5
    event[0], event[1] = True, False
    return p, q, event


@given(reweighted())
def test_no_law_within_the_radius_exceeds_it(laws):
    p, q, event = laws
    log_p, truth = np.log(p[event].sum()), np.log(q[event].sum()) - 1e-7
    ratio = q / p
    assert kl_ball(log_p, (q * np.log(ratio) - q + p).sum().clip(0)) >= truth
    assert chi_square_ball(log_p, (p * (ratio - 1) ** 2).sum()) >= truth
    for alpha in _ALPHAS[1:]:
        # The subtracted terms sum to zero and take the rounding of p and q with them.
        assert renyi_ball(log_p, alpha, np.log1p((p * (ratio**alpha - 1 - alpha * (ratio - 1))).sum().clip(0)) / (alpha - 1)) >= truth


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_attained_where_the_likelihood_ratio_is_constant_on_the_event_and_off_it(first, second):
    p, q = sorted((first, second))
    binary = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    assert np.exp(kl_ball(np.log(p), max(binary, 0.0))) == pytest.approx(q, rel=1e-6, abs=1e-7)
    chi2 = (q - p) ** 2 / (p * (1 - p))
    if p < 1 / (1 + chi2):
        assert np.exp(chi_square_ball(np.log(p), chi2)) == pytest.approx(q, rel=1e-6)


@given(st.lists(st.floats(-800, 0), min_size=2, max_size=20), st.floats(0, 50), st.sampled_from(_ALPHAS))
def test_increasing_between_the_probability_and_one(log_p, radius, alpha):
    log_p = np.sort(log_p)
    for found in (kl_ball(log_p, radius), chi_square_ball(log_p, radius), renyi_ball(log_p, alpha, radius)):
        assert (found >= log_p).all() and (found <= 0).all()
        assert (np.diff(found) >= -1e-9 * (1 + np.abs(found[1:]))).all()
    wider = 1.5 * radius
    assert (kl_ball(log_p, wider) >= kl_ball(log_p, radius) - 1e-9).all()


@given(st.floats(-300, -1e-6), st.floats(1e-6, 20))
def test_order_two_is_the_chi_square_ball_and_hoelder_is_wider(log_p, radius):
    two, chi2 = renyi_ball(log_p, 2.0, radius), chi_square_ball(log_p, np.expm1(radius))
    assert two == pytest.approx(chi2, rel=1e-7, abs=1e-9)
    for alpha in _ALPHAS:
        assert renyi_ball(log_p, alpha, radius) <= max(log_p, (alpha - 1) / alpha * (log_p + radius)) + 1e-9 * -log_p
    if log_p > -20:
        assert renyi_ball(log_p, 1.001, radius) == pytest.approx(kl_ball(log_p, radius), abs=0.02)


def test_a_certain_and_an_impossible_event():
    for ball in (kl_ball, chi_square_ball, lambda log_p, radius: renyi_ball(log_p, 2.0, radius)):
        found = ball([-np.inf, LOG_IMPOSSIBLE, 0.0, 3.0], 0.1)
        assert found[0] == -np.inf and -np.inf < found[1] < -700 and (found[2:] == 0).all()
        assert (ball([-np.inf, -5.0], np.inf) == 0).all()
        assert ball(-5.0, 0.0) == -5.0


def test_shapes_are_broadcast():
    assert kl_ball(np.full((3, 1), -4.0), np.array([0.1, 0.2])).shape == (3, 2)
    assert kl_ball(-4.0, 0.1).shape == ()


def test_bad_input_is_named():
    with pytest.raises(InputError, match="log_p"):
        kl_ball([np.nan], 0.1)
    with pytest.raises(InputError, match="radius"):
        chi_square_ball([-1.0], -0.1)
    with pytest.raises(InputError, match="radius"):
        kl_ball([-1.0], np.nan)
    with pytest.raises(InputError, match=r"alpha.*order one"):
        renyi_ball([-1.0], 1.0, 0.1)
