"""The whole chain for real: a push runs the workflow, which builds, ships, tries and bumps; then the next one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.images.build import commit
from tests.images.site import Site
from tests.pipeline.registry_server import PASSWORD, USER
from tests.pipeline.repositories import git, log, show

if TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient

    from tests.pipeline.registry_server import RegistryServer
    from tests.pipeline.ssh_server import SshServer

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.ssh, pytest.mark.timeout(2400)]


def test_pushes_become_the_server_of_the_next_round(
    tmp_path: Path,
    docker_client: DockerClient,
    registry: RegistryServer,
    ssh_server: SshServer,
    build_settings: dict[str, str],
) -> None:
    site = Site(tmp_path, registry, ssh_server, build_settings)
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

    site.flops("promote", "dev", "prod")
    promoted = json.loads(show(site.config, "prod/release.json"))
    assert (promoted["images"], promoted["promoted_from"]) == (second["images"], "dev")
    assert second["images"]["server"]["image"] in show(site.config, "prod/cronjob.yaml")
    site.flops("rollback", "dev", "--reason", "rounds fail")
    assert site.record() == first
    assert "held: " in site.push()
    assert site.record() == first
    site.flops("resume", "dev")
    site.push()
    third = site.record()
    assert (third["commit"], third["previous"]) == (second["commit"], first["release"])
    docker_client.images.pull(
        third["images"]["server"]["image"], auth_config={"username": USER, "password": PASSWORD}
    )


def _sizes(printed: str) -> list[tuple[str, str]]:
    import re

    return re.findall(r"(server|client) image: pushed (\d+) kB", printed)
