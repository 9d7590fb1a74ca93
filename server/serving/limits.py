"""What a request may cost: bytes, examples, seconds. Who asks for more is refused before it costs anything."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import HTTPException

if TYPE_CHECKING:
    from starlette.requests import Request

    from server.serving.computing import Room

MEBIBYTE = 1 << 20
RETRY = {"Retry-After": "1"}


class Refused(HTTPException):
    """A request that is not answered as it wanted; the text is one line, without anybody's values."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, text, headers)


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes:
        body: bytes of its body.
        examples: examples in it.
        seconds: for its body to come, and again for its answer to be computed.
    """

    body: int = 4 * MEBIBYTE
    examples: int = 1000
    seconds: float = 10.0


async def read_body(request: Request, limits: Limits, room: Room) -> bytes:
    """Return a request's body, whichever way it comes.

    Raises:
        Refused: 413 for a body over the limit, at the first byte over it; 408 for one that takes too long; 400 where
            the client went away; 503 where others take all the room.
    """
    told = request.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told[:20]) > limits.body:
        raise _too_large(limits)
    parts, size, held = [], 0, 0
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the client went away before its request was whole")
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > limits.body:
                    raise _too_large(limits)
                room.take(len(part))
                held = size
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        # What is still to come of it would be taken for the next request's beginning.
        raise Refused(
            408, f"the request's body did not come within {limits.seconds:g} s", {"Connection": "close"}
        ) from None
    finally:
        room.give(held)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.body / MEBIBYTE:g} MiB; send fewer examples at once")


def check_content_type(request: Request) -> None:
    """Insist on JSON in UTF-8, as it is.

    Raises:
        Refused: 415 for anything else.
    """
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise Refused(415, "the body must be JSON; send the header Content-Type: application/json")
    for parameter in rest.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8", "us-ascii"):
            raise Refused(415, "the body must be in UTF-8; leave the charset out, or send charset=utf-8")
    if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refused(415, "the body must not be compressed; leave the header Content-Encoding out")


def _parse_nan(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body, parse_constant=_only_nan)
    except (ValueError, RecursionError):
        return None
    # In data frames alone: in an array no number can be missing.
    frame = isinstance(found, dict) and any(str(key).startswith("dataframe_") for key in found)
    return found if frame else None


def _only_nan(word: str) -> float:
    if word != "NaN":
        raise ValueError(word)
    return math.nan


def parse(body: bytes, *, nan: bool = False) -> dict[str, Any]:
    """Return the JSON object that a body is.

    Args:
        body: the bytes.
        nan: ``NaN`` is let through, which stands for a missing number: so MLflow's clients send data frames.

    Raises:
        Refused: 400 where it is no JSON, or nothing that JSON knows such as NaN; 422 where it is no object.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if nan and b"NaN" in body and (lenient := _parse_nan(body)) is not None:
            return lenient
        # The parser says what and where; it does not repeat what it read.
        raise Refused(400, f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    if not isinstance(found, dict):
        raise Refused(422, "the body must be a JSON object")
    return found
