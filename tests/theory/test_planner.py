"""The planner's answers against the ladder on explicit signatures, and against simulation of what they promise."""

from __future__ import annotations

import functools
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln, log_ndtr

from theory import Assumption, Bound, InputError, Rule, Signatures, ladder, margins, well_specified
from theory import plug_in as module
from theory.planner import (
    PLANNED_RUNGS,
    Plan,
    batch_for,
    batch_for_signatures,
    canonical_bound,
    plan_frame,
    plug_in_canonical,
    samples_per_cluster,
    separation_for,
    tasks_for,
)


def _simplex(d: int, tasks: int, components: int, delta: float) -> Signatures:
    """Unit Gaussians whose means all lie at squared distance d delta from each other."""
    K = tasks * components
    left, sizes, _ = np.linalg.svd(np.eye(K) - 1 / K)
    means = np.zeros((K, d))
    means[:, : K - 1] = left[:, : K - 1] * sizes[: K - 1] * math.sqrt(d * delta / 2)
    return Signatures(means, np.stack([np.eye(d)] * K), np.repeat(np.arange(tasks), components))


@functools.cache
def _overall(d, tasks, components, delta):
    return ladder(_simplex(d, tasks, components, delta), simulations=0).overall


def _ladder(d, tasks, components, delta, rung):
    return _overall(d, tasks, components, delta)[rung].log_formula


_SETTINGS = [(2, 2, 1), (6, 3, 2), (16, 4, 1)]


@pytest.mark.parametrize("rung", PLANNED_RUNGS)
@pytest.mark.parametrize(("d", "tasks", "components"), _SETTINGS)
@pytest.mark.parametrize("delta", [4.0, 900.0])
def test_the_canonical_rungs_are_the_ladders(d, tasks, components, delta, rung):
    found = canonical_bound(rung, d, tasks, components, delta)
    expected = _ladder(d, tasks, components, delta, rung)
    assert found.log_formula == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.level == (Assumption.A2 if rung == "L1" else Assumption.A4)


@pytest.mark.parametrize("rung", PLANNED_RUNGS)
@pytest.mark.parametrize(("d", "tasks", "components"), _SETTINGS)
@pytest.mark.parametrize("eps", [0.3, 1e-12])
def test_least_separation_on_explicit_signatures(d, tasks, components, eps, rung):
    plan = separation_for(tasks, components, d, eps, rung)
    assert _ladder(d, tasks, components, plan.answer, rung) <= math.log(eps)
    assert plan.neighbour < plan.answer <= plan.neighbour * (1 + 1.01e-5)
    assert _ladder(d, tasks, components, plan.neighbour, rung) > math.log(eps)
    assert (plan.rung, plan.value <= eps < plan.neighbour_bound.value) == (rung, True)


@pytest.mark.parametrize("rung", PLANNED_RUNGS)
@pytest.mark.parametrize("components", [1, 2])
def test_greatest_number_of_tasks_on_explicit_signatures(components, rung):
    d, tasks, eps = 7, 3, 0.02
    delta = separation_for(tasks, components, d, eps, rung).answer
    plan = tasks_for(delta, d, components, eps, rung)
    assert (plan.answer, plan.neighbour) == (tasks, tasks + 1)
    assert _ladder(d, tasks, components, delta, rung) <= math.log(eps) < _ladder(d, tasks + 1, components, delta, rung)


@given(
    st.sampled_from(PLANNED_RUNGS),
    st.integers(2, 10**6),
    st.integers(1, 50),
    st.integers(1, 5000),
    st.floats(-300, -0.001).map(lambda x: 10.0**x),
)
def test_separation_and_tasks_invert_each_other(rung, tasks, components, d, eps):
    plan = separation_for(tasks, components, d, eps, rung)
    back = tasks_for(plan.answer, d, components, eps, rung)
    assert back.answer >= tasks
    if plan.neighbour is not None:
        fewer = tasks_for(plan.neighbour, d, components, eps, rung)
        assert fewer.answer is None or fewer.answer < tasks
    assert separation_for(tasks + 1, components, d, eps, rung).answer >= plan.answer


