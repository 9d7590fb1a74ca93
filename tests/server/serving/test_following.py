"""The served model follows the registry's champion, and stays where a newer one cannot be had."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import mlflow
import numpy as np
import pytest

from fl.errors import FlopsError
from fl.inference import Predictor
from fl.model import initial_state
from fl.protocol import CHAMPION
from fl.tasks import find_task
from server.lineage import FILE, Lineage
from server.registry import ModelVersion, Registry
from server.serving.ahead import Ahead
from server.serving.champion import Champion
from tests.server.serving.apis import MODEL, digits, loaded, move, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Ended

    Serve = Callable[..., httpx.Client]

BODY = {"inputs": digits(2)}
DIGITS = find_task("digits")


def until(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def metric(api: httpx.Client, name: str) -> float:
    (line,) = [line for line in api.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_without_a_champion_it_says_what_to_do(registry: Registry, serve: Serve) -> None:
    champion = Champion(MODEL, CHAMPION, 0.05)
    with pytest.raises(FlopsError, match="has no champion yet: a job of the global server makes one"):
        champion.look()
    api = serve(champion)
    until(lambda: "no champion yet" in api.get("/health/ready").json()["problem"])
    assert api.get("/health/live").status_code == 200
    asked = [api.get("/model"), api.post("/predict", json=BODY), api.post("/invocations", json=BODY)]
    for answer in asked:
        assert answer.status_code == 503
        assert "a job of the global server makes one" in answer.json()["error"]
    assert {api.get(path).status_code for path in ("/health/ready", "/ping")} == {503}
    register(registry, DIGITS)
    until(lambda: api.get("/health/ready").status_code == 200)
    assert api.post("/predict", json=BODY).json()["version"] == 1


def test_a_folder_without_a_registry_is_left_as_it_is(here: Path) -> None:
    with pytest.raises(FlopsError, match="there is no model registry at"):
        Champion(MODEL, CHAMPION, 0.05).look()
    assert not list(here.iterdir())


def test_a_champion_that_does_not_load_leaves_the_one_before(registry: Registry, serve: Serve) -> None:
    register(registry, DIGITS, 1)
    champion = Champion(MODEL, CHAMPION, 0.05)
    api = serve(champion)
    until(lambda: api.get("/health/ready").status_code == 200)
    broken = register(registry, DIGITS, 2, moves=False)
    (weights,) = (Path(broken.source.removeprefix("file://")) / "data").rglob("*.safetensors")
    weights.write_bytes(b"none")
    move(registry, broken)
    until(lambda: metric(api, "flops_newer_champion_failed") == 1)
    until(lambda: "version 2 is the champion and cannot be loaded" in api.get("/health/ready").json()["problem"])
    assert api.get("/health/ready").status_code == 200
    assert api.post("/predict", json=BODY).json()["version"] == 1
    assert metric(api, "flops_registry_answers") == 1
    failures = metric(api, "flops_model_load_failures_total")
    time.sleep(0.5)
    assert (
        1 <= failures <= metric(api, "flops_model_load_failures_total") < failures + 6
    )  # It is asked for less often.
    move(registry, register(registry, DIGITS, 3, moves=False))
    until(lambda: api.get("/health/ready").json() == {"ready": True, "version": 3, "problem": ""})
    assert metric(api, "flops_newer_champion_failed") == 0


class Payload:
    """What writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Pickled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        self.payload = Payload(path)

    def predict(self, context: Any, model_input: list[str]) -> list[str]:
        return model_input


