"""Fixtures of the loop: an image of small programs, and a place where they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.images.base import base_or_skip
from tests.pipeline.loop.place import Place
from tests.pipeline.registry_server import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient

    from tests.pipeline.registry_server import RegistryServer


@pytest.fixture(scope="session")
def image(engine: DockerClient, registry: RegistryServer) -> str:
    """A small image with Python in the registry, by its digest."""
    base = base_or_skip(engine)
    repository, tag = f"{registry.host}/flops/server", "2026-01-31-14-05-09"
    engine.images.get(base).tag(repository, tag)
    account = {"username": USER, "password": PASSWORD}
    for line in engine.api.push(repository, tag, stream=True, decode=True, auth_config=account):
        assert "error" not in line, line
        if digest := line.get("aux", {}).get("Digest"):
            return f"{repository}:{tag}@{digest}"
    raise AssertionError("no digest")


@pytest.fixture
def place(tmp_path: Path, image: str) -> Iterator[Place]:
    made = Place(tmp_path, image)
    yield made
    made.close()
