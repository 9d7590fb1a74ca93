"""A hospital that does nothing: it sends the weights back, all changed a little so that they are really sent."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def _prepare(message: Message) -> None:
    """Import PyTorch where that is asked for, as an app would that trains with it."""
    if message.content.config_records["config"]["torch"]:
        import torch  # noqa: F401


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with other weights."""
    _prepare(message)
    change = np.float32(1e-3 * (1 + context.node_id % 1009))
    arrays = [array + change for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": 1, "loss": 0.0})
    return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
    """Answer that all is well."""
    _prepare(message)
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})}), reply_to=message)
