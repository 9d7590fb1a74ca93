"""One hospital's data file: CSV, Parquet or NPZ, read through the task's schema, and written to be read again.

A table is CSV, Parquet, or NPZ with one array a column; arrays of one shape, such as images, are NPZ with ``x``
and ``y``.
"""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fl.data.npz import read_npz_arrays, read_npz_table
from fl.data.schema import ArraySchema, TableSchema
from fl.data.table import read_table
from fl.errors import DataError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from fl.data.dataset import Dataset
    from fl.tasks.base import Task


def read_examples(path: Path, task: Task) -> Dataset:
    """Read what one hospital has.

    Args:
        path: a .csv or .parquet file for a table, a .npz file for a table or for arrays.
        task: what is learned; its schema says what may stand in the file.

    Returns:
        For a table x as `fl.data.table.encode_columns` gives it and y as int64; for arrays x as float32, shape
        ``(examples, *shape)``, and y as int64 class indices (float32 where the task has no classes).

    Raises:
        DataError: the file cannot be read, does not fit the schema, or holds several hospitals; names file,
            row and column or array.
    """
    schema = task.schema
    known = (".npz",) if isinstance(schema, ArraySchema) else (".csv", ".parquet", ".npz")
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("no such file", file=path) from error
    except OSError as error:  # Of its folder.
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    if path.is_dir() or path.suffix.lower() not in known:
        *others, last = known
        wanted = f"expected a {', '.join(others)} or {last} file" if others else f"expected a {last} file"
        if isinstance(schema, ArraySchema):
            shape = ", ".join(["examples", *(str(size) for size in schema.shape)])
            wanted = f"task '{task.name}' learns from arrays: {wanted} with arrays 'x' ({shape}) and 'y' (examples)"
        raise DataError(wanted, file=path)
    if size == 0:
        raise DataError("the file is empty", file=path)
    if isinstance(schema, ArraySchema):
        return read_npz_arrays(path, schema)
    read = read_npz_table if path.suffix.lower() == ".npz" else read_table
    sites = read(path, schema)
    if len(sites) > 1:
        names = ", ".join(list(sites)[:5]) + (", …" if len(sites) > 5 else "")
        raise DataError(
            f"the file holds {len(sites)} hospitals ({names}), and a hospital's node takes its own examples alone; "
            "give it a file with the rows of one",
            file=path,
            column=schema.site,
        )
    return next(iter(sites.values()))


def suffix(task: Task) -> str:
    """Return the ending of the files that `write_examples` makes for a task."""
    return ".npz" if isinstance(task.schema, ArraySchema) else ".csv"


def write_examples(path: Path, data: Dataset, task: Task) -> None:
    """Write one hospital's examples as a file that `read_examples` turns into the same bits.

    Args:
        path: the file, ending as `suffix` says.
        data: the examples, as the task's ``load`` gives them.
        task: what is learned.

    Raises:
        SettingsError: the task has columns that cannot be written, or data that does not fit its own schema.
        OSError: the file cannot be written.
    """
    schema = task.schema
    if isinstance(schema, ArraySchema):
        np.savez(path, x=data.x, y=data.y)
    else:
        _write_csv(path, data, schema, task.name)
    try:
        again = read_examples(path, task)
    except DataError as error:
        raise SettingsError(f"task '{task.name}': its data does not fit its own schema: {error.problem}") from error
    for name, before, after in (("x", data.x, again.x), ("y", data.y, again.y)):
        if before.dtype != after.dtype or before.tobytes() != after.tobytes():
            raise SettingsError(
                f"task '{task.name}': a data file would not give the same {name} again: it has dtype {before.dtype}, "
                f"and what is read from a file has {after.dtype}"
            )


def _write_csv(path: Path, data: Dataset, schema: TableSchema, name: str) -> None:
    for column in schema.columns:
        if column.kind != "numeric":
            raise SettingsError(
                f"task '{name}': column '{column.name}' is {column.kind}; only numeric columns can be written"
            )
    missing = schema.missing_values[0] if schema.missing_values else ""
    header = [column.name for column in schema.columns] + [schema.target]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header + ([schema.site] if schema.site is not None else []))
        for x, y in zip(data.x.tolist(), data.y.tolist(), strict=True):
            cells: list[Any] = [missing if math.isnan(value) else repr(value) for value in x]
            cells.append(schema.classes[y])
            writer.writerow(cells + ([path.stem] if schema.site is not None else []))
