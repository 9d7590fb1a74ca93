"""The server's door: Flower's Fleet API and a health check over HTTPS, and nothing else.

Flower's own SuperLink serves its Control and Runtime API on the same port, and whoever reaches them can start a run.
Here their routes do not exist. In front of what does exist stands `Guard`: it bounds the size of a request and how
many are worked on at once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError, http_error_translator
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY, ProtobufTranslationMiddleware
from flwr.supercore.routers import health
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

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

ROOM_SECONDS = 15.0
"""How long a piece waits for that at most."""

_PIECES = ("/v1/fleet/push-object", "/v1/fleet/pull-object")

PART = 64 * 1024
"""How many bytes of an answer are written at once."""

BODY_SECONDS = 60.0
"""How long a request's body may take to arrive."""

HELD_SECONDS = 5.0
"""How long a hospital's question for work is kept open when there is none."""

_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()


class Guard:
    """Lets through POST to the Fleet API and GET of the health check, in bounded numbers and sizes.

    Nothing is read from whoever does not name a key on the allow-list; that it is theirs is proved further in. A
    request's body is read before it takes one of the places: a slow sender keeps nobody waiting.
    """

    def __init__(self, app: ASGIApp, board: Board) -> None:
        self._app, self._board = app, board
        self._places = asyncio.Semaphore(AT_ONCE)
        self._rooms = asyncio.Semaphore(PIECES_AT_ONCE)

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
        if not self._board.knows(dict(scope["headers"]).get(_KEY_HEADER, b"")):
            await _answer(send, 403)
            return
        if path not in _PIECES:
            await self._serve(scope, receive, send)
            return
        entered = await self._enter()
        try:
            await self._serve(scope, receive, send)
        finally:
            if entered:
                self._rooms.release()

    async def _enter(self) -> bool:
        """Wait until a piece of a model may be held in memory; not for ever, lest slow hospitals keep others out."""
        try:
            await asyncio.wait_for(self._rooms.acquire(), ROOM_SECONDS)
        except TimeoutError:
            return False
        return True

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


def create_api(board: Board) -> FastAPI:
    """Make the ASGI application over what the link state holds."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(Guard, board=board),
            Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
            Middleware(ProtobufTranslationMiddleware),
            Middleware(NodeAuthMiddleware),
        ],
    )
    app.state.linkstate_factory = board
    app.state.enable_supernode_auth = True
    app.include_router(health.router)
    app.include_router(_routes(board))  # Before Flower's, so that these three are ours.
    app.include_router(fleet_router)
    return app


def _routes(board: Board) -> APIRouter:
    router = APIRouter(prefix="/v1/fleet", route_class=ProtobufRoute)

    def activate(request: Any) -> ActivateNodeResponse:
        board.came_again(request.public_key)
        answer = fleet_handlers.activate_node(request=request, state=board.state())
        board.changed()
        return answer

    async def pull(request: Any) -> PullMessagesResponse:
        node, deadline = request.node.node_id, asyncio.get_running_loop().time() + HELD_SECONDS
        question = board.asks(node)
        while True:
            work = board.awaited(node)
            # A question that the network has cut off must not act for the node that has asked anew.
            if board.newest(node, question):
                answer = await run_in_threadpool(_pull, board, request)
            else:
                answer = PullMessagesResponse()
            left = deadline - asyncio.get_running_loop().time()
            if answer.messages_list or left <= 0 or board.closing:
                return answer
            try:
                await asyncio.wait_for(work.wait(), left)
            except TimeoutError:
                return PullMessagesResponse()

    def push(request: Any) -> PushMessagesResponse:
        if any(m.metadata.src_node_id != request.node.node_id for m in request.messages_list):
            raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "a node spoke for another")
        answer = fleet_handlers.push_messages(request=request, state=board.state())
        board.changed()
        return answer

    # Flower reads the types from the signatures.
    for endpoint, request, answer in (
        (activate, ActivateNodeRequest, ActivateNodeResponse),
        (pull, PullMessagesRequest, PullMessagesResponse),
        (push, PushMessagesRequest, PushMessagesResponse),
    ):
        endpoint.__annotations__ = {"request": Annotated[request, PROTOBUF_REQUEST_DEPENDENCY], "return": answer}
    router.post("/activate-node")(activate)
    router.post("/pull-messages")(pull)
    router.post("/push-messages")(push)
    return router


def _pull(board: Board, request: PullMessagesRequest) -> PullMessagesResponse:
    state = board.state()
    board.deliver_again(request.node.node_id)
    return fleet_handlers.pull_messages(request=request, state=state, store=state.object_store)
