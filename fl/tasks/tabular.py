"""Tables: any columns that a schema describes, classified by a small multi-layer perceptron.

The model's first layer fills and scales the features with the federated statistics it carries, so the same
weights file serves raw values anywhere.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from fl.data.schema import TableSchema, schema_to_dict
from fl.tasks.base import CLASSIFICATION, Hyperparameters, Task, accuracy, cross_entropy

if TYPE_CHECKING:
    from torch import nn

HIDDEN = (32, 16)
"""Units of the hidden layers."""

DESCRIPTION = "any CSV or Parquet that a schema describes; needs --data and --schema"
HYPERPARAMETERS = Hyperparameters(rounds=20, local_epochs=2, batch_size=16, lr=0.05, momentum=0.5)


def perceptron(features: int, classes: int, hidden: tuple[int, ...] = HIDDEN) -> nn.Module:
    """Make a classifier of float64 features, NaN where missing, to float32 class scores."""
    from torch import nn

    from fl.tasks.layers import Statistics

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.statistics = Statistics(features)
            widths = (features, *hidden)
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(widths):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], classes))

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.layers(self.statistics(x))

    return Classifier()


def tabular_task(schema: TableSchema) -> Task:
    """Make the task of a table that this schema describes."""
    return Task(
        name="tabular",
        description=DESCRIPTION,
        schema=schema,
        model=lambda: perceptron(schema.width, len(schema.classes)),
        loss=cross_entropy,
        metrics={"accuracy": accuracy},
        ranges=CLASSIFICATION,
        hyperparameters=HYPERPARAMETERS,
    ).with_reference(task="tabular", schema=schema_to_dict(schema))
