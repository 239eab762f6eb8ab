"""L6: the error under a query law by simulation, plain or with importance sampling that stays right for rare events (theory/README.md, L6).

Importance sampling draws for a query component c a wrong component s with probability ``exp(K_cs) / U_c``,
``U_c = sum_s exp(K_cs)``, then a query from component c tilted by ``exp(-theta_s M_s)`` (Gaussian again), ``theta_s`` the
Chernoff optimum and ``K_cs`` its log-bound. The weighted indicator of an error is then ``U_c / sum_s exp(-theta_s M_s)``:
where an error occurs some ``M_s <= 0``, so it lies between 0 and ``U_c``, the union of Chernoff bounds (L3). A bounded mean
has intervals of finite-sample validity; no variance needs to be trusted. Half of the draws go to components by what they
may contribute to the whole error, half by their weights, so that tasks and clusters that hardly ever err have draws too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from theory.bound import Assumption, Bound, nothing_known
from theory.certificates import clopper_pearson, upper_limit
from theory.margin import Margins, law_views, margins, score_forms, stacked_rows
from theory.mixture import QueryLaw, Rule
from theory.monitor import bounded_mean_interval
from theory.tails import saddlepoint

Method = Literal["plain", "importance"]
SOURCE = "Monte Carlo of rule and law"
# Bytes of queries and scores that are drawn at once.
_BLOCK_BYTES = 2**26


@dataclass(frozen=True)
class Simulated:
    """Draws of a simulation: value ``v`` in [0, 1] of each, whose mean times ``exp(log_scale)`` is the error.

    Attributes
    ----------
    values : (n,) array
        Indicators of an error for plain sampling; weighted indicators, relative to their upper end, else.
    label : (n,) int array
        Query component of each draw.
    log_mass : (C,) array
        Log of the most that each component can contribute to the error: ``w_c``, times its union of Chernoff bounds (at
        most one) for importance sampling.
    share : (C,) array
        Probability that a draw is given to each component.
    weights : (C,) array
        Of the query components, summing to one.
    method : {"plain", "importance"}
    """

    values: Float[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    log_mass: Float[np.ndarray, " C"]
    share: Float[np.ndarray, " C"]
    weights: Float[np.ndarray, " C"]
    method: Method

    def bound(self, members: Bool[np.ndarray, " C"], confidence: float, level: Assumption, name: str = "L6") -> Bound:
        """Upper side with lower side and estimate, each side failing with probability at most half of ``1 - confidence``.

        Parameters
        ----------
        members : (C,) bool array
            The query components spoken of.
        confidence : float
        level : Assumption
        name : str
        """
        rows = members[self.label]
        n = int(rows.sum())
        if n == 0:
            return nothing_known(name, level, "no draws; raise the number of simulations", SOURCE)
        # Given how many draws fall among the members, they are independent draws of the restricted proposal, in which
        # component c stands for mass_c / share_c of the error.
        log_ratio = np.where(members, self.log_mass - np.log(self.share), -np.inf) + np.log(self.share[members].sum())
        log_total = float(np.log(self.weights[members].sum()))
        log_scale = float(log_ratio.max()) - log_total
        if log_scale == -np.inf:
            return Bound(name, level, -np.inf, source=f"{SOURCE}: no error is possible under the law", confidence=confidence, estimate=0.0)
        values = self.values[rows] * np.exp(log_ratio - log_ratio.max())[self.label[rows]]
        if self.method == "plain":
            errors = int(values.sum())
            low, high = clopper_pearson(errors, n, confidence)[0], upper_limit(errors, n, (1 - confidence) / 2)
            how = f"{n} draws"
        else:
            low, high = bounded_mean_interval(values, 1.0, confidence)
            how = f"importance sampling, {n} draws"
        mean = float(values.mean())
        most = float(logsumexp(self.log_mass[members])) - log_total + 1e-12
        return Bound(
            name,
            level,
            min(float(np.log(high)) + log_scale, most),
            source=f"{SOURCE}, {how}",
            confidence=confidence,
            log_lower=min(float(np.log(low)) + log_scale, 0.0) if low > 0 else None,
            log_estimate=min(float(np.log(mean)) + log_scale, 0.0) if mean > 0 else None,
            estimate=min(1.0, float(mean * np.exp(log_scale))),
        )


def simulate(rule: Rule, law: QueryLaw, n: int, rng: np.random.Generator) -> Simulated:
    """Draw n queries from the law and retrieve each."""
    spaces, d = law.means.shape[1:]
    block = max(1, _BLOCK_BYTES // (8 * spaces * d + 8 * len(rule.signatures)))
    values, labels = [], []
    for start in range(0, n, block):
        x, label = law.sample(min(block, n - start), rng)
        values.append(rule.retrieve(x) != law.task[label])
        labels.append(label)
    found = np.concatenate(values).astype(np.float64)
    return Simulated(found, np.concatenate(labels), np.log(law.weights), law.weights, law.weights, "plain")


def simulate_rare(rule: Rule, law: QueryLaw, n: int, rng: np.random.Generator, found: Margins | None = None) -> Simulated:
    """Draw n queries from tilted components; the cost of a given relative accuracy hardly depends on how rare errors are.

    A component whose union of Chernoff bounds reaches one is sampled as it is.

    Parameters
    ----------
    rule, law
    n : int
    rng : numpy.random.Generator
    found : Margins, optional
        Margins of the rule under the law, if known already.

    Raises
    ------
    InputError
        As `margins`.
    """
    found = margins(rule, law) if found is None else found
    C, edges = len(law), found.edges
    theta = saddlepoint(found.margin)
    # Margins that are surely positive cause no error; margins without a positive mean are not tilted.
    possible = np.isfinite(theta)
    theta = np.where(possible, theta, 0.0)
    log_k = np.where(possible, found.margin.log_laplace(theta[:, None])[:, 0], -np.inf)
    union = np.array([logsumexp(log_k[edges[c] : edges[c + 1]]) if possible[edges[c] : edges[c + 1]].any() else -np.inf for c in range(C)])
    log_mass = np.log(law.weights) + np.minimum(union, 0.0)
    share = law.weights
    if np.isfinite(log_mass).any():
        share = (share + np.exp(log_mass - logsumexp(log_mass))) / 2
    counts = rng.multinomial(n, share / share.sum())
    values, labels = [], []
    for c in np.flatnonzero(counts):
        labels.append(np.full(counts[c], c))
        if union[c] == -np.inf:
            values.append(np.zeros(counts[c]))
            continue
        pairs = np.arange(edges[c], edges[c + 1])
        plain = union[c] >= 0
        x = _plain(law, int(c), int(counts[c]), rng) if plain else _tilted(rule, law, found, int(c), theta, log_k, int(counts[c]), rng)
        values.append(_values(rule, law, found, int(c), pairs, x, theta, possible, plain))
    # Drawn component by component, but used as one sequence of independent draws by intervals that bet on the next.
    order = rng.permutation(n)
    return Simulated(np.concatenate(values)[order], np.concatenate(labels)[order], log_mass, share, law.weights, "importance")


def _plain(law: QueryLaw, c: int, n: int, rng: np.random.Generator) -> np.ndarray:
    z = rng.standard_normal((n, law.factors.shape[1]))
    return (z @ law.factors[c].T).reshape(n, *law.means.shape[1:]) + law.means[c]


def _tilted(
    rule: Rule, law: QueryLaw, found: Margins, c: int, theta: np.ndarray, log_k: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Queries of component c, each tilted towards the boundary with one wrong component."""
    edges = found.edges
    pairs = np.arange(edges[c], edges[c + 1])
    share = np.exp(log_k[pairs] - logsumexp(log_k[pairs]))
    drawn = rng.multinomial(n, share / share.sum())
    S, d = law.means.shape[1:]
    views, mean = law_views(rule, law), law.means[c].ravel()

    def form(s: int) -> tuple[np.ndarray, np.ndarray]:
        task = int(rule.signatures.task[s])
        rows = stacked_rows(views[task], d)
        A, b, _ = score_forms(rule, np.array([s]), None if law.shared else task, mean[rows], law.factors[c][rows])
        return A[0], b[0]

    A_own, b_own = form(int(found.reference[c]))
    out = []
    for pair, count in zip(pairs, drawn, strict=True):
        if count == 0:
            continue
        A, b = form(int(found.wrong[pair]))
        L = np.linalg.cholesky(np.eye(S * d) + 2 * theta[pair] * (A - A_own))
        centre = -theta[pair] * solve_triangular(L, b - b_own, lower=True, check_finite=False)
        z = solve_triangular(L, rng.standard_normal((S * d, count)) + centre[:, None], lower=True, trans="T", check_finite=False)
        out.append((law.factors[c] @ z).T.reshape(count, S, d) + law.means[c])
    return np.concatenate(out)


def _values(
    rule: Rule,
    law: QueryLaw,
    found: Margins,
    c: int,
    pairs: np.ndarray,
    x: np.ndarray,
    theta: np.ndarray,
    possible: np.ndarray,
    plain: bool,
) -> np.ndarray:
    """``1{error} / sum_s exp(-theta_s M_s)``, in [0, 1]; the indicator alone for a component sampled as it is."""
    out = np.empty(len(x))
    block = max(1, _BLOCK_BYTES // (8 * len(rule.signatures)))
    live = pairs[possible[pairs]]
    for start in range(0, len(x), block):
        part = slice(start, start + block)
        scores = rule.scores(x[part])
        wrong = np.argmin(rule.task_scores(scores), axis=1) != law.task[c]
        if plain:
            out[part] = wrong
            continue
        M = scores[:, found.wrong[live]] - found.slack[live] - scores[:, [int(found.reference[c])]]
        # Rounding may leave an error with every margin barely positive: the weight is cut at its upper end.
        out[part] = wrong * np.exp(-np.maximum(logsumexp(-theta[live] * M, axis=1), 0.0))
    return out
