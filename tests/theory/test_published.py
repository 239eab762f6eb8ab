"""The published criterion as claims: formulas, known facts, theorems stated beside it, and counterexamples checked by other means."""

from __future__ import annotations

import dataclasses
import math
import os
import runpy
import sys
from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from strategies import covariance, cross_law, signatures

from theory import InputError, QuadraticLaw, QueryLaw, Rule, Signatures, ladder, separation, tail_probability, well_specified
from theory.published import (
    DIMENSIONS,
    Example,
    Family,
    Inputs,
    Reading,
    claims_table,
    counterexample,
    criterion,
    criterion_of,
    failure_table,
    first_failure,
    log_chi_square_tail,
    main,
    second,
    tail_claim,
    tail_proved,
    tail_table,
    tied_proved,
)
from theory.published import table as table_module

_GOOD = {"d": 4, "tasks": 3, "components": 5, "kappa": -2.0, "sigma2": 0.5, "eps": 0.01, "delta": 5.0, "variance": 50.0}
_BOTH = (Reading.AS_CODED, Reading.TAIL_INVERSION)


def test_a_case_worked_by_hand():
    found = criterion(Inputs(**_GOOD))
    assert found.n_prime == 11  # (3 - 1) * 5 + 1
    assert found.log_ratio == pytest.approx(7.003065, abs=1e-6)  # log(1100)
    assert found.M == 8.0  # 3 * 4 * 0.5 + 2
    assert found.first == pytest.approx(7.162278, abs=1e-6)  # (8 + sqrt(64 + 96)) / 4 + 2
    assert found.second_a == pytest.approx(8.037097, abs=2e-6)  # log(1100 * (sqrt(1 + 16 / 7.003065) + 1))
    assert found.second_b == pytest.approx(19.695267, abs=2e-6)  # 7.003065 * (sqrt(1 + 16 / 7.003065) + 1)
    assert found.required_a == pytest.approx(4.018548, abs=1e-6) and found.required_b == pytest.approx(9.847634, abs=1e-6)
    assert found.passes_a and not found.passes_b and found.applicable
    t = math.log(500)
    assert found.required_l1 == pytest.approx((4 * math.sqrt(t) + 2 * t + 10 * math.sqrt(t) + 2) / 4, rel=1e-12)
    assert not found.passes_l1 and found.note == ""


def test_delta_must_exceed_what_is_required_and_first_may_dominate():
    required = criterion(Inputs(**_GOOD)).required_b
    assert not criterion(Inputs(**{**_GOOD, "delta": required})).passes_b
    assert criterion(Inputs(**{**_GOOD, "delta": np.nextafter(required, 99)})).passes_b
    large = criterion(Inputs(**{**_GOOD, "sigma2": 100.0}))
    assert large.required_a == large.required_b == pytest.approx(large.first / 2)


@given(st.integers(1, 4096), st.floats(-1e4, 1e6), st.floats(1e-6, 1e4))
def test_first_is_right_where_it_is_real_and_absent_elsewhere(d, kappa, sigma2):
    found = criterion(Inputs(**{**_GOOD, "d": d, "kappa": kappa, "sigma2": sigma2}))
    with mpmath.workdps(60):
        M = 3 * d * mpmath.mpf(sigma2) - mpmath.mpf(kappa)
        square = M**2 - 24 * d * mpmath.mpf(sigma2) * mpmath.mpf(kappa)
        assume(abs(square) > 1e-12 * M**2)
        if square < 0:
            assert found.first is None and found.required_a is None and found.required_b is None
            assert not found.passes_a and not found.passes_b and "not applicable" in found.note
        else:
            truth = (M + mpmath.sqrt(square)) / 4 - mpmath.mpf(kappa)
            scale = abs(kappa) + float(M.__abs__())
            assert abs(float(truth) - found.first) <= 1e-12 * scale
            assert found.applicable and math.isfinite(found.required_b)


