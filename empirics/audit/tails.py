"""Tails of quadratic laws by slow paths of their own: what `theory.tails`, `theory.exact` and `theory.robust` gave is judged by these.

A law is ``c + sum_j (w_j z_j^2 + g_j z_j)``, z standard normal, and ``K(theta) = log E exp(-theta M)``. Nothing of `theory` is called:

* Chernoff bounds by bisection of ``K'``;
* exact probabilities by the trapezoidal rule along a hyperbola, repeated with half the step until two sums agree;
* moments as coefficients of ``exp(K)``, whose series in powers of K is finite up to any order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float
from scipy.special import gammaln

# Steps of a bisection: enough for a bracket of a millionth, in which K is flat to 1e-12.
_BISECTIONS = 200
_BRACKET = 1e-6
# The hyperbola: tangent of its inclination to the vertical, first step, halvings, and where it ends at the latest.
_INCLINATION, _STEP, _HALVINGS, _END = 0.5, 0.25, 5, 45.0
# Where an upright contour must have come to nothing, what nothing is, and how much another may rise before it falls (logarithms).
_UPRIGHT, _GONE, _RISE = 6.0, -45.0, 2.0
# Relative change by which a sum is taken for converged (the error of the finer sum is its square), and the size of a term that ends it.
_AGREED, _NEGLIGIBLE = 1e-7, 1e-18
# Numbers that one block of laws may hold.
_BLOCK = 1_000_000
_HIGHEST_MOMENT = 40


@dataclass(frozen=True)
class Laws:
    """A batch of quadratic laws.

    Attributes
    ----------
    w, g : (P, r) arrays
    c : (P,) array
    """

    w: Float[np.ndarray, "P r"]
    g: Float[np.ndarray, "P r"]
    c: Float[np.ndarray, " P"]

    def __len__(self) -> int:
        return self.c.size

    def __getitem__(self, rows: np.ndarray | slice) -> Laws:
        return Laws(self.w[rows], self.g[rows], self.c[rows])

    def __neg__(self) -> Laws:
        return Laws(-self.w, -self.g, -self.c)

    def plus(self, by: Float[np.ndarray, " P"] | float) -> Laws:
        """The laws of ``M + by``."""
        return Laws(self.w, self.g, self.c + by)

    def mean(self) -> Float[np.ndarray, " P"]:
        """``E M``."""
        return self.c + self.w.sum(axis=1)

    def variance(self) -> Float[np.ndarray, " P"]:
        """``Var M``."""
        return (2 * self.w**2 + self.g**2).sum(axis=1)

    def limit(self) -> Float[np.ndarray, " P"]:
        """The theta from which on K is infinite."""
        with np.errstate(divide="ignore"):
            return np.where(self.w.min(axis=1) < 0, -0.5 / self.w.min(axis=1), np.inf)

    def floor(self) -> Float[np.ndarray, " P"]:
        """Greatest lower bound of the values, by completing squares; ``-inf`` where there is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = np.where(self.w > 0, self.g**2 / (4 * self.w), 0.0).sum(axis=1)
        unbounded = (self.w < 0).any(axis=1) | ((self.w == 0) & (self.g != 0)).any(axis=1)
        return np.where(unbounded, -np.inf, self.c - squares)

    def log_laplace(self, theta: Complex[np.ndarray, " P"] | Float[np.ndarray, " P"]) -> np.ndarray:
        """``K`` at one point for each law."""
        t = theta[:, None]
        u = 1 + 2 * self.w * t
        return -self.c * theta + 0.5 * ((self.g * t) ** 2 / u - np.log(u)).sum(axis=1)

    def slope(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """``K'``."""
        t = theta[:, None]
        u = 1 + 2 * self.w * t
        return -self.c - (self.w / u).sum(axis=1) + (self.g**2 * t * (1 + self.w * t) / u**2).sum(axis=1)

    def curvature(self, theta: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """``K''``."""
        u = 1 + 2 * self.w * theta[:, None]
        return (2 * (self.w / u) ** 2 + self.g**2 / u**3).sum(axis=1)


def chernoff_point(law: Laws, bracket: float = _BRACKET) -> Float[np.ndarray, " P"]:
    """Where K is least on ``theta >= 0``: 0 where ``E M <= 0``, infinite where M is positive for certain."""
    limit, natural = law.limit(), 1 / np.sqrt(law.variance())
    sure = law.floor() > 0
    live = np.flatnonzero((law.mean() > 0) & ~sure)
    out = np.where(sure, np.inf, 0.0)
    low, high = np.zeros(len(law)), np.minimum(limit, natural)
    at = np.where(np.isfinite(limit), np.minimum(natural, limit / 2), natural)
    bounded = np.isfinite(limit) & (limit <= natural)
    for _ in range(_BISECTIONS):
        if not live.size:
            break
        below = law[live].slope(at[live]) < 0
        low[live] = np.where(below, at[live], low[live])
        high[live] = np.where(below, high[live], at[live])
        bounded[live] |= ~below
        beyond = live[below & ~bounded[live]]
        high[beyond] = np.minimum(limit[beyond], 4 * low[beyond])
        bounded[beyond] = high[beyond] == limit[beyond]
        at[live] = np.where(bounded[live], (low[live] + high[live]) / 2, high[live])
        done = bounded[live] & (high[live] - low[live] <= bracket * np.minimum(low[live], limit[live] - low[live]))
        live = live[~done]
    return np.where(out == 0, np.where(law.mean() > 0, at, 0.0), out)


def log_chernoff(law: Laws, point: Float[np.ndarray, " P"] | None = None) -> Float[np.ndarray, " P"]:
    """Log of ``inf E exp(-theta M)``, a bound on ``P(M <= 0)``; -inf where M is positive for certain."""
    point = chernoff_point(law) if point is None else point
    certain = np.isinf(point)
    return np.where(certain, -np.inf, np.minimum(law.log_laplace(np.where(certain, 0.0, point)), 0.0))


def log_probability(law: Laws) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """``log P(M <= 0)`` and the relative error of the probability, judged by the last halving of the step."""
    step = max(1, _BLOCK // (16 * max(1, law.w.shape[1])))
    parts = [_log_probability(law[start : start + step]) for start in range(0, len(law), step)]
    value, error = (np.concatenate(column) for column in zip(*parts, strict=True))
    return value, error


def _log_probability(law: Laws) -> tuple[np.ndarray, np.ndarray]:
    # The smaller tail, which can be had to a relative accuracy; the other is its complement.
    turned = law.mean() < 0
    sign = np.where(turned, -1.0, 1.0)
    tail = Laws(law.w * sign[:, None], law.g * sign[:, None], law.c * sign)
    certain = tail.floor() > 0
    log_p, error = np.full(len(law), -np.inf), np.zeros(len(law))
    rows = np.flatnonzero(~certain)
    if rows.size:
        log_p[rows], error[rows] = _along_hyperbola(tail[rows])
    with np.errstate(divide="ignore"):
        other = np.log(-np.expm1(np.minimum(log_p, 0.0)))
    return np.where(turned, other, log_p), error


def _along_hyperbola(law: Laws) -> tuple[np.ndarray, np.ndarray]:
    """``(1 / 2 pi i) int exp(K(theta)) / theta`` along ``a + k (e (cosh u - 1) + i sinh u)``, which bends to where it decays."""
    limit, deviation = law.limit(), np.sqrt(law.variance())
    a = np.maximum(chernoff_point(law), np.minimum(0.7 / deviation, np.where(np.isfinite(limit), limit / 2, np.inf)))
    k = np.minimum(1 / np.sqrt(law.curvature(a)), a)
    k = np.where(np.isfinite(limit), np.minimum(k, limit - a), k)
    base = law.log_laplace(a)
    e = _inclinations(law, a, k, base)

    def terms(rows: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Imaginary parts of integrand times derivative at some u for each law."""
        out = np.empty((rows.size, u.size))
        part = law[rows]
        for j, at in enumerate(u):
            theta = a[rows] + k[rows] * (e[rows] * (np.cosh(at) - 1) + 1j * np.sinh(at))
            along = k[rows] * (e[rows] * np.sinh(at) + 1j * np.cosh(at))
            out[:, j] = (np.exp(part.log_laplace(theta) - base[rows]) / theta * along).imag
        return out

    first = terms(np.arange(len(law)), np.zeros(1))[:, 0] / 2
    total, h = _summed(terms, first, 0.0, _STEP), _STEP
    value, change = h * total, np.full(len(law), np.inf)
    live = np.arange(len(law))
    for _ in range(_HALVINGS):
        total[live] += _summed(lambda rows, u, of=live: terms(of[rows], u), np.zeros(live.size), -h / 2, h, np.abs(total[live]))
        h /= 2
        refined = h * total[live]
        change[live] = np.abs(refined - value[live]) / np.abs(refined)
        value[live] = refined
        live = live[~(change[live] <= _AGREED)]
        if not live.size:
            break
    with np.errstate(invalid="ignore", divide="ignore"):
        # Halving the step squares the error of a sum that has begun to converge.
        return base + np.log(value / np.pi), np.where(change <= _AGREED, change**1.5, change)


def _inclinations(law: Laws, a: np.ndarray, k: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Upright where the transform falls fast; else to the side on which it falls the sooner and never rises on the way."""
    chosen, ends = np.zeros(len(law)), np.full(len(law), np.inf)
    slow = np.flatnonzero(_modulus(law, a, k, base, 0.0, np.array([_UPRIGHT]))[:, 0] > _GONE)
    if slow.size:
        part, u = law[slow], np.linspace(0.25, _END, 120)
        for e in (0.0, _INCLINATION, -_INCLINATION):
            size = _modulus(part, a[slow], k[slow], base[slow], e, u)
            gone = np.where((size > _GONE).all(axis=1), np.inf, u[np.argmax(size <= _GONE, axis=1)])
            better = (gone < ends[slow]) & (size.max(axis=1) < _RISE)
            chosen[slow[better]], ends[slow[better]] = e, gone[better]
    return chosen


def _modulus(law: Laws, a: np.ndarray, k: np.ndarray, base: np.ndarray, e: float, u: np.ndarray) -> np.ndarray:
    """Log of the modulus of the integrand, relative to its start, at some u."""
    size = np.empty((len(law), u.size))
    for j, at in enumerate(u):
        theta = a + k * (e * (np.cosh(at) - 1) + 1j * np.sinh(at))
        size[:, j] = (law.log_laplace(theta) - base).real + at - np.log(np.abs(theta) / a)
    return size


def _summed(terms, start: np.ndarray, offset: float, h: float, beside: np.ndarray | float = 0.0) -> np.ndarray:
    """The sum of terms at ``offset + j h``, j = 1, 2, ..., to where they are negligible beside it."""
    total, live, j = start.copy(), np.arange(start.size), 1
    scale = np.abs(start) + beside
    while live.size and offset + j * h < _END:
        block = terms(live, offset + h * np.arange(j, j + 4))
        total[live] += block.sum(axis=1)
        scale[live] = np.maximum(scale[live], np.abs(block).max(axis=1))
        live = live[np.abs(block).max(axis=1) > _NEGLIGIBLE * scale[live]]
        j += 4
    return total


def largest_exponent(gap: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The largest t with ``a sqrt(t) + b t <= gap``: the root of a quadratic in ``sqrt(t)``; 0 without a gap."""
    gap = np.maximum(gap, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.where(b > 0, (np.sqrt(a**2 + 4 * b * gap) - a) / (2 * b), gap / a)
        # Where b is small the difference cancels; the other form of the root does not.
        root = np.where(b * gap < 1e-3 * a**2, 2 * gap / (a + np.sqrt(a**2 + 4 * b * gap)), root)
    return root**2


def log_bernstein(law: Laws) -> Float[np.ndarray, " P"]:
    """L1b: ``-t`` with ``E M = sqrt(2 V t) + 2 w_- t``."""
    return -largest_exponent(law.mean(), np.sqrt(2 * law.variance()), 2 * np.maximum(0.0, -law.w.min(axis=1)))


def _x(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return variance / (variance + mean**2)


def log_cantelli(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """L7: ``V / (V + (E M)^2)``."""
    return np.where(mean > 0, np.log(_x(mean, variance)), 0.0)


def log_unimodal(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """L9: four ninths of Cantelli's where ``(E M)^2 >= 5 V / 3``, else four thirds of it less one third."""
    x = _x(mean, variance)
    value = np.where(mean**2 >= 5 * variance / 3, 4 * x / 9, 4 * x / 3 - 1 / 3)
    return np.where(mean > 0, np.log(np.clip(value, 1e-300, 1.0)), 0.0)


def log_moments(law: Laws) -> Float[np.ndarray, " P"]:
    """L10: the least over even p up to 40 of ``E |M - E M|^p / (E M)^p``."""
    step = max(1, _BLOCK // (40 * law.w.shape[1]))
    return np.concatenate([_log_moments(law[start : start + step]) for start in range(0, len(law), step)])


def _log_moments(law: Laws) -> np.ndarray:
    mean, deviation = law.mean(), np.sqrt(law.variance())
    w, g = law.w / deviation[:, None], law.g / deviation[:, None]
    n = np.arange(2, _HIGHEST_MOMENT + 1)
    powers = (2 * w[:, :, None]) ** (n - 2)
    # Coefficients of the cumulant function of the centred law: kappa_n / n!.
    series = np.zeros((len(law), _HIGHEST_MOMENT + 1))
    series[:, 2:] = (2 * w[:, :, None] ** 2 * powers).sum(axis=1) / n + 0.5 * (g[:, :, None] ** 2 * powers).sum(axis=1)
    # exp(K) = 1 + K (1 + K / 2 (1 + K / 3 (...))), where K begins with the square: twenty factors reach order 40.
    out = np.zeros_like(series)
    out[:, 0] = 1.0
    for k in range(_HIGHEST_MOMENT // 2, 0, -1):
        product = np.zeros_like(series)
        for j in range(2, _HIGHEST_MOMENT + 1):
            product[:, j:] += series[:, j, None] * out[:, : _HIGHEST_MOMENT + 1 - j]
        out = product / k
        out[:, 0] += 1.0
    p = np.arange(2, _HIGHEST_MOMENT + 1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(out[:, p]) + gammaln(p + 1) - p * np.log(mean / deviation)[:, None]
    return np.where(mean > 0, np.minimum(ratio.min(axis=1), 0.0), 0.0)
