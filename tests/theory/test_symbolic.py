"""Symbolic proofs hold, fail when what they prove is wrong, and the formulas agree with the numeric modules."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import special, stats
from strategies import covariance, signatures
from sympy import Interval, Rational, Symbol, log, oo

from theory import InputError, QuadraticLaw, QueryLaw, Rule, Signatures, ladder, margins, separation, symbolic, well_specified
from theory.balls import chi_square_ball
from theory.batch import batch_bound, task_exponents
from theory.certificates import binary_kl, upper_limit
from theory.symbolic import Proof, asymptotics, formula, formulas, latex_table, proofs, prove, required_delta
from theory.symbolic.formulas import _registry
from theory.symbolic.proofs import _PROOFS
from theory.symbolic.prover import identity, nonnegative_on
from theory.tails import exponent, laurent_massart_threshold, log_lower_bernstein, log_upper_bernstein

_NAMES = [row.name for row in formulas()]
_RUNGS = ["L1", "L1b", "L2", "L3", "L4", "L5", "L7", "L8", "L9", "L10", "L11", "L12-chi2", "L12-kl"]
_y = Symbol("y", nonnegative=True)
_RIGHT = Interval(0, oo)
_seeds = st.integers(0, 2**32 - 1)
_positive = st.floats(1e-3, 1e3)


@cache
def _function(name):
    return formula(name).lambdify()


def _close(found, expected, scale=0.0):
    # Differences of logarithms and means keep digits of their parts, not of the result.
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10 * abs(scale))


# --- proofs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NAMES)
def test_every_step_of_every_proof_holds(name):
    proof = prove(name)
    assert [step.claim for step in proof.steps if not step.holds] == []
    assert proof.holds and proof.steps


@pytest.mark.parametrize("name", _NAMES)
def test_a_proof_fails_when_its_formula_is_one_percent_off(name, monkeypatch):
    right = formula(name)
    wrong = dataclasses.replace(right, expression=sympy.piecewise_fold(right.expression * Rational(101, 100)))
    monkeypatch.setitem(_registry(), name, wrong)
    steps, _ = _PROOFS[name]()
    assert not all(step.holds for step in steps)


def test_every_formula_has_a_proof_in_the_order_of_the_ladder():
    assert [proof.name for proof in proofs()] == _NAMES
    assert [name for name in _NAMES if name in _RUNGS] == _RUNGS
    assert _NAMES[-3:] == ["F1", "F2", "F3"]


def test_a_proof_of_nothing_proves_nothing():
    assert not Proof("T1", ()).holds
    assert not Proof("T1", (identity("1 = 2", sympy.Integer(1), 2),)).holds


def test_notebooks_show_a_proof_with_every_step_and_whether_it_was_confirmed():
    shown = prove("L7")._repr_markdown_()
    assert shown.count("(confirmed)") == len(prove("L7").steps) and "not" not in shown
    assert r"Markov's inequality for (M - E M - u)^2, u \>= 0." in shown
    wrong = dataclasses.replace(prove("L7"), steps=(identity("so *it* is", sympy.Integer(1), sympy.Integer(2)),))
    assert "does not hold" in wrong._repr_markdown_() and r"1. so \*it\* is: $1 = 2$ (not confirmed)" in wrong._repr_markdown_()


def test_notebooks_show_a_formula_with_its_level_domain_and_statement():
    shown = formula("L12-chi2")._repr_markdown_()
    assert shown.startswith("**L12-chi2** (A3, $p < 1$). Error under any law") and shown.endswith(f"$$ {formula('L12-chi2').latex()} $$")


def _proved(f, domain=_RIGHT):
    return nonnegative_on(f, _y, domain)


def test_the_prover_accepts_what_is_true():
    assert _proved(_y**2 - _y + log(1 + 2 * _y) / 2)
    assert _proved(_y - log(1 + _y))
    assert _proved(sympy.exp(_y) - 1 - _y - _y**2 / 2)
    assert _proved(_y**2 / (1 - 2 * _y) + _y + log(1 - 2 * _y) / 2, Interval.Ropen(0, Rational(1, 2)))


@pytest.mark.parametrize(
    ("f", "domain"),
    [
        # T2's inequality with y^2/2 for y^2, and T1's with x^2/2: false near 0.
        (_y**2 / 2 - _y + log(1 + 2 * _y) / 2, _RIGHT),
        (_y**2 / 2 / (1 - 2 * _y) + _y + log(1 - 2 * _y) / 2, Interval.Ropen(0, Rational(1, 2))),
        # True on a smaller interval only.
        (1 - _y, _RIGHT),
        (_y - 1, _RIGHT),
        # Grows everywhere that it exists and starts above 0, but changes sign at its pole.
        (1 / (1 - _y), Interval.Ropen(0, 2)),
        (-1 / (_y - 1) - log((_y - 1) ** 2), Interval.Ropen(0, 2)),
        # Not defined left of 1.
        (log(_y), _RIGHT),
        (sympy.sqrt(_y - 1), _RIGHT),
        # Nothing is known of the sign of the other symbol.
        (_y * Symbol("b", real=True), _RIGHT),
        (_y * Symbol("b"), _RIGHT),
        (-_y, _RIGHT),
        (sympy.sin(_y), _RIGHT),
    ],
)
def test_the_prover_rejects_what_is_not(f, domain):
    assert not _proved(f, domain)


@pytest.mark.parametrize("domain", [Interval(0, 1), Interval.open(0, 1), Interval(-oo, 0)])
def test_the_prover_wants_a_half_open_interval(domain):
    with pytest.raises(InputError, match="domain"):
        _proved(_y, domain)


@given(st.lists(st.integers(-3, 4), min_size=2, max_size=4), st.integers(-3, 3), st.sampled_from([1, 2]), st.booleans())
def test_whatever_the_prover_proves_is_true_on_a_grid(coefficients, multiple, slope, bounded):
    f = sum(c * _y**k for k, c in enumerate(coefficients)) + multiple * log(1 + slope * _y)
    domain = Interval.Ropen(0, 3) if bounded else _RIGHT
    grid = np.linspace(0, 3, 301)[:-1] if bounded else np.r_[np.linspace(0, 10, 400), np.geomspace(10, 1e6, 50)]
    values = sum(c * grid**k for k, c in enumerate(coefficients)) + multiple * np.log1p(slope * grid)
    if sympy.sympify(f).free_symbols and _proved(f, domain):
        assert values.min() >= -1e-9 * np.abs(values).max()


# --- formulas against the numeric modules -----------------------------------------------------------------------------


@given(st.integers(1, 5000), st.floats(1e-6, 1e4))
def test_t1(d, t):
    _close(_function("T1")(d=d, t=t), laurent_massart_threshold(d, t))


@given(_seeds, st.integers(1, 8), st.floats(0.01, 100))
def test_t2_and_t3_are_the_bernstein_tails(seed, r, t):
    rng = np.random.default_rng(seed)
    law = QuadraticLaw.of(rng.gamma(1.0, size=(1, r)) + 0.01, rng.normal(size=(1, r)), c=rng.normal())
    mean, V, w = law.mean()[0], law.variance()[0], law.greatest_weight()[0]
    below, above = _function("T2")(mean=mean, V=V, t=t), _function("T3")(mean=mean, V=V, w=w, t=t)
    # A relative error in the distance from the mean is up to doubled in t.
    assert -log_lower_bernstein(law, below)[0] == pytest.approx(t, rel=1e-10 * (1 + abs(mean) / np.sqrt(V * t)))
    assert -log_upper_bernstein(law, above)[0] == pytest.approx(t, rel=1e-10 * (1 + abs(mean) / np.sqrt(V * t)))


@given(_seeds, st.integers(1, 6))
def test_t4_adds_up_to_the_log_laplace_transform(seed, r):
    rng = np.random.default_rng(seed)
    law = QuadraticLaw.of(rng.normal(size=(1, r)), rng.normal(size=(1, r)), s=rng.gamma(1.0), c=rng.normal())
    theta = min(0.9 * law.limit()[0], 5.0) * rng.uniform(0.05, 1)
    parts = [_function("T4")(l=theta, w=law.w[0, j], g=law.g[0, j], s=0.0, c=0.0) for j in range(r)]
    parts.append(_function("T4")(l=theta, w=0.0, g=0.0, s=law.s[0], c=law.c[0]))
    _close(sum(parts), law.log_laplace(np.array([[theta]]))[0, 0], np.abs(parts).max())


@given(_positive, _positive)
def test_l1_exponent(a, gap):
    _close(_function("L1-exponent")(a=a, Delta=gap), float(exponent(gap, a, 2.0)))


def _two_tasks(seed):
    rng = np.random.default_rng(seed)
    return signatures(rng, int(rng.integers(1, 6)), [0, 1], rng.choice([1.0, 3.0, 10.0])), rng


@given(_seeds)
@hypothesis_settings(max_examples=15)
def test_the_ladder_in_the_well_specified_case(seed):
    sig, _ = _two_tasks(seed)
    law = well_specified(sig)
    found, moments, d = ladder(sig, law, simulations=0), separation(sig, law), sig.dimension
    for k, i in ((0, 1), (1, 0)):
        own, wrong = sig.covariances[k], sig.covariances[i]
        white = np.linalg.solve(wrong, own)
        D = sig.means[k] - sig.means[i]
        P = np.linalg.solve(wrong, D)
        delta = _function("delta")(trace=np.trace(white), distance=D @ P, d=d)
        logdets = np.linalg.slogdet(sig.covariances)[1]
        kappa = _function("kappa")(log_det_own=logdets[k], log_det_wrong=logdets[i], pi_own=1.0, pi_wrong=1.0)
        V = _function("V")(squared=np.trace(white @ white), pulled=P @ own @ P)
        _close(delta, moments.delta[k, i], 1.0)
        _close(kappa, moments.kappa[k, i], np.abs(logdets).max())
        _close(V, moments.variance[k, i])
        gap = d * delta + kappa
        if gap > 1e-3:
            # A gap that is small beside its parts has lost their digits, and the exponent is of second order in it.
            lost = (d * abs(delta) + abs(kappa)) / gap
            L1 = found.clusters[k, k]["L1"].log_formula
            _close(_function("L1")(d=d, delta=delta, kappa=kappa, V=V, N=2), L1, lost * (1 + abs(L1)))
        pair = found.pairs
        (row,) = np.flatnonzero((pair.component == k) & (pair.wrong == i))
        r, v = pair.mean[row], pair.variance[row]
        if r > 0:
            # The ladder's columns are logarithms, so an absolute difference there is a relative one here.
            _close(np.log(_function("L7")(mean=r, V=v)), pair.log_cantelli[row], 1.0)
            _close(np.log(_function("L9")(mean=r, V=v)), pair.log_unimodal[row], 1.0)
            w = margins(Rule(sig), law).margin.least_weight()[row]
            _close(_function("L1b")(mean=r, V=v, w_minus=w), pair.log_bernstein[row])


@given(_seeds)
@hypothesis_settings(max_examples=15)
def test_l1_and_l2_of_a_measured_query_law(seed):
    sig, rng = _two_tasks(seed)
    d = sig.dimension
    means = sig.means + 0.1 * rng.normal(size=(2, d))
    law = QueryLaw(means[:, None], np.stack([covariance(rng, d) for _ in range(2)]), sig.task, np.arange(2), np.ones(2))
    found, laws = ladder(sig, law, simulations=0), margins(Rule(sig), law)
    own, other = laws.own, laws.other
    for k in range(2):
        arguments = {"own_mean": own.mean()[k], "own_V": own.variance()[k], "own_w": own.greatest_weight()[k]}
        arguments |= {"wrong_mean": other.mean()[k], "wrong_V": other.variance()[k]}
        gap = arguments["wrong_mean"] - arguments["own_mean"]
        if gap < 1e-3:
            continue
        lost = (abs(arguments["wrong_mean"]) + abs(arguments["own_mean"])) / gap
        L1 = found.clusters[k, k]["L1"].log_formula
        _close(_function("L1-measured")(**arguments, N=2), L1, lost * (1 + abs(L1)))
        c = arguments["own_mean"] + 0.4 * gap
        tails = log_upper_bernstein(own, c)[k], log_lower_bernstein(other, c)[k]
        L2 = _function("L2")(**arguments, c=c)
        assert L2 == pytest.approx(np.exp(tails).sum(), rel=1e-10 * lost * (1 + np.abs(tails).max()))


@given(st.floats(1e-3, 100), st.floats(1e-3, 100), st.floats(0, 10))
def test_l1b_and_its_tilt(r, V, w):
    law = QuadraticLaw.of([[-w, 0.0]], [[0.0, np.sqrt(V)]], c=r + w)
    t = -_function("L1b")(mean=r, V=law.variance()[0], w_minus=w)
    _close(-t, log_lower_bernstein(law)[0], t)
    tilt = _function("L1b-tilt")(t=t, V=law.variance()[0], w_minus=w)
    # Where the form is r exactly, up to the slack of its inequalities, the log-transform there is at most -t.
    assert law.log_laplace(np.array([[tilt]]))[0, 0] <= -t * (1 - 1e-9) + 1e-12


@given(_seeds, st.integers(1, 5), st.floats(0.01, 0.99))
def test_l3_is_the_chernoff_bound_of_the_ladder_margin(seed, d, share):
    rng = np.random.default_rng(seed)
    v = rng.gamma(2.0, size=(2, d)) + 0.05
    sig = Signatures(rng.normal(size=(2, d)) * 2, np.stack([np.diag(row) for row in v]), np.array([0, 1]))
    law = margins(Rule(sig), well_specified(sig)).margin
    shift = sig.means[0] - sig.means[1]
    for power, name in ((share, "L3"), (0.5, "L3-bhattacharyya")):
        extra = {"l": power} if name == "L3" else {}
        parts = [_function(name)(shift=shift[j], v_own=v[0, j], v_wrong=v[1, j], **extra) for j in range(d)]
        # The margin is of energies, twice the log-likelihood ratio.
        _close(sum(parts), law.log_laplace(np.array([[power / 2]]))[0, 0], np.abs(np.log(v)).sum())


@given(st.floats(0.05, 20), st.floats(0.1, 10), st.integers(1, 6))
@hypothesis_settings(max_examples=15)
def test_the_two_task_isotropic_case(ratio, sigma, d):
    r = ratio * sigma
    means = np.zeros((2, d))
    means[1, -1] = r
    sig = Signatures(means, np.stack([sigma**2 * np.eye(d)] * 2), np.array([0, 1]))
    found = ladder(sig, simulations=0).pairs
    error = _function("L5")(distance=r, sigma=sigma)
    _close(error, stats.norm.cdf(-ratio / 2))
    assert np.log(error) == pytest.approx(found.log_exact[0], rel=1e-8, abs=1e-8)
    bases = task_exponents(Rule(sig), well_specified(sig))[0]
    for B in (1, 5):
        L4 = _function("L4")(B=B, distance=r, sigma=sigma)
        # Searched numerically and rounded upwards.
        assert L4 <= batch_bound(bases, B) == pytest.approx(L4, rel=1e-11, abs=1e-11)
    for nu in (0.5, 3.0, 40.0):
        _close(_function("L11")(distance=r, sigma=sigma, nu=nu), stats.t.sf(ratio / 2, nu), 1e-6)


@given(st.integers(1, 10**6), st.floats(1e-6, 0.5))
def test_l8_is_clopper_pearson_without_errors(n, beta):
    assert _function("L8")(beta=beta, n=n) == pytest.approx(upper_limit(0, n, beta), rel=1e-9)


@given(st.floats(0.01, 20), st.floats(1e-3, 1e3))
def test_rungs_from_moments_are_ordered(ratio, V):
    r = ratio * np.sqrt(V)
    assert _function("L9")(mean=r, V=V) <= _function("L7")(mean=r, V=V) * (1 + 1e-12)
    assert _function("L7")(mean=r, V=V) <= _function("L10")(mean=r, p=2.0, moment=V) * (1 + 1e-12)
    # A normal margin is unimodal; its fourth central moment is 3 V^2.
    truth = stats.norm.cdf(-ratio)
    assert truth <= _function("L9")(mean=r, V=V) and truth <= _function("L10")(mean=r, p=4.0, moment=3 * V**2)


@given(st.floats(1e-4, 0.4), st.floats(1.5, 100), st.floats(1e-6, 10))
def test_balls_and_floors(p, factor, chi2):
    q = min(p * factor, 0.99)
    _close(_function("L12-kl")(q=q, p=p), binary_kl(q, p), q)
    raised = _function("L12-chi2")(p=p, chi2=chi2)
    if raised < 0.5:
        _close(np.log(raised), float(np.squeeze(chi_square_ball(np.log([p]), chi2))), 1.0)
    _close(_function("L12-chi2")(p=p, chi2=_function("floor-chi2")(q=q, p=p)), q)


@given(st.integers(1, 60), st.integers(3, 500))
def test_finite_sample_moments(d, more):
    n = d + more
    scale = d * (n**2 - 1) / (n * (n - d))
    _close(_function("F1")(d=d, n=n), scale * float(stats.f.mean(d, n - d)))
    _close(_function("F2")(d=d, n=n), special.digamma((n - 1 - np.arange(d)) / 2).sum() - d * np.log((n - 1) / 2), d)
    inverse = float(np.atleast_2d(stats.invwishart.mean(df=n - 1, scale=np.eye(d)))[0, 0])
    _close(_function("F3")(d=d, n=n), (n - 1) * inverse)


@given(st.integers(1, 2000), st.floats(1e-3, 300))
def test_required_delta_meets_the_condition_with_equality(d, t):
    delta = _function("L1-delta-isotropic")(d=d, t=t)
    _close(delta, _function("L1-delta")(d=d, t=t, V=2 * d + 4 * d * delta, kappa=0.0))
    a = 2 * np.sqrt(d) + np.sqrt(2 * (2 * d + 4 * d * delta))
    _close(_function("L1-exponent")(a=a, Delta=d * delta), t)


# --- asymptotics ------------------------------------------------------------------------------------------------------


def test_every_limit_is_right():
    for row in asymptotics():
        assert [step.claim for step in row.checks if not step.holds] == [], row.formula.name
        assert row.holds


def _at(expression, **values):
    symbols = {symbol.name: symbol for symbol in expression.free_symbols}
    return float(expression.subs({symbols[name]: value for name, value in values.items() if name in symbols}))


def test_expansions_approach_what_they_expand():
    """The machine's limits are checked against numbers, because it has got such limits wrong."""
    d_, m_, fixed, n_, ratio, log_det = asymptotics()
    exact, two = _at(d_.exact, d=10**8, t=5.0), d_.formula.lambdify()(d=10**8, t=5.0)
    assert two <= exact and exact == pytest.approx(two, rel=1e-6)
    # The relative error falls as 1/log m, so the slope between two huge m is compared.
    far = [_at(m_.exact, d=16, m=10**k, tau=3, epsilon=Rational(1, 100)) for k in (20_000, 40_000)]
    assert (far[1] - far[0]) == pytest.approx(m_.formula.lambdify()(d=16, m=10) * 20_000, rel=0.02)
    far = [_at(fixed.exact, d=16, m=10**k, tau=3, epsilon=Rational(1, 100), V=50, kappa=1) for k in (20_000, 40_000)]
    assert (far[1] - far[0]) == pytest.approx(fixed.formula.lambdify()(d=16, m=10) * 20_000, rel=0.05)
    assert _at(n_.exact, d=12, n=10**5) == pytest.approx(n_.formula.lambdify()(d=12, n=10**5), rel=1e-6)
    assert _at(ratio.exact, d=10**6, n=4 * 10**6) == pytest.approx(ratio.formula.lambdify()(rho=4.0), rel=1e-5)
    bias = _function("F2")(d=12, n=10**6)
    assert bias == pytest.approx(log_det.formula.lambdify()(d=12, n=10**6), rel=1e-4)


