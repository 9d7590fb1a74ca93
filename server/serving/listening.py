"""The server below the application: its port, its connections, and how long each may take to say what it wants."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fl.errors import FlopsError

if TYPE_CHECKING:
    import asyncio

    from fastapi import FastAPI

CONNECTIONS = 1000
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
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


class _Patient(HttpToolsProtocol):
    """HTTP/1.1, from clients that say in time what they want."""

    head_seconds = whole_seconds = 10.0
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # How many bytes of a request's headers came; None behind them.

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._wait(None)
        super().on_message_complete()

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            logging.getLogger("flops.server.serving").info("a connection is closed: its request did not come in time")
            self.transport.close()
