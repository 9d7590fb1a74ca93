"""Fixtures: an SSH server and a registry, started once for all tests that want them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import docker
import pytest
from docker.errors import APIError

from tests.pipeline.registry_server import DOMAIN, RegistryServer, this_machine
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
    server = RegistryServer(tmp_path_factory.mktemp("registry"), this_machine(engine.networks.get("bridge")))
    _wait_for_the_name(engine, server)
    yield server
    server.close()


@pytest.fixture(scope="session")
def token_registry(engine: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    """One that sends to a token service, as Harbor does, with the project `flops`."""
    folder = tmp_path_factory.mktemp("token-registry")
    server = RegistryServer(folder, this_machine(engine.networks.get("bridge")), f"harbor.{DOMAIN}", project="flops")
    _wait_for_the_name(engine, server)
    yield server
    server.close()


def _wait_for_the_name(engine: DockerClient, server: RegistryServer) -> None:
    """The engine reads /etc/hosts anew only some seconds after it last did."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            engine.api.inspect_distribution(f"{server.host}/flops/none:none")
        except APIError as error:
            if "no such host" not in str(error):
                return
        time.sleep(0.5)
    raise AssertionError(f"the engine does not know {server.name}")
