"""The theorems: every rung is at least the true error of every law in its assumption level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from scipy import stats
from strategies import cross_law, settings_of_retrieval, signatures

from theory import RUNGS, Gaussians, HeldOut, InputError, QueryLaw, Rule, Signatures, ladder, separation, well_specified
from theory.testing import Setting

_UPPER = ("L1", "L1b", "L2", "L3", "L5", "L7")
_DRAWS = 20_000


def _errors(rule, law, rng):
    x, label = law.sample(_DRAWS, rng)
    return (rule.retrieve(x) != law.task[label]), label


@given(settings_of_retrieval())
def test_every_rung_is_at_least_the_simulated_error(setting):
    rule, law, rng = setting
    law = well_specified(rule.signatures) if law is None else law
    found = ladder(rule, law, simulations=0)
    wrong, label = _errors(rule, law, rng)
    units = [(found.overall, np.ones(_DRAWS, dtype=bool))]
    units += [(r, law.task[label] == k) for k, r in found.tasks.items()]
    units += [(r, law.cluster[label] == t) for (_, t), r in found.clusters.items()]
    for rungs, rows in units:
        n, k = int(rows.sum()), int(wrong[rows].sum())
        low = stats.beta.ppf(1e-7, k, n - k + 1) if k else 0.0
        for name in _UPPER:
            assert rungs[name].value >= low, name
        if rungs["L5"].log_lower is not None:
            high = stats.beta.ppf(1 - 1e-7, k + 1, n - k) if k < n else 1.0
            assert np.exp(rungs["L5"].log_lower) <= high


@given(settings_of_retrieval())
def test_pairs_are_ordered_where_it_is_proved(setting):
    rule, law, _ = setting
    pairs = ladder(rule, law, simulations=0).pairs
    assert (pairs.log_exact <= pairs.log_chernoff + 1e-12).all()
    assert (pairs.log_chernoff <= pairs.log_bernstein + 1e-12).all()
    assert (pairs.log_exact <= pairs.log_cantelli + 1e-12).all()


@given(settings_of_retrieval())
def test_overall_is_the_weighted_mean_of_tasks_for_unclipped_rungs(setting):
    rule, law, _ = setting
    law = well_specified(rule.signatures) if law is None else law
    found = ladder(rule, law, simulations=0)
    share = np.bincount(law.task, law.weights)
    for name in _UPPER:
        if not any(r[name].vacuous for r in found.tasks.values()):
            mean = sum(share[k] * r[name].value for k, r in found.tasks.items())
            assert found.overall[name].value == pytest.approx(mean, rel=1e-9)


@given(settings_of_retrieval())
@hypothesis_settings(max_examples=25)
def test_invariant_under_permutation_of_tasks(setting):
    rule, law, rng = setting
    sig = rule.signatures
    law = well_specified(sig) if law is None else law
    order = rng.permutation(sig.tasks)
    rank = np.argsort(order)
    moved = Signatures(sig.means, sig.covariances, rank[sig.task])
    background = rule.background and Gaussians(rule.background.means[order], rule.background.covariances[order])
    means, covariances = law.means, law.covariances
    if not law.shared:
        means = law.means[:, order]
        blocks = np.concatenate([np.arange(k * sig.dimension, (k + 1) * sig.dimension) for k in order])
        covariances = law.covariances[:, blocks][:, :, blocks]
    law2 = QueryLaw(means, covariances, rank[law.task], law.cluster, law.weights)
    a, b = ladder(rule, law, simulations=0), ladder(Rule(moved, background), law2, simulations=0)
    for k in range(sig.tasks):
        for name in _UPPER:
            assert b.tasks[rank[k]][name].log_value == pytest.approx(a.tasks[k][name].log_value, rel=1e-6, abs=1e-7)


def _affine(rng, d):
    return rng.normal(size=(d, d)) / np.sqrt(d) + 1.5 * np.eye(d), rng.normal(size=d) * 3


@given(settings_of_retrieval())
@hypothesis_settings(max_examples=25)
def test_invariant_under_one_affine_map_of_all_spaces_and_under_any_with_a_background(setting):
    rule, law, rng = setting
    sig = rule.signatures
    law = well_specified(sig) if law is None else law
    d, S = sig.dimension, law.means.shape[1]
    common = _affine(rng, d)
    maps = [_affine(rng, d) if rule.background is not None else common for _ in range(sig.tasks)]
    means = np.stack([maps[k][0] @ mu + maps[k][1] for k, mu in zip(sig.task, sig.means, strict=True)])
    covariances = np.stack([maps[k][0] @ c @ maps[k][0].T for k, c in zip(sig.task, sig.covariances, strict=True)])
    background = rule.background and Gaussians(
        np.stack([maps[k][0] @ rule.background.means[k] + maps[k][1] for k in range(sig.tasks)]),
        np.stack([maps[k][0] @ rule.background.covariances[k] @ maps[k][0].T for k in range(sig.tasks)]),
    )
    block = np.zeros((S * d, S * d))
    for k in range(S):
        block[k * d : (k + 1) * d, k * d : (k + 1) * d] = maps[k][0]
    law2 = QueryLaw(
        np.stack([[maps[k][0] @ nu[k] + maps[k][1] for k in range(S)] for nu in law.means]),
        block @ law.covariances @ block.T,
        law.task,
        law.cluster,
        law.weights,
    )
    a = ladder(rule, law, simulations=0)
    b = ladder(Rule(Signatures(means, covariances, sig.task), background), law2, simulations=0)
    for name in _UPPER:
        assert b.overall[name].log_value == pytest.approx(a.overall[name].log_value, rel=1e-5, abs=1e-6)


def test_one_pair_with_l_one_half_is_the_bhattacharyya_coefficient():
    rng = np.random.default_rng(0)
    sig = signatures(rng, 4, [0, 1], 1.0)
    from theory import margins

    law = margins(Rule(sig), well_specified(sig)).margin
    found = law.log_laplace(np.full((2, 1), 0.25))[:, 0]  # exp(-l M) with M twice the log-likelihood ratio: l = 1/4 is 1/2 of it
    S = sig.covariances.mean(axis=0)
    D = sig.means[0] - sig.means[1]
    dets = [np.linalg.slogdet(c)[1] for c in (S, *sig.covariances)]
    coefficient = -D @ np.linalg.solve(S, D) / 8 - (dets[0] - (dets[1] + dets[2]) / 2) / 2
    # E_t exp(-M/4) is the coefficient once the log-determinants inside M are put to one side.
    assert found == pytest.approx([coefficient] * 2, rel=1e-9)


def test_l5_lower_side_only_with_one_true_component():
    rng = np.random.default_rng(0)
    one = ladder(signatures(rng, 3, [0, 1, 2], 1.0), simulations=0)
    assert all(r["L5"].log_lower is not None for r in one.tasks.values())
    several = ladder(signatures(rng, 3, [0, 0, 1], 1.0), simulations=0)
    assert several.tasks[0]["L5"].log_lower is None and "rescue" in several.tasks[0]["L5"].note
    assert several.tasks[1]["L5"].log_lower is not None


def test_l1_is_the_separation_formula_in_the_well_specified_case():
    rng = np.random.default_rng(5)
    sig = signatures(rng, 5, [0, 1, 2], 4.0)
    law = well_specified(sig)
    stats_ = separation(sig, law)
    d = 5
    for t in range(3):
        others = [s for s in range(3) if s != t]
        gap = np.array([d * stats_.delta[t, s] + stats_.kappa[t, s] for s in others])
        a = 2 * np.sqrt(d) + np.sqrt(2 * stats_.variance[t, others])
        exponents = ((np.sqrt(a**2 + 8 * np.maximum(gap, 0)) - a) / 4) ** 2
        assert ladder(sig, simulations=0).clusters[t, t]["L1"].log_formula == pytest.approx(np.log(3) - exponents.min(), abs=1e-9)


def test_identical_components_leave_every_rung_vacuous_but_the_certificate():
    sig = Signatures(np.zeros((2, 3)), np.stack([np.eye(3)] * 2), np.array([0, 1]))
    found = ladder(sig, simulations=2000, held_out=HeldOut(np.array([5, 5]), np.array([100, 100])))
    for name in ("L1", "L1b", "L2", "L3", "L5", "L7"):
        assert found.overall[name].vacuous, name
    assert not found.overall["L8"].vacuous


def test_far_apart_nothing_underflows():
    sig = Signatures(np.array([[0.0], [1e5]]), np.ones((2, 1, 1)), np.array([0, 1]))
    found = ladder(sig, simulations=0)
    for name in ("L1", "L1b", "L2", "L3", "L5"):
        bound = found.overall[name]
        assert 0 < bound.value < 1e-300 and np.isfinite(bound.log_value)
    assert found.overall["L5"].log_value == pytest.approx(stats.norm.logcdf(-5e4), rel=1e-9)


def test_weights_enter_the_energy():
    rng = np.random.default_rng(2)
    sig = signatures(rng, 2, [0, 0, 1], 1.0)
    skewed = dataclasses.replace(sig, weights=np.array([0.99, 0.01, 1.0]))
    assert skewed.constants[1] - sig.constants[1] == pytest.approx(-2 * np.log(0.01))


def test_frame_has_a_row_for_every_unit_and_rung():
    rng = np.random.default_rng(2)
    found = ladder(signatures(rng, 2, [0, 0, 1], 1.0), simulations=1000)
    frame = found.frame()
    assert len(frame) == len(RUNGS) * (1 + 2 + 3)
    assert set(frame["rung"]) == set(RUNGS)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"means": np.zeros((3, 2, 1))}, "means"),
        ({"means": np.full((3, 2), np.nan)}, "means"),
        ({"covariances": np.stack([np.eye(3)] * 3)}, "covariances"),
        ({"covariances": np.stack([np.eye(2)] * 2 + [np.array([[1.0, 0.5], [0.0, 1.0]])])}, r"covariances\[2\]"),
        ({"covariances": np.stack([np.eye(2)] * 2 + [np.diag([1.0, -1.0])])}, r"covariances\[2\].*positive definite"),
        ({"covariances": np.stack([np.eye(2)] * 2 + [np.diag([1.0, 0.0])])}, r"covariances\[2\]"),
        ({"task": np.array([0, 0, 0])}, "one task only"),
        ({"task": np.array([0, 2, 2])}, "gaps"),
        ({"task": np.array([0.0, 1.0, 1.0])}, "task"),
        ({"weights": np.array([1.0, 0.0, 1.0])}, "weights"),
        ({"counts": np.array([1, 0, 1])}, "counts"),
        ({"names": ("a", "a")}, "duplicate task name"),
    ],
)
def test_bad_signatures_are_named(change, what):
    good = {"means": np.zeros((3, 2)), "covariances": np.stack([np.eye(2)] * 3), "task": np.array([0, 1, 1])}
    with pytest.raises(InputError, match=what):
        Signatures(**{**good, **change})


def test_the_law_given_a_task_or_a_cluster_has_its_bounds():
    rule, law = Setting(5, 3, (2, 1, 3), 2.0, spaces="cross", weighted=True).build()
    whole = ladder(rule, law, simulations=0)
    for known, rungs in [*(({"task": k}, whole.tasks[k]) for k in range(3)), ({"task": 2, "cluster": 4}, whole.clusters[2, 4])]:
        part = law.given(**known)
        assert part.weights.sum() == pytest.approx(1.0) and part.name == law.name
        for name, bound in ladder(rule, part, simulations=0, units="overall").overall.items():
            assert bound.log_formula == pytest.approx(rungs[name].log_formula, abs=1e-9), name
    with pytest.raises(InputError, match="no component of task 0, cluster 4"):
        law.given(0, 4)


def test_law_and_signature_must_fit():
    rng = np.random.default_rng(0)
    sig, other = signatures(rng, 2, [0, 1], 1.0), signatures(rng, 3, [0, 1], 1.0)
    with pytest.raises(InputError, match="dimension"):
        ladder(sig, well_specified(other))
    with pytest.raises(InputError, match="spaces"):
        ladder(signatures(rng, 2, [0, 1, 2], 1.0), cross_law(rng, sig))
    with pytest.raises(InputError, match="confidence"):
        ladder(sig, confidence=1.0)


def test_equal_components_tie_and_leave_no_lower_side():
    twins = Signatures(np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]]), np.repeat(np.eye(2)[None], 3, axis=0), np.array([0, 1, 2]))
    found = ladder(twins, simulations=20_000)
    # Ties go to the lower number: task 0 is right against task 1 and task 1 never, and the lower sides speak of task 2 alone.
    assert found.overall["L5"].log_lower <= found.overall["L6"].log_value
    for rungs in found.tasks.values():
        assert rungs["L5"].log_lower < np.log(1e-5)
    assert found.tasks[0]["L5"].vacuous and found.tasks[0]["L6"].value < 1e-2
