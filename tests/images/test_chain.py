"""The whole chain for real: a push runs the workflow, which builds, ships, tries and bumps; then the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.images.build import ROOT, commit
from tests.pipeline.registry_server import PASSWORD, USER
from tests.pipeline.repositories import git, log, make_bare, show

if TYPE_CHECKING:
    from docker import DockerClient

    from tests.pipeline.registry_server import RegistryServer
    from tests.pipeline.ssh_server import SshServer

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.ssh, pytest.mark.timeout(1500)]


class Site:
    """A clone of what is committed, a config repository behind SSH, and the environment of a runner."""

    def __init__(self, folder: Path, registry: RegistryServer, ssh: SshServer, base_image: str, wheels: Path) -> None:
        self.folder, self.registry = folder, registry
        self.source = folder / "source"
        git(folder, "clone", "-q", str(ROOT), str(self.source))
        git(self.source, "checkout", "-q", "-B", "main", commit())
        self.config = make_bare(folder / "config.git", {})
        ssh.know()
        self.secrets = {
            "DOCKER_REGISTRY": registry.host,
            "IMAGE_REPO": "flops",
            "HARBOR_USERNAME": USER,
            "HARBOR_PASSWORD": PASSWORD,
            "FLOPS_CONFIG_REPOSITORY": ssh.url(self.config),
            "SSH_PRIVATE_KEY": ssh.key.read_text(),
            "SSH_KNOWN_HOSTS": ssh.known_hosts.read_text(),
        }
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLOPS_", "GITHUB_", "MLFLOW_", "GIT_DIR"))}
        self.environment = {
            **clean,
            "FLOPS_BASE_IMAGE": base_image,
            "FLOPS_PIP_FLAGS": "--no-index",
            "FLOPS_WHEELS": str(wheels),
            "FLOPS_BUILD_NETWORK": "none",
            "FLOPS_VENV": str(folder / "venv"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def flops(self, *words: str) -> str:
        command = [sys.executable, "-m", "fl.cli", *words]
        ended = subprocess.run(
            command, cwd=self.source, env={**self.environment, **self.secrets}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def push(self) -> str:
        """Run the workflow as a push to main does; returns what the runner printed."""
        secrets = self.folder / "secrets"
        # Such files replace variables in values, too.
        quoted = {name: json.dumps(value).replace("$", "\\$") for name, value in self.secrets.items()}
        secrets.write_text("".join(f"{name}={value}\n" for name, value in quoted.items()))
        command = [str(Path(sys.executable).with_name("act")), "push", "-P", "self-hosted=-self-hosted"]
        ended = subprocess.run(
            [*command, "--secret-file", str(secrets)],
            cwd=self.source,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert ended.returncode == 0, ended.stdout[-6000:]
        assert PASSWORD not in ended.stdout
        return ended.stdout

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(show(self.config, "dev/release.json"))
        return found


def test_pushes_become_the_server_of_the_next_round(
    tmp_path: Path,
    docker_client: DockerClient,
    registry: RegistryServer,
    ssh_server: SshServer,
    base_image: str,
    wheels: Path,
) -> None:
    site = Site(tmp_path, registry, ssh_server, base_image, wheels)
    site.flops("init-config")
    before = show(site.config, "dev/cronjob.yaml")

    printed = site.push()
    assert "smoke federation: a round with the new client" in printed
    assert "a round with the client of the current release" not in printed
    first = site.record()
    assert first["commit"] == commit()
    assert first["smoke"].startswith("passed in ")
    image = first["images"]["server"]["image"]
    assert show(site.config, "dev/cronjob.yaml") == before.replace(f"{registry.host}/flops/server:none", image)
    assert git(site.config, "diff", "--numstat", "main~", "main", "--", "dev/cronjob.yaml").split()[:2] == ["1", "1"]

    for side in ("server", "client"):
        image = first["images"][side]["image"]
        docker_client.images.remove(image.partition("@")[0], force=True)
        docker_client.images.pull(image, auth_config={"username": USER, "password": PASSWORD})
        said = docker_client.containers.run(image, ["--help"], remove=True, network_mode="none", read_only=True)
        assert f"Usage: flops {side}".encode() in said

    changed = site.source / "server" / "job.py"
    changed.write_text(changed.read_text() + "# changed\n")
    git(site.source, "commit", "-qam", "A change of the server")
    printed = site.push()
    assert "a round with the client of the current release" in printed
    second = site.record()
    assert (second["previous"], second["subject"]) == (first["release"], "A change of the server")
    (status,) = (e for e in json.loads(site.flops("status", "--json"))["environments"] if e["environment"] == "dev")
    assert [release["release"] for release in status["releases"]] == [second["release"], first["release"]]
    sizes = {side: int(kb) for side, kb in _sizes(printed)}
    assert sizes["server"] < 200
    assert sizes["client"] < 200

    head = log(site.config, "%H")
    assert "unchanged: both images would hold what release" in site.push()
    assert log(site.config, "%H") == head


def _sizes(printed: str) -> list[tuple[str, str]]:
    import re

    return re.findall(r"(server|client) image: pushed (\d+) kB", printed)
