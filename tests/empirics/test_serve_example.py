"""The example of a service, asked as a client asks it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_serving import bert, certified  # noqa: F401

from empirics.routing.serving import Limits, load_served
from theory import InputError

fastapi = pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx")
pytestmark = pytest.mark.filterwarnings("ignore")


def example():
    path = Path(__file__).parents[2] / "examples" / "serve.py"
    found = importlib.util.spec_from_file_location("serve_example", path)
    # Where annotations are looked up.
    module = sys.modules["serve_example"] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def served(certified, bert):  # noqa: F811
    return load_served(certified, backbone=bert, limits=Limits(inputs=8, characters=50))


def client(app):
    from fastapi.testclient import TestClient

    return TestClient(app)


def test_answers_come_with_what_may_be_relied_on(served):
    texts = ["abcabcab", "opqopqopq", "hijk"]
    with client(example().create_app(served)) as asked:
        reply = asked.post("/route", json={"texts": texts})
        limits = asked.get("/certificate").json()
        health = asked.get("/health").json()
    assert reply.status_code == 200
    content = reply.json()
    for got, want in zip(content["answers"], served.answer(texts), strict=True):
        assert (got["task"], got["margin"], tuple(got["tasks"])) == (want.task, want.margin, want.tasks)
    assert (content["coverage"], content["certified_error"]) == (0.8, served.guarantee.overall.value)
    assert limits["statement"] == served.guarantee.statement and set(limits["limits"]) == {"overall", *served.tasks}
    assert health == {"tasks": 3, "rule": "ratio"}


def test_what_is_no_guarantee_is_not_given_as_one(served):
    broken = served.guarantee.overall.model_copy(update={"guarantee": False})
    without = dataclasses.replace(served, guarantee=dataclasses.replace(served.guarantee, overall=broken))
    with client(example().create_app(without)) as asked:
        assert asked.post("/route", json={"texts": ["abc"]}).json()["certified_error"] is None
        assert asked.get("/certificate").json()["limits"]["overall"]["guarantee"] is False


@pytest.mark.parametrize(
    ("content", "status", "problem"),
    (
        ({"texts": []}, 422, "are none"),
        ({"texts": ["a"] * 9}, 422, "at most 8"),
        ({"texts": ["x" * 51]}, 422, "more than 50"),
        ({"texts": [" "]}, 422, "empty text"),
        ({"texts": [3]}, 422, None),
        ({"text": "a"}, 422, None),
        ({"texts": ["x" * 2000]}, 413, "more than 1000"),
    ),
)
def test_what_is_too_much_or_not_understood_is_refused(served, content, status, problem):
    with client(example().create_app(served, body_bytes=1000)) as asked:
        reply = asked.post("/route", json=content)
    assert reply.status_code == status
    assert problem is None or problem in reply.json()["problem"]


def test_a_body_of_no_stated_length_is_refused(served):
    with client(example().create_app(served)) as asked:
        assert asked.post("/route", content=(part for part in [b'{"texts": ["abc"]}'])).status_code == 411


def test_more_than_may_wait_are_told_to_come_again(served, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(self, texts):
        begun.set()
        assert go_on.wait(30)
        return []

    monkeypatch.setattr(type(served), "answer", slow)
    with client(example().create_app(served, waiting=1)) as asked, ThreadPoolExecutor(1) as pool:
        first = pool.submit(asked.post, "/route", json={"texts": ["abc"]})
        assert begun.wait(30)
        second = asked.post("/route", json={"texts": ["abc"]})
        go_on.set()
        assert (first.result().status_code, second.status_code, second.headers["retry-after"]) == (200, 503, "1")


def test_an_encoder_of_images_is_refused(served):
    images = dataclasses.replace(served.router.backbone, tokens=17)
    with pytest.raises(InputError, match="takes images"):
        example().create_app(dataclasses.replace(served, router=dataclasses.replace(served.router, backbone=images)))
