"""Signatures: what each estimator estimates, what each kind of cluster finds, what is stored, and a run with each."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import OAS, LedoitWolf

from empirics.config import SignatureConfig, load_config
from empirics.files.record import read_tensors, write_tensors
from empirics.retrieval.estimators import factored_gaussian, shrunk_gaussian
from empirics.retrieval.signatures import (
    fit_background,
    fit_signatures,
    fit_task_signature,
    join_signatures,
    own_distances,
    predicted_own_distances,
    read_rule_tensors,
    rule_tensors,
    signature_bytes,
)
from theory import InputError, LowRankSignatures, Rule, Signatures, well_specified
from theory.certificates import certificate


def samples(rng: np.random.Generator, n: int, d: int, *, rank: int = 2) -> np.ndarray:
    """Samples with a few wide directions and coordinates of unlike scales."""
    return (rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) * 3 + rng.normal(size=(n, d))) * np.geomspace(1, 0.1, d)


def blobs(rng: np.random.Generator, sizes: list[int], d: int = 4, apart: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    centres = apart * np.eye(len(sizes), d)
    which = np.repeat(np.arange(len(sizes)), sizes)
    return centres[which] + rng.normal(size=(which.size, d)), which


def test_dense_estimators_are_what_they_are_called():
    x = samples(np.random.default_rng(0), 40, 5)
    for name, expected in [
        ("full", np.cov(x, rowvar=False)),
        ("ledoit-wolf", LedoitWolf().fit(x).covariance_),
        ("oas", OAS().fit(x).covariance_),
    ]:
        mean, covariance = shrunk_gaussian(x, name, "x")
        assert np.allclose(covariance, expected, rtol=1e-12)
        assert np.allclose(mean, x.mean(axis=0))


def test_full_works_in_one_dimension():
    x = np.arange(5.0)[:, None]
    assert shrunk_gaussian(x, "full", "x")[1] == pytest.approx(np.array([[2.5]]))


@pytest.mark.parametrize("n", [8, 200])
def test_low_rank_keeps_variances_and_leading_directions(n):
    x = samples(np.random.default_rng(1), n, 12)
    _, target = shrunk_gaussian(x, "ledoit-wolf", "x")
    mean, factor, diagonal = factored_gaussian(x, "low-rank", 2, "x")
    covariance = factor @ factor.T + np.diag(diagonal)
    assert factor.shape == (12, 2) and (diagonal > 0).all()
    assert np.allclose(np.diag(covariance), np.diag(target), rtol=1e-12)
    assert np.allclose(mean, x.mean(axis=0))
    # Off the diagonal it is the probabilistic principal components of the target.
    values, vectors = np.linalg.eigh(target)
    noise = values[:-2].mean()
    pieces = (vectors[:, -2:] * (values[-2:] - noise)) @ vectors[:, -2:].T
    assert np.allclose(covariance - np.diag(np.diag(covariance)), pieces - np.diag(np.diag(pieces)), atol=1e-12)


def test_low_rank_of_full_rank_leaves_nothing_out():
    x = samples(np.random.default_rng(2), 30, 6)
    _, factor, diagonal = factored_gaussian(x, "low-rank", 99, "x")
    assert factor.shape == (6, 5)
    assert np.allclose(factor @ factor.T + np.diag(diagonal), shrunk_gaussian(x, "ledoit-wolf", "x")[1], rtol=1e-10)


def test_diagonal_has_unbiased_variances_and_no_factor():
    x = samples(np.random.default_rng(3), 30, 6)
    _, factor, diagonal = factored_gaussian(x, "diagonal", 3, "x")
    assert factor.shape == (6, 0) and np.allclose(diagonal, x.var(axis=0, ddof=1))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: shrunk_gaussian(np.eye(4), "full", "task a"),
            r"task a: has 4 samples of dimension 4; .*ledoit-wolf, oas, diagonal or low-rank",
        ),
        (lambda: shrunk_gaussian(np.eye(2), "oas", "task a"), "task a: has 2 samples"),
        (lambda: shrunk_gaussian(np.ones((9, 2)), "ledoit-wolf", "task a"), "equal samples"),
        (lambda: factored_gaussian(np.ones((9, 2)), "diagonal", 1, "task a"), "equal samples"),
        (lambda: factored_gaussian(np.eye(9)[:, :1] @ [[1.0, 0.0]], "diagonal", 1, "task a"), "coordinate 1 does not vary"),
    ],
)
def test_samples_that_an_estimator_cannot_use_are_refused(call, match):
    with pytest.raises(InputError, match=match):
        call()


def test_a_mixture_finds_the_groups_of_a_task_and_weighs_them_by_size():
    x, which = blobs(np.random.default_rng(4), [60, 30, 10])
    part = fit_task_signature(
        x, np.zeros(100, int), "a", SignatureConfig(clusters="mixture", components=3, dimension=4), np.random.default_rng(0)
    )
    order = np.argsort(-part.counts)
    assert part.counts[order].tolist() == [60, 30, 10]
    assert part.weights[order] == pytest.approx([0.6, 0.3, 0.1])
    centres = np.stack([x[which == g].mean(axis=0) for g in range(3)])
    assert np.allclose(part.gaussians["means"][order], centres)
    expected = shrunk_gaussian(x[which == 1], "ledoit-wolf", "x")[1]
    assert np.allclose(part.gaussians["covariances"][order[1]], expected)


def test_a_dirichlet_process_drops_what_the_samples_do_not_ask_for():
    x, _ = blobs(np.random.default_rng(5), [80, 60])
    part = fit_task_signature(
        x, np.zeros(140, int), "a", SignatureConfig(clusters="dp-mixture", components=8, dimension=4), np.random.default_rng(0)
    )
    assert sorted(part.counts.tolist()) == [60, 80]


@pytest.mark.parametrize("clusters", ["mixture", "dp-mixture"])
@pytest.mark.parametrize("least", [3, 20, 1000])
def test_no_component_holds_fewer_samples_than_asked_for_and_none_is_lost(clusters, least):
    x = samples(np.random.default_rng(6), 90, 5)
    config = SignatureConfig(clusters=clusters, components=20, min_samples=least, dimension=5)
    part = fit_task_signature(x, np.zeros(90, int), "a", config, np.random.default_rng(1))
    assert part.counts.sum() == 90
    assert part.counts.min() >= least or part.counts.tolist() == [90]
    assert part.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("covariance", ["full", "ledoit-wolf", "oas", "diagonal", "low-rank"])
@pytest.mark.parametrize("clusters", ["class", "task", "mixture", "dp-mixture"])
def test_every_setting_makes_a_rule_that_retrieves_is_stored_and_read_back(clusters, covariance, tmp_path):
    rng = np.random.default_rng(7)
    spaces = [blobs(rng, [40, 40])[0] * 0.5, blobs(rng, [40, 40])[0] + 20]
    labels = [np.repeat([0, 1], 40)] * 2
    config = SignatureConfig(clusters=clusters, covariance=covariance, components=2, rank=2, dimension=4)
    signatures = fit_signatures(spaces, labels, ("a", "b"), config, np.random.default_rng(0))
    background = fit_background([np.concatenate(spaces)] * 2, config)
    assert isinstance(signatures, LowRankSignatures) == (covariance in ("diagonal", "low-rank"))
    assert (signatures.weights is None) == (clusters in ("class", "task"))
    rule = Rule(signatures, background)
    x = np.concatenate(spaces)[:, None].repeat(2, axis=1)
    assert np.array_equal(rule.retrieve(x), np.repeat([0, 1], 80))
    path = tmp_path / "rule.safetensors"
    write_tensors(path, rule_tensors(signatures, background))
    again = Rule(*read_rule_tensors(read_tensors(path), ("a", "b")))
    assert type(again.signatures) is type(signatures)
    assert np.array_equal(again.scores(x), rule.scores(x))
    stored = sum(t.nbytes for name, t in read_tensors(path).items() if not name.startswith("background"))
    assert signature_bytes(signatures) == stored


def test_bytes_of_a_low_rank_signature_do_not_grow_with_the_square_of_the_dimension():
    rng = np.random.default_rng(8)
    spaces, labels = [rng.normal(size=(30, 64)), rng.normal(size=(30, 64)) + 1], [np.zeros(30, int)] * 2
    sizes = {}
    for covariance in ("ledoit-wolf", "low-rank", "diagonal"):
        config = SignatureConfig(clusters="task", covariance=covariance, rank=4, dimension=64)
        sizes[covariance] = signature_bytes(fit_signatures(spaces, labels, ("a", "b"), config))
    # Beside the numbers of each component: one task and one count.
    assert {k: v // 2 - 16 for k, v in sizes.items()} == {
        "ledoit-wolf": 8 * 64 * (1 + 64),
        "low-rank": 8 * 64 * (1 + 4 + 1),
        "diagonal": 8 * 64 * 2,
    }


def test_missing_tensors_are_named():
    rng = np.random.default_rng(9)
    config = SignatureConfig(clusters="task", covariance="low-rank", rank=1, dimension=3)
    signatures = fit_signatures([rng.normal(size=(9, 3)), rng.normal(size=(9, 3))], [np.zeros(9, int)] * 2, ("a", "b"), config)
    tensors = rule_tensors(signatures, signatures.gaussians)
    for name in ("task", "diagonals", "background_factors"):
        with pytest.raises(InputError, match=name):
            read_rule_tensors({k: v for k, v in tensors.items() if k != name}, ("a", "b"))


def test_a_task_learned_later_changes_no_bit_of_the_earlier_ones():
    rng = np.random.default_rng(10)
    config = SignatureConfig(clusters="dp-mixture", covariance="low-rank", rank=2, dimension=4)
    parts = [fit_task_signature(samples(rng, 50, 4), np.zeros(50, int), str(k), config, np.random.default_rng(k)) for k in range(3)]
    two, three = join_signatures(parts[:2], ("a", "b")), join_signatures(parts, ("a", "b", "c"))
    for name in ("means", "factors", "diagonals"):
        assert np.array_equal(getattr(two.gaussians, name), getattr(three.gaussians, name)[: len(two)])
    x = rng.normal(size=(7, 1, 4))
    assert np.array_equal(Rule(two).scores(x), Rule(three).scores(x)[:, : len(two)])


def test_embeddings_that_are_no_numbers_are_refused():
    x = np.zeros((9, 3))
    x[4, 1] = np.nan
    with pytest.raises(InputError, match="task a"):
        fit_task_signature(x, np.zeros(9, int), "a", SignatureConfig(clusters="mixture"), np.random.default_rng(0))


def test_own_distances_are_to_the_component_of_least_energy():
    signatures = Signatures(
        np.array([[0.0], [10.0], [50.0]]), np.array([[[1.0]], [[4.0]], [[1.0]]]), np.array([0, 0, 1]), weights=np.array([0.5, 0.5, 1.0])
    )
    x = np.array([[1.0], [12.0]])
    assert own_distances(signatures, x, 0).tolist() == [1.0, 1.0]
    assert own_distances(signatures, x, 0, 0).tolist() == [1.0, 144.0]
    law = well_specified(signatures)
    by_component = predicted_own_distances(signatures, law, np.random.default_rng(0), clusters_are_components=True)
    assert {t: pytest.approx(1, abs=0.1) for t in range(3)} == {t: v.mean() for t, v in by_component.items()}


LEAST = [
    "stream.train_per_class=10",
    "stream.query_per_class=10",
    "stream.test_per_class=8",
    "stream.reservoir_per_class=4",
    "stream.classes_per_task=2",
    "backbone.max_length=12",
    "training.epochs=1",
    "signature.dimension=4",
    "bounds.simulations=2000",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        ["signature.clusters=dp-mixture", "signature.covariance=low-rank", "signature.rank=2", "query_law.covariance=auto"],
        ["signature.clusters=task", "signature.covariance=full", "bounds.arm=frozen"],
    ],
    ids=["dp-mixture", "task"],
)
def test_a_run_whose_components_are_not_classes_is_judged_by_class(settings, tmp_path):
    from empirics.runs.pipeline import run

    config = load_config(overrides=[*LEAST, *settings])
    run(config, tmp_path / "run", quiet=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    about = report["run"]
    query = pd.read_parquet(tmp_path / "run" / "calibration.parquet")
    test = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    names = [f"{t['name']}/{c}" for t in about["tasks"] for c in t["classes"]]
    for arm in report["arms"]:
        wrong = query[f"{arm['arm']}-4:retrieved"] != query["task"]
        own_law = arm["law"] == "well-specified"
        assert [c["name"] for c in arm["clusters"]] == ([t["name"] for t in about["tasks"]] if own_law else names)
        column = "task" if own_law else "cluster"
        for t, unit in enumerate(arm["clusters"]):
            rows = query[column] == t
            limit = certificate(int(wrong[rows].sum()), int(rows.sum()), 0.95, len(arm["clusters"]))
            assert unit["rungs"]["L8"]["log_value"] == limit.log_value
            assert unit["measured"]["n"] == (test[column] == t).sum()
            assert unit["law"]["distance_p"] is not None
        rows = query["task"] == 1
        assert arm["tasks"][1]["rungs"]["L8"]["log_value"] == certificate(int(wrong[rows].sum()), int(rows.sum()), 0.95, 5).log_value
    kept = about["signatures"]["frozen-4"]
    tensors = read_tensors(tmp_path / "run" / "signatures" / "frozen-4.safetensors")
    assert kept["bytes"] == sum(t.nbytes for name, t in tensors.items() if name != "spaces") and sum(kept["components"]) == len(
        tensors["means"]
    )
    if config.query_law.covariance == "auto":
        assert about["query_laws"]["paper-4-mixture"]["covariance"] in ("diagonal", "low-rank", "ledoit-wolf")
        assert "frozen-384" in about["signatures"]
    else:
        # Ten documents a class span no full covariance in 384 dimensions: measured in the signature's dimension only.
        assert "frozen-384" not in about["signatures"]


def test_a_full_covariance_that_cannot_be_had_is_refused_before_anything_is_made(tmp_path):
    from empirics.runs.pipeline import run

    config = load_config(overrides=[*LEAST, "signature.covariance=full", "signature.dimension=12"])
    with pytest.raises(InputError, match=r"signature\.covariance"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_pooled_share_moves_covariances_towards_that_within_the_task_and_leaves_means():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [40, 400])
    x = rng.standard_normal((440, 4)) * np.where(label[:, None] == 0, 3.0, 1.0) + 10 * label[:, None]
    own, half, tied = (
        fit_task_signature(x, label, "t", SignatureConfig(dimension=4, pool=share), np.random.default_rng(0)) for share in (0.0, 0.5, 1.0)
    )
    own, half, tied = own.gaussians, half.gaussians, tied.gaussians
    assert np.array_equal(own["means"], tied["means"])
    assert tied["covariances"][0] == pytest.approx(tied["covariances"][1])
    assert half["covariances"] == pytest.approx((own["covariances"] + tied["covariances"]) / 2)
    # Nearly all samples are of the narrow class.
    assert tied["covariances"][0].trace() == pytest.approx(4 * (40 * 9 + 400) / 440, rel=0.2)


def test_a_pooled_share_of_factored_covariances_is_refused():
    with pytest.raises(ValueError, match="pool needs a dense covariance"):
        SignatureConfig(covariance="low-rank", pool=0.5)
