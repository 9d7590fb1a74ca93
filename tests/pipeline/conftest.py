"""What the pipeline's tests share: a config repository, over a path or a real SSH server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.settings import Settings, read_settings
from tests.pipeline.repositories import MANIFEST, REGISTRY, make_bare
from tests.pipeline.servers import engine, registry, ssh_server, token_registry  # noqa: F401 - fixtures
from tests.pipeline.sources import make_source
from tests.pipeline.unbuilt import Setting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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


@pytest.fixture
def setting(
    tmp_path: Path, config: Path, settings_for: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Setting:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Setting(make_source(tmp_path / "source"), config, settings_for(config))
