"""Score a batch under all signatures: ours against torch's multivariate normal and scikit-learn's mixture, in one run.

Prints ratios (rival over ours, the median of alternating repeats, with their range); above one, ours is faster. One thread
for all: the thread pools of NumPy and torch would otherwise wait on each other.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from theory import Rule, Signatures

TASKS, CLUSTERS, REPEATS = 5, 6, 9


def _sklearn(signatures: Signatures) -> list[GaussianMixture]:
    models = []
    for k in range(TASKS):
        own = signatures.own(k)
        model = GaussianMixture(len(own))
        model.means_, model.covariances_ = signatures.means[own], signatures.covariances[own]
        model.weights_ = np.full(len(own), 1 / len(own))
        model.precisions_cholesky_ = np.swapaxes(signatures.gaussians.whiteners[own], -1, -2)
        models.append(model)
    return models


def main() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
    rng = np.random.default_rng(0)
    for d in (32, 384):
        for n in (1, 16, 128, 1024):
            K = TASKS * CLUSTERS
            G = rng.normal(size=(K, d, 2 * d))
            sig = Signatures(rng.normal(size=(K, d)), G @ np.swapaxes(G, -1, -2) / (2 * d), np.repeat(np.arange(TASKS), CLUSTERS))
            x = rng.normal(size=(n, d))
            rule, models, tx = Rule(sig), _sklearn(sig), torch.from_numpy(x)
            laws = [
                torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c), validate_args=False)
                for m, c in zip(sig.means, sig.covariances, strict=True)
            ]
            works = {
                "ours": lambda rule=rule, x=x: rule.scores(x[:, None]),
                "torch": lambda laws=laws, tx=tx: torch.stack([law.log_prob(tx) for law in laws], 1),
                "sklearn": lambda models=models, x=x: [m.score_samples(x) for m in models],
            }
            # The same numbers up to the constant d log 2 pi, or the comparison means nothing.
            ours, theirs = works["ours"](), works["torch"]().numpy()
            np.testing.assert_allclose(ours, -2 * theirs - d * np.log(2 * np.pi), rtol=1e-7)
            times: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(REPEATS):
                for name, work in works.items():
                    start = time.perf_counter()
                    work()
                    times[name].append(time.perf_counter() - start)
            for name in ("torch", "sklearn"):
                ratio = np.array(times[name]) / np.array(times["ours"])
                print(f"d={d} n={n} K={K}: {name} / ours = {np.median(ratio):.1f} ({ratio.min():.1f} to {ratio.max():.1f})")


if __name__ == "__main__":
    main()
