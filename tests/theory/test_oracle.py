"""The oracles agree with closed forms, and with each other wherever two of them apply."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from oracle import by_circles, by_integration, by_line, by_ruben, log_probability

from theory import QuadraticLaw


def close(a, b, digits=25):
    return abs(a - b) <= mpmath.mpf(10) ** -digits * max(1, abs(b))


@pytest.mark.parametrize("method", [by_circles, by_ruben])
@pytest.mark.parametrize("x", [0.01, 3.0, 700.0])
def test_chi_squares(method, x):
    law = QuadraticLaw.of(-np.ones((1, 4)), c=x)
    with mpmath.workdps(60):
        assert close(method(law), mpmath.log(mpmath.gammainc(2, mpmath.mpf(x) / 2, regularized=True)))


def test_a_normal_law():
    law = QuadraticLaw.of([[0.0]], g=[[3.0]], s=4.0, c=60.0)
    with mpmath.workdps(60):
        truth = mpmath.log(mpmath.ncdf(-12))
    assert close(by_integration(law), truth)
    assert close(by_line(law), truth)


@pytest.mark.parametrize(
    ("law", "methods"),
    [
        (QuadraticLaw.of([1.0, 1.0, 2.0, 2.0, 5.0, 5.0], [0.3, 0, 1.0, 0.2, 0, 0.1], c=-3.0), (by_circles, by_ruben)),
        (QuadraticLaw.of([-1.0, -1.0, -2.0, -2.0], [0.3, 0, 1.0, 0.2], c=200.0), (by_circles, by_ruben)),
        (QuadraticLaw.of([1.0, 1.0], [0.3, 2.0], c=0.3), (by_circles, by_ruben, by_integration)),
        (QuadraticLaw.of([-1.0, -1.0], [0.3, 2.0], c=60.0), (by_circles, by_ruben, by_integration)),
        (QuadraticLaw.of([1.0, 3.0], [0.3, 2.0], c=-0.3), (by_ruben, by_integration)),
        (QuadraticLaw.of([-1.0], [0.3], s=2.0, c=20.0), (by_integration, by_line)),
        (QuadraticLaw.of(np.repeat([1.0, -2.0, 5.0, -0.5], 12), 0.2, c=100.0), (by_circles, by_line)),
    ],
)
def test_methods_agree(law, methods):
    values = [method(law) for method in methods]
    assert all(close(value, values[0]) for value in values[1:])


def test_the_complement_of_a_tail():
    law = QuadraticLaw.of([1.0, 3.0], [0.3, 2.0], c=-9.0)
    assert close(log_probability(law, by_integration), by_ruben(law))


def test_a_method_refuses_what_it_cannot_do():
    for method, law in [
        (by_circles, QuadraticLaw.of([1.0, 2.0])),
        (by_ruben, QuadraticLaw.of([1.0, -2.0])),
        (by_integration, QuadraticLaw.of([1.0, 2.0, 3.0])),
    ]:
        with pytest.raises(AssertionError):
            method(law)
