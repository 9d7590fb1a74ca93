"""How much a hospital may send in answer to a question, so that none fills the server's memory or disk.

An answer holds at most what its question held and `MORE` bytes: a trained model is as large as the one that was sent,
and what else is answered is small.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Array
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.constant import HEAD_VALUE_DIVIDER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from flwr.proto.message_pb2 import PushObjectRequest

    from server.superlink.spool import SpooledObjectStore

MORE = 8 * 2**20
"""Bytes that an answer may have more than its question."""

_PIECE = f"{ArrayChunk.__qualname__}{HEAD_VALUE_DIVIDER}".encode()
"""How a piece of an array begins. Most of an answer is such, and need not be read."""

_log = logging.getLogger("flops.server")


class Allowances:
    """What may still come for each question that is open; used by the API's threads and the aggregating one.

    Attributes:
        failed: of questions whose answer cannot be taken, why, to be read after the hospital's name.
    """

    def __init__(self, store: SpooledObjectStore, on_change: Callable[[], None]) -> None:
        self.failed: dict[str, str] = {}
        self._store, self._on_change = store, on_change
        self._lock = threading.Lock()
        self._open: dict[str, _Question] = {}
        self._sessions: dict[str, tuple[int, str]] = {}
        self._full_said = False

    def grant(self, message_id: str, size: int) -> None:
        """Open a question of so many bytes."""
        with self._lock:
            self._open[message_id] = _Question(size + MORE, size + MORE)

    def most(self, message_id: str) -> int:
        """Return how many bytes the answer to a question may have; none where it is not open."""
        with self._lock:
            return self._open[message_id].most if message_id in self._open else 0

    def close(self, message_id: str) -> None:
        """Forget a question."""
        with self._lock:
            self.failed.pop(message_id, None)
            self._open.pop(message_id, None)
            self._sessions = {s: told for s, told in self._sessions.items() if told[1] != message_id}

    def check_reply(self, request: PushMessagesRequest) -> None:
        """Look at the announcement of an answer: a message of the node itself, and the tree of its parts.

        Raises:
            FlowerError: it is another node's, not one message, or not what was announced before.
        """
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise _refused("not one message")
        metadata, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        if metadata.src_node_id != request.node.node_id:
            raise _refused("a node spoke for another")
        if metadata.message_id != tree.object_id:
            raise _refused("the parts of another message")
        announced = hashlib.sha256(tree.SerializeToString(deterministic=True)).digest()
        with self._lock:
            question = self._open.get(metadata.reply_to_message_id)
            if question is None:
                return  # Flower does not take it either.
            # One whose answer was lost comes again; another each time would fill the memory.
            if question.announced not in (b"", announced):
                raise _refused("another answer than was announced")
            question.announced = announced

    def announced(self, request: PushMessagesRequest, session: str) -> None:
        """Take down the session in which an answer's parts are going to come."""
        with self._lock:
            self._sessions[session] = (request.node.node_id, request.messages_list[0].metadata.reply_to_message_id)

    def check_piece(self, request: PushObjectRequest) -> None:
        """Count a part of an answer.

        Raises:
            FlowerError: it is part of no open answer of the node, or the answer has become too large.
        """
        there = self._store.is_there(request.object_id)
        with self._lock:
            node, message_id = self._sessions.get(request.session_id, (0, ""))
            question = self._open.get(message_id)
            if node != request.node.node_id or question is None:
                raise _refused("part of no open answer")
            if there:
                return
            question.left -= len(request.object_content)
            if question.left >= 0:
                return
            self.failed[message_id] = f"returned more than {question.most} bytes, which is too much for an answer"
        self._on_change()
        raise _refused("too large an answer")

    def cannot_store(self, request: PushObjectRequest, error: OSError) -> None:
        """Take down that there is no room for a part."""
        why = error.strerror or str(error)
        with self._lock:
            if request.session_id in self._sessions:
                message_id = self._sessions[request.session_id][1]
                self.failed[message_id] = f"answered, and the server could not store it: {why.lower()}"
            said, self._full_said = self._full_said, True
        if not said:
            _log.error(
                "answers cannot be stored in %s: %s; there must be room for hospitals times model, or let TMPDIR "
                "name another folder",
                self._store.folder,
                why,
            )
        self._on_change()


@dataclass
class _Question:
    most: int
    left: int
    announced: bytes = b""


def whole_size(store: SpooledObjectStore, parts: Iterable[str]) -> int:
    """Return how many bytes a message takes once its arrays are put together.

    Equal pieces of arrays, such as those of zeros, are stored once; and whoever sends an array says of which pieces
    it consists, and may name one of them a million times.

    Raises:
        ValueError: an array cannot be read.
    """
    total = 0
    for part in parts:
        if store.begins_with(part, _PIECE):
            continue  # Counted as often as an array consists of it.
        content = store.get(part) or b""
        total += len(content)
        if get_object_type_from_object_content(content) == Array.__qualname__:
            pieces = get_object_children_ids_from_object_content(content)
            sizes = [store.size(piece) for piece in pieces]
            total += sum(sizes[index] for index in json.loads(get_object_body(content, Array))["arraychunk_ids"])
    return total


def _refused(why: str) -> FlowerError:
    return FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, why)
