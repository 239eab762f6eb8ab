"""The confidence version of every rung: the divergences are what they claim, and the bounds cover the true error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import covariance, cross_law, signatures

from theory import InputError, QuadraticLaw, QueryLaw, Signatures, ladder, tail_probability, well_specified
from theory.confidence import CONFIDENT, confident, confident_ladder, divergence_radius, divergences, inflate
from theory.robust import log_cantelli
from theory.tails import log_chernoff, log_lower_bernstein


def _divergences(mean, cov, alphas):
    """KL(Q, P) and D_alpha(Q, P) for Q standard normal and P = N(mean, cov), from the textbook formulas; batched."""
    w, vectors = np.linalg.eigh(cov)
    m = np.einsum("rij,ri->rj", vectors, mean)
    out = [0.5 * ((1 / w).sum(axis=1) + (m**2 / w).sum(axis=1) - w.shape[1] + np.log(w).sum(axis=1))]
    for a in alphas:
        mixed = a * w - (a - 1)
        finite = (mixed > 0).all(axis=1)
        mixed = np.where(finite[:, None], mixed, 1.0)
        value = 0.5 * a * (m**2 / mixed).sum(axis=1) - (np.log(mixed).sum(axis=1) - a * np.log(w).sum(axis=1)) / (2 * (a - 1))
        out.append(np.where(finite, value, np.inf))
    return np.stack(out, axis=1)


def _estimates(n, D, draws, rng):
    x = rng.standard_normal((draws, n, D))
    mean = x.mean(axis=1)
    centred = x - mean[:, None]
    return mean, np.einsum("rni,rnj->rij", centred, centred) / (n - 1)


@pytest.mark.parametrize(("n", "D", "widening"), [(4, 1, 1.0), (12, 3, 1.0), (12, 3, 1.4), (40, 8, 1.2)])
def test_the_divergences_have_the_law_of_those_from_samples(n, D, widening):
    alphas = np.array([1.1, 1.5, 3.0])
    rng = np.random.default_rng(1)
    mean, cov = _estimates(n, D, 6000, rng)
    direct, found = _divergences(mean, widening * cov, alphas), divergences(n, D, alphas, 6000, rng, widening)
    for j in range(4):
        finite = [np.where(np.isinf(x[:, j]), 1e9, x[:, j]) for x in (direct, found)]
        assert stats.ks_2samp(*finite, method="asymp").pvalue > 1e-4


def test_the_formulas_are_the_integrals_that_they_stand_for():
    mean, cov, x = 0.3, 1.2, np.linspace(-12, 12, 20_001)
    q, p = stats.norm.pdf(x), stats.norm.pdf(x, mean, np.sqrt(cov))
    found = _divergences(np.array([[mean]]), np.array([[[cov]]]), [1.5, 3.0])[0]
    step = x[1] - x[0]
    assert found[0] == pytest.approx((q * np.log(q / p)).sum() * step, rel=1e-6)
    for j, a in enumerate([1.5, 3.0]):
        assert found[1 + j] == pytest.approx(np.log((q**a * p ** (1 - a)).sum() * step) / (a - 1), rel=1e-6)


def test_wider_for_fewer_samples_and_smaller_beta():
    def kl(n, beta, **settings):
        return divergence_radius(n, 4, beta, np.random.default_rng(0), **settings).kl

    assert kl(20, 0.05) > kl(100, 0.05) > kl(1000, 0.05) > 0
    assert kl(100, 0.01) > kl(100, 0.1)
    assert kl(100, 0.05, simultaneous=5) > kl(100, 0.05)
    # 2 n KL is asymptotically chi-square with as many degrees of freedom as there are parameters.
    assert 2 * 10**6 * kl(10**6, 0.05) == pytest.approx(stats.chi2.isf(0.05, 4 + 10), rel=0.1)


@st.composite
def gaussian_pairs(draw: st.DrawFn):
    """A true law, a nearby estimate, and an event: a margin at most zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    D = draw(st.integers(1, 5))
    g = rng.normal(size=(D, draw(st.sampled_from([20, 100, 1000]))))
    cov = g @ g.T / g.shape[1]
    mean = rng.normal(size=D) / np.sqrt(g.shape[1])
    A = rng.normal(size=(D, D))
    return mean, cov, (A + A.T) / 2, rng.normal(size=D), rng.exponential() * draw(st.sampled_from([1.0, 10.0]))


