"""A small web service over a served retriever: texts in, tasks with margins, sets and the certificate out.

    pip install "proteus-bounds[serve]"
    python examples/serve.py certified --port 8000
    curl localhost:8000/route --json '{"texts": ["where is my invoice?"]}'

An example to start from, not a hardened server: it knows no users and speaks no TLS, for which a proxy stands in front of it. What it
does guard against is being asked for too much: batches, texts and bodies are limited, and so is the number of requests that wait.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from empirics.routing.served_cascade import load_served_cascade
from empirics.routing.serving import Limits, Served, load_served
from theory.errors import InputError

Next = Callable[[Request], Awaitable[Response]]


class Routed(BaseModel):
    """Where a text is sent."""

    task: str
    margin: float | None = Field(description="how much less the task's score is than the second best; null in a cascade, which scores few")
    tasks: list[str] = Field(description="holds the true task with the probability `coverage`")


class Reply(BaseModel):
    """The answers to a batch, and what may be relied on."""

    answers: list[Routed]
    coverage: float
    certified_error: float | None = Field(description="share of inputs sent to a wrong task is at most this; null if nothing is guaranteed")


def create_app(served: Served, *, body_bytes: int = 2**24, waiting: int = 32) -> FastAPI:
    """The service.

    Parameters
    ----------
    served : Served
        Of an encoder of text; a cascade is one too.
    body_bytes : int
        Longer bodies are refused unread.
    waiting : int
        Requests in progress at once; more are told to come again.

    Raises
    ------
    InputError
        If the encoder takes images.
    """
    if served.router.backbone.modality != "text":
        raise InputError("served", "takes images, and this example takes texts")
    app, places = FastAPI(title="Certified task retrieval"), threading.BoundedSemaphore(waiting)
    overall = served.guarantee.overall

    @app.middleware("http")
    async def limited(request: Request, go_on: Next) -> Response:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdecimal():
            return _refused(411, "body", "has no length; send a Content-Length")
        if request.method == "POST" and int(length) > body_bytes:
            return _refused(413, "body", f"has {length} bytes, more than {body_bytes}; send fewer or shorter texts")
        return await go_on(request)

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> Response:
        return _refused(422, error.argument, error.problem)

    # Not a coroutine: it runs in a thread of the server's pool, where it may wait for the encoder.
    @app.post("/route", response_model=Reply)
    def route(texts: Annotated[list[str], Body(embed=True)]) -> Any:
        if not places.acquire(blocking=False):
            return _refused(503, "service", f"has {waiting} requests in progress; come again", {"Retry-After": "1"})
        try:
            answers = [Routed(**asdict(answer)) for answer in served.answer(texts)]
        finally:
            places.release()
        return Reply(answers=answers, coverage=served.guarantee.coverage, certified_error=overall.value if overall.guarantee else None)

    @app.get("/certificate")
    def certificate() -> dict[str, Any]:
        found = served.guarantee
        limits = {"overall": overall, **found.limits}
        return {
            "statement": found.statement,
            "limits": {name: {"error": row.value, "guarantee": row.guarantee, "note": row.note} for name, row in limits.items()},
            "coverage": found.coverage,
            "note": found.note,
        }

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"tasks": len(served.tasks), "rule": served.router.name}

    return app


def _refused(status: int, argument: str, problem: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"argument": argument, "problem": problem}, status, headers)


def main() -> None:
    """Serve a folder."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a run, or one that proteus-bounds certify wrote")
    parser.add_argument("--rule", help="needed where several were certified")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=64, help="texts a request may hold")
    parser.add_argument("--characters", type=int, default=10_000, help="that a text may have")
    parser.add_argument("--cascade", type=float, metavar="LOSS", help="run few adapters, and lose this share of right answers at most")
    options = parser.parse_args()
    limits = Limits(options.batch, options.characters)
    if options.cascade is None:
        served = load_served(options.folder, options.rule, limits=limits)
    else:
        served = load_served_cascade(options.folder, options.rule, loss=options.cascade, limits=limits)
    uvicorn.run(create_app(served), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
