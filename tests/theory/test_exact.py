from __future__ import annotations

import gx2
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import by_circles, by_integration, by_line, by_ruben, log_probability
from scipy import stats
from strategies import quadratic_laws, signatures

import theory.exact
import theory.quadratic
from theory import QuadraticLaw, Rule, margins, tail_probability, well_specified
from theory.exact import lugannani_rice
from theory.tails import log_chernoff, log_laurent_massart, log_lower_bernstein, log_upper_bernstein

# The oracles take a second or so for each law.
FEW = settings(max_examples=max(6, settings.default.max_examples // 8))


def assert_right(law, method):
    """The value is the oracle's to 1e-9 of P (1e-6 below 1e-100), and the oracle's value lies inside the interval."""
    truth = log_probability(law, method)
    found = tail_probability(law)
    assert found.exact[0]
    with mpmath.workdps(60):
        low, p, high = (mpmath.mpf(float(x[0])) for x in (found.log_low, found.log_p, found.log_high))
        assert low <= truth <= high
        error = abs(mpmath.expm1(p - truth))
        assert error <= found.relative_error[0] + 1e-15
        assert error <= (1e-9 if truth > -230 else 1e-6)


def placed(law, z):
    """The law moved so that 0 lies z standard deviations below its mean, or just inside the support where that ends before."""
    law = law.shifted(-law.mean() + z * np.sqrt(law.variance()))
    inside = 1e-3 * np.sqrt(law.variance())
    law = law.shifted(-np.maximum(0.0, law.infimum() + inside))
    return -(-law).shifted(-np.maximum(0.0, (-law).infimum() + inside))


def repeated(law, n):
    return law[np.repeat(np.arange(len(law)), n)]


@st.composite
def deviations(draw):
    """From the mean to tails of 1e-300, on either side, all magnitudes alike."""
    return draw(st.sampled_from([-1, 1])) * 10 ** draw(st.floats(-2, 2.5))


@st.composite
def paired_laws(draw):
    """Weights in equal pairs, of one sign or both, over up to twelve decades; central or not."""
    n = draw(st.integers(1, 3))
    decades = draw(st.sampled_from([0, 1, 12]))
    w = [draw(st.sampled_from([-1, 1])) * (j + draw(st.floats(0.6, 1.4))) * 10 ** -draw(st.floats(0, decades)) for j in range(n)]
    if draw(st.booleans()):
        w = np.abs(w) * draw(st.sampled_from([-1, 1]))
    w = np.repeat(w, draw(st.sampled_from([2, 4])))
    shift = draw(st.sampled_from([0.0, 0.3, 2.0]))
    return placed(QuadraticLaw.of(w, 2 * w * shift * np.cos(np.arange(w.size))), draw(deviations()))


@st.composite
def definite_laws(draw):
    w = np.array(draw(st.lists(st.floats(0.2, 1), min_size=1, max_size=6))) * draw(st.sampled_from([-1, 1]))
    return placed(QuadraticLaw.of(w, 2 * w * draw(st.sampled_from([0.0, 0.5, 1.5]))), np.clip(draw(deviations()), -15, 15))


@st.composite
def planar_laws(draw):
    """Two coordinates, one of which may be a normal part: the slowest decay along the contour, and kinks."""
    w, g = (np.array([draw(st.floats(-1, 1)) for _ in range(2)]) for _ in range(2))
    w += np.where(np.abs(w) < 0.05, 0.1, 0.0)
    z = np.clip(draw(deviations()), -15, 15)
    if draw(st.booleans()):
        return placed(QuadraticLaw.of(w[:1], g[:1], draw(st.floats(0.2, 2))), z)
    return placed(QuadraticLaw.of(w, g), z)


@st.composite
def smoothed_laws(draw):
    n = draw(st.integers(3, 8))
    w, g = (np.array([draw(st.floats(-1, 1)) for _ in range(n)]) for _ in range(2))
    return placed(QuadraticLaw.of(w, g, draw(st.floats(2, 4))), np.clip(draw(deviations()), -20, 20))


@FEW
@given(paired_laws())
def test_forms_with_even_multiplicities_agree_with_their_residues(law):
    assert_right(law, by_circles)


@FEW
@given(definite_laws())
def test_definite_forms_agree_with_rubens_series(law):
    assert_right(law, by_ruben)


@FEW
@given(planar_laws())
def test_two_coordinates_agree_with_integration(law):
    assert_right(law, by_integration)


@FEW
@given(smoothed_laws())
def test_laws_with_a_normal_part_agree_with_another_line(law):
    assert_right(law, by_line)


@pytest.mark.parametrize("z", [3.0, 30.0, 300.0, 3000.0, 1e5])
def test_a_form_over_twelve_decades_far_below_the_least_float(z):
    w = np.repeat([-1.0, 1.0, -1e-6, 1e-12], [2, 4, 2, 2])
    assert_right(placed(QuadraticLaw.of(w, 0.6 * w), z), by_circles)


@pytest.mark.parametrize("distance", [1e-12, 1e-8, 1e-3])
def test_close_to_the_end_of_the_support(distance):
    assert_right(QuadraticLaw.of([1.0, 2.0, 2.0], c=-distance), by_ruben)
    assert_right(QuadraticLaw.of([-1.0, -2.0, -2.0], c=distance), by_ruben)


def test_one_coordinate_is_an_interval():
    cases = [(1.0, 0.0, -1e-9), (1.0, 3.0, 2.0), (-1.0, 0.5, 1.0), (-1.0, 3.0, 600.0)]
    for w, g, c in [*cases, (1e-9, 1.0, 20.0), (1.0, -80.0, 1590.0), (-1.0, 40.0, 1e4)]:
        assert_right(QuadraticLaw.of([w], [g], c=c), by_integration)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 16, 64, 384])
