"""The prediction API over a real registry."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import uvicorn

from fl.errors import FlopsError
from fl.inference import Predictor
from fl.model import initial_state
from fl.protocol import CHAMPION
from fl.tasks import find_task
from server.registry import ModelVersion, Registry
from server.serving.api import MOST_EXAMPLES, create_api
from server.serving.champion import Champion, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fl.tasks.base import Task

    Serve = Callable[..., httpx.Client]

MODEL = "flops-test"


@pytest.fixture
def registry(here: Path) -> Registry:
    return Registry()


def register(registry: Registry, task: Task, seed: int = 0) -> ModelVersion:
    with registry.run("test", {}) as log:
        made = registry.register(log, MODEL, task, initial_state(task, seed), {"commit": "c" * 40})
    there = registry.aliased(MODEL, CHAMPION)
    registry.move_alias(made, CHAMPION, 0 if there is None else there.version)
    return made


def standing(name: str) -> Champion:
    """A champion that stands without a registry: a task's first weights."""
    task = find_task(name)
    champion = Champion(MODEL, CHAMPION, 3600)
    version = ModelVersion(MODEL, 1, "run", "nowhere", {"commit": "c" * 40})
    champion.served = Served(version, Predictor(task, initial_state(task, 0)))
    champion.problem = ""
    return champion


def loaded() -> Champion:
    champion = Champion(MODEL, CHAMPION, 3600)
    champion.look()
    champion.problem = ""
    return champion


