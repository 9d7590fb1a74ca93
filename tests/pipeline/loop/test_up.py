"""`flops up` and `flops down` on a real engine, with pods that are small programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.loop.place import FAILS, SLEEPS, cron_job, deployment, find
from tests.pipeline.registry_server import PASSWORD, USER

if TYPE_CHECKING:
    from docker import DockerClient

    from tests.pipeline.loop.place import Place

pytestmark = [pytest.mark.xdist_group("loops"), pytest.mark.docker, pytest.mark.registry, pytest.mark.timeout(400)]


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
        assert container.exec_run(["ls", "-A", "/etc/may-be"]) == (0, b"")
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
