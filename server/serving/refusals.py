"""Errors as they are answered: JSON, one clear line, and the request's id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.serving import scoring
from server.serving.notes import note_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.types import Scope

_WORDS = {
    "Not Found": "there is no such path; /docs lists them",
    "Method Not Allowed": "the path does not know this method; /docs lists them",
}


def error_answer(scope: Scope, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make an error's answer; under MLflow's path it has what MLflow's clients look for, too.

    Args:
        scope: the request's.
        status: HTTP's.
        text: one line that says what is wrong and what to do.
        headers: further ones.
    """
    told: dict[str, Any] = {"error": text, "request_id": note_of(scope).request}
    if scope["path"] == scoring.PATH:
        told |= scoring.error_fields(status, text)
    return Response(orjson.dumps(told), status, dict(headers or {}), "application/json")


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer an HTTPException."""
    if not isinstance(error, HTTPException):
        raise error
    text = _WORDS.get(error.detail, error.detail)
    return error_answer(request.scope, error.status_code, text, error.headers)
