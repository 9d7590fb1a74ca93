"""A source, a config repository and a registry, and the command line between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.pipeline.registry_server import PASSWORD, USER, RegistryServer
from tests.pipeline.repositories import MANIFEST, git, make_bare
from tests.pipeline.sources import change, make_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.conftest import Ended

DOCKERFILE = """\
FROM scratch
COPY fl /fl
COPY {side} /code
ARG REVISION
ARG CREATED
ARG VERSION
ARG PROTOCOL
LABEL org.opencontainers.image.revision=$REVISION org.opencontainers.image.created=$CREATED \\
      org.opencontainers.image.version=$VERSION io.flops.protocol=$PROTOCOL
CMD ["/none"]
"""
"""An image without a base: what a release does with images does not depend on what they hold."""


class Place:
    """A source, a config repository, a registry, and the command line between them."""

    def __init__(
        self, folder: Path, registry: RegistryServer, flops: Callable[..., Ended], patch: pytest.MonkeyPatch
    ) -> None:
        self.registry, self._flops, self._patch = registry, flops, patch
        files = {f"Dockerfile.{side}": DOCKERFILE.format(side=side) for side in ("server", "client")}
        self.source = make_source(folder / "source", files)
        self.config = make_bare(folder / "config.git", {"dev/cronjob.yaml": self.manifest(registry.host)})
        self.set(
            DOCKER_REGISTRY=registry.host,
            IMAGE_REPO="flops",
            HARBOR_USERNAME=USER,
            HARBOR_PASSWORD=PASSWORD,
            FLOPS_CONFIG_REPOSITORY=str(self.config),
            FLOPS_SMOKE="false",
            XDG_STATE_HOME=str(folder / "state"),
        )

    @staticmethod
    def manifest(host: str) -> str:
        return MANIFEST.replace("harbor.example.org", host)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def release(self, *words: str) -> Ended:
        return self._flops("release", "--source", self.source, *words)

    def released(self) -> dict[str, Any]:
        ended = self.release("--json")
        assert ended.code == 0, ended.err
        return ended.json

    def fails(self, code: int, message: str) -> Ended:
        """Release, expect one line, and the config repository as it was."""
        head = git(self.config, "rev-parse", "main")
        ended = self.release()
        assert ended.code == code, ended.err
        assert message in ended.line, ended.line
        assert PASSWORD not in ended.out + ended.err
        assert git(self.config, "rev-parse", "main") == head
        return ended

    def write(self, **files: str) -> None:
        """Commit files, by their names with dots for underscores."""
        change(self.source, {name.replace("_", "."): text for name, text in files.items()}, "change")

    def change(self, text: str) -> str:
        return change(self.source, {"server/round.py": f"print({text!r})\n"}, f"server: {text}")
