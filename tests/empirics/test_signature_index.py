"""The index of signatures answers as float64 does, whatever was added, removed, saved or cut short."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirics.routing import index_blocks, index_files, signature_index
from empirics.routing.index_blocks import Queries, lower_bounds, operands
from empirics.routing.index_files import MANIFEST, open_index, save_index
from empirics.routing.signature_index import SignatureIndex
from theory import Gaussians, InputError, LowRankGaussians, LowRankSignatures, Rule, Signatures

SEEDS = st.integers(0, 2**32 - 1)
KINDS = st.sampled_from(["max", "mixture"])


def gaussians(rng: np.random.Generator, K: int, d: int, r: int, spread: float = 1.0) -> LowRankGaussians:
    units = np.geomspace(1, 1e3, d)
    factors = spread * rng.normal(size=(K, d, r)) * units[:, None]
    return LowRankGaussians(5 + rng.normal(size=(K, d)) * units, factors, rng.uniform(0.5, 2, size=(K, d)) * units**2)


def tasks(
    rng: np.random.Generator, count: int, d: int, r: int, weighted: bool = False
) -> dict[str, tuple[LowRankGaussians, np.ndarray | None]]:
    sizes = rng.integers(1, 4, size=count)
    return {
        f"t{k}": (gaussians(rng, T, d, r, 10 ** rng.uniform(-1, 2)), rng.uniform(0.1, 1, T) if weighted else None)
        for k, T in enumerate(sizes)
    }


def rule_of(parts: dict[str, tuple[LowRankGaussians, np.ndarray | None]], kind: str) -> Rule:
    stacked = [np.concatenate([getattr(g, name) for g, _ in parts.values()]) for name in ("means", "factors", "diagonals")]
    task = np.repeat(np.arange(len(parts)), [len(g) for g, _ in parts.values()])
    weights = [w for _, w in parts.values()]
    joined = None if weights[0] is None else np.concatenate(weights)
    return Rule(LowRankSignatures(LowRankGaussians(*stacked), task, joined, names=tuple(parts)), kind=kind)


def queries(rng: np.random.Generator, parts: dict[str, tuple[LowRankGaussians, np.ndarray | None]], n: int) -> np.ndarray:
    """Rows near some component, and halfway between two, where scores are alike."""
    means = np.concatenate([g.means for g, _ in parts.values()])
    spread = np.sqrt(np.mean([g.diagonals.mean(axis=0) for g, _ in parts.values()], axis=0))
    a, b = rng.integers(0, len(means), size=(2, n))
    return np.where(rng.random((n, 1)) < 0.5, means[a], (means[a] + means[b]) / 2) + rng.normal(size=(n, means.shape[1])) * spread


def agrees(index: SignatureIndex, rule: Rule, x: np.ndarray, k: int, **options: int) -> None:
    """Tasks and scores are the rule's, up to the order of scores that agree to float64's rounding."""
    found, want = index.retrieve(x, k, **options), rule.task_scores(rule.scores(x[:, None]))
    best = np.sort(want, axis=1)[:, :k]
    scale = 1e-10 * (1 + np.abs(best))
    assert index.names == rule.signatures.names
    assert (np.abs(found.scores - best) <= scale).all()
    assert (np.abs(np.take_along_axis(want, found.tasks, axis=1) - best) <= scale).all()
    assert all(len(set(row)) == k for row in found.tasks.tolist())


@given(SEEDS, KINDS, st.booleans(), st.integers(0, 5), st.integers(1, 5))
@settings(max_examples=40)
def test_answers_are_those_of_the_rule_in_float64(seed, kind, weighted, r, k):
    rng = np.random.default_rng(seed)
    parts = tasks(rng, int(rng.integers(5, 40)), int(rng.integers(1, 24)), r, weighted)
    rule = rule_of(parts, kind)
    agrees(SignatureIndex.of(rule), rule, queries(rng, parts, 30), k)


@given(SEEDS, KINDS)
@settings(max_examples=25)
def test_planted_near_ties_are_settled_in_float64(seed, kind):
    rng = np.random.default_rng(seed)
    one = gaussians(rng, 1, 16, 2)
    # Scores differ by far less than float32 tells apart, and by far more than float64 does not.
    direction = 1e-8 * rng.normal(size=16) * np.sqrt(one.diagonals)
    parts = {f"t{j}": (LowRankGaussians(one.means + j * direction, one.factors, one.diagonals), None) for j in rng.permutation(40)}
    rule = rule_of(parts, kind)
    x = queries(rng, parts, 20)
    want = rule.task_scores(rule.scores(x[:, None]))
    order = np.argsort(want, axis=1)[:, :3]
    gaps = np.diff(np.sort(want, axis=1)[:, :4], axis=1).min(axis=1)
    found = SignatureIndex.of(rule).retrieve(x, 3)
    clear = gaps > 1e-11
    assert clear.any() and found.contested.all()
    assert np.array_equal(found.tasks[clear], order[clear])


def test_of_equal_tasks_the_first_added_wins():
    rng = np.random.default_rng(3)
    index = SignatureIndex(12, 3)
    parts = tasks(rng, 30, 12, 3)
    for name, (g, _) in parts.items():
        index.add(name, g)
    for name, (g, _) in parts.items():
        index.add(f"copy of {name}", g)
    x = queries(rng, parts, 200)
    alone = SignatureIndex.of(rule_of(parts, "max")).retrieve(x)
    found = index.retrieve(x, 2)
    assert np.array_equal(found.tasks[:, 0], alone.tasks[:, 0])
    assert np.array_equal(found.tasks[:, 1], alone.tasks[:, 0] + 30)
    assert (found.margins == 0).all()


@given(SEEDS, st.sampled_from([0.0, 1.0, 1e3]), st.integers(0, 6))
@settings(max_examples=40)
def test_float32_scores_are_lower_bounds_and_within_twice_the_error(seed, spread, r):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 200))
    low = gaussians(rng, 10, d, r, spread)
    x = low.means[rng.integers(0, 10, 15)] + rng.normal(size=(15, d)) * np.sqrt(low.diagonals.mean(axis=0)) * 10 ** rng.uniform(-3, 3)
    index = SignatureIndex(d, min(r, d))
    index.add("t", low)
    block, seen = index.blocks[0], Queries(x, index.centre, index.unit, torch.device("cpu"))
    lower, buffer = torch.empty(2, 15, block.size)
    lower_bounds(block, seen, lower, buffer)
    error = seen.scale @ block.part("screen")["error"][: block.size].numpy().T
    truth = low.energies(x)
    assert (lower.numpy() <= truth + 1e-12 * np.abs(truth)).all()
    assert (truth <= lower.numpy() + 2 * error).all()


@given(SEEDS, KINDS, st.lists(st.integers(0, 2**16), min_size=1, max_size=60))
@settings(max_examples=25)
def test_after_any_adds_and_removes_it_is_the_index_built_anew(seed, kind, moves):
    rng = np.random.default_rng(seed)
    pool = tasks(rng, 25, 6, 2)
    index, alive = SignatureIndex(6, 2, kind), {}
    for move in moves:
        name = f"t{move % 25}"
        if name in alive:
            index.remove(name)
            del alive[name]
        else:
            index.add(name, pool[name][0])
            alive[name] = pool[name]
    assert index.names == tuple(alive)
    assert index.components == sum(len(g) for g, _ in alive.values())
    if not alive:
        return
    x, k = queries(rng, pool, 25), min(2, len(alive))
    anew = SignatureIndex(6, 2, kind)
    for name, (g, _) in alive.items():
        anew.add(name, g)
    found, want = index.retrieve(x, k), anew.retrieve(x, k)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-12)
    if len(alive) > 1:
        agrees(index, rule_of(alive, kind), x, k)


def test_blocks_fill_grow_and_are_written_anew(monkeypatch):
    monkeypatch.setattr(signature_index, "BLOCK", 32)
    rng = np.random.default_rng(5)
    pool = tasks(rng, 120, 5, 1)
    index = SignatureIndex(5, 1)
    for name, (g, _) in pool.items():
        index.add(name, g)
    assert len(index.blocks) >= 6 and max(block.capacity for block in index.blocks) == 32
    gone = [f"t{k}" for k in rng.permutation(120)[:100]]
    for name in gone:
        index.remove(name)
    left = {name: part for name, part in pool.items() if name not in gone}
    # No block is more than half holes, so that work is at most twice what it needs to be.
    assert all(2 * block.alive.size > block.size for block in index.blocks)
    agrees(index, rule_of(left, "max"), queries(rng, pool, 40), 2)
    for name in index.names:
        index.remove(name)
    assert len(index) == 0 and not index.blocks


@given(SEEDS, KINDS, st.integers(0, 200_000))
@settings(max_examples=25)
def test_whatever_the_memory_the_answer_is_the_same(seed, kind, more):
    rng = np.random.default_rng(seed)
    parts = tasks(rng, 30, 8, 2)
    index, x = SignatureIndex.of(rule_of(parts, kind)), queries(rng, parts, 50)
    with pytest.raises(InputError, match="needs at least") as refused:
        index.retrieve(x, 2, memory=100)
    least = int(str(refused.value).split()[-1])
    small, large = index.retrieve(x, 2, memory=least + more), index.retrieve(x, 2)
    np.testing.assert_allclose(small.scores, large.scores, rtol=1e-12)
    clear = (np.diff(index.retrieve(x, 3).scores, axis=1) > 1e-9).all(axis=1)
    assert np.array_equal(small.tasks[clear], large.tasks[clear])


@pytest.mark.parametrize("far", [1e9, 1e20, 1e100])
def test_queries_and_components_beyond_float32_are_scored_in_float64(far):
    rng = np.random.default_rng(8)
    parts = tasks(rng, 12, 6, 2)
    wide = gaussians(rng, 1, 6, 2)
    parts["far"] = (LowRankGaussians(wide.means + far, wide.factors, wide.diagonals), None)
    parts["narrow"] = (LowRankGaussians(wide.means, wide.factors / far, wide.diagonals / far**2), None)
    rule = rule_of(parts, "max")
    index = SignatureIndex(6, 2)
    for name, (g, _) in parts.items():
        index.add(name, g)
    x = np.concatenate([queries(rng, parts, 20), parts["far"][0].means, parts["narrow"][0].means])
    agrees(index, rule, x, 3)


def test_precision_that_was_allowed_elsewhere_is_not_used_and_is_put_back():
    rng = np.random.default_rng(2)
    parts = tasks(rng, 20, 64, 2)
    rule = rule_of(parts, "max")
    index, x = SignatureIndex.of(rule), queries(rng, parts, 40)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        agrees(index, rule, x, 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    rng = np.random.default_rng(11)
    parts = tasks(rng, 9, 4, 1)
    index = SignatureIndex.of(rule_of(parts, "mixture"))
    folder = tmp_path_factory.mktemp("index") / "saved"
    index.remove("t3")
    save_index(index, folder)
    return folder, index, parts, queries(rng, parts, 30)


def same(a, b) -> bool:
    return np.array_equal(a.tasks, b.tasks) and np.array_equal(a.scores, b.scores)


def test_an_opened_index_answers_alike_and_can_be_changed(saved, tmp_path):
    folder, index, parts, x = saved
    opened = open_index(folder)
    assert opened.names == index.names and same(opened.retrieve(x, 3), index.retrieve(x, 3))
    opened.remove("t5")
    opened.add("new", parts["t5"][0])
    save_index(opened, tmp_path / "other")
    assert same(open_index(tmp_path / "other").retrieve(x, 3), opened.retrieve(x, 3))
    assert same(open_index(folder).retrieve(x, 3), index.retrieve(x, 3))


def test_saving_over_an_index_writes_what_changed_and_leaves_nothing_else(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(signature_index, "BLOCK", 8)
    rng = np.random.default_rng(12)
    parts = tasks(rng, 20, 4, 1)
    index = SignatureIndex.of(rule_of(parts, "max"))
    save_index(index, tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    opened = open_index(tmp_path)
    opened.add("one more", parts["t0"][0])
    save_index(opened, tmp_path)
    after = {path.name for path in tmp_path.iterdir()}
    # A frame, and two files of a block written anew; perhaps a block more.
    assert len(before - after) <= 3 and len(before & after) >= len(before) - 4
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    named = {MANIFEST, manifest["frame"]["file"]} | {block[part]["file"] for block in manifest["blocks"] for part in ("screen", "exact")}
    assert after == named
    x = queries(rng, parts, 20)
    assert same(open_index(tmp_path).retrieve(x, 2), opened.retrieve(x, 2))


@given(st.data())
@settings(max_examples=120)
def test_a_file_cut_or_altered_at_any_byte_is_refused_or_answers_alike(saved, tmp_path_factory, data):
    folder, index, _, x = saved
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    cut = data.draw(st.booleans())
    path.write_bytes(whole[:at] if cut else whole[:at] + other + whole[at + 1 :])
    try:
        found = open_index(folder).retrieve(x, 3)
    except InputError as error:
        assert path.name in str(error)
    else:
        # Only blanks between the words of the manifest may change unnoticed.
        assert path.name == MANIFEST and same(found, index.retrieve(x, 3))
    finally:
        path.write_bytes(whole)
    assert same(open_index(folder).retrieve(x, 3), index.retrieve(x, 3))


def test_opening_reads_no_block(saved, monkeypatch):
    folder, *_ = saved
    read, really = [], index_files._read

    def noted(folder, shard, device=None):
        read.append(shard.file)
        return really(folder, shard, device)

    monkeypatch.setattr(index_files, "_read", noted)
    open_index(folder)
    assert [name.split("-")[0] for name in read] == ["frame"]


def test_bad_input_is_refused_by_name(saved, tmp_path):
    folder, _, parts, x = saved
    index = open_index(folder)
    g = parts["t0"][0]
    with pytest.raises(InputError, match="task 't0' is in the index already"):
        index.add("t0", g)
    with pytest.raises(InputError, match="task 'who' is not in the index"):
        index.remove("who")
    with pytest.raises(InputError, match="dimension 5"):
        index.add("wide", gaussians(np.random.default_rng(0), 1, 5, 1))
    with pytest.raises(InputError, match="rank 3"):
        index.add("deep", gaussians(np.random.default_rng(0), 1, 4, 3))
    with pytest.raises(InputError, match="task 'full': is a Gaussians; an index needs low rank plus diagonal"):
        index.add("full", Gaussians(np.zeros((1, 4)), np.eye(4)[None]))
    for dimension, rank in ((4.5, 1), (0, 0), (4, 5)):
        with pytest.raises(InputError, match="is not a whole number"):
            SignatureIndex(dimension, rank)
    with pytest.raises(InputError, match=r"k: 1\.5 is not a whole number from 1 to"):
        index.retrieve(x, 1.5)
    with pytest.raises(InputError, match="positive numbers"):
        index.add("heavy", g, -np.ones(len(g)))
    with pytest.raises(InputError, match="angular"):
        SignatureIndex.of(Rule(rule_of(parts, "max").signatures, kind="angular"))
    dense = Signatures(np.eye(3), np.stack([np.eye(3)] * 3), np.arange(3))
    with pytest.raises(InputError, match="dense"):
        SignatureIndex.of(Rule(dense))
    with pytest.raises(InputError, match="k: 9 is not"):
        index.retrieve(x, 9)
    with pytest.raises(InputError, match="needs \\(n, 4\\)"):
        index.retrieve(x[:, :3])
    with pytest.raises(InputError, match="first in row 2"):
        index.retrieve(np.where(np.arange(30)[:, None] == 2, np.nan, x))
    with pytest.raises(InputError, match="is no file"):
        open_index(tmp_path)
    # What was refused left nothing behind.
    assert same(index.retrieve(x, 3), open_index(folder).retrieve(x, 3))


def test_no_queries_give_no_answers(saved):
    folder, *_ = saved
    found = open_index(folder).retrieve(np.zeros((0, 4)), 2)
    assert found.tasks.shape == found.scores.shape == (0, 2)


def test_a_part_of_low_rank_gaussians_is_them():
    low = gaussians(np.random.default_rng(1), 5, 4, 2)
    part = low.part(np.array([3, 1]))
    x = np.random.default_rng(2).normal(size=(6, 4))
    assert np.array_equal(part.energies(x), low.energies(x)[:, [3, 1]])
    precisions = np.linalg.inv(low.covariances)
    loadings = low.loadings
    rebuilt = np.stack([np.diag(1 / psi) - W.T @ W for psi, W in zip(low.diagonals, loadings, strict=True)])
    np.testing.assert_allclose(rebuilt, precisions, atol=1e-9 * np.abs(precisions).max())
    assert isinstance(part.dense, Gaussians)
    assert index_blocks.BLOCK >= len(operands(part, part.log_dets, np.zeros(4), np.ones(4), 2)["exact"]["offsets"])
