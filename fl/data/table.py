"""Hospitals' tables: CSV and Parquet files, read and checked against a schema, encoded as features.

Every cell is read as text or as the file's own type, and checked here, so that an error can name file, row
and column. Rows count as in a spreadsheet: the header is row 1.

pyarrow reads both formats; it is a dependency of MLflow already and needs no pandas in a hospital's image.
"""

from __future__ import annotations

import csv
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from fl.data.dataset import Dataset
from fl.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fl.data.schema import Column, TableSchema

FIRST_ROW = 2
"""The spreadsheet row of the first patient; the header is row 1."""

Cells = list[Any]
"""A column as read: texts (CSV), or the file's own values with None for missing (Parquet)."""


def read_table(path: Path, schema: TableSchema) -> dict[str, Dataset]:
    """Read one file and return its data by site; without a site column the one site is the file's stem.

    Raises:
        DataError: the file cannot be read or does not fit the schema; names file, row and column.
    """
    return table_from_cells(path, _read_cells(path), schema)


def table_from_cells(path: Path, cells: Mapping[str, Cells], schema: TableSchema) -> dict[str, Dataset]:
    """Check and encode a table that has been read, and return its data by site, as `read_table` does.

    Args:
        path: where the cells come from, for errors and for the site's name.
        cells: each column's values, by name; all of one length.
        schema: the table's schema.

    Raises:
        DataError: a column is missing, or a value does not fit; names file, row and column.
    """
    check_header(path, list(cells), schema)
    rows = len(cells[schema.target])
    if rows == 0:
        raise DataError("the file has a header but no rows", file=path)
    x = encode_columns({c.name: cells[c.name] for c in schema.columns}, schema, file=path)
    y = _encode_target(cells[schema.target], schema, path)
    if schema.site is None:
        return {path.stem: Dataset(x, y)}
    sites = [_text(value) for value in cells[schema.site]]
    for row, name in enumerate(sites):
        if name in schema.missing_values:
            raise DataError("the hospital's name is missing", file=path, row=row + FIRST_ROW, column=schema.site)
    names = np.array(sites)
    whole = Dataset(x, y)
    return {str(name): whole.take(np.flatnonzero(names == name)) for name in dict.fromkeys(sites)}


def read_sites(paths: Sequence[Path], schema: TableSchema) -> dict[str, Dataset]:
    """Read one file per hospital, or files with a site column, and return the data by site.

    Raises:
        DataError: a file does not fit; two files bring the same site; or all targets are of one class.
    """
    sites: dict[str, Dataset] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        for name, data in read_table(path, schema).items():
            if name in sites:
                raise DataError(
                    f"hospital '{name}' is already in {origin[name]}; give each file a name of its own",
                    file=path,
                )
            sites[name], origin[name] = data, path
    present = np.unique(np.concatenate([data.y for data in sites.values()]))
    if len(present) < 2:
        raise DataError(
            f"the target has one class only, '{schema.classes[present[0]]}', in all the data: "
            "nothing can be learned from it",
            file=", ".join(str(path) for path in paths),
            column=schema.target,
        )
    return sites


def encode_columns(
    cells: Mapping[str, Cells], schema: TableSchema, *, file: object = None, first: int = FIRST_ROW
) -> NDArray[np.float64]:
    """Check feature columns and encode them as the model's input.

    Numeric columns become one feature; categorical ones a feature a category, 0 or 1. NaN marks what the
    model fills from its federated statistics.

    Args:
        cells: each column's values, by name.
        schema: the table's schema.
        file: where the cells come from, for errors.
        first: the number of the first row, for errors.

    Returns:
        float64, shape ``(rows, schema.width)``.

    Raises:
        DataError: a value does not fit its column.
    """
    numeric = [column for column in schema.columns if column.kind == "numeric"]
    plain = _plain([cells[column.name] for column in numeric], numeric, schema)
    if plain is not None and len(numeric) == len(schema.columns):
        return np.ascontiguousarray(plain.T)
    whole = {} if plain is None else {column.name: row[:, None] for column, row in zip(numeric, plain, strict=True)}
    try:
        parts = [
            whole[column.name]
            if column.name in whole
            else _numeric(cells[column.name], column, schema)
            if column.kind == "numeric"
            else _categorical(cells[column.name], column, schema)
            for column in schema.columns
        ]
    except _WrongCell as wrong:
        raise DataError(
            wrong.problem, file=file, row=wrong.row + first, column=wrong.column, unseen=wrong.unseen
        ) from None
    return np.concatenate(parts, axis=1)


