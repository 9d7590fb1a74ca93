"""Examples as requests bring them, checked against the task's schema and turned into the model's input.

What is wrong is told by an example's number and a column's name, and never by the value: it is a patient's.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from fl.data.schema import TableSchema
from fl.data.table import encode_columns, is_missing
from fl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from numpy.typing import NDArray

    from fl.data.schema import ArraySchema, Column, Schema

_NUMBERS = {int, float}
_LOOKED_AT = 1000


class TooMany(DataError):  # noqa: N818 - a state, not a mistake
    """More examples than are answered at once."""


def encode(inputs: Any, schema: Schema, most: int) -> NDArray[Any]:
    """Encode one example or a list of examples.

    Args:
        inputs: for a table an object with a value for each column, or a list of these; for arrays nested lists of
            numbers, in the shape of one example or of several.
        schema: the task's.
        most: how many examples may come at once.

    Returns:
        The model's input, an example a row.

    Raises:
        TooMany: there are more.
        DataError: they do not fit the schema.
    """
    if not isinstance(schema, TableSchema):
        return encode_arrays(inputs, schema, most)
    if isinstance(inputs, dict):
        inputs = [inputs]
    if not isinstance(inputs, list):
        raise DataError("an object with a value for each column is needed, or a list of such objects")
    check_count(len(inputs), most)
    return encode_rows(inputs, schema)


def check_count(examples: int, most: int) -> None:
    """Refuse none, and too many.

    Raises:
        TooMany, DataError: so.
    """
    if examples > most:
        raise TooMany(f"{examples} examples; at most {most} are answered at once")
    if not examples:
        raise DataError("0 examples; at least one is needed")


def encode_rows(rows: list[Any], schema: TableSchema, *, strict: bool = True) -> NDArray[np.float64]:
    """Encode a table's examples, each an object with a value for each column.

    Args:
        rows: they.
        schema: the task's.
        strict: refuse every column that the schema does not know; else it may stand beside all that it does know.

    Raises:
        DataError: one does not fit.
    """
    names = {column.name for column in schema.columns}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError("each example is an object with a value for each column", row=number)
        if not row.keys() <= names and (more := _stray(row.keys(), names, strict=strict)):
            raise DataError("the schema does not know it", row=number, column=more)
    cells = {name: [row.get(name) for row in rows] for name in names}
    return _encode_cells(cells, schema)


def encode_table(columns: Mapping[str, list[Any]], schema: TableSchema, rows: int) -> NDArray[np.float64]:
    """Encode a table's examples that come as columns.

    Args:
        columns: their values by name.
        schema: the task's.
        rows: how many values each column has.

    Raises:
        DataError: they do not fit.
    """
    names = {column.name for column in schema.columns}
    if more := _stray(columns.keys(), names):
        raise DataError("the schema does not know it", column=more)
    return _encode_cells({name: columns.get(name) or [None] * rows for name in names}, schema)


def _encode_cells(cells: Mapping[str, list[Any]], schema: TableSchema) -> NDArray[np.float64]:
    encoded = encode_columns(cells, schema, first=1)
    empty: Iterable[int] = range(len(encoded))
    for values in cells.values():  # The first one leaves none, mostly.
        empty = [row for row in empty if is_missing(values[row], schema)]
    for row in empty:
        # The model would answer: what it thinks of anybody.
        raise DataError("the example has no value at all", row=row + 1)
    return encoded


def _stray(given: Set[str], known: set[str], *, strict: bool = False) -> str:
    """Return a column that nobody knows, and that is not just one too many: it may be a missing one's, misspelled."""
    return min(given - known, default="") if strict or not known <= given else ""


def encode_arrays(inputs: Any, schema: ArraySchema, most: int) -> NDArray[np.float32]:
    """Encode one array or several, nested lists of numbers.

    An example may also come with fewer or more dimensions than the schema's, if it has as many numbers.

    Raises:
        DataError: they do not fit.
    """
    if not isinstance(inputs, list):
        raise DataError(f"nested lists of numbers are needed; an example has shape {list(schema.shape)}")
    if not inputs:
        check_count(0, most)
    try:
        x = np.array(inputs, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        x = np.empty(())
    if not x.ndim or not set(map(type, _flat(inputs, x.ndim))) <= _NUMBERS:
        raise _no_numbers(inputs, schema)
    size = int(np.prod(schema.shape))
    if x.shape != schema.shape and x.shape[1:] != schema.shape and x[:1].size != size and x.size != size:
        one = list(schema.shape)
        raise DataError(
            f"an array of shape {list(x.shape)} is neither an example, of shape {one}, nor a list of such"
        )
    check_count(x.size // size, most)
    with np.errstate(over="ignore"):
        encoded = x.astype(np.float32).reshape(-1, *schema.shape)
    fits = (encoded >= schema.low) & (encoded <= schema.high)
    if not fits.all():
        row = int(np.argmin(fits.reshape(len(encoded), -1).all(axis=1)))
        raise DataError(f"values must be from {schema.low:g} to {schema.high:g}", row=row + 1)
    return encoded


def example(schema: Schema) -> Any:
    """Return an example that fits a schema, as a request has it."""
    if isinstance(schema, TableSchema):
        return {column.name: example_value(column) for column in schema.columns}
    low, high = max(schema.low, -1e6), min(schema.high, 1e6)
    whole = np.full(schema.shape, float(f"{(low + high) / 2:.3g}"))
    return np.clip(whole, schema.low, schema.high).tolist()


def example_value(column: Column) -> float | str:
    """Return a value that a column allows."""
    if column.kind == "categorical":
        return column.categories[0]
    low, high = column.min, column.max
    if low is None or high is None:
        return low + 1 if low is not None else high - 1 if high is not None else 1.0
    return min(max(float(f"{(low + high) / 2:.3g}"), low), high)


def _flat(inputs: list[Any], dimensions: int) -> Iterable[Any]:
    flat: Iterable[Any] = inputs
    for _ in range(dimensions - 1):
        flat = chain.from_iterable(flat)
    return flat


def _no_numbers(inputs: list[Any], schema: ArraySchema) -> DataError:
    """Say which example is wrong, where that can be said."""
    wanted = f"nested lists of numbers are needed, in the shape {list(schema.shape)}"
    for number, one in enumerate(islice(inputs, _LOOKED_AT), start=1):
        try:
            x = np.array(one, dtype=np.float64)
            fine = x.ndim == 0 and type(one) in _NUMBERS
            fine = fine or (x.ndim > 0 and set(map(type, _flat(one, x.ndim))) <= _NUMBERS)
        except (TypeError, ValueError, OverflowError):
            fine = False
        if not fine:
            return DataError(f"{wanted}; all of its elements must be numbers", row=number)
    return DataError(f"the examples differ in shape; {wanted}")
