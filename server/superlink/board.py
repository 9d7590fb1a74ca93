"""What the hospitals' side and the aggregating side share: Flower's link state, and who waits for what.

The API's thread and the aggregating thread both work on Flower's `InMemoryLinkState`. The board adds what makes a
round quick and sure: it wakes a hospital's question the moment there is work, wakes the aggregation the moment
something arrived, delivers again what was lost on its way, and knows at once that a hospital has lost a message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from flwr.common.constant import NOOP_FLWR_AID
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.primitives.asymmetric import bytes_to_public_key
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from fl.keys import fingerprint
from server.superlink.allowances import Allowances
from server.superlink.spool import SpooledObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.supercore.run import Run

    from server.admission import Hospital

SUPERLINK_NODE = 1
"""Flower's id of the server itself."""

_STRANGERS = 20
"""How many unknown keys are logged in a job; whoever makes up more fills no log."""

_log = logging.getLogger("flops.server")


def _describe(key: bytes) -> str:
    try:
        return fingerprint(bytes_to_public_key(key))
    except (ValueError, TypeError, AttributeError):
        return "no key at all"


class Board:
    """The link state of one job, with its one run. Also what Flower calls a link state factory."""

    def __init__(self, spool_folder: str | None = None) -> None:
        self.store = SpooledObjectStore(spool_folder, on_change=self.changed)
        self.allowances = Allowances(self.store, self.changed)
        self._state = InMemoryLinkState(NoOpFederationManager(), self.store)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: dict[int, asyncio.Event] = {}
        self._questions: dict[int, int] = {}
        self._arrived = threading.Event()
        self._strangers: set[bytes] = set()
        self.lost: set[str] = set()
        self.closing = False

    def state(self) -> InMemoryLinkState:
        """Return the link state, as Flower's routes ask for it."""
        return self._state

    def admit(self, hospitals: Iterable[Hospital]) -> dict[int, str]:
        """Register the hospitals that may come; returns their names by node id."""
        return {self._state.create_node(NOOP_FLWR_AID, h.name, h.identity, 0, name=h.name): h.name for h in hospitals}

    def open_run(self, bundle: bytes, name: str, version: str) -> Run:
        """Make the job's run and set it running; messages made in this process belong to it from now on."""
        state = self._state
        fab_hash = state.store_fab(Fab("", bundle, {}))
        run_id = state.create_run(
            name, version, fab_hash, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (run,) = state.get_run_info(run_ids=[run_id])
        task = run.primary_task_id
        if task is None or state.claim_task(task) is None or not state.activate_task(task):
            raise RuntimeError("the run could not be started")
        self._task = task
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, task, SUPERLINK_NODE
        (run,) = state.get_run_info(run_ids=[run_id])
        return run

    def knows(self, header: bytes) -> bool:
        """Tell whether a request names a key on the allow-list; one that is not there is logged, once."""
        try:
            key = base64.b64decode(header, validate=True)
        except ValueError:
            return False
        if self._state.get_node_id_by_public_key(key) is not None:
            return True
        if key and len(self._strangers) < _STRANGERS and key not in self._strangers:
            self._strangers.add(key)
            _log.warning("a node with a key that is not on the allow-list was turned away: %s", _describe(key))
        return False

    def keep_alive(self) -> None:
        """Tell the link state that the server app is alive; it would end the run after a minute."""
        self._state.acknowledge_task_heartbeat(self._task)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the event loop that hospitals' questions wait on."""
        self._loop = loop

    def asks(self, node: int) -> int:
        """Count a node's questions for work; returns this one's number. Call it on the event loop."""
        self._questions[node] = self._questions.get(node, 0) + 1
        return self._questions[node]

    def newest(self, node: int, question: int) -> bool:
        """Tell whether a question is its node's newest. Call it on the event loop."""
        return self._questions.get(node) == question

    def awaited(self, node: int) -> asyncio.Event:
        """Return the event that is set when there is work for a node, cleared. Call it on the event loop."""
        event = self._work.setdefault(node, asyncio.Event())
        event.clear()
        return event

    def wake(self, nodes: Iterable[int]) -> None:
        """Answer the waiting questions of these nodes; from any thread."""
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # The loop has ended, and nobody waits.
            for node in nodes:
                self._loop.call_soon_threadsafe(self._set, node)

    def close(self) -> None:
        """Answer all waiting questions, now and from now on."""
        self.closing = True
        self.wake(list(self._work))

    def _set(self, node: int) -> None:
        if node in self._work:
            self._work[node].set()

    def changed(self) -> None:
        """Say that something arrived; from any thread."""
        self._arrived.set()

    def wait(self, seconds: float) -> None:
        """Wait until something arrives, or for so long."""
        self._arrived.wait(seconds)
        self._arrived.clear()

    def came_again(self, public_key: bytes) -> None:
        """Let a hospital in that was here before and went without a word."""
        node = self._state.get_node_id_by_public_key(public_key)
        if node is not None and self._state.nodes[node].status == NodeStatus.ONLINE:
            self._state.deactivate_node(node)

    def deliver_again(self, node: int) -> None:
        """Put right what a node has not got or not finished, now that it asks for work.

        It asks when it works on nothing. What it has been given and never confirmed was lost on its way: it is
        given again. What it has confirmed and not answered whole is lost.
        """
        state = self._state
        with state.lock:
            for message_id, message in state.message_ins_store.items():
                if message.metadata.dst_node_id != node or message.metadata.delivered_at == "":
                    continue
                reply = state.message_ins_id_to_message_res_id.get(message_id)
                if reply is not None:
                    if not self.whole(reply):
                        self.lost.add(message_id)
                elif message_id in self.store:
                    message.metadata.delivered_at = ""
                else:
                    self.lost.add(message_id)
        if self.lost:
            self.changed()

    def whole(self, message_id: str) -> bool:
        """Tell whether all objects of a message have arrived."""
        return bool(self.parts(message_id))

    def parts(self, message_id: str) -> list[str]:
        """Return the ids of all objects of a message, each once; none where one has not arrived.

        A hospital says which object refers to which. Each is looked at once, however often it is referred to: a
        few lines can describe a tree with more branches than there are atoms.
        """
        found: dict[str, None] = {}
        waiting = [message_id]
        with self.store.lock_store:
            while waiting:
                object_id = waiting.pop()
                if object_id in found:
                    continue
                entry = self.store.store.get(object_id)
                if entry is None or not entry.is_available:
                    return []
                found[object_id] = None
                waiting += entry.child_object_ids
        return list(found)
