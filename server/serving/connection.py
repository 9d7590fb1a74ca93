"""One connection of HTTP/1.1, from a client that says in time what it wants, and reads in time what it gets."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Awaitable, Callable

CONNECTIONS = 1000
"""So many stay open; for a further one the one goes that is silent longest."""

_SILENT_SECONDS = 1.0
_HEADER_BYTES = 1 << 16
_LINGER_SECONDS = 1.0
_WAITING = 100
"""So many requests of one connection may wait for the answer to one before them."""


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
    _in_head, _begun = True, False  # What comes is of a request's headers; some of them came.
    _head_size = 0  # How much memory a request's headers take, about.
    _loose = 0  # How many bytes came since a head, a part of a body or a request was whole.
    _deaf = False  # Nothing is read any more.

    def connection_made(self, transport: Any) -> None:
        """Begin; where there are too many, let the one go that is silent longest."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
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
        self._unset_keepalive_if_required()
        self._loose += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as found:
                data = self._restated(data[found.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response(_INVALID)
                data = b""
        if self._loose > _HEADER_BYTES and not self._deaf:
            self.send_400_response("The request's headers are too long.")
        self._keep_time()

    def send_400_response(self, msg: str) -> None:
        """Refuse what came, which ends the connection; what was asked before is answered first."""
        self._deaf = True
        if self.transport.is_closing():
            return
        self._wait(None)
        if not self._is_open() or (self.cycle.more_body and not self.pipeline):
            if self._is_open() or self._in_head:  # Else it has its answer: a 404, before its body was read.
                self.transport.write(_BAD % (len(msg), msg.encode()))
            if self._is_open():  # Who works on it gets no more of it, and is not listened to.
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._linger()
        elif self.cycle.more_body:  # It waits for the answer to another, and then it is its turn.
            self.pipeline[0] = (self.cycle, _refuse)

    def on_message_begin(self) -> None:
        """Wait for a request's headers, so long."""
        super().on_message_begin()
        self._in_head, self._begun, self._head_size = True, True, 0
        self._wait(None if self.pipeline else self.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but none that comes behind a body: nobody reads it, and there is no limit to them."""
        if self._in_head:
            self._head_size += len(name) + len(value) + 32
            if self._head_size > _HEADER_BYTES:
                raise ValueError("too long")  # Which the parser makes an error of its own of.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait for a request's body, and handle it meanwhile."""
        self._in_head, self._begun, self._loose = False, False, 0
        if self._is_offer():
            return
        if len(self.pipeline) >= _WAITING:
            raise ValueError("too many")
        self.silent.pop(self, None)
        super().on_headers_complete()
        self.cycle.transport = cast("asyncio.Transport", _Transport(self.transport, self.last))
        # What waits for another's answer is not read meanwhile, and its time begins later.
        self._wait(None if self.pipeline else self.whole_seconds)

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait no longer."""
        if self._is_offer():
            return
        self._in_head, self._loose = True, 0
        self._wait(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Be silent, until the next request."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self.flow.resume_reading()
            if not self._is_open() and self._deaf:
                self._linger()
            elif self._is_open() and self.cycle.more_body:
                self._wait(self.whole_seconds)
            elif self._begun and self._timer is None:
                self._wait(self.head_seconds)
        if self.timeout_keep_alive_task is not None and not self.transport.is_closing():
            self.silent[self] = self.loop.time()

    def last(self) -> None:
        """End behind an answer that is the last: what waits, and what still comes, has none."""
        self._deaf = True
        self.pipeline.clear()
        self._linger()

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

    def _restated(self, rest: bytes) -> bytes:
        """Do not take such an offer: return the request as one without it, with the body that the parser left out."""
        if self.parser.get_method() == b"CONNECT":
            self.send_400_response(_INVALID)
            return b""
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = b"".join(b"%s: %s\r\n" % pair for pair in self.headers if pair[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return line + headers + b"\r\n" + rest

    def _linger(self) -> None:
        """Say no more, and throw away for a moment what still comes: else the system would take the answer back."""
        self._unset_keepalive_if_required()
        self._wait(None)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self._is_open() and (self.pipeline or not self.cycle.more_body):
            self.send_400_response("The request did not come in time.")
        else:
            self.close("its request did not come in time")

    def _keep_time(self) -> None:
        """Let no connection be without a time: what came may have been no request's beginning."""
        if self._timer is None and self.timeout_keep_alive_task is None and not self._is_open():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class _Transport:
    """A connection as who answers a request sees it: it may have gone just now, and it is not cut at the end."""

    def __init__(self, transport: asyncio.Transport, last: Callable[[], None]) -> None:
        self._transport, self.close = transport, last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        try:
            self._transport.write(data)
        except RuntimeError:
            if not self._transport.is_closing():
                raise


class _Flow(FlowControl):
    """Reads nothing while requests wait: each would cost memory, and nobody counts them."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


_INVALID = "Invalid HTTP request received."

_BAD = b"""\
HTTP/1.1 400 Bad Request\r
content-type: text/plain; charset=utf-8\r
content-length: %d\r
connection: close\r
\r
%s"""


async def _refuse(_: Any, __: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer, in its turn, what did not come as it should."""
    text = _INVALID.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": text})