@pytest.mark.parametrize("factor", [0.05, 0.5, 1.0, 1.5, 3.0])
def test_chi_square_tails(d, factor):
    x = d * factor
    upper = tail_probability(QuadraticLaw.of(-np.ones((1, d)), c=x))
    lower = tail_probability(QuadraticLaw.of(np.ones((1, d)), c=-x))
    assert upper.exact.all() and lower.exact.all()
    with mpmath.workdps(200):
        above, below = (mpmath.log(mpmath.gammainc(d / 2, *side, regularized=True)) for side in ((x / 2, mpmath.inf), (0, x / 2)))
        for found, truth in ((upper, above), (lower, below)):
            assert abs(mpmath.expm1(found.log_p[0] - truth)) < 1e-12
            assert found.log_low[0] <= truth <= found.log_high[0]


@pytest.mark.parametrize(("d1", "d2", "r"), [(1, 1, 2.0), (2, 3, 5.0), (10, 10, 50.0), (40, 40, 1e3), (16, 16, 1e20)])
def test_indefinite_forms_are_f_tails_down_to_1e_150(d1, d2, r):
    found = tail_probability(QuadraticLaw.of(np.r_[-np.ones(d1) / d1, r * np.ones(d2) / d2]))
    with mpmath.workdps(50):
        truth = mpmath.log(mpmath.betainc(mpmath.mpf(d2) / 2, mpmath.mpf(d1) / 2, 0, 1 / (1 + mpmath.mpf(r) * d1 / d2), regularized=True))
        assert abs(mpmath.expm1(found.log_p[0] - truth)) < 1e-12


@pytest.mark.parametrize("mean", [-3.0, 0.0, 3.0, 10.0, 37.0, 1e4])
def test_normal_tails(mean):
    found = tail_probability(QuadraticLaw.of([[0.0]], g=[[1.0]], c=mean))
    with mpmath.workdps(50):
        truth = mpmath.log(mpmath.ncdf(-mean))
        assert abs(mpmath.expm1(found.log_p[0] - truth)) < max(1e-13, 1e-15 * mean**2)
        assert found.log_low[0] <= truth <= found.log_high[0]


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
def test_agrees_with_imhof_where_that_is_right():
    rng = np.random.default_rng(3)
    law = QuadraticLaw.of(rng.normal(size=(30, 9)) + 0.8, rng.normal(size=(30, 9)), c=rng.normal(size=30) * 3)
    found = tail_probability(law)
    for k in range(30):
        w, g = law.w[k], law.g[k]
        p = gx2.cdf(0.0, w, np.ones(9), (g / 2 / w) ** 2, 0, law.c[k] - (g**2 / 4 / w).sum(), method="imhof", AbsTol=1e-12, RelTol=1e-12)
        assert np.exp(found.log_p[k]) == pytest.approx(float(p), abs=1e-9)


