"""The whole loop for real: a push, a release, and the next round on the new server, with hospitals that stay."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.images.site import Site
from tests.pipeline.loop.process import Up
from tests.pipeline.repositories import add_commit, git, show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docker import DockerClient

    from tests.pipeline.registry_server import RegistryServer
    from tests.pipeline.ssh_server import SshServer

pytestmark = [
    pytest.mark.xdist_group("loops"),
    pytest.mark.docker,
    pytest.mark.registry,
    pytest.mark.ssh,
    pytest.mark.timeout(1800),
]


class World:
    """The site, its loop, and what came of it."""

    def __init__(self, site: Site, up: Up, engine: DockerClient) -> None:
        self.site, self.up, self.engine = site, up, engine

    def change(self, name: str, old: str, new: str) -> str:
        """Commit a change of the source; returns the commit."""
        path = self.site.source / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        git(self.site.source, "commit", "-qam", f"Change {name}")
        return git(self.site.source, "rev-parse", "HEAD")

    def configure(self, **texts: tuple[str, str]) -> str:
        """Push a change of the environment's files; returns the commit."""
        files = {}
        for name, (old, new) in texts.items():
            path = f"dev/{name.replace('__', '.')}"
            text = show(self.site.config, path) + "\n"
            assert re.search(old, text)
            files[path] = re.sub(old, new, text, count=1)
        return add_commit(self.site.config, files, "settings")

    def registered(self) -> dict[str, str]:
        """Wait for the next version; returns its tags."""
        number = int(self.up.wait(r"registered flops-dev-digits version (\d+): ")[1])
        return self.tags(number)

    def ask(self, path: str, **words: Any) -> dict[str, Any]:
        """Ask the loop's tracking server."""
        query = "&".join(f"{name}={value}" for name, value in words.items())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.up.status()['tracking']}/api/2.0/mlflow/{path}?{query}", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def tags(self, number: int) -> dict[str, str]:
        found = self.ask("model-versions/get", name="flops-dev-digits", version=number)["model_version"]
        return {tag["key"]: tag["value"] for tag in found["tags"]}

    def newest(self) -> int:
        found = self.ask("registered-models/get", name="flops-dev-digits")["registered_model"]
        return max(int(version["version"]) for version in found["latest_versions"])

    def hospitals(self) -> set[str]:
        """Return the containers of the hospitals that run."""
        ours = {"label": [self.label, "io.flops.up.role=hospital"], "status": "running"}
        return {container.id for container in self.engine.containers.list(filters=ours)}

    @property
    def label(self) -> str:
        """The label of this loop's containers."""
        return f"io.flops.up={(self.up.state / 'loop').read_text().strip()}"

    def serving(self, path: str) -> dict[str, Any]:
        """Ask the prediction API."""
        (container,) = self.engine.containers.list(filters={"label": [self.label, "io.flops.up.role=serving"]})
        (network,) = container.attrs["NetworkSettings"]["Networks"].values()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{network['IPAddress']}:8000{path}", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@pytest.fixture
def world(
    tmp_path: Path,
    docker_client: DockerClient,
    registry: RegistryServer,
    ssh_server: SshServer,
    build_settings: dict[str, str],
) -> Iterator[World]:
    site = Site(tmp_path, registry, ssh_server, build_settings)
    site.environment["FLOPS_SMOKE"] = "false"  # The chain and the demo have it.
    site.flops("init-config")
    words = ("--hospitals", "3", "--every", "1")
    up = Up(site.source, tmp_path / "loop", *words, environment={**site.environment, **site.secrets})
    world = World(site, up, docker_client)
    minutes = (r"schedule: .*", 'schedule: "* * * * *"'), (r"activeDeadlineSeconds: \d+", "activeDeadlineSeconds: 50")
    try:
        world.configure(cronjob__yaml=minutes[0])
        world.configure(cronjob__yaml=minutes[1])
        with socket.create_server(("127.0.0.1", 0)) as free:  # Another loop may have the usual one.
            port = free.getsockname()[1]
        world.configure(service__yaml=(r"nodePort: \d+", f"nodePort: {port}"))
        yield world
    finally:
        up.stop()
        up.down("--purge")


def test_a_push_becomes_the_next_rounds_server_and_a_killed_loop_goes_on(world: World) -> None:
    site, up = world.site, world.up
    up.wait("no release yet")
    site.flops("release")
    first = site.record()
    up.wait(f"server {first['release']}: next round at")
    tags = world.registered()
    assert (tags["commit"], tags["image"]) == (first["commit"], first["images"]["server"]["digest"])
    assert tags["hospitals"] == "demo-1, demo-2, demo-3"
    assert (tags["release"], tags["config_commit"]) == (first["release"], git(site.config, "rev-parse", "main"))
    hospitals = world.hospitals()
    assert len(hospitals) == 3
    address = up.wait(r"serving: ready at http://([0-9.]+:8000)/")[1]
    assert [pod["address"] for pod in up.status()["pods"] if pod["owner"] == "serving"] == [f"http://{address}/"]
    assert world.serving("/model")["tags"]["release"] == first["release"]

    # A change of the server's code.
    commit = world.change("server/job.py", '"""One job of the global server', '"""A job of the global server')
    site.flops("release")
    second = site.record()
    up.wait(f"starts with server {second['release']}")
    tags = world.registered()
    assert (tags["commit"], tags["image"]) == (commit, second["images"]["server"]["digest"])
    assert world.hospitals() == hospitals

    # A change of the federation alone: no image is built for it.
    changed = world.configure(federation__toml=(r"\nrounds = 3", "\nrounds = 2"))
    up.wait(f"config {changed[:8]}")
    up.wait(r"round .* starts with")
    tags = world.registered()
    assert (tags["rounds"], tags["config_commit"], tags["commit"]) == ("2", changed, commit)

    _goes_on_after_a_kill(world, hospitals, commit)


def _goes_on_after_a_kill(world: World, hospitals: set[str], commit: str) -> None:
    tracking, newest = world.up.status()["tracking"], world.newest()
    world.up.kill()
    world.up.start()
    world.up.wait("goes on with what runs already: .*demo-1, demo-2, demo-3")
    tags = world.registered()
    assert (tags["commit"], int(tags["parent"]) >= newest) == (commit, True)
    assert (world.up.status()["tracking"], world.hospitals()) == (tracking, hospitals)
