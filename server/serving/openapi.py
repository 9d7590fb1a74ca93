"""The OpenAPI document, with examples that are answered as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl import __version__
from fl.data.schema import TableSchema
from server.serving import scoring
from server.serving.examples import example
from server.serving.task_schema import example_schema, prediction_schema, record_schema

if TYPE_CHECKING:
    from fl.data.schema import Schema
    from server.serving.limits import Limits

    Json = dict[str, Any]

_ERRORS = {
    400: "the body is no JSON",
    401: "a key is needed, or it is not known",
    408: "the body came too slowly",
    413: "the body, or the number of examples, is over the limit",
    415: "the body is not declared to be JSON in UTF-8",
    422: "an example does not fit the task; the text names row and column",
    503: "there is no champion yet, or the server has too much to do",
}
_REFERENCE = "#/components/schemas/"


def describe(schema: Schema | None, limits: Limits, *, with_keys: bool) -> Json:
    """Return the document.

    Args:
        schema: the task's; None where it is not known yet.
        limits: what a request may cost.
        with_keys: whether keys are asked for.
    """
    keyed: Json = {"security": [{"bearer": []}, {"header": []}]} if with_keys else {}
    schemas = {
        "Example": example_schema(schema),
        "Examples": _many("Example", limits),
        "Prediction": prediction_schema(schema),
        "Record": record_schema(schema),
        "Error": _object(error={"type": "string"}, request_id={"type": "string"}),
        "MLflowError": _object(
            error={"type": "string"},
            request_id={"type": "string"},
            error_code={"type": "string"},
            message={"type": "string"},
        ),
    }
    several = {"type": "array", "items": {"$ref": f"{_REFERENCE}Prediction"}}
    answer = _object(model={"type": "string"}, version={"type": "integer"}, predictions=several)
    records = _object(predictions={"type": "array", "items": {"$ref": f"{_REFERENCE}Record"}})
    inputs = {"anyOf": [{"$ref": f"{_REFERENCE}Example"}, {"$ref": f"{_REFERENCE}Examples"}]}
    tags = {"type": "object", "additionalProperties": {"type": "string"}}
    made = {"type": ["object", "null"], "description": "what made it: code, image, hospitals, parent"}
    version = _object(model={"type": "string"}, version={"type": "integer"}, tags=tags, lineage=made)
    there = {"type": ["integer", "null"]}
    state = _object(ready={"type": "boolean"}, version=there, problem={"type": "string"})
    post = {
        "summary": "Predict for one example or several",
        **_body(_object(inputs=inputs) | {"additionalProperties": False}, _example(schema)),
        "responses": {"200": _json("a label and its probabilities for each", answer), **_errors("Error", _ERRORS)},
        **keyed,
    }
    mlflow = {
        "summary": "Predict as MLflow's scoring server does: one of " + ", ".join(scoring.FORMS),
        **_body(_forms(schema), _mlflow_example(schema)),
        "responses": {"200": _json("a record for each", records), **_errors("MLflowError", _ERRORS)},
        **keyed,
    }
    few = {status: _ERRORS[status] for status in (401, 503)}
    model = {
        "summary": "Say which version answers, and what it says of itself",
        "responses": {"200": _json("the version", version), **_errors("Error", few)},
        **keyed,
    }
    live = _object(live={"type": "boolean"})
    healthy = {"200": _json("there is a model", state), "503": _json("there is none", state)}
    text = {"text/plain": {"schema": {"type": "string"}}}
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "FLOps", "version": __version__, "description": "Predictions of the current global model."},
        "paths": {
            "/predict": {"post": post},
            scoring.PATH: {"post": mlflow},
            "/model": {"get": model},
            "/health/live": {"get": _get("Tell that the process answers", {"200": _json("it does", live)})},
            "/health/ready": {"get": _get("Tell whether there is a model to ask, and what is wrong", healthy)},
            "/metrics": {"get": _get("Numbers for Prometheus", {"200": {"description": "all", "content": text}})},
        },
        "components": {"schemas": schemas, **({"securitySchemes": schemes} if with_keys else {})},
    }


def _example(schema: Schema | None) -> Json | None:
    return None if schema is None else {"inputs": [example(schema)]}


def _mlflow_example(schema: Schema | None) -> Json | None:
    if schema is None:
        return None
    return {"dataframe_records" if isinstance(schema, TableSchema) else "instances": [example(schema)]}


def _forms(schema: Schema | None) -> Json:
    many: Json = {"$ref": f"{_REFERENCE}Examples"}
    if schema is not None and not isinstance(schema, TableSchema):
        return {"anyOf": [_object(inputs=many), _object(instances=many)]}
    split = _object(columns={"type": "array", "items": {"type": "string"}}, data={"type": "array"})
    columns = {"type": "object"} if schema is not None else {}
    forms = {"dataframe_split": split, "dataframe_records": many, "inputs": columns, "instances": many}
    return {"anyOf": [_object(**{name: form}) for name, form in forms.items()]}


def _many(name: str, limits: Limits) -> Json:
    return {"type": "array", "items": {"$ref": _REFERENCE + name}, "minItems": 1, "maxItems": limits.examples}


def _object(**properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(schema: Json, shown: Json | None) -> Json:
    content: Json = {"schema": schema, **({} if shown is None else {"example": shown})}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _errors(name: str, statuses: dict[int, str]) -> Json:
    return {str(status): _json(text, {"$ref": _REFERENCE + name}) for status, text in statuses.items()}


def _get(summary: str, responses: Json) -> Json:
    return {"summary": summary, "responses": responses}
