"""What all tests share: a folder of one's own to work in, and the command line as a function."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import pytest

from fl.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


REQUIRE = os.environ.get("FLOPS_TEST_REQUIRE", "") not in ("", "0")
"""Set where everything must be tested: a part that is missing is a failure there, not a reason to skip."""


def _docker_answers() -> bool:
    try:
        import docker

        client = docker.from_env(timeout=10)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except Exception:  # Whatever is wrong, it does not answer.
        return False


PARTS = {
    "browser": lambda: shutil.which("chromium") is not None,
    "docker": _docker_answers,
    "ray": lambda: importlib.util.find_spec("ray") is not None,
    "npm": lambda: shutil.which("npm") is not None,
    "registry": lambda: bool(shutil.which("docker-registry")) and os.geteuid() == 0,
    "ssh": lambda: bool(shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")),
}
"""Markers of tests that need a part of the system, and how to tell that it is there."""

LONG = {"federation": 2, "slow": 1}
"""Markers of tests that take long; groups of a higher number start first, so that no worker ends late."""

MINUTES = {
    "federation": "runs processes for minutes; make test-federation runs it",
    "slow": 'takes long; make test PYTEST_FLAGS="-m slow" runs it',
}
"""Markers of tests that take minutes together, and how to run them; those that are `quick` too run always."""


def pytest_configure() -> None:
    """Undo that a shell lets what it starts in the background ignore Ctrl-C: programs under test would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups.
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the order and the workers of the tests, and skip those that cannot or need not run here."""
    _distribute(items)
    _leave_out(config, items)
    _skip(config, items)


def _distribute(items: list[pytest.Item]) -> None:
    """Keep the tests of a module in one worker, and start with those that take minutes.

    Modules that share something expensive or exclusive name a group of their own by ``xdist_group``. Tests that wait
    for the engine take turns with those that compute.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(str(item.get_closest_marker("xdist_group").args[0]), []).append(item)  # type: ignore[union-attr]
    with_engine = [group for group in groups.values() if any(item.get_closest_marker("docker") for item in group)]
    others = [group for group in groups.values() if group not in with_engine]
    others.sort(key=lambda group: -max(LONG.get(mark.name, 0) for item in group for mark in item.iter_markers()))
    turns = zip_longest(with_engine, others, fillvalue=())
    items[:] = [item for pair in turns for group in pair for item in group]


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what repeats at length what other tests prove, unless it is asked for."""
    if "thorough" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _skip(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose part is missing, with the reason, unless everything is required.

    What takes minutes runs where it is asked for by its marker, or everything is required.
    """
    if REQUIRE:
        return
    for item in items:
        quick = item.get_closest_marker("quick") is not None
        for marker, reason in MINUTES.items():
            if item.get_closest_marker(marker) and not quick and marker not in config.option.markexpr:
                item.add_marker(pytest.mark.skip(reason=reason))
    for part, present in PARTS.items():
        marked = [item for item in items if item.get_closest_marker(part)]
        if part == "docker" and "docker" not in config.option.markexpr:
            reason = "builds or runs containers; make test-images runs it"
        elif not marked or present():
            continue
        else:
            reason = f"{part} is missing; FLOPS_TEST_REQUIRE=1 insists"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object that the command printed, alone."""
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def line(self) -> str:
        """The error, which is one line behind the command's name."""
        last = self.err.splitlines()[-1]
        assert last.startswith("flops: ")
        assert "Traceback" not in self.err
        return last.removeprefix("flops: ")


@pytest.fixture
def threads_of_small_models() -> Iterator[None]:
    """Let PyTorch work with one thread, as every command that trains a small model does.

    Two threads for each of several workers would wait for each other most of the time.
    """
    from fl.tasks import find_task
    from fl.training.threads import suitable_threads

    with suitable_threads(find_task("digits")):
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; no registry is configured."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS", "FLOPS_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def flops(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command `flops`, run in this process in an empty folder."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
