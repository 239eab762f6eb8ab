"""Statistics of all pairs from factors: those of the dense definition, whatever the memory, and within it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from theory import Gaussians, InputError, LowRankGaussians, QueryLaw, Rule, Signatures, margins, separation, well_specified
from theory.all_pairs import MEMORY, log_bhattacharyya, pair_blocks, tied, write_pairs

SEEDS = st.integers(0, 2**32 - 1)


def factored(rng: np.random.Generator, K: int, d: int, r: int, stretch: float = 1.0) -> LowRankGaussians:
    units = np.geomspace(1, 1e4, d)
    factors = stretch * rng.normal(size=(K, d, r)) * units[:, None]
    return LowRankGaussians(3 + rng.normal(size=(K, d)) * units, factors, rng.uniform(0.5, 2, size=(K, d)) * units**2)


def whole(signatures, queries=None, memory=MEMORY):
    """All blocks put together."""
    shape = (len(signatures if queries is None else queries), len(signatures))
    out = {name: np.full(shape, np.nan) for name in ("mean", "delta", "variance", "excess", "pulled", "mean_error", "variance_error")}
    for block in pair_blocks(signatures, queries, memory=memory):
        for name, value in out.items():
            value[block.rows, block.columns] = getattr(block, name)
    return out


@given(SEEDS, st.integers(1, 12), st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.01, 1.0, 30.0]))
def test_they_are_those_of_the_dense_definition(seed, d, r, q, stretch):
    rng = np.random.default_rng(seed)
    sig, law = factored(rng, 4, d, r, stretch), factored(rng, 3, d, q, stretch)
    dense = Signatures(sig.means, sig.covariances, np.array([0, 0, 1, 1]))
    want = separation(dense, QueryLaw(law.means[:, None], law.covariances, np.zeros(3, int), np.zeros(3, int), np.ones(3)))
    found = whole(sig, law)
    assert found["delta"] + 1 == pytest.approx(want.delta + 1, rel=1e-6)
    assert found["variance"] == pytest.approx(want.variance, rel=1e-6)
    # What the allowances say holds, but for what the dense route itself loses.
    assert (np.abs(found["mean"] - d * (want.delta + 1)) <= found["mean_error"] + 1e-9 * found["mean"]).all()


@given(SEEDS, st.integers(1, 10), st.integers(0, 4), st.sampled_from([0.1, 1.0, 1e3]))
@hypothesis_settings(max_examples=40)
def test_the_margin_of_a_well_specified_query_has_the_variance_and_the_weights_told(seed, d, r, stretch):
    rng = np.random.default_rng(seed)
    low = factored(rng, 3, d, r, stretch)
    rule = Rule(Signatures(low.means, low.covariances, np.arange(3)))
    pairs, found = margins(rule, well_specified(rule.signatures)), whole(low)
    at = pairs.component, pairs.wrong
    # The reference is the component itself, unless another expects a lower score; then the margin is another one.
    own = pairs.reference[pairs.component] == pairs.component
    at = tuple(index[own] for index in at)
    variance = 2 * found["excess"][at] + 4 * found["pulled"][at]
    error = found["variance_error"][at] + 1e-6 * found["variance"][at]
    assert (np.abs(pairs.margin.variance()[own] - variance) <= error).all()
    weight = np.minimum(1, np.sqrt(found["excess"][at] + found["variance_error"][at]))
    assert (pairs.margin.least_weight()[own] <= weight + 1e-6).all()


@given(SEEDS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 100_000))
@hypothesis_settings(max_examples=40)
def test_whatever_the_memory_they_are_the_same(seed, r, q, more):
    rng = np.random.default_rng(seed)
    sig, law = factored(rng, 9, 5, r), factored(rng, 7, 5, q)
    with pytest.raises(InputError, match="needs at least") as refused:
        pair_blocks(sig, law, memory=10)
    small, large = whole(sig, law, int(str(refused.value).split()[-1]) + more), whole(sig, law)
    for name in ("mean", "variance"):
        np.testing.assert_allclose(small[name], large[name], rtol=1e-9)
    assert not np.isnan(small["mean"]).any()


@pytest.mark.parametrize("memory", [2**21, 8 * 2**20])
@pytest.mark.parametrize("rank", [0, 3])
def test_peak_memory_is_within_what_was_given(memory, rank):
    low = factored(np.random.default_rng(0), 300, 48, rank)
    tracemalloc.start()
    try:
        for block in pair_blocks(low, memory=memory):
            assert block.mean.size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # And not for want of work: most of what was given is used.
    assert memory / 3 < peak <= memory


def test_pairs_that_would_lose_all_digits_are_computed_by_themselves():
    rng = np.random.default_rng(4)
    d = 6
    # A million times as long along the factors as across: squares of that are subtracted.
    low = LowRankGaussians(rng.normal(size=(4, d)), 1e6 * rng.normal(size=(4, d, 2)), rng.uniform(0.5, 2, size=(4, d)))
    found = whole(low)
    # Under its own law every component's distance is chi-square with d degrees of freedom.
    np.testing.assert_allclose(np.diagonal(found["mean"]), d, rtol=1e-6)
    np.testing.assert_allclose(np.diagonal(found["variance"]), 2 * d, rtol=1e-6)


def test_one_covariance_for_all_is_whitened_away():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(5, 5))
    covariance, means = root @ root.T + np.eye(5), rng.normal(size=(6, 5))
    want = separation(Signatures(means, np.stack([covariance] * 6), np.arange(6)))
    found = whole(tied(means, covariance))
    np.testing.assert_allclose(found["delta"], want.delta, atol=1e-9)
    np.testing.assert_allclose(found["variance"], want.variance, rtol=1e-9)
    with pytest.raises(InputError, match="not positive definite"):
        tied(means, -covariance)


def test_written_pairs_are_those_of_the_blocks_and_nothing_is_left_half_written(tmp_path):
    rng = np.random.default_rng(2)
    low = factored(rng, 11, 4, 2)
    done = []
    path = tmp_path / "pairs.npy"
    write_pairs(path, low, memory=40_000, advance=done.append)
    found, want = np.load(path, mmap_mode="r"), whole(low)
    assert sum(done) == 121 and len(done) > 1
    np.testing.assert_allclose(found[0], want["delta"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], want["variance"], rtol=1e-9)

    def stop(pairs):
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_pairs(path, low, memory=40_000, advance=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.npy"] and path.read_bytes() == before


@given(SEEDS, st.integers(1, 10), st.integers(0, 4), st.sampled_from([0.1, 1.0, 100.0]))
def test_the_bhattacharyya_coefficient_is_that_of_dense_matrices_and_no_smaller(seed, d, r, stretch):
    rng = np.random.default_rng(seed)
    low = factored(rng, 4, d, r, stretch)
    c, s = np.divmod(np.arange(16), 4)
    found = log_bhattacharyya(low, c, s, memory=20_000)
    covariances = low.covariances / np.outer(np.geomspace(1, 1e4, d), np.geomspace(1, 1e4, d))
    dense = Gaussians(low.means / np.geomspace(1, 1e4, d), covariances)
    middle = Gaussians((dense.means[c] + dense.means[s]) / 2, (dense.covariances[c] + dense.covariances[s]) / 2)
    D = np.einsum("pij,pj->pi", middle.whiteners, dense.means[c] - dense.means[s])
    want = -np.einsum("pi,pi->p", D, D) / 8 - middle.log_dets / 2 + (dense.log_dets[c] + dense.log_dets[s]) / 4
    np.testing.assert_allclose(found, want, atol=1e-7, rtol=1e-7)
    # Never below 0 for a component with itself, but for rounding that was added.
    assert (found[c == s] >= 0).all()


def test_bad_input_is_refused():
    low = factored(np.random.default_rng(0), 3, 4, 1)
    with pytest.raises(InputError, match="queries: have dimension 5"):
        pair_blocks(low, factored(np.random.default_rng(0), 3, 5, 1))
    with pytest.raises(InputError, match="for one pair"):
        log_bhattacharyya(low, np.array([0]), np.array([1]), memory=10)
    with pytest.raises(InputError, match="covariance: has shape"):
        tied(low.means, np.eye(3))
