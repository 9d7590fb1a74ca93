"""What a request may cost, and what is told of it."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch

from fl.data.schema import Column, TableSchema
from fl.inference import Predictor
from fl.tasks.tabular import tabular_task
from server.serving import computing, examples
from server.serving.api import Options
from server.serving.keys import Keys, make_key
from server.serving.limits import Limits
from tests.server.serving.apis import connect, digits, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Serve = Callable[..., httpx.Client]

JSON = {"content-type": "application/json"}


def test_a_body_over_the_limit_is_refused_however_it_comes(impatient: httpx.Client) -> None:
    told = "the body is larger than 0.00190735 MiB"
    declared = impatient.post("/predict", content=b" " * 2001, headers=JSON)
    chunked = impatient.post("/invocations", content=iter([b" " * 1000] * 50), headers=JSON)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert told in answer.json()["error"]
    assert impatient.post("/predict", json={"inputs": digits(1)}).status_code == 200
    assert impatient.post("/predict", json={"inputs": [[0] * 64] * 3}).status_code == 413
    with connect(impatient) as connection:  # It is not waited for what was declared.
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_many_examples_in_few_bytes_keep_nobody_waiting(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = tuple(Column(f"c{n}", "numeric", missing="mean") for n in range(50))
    champion = standing(tabular_task(TableSchema(columns, "outcome", ("well", "ill"))))
    assert champion.served is not None
    champion.served = replace(champion.served, quick=1 << 16, few=10)
    threads = set()
    encode_rows = examples.encode_rows

    def noted(rows: list[Any], schema: TableSchema) -> NDArray[Any]:
        threads.add(threading.current_thread().name.partition("_")[0])
        return encode_rows(rows, schema)

    monkeypatch.setattr(examples, "encode_rows", noted)
    api = serve(champion)
    for many in (1000, 11):
        body = {"inputs": [{"c0": 0}] * many}
        assert len(json.dumps(body)) < champion.served.quick
        assert len(api.post("/predict", json=body).json()["predictions"]) == many
    assert threads == {"computing"}
    assert "at most 1000" in api.post("/predict", json={"inputs": [{"c0": 0}] * 1001}).json()["error"]
    assert api.post("/predict", json={"inputs": [{"c0": 0}] * 10}).status_code == 200
    assert len(threads) == 2


def test_what_takes_too_long_to_compute_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    champion = standing("digits")
    let = threading.Event()
    outputs = Predictor.outputs

    def slow(self: Predictor, x: NDArray[Any]) -> Any:
        if len(x) > 100:
            let.wait(10)
        return outputs(self, x)

    monkeypatch.setattr(Predictor, "outputs", slow)
    api = serve(champion, Options(limits=Limits(seconds=0.3)))
    started = time.monotonic()
    answer = api.post("/predict", json={"inputs": digits(300)})
    assert answer.status_code == 503
    assert "longer than 0.3 s" in answer.json()["error"]
    assert answer.headers["retry-after"] == "1"
    assert api.post("/predict", json={"inputs": digits(1)}).status_code == 200  # Nobody else waits.
    assert time.monotonic() - started < 5
    let.set()
    end = time.monotonic() + 10
    while api.post("/predict", json={"inputs": digits(300)}).status_code != 200:
        assert time.monotonic() < end


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/csv"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ],
)
def test_what_is_not_declared_to_be_json_is_not_read(digits_api: httpx.Client, headers: dict[str, str]) -> None:
    for path in ("/predict", "/invocations"):
        assert digits_api.post(path, content=b"{}", headers=headers).status_code == 415


def test_paths_and_methods_that_are_not_there(digits_api: httpx.Client) -> None:
    assert "no such path" in digits_api.get("/predicts").json()["error"]
    assert digits_api.get("/predict/").status_code == 404
    answer = digits_api.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("given", ["abc-1.2_3", "a" * 64])
def test_a_requests_id_comes_back(digits_api: httpx.Client, given: str) -> None:
    assert digits_api.get("/health/live", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 65, "a b", "a\u00e4", "{}"])
def test_an_id_that_could_be_anything_is_replaced(digits_api: httpx.Client, given: str) -> None:
    made = digits_api.get("/health/live", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert len(made) == 32
    assert given not in made or not given


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[logging.LogRecord]]:
    """What the server logs."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", found.append)
    logger = logging.getLogger("flops.server")
    monkeypatch.setattr(logger, "handlers", [handler])
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield found
    logger.setLevel(before)


