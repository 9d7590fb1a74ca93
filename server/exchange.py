"""Questions to hospitals and their answers, whatever the grid is between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flwr.app import Message
    from flwr.serverapp import Grid


@dataclass
class Answer:
    """What came back for one message.

    Attributes:
        node: who was asked.
        message: the reply; None where none came.
        problem: where none came, what happened, to be read after the hospital's name.
        reload: reads the reply once more, where the grid can: then it need not be held in memory.
        drop: says that the reply is not needed any more.
        anew: the hospital was started anew; it is there, and can be asked again.
    """

    node: int
    message: Message | None
    problem: str = ""
    reload: Callable[[], Message] | None = None
    drop: Callable[[], None] = field(default=lambda: None)
    anew: bool = False

    def release(self) -> None:
        """Let go of a reply that can be read again."""
        if self.reload is not None:
            self.message = None

    def read(self) -> Message:
        """Return the reply, read again where it was let go."""
        if self.message is not None:
            return self.message
        if self.reload is None:
            raise ValueError("there is no reply")
        return self.reload()


@runtime_checkable
class StreamingGrid(Protocol):
    """A grid that yields answers as they arrive."""

    def exchange(self, requests: Sequence[Message], seconds: float) -> Iterator[Answer]:
        """Send messages and yield one answer for each."""


def exchange(grid: Grid, requests: Sequence[Message], seconds: float) -> Iterator[Answer]:
    """Send messages over any grid and yield one answer for each: as they arrive, where the grid can do that.

    Other grids give all replies at once; they come in the order of the requests.
    """
    if isinstance(grid, StreamingGrid):
        return grid.exchange(requests, seconds)  # Not from within a generator, which would hold the weights too.
    return _all_at_once(grid, requests, seconds)


def _all_at_once(grid: Grid, requests: Sequence[Message], seconds: float) -> Iterator[Answer]:
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(requests, timeout=seconds)}
    for request in requests:
        node = request.metadata.dst_node_id
        if node in replies:
            yield Answer(node, replies.pop(node))
        else:
            yield Answer(node, None, f"did not answer within {seconds:g} s")
