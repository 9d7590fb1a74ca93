"""The bad days of `flops up`: what is wrong elsewhere is told, waited for, and takes nothing along that runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.loop.place import SLEEPS, deployment, find
from tests.pipeline.repositories import git

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

    from tests.pipeline.loop.place import Place

pytestmark = [pytest.mark.xdist_group("loops"), pytest.mark.docker, pytest.mark.registry, pytest.mark.timeout(400)]


def test_a_commit_that_is_not_understood_and_a_repository_that_is_away(place: Place, engine: DockerClient) -> None:
    good = place.push(steady=deployment("steady", place.image, SLEEPS))
    up = place.up()
    up.wait("steady: starts")
    container = find(engine, "steady")
    bad = place.push(steady="kind: Pod\n")
    up.wait(rf"config {bad[:8]}: dev/steady.yaml, line 1: kind 'Pod' is not understood.*; {good[:8]} stays in charge")
    place.push(steady="a: [\n")
    up.wait(r"dev/steady.yaml, line 2: is not YAML")
    up.shows(lambda status: any("is not YAML" in problem for problem in status["problems"]))
    assert up.status()["config_commit"] == good
    place.config.rename(place.folder / "away")
    up.wait("there is no git repository|no such repository|does not appear to be a git repository")
    said = up.said
    assert find(engine, "steady").id == container.id
    (place.folder / "away").rename(place.config)
    git(place.config, "update-ref", "refs/heads/main", good)
    up.wait("the config repository is read again")
    assert up.said.count("git repository") == said.count("git repository") == 1
    up.shows(lambda status: status["problems"] == [])


def test_an_image_that_is_missing_leaves_what_runs(place: Place, engine: DockerClient) -> None:
    place.push(steady=deployment("steady", place.image, SLEEPS))
    up = place.up()
    up.wait("steady: starts")
    container = find(engine, "steady")
    missing = place.image.partition("@")[0] + "@sha256:" + "0" * 64
    place.push(steady=deployment("steady", missing, SLEEPS))
    up.wait(r"image \S+@sha256:0+: .*; it is tried again")
    assert find(engine, "steady").id == container.id
    up.shows(lambda status: any("0" * 64 in problem for problem in status["problems"]))
    place.push(steady=deployment("steady", place.image, SLEEPS.replace("here", "there")))
    up.wait("steady: is replaced")
    up.wait("steady: starts with")
    assert find(engine, "steady").id != container.id


def test_a_secret_is_waited_for(place: Place, engine: DockerClient) -> None:
    wants = deployment("steady", place.image, SLEEPS, envFrom=[{"secretRef": {"name": "words"}}])
    place.push(steady=wants)
    up = place.up()
    up.wait(r"steady waits: secret 'words' is missing; put its files into .*/secrets")
    place.secret("words", WORD="open sesame")
    up.wait("steady: starts with")
    assert "WORD=open sesame" in find(engine, "steady").attrs["Config"]["Env"]


def test_a_port_that_is_taken_is_told_and_waited_for(place: Place, engine: DockerClient) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "steady"},
        "spec": {"type": "NodePort", "selector": {"app": "steady"}, "ports": [{"port": 8000, "nodePort": 30899}]},
    }
    holder = engine.containers.run(
        place.image.partition("@")[0],
        ["sleep", "600"],
        detach=True,
        ports={"1/tcp": ("127.0.0.1", 30899)},
        init=True,
    )
    try:
        place.push(steady=deployment("steady", place.image, SLEEPS), service=json.dumps(service))
        up = place.up()
        up.wait("steady cannot be started: a port of this machine is taken by somebody else")
    finally:
        holder.remove(force=True)
    up.wait("steady: starts with")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_is_full_stops_nothing_for_good(place: Place, engine: DockerClient) -> None:
    small = place.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True)
    try:
        shutil.move(place.state, small / "loop")
        place.state = small / "loop"
        place.push(steady=deployment("steady", place.image, SLEEPS))
        up = place.up()
        up.wait("steady: starts")
        filler = small / "filler"
        with filler.open("wb") as file:
            subprocess.run(["dd", "if=/dev/zero", "bs=4k"], stdout=file, stderr=subprocess.DEVNULL)
        commit = place.push(steady=deployment("steady", place.image, SLEEPS.replace("here", "there")))
        up.wait("No space left on device|this machine.s disk is full")
        assert find(engine, "steady").status == "running"
        filler.unlink()
        up.wait(f"config {commit[:8]}")
        up.wait("steady: starts")
        place.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


class OtherEngine:
    """A Docker Engine of its own beside the machine's, which may be ended."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._bridge = folder, f"flops{os.getpid() % 100_000}"
        self.host = f"unix://{folder}/engine.sock"
        # One of its own: told to have none, it would remove the machine's docker0.
        subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", "10.213.117.1/24", "dev", self._bridge], check=True)
        self.start()

    def start(self) -> None:
        command = ["dockerd", "--host", self.host, "--bridge", self._bridge, "--iptables=false"]
        for name in ("data-root", "exec-root", "pidfile"):
            command += [f"--{name}", str(self._folder / name)]
        with (self._folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while subprocess.run(["docker", "--host", self.host, "version"], capture_output=True).returncode:
            assert self._process.poll() is None, (self._folder / "engine.log").read_text()[-2000:]
            assert time.monotonic() < end
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def close(self) -> None:
        self.stop()
        subprocess.run(["ip", "link", "delete", self._bridge], check=True)


@pytest.fixture
def other_engine() -> Iterator[OtherEngine]:
    if os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("ip"):
        pytest.skip("needs dockerd and ip, and root to run them")
    with tempfile.TemporaryDirectory(prefix="engine-", ignore_cleanup_errors=True) as folder:
        made = OtherEngine(Path(folder))
        yield made
        made.close()


@pytest.mark.slow
def test_an_engine_that_is_restarted_underneath(place: Place, other_engine: OtherEngine) -> None:
    place.push(steady=deployment("steady", place.image, SLEEPS))
    up = place.up(host=other_engine.host)
    up.wait("steady: starts")
    other_engine.stop()
    up.wait("what runs is not followed: Docker Engine does not answer.*; start it, or name another by DOCKER_HOST")
    up.shows(lambda status: status["running"] and any("is not followed" in told for told in status["problems"]))
    other_engine.start()
    up.wait("Docker Engine answers again")
    up.wait("steady: starts")
    up.shows(lambda status: [pod["state"] for pod in status["pods"]][-1] in ("running", "ready"))
    assert up.said.count("does not answer") == 1
    place.close()  # While there is an engine.
