"""A task of one's own: which of three growers a wine is from, by its chemistry.

Run it from the repository:  flops run --task examples.wine:task --clients 3
"""

import numpy as np
from sklearn.datasets import load_wine
from torch import nn

from fl.data.dataset import Dataset
from fl.data.schema import Column, TableSchema
from fl.tasks import Hyperparameters, Task, accuracy, cross_entropy
from fl.tasks.layers import Statistics

FEATURES = tuple(load_wine().feature_names)
GROWERS = ("first", "second", "third")


class Network(nn.Module):
    """Normalised features, one hidden layer, a score a grower."""

    def __init__(self):
        super().__init__()
        self.statistics = Statistics(len(FEATURES))  # Filled by federated statistics, carried by the model.
        self.layers = nn.Sequential(nn.Linear(len(FEATURES), 16), nn.ReLU(), nn.Linear(16, len(GROWERS)))

    def forward(self, x):
        """Return scores, shape (examples, growers)."""
        return self.layers(self.statistics(x))


def load():
    """Return all examples; `flops run` deals them to hospitals."""
    x, y = load_wine(return_X_y=True)
    return Dataset(x.astype(np.float64), y.astype(np.int64))


task = Task(
    name="wine",
    description="178 wines of three growers, 13 measurements",
    schema=TableSchema(tuple(Column(name, "numeric") for name in FEATURES), "grower", GROWERS),
    model=Network,
    loss=cross_entropy,
    metrics={"accuracy": accuracy},
    hyperparameters=Hyperparameters(rounds=15, batch_size=8, lr=0.02, momentum=0.9),
    load=load,
)
