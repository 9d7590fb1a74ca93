"""What stands in front of the server's door: who may send a request at all, how large, and how many at once."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from fastapi import HTTPException, Request
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from starlette.datastructures import Headers

from server.heap import sweep

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from server.superlink.board import Board

MAX_BODY = 8 * 2**20
"""The most bytes a request may have. Arrays travel in pieces of a megabyte; a list of a large model's pieces fits."""

AT_ONCE = 2
"""How many requests are worked on at the same time, waiting ones not counted. More would not be quicker: they are
Python's, and each holds some copies of a piece of a model."""

PIECES_AT_ONCE = 4
"""How many pieces of models are held in memory on their way in or out; others wait in their hospitals."""

PIECES_EACH = 2
"""How many of them are of one hospital; a node sends and fetches no more at a time."""

PIECES_A_SWEEP = 16
"""After how many of them their remains are looked for."""

ROOM_SECONDS = 15.0
"""How long a piece waits for that at most."""

QUICK_SECONDS = 2.0
"""How long a piece counts as one of them: a slow line keeps nobody else waiting. What such lines hold beyond is no
more than a node's own two pieces each."""

OPEN_AT_ONCE = 16
"""How many requests of one key may be open; a node has four at the most."""

_PIECES = ("/v1/fleet/push-object", "/v1/fleet/pull-object")

PART = 64 * 1024
"""How many bytes of an answer are written at once."""

BODY_SECONDS = 60.0
"""How long a request's body may take to arrive."""

_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()


class Guard:
    """Lets through POST to the Fleet API and GET of the health check, in bounded numbers and sizes.

    Nothing is read from whoever does not prove to own a key on the allow-list; that the request is for the key's own
    node is checked further in. A request's body is read before it takes one of the places: a slow sender keeps
    nobody waiting.
    """

    def __init__(self, app: ASGIApp, board: Board) -> None:
        self._app, self._board = app, board
        self._places = asyncio.Semaphore(AT_ONCE)
        self._rooms = asyncio.Semaphore(PIECES_AT_ONCE)
        self._pieces = 0
        self._open: Counter[bytes] = Counter()
        self._own: dict[bytes, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(PIECES_EACH))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection's event, as ASGI says."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD") and path == "/health":
            await self._app(scope, receive, send)
            return
        if method != "POST" or not path.startswith("/v1/fleet/"):
            await _answer(send, 404)
            return
        key = dict(scope["headers"]).get(_KEY_HEADER, b"")
        if not self._board.knows(key):
            await _answer(send, 403)
            return
        if not _proves(Headers(scope=scope), key):
            await _answer(send, 401)
            return
        if self._open[key] >= OPEN_AT_ONCE:
            await _answer(send, 503)
            return
        self._open[key] += 1
        try:
            await self._admit(scope, receive, send, key)
        finally:
            self._open[key] -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send, key: bytes) -> None:
        if scope["path"] not in _PIECES:
            await self._serve(scope, receive, send)
            return
        async with self._own[key]:
            room = _Room(self._rooms)
            await room.enter()
            try:
                await self._serve(scope, receive, send)
            finally:
                room.leave()
                self._pieces += 1
                if self._pieces % PIECES_A_SWEEP == 0:
                    sweep()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        try:
            body = await asyncio.wait_for(_read_body(receive), BODY_SECONDS)
        except TimeoutError:
            await _answer(send, 408)
            return
        if body is None:
            await _answer(send, 413)
            return
        replay = _replay(body, receive)
        if path == "/v1/fleet/pull-messages":  # Waits for work, most of the time.
            await self._app(scope, replay, send)
            return
        answer: list[Message] = []

        async def collect(event: Message) -> None:
            answer.append(event)

        async with self._places:
            await self._app(scope, replay, collect)
        # A slow receiver holds no place.
        for event in answer:
            await _send_in_parts(send, event)


class _Room:
    """A place in memory for a piece of a model, for as long as it is quick."""

    def __init__(self, rooms: asyncio.Semaphore) -> None:
        self._rooms, self._held = rooms, False

    async def enter(self) -> None:
        """Wait for it; not for ever, lest others keep this one out."""
        try:
            await asyncio.wait_for(self._rooms.acquire(), ROOM_SECONDS)
        except TimeoutError:
            return
        self._held = True
        self._timer = asyncio.get_running_loop().call_later(QUICK_SECONDS, self.leave)

    def leave(self) -> None:
        """Give it back, once."""
        if self._held:
            self._held = False
            self._timer.cancel()
            self._rooms.release()


def _proves(headers: Headers, key: bytes) -> bool:
    """Tell whether a request's headers hold the signature that the key's owner can make alone, and lately."""
    claimed = ActivateNodeRequest(public_key=base64.b64decode(key))
    try:
        authenticate_node(
            cast("Request", SimpleNamespace(headers=headers, state=SimpleNamespace(protobuf_request=claimed)))
        )
    except HTTPException:
        return False
    return True


async def _read_body(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            return None
        if not event.get("more_body", False):
            return b"".join(parts)


async def _send_in_parts(send: Send, event: Message) -> None:
    """Send an event, a large body in parts, each when the one before is on its way.

    A connection's buffers grow to the largest part that was ever written at once, and never shrink.
    """
    body = event.get("body", b"")
    for start in range(0, max(len(body), 1), PART):
        part = body[start : start + PART]
        more = event.get("more_body", False) or start + PART < len(body)
        await send({**event, "body": part, "more_body": more} if "body" in event else event)


def _replay(body: bytes, receive: Receive) -> Receive:
    held: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return held.pop() if held else await receive()

    return again


async def _answer(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