@pytest.mark.parametrize(
    ("ratio", "real"), [(-5.0, True), (0.0, True), (0.30306, True), (0.30307, False), (29.6969, False), (29.697, True)]
)
def test_the_gap_in_which_the_criterion_does_not_apply(ratio, real):
    assert criterion(Inputs(**{**_GOOD, "kappa": ratio * 4 * 0.5})).applicable is real


def test_without_the_variance_l1_says_nothing():
    found = criterion(Inputs(**{**_GOOD, "variance": None}))
    assert found.required_l1 is None and not found.passes_l1 and "variance" in found.note


def test_reading_a_misses_the_tail_by_five_orders_and_b_holds():
    t = math.log(8101 / 0.01)
    a, b, ours = (tail_claim(768, t, reading) for reading in Reading)
    assert not a.holds and 5 < a.orders < 6
    assert a.orders == pytest.approx((stats.chi2.logsf(a.threshold, 768) + t) / math.log(10), rel=1e-9)
    assert b.holds and b.orders < 0 and ours.holds
    assert a.log_target == -t


def test_reading_b_fails_from_8_to_4096_once_the_log_ratio_is_100():
    assert min(DIMENSIONS) == 8 and max(DIMENSIONS) == 4096
    for d in DIMENSIONS:
        assert not tail_claim(d, 100.0, "b").holds and not tail_claim(d, 1000.0, "b").holds
        assert tail_claim(d, 100.0, "L1").holds
        assert first_failure(d, "b") < 100


# Either side of the change to the continued fraction, which comes at a probability of 1e-280; odd and even d.
@pytest.mark.parametrize(
    ("d", "t"),
    [(1, 0.05), (1, 700.0), (1, 1e6), (2, 2.0), (3, 5000.0), (768, 50.0), (768, 700.0), (4096, 0.05), (4096, 700.0), (4096, 1e6)],
)
def test_the_tail_in_log_space_agrees_with_mpmath_where_scipy_gives_up(d, t):
    for reading in Reading:
        found = tail_claim(d, t, reading)
        with mpmath.workdps(40):
            truth = float(mpmath.log(mpmath.gammainc(mpmath.mpf(d) / 2, mpmath.mpf(found.threshold) / 2, regularized=True)))
        assert found.log_probability == pytest.approx(truth, rel=1e-13, abs=1e-9)
        assert found.holds == (truth <= -t)


def test_two_computations_of_the_tail_agree():
    x = np.array([70.0, 400.0, 3000.0])
    exact = tail_probability(QuadraticLaw.of(-np.ones((3, 64)), c=x))
    assert log_chi_square_tail(64, x) == pytest.approx(exact.log_p, rel=1e-10)


@given(st.integers(1, 10_000), st.floats(1e-3, 1e5))
def test_b_lies_between_eight_tenths_of_t1_and_t1(d, t):
    a, b, t1 = (float(second(d, t, reading)) for reading in Reading)
    assert 0.8 * t1 * (1 - 1e-12) <= b <= t1 * (1 + 1e-12)
    assert t1 - b == pytest.approx(4 * t * math.sqrt(d * t) / (t + 2 * math.sqrt(d * t) + math.sqrt(t * t + 4 * d * t)), abs=1e-9 * t1)
    assert a == pytest.approx(t + math.log(math.sqrt(1 + 4 * d / t) + 1), rel=1e-12)


@given(st.integers(1, 5000), st.floats(0.5, 1000))
def test_proved_tails_hold_and_t1_always_does(d, t):
    assert tail_claim(d, t, "L1").holds
    if tail_proved(d, t):
        assert tail_claim(d, t, "b").holds
    x = float(second(d, t, "b")) / d
    if d >= 2 and d * x**3 / 12 <= math.log(4 * math.pi * t):
        assert tail_proved(d, t)


def test_the_proof_reaches_almost_as_far_as_the_claim():
    frame = failure_table(dimensions=(1, 2, 3, 8, 768))
    assert (frame["tail_b_proved"] <= frame["tail_b"]).all()
    assert np.isinf(frame["tail_b"][:2]).all() and np.isinf(frame["tail_b_proved"][:2]).all()
    last = frame.iloc[4]
    assert last["tail_b"] == pytest.approx(55.18, abs=0.01) and last["tail_b_proved"] > 55
    assert last["tail_a"] < math.log(3)  # in 768 dimensions reading (a) of the tail claim holds for no N' and eps


