"""Releases that run at once on one machine bump in the order of their commits, so that none is skipped.

Each holds a locked file that names its commit. Before it bumps, it waits for those of older commits. The kernel drops
a lock with its process, however that ends, so nobody waits for the dead. No two take one name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.locks import gone, state_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.settings import Settings
    from pipeline.source import Source

LONGEST_WAIT = 1800.0
"""Seconds after which an older release is not waited for any more; it then ends as superseded."""

_KEPT = 86400.0
"""Seconds for which a name stays taken; the registry knows it by then."""

_SETTLED = "settled"

_LOOK = 0.2
"""Seconds between two looks."""


class Turn:
    """One release's place in the order."""

    def __init__(self, own: Path, source: Source) -> None:
        self._own, self._source = own, source

    def wait(self, say: Callable[[str], None]) -> bool:
        """Wait until no release of an older commit is under way on this machine; tells whether there was one."""
        end, said = time.monotonic() + LONGEST_WAIT, set[str]()
        relations: dict[str, str] = {}
        while time.monotonic() < end:
            commit = self._older(relations)  # Each time anew: others begin while one is waited for.
            if commit is None:
                break
            if commit not in said:
                say(f"waiting for the release of the older commit {commit[:12]}")
                said.add(commit)
            time.sleep(_LOOK)
        return bool(said)

    def _older(self, relations: dict[str, str]) -> str | None:
        """Return an older commit whose release is under way; relations to commits are remembered."""
        for other in sorted(self._own.parent.iterdir()):
            commit = other.name.partition(".")[0]
            if other == self._own or not commit or other.name == _SETTLED:
                continue
            if commit not in relations:
                relations[commit] = self._source.relation(commit)
            if relations[commit] == "newer" and not gone(other):
                return commit
        return None

    def settle(self, release: str) -> None:
        """Remember that this commit changes nothing where a release runs, so that an older one does neither."""
        memory = self._own.parent / _SETTLED
        known = _remembered(memory, release)
        if not known or self._source.relation(known) != "older":
            memory.write_text(f"{self._source.commit} {release}")


def settled(settings: Settings, environment: str, release: str) -> str:
    """Return the newest commit that was found to change nothing where a release runs; empty where none is known.

    Raises:
        SettingsError: this user can keep no file.
    """
    return _remembered(_folder(settings, environment) / _SETTLED, release)


def _remembered(memory: Path, release: str) -> str:
    try:
        commit, _, there = memory.read_text().strip().partition(" ")
    except OSError:
        return ""
    return commit if there == release else ""


@contextmanager
def take_turn(settings: Settings, environment: str, source: Source) -> Iterator[Turn]:
    """Announce a release for as long as the block runs.

    Raises:
        SettingsError: this user can keep no file.
    """
    folder = _folder(settings, environment)
    name = uuid.uuid4().hex
    draft, own = folder / f".{name}", folder / f"{source.commit}.{name}"
    for left in folder.glob(".*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _KEPT:
                gone(left)
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
    folder = state_folder("names", _digest(settings.registry, settings.project))
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
    return state_folder("turns", _digest(settings.repository, settings.branch, environment))


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
