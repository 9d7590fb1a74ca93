"""What the pipeline's tests share: a config repository, over a path or a real SSH server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker
import pytest

from pipeline.settings import Settings, read_settings
from tests.pipeline.registry_server import RegistryServer
from tests.pipeline.repositories import MANIFEST, REGISTRY, make_bare
from tests.pipeline.ssh_server import SshServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from docker import DockerClient

VARIABLES = (
    "DOCKER_REGISTRY",
    "IMAGE_REPO",
    "HARBOR_USERNAME",
    "HARBOR_PASSWORD",
    "SSH_PRIVATE_KEY",
    "SSH_KNOWN_HOSTS",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine reaches a test."""
    import os

    for name in [*VARIABLES, *(name for name in os.environ if name.startswith(("FLOPS_", "GITHUB_", "GIT_")))]:
        if name != "FLOPS_TEST_REQUIRE":
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A real SSH server."""
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    yield server
    server.stop()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A bare config repository with dev's manifest and another file."""
    return make_bare(tmp_path / "config.git", {"dev/cronjob.yaml": MANIFEST, "README.md": "# Ours\r\n"})


@pytest.fixture
def settings_for(here: Path) -> Callable[..., Settings]:
    """Settings with some values."""

    def make(repository: object, **variables: object) -> Settings:
        given = {"DOCKER_REGISTRY": REGISTRY, "IMAGE_REPO": "flops", "FLOPS_CONFIG_REPOSITORY": repository}
        return read_settings(None, {name: str(value) for name, value in {**given, **variables}.items()})

    return make


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
