"""The server's door: Flower's Fleet API and a health check over HTTPS, and nothing else.

Flower's own SuperLink serves its Control and Runtime API on the same port, and whoever reaches them can start a run.
Here their routes do not exist. In front of what does exist stands `server.superlink.guard`.
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
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.routing import ProtobufRoute
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_DEPENDENCY, ProtobufTranslationMiddleware
from flwr.supercore.routers import health
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from flwr.superlink.servicer.fleet import fleet_handlers
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from server.superlink.guard import Guard

if TYPE_CHECKING:
    from server.superlink.board import Board

HELD_SECONDS = 5.0
"""How long a hospital's question for work is kept open when there is none."""


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
    app.include_router(_routes(board))  # Before Flower's, so that these are ours.
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
        board.allowances.check_reply(request)
        answer = fleet_handlers.push_messages(request=request, state=board.state())
        board.allowances.announced(request, answer.session_id)
        board.changed()
        return answer

    def push_object(request: Any) -> PushObjectResponse:
        board.allowances.check_piece(request)
        answer = fleet_handlers.push_object(request=request, state=board.state())
        failure = board.store.failure(request.object_id)
        if failure is not None:
            board.allowances.cannot_store(request, failure)
        return answer

    def confirm(request: Any) -> ConfirmMessageReceivedResponse:
        state = board.state()
        with state.lock:
            message = state.message_ins_store.get(request.message_object_id)
            # Confirming removes the message: nobody does that to what is another's, or to an answer.
            if message is None or message.metadata.dst_node_id != request.node.node_id:
                return ConfirmMessageReceivedResponse()
        return fleet_handlers.confirm_message_received(request=request, state=state, store=state.object_store)

    # Flower reads the types from the signatures.
    for path, endpoint, request, answer in (
        ("/activate-node", activate, ActivateNodeRequest, ActivateNodeResponse),
        ("/pull-messages", pull, PullMessagesRequest, PullMessagesResponse),
        ("/push-messages", push, PushMessagesRequest, PushMessagesResponse),
        ("/push-object", push_object, PushObjectRequest, PushObjectResponse),
        ("/confirm-message-received", confirm, ConfirmMessageReceivedRequest, ConfirmMessageReceivedResponse),
    ):
        endpoint.__annotations__ = {"request": Annotated[request, PROTOBUF_REQUEST_DEPENDENCY], "return": answer}
        router.post(path)(endpoint)
    return router


def _pull(board: Board, request: PullMessagesRequest) -> PullMessagesResponse:
    state = board.state()
    board.deliver_again(request.node.node_id)
    return fleet_handlers.pull_messages(request=request, state=state, store=state.object_store)
