"""The JSON Schema of a task's examples and of the answers to them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fl.data.schema import TableSchema

if TYPE_CHECKING:
    from fl.data.schema import Column, Schema

Json = dict[str, Any]


def example_schema(schema: Schema | None) -> Json:
    """Return what one example looks like; anything where the task is not known yet."""
    if schema is None:
        return {"description": "an object with a value for each column, or nested lists of numbers, by the task"}
    if isinstance(schema, TableSchema):
        return {
            "type": "object",
            "properties": {column.name: _column(column) for column in schema.columns},
            "required": [column.name for column in schema.columns if column.missing == "refuse"],
            "additionalProperties": False,
            "minProperties": 1,
        }
    found: Json = {"type": "number", **_limits(schema.low, schema.high)}
    for size in reversed(schema.shape):
        found = {"type": "array", "items": found, "minItems": size, "maxItems": size}
    return found


def prediction_schema(schema: Schema | None) -> Json:
    """Return what the answer to one example looks like."""
    if schema is None:
        return {}
    if not schema.classes:
        return {"type": "array", "items": {"type": "number"}}
    chances = {name: {"type": "number", "minimum": 0, "maximum": 1} for name in schema.classes}
    return _object({"label": {"enum": list(schema.classes)}, "probabilities": _object(chances)})


def record_schema(schema: Schema | None) -> Json:
    """Return the same in MLflow's form."""
    if schema is None:
        return {}
    if not schema.classes:
        return _object({"prediction": {"type": "array", "items": {"type": "number"}}})
    chances = {f"probability_{name}": {"type": "number", "minimum": 0, "maximum": 1} for name in schema.classes}
    return _object({"label": {"enum": list(schema.classes)}, **chances})


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _column(column: Column) -> Json:
    # Not 'refuse': a value may be left out, which null says too.
    missing = column.missing != "refuse"
    if column.kind == "categorical":
        return {"enum": [*column.categories, *([None] if missing else [])]}
    return {"type": ["number", "null"] if missing else "number", **_limits(column.min, column.max)}


def _limits(low: float | None, high: float | None) -> Json:
    limits = {"minimum": low, "maximum": high}
    return {name: limit for name, limit in limits.items() if limit is not None and math.isfinite(limit)}
