"""Rules and laws say by name what does not fit, before anything is computed from it."""

from __future__ import annotations

import numpy as np
import pytest

from theory import Gaussians, InputError, QueryLaw, Rule, Signatures, ladder, plug_in_bound, well_specified
from theory.lowrank import LowRankGaussians
from theory.product import ProductGaussians

EYE = np.stack([np.eye(2)] * 3)
MEANS = np.array([[0.0, 0], [4, 0], [0, 4]])
TASK = np.arange(3)
SIGNATURES = Signatures(MEANS, EYE, TASK)


@pytest.mark.parametrize(
    ("change", "argument", "what"),
    [
        ({"weights": np.ones(2)}, "weights", r"has shape \(2,\)"),
        ({"weights": np.array([1.0, np.nan, 1])}, "weights", "holds 1 NaN"),
        ({"counts": np.array([1.5, 2, 3])}, "counts", "needs 3 positive integers"),
        ({"counts": np.array([0, 2, 3])}, "counts", "needs 3 positive integers"),
        ({"names": ("a", "b")}, "names", "has 2 names for 3 tasks"),
        ({"names": ("a", "b", "a")}, "names", "duplicate task name 'a'"),
    ],
)
def test_signatures(change, argument, what):
    with pytest.raises(InputError, match=what) as caught:
        Signatures(MEANS, EYE, TASK, **change)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"kind": "least"}, "'least' is no rule; choose one of max, mixture, angular"),
        ({"kind": "angular", "background": Gaussians(MEANS, EYE)}, "no meaning for the angular rule"),
        ({"background": Gaussians(MEANS[:2], EYE[:2])}, "holds 2 Gaussians; needs one for each of 3 tasks"),
        ({"background": Gaussians(np.zeros((3, 1)), np.ones((3, 1, 1)))}, "has dimension 1; signatures have 2"),
    ],
)
def test_rules(settings, what):
    with pytest.raises(InputError, match=what):
        Rule(SIGNATURES, **settings)


def test_the_angular_rule_refuses_volumes_that_would_overflow():
    small = Signatures(MEANS, np.stack([np.eye(2), np.eye(2), 1e-140 * np.eye(2)]), TASK)
    with pytest.raises(InputError, match="differ too much in volume"):
        Rule(small, kind="angular")


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.zeros((4, 2)), r"has shape \(4, 2\); needs"),
        (np.full((1, 1, 2), np.inf), "holds 2 NaN or infinite"),
        (np.zeros((4, 2, 2)), r"needs 1 \(shared\) or one for each of 3 tasks"),
    ],
)
def test_queries(x, what):
    with pytest.raises(InputError, match=what) as caught:
        Rule(SIGNATURES).scores(x)
    assert caught.value.argument == "queries"


@pytest.mark.parametrize(
    ("change", "argument", "what"),
    [
        ({"means": MEANS}, "query means", r"needs \(C, S, d\)"),
        ({"covariances": EYE[:2]}, "query covariances", r"need \(3, 2, 2\)"),
        ({"means": np.full((3, 1, 2), np.nan)}, "query means", "holds 6 NaN"),
        ({"task": TASK[:2]}, "query task", r"has shape \(2,\)"),
        ({"weights": np.array([1.0, -1, 1])}, "query weights", "must be positive"),
        ({"covariances": EYE * np.array([1, -1, 1])[:, None, None]}, "query covariances[1]", "is not positive definite"),
        ({"covariances": EYE + np.triu(np.full((2, 2), 0.3), 1)}, "query covariances[0]", "is not symmetric"),
    ],
)
def test_query_laws(change, argument, what):
    fields = {"means": MEANS[:, None], "covariances": EYE, "task": TASK, "cluster": TASK, "weights": np.ones(3)}
    with pytest.raises(InputError, match=what) as caught:
        QueryLaw(**fields | change)
    assert caught.value.argument == argument


def test_members_of_a_law_are_those_of_a_task_of_a_cluster_or_all():
    law = QueryLaw(np.repeat(MEANS, 2, axis=0)[:, None], np.repeat(EYE, 2, axis=0), np.repeat(TASK, 2), np.arange(6) // 2, np.ones(6))
    assert list(np.flatnonzero(law.members())) == list(range(6))
    assert list(np.flatnonzero(law.members(task=1))) == [2, 3] == list(np.flatnonzero(law.members(cluster=1)))
    assert not law.members(task=1, cluster=2).any()


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"confidence": 1.0}, "confidence"),
        ({"simulations": -1}, "simulations"),
        ({"sampling": "some"}, "sampling"),
        ({"batch": 0}, "batch"),
        ({"units": "none"}, "units"),
        ({"intersections": -1}, "intersections"),
    ],
)
def test_settings_of_the_ladder(settings, argument):
    with pytest.raises(InputError) as caught:
        ladder(SIGNATURES, **settings)
    assert caught.value.argument == argument


@pytest.mark.parametrize("what", ["dimension", "holds task 2"])
def test_laws_of_other_signatures_are_refused_by_the_plug_in_bound(what):
    counts = np.full(3, 50)
    known = Signatures(MEANS, EYE, TASK, counts=counts)
    wide = Signatures(np.eye(3, 4), np.stack([np.eye(4)] * 3), TASK)
    two = Signatures(MEANS, EYE, np.array([0, 1, 1]), counts=counts)
    with pytest.raises(InputError, match=what):
        plug_in_bound(known, law=well_specified(wide)) if what == "dimension" else plug_in_bound(two, law=well_specified(known))


def test_every_stack_of_gaussians_is_counted_and_scored_alike():
    dense = Gaussians(MEANS, EYE + np.ones((2, 2)))
    thin = LowRankGaussians(MEANS, np.ones((3, 2, 1)), np.ones((3, 2)))
    x = np.array([[0.5, -1.0], [3.0, 2.0]])
    for stack in (dense, thin):
        assert (len(stack), stack.dimension) == (3, 2)
        assert stack.energies(x) == pytest.approx(dense.mahalanobis(x) + np.log(3))
        assert stack.energies(x, np.array([2, 0])) == pytest.approx(dense.energies(x)[:, [2, 0]])
    both = ProductGaussians(dense, thin)
    assert (len(both), both.dimension) == (3, 4)
    assert both.energies(np.hstack([x, x])) == pytest.approx(2 * dense.energies(x))
    assert np.allclose(both.whiteners @ both.covariances @ np.swapaxes(both.whiteners, 1, 2), np.eye(4))


def test_covariances_that_are_rounding_noise_in_a_direction_are_refused():
    """The factor exists, yet its last pivot is noise."""
    with pytest.raises(InputError, match=r"covariances\[1\]: is singular to working precision"):
        Signatures(np.zeros((2, 2)), np.stack([np.eye(2), np.diag([1.0, 1e-16])]), np.arange(2))
