"""What happens to every request before and after it is handled: its id, its time, its line in the log, its count.

Plain ASGI: a middleware with requests and answers of its own would cost as much as a small model.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
import uuid
from typing import TYPE_CHECKING

from server.serving.limits import RETRY
from server.serving.notes import begin_note, log_request
from server.serving.refusals import error_answer

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from server.serving.metrics import Metrics

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_UNLOGGED = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/ping"})

_REQUESTS = 2000
"""So many are handled at once."""

_log = logging.getLogger("flops.server.serving")


class Front:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        note = begin_note(scope, _request_id(scope))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                note.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", note.request.encode())]
            await send(message)

        self._under_way += 1
        try:
            if self._under_way > _REQUESTS and scope["path"] not in _UNLOGGED:
                headers = {**RETRY, "Connection": "close"}
                await error_answer(scope, 503, "too many requests at once; try again", headers)(
                    scope, receive, send_with_id
                )
            else:
                await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            _log.warning("request %s is given up: the server stops, and its client takes no answer", note.request)
        except Exception as error:
            # A bug. Its message may hold a patient's values: type and place are all that is told.
            place = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__} in {place.filename}, line {place.lineno}"
            _log.error("request %s failed: %s (a bug)", note.request, told)
            if not note.status:
                answer = error_answer(scope, 500, "the server failed; its log says where")
                await answer(scope, receive, send_with_id)
        finally:
            self._under_way -= 1
        seconds = time.perf_counter() - started
        path = _template(scope)
        self._metrics.answered(scope["method"], path, note.status, seconds, note.examples)
        if path not in _UNLOGGED:
            log_request(scope["method"], path, note, seconds)


def _template(scope: Scope) -> str:
    """Return the path of the route that was found; what a client makes up is "other"."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    # A route without FastAPI's own machinery, which here is one without parameters: its path is the request's.
    return str(scope["path"]).rstrip("\n") if "endpoint" in scope else "other"


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex
