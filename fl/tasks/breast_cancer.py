"""Breast cancer Wisconsin (diagnostic): 569 patients, 30 features of cell nuclei, benign or malignant.

Source: W. Wolberg, O. Mangasarian, N. Street, W. Street, UCI Machine Learning Repository, 1995.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fl.data.schema import Column, TableSchema
from fl.tasks.base import CLASSIFICATION, Hyperparameters, Task, accuracy, cross_entropy
from fl.tasks.tabular import perceptron

if TYPE_CHECKING:
    from fl.data.dataset import Dataset

_MEASURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)

SCHEMA = TableSchema(
    columns=tuple(
        Column(name, "numeric", missing="mean", min=0.0)
        for name in (
            *(f"mean {measure}" for measure in _MEASURES),
            *(f"{measure} error" for measure in _MEASURES),
            *(f"worst {measure}" for measure in _MEASURES),
        )
    ),
    target="diagnosis",
    classes=("malignant", "benign"),
)


def _load() -> Dataset:
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    from fl.data.dataset import Dataset

    features, labels = load_breast_cancer(return_X_y=True)
    return Dataset(features.astype(np.float64), labels.astype(np.int64))


breast_cancer = Task(
    name="breast-cancer",
    description="Wisconsin diagnostic: 569 patients, 30 features; a small perceptron",
    schema=SCHEMA,
    model=lambda: perceptron(SCHEMA.width, len(SCHEMA.classes)),
    loss=cross_entropy,
    metrics={"accuracy": accuracy},
    ranges=CLASSIFICATION,
    hyperparameters=Hyperparameters(rounds=20, local_epochs=2, batch_size=16, lr=0.05, momentum=0.5),
    clients=5,
    load=_load,
).with_reference(task="breast-cancer")
