"""Where answers are computed, and what waits for that."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

from server.serving.limits import RETRY, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.serving.limits import Limits

T = TypeVar("T")

BODIES = 16
"""How many bodies of the largest size are held at once, and as many again while they come."""


class Room:
    """What all requests together may hold in memory, in bytes."""

    def __init__(self, limits: Limits) -> None:
        self._free = BODIES * limits.body

    def take(self, size: int) -> None:
        """Take some.

        Raises:
            Refused: 503 where there is no more.
        """
        if size > self._free:
            raise Refused(503, "too many requests at once; try again", RETRY)
        self._free -= size

    def give(self, size: int) -> None:
        """Give it back."""
        self._free += size


class Computing:
    """The one thread that computes what would keep others waiting."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.seconds
        self._room = Room(limits)
        self._thread: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[[], T], *, size: int) -> T:
        """Return what the work returns.

        Args:
            work: it.
            size: bytes that it holds.

        Raises:
            Refused: 503 where it takes too long, or too many wait already.
        """
        self._room.take(size)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "computing")
        wanted = True
        future = asyncio.get_running_loop().run_in_executor(self._thread, lambda: work() if wanted else None)
        # Not before it is really over: what nobody waits for still stands in the line, with its body.
        future.add_done_callback(lambda done: self._done(done, size))
        await asyncio.wait({future}, timeout=self._seconds)
        if not future.done():
            wanted = False
            text = f"the answer took longer than {self._seconds:g} s; send fewer examples at once, or try again"
            raise Refused(503, text, RETRY)
        return cast("T", future.result())

    def stop(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _done(self, future: asyncio.Future[Any], size: int) -> None:
        self._room.give(size)
        if not future.cancelled():
            future.exception()  # Of a request that waits no longer: nobody else looks.