def _margin(mean, factor, A, b, c):
    return QuadraticLaw.of_forms(
        (factor.T @ A @ factor)[None], (factor.T @ (b + 2 * A @ mean))[None], np.array([mean @ A @ mean + b @ mean + c])
    )


@given(gaussian_pairs())
def test_inflated_by_the_true_divergences_it_bounds_the_true_probability(pair):
    mean, cov, A, b, c = pair
    alphas = np.array([1.1, 1.5, 3.0, 10.0])
    divergence = _divergences(mean[None], cov[None], alphas)[0]
    radius = divergence_radius(50, mean.size, 0.1, np.random.default_rng(0), draws=500)
    finite = np.isfinite(divergence[1:])
    radius = dataclasses.replace(radius, kl=divergence[0], alphas=alphas[finite], renyi=divergence[1:][finite])
    D = mean.size
    truth = tail_probability(_margin(np.zeros(D), np.eye(D), A, b, c)).log_low[0]
    model = tail_probability(_margin(mean, np.linalg.cholesky(cov), A, b, c)).log_high[0]
    assert inflate(model, radius) >= truth - 1e-9


@given(st.lists(st.floats(-800, 1), min_size=2, max_size=20))
def test_inflation_is_increasing_and_never_deflates(log_p):
    radius = divergence_radius(60, 3, 0.1, np.random.default_rng(0), draws=500)
    log_p = np.sort(log_p)
    found = inflate(log_p, radius)
    assert (found >= np.minimum(log_p, 0)).all() and (found <= 0).all()
    assert (np.diff(found) >= -1e-9 * (1 + np.abs(found[1:]))).all()


def _measured(sig, n, rng, law=None):
    """Sample means and unbiased covariances of n queries a component."""
    law = well_specified(sig) if law is None else law
    C, S, d = law.means.shape
    x = [law.means[c].ravel() + rng.standard_normal((n, S * d)) @ law.factors[c].T for c in range(C)]
    means = np.stack([part.mean(axis=0) for part in x]).reshape(C, S, d)
    covariances = np.stack([np.atleast_2d(np.cov(part.T)) for part in x])
    return QueryLaw(means, covariances, law.task, law.cluster, law.weights)


@pytest.mark.parametrize("spaces", ["shared", "cross"])
def test_a_confident_ladder_lies_above_the_ladder_and_above_the_truth(spaces):
    rng = np.random.default_rng(8)
    sig = signatures(rng, 2, [0, 1, 1], 3.0)
    truth = cross_law(rng, sig) if spaces == "cross" else well_specified(sig)
    law = _measured(sig, 300, rng, truth)
    found = confident_ladder(sig, law, np.full(3, 300), 0.05, rng)
    plain, true = ladder(sig, law, simulations=0), ladder(sig, truth, simulations=0)
    units = [(found.overall, plain.overall, true.overall)]
    units += [(found.tasks[k], plain.tasks[k], true.tasks[k]) for k in plain.tasks]
    units += [(found.clusters[k], plain.clusters[k], true.clusters[k]) for k in plain.clusters]
    for rungs, below, right in units:
        assert {"L1", "L1b", "L2", "L3", "L5", "L7"} <= set(rungs) <= set(CONFIDENT)
        for name, bound in rungs.items():
            assert bound.log_value >= below[name].log_value - 1e-12
            assert bound.confidence == pytest.approx(0.95) and bound.log_lower is None
            # Whatever a rung assumed, a change of measure needs the joint law.
            assert bound.level is truth.level
        assert rungs["L2"].value >= (np.exp(right["L5"].log_lower) if right["L5"].log_lower is not None else 0.0)
    assert len(found.frame()) == len(found.overall) * 6


def test_with_many_samples_little_is_added():
    rng = np.random.default_rng(8)
    sig = signatures(rng, 2, [0, 1], 3.0)
    found = confident_ladder(sig, well_specified(sig), np.full(2, 10**8), 0.05, rng, draws=4000)
    true = ladder(sig, simulations=0)
    for name, bound in found.overall.items():
        assert true.overall[name].value <= bound.value <= 1.02 * true.overall[name].value


