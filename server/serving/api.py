"""The HTTP interface of what is served."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as AnyHTTPException

from fl.errors import DataError
from server.serving import answers, scoring
from server.serving.computing import Computing, Room
from server.serving.docs_page import add_docs
from server.serving.examples import TooMany, encode
from server.serving.front import Front
from server.serving.health import add_health
from server.serving.limits import RETRY, Limits, Refused, check_content_type, parse, read_body
from server.serving.metrics import CONTENT_TYPE, Metrics
from server.serving.notes import note_of
from server.serving.page import add_page
from server.serving.refusals import answer_http_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from numpy.typing import NDArray

    from fl.data.schema import Schema
    from server.serving.champion import Champion, Served
    from server.serving.keys import Keys

    Read = Callable[[bytes, Schema, int], NDArray[Any]]
    Tell = Callable[[Served, NDArray[Any]], dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """How predictions are served.

    Attributes:
        limits: what a request may cost.
        keys: who may ask; None for everybody.
        schema: the task's, for the documentation until there is a model; None where it is not known.
    """

    limits: Limits = field(default_factory=Limits)
    keys: Keys | None = None
    schema: Schema | None = None


def create_api(champion: Champion, options: Options | None = None) -> FastAPI:
    """Make the ASGI application over a champion, which it starts and stops."""
    options = options or Options()
    limits, keys = options.limits, options.keys
    computing, metrics, room = Computing(limits), Metrics(champion, keys), Room(limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        champion.start()
        yield
        champion.stop()
        computing.stop()

    app = FastAPI(
        title="FLOps", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_middleware(Front, metrics=metrics)
    app.add_exception_handler(AnyHTTPException, answer_http_error)

    def admit(request: Request) -> Served:
        if keys is not None:
            note_of(request.scope).key = keys.name_of(request)
        if champion.served is None:
            raise HTTPException(503, champion.problem, RETRY)
        return champion.served

    async def answer(request: Request, read: Read, tell: Tell) -> Response:
        served = admit(request)  # Once: whatever is loaded meanwhile, the answer is this version's.
        check_content_type(request)
        body = await read_body(request, limits, room)
        note = note_of(request.scope)

        def work(most: int) -> tuple[bytes, int]:
            encoded = read(body, served.predictor.task.schema, most)
            return orjson.dumps(tell(served, encoded)), len(encoded)

        done = None
        try:
            if len(body) <= served.quick:
                with suppress(TooMany):  # A short body may have many examples: each an empty object.
                    done = work(min(served.few, limits.examples))
            if done is None:
                done = await computing.run(lambda: work(limits.examples), size=len(body))
        except DataError as error:
            raise Refused(413 if isinstance(error, TooMany) else 422, scoring.tell(error)) from None
        content, note.examples = done
        note.version = served.version.version
        return Response(content, media_type="application/json")

    async def predict(request: Request) -> Response:
        return await answer(request, _read_inputs, answers.predictions)

    async def invocations(request: Request) -> Response:
        return await answer(request, _read_forms, answers.records)

    # Not as FastAPI's own routes, which would look for parameters of a request that is read here, byte by byte.
    app.add_route("/predict", predict, ["POST"])
    app.add_route(scoring.PATH, invocations, ["POST"])

    @app.get("/model")
    async def model(request: Request) -> Response:
        served = admit(request)
        version, lineage = served.version, served.lineage
        told = {"model": version.name, "version": version.version, "tags": dict(version.tags), "lineage": lineage}
        return Response(orjson.dumps(told), media_type="application/json")

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    add_health(app, champion, keys)
    add_docs(app, champion, options)
    add_page(app, champion)
    _answer_head(app)
    return app


def _read_inputs(content: bytes, schema: Schema, most: int) -> NDArray[Any]:
    body = parse(content)
    if body.keys() != {"inputs"}:
        raise DataError('the body has one key, "inputs": an example, or a list of examples')
    try:
        return encode(body["inputs"], schema, most)
    except DataError as error:
        raise scoring.under("inputs", error) from None


def _read_forms(content: bytes, schema: Schema, most: int) -> NDArray[Any]:
    return scoring.encode_forms(parse(content, nan=True), schema, most)


def _answer_head(app: FastAPI) -> None:
    """Let what can be read be asked for without its body, too, as probes and link checkers do."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")
