"""One connection of HTTP/1.1, from a client that says in time what it wants, and reads in time what it gets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

CONNECTIONS = 1000
"""So many stay open; for a further one the one goes that is silent longest."""

_SILENT_SECONDS = 1.0
_HEADER_BYTES = 1 << 16


class Connection(HttpToolsProtocol):
    """A connection; subclasses say how long it may take.

    Attributes:
        head_seconds: for a request's headers to come.
        whole_seconds: for all of it to come, whether it is read or thrown away.
        silent: those of all connections without a request, silent longest first, and since when.
    """

    head_seconds = whole_seconds = 10.0
    silent: ClassVar[dict[Connection, float]] = {}
    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # How many bytes of a request's headers came; None behind them.
    _only_head = True  # Whether all that came just now was of these.
    _deaf = False  # Nothing is read any more.

    def connection_made(self, transport: Any) -> None:
        """Begin; where there are too many, let the one go that is silent longest."""
        super().connection_made(transport)
        self._wait(self.head_seconds)
        if len(self.connections) > CONNECTIONS and self.silent:
            first, since = next(iter(self.silent.items()))
            # Who connected just now is about to ask, unless there are far too many.
            if len(self.connections) > 2 * CONNECTIONS or self.loop.time() - since > _SILENT_SECONDS:
                first.close("there are too many, and it is silent longest")
        self.silent[self] = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait(None)
        self.silent.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what came, and count a request's headers while they come."""
        if self._deaf:
            return
        in_head, self._only_head = self._head is not None, True
        try:
            self._unset_keepalive_if_required()
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            self._stay(data[found.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._head is not None and in_head and self._only_head:
            self._head += len(data)
            if self._head > _HEADER_BYTES:
                self.send_400_response("The request's headers are too long.")
        self._keep_time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what came, which ends the connection; what was asked before is answered first."""
        self._deaf = True
        if self.transport.is_closing():
            return
        if self._is_open() and not self.cycle.more_body:
            self._wait(None)
            self.cycle.keep_alive = False  # That one was good, and is answered first.
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Wait for a request's headers, so long."""
        super().on_message_begin()
        self._head = 0
        self._wait(self.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but none that comes behind a body: nobody reads it, and there is no limit to them."""
        if self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait for a request's body, and handle it meanwhile."""
        self._head, self._only_head = None, False
        if self._is_offer():
            return
        self._wait(self.whole_seconds)
        self.silent.pop(self, None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Wait no longer."""
        if self._is_offer():
            return
        self._head = 0
        self._wait(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Be silent, until the next request."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            self.silent[self] = self.loop.time()

    def close(self, why: str) -> None:
        """Close the connection without an answer."""
        self.silent.pop(self, None)
        if not self.transport.is_closing():
            logging.getLogger("flops.server.serving").info("a connection is closed: %s", why)
            self.transport.close()

    def _is_open(self) -> bool:
        """Return whether a request is still to be answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_offer(self) -> bool:
        """Return whether the request offers to go on in another protocol, as Java's client does with HTTP/2."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _stay(self, rest: bytes) -> None:
        """Do not take such an offer: read the request as one without it, its body, too, which the parser left out."""
        if self.parser.get_method() == b"CONNECT":
            return
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = b"".join(b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(line + headers + b"\r\n" + rest)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        slow = "its request did not come in time"
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.close, slow)

    def _keep_time(self) -> None:
        """Let no connection be without a time: what came may have been no request's beginning."""
        if self._timer is None and self.timeout_keep_alive_task is None and not self._is_open():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