def test_all_components_share_beta():
    rng = np.random.default_rng(9)
    sig = signatures(rng, 2, [0, 1, 1, 1], 3.0)
    found = confident({"mine": np.full(4, -9.0)}, well_specified(sig), np.full(4, 100), 0.1, np.random.default_rng(0), draws=8000)
    alone = divergence_radius(100, 2, 0.1, np.random.default_rng(0), draws=8000, simultaneous=4)
    assert found.radii[0].kl == alone.kl > divergence_radius(100, 2, 0.1, np.random.default_rng(0), draws=8000).kl


def test_a_widened_law_is_used_for_rungs_and_radii_alike():
    rng = np.random.default_rng(9)
    sig = signatures(rng, 2, [0, 1], 3.0)
    law = well_specified(sig)
    found = confident_ladder(sig, law, [200, 200], 0.05, np.random.default_rng(0), widening=1.3)
    wide = ladder(sig, dataclasses.replace(law, covariances=1.3 * law.covariances), simulations=0)
    for (k, t), rungs in found.clusters.items():
        expected = inflate(wide.clusters[k, t]["L5"].log_value, found.radii[k])
        assert rungs["L5"].log_value == pytest.approx(expected, rel=1e-9)
    assert all(radius.widening == 1.3 for radius in found.radii)


def test_weights_average_the_components_and_counts_may_differ():
    rng = np.random.default_rng(9)
    sig = signatures(rng, 2, [0, 1], 3.0)
    law = dataclasses.replace(well_specified(sig), weights=np.array([0.9, 0.1]))
    log_p = np.array([-9.0, -4.0])
    found = confident({"mine": log_p}, law, np.array([1000, 50]), 0.05, rng)
    assert [r.n for r in found.radii] == [1000, 50]
    each = np.exp([inflate(p, r) for p, r in zip(log_p, found.radii, strict=True)])
    assert found.overall["mine"].value == pytest.approx(0.9 * each[0] + 0.1 * each[1], rel=1e-9)
    assert found.tasks[1]["mine"].value == pytest.approx(each[1], rel=1e-9)
    vacuous = confident({"mine": np.array([0.5, -4.0])}, law, np.array([1000, 50]), 0.05, rng)
    assert vacuous.tasks[0]["mine"].vacuous and vacuous.overall["mine"].value < 1


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    sig = signatures(rng, 2, [0, 1], 1.0)
    law = well_specified(sig)
    with pytest.raises(InputError, match=r"n: 4 samples.*more than 4"):
        divergence_radius(4, 4, 0.05, rng)
    for beta in (0.0, 1.0, np.nan):
        with pytest.raises(InputError, match="beta"):
            divergence_radius(40, 4, beta, rng)
        with pytest.raises(InputError, match="beta"):
            confident_ladder(sig, law, [40, 40], beta, rng)
    with pytest.raises(InputError, match="widening"):
        divergence_radius(40, 4, 0.05, rng, widening=0.9)
    with pytest.raises(InputError, match=r"draws.*at least \d+"):
        divergence_radius(40, 4, 1e-4, rng, draws=1000)
    with pytest.raises(InputError, match=r"counts\[1\].*fewer dimensions"):
        confident_ladder(sig, law, [40, 2], 0.05, rng)
    with pytest.raises(InputError, match="counts"):
        confident_ladder(sig, law, [40], 0.05, rng)
    with pytest.raises(InputError, match="log_p"):
        confident({"L5": np.array([np.nan, -1.0])}, law, [40, 40], 0.05, rng)
    with pytest.raises(InputError, match="log_p"):
        confident({}, law, [40, 40], 0.05, rng)
    twice = QueryLaw(law.means, law.covariances, np.array([0, 0]), np.array([0, 0]), np.ones(2))
    with pytest.raises(InputError, match=r"2 components in cluster 0.*L8"):
        confident_ladder(sig, twice, [40, 40], 0.05, rng)


def test_the_draws_that_an_error_asks_for_are_enough():
    rng = np.random.default_rng(0)
    for beta in (0.3, 0.05, 1e-3):
        with pytest.raises(InputError, match="at least") as refused:
            divergence_radius(10, 1, beta, rng, draws=2)
        least = int(str(refused.value).split()[-1])
        assert divergence_radius(10, 1, beta, rng, draws=least).kl > 0


