"""What is known of a request while it is handled, and the line that the log gets of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

_KEY = "flops.note"
_log = logging.getLogger("flops.server.serving.requests")


@dataclass
class Note:
    """What is known of a request.

    Attributes:
        request: its id.
        key: the name of the key that it showed.
        examples: how many were predicted.
        version: which version did.
        status: of the answer.
    """

    request: str
    key: str = ""
    examples: int = 0
    version: int = 0
    status: int = 0


def begin_note(scope: Scope, request: str) -> Note:
    """Begin a request's note."""
    note = scope[_KEY] = Note(request)
    return note


def note_of(scope: Scope) -> Note:
    """Return a request's note."""
    note: Note = scope[_KEY]
    return note


def log_request(method: str, path: str, note: Note, seconds: float) -> None:
    """Write a request's line, which holds nothing that a client made up but the id."""
    if not _log.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": method,
        "path": path,
        "status": note.status,
        "ms": round(1000 * seconds, 2),
        "examples": note.examples,
        "version": note.version or None,
        "key": note.key or None,
        "request": note.request,
    }
    told = [f"{method} {path} {note.status}", f"{fields['ms']} ms"]
    told += [f"{name} {fields[name]}" for name in ("examples", "version", "key", "request") if fields[name]]
    _log.info("%s", ", ".join(told), extra={"fields": fields})