@given(st.sampled_from(PLANNED_RUNGS), st.integers(1, 2000), st.floats(1e-3, 1e4), st.floats(1.0, 10.0))
def test_canonical_rungs_hold_for_components_farther_away(rung, d, delta, factor):
    nearer, farther = (canonical_bound(rung, d, 5, 2, x).log_formula for x in (delta, delta * factor))
    assert farther <= nearer + 1e-9 * (1 + abs(nearer))


def test_exact_sums_order_the_answers():
    deltas = [separation_for(10, 3, 384, 0.01, rung).answer for rung in ("L5", "L3", "L1")]
    assert deltas == sorted(deltas)
    counts = [tasks_for(1.0, 384, 3, 0.01, rung).answer for rung in ("L1", "L3", "L5")]
    assert counts == sorted(counts)


def test_a_lax_target_with_one_pair_needs_any_separation():
    plan = separation_for(2, 1, 3, 0.6, "L5")
    assert plan.answer <= 1e-12 and plan.neighbour is None and "any positive" in plan.note


def test_tasks_without_an_answer_and_beyond_the_floats():
    none = tasks_for(0.01, 384, 3, 0.01, "L1")
    assert not none.feasible and "not even two" in none.note and none.bound.log_value > math.log(0.01)
    huge = tasks_for(100.0, 384, 3, 0.01, "L5")
    # (m - 1) tau exp(log Phi(-rho/2)) = eps
    digits = (math.log(0.01 / 3) - log_ndtr(-math.sqrt(38400) / 2)) / math.log(10)
    assert huge.answer == math.inf and f"10^{digits:.6g}" in huge.note
    large = tasks_for(3.0, 384, 3, 0.01, "L5")
    assert isinstance(large.answer, int) and 10**300 > large.answer > 10**50 and large.neighbour <= large.answer * (1 + 1e-9)


@pytest.mark.parametrize(("tasks", "components", "delta"), [(4, 1, 1.0), (3, 3, 1.2), (2, 1, 0.02)])
@pytest.mark.parametrize("eps", [0.2, 1e-6])
def test_least_batch_on_explicit_signatures(tasks, components, delta, eps):
    d = 10
    plan = batch_for(tasks, components, d, delta, eps)
    sig = _simplex(d, tasks, components, delta)
    found = margins(Rule(sig), well_specified(sig))
    # l = 1/4 on energies, which are twice the log-likelihoods: the components of wrong task 1 under a query from component 0.
    rows = (found.component == 0) & (sig.task[found.wrong] == 1)
    base = float(np.exp(found.margin[rows].log_laplace(np.full((rows.sum(), 1), 0.25))).sum())
    assert (tasks - 1) * base**plan.answer <= eps * (1 + 1e-9)
    assert plan.neighbour is None or (tasks - 1) * base**plan.neighbour > eps * (1 - 1e-9)
    assert plan.rung == "L4"


def test_a_planned_batch_errs_no_more_than_planned():
    tasks, components, d, delta, eps = 4, 2, 8, 1.0, 0.1
    plan = batch_for(tasks, components, d, delta, eps)
    sig, rng, B, batches = _simplex(d, tasks, components, delta), np.random.default_rng(0), plan.answer, 4000
    assert B > 1
    task = rng.integers(0, tasks, batches)
    chosen = np.repeat(task * components, B) + rng.integers(0, components, batches * B)
    rule = Rule(sig)
    scores = rule.task_scores(rule.scores((sig.means[chosen] + rng.standard_normal((batches * B, d)))[:, None]))
    wrong = int((np.argmin(scores.reshape(batches, B, tasks).sum(axis=1), axis=1) != task).sum())
    assert stats.beta.ppf(1e-6, max(wrong, 1), batches - wrong + 1) <= plan.value


