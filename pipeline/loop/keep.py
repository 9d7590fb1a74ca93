"""What keeps one pod running, of a Deployment or a hospital: a pure function of what there is and what time it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from pipeline.loop.pods import Pod

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)
"""Before another start of what ended by itself; it doubles each time."""

_GOOD = timedelta(minutes=10)
"""What ran so long is started again at once."""


@dataclass(frozen=True)
class Begin:
    """Start a pod; the attempt counts how often it ended soon in a row."""

    attempt: int


@dataclass(frozen=True)
class Replace:
    """A pod that runs and is not wanted as it is."""

    pod: Pod


@dataclass(frozen=True)
class Drop:
    """A pod that has ended, of which a newer one tells more."""

    pod: Pod


Step = Begin | Replace | Drop


def pause_after(attempt: int) -> timedelta:
    """Return how long the next start waits after so many short lives."""
    return min(_FIRST_PAUSE * int(2 ** (attempt - 1)), _LONGEST_PAUSE)


def steps(plan: str | None, pods: Sequence[Pod], now: datetime) -> Iterator[Step]:
    """Yield what is to be done now.

    Args:
        plan: the digest of what shall run; None for nothing.
        pods: the owner's.
        now: the time.
    """
    running = [pod for pod in pods if pod.running]
    ended = sorted((pod for pod in pods if not pod.running), key=lambda pod: pod.started)
    yield from (Replace(pod) for pod in running if pod.plan != plan)
    yield from (Drop(pod) for pod in (ended[:-1] if plan is not None and not running else ended))
    if running or plan is None:
        return
    if not ended or ended[-1].plan != plan:
        yield Begin(1)
        return
    last = ended[-1]
    finished = last.finished or now
    if finished - last.started >= _GOOD:
        yield Begin(1)
    elif now - finished >= pause_after(last.attempt):
        yield Begin(last.attempt + 1)
