"""Retrieval in two stages: with all candidates it is the full search, with fewer it costs less and loses what it says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from alphabets import ALPHABETS, certified_in, table
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from test_multi import adapters
from typer.testing import CliRunner

from empirics.adapters.multi import embed_all
from empirics.adapters.stack import stack_adapters
from empirics.cli import app
from empirics.encoders.prefix import encode_prefix
from empirics.reports.rounding import rounded_up
from empirics.retrieval.signatures import fit_projection
from empirics.routing.cascade import AdapterStages, Cascade
from empirics.routing.certified_cascade import fit_pruning, load_cascade
from empirics.routing.router import load_router
from theory import InputError, Rule, Signatures
from theory.files import signatures_from
from theory.pruning import Pruning, least_score

KINDS = ("threshold", "best", "adaptive", "absolute")
_TASKS = 12


def _tables(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Stage-1 scores, and final ones that add something of their own."""
    rng = np.random.default_rng(seed)
    stage_one = rng.normal(size=(n, _TASKS)).round(1)
    return stage_one, stage_one + rng.exponential(0.5, size=(n, _TASKS)).round(1)


class _Counted:
    """Scores that lie in tables; inputs are rows of them. Remembers what was asked for."""

    def __init__(self, stage_one: np.ndarray, full: np.ndarray) -> None:
        self.stage_one, self.full, self.asked = stage_one, full, []

    def screen(self, inputs):
        return self.stage_one[inputs]

    def score(self, inputs, rows, tasks):
        self.asked.append(np.stack([np.asarray(inputs)[rows], tasks], axis=1))
        return self.full[np.asarray(inputs)[rows], tasks]

    def cascade(self, **settings) -> Cascade:
        return Cascade(self.screen, self.score, **settings)


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(1, 4))
def test_what_is_found_is_what_the_rule_says(seed, kind, parameter):
    tables = _Counted(*_tables(seed, 25))
    rule = Pruning.given(kind, parameter)
    inputs = np.arange(25)
    found = tables.cascade().with_pruning(rule).search(inputs)
    asked = np.concatenate(tables.asked)
    assert len(np.unique(asked, axis=0)) == len(asked) == found.passes.sum()
    seen = np.zeros((25, _TASKS), dtype=bool)
    seen[tuple(asked.T)] = True
    wanted = rule.visited(tables.stage_one, tables.full)
    # Rounds of the adaptive rule may look further, and by no more than a round.
    assert (seen >= wanted).all() and (kind in KINDS[2:] or np.array_equal(seen, wanted))
    assert (seen.sum(axis=1) <= 2 * wanted.sum(axis=1) + 3).all()
    assert np.array_equal(found.passes, seen.sum(axis=1))
    assert np.array_equal(found.task, np.where(seen, tables.full, np.inf).argmin(axis=1))
    assert np.array_equal(found.score, tables.full[inputs, found.task])
    kept = ~rule.lost(tables.stage_one, tables.full)
    assert np.array_equal(found.task[kept], tables.full.argmin(axis=1)[kept])
    # An input by itself gets the same answer.
    alone = [tables.cascade().with_pruning(rule).predict([row])[0] for row in range(4)]
    assert alone == found.task[:4].tolist()


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
def test_a_full_set_of_candidates_is_the_full_search(seed, kind):
    tables = _Counted(*_tables(seed, 20))
    cascade = tables.cascade().with_pruning(Pruning.given(kind, np.inf))
    stage_one, full = cascade.full_search(np.arange(20))
    assert np.array_equal(stage_one, tables.stage_one) and np.array_equal(full, tables.full)
    found = cascade.search(np.arange(20))
    assert np.array_equal(found.task, full.argmin(axis=1)) and (found.passes == _TASKS).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_certified_loss_holds_for_what_is_served(kind):
    tables = _Counted(*_tables(1, 3000))
    answers, rng, failures = tables.full.argmin(axis=1), np.random.default_rng(2), 0
    repetitions, alpha, confidence = 300, 0.05, 0.9
    for _ in range(repetitions):
        cascade = tables.cascade(kind=kind, alpha=alpha, confidence=confidence).fit(rng.integers(3000, size=100))
        found = cascade.search(np.arange(3000)) if kind in KINDS[2:] else None
        answer = found.task if found else np.where(cascade.pruning_.kept(tables.stage_one), tables.full, np.inf).argmin(axis=1)
        failures += (answer != answers).mean() > cascade.pruning_.loss.value
    assert failures <= stats.binom.ppf(1 - 1e-6, repetitions, 1 - confidence)
    assert cascade.search(np.arange(3000)).passes.mean() < _TASKS - 2


