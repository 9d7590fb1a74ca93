"""Predictions over HTTP: in our form and in MLflow's, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from fl.data.schema import Column, TableSchema
from fl.tasks import find_task
from fl.tasks.tabular import tabular_task
from server.commands import health
from server.serving.examples import encode, example
from server.serving.limits import Limits
from server.serving.openapi import describe
from tests.server.serving.apis import MODEL, digits, loaded, register, standing
from tests.workers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from server.registry import Registry

    Serve = Callable[..., httpx.Client]

MIXED = TableSchema(
    (
        Column("age", "numeric", min=0, max=120),
        Column("sex", "categorical", categories=("f", "m")),
        Column("weight", "numeric", missing="mean", min=0.0),
    ),
    "outcome",
    ("well", "ill"),
)


def test_digits_are_told_with_probabilities_and_version(digits_api: httpx.Client) -> None:
    for examples, many in ((digits(1), 1), (digits(3), 3), (digits(1)[0], 1), (digits(1)[0][0], 1)):
        told = digits_api.post("/predict", json={"inputs": examples}).json()
        assert (told["model"], told["version"], len(told["predictions"])) == (MODEL, 1, many)
        for row in told["predictions"]:
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)
            assert row["label"] == max(row["probabilities"], key=row["probabilities"].__getitem__)
    assert digits_api.get("/model").json()["tags"]["commit"] == "c" * 40
    assert digits_api.get("/health/ready").json() == {"ready": True, "version": 1, "problem": ""}


def test_many_at_once_are_told_as_one_by_one(digits_api: httpx.Client) -> None:
    many = digits(300)
    assert len(json.dumps(many)) > 1 << 16  # So many are computed aside.
    told = digits_api.post("/predict", json={"inputs": many}).json()["predictions"]
    assert len(told) == 300
    (one,) = digits_api.post("/predict", json={"inputs": many[7]}).json()["predictions"]
    assert told[7]["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)


def test_rows_of_a_table_are_told(table_api: httpx.Client) -> None:
    row = {column.name: 1.0 for column in find_task("breast-cancer").schema.columns}
    some = {"mean radius": 1.0}
    for inputs, many in (([row, row], 2), (row, 1), (some, 1)):
        told = table_api.post("/predict", json={"inputs": inputs}).json()
        assert len(told["predictions"]) == many


def test_what_has_no_value_is_no_example(table_api: httpx.Client) -> None:
    for path, body, row in (
        ("/predict", {"inputs": {}}, 1),
        ("/predict", {"inputs": [{"mean radius": 1.0}, {"mean radius": None, "mean area": ""}]}, 2),
        ("/invocations", {"dataframe_split": {"columns": ["mean radius"], "data": [[1], [None]]}}, 2),
        ("/invocations", {"instances": [{}]}, 1),
    ):
        answer = table_api.post(path, json=body)
        assert answer.status_code == 422
        assert f"row {row}: the example has no value at all" in answer.json()["error"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"age of the moon": 1}, "inputs: row 2, column 'age of the moon': the schema does not know it"),
        ({"age": "Doe"}, "inputs: row 2, column 'age': the value is not a number"),
        ({"age": True}, "inputs: row 2, column 'age': the value is not a number"),
        ({"age": [666]}, "inputs: row 2, column 'age': the value is not a number"),
        ({"age": {"Doe": 1}}, "inputs: row 2, column 'age': the value is not a number"),
        ({"age": 666}, "inputs: row 2, column 'age': out of range (0 to 120)"),
        ({"age": 10**300}, "inputs: row 2, column 'age': out of range (0 to 120)"),
        ({"weight": -666}, "inputs: row 2, column 'weight': out of range (at least 0)"),
        ({"weight": "1" * 5000}, "inputs: row 2, column 'weight': the value is not a number"),
        ({"sex": "Doe"}, "inputs: row 2, column 'sex': unknown category; known: f, m"),
        ({"sex": None}, "inputs: row 2, column 'sex': the value is missing"),
        ({"weight": 1e300}, "inputs: row 2, "),
    ],
)
def test_a_row_that_does_not_fit_is_named_without_its_value(serve: Serve, row: dict[str, Any], told: str) -> None:
    api = serve(standing(tabular_task(MIXED)))
    fine = {"age": 50, "sex": "f", "weight": None}
    assert api.post("/predict", json={"inputs": [fine, {"age": 5, "sex": "m"}]}).status_code == 200
    told = told if "1e+300" not in str(row) else "row 2: the model has no answer to these values"
    # With an id of its own: a random one may hold the value's digits.
    answer = api.post("/predict", json={"inputs": [fine, {**fine, **row}]}, headers={"x-request-id": "mine"})
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["error"]
    assert "Doe" not in answer.text
    assert "666" not in answer.text


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b'{"inputs": [[NaN]]}', 400, "not JSON"),
        (b'{"inputs": [[Infinity]]}', 400, "not JSON"),
        (b'{"inputs": [[1e400]]}', 400, "not JSON"),
        (b'{"inputs": [[1' + b"0" * 400 + b"]]}", 400, "not JSON"),
        (b'{"inputs": ' + b"[" * 100_000, 400, "not JSON"),
        (b'{"inputs": "\xff"}', 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[1]", 422, "must be a JSON object"),
        (b'{"inputs": [[1' + b"0" * 60 + b"]]}", 422, "shape"),
        (b"{}", 422, 'one key, "inputs"'),
        (b'{"inputs": [], "more": 1}', 422, 'one key, "inputs"'),
        (b'{"inputs": [["a"]]}', 422, "row 1: nested lists of numbers"),
        (b'{"inputs": []}', 422, "0 examples; at least one"),
        (b'{"inputs": [[]]}', 422, "an array of shape [1, 0] is neither"),
        (b'{"inputs": "x"}', 422, "nested lists of numbers"),
        (b'{"inputs": 1}', 422, "nested lists of numbers"),
        (b'{"inputs": {"a": 1}}', 422, "nested lists of numbers"),
        (b'{"inputs": [{"a": 1}]}', 422, "row 1: nested lists of numbers"),
        (b'{"inputs": [[1, 2], [3]]}', 422, "differ in shape"),
        (b'{"inputs": [null]}', 422, "row 1: nested lists of numbers"),
        (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", 422, "nested lists of numbers"),
        (json.dumps({"inputs": [[True] * 64]}).encode(), 422, "row 1: nested lists of numbers"),
        (json.dumps({"inputs": [["0.5"] * 64]}).encode(), 422, "row 1: nested lists of numbers"),
        (json.dumps({"inputs": [[0.5] * 64, [1e300] * 64]}).encode(), 422, "row 2: values must be from 0 to 1"),
        (
            json.dumps({"inputs": [[0.5] * 100]}).encode(),
            422,
            "an array of shape [1, 100] is neither an example, of shape [1, 8, 8], nor a list of such",
        ),
        (json.dumps({"inputs": [[0.5] * 64] * 1001}).encode(), 413, "1001 examples; at most 1000"),
        (json.dumps({"inputs": [0] * 1_000_000}).encode(), 422, "shape"),
        (json.dumps({"inputs": [None] * 500_000}).encode(), 422, "row 1: nested lists of numbers"),
    ],
)
def test_what_does_not_fit_is_refused(digits_api: httpx.Client, body: bytes, status: int, told: str) -> None:
    for path in ("/predict", "/invocations"):
        answer = digits_api.post(path, content=body, headers={"content-type": "application/json"})
        if path == "/invocations" and "one key" in told:
            told = "one of" if body == b"{}" else "0 examples"
        assert answer.status_code == status, answer.text
        assert told in answer.json()["error"]
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        if path == "/invocations":
            assert answer.json()["message"] == answer.json()["error"]
            assert answer.json()["error_code"] in ("INVALID_PARAMETER_VALUE", "REQUEST_LIMIT_EXCEEDED")


def test_a_tables_rows_are_counted_before_they_are_read(table_api: httpx.Client) -> None:
    many: list[Any] = [{}] * 1_000_000
    for path, body in (
        ("/predict", {"inputs": many}),
        ("/invocations", {"instances": many}),
        ("/invocations", {"dataframe_split": {"columns": [], "data": many}}),
        ("/invocations", {"inputs": {"mean radius": [1] * 1_000_000}}),
    ):
        answer = table_api.post(path, json=body)
        assert answer.status_code == 413, answer.text
        assert "1000000 examples; at most 1000" in answer.json()["error"]


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
        {"inputs": frame.to_dict("records")},
        # What else stands in somebody's table does not matter, as long as nothing is missing that it might be.
        {"dataframe_split": json.loads(frame.assign(moon=1).to_json(orient="split"))},
        {"dataframe_records": frame.assign(moon="new").to_dict("records")},
        {"inputs": frame.assign(moon=1).to_dict("list")},
    ):
        kind = {"content-type": "application/json; charset=UTF-8"}
        told = api.post("/invocations", content=json.dumps(body), headers=kind).json()["predictions"]
        assert [row["label"] for row in told] == [row["label"] for row in expected]
        for ours, theirs in zip(told, expected, strict=True):
            assert list(ours) == list(theirs)
            assert all(ours[k] == pytest.approx(theirs[k], abs=1e-6) for k in ours if k != "label")
    assert (api.get("/ping").status_code, api.get("/health").status_code) == (200, 200)
    assert api.get("/version").text == mlflow.__version__


def test_arrays_come_as_inputs_or_instances(digits_api: httpx.Client) -> None:
    for form in ("inputs", "instances"):
        assert len(digits_api.post("/invocations", json={form: digits(2)}).json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "one of dataframe_split, dataframe_records, inputs, instances is needed, and there is none"),
        ({"inputs": {}, "instances": []}, "there is inputs and instances"),
        ({"dataframe_split": []}, "an object with columns and data"),
        ({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "row 1: a list of 1 values is needed"),
        ({"dataframe_split": {"columns": ["a"], "data": 1}}, "a list is needed"),
        ({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}, "a column stands twice"),
        ({"dataframe_split": {"columns": [], "data": [[]]}}, "columns is empty"),
        ({"dataframe_records": [1]}, "dataframe_records: row 1: each example is an object"),
        ({"dataframe_records": [{"moon": 1}]}, "column 'moon': the schema does not know it"),
        ({"dataframe_split": {"columns": ["moon"], "data": [[1]]}}, "column 'moon': the schema does not know it"),
        ({"inputs": {"moon": [1]}}, "column 'moon': the schema does not know it"),
        ({"inputs": {"mean radius": [1, 2], "mean texture": [1]}}, "different numbers of values"),
        ({"inputs": [1]}, "inputs: row 1: each example is an object"),
        ({"inputs": 1}, "an object with a list of values for each column"),
        ({"inputs": {}}, "an object with a list of values for each column"),
        ({"inputs": {"mean radius": []}}, "0 examples"),
        ({"instances": []}, "0 examples"),
    ],
)
def test_what_is_no_form_of_mlflow_is_refused(table_api: httpx.Client, body: dict[str, Any], told: str) -> None:
    answer = table_api.post("/invocations", json=body)
    assert answer.status_code == 422, answer.text
    assert told in answer.json()["message"]


@pytest.mark.parametrize("task", [find_task("digits"), find_task("breast-cancer"), tabular_task(MIXED)])
def test_the_documents_examples_are_answered(serve: Serve, task: Any) -> None:
    api = serve(standing(task))
    document = api.get("/openapi.json").json()
    page = api.get("/docs")
    for path in ("/predict", "/invocations"):
        shown = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = api.post(path, json=shown)
        assert answer.status_code == 200, answer.text
        assert f"POST {path}" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_document_knows_the_task_before_there_is_a_model() -> None:
    shown = describe(MIXED, Limits(), with_keys=True)
    body = shown["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"inputs": [{"age": 60.0, "sex": "f", "weight": 1.0}]}
    assert encode(body["example"]["inputs"], MIXED, 1).shape == (1, 4)
    unknown = describe(None, Limits(), with_keys=False)
    assert "example" not in unknown["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]


def test_an_example_fits_whatever_the_limits_are() -> None:
    for low, high in ((None, None), (5.0, None), (None, -5.0), (0.1, 0.2), (-7.0, -7.0)):
        schema = TableSchema((Column("x", "numeric", min=low, max=high),), "y", ("a", "b"))
        assert np.isfinite(encode(example(schema), schema, 1)).all()


def test_a_data_frame_with_gaps_comes_as_mlflows_clients_send_it(serve: Serve) -> None:
    api = serve(standing(tabular_task(MIXED)))
    split = '{"dataframe_split": {"columns": ["age", "sex", "weight"], "data": [[50, "f", %s], [50, "m", 70]]}}'
    for cell, status in (("NaN", 200), ("null", 200), ("Infinity", 400), ("-Infinity", 400), ("1e400", 400)):
        answer = api.post("/invocations", content=split % cell, headers={"content-type": "application/json"})
        assert (answer.status_code, cell) == (status, cell), answer.text
    answer = api.post("/predict", content='{"inputs": {"weight": NaN}}', headers={"content-type": "application/json"})
    assert answer.status_code == 400


@pytest.mark.parametrize("column", ["age", "sex"])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_cells_of_a_thousand_levels_are_refused(serve: Serve, column: str, opens: str, closes: str) -> None:
    api = serve(standing(tabular_task(MIXED)))
    for levels in (10, 900, 1000, 1015):
        body = f'{{"inputs": {{"{column}": {opens * levels}1{closes * levels}}}}}'
        answer = api.post("/predict", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), (levels, answer.text)


def test_what_can_be_read_can_be_asked_for_without_its_body(digits_api: httpx.Client) -> None:
    for path in ("/", "/health", "/health/live", "/health/ready", "/ping", "/version", "/model", "/metrics", "/docs"):
        answer = digits_api.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
        assert answer.headers["content-type"] == digits_api.get(path).headers["content-type"]
    assert digits_api.head("/predict").status_code == 405


def test_the_health_command_asks_it_where_no_job_listens(
    digits_api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_SERVING", digits_api.base_url.port)
    monkeypatch.setenv("FLOPS_PORT", str(free_port()))
    told = CliRunner().invoke(health.health, ["--json"], standalone_mode=False)
    assert json.loads(told.stdout) == {"healthy": True, "port": digits_api.base_url.port}
    assert told.return_value == 0
    # A port that is named is the one that counts.
    named = CliRunner().invoke(health.health, ["--port", str(free_port())], standalone_mode=False)
    assert "no job answers on port" in str(named.exception)
    assert "prediction API" not in str(named.exception)
