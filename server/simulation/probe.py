"""Trying a task on two examples, so that what does not fit is known before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fl.data.schema import TableSchema
from fl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl.data.dataset import Site
    from fl.tasks.base import Task


def check_task(task: Task, sites: Sequence[Site]) -> None:
    """Check that schema, model, loss and metrics fit the data and each other.

    Raises:
        SettingsError: they do not; the message says which.
    """
    schema, first = task.schema, sites[0].train
    shape = (schema.width,) if isinstance(schema, TableSchema) else schema.shape
    if first.x.shape[1:] != shape:
        raise SettingsError(
            f"task '{task.name}': examples have shape {list(first.x.shape[1:])}, the schema says {list(shape)}"
        )
    if schema.classes:
        _check_classes(task, sites)
    if not isinstance(schema, TableSchema):
        for site in sites:
            low, high = site.train.x.min(), site.train.x.max()
            if not (schema.low <= low and high <= schema.high):
                raise SettingsError(
                    f"task '{task.name}': values at {site.name} go from {low:g} to {high:g}, the schema says "
                    f"{schema.low:g} to {schema.high:g}"
                )
    x, y = torch.from_numpy(first.x[:2]), torch.from_numpy(first.y[:2])
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model = task.model().eval()
        try:
            outputs = model(x)
            scores = {"loss": task.loss(outputs, y)}
            scores |= {f"metric '{name}'": metric(outputs, y) for name, metric in task.metrics.items()}
        except Exception as error:
            raise SettingsError(
                f"task '{task.name}': model, loss or metrics fail on its own data: {type(error).__name__}: {error}"
            ) from error
    for name, values in scores.items():
        if tuple(values.shape) != (len(y),):
            raise SettingsError(
                f"task '{task.name}': the {name} must be one number an example, shape [{len(y)}], "
                f"but has shape {list(values.shape)}"
            )


def _check_classes(task: Task, sites: Sequence[Site]) -> None:
    for site in sites:
        for data in (site.train, site.holdout):
            y = data.y
            whole = np.issubdtype(y.dtype, np.integer)
            if len(y) and not (whole and y.min() >= 0 and y.max() < len(task.schema.classes)):
                raise SettingsError(
                    f"task '{task.name}': targets at {site.name} are not class indices, whole numbers from 0 to "
                    f"{len(task.schema.classes) - 1}; a task without classes leaves them out of its schema"
                )
