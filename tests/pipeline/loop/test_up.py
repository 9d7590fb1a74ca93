"""`flops up` and `flops down` on a real engine, with pods that are small programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.images.base import MissingPartError, make_base
from tests.pipeline.loop.process import Up
from tests.pipeline.registry_server import PASSWORD, USER
from tests.pipeline.repositories import add_commit, git, make_bare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

    from tests.pipeline.registry_server import RegistryServer

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.timeout(400)]

SLEEPS = "import signal, time; signal.signal(15, lambda *_: exit(0)); print('here', flush=True); time.sleep(3600)"
FAILS = "import sys; print('no luck'); sys.exit(3)"


@pytest.fixture(scope="module")
def image(engine: DockerClient, registry: RegistryServer) -> str:
    """A small image with Python in the registry, by its digest."""
    try:
        base = make_base(engine)
    except MissingPartError as missing:
        if os.environ.get("FLOPS_TEST_REQUIRE", "") not in ("", "0"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    repository, tag = f"{registry.host}/flops/server", "2026-01-31-14-05-09"
    engine.images.get(base).tag(repository, tag)
    account = {"username": USER, "password": PASSWORD}
    for line in engine.api.push(repository, tag, stream=True, decode=True, auth_config=account):
        assert "error" not in line, line
        if digest := line.get("aux", {}).get("Digest"):
            return f"{repository}:{tag}@{digest}"
    raise AssertionError("no digest")


def deployment(name: str, image: str, program: str, **more: Any) -> str:
    """A Deployment that runs a program of Python."""
    container = {
        "name": name,
        "image": image,
        "command": ["python3", "-c"],
        "args": [program],
        "volumeMounts": [
            {"name": "federation", "mountPath": "/etc/federation", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108
        ],
        "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
    pod = {
        "terminationGracePeriodSeconds": 3,
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001},
        "containers": [container],
        "volumes": [
            {"name": "federation", "configMap": {"name": "federation", "defaultMode": 0o440}},
            {"name": "scratch", "emptyDir": {}},
        ],
    }
    labels = {"app": name}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        }
    )


def cron_job(image: str, program: str, **job: Any) -> str:
    """A CronJob that is due every minute."""
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 2,
        "containers": [
            {"name": "global-server", "image": image, "command": ["python3", "-c"], "args": [program]},
        ],
    }
    return json.dumps(
        {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "global-server"},
            "spec": {
                "schedule": "* * * * *",
                "concurrencyPolicy": "Forbid",
                "jobTemplate": {"spec": {"backoffLimit": 0, **job, "template": {"spec": pod}}},
            },
        }
    )


class Place:
    """A config repository and its loop."""

    def __init__(self, folder: Path, image: str) -> None:
        self.folder, self.image = folder, image
        self.config = make_bare(folder / "config.git", {})
        self.state = folder / "loop"
        self.never = cron_job(image, "pass").replace("* * * * *", "0 0 29 2 *")
        self.secret("server-tls", **{"tls.crt": "C", "tls.key": "K", "ca.crt": "A"})
        self._up: Up | None = None

    def secret(self, secret: str, **files: str) -> None:
        place = self.state / "secrets" / secret
        place.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (place / name).write_text(text)

    def push(self, **objects: str) -> str:
        """Push an environment of some objects; returns the commit."""
        objects = {"global_server": self.never, **objects}
        files = {f"dev/{name}.yaml": text for name, text in objects.items()}
        files["dev/federation.toml"] = 'task = "digits"\n'
        files["dev/kustomization.yaml"] = json.dumps(
            {
                "resources": [f"{name}.yaml" for name in objects],
                "configMapGenerator": [{"name": "federation", "files": ["federation.toml"]}],
            }
        )
        return add_commit(self.config, files, "change")

    def up(self, *words: str, host: str = "") -> Up:
        environment = {"HARBOR_USERNAME": USER, "HARBOR_PASSWORD": PASSWORD}
        environment |= {"DOCKER_HOST": host} if host else {}
        words = (str(self.config), "--every", "0.5", "--tracking", "http://none.invalid", *words)
        self._up = Up(self.folder, self.state, *words, environment=environment)
        return self._up

    def close(self) -> None:
        if self._up is not None:
            self._up.stop()
            self._up.down("--purge")
            self._up = None


@pytest.fixture
def place(tmp_path: Path, image: str) -> Iterator[Place]:
    made = Place(tmp_path, image)
    yield made
    made.close()


def find(engine: DockerClient, owner: str) -> Container:
    (found,) = engine.containers.list(filters={"label": [f"io.flops.up.owner={owner}"]})
    return found


def test_it_keeps_running_what_shall_run_and_leaves_nothing(place: Place, engine: DockerClient) -> None:
    ours = {"label": ["io.flops.up"]}
    before = {container.id for container in engine.containers.list(all=True, filters=ours)}
    stranger = engine.containers.create(place.image.partition("@")[0], ["true"], labels={"io.flops.up": "another"})
    try:
        place.push(steady=deployment("steady", place.image, SLEEPS), hasty=deployment("hasty", place.image, FAILS))
        up = place.up()
        up.wait("steady: starts with 2026-01-31-14-05-09")
        up.wait("hasty: starts with .* again, for it ended with exit code 3: no luck")
        up.shows(lambda status: ("steady", "ready") in [(pod["owner"], pod["state"]) for pod in status["pods"]])
        up.wait("hasty: starts with .* again, for it ended with exit code 3: .* the next start waits 20 s")
        up.shows(lambda status: any("ended (3), starts again in" in pod["state"] for pod in status["pods"]))

        container = find(engine, "steady")
        # Without its complaint, which the engine may hand on before what was printed earlier.
        words = ["sh", "-c", "cat /etc/federation/federation.toml; id -u; touch /etc/x"]
        code, printed = container.exec_run(words, stderr=False)
        assert (code, printed.decode().splitlines()[:2]) == (1, ['task = "digits"', "10001"])
        _, listed = container.exec_run(["stat", "-c", "%a %g", "/etc/federation/federation.toml"])
        assert listed.decode().split() == ["440", "10001"]
        code, _ = container.exec_run(["sh", "-c", "echo x > /etc/federation/federation.toml"], user="0")
        assert code != 0

        second = subprocess.run(
            [sys.executable, "-m", "fl.cli", "up", str(place.config), "--state", str(place.state)],
            capture_output=True,
            text=True,
            cwd=place.folder,
        )
        assert second.returncode == 1
        assert f"another 'flops up' (process {up.process.pid}) works with" in second.stderr

        up.kill()
        assert engine.containers.get(container.id).status == "running"
        assert up.status()["running"] is False
        up.start()
        up.wait("goes on with what runs already: steady")
        up.wait("config [0-9a-f]{8}: ")
        assert find(engine, "steady").id == container.id

        assert up.stop() == 130
        left = {container.id for container in engine.containers.list(all=True, filters=ours)}
        assert left - before == {stranger.id}
        mine = {"label": [f"io.flops.up={(place.state / 'loop').read_text().strip()}"]}
        assert not engine.networks.list(filters=mine)
    finally:
        stranger.remove()


def test_what_a_killed_one_left_is_removed_from_outside(place: Place, engine: DockerClient) -> None:
    place.push(steady=deployment("steady", place.image, SLEEPS))
    up = place.up()
    up.wait("steady: starts")
    up.kill()
    assert "1 containers removed" in up.down()
    assert not engine.containers.list(all=True, filters={"label": ["io.flops.up.owner=steady"]})
    assert "nothing was left" in up.down("--purge")
    assert [path.name for path in place.state.iterdir()] == ["secrets"]


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
def test_jobs_start_when_they_are_due_and_end_in_time(place: Place, engine: DockerClient) -> None:
    program = "import json; print(json.dumps({'outcome': 'registered', 'model': 'm', 'version': 7, 'rounds': 2}))"
    place.push(global_server=cron_job(place.image, program))
    up = place.up()
    up.wait(r"round \d\d:\d\d:00: starts with server 2026-01-31-14-05-09")
    up.wait(r"round \d\d:\d\d:00: registered m version 7: 2 rounds")
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
    place.push(global_server=cron_job(place.image, stubborn, activeDeadlineSeconds=3))
    up.wait("starts with server")
    up.wait("runs longer than activeDeadlineSeconds, and is ended")
    up.wait("failed with exit code 137: it ran longer than activeDeadlineSeconds")
    assert [row["outcome"] for row in up.status()["rounds"]] == ["registered", "failed"]


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


def test_one_that_hangs_is_killed_and_started_anew(place: Place, engine: DockerClient) -> None:
    hangs = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
    probe = {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1, "failureThreshold": 2}
    place.push(steady=deployment("steady", place.image, hangs, livenessProbe=probe))
    up = place.up()
    up.wait("steady: starts")
    up.wait("steady: / does not answer: .*; it is started anew")
    up.wait("steady: starts with .* again, for it ended with exit code 137")


def test_what_no_manifest_has_any_more_ends_and_haste_leaves_nothing(place: Place, engine: DockerClient) -> None:
    hangs = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
    place.push(steady=deployment("steady", place.image, SLEEPS), other=deployment("other", place.image, hangs))
    up = place.up()
    up.wait("other: starts")
    up.wait("steady: starts")
    place.push(other=deployment("other", place.image, hangs))
    up.wait("steady: is ended, for nothing asks for it any more")
    ours = {"label": [f"io.flops.up={(place.state / 'loop').read_text().strip()}"]}
    started = time.monotonic()
    for _ in range(3):  # Somebody who does not wait.
        up.process.send_signal(signal.SIGINT)
        time.sleep(0.7)
    assert up.process.wait(30) == 130
    assert time.monotonic() - started < 15
    assert not engine.containers.list(all=True, filters=ours)
    assert not engine.networks.list(filters=ours)


def test_one_whose_reader_has_gone_leaves_nothing(place: Place, engine: DockerClient) -> None:
    place.push(steady=deployment("steady", place.image, SLEEPS))
    words = [sys.executable, "-m", "fl.cli", "up", str(place.config), "--state", str(place.state)]
    environment = {**os.environ, "HARBOR_USERNAME": USER, "HARBOR_PASSWORD": PASSWORD}
    with subprocess.Popen(
        [*words, "--tracking", "http://none.invalid"],
        stdout=subprocess.PIPE,
        cwd=place.folder,
        env=environment,
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "steady: starts" not in process.stdout.readline():
            assert process.poll() is None
        process.stdout.close()
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not engine.containers.list(all=True, filters={"label": ["io.flops.up.owner=steady"]})
