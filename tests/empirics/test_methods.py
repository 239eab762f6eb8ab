"""Every method on a tiny problem: what it may see at each stage, what it keeps, and what it must get right."""

from __future__ import annotations

import dataclasses
import time
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from peft.tuners.lora.config import ArrowConfig

from empirics.adapters.adapter import Adapter, Units, active
from empirics.config import RunConfig
from empirics.data.streams import Stream, Task
from empirics.encoders.anatomy import placed
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import embed, encode_prefix
from empirics.methods import METHODS, per_task
from empirics.methods.arrow import Routed, gate_shares, prototype, routed
from empirics.methods.per_task import AdapterSet, train_adapters
from empirics.methods.problem import Outcome, Problem, from_class_scores, from_task_scores, reordered
from empirics.methods.retrieval import fit_retrieval
from empirics.reports.metrics import forgetting, stage_matrix
from empirics.retrieval.estimators import shrunk_gaussian
from empirics.retrieval.signatures import fit_projection
from theory import InputError

pytestmark = pytest.mark.filterwarnings("ignore")

PARTS = np.repeat(["train", "reservoir", "test"], (12, 5, 6))
# Letters of each class; classes of a task share some.
LETTERS = (("abc", "cde"), ("klm", "mno"), ("uvw", "wxy"))
NAMES = ("first", "second", "third")
# Of no task: the same for every problem.
CORPUS = tuple("".join(np.random.default_rng(j).choice(list("bdghlnpsvxz"), size=10)) for j in range(21))


def config(**changes) -> RunConfig:
    settings = {
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2},
        "adapter": {"rank": 2},
        "signature": {"dimension": 4},
        "compare": {"random_features": 40, "keys": 3, "replayed": 20},
        "backbone": {"adapted_layers": 2, "batch_size": 16, "max_length": 24},
    }
    return RunConfig.model_validate(settings | changes)


def stream(letters=LETTERS, seed: int = 0) -> Stream:
    """Texts of ten letters each: all of one length, so that a batch holds the same documents whatever they say."""
    rng = np.random.default_rng(seed)
    texts, task, label, part = [], [], [], []
    for k, pair in enumerate(letters):
        for c, own in enumerate(pair):
            texts += ["".join(rng.choice(list(own), size=10)) for _ in PARTS]
            task += [k] * PARTS.size
            label += [c] * PARTS.size
            part += PARTS.tolist()
    order = rng.permutation(len(texts))
    tasks = tuple(Task(name, ("a", "b")) for name in NAMES[: len(letters)])
    arrays = (np.array(x)[order] for x in (task, label, part))
    return Stream("tiny", tasks, tuple(texts[j] for j in order), *arrays)


def problem(what: Stream | None = None, settings: RunConfig | None = None) -> Problem:
    what, settings = stream() if what is None else what, settings or config()
    torch.manual_seed(0)
    backbone = tiny.assembled(tiny.MODELS["bert"](), settings.backbone)
    return Problem(settings, what, backbone, encode_prefix(backbone, what.inputs), CORPUS)


def adapters(given: Problem) -> dict[str, AdapterSet]:
    own = given.config.adapter
    return {"composed": train_adapters(given, own), "independent": train_adapters(given, own.alone())}


def answers(given: Problem, sets: dict[str, AdapterSet] | None = None) -> dict[str, Outcome]:
    sets = adapters(given) if sets is None else sets
    return {method.name: method(given, sets) for method in METHODS}


@pytest.fixture(scope="module")
def plain() -> tuple[Problem, dict[str, AdapterSet], dict[str, Outcome]]:
    given = problem()
    sets = adapters(given)
    return given, sets, answers(given, sets)


