"""Two-stage retrieval: pruning bounds under a law against simulation, and certificates against repetitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import covariance, signatures

from theory import Gaussians, InputError, QueryLaw, Rule, ladder, well_specified
from theory.certificates import certificate
from theory.pruning import Pruning, least_score, parameter_needed, queries_needed
from theory.pruning_law import PruningLaw

KINDS = ("threshold", "best", "adaptive", "absolute")
TAILS = ("exact", "chernoff", "bernstein")
_DRAWS = 20_000


def _setting(seed: int, kind: str = "max") -> tuple[Rule, QueryLaw]:
    """Seven tasks of one or two components in four dimensions, and queries whose law is not the signature."""
    rng = np.random.default_rng(seed)
    sig = signatures(rng, 4, [0, 0, 1, 2, 2, 3, 4, 5, 6], 1.6)
    law = well_specified(sig)
    covariances = np.stack([covariance(rng, 4) for _ in range(len(law))])
    return Rule(sig, kind=kind), QueryLaw(law.means + 0.2, covariances, law.task, law.cluster, rng.random(len(law)) + 0.2)


def _plausible(rate: float, bound: float) -> bool:
    """Whether a simulated rate can belong to a probability of at most the bound."""
    return stats.binom.sf(round(rate * _DRAWS) - 1, _DRAWS, bound) > 1e-6


@pytest.mark.parametrize("kind", ["max", "mixture", "angular"])
@pytest.mark.parametrize("tail", TAILS)
def test_bounds_hold_against_simulation(kind, tail):
    rule, law = _setting(3, kind)
    found = PruningLaw.of(rule, law, tail)
    x, labels = law.sample(_DRAWS, np.random.default_rng(1))
    scores, true = rule.task_scores(rule.scores(x)), law.task[labels]
    own = scores[np.arange(_DRAWS), true]
    unit = np.median(np.abs(scores - own[:, None])) / 4
    ahead = (scores < own[:, None]).sum(axis=1)
    for task in (None, 2):
        rows = true == task if task is not None else np.ones(_DRAWS, dtype=bool)
        for tau in unit * np.array([0, 0.5, 1, 3]):
            lost = (own - scores.min(axis=1) > tau)[rows]
            assert _plausible(lost.mean() * rows.mean(), found.threshold(tau, task).value * rows.mean())
            kept = (scores - scores.min(axis=1, keepdims=True) <= tau)[rows].sum(axis=1)
            assert kept.mean() - 6 * kept.std() / np.sqrt(kept.size) <= found.candidates(tau, task)
        for c in range(1, 8):
            assert _plausible((ahead >= c)[rows].mean() * rows.mean(), found.best(c, task).value * rows.mean())
    # And they say something.
    assert found.threshold(unit * (3 if tail == "exact" else 20)).value < 0.7 and found.best(4).value < (0.5 if tail == "exact" else 0.8)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from(TAILS))
def test_bounds_fall_with_tau_and_c_and_candidates_grow(seed, tail):
    rule, law = _setting(seed)
    found = PruningLaw.of(rule, law, tail)
    taus = np.array([0, 0.1, 1, 5, 30, 200, 1e6])
    assert (np.diff([found.threshold(tau).log_formula for tau in taus]) <= 1e-9).all()
    kept = [found.candidates(tau) for tau in taus]
    assert (np.diff(kept) >= -1e-9).all() and kept[0] >= 1 and kept[-1] == 7
    bests = [found.best(c).log_value for c in range(1, 9)]
    assert (np.diff(bests) <= 1e-9).all() and bests[-1] < -1e300 and bests[-3] > -1e300


def test_cheaper_tails_are_looser_and_the_unshifted_one_is_the_rung():
    rule, law = _setting(5)
    exact, chernoff, bernstein = (PruningLaw.of(rule, law, tail) for tail in TAILS)
    for tau in (0.0, 2.0, 10.0):
        assert exact.threshold(tau).value <= chernoff.threshold(tau).value <= bernstein.threshold(tau).value
    assert bernstein.mean == pytest.approx(exact.mean) and bernstein.variance == pytest.approx(exact.variance)
    assert (bernstein.steepest >= exact.steepest - 1e-12).all()
    # Every task of one component: the union over tasks is that over components.
    sig = signatures(np.random.default_rng(0), 3, [0, 1, 2, 3], 1.5)
    rungs = ladder(sig, simulations=0, units="overall").overall
    for tail, rung in zip(TAILS[:2], ("L5", "L3"), strict=True):
        found = PruningLaw.of(Rule(sig), well_specified(sig), tail)
        assert found.threshold(0.0).log_formula == pytest.approx(rungs[rung].log_formula, abs=1e-9)
        assert found.best(1).value <= found.threshold(0.0).value * (1 + 1e-9)
    assert found.threshold(0.0).name == "L3" and found.threshold(0.0).level == "A4"


def test_markov_leaves_out_the_likeliest():
    # Two tasks on top of the true one and eight far off: that two are ahead is likely, that three are is not.
    means = np.concatenate([np.zeros((3, 2)), 30 * np.eye(2)[np.arange(8) % 2] * np.arange(1, 9)[:, None]])
    means[:3, 0] = [0, 0.1, 0.2]
    rule = Rule(signatures(np.random.default_rng(0), 2, list(range(11)), 0.0))
    sig = type(rule.signatures)(means, np.tile(np.eye(2), (11, 1, 1)), np.arange(11))
    found = PruningLaw.of(Rule(sig), well_specified(sig).given(0), "exact")
    assert found.best(2).value > 0.3 and found.best(3).value < 1e-20


def _scores(seed: int, n: int, m: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stage-1 scores, final scores that refine them, and true tasks; rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    task = rng.integers(m, size=n)
    stage_one = rng.normal(size=(n, m)) + 2
    stage_one[np.arange(n), task] -= 2.5
    full = 0.7 * stage_one + 0.5 * rng.normal(size=(n, m))
    full[np.arange(n), task] -= 0.8
    return np.round(stage_one, 1), np.round(full, 1), task


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
def test_the_needed_parameter_is_the_least_that_keeps_the_answer(seed, kind):
    stage_one, full, _ = _scores(seed, 30)
    needed = parameter_needed(kind, stage_one, full)
    answer = full.argmin(axis=1)
    least = {"threshold": 0.0, "best": 1.0, "adaptive": -50.0, "absolute": -50.0}[kind]
    for row in range(30):
        at = max(needed[row], least)
        for parameter, kept in ((at, True), (at + 1, True), (at - (1 if kind == "best" else 1e-9), False)):
            if parameter < least or (not kept and needed[row] <= least):
                continue
            rule = Pruning.given(kind, parameter)
            one, two = stage_one[[row]], full[[row]]
            visited = rule.visited(one, two)[0]
            assert visited.any() and visited[answer[row]] == kept == (not rule.lost(one, two)[0])
            # What is seen decides as the full search does.
            assert (np.where(visited, full[row], np.inf).argmin() == answer[row]) == kept


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
def test_candidates_are_nested_and_an_infinite_parameter_keeps_all(seed, kind):
    stage_one, full, _ = _scores(seed, 20)
    visited = [Pruning.given(kind, parameter).visited(stage_one, full) for parameter in (1, 1.5, 3, 7, np.inf)]
    assert all((small <= large).all() for small, large in pairwise(visited))
    assert visited[-1].all() and Pruning.given(kind, np.inf).loss.value < 1e-300


@given(st.integers(0, 10_000))
def test_what_all_scores_of_a_query_share_changes_no_adaptive_rule(seed):
    stage_one, full, _ = _scores(seed, 30)
    level = np.random.default_rng(seed).normal(size=(2, 30, 1)) * 100
    for kind in ("threshold", "best", "adaptive"):
        found = parameter_needed(kind, stage_one + level[0].round(), full + level[1].round())
        assert found == pytest.approx(parameter_needed(kind, stage_one, full), abs=1e-9)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_certified_loss_holds_in_a_thousand_repetitions(kind, labelled):
    # Queries are draws from these, whose loss under any parameter is known exactly.
    stage_one, full, task = _scores(0, 4000)
    alpha, confidence, n, repetitions = 0.05, 0.9, 150, 1000
    needed = parameter_needed(kind, stage_one, full, task if labelled else None)
    wrong = full.argmin(axis=1) != task
    rng, failures, losses = np.random.default_rng(1), 0, []
    for _ in range(repetitions):
        rows = rng.integers(4000, size=n)
        found = Pruning.calibrate(kind, stage_one[rows], full[rows], alpha, confidence, task[rows] if labelled else None)
        losses.append((needed > found.parameter).mean())
        assert found.loss.value <= alpha * (1 + 1e-9) and found.loss.confidence == confidence
        failures += losses[-1] > found.loss.value
    assert failures <= stats.binom.ppf(1 - 1e-6, repetitions, 1 - confidence)
    # Not by pruning nothing.
    assert np.mean(losses) > alpha / 10
    visited = found.visited(stage_one, full)
    cascade = np.where(visited, full, np.inf).argmin(axis=1) != task
    assert cascade.mean() <= wrong.mean() + losses[-1] + 1e-12
    assert (visited.sum(axis=1).mean() < 7) and np.array_equal(found.lost(stage_one, full), ~visited[np.arange(4000), full.argmin(axis=1)])


def test_the_marginal_loss_holds_on_average():
    stage_one, full, _ = _scores(2, 4000)
    needed = parameter_needed("adaptive", stage_one, full)
    rng, losses = np.random.default_rng(3), []
    for _ in range(1000):
        rows = rng.integers(4000, size=60)
        losses.append((needed > Pruning.calibrate("adaptive", stage_one[rows], full[rows], 0.1, None).parameter).mean())
    assert np.mean(losses) <= 0.1 + 6 * np.std(losses) / np.sqrt(1000)


def test_the_order_statistic_is_what_learn_then_test_finds():
    stage_one, full, _ = _scores(4, 400)
    alpha, confidence = 0.05, 0.95
    for kind in KINDS:
        needed = parameter_needed(kind, stage_one, full)
        accepted = np.inf
        # From the safest parameter to the cheapest, each tested by a binomial tail, until one is not certified.
        for parameter in np.unique(needed)[::-1]:
            if stats.binom.cdf((needed > parameter).sum(), 400, alpha) > 1 - confidence:
                break
            accepted = parameter
        least = {"threshold": 0.0, "best": 1.0, "adaptive": -np.inf, "absolute": -np.inf}[kind]
        assert Pruning.calibrate(kind, stage_one, full, alpha, confidence).parameter == max(accepted, least)


def test_a_parameter_chosen_elsewhere_is_certified_on_further_queries():
    first, second = _scores(5, 300), _scores(6, 1000)
    rule = Pruning.calibrate("threshold", *first[:2], 0.05, 0.95)
    found = certificate(int(rule.lost(*second[:2]).sum()), 1000, 0.95)
    assert found.estimate <= found.value and Pruning.given("threshold", rule.parameter).loss.vacuous


@given(st.integers(0, 10_000), st.sampled_from(["max", "mixture"]))
def test_where_stage_two_adds_an_energy_nothing_need_be_lost(seed, kind):
    rng = np.random.default_rng(seed)
    rule = Rule(signatures(rng, 3, [0, 0, 1, 2, 3, 4, 5], 1.5), kind=kind)
    stage_one = 5 * rng.normal(size=(40, 6))
    full = stage_one + rule.task_scores(rule.scores(rng.normal(size=(40, 1, 3)) * rng.choice([1, 10])))
    found = Pruning.lossless(least_score(rule))
    assert not found.lost(stage_one, full).any() and not found.loss.vacuous and found.loss.value < 1e-300
    assert found.visited(stage_one, full)[np.arange(40), full.argmin(axis=1)].all()


@pytest.mark.parametrize("kind", ["max", "mixture", "angular"])
@pytest.mark.parametrize("layout", ["shared", "own", "common and own"])
def test_the_score_of_one_task_is_its_column(kind, layout):
    rng = np.random.default_rng(0)
    sig = signatures(rng, 4, [0, 0, 1, 2, 2, 2], 1.5)
    background = Gaussians(rng.normal(size=(3, 4)), np.tile(np.eye(4), (3, 1, 1))) if layout != "shared" and kind != "angular" else None
    rule = Rule(sig, background, kind)
    x = rng.normal(size={"shared": (20, 1, 4), "own": (20, 3, 4), "common and own": (20, 4, 2)}[layout])
    wanted = rule.task_scores(rule.scores(x))
    for k, spaces in enumerate(rule.views(*x.shape[1:])):
        assert rule.task_score(k, x[:, spaces].reshape(20, 4)) == pytest.approx(wanted[:, k], rel=1e-12)
    with pytest.raises(InputError, match=r"queries: holds 1 NaN"):
        rule.task_score(0, np.array([[0, 0, 0, np.nan]]))


def test_bad_input_is_named():
    stage_one, full, task = _scores(7, 50)
    for alpha, confidence, needed in ((0.01, 0.95, 299), (0.05, 0.95, 59), (0.01, None, 99), (0.3, 0.5, 2)):
        assert queries_needed(alpha, confidence) == needed
        Pruning.calibrate("best", np.tile(stage_one, (6, 1))[:needed], np.tile(full, (6, 1))[:needed], alpha, confidence)
        with pytest.raises(InputError, match=rf"queries: are {needed - 1}; .*needs at least {needed} held-out"):
            Pruning.calibrate("best", np.tile(stage_one, (6, 1))[: needed - 1], np.tile(full, (6, 1))[: needed - 1], alpha, confidence)
    for alpha in (0.0, 1.0, -1, float("nan")):
        with pytest.raises(InputError, match=r"alpha: .* is not inside"):
            Pruning.calibrate("best", stage_one, full, alpha)
    with pytest.raises(InputError, match=r"confidence: 1 is not inside"):
        Pruning.calibrate("best", stage_one, full, 0.1, 1)
    with pytest.raises(InputError, match=r"kind: 'first' is unknown"):
        Pruning.given("first", 1)
    for kind, parameter in (("best", 0.5), ("threshold", -1), ("adaptive", float("nan"))):
        with pytest.raises(InputError, match=r"parameter: .* leaves no candidate"):
            Pruning.given(kind, parameter)
    with pytest.raises(InputError, match=r"full: has shape \(50, 7\)"):
        parameter_needed("best", stage_one, full[:, 1:])
    with pytest.raises(InputError, match=r"stage_one: has shape \(50, 0\)"):
        parameter_needed("best", stage_one[:, :0], full[:, :0])
    with pytest.raises(InputError, match=r"full: holds 1 NaN"):
        parameter_needed("best", stage_one, np.where(np.arange(400).reshape(50, 8) == 3, np.nan, full))
    with pytest.raises(InputError, match=r"task: needs one integer from 0 to 7"):
        parameter_needed("best", stage_one, full, task + 1)
    with pytest.raises(InputError, match=r"floor: -inf is no least score"):
        Pruning.lossless(-np.inf)
    rule, law = _setting(0)
    with pytest.raises(InputError, match=r"tau: -1 is no distance"):
        PruningLaw.of(rule, law).threshold(-1)
    with pytest.raises(InputError, match=r"c: 0 tasks are no candidates"):
        PruningLaw.of(rule, law).best(0)
    with pytest.raises(InputError, match=r"task: 9 has no component"):
        PruningLaw.of(rule, law).best(1, 9)
    with pytest.raises(InputError, match=r"tail: 'all' is unknown"):
        PruningLaw.of(rule, law, "all")
    wide = QueryLaw(np.zeros((1, 7, 4)), np.eye(28)[None], np.array([0]), np.array([0]), np.ones(1))
    with pytest.raises(InputError, match=r"query law: lives in 7 spaces"):
        PruningLaw.of(rule, wide)


@pytest.mark.parametrize("tail", ["exact", "bernstein"])
def test_a_law_of_other_tasks_is_refused_and_progress_is_told(tail):
    sig = signatures(np.random.default_rng(3), 2, [0, 1, 2], 2.0)
    law, done = well_specified(sig), []
    PruningLaw.of(Rule(sig), law, tail, advance=done.append)
    assert done == [1, 1, 1]
    for task in ([0, 1, 3], [-1, 1, 2]):
        other = QueryLaw(law.means, law.covariances, np.array(task), law.cluster, law.weights)
        with pytest.raises(InputError, match=r"query (law|task): "):
            PruningLaw.of(Rule(sig), other, tail)
    wide = QueryLaw(np.zeros((1, 1, 3)), np.eye(3)[None], np.zeros(1, int), np.zeros(1, int), np.ones(1))
    with pytest.raises(InputError, match="dimension"):
        PruningLaw.of(Rule(sig), wide, tail)
