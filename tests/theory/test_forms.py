"""From quadratic forms to laws: without eigenvectors where the forms are large, and no less accurate."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory import QuadraticLaw, tail_probability
from theory import tridiagonal as tridiagonal_
from theory.quadratic import _EIGENVECTORS_BELOW
from theory.tridiagonal import spectra

_LARGE = _EIGENVECTORS_BELOW


def _spectrum(rng: np.random.Generator, kind: str, d: int) -> np.ndarray:
    weights = {
        "spread": rng.normal(size=d),
        "repeated": np.where(np.arange(d) < d // 2, -0.3, 1.0),
        "clustered": 1 + 1e-13 * rng.normal(size=d),
        "one": np.ones(d),
        "rank two": np.r_[1.0, -0.4, np.zeros(d - 2)],
        "zero": np.zeros(d),
        "condition 1e12": np.geomspace(1e-12, 1, d) * rng.choice([-1, 1], size=d),
    }
    return weights[kind]


_KINDS = ["spread", "repeated", "clustered", "one", "rank two", "zero", "condition 1e12"]


def _form(rng: np.random.Generator, kind: str, d: int) -> np.ndarray:
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    A = (Q * _spectrum(rng, kind, d)) @ Q.T
    return (A + A.T) / 2


@st.composite
def forms(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = draw(st.integers(3, 20))
    b = rng.normal(size=d) * draw(st.sampled_from([0.0, 1e-6, 1.0, 1e6]))
    if draw(st.booleans()):
        # A diagonal form and one axis: the reduction has nothing to do, and all but one coordinate are zero.
        return np.diag(_spectrum(rng, draw(st.sampled_from(_KINDS)), d)), b * (np.arange(d) == draw(st.integers(0, d - 1)))
    return _form(rng, draw(st.sampled_from(_KINDS)), d), b


def _decomposed(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w, vectors = np.linalg.eigh(A)
    return w, np.abs(vectors.T @ b)


@given(forms())
def test_eigenvalues_are_those_of_eigh_and_coordinates_have_the_vectors_length(form):
    A, b = form
    w, g = (part[0] for part in spectra(A[None], b[None]))
    assert np.abs(w - _decomposed(A, b)[0]).max() <= 64 * np.finfo(float).eps * np.abs(A).max() * len(b)
    assert (g >= 0).all()
    assert np.sqrt(g @ g) == pytest.approx(np.linalg.norm(b), rel=1e-12)


@given(forms(), st.floats(0.01, 30))
def test_the_resolvent_is_that_of_the_form(form, distance):
    # All that a law takes from A and b is the spectrum and b'(A - x)^-1 b at points x off it.
    A, b = form
    w, g = (part[0] for part in spectra(A[None], b[None]))
    x = w[0] - distance * max(1e-3, float(np.abs(A).max()))
    truth = b @ np.linalg.solve(A - x * np.eye(len(b)), b)
    assert (g**2 / (w - x)).sum() == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
@pytest.mark.parametrize("kind", _KINDS)
def test_scales_are_exact(kind, scale):
    rng = np.random.default_rng(0)
    A, b = _form(rng, kind, 12), rng.normal(size=12)
    w, g = spectra(A[None], b[None])
    factor = 2.0 ** round(np.log2(scale))
    for by_A, by_b in ((factor, factor), (factor, 1.0), (1.0, factor)):
        scaled = spectra(A[None] * by_A, b[None] * by_b)
        assert np.array_equal(scaled[0], w * by_A) and np.array_equal(scaled[1], g * by_b)


@pytest.mark.parametrize("kind", ["spread", "repeated", "condition 1e12"])
def test_agrees_with_mpmath(kind):
    rng = np.random.default_rng(1)
    A, b = _form(rng, kind, 10), rng.normal(size=10)
    w, g = (part[0] for part in spectra(A[None], b[None]))
    with mpmath.workdps(50):
        exact = sorted(mpmath.eigsy(mpmath.matrix(A.tolist()), eigvals_only=True))
        assert w == pytest.approx([float(x) for x in exact], abs=1e-14)
        x = mpmath.mpf(-2)
        column = mpmath.matrix(b.tolist())
        resolvent = (column.T * mpmath.lu_solve(mpmath.matrix(A.tolist()) - x * mpmath.eye(10), column))[0]
    assert (g**2 / (w + 2)).sum() == pytest.approx(float(resolvent), rel=1e-13)


@pytest.mark.parametrize("d", [_LARGE, 2 * _LARGE + 1])
@pytest.mark.parametrize("kind", _KINDS)
def test_large_laws_have_the_tails_of_the_decomposed_ones(kind, d):
    rng = np.random.default_rng(d)
    A, b = np.stack([_form(rng, kind, d) for _ in range(2)]), rng.normal(size=(2, d))
    b[1] = 0 if kind != "zero" else b[1]
    law = QuadraticLaw.of_forms(A, b, np.zeros(2))
    rival = QuadraticLaw.of(*(np.stack(part) for part in zip(*(_decomposed(A[p], b[p]) for p in range(2)), strict=True)))
    for deviations in (0.3, 3.0, 10.0):
        shift = deviations * np.sqrt(law.variance()) - law.mean()
        ours, theirs = tail_probability(law.shifted(shift)), tail_probability(rival.shifted(shift))
        # Where no value lies below the threshold both say so.
        possible = np.isfinite(theirs.log_p)
        assert np.array_equal(possible, np.isfinite(ours.log_p))
        assert np.expm1(ours.log_p[possible] - theirs.log_p[possible]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3, _LARGE - 1, _LARGE])
def test_moments_are_those_of_the_form_on_both_sides_of_the_threshold(d):
    rng = np.random.default_rng(d)
    A = rng.normal(size=(3, d, d))
    A = A + np.swapaxes(A, -1, -2)
    b, c = rng.normal(size=(3, d)), rng.normal(size=3)
    law = QuadraticLaw.of_forms(A, b, c)
    assert law.mean() == pytest.approx(np.trace(A, axis1=1, axis2=2) + c, rel=1e-10)
    assert law.variance() == pytest.approx(2 * (A**2).sum(axis=(1, 2)) + (b**2).sum(axis=1), rel=1e-12)


def test_identical_components_have_the_constant_law():
    law = QuadraticLaw.of_forms(np.zeros((1, _LARGE, _LARGE)), np.zeros((1, _LARGE)), np.array([0.5]))
    assert not law.w.any() and not law.g.any() and law.mean() == [0.5]


def test_spectra_that_the_fast_routine_does_not_find_come_from_the_full_decomposition(monkeypatch):
    rng = np.random.default_rng(5)
    root, b = rng.normal(size=(2, 4, 4)), rng.normal(size=(2, 4))
    A = root + root.transpose(0, 2, 1)
    w, g = spectra(A, b)
    monkeypatch.setattr(tridiagonal_, "dsterf", lambda diagonal, off: (diagonal, 1))
    slow_w, slow_g = spectra(A, b)
    np.testing.assert_allclose(slow_w, w, rtol=1e-12)
    np.testing.assert_allclose(slow_g, np.abs(g), rtol=1e-9)