@pytest.fixture(scope="module")
def perturbed() -> tuple[Problem, dict[str, AdapterSet], dict[str, Outcome]]:
    """The same, but every document of the last task says something else and bears the other label."""
    before = stream()
    rng = np.random.default_rng(9)
    other = tuple("".join(rng.choice(list("fghij"), size=10)) if k == 2 else x for x, k in zip(before.inputs, before.task, strict=True))
    given = problem(dataclasses.replace(before, inputs=other, label=np.where(before.task == 2, 1 - before.label, before.label)))
    sets = adapters(given)
    return given, sets, answers(given, sets)


# Not continual, and says so.
CONTINUAL = [method.name for method in METHODS if method.name != "joint"]


@pytest.mark.parametrize("name", CONTINUAL)
def test_no_stage_sees_a_document_of_a_later_task(plain, perturbed, name):
    first, second = plain[2][name], perturbed[2][name]
    for what in ("task", "cluster", "told"):
        one, other = getattr(first, what), getattr(second, what)
        assert np.array_equal(one[:2], other[:2]), what
    assert (first.task[2] != second.task[2]).any() or (first.cluster[2] != second.cluster[2]).any() or name in ("told", "random")


def test_test_documents_are_never_learned_from(plain):
    """Other test documents: the same adapters, bit for bit, and the same bytes kept of everything."""
    given, sets, found = plain
    rng = np.random.default_rng(8)
    swapped = tuple(
        "".join(rng.choice(list("fghij"), size=10)) if p == "test" else x
        for x, p in zip(given.stream.inputs, given.stream.part, strict=True)
    )
    other = problem(dataclasses.replace(given.stream, inputs=swapped))
    again = adapters(other)
    seen = np.flatnonzero(given.stream.part != "test")
    for kind in sets:
        assert _bytes(sets[kind].adapters) == _bytes(again[kind].adapters)
        assert np.array_equal(sets[kind].z[seen], again[kind].z[seen], equal_nan=True)
    for space, x, y in (("adapted", sets["composed"].z, again["composed"].z), ("frozen", given.source.frozen, other.source.frozen)):
        if space == "frozen":
            x, y = x[:, None], y[:, None]
        one, two = (
            fit_retrieval(p.stream, v, 3, given.config.signature, "none", np.random.default_rng(0)).rule.signatures
            for p, v in ((given, x), (other, y))
        )
        assert np.array_equal(one.means, two.means) and np.array_equal(one.covariances, two.covariances)
    for name, outcome in answers(other, again).items():
        assert outcome.stored == found[name].stored, name


def _bytes(found: tuple[Adapter, ...]) -> list[bytes]:
    return [
        part.tobytes()
        for x in found
        for name in x.folded
        for u in (x.new[name], x.folded[name])
        for part in (u.a, u.b, x.composition[name])
    ]


def test_adapters_of_earlier_tasks_are_the_same_bits_after_later_ones(plain):
    """Trained on a stream that ends after two tasks, they are those of the longer stream."""
    given, sets, _ = plain
    short = dataclasses.replace(given.stream.take(np.flatnonzero(given.stream.task < 2)), tasks=given.stream.tasks[:2])
    shorter = adapters(problem(short))
    for kind, found in sets.items():
        assert _bytes(found.adapters[:2]) == _bytes(shorter[kind].adapters)
        with active(given.backbone, found.adapters[0]):
            own = given.train(0)
            assert np.allclose(embed(given.backbone, given.source, own), found.z[own, 0], atol=1e-6)


def test_a_task_space_holds_no_other_tasks_training_documents(plain):
    given, sets, _ = plain
    for found in sets.values():
        for k in range(3):
            others = np.concatenate([given.train(j) for j in range(3) if j != k])
            assert np.isnan(found.z[others, k]).all() and np.isfinite(found.z[given.train(k), k]).all()


def test_independent_adapters_do_not_know_of_one_another(plain):
    given, sets, _ = plain
    turned = dataclasses.replace(given, stream=reordered(given.stream, [2, 1, 0]))
    found = train_adapters(turned, given.config.adapter.alone())
    assert _bytes(found.adapters[::-1]) == _bytes(sets["independent"].adapters)
    assert all(x.composition[name].size == 0 for x in found.adapters for name in x.folded)
    composed = train_adapters(turned, given.config.adapter)
    assert _bytes(composed.adapters[::-1]) != _bytes(sets["composed"].adapters)