@pytest.fixture(scope="module")
def stages() -> tuple[AdapterStages, list[str], np.ndarray]:
    """Five adapters of a tiny encoder, and signatures of random tasks in the frozen and in their own spaces."""
    backbone = tiny.backbone()
    inputs, _ = tiny.texts(60)
    pool = adapters(backbone)
    cache = encode_prefix(backbone, inputs)
    x, m, d = embed_all(backbone, cache, np.arange(60), pool), len(pool), 4
    shared = fit_projection(cache.frozen, d)
    own = [fit_projection(x[:, k], d) for k in range(m)]
    frozen, adapted = shared(cache.frozen), [own[k](x[:, k]) for k in range(m)]
    groups = np.arange(60) % m

    def gaussians(z):
        """Of each task's share of the samples; `z[k]` are all samples as task k sees them."""
        return np.stack([z[k][groups == k].mean(axis=0) for k in range(m)]), np.stack([np.cov(z[k].T) + 1e-4 * np.eye(d) for k in range(m)])

    common, apart = gaussians([frozen] * m), gaussians(adapted)
    product = signatures_from(
        {"common_means": common[0], "common_covariances": common[1], "means": apart[0], "covariances": apart[1], "task": np.arange(m)},
        tuple(map(str, range(m))),
    )
    made = AdapterStages(backbone, stack_adapters(backbone, pool), Rule(Signatures(*common, np.arange(m))), shared, Rule(product), own)
    queries = np.concatenate([np.repeat(frozen[:, None], 1, axis=1), np.stack(adapted, axis=1)], axis=1)
    return made, inputs, made.rule.task_scores(made.rule.scores(queries))


def _floor(made: AdapterStages) -> float:
    """The least that the own space can add to a stage-1 score."""
    own = made.rule.signatures.gaussians.own
    return least_score(Rule(Signatures(own.means, own.covariances, np.arange(len(own)))))


def test_adapters_are_scored_as_the_rule_scores_them(stages):
    made, inputs, wanted = stages
    stage_one, full = made.cascade().full_search(inputs)
    assert full == pytest.approx(wanted, rel=1e-4, abs=1e-3)
    assert (full - stage_one).min() >= _floor(made) - 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_with_adapters_a_full_set_of_candidates_is_the_full_search(stages, kind):
    made, inputs, _ = stages
    cascade = made.cascade(kind=kind).with_pruning(Pruning.given(kind, np.inf))
    full = cascade.full_search(inputs)[1]
    found = cascade.search(inputs)
    assert np.array_equal(found.task, full.argmin(axis=1)) and (found.passes == 5).all()
    assert found.score == pytest.approx(full.min(axis=1), rel=1e-5, abs=1e-4)


def test_the_lossless_rule_of_added_energies_saves_passes_and_loses_nothing(stages):
    made, inputs, _ = stages
    cascade = made.cascade().with_pruning(made.lossless())
    assert made.lossless() == Pruning.lossless(_floor(made))
    found = cascade.search(inputs)
    assert found.passes.mean() < 5
    assert np.array_equal(found.task, cascade.full_search(inputs)[1].argmin(axis=1))


def test_fitting_on_held_out_inputs_prunes_and_a_clone_is_unfitted(stages):
    made, inputs, _ = stages
    cascade = made.cascade(kind="best", alpha=0.1).fit(inputs)
    assert cascade.pruning_.loss.value <= 0.1 * (1 + 1e-9) and cascade.predict(inputs[:3]).shape == (3,)
    with pytest.raises(NotFittedError):
        clone(cascade).predict(inputs)


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    bert, home = tiny.backbone(), tmp_path_factory.mktemp("cascade")
    return certified_in(home, bert, rule="all"), bert


@pytest.mark.filterwarnings("ignore")
def test_a_certified_folder_serves_as_a_cascade(certified):
    folder, bert = certified
    frame = pd.read_parquet(folder / "samples.parquet")
    texts = [table()["text"].iloc[row] for row in frame["row"]]
    cascade, tasks = load_cascade(folder, "ratio", alpha=0.1, confidence=0.9, backbone=bert)
    held = frame[frame["part"] == "certificate"]
    scores = [held[[f"{rule}:score:{task}" for task in tasks]].to_numpy() for rule in ("frozen", "ratio")]
    truth = np.array([tasks.index(task) for task in held["task"]])
    assert cascade.pruning_ == Pruning.calibrate("threshold", *scores, 0.1, 0.9, truth)
    found = cascade.search(texts)
    full = load_router(folder, "ratio", backbone=bert).scores(texts)
    screened = load_router(folder, "frozen", backbone=bert).scores(texts)
    assert cascade.full_search(texts)[1] == pytest.approx(full, rel=1e-4, abs=1e-3)
    lost = cascade.pruning_.lost(screened, full)
    assert np.array_equal(found.task[~lost], full.argmin(axis=1)[~lost])
    assert found.passes.mean() <= 3


