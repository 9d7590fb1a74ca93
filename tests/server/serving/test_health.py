"""`flops server health` asks a prediction API whether it lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fl.protocol import CHAMPION
from server.commands import health
from server.serving.champion import Champion
from tests.server.serving.apis import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.conftest import Ended


@pytest.fixture
def port(serve: Callable[..., httpx.Client]) -> int:
    """A prediction API without a model."""
    champion = Champion(MODEL, CHAMPION, 3600)
    champion.start = lambda: None  # type: ignore[method-assign]
    found = serve(champion).base_url.port
    assert found is not None
    return found


@pytest.mark.parametrize("words", [(), ("--plain-text",)])
def test_it_lives_without_a_model(flops: Callable[..., Ended], port: int, words: tuple[str, ...]) -> None:
    ended = flops("server", "health", *words, "--port", port)
    assert (ended.code, ended.out) == (0, f"port {port} answers 200\n")


@pytest.mark.parametrize("same", [True, False])
def test_it_is_found_where_no_job_is(
    flops: Callable[..., Ended], port: int, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    monkeypatch.setattr(health, "_SERVING", port)
    monkeypatch.setenv("FLOPS_PORT", str(port) if same else "1")
    assert flops("server", "health", "--json").json == {"healthy": True, "port": port}


def test_what_is_not_there_is_told(flops: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_SERVING", 1)
    monkeypatch.setenv("FLOPS_PORT", "2")
    ended = flops("server", "health")
    assert (ended.code, "no job answers on port 2, and no prediction API on 1: " in ended.line) == (1, True)
    assert flops("server", "health", "--port", "0").code == 2