def as_champion(registry: Registry, folder: Path) -> None:
    """Register a folder as a version, and let the alias name it."""
    client = registry._client
    with registry.run("other", {}) as log:
        client.log_artifacts(log.run_id, str(folder), "model")
        made = client.create_model_version(MODEL, f"{log.artifact_uri}/model", log.run_id)
    move(registry, ModelVersion(MODEL, int(made.version), log.run_id, str(made.source)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_nothing_that_is_pickled_is_loaded(registry: Registry, serve: Serve, here: Path) -> None:
    first = register(registry, DIGITS)
    champion = loaded()
    touched = here / "touched"
    model = here / "model"
    mlflow.pyfunc.save_model(model, python_model=Pickled(touched), pip_requirements=[])
    assert any(b"touch" in file.read_bytes() for file in model.rglob("*.pkl"))
    as_champion(registry, model)
    with pytest.raises(FlopsError, match="version 2 is the champion and cannot be loaded"):
        champion.look()
    # The folder of a model of ours, with a pickle in each file's place.
    ours = Path(first.source.removeprefix("file://"))
    for name in ("weights.safetensors", "model.json"):
        forged = here / f"forged-{name}"
        subprocess.run(["cp", "-r", ours, forged], check=True)
        (place,) = forged.rglob(name)
        place.write_bytes(pickle.dumps(Payload(touched)))
        as_champion(registry, forged)
        with pytest.raises(FlopsError, match="cannot be loaded"):
            champion.look()
    # Weights of another shape than those that were signed.
    forged = here / "forged-shape"
    subprocess.run(["cp", "-r", ours, forged], check=True)
    from safetensors.numpy import load_file, save_file

    (place,) = forged.rglob("weights.safetensors")
    save_file({name: array.reshape(-1) for name, array in load_file(place).items()}, place)
    as_champion(registry, forged)
    with pytest.raises(FlopsError, match="do not have the signature"):
        champion.look()
    assert not touched.exists()
    assert champion.failures == 4
    assert serve(champion).post("/predict", json=BODY).json()["version"] == 1
    pickle.loads(pickle.dumps(Payload(touched)))  # noqa: S301 - the payload works
    assert touched.exists()


def test_an_answer_is_of_one_version_whatever_happens_to_the_alias(registry: Registry, serve: Serve) -> None:
    versions = [register(registry, DIGITS, seed) for seed in (1, 2)]
    champion = Champion(MODEL, CHAMPION, 0.05)
    api = serve(champion)
    until(lambda: api.get("/health/ready").status_code == 200)
    predictor = {v.version: Predictor(DIGITS, initial_state(DIGITS, v.version)) for v in versions}
    x = np.float32(BODY["inputs"])
    expected = {number: one.probabilities(x) for number, one in predictor.items()}
    assert np.abs(expected[1] - expected[2]).max() > 0.01
    over = threading.Event()
    seen: list[dict[str, Any]] = []
    failed: list[str] = []

    def hammer() -> None:
        with httpx.Client(base_url=api.base_url, trust_env=False) as client:
            while not over.is_set():
                try:
                    answer = client.post("/predict", json=BODY)
                    if answer.status_code == 200:
                        seen.append(answer.json())
                    else:
                        failed.append(answer.text)
                except httpx.HTTPError as error:
                    failed.append(repr(error))

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        wanted = versions[turn % 2]
        move(registry, wanted)
        until(lambda number=wanted.version: api.get("/health/ready").json()["version"] == number)  # type: ignore[misc]
    over.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert {told["version"] for told in seen} == {1, 2}
    for told in seen:
        found = [list(row["probabilities"].values()) for row in told["predictions"]]
        assert np.abs(np.array(found) - expected[told["version"]]).max() < 1e-5


def _tracking(folder: Path, port: int) -> subprocess.Popen[bytes]:
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination"]
    words += [str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_tracking_server_that_is_gone_keeps_nobody_from_answers(
    here: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracking = _tracking(here, port)

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/health", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        until(answers, 60)
        registry = Registry()
        register(registry, DIGITS, 1)
        api = serve(Champion(MODEL, CHAMPION, 0.2))
        until(lambda: api.get("/health/ready").status_code == 200)
        os.killpg(tracking.pid, signal.SIGKILL)
        tracking.wait()
        until(lambda: metric(api, "flops_registry_answers") == 0, 60)
        told = api.get("/health/ready").json()
        assert told["ready"]
        assert "registry" in told["problem"]
        assert api.post("/predict", json=BODY).json()["version"] == 1
        tracking = _tracking(here, port)
        until(lambda: metric(api, "flops_registry_answers") == 1, 60)
        register(registry, DIGITS, 2)
        until(lambda: api.get("/health/ready").json() == {"ready": True, "version": 2, "problem": ""}, 60)
    finally:
        os.killpg(tracking.pid, signal.SIGKILL)
        tracking.wait()


@pytest.mark.slow
def test_the_first_version_is_fetched_aside(registry: Registry, serve: Serve, here: Path) -> None:
    register(registry, DIGITS, 1)
    ahead = Ahead(MODEL, CHAMPION)
    with ahead:
        found = ahead.take()
        assert found is not None
        version, task, state, lineage = found
        assert lineage["commit"] == "c" * 40
        assert (version, task.name) == (registry.aliased(MODEL, CHAMPION), "digits")
        assert state.signature == initial_state(DIGITS, 1).signature
    champion = Champion(MODEL, CHAMPION, 0.05, None, Ahead(MODEL, CHAMPION))
    api = serve(champion)
    until(lambda: api.get("/health/ready").json() == {"ready": True, "version": 1, "problem": ""})
    assert api.get("/model").json()["lineage"]["commit"] == "c" * 40
    move(registry, register(registry, DIGITS, 2, moves=False))
    until(lambda: api.get("/health/ready").json()["version"] == 2)
    assert champion.loads == 2
    assert api.get("/model").json()["lineage"]["model"] == MODEL
    with Ahead("none", CHAMPION) as nothing:
        assert nothing.take() is None


def test_a_damaged_lineage_keeps_no_model_from_being_served(registry: Registry, serve: Serve) -> None:
    whole = asdict(Lineage(MODEL, "digits", "s", "d"))
    for number, damaged in enumerate(
        (b"\xff\xfe", b"[1]", json.dumps(whole | {"rounds": 1 << 80}).encode()), start=1
    ):
        made = register(registry, DIGITS, number, moves=False)
        (Path(made.source.removeprefix("file://")) / FILE).write_bytes(damaged)
    champion = Champion(MODEL, CHAMPION, 0.05)
    api = serve(champion)
    for number in range(1, 4):
        move(registry, registry.find(MODEL, number))
        until(lambda: api.get("/health/ready").json() == {"ready": True, "version": number, "problem": ""})  # noqa: B023
        assert api.get("/model").json()["lineage"] is None
    (Path(registry.find(MODEL, 3).source.removeprefix("file://")) / FILE).write_text(json.dumps(whole))
    champion._asked = 0.0  # It is a minute later.
    until(lambda: (api.get("/model").json()["lineage"] or {}).get("task") == "digits")
    assert champion.loads == 3


def test_the_command_serves_the_only_model_there_is(registry: Registry, here: Path) -> None:
    register(registry, DIGITS)
    words = [sys.executable, "-m", "fl.cli", "server", "serve", "--port", "0", "--host", "127.0.0.1", "--json"]
    serving = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert serving.stderr is not None
    try:
        address = serving.stderr.readline().split()[1].rstrip("/")
        with httpx.Client(base_url=address, trust_env=False) as api:
            until(lambda: api.get("/health/ready").status_code == 200, 60)
            told = api.post("/predict", json=BODY, headers={"x-request-id": "mine"}).json()
            assert (told["model"], told["version"]) == (MODEL, 1)
    finally:
        serving.send_signal(signal.SIGTERM)
        rest = serving.communicate(timeout=30)[1]
    lines = [json.loads(line) for line in rest.splitlines() if line.startswith("{")]
    (asked,) = [line for line in lines if line.get("request") == "mine"]
    assert (asked["path"], asked["status"], asked["examples"], asked["version"]) == ("/predict", 200, 2, 1)
    assert serving.returncode == 143
    assert "Traceback" not in rest


def test_which_model_is_meant_is_said_or_clear(flops: Callable[..., Ended], here: Path) -> None:
    assert "there is no model registry" in flops("server", "serve").line
    registry = Registry()
    assert "the registry has no model yet" in flops("server", "serve").line
    for name in ("one", "two"):
        registry._client.create_registered_model(name)
    ended = flops("server", "serve")
    assert (ended.code, "the registry has several models: one, two" in ended.line) == (2, True)
    both = flops("server", "serve", "--model", "one", "--config", "federation.toml")
    assert (both.code, "--model and --config exclude each other" in both.line) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = flops("server", "serve", "--model", "one", "--host", "127.0.0.1", "--port", port)
    assert (ended.code, f"port {port} on 127.0.0.1 cannot be opened" in ended.line) == (1, True)


def test_a_champion_that_is_gone_is_told_and_goes_on(registry: Registry, serve: Serve) -> None:
    register(registry, DIGITS)
    api = serve(Champion(MODEL, CHAMPION, 0.05))
    until(lambda: api.get("/health/ready").status_code == 200)
    registry._client.delete_registered_model_alias(MODEL, CHAMPION)
    until(lambda: "no champion any more; version 1 goes on" in api.get("/health/ready").json()["problem"])
    assert api.post("/predict", json=BODY).json()["version"] == 1


def test_an_account_in_an_address_is_not_told() -> None:
    from server.registry_names import reason_of

    said = "403 Client Error: Forbidden for url: https://ward:s3cret@mlflow.example.org/a/b?X-Amz-Signature=abc"
    assert reason_of(ValueError(said)).endswith("url: https://mlflow.example.org/a/b?…")
