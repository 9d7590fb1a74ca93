"""The local engine: Flower's server and client apps in this process, over a grid of function calls.

No sockets, no child processes, no bytes: a message is handed over as an object. What differs from a runtime
with hospitals is only the grid.
"""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl.messages import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    Prepare = Callable[[Sequence[tuple[Message, Context]]], None]

_log = logging.getLogger("flops.local")

RUN_ID = 1
SERVER_NODE = 1


class LocalGrid(Grid):
    """A grid whose nodes are contexts and whose messages are calls of one client app.

    Args:
        client_app: answers every message.
        contexts: each node's context, by node id.
        prepare: is shown each batch of messages, with their contexts, before the app gets them one by one.
    """

    def __init__(
        self, client_app: ClientApp, contexts: Mapping[int, Context], prepare: Prepare | None = None
    ) -> None:
        self._app = client_app
        self._contexts = contexts
        self._prepare = prepare
        self._pushed: dict[str, Message] = {}
        self._count = 0
        self._run = Run.create_empty(run_id=RUN_ID)
        # Flower's messages take their sender from here.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, 1

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Take messages for their nodes and return their ids."""
        ids = []
        for message in messages:
            self._count += 1
            name = str(self._count)
            message.metadata.__dict__["_message_id"] = name  # Flower's own grids set it the same way.
            self._pushed[name] = message
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let the nodes answer, in the order asked, and return the replies."""
        batch = [self._pushed.pop(name) for name in message_ids if name in self._pushed]
        if self._prepare is not None:
            self._prepare([(message, self._contexts[message.metadata.dst_node_id]) for message in batch])
        return [self._answer(message) for message in batch]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - a call has no network to wait for
    ) -> list[Message]:
        """Push messages and return the replies."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            _log.debug("the client app failed", exc_info=True)
            return error_reply(message, error)


def node_context(node_id: int, node_config: Mapping[str, int | str]) -> Context:
    """Make a node's context."""
    return Context(RUN_ID, node_id, dict(node_config), RecordDict(), {})


def run_local(server_app: ServerApp, client_app: ClientApp, clients: int, prepare: Prepare | None = None) -> None:
    """Run a federation of this many clients in this process."""
    contexts = {
        node: node_context(node, {"partition-id": node - 1, "num-partitions": clients})
        for node in range(1, clients + 1)
    }
    # Some of Flower's strategies collect garbage after each reply; there is no need to walk over the libraries.
    gc.collect()
    gc.freeze()
    try:
        server_app(LocalGrid(client_app, contexts, prepare), node_context(SERVER_NODE, {}))
    finally:
        gc.unfreeze()
