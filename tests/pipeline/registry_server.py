"""A real registry with TLS and passwords, under a name that the engine does not take for this machine."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt

from server.certificates import CA_CERTIFICATE, CERTIFICATE, KEY, make_certificates
from tests.pipeline.token_server import ISSUER, SERVICE, TokenServer
from tests.workers import WORKER, free_port, lock

if TYPE_CHECKING:
    from docker.models.networks import Network

PROGRAM = shutil.which("docker-registry")
DOMAIN = f"{WORKER}.flops.test"
NAME = f"registry.{DOMAIN}"
USER, PASSWORD = "robot$flops+ci", "s3cret'\"$HOME"
HOSTS, TRUSTED = Path("/etc/hosts"), Path("/etc/docker/certs.d")


class RegistryServer:
    """One that runs until it is stopped, and not on 127.0.0.0/8, which the engine trusts without TLS.

    It asks for passwords itself, or sends to a token service (`tokens`), as Harbor does.
    """

    def __init__(self, folder: Path, address: str, name: str = NAME, *, project: str = "") -> None:
        assert PROGRAM is not None
        self.folder, self.address, self.name, self.port = folder, address, name, free_port(address)
        self.host = f"{name}:{self.port}"
        self.storage = folder / "storage"
        self.tls = folder / "tls"
        make_certificates(self.tls, (name,), 1)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
        self._line = f"{address} {name}  # a test of FLOps, port {self.port}\n"
        with lock("hosts"), HOSTS.open("a") as hosts:
            hosts.write(self._line)
        self.tokens: TokenServer | None = None
        if project:
            self.tokens = TokenServer(self.tls, name, address, project)
            self.tokens.accounts[USER] = (PASSWORD, {"pull", "push"})
        self._process: subprocess.Popen[bytes] | None = None
        self.trust()
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        config = self.folder / "config.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {self.storage}}}}}\n"
            f"http:\n  addr: {self.address}:{self.port}\n"
            f"  tls: {{certificate: {self.tls / CERTIFICATE}, key: {self.tls / KEY}}}\n"
            f"auth: {{{self._auth()}}}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        _wait(self.address, self.port)

    def _auth(self) -> str:
        if self.tokens is None:
            return f"htpasswd: {{realm: test, path: {self.folder / 'htpasswd'}}}"
        words = f"realm: '{self.tokens.realm}', service: {SERVICE}, issuer: {ISSUER}"
        return f"token: {{{words}, rootcertbundle: {self.tls / CA_CERTIFICATE}}}"

    def stop(self) -> None:
        """End it; what was pushed stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def trust(self, port: int | None = None, *, ca: Path | None = None) -> None:
        """Let the engine trust the registry's CA, as its administrator does, or another one."""
        folder = TRUSTED / f"{self.name}:{port or self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ca or self.tls / CA_CERTIFICATE, folder / "ca.crt")

    def distrust(self, port: int | None = None) -> None:
        """Take that back."""
        shutil.rmtree(TRUSTED / f"{self.name}:{port or self.port}", ignore_errors=True)

    def close(self) -> None:
        """End it and leave the machine as it was."""
        self.stop()
        if self.tokens is not None:
            self.tokens.close()
        self.distrust()
        with lock("hosts"):
            HOSTS.write_text(HOSTS.read_text().replace(self._line, ""))


class Cable:
    """A way to the registry that breaks: after so many bytes it drops the connection, and every one after that."""

    def __init__(self, registry: RegistryServer, limit: int) -> None:
        self.port, self._limit, self._target = free_port(registry.address), limit, (registry.address, registry.port)
        self.host = f"{registry.name}:{self.port}"
        self._left, self.dropped = limit, 0
        self._listener = socket.create_server((registry.address, self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def mend(self) -> None:
        """Let everything through from now on."""
        self._left = 1 << 60

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for one, other, counts in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=(one, other, counts), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                if counts:
                    self._left -= len(data)
                    if self._left < 0:
                        self.dropped += 1
                        break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def this_machine(network: Network) -> str:
    """Return the address at which containers of a network reach this machine.

    After its very first start an engine names no gateway for its own bridge, and has given it the first address.
    """
    network.reload()
    (place,) = network.attrs["IPAM"]["Config"]
    return str(place.get("Gateway") or next(ipaddress.ip_network(place["Subnet"]).hosts()))


def _wait(address: str, port: int) -> None:
    end = time.monotonic() + 20
    while True:
        with suppress(OSError), socket.create_connection((address, port), 1):
            return
        assert time.monotonic() < end, "the registry does not listen"
        time.sleep(0.05)
