"""Predictions from a stored model; also the loader of MLflow's ``python_function`` flavour.

It needs the task's model and nothing of training, server or client.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fl.bundle import load_bundle
from fl.data.schema import ArraySchema, TableSchema
from fl.data.table import encode_columns
from fl.errors import DataError
from fl.model import load_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from fl.model import ModelState
    from fl.tasks.base import Task


class Predictor:
    """A model that answers with a label and a probability for each class."""

    def __init__(self, task: Task, state: ModelState) -> None:
        self.task = task
        self._model = task.model()
        load_state(self._model, state)
        self._model.eval()

    def probabilities(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return class probabilities, float32 of shape ``(examples, classes)``, for encoded inputs."""
        result: NDArray[np.float32] = torch.softmax(torch.from_numpy(self.outputs(x)), dim=-1).numpy()
        return result

    def outputs(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the model says of encoded inputs, float32, an example a row."""
        with torch.inference_mode():
            result: NDArray[np.float32] = self._model(torch.from_numpy(np.ascontiguousarray(x))).float().numpy()
        return result

    def encode(self, inputs: Any) -> NDArray[Any]:
        """Turn what a caller has into the model's input.

        Args:
            inputs: for a table, a data frame or a mapping of columns to values; for arrays, anything that
                becomes an array of one example or a batch.

        Raises:
            DataError: the inputs do not fit the task's schema.
        """
        schema = self.task.schema
        if isinstance(schema, TableSchema):
            return _encode_table(inputs, schema)
        return _encode_arrays(inputs, schema)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Answer MLflow: one row an example.

        It has ``label`` and ``probability_<class>``, or ``prediction`` where the task has no classes.
        """
        import pandas as pd

        classes = self.task.schema.classes
        encoded = self.encode(model_input)
        if not classes:
            return pd.DataFrame({"prediction": self.outputs(encoded).reshape(len(encoded), -1).tolist()})
        chances = self.probabilities(encoded)
        frame = pd.DataFrame(chances, columns=[f"probability_{name}" for name in classes])
        frame.insert(0, "label", [classes[i] for i in chances.argmax(axis=1)])
        return frame


def load_predictor(folder: Path) -> Predictor:
    """Load a stored model; see `fl.bundle.load_bundle` for the errors."""
    return Predictor(*load_bundle(folder))


def _load_pyfunc(path: str) -> Predictor:
    """Load a model for MLflow, which calls this by its name."""
    return load_predictor(Path(path))


def _encode_table(inputs: Any, schema: TableSchema) -> NDArray[Any]:
    try:
        known = {str(name): np.asarray(inputs[name], dtype=object).ravel().tolist() for name in inputs}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError("a table is needed: a data frame, or a mapping of columns to values") from error
    rows = max((len(values) for values in known.values()), default=0)
    for column in schema.columns:
        if column.name not in known:
            if column.missing == "refuse":
                raise DataError("the column is missing", column=column.name)
            known[column.name] = [None] * rows
    return encode_columns(known, schema)


def _encode_arrays(inputs: Any, schema: ArraySchema) -> NDArray[Any]:
    try:
        x = np.asarray(inputs, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the inputs are not numbers: {error}") from error
    if x.shape == schema.shape:
        x = x[None]
    elif x.ndim and x.shape[1:] != schema.shape and x[:1].size == np.prod(schema.shape):
        x = x.reshape(-1, *schema.shape)
    if x.shape[1:] != schema.shape:
        raise DataError(f"an example has shape {list(x.shape[1:])}, the task's have {list(schema.shape)}")
    if not (np.isfinite(x).all() and x.size and x.min() >= schema.low and x.max() <= schema.high):
        raise DataError(f"values must be from {schema.low:g} to {schema.high:g}")
    return x
