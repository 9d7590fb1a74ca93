"""The server below the application: its port, and what its connections may take."""

from __future__ import annotations

import contextlib
import resource
import socket
from typing import TYPE_CHECKING, ClassVar

import uvicorn

from fl.errors import FlopsError
from server.serving.connection import CONNECTIONS, Connection

if TYPE_CHECKING:
    from fastapi import FastAPI

_FILES = 4 * CONNECTIONS
_GRACE_SECONDS = 5.0


def open_port(host: str, port: int, seconds: float = 15.0) -> socket.socket:
    """Listen.

    Args:
        host: a name or an address.
        port: 0 takes a free one.
        seconds: so long may a client read nothing of what it was sent; then the system closes its connection.

    Raises:
        FlopsError: that cannot be.
    """
    try:
        ((family, kind, number, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened = socket.socket(family, kind, number)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; what is accepted inherits it.
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))
            opened.bind(address)
            opened.listen(1024)
        except OSError:
            opened.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise FlopsError(f"port {port} on {host} cannot be opened: {why}") from error
    return opened


def make_server(app: FastAPI, seconds: float) -> uvicorn.Server:
    """Make the HTTP server of an application.

    Args:
        app: it.
        seconds: for a request's headers to come; some more for all of it, whether it is read or thrown away.
    """

    class Patient(Connection):
        head_seconds, whole_seconds = seconds, seconds + _GRACE_SECONDS
        silent: ClassVar[dict[Connection, float]] = {}

    _allow_files(_FILES)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Patient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def _allow_files(files: int) -> None:
    """Let this process have so many files open, as far as it may; shells often give fewer than connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        files = min(files, hard)
    if soft != resource.RLIM_INFINITY and soft < files:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
