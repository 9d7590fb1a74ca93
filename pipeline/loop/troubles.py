"""What did not work: said once, tried again after a while, forgotten when it works."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from pipeline.engine import ENGINE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0


@dataclass
class _Trouble:
    problem: str
    again: float
    pause: float


@dataclass
class Troubles:
    """By what they are about.

    Attributes:
        say: told of each problem that is new.
    """

    say: Callable[[str], None]
    _known: dict[str, _Trouble] = field(default_factory=dict)

    def add(self, about: str, problem: str) -> None:
        """Say a problem, unless it was said, and let it wait longer each time."""
        known = self._known.get(about)
        pause = min(2 * known.pause, _LONGEST_PAUSE) if known else _FIRST_PAUSE
        if known is None or known.problem != problem:
            self.say(problem)
        self._known[about] = _Trouble(problem, time.monotonic() + pause, pause)

    def may(self, about: str) -> bool:
        """Tell whether something may be tried."""
        known = self._known.get(about)
        return known is None or time.monotonic() >= known.again

    def clear(self, about: str) -> bool:
        """Forget a problem; tells whether there was one."""
        return self._known.pop(about, None) is not None

    def clear_all(self, *but: str) -> None:
        """Forget all problems but some: another commit may have mended them."""
        self._known = {about: known for about, known in self._known.items() if about in but}

    @contextmanager
    def about(self, what: str) -> Iterator[None]:
        """Make what fails in the block a problem, so that all else goes on; the engine's and the disk's are all's."""
        try:
            yield
        except ENGINE_ERRORS:
            raise
        except OSError:
            raise
        except FlopsError as error:
            self.add(what, str(error))
        except Exception as error:
            self.add(what, f"{what}: {type(error).__name__}: {error} (a bug)")

    def problem(self, about: str) -> str:
        """Return a problem; an empty text where there is none."""
        known = self._known.get(about)
        return known.problem if known else ""

    def all(self) -> list[str]:
        """Return all problems."""
        return [known.problem for known in self._known.values()]