@st.composite
def any_laws(draw):
    """Batches with everything that is hard at once: decades between weights, distant singularities, thresholds anywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    P, r = 6, draw(st.sampled_from([1, 2, 3, 4, 6, 9, 16, 50]))
    w = rng.normal(size=(P, r)) * 10 ** -rng.uniform(0, draw(st.sampled_from([0, 2, 12])), size=(P, r))
    if draw(st.booleans()):
        w = np.abs(w) * draw(st.sampled_from([-1, 1]))
    shift = rng.normal(size=(P, r)) * 10 ** rng.uniform(-2, draw(st.sampled_from([0, 1, 3])), size=(P, r))
    s = 10 ** rng.uniform(-6, 1, size=P) * draw(st.booleans())
    z = rng.choice([-1, 1], size=P) * 10 ** rng.uniform(-3, draw(st.sampled_from([1, 3, 6])), size=P)
    law = placed(QuadraticLaw.of(w, 2 * w * shift, s), z)
    scale = 10.0 ** draw(st.sampled_from([-150, 0, 150]))
    return QuadraticLaw(law.w * scale, law.g * scale, law.s * scale, law.c * scale)


@given(any_laws())
def test_every_law_is_exact_and_its_mirror_image_is_the_complement(law):
    below, above = tail_probability(law), tail_probability(-law)
    for found in (below, above):
        deep = found.log_p < -1e15
        assert (found.exact | deep).all()
        assert (found.log_low <= found.log_p).all() and (found.log_p <= found.log_high).all() and (found.log_high <= 0).all()
    width = below.relative_error * np.exp(below.log_p) + above.relative_error * np.exp(above.log_p)
    assert (np.abs(np.exp(below.log_p) + np.exp(above.log_p) - 1) <= 1e-14 + width).all()


@given(any_laws(), st.sampled_from([2.0**-30, 0.3, 7e5]))
def test_neither_the_unit_nor_the_order_nor_the_batch_matters(law, unit):
    order = np.random.default_rng(0).permutation(law.w.shape[1])
    found = tail_probability(law)
    other = tail_probability(QuadraticLaw(law.w[:, order] * unit, law.g[:, order] * unit, law.s * unit, law.c * unit))
    # Where c and the squares nearly cancel, even a change of unit moves the law.
    slack = 4 * (1 + np.abs(found.log_p)) * 1e-15 + 10 * (found.relative_error + other.relative_error)
    agree = found.exact & other.exact & np.isfinite(found.log_p)
    assert (np.abs(found.log_p - other.log_p)[agree] <= slack[agree]).all()
    alone = np.concatenate([tail_probability(law[[k]]).log_p for k in range(len(law))])
    np.testing.assert_allclose(alone[agree], found.log_p[agree], rtol=1e-11)


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


def test_a_law_with_a_distant_singularity_is_not_trusted_on_a_bent_path():
    """Such a law once gave a converged value above one: the modulus rose again far out on the bent path."""
    w = np.array([-1.6, -0.8, -0.3, -0.001, 0.03, 0.4, 1.1, 1.7, 2.4])
    g = np.array([1.8, 0.1, -0.3, 0.64, 1.45, -2.1, -3.2, 9.4, 5.5])
    law = QuadraticLaw.of(w, g, c=25.0)
    p = gx2.cdf(0.0, w, np.ones(9), (g / 2 / w) ** 2, 0, 25.0 - (g**2 / 4 / w).sum(), method="imhof", AbsTol=1e-13, RelTol=1e-12)
    assert np.exp(tail_probability(law).log_p[0]) == pytest.approx(float(p), rel=1e-6)


@pytest.mark.parametrize(
    ("law", "log_p"),
    [
        (QuadraticLaw.of([[1.0, 2.0]], c=1.0), -np.inf),
        (QuadraticLaw.of([[-1.0, -2.0]], c=-1.0), 0.0),
        (QuadraticLaw.of([[1.0, 2.0]], c=0.0), -np.inf),
        (QuadraticLaw.of([[-1.0, -2.0]], c=0.0), 0.0),
        (QuadraticLaw.of([[0.0]], c=-1.0), 0.0),
        (QuadraticLaw.of([[0.0]], c=0.0), 0.0),
        (QuadraticLaw.of([[0.0]], c=1.0), -np.inf),
    ],
)
def test_impossible_events_and_certain_ones(law, log_p):
    found = tail_probability(law)
    assert found.exact[0] and found.relative_error[0] == 0
    assert found.log_p[0] == found.log_low[0] == log_p
    assert found.log_high[0] == log_p or np.exp(found.log_high[0]) == np.exp(log_p)
    assert np.isfinite(found.log_high[0])
    assert lugannani_rice(law)[0] == log_p


def test_coefficients_that_leave_the_floats_end_in_a_bound():
    law = QuadraticLaw.of([[1e-300], [1e300], [-1e-300]], c=[1e300, -1e-300, 1e300], s=[1e-300, 0.0, 0.0])
    found = tail_probability(law)
    assert (found.log_low <= found.log_high).all() and (found.log_high <= 0).all()
    assert found.log_high[0] < -1e100 and found.log_high[2] < -1e100
    assert not np.isnan(found.log_p).any()


def test_an_exact_value_above_chernoffs_bound_raises(monkeypatch):
    monkeypatch.setattr(theory.exact, "log_chernoff", lambda law: np.full(len(law), -50.0))
    with pytest.raises(ArithmeticError, match="Chernoff"):
        tail_probability(QuadraticLaw.of([[1.0, -1.0]], c=3.0))


def test_a_law_whose_quadrature_fails_keeps_the_chernoff_bound(monkeypatch):
    for name in ("_line", "_descent"):
        monkeypatch.setattr(theory.exact, name, lambda law, *rest: (np.full(len(law), 0.4), np.full(len(law), 1e-3)))
    law = QuadraticLaw.of([[1.0, -1.0], [1.0, -1.0]], c=[3.0, -3.0])
    found = tail_probability(law)
    chernoff = log_chernoff(law[[0]])[0]
    assert not found.exact.any() and np.isinf(found.relative_error[0])
    assert found.log_high[0] == pytest.approx(chernoff, rel=1e-12) and found.log_low[0] == -np.inf
    # Of the mirror image that bound is a lower side.
    assert found.log_high[1] == 0 and np.exp(found.log_low[1]) == pytest.approx(1 - np.exp(chernoff), rel=1e-12)


def test_blocks_of_laws_and_slices_of_weights_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    law = QuadraticLaw.of(rng.normal(size=(7, 30)), rng.normal(size=(7, 30)), c=20.0)
    points = rng.normal(size=(7, 5)) * 0.01 + 1j * rng.normal(size=(7, 5))
    whole, transform = tail_probability(law), law.log_laplace(points)
    monkeypatch.setattr(theory.exact, "_BLOCK", 600)
    monkeypatch.setattr(theory.quadratic, "_SLICE", 100)
    np.testing.assert_allclose(tail_probability(law).log_p, whole.log_p, rtol=1e-12)
    np.testing.assert_allclose(law.log_laplace(points), transform, rtol=1e-12)
    assert len(tail_probability(law[[]]).log_p) == 0


@pytest.mark.parametrize("d", [16, 64, 384])
def test_lugannani_rice_is_within_a_fiftieth_between_1e_3_and_1e_10(d):
    base = QuadraticLaw.of(np.stack([-np.ones(d), np.ones(d)]))
    if d > 16:
        sig = signatures(np.random.default_rng(d), d, [0, 1], 0.0)
        pair = margins(Rule(sig), well_specified(sig)).margin
        base = QuadraticLaw.of(np.concatenate([base.w, pair.w]), np.concatenate([base.g, pair.g]))
    law = repeated(base, 40)
    law = placed(law, np.tile(np.linspace(2, 12, 40), len(base)))
    exact, found = tail_probability(law).log_p, lugannani_rice(law)
    relevant = (exact < np.log(1e-3)) & (exact > np.log(1e-10))
    assert relevant.sum() > 20
    assert np.abs(found - exact)[relevant].max() < 0.02


@given(any_laws())
def test_lugannani_rice_is_near_everywhere(law):
    """Where one singularity dominates, its error is Stirling's for Gamma(1/2): 0.153."""
    exact, found = tail_probability(law), lugannani_rice(law)
    known = exact.exact & np.isfinite(exact.log_p) & (exact.log_p > -1e12)
    assert (np.abs(found - exact.log_p)[known] < 0.3 + 1e-12 * np.abs(exact.log_p[known])).all()


def test_lugannani_rice_is_continuous_through_the_mean():
    law = QuadraticLaw.of(np.linspace(-1, 2, 12), 0.5)
    z = np.array([-1e-2, -1.1e-3, -0.9e-3, -1e-5, 0.0, 1e-9, 0.9e-3, 1.1e-3, 1e-2])
    laws = placed(repeated(law, z.size), z)
    p = np.exp(lugannani_rice(laws))
    assert np.abs(p - np.exp(tail_probability(laws).log_p)).max() < 0.005
    assert np.abs(np.diff(p) + 0.4 * np.diff(z)).max() < 0.002


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
