"""Every bound in this package against an independent formula, from both sides: never below the truth, and above it by rounding only.

Small fixed inputs, closed forms (or sixty digits) and exact messages. `make mutants` changes the modules one operator, number
or argument at a time and expects a test of this file to fail; what it cannot tell apart is listed in `mutants.md`.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from theory import Assumption, Bound, Direction, Gaussians, InputError, Margins, Measured, QuadraticLaw, QueryLaw, Rule, Signatures, margins
from theory import balls as balls_
from theory import batch as batch_
from theory import certificates as certificates_
from theory import robust as robust_
from theory import tails as tails_
from theory import unions as unions_
from theory.bound import LOG_IMPOSSIBLE, nothing_known
from theory.exact import TailProbability, tail_probability
from theory.intersection import Forms

LAW = QuadraticLaw.of


def just_above(found, truth, within=1e-13):
    """At least the truth, and above it by no more than a few roundings (of the truth, or of one)."""
    found = np.asarray(found, dtype=np.float64).ravel()
    truth = [mpmath.mpf(t) for t in np.ravel(np.asarray(truth, dtype=object))]
    assert len(truth) == found.size
    with mpmath.workdps(60):
        return all(0 <= mpmath.mpf(float(f)) - t <= within * max(1, abs(t)) for f, t in zip(found, truth, strict=True))


def close(truth, rel=1e-13):
    """Equal to within a relative error, however small the truth is."""
    return pytest.approx(truth, rel=rel, abs=0)


def refuses(argument, problem, call, *args, **kwargs):
    """Whether the call raises the one error of bad input, with exactly this message."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return (caught.value.argument, caught.value.problem) == (argument, problem)


# bound.py


def _bound(*args, **kwargs):
    return Bound("L3", Assumption.A4, *args, **kwargs)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: _bound(math.nan), "NaN is not a bound"),
        (lambda: _bound(math.nan, Direction.LOWER), "NaN is not a bound"),
        (lambda: _bound(0.5, Direction.LOWER), "a lower bound above one is false (log 0.5)"),
        (lambda: _bound(-3.0, log_lower=-2.0), "lower side -2.0 is above the upper side -3.0"),
        (lambda: _bound(2.0, log_lower=1.0), "lower side 1.0 is above the upper side 0.0"),
        (lambda: _bound(-3.0, log_lower=math.nan), "lower side nan is above the upper side -3.0"),
        (lambda: _bound(-3.0, confidence=0.0), "confidence 0.0 is not inside (0, 1)"),
        (lambda: _bound(-3.0, confidence=1.0), "confidence 1.0 is not inside (0, 1)"),
        (lambda: _bound(-3.0, confidence=1.5), "confidence 1.5 is not inside (0, 1)"),
        (lambda: _bound(-3.0, estimate=-0.5), "estimate -0.5 is not a probability"),
        (lambda: _bound(-3.0, estimate=1.5), "estimate 1.5 is not a probability"),
        (lambda: _bound(-3.0, log_estimate=0.5), "log estimate 0.5 is not that of a probability"),
        (lambda: _bound(-3.0, log_estimate=-math.inf), "log estimate -inf is not that of a probability"),
    ],
)
def test_a_bound_that_lies_cannot_be_made(make, problem):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == f"bound L3: {problem}"


def test_bounds_on_the_edge_of_the_possible_can_be_made():
    assert _bound(0.0, Direction.LOWER).vacuous is False
    assert _bound(-math.inf).log_formula == LOG_IMPOSSIBLE
    assert _bound(-math.inf, Direction.LOWER).log_formula == -math.inf
    assert _bound(-math.inf, Direction.LOWER).vacuous
    assert _bound(-3.0, log_lower=-3.0).log_lower == -3.0
    assert _bound(2.0, log_lower=0.0).log_lower == 0.0
    assert _bound(-3.0, log_lower=-math.inf).log_lower is None
    assert _bound(-3.0, estimate=0.0).estimate == 0 and _bound(-3.0, estimate=1.0).estimate == 1
    assert _bound(-3.0, log_estimate=0.0).log_estimate == 0


def test_values_are_rounded_in_the_direction_of_the_bound():
    assert _bound(0.0).value == _bound(7.0).value == 1 and _bound(7.0).log_value == 0 and _bound(0.0).vacuous
    assert _bound(-0.5).value == math.nextafter(math.exp(-0.5), 1) and not _bound(-0.5).vacuous
    assert _bound(-0.5, Direction.LOWER).value == math.nextafter(math.exp(-0.5), 0)
    assert _bound(-1e-20).value == 1 and _bound(-1e-20).vacuous
    assert _bound(-1e-20, Direction.LOWER).value < 1
    assert _bound(-1e9).value == 5e-324 and _bound(-1e9, Direction.LOWER).value == 0


def test_a_bound_as_a_dictionary():
    plain = {
        "log_value": -0.5,
        "value": math.nextafter(math.exp(-0.5), 1),
        "direction": "upper",
        "level": "A4",
        "vacuous": False,
        "binding": None,
        "confidence": None,
        "source": "",
        "given": "",
        "note": "",
    }
    assert _bound(-0.5).to_dict() == plain
    full = _bound(-0.5, source="a", given="b", binding=(1, 2), confidence=0.9, log_lower=-1.0, estimate=0.25, log_estimate=-2.0, note="c")
    rest = {"source": "a", "given": "b", "binding": [1, 2], "confidence": 0.9, "note": "c"}
    assert full.to_dict() == {**plain, **rest, "log_lower": -1.0, "estimate": 0.25, "log_estimate": -2.0}
    for direction in Direction:
        assert _bound(-math.inf, direction).to_dict()["log_value"] == LOG_IMPOSSIBLE
    assert _bound(-0.5, Direction.LOWER).to_dict()["log_value"] == -0.5
    assert _bound(-math.inf).to_dict()["direction"] == "upper"


def test_nothing_known_says_why():
    found = nothing_known("L8", Assumption.A0, "no data", "a source", "a condition")
    assert found == Bound("L8", Assumption.A0, 0.0, source="a source", given="a condition", note="no data") and found.vacuous
    assert nothing_known("L8", Assumption.A0, "no data") == Bound("L8", Assumption.A0, 0.0, note="no data")


# tails.py


def test_laurent_and_massart():
    assert tails_.laurent_massart_threshold(5, 3.0) == 5 + 2 * np.sqrt(15) + 6
    t = np.array([0.01, 1.0, 30.0, 1e4])
    assert just_above(tails_.log_laurent_massart(7, tails_.laurent_massart_threshold(7, t)), -t)
    assert (tails_.log_laurent_massart(7, [7, 6.9, -3]) == 0).all() and tails_.log_laurent_massart(7, 7.5) < 0
    # Precision and type of what goes in do not matter: floats of single precision, counts without a sign.
    assert tails_.log_laurent_massart(7, np.float32(1e8)) == tails_.log_laurent_massart(7, float(np.float32(1e8)))
    assert tails_.log_laurent_massart(7, np.uint8(3)) == 0


@pytest.mark.parametrize("gap", [1e-300, 1e-9, 0.3, 7.0, 1e9])
@pytest.mark.parametrize("a", [0.0, 1e-100, 0.7, 5.0, 1e150])
@pytest.mark.parametrize("b", [0.0, 1e-9, 2.0, 3e5])
def test_the_exponent_is_the_largest_t_that_fits_and_is_rounded_down(gap, a, b):
    with mpmath.workdps(400):
        G, A, B = mpmath.mpf(gap), mpmath.mpf(a), mpmath.mpf(b)
        if a == b == 0:
            truth = mpmath.mpf(-LOG_IMPOSSIBLE)
        elif b == 0:
            truth = (G / A) ** 2
        else:
            truth = ((mpmath.sqrt(A**2 + 4 * B * G) - A) / (2 * B)) ** 2
        found = mpmath.mpf(float(tails_.exponent(np.array(gap), a, b)))
        if truth < mpmath.mpf("1e-290"):
            assert found <= truth * (1 + mpmath.mpf(1e-10)) + mpmath.mpf("1e-300")
        else:
            truth = min(truth, mpmath.mpf(-LOG_IMPOSSIBLE))
            assert truth * (1 - mpmath.mpf(3e-14)) <= found <= truth


def test_the_exponent_of_gaps_and_scales_at_the_ends_of_the_floats():
    assert (tails_.exponent([-1.0, 0.0, -1e300], [1.0, 0.0, 0.0], [1.0, 0.0, 2.0]) == 0).all()
    assert tails_.exponent(1e200, 1e-200, 0.0) == tails_.exponent(1.0, 0.0, 0.0) == -LOG_IMPOSSIBLE
    assert tails_.exponent(1e-200, 1e-200, 0.0) == close(1, 2e-14)
    assert tails_.exponent(1e200, 1e200, 1e200) == close(((np.sqrt(5) - 1) / 2) ** 2, 3e-14)
    for k in range(3):
        arguments = [1.0, 1.0, 1.0]
        arguments[k] = np.longdouble(1)
        found = tails_.exponent(*arguments)
        assert found.dtype == np.float64 and found == tails_.exponent(1.0, 1.0, 1.0)


