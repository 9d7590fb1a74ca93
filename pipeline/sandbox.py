"""A network and a volume of their own on the engine, with containers that end with them."""

from __future__ import annotations

import contextlib
import platform
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from pipeline.engine import ENGINE_ERRORS, ENGINE_TIMEOUTS
from pipeline.locks import gone, held, state_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.engine import Container, DockerClient

LABEL = "io.flops.sandbox"
"""On everything made here; its value says when."""

PLACE = "/sandbox"
"""Where containers find the volume."""

_OWNER, _NAME = f"{LABEL}.owner", f"{LABEL}.name"
"""Whose it is, and which sandbox it belongs to."""

_LEFT_OVER = timedelta(hours=24)
"""After so long, what runs of other machines made on this engine counts as left over."""

_CLOSING_SECONDS = 10.0
"""How long it is tried to remove everything at the end; the next run removes what is left."""

_STRICT: dict[str, Any] = {
    "read_only": True,
    "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - the container's own
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 256,
    "mem_limit": "4g",
    "log_config": {"type": "json-file", "config": {"max-size": "10m"}},
}
"""As a cluster with restricted pod security runs them."""


class SandboxFailed(FlopsError):  # noqa: N818 - a state, not a mistake
    """A container did not do what it was started for.

    Attributes:
        logs: the last words of each container that took part, by its name.
    """

    def __init__(self, message: str, logs: Mapping[str, str]) -> None:
        super().__init__(message)
        self.logs = logs


@dataclass
class Sandbox:
    """A network without a way out and a volume that all containers share."""

    client: DockerClient
    name: str
    labels: dict[str, str]
    _containers: dict[str, Container] = field(default_factory=dict)

    def start(
        self,
        alias: str,
        image: str,
        command: Sequence[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        outside: bool = False,
        **further: Any,
    ) -> Container:
        """Start a container; others know it by its alias.

        Args:
            alias: its name on the network; an earlier one of the name is removed.
            image: what it runs.
            command: behind the image's entry point.
            environment: its variables.
            outside: on the engine's own network and not on this one.
            further: of the SDK's ``containers.create``, such as ``entrypoint`` or ``user``.
        """
        if old := self._containers.pop(alias, None):
            old.remove(force=True)
        endpoint = {self.name: self.client.api.create_endpoint_config(aliases=[alias])}
        network = {} if outside else {"network": self.name, "networking_config": endpoint}
        made = self.client.containers.create(
            image,
            list(command) if command is not None else None,
            name=f"{self.name}-{alias}",
            environment=dict(environment or {}),
            volumes={self.name: {"bind": PLACE, "mode": "rw"}},
            labels=self.labels,
            **{**_STRICT, **network, **further},
        )
        self._containers[alias] = made
        made.start()
        return made

    def run(self, alias: str, image: str, command: Sequence[str], *, seconds: float, **further: Any) -> str:
        """Run a container to its end; returns what it printed on standard output.

        Raises:
            SandboxFailed: it ended with another exit code than 0, or did not end in time.
        """
        made = self.start(alias, image, command, **further)
        code = self.wait(alias, made, seconds)
        printed = str(made.logs(stdout=True, stderr=False).decode(errors="replace"))
        if code != 0:
            raise SandboxFailed(f"{alias} ended with exit code {code}", self.logs(alias))
        return printed

    def wait(self, alias: str, container: Container, seconds: float) -> int:
        """Wait for a container's end; returns its exit code.

        Raises:
            SandboxFailed: it did not end in time.
        """
        try:
            return int(container.wait(timeout=seconds)["StatusCode"])
        except ENGINE_TIMEOUTS as error:
            raise SandboxFailed(f"{alias} still runs after {seconds:.0f} s", self.logs()) from error

    def logs(self, *aliases: str) -> dict[str, str]:
        """Return the last lines of containers, by default of all."""
        found = {}
        for alias in aliases or tuple(self._containers):
            with contextlib.suppress(*ENGINE_ERRORS):
                found[alias] = self._containers[alias].logs(tail=60).decode(errors="replace").rstrip()
        return found

    def close(self) -> None:
        """Remove all of it.

        The engine is asked what there is: a container that was being created when somebody interrupted is not known
        here, and may come a moment later.
        """
        label = f"{_NAME}={self.name}"
        end = time.monotonic() + _CLOSING_SECONDS
        while True:
            with contextlib.suppress(*ENGINE_ERRORS):
                _remove(self.client, label, lambda _: True)
                if not self.client.volumes.list(filters={"label": label}):
                    return
            if time.monotonic() > end:
                return
            time.sleep(0.2)


@contextmanager
def sandbox(client: DockerClient) -> Iterator[Sandbox]:
    """Make a sandbox for as long as the block runs, and remove what killed runs left."""
    folder = state_folder("sandboxes")
    owner = f"{platform.node()}:{folder}"
    _sweep(client, owner, folder)
    name = f"flops-smoke-{uuid.uuid4().hex[:8]}"
    labels = {LABEL: datetime.now(UTC).isoformat(timespec="seconds"), _OWNER: owner, _NAME: name}
    made = Sandbox(client, name, labels)
    with held(folder / name):
        try:
            client.networks.create(name, internal=True, labels=labels)
            client.volumes.create(name, labels=labels)
            yield made
        finally:
            made.close()


def _sweep(client: DockerClient, owner: str, folder: Path) -> None:
    """Remove what nobody works with any more."""
    before = datetime.now(UTC) - _LEFT_OVER

    def left(labels: Mapping[str, str] | None) -> bool:
        told = labels or {}
        if told.get(_OWNER) == owner:
            return gone(folder / told.get(_NAME, "none"))
        try:
            return datetime.fromisoformat(told.get(LABEL, "")) < before
        except ValueError:
            return False

    with contextlib.suppress(*ENGINE_ERRORS):
        _remove(client, LABEL, left)


def _remove(client: DockerClient, label: str, chosen: Callable[[Mapping[str, str] | None], bool]) -> None:
    """Remove what has a label and is chosen by its labels; others may be removing it at the same time."""
    ours = {"filters": {"label": label}}
    for container in client.containers.list(all=True, ignore_removed=True, **ours):
        if chosen(container.labels):
            with contextlib.suppress(*ENGINE_ERRORS):
                container.remove(force=True)
    for thing in (*client.networks.list(**ours), *client.volumes.list(**ours)):
        if chosen(thing.attrs.get("Labels")):
            with contextlib.suppress(*ENGINE_ERRORS):
                thing.remove()
