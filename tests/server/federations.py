"""What tests of `flops run` share: a quick one, tasks of one's own, and what the registry holds after it."""

import sqlite3

QUICK = ("run", "breast-cancer", "--rounds", 2)

OWN = """
from torch import nn
from fl.tasks.breast_cancer import breast_cancer as base
from dataclasses import replace
import numpy as np
from fl.data.dataset import Dataset
from fl.data.schema import ArraySchema

print("loaded")

def fails(outputs, targets):
    if len(outputs) > 2:
        raise ValueError("no such lesion")
    return base.loss(outputs, targets)

failing = replace(base, loss=fails)
mean = replace(base, loss=lambda o, t: base.loss(o, t).mean())
wide = replace(base, load=lambda: Dataset(np.zeros((40, 7)), np.zeros(40, dtype=np.int64)))

def numbers():
    x = np.random.default_rng(0).random((60, 4), dtype=np.float32)
    return Dataset(x, x.sum(axis=1))

regression = replace(
    base, schema=ArraySchema((4,), 0, 1), model=lambda: nn.Linear(4, 1), metrics={}, load=numbers,
    loss=lambda o, t: (o[:, 0] - t) ** 2,
)
"""


def versions(folder, name="flops-breast-cancer"):
    """Count the versions that the embedded registry holds."""
    database = folder / "flops-registry" / "mlflow.db"
    if not database.exists():
        return 0
    with sqlite3.connect(database) as connection:
        return connection.execute("select count(*) from model_versions where name = ?", [name]).fetchone()[0]