def test_the_closed_form_margin_bound():
    law = LAW([[2.0, -0.5, 0.0], [1.0, 3.0, 0.5]], [[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], [0.3, 0.0], [9.0, -3.0])
    mean, variance, least = np.array([10.5, 1.5]), np.array([2 * 4.25 + 5 + 0.09, 2 * 10.25 + 2]), np.array([0.5, 0.0])
    for x in (0.0, 1.25, np.array([-4.0, 0.5])):
        t = -tails_.log_lower_bernstein(law, x)
        assert np.sqrt(2 * variance * t) + 2 * least * t == close(mean - x, 1e-12)
    assert (tails_.log_lower_bernstein(law) == tails_.log_lower_bernstein(law, 0.0)).all()
    assert (tails_.log_lower_bernstein(law) > tails_.log_lower_bernstein(law, -1.0)).all()
    assert (tails_.log_lower_bernstein(law, [10.5, 2.0]) == 0).all()
    t = -tails_.log_upper_bernstein(law, np.array([30.0, 4.0]))
    assert np.sqrt(2 * variance * t) + 2 * np.array([2.0, 3.0]) * t == close(np.array([30.0, 4.0]) - mean, 1e-12)
    counts = np.array([30, 4], dtype=np.uint8)
    assert (tails_.log_upper_bernstein(law, counts) == tails_.log_upper_bernstein(law, counts.astype(float))).all()


def _mp_log_laplace(law, theta):
    """``log E exp(-theta M)`` of a batch of one law, in the working precision."""
    total = -theta * mpmath.mpf(law.c[0]) + (mpmath.mpf(law.s[0]) * theta) ** 2 / 2
    for w, g in zip(law.w[0], law.g[0], strict=True):
        e = 1 + 2 * mpmath.mpf(w) * theta
        total += -mpmath.log(e) / 2 + (mpmath.mpf(g) * theta) ** 2 / (2 * e)
    return total


def _mp_saddle(law, pole=False):
    """Zero of the derivative of the convex ``K`` (or ``K - log theta``) by bisection in log theta."""
    with mpmath.workdps(50):
        least = max(mpmath.mpf(0), -mpmath.mpf(law.w.min()))

        def slope(theta):
            total = -mpmath.mpf(law.c[0]) + mpmath.mpf(law.s[0]) ** 2 * theta - (1 / theta if pole else 0)
            for w, g in zip(map(mpmath.mpf, law.w[0]), map(mpmath.mpf, law.g[0]), strict=True):
                e = 1 + 2 * w * theta
                total += -w / e + g**2 * theta * (1 + w * theta) / e**2
            return total

        scale = 1 / mpmath.sqrt(law.variance()[0])
        low, high = scale * mpmath.mpf(10) ** -30, scale * mpmath.mpf(10) ** 30
        if least:
            high = 1 / (2 * least) * (1 - mpmath.mpf(10) ** -40)
        for _ in range(130):
            middle = mpmath.sqrt(low * high)
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
        return low


_SEARCHED = [
    LAW([0.0], 0.0, 2.0, 3.0),
    LAW([2.0], 0.0, 0.0, -1.0),
    LAW([3.0, 1.0], [1.0, 2.0], 0.0, -2.0),
    LAW([-1.0, 3.0], [1.0, 0.0], 0.5, 4.0),
    LAW([-1.0, -0.9, -0.8], 0.0, 0.0, 40.0),
    LAW([-1e-9, 1.0], [1e-3, 0.0], 0.0, 2.0),
    LAW([-1e6, 1.0, 1e-6], [1e3, 1.0, 0.0], 1.0, 3e6),
    LAW(np.geomspace(1e-9, 1e3, 9), 0.1, 0.0, -1.0),
    LAW([-2.0, -1e-3], [0.0, 5.0], 0.0, 1e4),
    LAW([1e-120], [1e-120], 1e-120, 3e-120),
]


@pytest.mark.parametrize("law", _SEARCHED)
@pytest.mark.parametrize("pole", [False, True])
def test_the_saddlepoint_is_where_the_slope_vanishes(law, pole):
    assert tails_.saddlepoint(law, pole)[0] == close(float(_mp_saddle(law, pole)), 3e-10)


def test_the_saddlepoint_where_there_is_none():
    batch = LAW([[1.0, 2.0], [1.0, -2.0], [1.0, 2.0], [-1.0, 1.0]], 0.0, [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -3.0, -5.0])
    assert tails_.saddlepoint(batch).tolist() == [np.inf, 0.0, 0.0, 0.0]
    found = tails_.saddlepoint(batch, pole=True)
    assert found[0] == np.inf and ((found[1:] > 0) & np.isfinite(found[1:])).all()
    assert found[2:3] == close([float(_mp_saddle(batch[2], True))], 3e-10)
    whole = QuadraticLaw(*(np.concatenate([getattr(law[[0]], n) for law in (batch[1], LAW([[4.0, 1.0]], 0.0, 0.0, -1.0))]) for n in "wgsc"))
    assert tails_.saddlepoint(LAW([[0.0]] * 2, 0.0, 0.0, [0.0, -3.0])).tolist() == [0, 0]
    assert tails_.saddlepoint(LAW([0.0], 0.0, 0.0, -4.0), pole=True) == close([0.25], 3e-10)
    assert tails_.saddlepoint(whole)[1] == close(float(_mp_saddle(whole[1])), 3e-10)


@pytest.mark.parametrize("law", _SEARCHED)
def test_chernoff_is_the_least_of_the_exponential_moments_and_rounded_up(law):
    with mpmath.workdps(50):
        truth = _mp_log_laplace(law, _mp_saddle(law))
        found = mpmath.mpf(float(tails_.log_chernoff(law)[0]))
        size = abs(_mp_saddle(law) * law.c[0]) + 1 + abs(truth)
    assert 0 <= found - truth <= 1e-13 * size
    assert tails_.log_chernoff(law) <= tails_.log_lower_bernstein(law)


def test_chernoff_in_closed_form_on_both_sides_and_off_zero():
    normal = LAW([[0.0], [0.0]], 0.0, [2.0, 1.0], [3.0, -1.0])
    assert just_above(tails_.log_chernoff(normal), [-9 / 8, 0])
    assert just_above(tails_.log_chernoff(normal, 1.0), [-0.5, 0])
    assert just_above(tails_.log_chernoff(normal, [1.0, -3.0]), [-0.5, -2])
    assert just_above(tails_.log_chernoff_upper(normal, [5.0, 2.0]), [-0.5, -4.5])
    chi2 = LAW([[1.0] * 4])
    with mpmath.workdps(40):
        # P(chi2_4 <= x) <= (e x / 4)^2 exp(-x / 2), and the same above.
        truth = [2 * mpmath.log(mpmath.mpf(x) / 4) + 2 - mpmath.mpf(x) / 2 for x in (0.5, 20)]
    assert just_above(tails_.log_chernoff(chi2, 0.5), truth[:1]) and just_above(tails_.log_chernoff_upper(chi2, 20.0), truth[1:])
    assert (tails_.log_chernoff(LAW([[0.0]] * 2, 0.0, 0.0, [0.0, -3.0])) == 0).all()
    assert tails_.log_chernoff(chi2, -0.1) == LOG_IMPOSSIBLE and tails_.log_chernoff(chi2, 4.0) == 0
    assert tails_.log_chernoff(chi2, np.uint8(1)) == tails_.log_chernoff(chi2, 1.0)
    assert tails_.log_chernoff_upper(chi2, np.uint8(20)) == tails_.log_chernoff_upper(chi2, 20.0)


# Evaluations that the search of each law takes, without and with the pole.
_STEPS = [(1, 5), (6, 9), (5, 8), (10, 6), (8, 8), (7, 7), (6, 8), (15, 17), (12, 12), (5, 5)]


def test_the_search_starts_at_the_closed_form_and_takes_few_steps(monkeypatch):
    seen = []
    inner = QuadraticLaw.laplace_derivatives
    monkeypatch.setattr(QuadraticLaw, "laplace_derivatives", lambda law, theta: seen.append(theta.copy()) or inner(law, theta))
    for law, most in zip(_SEARCHED, _STEPS, strict=True):
        for pole in (False, True):
            seen.clear()
            tails_.saddlepoint(law, pole)
            # One to spare for other machines' roundings.
            assert len(seen) <= most[pole] + 1
            t = -tails_.log_lower_bernstein(law)
            if t > 0:
                q = np.sqrt(2 * t / law.variance())
                assert seen[0] == close(q / (1 + 2 * law.least_weight() * q), 1e-13)
    seen.clear()
    # Without a positive mean it starts at one standard deviation, or half-way to the limit.
    tails_.saddlepoint(LAW([[0.0], [-1.0]], 0.0, [4.0, 0.0], [-1.0, -1.0]), pole=True)
    assert seen[0] == pytest.approx([0.25, 0.25])
    seen.clear()
    tails_.saddlepoint(LAW([0.0], 0.0, 0.0, -4.0), pole=True)
    assert seen[0] == pytest.approx([1.0])


# Laws with and without the pole whose Newton steps leave the bracket at either end, and the evaluations that their search takes.
_CORNERED = [
    (LAW([-3e-3, -0.0164, 0.65, 18.3], [0.0, 823.5, 4168.0, 0.0], 0.0, 1.15e8), False, 6),
    (LAW([-9e-6, 0.46, 221.0, -9e-3], [0.0, 0.0, 9136.0, 0.0], 0.0, 1.84e7), False, 38),
    (LAW([-1.7e-4, 134.0, -0.087, -1.3e-3], [0.0, 3.7e-4, 0.077, 0.0], 0.0, 1100.0), True, 14),
    (LAW([-11.8, 5.4e-3], [0.0, 2861.0], 0.0, -8.9e7), True, 9),
    (LAW([0.0], 0.0, 1.0, -100.0), True, 9),
    (LAW([6e-6], 0.255, 1.6e-3, 9380.0), False, 5),
]


@pytest.mark.parametrize(("law", "pole", "steps"), _CORNERED)
def test_the_search_stays_between_the_slopes_that_it_has_seen_in_any_unit(monkeypatch, law, pole, steps):
    seen = []
    inner = QuadraticLaw.laplace_derivatives

    def watched(law, theta):
        seen.append(float(theta[0]))
        return inner(law, theta)

    monkeypatch.setattr(QuadraticLaw, "laplace_derivatives", watched)
    assert tails_.saddlepoint(law, pole) == close([float(_mp_saddle(law, pole))], 3e-10)
    assert len(seen) <= steps + 1
    low, high = 0.0, law.limit()[0]
    for theta in seen:
        assert low < theta < high
        slope = inner(law, np.array([theta]))[0][0] - (1 / theta if pole else 0)
        low, high = (theta, high) if slope <= 0 else (low, theta)
    # Powers of two are exact, so every step must be the same.
    once = seen.copy()
    for unit in (2.0**-300, 2.0**300):
        seen.clear()
        tails_.saddlepoint(LAW(law.w * unit, law.g * unit, law.s * unit, law.c * unit), pole)
        assert [theta * unit for theta in seen] == once


def test_a_step_that_lands_on_the_limit_itself_is_not_taken():
    # K' = -c + 1 / (2 (1 - theta)), and the first step ends at 1, where K is infinite, if c = 2 + sqrt(3) to the last bits.
    c = 2 + np.sqrt(3) + np.arange(-600, 600) * np.spacing(2 + np.sqrt(3))
    assert tails_.saddlepoint(LAW(np.full((c.size, 1), -0.5), 0.0, 0.0, c)) == pytest.approx(1 - 1 / (2 * c), rel=3e-10)


def test_bounds_do_not_depend_on_the_unit_even_where_squares_vanish_or_overflow():
    law = LAW([[2.0, -0.5], [1.0, 3.0], [1.0, 0.0]], [[1.0, 0.5], [0.0, 1.0], [-2.0, 0.0]], [0.5, 0.0, 0.0], [5.0, 2.0, 1.5])
    for unit in (2.0**-1000, 2.0**-560, 2.0**900):
        scaled = LAW(law.w * unit, law.g * unit, law.s * unit, law.c * unit)
        for bound in (tails_.log_lower_bernstein, tails_.log_chernoff):
            assert (bound(scaled) == bound(law)).all() and (bound(scaled, unit) == bound(law, 1.0)).all()
        for bound in (tails_.log_upper_bernstein, tails_.log_chernoff_upper):
            assert (bound(scaled, 9 * unit) == bound(law, 9.0)).all()
    assert (tails_._unit(law) == [2, 2, 2]).all() and tails_._unit(LAW([-3.0], 9.0, 33.0)) == 32 and tails_._unit(LAW([-70.0], -9.0)) == 64
    # One deviation from zero, and further than the floats can say.
    for s in (1e-300, 1e-170, 3e-162, 1e-161, 1e200):
        assert tails_.log_chernoff(LAW([0.0], 0.0, s, s)) == close([-0.5], 1e-12)
    far = LAW([[0.0]] * 2, 0.0, 1e-300, [1e300, -1e300])
    for bound in (tails_.log_chernoff, tails_.log_lower_bernstein):
        assert bound(far).tolist() == [LOG_IMPOSSIBLE, 0]
    assert tails_._unit(LAW([[1.0], [1.0], [300.0]], [[9.0], [300.0], [1.0]])).tolist() == [8, 256, 256]
    assert tails_._divided(far, np.full(2, 1e-300)).c.tolist() == [-LOG_IMPOSSIBLE, LOG_IMPOSSIBLE]


def test_no_law_makes_the_search_warn():
    assert tails_.saddlepoint(LAW([0.0], 0.0, 0.0, 3.0)) == np.inf
    # Variances that vanish: no Newton step, and a constant slope.
    assert 1e50 < tails_.saddlepoint(LAW([0.0], 0.0, 1e-170, 1e-170)) < np.inf
    assert np.isfinite(tails_.saddlepoint(LAW([0.0], 0.0, 1e-160, 1e-10)))
    # Powers of theta overflow beyond 1e300; there the search stops.
    assert tails_.saddlepoint(LAW([0.0], 0.0, 2.2e-162, 1e-16)) <= 1e300
    # An infinite exponent less its infinite allowance.
    assert tails_.log_chernoff(LAW([0.0], 0.0, 1.0, 1e200)) == LOG_IMPOSSIBLE
    # A support that ends at zero but for rounding.
    edge = LAW([1e-150], 1.0, 0.0, 2.5e149)
    assert tails_.saddlepoint(edge) > 1e150 and tails_.log_chernoff(edge) <= tails_.log_lower_bernstein(edge) < -1e298


def test_a_bracket_that_has_closed_ends_the_search(monkeypatch):
    # Without a second derivative nothing but bisection is left: K' = -c - w / (1 + 2 w theta) vanishes at half the limit.
    seen = []
    inner = QuadraticLaw.laplace_derivatives
    monkeypatch.setattr(QuadraticLaw, "laplace_derivatives", lambda law, theta: seen.append(theta) or inner(law, theta))
    assert tails_.saddlepoint(LAW([-1e-170], 0.0, 0.0, 2e-170)) == close([2.5e169], 3e-10)
    assert len(seen) < 60


# robust.py


def _mp_ratio(mean, variance):
    return 2 * mpmath.log(mean) - mpmath.log(variance)


@pytest.mark.parametrize("unit", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize(
    ("w", "g", "s", "c", "mean", "variance"),
    [
        ([3.0, -1.0], [0.5, 0.25], 0.125, 4.0, 6, mpmath.mpf("20.328125")),
        ([0.5, -0.25], [-7.0, 0.25], 0.125, 4.0, mpmath.mpf("4.25"), mpmath.mpf("49.703125")),
        ([0.5, -0.25], [0.5, 0.25], 9.0, 4.0, mpmath.mpf("4.25"), mpmath.mpf("81.9375")),
        ([0.0, -8.0], [0.0, 0.0], 0.0, 24.0, 16, 128),
        ([0.0, 0.0], [0.0, 8.0], 0.0, 24.0, 24, 64),
        ([0.0, 0.0], [0.0, 0.0], 8.0, 24.0, 24, 64),
    ],
)
def test_cantelli_and_vysochanskii_petunin_are_their_formulas_in_any_unit(unit, w, g, s, c, mean, variance):
    law = LAW(np.multiply(w, unit), np.multiply(g, unit), s * unit, c * unit)
    with mpmath.workdps(40):
        x = mpmath.mpf(variance) / (variance + mpmath.mpf(mean) ** 2)
        # The logarithms of units of 1e200 leave a rounding of that size behind.
        close = 1e-14 if unit == 1 else 4e-13
        assert robust_._log_ratio(law)[0] == pytest.approx(float(_mp_ratio(mean, variance)), rel=0, abs=close)
        assert robust_.log_cantelli(law)[0] == pytest.approx(float(mpmath.log(x)), rel=0, abs=close)
        near = mpmath.mpf(mean) ** 2 < mpmath.mpf(5) / 3 * variance
        truth = mpmath.log(4 * x / 3 - mpmath.mpf(1) / 3 if near else 4 * x / 9)
        assert robust_.log_unimodal(law)[0] == pytest.approx(float(truth), rel=0, abs=close)
    assert robust_.log_unimodal(law) < robust_.log_cantelli(law)


def test_laws_of_a_batch_keep_their_own_units_and_orders():
    units = np.array([1e-200, 1.0, 1e200])
    batch = LAW(units[:, None] * [1.0, -0.5], units[:, None] * [0.3, 2.0], units, 7 * units)
    linear = LAW([[0.0]] * 3, units[:, None], 0.0, [2e-200, 5.0, 9e200])
    for law in (batch, linear):
        for bound in (robust_.log_cantelli, robust_.log_unimodal, robust_.log_moments, robust_.log_central_moments):
            assert (bound(law) == np.concatenate([bound(law[k]) for k in range(3)])).all()
    assert (np.diff(robust_.log_moments(linear)) < -1).all()


def test_moment_bounds_where_the_mean_decides_alone():
    law = LAW([[0.0]] * 5, 0.0, [0.0, 0.0, 0.0, 2.0, 2.0], [3.0, 0.0, -3.0, 0.0, -1.0])
    for bound in (robust_.log_cantelli, robust_.log_unimodal, robust_.log_moments):
        assert bound(law).tolist() == [LOG_IMPOSSIBLE, 0.0, 0.0, 0.0, 0.0]
    far = LAW([0.0], 0.0, 1e-160, 1e160)
    assert robust_.log_cantelli(far) == close(-640 * np.log(10), 1e-14)
    assert robust_._log_ratio(law)[1] == robust_._log_ratio(law)[2] == -np.inf


@pytest.mark.parametrize("ratio", [1e-9, 0.1, 1.0, 1.66, 5 / 3, 1.67, 4.0, 1e8])
def test_the_unimodal_bound_is_rounded_up_on_both_branches(ratio):
    deviation = np.sqrt(1 / ratio)
    found = robust_.log_unimodal(LAW([0.0], 0.0, deviation, 1.0))[0]
    with mpmath.workdps(40):
        v = mpmath.mpf(float(deviation)) ** 2
        x = v / (v + 1)
        truth = mpmath.log(4 * x / 9 if 1 >= 5 * v / 3 else 4 * x / 3 - mpmath.mpf(1) / 3)
    assert found == pytest.approx(float(truth), rel=1e-14, abs=4e-15)
    # Where rounding picks the other branch, the two differ by rounding.
    shifted = LAW([0.0], 0.0, np.sqrt(3.0), np.sqrt(5.0))
    assert robust_.log_unimodal(shifted)[0] == pytest.approx(np.log(1 / 6), abs=2e-15)


def _moment_by_quadrature(w, g, s, p):
    """``E (M - E M)^p`` for two squares and a normal: a polynomial, exact in Gauss-Hermite quadrature."""
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    a = w[0] * (x**2 - 1) + g[0] * x
    b = w[1] * (x**2 - 1) + g[1] * x
    total = a[:, None, None] + b[None, :, None] + (s * x)[None, None, :]
    return float(np.einsum("i,j,k,ijk->", weight, weight, weight, total**p))


def test_central_moments_are_those_of_the_definition():
    w, g, s = np.array([[1.0, -0.4], [0.3, 0.2]]), np.array([[0.5, 0.0], [-2.0, 1.0]]), np.array([0.25, 1.5])
    law = LAW(w, g, s, [7.0, -2.0])
    found = robust_.log_central_moments(law)
    assert found.shape == (2, 20) and found[:, 0] == pytest.approx([0, 0], abs=1e-14)
    for k in range(2):
        for p in (4, 6, 12, 24):
            truth = np.log(_moment_by_quadrature(w[k], g[k], s[k], p)) - p / 2 * np.log(law.variance()[k])
            assert found[k, p // 2 - 1] == pytest.approx(truth, abs=1e-10)
    even = np.arange(2, 41, 2)
    # (p - 1)!! for a normal law; for one square, sum over j of binom(p, j) (2 j - 1)!! (-1)^(p - j).
    normal = [float(mpmath.log(mpmath.fac2(p - 1))) for p in map(int, even)]
    for law in (LAW([0.0], 0.0, 3.0), LAW([0.0], 3.0), LAW([0.0], 3e-200), LAW([0.0], 0.0, 3e200)):
        assert robust_.log_central_moments(law)[0] == pytest.approx(normal, rel=1e-13, abs=1e-13)
    with mpmath.workdps(60):
        square = [
            mpmath.log(mpmath.fsum(mpmath.binomial(p, j) * mpmath.fac2(2 * j - 1) * (-1) ** (p - j) for j in range(p + 1)))
            - p * mpmath.log(2) / 2
            for p in map(int, even)
        ]
    for unit in (1.0, 1e-200, 1e200):
        assert robust_.log_central_moments(LAW([unit]))[0] == pytest.approx([float(t) for t in square], rel=1e-13, abs=1e-13)
    assert (robust_.log_central_moments(law, 6) == robust_.log_central_moments(law)[:, :3]).all()


def test_the_moment_bound_is_the_least_over_orders_with_its_allowance():
    for c in (0.5, 2.0, 5.0, 9.0, 30.0):
        for most in (2, 4, 10, 40):
            truth = min(0.0, min(float(mpmath.log(mpmath.fac2(p - 1))) - p * math.log(c) for p in range(2, most + 1, 2)))
            found = robust_.log_moments(LAW([0.0], 0.0, 1.0, c), most)[0]
            assert truth < found <= truth + 1.1e-9 if truth < 0 else found == 0
    law = LAW([0.0], 0.0, 1.0, 9.0)
    assert robust_.log_moments(law) == robust_.log_moments(law, 40) < robust_.log_moments(law, 38)
    assert refuses("most", "3 is not an even number of at least 2", robust_.log_moments, law, 3)
    assert refuses("most", "0 is not an even number of at least 2", robust_.log_moments, law, 0)


def test_students_scale():
    assert refuses("dof", "0.0 is not positive and finite", robust_.Student, 0.0)
    assert refuses("dof", "inf is not positive and finite", robust_.Student, math.inf)
    assert refuses("dof", "nan is not positive and finite", robust_.Student, math.nan)
    assert refuses("dof", "-1.0 is not positive and finite", robust_.Student, -1.0)
    for dof in (0.5, 1.0, 7.0):
        student = robust_.Student(dof)
        low, high, outside = student.span(math.log(1e-12))
        assert outside == close(math.log(1e-12))
        # exp(t) = 1/W is chi2_dof / dof, and half of the mass left out lies on each side.
        assert stats.chi2.cdf(dof * math.exp(low), dof) == close(0.5e-12, 1e-6)
        assert stats.chi2.sf(dof * math.exp(high), dof) == close(0.5e-12, 1e-6)
        t = np.linspace(low, high, 9)
        assert student.log_density(t) == close(stats.chi2.logpdf(dof * np.exp(t), dof) + t + np.log(dof), 1e-10)
    low, high, outside = robust_.Student(7.0).span(-1e6)
    assert outside == close(math.log(1e-290)) and -np.inf < low < high < np.inf
    assert robust_.Student(0.01).span(math.log(1e-12))[0] == close(math.log(1e-300))
    assert {type(v) for v in robust_.Student(2.0).span(-9.0)} == {float}


def test_a_scaled_query_has_the_scaled_margin():
    law = LAW([[1.0, 2.0], [3.0, -1.0]], [[3.0, 4.0], [5.0, 6.0]], [5.0, 7.0], [6.0, 8.0])
    found = robust_.scaled(law, np.array([4.0, 9.0, 1.0]))
    assert found.w.tolist() == [[4, 8], [12, -4], [9, 18], [27, -9], [1, 2], [3, -1]]
    assert found.g.tolist() == [[6, 8], [10, 12], [9, 12], [15, 18], [3, 4], [5, 6]]
    assert found.s.tolist() == [10, 14, 15, 21, 5, 7] and found.c.tolist() == [6, 8] * 3


def _normal_tail(law):
    """`tail_probability` of laws without squares, in closed form: quick, and independent of the contour."""
    log_p = special.log_ndtr(-law.c / np.sqrt(law.variance()))
    return TailProbability(log_p, log_p - 1, log_p, np.zeros(len(law)), np.ones(len(law), dtype=bool))


@pytest.mark.parametrize(("distance", "dof"), [(0.5, 3.0), (40.0, 60.0)])
def test_a_normal_margin_of_random_scale_is_students_law(distance, dof):
    law = LAW([0.0], 0.0, 2.0, 2 * distance)
    found, error = robust_.log_scale_mixture(law, np.zeros(1, dtype=int), 1, robust_.Student(dof))
    truth = stats.t.logcdf(-distance, dof)
    assert error[0] <= 1e-6
    assert truth <= found[0] <= truth + 1e-8 + 2 * error[0]


def test_the_union_is_taken_inside_the_expectation(monkeypatch):
    monkeypatch.setattr(robust_, "tail_probability", _normal_tail)
    law = LAW([[0.0]] * 4, 0.0, [1.0, 2.0, 1.0, 0.5], [1.0, 3.0, 3.0, -1.0])
    of, dof = np.array([0, 0, 1, 2]), 5.0

    def expectation(inside):
        # Over V = 1/W, whose density is that of chi2_dof / dof.
        value, _ = integrate.quad(lambda v: inside(v) * stats.chi2.pdf(v * dof, dof) * dof, 0, np.inf, epsabs=0, epsrel=1e-10, limit=500)
        return math.log(value)

    def below(v, c):
        return stats.norm.cdf(-c * math.sqrt(v))

    for chernoff in (False, True):
        pair = (lambda v, c: math.exp(-(c**2) * v / 2)) if chernoff else below
        truth = [
            expectation(lambda v, pair=pair: min(1, pair(v, 1.0) + pair(v, 1.5))),
            expectation(lambda v, pair=pair: pair(v, 3.0)),
            0.0 if chernoff else expectation(lambda v: below(v, -2.0)),
        ]
        found, error = robust_.log_scale_mixture(law, of, 3, robust_.Student(dof), chernoff)
        assert ((found >= np.array(truth) - 1e-9) & (found <= np.array(truth) + 1e-8 + 3 * error)).all() and (error < 1e-3).all()
        assert (found <= 0).all()
    default, _ = robust_.log_scale_mixture(law, of, 3, robust_.Student(dof))
    exact, _ = robust_.log_scale_mixture(law, of, 3, robust_.Student(dof), False)
    assert (default == exact).all()


def test_scale_mixtures_at_both_ends(monkeypatch):
    monkeypatch.setattr(robust_, "tail_probability", _normal_tail)
    of = np.zeros(1, dtype=int)
    sure, _ = robust_.log_scale_mixture(LAW([0.0], 0.0, 1.0, -60.0), of, 1, robust_.Student(9.0))
    assert -1e-12 < sure[0] <= 0
    # Beyond the floats' range of the scale's law the mass that was cut off is the bound.
    rare, _ = robust_.log_scale_mixture(LAW([0.0], 0.0, 1.0, 60.0), of, 1, robust_.Student(2e4))
    assert rare[0] == close(math.log(1e-290), 1e-12)


def test_nodes_are_doubled_until_two_answers_agree(monkeypatch):
    cuts, nodes = [], []
    span, density = robust_.Student.span, robust_.Student.log_density
    monkeypatch.setattr(robust_.Student, "span", lambda self, cut: cuts.append(cut) or span(self, cut))
    monkeypatch.setattr(robust_.Student, "log_density", lambda self, t: nodes.append(t) or density(self, t))
    monkeypatch.setattr(robust_, "tail_probability", _normal_tail)
    of, first = np.zeros(1, dtype=int), math.log(1e-9)
    # At first a billionth is cut off; then a billionth of a billionth of the answer.
    for distance, dof, sizes, least in ((1.0, 9.0, [33, 33, 32], stats.t.logcdf(-1, 9)), (30.0, 200.0, [33, 33, 32, 64], -251.714832)):
        cuts.clear(), nodes.clear()
        found, error = robust_.log_scale_mixture(LAW([0.0], 0.0, 1.0, distance), of, 1, robust_.Student(dof))
        assert cuts[0] == first and cuts[1:] == pytest.approx([least + 2 * first], abs=1e-4)
        assert [t.size for t in nodes] == sizes and error[0] <= 1e-6
        assert found[0] == pytest.approx(stats.t.logcdf(-distance, dof), abs=1e-6)
    # No node is used twice, and all are equidistant in the end.
    every = np.sort(np.concatenate(nodes[1:]))
    assert np.diff(every) == close((every[-1] - every[0]) / (every.size - 1), 1e-9)
    cuts.clear(), nodes.clear()
    monkeypatch.setattr(robust_, "_AGREED", -1.0)
    kept, error = robust_.log_scale_mixture(LAW([0.0], 0.0, 1.0, 1.0), of, 1, robust_.Student(9.0))
    assert [t.size for t in nodes] == [33, 33, 32, 64, 128, 256] and len(cuts) == 2
    assert kept[0] == pytest.approx(stats.t.logcdf(-1, 9), abs=1e-7) and error[0] < 1e-12
    # An answer from the first nodes alone has not been compared with another, and bounds nothing.
    monkeypatch.setattr(robust_, "_MOST_NODES", 32)
    found, error = robust_.log_scale_mixture(LAW([0.0], 0.0, 1.0, 3.0), of, 1, robust_.Student(9.0))
    assert found.tolist() == [0.0] and error.tolist() == [np.inf]


# balls.py


_P = [-1e-12, -0.01, -0.7, -3.0, -40.0, -600.0]


def _mp_ball(divergence, log_p, radius):
    """The largest log q within the radius, by bisection in log q at sixty digits."""
    with mpmath.workdps(60):
        log_p, radius = mpmath.mpf(log_p), mpmath.mpf(radius)
        if radius >= -log_p:
            return mpmath.mpf(0)
        low, high = log_p, mpmath.mpf(0)
        for _ in range(120):
            middle = (low + high) / 2
            low, high = (middle, high) if divergence(middle, log_p) < radius else (low, middle)
        return high


def _mp_other(log_p):
    return mpmath.log(-mpmath.expm1(log_p))


def _mp_kl(log_q, log_p):
    q = mpmath.exp(log_q)
    return q * (log_q - log_p) + (1 - q) * (_mp_other(log_q) - _mp_other(log_p))


def _mp_power(alpha, log_q, log_p):
    a = mpmath.mpf(alpha)
    return mpmath.exp(a * log_q + (1 - a) * log_p) + mpmath.exp(a * _mp_other(log_q) + (1 - a) * _mp_other(log_p)) - 1


@pytest.mark.parametrize("log_p", _P)
@pytest.mark.parametrize("radius", [1e-20, 1e-5, 0.02, 0.5, 5.0, 100.0])
def test_balls_are_the_roots_of_their_divergences_rounded_up(log_p, radius):
    truth = _mp_ball(_mp_kl, log_p, radius)
    assert just_above(balls_.kl_ball(log_p, radius), truth, 5e-14)
    for alpha in (1.001, 2.0, 30.0):
        truth = _mp_ball(lambda q, p, alpha=alpha: mpmath.log1p(_mp_power(alpha, q, p)) / (mpmath.mpf(alpha) - 1), log_p, radius)
        assert just_above(balls_.renyi_ball(log_p, alpha, radius), truth, 5e-14 / (alpha - 1) + 1e-13)
    with mpmath.workdps(60):
        p, chi2 = mpmath.exp(mpmath.mpf(log_p)), mpmath.mpf(radius)
        truth = mpmath.mpf(0) if p >= 1 / (1 + chi2) else mpmath.log(p + mpmath.sqrt(chi2 * p * (1 - p)))
    assert just_above(balls_.chi_square_ball(log_p, radius), truth, 4e-15)


def test_balls_are_never_below_the_probability_and_take_the_stated_allowances(monkeypatch):
    log_p, radius = np.full(3, -3.0), np.array([1.0, 1.0, np.inf])
    assert balls_._finish(np.array([-5.0, 0.5, -1.0]), log_p, radius, (3,)).tolist() == [-3, 0, 0]
    assert balls_._checked([0.5, -2.0], 1.0)[0].tolist() == [0.0, -2.0]
    eps = np.finfo(float).eps
    # Hoelder's inequality in numbers that are exact: eight roundings are added.
    assert balls_.renyi_ball(-2e6, 2.0, 1e6) == -5e5 + 8 * eps * 5e5
    assert balls_.renyi_ball(-600.0, 2.0, 128.0) == -236 + 8 * eps * 236
    # From an exponent of 36 on, and up to a log probability of -1e6, that inequality is all.
    assert balls_.renyi_ball(-100.0, 2.0, 36.0) == -32 + 8 * eps * 32
    assert balls_.renyi_ball(-1e6, 2.0, 16.0) == -499992 + 8 * eps * 499992
    log_p = np.linspace(-3, -2e-3, 400)
    with mpmath.workdps(40):
        p = [mpmath.exp(mpmath.mpf(v)) for v in log_p]
        truth = [mpmath.log(t + mpmath.sqrt(t * (1 - t) / 1000)) for t in p]
        excess = np.array([float(f - t) for f, t in zip(balls_.chi_square_ball(log_p, 1e-3), truth, strict=True)])
    share = excess / (eps * np.maximum(1, -log_p))
    near = np.array([float(t) for t in truth])
    assert np.median(share[near > -1]) == close(8, 0.04) and np.median((excess / (eps * -near))[near < -2]) == close(8, 0.04)
    given = []
    monkeypatch.setattr(balls_, "_largest", lambda divergence, *rest: given.append(rest) or np.full(rest[0].size, -99.0))
    assert balls_.kl_ball(-3.0, 0.5) == -3 and balls_.renyi_ball(-3.0, 1.5, 0.5) == -3
    assert [a.tolist() for a in given[0]] == [[-3.0], [0.5], balls_._above_kl(np.array([-3.0]), np.array([0.5])).tolist(), [1e-14]]
    start = (-3.0 + 0.5) / 3
    assert given[1][1][0] == np.expm1(0.25) and given[1][2][0] == close(start, 1e-14) and given[1][3] == close([2e-14 + 18 * eps])


def test_balls_bear_a_caller_who_forbids_every_floating_point_exception():
    levels = (-np.inf, LOG_IMPOSSIBLE, -5000.0, -745.0, -700.0, -30.0, -1e-3, -1e-300, 0.0)
    radii = (0.0, 1e-300, 1e-9, 0.5, 30.0, 1e5)
    for log_p in levels:
        for radius in radii:
            for alpha in (1.001, 2.0, 300.0):
                assert log_p <= balls_.renyi_ball(log_p, alpha, radius) <= 0
            assert log_p <= balls_.kl_ball(log_p, radius) <= 0
    with np.errstate(all="raise"):
        for log_p in levels:
            for radius in radii:
                assert log_p <= balls_.chi_square_ball(log_p, radius) <= 0
                if 0 < radius < -log_p < np.inf:
                    assert np.isfinite(balls_._above_kl(np.array([log_p]), np.array([radius])))
            for log_q in (LOG_IMPOSSIBLE, -5000.0, -745.0, -1.0, -1e-300):
                if -np.inf < log_p < log_q:
                    P, Q = np.array([log_p]), np.array([log_q])
                    for value, slope in (balls_._kl(Q, P), balls_._power(1.5, Q, P)):
                        assert value >= 0 and slope >= 0
        assert balls_._above_kl(np.array([-1e300]), np.array([1e200])) == close([np.log(1e-100)])
        # Where the last logarithm's argument vanishes: log(radius / -log p) - log p = 1.
        near = 2 * np.exp(-1.0) + np.arange(-50, 50) * np.spacing(2 * np.exp(-1.0))
        assert np.isfinite(balls_._above_kl(np.full(100, -2.0), near)).all()
        zero, apart = np.zeros(1), np.array([-800.0])
        assert balls_._ratios(zero, np.array([-1.0]))[1] == -np.inf
        assert balls_._ratios(np.array([-1.0]), apart)[1] == close(np.log(-np.expm1(-1)))
        assert np.isnan(balls_._newton(np.array([1.0]), np.array([np.inf]), np.ones(1), np.array([np.inf])))
        assert np.isnan(balls_._newton(np.array([1.0]), np.array([1e300]), np.array([1e-300]), zero))


def test_far_out_the_renyi_ball_is_hoelders_inequality():
    # The first outcome alone: q = (p e^radius)^((alpha - 1) / alpha).
    for log_p, alpha, radius in ((-2e6, 2.0, 1.0), (-2e6, 1.5, 1e5), (-500.0, 3.0, 20.0), (-900.0, 40.0, 600.0)):
        with mpmath.workdps(40):
            a = mpmath.mpf(alpha)
            assert just_above(balls_.renyi_ball(log_p, alpha, radius), (a - 1) / a * (mpmath.mpf(log_p) + radius), 5e-15)
    assert balls_.renyi_ball(-1e-3, 1e6, 0.9e-3) <= 0


def test_balls_of_certain_and_impossible_events_and_of_no_and_any_radius():
    for ball in (balls_.kl_ball, balls_.chi_square_ball, lambda p, r: balls_.renyi_ball(p, 2.0, r)):
        assert ball([-np.inf, -np.inf, 0.0, 2.0, -3.0], [0.3, 0.0, 0.0, 0.3, 0.0]).tolist() == [-np.inf, -np.inf, 0, 0, -3]
        assert ball([-np.inf, -3.0, 0.0], np.inf).tolist() == [0, 0, 0]
        assert ball(np.full((2, 1), -3.0), [0.1, 0.2, 0.3]).shape == (2, 3) and ball(-3.0, 0.1).shape == ()
        assert (ball([-3.0, -5.0], [0.1, 0.2]) == [ball(-3.0, 0.1), ball(-5.0, 0.2)]).all()
        assert ball(np.float32(-3.1), np.float32(0.1)) == ball(float(np.float32(-3.1)), float(np.float32(0.1)))
        assert ball(np.longdouble(-3), np.longdouble(0.5)).dtype == np.float64
        assert refuses("log_p", "holds 2 NaN; needs natural logarithms of bounds", ball, [np.nan, -1.0, np.nan], 0.1)
        for radius in (np.nan, -1e-9, [0.5, -1.0]):
            assert refuses("radius", "holds a NaN or a negative value; a divergence is at least 0", ball, [-1.0, -1.0], radius)
    # Where the radius alone allows certainty.
    assert balls_.kl_ball([-2.0, -2.0], [2.0, 3.0]).tolist() == [0, 0] and balls_.kl_ball(-2.0, 1.9) < 0
    assert balls_.renyi_ball(-2.0, 1.5, 2.0) == 0 and balls_.renyi_ball(-2.0, 1.5, 1.9) < 0
    assert balls_.chi_square_ball(-np.log(4.0), 3.0) == 0 and balls_.chi_square_ball(-np.log(4.0), 2.9) < 0


@pytest.mark.parametrize("alpha", [1.0, 1.0009, 0.5, np.inf, np.nan])
def test_renyi_balls_need_an_order_above_one(alpha):
    problem = f"{alpha} is not a finite order of at least 1.001; use the KL ball for order one"
    assert refuses("alpha", problem, balls_.renyi_ball, -1.0, alpha, 0.1)


_PAIRS = [(p, p * f) for p in (-1e-10, -0.3, -2.0, -30.0, -700.0) for f in (0.999999, 0.9, 0.51, 0.5, 0.2, 1e-3)]
_PAIRS += [(-2.0, -1.5), (-2.0, -1.0), (-2.0, -1e-9), (-690.0, -1e-3), (-3.0, -2.0), (-1.0, -0.6)]


@pytest.mark.parametrize(("log_p", "log_q"), _PAIRS)
def test_divergences_and_slopes_lose_no_digits(log_p, log_q):
    P, Q = np.array([log_p]), np.array([log_q])
    with mpmath.workdps(400):
        p, q = mpmath.mpf(log_p), mpmath.mpf(log_q)
        x, y = balls_._ratios(Q, P)
        ratio = _mp_other(q) - _mp_other(p)
        assert x[0] == log_q - log_p and y[0] == close(float(ratio), 1e-14)
        value, slope = balls_._kl(Q, P)
        assert value[0] == close(float(_mp_kl(q, p)), 5e-15 if log_p > -100 else 1e-13)
        assert slope[0] == close(float(mpmath.exp(q) * (q - p - ratio)), 1e-14)
        for alpha in (1.001, 1.5, 4.0):
            value, slope = balls_._power(alpha, Q, P)
            if alpha * (log_q - log_p) + log_p > 600:
                continue
            rounding = (1e-14 / (alpha - 1) + 1e-15 * alpha * -log_p) * 1.01
            assert value[0] == close(float(_mp_power(alpha, q, p)), rounding)
            a = mpmath.mpf(alpha)
            true_slope = a * (mpmath.exp(a * (q - p) + p) - mpmath.exp(q + (a - 1) * ratio))
            # The slope's two terms all but cancel for orders near one; it only steers the search and sizes the allowance.
            cancels = 1e-15 * (1 - log_p) / ((alpha - 1) * abs(float(q - p - ratio)))
            assert slope[0] == close(float(true_slope), rounding + cancels)


def test_the_series_and_the_formulas_meet():
    x = np.array([-800.0, -20.0, -1.0, -0.5, -0.49, -0.25, -0.1, -1e-3, -1e-9, 0.0, 1e-9, 1e-3, 0.1, 0.25, 0.49, 0.5, 1.0, 5.0])
    with mpmath.workdps(60):
        X = [mpmath.mpf(float(v)) for v in x]
        assert balls_._entropy(x) == close([float(1 + (v - 1) * mpmath.exp(v)) for v in X], 2e-15)
        for alpha in (1.001, 2.0, 30.0):
            a = mpmath.mpf(alpha)
            truth = [float(mpmath.expm1(a * v) - a * mpmath.expm1(v)) for v in X]
            assert balls_._convex(alpha, x) == close(truth, 1e-14 / (alpha - 1) + 2e-15)
    assert balls_._entropy(np.array([-np.inf]))[0] == 1


@pytest.mark.parametrize(
    ("log_p", "radius"), [(-1.0, 0.1), (-5.0, 0.001), (-5.0, 4.0), (-300.0, 1e-3), (-5000.0, 7.0), (-0.5, 0.4), (-4.0, 0.89)]
)
def test_the_closed_form_above_the_kl_ball(log_p, radius):
    with mpmath.workdps(60):
        L, r = mpmath.mpf(log_p), mpmath.mpf(radius)
        p = mpmath.exp(L)
        truth = mpmath.log(min(p + mpmath.sqrt(r / 2), p + r + mpmath.sqrt(r**2 + 2 * p * r)))
        ratio = mpmath.log(r / -L) - L
        if ratio > 2:
            truth = min(truth, mpmath.log(r) - mpmath.log(ratio - 1))
    found = balls_._above_kl(np.array([log_p]), np.array([radius]))[0]
    assert found == close(float(truth), 1e-13) and found >= float(_mp_ball(_mp_kl, log_p, radius))


def test_the_root_is_found_in_few_steps_and_moved_up_by_the_stated_error():
    asked = []

    def apart(a, b):
        # q - p, whose root is log(p + target).
        asked.append(a.size)
        return np.exp(a) - np.exp(b), np.exp(a)

    log_p, target = np.log([0.1, 0.3, 1e-9]), np.array([0.2, 0.3, 1e-12])
    truth = np.log(np.exp(log_p) + target)
    # Newton's method doubles the digits; the third start has nine already.
    for start, most in ((np.zeros(3), 57), (truth + 0.05, 9), (truth + 1e-9, 6)):
        asked.clear()
        found = balls_._largest(apart, log_p, target, start, np.zeros(3))
        assert (found >= truth - 1e-15).all() and found == pytest.approx(truth, abs=3e-14)
        assert len(asked) <= most
        moved = balls_._largest(apart, log_p, target, start, np.full(3, 1e-3))
        assert moved - found == close(1e-3 * target * np.exp(-truth), 1e-9)
    # A flat divergence leaves bisection, and no error to add; a root above certainty is certainty.
    for rounding in (0.0, 1.0):
        flat = balls_._largest(lambda a, b: (apart(a, b)[0], np.zeros(a.size)), log_p, target, np.zeros(3), np.full(3, rounding))
        assert flat == pytest.approx(truth, abs=5e-14)
        for slope in (1e-308, 1e-310):
            slight = balls_._largest(
                lambda a, b, slope=slope: (apart(a, b)[0], np.full(a.size, slope)), log_p, target, np.zeros(3), np.full(3, rounding)
            )
            assert (slight >= truth).all()
    assert balls_._largest(apart, np.log([0.3]), np.array([0.7]), np.zeros(1), np.full(1, 1e-3)).tolist() == [0.0]
    assert balls_._newton(np.array([3.0, 3.0, 3.0]), np.array([7.0, 7.0, 2.0]), np.array([2.0, 0.0, 1.0]), np.array([5.0, 5.0, 2.0]))[
        [0, 2]
    ].tolist() == [2.0, 3.0]
    assert np.isnan(balls_._newton(np.ones(1), np.ones(1), np.zeros(1), np.zeros(1))[0])


# batch.py


def _margins(component, margin, own=None, other=None):
    """Margins of hand-made laws: pair p is of query component `component[p]` and wrong component p + 1."""
    component = np.asarray(component)
    C, P = int(component.max()) + 1, len(component)
    return Margins(
        component=component,
        wrong=np.arange(1, P + 1),
        reference=np.zeros(C, dtype=int),
        margin=margin,
        own=own,
        other=other,
        slack=np.zeros(P),
        single=np.ones(C, dtype=bool),
    )


def _base(law, slack=0.0, log_weight=None):
    """The base of one query component's pairs with these margins, slack included in them as in rule "mixture"."""
    P = len(law)
    log_weight = np.zeros(P) if log_weight is None else np.log(log_weight)
    (base,) = batch_._least_sums(law.shifted(-slack), np.zeros(P, dtype=int), log_weight, np.array([slack]))
    return base


def test_a_margin_that_is_a_constant_above_its_slack_is_followed_to_the_end_of_the_search():
    # No theta is the best: the farthest that is tried is exp(25), in units of the scores where nothing varies.
    slack, theta = 0.25, math.exp(25)
    (base,) = batch_._least_sums(LAW([[0.0]], 0.0, 0.0, 2.0), np.zeros(1, dtype=int), np.zeros(1), np.array([slack]))
    assert base == close(-2.0 * theta - slack / 2, 1e-6)


@pytest.mark.parametrize("unit", [1e-100, 1.0, 1e100])
def test_the_base_of_a_batch_is_the_least_sum_of_exponential_moments(unit):
    # Normal margins of mean a and deviation b: exp(-a^2 / (2 b^2)).
    assert just_above(_base(LAW([0.0], 0.0, 2 * unit, 3 * unit)), -9 / 8, 1e-13)
    assert just_above(_base(LAW([0.0], 2 * unit, 0.0, 3 * unit)), -9 / 8, 1e-13)
    assert just_above(_base(LAW([[0.0]] * 2, 0.0, [2 * unit] * 2, [3 * unit] * 2), 0.0, [0.25, 1.5]), mpmath.log(1.75) - 9 / 8)
    # 40 less a square: -40 l - log(1 - 2 l) / 2 is least at l = (1 - 1/40) / 2.
    assert just_above(_base(LAW([-unit], 0.0, 0.0, 40 * unit)), mpmath.log(40) / 2 - mpmath.mpf("19.5"), 2e-14)
    # A mean of zero or less bounds nothing.
    assert 0 <= _base(LAW([0.0], 0.0, unit, 0.0)) <= 1e-9 and 0 <= _base(LAW([0.0], 0.0, unit, -unit)) <= 1e-9


def test_the_base_of_different_pairs_is_that_of_a_fine_search():
    law = LAW([[1.0, -0.5], [2.0, 0.3], [0.1, -0.1]], [[0.5, 1.0], [0.0, 2.0], [1.0, 1.0]], [0.5, 0.0, 1.0], [5.0, 4.0, 2.0])
    weight = np.array([0.5, 0.3, 0.2])

    def value(theta):
        return np.log((weight * np.exp(law.log_laplace(np.full((3, 1), theta))[:, 0])).sum())

    least = min(value(t) for t in np.linspace(0.3, 0.999, 20_000))
    assert least - 1e-8 <= _base(law, 0.0, weight) <= least + 1e-14
    assert least < -0.3


def test_the_slack_of_a_mixture_counts_from_half_on():
    # -4 l + s^2 l^2 / 2 + max(0, l - 1/2): least below one half, at it, and above it.
    assert just_above(_base(LAW([0.0], 0.0, 4.0, 4.0), 1.0), -0.5, 1e-13)
    assert just_above(_base(LAW([0.0], 0.0, np.sqrt(7.0), 4.0), 1.0), -9 / 8, 1e-7)
    assert just_above(_base(LAW([0.0], 0.0, 2.0, 4.0), 1.0), -13 / 8, 1e-13)


def test_the_base_of_margins_that_cannot_fail():
    sure = LAW([[1.0], [2.0]], 0.0, 0.0, [1.0, 2.0])
    assert _base(sure) == LOG_IMPOSSIBLE
    # With slack the exponent grows with l and the slack takes it back.
    assert -np.inf < _base(sure, 5.0) < 0
    half = LAW([[1.0], [-1.0]], 0.0, 0.0, [1.0, 40.0])
    assert float(mpmath.log(40) / 2 - 19.5) <= _base(half) < 0


def test_tasks_are_searched_side_by_side():
    # Windows, ends and answers of a task are its own, whatever stands beside it: wide, narrow, bounded, sure and hopeless ones.
    laws = [([0.0], 0.0, 2.0, 3.0), ([0.0], 0.0, 2e100, 3e100), ([-1.0], 0.0, 0.0, 40.0), ([1.0], 0.0, 0.0, 1.0), ([0.0], 0.0, 1.0, -1.0)]
    alone = np.array([_base(LAW(*law)) for law in laws])
    w, g, s, c = (np.concatenate([np.atleast_1d(law[j]) for law in laws]) for j in range(4))
    twice = np.repeat(np.arange(5), 2)
    together = batch_._least_sums(
        LAW(w[twice, None], g[twice, None], s[twice], c[twice]), 3 * twice, np.full(10, np.log(0.5)), np.zeros(13)
    )
    assert together == pytest.approx(alone, rel=1e-12, abs=1e-12)


def test_bases_of_margins_at_the_ends_of_the_floats():
    # A constant has no unit of its own; the slack takes back from l = 1/2 on.
    assert _base(LAW([0.0], 0.0, 0.0, 3.0)) == LOG_IMPOSSIBLE
    assert just_above(_base(LAW([0.0], 0.0, 0.0, 3.0), 5.0), -1.5, 1e-7)
    # A limit far beyond the usual end of the search: up to it the sum falls like exp(-2 l).
    assert _base(LAW([[1.0, -(2.0**-50)]], 0.0, 0.0, [2.0])) == close(-(2.0**50), 1e-6)
    # Where the exponential moments leave the floats, there is still the largest exponent that they hold, or none.
    for law in (LAW([0.0], 0.0, 1.0, 1e300), LAW([0.0], 0.0, 1e-10, 1e302)):
        assert LOG_IMPOSSIBLE <= _base(law) < -1e300
    assert 0 <= _base(LAW([0.0], 0.0, 1.0, -1e307)) < np.inf


def test_the_union_over_tasks_of_powers_of_bases():
    bases = np.array([-np.inf, -0.5, 0.25, -3.0])
    assert just_above(batch_.batch_bound(bases, 1), mpmath.log(mpmath.exp(-0.5) + 1 + mpmath.exp(-3)), 6e-14)
    assert just_above(batch_.batch_bound(bases, 4), mpmath.log(mpmath.exp(-2) + 1 + mpmath.exp(-12)), 6e-14)
    assert batch_.batch_bound(bases, 4) - float(mpmath.log(mpmath.exp(-2) + 1 + mpmath.exp(-12))) >= 3.9e-14
    assert batch_.batch_bound(np.array([-np.inf, -1e308]), 1000) == LOG_IMPOSSIBLE
    assert isinstance(batch_.batch_bound(bases, 2), float)
    # One rounding for the sum and one for each task that can win at all.
    assert batch_.batch_bound(np.array([-np.inf, 0.0]), 7) == 2e-14
    assert refuses("batch", "0 is not a whole number of at least 1; a number of queries", batch_.batch_bound, bases, 0)


def _tied(weights=None, task=(0, 0, 1, 2)):
    means = np.array([[0.0, 0.0], [1.0, 3.0], [4.0, 0.0], [0.0, -5.0]])
    return Signatures(means, np.stack([np.eye(2)] * 4), np.array(task), weights)


def test_bases_of_tasks_weigh_the_members_and_add_the_wrong_components():
    sig = _tied()
    law = QueryLaw(sig.means[:, None], sig.covariances, sig.task, np.arange(4), np.array([3.0, 1.0, 2.0, 2.0]))
    rule = Rule(sig)
    found = margins(rule, law)
    members = law.task == 0
    bases = batch_.log_bases(rule, law, found, members)
    assert bases.shape == (3,) and bases[0] == -np.inf
    # Each query component against its own reference: M = |x - mu_s|^2 - |x - mu_c|^2 of mean D^2 and deviation 2 D.
    theta = np.linspace(0.05, 0.5, 20_000)
    for i, s in ((1, 2), (2, 3)):
        squares = ((sig.means[:2] - sig.means[s]) ** 2).sum(axis=1)
        values = np.log((np.array([[0.75], [0.25]]) * np.exp(squares[:, None] * (2 * theta**2 - theta))).sum(axis=0))
        assert values.min() - 1e-7 <= bases[i] <= values.min() + 1e-13
    one = batch_.log_bases(rule, law, found, np.array([True, False, False, False]))
    assert just_above(one[1:], [-2, mpmath.mpf(-25) / 8], 1e-13)
    to_task_0 = batch_.log_bases(rule, law, found, law.task == 1)
    squares = np.array([16.0, 18.0])
    values = np.log(np.exp(squares[:, None] * (2 * theta**2 - theta)).sum(axis=0))
    assert values.min() - 1e-7 <= to_task_0[0] <= values.min() + 1e-13 and to_task_0[1] == -np.inf
    assert refuses("members", "belong to tasks [0, 1]; a batch holds queries of one task", batch_.log_bases, rule, law, found, law.task < 2)
    table = batch_.task_exponents(rule, law)
    assert table.shape == (3, 3) and (table[0] == bases).all() and (table[1] == to_task_0).all()
    assert (np.diagonal(table) == -np.inf).all()


def test_bases_of_the_mixture_rule_take_the_slack_of_the_wrong_task():
    sig = _tied()
    law = QueryLaw(sig.means[:, None], sig.covariances, sig.task, np.arange(4), np.ones(4))
    rule = Rule(sig, kind="mixture")
    found = margins(rule, law)
    bases = batch_.log_bases(rule, law, found, law.task == 1)
    # Weights of one half make the scores of task 0 larger by 2 log 2, the slack that margins carry and bases need from l = 1/2.
    theta = np.linspace(0.05, 0.5, 20_000)
    values = np.log(np.exp(np.array([16.0, 18.0])[:, None] * (2 * theta**2 - theta) - theta * 2 * np.log(2)).sum(axis=0))
    assert values.min() - 1e-7 <= bases[0] <= values.min() + 1e-13


# certificates.py


def test_limits_in_closed_form():
    hair = 1 - 1e-12
    # Two-sided: half of what is missing on each side.
    low, high = certificates_.clopper_pearson(0, 8, 0.9)
    assert low == 0 and high == close(1 - 0.05 ** (1 / 8), 3e-12) and high >= 1 - 0.05 ** (1 / 8)
    low, high = certificates_.clopper_pearson(1, 8, 0.9)
    assert low == (1 - 0.9) / 2 / 8 * hair and high == close(stats.beta.isf(0.05, 2, 7), 3e-12)
    low, high = certificates_.clopper_pearson(5, 8, 0.9)
    assert low == close(stats.beta.ppf(0.05, 5, 4), 3e-12) and high == close(stats.beta.isf(0.05, 6, 3), 3e-12)
    assert low < stats.beta.ppf(0.05, 5, 4) * (1 - 5e-13) and high > stats.beta.isf(0.05, 6, 3) * (1 + 5e-13)
    low, high = certificates_.clopper_pearson(8, 8, 0.9)
    assert low == close(0.05 ** (1 / 8), 3e-12) and high == 1
    assert certificates_.clopper_pearson(2, 8, 0.9)[0] == close(stats.beta.ppf(0.05, 2, 7), 3e-12)
    assert certificates_.upper_limit(7, 8, 0.05) == (1 - 0.05 / 8) * (1 + 1e-12)
    assert certificates_.upper_limit(0, 1, 0.05) == close(0.95, 2e-12) and certificates_.upper_limit(0, 1, 1e-14) == 1
    assert certificates_.upper_limit(8, 8, 0.05) == certificates_.upper_limit(1, 1, 0.05) == 1
    assert certificates_.upper_limit(0, 10**9, 0.01) == close(np.log(100) * 1e-9, 3e-9)
    assert isinstance(certificates_.upper_limit(3, 8, 0.05), float) and isinstance(certificates_.upper_limit(0, 8, 0.05), float)


def test_a_measured_rate():
    found = Measured(3, 12, 0.8)
    low, high = certificates_.clopper_pearson(3, 12, 0.8)
    assert (found.error, found.low, found.high) == (0.25, low, high)
    assert found.to_dict() == {"error": 0.25, "low": low, "high": high, "n": 12, "errors": 3, "confidence": 0.8}


def test_a_certificate_and_its_simultaneous_kind():
    alone = certificates_.certificate(2, 40, 0.9)
    assert alone == Bound(
        "L8",
        Assumption.A0,
        float(np.log(certificates_.upper_limit(2, 40, 1 - 0.9))),
        source="Clopper-Pearson upper limit, 40 held-out samples",
        confidence=0.9,
        estimate=0.05,
    )
    assert alone == certificates_.certificate(2, 40, 0.9, 1)
    many = certificates_.certificate(2, 40, 0.9, 5)
    assert many.source == "Clopper-Pearson upper limit, 40 held-out samples, one of 5 simultaneous" and many.confidence == 0.9
    assert many.log_formula == float(np.log(certificates_.upper_limit(2, 40, (1 - 0.9) / 5)))
    assert certificates_.certificate(2, 40, 0.9, 2).source.endswith(", one of 2 simultaneous")


def test_certificates_of_tasks_share_what_may_fail_with_their_pool():
    found = certificates_.simultaneous_certificates([1, 0, 2], [50, 0, 60], 0.9)
    assert found.tasks == {
        "0": certificates_.certificate(1, 50, 0.9, 3),
        "1": nothing_known("L8", Assumption.A0, "no held-out samples of this task"),
        "2": certificates_.certificate(2, 60, 0.9, 3),
    }
    assert found.overall == certificates_.certificate(3, 110, 0.9, 3)
    one = certificates_.simultaneous_certificates([1, 0], [50, 0], 0.9, ("a", "b"))
    assert one.tasks["a"] == one.overall == certificates_.certificate(1, 50, 0.9)
    frame = found.frame()
    assert list(frame["task"][:3]) == ["0", "1", "2"] and frame["task"].isna().tolist() == [False, False, False, True]
    assert frame["value"].tolist() == [b.value for b in (*found.tasks.values(), found.overall)]
    # The pool's limit covers strata up to a failure probability of one quarter; a single task has no strata.
    assert certificates_.simultaneous_certificates([1, 2], [50, 60], 0.1).overall == certificates_.certificate(3, 110, 0.1, 4)
    assert certificates_.simultaneous_certificates([1], [50], 0.1).overall == certificates_.certificate(1, 50, 0.1)
    small = certificates_.simultaneous_certificates([0, 1], [1, 1], 0.9)
    assert small.tasks["0"] == certificates_.certificate(0, 1, 0.9, 3) and small.tasks["1"].vacuous


_SIMULTANEOUS = certificates_.simultaneous_certificates


@pytest.mark.parametrize(
    ("call", "argument", "problem"),
    [
        (
            lambda: certificates_.clopper_pearson(5, 4, 0.9),
            "errors",
            "5 errors in 4 samples is not a count; needs 0 <= errors <= n, n >= 1",
        ),
        (lambda: certificates_.upper_limit(-1, 4, 0.9), "errors", "-1 errors in 4 samples is not a count; needs 0 <= errors <= n, n >= 1"),
        (lambda: Measured(0, 0, 0.9), "errors", "0 errors in 0 samples is not a count; needs 0 <= errors <= n, n >= 1"),
        (lambda: Measured(0, 1, 0.0), "confidence", "0.0 is not inside (0, 1)"),
        (lambda: Measured(0, 1, 1.0), "confidence", "1.0 is not inside (0, 1)"),
        (lambda: Measured(0, 1, 1.5), "confidence", "1.5 is not inside (0, 1)"),
        (lambda: certificates_.clopper_pearson(0, 1, 1.0), "confidence", "1.0 is not inside (0, 1)"),
        (lambda: certificates_.upper_limit(0, 1, 0.0), "beta", "0.0 is not inside (0, 1)"),
        (lambda: certificates_.upper_limit(0, 1, 1.0), "beta", "1.0 is not inside (0, 1)"),
        (lambda: certificates_.upper_limit(0, 1, 1.5), "beta", "1.5 is not inside (0, 1)"),
        (lambda: certificates_.certificate(0, 1, 0.9, 0), "simultaneous", "0 is not a whole number of at least 1; a number of statements"),
        (
            lambda: _SIMULTANEOUS(np.array([1.0]), np.array([4]), 0.9),
            "errors",
            "has shape (1,) and dtype float64; needs one integer for each task",
        ),
        (lambda: _SIMULTANEOUS(1, np.array([4]), 0.9), "errors", "has shape () and dtype int64; needs one integer for each task"),
        (
            lambda: _SIMULTANEOUS([1], np.array([[4]]), 0.9),
            "n",
            "has shape (1, 1) and dtype int64; needs one integer for each task",
        ),
        (
            lambda: _SIMULTANEOUS(np.zeros(0, dtype=int), [1], 0.9),
            "errors",
            "has shape (0,) and dtype int64; needs one integer for each task",
        ),
        (lambda: _SIMULTANEOUS([1, 1], [4], 0.9), "errors", "has 2 tasks; n has 1"),
        (lambda: _SIMULTANEOUS([1, 5, 9], [4, 4, 4], 0.9), "errors", "task 1 has 5 errors in 4 samples; needs 0 <= errors <= n"),
        (lambda: _SIMULTANEOUS([1, -1], [4, 4], 0.9), "errors", "task 1 has -1 errors in 4 samples; needs 0 <= errors <= n"),
        (lambda: _SIMULTANEOUS([1, -2], [4, -1], 0.9), "errors", "task 1 has -2 errors in -1 samples; needs 0 <= errors <= n"),
        (lambda: _SIMULTANEOUS([0, 0], [0, 0], 0.9), "n", "no task has samples; a certificate needs held-out samples"),
        (lambda: _SIMULTANEOUS([0], [1], 1.0), "confidence", "1.0 is not inside (0, 1)"),
        (
            lambda: _SIMULTANEOUS([0, 0], [1, 1], 0.9, ["a", "a"]),
            "names",
            "needs 2 different names, one for each task; got ['a', 'a']",
        ),
        (lambda: _SIMULTANEOUS([0, 0], [1, 1], 0.9, ["a"]), "names", "needs 2 different names, one for each task; got ['a']"),
    ],
)
def test_impossible_counts_are_named(call, argument, problem):
    assert refuses(argument, problem, call)


def test_the_misfit_floor_is_the_binary_divergence():
    assert certificates_.binary_kl(0.3, 0.1) == close(0.3 * math.log(3) + 0.7 * math.log(7 / 9), 1e-14)
    assert certificates_.binary_kl(0.0, 0.2) == close(-math.log(0.8), 1e-15)
    assert certificates_.binary_kl(1.0, 0.2) == close(-math.log(0.2), 1e-15)
    assert certificates_.binary_kl(0.2, 0.2) == certificates_.binary_kl(0.0, 0.0) == certificates_.binary_kl(1.0, 1.0) == 0
    assert certificates_.binary_kl(0.2, 0.0) == certificates_.binary_kl(0.2, 1.0) == math.inf
    assert certificates_.misfit_floor(0.3, 0.1) == certificates_.binary_kl(0.3, 0.1)
    assert certificates_.misfit_floor(0.1, 0.3) == certificates_.misfit_floor(0.3, 0.3) == 0
    assert certificates_.misfit_floor(0.3, 0.0) == sys.float_info.max
    assert isinstance(certificates_.binary_kl(0.3, 0.1), float)


# unions.py


def test_a_sum_of_pairs_is_their_sum_rounded_up():
    values, edges = np.array([-2.0, -1.0, -7.0, -0.5, -6.0]), np.array([0, 2, 5])
    found = unions_.summed(values, edges)
    with mpmath.workdps(40):
        truth = [mpmath.log(mpmath.fsum(mpmath.exp(v) for v in part)) for part in (values[:2], values[2:])]
    assert just_above(found.upper, truth, 4e-14)
    assert ((found.upper - np.array([float(t) for t in truth])) > [1.5e-14, 2.5e-14]).all()
    assert found.binding.tolist() == [1, 3] and (found.lower == -np.inf).all() and found.lower.shape == (2,)
    assert found.binding.dtype == np.int64


def _normal_pairs():
    """Two query components with two and three wrong ones; scores are normal: their means and deviations."""
    own_mean, own_deviation = np.array([1.0, -2.0]), np.array([1.0, 0.5])
    mean, deviation = np.array([9.0, 12.0, 3.0, 6.0, 9.0]), np.array([1.0, 2.5, 1.5, 1.0, 1.0])
    own = LAW([[0.0]] * 2, 0.0, own_deviation, own_mean)
    other = LAW([[0.0]] * 5, 0.0, deviation, mean)
    of = np.array([0, 0, 1, 1, 1])
    return _margins(of, other, own, other), of, own_mean, own_deviation, mean, deviation


def test_the_separation_bound_is_its_formula():
    found, of, own_mean, own_deviation, mean, deviation = _normal_pairs()
    gap, spread = mean - own_mean[of], np.sqrt(2) * (own_deviation[of] + deviation)
    t = (gap / spread) ** 2
    bound = unions_.separation_bound(found)
    assert bound.binding.tolist() == [1, 2]
    assert bound.upper == close([np.log(3) - t[1], np.log(4) - t[2]], 1e-13)
    assert (bound.upper >= [np.log(3) - t[1] - 1e-15, np.log(4) - t[2] - 1e-15]).all() and (bound.lower == [-np.inf] * 2).all()
    # Chi-square scores: a gap of 2 sqrt(v t) + b t with b = 2 (w_+ of the own + w_- of the other).
    own, other = LAW([[1.0, 0.5, -3.0]]), LAW([[1.0, 2.0, -0.25], [3.0, 1.0, 1.0]], 0.0, 0.0, [30.0, 50.0])
    bound = unions_.separation_bound(_margins([0, 0], other, own, other))
    gap, a = np.array([32.75, 55.0]) + 1.5, np.sqrt(2 * 20.5) + np.sqrt(2 * np.array([2 * 5.0625, 22.0]))
    b = np.array([2 * 1.25, 2.0])
    t = ((np.sqrt(a**2 + 4 * b * gap) - a) / (2 * b)) ** 2
    assert bound.upper == close([np.log(3) - t.min()], 1e-13) and bound.binding.tolist() == [int(np.argmin(t))]
    # Any exponent above zero counts.
    bound = unions_.separation_bound(_margins([0], LAW([[0.0]], 0.0, 1.0, 3.0), LAW([[0.0]]), LAW([[0.0]], 0.0, 1.0, 1.2)))
    assert bound.upper == close([np.log(2) - 0.72], 1e-12)
    # Scores that overlap leave the number of events.
    near = LAW([[0.0]], 0.0, 1.0, 0.5)
    bound = unions_.separation_bound(_margins([0], near, LAW([[0.0]], 0.0, 1.0, 1.0), near))
    assert bound.upper.tolist() == [np.log(2)]


def _split(own_mean, own_deviation, mean, deviation, quantiles, parts):
    """L2 of one query component with normal scores, in closed form."""
    levels = [own_mean + own_deviation * q for q in quantiles] + [own_mean + max(0, (mean - own_mean).min()) * p for p in parts]

    def tail(distance):
        return -(max(distance, 0) ** 2) / 2

    chernoff = [[tail((c - own_mean) / own_deviation), *(tail((m - c) / s) for m, s in zip(mean, deviation, strict=True))] for c in levels]
    best = levels[int(np.argmin([special.logsumexp(row) for row in chernoff]))]
    exact = [stats.norm.logsf(best, own_mean, own_deviation), *stats.norm.logcdf(best, mean, deviation)]
    pairs = [min(0, min(np.logaddexp(row[0], row[1 + j]) for row in chernoff)) for j in range(len(mean))]
    return special.logsumexp(exact), special.logsumexp(pairs), int(np.argmax(exact[1:]))


def test_the_split_bound_is_the_least_over_thresholds_common_or_of_each_pair():
    found, of, own_mean, own_deviation, mean, deviation = _normal_pairs()
    bound = unions_.split_bound(found)
    quantiles = [0.25 + 3.75 * j / 7 for j in range(8)] + [5 * 8 ** (j / 4) for j in range(5)]
    for c in range(2):
        pairs = of == c
        common, each, binding = _split(own_mean[c], own_deviation[c], mean[pairs], deviation[pairs], quantiles, [0.2, 0.4, 0.6])
        assert bound.upper[c] == pytest.approx(min(common, each), abs=2e-12) and bound.upper[c] > min(common, each)
        assert bound.binding[c] == binding + 2 * c and bound.lower[c] == -np.inf
    # One pair at an odd place: its own threshold beats the common one of Chernoff bounds no more, and a lone far pair needs a part.
    for own_law, others in (
        ((0.0, 1.0), ([100.0], [1.0])),
        ((0.0, 1.0), ([4.0, 60.0, 500.0], [1.0, 9.0, 90.0])),
        ((0.0, 1e-3), ([1.0, 2.0], [0.2, 0.7])),
        ((0.0, 1.0), ([-1.0, 0.5], [1.0, 1.0])),
    ):
        own, other = LAW([[0.0]], 0.0, own_law[1], own_law[0]), LAW([[0.0]] * len(others[0]), 0.0, others[1], others[0])
        bound = unions_.split_bound(_margins([0] * len(others[0]), other, own, other))
        common, each, binding = _split(*own_law, np.array(others[0]), np.array(others[1]), quantiles, [0.2, 0.4, 0.6])
        assert bound.upper[0] == pytest.approx(min(common, each), rel=1e-10, abs=2e-12) and bound.binding[0] == binding


def test_thresholds_between_scores_far_apart_are_parts_of_the_nearest_gap():
    # Hundreds of deviations apart, thresholds of up to forty own deviations are too low, and the parts decide.
    of, own_mean, own_deviation = np.array([0, 0, 1, 1]), np.array([5.0, -3.0]), np.array([1e-3, 1e-2])
    mean, deviation = np.array([5.7, 6.0, 27.0, 40.0]), np.array([1e-3, 1.5e-3, 0.02, 0.01])
    own, other = LAW([[0.0]] * 2, 0.0, own_deviation, own_mean), LAW([[0.0]] * 4, 0.0, deviation, mean)
    bound = unions_.split_bound(_margins(of, other, own, other))
    quantiles = [0.25 + 3.75 * j / 7 for j in range(8)] + [5 * 8 ** (j / 4) for j in range(5)]
    for c in range(2):
        pairs = of == c
        given = own_mean[c], own_deviation[c], mean[pairs], deviation[pairs], quantiles
        common, each, _ = _split(*given, [0.2, 0.4, 0.6])
        assert bound.upper[c] == close(min(common, each), 1e-9)
        assert min(_split(*given, [])[:2]) > min(common, each) + 1e3


def test_the_split_bound_adds_its_allowance_and_no_pair_exceeds_one():
    found, of, own_mean, own_deviation, *_ = _normal_pairs()
    bound = unions_.split_bound(found)
    quantiles = [0.25 + 3.75 * j / 7 for j in range(8)] + [5 * 8 ** (j / 4) for j in range(5)]
    levels = own_mean[:, None] + own_deviation[:, None] * quantiles
    for c in range(2):
        # The exact tails at some level, added as they are, and one rounding for each pair.
        sums = []
        for level in levels[c]:
            above = tail_probability((-found.own[c]).shifted(level)).log_high[0]
            below = tail_probability(found.other[of == c].shifted(-level)).log_high
            sums.append(np.logaddexp(above, special.logsumexp(below)) + 1e-14 * below.size)
        assert bound.upper[c] == pytest.approx(min(sums, key=lambda x: abs(x - bound.upper[c])), rel=0, abs=5e-16)
    assert bound.binding.dtype == np.int64
    # A wrong score that is surely lower: even with a threshold of its own the pair counts once.
    low = LAW([[0.0]], 0.0, 1.0, -500.0)
    assert unions_.split_bound(_margins([0], low, LAW([[1.0]]), low)).upper.tolist() == [1e-14]


def test_subtracting_in_logarithms_rounds_up():
    assert just_above(unions_._log_less(-1.0, -2.0), mpmath.log(mpmath.exp(-1) - mpmath.exp(-2)), 2e-14)
    assert unions_._log_less(-1.0, -2.0) - float(mpmath.log(mpmath.exp(-1) - mpmath.exp(-2))) > 5e-15
    assert unions_._log_less(-1.0, -np.inf) == -1 and unions_._log_less(-1.0, -1.0) == unions_._log_less(-1.0, 0.0) == -np.inf
    assert isinstance(unions_._log_less(-1.0, -2.0), float)


def test_an_intersection_is_subtracted_less_its_error(monkeypatch):
    for error, truth in ((0.1, -3 + math.log(0.8)), (0.25, -3 - math.log(4)), (0.3, -3 - math.log(4)), (0.5, -np.inf), (np.inf, -np.inf)):
        monkeypatch.setattr(unions_, "log_both", lambda forms, error=error: (-3.0, error))
        assert unions_._log_both_low(None) == close(truth, 1e-15)


def _linear(b, c):
    b = np.atleast_2d(np.asarray(b, dtype=float))
    return Forms(np.zeros((b.shape[0], b.shape[1], b.shape[1])), b, np.atleast_1d(np.asarray(c, dtype=float)))


def _widened(rule, found, forms, log_pairs, rows):
    """What `second_order` hands on: margins as large and as small as rounding allows, and pairs raised by what it may do to them."""
    high, low = (Forms(forms.A, forms.b, forms.c - found.slack[rows] + sign * found.rounding[rows]) for sign in (1, -1))
    known, d = float(rule.signatures.gaussians.accuracies.max()), rule.signatures.dimension
    return high, low, log_pairs + 8 * known * (np.abs(log_pairs) + d)


def _both_below(forms, i, j):
    covariance = forms.covariance()[np.ix_([i, j], [i, j])]
    return float(stats.multivariate_normal([0, 0], covariance, allow_singular=True).cdf([-forms.c[i], -forms.c[j]]))


def test_hunters_bound_subtracts_the_heaviest_tree(monkeypatch):
    forms = _linear([[1, 0, 0, 0], [0.9, 0.5, 0, 0], [0.2, 0, 1, 0], [0.8, 0.3, 0.2, 0.1]], [0.7, 1.0, 0.9, 1.2])
    deviation = np.sqrt(np.diagonal(forms.covariance()))
    log_p = stats.norm.logcdf(-forms.c / deviation)
    more = np.array([-9.0])
    log_all = np.concatenate([log_p, more])
    both = {(i, j): _both_below(forms, i, j) for i in range(4) for j in range(i + 1, 4)}
    trees = [
        [(0, 1), (0, 3), (0, 2)],
        [(0, 1), (0, 3), (2, 3)],
        [(0, 1), (0, 3), (1, 2)],
        [(0, 1), (1, 3), (0, 2)],
        [(0, 3), (1, 3), (0, 2)],
        [(0, 3), (1, 3), (2, 3)],
        [(0, 1), (1, 3), (2, 3)],
    ]
    tree = max(trees, key=lambda edges: sum(both[e] for e in edges))
    weights = sorted((both[e] for e in tree), reverse=True)
    for intersections in (1, 2, 3):
        truth = np.log(np.exp(log_all).sum() - sum(weights[:intersections]))
        found = unions_._hunter(forms, log_p, log_all, intersections)
        assert found == pytest.approx(truth, abs=3e-6) and found >= truth - 1e-7
    assert unions_._hunter(forms, log_p, log_all, 9) == unions_._hunter(forms, log_p, log_all, 3)
    # Nothing to subtract: disjoint events, or events that no method can intersect.
    apart = _linear([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]], [3.0, 3.0])
    log_p = stats.norm.logcdf([-3.0, -3.0])
    assert just_above(unions_._hunter(apart, log_p, log_p, 1), mpmath.log(2) + mpmath.mpf(float(log_p[0])), 1e-13)
    monkeypatch.setattr(unions_, "_log_both_low", lambda forms: -np.inf)
    assert unions_._hunter(forms, stats.norm.logcdf(-forms.c / deviation), log_all, 3) == special.logsumexp(log_all) + 5e-14
    monkeypatch.undo()
    same = _linear([[0.0, 0, 0, 0], [0.0, 0, 0, 0]], [3.0, 3.0])
    assert just_above(unions_._hunter(same, log_p, log_p, 1), mpmath.log(2) + mpmath.mpf(float(log_p[0])), 1e-13)


def test_hunters_bound_of_certain_of_equal_and_of_very_rare_events():
    # One and the same event three times, its correlations exactly one.
    same = _linear([[1.0, 0.5, 0, 0], [1.0, 0.5, 0, 0], [2.0, 1.0, 0, 0]], [2.0, 2.0, 4.0])
    log_p = np.full(3, stats.norm.logcdf(-2 / np.sqrt(1.25)))
    assert log_p[0] <= unions_._hunter(same, log_p, log_p, 2) <= log_p[0] + math.log(3) + 1e-13
    # Probabilities below the floats: the correlations still say which two overlap.
    rare = _linear([[1, 0.01, 0, 0], [1, 0, 0.01, 0], [1, 0.3, 0, 0.3]], [60.0, 60.0, 60 * np.sqrt(1.18)])
    log_p = stats.norm.logcdf(-rare.c / np.sqrt(np.diagonal(rare.covariance())))
    assert log_p.max() < -1700
    overlap = unions_._log_both_low(rare[[0, 1]])
    plain = special.logsumexp(log_p)
    assert unions_._hunter(rare, log_p, log_p, 1) == unions_._log_less(plain + 3e-14, overlap) < plain - 0.1
    # An event that rounds to one takes its whole overlap away.
    sure = _linear([[1.0, 0, 0, 0], [0.5, 1, 0, 0]], [-30.0, 1.0])
    log_p = np.array([0.0, stats.norm.logcdf(-1 / np.sqrt(1.25))])
    assert 0 <= unions_._hunter(sure, log_p, log_p, 1) <= special.logsumexp(log_p) + 1e-13


def test_the_common_threshold_counts_a_large_own_score_once(monkeypatch):
    # Wrong scores Y_s = a_s + e_s and own score X = x: margins Y_s - X; the last pair is only summed.
    own = _linear([[2.0, 0, 0, 0]], [1.0])
    forms = _linear([[-2.0, 1, 0, 0], [-2.0, 0, 1, 0], [-1.5, 0, 0, 0.5]], [3.0, 3.5, 2.5])
    deviation = np.sqrt(np.diagonal(forms.covariance()))
    log_p = stats.norm.logcdf(-forms.c / deviation)
    log_all = np.concatenate([log_p, [-6.0]])
    asked, winners_asked = [], []
    inner = optimize.brentq

    def precise(f, low, high, xtol):
        asked.append((low, high, xtol))
        winners_asked.append(f)
        return inner(f, low, high, xtol=1e-12)

    monkeypatch.setattr(optimize, "brentq", precise)
    found = unions_._common_threshold(forms, own, log_p, log_all)
    assert asked == [(1.0 - 8.0, 1.0 + 16.0, 2e-3)]
    # Given X = c the margins are normal: slope -1, -1 and -3/4 in X.
    slope, rest = np.array([-1.0, -1.0, -0.75]), np.array([1.0, 1.0, 0.5])

    def winners(c):
        return stats.norm.cdf(-(forms.c + slope * (c - 1)) / rest).sum() - 1

    threshold = inner(winners, -7, 17, xtol=1e-13)
    joint = Forms(*(np.concatenate([getattr(f, n) for f in (forms, _linear(own.b, own.c - threshold))]) for n in "Abc"))
    truth = stats.norm.sf((threshold - 1) / 2) + sum(_both_below(joint, s, 3) for s in range(3)) + math.exp(-6)
    assert found == pytest.approx(math.log(truth), abs=3e-6) and found >= math.log(truth) - 1e-7
    # Where intersections fail, each pair counts in full.
    monkeypatch.setattr(unions_, "log_both", lambda forms: (-np.inf, np.inf))
    plain = np.log(stats.norm.sf((threshold - 1) / 2) + np.exp(log_all).sum())
    assert unions_._common_threshold(forms, own, log_p, log_all) == pytest.approx(plain, abs=1e-9)
    monkeypatch.setattr(unions_, "log_both", lambda forms: (-8.0, 0.25))
    few = np.log(stats.norm.sf((threshold - 1) / 2) + 4.5 * np.exp(-8) + np.exp(-6))
    assert unions_._common_threshold(forms, own, log_p, log_all) == pytest.approx(few, abs=1e-9)
    c = inner(winners_asked[-1], *asked[-1][:2], xtol=1e-12)
    above = tail_probability((-QuadraticLaw.of_forms(own.A, own.b, own.c)).shifted(c)).log_high
    exact = special.logsumexp(np.concatenate([above, np.full(3, -8 + np.log1p(0.5)), log_all[3:]])) + 4e-14
    assert unions_._common_threshold(forms, own, log_p, log_all) == pytest.approx(exact, rel=0, abs=1e-15)
    # No threshold: an own score without variance, wrong ones that always or never win.
    assert unions_._common_threshold(forms, _linear([[0.0, 0, 0, 0]], [1.0]), log_p, log_all) == np.inf
    for c in (-1e3, 1e3):
        assert unions_._common_threshold(_linear(forms.b * [0.01, 1, 1, 1], forms.c + c), own, log_p, log_all) == np.inf


def test_the_common_threshold_does_not_depend_on_the_unit_of_scores():
    own = Forms(np.diag([0.1, 0.05, 0, 0])[None], np.array([[2.0, 0, 0, 0]]), np.array([1.0]))
    A = np.stack([np.diag([-0.1, 0.2, 0, 0]), np.diag([-0.1, 0, 0.1, 0]), -np.diag([0.1, 0.05, 0, 0])])
    # The last margin is a constant less the own score: given that score nothing of it is left to chance.
    forms = Forms(A, np.array([[-2.0, 1, 0, 0], [-2.0, 0, 1, 0], [-2.0, 0, 0, 0]]), np.array([3.0, 3.5, 4.0]))
    log_p = tail_probability(QuadraticLaw.of_forms(forms.A, forms.b, forms.c)).log_high
    once = unions_._common_threshold(forms, own, log_p, log_p)
    assert once < special.logsumexp(log_p)
    for unit in (2.0**-40, 2.0**-10, 2.0**30):
        part, whole = (Forms(f.A * unit, f.b * unit, f.c * unit) for f in (own, forms))
        assert unions_._common_threshold(whole, part, log_p, log_p) == pytest.approx(once, abs=1e-9)


def test_the_threshold_is_sought_around_the_mean_of_the_own_score(monkeypatch):
    asked = []
    monkeypatch.setattr(optimize, "brentq", lambda f, low, high, xtol: asked.append((low, high, xtol)) or 0.5 * (low + high))
    # An own score of mean 1 + 3 and deviation sqrt(2 (1 + 4) + 4).
    own = Forms(np.diag([1.0, 2, 0, 0])[None], np.array([[2.0, 0, 0, 0]]), np.array([1.0]))
    forms = _linear([[-9.0, 1, 0, 0], [-9.0, 0, 1, 0]], [12.0, 12.5])
    log_p = np.full(2, -1.0)
    assert unions_._common_threshold(forms, own, log_p, log_p) < np.inf
    assert asked == [(close(4 - 4 * np.sqrt(14)), close(4 + 8 * np.sqrt(14)), close(1e-3 * np.sqrt(14)))]
    asked.clear()
    # Two events: a threshold where both win in the end, and none if one wins throughout, or one never does.
    own = _linear([[1.0, 0, 0, 0]], [0.0])
    assert unions_._common_threshold(_linear([[-1e3, 1, 0, 0], [-1e3, 0, 1, 0]], [4e3, 4e3]), own, log_p, log_p) < np.inf
    assert len(asked) == 1
    asked.clear()
    for other in (-1e9, 1e9):
        forms = _linear([[-1e3, 1, 0, 0], [0.0, 1, 0, 0]], [2e3, other])
        assert unions_._common_threshold(forms, own, log_p, log_p) == np.inf
    assert asked == []


@pytest.mark.parametrize(("shared", "with_background"), [(True, False), (True, True), (False, True)])
def test_joint_forms_are_the_differences_of_scores(shared, with_background):
    rng = np.random.default_rng(0)
    d, task = 2, np.array([0, 1, 0, 2, 1])
    roots = rng.normal(size=(5, d, 4))
    sig = Signatures(rng.normal(size=(5, d)), roots @ roots.swapaxes(1, 2), task)
    S = 1 if shared else 3
    roots = rng.normal(size=(2, S * d, 2 * S * d))
    law = QueryLaw(rng.normal(size=(2, S, d)), roots @ roots.swapaxes(1, 2), np.array([0, 2]), np.array([0, 3]), np.ones(2))
    background = Gaussians(rng.normal(size=(3, d)), np.stack([9 * np.eye(d), 4 * np.eye(d), np.diag([1.0, 7.0])]))
    # In a shared space the background is the same for all and left out.
    rule = Rule(sig, background if with_background else None)
    for c, reference, wrong in ((0, 2, [1, 4, 3]), (0, 0, [4, 1]), (1, 3, [4, 0, 2])):
        forms, own = unions_._joint_forms(rule, law, c, reference, np.array(wrong))
        spaces = [0] if shared else sorted({int(task[s]) for s in [*wrong, reference]})
        pick = np.concatenate([np.arange(k * d, (k + 1) * d) for k in spaces])
        assert forms.b.shape == (len(wrong), len(pick)) and own.b.shape == (1, len(pick))
        factor = np.linalg.cholesky(law.covariances[c][np.ix_(pick, pick)])
        z = rng.normal(size=(7, len(pick)))
        x = np.zeros((7, S, d))
        x[:, spaces] = law.means[c, spaces] + (z @ factor.T).reshape(7, len(spaces), d)
        scores = rule.scores(x)
        for form, k, truth in [(own, 0, scores[:, reference])] + [
            (forms, j, scores[:, s] - scores[:, reference]) for j, s in enumerate(wrong)
        ]:
            value = np.einsum("ni,ij,nj->n", z, form.A[k], z) + z @ form.b[k] + form.c[k]
            assert value == pytest.approx(truth, rel=1e-10, abs=1e-10)


def test_the_second_order_bound_is_the_least_of_three():
    sig = Signatures(
        np.array([[0.0, 0], [2.0, 0.5], [1.8, -0.5], [2.2, 0.2], [9.0, 9.0]]), np.stack([np.eye(2)] * 5), np.array([0, 1, 1, 2, 3])
    )
    rule = Rule(sig)
    law = QueryLaw(sig.means[[0, 4], None], sig.covariances[[0, 4]], np.array([0, 3]), np.array([0, 4]), np.ones(2))
    found = margins(rule, law)
    log_pairs = tail_probability(found.margin).log_high
    plain = unions_.summed(log_pairs, found.edges)
    none = unions_.second_order(rule, law, found, log_pairs, 0)
    assert none.upper.tolist() == plain.upper.tolist() and none.binding.tolist() == plain.binding.tolist()
    assert (none.lower == plain.lower).all()
    bound = unions_.second_order(rule, law, found, log_pairs, 2)
    order = np.argsort(-log_pairs[:4], kind="stable")
    forms, own = unions_._joint_forms(rule, law, 0, 0, found.wrong[order[:3]])
    high, low, pairs = _widened(rule, found, forms, log_pairs, order[:3])
    hunter = unions_._hunter(high, pairs[order[:3]], pairs[order], 2)
    common = unions_._common_threshold(low, own, pairs[order[:3]], pairs[order])
    assert bound.upper[0] == min(plain.upper[0], hunter, common) < plain.upper[0]
    # The truth, from the trivariate normal law of the margins (the fourth component never wins).
    D = sig.means[:1] - sig.means[1:4]
    truth = 1 - stats.multivariate_normal(-(D**2).sum(axis=1), 4 * D @ D.T, allow_singular=True).cdf(np.zeros(3))
    assert math.log(truth) - 1e-4 <= bound.upper[0]
    one = unions_.second_order(rule, law, found, log_pairs, 1)
    forms, own = unions_._joint_forms(rule, law, 0, 0, found.wrong[order[:2]])
    high, low, pairs = _widened(rule, found, forms, log_pairs, order[:2])
    hunter = unions_._hunter(high, pairs[order[:2]], pairs[order], 1)
    common = unions_._common_threshold(low, own, pairs[order[:2]], pairs[order])
    assert one.upper[0] == min(plain.upper[0], hunter, common)
    assert bound.upper[1] <= plain.upper[1] and bound.binding.tolist() == plain.binding.tolist()


def test_the_second_order_bound_of_the_mixture_rule_takes_the_slack():
    means = np.array([[0.0, 0], [2.0, 0.5], [1.8, -0.5], [2.2, 0.2]])
    sig = Signatures(means, np.stack([np.eye(2)] * 4), np.array([0, 1, 1, 2]))
    rule = Rule(sig, kind="mixture")
    law = QueryLaw(means[:1, None], sig.covariances[:1], np.array([0]), np.array([0]), np.ones(1))
    found = margins(rule, law)
    log_pairs = tail_probability(found.margin).log_high
    bound = unions_.second_order(rule, law, found, log_pairs, 2)
    order = np.argsort(-log_pairs, kind="stable")
    forms, own = unions_._joint_forms(rule, law, 0, 0, found.wrong[order])
    high, low, pairs = _widened(rule, found, forms, log_pairs, order)
    for forms in (high, low):
        assert tail_probability(QuadraticLaw.of_forms(forms.A, forms.b, forms.c)).log_p == pytest.approx(log_pairs[order], abs=1e-9)
    parts = unions_._hunter(high, pairs[order], pairs[order], 2), unions_._common_threshold(low, own, pairs[order], pairs[order])
    assert bound.upper[0] == min(unions_.summed(log_pairs, found.edges).upper[0], *parts)


def test_every_component_with_two_likely_pairs_is_improved(monkeypatch):
    # Component 0 has one pair only; 1 has two of very different rarity; 2 and 3 have two that overlap.
    means = np.array([[0.0, 0], [0.0, 0], [1.0, 8.0], [1.0, -8.0]])
    sig = Signatures(np.array([[0.0, 0], [2.0, 0], [1.0, 8.0]]), np.stack([np.eye(2)] * 3), np.array([0, 1, 2]))
    rule = Rule(sig)
    law = QueryLaw(means[[0, 2, 2]][:, None], np.stack([np.eye(2)] * 3), np.array([0, 2, 2]), np.array([0, 2, 2]), np.ones(3))
    found = margins(rule, law)
    log_pairs = tail_probability(found.margin).log_high
    plain, bound = unions_.summed(log_pairs, found.edges), unions_.second_order(rule, law, found, log_pairs, 1)
    assert bound.upper[0] == plain.upper[0] and (bound.upper[1:] < plain.upper[1:] - 1e-6).all()
    # A task of two components against one of one: the first has one wrong component, the last has two.
    two = Signatures(sig.means, sig.covariances, np.array([0, 0, 1]))
    law = QueryLaw(sig.means[[0, 2], None], sig.covariances[[0, 2]], np.array([0, 1]), np.array([0, 2]), np.ones(2))
    found = margins(Rule(two), law)
    log_pairs = tail_probability(found.margin).log_high
    assert np.diff(found.edges).tolist() == [1, 2]
    plain, bound = unions_.summed(log_pairs, found.edges), unions_.second_order(Rule(two), law, found, log_pairs, 1)
    assert bound.upper[0] == plain.upper[0] and bound.upper[1] < plain.upper[1] - 1e-6
    # What the common threshold is given, and that its answer counts.
    given = []
    monkeypatch.setattr(unions_, "_common_threshold", lambda *a: given.append(a) or -1.25)
    law = QueryLaw(sig.means[:1, None], sig.covariances[:1], np.array([0]), np.array([0]), np.ones(1))
    found = margins(rule, law)
    pairs = np.array([-1.5, -1.4])
    one = unions_.second_order(rule, law, found, pairs, 1)
    assert one.upper.tolist() == [-1.25]
    (forms, own, log_p, log_all), (truth, own_truth) = given[0], unions_._joint_forms(rule, law, 0, 0, np.array([2, 1]))
    _, truth, moved = _widened(rule, found, truth, pairs, np.array([1, 0]))
    assert all((getattr(forms, n) == getattr(truth, n)).all() and (getattr(own, n) == getattr(own_truth, n)).all() for n in "Abc")
    assert log_p.tolist() == log_all.tolist() == moved[::-1].tolist()


def test_rounding_moves_overlaps_and_pairs_the_safe_way(monkeypatch):
    """With distances known to a millionth: margins apart by it, pairs raised by eight times it, on top of what is computed."""
    given = {}
    for name in ("_hunter", "_common_threshold"):
        monkeypatch.setattr(unions_, name, lambda *a, name=name: given.setdefault(name, a) and np.inf)
    monkeypatch.setattr(unions_, "accuracy", lambda rule: 1e-6)
    sig = Signatures(np.array([[0.0, 0], [2.0, 0.5], [1.8, -0.5]]), np.stack([np.eye(2)] * 3), np.array([0, 1, 2]))
    law = QueryLaw(sig.means[:1, None], sig.covariances[:1], np.array([0]), np.array([0]), np.ones(1))
    found = replace(margins(Rule(sig), law), rounding=np.array([0.25, 0.5]))
    pairs = np.array([-1.5, -1.4])
    unions_.second_order(Rule(sig), law, found, pairs, 1)
    (high, *_), (low, *_) = given["_hunter"], given["_common_threshold"]
    plain, _ = unions_._joint_forms(Rule(sig), law, 0, 0, np.array([2, 1]))
    assert high.c == close(plain.c + np.array([0.5, 0.25]), 1e-15) and low.c == close(plain.c - np.array([0.5, 0.25]), 1e-15)
    for pairs_of in (given["_hunter"][1:3], given["_common_threshold"][2:]):
        for values in pairs_of:
            assert values == close([-1.4 + 8e-6 * 3.4, -1.5 + 8e-6 * 3.5], 1e-15)


def test_overlaps_are_not_sought_where_they_gain_nothing(monkeypatch):
    called = []
    for name in ("_hunter", "_common_threshold"):
        monkeypatch.setattr(unions_, name, lambda *a, name=name: called.append(name) or np.inf)
    sig = Signatures(np.array([[0.0], [4.0], [-4.2], [40.0]]), np.ones((4, 1, 1)), np.array([0, 1, 2, 3]))
    law = QueryLaw(sig.means[:1, None], sig.covariances[:1], np.array([0]), np.array([0]), np.ones(1))
    rule = Rule(sig)
    found = margins(rule, law)
    for log_pairs, names in (
        ([-3.0, -3.0 + math.log(1e-3) - 0.01, -99.0], []),
        ([-3.0, -3.0 + math.log(1e-3) + 0.01, -99.0], ["_hunter"]),
        ([-3.0, -3.0 + math.log(1e-3), -99.0], ["_hunter"]),
        ([math.log(0.1) - 0.01, math.log(0.1) - 0.01, -99.0], ["_hunter"]),
        ([math.log(0.1) + 0.01, math.log(0.1) + 0.01, -99.0], ["_hunter", "_common_threshold"]),
    ):
        called.clear()
        pairs = np.array(log_pairs)
        bound = unions_.second_order(rule, law, found, pairs, 1)
        assert called == names and bound.upper.tolist() == unions_.summed(pairs, found.edges).upper.tolist()
    called.clear()
    # The common threshold is for sums above one fifth as Hunter's bound leaves them.
    monkeypatch.setattr(unions_, "_hunter", lambda *a: math.log(0.2))
    assert unions_.second_order(rule, law, found, np.array([-1.0, -1.0, -99.0]), 1).upper.tolist() == [-1.0] and called == []
    # Never below the likeliest pair, whatever rounding does.
    monkeypatch.setattr(unions_, "_hunter", lambda *a: -np.inf)
    assert unions_.second_order(rule, law, found, np.array([-3.0, -3.0, -99.0]), 1).upper.tolist() == [-3.0]
    two = Signatures(sig.means[:2], sig.covariances[:2], np.array([0, 1]))
    alone = margins(Rule(two), law)
    assert unions_.second_order(Rule(two), law, alone, np.array([-3.0]), 1).upper == unions_.summed(np.array([-3.0]), alone.edges).upper


# quadratic.py


_MIXED = ([[2.0, -0.5, 0.0], [1.0, 3.0, 0.5]], [[1.0, 0.0, 2.0], [-2.0, 1.0, 1.0]], [0.5, 0.0], [9.0, -3.0])


def _values(law, z):
    """The law's values at given normals: ``c + sum (w z^2 + g z) + s z_0`` with ``z_0`` the last."""
    return law.c[:, None] + law.w @ (z[:-1] ** 2) + law.g @ z[:-1] + law.s[:, None] * z[-1]


def test_laws_are_broadcast_from_scalars_and_checked():
    law = LAW([[1, 2], [3, 4]], [5, 6], 7, [8, 9])
    assert law.w.tolist() == [[1, 2], [3, 4]] and law.g.tolist() == [[5, 6], [5, 6]]
    assert law.s.tolist() == [7, 7] and law.c.tolist() == [8, 9] and len(law) == 2
    assert {x.dtype for x in (law.w, law.g, law.s, law.c)} == {np.dtype(np.float64)}
    assert all(x.flags.writeable for x in (law.g, law.s, law.c))
    plain = LAW([1.0, 2.0])
    assert plain.g.tolist() == [[0, 0]] and plain.s.tolist() == plain.c.tolist() == [0]
    assert {x.dtype for x in vars(LAW([1], [1], np.longdouble(1), np.longdouble(1))).values()} == {np.dtype(np.float64)}
    assert {x.dtype for x in vars(LAW(np.longdouble([1]), np.longdouble([1]), 1, 1)).values()} == {np.dtype(np.float64)}
    for name, arguments in (("w", (np.nan,)), ("g", (1, np.inf)), ("s", (1, 1, np.nan)), ("c", (1, 1, 1, -np.inf))):
        with pytest.raises(ValueError) as caught:
            LAW(*arguments)
        assert str(caught.value) == f"{name}: a quadratic law needs finite coefficients"
    with pytest.raises(ValueError) as caught:
        LAW([[1], [1]], 0, [0, -1e-9])
    assert str(caught.value) == "s: a scale is at least 0"


@pytest.mark.parametrize("D", [1, 3, 63, 64, 70])
def test_a_form_has_the_law_of_its_eigenvalues(D):
    rng = np.random.default_rng(D)
    A = rng.normal(size=(2, D, D))
    A, b, c = A + A.swapaxes(1, 2), rng.normal(size=(2, D)), np.array([1, -2])
    law = QuadraticLaw.of_forms(A, b, c)
    assert law.w == pytest.approx(np.linalg.eigvalsh(A), abs=1e-11) and law.c.tolist() == [1, -2] and law.c.dtype == np.float64
    assert (law.s == 0).all() and law.s.shape == (2,)
    assert (law.g**2).sum(axis=1) == close((b**2).sum(axis=1), 1e-10)
    # b'(A - x)^-1 b, which the law depends on.
    for k in range(2):
        assert (law.g[k] ** 2 / (law.w[k] - 50)).sum() == close(b[k] @ np.linalg.solve(A[k] - 50 * np.eye(D), b[k]), 1e-9)
    assert law.mean() == pytest.approx(c + np.trace(A, axis1=1, axis2=2))


def test_rows_negatives_and_shifts_of_laws():
    law, z = LAW(*_MIXED), np.random.default_rng(0).normal(size=(4, 9))
    truth = _values(law, z)
    mirrored = z.copy()
    mirrored[-1] = -z[-1]
    assert _values(-law, mirrored) == pytest.approx(-truth)
    assert _values(law.shifted(np.array([1.0, -2.0])), z) == pytest.approx(truth + np.array([[1.0], [-2.0]]))
    assert _values(law.shifted(0.5), z) == pytest.approx(truth + 0.5)
    assert len(law[1]) == 1 and _values(law[1], z) == pytest.approx(truth[[1]])
    assert _values(law[[1, 0, 1]], z) == pytest.approx(truth[[1, 0, 1]])


def test_moments_and_weights():
    law = LAW(*_MIXED)
    assert law.mean() == close([10.5, 1.5], 1e-15)
    assert law.variance() == close([2 * 4.25 + 5 + 0.25, 2 * 10.25 + 6], 1e-15)
    assert law.least_weight().tolist() == [0.5, 0.0] and law.greatest_weight().tolist() == [2.0, 3.0]
    assert (-law).greatest_weight().tolist() == [0.5, 0.0] and law.limit().tolist() == [1.0, np.inf]
    assert not np.signbit(LAW([[0.0, 1.0]]).least_weight()).any() and LAW([0.0]).limit() == LAW([-1e-310]).limit() == np.inf


def test_the_support_and_its_lower_end():
    law = LAW(
        [[1.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, -1.0], [1.0, 1.0], [0.0, 0.0]],
        [[2.0, 4.0], [2.0, 0.0], [2.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        [0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [5.0, 0.5, 9.0, 9.0, 9.0, 0.0],
    )
    assert law.infimum().tolist() == [3.0, -0.5, -np.inf, -np.inf, -np.inf, 0.0]
    assert law.surely_positive().tolist() == [True] + [False] * 5
    assert law.completed_constant().tolist() == [3.0, -0.5, 8.0, 8.0, 9.0, 0.0]
    # An end within rounding of zero is not taken for positive: 1e-12 of what was added and subtracted.
    for by, positive in ((1.0e-12, False), (1.9e-12, False), (2.1e-12, True)):
        assert LAW([0.25], 1.0, 0.0, 1.0 + by).surely_positive()[0] == positive
        # Squares are counted law by law, and weights of zero are not.
        squares = LAW([[1.0, 0.0], [0.25, 0.0]], [[2.0, 0.0], [200.0, 0.0]], 0.0, [1.0 + by, 1.0])
        assert squares.surely_positive().tolist() == [positive, False]
    assert LAW([[1e-300]], 0.0, 0.0, 1e-300).surely_positive()[0]


def test_the_log_transform_and_its_derivatives_are_those_of_sixty_digits():
    law = LAW(*_MIXED)
    theta = np.array([0.3, 2.0])
    found = law.log_laplace(theta[:, None])[:, 0]
    derivatives = law.laplace_derivatives(theta)
    slack = law.rounding(theta)
    with mpmath.workdps(60):
        for k in range(2):
            one = law[k]
            truth = _mp_log_laplace(one, mpmath.mpf(theta[k]))
            assert abs(mpmath.mpf(found[k]) - truth) <= slack[k] / 4
            for n in range(3):
                assert derivatives[n][k] == close(float(mpmath.diff(lambda t, one=one: _mp_log_laplace(one, t), theta[k], n + 1)), 1e-13)
    # Complex points, several per law.
    points = np.array([[0.2 + 1j, 0.1 - 3j, 0.0], [1.0 + 5j, 3.0, 0.5j]])
    values = law.log_laplace(points)
    with mpmath.workdps(30):
        for k in range(2):
            for j in range(3):
                z = mpmath.mpc(points[k, j])
                truth = -z * law.c[k] + (law.s[k] * z) ** 2 / 2
                truth += sum(
                    -mpmath.log(1 + 2 * w * z) / 2 + (g * z) ** 2 / (2 * (1 + 2 * w * z)) for w, g in zip(law.w[k], law.g[k], strict=True)
                )
                assert values[k, j] == pytest.approx(complex(truth), rel=1e-13, abs=1e-15)


def test_derivatives_bear_thetas_far_to_the_right():
    # 1 + 2 w theta overflows where its reciprocal has long vanished.
    assert [d.tolist() for d in LAW([1e10], 1.0, 0.0, 3.0).laplace_derivatives(np.array([1e300]))] == [[-3.0], [0.0], [0.0]]


def test_the_allowance_for_rounding_is_eight_ulps_of_the_terms_and_of_what_their_sums_lose():
    law = LAW(*_MIXED)
    for theta in (np.array([0.3, 2.0]), np.array([0.9, 1e-6]), np.array([0.999999, 50.0])):
        e = 2 * law.w * theta[:, None]
        shifted = (law.g * theta[:, None]) ** 2 / (2 * (1 + e))
        # An error of u in e moves log(1 + e) / 2 by u / (2 (1 + e)) and the quotient by itself times u / (1 + e).
        terms = np.abs(np.log(1 + e)) / 2 + shifted + (0.5 + shifted) * np.abs(e) / (1 + e)
        terms = np.abs(law.c) * theta + (law.s * theta) ** 2 / 2 + terms.sum(axis=1)
        assert law.rounding(theta) == close(8 * np.finfo(float).eps * (1 + terms), 1e-9)


def test_samples_have_the_law():
    law, n = LAW(*_MIXED), 40_000
    x = law.sample(n, np.random.default_rng(0))
    assert x.shape == (2, n) and (x == law.sample(n, np.random.default_rng(0))).all()
    assert np.abs(x.mean(axis=1) - law.mean()).max() < 5 * np.sqrt(law.variance().max() / n)
    assert x.var(axis=1) == close(law.variance(), 0.1)
    rng = np.random.default_rng(0)
    z, z0 = rng.standard_normal((2, n, 3)), rng.standard_normal((2, n))
    for k in range(2):
        assert x[k] == pytest.approx(_values(law[k], np.vstack([z[k].T, z0[k]]))[0])
    third = -law.laplace_derivatives(np.zeros(2))[2]
    assert ((x - law.mean()[:, None]) ** 3).mean(axis=1) == close(third, 0.2)
    assert stats.kstest(LAW([0.0], 0.0, 2.0, 1.0).sample(n, np.random.default_rng(1))[0], stats.norm(1, 2).cdf).pvalue > 1e-6
    assert stats.kstest(LAW([0.0], 2.0, 0.0, 1.0).sample(n, np.random.default_rng(1))[0], stats.norm(1, 2).cdf).pvalue > 1e-6
    assert stats.kstest(LAW([1.0, 1.0]).sample(n, np.random.default_rng(1))[0], stats.chi2(2).cdf).pvalue > 1e-6
