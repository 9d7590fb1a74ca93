"""What all tests share: a folder of one's own to work in, and the command line as a function."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from fl.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


REQUIRE = os.environ.get("FLOPS_TEST_REQUIRE", "") not in ("", "0")
"""Set where everything must be tested: a part that is missing is a failure there, not a reason to skip."""

PARTS = {"ray": lambda: importlib.util.find_spec("ray") is not None}
"""Markers of tests that need a part of the system, and how to tell that it is there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose part is missing, with the reason, unless everything is required."""
    if REQUIRE:
        return
    missing = [part for part, present in PARTS.items() if not present()]
    for item in items:
        for part in missing:
            if item.get_closest_marker(part):
                item.add_marker(pytest.mark.skip(reason=f"{part} is not installed; FLOPS_TEST_REQUIRE=1 insists"))


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