@pytest.mark.parametrize("reading", _BOTH)
@pytest.mark.parametrize("d", [3, 768])
def test_a_tail_claim_that_fails_never_recovers(d, reading):
    stop = first_failure(d, reading)
    assert tail_claim(d, stop * (1 - 1e-5), reading).holds and not tail_claim(d, stop * (1 + 1e-5), reading).holds
    assert all(tail_claim(d, t, reading).holds for t in np.linspace(0.01, stop * 0.999, 40))
    assert not any(tail_claim(d, t, reading).holds for t in np.geomspace(stop * 1.001, 20 * stop, 40))


def test_first_failure_beyond_the_limit_is_none():
    assert first_failure(3, "b", limit=6000) == math.inf
    assert first_failure(3, "b") == pytest.approx(6341, rel=1e-3)


@given(st.integers(1, 4096), st.floats(1.1, 2000), st.floats(1e-3, 1e3))
def test_the_two_closed_ranges_of_the_tied_theorem(d, t, sigma2):
    if t <= 3 * d * sigma2 / 8:
        assert tied_proved(d, sigma2, t, "a") and tied_proved(d, sigma2, t, "b")
    if t <= d / 2:
        assert tied_proved(d, sigma2, t, "b")
    assert tied_proved(d, sigma2, t, "L1")


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.sampled_from([[0, 1], [0, 1, 2], [0, 0, 1, 2, 2]]),
    st.sampled_from([1.0, 3.0, 10.0]),
    st.floats(-6, -0.1),
)
@hypothesis_settings(max_examples=40)
def test_with_equal_covariances_passing_in_the_proved_range_bounds_the_sum_of_exact_pairs(seed, d, task, spread, log_eps):
    rng = np.random.default_rng(seed)
    one = covariance(rng, d)
    sig = Signatures(rng.normal(size=(len(task), d)) * spread, np.stack([one] * len(task)), np.array(task))
    eps = math.exp(log_eps)
    frame = criterion_of(sig, eps=eps)
    t = math.log(((sig.tasks - 1) * len(sig) + 1) / eps)
    for row in frame.itertuples():
        for reading, passes in (("a", row.passes_a), ("b", row.passes_b)):
            if passes and tied_proved(d, row.sigma2, t, reading):
                assert row.log_exact_upper <= log_eps + 1e-9


@pytest.mark.parametrize("reading", _BOTH)
def test_the_tied_theorem_is_about_the_boundary(reading):
    """Two unit normals at the least distance that passes: exactly Phi(-sqrt(R / 2))."""
    for eps in (0.05, 1e-3, 1e-8):
        found = counterexample(reading, Family.TIED, 3, eps, np.random.default_rng(0))
        R = max(4.5, float(second(3, math.log(3 / eps), reading)))
        assert found.log_ratio == pytest.approx(stats.norm.logcdf(-math.sqrt(R / 2)) - math.log(eps), abs=1e-6)
        assert found.evaluations == 1 and found.exhaustive


def test_two_unit_normals_six_apart_contradict_reading_b_at_one_in_a_thousand():
    sig = Signatures(np.array([[0.0], [6.0]]), np.ones((2, 1, 1)), np.array([0, 1]))
    row = criterion_of(sig, eps=1e-3).iloc[0]
    assert row["delta"] == pytest.approx(36) and row["required_b"] == pytest.approx(35.62, abs=0.01)
    assert row["passes_b"] and row["contradicted_b"] and row["passes_a"] and row["contradicted_a"]
    assert row["log_exact_upper"] == pytest.approx(stats.norm.logcdf(-3), rel=1e-9)  # 0.00135
    assert not row["passes_l1"]


