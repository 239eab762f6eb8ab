"""Oracles in mpmath for the exact tails: four methods that share nothing with `theory.exact` or with each other but the law.

Each takes one law (the first row of a batch, whose floats are taken as exact) and returns ``log P(M <= 0)`` to some thirty
digits, and each is right for a class of laws only:

* `by_circles`: no normal part, every weight an even number of times: residues;
* `by_ruben`: definite forms: a series of chi-squares;
* `by_integration`: at most two coordinates: Gaussian integral over one of them;
* `by_line`: a normal part, or many degrees of freedom: the inversion integral through another point than the saddle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
from mpmath import mp, mpf

from theory import QuadraticLaw

_AGREED = 32  # digits to which two precisions must agree


def coefficients(law: QuadraticLaw) -> tuple[list[mpf], list[mpf], mpf, mpf]:
    """The floats of a law (or numbers of mpmath in their place), exactly; linear parts without a weight are gathered in the normal part."""

    def exactly(x):
        return x if isinstance(x, mpf) else mpf(float(x))

    pairs = [(exactly(w), exactly(g)) for w, g in zip(law.w[0], law.g[0], strict=True)]
    s = mpmath.sqrt(exactly(law.s[0]) ** 2 + sum(g**2 for w, g in pairs if w == 0))
    return [w for w, _ in pairs if w], [g for w, g in pairs if w], s, exactly(law.c[0])


def log_probability(law: QuadraticLaw, method: Callable[[QuadraticLaw], mpf]) -> mpf:
    """``log P(M <= 0)`` by a method that is asked for the smaller of the two tails only, near enough."""
    if law.mean()[0] >= 0:
        return method(law)
    other = method(-law)
    with mp.workdps(60):
        return mpmath.log1p(-mpmath.exp(other))


def _settled(method: Callable[[QuadraticLaw], mpf], law: QuadraticLaw) -> mpf:
    """The value at growing precision until two agree; cancellation costs digits, not truth."""
    last = None
    for digits in (50, 65, 130, 260, 520):
        with mp.workdps(digits):
            value = method(law)
            if last is not None and 0 < last <= 1 and abs(value - last) <= mpf(10) ** -_AGREED * last:
                return mpmath.log(value)
        last = value
    raise ArithmeticError("the oracle does not settle")


def by_circles(law: QuadraticLaw) -> mpf:
    """Sum of the residues on the side on which ``exp(-c' theta)`` decays, c' the completed constant.

    Weights that occur an even number of times make the integrand single-valued; a linear part makes the pole an essential
    singularity, so each residue is a mean over a circle, which converges geometrically.
    """
    return _settled(_circles, law)


def _circles(law: QuadraticLaw) -> mpf:
    w, g, s, c = coefficients(law)
    groups = _groups(w, g)
    assert not s and all(n % 2 == 0 for n, _ in groups.values())
    right = c - sum(h / (4 * v) for v, (_, h) in groups.items()) >= 0

    def integrand(theta):
        out = mpmath.exp(-c * theta) / theta
        for v, (n, h) in groups.items():
            u = 1 + 2 * v * theta
            out *= u ** (-n // 2) * mpmath.exp(h * theta**2 / (2 * u))
        return out

    places = {v: -1 / (2 * v) for v in groups}
    total = mpf(0 if right else 1)
    # The nearest first: they count for most.
    for v, place in sorted(places.items(), key=lambda item: abs(item[1])):
        if (place > 0) != right:
            continue
        nearest = min([abs(place), *(abs(place - other) for u, other in places.items() if u != v)])
        # Of the circles clear of other singularities, one with little to cancel.
        radius = min((nearest / 2**k for k in range(1, 12)), key=lambda r: r * max(abs(integrand(place - r)), abs(integrand(place + r))))
        total += (-1 if right else 1) * _circle_mean(integrand, place, radius, mpf(10) ** -mp.dps * abs(total))
    return total


def _groups(w: list[mpf], g: list[mpf]) -> dict[mpf, tuple[int, mpf]]:
    """Multiplicity and sum of squared linear coefficients of every distinct weight, on which alone the law depends."""
    return {v: (w.count(v), sum(h**2 for u, h in zip(w, g, strict=True) if u == v)) for v in w}


def _circle_mean(f: Callable[[mpf], mpf], centre: mpf, radius: mpf, negligible: mpf) -> mpf:
    """The residue inside a circle whose other singularities are at least twice as far, with ever more nodes."""
    ends = radius * max(abs(f(centre - radius)), abs(f(centre + radius)))
    n, last = 32, None
    while n <= 2**14:
        # The upper half suffices, since the integrand is real on the real axis.
        terms = [f(centre + radius * e) * radius * e for e in (mpmath.expjpi(mpf(2 * k + 1) / n) for k in range(n // 2))]
        mean, largest = 2 * mpmath.fsum(t.real for t in terms) / n, max(map(abs, terms))
        if max(ends, largest) < negligible:
            return mean
        # A peak between two nodes would leave them in agreement on nothing.
        if last is not None and largest > ends / 4 and abs(mean - last) <= mpf(10) ** (3 - mp.dps) * largest:
            return mean
        n, last = 2 * n, mean
    raise ArithmeticError("the circle does not converge")


def by_ruben(law: QuadraticLaw) -> mpf:
    """Ruben (1962): a definite form is a mixture of central chi-squares, in units of its least weight."""
    return _settled(_ruben, law)


def _ruben(law: QuadraticLaw) -> mpf:
    w, g, s, c = coefficients(law)
    lower = w[0] > 0
    assert not s and all((v > 0) == lower for v in w)
    x = -(c - sum(h**2 / (4 * v) for v, h in zip(w, g, strict=True))) * (1 if lower else -1)
    shift = [(h / (2 * v)) ** 2 for v, h in zip(w, g, strict=True)]
    w = [abs(v) for v in w]
    if x <= 0:
        return mpf(0 if lower else 1)
    unit, r = min(w), len(w)
    ratio = [1 - unit / v for v in w]
    weights = [mpmath.exp(-sum(shift) / 2) * mpmath.sqrt(mpmath.fprod(unit / v for v in w))]
    cumulants: list[mpf] = []
    y, half = x / unit / 2, mpf(r) / 2
    powers = [mpf(1)] * r
    while True:
        k = len(weights)
        cumulants.append(sum(p * q + k * b * p * (1 - q) for p, q, b in zip(powers, ratio, shift, strict=True)) / 2)
        powers = [p * q for p, q in zip(powers, ratio, strict=True)]
        weights.append(mpmath.fdot(zip(reversed(cumulants), weights, strict=True)) / k)
        # The weights are positive and sum to one, so what is left of them bounds the error.
        if k % 50 == 0:
            least = mpmath.gammainc(half, y, regularized=True) if not lower else weights[0] * mpmath.gammainc(half, 0, y, regularized=True)
            rest = 1 - mpmath.fsum(weights)
            left = rest * (mpmath.gammainc(half + k, 0, y, regularized=True) if lower else 1)
            # Nor can this precision see what is left below its own rounding; the next one tells whether that mattered.
            if left <= mpf(10) ** -(_AGREED + 5) * least or rest <= k * mpmath.eps:
                break
            if k >= 3000:
                raise ArithmeticError("the series is too long for the oracle")
    terms = [mpmath.exp((half + k) * mpmath.log(y) - y - mpmath.loggamma(half + k + 1)) for k in range(len(weights))]
    total = mpf(0)
    if lower:
        tail = mpmath.gammainc(half + len(weights), 0, y, regularized=True)
        for weight, term in zip(reversed(weights), reversed(terms), strict=True):
            tail += term
            total += weight * tail
        return total
    tail = mpmath.gammainc(half, y, regularized=True)
    for weight, term in zip(weights, terms, strict=True):
        total += weight * tail
        tail += term
    return total


def by_integration(law: QuadraticLaw) -> mpf:
    """The probability given the first coordinate, in normal tails, integrated over it."""
    with mp.workdps(40):
        w, g, s, c = coefficients(law)
        if len(w) + (s > 0) == 1:
            return mpmath.log(_one(w[0], g[0], c) if w else mpmath.ncdf(-c / s))
        assert len(w) + (s > 0) == 2
        w1, g1 = w[0], g[0]
        w2, g2 = (mpf(0), s) if s else (w[1], g[1])

        def inner(z):
            return mpmath.npdf(z) * _one(w2, g2, c + w1 * z**2 + g1 * z)

        # The inner interval opens and closes where its discriminant, quadratic in z, is 0.
        kinks = [] if s else _roots(-4 * w2 * w1, -4 * w2 * g1, g2**2 - 4 * w2 * c)
        grid = np.linspace(-60, 60, 241)
        heights = [inner(mpf(z)) for z in grid] + [inner(z) for z in kinks]
        top = max(heights)
        near = [z for z, height in zip(grid, heights, strict=False) if height > top * mpf(10) ** -60]
        ends = [mpf(float(min(near))) - 1, mpf(float(max(near))) + 1]
        points = sorted({*ends, *(mpf(float(z)) for z in near[::2]), *(z for z in kinks if ends[0] < z < ends[1])})
        return mpmath.log(top) + mpmath.log(sum(_piece(lambda z: inner(z) / top, a, b) for a, b in pairwise(points)))


def _piece(f: Callable[[mpf], mpf], a: mpf, b: mpf) -> mpf:
    """Integral of a function of order one, by halving where the quadrature (which stops at an absolute accuracy) does not converge."""
    value, error = mpmath.quad(f, [a, b], error=True)
    return value if error < mpf(10) ** -28 else _piece(f, a, (a + b) / 2) + _piece(f, (a + b) / 2, b)


def _roots(a: mpf, b: mpf, c: mpf) -> list[mpf]:
    if a == 0:
        return [] if b == 0 else [-c / b]
    inside = b**2 - 4 * a * c
    return [] if inside < 0 else sorted((-b + sign * mpmath.sqrt(inside)) / (2 * a) for sign in (-1, 1))


def _one(w: mpf, g: mpf, c: mpf) -> mpf:
    """``P(w z^2 + g z + c <= 0)``."""
    if w == 0:
        return mpmath.ncdf(-c / abs(g))
    roots = _roots(w, g, c)
    if not roots:
        return mpf(0 if w > 0 else 1)
    low, high = roots
    if w < 0:
        return mpmath.ncdf(low) + mpmath.ncdf(-high)
    return mpmath.ncdf(-low) - mpmath.ncdf(-high) if low > 0 else mpmath.ncdf(high) - mpmath.ncdf(low)


def by_line(law: QuadraticLaw) -> mpf:
    """The inversion integral along the vertical line through a point well below the saddle, as an equidistant sum.

    For laws whose transform falls fast enough along the line; the sum is repeated with half the step.
    """
    with mp.workdps(50):
        w, g, s, c = coefficients(law)
        groups = _groups(w, g)

        def log_integrand(theta):
            out = s**2 * theta**2 / 2 - c * theta - mpmath.log(theta)
            for v, (n, h) in groups.items():
                u = 1 + 2 * v * theta
                out += h * theta**2 / (2 * u) - n * mpmath.log(u) / 2
            return out

        limit = -1 / (2 * min(w)) if w and min(w) < 0 else mpf(10) ** 8 / max([s, *map(abs, w)])
        low, high = limit * mpf(10) ** -20, limit * (1 - mpf(10) ** -20)
        for _ in range(200):
            a, b = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, b) if log_integrand(a) < log_integrand(b) else (a, high)
        # As far from the saddle as costs ten digits to cancellation at most.
        part = mpf(0.4)
        while log_integrand(low * (1 - part)) > log_integrand(low) + 23:
            part /= 2
        at = low * (1 - part)
        base = log_integrand(at)
        step = at / 8

        def total(h):
            out, k, small = mpf(1) / 2, 0, 0
            while small < 10:
                k += 1
                term = mpmath.exp(log_integrand(mpmath.mpc(at, k * h)) - base)
                small = small + 1 if abs(term) < mpf(10) ** -40 else 0
                out += term.real
                if k > 5_000:
                    raise ArithmeticError("the line is too long for the oracle")
            return out * h / mpmath.pi

        last = total(step)
        while True:
            step /= 2
            value = total(step)
            if abs(value - last) <= mpf(10) ** -30 * abs(value):
                return base + mpmath.log(value)
            last = value
