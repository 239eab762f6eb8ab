"""At the edges of what theory takes, every rung is a bound on a truth that mpmath knows, or a refusal says why there is none.

Sizes that take minutes are left to ``make stress``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mpmath
import numpy as np
import oracle
import pytest
from mpmath import mp, mpf
from scipy.special import ndtr

from theory import InputError, LowRankGaussians, LowRankSignatures, QueryLaw, Rule, Signatures, certificate, ladder
from theory.finite import exceedance, log_det_limit, plug_in_bound
from theory.ladder import RUNGS
from theory.pruning_law import PruningLaw
from theory.screening import screened
from theory.testing import covariance

ROOT = Path(__file__).parents[2]
# What bounds the error itself, without draws and samples.
EXACT = [name for name in RUNGS if name not in ("L6", "L8")]
SEEDS = range(40)
# Minutes, and gigabytes.
large = pytest.mark.skipif("PROTEUS_STRESS" not in os.environ, reason="make stress runs it")


def below(rungs, truth: mpf) -> list[str]:
    """Rungs that are no bound on a probability whose logarithm is given."""
    wrong = [name for name in EXACT if mpf(rungs[name].log_value) < truth]
    lower = rungs["L5"].log_lower
    return wrong + (["lower side"] if lower is not None and mpf(lower) > truth else [])


def of_one_dimension(m0, v0, m1, v1, nu, c) -> mpf:
    """Log-probability that a query ``N(nu, c)`` of component 0 scores no better under it than under component 1."""
    m0, v0, m1, v1, nu, c = (mpf(float(x)) for x in (m0, v0, m1, v1, nu, c))
    root = mpmath.sqrt(c)
    w, g = c / v1 - c / v0, 2 * root * ((nu - m1) / v1 - (nu - m0) / v0)
    k = (nu - m1) ** 2 / v1 - (nu - m0) ** 2 / v0 + mpmath.log(v1) - mpmath.log(v0)
    if w == g == 0:
        return mpf(0) if k <= 0 else mpf("-inf")
    p = oracle._one(w, g, k)
    return mpmath.log(p) if p > 0 else mpf("-inf")


def pair(means, covariances, task=(0, 1)) -> Signatures:
    return Signatures(np.array(means, float), np.array(covariances, float), np.array(task))


def overall(signatures, law=None, task=0):
    return ladder(Rule(signatures), law, simulations=0, intersections=0).tasks[task]


def random_pair(rng: np.random.Generator):
    """Two components of one dimension and a query: near ties, scales from 1e-8 to 1e8, separations up to 1e6."""
    scale = 10.0 ** rng.uniform(-8, 8)
    gap, spread = (0.0 if rng.uniform() < 0.15 else 10.0 ** rng.uniform(-16, 6) for _ in range(2))
    v0 = scale**2
    v1 = v0 * (1 + spread) if rng.uniform() < 0.5 else v0 / (1 + spread)
    m0 = scale * rng.choice([0.0, 1.0, 100.0])
    if rng.uniform() < 0.5:
        return m0, v0, m0 + gap * scale, v1, m0, v0
    width = scale * 10.0 ** rng.uniform(-4, 4)
    return m0, v0, m0 + gap * scale, v1, m0 + width * rng.standard_normal(), width**2


def check_random_pair(seed: int) -> None:
    m0, v0, m1, v1, nu, c = random_pair(np.random.default_rng(seed))
    law = QueryLaw(np.array([[[nu]], [[m1]]]), np.array([[[c]], [[v1]]]), np.arange(2), np.arange(2), np.ones(2))
    with mp.workdps(60):
        truth = of_one_dimension(m0, v0, m1, v1, nu, c)
    assert not below(overall(pair([[m0], [m1]], [[[v0]], [[v1]]]), law), truth), (m0, v0, m1, v1, nu, c)


@pytest.mark.parametrize("seed", SEEDS)
def test_near_ties_and_extreme_scales(seed):
    check_random_pair(seed)


def test_two_components_that_differ_by_rounding_are_not_told_apart():
    """Once a margin of nothing but rounding, above zero, was taken for an error that is impossible."""
    m0, v0 = 3.0, 7.0
    for m1, v1 in ((m0, v0), (math.nextafter(m0, 4), v0), (m0, math.nextafter(v0, 8)), (m0, math.nextafter(v0, 6))):
        found = overall(pair([[m0], [m1]], [[[v0]], [[v1]]]))
        with mp.workdps(60):
            assert not below(found, of_one_dimension(m0, v0, m1, v1, m0, v0))
        assert found["L5"].value >= 0.3


def exactly(x) -> mpmath.matrix:
    return mpmath.matrix([[mpf(float(value)) for value in row] for row in np.atleast_2d(x)])


def covariance_of(signatures: Signatures | LowRankSignatures, k: int) -> mpmath.matrix:
    """As the given floats define it: low rank plus diagonal is added up in the precision at hand."""
    if isinstance(signatures, LowRankSignatures):
        factors = exactly(signatures.gaussians.factors[k])
        return factors * factors.T + mpmath.diag([mpf(float(x)) for x in signatures.gaussians.diagonals[k]])
    return exactly(signatures.covariances[k])


def form_of(signatures: Signatures | LowRankSignatures, k: int, s: int) -> tuple[mpmath.matrix, mpmath.matrix, mpf]:
    """The same margin as a form ``z'Az + b'z + c`` in the standard normal z of the query; the same z for every s."""
    d = signatures.dimension
    factor = mpmath.cholesky(covariance_of(signatures, k))
    A, b, c = mpmath.zeros(d), mpmath.zeros(d, 1), mpf(0)
    for sign, j in ((1, s), (-1, k)):
        lower = mpmath.cholesky(covariance_of(signatures, j))
        white = lower**-1
        W, a = white * factor, white * (exactly(signatures.means[k]) - exactly(signatures.means[j])).T
        A, b = A + sign * (W.T * W), b + 2 * sign * (W.T * a)
        c += sign * ((a.T * a)[0] + 2 * sum(mpmath.log(lower[i, i]) for i in range(d)))
    return A, b, c


def margin_of(signatures: Signatures, k: int, s: int) -> SimpleNamespace:
    """The law of the margin between components k (own, and the query's law) and s, from the given floats, in 80 digits."""
    with mp.workdps(80):
        A, b, c = form_of(signatures, k, s)
        w, vectors = mpmath.eigsy(A)
        g = vectors.T * b
    arrays = [np.array([list(x)], dtype=object) for x in (w, g)]
    return SimpleNamespace(w=arrays[0], g=arrays[1], s=np.array([mpf(0)], dtype=object), c=np.array([c], dtype=object))


@pytest.mark.parametrize("condition", [1.0, 1e9, 1e12])
def test_condition_numbers_of_turned_axes(condition):
    """Up to 1e9 the allowance for rounding holds against exact arithmetic; at 1e12 four digits are left, and bounds are refused."""
    rng = np.random.default_rng(1)
    signatures = pair(rng.standard_normal((2, 2)), [covariance(rng, 2, condition) for _ in range(2)])
    if condition > 1e10:
        with pytest.raises(InputError, match=r"covariances\[\d\]: is so ill-conditioned"):
            overall(signatures)
        # To score with it is another matter.
        assert np.isfinite(signatures.gaussians.energies(np.zeros((1, 2)))).all()
    else:
        assert not below(overall(signatures), oracle.by_integration(margin_of(signatures, 0, 1)))


def test_a_condition_that_lies_in_the_scales_of_coordinates_is_harmless():
    signatures = pair([[0.0, 0.0], [3.0, 2e-6]], [np.diag([1.0, 1e-12]), np.diag([2.0, 1e-12])])
    assert not below(overall(signatures), oracle.by_integration(margin_of(signatures, 0, 1)))


def of_many_dimensions(d: int) -> None:
    """Components that differ in two coordinates only, so that the truth is that of two dimensions."""
    # A condition number of 1e12, or what is left of it before a covariance of so many dimensions counts as singular.
    reach = 1e6 if d <= 256 else 1e5
    spread = np.geomspace(1 / reach, reach, d)
    means, variances = np.zeros((2, d)), np.stack([spread, spread])
    means[1, 0], variances[1, -1] = 2 * np.sqrt(spread[0]), 3 * spread[-1]
    signatures = pair(means, [np.diag(v) for v in variances])
    if d == 1:
        with mp.workdps(60):
            truth = of_one_dimension(means[0, 0], variances[0, 0], means[1, 0], variances[1, 0], means[0, 0], variances[0, 0])
    else:
        small = pair(means[:, [0, -1]], [np.diag(v[[0, -1]]) for v in variances])
        truth = oracle.by_integration(margin_of(small, 0, 1))
    assert not below(overall(signatures), truth)


@pytest.mark.parametrize("d", [1, 2, 64, 256])
def test_dimensions(d):
    of_many_dimensions(d)


@large
@pytest.mark.parametrize("d", [1024, 4096])
def test_large_dimensions(d):
    of_many_dimensions(d)


@pytest.mark.parametrize("separation", [0.0, 1e-12, 1e-3, 1.0, 38.0, 1e3, 1e6])
def test_separations(separation):
    """Tied components: an error has the probability of a normal tail, down to exp(-1e11)."""
    signatures = pair([[0.0] * 3, [separation, 0.0, 0.0]], [np.eye(3)] * 2)
    with mp.workdps(60):
        # mpmath's tail in logarithms, by its continued fraction far out.
        x = mpf(separation) / 2
        truth = mpmath.log(mpmath.ncdf(-x)) if x < 1e4 else -(x**2) / 2 - mpmath.log(x * mpmath.sqrt(2 * mpmath.pi)) - 1 / x**2
    assert not below(overall(signatures), truth)


def of_many_components(K: int, gap: float) -> None:
    """One query against K - 1 wrong components on a line, all equal but for their place; only the two nearest count."""
    place = np.arange(K) // 2 + 1
    means = gap * np.where(np.arange(K) % 2, -place, place).astype(float)
    means = np.r_[0.0, means[: K - 1]]
    signatures = Signatures(means[:, None], np.ones((K, 1, 1)), np.r_[0, np.ones(K - 1, dtype=int)])
    law = QueryLaw(np.zeros((1, 1, 1)), np.ones((1, 1, 1)), np.zeros(1, int), np.zeros(1, int), np.ones(1))
    found = ladder(Rule(signatures), law, simulations=0, intersections=0).tasks[0]
    with mp.workdps(60):
        truth = mpmath.log(2 * mpmath.ncdf(-mpf(gap) / 2)) if gap else mpf(0)
    # Identical components tie: the upper sides count that as an error.
    assert not below(found, truth)


@pytest.mark.parametrize(("K", "gap"), [(3, 0.0), (3, 6.0), (1000, 1e-9), (10_000, 12.0)])
def test_many_components(K, gap):
    of_many_components(K, gap)


def at_most(k: int, n: int, p: mpf) -> mpf:
    """``P(X <= k)`` of a binomial X whose mean lies above k: its terms from the greatest on."""
    choices = mpmath.loggamma(n + 1) - mpmath.loggamma(k + 1) - mpmath.loggamma(n - k + 1)
    term, total = mpmath.exp(choices + k * mpmath.log(p) + (n - k) * mpmath.log1p(-p)), mpf(0)
    while k >= 0 and term > total * mpf(10) ** -30:
        total += term
        term *= k * (1 - p) / ((n - k + 1) * p)
        k -= 1
    return total


# --- unions of pairs that overlap --------------------------------------------------------------------------------------


def of_a_union(forms: list[tuple[mpmath.matrix, mpmath.matrix, mpf]]) -> float:
    """Log of ``P(M_s <= 0 for some s)`` for forms in two coordinates, to 1e-8.

    Each is divided by its deviation, so that doubles hold it however near a tie it is; given the first coordinate every event is one or
    two intervals of the second.
    """
    z = np.linspace(-10, 10, 200_001)
    low, high = [], []
    for A, b, c in forms:
        unit = mpmath.sqrt(2 * mpmath.norm(A) ** 2 + mpmath.norm(b) ** 2)
        xx, xy, yy, x, y, k = (float(v / unit) + 0.0 for v in (A[0, 0], A[0, 1], A[1, 1], b[0], b[1], c))
        slope, rest = 2 * xy * z + y, xx * z**2 + x * z + k
        inside = slope**2 - 4 * yy * rest
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -(slope + np.copysign(np.sqrt(np.maximum(inside, 0)), slope)) / 2
            ends = np.sort([t / yy, rest / t], axis=0)
        if yy >= 0:
            parts = [np.where(inside > 0, ends, np.inf)]
        else:
            outer = np.full_like(z, np.inf)
            # Everything where there is no root, as the first of two intervals.
            parts = [[-outer, np.where(inside > 0, ends[0], np.inf)], [np.where(inside > 0, ends[1], np.inf), outer]]
        for begin, end in parts:
            low.append(begin)
            high.append(end)
    order = np.argsort(low, axis=0)
    total, reached = np.zeros_like(z), np.full_like(z, -np.inf)
    for begin, end in zip(np.take_along_axis(np.array(low), order, 0), np.take_along_axis(np.array(high), order, 0), strict=True):
        begin = np.maximum(begin, reached)
        total += np.where(end > begin, np.where(begin > 0, ndtr(-begin) - ndtr(-end), ndtr(end) - ndtr(begin)), 0.0)
        reached = np.maximum(reached, end)
    return float(np.log((total * np.exp(-(z**2) / 2)).sum() * (z[1] - z[0]) / np.sqrt(2 * np.pi)))


def check_union(seed: int, condition: float) -> bool:
    """Some wrong components near the own one and each other, in two turned coordinates of four; whether overlaps were subtracted."""
    rng = np.random.default_rng(seed)
    K, base = int(rng.integers(3, 5)), covariance(rng, 2, condition)
    root, near, gap = np.linalg.cholesky(base), 10.0 ** rng.uniform(-14, 0), 10.0 ** rng.uniform(-10, 0.5)
    means, covs = [10.0 ** rng.uniform(-1, 3) * rng.standard_normal(2)], [base]
    for _ in range(K - 1):
        G = rng.standard_normal((2, 2)) * near * rng.choice([0, 1, 1e-3])
        covs.append(root @ (np.eye(2) + (G + G.T) / (6 * max(1, np.abs(G).max()))) @ root.T)
        means.append(means[0] + gap * 10.0 ** rng.uniform(-1, 0.3) * root @ rng.standard_normal(2))
    # Overlaps are computed in four coordinates or more: two in which all components are alike.
    wide = np.stack([np.eye(4) * base.max()] * K)
    wide[:, :2, :2] = [(c + c.T) / 2 for c in covs]
    signatures = pair(np.pad(means, ((0, 0), (0, 2))), wide, np.arange(K))
    small = pair(means, wide[:, :2, :2], np.arange(K))
    try:
        found = ladder(signatures, simulations=0, intersections=4, units="tasks").tasks[0]
    except InputError as refused:
        assert condition > 1e7 and "ill-conditioned" in str(refused)
        return False
    with mp.workdps(60):
        truth = of_a_union([form_of(small, 0, s) for s in range(1, K)])
    assert found["L5b"].log_value >= truth - 1e-8, (seed, condition)
    return found["L5b"].log_value < found["L5"].log_value


@pytest.mark.parametrize("condition", [1.0, 1e6, 1e9])
def test_overlaps_near_ties_are_subtracted_as_far_as_they_are_sure(condition):
    subtracted = [check_union(seed, condition) for seed in range(5)]
    assert any(subtracted) or condition > 1e8


@large
def test_two_hundred_overlaps_near_ties():
    for seed in range(1000, 1200):
        check_union(seed, 10.0 ** np.random.default_rng(seed).uniform(0, 12))


# --- screening -----------------------------------------------------------------------------------------------------------


def check_screening(seed: int, condition: float) -> tuple[int, bool]:
    """Two components, long along one turned axis: every stage of their pairs is a bound. The pairs that were refined; whether accurate."""
    rng = np.random.default_rng(seed)
    factors = np.repeat(rng.normal(size=(1, 2, 1)), 2, axis=0) if seed % 2 else rng.normal(size=(2, 2, 1))
    diagonals = rng.uniform(0.5, 2, size=(1 + seed // 2 % 2, 2)) / condition * np.ones((2, 1))
    mean, gap = rng.normal(size=(1, 2)) * 10.0 ** rng.uniform(-1, 2), 10.0 ** rng.uniform(-14, 1)
    step = gap * (rng.normal(size=(1, 2)) / np.sqrt(condition) if seed // 4 % 2 else factors[1].T)
    signatures = LowRankSignatures(LowRankGaussians(np.concatenate([mean, mean + step]), factors, diagonals), np.arange(2))
    laws = [margin_of(signatures, k, 1 - k) for k in range(2)]
    # Components that came out identical tie for ever, which counts as an error.
    truths = [oracle.by_integration(law) if law.w.any() or law.g.any() else mpf(0) for law in laws]
    for negligible, refine in ((1.0, 0), (1e-300, 0), (1e-300, 4)):
        found = screened(Rule(signatures), refine=refine, negligible=negligible, tolerance=1e-6)
        for k in range(2):
            assert mpf(float(found.log_tasks[k])) >= truths[k], (seed, condition, negligible, refine)
    return found.exact + found.chernoff, bool((signatures.gaussians.accuracies <= 1e-6).all())


@pytest.mark.parametrize("condition", [1e6, 1e9, 1e12])
def test_screened_pairs_of_long_components_are_bounds(condition):
    """Once exact pairs lay below the truth: by 1e-6 of themselves at a condition of 1e10, and by 3e-4 at 1e12."""
    for seed in range(4):
        refined, accurate = check_screening(seed, condition)
        assert (refined > 0) == accurate


@pytest.mark.parametrize(("seed", "condition"), [(1029, 75527545683.18948), (1045, 107198051146.30888)])
def test_long_components_that_came_out_alike_tie(seed, condition):
    """Once the closed form, and the Bhattacharyya coefficient, took rounding for a distance between them."""
    check_screening(seed, condition)


def test_pairs_too_ill_conditioned_to_refine_are_counted_and_keep_their_bound():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [1.0, 0.5], [0.5, -1.0]])
    diagonals = np.array([[1.0, 1.0], [1.0, 1.0], [1e-15, 1e-15]])
    signatures = LowRankSignatures(LowRankGaussians(means, rng.normal(size=(3, 2, 1)), diagonals), np.arange(3))
    found = screened(Rule(signatures), refine=6, negligible=1e-300, tolerance=1e-6)
    # The two pairs between the first two components; the others involve the last, whose dense covariance is singular.
    assert found.exact + found.chernoff == 2 and "of the heaviest too ill-conditioned" in found.bound.note and not found.settled
    assert found.bound.log_value <= found.log_closed


@large
def test_a_hundred_screened_pairs():
    for seed in range(1000, 1100):
        check_screening(seed, 10.0 ** np.random.default_rng(seed).uniform(0, 13))


# --- pruning -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["exact", "chernoff", "bernstein"])
def test_pruning_by_a_law_of_turned_axes_is_a_bound_or_refused(tail):
    rng = np.random.default_rng(1)
    for condition in (1e6, 1e8):
        signatures = pair(rng.standard_normal((2, 2)), [covariance(rng, 2, condition) for _ in range(2)])
        law = QueryLaw(signatures.means[:1, None], signatures.covariances[:1], np.zeros(1, int), np.zeros(1, int), np.ones(1))
        truth = oracle.by_integration(margin_of(signatures, 0, 1))
        assert mpf(PruningLaw.of(Rule(signatures), law, tail).threshold(0.0).log_value) >= truth
    signatures = pair(rng.standard_normal((2, 2)), [covariance(rng, 2, 1e12) for _ in range(2)])
    law = QueryLaw(signatures.means[:1, None], signatures.covariances[:1], np.zeros(1, int), np.zeros(1, int), np.ones(1))
    with pytest.raises(InputError, match="ill-conditioned"):
        PruningLaw.of(Rule(signatures), law, tail)


# --- finite samples ------------------------------------------------------------------------------------------------------


def check_plug_in(seed: int, n: int) -> None:
    """No rule errs less than that of the true components, of which mpmath knows the error: nor does one that is estimated."""
    m0, v0, m1, v1, *_ = random_pair(np.random.default_rng(seed))
    found = plug_in_bound(pair([[m0], [m1]], [[[v0]], [[v1]]]), counts=np.array([n, n])).overall
    with mp.workdps(60):
        errors = (of_one_dimension(m0, v0, m1, v1, m0, v0), of_one_dimension(m1, v1, m0, v0, m1, v1))
        # Equal components tie, but no two estimates do: one of two queries is lost.
        truth = mpmath.log(sum(mpmath.exp(e) for e in errors) / 2) if (m0, v0) != (m1, v1) else mpmath.log(0.5)
    assert mpf(found.log_value) >= truth, (seed, n)
    assert exceedance(found, 0.5).log_value >= min(0.0, found.log_value)


@pytest.mark.parametrize("n", [2, 3, 100, 10_000, 100_000])
def test_plug_in_bounds_of_any_sample_size_are_above_the_least_error(n):
    for seed in range(5):
        check_plug_in(seed + n, n)


def test_plug_in_bounds_of_turned_axes_are_above_the_least_error_or_refused():
    rng = np.random.default_rng(1)
    for condition in (1.0, 1e6, 1e12):
        signatures = pair(rng.standard_normal((2, 2)), [covariance(rng, 2, condition) for _ in range(2)])
        if condition > 1e10:
            with pytest.raises(InputError, match="ill-conditioned"):
                plug_in_bound(signatures, counts=np.array([100_000] * 2))
            continue
        found = plug_in_bound(signatures, counts=np.array([100_000] * 2))
        truths = [oracle.by_integration(margin_of(signatures, k, 1 - k)) for k in range(2)]
        with mp.workdps(40):
            assert mpf(found.overall.log_value) >= mpmath.log(sum(mpmath.exp(t) for t in truths) / 2)


@pytest.mark.parametrize(("n_s", "n_t"), [(3, 3), (3, 100_001), (100_001, 3), (1001, 1001), (100_001, 99_999)])
def test_log_determinants_cross_their_limit_as_rarely_as_claimed_at_any_size(n_s, n_t):
    """In one dimension their ratio has an F distribution, whose tails are those of a binomial where sizes are odd."""
    a, b = (n_s - 1) // 2, (n_t - 1) // 2
    for exponent in (1.0, 20.0, 300.0):
        with mp.workdps(40):
            ratio = mpmath.exp(mpf(log_det_limit(n_s, n_t, 1, exponent)))
            assert mpmath.log(at_most(b - 1, a + b - 1, b / (a * ratio + b))) <= -exponent


@large
def test_three_hundred_plug_in_bounds():
    for seed in range(1000, 1300):
        check_plug_in(seed, int(10 ** np.random.default_rng(seed).uniform(0.31, 5)))


@large
@pytest.mark.parametrize("gap", [0.0, 1e-12])
def test_ten_thousand_components_that_are_all_but_one(gap):
    of_many_components(10_000, gap)


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 100_000])
def test_certificates_of_any_size_are_above_the_exact_limit(n):
    """At the limit, no more errors than were seen have at most the probability that may be missed."""
    for errors in sorted({0, 1, n // 3, n - 1, n}):
        limit = certificate(errors, n, 0.95).value
        if errors == n:
            assert limit == 1.0
            continue
        with mp.workdps(40):
            assert at_most(errors, n, mpf(limit)) <= mpf("0.05") * (1 + mpf(10) ** -12)


def test_float32_inputs_are_the_float64_of_their_values():
    rng = np.random.default_rng(3)
    means, covs = rng.standard_normal((2, 2)).astype(np.float32), np.stack([covariance(rng, 2, 1e3) for _ in range(2)]).astype(np.float32)
    covs = (covs + covs.swapaxes(1, 2)) / 2
    single = Signatures(means, covs, np.arange(2))
    double = Signatures(means.astype(float), covs.astype(float), np.arange(2))
    assert {k: b.log_value for k, b in overall(single).items()} == {k: b.log_value for k, b in overall(double).items()}
    assert not below(overall(single), oracle.by_integration(margin_of(single, 0, 1)))


# --- threads ---------------------------------------------------------------------------------------------------------

_LADDER = """
import json, sys
import numpy as np
from theory import Rule, Signatures, ladder
from theory.testing import covariance
rng = np.random.default_rng(0)
out = {}
for d in json.loads(sys.argv[1]):
    s = Signatures(rng.standard_normal((4, d)) * 3 / np.sqrt(d), np.stack([covariance(rng, d) for _ in range(4)]), np.array([0, 0, 1, 2]))
    found = ladder(Rule(s), simulations=2000, intersections=1, units="overall").overall
    x = rng.standard_normal((50, d))
    out[d] = {"rungs": {k: b.log_value.hex() for k, b in found.items()}, "energies": s.gaussians.energies(x).tobytes().hex()}
print(json.dumps(out))
"""


def with_threads(threads: int, dimensions: list[int]) -> dict:
    limits = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", _LADDER, json.dumps(dimensions)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **limits, "PYTHONPATH": path})
    return json.loads(ended.stdout)


def agree(dimensions: list[int], counts: tuple[int, ...]) -> float:
    """The greatest difference of a logarithm between numbers of threads; the same number gives the same bytes."""
    runs = [with_threads(n, dimensions) for n in counts]
    assert with_threads(counts[0], dimensions) == runs[0]
    worst = 0.0
    for run in runs[1:]:
        for d in runs[0]:
            for name, value in runs[0][d]["rungs"].items():
                a, b = float.fromhex(value), float.fromhex(run[d]["rungs"][name])
                if name != "L6":
                    worst = max(worst, abs(a - b) / (1 + abs(a)))
    return worst


def test_threads_move_a_bound_by_rounding_only():
    assert agree([3, 80], (1, 2)) <= 1e-9


@large
def test_many_threads_move_a_bound_by_rounding_only():
    assert agree([3, 64, 384, 768], (1, 2, 8)) <= 1e-9


@large
def test_two_thousand_near_ties():
    for seed in range(1000, 3000):
        check_random_pair(seed)
