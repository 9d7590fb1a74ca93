"""Servers that tests only ask, and a way to start one of one's own."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import pytest

from server.registry import Registry
from server.serving.api import Options
from server.serving.limits import Limits
from tests.server.serving.apis import served, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx


@pytest.fixture(scope="session")
def digits_api() -> Iterator[httpx.Client]:
    """A server of the digits task, whose examples are arrays."""
    with served(standing("digits")) as client:
        yield client


@pytest.fixture(scope="session")
def table_api() -> Iterator[httpx.Client]:
    """A server of the breast cancer task, whose examples are rows of a table."""
    with served(standing("breast-cancer")) as client:
        yield client


@pytest.fixture
def serve() -> Iterator[Callable[..., httpx.Client]]:
    """Serve a champion for one test."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(served(*arguments))


@pytest.fixture
def impatient(serve: Callable[..., httpx.Client]) -> httpx.Client:
    return serve(standing("digits"), Options(limits=Limits(body=2000, examples=2, seconds=0.4)))


@pytest.fixture
def registry(here: Path) -> Registry:
    return Registry()


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the command does to the process that it takes for its own."""
    for name in ("flops.server", "uvicorn"):
        logger = logging.getLogger(name)
        for attribute in ("handlers", "level", "propagate"):
            value = getattr(logger, attribute)
            monkeypatch.setattr(logger, attribute, list(value) if attribute == "handlers" else value)
