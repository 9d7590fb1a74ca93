"""Both images, built once for all tests from what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import docker
import pytest

from tests.images.base import base_or_skip
from tests.images.build import build_once, collect_wheels, python_version
from tests.images.federation import Federation, Tracker
from tests.images.network import network
from tests.pipeline.registry_server import this_machine
from tests.pipeline.servers import engine, registry, ssh_server  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient
    from docker.models.images import Image


@pytest.fixture(scope="session")
def docker_client() -> Iterator[DockerClient]:
    """Docker Engine; a step of a build may be silent for minutes."""
    client = docker.from_env(timeout=900)
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_image(docker_client: DockerClient) -> str:
    """The name of an image with Python and nothing else."""
    return base_or_skip(docker_client)


@pytest.fixture(scope="session")
def wheels(docker_client: DockerClient, base_image: str) -> Path:
    """A folder with all libraries of both images."""
    return collect_wheels(python_version(docker_client, base_image))


@pytest.fixture(scope="session")
def server_image(docker_client: DockerClient, base_image: str, wheels: Path) -> Image:
    """The global server's image."""
    return build_once(docker_client, "server", base_image, wheels)


@pytest.fixture(scope="session")
def client_image(docker_client: DockerClient, base_image: str, wheels: Path) -> Image:
    """A hospital's image."""
    return build_once(docker_client, "client", base_image, wheels)


@pytest.fixture(scope="session")
def build_settings(base_image: str, wheels: Path, server_image: Image, client_image: Image) -> dict[str, str]:
    """Variables with which a release builds images here; both are built, so that it finds their libraries' layers."""
    return {
        "FLOPS_BASE_IMAGE": base_image,
        "FLOPS_PIP_FLAGS": "--no-index",
        "FLOPS_WHEELS": str(wheels),
        "FLOPS_BUILD_NETWORK": "none",
    }


@pytest.fixture(scope="session")
def federation(
    docker_client: DockerClient, server_image: Image, client_image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    """A network, a model registry that is reached from it, certificates and data; no hospitals yet."""
    folder = tmp_path_factory.mktemp("federation")
    with network(docker_client) as net:
        tracker = Tracker(folder, this_machine(net))
        try:
            images = {"server": str(server_image.id), "client": str(client_image.id)}
            made = Federation(docker_client, images, net, folder, tracker)
            made.prepare()  # Meanwhile the registry starts.
            tracker.wait()
            yield made
        finally:
            tracker.stop()
