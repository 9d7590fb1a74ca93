"""The demo of the README: from nothing to a rollback, and nothing is left of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.images.build import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient

pytestmark = [pytest.mark.xdist_group("loops"), pytest.mark.docker, pytest.mark.registry, pytest.mark.timeout(2400)]


@pytest.fixture
def demo(tmp_path: Path, build_settings: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLOPS_", "GITHUB_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        cwd=tmp_path,
        env={**clean, **build_settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def left(engine: DockerClient, folder: Path) -> list[str]:
    """Return what is left of a demo."""
    found = [c.name for c in engine.containers.list(all=True, filters={"label": "io.flops.up"})]
    found += [tag for image in engine.images.list() for tag in image.tags if "/demo/" in tag]
    found += [volume.name for volume in engine.volumes.list(filters={"label": "io.flops.up"})]
    sandboxes = {"filters": {"label": "io.flops.sandbox"}}
    things = [(c.name, c.labels) for c in engine.containers.list(all=True, **sandboxes)]
    things += [(v.name, v.attrs["Labels"]) for v in engine.volumes.list(**sandboxes)]
    found += [name for name, labels in things if str(folder) in labels.get("io.flops.sandbox.owner", "")]
    found += [str(path) for path in folder.glob("flops-demo*")]
    ours = (cwd.parent.name for cwd in Path("/proc").glob("[0-9]*/cwd") if _is_in(cwd, folder))
    return [*found, *(f"process {number}" for number in ours)]


def _is_in(cwd: Path, folder: Path) -> bool:
    try:
        return cwd.readlink().is_relative_to(folder)
    except OSError:  # It is gone, or is no process of ours.
        return False


@pytest.fixture
def before(docker_client: DockerClient, tmp_path: Path) -> list[str]:
    """What somebody else has there."""
    return left(docker_client, tmp_path)


def test_it_shows_the_loop_and_leaves_nothing(
    before: list[str], demo: subprocess.Popen[str], docker_client: DockerClient, tmp_path: Path
) -> None:
    said = demo.communicate()[0]
    assert demo.returncode == 0, said[-5000:]
    for words in (
        "registered flops-dev-digits version 1: 3 rounds, 3 hospitals",
        "% sure), says version",
        "this commit breaks the server",
        ": failed with exit code 1: ",
        "a mistake that the trial does not find",
        "automatic releases are held until 'flops resume dev'",
        "That was it. All of it is removed now.",
    ):
        assert words in said, said[-5000:]
    # A round that fails registers nothing, and what is taken back is gone on from.
    registered = [int(number) for number in re.findall(r"registered flops-dev-digits version (\d+): .* 3 hosp", said)]
    assert len(registered) >= 3
    assert registered == list(range(1, len(registered) + 1))
    assert said.rindex("registered flops-dev-digits") > said.index("a mistake that the trial does not find")
    # Hospitals stay, whatever becomes of the server.
    for number in (1, 2, 3):
        assert len(re.findall(rf"demo-{number}: starts", said)) == 1, said[-5000:]
    assert not set(left(docker_client, tmp_path)) - set(before)


@pytest.mark.parametrize(
    "words",
    [
        "$ flops release",
        *(pytest.param(words, marks=pytest.mark.thorough) for words in ("$ flops up", "│ ", "a round with the new")),
    ],
)
def test_ctrl_c_leaves_nothing_either(
    words: str, before: list[str], demo: subprocess.Popen[str], docker_client: DockerClient, tmp_path: Path
) -> None:
    assert demo.stdout is not None
    for line in demo.stdout:
        if words in line:
            break
    demo.send_signal(signal.SIGINT)
    said = demo.stdout.read()
    assert demo.wait() == 130, said
    assert not set(left(docker_client, tmp_path)) - set(before), said