def _closed_form(example: Example) -> float:
    """Exact error where one coordinate differs: ``P(w z^2 + g z + k <= 0)`` from the roots and the normal distribution."""
    assert len(example.offsets) == 1
    a, v, c = example.offsets[0], example.variances[0], example.spread
    w, g, k = c / v - c, -2 * a * math.sqrt(c) / v, a * a / v + math.log(v)
    if w == 0:
        return float(stats.norm.cdf(-k / abs(g)))
    square = g * g - 4 * w * k
    if square < 0:
        return float(w < 0)
    low, high = sorted([(-g - math.sqrt(square)) / (2 * w), (-g + math.sqrt(square)) / (2 * w)])
    between = float(stats.norm.cdf(high) - stats.norm.cdf(low))
    return between if w > 0 else 1 - between


# Every family and every reading now, every pair of them in the slow tests.
_SOME = [("a", Family.TIED), ("b", Family.FREE), ("a", Family.TIED_WIDER), ("b", Family.FREE_WIDER)]
_OTHERS = [("b", Family.TIED), ("a", Family.FREE), ("b", Family.TIED_WIDER), ("a", Family.FREE_WIDER)]


@pytest.mark.parametrize(("reading", "family"), [*_SOME, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in _OTHERS)])
def test_counterexamples_survive_simulation_and_closed_form(reading, family):
    found = counterexample(reading, family, 1, 1e-3, np.random.default_rng(1), generations=6)
    example = found.example
    assert found.log_ratio > 0 and example is not None and str(found) == str(example)
    # The criterion itself, from the numbers and from the signatures.
    assert criterion(example.inputs()).passes(reading)
    row = criterion_of(example.signatures(), example.law(), eps=example.eps).iloc[0]
    assert row[f"passes_{reading}"] and row[f"contradicted_{reading}"] and not row["passes_l1"]
    assert row["delta"] == pytest.approx(example.inputs().delta, rel=1e-12) and row["sigma2"] == pytest.approx(example.spread)
    # The error, by two means that the module does not use.
    assert math.exp(example.log_error) == pytest.approx(_closed_form(example), rel=1e-6)
    n = 200_000
    x, label = example.law().sample(n, np.random.default_rng(2))
    errors = int((Rule(example.signatures()).retrieve(x) != example.law().task[label]).sum())
    assert stats.beta.ppf(1e-7, errors, n - errors + 1) <= _closed_form(example) <= stats.beta.ppf(1 - 1e-7, errors + 1, n - errors)
    assert stats.beta.ppf(1e-2, errors, n - errors + 1) > example.eps


def test_a_narrow_wrong_component_in_one_of_768_coordinates():
    """`first` dominates here, and the verdict is the same at an eps of 1e-100."""
    for reading in _BOTH:
        example = Example(reading, 768, 1e-100, (0.0,), (0.0004,), 1.0, math.log(0.0446))
        verdict = criterion(example.inputs())
        assert verdict.passes(reading) and verdict.first > verdict.second_b
        assert _closed_form(example) == pytest.approx(0.0446, abs=1e-4)
        assert not verdict.passes_l1


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize(
    ("d", "eps"), [(1, 1e-3), pytest.param(2, 0.3, marks=pytest.mark.slow), pytest.param(64, 0.3, marks=pytest.mark.slow)]
)
def test_the_same_search_finds_nothing_against_l1(family, d, eps):
    found = counterexample(Reading.LADDER, family, d, eps, np.random.default_rng(3), generations=3, population=5)
    assert found.evaluations > 0 and found.log_ratio < 0 and found.example is None
    assert str(found).startswith("none")


def test_searches_are_reproducible():
    first, again = (counterexample("a", Family.FREE_WIDER, 2, 0.01, np.random.default_rng(5), generations=2) for _ in range(2))
    assert first == again
    assert first.example.d == 2 and "N(0, 1)" in str(first)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.5, 2.0, 8.0, 30.0]), st.floats(0, 3))
