"""The trial federation of a release, in the real images: what passes, and what must stop a release."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.sandbox import LABEL, SandboxFailed
from pipeline.smoke import InUse, smoke
from tests.images.build import build_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient
    from docker.models.images import Image

    from tests.images.federation import Federation

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.docker, pytest.mark.timeout(900)]

BROKEN_CLIENT = """

def create_client_app(*_, **__):
    raise RuntimeError("this client cannot train")
"""


@pytest.fixture(autouse=True)
def nothing_is_left(docker_client: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test no container, network or volume of its sandboxes is left on the engine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield
    ours = {"filters": {"label": f"{LABEL}.owner={platform.node()}:{tmp_path / 'flops' / 'sandboxes'}"}}
    assert not docker_client.containers.list(all=True, **ours)
    assert not docker_client.networks.list(**ours)
    assert not docker_client.volumes.list(**ours)


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_release_passes_with_the_current_client_and_the_model_in_use(
    docker_client: DockerClient, server_image: Image, client_image: Image, federation: Federation, said: list[str]
) -> None:
    images = {"server": str(server_image.id), "client": str(client_image.id)}
    files = {"in-use/federation.toml": 'task = "digits"\n'}
    newest = max(federation.tracker.versions(), default=None)
    in_use = InUse(files, {"MLFLOW_TRACKING_URI": federation.tracker.uri})
    started = time.monotonic()
    result = smoke(docker_client, images, str(client_image.id), 240, said.append, in_use)
    assert (result.current, result.model) == (True, newest)
    assert result.seconds <= time.monotonic() - started
    assert str(result).startswith("passed in ")
    assert "smoke federation: a round with the client of the current release" in said


def test_a_model_in_use_that_cannot_be_loaded_stops_a_release(
    docker_client: DockerClient, server_image: Image, client_image: Image
) -> None:
    images = {"server": str(server_image.id), "client": str(client_image.id)}
    files = {"in-use/federation.toml": 'task = "digits"\n'}
    nobody = InUse(files, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"})
    with pytest.raises(SandboxFailed, match="the model in use cannot be loaded with the new server") as caught:
        smoke(docker_client, images, None, 240, print, nobody)
    assert "does not answer" in caught.value.logs["current-model"]


def stopped(docker_client: DockerClient, images: dict[str, str], message: str) -> SandboxFailed:
    """Run a trial that must stop the release; returns the error, with its logs."""
    with pytest.raises(SandboxFailed, match=message) as caught:
        smoke(docker_client, images, None, 240, print)
    return caught.value


def test_a_client_that_cannot_train_is_stopped_with_its_logs(
    docker_client: DockerClient, server_image: Image, client_image: Image, base_image: str, wheels: Path
) -> None:
    appended = {"client/app.py": BROKEN_CLIENT}
    broken = build_image(docker_client, "client", base_image, wheels, "flops-test-broken:client", appended=appended)[
        0
    ]
    images = {"server": str(server_image.id), "client": str(broken.id)}
    error = stopped(docker_client, images, "the server's job ended with exit code ")
    assert "this client cannot train" in error.logs["east"]
