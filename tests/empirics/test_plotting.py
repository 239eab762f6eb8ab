"""Figures of runs and comparisons, from reports written by hand: points where the data are, and no bound that looks better than it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy import stats

from empirics.figures.plotting import (
    plot_batch_leak,
    plot_decomposition,
    plot_embedding,
    plot_own_distances,
    plot_phases,
    plot_prediction,
    plot_retrieval_matrix,
    plot_rungs,
)
from empirics.figures.tables import (
    batch_table,
    decomposition_table,
    matrix_table,
    own_distance_table,
    phase_table,
    plane_table,
    rung_table,
    spread_plane,
)
from empirics.reports.report import Interval, LawRow, RungRow, Unit
from theory import InputError, Measured, Rule, Signatures, palette
from theory.finite import own_distance


@pytest.fixture
def ax():
    return Figure(figsize=(3.3, 3)).subplots()


def lines(ax, label):
    return [line.get_xydata().tolist() for line in ax.get_lines() if line.get_label() == label]


def line(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def rung(value, *, holds=True, guarantee=None, level="A3"):
    return RungRow(
        log_value=min(0.0, float(np.log(value))),
        value=min(1.0, value),
        direction="upper",
        level=level,
        vacuous=value >= 1,
        binding=None,
        confidence=None,
        source="",
        note="",
        holds=holds,
        broken_assumption=None if holds else f"query law ({level})",
        guarantee=holds and value < 1 if guarantee is None else guarantee,
    )


def unit(name, errors, n, rungs, verdict="not rejected"):
    law = LawRow(
        predicted=0.1,
        predicted_low=0.05,
        predicted_high=0.15,
        misfit_floor_nats=0.0,
        overdispersion_chi2=1.0,
        overdispersion_law=1.0,
        distance_p=0.5,
        verdict=verdict,
        reasons=[] if verdict == "not rejected" else ["predicts too few errors"],
    )
    return Unit(name=name, measured=Interval(**Measured(errors, n, 0.95).to_dict()), law=law, rungs=rungs)


@pytest.fixture
def units():
    return [
        unit("plain", 10, 100, {"L1": rung(3.0), "L3": rung(0.5), "L5": rung(0.3), "L11": rung(1.0)}),
        unit(
            "rejected $",
            5,
            100,
            {"L1": rung(0.9, guarantee=False), "L3": rung(0.6, guarantee=False), "L5": rung(0.4), "L11": rung(1.0)},
            "rejected",
        ),
        unit(
            "broken",
            40,
            100,
            {"L1": rung(0.8, guarantee=False), "L3": rung(0.5), "L5": rung(0.1, holds=False), "L11": rung(2.0)},
            "rejected",
        ),
        unit("clean", 0, 100, {"L1": rung(2.0), "L3": rung(1.0), "L5": rung(0.2), "L11": rung(1.0)}),
    ]


class TestRungs:
    def test_every_bound_stands_where_it_is_as_what_it_is(self, units, ax):
        plot_rungs(units, ax=ax)
        rows = [0.17, 1.17, 2.17, 3.17]
        assert lines(ax, "L5") == [[[pytest.approx(0.3), rows[0]], [pytest.approx(0.4), rows[1]], [pytest.approx(0.2), rows[3]]]]
        assert (
            lines(ax, "_L5 no guarantee") == lines(ax, "_L5 struck") == lines(ax, "_L5 contradicted") == [[[pytest.approx(0.1), rows[2]]]]
        )
        assert lines(ax, "_L3 no guarantee") == [[[pytest.approx(0.6), rows[1]]]]
        for label in ("_L5 no guarantee", "_L1 vacuous"):
            assert line(ax, label).get_markerfacecolor() == "white"
        assert line(ax, "_L5 contradicted").get_marker() == "x" and line(ax, "_L5 contradicted").get_color() == palette.BROKEN
        ((one, two),) = lines(ax, "_L1 vacuous")
        assert one[0] > 1 and two[0] > 1 and [one[1], two[1]] == [rows[0], rows[3]]
        # Two vacuous rungs of one unit do not hide each other.
        assert lines(ax, "_L3 vacuous")[0][0][0] != two[0]

    def test_what_is_vacuous_everywhere_is_named_once_and_verdicts_stand_below_the_names(self, units, ax):
        plot_rungs(units, ax=ax)
        assert "vacuous throughout: L11" in ax.get_xlabel() and not lines(ax, "_L11 vacuous")
        assert "\nvacuous" in [t.get_text() for t in ax.get_xticklabels()]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["plain", "rejected \\$\nlaw rejected", "broken\nA3 broke", "clean"]
        assert {"no guarantee", "contradicted"} <= {t.get_text() for t in ax.get_legend().get_texts()}

    @pytest.mark.parametrize("size", [(3.3, 3), (6, 4), (8, 6)])
    def test_the_legend_lies_below_the_labels_however_many_lines_they_have(self, units, size):
        ax = Figure(figsize=size, dpi=100, layout="constrained").subplots()
        plot_rungs(units, ax=ax)
        ax.figure.canvas.draw()
        assert ax.get_legend().get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0

    def test_measured_errors_have_their_intervals_and_none_is_an_arrow(self, units, ax):
        plot_rungs(units, ax=ax)
        intervals = [[x for x, _ in xys] for xys in lines(ax, "_interval")]
        assert intervals == [[u.measured.low, u.measured.high] for u in units[:3]]
        assert lines(ax, "_clean measured") == [[[units[3].measured.high, pytest.approx(2.73)]]]
        assert [t.xyann[0] for t in ax.texts if t.arrow_patch is not None] == [units[3].measured.high]

    def test_the_table_is_what_is_drawn(self, units):
        table = rung_table(units)
        assert len(table) == 16 and list(table["unit"].unique()) == [u.name for u in units]
        row = table[(table["unit"] == "broken") & (table["rung"] == "L5")].iloc[0]
        assert (row["value"], row["holds"], row["guarantee"]) == (pytest.approx(0.1), False, False)
        assert row["broken_assumption"] == "query law (A3)" and row["law"] == "rejected" and row["reasons"] == "predicts too few errors"
        with pytest.raises(InputError, match="units"):
            rung_table([])

    def test_a_figure_of_guarantees_alone_explains_no_other_mark(self, ax):
        plot_rungs([unit("plain", 10, 100, {"L5": rung(0.3)})], ax=ax)
        assert [t.get_text() for t in ax.get_legend().get_texts()] == ["L5"]


class TestOwnDistances:
    def test_shares_and_laws_are_those_of_the_closed_forms(self):
        q = stats.chi2(4).rvs(200, random_state=np.random.default_rng(0))
        counts = np.repeat([9, 30], 100)
        table = own_distance_table(q, 4, counts, law=np.array([1.0, 2.0, 50.0]))
        assert (np.diff(table["distance"]) >= 0).all()
        assert table["measured"].tolist() == pytest.approx([(q >= x).mean() for x in table["distance"]])
        assert table["chi_square"].tolist() == pytest.approx(stats.chi2.sf(table["distance"], 4))
        mixed = (own_distance(9, 4).sf(table["distance"]) + own_distance(30, 4).sf(table["distance"])) / 2
        assert table["f"].tolist() == pytest.approx(mixed)
        assert table["query_law"].tolist() == pytest.approx([(np.array([1, 2, 50]) >= x).mean() for x in table["distance"]])
        # The band holds for the law that it was drawn from.
        assert ((table["low"] <= table["chi_square"]) & (table["chi_square"] <= table["high"])).all()

    def test_there_is_no_f_where_samples_do_not_exceed_dimensions(self, ax):
        assert own_distance_table(np.ones(3), 4, 4)["f"].isna().all()
        plot_own_distances(np.arange(1.0, 9.0), dimension=4, count=4, ax=ax)
        said = [t.get_text() for t in ax.get_legend().get_texts()]
        assert said == ["95% band", "measured", r"$\chi^2_{4}$"]

    def test_the_curve_is_the_table(self, ax):
        q = np.array([1.0, 3.0, 2.0, 8.0])
        plot_own_distances(q, dimension=3, count=20, ax=ax)
        table = own_distance_table(q, 3, 20)
        assert line(ax, "measured").get_xydata().tolist() == table[["distance", "measured"]].to_numpy().tolist()
        assert line(ax, "F, by samples").get_ydata().tolist() == table["f"].tolist()

    @pytest.mark.parametrize("bad", [np.array([]), np.array([-1.0]), np.array([np.nan]), np.ones((2, 2))])
    def test_bad_distances_are_refused(self, bad):
        with pytest.raises(InputError, match="squared distances"):
            own_distance_table(bad, 3)

    def test_bad_settings_are_refused(self):
        with pytest.raises(InputError, match="dimension"):
            own_distance_table(np.ones(2), 0)
        with pytest.raises(InputError, match="count"):
            own_distance_table(np.ones(2), 3, np.array([8, 9, 10]))


def test_predictions_stand_beside_what_was_measured_and_hollow_if_rejected(ax):
    frame = pd.DataFrame(
        {
            "dimension": [8, 8, 16, 16],
            "law": ["mixture", "gaussian"] * 2,
            "measured": [0.1, 0.1, 0.0, 0.0],
            "low": [0.05, 0.05, 0.0, 0.0],
            "high": [0.2, 0.2, 0.03, 0.03],
            "predicted": [0.12, 0.04, 0.02, 0.01],
            "predicted_low": [0.11, 0.03, 0.01, 0.005],
            "predicted_high": [0.13, 0.05, 0.03, 0.02],
            "verdict": ["not rejected", "rejected", "not rejected", "not rejected"],
        }
    )
    plot_prediction(frame, ax=ax)
    assert [xys[0] for xys in lines(ax, "_measured point")] == [[8, 0.1], [16, 0.03]]
    assert line(ax, "predicted, mixture").get_ydata().tolist() == [0.12, 0.02]
    rejected = line(ax, "predicted, gaussian: law rejected")
    assert rejected.get_ydata().tolist() == [0.04] and rejected.get_markerfacecolor() == "white"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["8", "16"]
    with pytest.raises(InputError, match="lacks the columns"):
        plot_prediction(frame.drop(columns="verdict"), ax=ax)


class TestRetrievalMatrix:
    MATRIX = ([1.0], [0.5, 0.999], [0.0, 0.25, 1.0])

    def test_cells_say_their_numbers_on_one_scale_and_nothing_is_an_image(self, ax):
        plot_retrieval_matrix(self.MATRIX, ["a", "b$", "c"], ax=ax)
        assert [t.get_text() for t in ax.texts] == ["1", ".50", ".99", ".00", ".25", "1"]
        (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
        assert mesh.get_clim() == (0, 1) and not ax.images
        assert mesh.get_array().filled(-1).tolist() == [[1, -1, -1], [0.5, 0.999, -1], [0, 0.25, 1]]
        assert [t.get_text() for t in ax.get_xticklabels()] == ["a", r"b\$", "c"]

    def test_the_table_has_a_row_for_every_cell(self):
        table = matrix_table(self.MATRIX, ["a", "b", "c"])
        assert table["share"].tolist() == [1.0, 0.5, 0.999, 0.0, 0.25, 1.0]
        assert table["stage"].tolist() == [1, 2, 2, 3, 3, 3] and table["task"].tolist() == ["a", "a", "b", "a", "b", "c"]

    @pytest.mark.parametrize("matrix", [([1.0],), ([1.0], [0.5]), ([1.5], [0.5, 0.5]), ([np.nan], [0.5, 0.5])])
    def test_what_is_no_stage_matrix_is_refused(self, matrix):
        with pytest.raises(InputError, match="matrix"):
            matrix_table(matrix, ["a", "b"])


@pytest.fixture
def comparison():
    def method(name, role, accuracy, error, batches):
        return {
            "name": name,
            "role": role,
            "accuracy": accuracy,
            "retrieval_error": error,
            "macro_retrieval_error": error + 0.01,
            "within_task_accuracy": accuracy / (1 - error),
            "intervals": {"accuracy": [accuracy - 0.05, accuracy + 0.04]},
            "batch_retrieval_error": batches,
        }

    rows = [
        method("ours", "method", 0.7, 0.1, {"4": 0.02, "16": 0.0}),
        method("told", "control", 0.8, 0.0, {}),
        method("x", "rival", 0.4, 0.5, {"4": 0.4, "16": 0.3}),
    ]
    return {"methods": rows}


class TestComparison:
    def test_bars_lead_from_right_over_both_losses_to_one(self, comparison, ax):
        plot_decomposition(comparison, ax=ax)
        table = decomposition_table(comparison)
        bars = {c.get_label(): c for c in ax.containers if hasattr(c, "patches")}
        for label, column in (("right", "accuracy"), ("task right, class wrong", "lost_within_task"), ("task wrong", "lost_to_retrieval")):
            assert [bar.get_width() for bar in bars[label]] == pytest.approx(table[column].tolist())
        assert [bar.get_x() + bar.get_width() for bar in bars["task wrong"]] == pytest.approx([1, 1, 1])
        assert table["accuracy"].tolist() == pytest.approx((table["retrieval"] * table["within_task"]).tolist())
        assert [t.get_text() for t in ax.get_yticklabels()] == ["ours", "(told)", "x"]
        assert len({bar.patches[0].get_hatch() for bar in bars.values()}) == 3

    def test_the_leak_is_named_a_control_and_zero_has_a_line_of_its_own(self, comparison, ax):
        plot_batch_leak(comparison, ax=ax)
        assert ax.get_title() == "leak control, not a method"
        assert line(ax, "ours").get_xdata().tolist() == [1, 4, 16]
        below = line(ax, "ours").get_ydata()
        assert below[:2].tolist() == pytest.approx([0.11, 0.02])
        ticks = dict(zip([t.get_text() for t in ax.get_yticklabels()], ax.get_yticks(), strict=True))
        assert below[2] == ticks["0"] < 0.02 and ticks["1"] == 1
        assert batch_table(comparison)["method"].unique().tolist() == ["ours", "x"]

    def test_what_is_no_comparison_is_refused(self, comparison):
        with pytest.raises(InputError, match="has no methods"):
            decomposition_table({})
        for row in comparison["methods"]:
            row["batch_retrieval_error"] = {}
        with pytest.raises(InputError, match="scored no method in batches"):
            batch_table(comparison)


class TestEmbedding:
    @pytest.fixture
    def signatures(self):
        means = np.zeros((4, 5))
        means[:, 3], means[:, 1] = [10, -10, 0, 0], [0, 0, 4, -4]
        return Signatures(means, np.stack([np.eye(5)] * 4), np.array([0, 0, 1, 1]))

    def test_the_plane_is_that_in_which_the_means_spread_most(self, signatures):
        z = signatures.means[np.arange(200) % 4] + np.random.default_rng(0).normal(size=(200, 5))
        plane = spread_plane(signatures.means, z)
        assert np.abs(plane.basis.T) == pytest.approx(np.eye(5)[[3, 1]], abs=1e-12) and (plane.basis.max(axis=0) > 0.99).all()
        total = z.var(axis=0)
        assert plane.share == pytest.approx((total[3] + total[1]) / total.sum())
        assert plane.points(signatures.means) == pytest.approx(signatures.means[:, [3, 1]])

    def test_means_on_a_line_are_completed_by_the_embeddings(self):
        z = np.random.default_rng(0).normal(size=(300, 3)) * [1, 9, 2]
        plane = spread_plane(np.array([[1.0, 0, 0], [-1.0, 0, 0]]), z)
        assert np.abs(plane.basis.T) == pytest.approx(np.eye(3)[[0, 1]], abs=0.05)

    def test_documents_and_ellipses_are_drawn_where_the_table_says(self, signatures, ax):
        rng = np.random.default_rng(0)
        task = np.arange(40) % 2
        z = signatures.means[2 * task] + rng.normal(size=(40, 5))
        plot_embedding(z[:, None], task, Rule(signatures), ["a", "b"], ax=ax)
        table = plane_table(z[:, None], task, signatures, ["a", "b"])
        for name in ("a", "b"):
            rows = table[(table["kind"] == "document") & (table["task"] == name)]
            assert lines(ax, name) == [rows[["x", "y"]].to_numpy().tolist()]
        ellipses = [p for p in ax.patches if isinstance(p, Ellipse)]
        rows = table[table["kind"] == "signature"]
        assert [list(e.center) for e in ellipses] == rows[["x", "y"]].to_numpy().tolist() and len(ellipses) == 4
        assert rows["xx"].tolist() == pytest.approx([1] * 4) and f"{table['share'][0]:.0%}" in ax.get_xlabel()

    def test_in_a_space_of_its_own_only_a_tasks_components_live(self, signatures):
        z = np.random.default_rng(0).normal(size=(10, 2, 5))
        table = plane_table(z, np.arange(10) % 2, signatures, ["a", "b"], space=1)
        assert table.loc[table["kind"] == "signature", "task"].tolist() == ["b", "b"]
        seen = spread_plane(signatures.means[2:], z[:, 1]).points(z[:, 1])
        assert table.loc[table["kind"] == "document", ["x", "y"]].to_numpy() == pytest.approx(seen)

    def test_a_common_space_is_stacked_on_the_tasks_own(self):
        signatures = Signatures(np.arange(8.0).reshape(2, 4), np.stack([np.eye(4)] * 2), np.arange(2))
        z = np.random.default_rng(0).normal(size=(10, 3, 2))
        table = plane_table(z, np.arange(10) % 2, signatures, ["a", "b"], space=1)
        stacked = np.concatenate([z[:, 0], z[:, 2]], axis=1)
        assert table["share"][0] == pytest.approx(spread_plane(signatures.means[1:], stacked).share)

    @pytest.mark.parametrize(
        ("z", "task", "space", "argument"),
        [
            (np.zeros((3, 1, 5)), [0, 1], 0, "task"),
            (np.zeros((3, 1, 5)), [0, 1, 2], 0, "task"),
            (np.zeros((3, 1, 5)), [0, 1, 1], 2, "space"),
            (np.zeros((3, 1, 4)), [0, 1, 1], 0, "spaces"),
        ],
    )
    def test_bad_input_is_refused(self, signatures, z, task, space, argument):
        with pytest.raises(InputError) as refused:
            plane_table(z, np.array(task), signatures, ["a", "b"], space)
        assert refused.value.argument == argument


RUN = {"phases_seconds": {"read": 2.0, "train $": 5.5}, "peak_memory_bytes": 2**30}


class TestPhases:
    def test_seconds_are_bars_and_memory_is_told(self, ax):
        plot_phases(RUN, ax=ax)
        (bars,) = ax.containers
        assert [bar.get_width() for bar in bars] == [2.0, 5.5]
        assert [t.get_text() for t in ax.get_yticklabels()] == ["read", r"train \$"]
        assert "1.00 GiB" in ax.get_title() and [t.get_text() for t in ax.texts] == ["2.0 s", "5.5 s"]

    def test_memory_by_phase_is_told_where_a_run_has_it(self, ax):
        plot_phases(RUN | {"phases_peak_bytes": {"read": 2**29}}, ax=ax)
        assert [t.get_text() for t in ax.texts] == ["2.0 s, 0.50 GiB", "5.5 s"]
        assert phase_table(RUN)["peak_bytes"].isna().all()

    def test_an_unfinished_run_is_refused(self):
        with pytest.raises(InputError, match="did not finish"):
            phase_table({"schema": 2})
