"""A model's state as arrays: what is trained, what is only averaged, and what travels unchanged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
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
        arrays: the parameters, in the order of the model's ``state_dict``: trained, and given to the strategy.
        frozen: federated statistics: the same in every round of the model's life.
        buffers: what the model keeps beside its parameters, such as batch normalisation's means: averaged by
            examples, whatever the strategy, because they are no directions to step along.
    """

    arrays: Arrays
    frozen: Arrays
    buffers: Arrays = field(default_factory=dict)

    @property
    def signature(self) -> str:
        """The SHA-256 of names, shapes and dtypes in order: two models with it can be averaged."""
        rows = [
            [name, list(array.shape), str(array.dtype)]
            for part in (self.arrays, self.buffers, self.frozen)
            for name, array in part.items()
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def merged(self) -> dict[str, NDArray[Any]]:
        """Return all arrays under their names."""
        return {**self.arrays, **self.buffers, **self.frozen}

    def shares_arrays_with(self, other: ModelState) -> bool:
        """Tell whether both hold the very same array objects, and so the same weights."""
        mine, theirs = self.merged(), other.merged()
        return mine.keys() == theirs.keys() and all(mine[name] is theirs[name] for name in mine)

    def digest(self) -> str:
        """Return the SHA-256 of all values: the same for the same model, bit for bit."""
        total = hashlib.sha256(self.signature.encode())
        for array in self.merged().values():
            total.update(np.ascontiguousarray(array).tobytes())
        return total.hexdigest()


def split_state(model: nn.Module, arrays: Arrays) -> ModelState:
    """Sort a model's arrays into parameters, frozen statistics and other buffers, in the model's order."""
    # Tied weights have several names; all of them are parameters.
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names = list(model.state_dict())
    return ModelState(
        {name: arrays[name] for name in names if name in parameters},
        {name: arrays[name] for name in names if name.startswith(FROZEN)},
        {name: arrays[name] for name in names if name not in parameters and not name.startswith(FROZEN)},
    )


def read_state(model: nn.Module) -> ModelState:
    """Copy a model's arrays out of it."""
    return split_state(model, {k: v.detach().cpu().numpy().copy() for k, v in model.state_dict().items()})


def initial_state(task: Task, seed: int) -> ModelState:
    """Make the very first weights of a task; the same seed makes the same."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model()
    return read_state(model)


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
