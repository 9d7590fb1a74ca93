"""A model's state as arrays: names, shapes, the part that is averaged and the part that travels unchanged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import nn

    from fl.tasks.base import Task

    Arrays = Mapping[str, NDArray[Any]]

FROZEN = "statistics."
"""Arrays whose name starts so are set once for a model and never trained or averaged."""


@dataclass(frozen=True)
class ModelState:
    """All arrays of a model.

    Attributes:
        arrays: trained and averaged, in the order of the model's ``state_dict``.
        frozen: federated statistics: the same in every round of the model's life.
    """

    arrays: Arrays
    frozen: Arrays

    @property
    def signature(self) -> str:
        """The SHA-256 of names, shapes and dtypes in order: two models with it can be averaged."""
        rows = [
            [name, list(array.shape), str(array.dtype)]
            for part in (self.arrays, self.frozen)
            for name, array in part.items()
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def merged(self) -> dict[str, NDArray[Any]]:
        """Return all arrays under their names."""
        return {**self.arrays, **self.frozen}

    def shares_arrays_with(self, other: ModelState) -> bool:
        """Tell whether both hold the very same array objects, and so the same weights."""
        mine, theirs = self.merged(), other.merged()
        return mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)

    def digest(self) -> str:
        """Return the SHA-256 of all values: the same for the same model, bit for bit."""
        total = hashlib.sha256(self.signature.encode())
        for array in (*self.arrays.values(), *self.frozen.values()):
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def split_state(arrays: Arrays) -> ModelState:
    """Sort a model's arrays into averaged and frozen ones."""
    return ModelState(
        {name: array for name, array in arrays.items() if not name.startswith(FROZEN)},
        {name: array for name, array in arrays.items() if name.startswith(FROZEN)},
    )


def initial_state(task: Task, seed: int) -> ModelState:
    """Make the very first weights of a task; the same seed makes the same."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model()
    return split_state({name: value.detach().numpy().copy() for name, value in model.state_dict().items()})


def load_state(model: nn.Module, state: ModelState) -> None:
    """Put a state's arrays into a model, in place."""
    import torch

    target = model.state_dict()
    with torch.no_grad():
        for name, array in state.merged().items():
            target[name].copy_(torch.from_numpy(np.array(array)))


def conform(arrays: Arrays, like: Arrays) -> dict[str, NDArray[Any]]:
    """Give aggregated arrays the dtypes and the order of the model's own; whole numbers are rounded."""
    result = {}
    for name, model_array in like.items():
        array = np.asarray(arrays[name])
        if array.dtype != model_array.dtype and np.issubdtype(model_array.dtype, np.integer):
            array = np.asarray(np.rint(array))
        result[name] = array.astype(model_array.dtype, copy=False).reshape(model_array.shape)
    return result