def test_no_batch_helps_where_the_base_is_not_below_one():
    plan = batch_for(3, 50, 4, 1.0, 0.1)
    assert plan.answer is None and "no batch size" in plan.note and plan.value == 1.0


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from([0.5, 0.01, 1e-9]))
def test_batches_of_real_signatures_are_the_least(seed, m, eps):
    rng = np.random.default_rng(seed)
    table = -rng.exponential(size=(m, m))
    table[np.diag_indices(m)] = np.nan
    table[rng.random((m, m)) < 0.1] = -np.inf
    found = batch_for_signatures(table, eps)

    def total(k, B):
        return sum(math.exp(B * table[k, i]) for i in range(m) if i != k)

    for k, plan in found.tasks.items():
        B = next(b for b in itertools.count(1) if total(k, b) <= eps * (1 + 1e-12))
        assert plan.answer == B
        assert (plan.neighbour is None) == (B == 1)
    assert found.overall.answer == max(plan.answer for plan in found.tasks.values())
    assert found.overall.value == pytest.approx(max(total(k, found.overall.answer) for k in range(m)), rel=1e-9, abs=1e-300)


def test_one_base_that_says_nothing_spoils_its_task_and_the_whole():
    table = np.array([[0.0, -1.0, -2.0], [-1.0, 0.0, 0.1], [-1.0, np.inf, 0.0]])
    found = batch_for_signatures(table, 0.01, Assumption.A3)
    assert found.tasks[0].feasible and not found.tasks[1].feasible and not found.tasks[2].feasible
    assert not found.overall.feasible and found.overall.level is Assumption.A3
    tiny = batch_for_signatures(np.array([[0.0, -1e-18], [-5e-324, 0.0]]), 0.01)
    assert tiny.tasks[0].answer > 10**18 and not tiny.tasks[1].feasible


# --- Plug-in signatures.


def _plug_in_errors(n, d, tasks, components, delta, rng, draws, queries):
    """Errors of signatures drawn afresh; queries of one draw are dependent, so each draw counts as its rate."""
    truth = _simplex(d, tasks, components, delta)
    rates = np.empty(draws)
    for j in range(draws):
        x = truth.means[:, None] + rng.standard_normal((len(truth), n, d))
        z = x - x.mean(axis=1, keepdims=True)
        drawn = Signatures(x.mean(axis=1), np.swapaxes(z, 1, 2) @ z / (n - 1), truth.task)
        label = rng.integers(0, len(truth), queries)
        y = truth.means[label] + rng.standard_normal((queries, d))
        rates[j] = (Rule(drawn).retrieve(y[:, None]) != truth.task[label]).mean()
    return rates


def _not_above(rates, bound):
    """Hoeffding's lower limit of the mean of independent rates, failing with probability 1e-6."""
    spread = math.sqrt(math.log(1e6) * rates.var() * 2 / rates.size) + math.log(1e6) / rates.size
    return rates.mean() - spread <= bound


@pytest.mark.parametrize(
    ("d", "tasks", "components", "delta", "eps"), [(1, 2, 1, 16.0, 0.1), (2, 3, 1, 16.0, 0.05), (4, 2, 2, 8.0, 0.1), (8, 3, 1, 6.0, 0.05)]
)
def test_planned_samples_meet_the_target(d, tasks, components, delta, eps):
    plan = samples_per_cluster(d, tasks, components, delta, eps)
    assert plan.value <= eps < plan.neighbour_bound.value and plan.neighbour == plan.answer - 1
    rates = _plug_in_errors(plan.answer, d, tasks, components, delta, np.random.default_rng(0), 150, 200)
    assert rates.mean() <= eps
    # The bound is not sharp, but it is of the right order.
    assert plan.answer <= 12 * (d + 4)


@pytest.mark.parametrize(("d", "tasks", "components", "delta"), [(1, 2, 1, 9.0), (3, 3, 1, 6.0), (6, 2, 3, 4.0)])
def test_plug_in_bound_is_above_simulation_at_every_n(d, tasks, components, delta):
    rng = np.random.default_rng(1)
    last = 1.0
    for n in (d + 1, d + 3, 2 * d + 6, 8 * d + 20):
        bound = plug_in_canonical(n, d, tasks, components, delta).value
        assert _not_above(_plug_in_errors(n, d, tasks, components, delta, rng, 100, 200), bound)
        assert bound <= last
        last = bound
    assert last < 0.9


