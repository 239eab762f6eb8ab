"""The scikit-learn face: its conventions, scores that are likelihoods, tasks that come one by one, and bounds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import log_softmax
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from empirics.config import QueryLawConfig
from empirics.retrieval.retriever import SignatureRetriever
from theory import RUNGS, InputError, LowRankSignatures, slack
from theory.certificates import certificate

REFUSED = {"check_fit_score_takes_y": "it calls partial_fit with tasks that are known, and a signature is fitted once, not updated"}


def tasks(n: int = 60, d: int = 5, m: int = 3, apart: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(m), n)
    return rng.normal(size=(m * n, d)) * np.linspace(1, 2, d) + apart * np.eye(m, d)[y], y


@parametrize_with_checks(
    [SignatureRetriever(), SignatureRetriever("dp-mixture", covariance="low-rank", rule="mixture")],
    expected_failed_checks=lambda estimator: REFUSED,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_it_keeps_the_conventions(estimator, check):
    check(estimator)


def test_it_needs_no_torch():
    code = "import sys, empirics.retrieval.retriever; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scores_are_log_likelihoods():
    X, y = tasks()
    model = SignatureRetriever().fit(X, y)
    signatures = model.signatures_
    expected = np.stack(
        [stats.multivariate_normal(m, c).logpdf(X) for m, c in zip(signatures.means, signatures.covariances, strict=True)], axis=1
    )
    assert np.allclose(model.log_likelihood(X), expected)
    assert np.allclose(model.predict_log_proba(X), log_softmax(expected, axis=1))
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1)
    assert np.array_equal(model.predict(X), expected.argmax(axis=1))
    assert model.score(X, y) == (expected.argmax(axis=1) == y).mean() > 0.7


def test_rules_take_the_best_component_or_the_whole_mixture():
    X, y = tasks(n=90, apart=2.0)
    models = {rule: SignatureRetriever("mixture", n_components=3, rule=rule, random_state=0).fit(X, y) for rule in ("max", "mixture")}
    s = models["max"].signatures_
    assert len(s) > 3
    parts = np.stack(
        [np.log(w) + stats.multivariate_normal(m, c).logpdf(X) for w, m, c in zip(s.weights, s.means, s.covariances, strict=True)],
        axis=1,
    )
    best = np.stack([parts[:, s.task == k].max(axis=1) for k in range(3)], axis=1)
    whole = np.stack([np.logaddexp.reduce(parts[:, s.task == k], axis=1) for k in range(3)], axis=1)
    assert np.allclose(models["max"].log_likelihood(X), best)
    assert np.allclose(models["mixture"].log_likelihood(X), whole)


@pytest.mark.parametrize("clusters", ["task", "mixture", "dp-mixture"])
@pytest.mark.parametrize("covariance", ["ledoit-wolf", "low-rank"])
def test_tasks_may_come_one_by_one_and_change_no_bit_of_those_before(clusters, covariance):
    X, y = tasks()
    names = np.array(["b", "a", "c"])[y]
    settings = {"clusters": clusters, "covariance": covariance, "rank": 2, "n_components": 3, "random_state": 7}
    together = SignatureRetriever(**settings).fit(X, names)
    one_by_one = SignatureRetriever(**settings)
    before = {}
    for k in range(3):
        one_by_one.partial_fit(X[y == k], names[y == k], classes=["a", "b", "c"])
        found = one_by_one.signatures_
        if found is None:
            assert (one_by_one.predict(X) == "b").all() and np.allclose(one_by_one.predict_proba(X), 1)
            continue
        for j, name in enumerate(found.names):
            now = found.means[found.task == j].tobytes() + found.covariances[found.task == j].tobytes()
            assert before.setdefault(name, now) == now
    assert one_by_one.classes_.tolist() == together.classes_.tolist() == ["a", "b", "c"]
    assert np.array_equal(one_by_one.signatures_.means, together.signatures_.means)
    assert np.array_equal(one_by_one.signatures_.covariances, together.signatures_.covariances)
    assert np.array_equal(one_by_one.log_likelihood(X), together.log_likelihood(X))
    assert isinstance(together.signatures_, LowRankSignatures) == (covariance == "low-rank")


def test_a_known_task_is_refused_and_nothing_is_lost():
    X, y = tasks()
    model = SignatureRetriever().fit(X[y < 2], y[y < 2])
    before = model.signatures_
    for bad, what in [(np.where(y == 2, 1, y), "has its signature"), (np.where(y == 2, "2", "3"), "numbers and by texts")]:
        with pytest.raises(InputError, match=what):
            model.partial_fit(X[y == 2], bad[y == 2])
    with pytest.raises(InputError, match="has 2 samples"):
        model.partial_fit(X[-2:], y[-2:])
    with pytest.raises(InputError, match="classes"):
        model.partial_fit(X[y == 2], y[y == 2], classes=[0, 1])
    assert model.signatures_ is before and model.classes_.tolist() == [0, 1]
    assert model.partial_fit(X[y == 2], y[y == 2]).classes_.tolist() == [0, 1, 2]


def test_a_first_task_that_fails_leaves_an_unfitted_retriever():
    X, y = tasks()
    model = SignatureRetriever()
    with pytest.raises(InputError):
        model.partial_fit(X[:1], y[:1])
    assert not hasattr(model, "classes_")
    assert model.partial_fit(X[y == 0], y[y == 0]).classes_.tolist() == [0]


def test_a_projection_is_settled_by_the_first_samples():
    X, y = tasks(d=8)
    model = SignatureRetriever(dimension=3).fit(X, y)
    assert model.signatures_.dimension == 3 and model.n_features_in_ == 8
    assert model.score(X, y) > 0.6
    new = SignatureRetriever(dimension=3).partial_fit(X[y == 0], y[y == 0])
    mean = new.signatures_
    assert mean is None
    axes = new._frame.projection.axes
    assert new.partial_fit(X[y > 0], y[y > 0])._frame.projection.axes is axes
    with pytest.raises(InputError, match="dimension"):
        SignatureRetriever(dimension=9).fit(X, y)


def test_a_background_tells_what_no_task_explains_and_changes_no_prediction():
    X, y = tasks(apart=6.0)
    plain = SignatureRetriever().fit(X, y)
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(500, 5)) * 15
    for background in ("pooled", wide):
        model = SignatureRetriever(background=background).fit(X, y)
        assert np.array_equal(model.predict(X), plain.predict(X))
        assert np.allclose(model.predict_proba(X), plain.predict_proba(X))
    assert (model.log_likelihood(X).max(axis=1) > 0).mean() > 0.95
    assert (model.log_likelihood(np.full((1, 5), -30.0)) < 0).all()


def test_bounds_under_the_signature_and_under_held_out_samples():
    X, y = tasks(apart=4.0)
    held, task = tasks(seed=1, apart=4.0)
    fresh, truth = tasks(n=4000, seed=2, apart=4.0)
    model = SignatureRetriever("mixture", n_components=2, min_samples=20, random_state=0).fit(X, np.array(["x", "y", "z"])[y])
    names = np.array(["x", "y", "z"])
    own = model.bounds(simulations=20_000)
    assert set(own["law"]) == {"well-specified"} and set(own["rung"]) == set(RUNGS)
    assert own[own["rung"] == "L8"]["vacuous"].all()
    table = model.bounds(held, names[task], simulations=20_000)
    assert set(table["level_of"]) == {"overall", "task"} and "cluster" not in table
    assert table.loc[table["level_of"] == "task", "name"].unique().tolist() == ["x", "y", "z"]
    wrong = model.predict(held) != names[task]
    rows = table[table["rung"] == "L8"].set_index("level_of")["value"]
    assert rows["overall"] == pytest.approx(certificate(int(wrong.sum()), wrong.size, 0.95).value)
    assert rows["task"].tolist() == pytest.approx([certificate(int(wrong[task == k].sum()), 60, 0.95, 3).value for k in range(3)])
    error = 1 - model.score(fresh, names[truth])
    overall = table[table["level_of"] == "overall"].set_index("rung")["value"]
    assert error <= overall[["L3", "L5", "L8"]].min()
    assert pd.isna(table.iloc[0]["name"])


def test_the_ladder_is_that_of_the_table_and_can_be_taken_apart():
    X, y = tasks()
    held = tasks(seed=1)
    model = SignatureRetriever().fit(X, y)
    found, table = model.ladder(*held, simulations=2000), model.bounds(*held, simulations=2000)
    overall = table[table["level_of"] == "overall"].set_index("rung")["value"]
    assert {name: bound.value for name, bound in found.overall.items()} == overall.to_dict()
    apart = slack(found)
    assert set(apart["rung"]) == set(RUNGS) and apart["task"].dropna().unique().tolist() == [0, 1, 2]
    more = model.ladder(*held, simulations=2000, batch=4, intersections=0)
    assert more.overall["L4"].value < found.overall["L4"].value and more.overall["L5"].value == found.overall["L5"].value
    assert found.overall["L5b"].value < more.overall["L5b"].value == more.overall["L5"].value


def test_a_law_that_fits_is_kept_and_its_rungs_stand():
    X, y = tasks(n=200, apart=4.0)
    model = SignatureRetriever(random_state=0).fit(X, y)
    test_X, test_y = tasks(n=300, seed=2, apart=4.0)
    judged = model.judge(*tasks(n=400, seed=1, apart=4.0), test_X, test_y, query_law=QueryLawConfig(samples_per_component=400))
    wrong = model.predict(test_X) != test_y
    assert (judged.overall.measured.errors, judged.overall.measured.n) == (wrong.sum(), wrong.size)
    assert [unit.measured.errors for unit in judged.tasks] == [wrong[test_y == k].sum() for k in range(3)]
    assert [unit.name for unit in judged.tasks] == ["0", "1", "2"]
    assert judged.overall.law.verdict == "not rejected" and 0.8 < judged.overall.law.overdispersion_law < 1.25
    assert all(judged.overall.rungs[name].guarantee for name in ("L3", "L5", "L8"))
    assert judged.overall.rungs["L5"].value == judged.ladder.overall["L5"].value
    row = judged.slack().query("level_of == 'overall' and rung == 'L5'").iloc[0]
    assert row["reference"] == wrong.mean() and row["total"] == pytest.approx(np.log10(row["value"] / wrong.mean()), abs=1e-9)


def test_rungs_under_a_law_that_does_not_fit_are_no_guarantees():
    """Test samples three times as widely spread: own distances tell, and what only held-out samples prove is left."""
    X, y = tasks(n=200, apart=8.0)
    model = SignatureRetriever(random_state=0).fit(X, y)
    test_X, test_y = tasks(n=100, seed=2, apart=8.0)
    centres = np.stack([test_X[test_y == k].mean(axis=0) for k in range(3)])[test_y]
    for samples in (tasks(n=200, seed=1, apart=8.0), (None, None)):
        judged = model.judge(*samples, centres + 3 * (test_X - centres), test_y, simulations=2000)
        assert judged.overall.law.verdict == "rejected" and "own distances do not follow it" in judged.overall.law.reasons
        assert not any(rung.guarantee for name, rung in judged.overall.rungs.items() if name != "L8")
        assert judged.overall.rungs["L8"].vacuous == (samples[0] is None)
    with pytest.raises(InputError, match="no sample of task 0"):
        model.judge(None, None, test_X[test_y > 0], test_y[test_y > 0])


def test_bounds_take_settings_of_the_query_law():
    X, y = tasks()
    model = SignatureRetriever(covariance="low-rank", rank=2).fit(X, y)
    settings = QueryLawConfig(covariance="diagonal", samples_per_component=30)
    one, two = (model.bounds(*tasks(seed=1), query_law=s, simulations=0) for s in (settings, QueryLawConfig()))
    pick = "level_of == 'overall' and rung == 'L5'"
    assert one.query(pick)["value"].item() != two.query(pick)["value"].item()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda model, X, y: model.bounds(X, y, query_law={"covariance": "diagonal"}), "query_law: is a dict; give a QueryLawConfig"),
        (lambda m, X, y: m.bounds(X), "y: is missing"),
        (lambda m, X, y: m.bounds(None, y), "X: is missing"),
        (lambda m, X, y: m.bounds(X, y + 1), "task 3, which has no signature"),
        (lambda m, X, y: m.bounds(X[y > 0], y[y > 0]), "no sample of task 0"),
        (lambda m, X, y: SignatureRetriever().fit(X[y == 0], y[y == 0]).bounds(), "at least two tasks"),
    ],
)
def test_bounds_of_nothing_are_refused(call, match):
    X, y = tasks()
    with pytest.raises(InputError, match=match):
        call(SignatureRetriever().fit(X, y), X, y)


@pytest.mark.parametrize(
    ("settings", "argument"),
    [
        ({"clusters": "class"}, "clusters"),
        ({"covariance": "tied"}, "covariance"),
        ({"rule": "angular"}, "rule"),
        ({"n_components": 0}, "n_components"),
        ({"min_samples": 2}, "min_samples"),
        ({"rank": True}, "rank"),
        ({"dimension": 0}, "dimension"),
        ({"background": "corpus"}, "background"),
        ({"background": np.ones((9, 2))}, "background"),
        ({"covariance": "full", "n_components": 1}, "task 0, cluster 0"),
    ],
)
def test_settings_out_of_range_are_refused_at_fit(settings, argument):
    X, y = tasks(n=5)
    with pytest.raises(InputError) as caught:
        SignatureRetriever(**settings).fit(X, y)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "change", [{"covariance": "low-rank"}, {"clusters": "mixture"}, {"dimension": 2}], ids=lambda change: next(iter(change))
)
def test_settings_hold_from_the_first_tasks_on(change):
    X, y = tasks()
    model = SignatureRetriever().fit(X[y < 2], y[y < 2]).set_params(**change)
    with pytest.raises(InputError, match="start anew with fit") as refused:
        model.partial_fit(X[y == 2], y[y == 2])
    assert refused.value.argument == next(iter(change)) and model.classes_.tolist() == [0, 1]
    model.set_params(**{name: SignatureRetriever().get_params()[name] for name in change})
    assert model.partial_fit(X[y == 2], y[y == 2]).classes_.tolist() == [0, 1, 2]


def test_a_rule_that_was_changed_after_fit_is_checked():
    X, y = tasks()
    # It is a rule, but its scores are no log-likelihoods.
    with pytest.raises(InputError, match="'angular' is unknown; choose one of max, mixture"):
        SignatureRetriever().fit(X, y).set_params(rule="angular").predict_proba(X)


def test_it_works_in_a_pipeline_and_in_cross_validation():
    X, y = tasks(apart=4.0)
    model = make_pipeline(StandardScaler(), SignatureRetriever("dp-mixture", random_state=0))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8


def test_what_is_out_of_range_has_no_posterior():
    """Infinite energies of all tasks leave nothing to compare; their difference is NaN, and its least entry the first task."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)) + 4 * np.repeat(np.eye(3), 20, axis=0), np.repeat(["a", "b", "c"], 20)
    retriever = SignatureRetriever().fit(X, y)
    far = np.vstack([X[:2], np.full((1, 3), 1e200)])
    for ask in (retriever.predict, retriever.predict_proba, retriever.log_likelihood):
        with pytest.raises(InputError, match=r"X: row 2 .* overflow"):
            ask(far)
    with pytest.raises(InputError, match=r"X: holds values up to .*e\+9\d"):
        SignatureRetriever().fit(X * 1e90, y)
