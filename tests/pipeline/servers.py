"""Fixtures: an SSH server and a registry, started once for all tests that want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker
import pytest

from tests.pipeline.registry_server import RegistryServer
from tests.pipeline.ssh_server import SshServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A real SSH server."""
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def engine() -> Iterator[DockerClient]:
    """Docker Engine."""
    client = docker.from_env(timeout=900)
    yield client
    client.close()


@pytest.fixture(scope="session")
def registry(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """A real registry with TLS and a password; the engine trusts its CA."""
    (place,) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    server = RegistryServer(tmp_path_factory.mktemp("registry"), place["Gateway"])
    yield server
    server.close()