def _plain(columns: list[Cells], described: list[Column], schema: TableSchema) -> NDArray[np.float64] | None:
    """Return numeric columns at once, shape ``(columns, rows)``, where all cells are numbers within their limits.

    None where a cell needs a closer look: it is missing, a text, or wrong.
    """
    if not columns or any(_NUMBER.fullmatch(word) for word in schema.missing_values):
        return None  # A number may stand for a missing value.
    if not set().union(*(map(type, cells) for cells in columns)) <= {int, float}:
        return None
    try:
        values = np.array(columns, dtype=np.float64)
    except OverflowError:
        return None
    low = np.array([-np.inf if c.min is None else c.min for c in described])[:, None]
    high = np.array([np.inf if c.max is None else c.max for c in described])[:, None]
    fits = np.isfinite(values) & (values >= low) & (values <= high)
    return values if fits.all() else None


def _read_cells(path: Path) -> dict[str, Cells]:
    if not path.exists():
        raise DataError("no such file", file=path)
    if path.is_dir() or path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError("expected a .csv or .parquet file", file=path)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", file=path)
    try:
        return _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error


def _read_csv(path: Path) -> dict[str, Cells]:
    import pyarrow as pa
    import pyarrow.csv

    _check_lines(path)
    with path.open(newline="", encoding="utf-8-sig") as lines:
        header = next(csv.reader(lines), [])
    if not any(name.strip() for name in header):
        raise DataError("the file has no header", file=path, row=1)
    _unique(path, header)
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise _csv_error(path, str(error)) from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _check_lines(path: Path) -> None:
    """Refuse what would make later row numbers wrong or unreadable: other encodings, empty rows in between."""
    empty, quoted, opened = None, False, 0
    with path.open("rb") as raw:
        for row, line in enumerate(raw, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise DataError("not UTF-8 text; save the file as UTF-8", file=path, row=row) from error
            if not quoted and not line.strip():
                empty = empty or row
            elif empty is not None:
                raise DataError("the row is empty; remove it", file=path, row=empty)
            if line.count(b'"') % 2 == 1:
                quoted, opened = not quoted, row
    if quoted:
        raise DataError("a quote that opens here is never closed", file=path, row=opened)


def _csv_error(path: Path, text: str) -> DataError:
    """Turn pyarrow's complaint about the file's form into one of ours."""
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if found:
        row, expected, got = (int(number) for number in found.groups())
        return DataError(f"{got} values where the header has {expected}", file=path, row=row)
    if "Empty CSV file" in text:
        return DataError("the file has no rows; a header and one row an example are needed", file=path)
    return DataError(f"not a CSV table: {text.split(': ', 1)[-1].splitlines()[0]}", file=path)


def _read_parquet(path: Path) -> dict[str, Cells]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        _unique(path, pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path)
    except PermissionError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError("not a Parquet file, or a damaged one", file=path) from error
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _unique(path: Path, header: list[str]) -> None:
    seen: set[str] = set()
    for position, name in enumerate(header, start=1):
        if not name.strip():
            raise DataError(f"column {position} has no name", file=path, row=1)
        if name in seen:
            raise DataError("the header names this column twice", file=path, row=1, column=name)
        seen.add(name)


def check_header(path: Path, header: list[str], schema: TableSchema) -> None:
    """Refuse a file without all the columns that the schema names; the error names the nearest that it has."""
    wanted = [column.name for column in schema.columns] + [schema.target]
    if schema.site is not None:
        wanted.append(schema.site)
    extra = [name for name in header if name not in wanted]
    for name in wanted:
        if name not in header:
            if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
                raise DataError("the values are not separated by commas; save the file with commas", file=path, row=1)
            raise DataError(
                f"the column is missing{nearest(name, extra)}; the file has: {', '.join(header)}",
                file=path,
                row=1,
                column=name,
            )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | dict | tuple):
        return f"a {type(value).__name__}"  # Never what is in it, which may be deeper than Python can tell.
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Tools that know no missing whole number write 1 as 1.0.
    return str(value).strip()


