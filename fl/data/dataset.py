"""Examples as arrays, and what one hospital holds of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOLDOUT_FRACTION = 0.2
"""The part of its examples that a hospital keeps back from training, to evaluate on."""


@dataclass(frozen=True)
class Dataset:
    """Examples and their targets, in one order.

    Attributes:
        x: the inputs, one example a row of the first axis; the task's schema gives dtype and shape.
        y: the targets: int64 class indices, shape ``(examples,)``.
    """

    x: NDArray[Any]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """Return the examples at these indices, in their order."""
        return Dataset(self.x[indices], self.y[indices])


@dataclass(frozen=True)
class Site:
    """One hospital's data: what it trains on and what it holds out."""

    name: str
    train: Dataset
    holdout: Dataset


def concatenate(datasets: list[Dataset]) -> Dataset:
    """Join data sets of one schema, in the order given."""
    return Dataset(np.concatenate([d.x for d in datasets]), np.concatenate([d.y for d in datasets]))


def site_key(name: str) -> int:
    """Return a number for a site's name that is the same in every process: it seeds what the site draws."""
    return zlib.crc32(name.encode())


def split_site(name: str, data: Dataset, seed: int, fraction: float = HOLDOUT_FRACTION) -> Site:
    """Split a hospital's examples into training and hold-out.

    The split depends on the seed, the site's name and the number of examples alone, so that every job sees
    the same. From two examples on both parts hold at least one.
    """
    order = np.random.default_rng([seed, site_key(name)]).permutation(len(data))
    held = min(len(data) - 1, max(1, round(fraction * len(data)))) if len(data) > 1 else 0
    return Site(name, train=data.take(np.sort(order[held:])), holdout=data.take(np.sort(order[:held])))
