"""Whether a Deployment's container answers: asked over HTTP at its address, as a cluster's nodes do."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.loop.manifests import container_port

if TYPE_CHECKING:
    from pipeline.loop.objects import Container, Probe


@dataclass
class Asked:
    """What one pod answered so far.

    Attributes:
        ready: whether it was ready when last asked.
        said: what a wrong answer was.
    """

    ready: bool = False
    said: str = ""
    _since: float = field(default_factory=time.monotonic)
    _next: dict[str, float] = field(default_factory=dict)
    _wrong: dict[str, int] = field(default_factory=dict)

    def dead(self, container: Container, address: str) -> bool:
        """Ask what is due; tells whether the container must be started anew.

        Args:
            container: with its probes.
            address: where it is.
        """
        readiness, liveness = container.readiness_probe, container.liveness_probe
        if readiness is None:
            self.ready = True
        elif self._due("ready", readiness):
            told = ask(readiness, container, address)
            wrong = self._count("ready", told)
            self.said = told
            if not told or wrong >= readiness.failure_threshold:
                self.ready = not told
        if liveness is not None and self._due("live", liveness):
            told = ask(liveness, container, address)
            if self._count("live", told) >= liveness.failure_threshold:
                self.said = told
                return True
        return False

    def _due(self, kind: str, probe: Probe) -> bool:
        now = time.monotonic()
        if now < self._next.get(kind, self._since + probe.initial_delay_seconds):
            return False
        self._next[kind] = now + probe.period_seconds
        return True

    def _count(self, kind: str, told: str) -> int:
        self._wrong[kind] = self._wrong.get(kind, 0) + 1 if told else 0
        return self._wrong[kind]


def ask(probe: Probe, container: Container, address: str) -> str:
    """Ask once; returns what is wrong, or an empty text."""
    get, port = probe.http_get, container_port(container, probe.http_get.port)
    if port is None:
        return f"it has no port '{get.port}'"
    connection: http.client.HTTPConnection
    if get.scheme == "HTTPS":  # A cluster's nodes do not look at the certificate, either.
        unchecked = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(address, port, timeout=probe.timeout_seconds, context=unchecked)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=probe.timeout_seconds)
    try:
        connection.request("GET", get.path)
        answer = connection.getresponse()
        said = answer.read(300).decode(errors="replace")
        return "" if 200 <= answer.status < 400 else f"{get.path} answers {answer.status}: {' '.join(said.split())}"
    except (OSError, http.client.HTTPException) as error:
        return f"{get.path} does not answer: {error}"
    finally:
        connection.close()