def test_the_same_seed_gives_the_same_answers_and_another_seed_does_not(plain):
    given, _, found = plain
    for name, again in answers(problem()).items():
        for what in ("task", "cluster", "told", "scores"):
            assert np.array_equal(getattr(found[name], what), getattr(again, what)), (name, what)
    other = problem(settings=config(seed=1))
    assert _bytes(train_adapters(other, given.config.adapter).adapters) != _bytes(plain[1]["composed"].adapters)


def test_the_order_of_test_documents_does_not_matter(plain):
    given, _, found = plain
    before = given.stream
    test = before.where("test")
    order = np.arange(len(before.task))
    order[test] = np.random.default_rng(3).permutation(test)
    shuffled = dataclasses.replace(
        before, inputs=tuple(before.inputs[j] for j in order), task=before.task[order], label=before.label[order]
    )
    back = np.searchsorted(test, order[test])
    for name, again in answers(problem(shuffled)).items():
        if name != "random":
            assert np.array_equal(found[name].task[:, back], again.task), name
            assert np.array_equal(found[name].cluster[:, back], again.cluster), name


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_an_outcome_has_its_shape_and_is_consistent(plain, name):
    given, _, found = plain
    outcome, true = found[name], given.stream.task[given.stream.where("test")]
    later = true > np.arange(3)[:, None]
    starts = given.starts
    for what in (outcome.task, outcome.cluster, outcome.told):
        assert what.shape == (3, true.size)
        assert np.array_equal(what == -1, later)
    # The class lies in the task that was retrieved; told, in the true one; and no task is retrieved before it is learned.
    owner = np.concatenate([given.class_task, [-1]])
    assert np.array_equal(owner[outcome.cluster], outcome.task)
    assert np.array_equal(owner[outcome.told], np.where(later, -1, true))
    assert (outcome.task <= np.arange(3)[:, None]).all()
    assert np.array_equal(outcome.scores.argmin(axis=1), outcome.task[-1])
    assert np.isfinite(outcome.scores).all()
    # Told of a single task or found right, the head is the same.
    right = outcome.task == true
    assert np.array_equal(outcome.cluster[right], outcome.told[right])
    assert outcome.seconds.keys() == {"train", "fit", "test"} and min(outcome.seconds.values()) >= 0
    assert all(isinstance(v, int) and v > 0 for v in outcome.stored.values())
    assert starts[-1] == 6


def test_what_is_told_is_never_wrong_and_what_is_drawn_is_wrong_as_often_as_it_should_be(plain):
    given, sets, found = plain
    true = given.stream.task[given.stream.where("test")]
    assert np.array_equal(found["told"].task[-1], true)
    assert np.array_equal(found["told"].cluster, found["told"].told)
    random = next(method for method in METHODS if method.name == "random")
    draws = [random(dataclasses.replace(given, config=config(seed=s)), sets).task[-1] != true for s in range(60)]
    assert np.mean(draws) == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / np.size(draws)))


def test_every_method_learns_the_tiny_problem(plain):
    """Letters tell classes and tasks apart: whoever learns does better than chance, in telling both."""
    given, _, found = plain
    test = given.stream.where("test")
    task, cluster = given.stream.task[test], given.stream.cluster[test]
    for name, outcome in found.items():
        if name not in ("random", "arrow"):
            # Sequential training is expected to forget, but not what it learned last.
            rows = task == 2 if name == "sequential" else np.ones(task.size, dtype=bool)
            assert (outcome.told[-1] == cluster)[rows].mean() > 0.7, name
            assert (outcome.task[-1] == task)[rows].mean() > 0.5, name


