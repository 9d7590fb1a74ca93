"""Examples as arrays, and what one hospital holds of them."""

from __future__ import annotations

import hashlib
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
        y: the targets, shape ``(examples,)``: int64 class indices, or whatever else the task's loss takes.
    """

    x: NDArray[Any]
    y: NDArray[Any]

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

    The seed and an example's own values decide where it belongs, so it stays there whatever else changes: the
    hospital that has it, the examples beside it. No later job with that seed trains on what an earlier one was
    judged by. From two examples on both parts hold at least one, where need be by moving one example.
    """
    draws = _draws(data, seed)
    held = draws < fraction
    if len(data) > 1 and not held.any():
        held[draws.argmin()] = True
    elif held.all() and len(data):
        held[draws.argmax()] = False
    return Site(name, train=data.take(np.flatnonzero(~held)), holdout=data.take(np.flatnonzero(held)))


def _draws(data: Dataset, seed: int) -> NDArray[np.float64]:
    """Return for each example a number from 0 to 1 that looks random: the seed and its values fix it."""
    x, y = np.ascontiguousarray(data.x), np.ascontiguousarray(data.y)
    draws, key = np.empty(len(data)), str(seed).encode()
    for row in range(len(data)):
        digest = hashlib.blake2b(x[row].tobytes() + y[row].tobytes(), digest_size=8, key=key).digest()
        draws[row] = int.from_bytes(digest, "big") / 2**64
    return draws