def test_what_l1_requires_implies_the_exact_error(seed, d, spread, slack):
    """At an eps just above L1's own value, where its condition holds as barely as it can."""
    rng = np.random.default_rng(seed)
    sig = signatures(rng, d, [0, 1], spread)
    row = criterion_of(sig, eps=0.5).iloc[0]
    log_eps = row["log_l1"] + 1e-9 + slack
    assume(-700 < log_eps < 0)
    variance = float(separation(sig, well_specified(sig)).variance[0, 1])
    inputs = Inputs(d, 2, 2, row["kappa"], row["sigma2"], math.exp(log_eps), row["delta"], variance)
    assert criterion(inputs).passes_l1
    assert row["log_exact_upper"] <= log_eps


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([1.0, 5.0, 20.0]), st.floats(1e-6, 0.5))
@hypothesis_settings(max_examples=20)
def test_wherever_l1_passes_in_the_table_no_proved_lower_side_contradicts_it(seed, d, spread, eps):
    rng = np.random.default_rng(seed)
    sig = signatures(rng, d, [0, 1, 2], spread)
    for law in (None, cross_law(rng, sig)):
        frame = criterion_of(sig, law, eps=eps)
        assert (frame.loc[frame["passes_l1"], "log_exact_lower"] <= math.log(eps)).all()
        assert (frame["log_exact_lower"] <= frame["log_exact_upper"]).all()
        assert not (frame["contradicted_a"] & ~frame["passes_a"]).any()


def _finer(rng: np.random.Generator, sig: Signatures) -> QueryLaw:
    """Three query components of unequal weight in each cluster, in one shared space and in no order."""
    cluster = rng.permutation(np.repeat(np.arange(len(sig)), 3))
    n, d = cluster.size, sig.dimension
    means = sig.means[cluster] + rng.normal(size=(n, d))
    covariances = np.stack([covariance(rng, d) for _ in range(n)])
    return QueryLaw(means[:, None], covariances, sig.task[cluster], cluster, rng.uniform(0.1, 1, size=n))


@pytest.mark.parametrize("task", [[0, 1, 2], [1, 0, 1]])
@pytest.mark.parametrize("law_of", [lambda rng, sig: None, cross_law, _finer], ids=["well-specified", "own spaces", "finer"])
def test_the_table_agrees_with_the_ladder(task, law_of):
    rng = np.random.default_rng(4)
    sig = signatures(rng, 2, task, 5.0)
    law = law_of(rng, sig)
    rungs = ladder(sig, law, simulations=0).clusters
    frame = criterion_of(sig, law, eps=0.05).set_index(["task", "cluster"])
    assert list(frame.index) == list(rungs)
    for key, found in rungs.items():
        row = frame.loc[key]
        assert row["log_l1"] == pytest.approx(found["L1"].log_value, rel=1e-12, abs=1e-13)
        assert row["log_exact_upper"] == pytest.approx(found["L5"].log_value, rel=1e-12, abs=1e-13)
        if found["L5"].log_lower is None:
            # Task 1 has two components, which may rescue a query: no lower side, so nothing can be contradicted.
            assert key[0] == 1 and np.isnan(row["log_exact_lower"]) and not row["contradicted_a"] and not row["contradicted_b"]
        else:
            assert row["log_exact_lower"] == pytest.approx(found["L5"].log_lower, rel=1e-12, abs=1e-13)
    assert frame["log_exact_lower"].notna().any() and (frame["log_l1"] < 0).any()


def test_the_moments_of_a_law_with_one_space_per_task():
    rng = np.random.default_rng(4)
    sig = signatures(rng, 3, [0, 1, 1, 2], 2.0)
    law = cross_law(rng, sig)
    for c, row in enumerate(criterion_of(sig, law, eps=0.05).itertuples()):
        wrong = sig.wrong(sig.task[c])
        mean = []
        for s in wrong:
            block = slice(3 * sig.task[s], 3 * sig.task[s] + 3)
            precision, D = np.linalg.inv(sig.covariances[s]), law.means[c, sig.task[s]] - sig.means[s]
            mean.append(np.trace(precision @ law.covariances[c][block, block]) + D @ precision @ D)
        assert row.delta == pytest.approx(min(mean) / 3 - 1, rel=1e-9)
        assert row.sigma2 == pytest.approx(np.diag(law.covariances[c]).max(), rel=1e-12)
        assert row.kappa == pytest.approx((sig.gaussians.log_dets[wrong] - sig.gaussians.log_dets[c]).min(), rel=1e-12)


