"""Query laws: the moments of what they were fitted to, and a choice that the right candidate wins."""

from __future__ import annotations

import numpy as np
import pytest

from empirics.config import QueryLawConfig
from empirics.retrieval.query_law import choose_query_law, fit_query_law
from theory import InputError


def drawn(kind: str, n: int = 80, d: int = 4, S: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tasks of two clusters each, in S spaces, whose components are of one kind."""
    rng = np.random.default_rng(0)
    D = S * d
    x, cluster = [], np.repeat(np.arange(4), n)
    for t in range(4):
        z = rng.normal(size=(n, D))
        if kind == "scales":
            # Clusters are wide in different coordinates, so that no common unit makes them round.
            z = z * np.roll(np.geomspace(0.2, 5.0, D), 2 * t)
        elif kind == "correlated":
            z = z @ np.linalg.cholesky(0.2 * np.eye(D) + 0.8).T
        elif kind == "two groups":
            z = z + np.where(np.arange(n)[:, None] % 2, 4.0, -4.0)
        elif kind == "factors":
            # One wide direction over much noise, with fewer samples than a full covariance needs.
            z = z + 3 * rng.normal(size=(n, 1)) * np.where(np.arange(D) % 3, 1.0, -1.0)
        x.append(z + 6 * t)
    return np.concatenate(x).reshape(4 * n, S, d), cluster // 2, cluster


def law_of(config: QueryLawConfig, x, task, cluster, **more):
    return fit_query_law(x, task, cluster, np.full(4, 0.25), config, np.random.default_rng(1), name="law", **more)


@pytest.mark.parametrize("covariance", ["ledoit-wolf", "diagonal", "low-rank", "auto"])
def test_a_law_has_the_means_and_spread_of_what_it_was_fitted_to(covariance):
    x, task, cluster = drawn("two groups")
    law = law_of(QueryLawConfig(covariance=covariance), x, task, cluster)
    assert law.name == "law" and set(law.task.tolist()) == {0, 1}
    assert law.weights.sum() == pytest.approx(1)
    for t in range(4):
        members = law.cluster == t
        share = law.weights[members] / law.weights[members].sum()
        own = x[cluster == t].reshape(80, 8)
        means = law.means[members].reshape(members.sum(), 8)
        centre = share @ means
        assert np.allclose(centre, own.mean(axis=0), atol=0.05)
        spread = np.einsum("c,cii->i", share, law.covariances[members]) + share @ (means - centre) ** 2
        assert np.allclose(spread, own.var(axis=0), rtol=0.15)


def test_low_rank_keeps_the_wide_direction_that_diagonal_loses():
    x, task, cluster = drawn("factors")
    low = law_of(QueryLawConfig(covariance="low-rank", rank=1), x, task, cluster, components=1)
    diagonal = law_of(QueryLawConfig(covariance="diagonal"), x, task, cluster, components=1)
    direction = np.where(np.arange(8) % 3, 1.0, -1.0) / np.sqrt(8)
    assert direction @ low.covariances[0] @ direction > 3 * (direction @ diagonal.covariances[0] @ direction)
    assert np.count_nonzero(diagonal.covariances[0]) == 8


@pytest.mark.parametrize(
    ("kind", "covariance", "components"),
    [("scales", "diagonal", 1), ("correlated", "low-rank", 1), ("two groups", "low-rank", 2)],
)
def test_the_right_candidate_is_the_likeliest_left_out(kind, covariance, components):
    x, task, cluster = drawn(kind)
    choice = choose_query_law(x, cluster, QueryLawConfig(covariance="auto", samples_per_component=20, rank=1), np.random.default_rng(0))
    assert choice.config.covariance == covariance
    assert 80 // choice.config.samples_per_component == components
    scores = choice.log_likelihood
    assert scores[f"{covariance}, {choice.config.samples_per_component}"] == 0
    assert max(scores.values()) < 1e-6 and len(scores) == 12
    assert choice.to_dict()["covariance"] == covariance
    law = law_of(choice.config, x, task, cluster)
    assert np.bincount(law.cluster).tolist() == [components] * 4


def test_candidates_that_come_to_the_same_numbers_stand_once():
    x, _, cluster = drawn("round", n=20)
    choice = choose_query_law(x, cluster, QueryLawConfig(covariance="auto", samples_per_component=60), np.random.default_rng(0))
    assert sorted(choice.log_likelihood) == ["diagonal, 20", "ledoit-wolf, 20", "low-rank, 20"]
    fixed = choose_query_law(x, cluster, QueryLawConfig(covariance="auto"), np.random.default_rng(0), components=2)
    assert sorted(fixed.log_likelihood) == ["diagonal, 24", "ledoit-wolf, 24", "low-rank, 24"]


def test_a_choice_that_differs_by_rounding_goes_to_fewer_parameters():
    """In two coordinates a low-rank covariance leaves nothing out: the two candidates are one."""
    x, _, cluster = drawn("correlated", d=1)
    choice = choose_query_law(x, cluster, QueryLawConfig(covariance="auto"), np.random.default_rng(0), components=1)
    assert abs(choice.log_likelihood["ledoit-wolf, 24"]) < 1e-6
    assert choice.config.covariance == "low-rank"


def test_auto_is_the_law_of_what_it_chose_and_repeats():
    x, task, cluster = drawn("correlated")
    first, second = (law_of(QueryLawConfig(covariance="auto"), x, task, cluster) for _ in range(2))
    assert np.array_equal(first.covariances, second.covariances) and np.array_equal(first.means, second.means)


@pytest.mark.parametrize(("config", "n"), [(QueryLawConfig(), 2), (QueryLawConfig(covariance="auto"), 5)])
def test_clusters_too_small_are_named(config, n):
    x, task, cluster = drawn("round")
    keep = np.flatnonzero((cluster != 2) | (np.arange(len(x)) < 160 + n))
    with pytest.raises(InputError, match=f"cluster 2: has {n} held-out samples"):
        law_of(config, x[keep], task[keep], cluster[keep])


def test_a_coordinate_that_never_varies_is_named():
    x, task, cluster = drawn("round")
    x[:, 1, 2] = 3.0
    with pytest.raises(InputError, match="coordinate 6"):
        law_of(QueryLawConfig(), x, task, cluster)
