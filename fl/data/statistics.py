"""Federated statistics: how hospitals normalise alike without showing a row.

Each hospital sends three numbers a feature: how many values it has, their sum and the sum of their squares.
The server adds them up and derives fill values, means and standard deviations, which become part of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from fl.data.schema import TableSchema


@dataclass(frozen=True)
class ColumnSums:
    """What one hospital, or all together, know of the features.

    Attributes:
        count: values present, float64, shape ``(features,)``.
        total: their sum, in the column's unit.
        squares: the sum of their squares.
    """

    count: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


def column_sums(x: NDArray[np.float64]) -> ColumnSums:
    """Sum up encoded features, shape ``(rows, features)``; NaN counts as absent."""
    present = ~np.isnan(x)
    values = np.where(present, x, 0.0)
    return ColumnSums(present.sum(axis=0).astype(np.float64), values.sum(axis=0), np.square(values).sum(axis=0))


def add_sums(parts: Iterable[ColumnSums]) -> ColumnSums:
    """Add hospitals' sums, in the order given."""
    parts = list(parts)
    return ColumnSums(
        np.sum([p.count for p in parts], axis=0),
        np.sum([p.total for p in parts], axis=0),
        np.sum([p.squares for p in parts], axis=0),
    )


def normalisation(sums: ColumnSums, schema: TableSchema) -> dict[str, NDArray[np.float64]]:
    """Derive what the model's input layer needs.

    Returns:
        ``statistics.fill``, ``statistics.mean`` and ``statistics.std``, each float64 of shape ``(features,)``.
        A numeric column is filled with its mean and scaled to mean 0 and standard deviation 1; a column that
        never varies keeps 1. A categorical one is filled with its most frequent category, and not scaled.

    Raises:
        DataError: a column is to be filled from the data, and nobody has a value.
    """
    count = np.maximum(sums.count, 1.0)
    mean = sums.total / count
    variance = np.maximum(sums.squares / count - np.square(mean), 0.0)
    # Below this the difference of two large sums is rounding, not spread.
    constant = variance <= 64 * np.finfo(np.float64).eps * np.square(mean)
    std = np.where(constant, 1.0, np.sqrt(variance))
    fill = mean.copy()
    start = 0
    for column in schema.columns:
        stop = start + column.width
        if column.missing in ("mean", "most-frequent") and not sums.count[start:stop].any():
            raise DataError("no hospital has a value, so there is none to fill in", column=column.name)
        if column.kind == "categorical":
            fill[start:stop] = 0.0
            fill[start + int(np.argmax(sums.total[start:stop]))] = 1.0
            mean[start:stop], std[start:stop] = 0.0, 1.0
        start = stop
    return {"statistics.fill": fill, "statistics.mean": mean, "statistics.std": std}
