"""MLflow's scoring protocol: the forms in which its clients send examples, and in which they expect answers.

Source: MLflow's documentation, "Deploy MLflow Model as a Local Inference Server", the accepted JSON formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fl.data.schema import TableSchema
from fl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.data.schema import ArraySchema
    from fl.inference import Predictor

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
"""The keys under which examples come; each request has one of them."""


def read_examples(body: Mapping[str, Any], schema: TableSchema | ArraySchema, most: int) -> Any:
    """Return what a request sends, as `fl.inference.Predictor.encode` takes it.

    Args:
        body: the request's JSON object.
        schema: of the task.
        most: how many examples may come at once.

    Raises:
        DataError: it has none of the forms, or not what the form wants.
    """
    found = [form for form in FORMS if form in body]
    if len(found) != 1:
        raise DataError(f"one of {', '.join(FORMS)} is needed, and there is {' and '.join(found) or 'none'}")
    (form,) = found
    given = body[form]
    if form == "dataframe_split":
        given = _split(given)
    elif form in ("dataframe_records", "instances") and isinstance(schema, TableSchema):
        given = _columns(given, form)
    elif form == "dataframe_records":
        raise DataError(f"{form}: the task's examples are arrays; send them as inputs or instances")
    if isinstance(schema, TableSchema):
        if not isinstance(given, dict):
            raise DataError(f"{form}: an object with a list of values for each column is needed")
        given = {str(name): value if isinstance(value, list) else [value] for name, value in given.items()}
        known = {column.name for column in schema.columns}
        if more := sorted(set(given) - known):
            raise DataError("the schema does not know it", column=more[0])
        if len({len(values) for values in given.values()}) > 1:
            raise DataError(f"{form}: columns have different numbers of values")
    rows = len(next(iter(given.values()), ())) if isinstance(given, dict) else len(_listed(given, form))
    if not 0 < rows <= most:
        raise DataError(f"{form}: {rows} examples; 1 to {most} are answered at once")
    return given


def answer(predictor: Predictor, given: Any) -> dict[str, Any]:
    """Return predictions as MLflow's server does: a record an example.

    Raises:
        DataError: an example does not fit the task's schema.
    """
    return {"predictions": predictor.predict(given).to_dict("records")}


def _split(given: Any) -> dict[str, list[Any]]:
    if not isinstance(given, dict) or not isinstance(given.get("columns"), list):
        raise DataError("dataframe_split: an object with columns and data is needed")
    columns, data = [str(name) for name in given["columns"]], _listed(given.get("data"), "dataframe_split")
    for number, row in enumerate(data, start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise DataError(f"a list of {len(columns)} values is needed, one for each column", row=number)
    return {name: [row[index] for row in data] for index, name in enumerate(columns)}


def _columns(given: Any, form: str) -> dict[str, list[Any]]:
    records = _listed(given, form)
    names: dict[str, None] = {}
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{form}: an object with a value for each column is needed", row=number)
        names |= dict.fromkeys(map(str, record))
    return {name: [record.get(name) for record in records] for name in names}


def _listed(given: Any, form: str) -> list[Any]:
    if not isinstance(given, list):
        raise DataError(f"{form}: a list is needed")
    return given