_REPETITIONS = 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("n", "D", "beta", "widening"), [(15, 2, 0.1, 1.0), (60, 3, 0.05, 1.3)])
def test_guarantee_of_the_radii(n, D, beta, widening):
    """All divergences together stay below their radii as often as claimed, and not much more often."""
    radius = divergence_radius(n, D, beta, np.random.default_rng(0), draws=20_000, widening=widening)
    mean, cov = _estimates(n, D, _REPETITIONS, np.random.default_rng(1))
    found = _divergences(mean, widening * cov, radius.alphas)
    held = int((found <= np.r_[radius.kl, radius.renyi]).all(axis=1).sum())
    assert stats.binom.cdf(held, _REPETITIONS, 1 - beta) > 1e-4
    assert held < (1 - beta / 2) * _REPETITIONS


def _covers(found, truth, beta):
    """Whether both tasks are covered together as often as claimed."""
    covered = int((found >= truth[:, None]).all(axis=0).sum())
    return stats.binom.cdf(covered, found.shape[1], 1 - beta) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "beta"), [(12, 2, 0.2), (60, 3, 0.05)])
def test_guarantee_of_every_rung_on_pairs(n, d, beta):
    """Two tasks, the rule fixed, both query components estimated: the inflated rungs cover both true errors."""
    rng = np.random.default_rng(2)
    sig = Signatures(np.array([np.zeros(d), np.r_[4.0, np.zeros(d - 1)]]), np.stack([np.eye(d), covariance(rng, d)]), np.array([0, 1]))
    law, true = well_specified(sig), ladder(sig, simulations=0)
    truth = np.array([true.clusters[k, k]["L5"].log_value for k in (0, 1)])
    radius = divergence_radius(n, d, beta, np.random.default_rng(0), simultaneous=2)
    rungs = {"L3": log_chernoff, "L1b": log_lower_bernstein, "L7": log_cantelli}
    upper = {name: np.empty((2, _REPETITIONS)) for name in rungs}
    exact = np.empty((2, 500))
    for k in (0, 1):
        mean, cov = _estimates(n, d, _REPETITIONS, rng)
        mean, factor = law.means[k, 0] + mean @ law.factors[k].T, law.factors[k] @ np.linalg.cholesky(cov)
        margin = _batched_margins(sig, k, mean, factor)
        for name, rung in rungs.items():
            upper[name][k] = inflate(rung(margin), radius)
        exact[k] = inflate(tail_probability(margin[: exact.shape[1]]).log_high, radius)
    for name, found in {**upper, "L5": exact}.items():
        assert _covers(found, truth, beta), name
    # Not because the bound says nothing.
    assert np.median(exact) < -0.3 and np.median(upper["L3"]) < -0.1


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "beta", "distance"), [(20, 2, 0.3, 3.0), (12, 2, 0.2, 6.0), (60, 3, 0.05, 9.0)])
def test_guarantee_of_the_exact_rung_on_linear_margins(n, d, beta, distance):
    """A tied covariance, where the exact pair is a normal tail: ``M = distance^2 - 2 distance x_1``."""
    rng = np.random.default_rng(3)
    radius = divergence_radius(n, d, beta, np.random.default_rng(0), simultaneous=2)
    mean, cov = _estimates(n, d, 2 * _REPETITIONS, rng)
    margin = QuadraticLaw.of(
        np.zeros((2 * _REPETITIONS, 1)), s=2 * distance * np.sqrt(cov[:, 0, 0]), c=distance**2 - 2 * distance * mean[:, 0]
    )
    found = inflate(tail_probability(margin).log_high, radius).reshape(2, -1)
    assert _covers(found, np.full(2, stats.norm.logcdf(-distance / 2)), beta)
    assert np.median(found) < -0.1


def _batched_margins(sig, k, mean, factor):
    """Margins of task k against the other under many query laws at once."""
    parts = []
    for s in (1 - k, k):
        F = sig.gaussians.whiteners[s] @ factor
        a = (mean - sig.means[s]) @ sig.gaussians.whiteners[s].T
        parts.append((np.swapaxes(F, 1, 2) @ F, 2 * np.einsum("rij,ri->rj", F, a), (a**2).sum(axis=1) + sig.constants[s]))
    (A, b, c), (A0, b0, c0) = parts
    return QuadraticLaw.of_forms(A - A0, b - b0, c - c0)
