"""The form of `lineage.json`, for those who read it: its JSON schema is docs/lineage.schema.json."""

from __future__ import annotations

import json
import sys
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

_STRICT = ConfigDict(strict=True)


@with_config(_STRICT)
class HospitalForm(TypedDict, total=False):
    """What a hospital contributed, and what the last round's model measured on its hold-out data."""

    examples: int
    rounds: int
    release: str
    metrics: dict[str, float]


@with_config(_STRICT)
class LeftOutForm(TypedDict, total=False):
    """A hospital that a step went on without."""

    hospital: str
    step: str
    reason: str
    refused: bool


@with_config(_STRICT)
class PairForm(TypedDict):
    """What one hospital measured of the candidate and of the champion."""

    candidate: float
    champion: float


@with_config(_STRICT)
class GateForm(TypedDict, total=False):
    """What the gate said."""

    passed: bool
    reason: str
    metric: str
    champion: int
    candidate_value: float | None
    champion_value: float | None
    hospitals: dict[str, PairForm]


@with_config(_STRICT)
class LineageForm(TypedDict):
    """What made a version of a global model."""

    schema: int
    model: str
    task: str
    signature: str
    digest: str
    parent: NotRequired[int]
    commit: NotRequired[str]
    image: NotRequired[str]
    release: NotRequired[str]
    config_commit: NotRequired[str]
    protocol: NotRequired[int]
    rounds: NotRequired[int]
    settings: NotRequired[dict[str, Any]]
    hospitals: NotRequired[dict[str, HospitalForm]]
    left_out: NotRequired[list[LeftOutForm]]
    metrics: NotRequired[dict[str, float]]
    gate: NotRequired[GateForm]
    seconds: NotRequired[float]


_FORM = TypeAdapter(LineageForm)


def parse(text: str) -> LineageForm:
    """Read a lineage.

    Raises:
        ValueError: it is not of this form; says where and what, in a line.
    """
    try:
        return _FORM.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else str(first["msg"])) from None


def json_schema() -> dict[str, Any]:
    """Return the form as a JSON schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_FORM.json_schema()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
