"""The screened union lies between the exact one and the cheap one, wherever it is stopped."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from theory import InputError, LowRankGaussians, LowRankSignatures, Rule, Signatures, margins, well_specified
from theory.all_pairs import pair_blocks
from theory.exact import tail_probability
from theory.screening import log_closed_form, screened, summarise
from theory.tails import log_chernoff, log_lower_bernstein

SEEDS = st.integers(0, 2**32 - 1)


def rule(
    rng: np.random.Generator, K: int, d: int, r: int, apart: float, per_task: int = 1, kind: str = "max", weighted: bool = False
) -> Rule:
    low = LowRankGaussians(apart * rng.normal(size=(K, d)), rng.normal(size=(K, d, r)), rng.uniform(0.5, 2, size=(K, d)))
    weights = rng.uniform(0.2, 1, size=K) if weighted else None
    return Rule(LowRankSignatures(low, np.arange(K) // per_task, weights), kind=kind)


def exact_pairs(of: Rule) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """L1b, Chernoff and exact logarithms of all pairs, the component itself as reference, by dense matrices; and the weights."""
    law = well_specified(of.signatures.to_dense())
    found = margins(Rule(of.signatures.to_dense(), kind=of.kind), law)
    assume((found.reference == np.arange(len(law))).all())
    tables = np.full((3, len(law), len(law)), -np.inf)
    at = found.component, found.wrong
    tables[0][at], tables[1][at], tables[2][at] = (
        log_lower_bernstein(found.margin),
        log_chernoff(found.margin),
        tail_probability(found.margin).log_high,
    )
    return *tables, law.weights


def union(log_p: np.ndarray, weights: np.ndarray) -> float:
    return float(logsumexp(np.minimum(logsumexp(log_p, axis=1), 0), b=weights))


CASES = (
    SEEDS,
    st.integers(1, 6),
    st.integers(0, 3),
    st.sampled_from([0.3, 1.5, 4.0]),
    st.integers(1, 3),
    st.sampled_from(["max", "mixture"]),
)


@given(*CASES, st.booleans(), st.integers(0, 80), st.sampled_from([0.5, 0.01, 1e-6]), st.sampled_from([1e-30, 1e-3, 1.0]))
@hypothesis_settings(max_examples=20)
def test_it_lies_between_the_exact_sum_and_the_cheap_one(seed, d, r, apart, per_task, kind, weighted, refine, tolerance, negligible):
    of = rule(np.random.default_rng(seed), 6, d, r, apart, per_task, kind, weighted)
    *_, exact, weights = exact_pairs(of)
    found = screened(of, tolerance=tolerance, refine=refine, negligible=negligible)
    want = union(exact, weights)
    assert want - 1e-9 <= found.bound.log_formula <= found.log_closed + 1e-9
    assert found.log_exact <= want + 1e-9
    assert found.exact + found.chernoff <= refine
    left = np.exp(found.bound.log_value) - np.exp(found.log_exact)
    if found.settled:
        assert left <= max(tolerance * found.bound.value, negligible) * (1 + 1e-6)
    of_tasks = [
        logsumexp(
            np.minimum(logsumexp(exact[of.signatures.task == k], axis=1), 0), b=weights[of.signatures.task == k] * of.signatures.tasks
        )
        for k in range(of.signatures.tasks)
    ]
    assert (found.log_tasks >= np.array(of_tasks) - 1e-9).all()


@given(*CASES, st.sampled_from([1e-30, 1e-6]))
@hypothesis_settings(max_examples=8)
def test_with_all_pairs_refined_it_is_settled_and_the_exact_sum_to_the_tolerance(seed, d, r, apart, per_task, kind, negligible):
    of = rule(np.random.default_rng(seed), 6, d, r, apart, per_task, kind)
    *_, exact, weights = exact_pairs(of)
    found = screened(of, tolerance=1e-3, refine=36, negligible=negligible)
    assert found.settled
    assert np.exp(found.bound.log_value) <= np.exp(union(exact, weights)) * (1 + 2e-3) + 2 * negligible


@given(*CASES)
@hypothesis_settings(max_examples=20)
def test_every_closed_form_bounds_the_exact_pair_and_is_no_better_than_l1b(seed, d, r, apart, per_task, kind):
    of = rule(np.random.default_rng(seed), 6, d, r, apart, per_task, kind)
    bernstein, chernoff, exact, _ = exact_pairs(of)
    task = of.signatures.task
    (block,) = pair_blocks(of.signatures.gaussians)
    closed = log_closed_form(block, of.offsets, of.offsets - of.slack[task])
    wrong = task[:, None] != task
    assert (closed[wrong] >= exact[wrong] - 1e-9).all()
    assert (closed[wrong] >= bernstein[wrong] - 1e-9 * (1 + np.abs(bernstein[wrong]))).all()
    summary = summarise(of, worst=100, negligible=1e-300)
    half = np.full_like(exact, -np.inf)
    half[summary.component, summary.wrong] = summary.log_pair
    kept = np.isfinite(half)
    # Chernoff's theta is searched; one half cannot beat its best by more than the search leaves.
    assert (half[kept] >= exact[kept] - 1e-9).all()
    better = np.minimum(chernoff, bernstein)
    assert (half[kept] >= better[kept] - 1e-6 * (1 + np.abs(better[kept]))).all()


@given(SEEDS, st.integers(1, 40), st.integers(0, 400_000), st.booleans())
@hypothesis_settings(max_examples=30)
def test_the_summary_is_the_same_whatever_the_memory_and_however_many_are_kept(seed, worst, more, between):
    of = rule(np.random.default_rng(seed), 9, 4, 2, 2.0, 2)
    few = summarise(of, worst=worst, between=between, memory=60_000 + more, negligible=1e-6)
    every = summarise(of, worst=1000, between=True, negligible=1e-6)
    np.testing.assert_allclose(few.log_union, every.log_union, atol=1e-9)
    np.testing.assert_allclose(few.least_delta, every.least_delta, rtol=1e-9)
    assert np.array_equal(few.nearest, every.nearest)
    np.testing.assert_allclose(few.log_pair, every.log_pair[:worst], atol=1e-9)
    total = few.log_rest.copy()
    np.logaddexp.at(total, few.component, few.log_pair)
    np.testing.assert_allclose(total, few.log_union, atol=1e-9)
    table = np.full((5, 5), -np.inf)
    np.maximum.at(table, (every.component // 2, every.wrong // 2), every.log_pair)
    np.testing.assert_allclose(every.between, table, atol=1e-9)
    assert (few.between is not None) == between


def test_progress_is_told_and_memory_is_kept_to():
    of = rule(np.random.default_rng(3), 150, 32, 2, 1.0)
    done, refined = [], []
    memory = 4 * 2**20
    tracemalloc.start()
    try:
        found = screened(of, refine=16, memory=memory, advance=done.append, refined=refined.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(done) == 150**2 and sum(refined) == found.exact + found.chernoff <= 16
    assert peak <= memory
    assert found.pairs == 150 * 149 and f"of {found.pairs} pairs" in found.bound.note
    assert not found.settled and "refine more" in found.bound.note


def test_what_cannot_be_screened_is_refused():
    of = rule(np.random.default_rng(0), 4, 3, 1, 1.0)
    with pytest.raises(InputError, match="dense covariances"):
        screened(Rule(Signatures(np.eye(3), np.stack([np.eye(3)] * 3), np.arange(3))))
    with pytest.raises(InputError, match="angular"):
        screened(Rule(of.signatures, kind="angular"))
    with pytest.raises(InputError, match="needs at least") as refused:
        summarise(of, memory=1)
    least = int(str(refused.value).split()[-1])
    assert summarise(of, memory=least).log_pair.size
    for name, value in {"tolerance": 0.0, "refine": -1, "negligible": 0.0, "memory": 100}.items():
        with pytest.raises(InputError, match=name):
            screened(of, **{name: value})
    with pytest.raises(InputError, match="worst"):
        summarise(of, worst=0)