@pytest.fixture
def serve() -> Iterator[Callable[..., httpx.Client]]:
    """Serve a champion for real, on loopback."""
    stack = contextlib.ExitStack()

    def start(champion: Champion, *, follows: bool = False) -> httpx.Client:
        if not follows:  # The thread that follows the champion is another test's.
            champion.start = lambda: None  # type: ignore[method-assign]
        server = uvicorn.Server(uvicorn.Config(create_api(champion), port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        end = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        (socket,) = server.servers[0].sockets
        stack.callback(thread.join, 20)
        stack.callback(setattr, server, "should_exit", True)
        address = f"http://127.0.0.1:{socket.getsockname()[1]}"
        return stack.enter_context(httpx.Client(base_url=address, trust_env=False))

    with stack:
        yield start


def digits(count: int = 1) -> list[Any]:
    task = find_task("digits")
    assert task.load is not None
    return np.asarray(task.load().x[:count]).tolist()


def test_digits_are_told_with_probabilities_and_version(serve: Serve) -> None:
    api = serve(standing("digits"))
    for examples in (digits(1), digits(3)):
        told = api.post("/predict", json={"inputs": examples}).json()
        assert (told["model"], told["version"], len(told["predictions"])) == (MODEL, 1, len(examples))
        for row in told["predictions"]:
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
    assert api.get("/model").json()["tags"]["commit"] == "c" * 40
    assert api.get("/health/ready").json() == {"ready": True, "version": 1, "problem": ""}


def test_rows_of_a_table_are_told(serve: Serve) -> None:
    task = find_task("breast-cancer")
    api = serve(standing("breast-cancer"))
    row = {column.name: 1.0 for column in task.schema.columns}
    told = api.post("/predict", json={"inputs": [row, row]}).json()
    assert len({json.dumps(one) for one in told["predictions"]}) == 1
    name = task.schema.columns[0].name
    for wrong, words in (
        ({**row, "age of the moon": 1}, "row 1, column 'age of the moon': the schema does not know it"),
        ({**row, name: "much"}, f"column '{name}'"),
        ([1, 2], "an object with a value for each column"),
    ):
        answer = api.post("/predict", json={"inputs": [wrong]})
        assert answer.status_code == 422, answer.text
        assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs": [[NaN]]}', 422),
        (b'{"inputs": [["a"]]}', 422),
        (b'{"inputs": []}', 422),
        (b'{"inputs": "x"}', 422),
        (b'{"inputs": [{"a": 1}]}', 422),
        (b'{"inputs": [[1, 2], [3]]}', 422),
        (b'{"inputs": [null]}', 422),
        (b"{", 422),
        (b"", 422),
        (json.dumps({"inputs": [0] * (MOST_EXAMPLES + 1)}).encode(), 422),
    ],
)
def test_what_does_not_fit_is_refused(serve: Serve, body: bytes, status: int) -> None:
    api = serve(standing("digits"))
    answer = api.post("/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_an_image_of_the_wrong_size_is_refused(serve: Serve) -> None:
    answer = serve(standing("digits")).post("/predict", json={"inputs": [[0.5] * 100]})
    assert answer.status_code == 422
    assert "shape" in answer.json()["detail"]


def test_without_a_champion_it_says_what_to_do(registry: Registry, serve: Serve) -> None:
    champion = Champion(MODEL, CHAMPION, 3600)
    with pytest.raises(FlopsError, match="has no champion yet: a job of the global server makes one"):
        champion.look()
    champion.problem = "no champion"
    api = serve(champion)
    assert api.get("/health/live").status_code == 200
    for answer in (api.get("/health/ready"), api.get("/model"), api.post("/predict", json={"inputs": digits()})):
        assert answer.status_code == 503


def test_a_moved_champion_is_followed_and_one_that_does_not_load_is_not(registry: Registry, serve: Serve) -> None:
    task = find_task("digits")
    register(registry, task, 1)
    champion = loaded()
    second = register(registry, task, 2)
    champion.look()
    assert champion.served is not None
    assert champion.served.version.version == 2
    third = register(registry, task, 3)
    (weights,) = (Path(third.source.removeprefix("file://")) / "data").rglob("*.safetensors")
    weights.write_bytes(b"none")
    with pytest.raises(FlopsError):
        champion.look()
    champion.problem = "does not load"
    api = serve(champion)
    assert api.post("/predict", json={"inputs": digits()}).json()["version"] == second.version
    assert api.get("/health/ready").json() == {"ready": True, "version": 2, "problem": "does not load"}


def test_its_thread_finds_the_champion(registry: Registry, serve: Serve) -> None:
    register(registry, find_task("digits"))
    champion = Champion(MODEL, CHAMPION, 0.05)
    api = serve(champion, follows=True)
    end = time.monotonic() + 20
    while api.get("/health/ready").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert api.post("/predict", json={"inputs": digits()}).json()["version"] == 1


def test_clients_of_mlflow_work_unchanged(registry: Registry, serve: Serve) -> None:
    import mlflow
    import pandas as pd

    task = find_task("breast-cancer")
    made = register(registry, task)
    api = serve(loaded())
    names = [column.name for column in task.schema.columns]
    frame = pd.DataFrame([[1.0 + i] * len(names) for i in range(3)], columns=names)
    expected = mlflow.pyfunc.load_model(made.source).predict(frame).to_dict("records")
    for body in (
        {"dataframe_split": json.loads(frame.to_json(orient="split"))},
        {"dataframe_records": frame.to_dict("records")},
        {"instances": frame.to_dict("records")},
        {"inputs": frame.to_dict("list")},
    ):
        told = api.post("/invocations", json=body).json()["predictions"]
        assert [row["label"] for row in told] == [row["label"] for row in expected]
        for ours, theirs in zip(told, expected, strict=True):
            assert set(ours) == set(theirs)
            assert all(ours[k] == pytest.approx(theirs[k], abs=1e-6) for k in ours if k != "label")


def test_arrays_come_as_inputs_or_instances(serve: Serve) -> None:
    api = serve(standing("digits"))
    for form in ("inputs", "instances"):
        assert len(api.post("/invocations", json={form: digits(2)}).json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "one of dataframe_split, dataframe_records, inputs, instances is needed, and there is none"),
        ({"inputs": {}, "instances": []}, "there is inputs and instances"),
        ({"dataframe_split": []}, "an object with columns and data"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "row 1: a list of 1 values is needed"),
        ({"dataframe_split": {"columns": ["a"], "data": 1}}, "a list is needed"),
        ({"dataframe_records": [1]}, "row 1: dataframe_records: an object"),
        ({"dataframe_records": [{"moon": 1}]}, "column 'moon': the schema does not know it"),
        ({"inputs": {"mean radius": [1, 2], "mean texture": [1]}}, "different numbers of values"),
        ({"inputs": [1]}, "an object with a list of values for each column"),
        ({"instances": []}, "0 examples"),
    ],
)
def test_what_is_no_form_of_mlflow_is_refused(serve: Serve, body: dict[str, Any], told: str) -> None:
    answer = serve(standing("breast-cancer")).post("/invocations", json=body)
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["detail"]
