"""Compiled layers: what they compute, and that other adapters compile nothing anew."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import numpy as np
import pytest
import tiny
import torch
from test_multi import adapter

from empirics.adapters.adapter import active
from empirics.adapters.multi import embed_all
from empirics.adapters.training import train_adapter
from empirics.config import AdapterConfig, TrainingConfig
from empirics.encoders import backbone
from empirics.encoders.anatomy import run_block
from empirics.encoders.backbone import Backbone
from empirics.encoders.prefix import embed, encode_prefix
from theory import InputError

pytestmark = pytest.mark.filterwarnings("ignore")
# PyTorch hands the folder of its headers to the compiler without quotes.
compiler = pytest.mark.skipif(shutil.which("g++") is None or " " in torch.__file__, reason="there is no compiler, or a space in its way")
TARGETS = ("query", "value")


def last_layer(kind: str, **settings) -> Backbone:
    """A tiny encoder whose last layer alone is adapted: tracing a layer takes seconds."""
    return dataclasses.replace(tiny.backbone(kind=kind, **settings), first=2)


@pytest.fixture
def traced(monkeypatch):
    """Everything of compilation but the machine code; yields a function that counts the graphs traced so far."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(backbone, "_check_compiler", lambda device: None)
    monkeypatch.setattr(backbone, "_compiled_block", functools.cache(lambda: torch.compile(run_block, backend="eager")))
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", (pytest.param("bert", marks=pytest.mark.slow), "vit"))
def test_other_adapters_compile_nothing_anew(kind, traced):
    eager, compiled = last_layer(kind, batch_size=12), last_layer(kind, batch_size=12, compile=True)
    inputs, _ = tiny.documents(kind)
    source, graphs = encode_prefix(eager, inputs), []
    # Parts of four documents; the last of three, two and four.
    for seed, index in enumerate(map(np.arange, (39, 38, 40))):
        pool = [adapter(eager, f"t{k}", TARGETS, 3, 10 * seed + k) for k in range(3)]
        np.testing.assert_allclose(embed_all(compiled, source, index, pool), embed_all(eager, source, index, pool), atol=1e-5)
        with active(compiled, pool[0]):
            got = embed(compiled, source, index[:37])
        with active(eager, pool[0]):
            np.testing.assert_allclose(got, embed(eager, source, index[:37]), atol=1e-5)
        graphs.append(traced())
    assert graphs[0] > 0 and graphs[1:] == graphs[:1] * 2


def test_tasks_after_the_second_compile_nothing_anew(traced):
    compiled, (inputs, labels) = last_layer("vit", compile=True), tiny.documents("vit")
    source, earlier, graphs = encode_prefix(compiled, inputs), [], []
    for k in range(4):
        config, training = AdapterConfig(rank=2), TrainingConfig(epochs=1, batch_size=16)
        rng = np.random.default_rng(k)
        earlier.append(train_adapter(compiled, source, np.arange(40), labels, f"t{k}", earlier, config, training, rng)[0])
        graphs.append(traced())
    # The pool is empty, then of one size, then of any.
    assert graphs[0] > 0 and graphs[3] == graphs[1]


@compiler
@pytest.mark.slow
def test_machine_code_computes_the_same():
    eager, compiled = last_layer("vit"), last_layer("vit", compile=True)
    inputs, labels = tiny.documents("vit")
    source, index = encode_prefix(eager, inputs), np.arange(40)
    pool = [adapter(eager, f"t{k}", TARGETS, 3, k) for k in range(3)]
    np.testing.assert_allclose(embed_all(compiled, source, index, pool), embed_all(eager, source, index, pool), atol=1e-5)
    training = TrainingConfig(epochs=2, batch_size=16)
    losses = [
        train_adapter(b, source, index, labels, "t", (), AdapterConfig(rank=2), training, np.random.default_rng(0))[1].losses
        for b in (eager, compiled)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_machine_that_cannot_compile_is_told_at_once(monkeypatch):
    def broken(*args, **settings):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"backbone\.compile.*no compiler"):
        tiny.backbone(compile=True)
