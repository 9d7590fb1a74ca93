"""Whether hospitals' column sums can be: they become part of the model, for all its life.

A hospital that sends sums of another unit, or made-up ones, would spoil the normalisation for all.
"""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fl.data.schema import Column, TableSchema
    from fl.data.statistics import ColumnSums

RATIO = 1000.0
"""How many times as large as at the others a numeric column may be at one hospital: other patients are not, and
another unit, such as g for mg, is just about."""

_SLACK = 1e-9
"""Relative rounding of sums."""


def impossible(sums: ColumnSums, rows: int, schema: TableSchema) -> str | None:
    """Return why no table of so many rows has these sums, to be read after the hospital's name, or None.

    Args:
        sums: one hospital's; float64 of shape ``(features,)`` each.
        rows: how many training examples it says it has.
        schema: the table's.
    """
    parts = (sums.count, sums.total, sums.squares)
    if any(a.shape != (schema.width,) or a.dtype != np.float64 or not np.isfinite(a).all() for a in parts):
        return "returned column sums that do not fit the schema"
    for column, feature in _features(schema):
        count, total, squares = (float(part[feature]) for part in parts)
        low, high = _range(column)
        slack = _SLACK * max(abs(total), squares, 1.0)
        if not 0 <= count <= rows:
            return f"returned column sums that cannot be: column '{column.name}' has {count:g} values in {rows} rows"
        # The square of a mean is at most the mean of the squares.
        if squares < -slack or total * total > (squares + slack) * count * (1 + _SLACK) + slack:
            return f"returned column sums that cannot be: the squares of column '{column.name}' are too small"
        if count and not low - slack <= total / count <= high + slack:
            return (
                f"returned column sums that cannot be: column '{column.name}' is {total / count:.6g} on average, and "
                f"the schema allows {low:g} to {high:g}"
            )
    return None


def outlying(found: Mapping[int, ColumnSums], schema: TableSchema) -> dict[int, str]:
    """Return which hospitals' columns are of another order than the others', with the reason.

    Args:
        found: the sums by node.
        schema: the table's.
    """
    sizes = {
        node: np.sqrt(np.divide(sums.squares, sums.count, out=np.zeros(schema.width), where=sums.count > 0))
        for node, sums in found.items()
    }
    odd: dict[int, str] = {}
    for column, feature in _features(schema):
        if column.kind != "numeric":
            continue
        for node, size in sizes.items():
            others = [float(other[feature]) for n, other in sizes.items() if n != node and other[feature] > 0]
            usual = median(others) if others else math.inf
            if size[feature] > RATIO * usual:
                odd.setdefault(
                    node,
                    f"returned column sums of another order: column '{column.name}' is {size[feature] / usual:.3g} "
                    f"times as large as at the others (at most {RATIO:g}); another unit?",
                )
    return odd


def _features(schema: TableSchema) -> Iterator[tuple[Column, int]]:
    feature = 0
    for column in schema.columns:
        for _ in range(column.width):
            yield column, feature
            feature += 1


def _range(column: Column) -> tuple[float, float]:
    if column.kind != "numeric":
        return 0.0, 1.0
    return (
        -math.inf if column.min is None else column.min,
        math.inf if column.max is None else column.max,
    )
