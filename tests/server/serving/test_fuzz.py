"""The interface keeps to its own document, whatever it is sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from fl.tasks import find_task
from fl.tasks.tabular import tabular_task
from server.serving.api import Options, create_api
from server.serving.champion import Champion
from server.serving.limits import Limits
from tests.server.serving.apis import standing
from tests.server.serving.test_serving import MIXED

if TYPE_CHECKING:
    import httpx

    from fl.data.schema import Schema

CHECKS = [
    checks.not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]
EXAMPLES = 60
LIMITS = Limits(body=20_000, examples=3, seconds=5)


def unready(schema: Schema) -> Champion:
    champion = Champion("none", "champion", 3600)
    champion.start = lambda: None  # type: ignore[method-assign]
    return champion


def fuzz(champion: Champion, schema: Schema, path: str, modes: list[GenerationMode], expected: set[int]) -> set[int]:
    """Send what the document says, or what it does not, and return the statuses that came."""
    api = schemathesis.openapi.from_asgi("/openapi.json", create_api(champion, Options(LIMITS, schema=schema)))
    seen: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        wanted = CHECKS if 503 not in expected else [c for c in CHECKS if c is not checks.not_a_server_error]
        answer = case.call_and_validate(checks=wanted)
        seen.add(answer.status_code)

    for mode in modes:
        operation = api[path]["POST"]
        given(case=operation.as_strategy(generation_mode=mode))(ask)()
    assert seen <= expected
    return seen


TASKS = {"array": find_task("digits"), "table": tabular_task(MIXED)}


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
@pytest.mark.parametrize("kind", TASKS)
def test_what_fits_the_document_and_what_does_not(kind: str, path: str) -> None:
    task = TASKS[kind]
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    seen = fuzz(standing(task), task.schema, path, modes, {200, 400, 413, 415, 422})
    assert {200, 422} <= seen


def test_without_a_champion_all_is_told_as_documented() -> None:
    schema = TASKS["table"].schema
    assert fuzz(unready(schema), schema, "/predict", [GenerationMode.POSITIVE], {503}) == {503}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
FORMS = st.dictionaries(
    st.sampled_from(["inputs", "instances", "dataframe_split", "dataframe_records", "columns", "data", "age", "sex"]),
    VALUES,
    max_size=2,
)


@pytest.mark.parametrize("path", ["/predict", "/invocations"])
def test_any_json_and_any_bytes_are_answered(digits_api: httpx.Client, table_api: httpx.Client, path: str) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
    @given(body=FORMS.map(json.dumps).map(str.encode) | VALUES.map(json.dumps).map(str.encode) | st.binary())
    def ask(body: bytes) -> None:
        for api in (digits_api, table_api):
            answer = api.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400, 413, 422), answer.text
            assert answer.status_code == 200 or "\n" not in answer.json()["error"]

    ask()