# No two parts of it fit the same digits: a long text of digits takes no longer than to read it.
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _number(value: Any) -> float:
    """Return a cell as a number, or NaN where it is none: Python itself would take 1_000, inf and True."""
    if isinstance(value, bool):
        return math.nan
    if isinstance(value, str):
        value = value.strip()
        return float(value) if _NUMBER.fullmatch(value) else math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_missing(value: Any, schema: TableSchema) -> bool:
    """Return whether a cell has no value: nothing, NaN, or what the schema takes for it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return _text(value) in schema.missing_values


class _WrongCell(Exception):  # noqa: N818 - becomes a DataError where file and first row are known
    def __init__(self, problem: str, row: int, column: Column, unseen: str | None = None) -> None:
        self.problem, self.row, self.column, self.unseen = problem, row, column.name, unseen


def _refused(row: int, column: Column) -> _WrongCell:
    return _WrongCell("the value is missing and the schema has no 'missing' rule for the column", row, column)


def _numeric(cells: Cells, column: Column, schema: TableSchema) -> NDArray[np.float64]:
    low, high = column.min, column.max
    fill = math.nan if column.missing == "mean" else column.missing
    values = np.empty((len(cells), 1))
    for row, cell in enumerate(cells):
        if is_missing(cell, schema):
            if column.missing == "refuse":
                raise _refused(row, column)
            values[row] = fill
            continue
        value = _number(cell)
        if not math.isfinite(value):
            raise _WrongCell(f"'{_text(cell)}' is not a number", row, column, "the value is not a number")
        if (low is not None and value < low) or (high is not None and value > high):
            if low is None or high is None:
                limits = f"at least {low:g}" if low is not None else f"at most {high:g}"
            else:
                limits = f"{low:g} to {high:g}"
            raise _WrongCell(f"{value:g} is out of range ({limits})", row, column, f"out of range ({limits})")
        values[row] = value
    return values


def _categorical(cells: Cells, column: Column, schema: TableSchema) -> NDArray[np.float64]:
    index = {category: position for position, category in enumerate(column.categories)}
    values = np.zeros((len(cells), column.width))
    for row, cell in enumerate(cells):
        if not is_missing(cell, schema):
            word = _text(cell)
            if word not in index:
                known = f"known: {', '.join(index)}"
                problem = f"unknown category '{word}'{nearest(word, index)}; {known}"
                raise _WrongCell(problem, row, column, f"unknown category; {known}")
            values[row, index[word]] = 1.0
        elif column.missing == "refuse":
            raise _refused(row, column)
        elif column.missing == "most-frequent":
            values[row] = np.nan
        elif column.missing == "category":
            values[row, -1] = 1.0
        else:
            values[row, index[str(column.missing)]] = 1.0
    return values


def _encode_target(cells: Cells, schema: TableSchema, path: Path) -> NDArray[np.int64]:
    index = {name: position for position, name in enumerate(schema.classes)}
    target = np.empty(len(cells), dtype=np.int64)
    for row, cell in enumerate(cells):
        word = _text(cell)
        if word not in index:
            problem = (
                "the target is missing"
                if word in schema.missing_values
                else f"unknown class '{word}'{nearest(word, index)}; the schema knows: {', '.join(index)}"
            )
            raise DataError(problem, file=path, row=row + FIRST_ROW, column=schema.target)
        target[row] = index[word]
    return target
