from __future__ import annotations

import gx2
import mpmath
import numpy as np
import pytest
from hypothesis import given
from scipy import stats
from strategies import quadratic_laws

from theory import QuadraticLaw, tail_probability
from theory.tails import log_chernoff, log_laurent_massart, log_lower_bernstein, log_upper_bernstein


@pytest.mark.parametrize("d", [1, 2, 3, 5, 16, 64, 384])
@pytest.mark.parametrize("factor", [0.05, 0.5, 1.0, 1.5, 3.0])
def test_chi_square_tails_to_1e_8(d, factor):
    x = d * factor
    upper = tail_probability(QuadraticLaw.of(-np.ones((1, d)), c=x))
    lower = tail_probability(QuadraticLaw.of(np.ones((1, d)), c=-x))
    assert upper.exact.all() and lower.exact.all()
    assert np.expm1(upper.log_p[0] - stats.chi2.logsf(x, d)) == pytest.approx(0, abs=1e-8)
    assert np.expm1(lower.log_p[0] - stats.chi2.logcdf(x, d)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(("d1", "d2", "r"), [(1, 1, 2.0), (2, 3, 5.0), (10, 10, 50.0), (40, 40, 1e3), (16, 16, 1e20)])
def test_indefinite_forms_are_f_tails_down_to_1e_150(d1, d2, r):
    found = tail_probability(QuadraticLaw.of(np.r_[-np.ones(d1) / d1, r * np.ones(d2) / d2]))
    assert np.expm1(found.log_p[0] - stats.f.logsf(r, d1, d2)) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("mean", [-3.0, 0.0, 3.0, 10.0, 37.0])
def test_normal_tails(mean):
    found = tail_probability(QuadraticLaw.of([[0.0]], g=[[1.0]], c=mean))
    assert np.expm1(found.log_p[0] - stats.norm.logcdf(-mean)) == pytest.approx(0, abs=1e-8)


def test_far_below_the_least_float_it_is_neither_zero_nor_one():
    found = tail_probability(QuadraticLaw.of(-np.ones((1, 8)), c=4000.0))
    with mpmath.workdps(40):
        truth = mpmath.log(mpmath.gammainc(4, 2000, regularized=True))
    assert found.log_p[0] == pytest.approx(float(truth), rel=1e-9)
    assert found.log_p[0] < -1900


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_agrees_with_imhof_where_that_is_right():
    rng = np.random.default_rng(3)
    law = QuadraticLaw.of(rng.normal(size=(30, 9)) + 0.8, rng.normal(size=(30, 9)), c=rng.normal(size=30) * 3)
    found = tail_probability(law)
    for k in range(30):
        w, g = law.w[k], law.g[k]
        p = gx2.cdf(0.0, w, np.ones(9), (g / 2 / w) ** 2, 0, law.c[k] - (g**2 / 4 / w).sum(), method="imhof", AbsTol=1e-12, RelTol=1e-12)
        assert np.exp(found.log_p[k]) == pytest.approx(float(p), abs=1e-7)


@given(quadratic_laws())
def test_exact_is_below_chernoff_is_below_bernstein(law):
    found = tail_probability(law)
    chernoff, bernstein = log_chernoff(law), log_lower_bernstein(law)
    assert (found.log_high <= chernoff + 1e-12).all()
    assert (chernoff <= bernstein + 1e-12).all()
    assert (bernstein <= 0).all()
    assert (found.log_low <= found.log_high).all()


@given(quadratic_laws())
def test_exact_lies_in_the_interval_of_simulation(law):
    found = tail_probability(law)
    n = 20_000
    hits = (law.sample(n, np.random.default_rng(0)) <= 0).sum(axis=1)
    low = stats.beta.ppf(1e-7, np.maximum(hits, 1e-9), n - hits + 1)
    high = stats.beta.ppf(1 - 1e-7, hits + 1, np.maximum(n - hits, 1e-9))
    p = np.exp(found.log_p)
    assert ((p >= low) | (hits == 0)).all()
    assert ((p <= high) | (hits == n)).all()


@given(quadratic_laws())
def test_both_tails_add_up_to_one(law):
    below, above = tail_probability(law), tail_probability(-law)
    assert np.exp(below.log_p) + np.exp(above.log_p) == pytest.approx(np.ones(len(law)), abs=1e-7)


def test_a_law_with_a_distant_singularity_is_not_trusted_on_a_bent_path():
    """Such a law once gave a converged value above one: the modulus rose again far out on the bent path."""
    w = np.array([-1.6, -0.8, -0.3, -0.001, 0.03, 0.4, 1.1, 1.7, 2.4])
    g = np.array([1.8, 0.1, -0.3, 0.64, 1.45, -2.1, -3.2, 9.4, 5.5])
    law = QuadraticLaw.of(w, g, c=25.0)
    p = gx2.cdf(0.0, w, np.ones(9), (g / 2 / w) ** 2, 0, 25.0 - (g**2 / 4 / w).sum(), method="imhof", AbsTol=1e-13, RelTol=1e-12)
    assert np.exp(tail_probability(law).log_p[0]) == pytest.approx(float(p), rel=1e-6)


def test_an_impossible_event_and_a_certain_one():
    assert tail_probability(QuadraticLaw.of([[1.0, 2.0]], c=1.0)).log_p[0] == -np.inf
    assert tail_probability(QuadraticLaw.of([[0.0]], c=-1.0)).log_p[0] == 0.0


@pytest.mark.parametrize("d", [1, 4, 64, 768])
@pytest.mark.parametrize("t", [0.1, 1.0, 10.0, 300.0])
def test_t1_holds_and_t4_is_no_worse(d, t):
    x = d + 2 * np.sqrt(d * t) + 2 * t
    assert stats.chi2.logsf(x, d) <= -t
    assert log_laurent_massart(d, x) == pytest.approx(-t, rel=1e-9)
    law = QuadraticLaw.of(-np.ones((1, d)), c=x)
    assert log_chernoff(law)[0] <= log_laurent_massart(d, x) + 1e-9
    # T3 specialises to T1 for an unweighted chi-square.
    assert log_upper_bernstein(QuadraticLaw.of(np.ones((1, d))), x)[0] == pytest.approx(-t, rel=1e-9)
