"""Handwritten digits: scikit-learn's 1,797 images of 8 by 8 pixels, ten classes.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.data.schema import ArraySchema
from fl.tasks.base import CLASSIFICATION, Hyperparameters, Task, accuracy, cross_entropy

if TYPE_CHECKING:
    from torch import nn

    from fl.data.dataset import Dataset


def _model() -> nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _load() -> Dataset:
    import numpy as np
    from sklearn.datasets import load_digits

    from fl.data.dataset import Dataset

    images, labels = load_digits(return_X_y=True)
    # The images come as 0 to 16.
    x = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return Dataset(x, labels.astype(np.int64))


digits = Task(
    name="digits",
    description="handwritten digits as 8 by 8 images, 1,797 of them; a small CNN",
    schema=ArraySchema((1, 8, 8), 0.0, 1.0, tuple(str(digit) for digit in range(10))),
    model=_model,
    loss=cross_entropy,
    metrics={"accuracy": accuracy},
    ranges=CLASSIFICATION,
    hyperparameters=Hyperparameters(rounds=30, local_epochs=3, batch_size=16, lr=0.2, momentum=0.5),
    clients=10,
    load=_load,
).with_reference(task="digits")
