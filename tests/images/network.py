"""Federations in containers: networks and containers that are always removed in the end, whatever a test does."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from docker.errors import APIError, NotFound
from docker.types import Mount
from requests.exceptions import ConnectionError as NoAnswer
from requests.exceptions import ReadTimeout

from tests.workers import WORKER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from docker import DockerClient
    from docker.models.containers import Container
    from docker.models.networks import Network

LABELS = {"flops-test": WORKER}
"""On all that is made here: `docker ps -a --filter label=flops-test` shows what a killed test run left."""


@dataclass(frozen=True)
class Box:
    """A container under its name on the network it was started on, if any."""

    alias: str
    container: Container
    network: Network | None

    def logs(self) -> str:
        """Return all it printed so far."""
        return str(self.container.logs().decode(errors="replace"))

    def output(self, *, errors: bool = False) -> str:
        """Return what it printed on standard output alone, or on standard error alone."""
        return str(self.container.logs(stdout=not errors, stderr=errors).decode(errors="replace"))

    def state(self) -> dict[str, Any]:
        """Return Docker's record of it now: Status, StartedAt, Health where the image has a check, …"""
        self.container.reload()
        state: dict[str, Any] = self.container.attrs["State"]
        return state

    def execute(self, *command: str) -> tuple[int, str]:
        """Run a further command in it; return its exit code and what it printed."""
        code, printed = self.container.exec_run(list(command))
        return int(code), printed.decode(errors="replace")

    def exit_code(self, timeout: float = 60) -> int:
        """Wait until it ends; return its exit code."""
        try:
            return int(self.container.wait(timeout=timeout)["StatusCode"])
        except (ReadTimeout, NoAnswer) as error:
            raise AssertionError(f"{self.alias} still runs after {timeout:g} s") from error

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """Wait until it has printed a text since it was last started; return all it printed since."""
        end = time.monotonic() + timeout
        while True:
            state = self.state()
            started = datetime.fromisoformat(state["StartedAt"]).timestamp()
            printed = str(self.container.logs(since=started).decode(errors="replace"))
            if text in printed:
                return printed
            assert state["Running"], f"{self.alias} ended before it printed {text!r}"
            assert time.monotonic() < end, f"{self.alias} did not print {text!r} in {timeout:g} s"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut does: SIGKILL, no clean-up."""
        self.container.kill("SIGKILL")

    def stop(self, grace: int = 10) -> None:
        """End it as an orchestrator does: SIGTERM, SIGKILL after some seconds of grace."""
        self.container.stop(timeout=grace)

    def start(self) -> None:
        """Start it again; what its root file system held is still there, /tmp is empty."""
        self.container.start()

    def cut(self) -> None:
        """Take it off its network: what it sends is lost, nobody is told."""
        assert self.network is not None
        self.network.disconnect(self.container, force=True)

    def join(self) -> None:
        """Put it back on its network under the same name, perhaps with another address."""
        assert self.network is not None
        self.network.connect(self.container, aliases=[self.alias])


@contextmanager
def network(client: DockerClient, *, internal: bool = True) -> Iterator[Network]:
    """Make a network that, being internal, reaches nothing outside of it."""
    made = client.networks.create(f"flops-test-{uuid.uuid4().hex[:8]}", internal=internal, labels=LABELS)
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def container(
    client: DockerClient,
    image: str,
    command: Sequence[str] | None = None,
    *,
    alias: str = "box",
    on: Network | None = None,
    environment: Mapping[str, str] | None = None,
    reads: Mapping[str, Path] | None = None,
    writes: Mapping[str, Path] | None = None,
    **further: Any,
) -> Iterator[Box]:
    """Run a container as strictly as a cluster does; if the test fails, show what it printed.

    The command stands behind the image's entry point. Other containers on the network know it by its alias. It may
    read and write what lies on this machine by the path inside: ``{"/data": folder}``. Further words are those of the
    Docker SDK's ``containers.create``, such as ``entrypoint``, ``user`` or ``mem_limit``.
    """
    mounts = [
        Mount(inside, str(path.resolve()), type="bind", read_only=True) for inside, path in (reads or {}).items()
    ]
    for inside, path in (writes or {}).items():
        path.chmod(0o777)  # The image's user is nobody that this machine knows.
        mounts.append(Mount(inside, str(path.resolve()), type="bind"))
    endpoint = {on.name: client.api.create_endpoint_config(aliases=[alias])} if on else None
    made = client.containers.create(
        image,
        list(command) if command is not None else None,
        **{
            "name": f"{alias}-{uuid.uuid4().hex[:8]}",
            **({"network": on.name, "networking_config": endpoint} if on else {"network_mode": "none"}),
            "read_only": True,
            "tmpfs": {"/tmp": "mode=1777"},  # noqa: S108 - the container's own
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "dns_opt": ["timeout:2", "attempts:1"],  # No name server is reached that knows other names.
            "environment": {**(environment or {})},
            "mounts": mounts,
            "labels": LABELS,
            **further,
        },
    )
    box = Box(alias, made, on)
    try:
        made.start()
        yield box
    except BaseException:
        with suppress(APIError):
            print(f"--- {alias}, {box.state()['Status']}:\n{box.logs()}\n---")
        raise
    finally:
        with suppress(NotFound):
            made.remove(force=True, v=True)