def test_sequential_training_forgets():
    """The same texts in both tasks: the second task takes over whatever the first had learned, and adapters of their own do not care."""
    same = stream((LETTERS[0], LETTERS[0]))
    given = problem(same, config(training={"epochs": 8, "batch_size": 8, "learning_rate": 1e-2}))
    test = same.where("test")
    task, cluster = same.task[test], same.cluster[test]
    by_name = {method.name: method for method in METHODS}
    sequential = by_name["sequential"](given, {})
    assert forgetting(stage_matrix(sequential.cluster == cluster, task)) > 0.5
    told = by_name["told"](given, {"composed": train_adapters(given, given.config.adapter)})
    assert forgetting(stage_matrix(told.cluster == cluster, task)) == 0


def test_what_is_stored(plain):
    given, sets, found = plain
    D, rank, maps, m, C = 32, 2, 4, 3, 6
    alone = m * maps * rank * 2 * D * 4
    assert found["independent"].stored["adapters"] == alone
    # The scalars on units of the tasks before.
    assert found["proteus"].stored["adapters"] == alone + maps * rank * (0 + 1 + 2) * 4
    assert found["sequential"].stored == {"adapters": alone // m, "heads": C * D * 4}
    assert found["nearest-mean"].stored == {"class means": C * D * 4}
    assert found["ridge"].stored == {"head": 8 * 40 * C, "Gram matrix and class sums": 8 * 40 * (40 + C)}
    assert found["replay"].stored["class statistics"] == 4 * C * (D + D * D)
    assert found["replay"].stored["task classifier"] == 8 * C * (D + 1)
    assert found["keys"].stored["keys"] == 4 * m * 3 * D
    assert found["arrow"].stored == {"adapters": alone, "heads": sets["independent"].stored["heads"]}
    reservoir = sum(len(given.stream.inputs[j]) for j in given.stream.where("reservoir"))
    signatures = found["proteus-ratio"].stored
    assert signatures["reservoir"] == reservoir
    # Projected signatures are fitted anew when the projection changes, from what has to be kept for that.
    assert signatures["training embeddings"] == 4 * D * 72 and signatures["projections"] == 4 * m * (D + 4 * D)
    assert found["proteus-joined"].stored["training embeddings"] == 2 * signatures["training embeddings"]
    assert found["frozen-signatures"].stored["projections"] == 4 * (D + 4 * D)
    assert signatures["background"] == 8 * m * (4 + 16) and "background" not in found["proteus"].stored
    # Projections need the reservoir whatever the background is of.
    assert found["proteus-corpus"].stored == {**signatures, "corpus": 210}
    full = dataclasses.replace(given, config=config(signature={"dimension": D}))
    whole = {method.name: method(full, sets).stored.keys() for method in METHODS if method.name.startswith("proteus")}
    assert whole["proteus"] == {"adapters", "heads", "signatures"}
    assert whole["proteus-corpus"] == whole["proteus"] | {"background", "corpus"}
    assert whole["proteus-ratio"] == whole["proteus"] | {"background", "reservoir"}


def test_methods_that_run_one_adapter_a_document_are_not_charged_for_all(plain):
    _, sets, found = plain
    passes = sets["composed"].seconds["test"]
    assert found["proteus"].seconds["test"] >= passes
    assert found["told"].seconds["test"] == pytest.approx(passes / 3)
    for name in ("proteus", "told", "frozen-signatures"):
        assert found[name].seconds["train"] == sets["composed"].seconds["train"]


def test_only_the_method_that_embeds_the_corpus_pays_for_it(plain, monkeypatch):
    given, sets, _ = plain
    slow = 0.0

    def late(backbone, documents):
        nonlocal slow
        slow += 0.3
        time.sleep(0.3)
        assert documents == CORPUS
        return encode_prefix(backbone, documents)

    monkeypatch.setattr(per_task, "encode_prefix", late)
    found = {method.name: method(given, sets).seconds["fit"] for method in METHODS if method.name.startswith("proteus")}
    assert slow == 0.3
    assert found["proteus-corpus"] >= 0.3


def test_class_scores_become_tasks_classes_and_told_classes(plain):
    given = plain[0]
    test = given.stream.where("test")
    true, cluster = given.stream.task[test], given.stream.cluster[test]
    best = np.eye(6)[cluster]
    # The right class, unless class 0 is louder: of the first task whatever is asked.
    loud = best + 2 * (np.arange(6) == 0)
    found = from_class_scores(given, lambda i: loud[:, : given.starts[i + 1]], {}, {})
    assert (found.task[-1] == 0).all() and (found.cluster[-1] == 0).all()
    assert np.array_equal(found.told[-1][true > 0], cluster[true > 0])
    assert found.scores[0, 0] == -loud[0, :2].max()
    with pytest.raises(InputError, match="stage 0 are NaN"):
        from_class_scores(given, lambda i: np.full((test.size, 2), np.nan), {}, {})


def test_task_scores_ask_the_head_of_the_retrieved_task(plain):
    given = plain[0]
    test = given.stream.where("test")
    true = given.stream.task[test]
    rng = np.random.default_rng(0)
    predicted = given.starts[:3] + rng.integers(0, 2, (test.size, 3))
    scores = rng.random((test.size, 3))
    found = from_task_scores(given, lambda i: scores[:, : i + 1], predicted, {}, {})
    for i in range(3):
        for n in np.flatnonzero(true <= i):
            assert found.task[i, n] == scores[n, : i + 1].argmin()
            assert found.cluster[i, n] == predicted[n, found.task[i, n]]
            assert found.told[i, n] == predicted[n, true[n]]
    scores[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN for 1 documents"):
        from_task_scores(given, lambda i: scores[:, : i + 1], predicted, {}, {})


def test_reordering_moves_tasks_and_no_document():
    before = stream()
    after = reordered(before, [2, 0, 1])
    assert [t.name for t in after.tasks] == ["third", "first", "second"]
    assert after.inputs is before.inputs
    for k, name in enumerate(NAMES):
        assert np.array_equal(before.where("test", k), after.where("test", [t.name for t in after.tasks].index(name)))
    for wrong in ([0, 1], [0, 0, 1]):
        with pytest.raises(InputError, match="no permutation"):
            reordered(before, wrong)


# Arrow


def adapter(backbone: Backbone, seed: int, rank: int = 2, largest: float = 3.0) -> Adapter:
    """Updates with singular values far apart, so that a few power iterations find the first singular vector."""
    rng = np.random.default_rng(seed)
    folded = {}
    for name, base in backbone.projections(("query", "value")).items():
        a = np.linalg.qr(rng.normal(size=(base.in_features, rank)))[0].T
        b = np.linalg.qr(rng.normal(size=(base.out_features, rank)))[0].T * np.geomspace(largest, largest / 20, rank)[:, None]
        folded[name] = Units(a.astype(np.float32), b.astype(np.float32))
    return Adapter(str(seed), 1.0, folded, {name: np.zeros(0, np.float32) for name in folded}, folded)


def test_a_prototype_is_the_first_right_singular_vector():
    rng = np.random.default_rng(0)
    units = Units(rng.normal(size=(3, 7)).astype(np.float32), rng.normal(size=(3, 5)).astype(np.float32))
    direct = np.linalg.svd(units.b.T.astype(np.float64) @ units.a)[2][0]
    assert abs(prototype(units) @ direct) == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_routed_map_is_pefts_arrow_layer(count):
    backbone = tiny.backbone()
    adapters = [adapter(backbone, seed) for seed in range(count)]
    name, base = next(iter(backbone.projections(("query",)).items()))
    ours = Routed(base, [x.folded[name] for x in adapters], backbone.device)
    tasks = [f"task_{k}" for k in range(count)]
    settings = ArrowConfig(top_k=min(3, count), router_temperature=1.0, rng_seed=0)
    settings.task_adapter_names, settings.gks_adapter_names = tasks, []
    theirs = ArrowLoraLinearLayer(base.in_features, settings)
    A, B = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    for task, x in zip(tasks, adapters, strict=True):
        A[task], B[task] = torch.nn.Linear(32, 2, bias=False), torch.nn.Linear(2, 32, bias=False)
        A[task].weight.data, B[task].weight.data = torch.from_numpy(x.folded[name].a), torch.from_numpy(x.folded[name].b.T.copy())
    theirs.build_prototypes(A, B)
    cosine = (theirs.prototypes * ours.prototypes).sum(dim=1).abs()
    assert torch.allclose(cosine, torch.ones(count), atol=1e-5)
    x = 3 * torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(1))
    delta = theirs(x, A, B, torch.nn.Identity(), dict.fromkeys(tasks, 1.0))
    assert torch.allclose(ours(x), base(x) + delta, atol=1e-5)
    assert torch.allclose(ours.gates.sum(-1), torch.ones(4, 6)) and ((ours.gates > 0).sum(-1) == min(3, count)).all()


def test_the_routed_encoder_is_pefts(tmp_path):
    """A whole model with its routing adapter, made by PEFT from folders, embeds texts as ours does."""
    from peft.tuners.lora.arrow import create_arrow_model

    torch.manual_seed(0)
    # PEFT routes in every layer.
    backbone = tiny.assembled(tiny.MODELS["bert"](), config(backbone={"adapted_layers": 3, "max_length": 24}).backbone)
    adapters = [adapter(backbone, seed) for seed in range(4)]
    folders = []
    for x in adapters:
        torch.manual_seed(0)
        wrapped = get_peft_model(tiny.MODELS["bert"](), LoraConfig(r=2, lora_alpha=2, target_modules=list(x.folded)))
        for name, units in x.folded.items():
            layer = wrapped.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.data = torch.from_numpy(units.a)
            layer.lora_B["default"].weight.data = torch.from_numpy(units.b.T.copy())
        folders.append(str(tmp_path / x.task))
        wrapped.save_pretrained(folders[-1])
    torch.manual_seed(0)
    model = tiny.MODELS["bert"]().eval()
    model.load_state_dict(backbone.model.state_dict())
    theirs = create_arrow_model(model, folders, ArrowConfig(top_k=3, router_temperature=1.0, rng_seed=0)).eval()
    tokens = tiny.tokenizer(tiny.texts(6)[0], True, 24)["input_ids"]
    source = encode_prefix(backbone, tiny.texts(6)[0])
    with placed(backbone.model, routed(backbone, adapters)):
        ours = embed(backbone, source, np.arange(6))
    for row, ids in enumerate(tokens):
        with torch.no_grad():
            pooled = theirs(input_ids=torch.tensor([ids])).last_hidden_state.mean(1)[0]
        assert np.allclose(ours[row], torch.nn.functional.normalize(pooled, dim=0), atol=1e-4)


@pytest.mark.parametrize(("kind", "precision"), [("bert", "float32"), ("bert", "bfloat16"), ("vit", "float32")])
def test_gate_shares_are_shares(kind, precision):
    backbone = tiny.backbone(kind=kind, precision=precision)
    source = encode_prefix(backbone, tiny.documents(kind, 9)[0])
    adapters = [adapter(backbone, seed) for seed in range(5)]
    shares = gate_shares(backbone, source, np.arange(9), adapters)
    assert shares.shape == (9, 5) and np.allclose(shares.sum(axis=1), 1, atol=1e-3) and (shares >= 0).all()
    # Alone or in company, whatever is padded.
    alone = np.concatenate([gate_shares(backbone, source, np.array([j]), adapters) for j in range(9)])
    assert np.allclose(shares, alone, atol=1e-5 if precision == "float32" else 0.05)


def test_one_adapter_gets_every_token():
    backbone = tiny.backbone()
    source = encode_prefix(backbone, tiny.texts(4)[0])
    assert np.allclose(gate_shares(backbone, source, np.arange(4), [adapter(backbone, 0)]), 1)


# Remedies


@pytest.mark.parametrize("remedy", ["none", "ratio", "corpus", "angular", "calibrated"])
def test_stages_are_fitted_to_known_tasks_only(remedy):
    """Whatever the embeddings of later tasks, NaN included."""
    what = stream()
    x = np.random.default_rng(0).normal(size=(len(what.task), 3, 8)) + what.cluster[:, None, None]
    poisoned = x.copy()
    poisoned[what.task == 2] = np.nan
    poisoned[:, 2] = np.nan
    poisoned[what.part == "test"] = np.nan
    asked = np.flatnonzero((what.part == "test") & (what.task < 2))
    settings = config(signature={"dimension": 3}).signature
    corpus = np.random.default_rng(2).normal(size=(9, 3, 8))
    corpora = corpus, np.where(np.arange(3)[:, None] == 2, np.nan, corpus)
    one, other = (
        fit_retrieval(what, v, 2, settings, remedy, np.random.default_rng(1), c).scores(x[asked])
        for v, c in zip((x, poisoned), corpora, strict=True)
    )
    assert one.shape == (asked.size, 2) and np.array_equal(one, other)


def test_the_ratio_and_calibration_do_not_mind_the_scale_of_a_space():
    what = stream()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(what.task), 3, 6)) + np.eye(6)[what.cluster][:, None] * 2
    scaled = x * np.array([1.0, 30.0, 0.1])[:, None]
    corpus = rng.normal(size=(30, 3, 6))
    settings = config(signature={"dimension": 6}).signature
    asked = what.where("test")
    retrieved = partial(fit_retrieval, what, tasks=3, config=settings)
    for remedy in ("none", "ratio", "corpus", "calibrated", "angular"):
        one, other = (
            retrieved(x=v, remedy=remedy, rng=np.random.default_rng(2), corpus=c).scores(v[asked]).argmin(axis=1)
            for v, c in ((x, corpus), (scaled, corpus * np.array([1.0, 30.0, 0.1])[:, None]))
        )
        if remedy == "none":
            assert (one != other).mean() > 0.3
        else:
            assert np.array_equal(one, other) or remedy == "angular", remedy


