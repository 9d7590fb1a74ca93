"""Where a hospital's node keeps what is its own: key, receipts, state."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME_VARIABLE = "FLOPS_CLIENT_HOME"
"""The environment variable that names the folder."""

KEY = "node.key"
RECEIPTS = "receipts.jsonl"
STATE = "state.json"


LOCK = ".lock"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep another node out of a folder while this one runs: two with one key take each other's messages.

    Raises:
        SettingsError: another node runs, or the folder cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise SettingsError(
            f"--home {folder}: cannot be written: {error.strerror or error}; a node keeps its receipts there"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(
                f"--home {folder}: another node runs with this folder; stop it, or give each node its own "
                "folder and key"
            ) from error
        yield


def home() -> Path:
    """Return the node's folder: the one that the environment names, or ``flops-client`` where one works."""
    return Path(os.environ.get(HOME_VARIABLE) or "flops-client")
