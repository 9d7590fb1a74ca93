"""The server below the application: its port, its connections, and how long each may take to say what it wants."""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fl.errors import FlopsError

if TYPE_CHECKING:
    import asyncio

    from fastapi import FastAPI

CONNECTIONS = 1000
"""So many are open at once; for a further one the one goes that is silent longest."""

_FILES = 4 * CONNECTIONS
_HEADER_BYTES = 1 << 16
_GRACE_SECONDS = 5.0


def open_port(host: str, port: int) -> socket.socket:
    """Listen.

    Args:
        host: a name or an address.
        port: 0 takes a free one.

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
            opened.bind(address)
            opened.listen(1024)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        raise FlopsError(f"port {port} on {host} cannot be opened: {error.strerror or error}") from error
    return opened


def make_server(app: FastAPI, seconds: float) -> uvicorn.Server:
    """Make the HTTP server of an application.

    Args:
        app: it.
        seconds: for a request's headers to come; some more for all of it, whether it is read or thrown away.
    """

    class Patient(_Patient):
        head_seconds, whole_seconds = seconds, seconds + _GRACE_SECONDS
        silent: ClassVar[dict[_Patient, None]] = {}

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
        limit_concurrency=2 * CONNECTIONS,
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


class _Patient(HttpToolsProtocol):
    """HTTP/1.1, from clients that say in time what they want."""

    head_seconds = whole_seconds = 10.0
    silent: ClassVar[dict[_Patient, None]] = {}  # Those without a request, silent longest first; of all connections.
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # How many bytes of a request's headers came; None behind them.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(self.head_seconds)
        if len(self.connections) > CONNECTIONS and self.silent:
            next(iter(self.silent)).close("there are too many, and it is silent longest")
        self.silent[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self.silent.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is None:
            return
        self._head += len(data)
        if self._head > _HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's headers are too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self._wait(self.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a chunked body nobody reads, and it would be kept without any limit.
        if self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = None
        self._wait(self.whole_seconds)
        self.silent.pop(self, None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._wait(None)
        super().on_message_complete()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        slow = "its request did not come in time"
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.close, slow)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            self.silent[self] = None

    def close(self, why: str) -> None:
        """Close the connection without an answer."""
        self.silent.pop(self, None)
        if not self.transport.is_closing():
            logging.getLogger("flops.server.serving").info("a connection is closed: %s", why)
            self.transport.close()
