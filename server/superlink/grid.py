"""Flower's grid over a link state in the same process: no HTTP lies between the rounds and the store."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, cast

from flwr.app.message import Message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fl.errors import FlopsError
from server.exchange import Answer
from server.superlink.allowances import whole_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flwr.app import RecordDict
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run

    from server.superlink.board import Board
    from server.superlink.spool import SpooledObjectStore

_WAIT_SECONDS = 0.5
"""How long to wait for something to arrive before looking anyway: for what makes no sound, such as silence."""


class LinkGrid(Grid):
    """A job's grid. Replies are read from the store one at a time, and stay there until they are dropped."""

    def __init__(self, board: Board, run: Run) -> None:
        self._board, self._run = board, run

    def set_run(self, run: Run) -> None:
        """Do nothing: the grid belongs to its one run."""

    @property
    def run(self) -> Run:
        """The job's run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message; Flower's older way to say ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the nodes that are here."""
        return sorted(self._board.state().get_nodes(self._run.run_id))

    def get_nodes(self) -> list[NodeInfo]:
        """Return what is known of the nodes that are here."""
        return list(self._board.state().get_node_info(node_ids=self.get_node_ids()))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Lay messages out for their nodes; returns their ids, empty where a node is unknown."""
        ids, nodes, board, state = [], [], self._board, self._board.state()
        with no_object_id_recompute():  # The same weights go to all: hash them once.
            for message in messages:
                message_id = message.object_id
                message.metadata.__dict__["_message_id"] = message_id
                session = state.start_session(self._run.run_id)
                stored, missing = state.store_message_and_object_tree(
                    remove_content_from_message(message), get_object_tree(message), session
                )
                if missing:
                    objects = get_all_nested_objects(message)
                    for object_id in missing:
                        self._store(session, object_id, objects[object_id].deflate())
                board.allowances.grant(message_id, whole_size(board.store, board.parts(message_id)))
                ids.append(message_id if stored else "")
                nodes.append(message.metadata.dst_node_id)
        board.wake(nodes)
        return ids

    def _store(self, session: str, object_id: str, content: bytes) -> None:
        store = self._board.store
        self._board.state().store_object(self._run.run_id, session, object_id, content)
        failure = store.failure(object_id)
        if failure is not None:
            raise FlopsError(
                f"the weights cannot be stored in {store.folder}: {failure.strerror or failure}; make room, or let "
                "TMPDIR name another folder"
            )

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that have arrived whole, and drop them."""
        answers = [answer for message_id in message_ids if (answer := self._look(message_id)) is not None]
        for answer in answers:
            answer.drop()
        return [answer.message for answer in answers if answer.message is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return all replies that come within the timeout, in seconds."""
        replies = []
        for answer in self.exchange(list(messages), float("inf") if timeout is None else timeout):
            if answer.message is not None:
                replies.append(answer.message)
            answer.drop()
        return replies

    def exchange(self, requests: Sequence[Message], seconds: float) -> Iterator[Answer]:
        """Send messages and yield each answer as it arrives whole; what has not come in time comes as a problem."""
        deadline = time.monotonic() + seconds
        if math.isfinite(seconds):
            for request in requests:
                request.metadata.ttl = seconds  # A hospital stops what nobody waits for any more.
        nodes = [request.metadata.dst_node_id for request in requests]
        message_ids = self.push_messages(requests)
        del requests  # The weights are in the store now; a generator would hold them until its end.
        waiting = {}
        for message_id, node in zip(message_ids, nodes, strict=True):
            if message_id:
                waiting[message_id] = node
            else:
                yield Answer(node, None, "is not here any more")
        while waiting:
            for message_id in list(waiting):
                answer = self._look(message_id)
                if answer is not None:
                    del waiting[message_id]
                    yield answer
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if waiting:
                self._board.wait(min(_WAIT_SECONDS, left))
        for message_id, node in waiting.items():
            self._forget(message_id)
            yield Answer(node, None, f"did not answer within {seconds:g} s")

    def _look(self, message_id: str) -> Answer | None:
        """Return the answer to a message if it is there."""
        board, state = self._board, self._board.state()
        with state.lock:
            request = state.message_ins_store.get(message_id)
            if request is None:
                return None
            node = request.metadata.dst_node_id
            reply_id = state.message_ins_id_to_message_res_id.get(message_id)
            reply = state.message_res_store.get(reply_id) if reply_id else None
            info = state.nodes[node]
            gone = info.online_until is not None and info.online_until < time.time()
        failed = board.allowances.failed.get(message_id)
        if failed is not None:
            self._forget(message_id)
            return Answer(node, None, failed)
        if reply is not None and reply_id is not None and board.whole(reply_id):
            try:
                size, most = whole_size(board.store, board.parts(reply_id)), board.allowances.most(message_id)
                if size > most:
                    self._forget(message_id)
                    return Answer(node, None, f"returned an answer of {size} bytes (at most {most})")
                return Answer(
                    node,
                    self._read(reply_id, node),
                    reload=lambda: self._read(reply_id, node),
                    drop=lambda: self._forget(message_id),
                )
            except Exception as error:  # Whatever a hospital can make up: Flower's parsing raises many things.
                self._forget(message_id)
                return Answer(node, None, f"returned an answer that cannot be read: {type(error).__name__}")
        if message_id in board.lost:
            self._forget(message_id)
            return Answer(
                node, None, "lost the message: it was started anew, or could not send its answer", anew=True
            )
        if gone:
            self._forget(message_id)
            return Answer(node, None, "is gone: it signed off, or nothing was heard of it for a minute")
        return None

    def _read(self, reply_id: str, node: int) -> Message:
        contents, objects = _Contents(self._board.store, self._board.parts(reply_id)), _Objects()
        message = cast("Message", inflate_object_from_contents(reply_id, contents, objects=objects))
        message.metadata.__dict__["_message_id"] = reply_id
        # Who answers is known from its key; what the message says of that is only a claim.
        message.metadata.__dict__["_src_node_id"] = node
        return message

    def _forget(self, message_id: str) -> None:
        """Remove a message, its reply and their objects; a reply that comes later is not taken any more."""
        board, state = self._board, self._board.state()
        with state.lock:
            reply_id = state.message_ins_id_to_message_res_id.get(message_id)
            state.delete_messages({message_id})
            board.lost.discard(message_id)
        board.allowances.close(message_id)
        board.store.delete(message_id)
        if reply_id is not None:
            board.store.delete(reply_id)


class _Contents(dict[str, bytes]):
    """The parts of one message, each read from the store when it is asked for."""

    def __init__(self, store: SpooledObjectStore, parts: Iterable[str]) -> None:
        super().__init__()
        self._store, self._parts = store, frozenset(parts)

    def __missing__(self, object_id: str) -> bytes:
        if object_id not in self._parts:
            raise KeyError(object_id)
        self[object_id] = content = self._store.get(object_id) or b""
        return content


class _Objects(dict[str, InflatableObject]):
    """What has been made of the parts; an array's pieces are not kept once the array is made of them."""

    def __setitem__(self, object_id: str, made: InflatableObject) -> None:
        if not isinstance(made, ArrayChunk):
            super().__setitem__(object_id, made)
