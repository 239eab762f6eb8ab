"""delta, kappa and V of all pairs: by definition, exactly and as a bound."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategies import cross_law, signatures

from theory import InputError, QueryLaw, Rule, Signatures, margins, separation, well_specified
from theory.separation import exact_variance
from theory.tails import exponent


@st.composite
def laws(draw: st.DrawFn) -> tuple[Signatures, QueryLaw]:
    """Signatures and a finer query law in one shared space, of like or unlike covariances, whatever their units."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = draw(st.integers(1, 7))
    sig = signatures(rng, d, draw(st.sampled_from([[0, 1], [0, 0, 1], [0, 1, 2, 2]])), draw(st.sampled_from([0.0, 0.3, 3.0])))
    decades = draw(st.sampled_from([0.0, 1.0, 4.0]))
    units = draw(st.sampled_from([1e-60, 1.0, 1e60]))

    def stretched(covariances: np.ndarray) -> np.ndarray:
        # Each is stretched along directions of its own, so that they do not commute.
        maps = [np.linalg.qr(rng.normal(size=(d, d)))[0] * 10 ** rng.uniform(-decades / 2, decades / 2, size=d) for _ in covariances]
        return np.stack([m @ c @ m.T for m, c in zip(maps, covariances, strict=True)]) * units**2

    C = draw(st.integers(1, 5))
    other = signatures(rng, d, [0, 1] + [1] * C, 1.0)
    sig = Signatures(sig.means * units, stretched(sig.covariances), sig.task)
    cluster = rng.integers(0, len(sig), size=C)
    law = QueryLaw(other.means[:C, None] * units, stretched(other.covariances[:C]), sig.task[cluster], cluster, np.ones(C))
    return sig, law


def _by_definition(sig: Signatures, law: QueryLaw) -> tuple[np.ndarray, np.ndarray]:
    d, shape = sig.dimension, (len(law), len(sig))
    delta, variance = np.empty(shape), np.empty(shape)
    for c, s in np.ndindex(shape):
        P, C, D = np.linalg.inv(sig.covariances[s]), law.covariances[c], law.means[c, 0] - sig.means[s]
        delta[c, s] = (np.trace(P @ C) + D @ P @ D) / d - 1
        variance[c, s] = 2 * np.trace(P @ C @ P @ C) + 4 * D @ P @ C @ P @ D
    return delta, variance


@given(laws())
def test_delta_and_v_are_what_they_are_defined_as(case):
    sig, law = case
    delta, variance = _by_definition(sig, law)
    found = separation(sig, law)
    assert found.exact.all()
    assert found.delta + 1 == pytest.approx(delta + 1, rel=1e-6)
    assert found.variance == pytest.approx(variance, rel=1e-6)


@given(laws())
def test_the_bound_has_the_same_delta_and_no_smaller_v(case):
    sig, law = case
    exact, bound = separation(sig, law), separation(sig, law, variance="bound")
    assert bound.delta + 1 == pytest.approx(exact.delta + 1, rel=1e-8)
    assert np.array_equal(bound.kappa, exact.kappa)
    assert (bound.variance >= exact.variance * (1 - 1e-9)).all()
    assert bound.variance[bound.exact] == pytest.approx(exact.variance[bound.exact], rel=1e-12)
    # tr(X^2) <= min(tr(X)^2, ...) <= d tr(X^2): never looser than by the dimension.
    assert (bound.variance <= exact.variance * sig.dimension * (1 + 1e-6)).all()


@given(laws())
def test_every_exponent_from_the_bound_is_one_from_the_variance(case):
    sig, law = case
    exact, bound = separation(sig, law), separation(sig, law, variance="bound")
    d = sig.dimension
    gap = d * exact.delta + exact.kappa[law.cluster]

    def t(found):
        return exponent(gap, 2 * np.sqrt(d) + np.sqrt(2 * found.variance), 2.0)

    assert (t(bound) <= t(exact) * (1 + 1e-8)).all()


@given(laws())
@hypothesis_settings(max_examples=30)
def test_the_bound_is_the_same_in_all_coordinates(case):
    sig, law = case
    rng = np.random.default_rng(len(law))
    d = sig.dimension
    B = rng.normal(size=(d, d)) / np.sqrt(d) + 2 * np.eye(d)
    shift = rng.normal(size=d) * np.abs(sig.means).max()
    moved = Signatures(sig.means @ B.T + shift, B @ sig.covariances @ B.T, sig.task)
    law2 = QueryLaw(law.means @ B.T + shift, B @ law.covariances @ B.T, law.task, law.cluster, law.weights)
    a, b = separation(sig, law, variance="bound"), separation(moved, law2, variance="bound")
    same = ~a.exact & ~b.exact
    assert b.variance[same] == pytest.approx(a.variance[same], rel=1e-5)


@given(st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=30)
def test_agrees_with_the_margins(seed):
    rng = np.random.default_rng(seed)
    sig = signatures(rng, 4, [0, 0, 1, 2], 1.0)
    sig = dataclasses.replace(sig, weights=rng.uniform(0.1, 1, size=4))
    law = well_specified(sig)
    found, pairs = separation(sig, law), margins(Rule(sig), law)
    at = (pairs.component, pairs.wrong)
    assert pairs.other.mean() == pytest.approx(4 * (found.delta[at] + 1) + sig.constants[pairs.wrong], rel=1e-9)
    assert pairs.other.variance() == pytest.approx(found.variance[at], rel=1e-9)
    own = sig.constants[pairs.component]
    assert found.kappa[at] == pytest.approx(sig.constants[pairs.wrong] - own, rel=1e-12)