@pytest.mark.parametrize(("d", "tasks", "components", "delta"), [(1, 2, 1, 9.0), (16, 4, 1, 2.0), (64, 10, 3, 1.0)])
def test_plug_in_bound_falls_to_the_exact_sum_of_the_true_signature(d, tasks, components, delta):
    exact = canonical_bound("L5", d, tasks, components, delta)
    values = [plug_in_canonical(n, d, tasks, components, delta).log_formula for n in (10**3, 10**5, 10**7, 10**10)]
    assert values == sorted(values, reverse=True)
    assert exact.log_formula <= values[-1] <= exact.log_formula + 0.01


@given(st.integers(1, 20), st.integers(1, 60), st.floats(0.5, 30.0), st.integers(2, 30), st.floats(1.0, 3.0))
@hypothesis_settings(max_examples=12)
def test_plug_in_bound_is_above_the_true_signatures_and_falls_with_separation(d, extra, delta, tasks, factor):
    n = d + extra
    here = plug_in_canonical(n, d, tasks, 1, delta).log_formula
    assert here >= min(0.0, canonical_bound("L5", d, tasks, 1, delta).log_formula)
    # At fixed choices it falls; the search chooses anew, to within its grid.
    assert plug_in_canonical(n, d, tasks, 1, delta * factor).log_formula <= here + 0.05 * (1 + abs(here))


@pytest.mark.parametrize(("d", "tasks", "delta"), [(1, 2, 16.0), (16, 4, 4.0)])
def test_plug_in_bound_falls_with_samples_where_it_matters(d, tasks, delta):
    values = [plug_in_canonical(n, d, tasks, 1, delta).log_formula for n in np.unique(np.geomspace(2 * d + 10, 3000, 40).astype(int))]
    assert (np.diff(values) < 0).all()


def test_a_target_below_the_true_signatures_error_has_no_answer():
    plan = samples_per_cluster(16, 4, 1, 1.0, 1e-3)
    assert plan.answer is None and plan.neighbour is None
    assert plan.value == canonical_bound("L5", 16, 4, 1, 1.0).value > 1e-3


def test_samples_start_at_the_least_that_gives_a_covariance():
    plan = samples_per_cluster(2, 2, 1, 1e60, 0.9)
    assert plan.answer == 3 and plan.neighbour is None


def test_the_pieces_of_the_score_have_the_laws_that_the_proof_says():
    rng = np.random.default_rng(3)
    n, d, draws = 9, 4, 20_000
    x = rng.standard_normal((draws, n, d))
    y = rng.standard_normal((draws, d)) - x.mean(axis=1)
    z = x - x.mean(axis=1, keepdims=True)
    S = np.swapaxes(z, 1, 2) @ z / (n - 1)
    solved = np.linalg.solve(S, y[:, :, None])[:, :, 0]
    C = (n - 1) * (y**2).sum(axis=1) / (y * solved).sum(axis=1)
    R = np.linalg.slogdet(S)[1] + d * math.log(n - 1) - np.log(C)
    product = np.log(rng.chisquare(np.arange(n - 1, n - d, -1), size=(draws, d - 1))).sum(axis=1)
    assert stats.kstest(C, stats.chi2(n - d).cdf).pvalue > 1e-3
    assert stats.kstest((y**2).sum(axis=1) / (1 + 1 / n), stats.chi2(d).cdf).pvalue > 1e-3
    assert stats.ks_2samp(R, product).pvalue > 1e-3
    ranks = [stats.rankdata(v) for v in (C, R, (y**2).sum(axis=1))]
    assert all(abs(np.corrcoef(a, b)[0, 1]) < 0.03 for a, b in itertools.combinations(ranks, 2))


@pytest.mark.parametrize("k", [1, 2, 7, 100, 10**4])
def test_intervals_hold_at_least_the_probability_of_chi_square(k):
    edges, mass = module._intervals(k, 30.0)
    x = np.exp(edges)
    assert (np.diff(edges) > 0).all()
    assert stats.chi2.cdf(x[0], k) <= math.exp(-30) and stats.chi2.sf(x[-1], k) <= math.exp(-30)
    exact = np.where(x[1:] < k, np.diff(stats.chi2.cdf(x, k)), -np.diff(stats.chi2.sf(x, k)))
    assert (np.exp(mass) >= exact * (1 - 1e-9)).all()
    assert np.exp(mass).sum() <= 1.2 * (1 + 1 / k)


