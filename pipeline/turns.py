"""Releases that run at once on one machine bump in the order of their commits, so that none is skipped.

Each holds a locked file that names its commit. Before it bumps, it waits for those of older commits. The kernel drops
a lock with its process, however that ends, so nobody waits for the dead. No two take one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.settings import Settings
    from pipeline.source import Source

LONGEST_WAIT = 1800.0
"""Seconds after which an older release is not waited for any more; it then ends as superseded."""

_KEPT = 86400.0
"""Seconds for which a name stays taken; the registry knows it by then."""

_LOOK = 0.2
"""Seconds between two looks."""


class Turn:
    """One release's place in the order."""

    def __init__(self, own: Path, source: Source) -> None:
        self._own, self._source = own, source

    def wait(self, say: Callable[[str], None]) -> None:
        """Wait until no release of an older commit is under way on this machine."""
        end = time.monotonic() + LONGEST_WAIT
        for other in sorted(self._own.parent.iterdir()):
            commit = other.name.partition(".")[0]
            if other == self._own or not commit or self._source.relation(commit) != "newer":
                continue
            said = False
            while not _gone(other) and time.monotonic() < end:
                if not said:
                    say(f"waiting for the release of the older commit {commit[:12]}")
                    said = True
                time.sleep(_LOOK)


@contextmanager
def take_turn(settings: Settings, environment: str, source: Source) -> Iterator[Turn]:
    """Announce a release for as long as the block runs."""
    folder = _folder(settings, environment)
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex
    draft, own = folder / f".{name}", folder / f"{source.commit}.{name}"
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        draft.rename(own)  # Locked before it can be seen: what is not locked is left over.
        try:
            yield Turn(own, source)
        finally:
            own.unlink(missing_ok=True)


def reserve(settings: Settings, name: str) -> bool:
    """Take a release's name for this process; False where another on this machine has it.

    The registry does not tell of a tag before something is pushed under it, and releases may begin in one second.
    """
    folder = _state() / "names" / _digest(settings.registry, settings.project)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _KEPT:
                old.unlink()
    try:
        (folder / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _folder(settings: Settings, environment: str) -> Path:
    return _state() / "turns" / _digest(settings.repository, settings.branch, environment)


def _state() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "flops"


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _gone(path: Path) -> bool:
    """Tell whether the release behind a file has ended; one that was killed leaves it, and it is removed."""
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
