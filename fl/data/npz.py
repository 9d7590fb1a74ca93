"""NumPy archives (.npz): opened without pickle, which could run code, and checked array by array.

Arrays have no header, so their rows count from 0, as NumPy does; every error says so.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.npyio import NpzFile

from fl.data.dataset import Dataset
from fl.data.table import FIRST_ROW, check_header, table_from_cells
from fl.errors import DataError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from fl.data.schema import ArraySchema, TableSchema

NUMBERS = "iuf"
"""NumPy's kinds of dtype that are numbers here: whole, without sign, floating; no truth values, no text."""


def read_npz_arrays(path: Path, schema: ArraySchema) -> Dataset:
    """Read the arrays ``x`` and ``y`` of one hospital.

    Args:
        path: an archive with ``x``, numbers of shape ``(examples, *schema.shape)``, and ``y``, shape
            ``(examples,)``: class indices, or any numbers where the schema has no classes.
        schema: what an example looks like.

    Returns:
        x as float32; y as int64 class indices, or as float32 where the schema has no classes.

    Raises:
        DataError: the file cannot be read or does not fit the schema; names file, array and row.
    """
    with _opened(path) as archive:
        for name in ("x", "y"):
            if name not in archive.files:
                extra = [other for other in archive.files if other not in ("x", "y")]
                has = ", ".join(archive.files) or "none"
                raise DataError(f"array '{name}' is missing{nearest(name, extra)}; the file has: {has}", file=path)
        for name in archive.files:
            if name not in ("x", "y"):
                raise _wrong(path, name, "no such array belongs here; only 'x' and 'y' do")
        x, y = (_load(path, archive, name) for name in ("x", "y"))
    x = _check_inputs(path, x, schema)
    if y.ndim != 1:
        raise _wrong(path, "y", f"its shape is {list(y.shape)}; one target an example is needed, shape [{len(x)}]")
    if len(y) != len(x):
        raise _wrong(path, "y", f"it has {len(y)} rows and array 'x' has {len(x)}; both need one an example")
    return Dataset(x, _check_classes(path, y, schema) if schema.classes else _check_numbers(path, y))


def read_npz_table(path: Path, schema: TableSchema) -> dict[str, Dataset]:
    """Read a table that is stored as one 1-D array a column, numbers or text; arrays without a column are ignored.

    Returns:
        The data by site, as `fl.data.table.read_table` does.

    Raises:
        DataError: the file cannot be read or does not fit the schema; names file, array and row.
    """
    wanted = [column.name for column in schema.columns] + [schema.target]
    wanted += [schema.site] if schema.site is not None else []
    try:
        with _opened(path) as archive:
            check_header(path, archive.files, schema)
            arrays = {name: _load(path, archive, name) for name in wanted}
        for name, array in arrays.items():
            if array.ndim != 1:
                raise _wrong(path, name, f"its shape is {list(array.shape)}; a column has one axis, the rows")
            if array.dtype.kind not in NUMBERS + "bU":
                raise _wrong(path, name, f"it holds {array.dtype}; a column holds numbers or text (str)")
            if len(array) != len(arrays[schema.target]):
                raise _wrong(
                    path, name, f"it has {len(array)} rows and '{schema.target}' has {len(arrays[schema.target])}"
                )
        if not len(arrays[schema.target]):
            raise _wrong(path, schema.target, "it has no rows")
        return table_from_cells(path, {name: array.tolist() for name, array in arrays.items()}, schema)
    except DataError as error:
        if error.column is None:
            raise
        # Checked like any table, whose rows count from the header; here there is none.
        row = None if error.row is None or error.row < FIRST_ROW else error.row - FIRST_ROW
        raise _wrong(path, error.column, error.problem, row) from error


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    with file:
        try:
            archive = np.load(file, allow_pickle=False)
        except Exception as error:  # What is no archive, or half of one, fails in many ways.
            raise DataError("not an NPZ archive (numpy.savez makes one), or a damaged one", file=path) from error
        if not isinstance(archive, NpzFile):
            raise DataError("one bare array; an NPZ archive is needed (numpy.savez makes one)", file=path)
        twice = [name for name in archive.files if archive.files.count(name) > 1]
        if twice:
            raise _wrong(path, twice[0], "the file holds it twice")
        yield archive


def _load(path: Path, archive: NpzFile, name: str) -> NDArray[Any]:
    try:
        array = archive[name]
    except Exception as error:  # A damaged member fails in many ways, too.
        if "allow_pickle" in str(error):
            raise _wrong(path, name, "it holds Python objects, which can run code; store numbers or text") from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise _wrong(path, name, f"it cannot be read, the file is damaged ({reason})") from error
    if not isinstance(array, np.ndarray):
        raise _wrong(path, name, "it is no NumPy array")
    return array


def _check_inputs(path: Path, x: NDArray[Any], schema: ArraySchema) -> NDArray[np.float32]:
    if x.dtype.kind not in NUMBERS:
        raise _wrong(path, "x", f"it holds {x.dtype}; numbers are needed")
    if x.ndim == 0 or x.shape[1:] != schema.shape:
        needed = ", ".join(["examples", *(str(size) for size in schema.shape)])
        raise _wrong(path, "x", f"its shape is {list(x.shape)}; [{needed}] is needed")
    if len(x) == 0:
        raise _wrong(path, "x", "it has no rows")
    with np.errstate(over="ignore"):  # What is too large becomes infinite and is refused as that.
        cast = x.astype(np.float32)
    fits = np.isfinite(cast) & (x >= schema.low) & (x <= schema.high)
    if not fits.all():
        row, *place = (int(index) for index in np.argwhere(~fits)[0])
        where = f" at {place}" if place else ""
        limits = f"from {schema.low:g} to {schema.high:g}"
        raise _wrong(path, "x", f"the value{where} is {x[row, *place]:g}, not a finite number {limits}", row)
    return cast


def _check_classes(path: Path, y: NDArray[Any], schema: ArraySchema) -> NDArray[np.int64]:
    needed = f"the index of a class, a whole number from 0 to {len(schema.classes) - 1}"
    if y.dtype.kind not in NUMBERS:
        raise _wrong(path, "y", f"it holds {y.dtype}; needed is {needed}")
    fits = (y >= 0) & (y < len(schema.classes)) & (y == np.floor(y))
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        raise _wrong(path, "y", f"{y[row]:g} is not {needed}", row)
    return y.astype(np.int64)


def _check_numbers(path: Path, y: NDArray[Any]) -> NDArray[np.float32]:
    if y.dtype.kind not in NUMBERS:
        raise _wrong(path, "y", f"it holds {y.dtype}; numbers are needed")
    with np.errstate(over="ignore"):
        cast = y.astype(np.float32)
    if not np.isfinite(cast).all():
        row = int(np.flatnonzero(~np.isfinite(cast))[0])
        raise _wrong(path, "y", f"{y[row]:g} is not a finite number", row)
    return cast


def _wrong(path: Path, array: str, problem: str, row: int | None = None) -> DataError:
    where = f"array '{array}'" if row is None else f"array '{array}', row {row} (counted from 0)"
    return DataError(f"{where}: {problem}", file=path)
