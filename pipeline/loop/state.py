"""The folder that a loop keeps between two starts, and the lock that says who is at work there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ID, _LOCK, _STATUS = "loop", "lock", "status.json"

SECRETS = "secrets"
"""The folder for secrets in it: a folder for each, a file for each key."""


@dataclass(frozen=True)
class State:
    """One loop's folder.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def loop(self) -> str:
        """What tells this loop from all others, on whatever engine; an empty text where the folder is none."""
        try:
            return (self.folder / _ID).read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def make(self) -> None:
        """Make the folder, for this user alone: secrets are in it.

        Raises:
            SettingsError: it cannot be written, or is something else's.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.loop:
                if others := self.others():
                    raise SettingsError(
                        f"{self.folder}: holds {others[0]}, and is the folder of no loop; name an empty or a new "
                        "one: --state"
                    )
                self.folder.chmod(0o700)
                unfinished = self.folder / f"{_ID}.new"
                unfinished.write_text(f"{uuid.uuid4().hex[:12]}\n", encoding="utf-8")
                unfinished.replace(self.folder / _ID)
            if not os.access(self.folder, os.W_OK):
                raise PermissionError(13, os.strerror(13))
        except (FileExistsError, NotADirectoryError) as error:
            raise SettingsError(f"{self.folder}: is no folder; name one: --state") from error
        except OSError as error:
            raise SettingsError(
                f"{self.folder}: cannot be written: {error.strerror}; name another: --state"
            ) from error

    def others(self) -> list[str]:
        """Return what is in the folder beside secrets, and what a start on a full disk left."""
        there = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path.name for path in there if path.name not in (SECRETS, f"{_ID}.new", _ID))

    def remove(self) -> None:
        """Remove what loops made there; the secrets that the user put there stay."""
        for path in self.folder.iterdir():
            if path.name == SECRETS:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one who works here for as long as the block runs.

        Raises:
            FlopsError: somebody else is.
        """
        with (self.folder / _LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FlopsError(
                    f"another 'flops up' (process {self.owner() or 'unknown'}) works with {self.folder}; "
                    "'flops down' ends it, --state names another folder"
                ) from error
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    file.truncate(0)

    def owner(self) -> int | None:
        """Return the process that works here; None where there is none."""
        try:
            with (self.folder / _LOCK).open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read().strip() or 0) or None
        except (OSError, ValueError):
            return None
        return None

    def write_status(self, status: dict[str, Any]) -> None:
        """Say how it goes, whole or not at all."""
        path = self.folder / f"{_STATUS}.new"
        path.write_text(json.dumps(status) + "\n", encoding="utf-8")
        path.replace(self.folder / _STATUS)

    def status(self) -> dict[str, Any]:
        """Return how it went when that was last said; an empty object where nobody did."""
        try:
            found = json.loads((self.folder / _STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
