"""API keys: a file with a line for each, read anew when it changes. A key itself is stored nowhere."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING

from fl.errors import SettingsError
from server.serving.limits import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_BITS = 256
LOOK_SECONDS = 1.0
"""How often the file is looked at, at most."""

_log = logging.getLogger("flops.server.serving")


def make_key(name: str) -> tuple[str, str]:
    """Make a key.

    It is random and long, so that a plain hash of it tells nobody anything; a slow one is for passwords.

    Returns:
        The key, and its line for the file.

    Raises:
        SettingsError: the name cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(f"key '{name}': a name has 1 to 64 letters, digits and '._-', and no spaces")
    key = f"flops_{secrets.token_urlsafe(_BITS // 8)}"
    return key, f"{name} {_digest(key.encode()).hex()}"


def read_keys(path: Path) -> dict[bytes, str]:
    """Return the names of the keys that a file holds, by hash.

    Raises:
        SettingsError: it cannot be read, or a line is none; the message says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"--keys {path}: cannot be read: {reason}") from error
    found: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[1].lower()):
            raise SettingsError(
                f"--keys {path}, line {number}: NAME and HASH are needed, as 'flops server key NAME' prints them"
            )
        value = bytes.fromhex(words[1])
        if value in found:
            raise SettingsError(f"--keys {path}, line {number}: the key of {found[value]} stands here again")
        found[value] = words[0]
    return found


class Keys:
    """Who may ask.

    Attributes:
        problem: why the file as it is now is not used; an empty text where it is.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: see `read_keys`.
        """
        self._path = path
        self.problem = ""
        self._seen = self._state()
        self._names = read_keys(path)
        self._looked = time.monotonic()
        self._warn_if_empty()

    def name_of(self, request: Request) -> str:
        """Return the name of the key that a request shows.

        Raises:
            Refused: 401 where it shows none, or one that is not in the file.
        """
        self._look()
        shown = _shown(request)
        digest = _digest(shown)
        name = ""
        for known, owner in self._names.items():
            if hmac.compare_digest(known, digest):  # All are compared: time does not tell which it is.
                name = owner
        if name:
            return name
        said = "the API key is not known" if shown else "an API key is needed"
        raise Refused(
            401,
            f"{said}; send Authorization: Bearer KEY, or X-API-Key: KEY",
            {"WWW-Authenticate": 'Bearer realm="flops"'},
        )

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        state = self._state()
        if state == self._seen:
            return
        try:
            self._names = read_keys(self._path)
        except SettingsError as error:
            if self.problem != str(error):
                self.problem = str(error)
                _log.warning("%s; the keys read before stay", error)
            if state is None:
                self._seen = None
            return  # Looked at again: it may be in the middle of being written.
        self._seen, self.problem = state, ""
        _log.info("--keys %s: read again, %d keys", self._path, len(self._names))
        self._warn_if_empty()

    def _warn_if_empty(self) -> None:
        if not self._names:
            _log.warning("--keys %s: it holds no key, so nobody gets predictions", self._path)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _shown(request: Request) -> bytes:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip().encode("latin-1")
    return request.headers.get("x-api-key", "").strip().encode("latin-1")