def test_greatest_average_spends_the_mass_on_the_greatest_values():
    values, mass = np.log([[0.5, 0.1, 0.9]]), np.log([0.4, 0.8, 0.3])
    assert np.exp(module._log_average(values, mass))[0] == pytest.approx(0.3 * 0.9 + 0.4 * 0.5 + 0.3 * 0.1)
    assert np.exp(module._log_average(values, np.log([0.1, 0.1, 0.1])))[0] == pytest.approx(0.15)


@given(st.floats(0.5, 1e4), st.floats(1e-3, 0.999))
def test_gamma_bounds_hold(a, part):
    u, column = np.array([part * a]), np.array([[a]])
    rise = gammaln(a + u) - gammaln(a) - u * math.log(a)
    fall = gammaln(a - u) - gammaln(a) + u * math.log(a)
    slack = 1e-11 * (1 + abs(gammaln(a)))
    assert module._log_gamma_rise(u, column)[0, 0] >= rise[0] - slack
    assert module._log_gamma_fall(u, column)[0, 0] >= fall[0] - slack
    assert module._log_gamma_rise(u, column)[0, 0] <= rise[0] + 0.2 / a + slack


@pytest.mark.parametrize(("n", "d"), [(4, 3), (12, 8), (200, 40)])
def test_tails_of_the_remainder_hold(n, d):
    rng = np.random.default_rng(4)
    degrees = np.arange(n - 1, n - d, -1)
    R = np.log(rng.chisquare(degrees, size=(200_000, d - 1)) / degrees).sum(axis=1)
    tails = module._Remainder.of(n, d, 20.0)
    for level in (1.0, 3.0, 6.0):
        for share in ((R > tails.above(level)).mean(), (R < tails.below(level)).mean()):
            assert share <= math.exp(-level)
        assert (R > tails.above(level)).mean() > math.exp(-level) / 60


@pytest.mark.parametrize("ratios", [(1.0, 1.0), (1.4, 0.9), (0.9, 1.1)])
def test_both_bounds_of_a_cell_hold(ratios):
    rng = np.random.default_rng(5)
    n, d, rho, draws = 30, 5, 4.0, 400_000
    own, wrong = ratios
    shift = math.log(wrong / own)
    z = rng.standard_normal((draws, d))
    first, second = z - rng.standard_normal((draws, d)) / math.sqrt(n), z - rng.standard_normal((draws, d)) / math.sqrt(n)
    second[:, 0] += rho
    degrees = np.arange(n - 1, n - d, -1)
    R = np.log(rng.chisquare(degrees, size=(2, draws, d - 1))).sum(axis=2)
    errors = wrong * (second**2).sum(axis=1) + R[1] <= own * (first**2).sum(axis=1) + shift + R[0]
    cells = module._Cells(np.array([[own]]), np.array([[wrong]]), np.array([[shift]]))
    low = stats.beta.ppf(1e-6, errors.sum(), draws - errors.sum() + 1)
    chernoff = math.exp(module._log_chernoff(cells, n, d, rho**2)[0, 0])
    tails = module._Remainder.of(n, d, 20.0)
    half_spaces = [
        math.exp(module._log_half_space(cells, n, d, 0.0, rho**2, level, tails)[0, 0]) + 5 * math.exp(-level) for level in (3.0, 5.0, 8.0)
    ]
    assert low <= chernoff <= 12 * errors.mean()
    assert low <= min(half_spaces)


# --- Plans as values.


def test_a_plan_that_misses_its_target_cannot_be_built():
    good, bad = Bound("L5", Assumption.A4, math.log(0.01)), Bound("L5", Assumption.A4, math.log(0.2))
    Plan("q", 3, good, 0.1, 2, bad)
    for arguments in ((3, bad, 0.1), (None, good, 0.1), (3, good, 0.1, 2, good), (3, good, 0.1, 2, None)):
        with pytest.raises(ValueError, match="q: "):
            Plan("q", *arguments)


