"""The link to the hospitals: opens the port, admits those on the list, and gives a grid."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn

from fl.appbundle import NAME, VERSION, make_bundle
from fl.errors import FlopsError, SettingsError
from server.heap import give_back
from server.superlink.api import create_api
from server.superlink.board import Board
from server.superlink.grid import LinkGrid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from server.admission import Hospital

_TURN_SECONDS = 0.2
"""How often free memory is given back, and the run said to be alive."""

_log = logging.getLogger("flops.server")


@dataclass(frozen=True)
class TlsFiles:
    """A server's certificate chain and its private key, PEM files."""

    certificate: Path
    key: Path


class SuperLink:
    """Serves the hospitals from a thread of its own, between `start` and `stop`."""

    def __init__(
        self,
        hospitals: Iterable[Hospital],
        host: str,
        port: int,
        tls: TlsFiles | None,
        spool_folder: str | None = None,
    ) -> None:
        """Prepare the link.

        Args:
            hospitals: who may come.
            host: the address to listen on.
            port: the port; 0 takes a free one.
            tls: the certificate; None serves plain text.
            spool_folder: where replies wait on disk; by default the system's folder for temporary files.
        """
        self.board = Board(spool_folder)
        self.names = self.board.admit(hospitals)
        self._host, self._port, self._tls = host, port, tls
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._server: uvicorn.Server | None = None

    def start(self) -> LinkGrid:
        """Open the port and return the run's grid.

        Raises:
            FlopsError: the port is taken.
            SettingsError: the certificate or its key cannot be used.
        """
        run = self.board.open_run(make_bundle(), NAME, VERSION)
        listener = self._listen()
        try:
            config = uvicorn.Config(
                create_api(self.board),
                log_level="critical",
                access_log=False,
                lifespan="off",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=2,
                ssl_certfile=None if self._tls is None else str(self._tls.certificate),
                ssl_keyfile=None if self._tls is None else str(self._tls.key),
                server_header=False,
            )
            config.load()
        except OSError as error:  # ssl.SSLError is one.
            listener.close()
            place = "" if self._tls is None else f"{self._tls.certificate} and {self._tls.key}: "
            raise SettingsError(f"{place}no certificate chain and its private key: {error}") from error
        self._server = uvicorn.Server(config)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(listener, ready), daemon=True, name="superlink")
        self._thread.start()
        if not ready.wait(20):
            raise FlopsError("the server's port did not open within 20 s")
        return LinkGrid(self.board, run)

    @property
    def port(self) -> int:
        """The port that is open."""
        return self._port

    def stop(self) -> None:
        """Close the port; hospitals that wait for work see it go at once."""
        self.board.close()
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(5)
        self.board.store.close()

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio turns Nagle's delay off for sockets that name the protocol, and only for those: 40 ms a request.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise SettingsError(
                    f"--host {self._host}: is no address of this machine; leave it out for all"
                ) from error
            taken = "; is another server running?" if error.errno == errno.EADDRINUSE else ""
            raise FlopsError(
                f"port {self._port} on {self._host} cannot be opened: {error.strerror}{taken}"
            ) from error
        self._port = listener.getsockname()[1]
        return listener

    def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        asyncio.run(self._serve_async(listener, ready))

    async def _serve_async(self, listener: socket.socket, ready: threading.Event) -> None:
        server: Any = self._server
        self.board.attach(asyncio.get_running_loop())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        ready.set()
        while not serving.done():
            self.board.keep_alive()
            give_back()
            await asyncio.wait({serving}, timeout=_TURN_SECONDS)
