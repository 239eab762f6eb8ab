"""Batches of queries of one task (L4), and where the slack of every rung goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from theory import InputError, Measured, QueryLaw, Rule, Signatures, ladder, slack, well_specified
from theory.batch import batch_bound, task_exponents
from theory.slack import PIECES
from theory.testing import Setting, covariance, settings


def test_l_one_half_is_the_bhattacharyya_coefficient_of_two_gaussians_of_one_volume():
    """Where the optimum is at one half (mirror images), the base is the coefficient to the last digits."""
    rng = np.random.default_rng(0)
    C = covariance(rng, 5)
    D = rng.normal(size=5)
    sig = Signatures(np.stack([-D, D]), np.stack([C, C]), np.array([0, 1]))
    base = task_exponents(Rule(sig), well_specified(sig))
    assert base[0, 1] == pytest.approx(-4 * D @ np.linalg.solve(C, D) / 8, rel=1e-12)
    assert base[0, 0] == -np.inf


@given(settings(), st.integers(2, 50))
@hypothesis_settings(max_examples=20)
def test_the_exponent_is_linear_in_the_batch(setting, size):
    rule, law = setting.build()
    base = task_exponents(rule, law)
    for k in range(rule.signatures.tasks):
        if np.isfinite(base[k]).sum() == 1 and base[k].max() < 0:
            assert batch_bound(base[k], size) == pytest.approx(size * batch_bound(base[k], 1), rel=1e-9, abs=1e-9)
        assert batch_bound(base[k], size) <= batch_bound(base[k], 1) + 1e-9


@pytest.mark.parametrize("kind", ["max", "mixture", "angular"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_bound_is_at_least_the_simulated_error_of_batches(kind, size):
    for seed in range(3):
        rule, law = Setting(seed, 3, (1, 2, 2), 1.0, kind=kind).build()
        found = ladder(rule, law, simulations=0, intersections=0, batch=size)
        rng = np.random.default_rng(seed)
        for k in range(3):
            part = law.members(k)
            own = QueryLaw(law.means[part], law.covariances[part], law.task[part], law.cluster[part], law.weights[part])
            x, _ = own.sample(4000 * size, rng)
            # `sample` returns queries component by component; a batch mixes them.
            retrieved = rule.retrieve_batches(x[rng.permutation(len(x))], size)
            errors = int((retrieved != k).sum())
            low = stats.beta.ppf(1e-8, errors, 4000 - errors + 1) if errors else 0.0
            assert found.tasks[k]["L4"].value >= low
    assert ("batches of 5" in found.overall["L4"].source) == (size == 5)


def test_batches_of_one_query_are_single_queries():
    rule, law = Setting(1, 3, (1, 2), 1.0).build()
    x, _ = law.sample(50, np.random.default_rng(0))
    assert (rule.retrieve_batches(x, 1) == rule.retrieve(x)).all()
    with pytest.raises(InputError, match="size"):
        rule.retrieve_batches(x, 7)
    with pytest.raises(InputError, match="batch"):
        ladder(rule, law, batch=0)


@given(settings(), st.sampled_from(["log10", "probability"]))
@hypothesis_settings(max_examples=15)
def test_the_pieces_of_the_slack_add_up(setting, scale):
    rule, law = setting.build()
    found = ladder(rule, law, simulations=2000, intersections=0)
    table = slack(found, Measured(37, 400, 0.95), scale=scale)
    known = table.dropna(subset=[*PIECES, "total"])
    assert np.allclose(known[list(PIECES)].sum(axis=1), known["total"], atol=1e-9)
    assert set(table["rung"]) == set(found.overall)
    overall = table[table["level_of"] == "overall"].set_index("rung")
    if scale == "probability":
        assert overall.loc["L3", "total"] == pytest.approx(found.overall["L3"].value - 37 / 400, abs=1e-9)
        # What is proved: the union is not below the simulated law beyond noise, Chernoff not below the exact pair.
        assert overall.loc["L3", "inequality"] >= -1e-9
        assert overall.loc["L7", "union"] == pytest.approx(overall.loc["L5", "union"])


def test_without_a_measurement_the_simulated_law_is_the_reference():
    rule, law = Setting(0, 3, (1, 1), 1.0).build()
    table = slack(ladder(rule, law, simulations=2000, intersections=0))
    assert (table["assumption"].dropna() == 0).all()
    with pytest.raises(InputError, match="scale"):
        slack(ladder(rule, law, simulations=0, intersections=0), scale="nats")  # type: ignore[arg-type]


def test_a_measurement_of_what_is_not_bounded_is_refused():
    found = ladder(*Setting(0, 3, (1, 1), 1.0).build(), simulations=0, intersections=0)
    for key in ("overall", ("task", 2), ("cluster", 0)):
        with pytest.raises(InputError, match="measured: has the key"):
            slack(found, {key: Measured(3, 40, 0.95)})
