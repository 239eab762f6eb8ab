"""Synthetic sweeps against closed forms, and against the ladder that they stand for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import log_ndtr

from theory import InputError, ladder, separation_for
from theory.curves import (
    CURVE_RUNGS,
    PUBLISHED,
    bound_against_separation,
    finite_sample,
    own_ellipsoid,
    required_separation,
    simplex_error,
    simplex_signatures,
)
from theory.planner import canonical_bound
from theory.published import Inputs, criterion, tail_claim
from theory.tied import tied_error


def test_every_curve_is_the_ladder_of_the_signatures_it_stands_for():
    found = bound_against_separation((6,), tasks=3, deltas=(0.5, 3.0, 8.0), simulations=0)
    for delta, rows in found.groupby("delta"):
        rungs = ladder(simplex_signatures(6, 3, delta).to_dense(), simulations=0, intersections=0).overall
        for name in CURVE_RUNGS:
            row = rows[rows["rung"] == name].iloc[0]
            assert row["log_value"] == pytest.approx(rungs[name].log_value, abs=1e-8), name
            assert row["vacuous"] == rungs[name].vacuous, name


@pytest.mark.parametrize("rung", ["L1", "L3", "L5"])
def test_the_planner_has_the_same_closed_forms(rung):
    frame = bound_against_separation((8, 64), tasks=5, points=4, rungs=(rung,), simulations=0)
    for row in frame[frame["rung"] == rung].itertuples():
        assert row.log_value == pytest.approx(canonical_bound(rung, row.dimension, 5, 1, row.delta).log_value, abs=1e-7)


@pytest.mark.parametrize("rho", [0.5, 3.0, 20.0, 60.0])
def test_the_error_of_two_tasks_is_a_normal_tail_however_small(rho):
    assert simplex_error(2, rho) == pytest.approx(float(log_ndtr(-rho / 2)), rel=1e-10)


@pytest.mark.parametrize(("tasks", "rho"), [(3, 1.0), (5, 2.5)])
def test_the_error_of_more_tasks_is_the_orthant_of_the_margins(tasks, rho):
    # Standardised margins to the other corners of a simplex are normal with mean rho/2 and correlation one half.
    n = tasks - 1
    right = stats.multivariate_normal(np.zeros(n), 0.5 * np.eye(n) + 0.5).cdf(np.full(n, rho / 2))
    assert np.exp(simplex_error(tasks, rho)) == pytest.approx(1 - right, abs=1e-5)


def test_a_small_error_is_that_of_tied_covariances():
    rho = 9.0
    found = tied_error(simplex_signatures(3, 3, rho**2 / 3).to_dense(), np.random.default_rng(0))[0]
    assert simplex_error(3, rho) == pytest.approx(found.log_p, abs=max(1e-4, 5 * found.relative_error))


def test_no_bound_is_below_the_exact_error_and_simulation_covers_it():
    frame = bound_against_separation((8, 40), tasks=4, points=5, simulations=4000)
    for _, rows in frame.groupby(["dimension", "delta"]):
        exact = rows.loc[rows["rung"] == "exact", "log_value"].item()
        bounds = rows[rows["rung"].isin(CURVE_RUNGS)]
        assert (bounds["log_value"] >= exact - 1e-9).all()
        seen = rows[rows["rung"] == "simulated"].iloc[0]
        # Ten intervals at 95%: each is missed by little if at all.
        assert seen["low"] * 0.8 <= np.exp(exact) <= seen["high"] * 1.2
        assert seen["low"] <= seen["error"] <= seen["high"] and seen["n"] == 4000
    deepest = frame[frame["rung"] == "L1"].groupby("dimension")["value"].min()
    assert (deepest <= 1e-3 * 1.001).all()


def test_a_seed_gives_the_same_table_and_another_seed_another():
    one, two, other = (
        bound_against_separation((8,), points=2, rungs=("L1",), simulations=500, rng=np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    pd.testing.assert_frame_equal(one, two)
    assert not one["error"].equals(other["error"])


def test_what_our_rungs_require_suffices_and_is_what_the_planner_says():
    frame = required_separation((2, 5, 9), (8, 64), eps=0.02)
    ours = frame[~frame["criterion"].isin(PUBLISHED.values())]
    for row in ours.itertuples():
        assert row.delta == separation_for(row.tasks, 1, row.dimension, 0.02, row.criterion).answer
        assert row.proved and row.tail_holds and not row.fails and row.error <= 0.02
    for x in ("tasks", "dimension"):
        for _, rows in ours.groupby(["criterion", "dimension" if x == "tasks" else "tasks"]):
            delta = rows.sort_values(x)["delta"].to_numpy()
            assert (np.diff(delta) > 0).all() if x == "tasks" else (np.diff(delta) < 0).all()


def test_the_published_readings_are_the_criterion_restated_and_say_where_they_fail():
    frame = required_separation((5,), (8, 384), eps=0.01)
    for reading, name in PUBLISHED.items():
        for row in frame[frame["criterion"] == name].itertuples():
            inputs = Inputs(d=row.dimension, tasks=5, components=5, kappa=0.0, sigma2=1.0, eps=0.01, delta=row.delta * 1.001)
            verdict = criterion(inputs)
            assert verdict.passes(reading) and row.delta == getattr(verdict, f"required_{reading.value}")
            assert row.tail_holds == tail_claim(row.dimension, inputs.log_ratio, reading).holds
            assert row.fails == (row.error > 0.01) and not (row.fails and row.proved)
    small = frame[(frame["dimension"] == 8) & (frame["criterion"] == "published, reading (a)")].iloc[0]
    # It asks for three times the dimension; five unit Gaussians at squared distance 24 are confused far more often than once in a hundred.
    assert small["delta"] == 3.0 and small["fails"] and small["error"] > 0.02


def test_the_error_is_not_known_where_there_is_no_room_or_there_are_several_components():
    assert required_separation((10,), (8,))["error"].isna().all()
    assert required_separation((3,), (8,), components=2)["error"].isna().all()
    assert required_separation((9,), (8,))["error"].notna().all()


def test_the_plug_in_error_falls_to_that_of_the_true_signature():
    frame = finite_sample(6, (1.5, 4, 400), draws=80, eps=0.05).set_index("kind")
    true = frame.loc["true signature", "error"].to_numpy()
    assert true == pytest.approx(0.05, rel=1e-4)
    drawn, bound = frame.loc["plug-in, drawn"], frame.loc["plug-in, proved bound"]
    assert (np.diff(drawn["error"]) < 0).all() and (drawn["error"] > true).all()
    assert drawn["error"].iloc[-1] == pytest.approx(0.05, rel=0.02)
    assert (bound["error"] >= drawn["low"].to_numpy()).all() and ((drawn["low"] <= drawn["error"]) & (drawn["error"] <= drawn["high"])).all()
    assert list(drawn["n"]) == [9, 24, 2400]


def test_with_three_tasks_the_plug_in_error_is_simulated():
    frame = finite_sample(4, (300,), tasks=3, draws=20, simulations=4000, eps=0.1).set_index("kind")
    # L5 counts an overlap twice: the true error is a little less.
    assert 0.08 < frame.loc["true signature", "error"] < 0.1
    assert frame.loc["plug-in, drawn", "error"] == pytest.approx(frame.loc["true signature", "error"], abs=0.02)


def test_a_fresh_point_is_outside_its_own_ellipsoid_as_often_as_f_says():
    frame = own_ellipsoid(5, (1.4, 3, 50), draws=1500).set_index("kind")
    exact, seen = frame.loc["outside, exact (F)"], frame.loc["outside, simulated"]
    for n, value in zip(exact["n"], exact["error"], strict=True):
        # Hotelling's law, written out.
        scale = 5 * (n - 1) * (n + 1) / (n * (n - 5))
        assert value == pytest.approx(stats.f.sf(stats.chi2.ppf(0.95, 5) / scale, 5, n - 5))
    assert ((seen["low"].to_numpy() <= exact["error"]) & (exact["error"] <= seen["high"].to_numpy())).all()


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: simplex_signatures(3, 5, 1.0), "dimension"),
        (lambda: simplex_signatures(8, 1, 1.0), "tasks"),
        (lambda: simplex_signatures(8, 3, -1.0), "delta"),
        (lambda: bound_against_separation((8,), rungs=("L6",)), "rungs"),
        (lambda: bound_against_separation((8,), simulations=-1), "simulations"),
        (lambda: bound_against_separation((8,), points=1), "points"),
        (lambda: required_separation((2,), (8,), eps=1.5), "eps"),
        (lambda: finite_sample(4, ()), "ratios"),
        (lambda: own_ellipsoid(4, (-1.0,)), "ratios"),
        (lambda: own_ellipsoid(4, mass=1.0), "mass"),
    ],
)
def test_bad_input_is_refused(call, argument):
    with pytest.raises(InputError) as refused:
        call()
    assert refused.value.argument == argument
