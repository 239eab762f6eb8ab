"""The exact pair against gx2, and the separation of all pairs against the products it needs and a loop that inverts.

Prints ratios (rival over ours, or ours over the products; the median of alternating repeats, with their range) on one
thread, in one run and in processor time, so that waiting for other work on the machine counts for neither. The exact pair
starts, for both, from components that are factored already.
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
import warnings
from collections.abc import Callable

import gx2
import mpmath
import numpy as np
from threadpoolctl import threadpool_limits

from theory import QuadraticLaw, Rule, Signatures, separation, tail_probability
from theory.margin import score_forms

REPEATS, PAIRS = 9, 20


def _times(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    times = {name: np.empty(repeats) for name in works}
    for r in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name][r] = time.process_time() - start
    return times


def _ratio(rival: np.ndarray, ours: np.ndarray) -> str:
    ratio = rival / ours
    return f"{np.median(ratio):.1f} ({ratio.min():.1f} to {ratio.max():.1f})"


def _reference(w: np.ndarray, g: np.ndarray, c: float) -> mpmath.mpf:
    """``P(c + sum(w z^2 + g z) <= 0)`` at 30 digits: the trapezoidal rule on the vertical line through the saddlepoint."""
    with mpmath.workdps(30):
        terms = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(w, g, strict=True)]

        def laplace(theta: mpmath.mpc) -> mpmath.mpc:
            log = -theta * c
            for a, b in terms:
                e = 1 + 2 * a * theta
                log += (b * theta) ** 2 / (2 * e) - mpmath.log(e) / 2
            return log

        # Any point inside the strip will do; this one is near the saddlepoint.
        top = mpmath.inf if min(w) >= 0 else -1 / (2 * mpmath.mpf(float(min(w))))
        low, high = mpmath.mpf(0), min(top, mpmath.mpf(100))
        for _ in range(40):
            mid, step = (low + high) / 2, (high - low) / 1000
            rising = (laplace(mid + step) - mpmath.log(mid + step)).real > (laplace(mid - step) - mpmath.log(mid - step)).real
            low, high = (low, mid) if rising else (mid, high)
        at = (low + high) / 2
        curvature = sum(2 * (a / (1 + 2 * a * at)) ** 2 + b * b / (1 + 2 * a * at) ** 3 for a, b in terms) + 1 / at**2
        h, base, total, k = 1 / (12 * mpmath.sqrt(curvature)), laplace(at), mpmath.mpf(0), 0
        while True:
            theta = mpmath.mpc(at, k * h)
            value = mpmath.exp(laplace(theta) - base) / theta
            total += value.real / (2 if k == 0 else 1)
            if abs(value) * at < mpmath.mpf(10) ** -20:
                return mpmath.exp(base) * total * h / mpmath.pi
            k += 1


def exact_pair(rng: np.random.Generator) -> None:
    """A pair whose law is known by design, so that both answers can be set against 30 digits."""
    for d, deviations in ((16, 2.0), (64, 3.0), (384, 3.5), (384, 9.0)):
        # The second covariance is B diag(1 / lam) B' where the first is B B': the margin has weights lam - 1 exactly.
        B = rng.normal(size=(d, d)) / np.sqrt(d) + 2 * np.eye(d)
        lam, a = np.exp(rng.normal(size=d) * 0.3), rng.normal(size=d)
        w = lam - 1
        # The distance between the means sets how many standard deviations the margin's mean is above zero.
        constant = -np.log(lam).sum()
        scale = 1.0
        for _ in range(60):
            spread = np.sqrt(2 * w @ w + 4 * scale**2 * lam @ a**2)
            scale *= np.sqrt(max(deviations * spread - constant - w.sum(), 1e-3) / (scale**2 * (a * a).sum())) ** 0.5
        truth = _reference(w, 2 * scale * a * np.sqrt(lam), float(scale**2 * (a * a).sum() + constant))
        means = np.stack([np.zeros(d), -(B / np.sqrt(lam)) @ (scale * a)])
        sig = Signatures(means, np.stack([B @ B.T, (B / lam) @ B.T]), np.array([0, 1]))
        rule, factor = Rule(sig), np.linalg.cholesky(sig.covariances[0])
        # The query's own score is one form, shared by all its pairs.
        own = score_forms(rule, np.array([0]), None, means[0], factor)
        kappa = sig.constants[1] - sig.constants[0]
        precision = np.linalg.inv(sig.covariances)
        form = {
            "q2": precision[1] - precision[0],
            "q1": -2 * precision[1] @ means[1],
            "q0": float(means[1] @ precision[1] @ means[1] + kappa),
        }

        def ours(rule=rule, factor=factor, own=own, means=means) -> float:
            A, b, c = score_forms(rule, np.array([1]), None, means[0], factor)
            return float(tail_probability(QuadraticLaw.of_forms(A - own[0], b - own[1], c - own[2])).log_p[0])

        def theirs(sig=sig, means=means, form=form) -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return float(np.squeeze(gx2.cdf(0.0, *gx2.norm_quad_to_gx2_params(means[0], sig.covariances[0], form))))

        for warm in (theirs, ours) * 3:
            # The first calls at a size also pay for fetching memory.
            warm()
        times = _times({"gx2": theirs, "ours": ours}, REPEATS)
        error = [abs(float(p / truth - 1)) for p in (mpmath.exp(ours()), mpmath.mpf(theirs()))]
        print(
            f"exact pair, d={d}, P={mpmath.nstr(truth, 3)}: gx2 / ours = {_ratio(times['gx2'], times['ours'])}; "
            f"ours {1e3 * np.median(times['ours']):.1f} ms; relative error ours {error[0]:.0e}, gx2 {error[1]:.0e}"
        )


def all_pairs(rng: np.random.Generator, K: int, d: int, repeats: int) -> None:
    need, free = 5 * K * d * d * 8, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > free:
        raise SystemExit(f"separation of {K} clusters at d={d} needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} are free; use --clusters")
    covariances = np.empty((K, d, d))
    scale = np.arange(1, d + 1) ** -0.5
    for k in range(K):
        G = rng.normal(size=(d, 2 * d)) * scale[:, None]
        covariances[k] = G @ G.T / (2 * d)
    size = covariances.nbytes
    tracemalloc.start()
    sig = Signatures(rng.normal(size=(K, d)) * scale, covariances, np.arange(K) % 5)
    building = tracemalloc.get_traced_memory()[1]
    del covariances
    tracemalloc.reset_peak()
    bounded = separation(sig, variance="bound")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    left, right = np.ones((K, d * d)), np.ones((K, d * d))

    def products() -> None:
        # <P, C> and <P^2, C^2> of all pairs.
        for _ in range(2):
            left @ right.T

    def loop() -> None:
        for c, s in pairs:
            P, C, D = np.linalg.inv(sig.covariances[s]), sig.covariances[c], sig.means[c] - sig.means[s]
            PC, PD = P @ C, P @ D
            delta, variance = (np.trace(PC) + D @ PD) / d - 1, 2 * np.trace(PC @ PC) + 4 * PD @ C @ PD
            found.append((delta, variance))

    found: list[tuple[float, float]] = []
    pairs = rng.integers(0, K, size=(PAIRS, 2))
    times = _times({"ours": lambda: separation(sig, variance="bound"), "products": products, "loop": loop}, repeats)
    # The same delta and no smaller a V, or the comparison means nothing.
    delta, variance = np.array(found[:PAIRS]).T
    np.testing.assert_allclose(bounded.delta[tuple(pairs.T)], delta, rtol=1e-8, atol=1e-8)
    looseness = bounded.variance[tuple(pairs.T)] / variance
    assert (looseness >= 1 - 1e-9).all()
    whole = times["loop"] * (K * K / PAIRS)
    print(f"separation of {K} clusters, d={d}, V bounded: {np.median(times['ours']):.1f} s")
    print(f"  bound of V / V = {np.median(looseness):.3f}, at most {looseness.max():.3f}, for {PAIRS} pairs")
    print(f"  ours / the two products = {_ratio(times['ours'], times['products'])}")
    print(f"  loop with an inverse per pair / ours = {_ratio(whole, times['ours'])}, the loop extrapolated from {PAIRS} pairs")
    print(f"  peak memory, signatures included: {peak / size:.2f} times the covariances; to build the signatures: {building / size:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    threadpool_limits(1)
    rng = np.random.default_rng(0)
    exact_pair(rng)
    all_pairs(rng, given.clusters, given.dimension, given.repeats)


if __name__ == "__main__":
    main()
