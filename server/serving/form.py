"""The form to try a prediction by hand: which fields a task's examples have, and values that fit them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fl.data.schema import ArraySchema, TableSchema
from server.serving.examples import example_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.data.dataset import Dataset
    from fl.data.schema import Column
    from fl.tasks.base import Task

MOST_PIXELS = 32
"""Rows and columns of an image that can still be drawn cell by cell."""

_log = logging.getLogger("flops.server.serving")


@dataclass(frozen=True)
class Field:
    """An input of a table's form.

    Attributes:
        name: the column's.
        numeric: whether it takes a number; else one of `choices`.
        choices: the categories.
        low: the least number, if there is one.
        high: the greatest.
        required: whether the column must have a value.
        hint: in words, what may stand there.
        example: a value that fits.
    """

    name: str
    numeric: bool
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    required: bool
    hint: str
    example: str


@dataclass(frozen=True)
class Form:
    """How an example is entered.

    Attributes:
        kind: "draw" for an image, "table" for a row, "json" for any other array.
        title: the task's name.
        fields: of a table.
        shape: of an array.
        rows: of an image.
        columns: of an image.
        low: the least value of an array's element: an image's background.
        high: the greatest: an image's ink.
    """

    kind: Literal["draw", "table", "json"]
    title: str
    fields: tuple[Field, ...] = ()
    shape: tuple[int, ...] = ()
    rows: int = 0
    columns: int = 0
    low: float = 0.0
    high: float = 1.0


def make_form(task: Task, examples: Mapping[str, str] | None = None) -> Form:
    """Return the form that fits a task's examples.

    Args:
        task: what is predicted.
        examples: values by column, see `typical`; where there are none any that fit.
    """
    schema = task.schema
    if isinstance(schema, TableSchema):
        return Form("table", task.name, fields=_fields(schema, examples or {}))
    rows, columns = _image(schema)
    return Form("draw" if rows else "json", task.name, (), schema.shape, rows, columns, schema.low, schema.high)


def _image(schema: ArraySchema) -> tuple[int, int]:
    """Return the rows and columns of what can be drawn; zeros where it cannot."""
    sides = [side for side in schema.shape if side != 1]
    bounded = math.isfinite(schema.low) and math.isfinite(schema.high) and schema.low < schema.high
    if len(sides) == 2 and max(sides) <= MOST_PIXELS and bounded:
        return sides[0], sides[1]
    return 0, 0


def _fields(schema: TableSchema, examples: Mapping[str, str]) -> tuple[Field, ...]:
    return tuple(
        Field(
            column.name,
            column.kind == "numeric",
            column.categories,
            column.min,
            column.max,
            column.missing == "refuse",
            _hint(column),
            examples.get(column.name) or _text(example_value(column)),
        )
        for column in schema.columns
    )


def _hint(column: Column) -> str:
    parts = []
    if column.kind == "numeric":
        if column.min is not None and column.max is not None:
            parts.append(f"{column.min:g} to {column.max:g}")
        elif column.min is not None:
            parts.append(f"{column.min:g} or more")
        elif column.max is not None:
            parts.append(f"{column.max:g} or less")
    if column.missing != "refuse":
        parts.append("may be empty")
    return ", ".join(parts)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"


def typical(task: Task) -> dict[str, str]:
    """Return each column's median, or its most frequent category, in the data set that ships with the task.

    Those are public, and a median is nobody's row. Hospitals' data are not here and never come here. Takes as long as
    loading does.
    """
    if task.load is None or not isinstance(task.schema, TableSchema):
        return {}
    try:
        return _middle(task.load(), task.schema)
    except Exception:  # A task of one's own may need what is not installed here; then any value that fits will do.
        _log.debug("no example values for task %s", task.name, exc_info=True)
        return {}


def _middle(data: Dataset, schema: TableSchema) -> dict[str, str]:
    import numpy as np

    found, at = {}, 0
    for column in schema.columns:
        if column.kind == "numeric":
            found[column.name] = f"{float(np.nanmedian(data.x[:, at])):.4g}"
        else:
            often = int(data.x[:, at : at + len(column.categories)].sum(axis=0).argmax())
            found[column.name] = column.categories[often]
        at += column.width
    return found
