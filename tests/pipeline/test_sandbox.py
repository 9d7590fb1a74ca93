"""What a killed run leaves on the engine goes with the next one; what somebody works with stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from pipeline.sandbox import sandbox
from tests.images.base import base_or_skip

if TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient

pytestmark = pytest.mark.docker

PROGRAM = """
import time, docker
from pipeline.sandbox import sandbox
with sandbox(docker.from_env()) as box:
    print(box.name, flush=True)
    time.sleep(600)
"""


INTERRUPTED = """
import sys, time, docker
from pipeline.sandbox import sandbox
with sandbox(docker.from_env()) as box:
    box.start("east", sys.argv[1], ["sleep", "600"])
    print(box.name, flush=True)
    time.sleep(600)
"""


def there(engine: DockerClient, name: str) -> tuple[int, int]:
    networks = [found for found in engine.networks.list() if found.name == name]
    return len(networks), len([found for found in engine.volumes.list() if found.name == name])


def test_the_dead_are_removed_and_the_living_stay(
    engine: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    other = {**environment, "XDG_STATE_HOME": str(tmp_path / "other")}  # As one of another machine.
    command = [sys.executable, "-c", PROGRAM]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=e) for e in (environment, other)]
    names = [process.stdout.readline().strip() for process in running]
    try:
        with sandbox(engine) as own:
            assert [there(engine, name) for name in (own.name, *names)] == [(1, 1)] * 3
            for process in running:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            with sandbox(engine):
                assert [there(engine, name) for name in (own.name, *names)] == [(1, 1), (0, 0), (1, 1)]
        assert there(engine, own.name) == (0, 0)
    finally:
        for name in names:
            for found in (*engine.networks.list(names=[name]), *engine.volumes.list(filters={"name": name})):
                found.remove()


def test_an_interruption_removes_containers_too(engine: DockerClient, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, base_or_skip(engine)]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as p:
        assert p.stdout is not None
        name = p.stdout.readline().strip()
        ours = {"filters": {"label": f"io.flops.sandbox.name={name}"}}
        assert len(engine.containers.list(**ours)) == 1
        p.send_signal(signal.SIGINT)
    assert engine.containers.list(all=True, **ours) == []
    assert there(engine, name) == (0, 0)


def test_many_at_once_do_not_disturb_each_other(
    engine: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    failed: list[Exception] = []

    def one() -> None:
        try:
            for _ in range(5):
                with sandbox(engine):
                    pass
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