def test_a_law_finer_than_the_signature_is_averaged_within_each_cluster():
    rng = np.random.default_rng(6)
    sig = signatures(rng, 2, [0, 1], 3.0)
    split = np.array([[1.0, 0.0], [-1.0, 0.0]])
    means = np.stack([sig.means[0] + split[0], sig.means[0] + split[1], sig.means[1]])[:, None]
    law = QueryLaw(means, np.stack([np.eye(2)] * 3), np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([1.0, 3.0, 4.0]))
    row = criterion_of(sig, law, eps=0.1).iloc[0]
    each = separation(sig, law).delta[:2, 1]
    assert row["delta"] == pytest.approx(each @ [0.25, 0.75])
    assert row["sigma2"] == pytest.approx(1 + 4 * 0.25 * 0.75)  # within, and between two points 2 apart


def test_a_change_of_units_changes_the_verdict_and_nothing_else():
    rng = np.random.default_rng(7)
    sig = Signatures(np.stack([np.zeros(64), rng.normal(size=64) * 1.7]), np.stack([np.eye(64)] * 2), np.array([0, 1]))
    scaled = Signatures(sig.means / 10, sig.covariances / 100, sig.task)
    rows = [criterion_of(s, eps=0.01).iloc[0] for s in (sig, scaled)]
    assert rows[0]["log_exact_upper"] == pytest.approx(rows[1]["log_exact_upper"], rel=1e-9)
    assert rows[0]["log_l1"] == pytest.approx(rows[1]["log_l1"], rel=1e-9)
    assert not rows[0]["passes_a"] and rows[1]["passes_a"]


def test_weights_are_left_aside():
    rng = np.random.default_rng(8)
    sig = signatures(rng, 2, [0, 0, 1], 2.0)
    skewed = dataclasses.replace(sig, weights=np.array([0.99, 0.01, 1.0]))
    assert criterion_of(sig, eps=0.1).equals(criterion_of(skewed, eps=0.1))


def test_tables_have_a_row_for_every_case():
    tails = tail_table(dimensions=(8, 64), log_ratios=(5.0, 100.0))
    assert len(tails) == 2 * 2 * 3 and tails.loc[tails["proved"], "holds"].all()
    assert tails.loc[tails["reading"] == "L1", "holds"].all()
    claims = claims_table(np.random.default_rng(0), dimensions=(1,), levels=(0.01,), generations=2, population=5)
    assert len(claims) == 3 + len(Family) * 3
    whole = claims[claims["claim"].str.startswith("passing")]
    assert (whole.loc[whole["reading"] == "L1", "log10_ratio"] < 0).all()
    assert (whole.loc[(whole["reading"] == "a"), "log10_ratio"] > 0).all()
    none = whole["counterexample"].str.startswith("none")
    assert (none == (whole["log10_ratio"] <= 0)).all()


def test_the_command_prints_and_writes_the_same_page(monkeypatch, tmp_path, capsys):
    for name, small in (
        ("claims_table", partial(claims_table, dimensions=(1,), levels=(0.01,), generations=1, population=5)),
        ("failure_table", partial(failure_table, dimensions=(1, 8))),
        ("tail_table", partial(tail_table, dimensions=(8,))),
    ):
        monkeypatch.setattr(table_module, name, small)
    page = tmp_path / "published.md"
    page.write_text("an older page")
    main(["--out", str(page), "--seed", "3"])
    printed = capsys.readouterr().out
    assert page.read_text("utf-8") == printed
    assert "text was not available" in printed and "none exists in this family" in printed and "none found in" in printed
    assert "nan" not in printed
    main(["--seed", "3"])
    assert capsys.readouterr().out == printed
    # A write that fails leaves the page as it was, and nothing beside it.
    monkeypatch.setattr(table_module, "report", lambda rng: "a newer page")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        main(["--out", str(page)])
    assert page.read_text("utf-8") == printed and list(tmp_path.iterdir()) == [page]


