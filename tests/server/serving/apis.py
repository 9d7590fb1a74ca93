"""What the prediction API's tests share: models, champions, and servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from fl.inference import Predictor
from fl.model import initial_state
from fl.protocol import CHAMPION
from fl.tasks import find_task
from server.registry import ModelVersion, Registry
from server.serving.api import Options, create_api
from server.serving.champion import Champion
from server.serving.limits import Limits
from server.serving.listening import make_server, open_port
from server.serving.served import warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fl.tasks.base import Task

MODEL = "flops-test"


def register(registry: Registry, task: Task, seed: int = 0, *, moves: bool = True) -> ModelVersion:
    """Register a task's first weights, and let the alias name them."""
    with registry.run("test", {}) as log:
        made = registry.register(log, MODEL, task, initial_state(task, seed), {"commit": "c" * 40})
    if moves:
        move(registry, made)
    return made


def move(registry: Registry, version: ModelVersion) -> None:
    there = registry.aliased(MODEL, CHAMPION)
    registry.move_alias(version, CHAMPION, 0 if there is None else there.version)


def standing(task: Task | str) -> Champion:
    """A champion that stands without a registry: a task's first weights."""
    if isinstance(task, str):
        task = find_task(task)
    champion = Champion(MODEL, CHAMPION, 3600)
    predictor = Predictor(task, initial_state(task, 0))
    version = ModelVersion(MODEL, 1, "run", "nowhere", {"commit": "c" * 40})
    champion.served = warm(version, predictor)
    champion.problem = ""
    champion.start = lambda: None  # type: ignore[method-assign]
    return champion


def loaded() -> Champion:
    """The registry's champion, loaded once."""
    champion = Champion(MODEL, CHAMPION, 3600)
    champion.look()
    champion.problem = ""
    champion.start = lambda: None  # type: ignore[method-assign]
    return champion


@contextlib.contextmanager
def served(champion: Champion, options: Options | None = None) -> Iterator[httpx.Client]:
    """Serve a champion as the command does."""
    options = options or Options(limits=Limits(seconds=5))
    with open_port("127.0.0.1", 0) as opened:
        server = make_server(create_api(champion, options), options.limits.seconds)
        thread = threading.Thread(target=server.run, args=([opened],), daemon=True)
        thread.start()
        end = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        address = f"http://127.0.0.1:{opened.getsockname()[1]}"
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            yield client
        server.should_exit = True
        thread.join(20)


def connect(api: httpx.Client) -> socket.socket:
    return socket.create_connection((api.base_url.host, api.base_url.port), timeout=10)


def digits(count: int = 1) -> list[Any]:
    task = find_task("digits")
    assert task.load is not None
    return np.asarray(task.load().x[:count]).tolist()
