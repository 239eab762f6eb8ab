"""Product Gaussians, and rules whose tasks see a common space beside their own."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import block_diag
from strategies import covariance

from theory import (
    Gaussians,
    InputError,
    LowRankGaussians,
    ProductGaussians,
    ProductSignatures,
    QueryLaw,
    Rule,
    Signatures,
    ladder,
    margins,
    tail_probability,
)
from theory.files import read_signatures
from theory.testing import Setting


def gaussians(rng: np.random.Generator, K: int, d: int) -> Gaussians:
    return Gaussians(rng.standard_normal((K, d)), np.stack([covariance(rng, d) for _ in range(K)]))


def test_a_product_scores_as_its_dense_covariances_do():
    rng = np.random.default_rng(0)
    K, d, r = 4, 3, 2
    low = LowRankGaussians(rng.standard_normal((K, d)), rng.standard_normal((K, d, r)), rng.uniform(0.5, 2, (K, d)))
    for common in (gaussians(rng, K, d), low):
        product = ProductGaussians(common, gaussians(rng, K, d))
        dense = Gaussians(product.means, product.covariances)
        x = 3 * rng.standard_normal((20, 2 * d))
        for chosen in (None, np.array([2, 0])):
            assert product.mahalanobis(x, chosen) == pytest.approx(dense.mahalanobis(x, chosen), rel=1e-10)
            assert product.energies(x, chosen) == pytest.approx(dense.energies(x, chosen), rel=1e-10)
        assert product.whiteners == pytest.approx(dense.whiteners, abs=1e-10)
        assert product.covariances[1] == pytest.approx(block_diag(common.covariances[1], product.own.covariances[1]))


def test_blocks_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"own: has means of shape \(3, 2\).*\(3, 4\)"):
        ProductGaussians(gaussians(rng, 3, 4), gaussians(rng, 3, 2))


def problem(seed: int, m: int = 3, d: int = 2) -> tuple[Rule, QueryLaw]:
    """Product signatures with a background, and a joint law over the common space and every task's."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(m), 2)
    K = task.size
    signatures = ProductSignatures(ProductGaussians(gaussians(rng, K, d), gaussians(rng, K, d)), task)
    common = Gaussians(np.zeros((1, d)), np.eye(d)[None] * 4)
    repeated = Gaussians(np.repeat(common.means, m, axis=0), np.repeat(common.covariances, m, axis=0))
    rule = Rule(signatures, ProductGaussians(repeated, gaussians(rng, m, d)))
    joint = np.stack([covariance(rng, (m + 1) * d) for _ in range(K)])
    return rule, QueryLaw(rng.standard_normal((K, m + 1, d)), joint, task, np.arange(K), np.ones(K))


def stacked(rule: Rule, law: QueryLaw) -> tuple[Rule, QueryLaw]:
    """The same problem in one shared space of all coordinates: in every other task's space a component follows that task's background.

    Multiplying each likelihood ratio by the densities of all backgrounds, which all tasks have in common, leaves such a density.
    """
    signatures, background = rule.signatures, rule.background
    C, S, d = law.means.shape
    means, covariances = [], []
    for s, k in enumerate(signatures.task):
        blocks = [background.own.covariances[i] for i in range(S - 1)]
        centres = list(background.own.means)
        blocks[k], centres[k] = signatures.gaussians.own.covariances[s], signatures.gaussians.own.means[s]
        means.append(np.concatenate([signatures.gaussians.common.means[s], *centres]))
        covariances.append(block_diag(signatures.gaussians.common.covariances[s], *blocks))
    flat = QueryLaw(law.means.reshape(C, 1, S * d), law.covariances, law.task, law.cluster, law.weights)
    return Rule(Signatures(np.stack(means), np.stack(covariances), signatures.task)), flat


@pytest.mark.parametrize("seed", range(4))
def test_margins_of_a_common_space_are_those_of_the_stacked_problem(seed):
    rule, law = problem(seed)
    one, flat = stacked(rule, law)
    x, _ = law.sample(200, np.random.default_rng(seed))
    there = one.scores(x.reshape(len(x), 1, -1))
    # Scores differ by what all tasks have in common.
    assert np.diff(rule.scores(x), axis=1) == pytest.approx(np.diff(there, axis=1), abs=1e-8)
    assert np.array_equal(rule.retrieve(x), one.retrieve(x.reshape(len(x), 1, -1)))
    own, other = margins(rule, law), margins(one, flat)
    # The references may differ where the mean of the common part decides; pairs are compared where they agree.
    same = own.reference[own.component] == other.reference[other.component]
    assert same.any() and np.array_equal(own.wrong, other.wrong)
    mine, its = tail_probability(own.margin).log_p, tail_probability(other.margin).log_p
    assert mine[same] == pytest.approx(its[same], rel=1e-6, abs=1e-9)


def test_every_rung_bounds_the_simulated_error_in_a_common_space():
    rule, law = problem(1)
    bounds = ladder(rule, law, rng=np.random.default_rng(0), simulations=20_000, intersections=3)
    x, label = law.sample(50_000, np.random.default_rng(1))
    error = float((rule.retrieve(x) != law.task[label]).mean())
    for name, bound in bounds.overall.items():
        assert bound.value >= error - 0.01, name
    assert bounds.overall["L6"].estimate == pytest.approx(error, abs=0.015)
    assert bounds.overall["L5"].level == "A3"


def test_layouts_are_told_apart_by_shape():
    rule, law = Setting(5, 2, (1, 1, 1), 3.0, spaces="common").build()
    assert rule.views(4, 2).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert rule.views(3, 4).tolist() == [[0], [1], [2]]
    assert rule.views(1, 4).tolist() == [[0], [0], [0]]
    with pytest.raises(InputError, match="common space and one for each of 3 tasks, of dimension 2"):
        rule.views(4, 4)
    with pytest.raises(InputError, match=r"queries: has shape \(5, 4, 3\)"):
        rule.scores(np.zeros((5, 4, 3)))
    assert law.means.shape[1] == 4


def test_a_file_of_product_signatures_is_read(tmp_path):
    rng = np.random.default_rng(2)
    common, own, task = gaussians(rng, 3, 2), gaussians(rng, 3, 2), np.arange(3)
    arrays = {"means": own.means, "covariances": own.covariances, "common_means": common.means, "common_covariances": common.covariances}
    np.savez(tmp_path / "s.npz", task=task, **arrays)
    found = read_signatures(tmp_path / "s.npz")
    assert isinstance(found, ProductSignatures) and found.dimension == 4
    assert np.array_equal(found.covariances[1], block_diag(common.covariances[1], own.covariances[1]))
    del arrays["common_covariances"]
    np.savez(tmp_path / "s.npz", task=task, **arrays)
    with pytest.raises(InputError, match="lacks common_covariances"):
        read_signatures(tmp_path / "s.npz")
