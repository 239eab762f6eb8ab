"""Rare errors anew: the run's own draws by importance, weighed by other code, and limits of their mean by betting.

A query component c is drawn tilted by ``exp(-theta_s M_s)`` towards one wrong component s; the weight of an error is then one over
``sum_s exp(-theta_s M_s)``, and ``sum_s exp(K_s)`` the most that it stands for (theory/README.md, L6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from empirics.audit.forms import Pairs, QueryLaw, Scores, about, stacked
from empirics.audit.tails import chernoff_point

# Bracket of the tilt: draws depend on it to first order.
_TILT = 1e-13
# Bets are cut at this part of what could lose all; a limit is found to this part of its distance from the mean.
_CAUTION, _PRECISION, _BISECTIONS = 0.5, 1e-5, 60


@dataclass(frozen=True)
class Rare:
    """Weighted indicators of errors.

    Attributes
    ----------
    values : (n,) array
        In [0, 1].
    component : (n,) int array
    log_mass, share : (C,) arrays
        Log of the most that a component adds to the error, and the probability with which it was drawn.
    """

    values: Float[np.ndarray, " n"]
    component: Int[np.ndarray, " n"]
    log_mass: Float[np.ndarray, " C"]
    share: Float[np.ndarray, " C"]

    def limits(
        self, members: Bool[np.ndarray, " C"], weights: Float[np.ndarray, " C"], confidence: float
    ) -> tuple[float, float, float, int]:
        """Log of the mean, of its lower and of its upper limit (-inf where 0), and the number of draws, among some components."""
        rows = members[self.component]
        n = int(rows.sum())
        total = np.log(weights[members].sum())
        ratio = np.where(members, self.log_mass - np.log(self.share), -np.inf) + np.log(self.share[members].sum())
        top = ratio.max()
        if n == 0 or top == -np.inf:
            return -np.inf, -np.inf, 0.0 if n == 0 else -np.inf, n
        values = self.values[rows] * np.exp(ratio - top)[self.component[rows]]
        delta = (1 - confidence) / 2
        low, high = betting_limit(values, values, delta), 1 - betting_limit(1 - values, values, delta)
        low, high = min(low, high), max(low, high)
        most = logsumexp(self.log_mass[members]) - total
        with np.errstate(divide="ignore"):
            mean, low, high = (np.log(x) + top - total for x in (values.mean(), low, high))
        return min(float(mean), 0.0), min(float(low), 0.0), min(float(high), float(most), 0.0), n


def draw_rare(scores: Scores, law: QueryLaw, pairs: Pairs, n: int, rng: np.random.Generator) -> Rare:
    """Draw n queries by importance, as a run does that expects few errors."""
    theta = chernoff_point(pairs.margin, _TILT)
    possible = np.isfinite(theta)
    theta = np.where(possible, theta, 0.0)
    log_k = np.where(possible, pairs.margin.log_laplace(theta), -np.inf)
    parts = [pairs.rows(c) for c in range(len(law))]
    union = np.array([logsumexp(log_k[rows]) if possible[rows].any() else -np.inf for rows in parts])
    log_mass, share = np.log(law.weights) + np.minimum(union, 0.0), law.weights
    if np.isfinite(log_mass).any():
        share = (share + np.exp(log_mass - logsumexp(log_mass))) / 2
    roots = np.linalg.cholesky(law.covariances)
    counts = rng.multinomial(n, share / share.sum())
    values, component = [], []
    for c in np.flatnonzero(counts):
        component.append(np.full(counts[c], c))
        if union[c] == -np.inf:
            values.append(np.zeros(counts[c]))
            continue
        plain, rows = union[c] >= 0, np.arange(parts[c].start, parts[c].stop)
        if plain:
            z = rng.standard_normal((counts[c], roots.shape[1]))
        else:
            weight = np.exp(log_k[rows] - logsumexp(log_k[rows]))
            drawn = rng.multinomial(counts[c], weight / weight.sum())
            z = np.concatenate(
                [_tilted(scores, law, pairs, roots[c], int(c), s, theta[s], k, rng) for s, k in zip(rows, drawn, strict=True) if k]
            )
        x = (z @ roots[c].T).reshape(counts[c], *law.means.shape[1:]) + law.means[c]
        each = scores.each(x)
        wrong = scores.joined(each).argmin(axis=1) != law.task[c]
        live = rows[possible[rows]]
        M = each[:, pairs.wrong[live]] - pairs.slack[live] - each[:, [pairs.reference[c]]]
        values.append(wrong * (1.0 if plain else np.exp(-np.maximum(logsumexp(-theta[live] * M, axis=1), 0.0))))
    order = rng.permutation(n)
    return Rare(np.concatenate(values)[order], np.concatenate(component)[order], log_mass, share)


def _tilted(
    scores: Scores, law: QueryLaw, pairs: Pairs, root: np.ndarray, c: int, s: int, theta: float, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Standard normal coordinates under the density ``exp(-theta M)``: Gaussian again, of precision ``1 + 2 theta A``."""
    spaces, d = law.means.shape[1:]
    views = scores.views(spaces)
    A, b = np.zeros_like(root), np.zeros(len(root))
    for component, task, sign in ((pairs.wrong[s], scores.task[pairs.wrong[s]], 1), (pairs.reference[c], law.task[c], -1)):
        H, h, _ = about(scores, int(component), int(task), law.means[c], views, spaces)
        seen = root[stacked(views[task], d)]
        A, b = A + sign * seen.T @ H @ seen, b + sign * seen.T @ h
    factor = np.linalg.cholesky(np.eye(len(root)) + 2 * theta * A)
    centre = -theta * solve_triangular(factor, b, lower=True)
    return solve_triangular(factor, rng.standard_normal((len(root), n)) + centre[:, None], lower=True, trans="T").T


def betting_limit(values: Float[np.ndarray, " n"], shown: Float[np.ndarray, " n"], delta: float) -> float:
    """Lower limit of the mean of values in [0, 1]: the greatest m against which bets won ``1 / delta`` (Waudby-Smith and Ramdas 2023).

    Bets on each value follow from those shown before it, whose variance is that of the values.
    """
    n = values.size
    t = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(shown)) / (t + 1)
    variance = (0.25 + np.cumsum((shown - mean) ** 2)) / (t + 1)
    bets = np.sqrt(2 * np.log(1 / delta) / (np.concatenate([[0.25], variance[:-1]]) * n))
    low, high, centre = 0.0, 1.0, values.mean()
    for _ in range(_BISECTIONS):
        m = (low + high) / 2
        won = np.cumsum(np.log1p(np.minimum(bets, _CAUTION / m) * (values - m))).max() >= np.log(1 / delta) + 1e-9
        low, high = (m, high) if won else (low, m)
        if high - low <= _PRECISION * abs(centre - low):
            break
    return low
