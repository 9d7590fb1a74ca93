"""Grids around grids: Flower's runtime gives one, and these change what is seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.serverapp import Grid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flwr.app import Message, RecordDict
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run


class GridProxy(Grid):
    """A grid that hands everything on to another."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Run) -> None:
        """Hand on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The other grid's run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Hand on."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Hand on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Hand on."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Hand on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class ChosenNodes(GridProxy):
    """A grid that shows only the chosen nodes, so that a strategy asks exactly these."""

    def __init__(self, grid: Grid, nodes: Sequence[int]) -> None:
        super().__init__(grid)
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        """Return the chosen nodes."""
        return list(self._nodes)

    def get_nodes(self) -> list[NodeInfo]:
        """Return what is known of the chosen nodes."""
        return [node for node in self._grid.get_nodes() if node.node_id in set(self._nodes)]
