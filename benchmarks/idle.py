"""A task for measuring: next to no training, and a model of any size.

FLOPS_BENCH_ELEMENTS says how many weights the model has. Every one of them changes in a training step, and otherwise
at each hospital, so that all of them are really sent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from fl.data.schema import ArraySchema
from fl.tasks.base import Hyperparameters, Task

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

ARRAYS = 12
"""Of how many arrays a large model consists."""


def shape(elements: int) -> tuple[int, int]:
    """Return into how many arrays of how many elements a model's weights are divided."""
    arrays = ARRAYS if elements >= 1000 * ARRAYS else 1
    return arrays, elements // arrays


def _model() -> nn.Module:
    import torch

    arrays, elements = shape(int(os.environ.get("FLOPS_BENCH_ELEMENTS", "10")))

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(elements)) for _ in range(arrays)])

        def forward(self, x: Tensor) -> Tensor:
            total = torch.stack([part.sum() for part in self.parts]).sum()
            return x[:, 0] * total / (arrays * elements)

    return Sum()


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    # Its gradient is one, however large the model: no step can diverge.
    return (outputs - targets) * outputs.numel()


def write_data(path: Path, hospital: int) -> None:
    """Write one hospital's two examples: one is trained on, one held out."""
    x = np.full((2, 1), 0.1 + 0.8 * (hospital % 97) / 97, np.float32)
    np.savez(path, x=x + np.float32([[0], [0.01]]), y=np.float32([0, 1]))


task = Task(
    name="idle",
    description="next to nothing",
    schema=ArraySchema((1,), 0.0, 1.0, ()),
    model=_model,
    loss=_loss,
    metrics={},
    # The gradient of a weight is the example divided by their number; this makes the step about the example.
    hyperparameters=Hyperparameters(rounds=1, lr=0.01 * int(os.environ.get("FLOPS_BENCH_ELEMENTS", "10"))),
)
