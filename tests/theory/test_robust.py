"""Rungs that assume less than a Gaussian law: moments, unimodality, a random scale, a ball of laws."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from theory import Ball, InputError, QuadraticLaw, Student, ladder, tail_probability
from theory.robust import log_cantelli, log_central_moments, log_moments, log_scale_mixture, log_unimodal
from theory.testing import Setting, quadratic_laws


@given(quadratic_laws())
def test_every_moment_bound_is_at_least_the_exact_tail_and_unimodality_only_helps(law):
    exact = tail_probability(law)
    cantelli, unimodal, moments = log_cantelli(law), log_unimodal(law), log_moments(law)
    assert (cantelli >= exact.log_low).all() and (moments >= exact.log_low).all() and (unimodal >= exact.log_low).all()
    assert (unimodal <= cantelli).all()


@given(st.floats(0.01, 50))
def test_the_unimodal_bound_is_attained_where_its_two_branches_meet(ratio):
    """One margin of mean r and unit variance: both branches, written out."""
    law = QuadraticLaw.of([[0.0]], g=[[1.0]], c=np.sqrt(ratio))
    x = 1 / (1 + ratio)
    expected = 4 * x / 9 if ratio >= 5 / 3 else 4 * x / 3 - 1 / 3
    assert np.exp(log_unimodal(law)[0]) == pytest.approx(expected, rel=1e-9)


def test_central_moments_agree_with_integrals():
    w, g = [0.7, -0.4], [0.3, 1.1]
    found = log_central_moments(QuadraticLaw.of([w], g=[g]), most=8)[0]
    mean, variance = sum(w), 2 * (0.7**2 + 0.4**2) + 0.3**2 + 1.1**2
    nodes, weight = np.polynomial.hermite_e.hermegauss(24)
    x, y = np.meshgrid(nodes, nodes)
    m = w[0] * x**2 + g[0] * x + w[1] * y**2 + g[1] * y - mean
    for j, p in enumerate((2, 4, 6, 8)):
        moment = (np.outer(weight, weight) * m**p).sum() / (2 * np.pi)
        assert found[j] == pytest.approx(np.log(moment / variance ** (p / 2)), rel=1e-10, abs=1e-10)


def test_moments_of_a_normal_margin_are_double_factorials():
    found = log_central_moments(QuadraticLaw.of([[0.0]], s=3.0))[0]
    for j, p in enumerate(range(2, 41, 2)):
        assert found[j] == pytest.approx(float(mpmath.log(mpmath.fac2(p - 1))), rel=1e-10, abs=1e-10)


def test_high_moments_beat_cantelli_far_out():
    law = QuadraticLaw.of([[0.0]], s=1.0, c=8.0)
    assert log_moments(law)[0] < -20 < log_cantelli(law)[0]
    with pytest.raises(InputError, match="most"):
        log_moments(law, most=3)


@pytest.mark.parametrize("dof", [1.0, 3.0, 8.0, 200.0])
@pytest.mark.parametrize("mean", [0.5, 3.0, 30.0])
def test_a_scaled_normal_margin_is_a_student_margin(dof, mean):
    law = QuadraticLaw.of([[0.0]], s=1.0, c=mean)
    upper, error = log_scale_mixture(law, np.array([0]), 1, Student(dof))
    assert upper[0] == pytest.approx(stats.t.logcdf(-mean, dof), abs=1e-5)
    assert upper[0] >= stats.t.logcdf(-mean, dof) - 1e-9
    assert error[0] < 1e-5


def test_the_scale_mixture_tends_to_the_gaussian_law():
    rule, law = Setting(0, 3, (1, 1, 1), 3.0).build()
    found = ladder(rule, law, simulations=0, intersections=0, scale=Student(1e6)).overall
    assert found["L11"].value == pytest.approx(found["L5"].value, rel=1e-3)
    heavy = ladder(rule, law, simulations=0, intersections=0, scale=Student(3.0)).overall
    assert heavy["L11"].value > found["L11"].value
    assert "chi2" in heavy["L11"].given


@pytest.mark.parametrize("dof", [0.0, -1.0, np.nan, np.inf])
def test_degrees_of_freedom_are_positive_and_finite(dof):
    with pytest.raises(InputError, match="dof"):
        Student(dof)


def test_a_ball_raises_l5_and_names_its_divergence():
    rule, law = Setting(0, 3, (1, 1, 1), 3.0).build()
    for divergence in ("kl", "chi2"):
        found = ladder(rule, law, simulations=0, intersections=0, ball=Ball(divergence, 0.01)).overall
        assert found["L12"].value > found["L5"].value
        assert "0.01" in found["L12"].given
        none = ladder(rule, law, simulations=0, intersections=0, ball=Ball(divergence, 0.0)).overall
        assert none["L12"].value == pytest.approx(found["L5"].value, rel=1e-9)
    with pytest.raises(InputError, match="radius"):
        Ball("kl", -1.0)
    with pytest.raises(InputError, match="divergence"):
        Ball("tv", 0.1)  # type: ignore[arg-type]
