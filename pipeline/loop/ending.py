"""The end of a loop from outside: the process is asked to end, and what it left is removed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, SettingsError
from pipeline.engine import EngineUnreachable, engine
from pipeline.loop.pods import Pods

if TYPE_CHECKING:
    from pipeline.loop.state import State

_SECONDS = 60


def end(state: State, *, purge: bool) -> dict[str, Any]:
    """End a loop.

    Args:
        state: its folder.
        purge: whether what is kept between two starts goes, too.

    Returns:
        Whether there was a loop and a process was ended, how many containers were left and removed, and whether the
        folder was removed.

    Raises:
        FlopsError: the process does not end, or the engine does not answer.
    """
    if not state.loop:
        if purge and state.others():
            raise SettingsError(f"{state.folder}: is the folder of no loop, and nothing in it is removed")
        return {"there": False, "ended": False, "containers": 0, "purged": False}
    owner = state.owner()
    containers = 0
    if owner is not None:
        os.kill(owner, signal.SIGTERM)
        until = time.monotonic() + _SECONDS
        with suppress(EngineUnreachable), engine() as client:  # If it is away, the process ends all the same.
            containers = len(Pods(client, state.loop).list())
        while state.owner() is not None:
            if time.monotonic() > until:
                raise FlopsError(f"process {owner} does not end within {_SECONDS} s; kill it, and 'flops down' again")
            time.sleep(0.2)
    with engine() as client:
        pods = Pods(client, state.loop)
        containers = max(containers, len(pods.list()))
        pods.clear(volumes=purge)
    if purge:
        state.remove()
    else:
        state.write_status({})
    return {"there": True, "ended": owner is not None, "containers": containers, "purged": purge}