@pytest.mark.filterwarnings("ignore")
def test_a_certified_folder_is_judged_on_its_measurement(certified, capsys):
    folder, _ = certified
    frame = pd.read_parquet(folder / "samples.parquet")
    pruning, judged = fit_pruning(folder, "paper", "best", 0.1, 0.9)
    test = frame[frame["part"] == "measurement"]
    full = test[[f"paper:score:{task}" for task in ALPHABETS]].to_numpy()
    screen = test[[f"frozen:score:{task}" for task in ALPHABETS]].to_numpy()
    truth = np.array([list(ALPHABETS).index(task) for task in test["task"]])
    kept = np.argsort(np.argsort(screen, axis=1), axis=1) < pruning.parameter
    assert judged.passes == kept.sum(axis=1).mean() and judged.full.errors == (test["paper:retrieved"] != test["task"]).sum()
    assert judged.cascade.errors == (np.where(kept, full, np.inf).argmin(axis=1) != truth).sum() <= judged.full.errors + judged.lost.errors
    options = ["cascade", str(folder), "--rule", "paper", "--kind", "best", "--alpha", "0.1", "--confidence", "0.9"]
    assert json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout) == judged.to_dict()
    told = CliRunner().invoke(app, options).stdout
    assert f"at most {rounded_up(pruning.loss.value)} are lost" in told and f"{judged.passes:.2f} of 3 adapters" in told


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_cannot_be_a_cascade_is_refused(certified, tmp_path):
    folder, bert = certified
    held = (pd.read_parquet(folder / "samples.parquet")["part"] == "certificate").sum()
    with pytest.raises(InputError, match=r"rule: 'frozen' runs no adapter"):
        load_cascade(folder, "frozen", backbone=bert)
    with pytest.raises(InputError, match=rf"queries: are {held}; .* needs at least 299"):
        load_cascade(folder, "ratio", alpha=0.01, backbone=bert)
    with pytest.raises(InputError, match=r"samples.parquet: is missing"):
        load_cascade(tmp_path, backbone=bert)
    pd.read_parquet(folder / "samples.parquet").filter(regex="^(task|part|ratio)").to_parquet(tmp_path / "samples.parquet")
    with pytest.raises(InputError, match=r"was not certified under rule frozen; certify with --rule all"):
        load_cascade(tmp_path, backbone=bert)


def test_bad_input_is_named(stages):
    made = stages[0]
    tables = _Counted(*_tables(0, 10))
    with pytest.raises(NotFittedError):
        tables.cascade().predict([0])
    with pytest.raises(InputError, match=r"queries: are 10; .* needs at least 299"):
        tables.cascade().fit(np.arange(10))
    with pytest.raises(InputError, match=r"alpha: 2 is not inside"):
        tables.cascade(alpha=2).fit(np.arange(10))
    with pytest.raises(InputError, match=r"screen: gave scores of shape \(0, 12\)"):
        tables.cascade().full_search(np.arange(0))
    with pytest.raises(InputError, match=r"screen: gave 1 scores that are NaN"):
        Cascade(lambda x: np.array([[0, np.nan]]), tables.score).full_search([0])
    with pytest.raises(InputError, match=r"score: gave scores of shape \(1,\) for 12 pairs"):
        Cascade(tables.screen, lambda x, rows, tasks: np.zeros(1)).full_search([0])
    with pytest.raises(InputError, match=r"score: gave 12 scores that are NaN"):
        Cascade(tables.screen, lambda x, rows, tasks: np.full(rows.size, np.inf)).full_search([0])
    with pytest.raises(InputError, match=r"inputs: are none"):
        made.cascade().full_search([])
    with pytest.raises(InputError, match=r"projections: speaks of 4 tasks, and there are 5"):
        AdapterStages(made.backbone, made.stack, made.frozen, made.frozen_projection, made.rule, made.projections[1:])
    with pytest.raises(InputError, match=r"rule: has dimension 8; needs 3, or 7"):
        narrow = [fit_projection(np.random.default_rng(0).normal(size=(9, 32)), 3)] * 5
        AdapterStages(made.backbone, made.stack, made.frozen, made.frozen_projection, made.rule, narrow)
    own = made.rule.signatures.gaussians.own
    for rule, screen, problem in (
        (Rule(Signatures(own.means, own.covariances, np.arange(5))), made.frozen, "rule: does not add an energy"),
        (Rule(made.rule.signatures, kind="angular"), made.frozen, "rule: does not add an energy"),
        (made.rule, Rule(made.frozen.signatures, kind="mixture"), "frozen: has other signatures"),
        (
            made.rule,
            Rule(Signatures(made.frozen.signatures.means + 1e-9, made.frozen.signatures.covariances, np.arange(5))),
            "frozen: has other",
        ),
    ):
        with pytest.raises(InputError, match=problem):
            AdapterStages(made.backbone, made.stack, screen, made.frozen_projection, rule, made.projections).lossless()
    with pytest.raises(InputError, match=r"frozen: has dimension 4, and its projection 3"):
        AdapterStages(made.backbone, made.stack, made.frozen, narrow[0], made.rule, made.projections)
