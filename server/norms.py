"""How large hospitals' changes of a model are, and which are too large to be averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fl.model import ModelState

    Arrays = Mapping[str, NDArray[Any]]

WEIGHTS, BUFFERS = "weights", "buffers"
"""The parts of a model whose changes are compared, each by itself."""

_PIECE = 2**15
"""Elements that are worked on at a time."""


def squared_norm(array: NDArray[Any], origin: NDArray[Any] | None = None) -> float:
    """Return the squared L2 norm of a floating-point array, or of its difference from another; 0 for other kinds."""
    if not np.issubdtype(array.dtype, np.floating):
        return 0.0
    total, flat = 0.0, array.reshape(-1)
    start_flat = None if origin is None else origin.reshape(-1)
    with np.errstate(over="ignore"):
        # In double precision: the square of a large float32 would overflow. In pieces: no second model.
        for start in range(0, flat.size, _PIECE):
            piece = slice(start, start + _PIECE)
            values = flat[piece].astype(np.float64)
            if start_flat is not None:
                values -= start_flat[piece]
            total += float(values @ values)
    return total


def model_norms(state: ModelState) -> dict[str, float]:
    """Return the L2 norms of a model's parts."""

    def norm(arrays: Arrays) -> float:
        return math.sqrt(sum(squared_norm(array) for array in arrays.values()))

    return {WEIGHTS: norm(state.arrays), BUFFERS: norm(state.buffers)}


class TooLarge(Exception):  # noqa: N818 - the change is, the server is not in error
    """A change is too large to be averaged; the message is to be read after the hospital's name."""


@dataclass
class NormJudge:
    """Compares the sizes of a round's changes with each other, and with the model's own.

    A change is too large when it is more than so many times the median of the others, and larger than what it
    changes. The second is for models that most hospitals have learned: their changes vanish, and whoever still has
    something to add, because it is new or came back, would be kept out for ever.

    The verdict is the same in whatever order answers come: it is spoken when all are known, and before only of
    changes that no other answer can make too large.

    Attributes:
        asked: how many hospitals train in this round.
        ratio: how many times the median of the others a change may be.
        own: the L2 norms of the model that was sent, by part.
    """

    asked: int
    ratio: float
    own: Mapping[str, float] = field(default_factory=dict)
    _noted: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def note(self, node: int, norms: Mapping[str, float]) -> None:
        """Take down the sizes of a node's changes, by part."""
        self._noted[node] = norms

    def certain(self, node: int) -> bool:
        """Tell whether a node's changes are not too large, whatever the others that are still to come are like."""
        unknown = self.asked - len(self._noted)
        return all(norm <= self._most(node, part, unknown) for part, norm in self._noted[node].items())

    def judge(self, node: int) -> None:
        """Compare what was noted of one node with all others.

        Raises:
            TooLarge: a change is.
        """
        for part, norm in self._noted[node].items():
            if norm <= self._most(node, part):
                continue
            usual = self._usual(node, part)
            raise TooLarge(
                f"changed the {part} {norm / usual:.3g} times as much as the others (at most {self.ratio:g}), and "
                "by more than their own size"
                if usual
                else f"changed the {part} by more than their own size, and the others not at all"
            )

    def _most(self, node: int, part: str, unknown: int = 0) -> float:
        """Return how large a change may be; with so many still unknown, at least."""
        if math.isinf(self.ratio):
            return math.inf
        usual, own = self._usual(node, part, unknown), self.own.get(part, 0.0)
        if not unknown and usual == own == 0:  # Nobody else did anything, to a model of zeros.
            return math.inf
        return max(self.ratio * usual, own)

    def _usual(self, node: int, part: str, unknown: int = 0) -> float:
        # The least that the unknown can be is 0; those that never come would only raise the median.
        others = [norms[part] for other, norms in self._noted.items() if other != node] + [0.0] * unknown
        return median(others) if others else math.inf