@given(st.integers(1, 10**6), st.floats(1e-3, 1e3))
def test_two_terms_never_exceed_the_separation_required(d, t):
    two = _expansion()(d=d, t=t)
    exact = _function("L1-delta-isotropic")(d=d, t=t)
    assert two <= exact * (1 + 1e-12) and exact <= (two + 4 * (t / d) ** 1.5) * (1 + 1e-12)


@cache
def _expansion():
    return required_delta("d").formula.lambdify()


# --- output and bad input ---------------------------------------------------------------------------------------------


def _balanced(text):
    depth = 0
    for character in text.replace(r"\{", "").replace(r"\}", ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0 and text.count(r"\left") == text.count(r"\right") and text.count(r"\begin") == text.count(r"\end")


def test_latex_is_there_and_balanced():
    for row in (*formulas(), *(a.formula for a in asymptotics())):
        assert row.latex().strip() and _balanced(row.latex()), row.name
        assert row.statement.endswith(".")
    table = latex_table()
    assert _balanced(table) and table.startswith(r"\begin{tabular}")
    assert table.count(r"$\displaystyle") == len(formulas())
    assert not _balanced("{a}}{")


@pytest.mark.parametrize(
    ("name", "arguments", "what"),
    [
        ("T1", {"d": 3}, "t: is missing"),
        ("T1", {"d": 3, "t": 1.0, "x": 1.0}, "x: is not an argument"),
        ("T1", {"d": 2.5, "t": 1.0}, "d: .*whole number"),
        ("T1", {"d": 3, "t": -1.0}, "t: .*above 0"),
        ("T1", {"d": 3, "t": float("nan")}, "t: .*finite"),
        ("T1", {"d": 3, "t": "much"}, "t: .*needs a number"),
        ("T4", {"l": 1.0, "w": -0.5, "g": 0.0, "s": 0.0, "c": 0.0}, "l, w: must satisfy"),
        ("T4", {"l": 1.0, "w": 0.5, "g": 0.0, "s": -1.0, "c": 0.0}, "s: .*at least 0"),
        ("L1", {"d": 4, "delta": -0.5, "kappa": 1.0, "V": 8.0, "N": 2}, "delta.*must satisfy"),
        ("L8", {"beta": 1.5, "n": 10}, "beta: must satisfy"),
        ("F1", {"d": 4, "n": 6}, "d, n: must satisfy"),
        ("F2", {"d": 4, "n": 4}, "d, n: must satisfy"),
        ("L10", {"moment": 1.0, "p": 1e6, "mean": 1e-3}, "no finite value"),
    ],
)
def test_bad_arguments_are_named(name, arguments, what):
    with pytest.raises(InputError, match=what):
        _function(name)(**arguments)


def test_unknown_names_are_refused():
    for call in (formula, prove):
        with pytest.raises(InputError, match="L99"):
            call("L99")
    with pytest.raises(InputError, match="growing"):
        required_delta("k")


def test_symbols_must_be_those_of_the_expression():
    with pytest.raises(ValueError, match="T1"):
        dataclasses.replace(formula("T1"), symbols={})


def test_no_other_module_needs_sympy():
    own = Path(symbolic.__file__).parent
    for path in own.parent.rglob("*.py"):
        if path.is_relative_to(own):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            assert not any(part in ("sympy", "symbolic") for name in [*names, module] for part in name.split(".")), path.name