def test_the_log_says_who_asked_what_and_never_a_value(
    serve: Serve, tmp_path: Path, lines: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = make_key("ward-7")
    (tmp_path / "keys").write_text(line)
    champion = standing("breast-cancer")
    api = serve(champion, Options(keys=Keys(tmp_path / "keys")))
    headers = {"x-api-key": key, "x-request-id": "one"}
    row = {"mean radius": 4711.5}
    assert api.post("/predict?who=Doe", json={"inputs": [row, row]}, headers=headers).status_code == 200
    for path, body in (
        ("/predict", {"inputs": {"mean radius": -4711.5}}),
        ("/predict", {"inputs": {"mean radius": "Doe"}}),
        ("/predict", {"inputs": {"Doe": 4711.5}}),
        ("/invocations", {"dataframe_records": [{"mean radius": "Doe"}]}),
        ("/invocations", {"Doe": 4711.5}),
    ):
        assert api.post(path, json=body, headers=headers).status_code == 422
    api.post("/predict", content=b'{"inputs": Doe 4711.5', headers={**headers, **JSON})
    api.get("/Doe/4711.5", headers=headers)

    def broken(self: Predictor, x: NDArray[Any]) -> Any:
        raise ValueError(f"Doe {x}")

    monkeypatch.setattr(Predictor, "outputs", broken)
    failed = api.post("/predict", json={"inputs": row}, headers=headers)
    assert failed.status_code == 500
    assert set(failed.json()) == {"error", "request_id"}
    api.get("/health/ready")
    api.get("/metrics")
    requests = [record.fields for record in lines if hasattr(record, "fields")]  # type: ignore[attr-defined]
    first = requests[0]
    assert first.pop("ms") > 0
    assert first == {
        "method": "POST", "path": "/predict", "status": 200, "examples": 2, "version": 1, "key": "ward-7",
        "request": "one",
    }  # fmt: skip
    assert [entry["status"] for entry in requests] == [200, 422, 422, 422, 422, 422, 400, 404, 500]
    text = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in lines)
    assert "ValueError" in text
    for value in ("4711.5", "Doe", key):
        assert value not in text


def test_metrics_count_by_template_and_tell_of_the_model(digits_api: httpx.Client) -> None:
    digits_api.post("/predict", json={"inputs": digits(3)})
    digits_api.get("/no/such/path/Doe")  # No number: metrics are full of them.
    digits_api.request("PURGE", "/predict")
    text = digits_api.get("/metrics").text
    for part in (
        'flops_requests_total{method="POST",path="/predict",status="200"}',
        'flops_requests_total{method="GET",path="other",status="404"}',
        'flops_requests_total{method="other",path="/predict",status="405"}',
        'flops_request_seconds_bucket{le="0.005",path="/predict"}',
        'flops_batch_examples_bucket{le="4.0",path="/predict"}',
        'flops_model_info{model="flops-test",version="1"} 1.0',
        "flops_model_version 1.0",
        "flops_model_load_failures_total 0.0",
        "flops_newer_champion_failed 0.0",
        "flops_registry_answers 0.0",
    ):
        assert part in text, part
    assert "Doe" not in text


def test_a_model_without_classes_is_served(serve: Serve) -> None:
    from fl.data.schema import ArraySchema
    from fl.tasks.base import Task

    task = Task(
        name="sum",
        description="a number",
        schema=ArraySchema((3,), -1.0, 1.0),
        model=lambda: torch.nn.Linear(3, 1),
        loss=lambda outputs, targets: outputs[:, 0] - targets,
        metrics={},
    )
    api = serve(standing(task))
    for inputs in ([0.5, 0.1, 0], [[0.5, 0.1, 0]]):
        ((found,),) = api.post("/predict", json={"inputs": inputs}).json()["predictions"]
        told = api.post("/invocations", json={"inputs": inputs}).json()["predictions"]
        assert told == [{"prediction": [pytest.approx(found)]}]
    assert json.dumps(api.get("/openapi.json").json())


def test_bodies_that_are_together_too_large_are_not_held(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "BODIES", 2)
    let = threading.Event()
    outputs = Predictor.outputs

    def slow(self: Predictor, x: NDArray[Any]) -> Any:
        if len(x) > 100:
            let.wait(20)
        return outputs(self, x)

    body = json.dumps({"inputs": digits(300)})
    champion = standing("digits")
    monkeypatch.setattr(Predictor, "outputs", slow)
    api = serve(champion, Options(limits=Limits(body=len(body), seconds=15)))
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=api.base_url, trust_env=False, timeout=30) as client:
            statuses.append(client.post("/predict", content=body, headers=JSON).status_code)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while statuses.count(503) < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    let.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 503, 503, 503]
    assert api.post("/predict", content=body, headers=JSON).status_code == 200  # All was given back.


def test_a_path_with_a_line_end_makes_no_line_and_no_series(impatient: httpx.Client) -> None:
    impatient.post("/predict%0a", json={})
    assert "predict\\n" not in impatient.get("/metrics").text