def test_the_background_of_a_corpus_is_fitted_to_the_corpus_in_each_space():
    what = stream()
    rng = np.random.default_rng(0)
    x, corpus = rng.normal(size=(len(what.task), 3, 8)), rng.normal(loc=2, size=(40, 3, 8))
    fitted = partial(fit_retrieval, what, x, 3, config(signature={"dimension": 8}).signature, "corpus", rng)
    found = fitted(corpus).rule.background
    for k in range(3):
        mean, covariance = shrunk_gaussian(fit_projection(x[:, k], 8)(corpus[:, k]), "ledoit-wolf", "")
        # Projections are centred on the reservoir, which moves a mean and no covariance.
        shift = x[what.where("reservoir"), k].mean(axis=0) - x[:, k].mean(axis=0)
        assert np.allclose(found.means[k], mean - shift) and np.allclose(found.covariances[k], covariance)
    with pytest.raises(InputError, match="corpus: is missing"):
        fitted()


def test_calibration_centres_a_tasks_own_documents():
    """Own test documents score about zero with spread one, though signatures were fitted to few documents."""
    rng = np.random.default_rng(0)
    n = 400
    task, part = np.repeat([0, 1], n), np.tile(np.repeat(["train", "reservoir", "test"], (80, 40, 280)), 2)
    what = Stream("g", (Task("a", ("x", "y")), Task("b", ("x", "y"))), ("",) * (2 * n), task, np.tile([0, 1], n), part)
    x = rng.normal(size=(2 * n, 2, 5)) * np.array([1.0, 7.0])[:, None] + 3 * task[:, None, None]
    fitted = fit_retrieval(what, x, 2, config(signature={"dimension": 5}).signature, "calibrated", rng)
    for k in range(2):
        own = fitted.scores(x[what.where("test", k)])[:, k]
        assert abs(own.mean()) < 0.25 and 0.8 < own.std() < 1.25
