"""A line every few seconds while something takes long, so that people see that it goes on, and what it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 2.5
"""The first line comes after so long; the pauses grow."""

_LONGEST = 20.0


class Heartbeat:
    """Says what is being done, in time and not too often.

    Attributes:
        doing: what is said next.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.doing, self._say = "", say
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Heartbeat:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        pause, said = _SECONDS, ""
        while not self._over.wait(pause):
            pause = _SECONDS if self.doing != said else min(2 * pause, _LONGEST)
            said = self.doing
            if said:
                self._say(said)
