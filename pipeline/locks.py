"""Files that say who is at work on this machine: the kernel drops a lock with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator


def state_folder(*names: str) -> Path:
    """Return a folder for what this user's runs tell each other; it is made where it is missing.

    Raises:
        SettingsError: it cannot be written.
    """
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise SettingsError("this user has no home folder; name a folder by XDG_STATE_HOME") from error
    folder = home.joinpath("flops", *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        raise SettingsError(
            f"{folder}: cannot be written: {error.strerror}; name another place by XDG_STATE_HOME"
        ) from error
    return folder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock on a file for as long as the block runs; the file goes with it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def gone(path: Path) -> bool:
    """Tell whether who held a file has ended; one that was killed leaves it, and it is removed."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            with contextlib.suppress(OSError):
                path.unlink()
            return True
    except FileNotFoundError:
        return True