def test_the_command_refuses_before_any_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(table_module, "report", lambda rng: pytest.fail("worked first"))
    for arguments in (["--out", str(tmp_path)], ["--out", str(tmp_path / "none" / "page.md")], ["--seed", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert arguments[0] in capsys.readouterr().err


def test_the_package_runs_as_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["published", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("theory.published", run_name="__main__")
    assert "python -m theory.published" in capsys.readouterr().out


@pytest.mark.slow
def test_the_whole_table():
    claims = claims_table(np.random.default_rng(0), dimensions=(1, 768), levels=(1e-4,), generations=6)
    ours = claims["reading"] == "L1"
    assert (claims.loc[ours, "log10_ratio"] < 0).all()
    free = claims["claim"].str.contains("any diagonal")
    assert (claims.loc[free & ~ours, "log10_ratio"] > 0).all()
    assert claims.loc[free & ~ours, "counterexample"].str.contains("passes at eps").all()
    large = claims["claim"].str.contains("equal covariances") & (claims["d"] == 768)
    assert (claims.loc[large, "log10_ratio"] < 0).all()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"d": 0}, "d: 0"),
        ({"d": 2.5}, "d: 2.5"),
        ({"d": True}, "d: True"),
        ({"d": 2**60}, "d: "),
        ({"tasks": 1}, "two tasks"),
        ({"components": 2}, "components"),
        ({"eps": 0.0}, "eps"),
        ({"eps": 1.0}, "eps"),
        ({"eps": math.nan}, "eps"),
        ({"sigma2": 0.0}, "sigma2.*not positive"),
        ({"sigma2": -1.0}, "sigma2.*not positive"),
        ({"sigma2": math.nan}, "sigma2"),
        ({"sigma2": 1e308}, "sigma2.*overflows"),
        ({"kappa": math.inf}, "kappa"),
        ({"delta": math.nan}, "delta"),
        ({"delta": -1.5}, "delta.*below -1"),
        ({"variance": -1.0}, "variance"),
        ({"variance": math.nan}, "variance"),
    ],
)
def test_bad_inputs_are_named(change, what):
    with pytest.raises(InputError, match=what):
        Inputs(**{**_GOOD, **change})


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: tail_claim(0, 5.0, "a"), "d: 0"),
        (lambda: tail_claim(8, 0.0, "a"), "log_ratio"),
        (lambda: tail_claim(8, math.nan, "a"), "log_ratio"),
        (lambda: tail_claim(8, math.inf, "b"), "log_ratio"),
        (lambda: tail_claim(8, 5.0, "c"), "reading"),
        (lambda: tail_proved(-1, 5.0), "d: -1"),
        (lambda: first_failure(8, "b", limit=-1.0), "log_ratio"),
        (lambda: tied_proved(8, 0.0, 5.0, "a"), "sigma2"),
        (lambda: counterexample("a", Family.FREE, 1, 2.0, np.random.default_rng(0)), "eps"),
        (lambda: counterexample("a", Family.FREE, 1, 0.1, np.random.default_rng(0), generations=0), "generations"),
        (lambda: counterexample("a", "narrow", 1, 0.1, np.random.default_rng(0)), "family"),
        (lambda: counterexample("z", Family.FREE, 1, 0.1, np.random.default_rng(0)), "reading"),
    ],
)
def test_bad_calls_are_named(call, what):
    with pytest.raises(InputError, match=what):
        call()


def test_a_law_that_does_not_fit_is_named():
    rng = np.random.default_rng(0)
    sig = signatures(rng, 2, [0, 1], 1.0)
    law = well_specified(sig)
    with pytest.raises(InputError, match="eps"):
        criterion_of(sig, eps=1.0)
    with pytest.raises(InputError, match=r"query cluster.*-1"):
        criterion_of(sig, dataclasses.replace(law, cluster=np.array([-1, 1])), eps=0.1)
    with pytest.raises(InputError, match="another task"):
        criterion_of(sig, dataclasses.replace(law, cluster=np.array([1, 1])), eps=0.1)
    with pytest.raises(InputError, match="dimension"):
        criterion_of(sig, well_specified(signatures(rng, 3, [0, 1], 1.0)), eps=0.1)