@pytest.mark.parametrize("method", ["exact", "bound"])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_without_a_law_it_is_the_well_specified_one(method, d):
    sig = signatures(np.random.default_rng(d), d, [0, 1, 1, 2], 2.0)
    a, b = separation(sig, variance=method), separation(sig, well_specified(sig), variance=method)
    assert a.delta == pytest.approx(b.delta, rel=1e-9, abs=1e-12) and a.variance == pytest.approx(b.variance, rel=1e-9)
    assert np.diagonal(a.delta) == pytest.approx([0] * 4, abs=1e-10)
    assert np.diagonal(a.variance) == pytest.approx([2 * d] * 4, rel=1e-8)


def test_weights_enter_kappa_only():
    sig = signatures(np.random.default_rng(2), 3, [0, 0, 1], 1.0)
    weighted = dataclasses.replace(sig, weights=np.array([0.9, 0.1, 1.0]))
    for method in ("exact", "bound"):
        a, b = separation(sig, variance=method), separation(weighted, variance=method)
        assert np.array_equal(a.delta, b.delta) and np.array_equal(a.variance, b.variance)
        assert b.kappa - a.kappa == pytest.approx(2 * np.log(weighted.weights[:, None] / weighted.weights), abs=1e-12)


def test_the_bound_is_exact_where_covariances_commute():
    rng = np.random.default_rng(1)
    covariances = np.stack([np.diag(10 ** rng.uniform(-1, 1, size=50)) for _ in range(4)])
    sig = Signatures(rng.normal(size=(4, 50)), covariances, np.arange(4))
    exact, bound = separation(sig), separation(sig, variance="bound")
    assert not bound.exact.any()
    assert bound.variance == pytest.approx(exact.variance, rel=1e-8)


def test_the_excess_is_half_the_commutators_norm():
    rng = np.random.default_rng(3)
    sig = signatures(rng, 6, [0, 1], 0.0)
    sig = Signatures(sig.means * 0, sig.covariances, sig.task)
    exact, bound = separation(sig), separation(sig, variance="bound")
    root = np.linalg.inv(np.linalg.cholesky(sig.covariances.mean(axis=0)))
    C = root @ sig.covariances[0] @ root.T
    P = np.linalg.inv(root @ sig.covariances[1] @ root.T)
    assert bound.variance[0, 1] - exact.variance[0, 1] == pytest.approx(((P @ C - C @ P) ** 2).sum(), rel=1e-8)


def test_pairs_that_rounding_would_spoil_are_computed_exactly():
    rng = np.random.default_rng(4)
    d, covariances = 8, []
    for _ in range(3):
        Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
        X = (Q * np.geomspace(1e-12, 1, d)) @ Q.T
        covariances.append((X + X.T) / 2)
    sig = Signatures(rng.normal(size=(3, d)), np.stack(covariances), np.arange(3))
    exact, bound = separation(sig), separation(sig, variance="bound")
    # A component with itself: tr(P C) is d, whereas |P| |C| is 1e12.
    assert np.diagonal(bound.exact).all()
    assert np.diagonal(bound.delta) == pytest.approx([0] * 3, abs=1e-4)
    assert bound.delta + 1 == pytest.approx(exact.delta + 1, rel=1e-6)
    assert (bound.variance >= exact.variance * (1 - 1e-6)).all()


def test_blocks_of_any_size_give_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    sig = signatures(rng, 5, [0, 1, 2, 0, 1, 2, 0], 1.0)
    law = well_specified(signatures(rng, 5, [0, 1, 2, 1, 2], 1.0))
    whole = [separation(sig, law, variance=method) for method in ("exact", "bound")]
    # The package exports the function under the module's name.
    module = importlib.import_module("theory.separation")
    for name, value in (("_BLOCK", 3), ("_STRIP", 2), ("_PACKED_BYTES", 2 * 16 * 25), ("_CHUNK_BYTES", 2 * 8 * 25)):
        monkeypatch.setattr(module, name, value)
    for method, before in zip(("exact", "bound"), whole, strict=True):
        after = separation(sig, law, variance=method)
        assert after.delta == pytest.approx(before.delta, rel=1e-12) and after.variance == pytest.approx(before.variance, rel=1e-12)


def test_exact_variance_of_chosen_pairs():
    rng = np.random.default_rng(6)
    sig = signatures(rng, 4, [0, 1, 2, 2], 1.0)
    law = well_specified(signatures(rng, 4, [0, 1, 2], 1.0))
    component, wrong = np.array([2, 0, 2, 1, 2]), np.array([0, 3, 0, 1, 2])
    assert exact_variance(sig, component, wrong, law) == pytest.approx(separation(sig, law).variance[component, wrong], rel=1e-12)
    assert exact_variance(sig, np.array([3]), np.array([1])) == pytest.approx(separation(sig).variance[[3], [1]], rel=1e-12)
    assert exact_variance(sig, np.empty(0, dtype=int), np.empty(0, dtype=int)).shape == (0,)


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    sig = signatures(rng, 2, [0, 1], 1.0)
    with pytest.raises(InputError, match="spaces"):
        separation(sig, cross_law(rng, sig))
    with pytest.raises(InputError, match="dimension"):
        separation(sig, well_specified(signatures(rng, 3, [0, 1], 1.0)))
    with pytest.raises(InputError, match="variance"):
        separation(sig, variance="fast")
    with pytest.raises(InputError, match="wrong"):
        exact_variance(sig, np.array([0]), np.array([2]))
    with pytest.raises(InputError, match="component"):
        exact_variance(sig, np.array([-1]), np.array([0]))
    with pytest.raises(InputError, match="component"):
        exact_variance(sig, np.array([0, 1]), np.array([0]))
