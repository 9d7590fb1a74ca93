"""MLflow's scoring protocol: the forms in which its clients send examples, and in which they expect errors.

Source: MLflow's documentation, "Deploy MLflow Model as a Local Inference Server", the accepted JSON formats.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from fl.data.schema import TableSchema
from fl.errors import DataError
from server.serving.examples import check_count, encode_arrays, encode_rows, encode_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fl.data.schema import Schema

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
"""The keys under which examples come; each request has one of them."""

PATH = "/invocations"

CODES = {401: "UNAUTHENTICATED", 413: "REQUEST_LIMIT_EXCEEDED", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE"}
"""MLflow's words for what went wrong, by status; all else is an invalid value."""


def encode_forms(body: Mapping[str, Any], schema: Schema, most: int) -> NDArray[Any]:
    """Encode what a request sends.

    Columns that the schema does not know are left out, as MLflow's own server does; but only beside all that it does
    know, so that a misspelled one is not taken for a missing value.

    Args:
        body: the request's JSON object.
        schema: of the task.
        most: how many examples may come at once.

    Returns:
        The model's input, an example a row.

    Raises:
        DataError: it has none of the forms, or not what the form wants, or more examples than may come.
    """
    found = [form for form in FORMS if form in body]
    if len(found) != 1:
        raise DataError(f"one of {', '.join(FORMS)} is needed, and there is {' and '.join(found) or 'none'}")
    (form,) = found
    try:
        return _encode(form, body[form], schema, most)
    except DataError as error:
        raise under(form, error) from None


def under(form: str, error: DataError) -> DataError:
    """Return an error that names the key under which the examples came, of the same type."""
    return type(error)(f"{form}: {tell(error)}")


def tell(error: DataError) -> str:
    """Return what is wrong in one line, without the value that is."""
    place = [
        f"row {error.row}" if error.row is not None else "",
        f"column '{error.column}'" if error.column is not None else "",
    ]
    where = ", ".join(part for part in place if part)
    return f"{where}: {error.unseen}" if where else error.unseen


def error_fields(status: int, text: str) -> dict[str, str]:
    """Return what MLflow's clients look for in an error."""
    return {"error_code": CODES.get(status, "INVALID_PARAMETER_VALUE"), "message": text}


def version() -> str:
    """Return MLflow's version, which its own server tells under /version."""
    for name in ("mlflow-skinny", "mlflow"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _encode(form: str, given: Any, schema: Schema, most: int) -> NDArray[Any]:
    if not isinstance(schema, TableSchema):
        if form.startswith("dataframe"):
            raise DataError("the task's examples are arrays; send them as inputs or instances")
        return encode_arrays(given, schema, most)
    if form == "dataframe_split":
        columns = _split(given, most)
        return encode_table(columns, schema, len(given["data"]))
    if form == "inputs" and not isinstance(given, list):
        if not isinstance(given, dict) or not given:
            raise DataError("an object with a list of values for each column is needed, or a list of objects")
        columns = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
        if len({len(values) for values in columns.values()}) > 1:
            raise DataError("columns have different numbers of values")
        rows = len(next(iter(columns.values())))
        check_count(rows, most)
        return encode_table(columns, schema, rows)
    check_count(len(_listed(given)), most)
    return encode_rows(given, schema, strict=False)


def _split(given: Any, most: int) -> dict[str, list[Any]]:
    if not isinstance(given, dict) or not isinstance(given.get("columns"), list):
        raise DataError("an object with columns and data is needed")
    columns, data = [str(name) for name in given["columns"]], _listed(given.get("data"))
    check_count(len(data), most)
    if len(set(columns)) != len(columns):
        raise DataError("a column stands twice in columns")
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise DataError(f"a list of {len(columns)} values is needed, one for each column", row=number)
    if not columns:
        raise DataError("columns is empty")
    return dict(zip(columns, map(list, zip(*data, strict=True)), strict=True))


def _listed(given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise DataError("a list is needed")
    return given
