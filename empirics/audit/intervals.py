"""Binomial limits and tests by other routes than `theory.certificates` and `empirics.reports.verdicts` take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import gammaln, xlog1py, xlogy


def log_binomial(j: np.ndarray, n: int, p: float) -> float:
    """Log of the probability that a binomial number is one of some, as a sum."""
    terms = gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1) + xlogy(j, p) + xlog1py(n - j, -p)
    top = terms.max()
    return float(top + np.log(np.exp(terms - top).sum()))


def upper_limit(errors: int, n: int, beta: float) -> float:
    """The p at which so few errors have probability beta; ``1 - beta / n`` at ``n - 1`` errors, for samples of several strata."""
    if errors == n:
        return 1.0
    if errors == n - 1:
        return 1 - beta / n
    rate = errors / n
    return _root(lambda p: log_binomial(np.arange(errors + 1), n, p) - np.log(beta), max(rate, 1e-300), 1 - 1e-16)


def interval(errors: int, n: int, confidence: float) -> tuple[float, float]:
    """Two-sided limits; the lower one is the upper one of the successes, mirrored."""
    half = (1 - confidence) / 2
    if errors == 0:
        low = 0.0
    elif errors == 1:
        low = half / n
    else:
        # P(Bin(n, p) >= errors) = half, where the sum over many errors is that over few successes at 1 - p.
        low = _root(lambda p: log_binomial(np.arange(errors, n + 1), n, p) - np.log(half), 1e-300, errors / n)
    return low, upper_limit(errors, n, half)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(f, low, high, xtol=1e-300, rtol=1e-14, maxiter=500))


def binary_kl(q: float, p: float) -> float:
    """``kl(q, p)`` in nats."""
    first = 0.0 if q == 0 else q * (np.log(q) - np.log(p))
    second = 0.0 if q == 1 else (1 - q) * (np.log1p(-q) - np.log1p(-p))
    return float(first + second)


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sample p-value in the large-sample law: the greatest distance between the two empirical distribution functions."""
    x, y = np.sort(x), np.sort(y)
    points = np.concatenate([x, y])
    distance = np.abs(np.searchsorted(x, points, side="right") / x.size - np.searchsorted(y, points, side="right") / y.size).max()
    return float(np.clip(stats.kstwo.sf(distance, np.round(x.size * y.size / (x.size + y.size))), 0, 1))
