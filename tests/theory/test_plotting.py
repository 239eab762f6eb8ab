"""What is drawn stands where the data say, and nothing that a reader must see is lost."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from theory import Assumption, Bound, InputError, Measured, Signatures, ladder, palette, slack
from theory.curves import bound_against_separation, finite_sample, required_separation
from theory.marks import error_scale, literal
from theory.plotting import (
    plot_bound_against_separation,
    plot_finite_sample,
    plot_gaussians,
    plot_ladder,
    plot_required_separation,
    plot_slack,
)


@pytest.fixture
def ax():
    return Figure(figsize=(3.3, 3)).subplots()


def lines(ax, label):
    """Points of the lines of a label."""
    return [line.get_xydata().tolist() for line in ax.get_lines() if line.get_label() == label]


def line(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found


def tick_labels(axis):
    return dict(zip([t.get_text().strip() for t in axis.get_ticklabels()], axis.get_ticklocs(), strict=True))


def rung(name, value, **rest):
    return Bound(name, Assumption.A4, math.log(value), **rest)


def judged(value, *, guarantee, holds=True):
    """A rung of a report, which carries its own verdict."""
    return SimpleNamespace(log_value=math.log(value), vacuous=value >= 1, guarantee=guarantee, holds=holds)


class TestLadder:
    def test_bounds_stand_at_their_values_and_vacuous_ones_beyond_one(self, ax):
        rungs = {"L1": rung("L1", 5.0), "L3": rung("L3", 0.2), "L5": rung("L5", 0.05, log_lower=math.log(0.02))}
        plot_ladder(rungs, measured=Measured(3, 100, 0.95), ax=ax)
        assert lines(ax, "L3") == [[[pytest.approx(0.2), 1]]] and lines(ax, "L5") == [[[pytest.approx(0.05), 2]]]
        assert line(ax, "_sides").get_xdata().tolist() == pytest.approx([0.02, 0.05])
        (((at, row),),) = lines(ax, "_L1 vacuous")
        ticks = tick_labels(ax.xaxis)
        assert row == 0 and at == ticks["vacuous"] > 1 and ax.get_xlim()[1] > at
        assert (
            line(ax, "_L1 vacuous").get_markerfacecolor() == "white" and line(ax, "L3").get_markerfacecolor() == palette.RUNGS["L3"].colour
        )
        assert list(tick_labels(ax.yaxis)) == ["measured", "L1", "L3", "L5"]

    def test_a_bound_below_the_interval_is_crossed_and_struck(self, ax):
        plot_ladder({"L5": rung("L5", 0.01), "L3": rung("L3", 0.5)}, measured=Measured(30, 100, 0.95), ax=ax)
        for label in ("_L5 no guarantee", "_L5 struck", "_L5 contradicted"):
            assert lines(ax, label) == [[[pytest.approx(0.01), 0]]]
        assert line(ax, "_L5 contradicted").get_marker() == "x" and line(ax, "_L5 no guarantee").get_markerfacecolor() == "white"
        assert not lines(ax, "L5") and not lines(ax, "_L3 contradicted")

    def test_the_verdict_of_a_report_is_what_counts(self, ax):
        # By its own value the second would hold, and by its own the third would not: L4 of batches is judged by another event.
        rungs = {
            "L3": judged(0.5, guarantee=False),
            "L5": judged(0.5, guarantee=False, holds=False),
            "L4": judged(0.01, guarantee=True),
        }
        plot_ladder(rungs, measured=Measured(30, 100, 0.95), ax=ax)
        assert lines(ax, "_L3 struck") and not lines(ax, "L3") and not lines(ax, "_L3 contradicted")
        assert lines(ax, "_L5 contradicted") and lines(ax, "L4") and not lines(ax, "_L4 contradicted")

    def test_the_measured_interval_is_drawn_and_no_error_is_an_arrow_from_its_limit(self, ax):
        seen = Measured(5, 100, 0.95)
        plot_ladder({"L3": rung("L3", 0.5)}, measured=seen, ax=ax)
        assert line(ax, "_interval").get_xdata().tolist() == [seen.low, seen.high] and lines(ax, "measured") == [[[seen.error, -1]]]
        none = Measured(0, 100, 0.95)
        ax = plot_ladder({"L3": rung("L3", 0.5)}, measured=none, ax=Figure().subplots())
        assert not lines(ax, "_interval") and lines(ax, "measured") == [[[none.high, -1]]]
        (arrow,) = [text for text in ax.texts if text.arrow_patch is not None]
        assert arrow.xyann == (none.high, -1) and arrow.xy == (0, -1)

    @pytest.mark.parametrize("log_value", [-800.0, -1e5])
    def test_a_bound_beyond_floats_is_drawn_at_the_end_of_the_axis(self, ax, log_value):
        plot_ladder({"L5": Bound("L5", Assumption.A4, log_value)}, ax=ax)
        (((x, _),),) = lines(ax, "L5")
        assert ax.get_xlim()[0] <= x == pytest.approx(1e-300)

    def test_a_new_figure_is_made_without_axes(self):
        from matplotlib import pyplot

        ax = plot_ladder({"L3": rung("L3", 0.5)})
        assert ax.figure.number in pyplot.get_fignums()
        pyplot.close(ax.figure)


@pytest.fixture(scope="module")
def found():
    means = np.array([[0.0, 0], [3, 0], [0, 3]])
    return ladder(Signatures(means, np.stack([np.eye(2)] * 3), np.arange(3)), simulations=4000)


class TestSlack:
    def test_pieces_lead_from_the_measured_error_to_the_bound(self, found, ax):
        frame = slack(found, Measured(30, 400, 0.95)).query("level_of == 'overall'")
        plot_slack(frame, ax=ax)
        bars = {bars.get_label(): bars.patches[0] for bars in ax.containers}
        for row in frame.itertuples():
            own = [bars[label] for label in bars if label.startswith(f"_{row.rung} ")]
            assert own[0].get_x() == pytest.approx(30 / 400), row.rung
            ends = [bar.get_x() + bar.get_width() for bar in own]
            assert ends[:-1] == pytest.approx([bar.get_x() for bar in own[1:]]) and ends[-1] == pytest.approx(row.value)
            assert lines(ax, f"_{row.rung} value")[0][0][0] == pytest.approx(row.value)
        assert line(ax, "_L11 value").get_markerfacecolor() == "white" and line(ax, "_L3 value").get_markerfacecolor() == "black"

    def test_without_errors_the_rows_end_where_the_pieces_do(self, found, ax):
        frame = slack(found, Measured(0, 400, 0.95)).query("level_of == 'overall'")
        plot_slack(frame, ax=ax)
        labels = {bars.get_label() for bars in ax.containers}
        assert "_L3 union" in labels and "_L3 assumption" not in labels

    def test_a_bound_that_is_no_guarantee_is_struck_through(self, found, ax):
        frame = slack(found, Measured(30, 400, 0.95)).query("level_of == 'overall'")
        plot_slack(frame.assign(guarantee=frame["rung"] != "L3"), ax=ax)
        assert lines(ax, "_L3 struck") and not lines(ax, "_L5 struck")
        assert "no guarantee" in [text.get_text() for text in ax.get_legend().get_texts()]

    def test_differences_are_drawn_on_a_linear_axis(self, found, ax):
        plot_slack(slack(found, Measured(30, 400, 0.95), "probability").query("level_of == 'overall'"), scale="probability", ax=ax)
        assert ax.get_xscale() == "linear"

    def test_several_units_are_refused(self, found):
        with pytest.raises(InputError, match="holds a rung twice"):
            plot_slack(slack(found, Measured(30, 400, 0.95)), ax=Figure().subplots())


class TestCurves:
    def test_bounds_are_lines_and_vacuous_stretches_lie_in_the_strip(self, ax):
        frame = bound_against_separation((8,), points=5, simulations=300)
        plot_bound_against_separation(frame, ax=ax)
        for name in ("L1", "L5"):
            rows = frame[frame["rung"] == name]
            shown, silent = rows[~rows["vacuous"]], rows[rows["vacuous"]]
            assert line(ax, name).get_xydata() == pytest.approx(shown[["delta", "value"]].to_numpy())
            idle = line(ax, f"_{name} vacuous").get_xydata()
            assert idle[:, 0].tolist() == silent["delta"].tolist() and (idle[:, 1] > 1).all()
        assert "vacuous" in tick_labels(ax.yaxis) and ax.get_ylim()[0] < 1e-6
        points = frame[frame["rung"] == "simulated"]
        drawn = [xy for xys in lines(ax, "_simulated") for xy in xys]
        expected = [[row.delta, row.error or row.high] for row in points.itertuples()]
        assert drawn == expected and (points["error"] == 0).any()
        assert sum(text.arrow_patch is not None for text in ax.texts) == (points["error"] == 0).sum()

    def test_dimensions_are_told_by_the_line_and_not_more_than_can_be(self, ax):
        frame = bound_against_separation((8, 16), points=3, rungs=("L1",), simulations=0)
        plot_bound_against_separation(frame, ax=ax)
        assert line(ax, "L1, d = 8").get_linestyle() != line(ax, "L1, d = 16").get_linestyle()
        many = pd.concat([frame.assign(dimension=d) for d in range(5)])
        with pytest.raises(InputError, match="holds 5 dimensions"):
            plot_bound_against_separation(many, ax=ax)

    def test_what_is_not_proved_is_hollow_and_what_is_false_is_crossed(self, ax):
        frame = required_separation((5,), (8, 16, 64, 384))
        plot_required_separation(frame, x="dimension", ax=ax)
        a = "published, reading (a)"
        rows = frame[frame["criterion"] == a]
        assert line(ax, f"_{a} fails").get_xdata().tolist() == [8]
        hollow = line(ax, f"_{a} unproved")
        assert hollow.get_xdata().tolist() == rows.loc[~rows["proved"], "dimension"].tolist() != []
        assert hollow.get_markerfacecolor() == "white" and lines(ax, f"_{a} struck") == [hollow.get_xydata().tolist()]
        assert line(ax, "_L1").get_xydata() == pytest.approx(frame.loc[frame["criterion"] == "L1", ["dimension", "delta"]].to_numpy())
        said = [text.get_text() for text in ax.get_legend().get_texts()]
        assert f"{a} (tail claim false at 4 of 4)" in said and "not proved to suffice" in said and "error exceeded" in said
        with pytest.raises(InputError, match="several rows"):
            plot_required_separation(required_separation((5, 9), (8, 16)), x="dimension", ax=ax)
        with pytest.raises(InputError, match="choose tasks or dimension"):
            plot_required_separation(frame, x="delta", ax=ax)

    def test_exact_values_are_lines_and_simulated_ones_points_with_intervals(self, ax):
        frame = finite_sample(3, (1.5, 3), draws=200)
        plot_finite_sample(frame, quantity="error of two", ax=ax)
        for kind in ("true signature", "plug-in, proved bound"):
            assert line(ax, kind).get_xydata() == pytest.approx(frame.loc[frame["kind"] == kind, ["ratio", "error"]].to_numpy())
        seen = frame[frame["kind"] == "plug-in, drawn"]
        assert [xys[0] for xys in lines(ax, "_plug-in, drawn")] == seen[["ratio", "error"]].to_numpy().tolist()
        assert [np.array(xys)[:, 1].tolist() for xys in lines(ax, "_interval")] == seen[["low", "high"]].to_numpy().tolist()
        assert ax.get_ylabel() == "error of two"

    @pytest.mark.parametrize("plot", [plot_bound_against_separation, plot_finite_sample, plot_slack])
    def test_frames_that_lack_columns_or_rows_are_refused(self, plot, ax):
        with pytest.raises(InputError, match="lacks the columns"):
            plot(pd.DataFrame({"delta": [1.0]}), ax=ax)
        columns = ["dimension", "delta", "rung", "log_value", "vacuous", "error", "low", "high", "ratio", "kind", "value", "reference"]
        with pytest.raises(InputError, match="no rows"):
            plot(pd.DataFrame(columns=[*columns, "assumption", "union", "inequality", "robustness", "statistical"]), ax=ax)


class TestGaussians:
    def test_ellipses_are_those_of_the_covariances(self, ax):
        turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
        covariance = turn @ np.diag([4.0, 0.25]) @ turn.T
        plot_gaussians(np.array([[1.0, 2.0]]), covariance[None], labels=["a$b"], mass=0.9, ax=ax)
        (ellipse,) = [patch for patch in ax.patches if isinstance(patch, Ellipse)]
        assert ellipse.center == (1.0, 2.0)
        # Points of the edge lie at the squared radius that holds the mass.
        edge = ellipse.get_transform().transform(ellipse.get_path().vertices[[0, 6, 12, 18]])
        edge = ax.transData.inverted().transform(edge) - [1.0, 2.0]
        distance = np.einsum("ni,ij,nj->n", edge, np.linalg.inv(covariance), edge)
        assert distance == pytest.approx(-2 * np.log(0.1), rel=1e-6)
        assert [text.get_text() for text in ax.texts] == [r"a\$b"]

    @pytest.mark.parametrize(
        ("means", "covariances", "rest", "argument"),
        [
            (np.zeros((1, 3)), np.eye(3)[None], {}, "means"),
            (np.zeros((1, 2)), np.diag([1.0, -1.0])[None], {}, "covariances[0]"),
            (np.zeros((1, 2)), np.eye(2)[None], {"labels": ["a", "b"]}, "labels"),
            (np.zeros((1, 2)), np.eye(2)[None], {"mass": 1.0}, "mass"),
        ],
    )
    def test_bad_input_is_refused(self, means, covariances, rest, argument, ax):
        with pytest.raises(InputError) as refused:
            plot_gaussians(means, covariances, ax=ax, **rest)
        assert refused.value.argument == argument


@pytest.mark.parametrize("low", [1e-200, 1e-7, 0.02, 0.3])
@pytest.mark.parametrize("direction", ["x", "y"])
def test_the_axis_of_errors_shows_one_and_a_few_more_ticks(low, direction, ax):
    middle, edge = error_scale(ax, [low, 0.5, 0.0, math.nan], direction)
    axis = ax.xaxis if direction == "x" else ax.yaxis
    ticks = tick_labels(axis)
    assert ticks["1"] == 1 and 2 <= len(ticks) <= 8 and 1 < middle < edge
    first = (ax.get_xlim() if direction == "x" else ax.get_ylim())[0]
    assert first < low and all(first <= t <= edge for t in ticks.values())


def test_a_dollar_sign_is_no_mathematics():
    assert literal("a$b") == literal(literal("a$b")) == r"a\$b"


def test_every_rung_has_a_look_of_its_own():
    looks = [(style.colour, style.marker) for style in palette.RUNGS.values()]
    assert len(set(looks)) == len(looks) and len({marker for _, marker in looks}) >= len(looks) - 2
    assert set(ladder(Signatures(np.eye(2) * 3, np.stack([np.eye(2)] * 2), np.arange(2)), simulations=0).overall) <= set(palette.RUNGS)
    assert len({(palette.series(j).colour, palette.series(j).marker) for j in range(24)}) == 24


def test_colours_differ_in_lightness_or_marker_for_readers_without_colour():
    def grey(colour):
        red, green, blue = (int(to_hex(colour)[j : j + 2], 16) for j in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    styles = list(palette.RUNGS.values())
    for j, one in enumerate(styles):
        for other in styles[:j]:
            assert one.marker != other.marker or abs(grey(one.colour) - grey(other.colour)) > 20
