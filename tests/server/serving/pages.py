"""What tests of the page share: a registry with all kinds of versions, and a champion served from it."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn

from fl.inference import Predictor
from fl.model import initial_state
from fl.protocol import CHAMPION
from fl.tasks import find_task
from server.lineage import FILE, Lineage
from server.registry import Registry
from server.serving.api import create_api
from server.serving.champion import Champion, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from server.registry import ModelVersion

MODEL = "flops-test"

NASTY = "<script>alert(1)</script>"
"""A hospital's name that must stay a name."""

QUOTES = """a"b'c onload=alert(1) <b>"""


def register(registry: Registry, number: int, parent: int, **tags: str) -> ModelVersion:
    """Register a version of the digits' first weights that says what a job's would."""
    task = find_task("digits")
    state = initial_state(task, 0)
    metrics = {"loss": round(1 / number, 4), "accuracy": round(1 - 1 / (number + 3), 4)}
    told = Lineage(
        MODEL,
        task.name,
        state.signature,
        state.digest(),
        parent,
        commit=f"{number}" * 40,
        image=f"sha256:{number:064d}",
        release=f"2026-01-0{number}-00-00-00",
        config_commit="c" * 40,
        rounds=2,
        hospitals={
            "st-mary": {"examples": 488, "rounds": 2, "release": "0.1.0", "metrics": {"accuracy": 0.98, "loss": 0.1}},
            NASTY: {"examples": 3, "rounds": 1},
        },
        left_out=(
            {"hospital": "north", "step": "round 2", "reason": "did not answer within 30 s", "refused": False},
        ),
        metrics=metrics,
    )
    with registry.run("test", {}) as log:
        return registry.register(log, MODEL, task, state, {**told.tags(), **tags}, files={FILE: told.as_json()})


def fill(registry: Registry) -> ModelVersion:
    """Register five versions: 2 was taken back, 4 is the champion, 5 did not pass its gate; returns the champion."""
    register(registry, 1, 0, gate="passed")
    registry.abandon(register(registry, 2, 1), "wrong labels at north")
    register(registry, 3, 1, commit=QUOTES)
    champion = register(registry, 4, 3, release=QUOTES)
    registry.move_alias(champion, CHAMPION, 0)
    register(registry, 5, 4, gate=f"gate: accuracy 0.5 is below 0.9 {NASTY}")
    return champion


@contextlib.contextmanager
def filled(folder: Path, tables: Path) -> Iterator[ModelVersion]:
    """Be in a folder with a registry of five versions, made from a copy of empty tables; gives the champion."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        patch.setattr("server.registry._make_database", lambda database: shutil.copyfile(tables, database))
        yield fill(Registry())


def champion_of(name: str, version: ModelVersion) -> Champion:
    """A champion that is loaded, whose own thread does not run."""
    task = find_task(name)
    champion = Champion(MODEL, CHAMPION, 3600)
    champion.served = Served(version, Predictor(task, initial_state(task, 0)))
    champion.problem = ""
    champion.start = lambda: None  # type: ignore[method-assign]
    return champion


@contextlib.contextmanager
def served(champion: Any) -> Iterator[str]:
    """Serve on loopback; gives the address."""
    server = uvicorn.Server(uvicorn.Config(create_api(champion), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    (socket,) = server.servers[0].sockets
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextlib.contextmanager
def asked(champion: Any) -> Iterator[httpx.Client]:
    """Serve on loopback; gives a client that asks there."""
    with served(champion) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        yield client


def digit(index: int) -> list[list[float]]:
    """Return an image of the digits' data set."""
    task = find_task("digits")
    assert task.load is not None
    image: list[list[float]] = json.loads(json.dumps(task.load().x[index, 0].tolist()))
    return image