def test_plans_are_json_and_say_what_they_rest_on():
    plans = [
        separation_for(10, 3, 384, 0.01),
        tasks_for(100.0, 384, 3, 0.01),
        tasks_for(0.001, 384, 3, 0.01),
        samples_per_cluster(4, 2, 1, 16.0, 0.1),
        batch_for(10, 3, 384, 0.05, 0.01),
        batch_for_signatures(np.full((2, 2), -np.inf), 0.1).overall,
    ]
    for plan in plans:
        fields = plan.to_dict()
        assert json.loads(json.dumps(fields, allow_nan=False)) == fields
        assert fields["assumptions"].startswith(plan.level.statement) and fields["source"] and fields["feasible"] == plan.feasible
    assert "samples of each component" in plans[3].assumptions and "summed" in plans[4].assumptions


def test_a_frame_sweeps_every_combination():
    frame = plan_frame(separation_for, tasks=[2, 5, 10], components=3, d=[16, 384], eps=0.01, rung=["L1", "L5"])
    assert len(frame) == 12
    row = frame[(frame["tasks"] == 5) & (frame["d"] == 384) & (frame["rung"] == "L5")].iloc[0]
    assert row["answer"] == separation_for(5, 3, 384, 0.01, "L5").answer
    counts = plan_frame(tasks_for, delta=np.array([0.01, 100.0]), d=384, components=3, eps=0.01, rung="L1")
    assert math.isnan(counts["answer"][0]) and counts["answer"][1] == math.inf
    with pytest.raises(InputError, match="tasks"):
        plan_frame(separation_for, tasks=[], components=3, d=16, eps=0.01)


_GOOD = {
    separation_for: {"tasks": 3, "components": 2, "d": 4, "eps": 0.1, "rung": "L5"},
    tasks_for: {"delta": 1.0, "d": 4, "components": 2, "eps": 0.1, "rung": "L5"},
    batch_for: {"tasks": 3, "components": 2, "d": 4, "delta": 1.0, "eps": 0.1},
    samples_per_cluster: {"d": 4, "tasks": 3, "components": 2, "delta": 1.0, "eps": 0.1},
    canonical_bound: {"rung": "L1", "d": 4, "tasks": 3, "components": 2, "delta": 1.0},
    plug_in_canonical: {"n": 9, "d": 4, "tasks": 3, "components": 2, "delta": 1.0},
}
_BAD = {
    "eps": (0.0, 1.0, -0.1, 1.5, math.nan, math.inf, "0.1", None),
    "tasks": (1, 0, -3, 2.0, math.nan, True, None),
    "components": (0, -1, 1.5, math.nan),
    "d": (0, -2, 1.0, math.nan, 10**9),
    "delta": (0.0, -1.0, math.nan, math.inf, 1e300, "1"),
    "rung": ("L2", "", "l5", None, 5),
    "n": (4, 0, 9.0, math.nan, 10**13),
}


@pytest.mark.parametrize("planner", _GOOD, ids=lambda f: f.__name__)
def test_bad_input_is_named(planner):
    planner(**_GOOD[planner])
    for name in _GOOD[planner]:
        for value in _BAD[name]:
            with pytest.raises(InputError) as caught:
                planner(**{**_GOOD[planner], name: value})
            assert caught.value.argument == name, (name, value)


@pytest.mark.parametrize(
    ("table", "eps", "name"),
    [
        (np.zeros((2, 3)), 0.1, "log_bases"),
        (np.zeros((1, 1)), 0.1, "log_bases"),
        (np.zeros(4), 0.1, "log_bases"),
        (np.array([[0.0, np.nan], [-1.0, 0.0]]), 0.1, "log_bases"),
        (np.full((2, 2), -1.0), 1.0, "eps"),
    ],
)
def test_bad_bases_are_named(table, eps, name):
    with pytest.raises(InputError) as caught:
        batch_for_signatures(table, eps)
    assert caught.value.argument == name
