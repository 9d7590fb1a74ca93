"""A stored model: a folder with ``weights.safetensors`` and ``model.json``, and nothing that can run.

``model.json`` holds the format's number, the reference from which the task is made again, the names of the arrays in
the model's order, and the signature that they must have: who only hands weights on needs no model, and no PyTorch.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from fl.errors import FlopsError, SettingsError
from fl.model import ModelState
from fl.tasks import from_reference

if TYPE_CHECKING:
    from pathlib import Path

    from fl.tasks.base import Task

FORMAT = 2
WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"

_PARTS = tuple(field.name for field in fields(ModelState))


def save_bundle(folder: Path, task: Task, state: ModelState) -> None:
    """Write a model into a folder, which is made."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(a) for name, a in state.merged().items()}, folder / WEIGHTS)
    description = {
        "format": FORMAT,
        "reference": dict(task.reference),
        "arrays": {name: list(part) for name, part in vars(state).items()},
        "signature": state.signature,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_bundle(folder: Path) -> tuple[Task, ModelState]:
    """Read a model from a folder, and compare it with its task's model as it is now.

    Returns:
        The task, and the arrays in the order of the task's model.

    Raises:
        FlopsError: the folder holds no such model, or its weights are not those it describes.
        SettingsError: the model's task cannot be found here, or its model is another now.
    """
    task, state = read_bundle(folder)
    if set(task.model().state_dict()) != set(state.merged()):
        raise SettingsError(f"the stored weights are not those that task '{task.name}' has now; its model changed")
    return task, state


def read_bundle(folder: Path) -> tuple[Task, ModelState]:
    """Read a model from a folder as it was stored; see `load_bundle`. This needs no PyTorch."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        stored = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise FlopsError(f"{folder}: not a FLOps model: {error}") from error
    if description.get("format") != FORMAT:
        raise FlopsError(f"{folder}: format {description.get('format')} is not the one that this FLOps reads")
    task = from_reference(description["reference"])
    try:
        names = description["arrays"]
        state = ModelState(*({name: stored.pop(name) for name in names[part]} for part in _PARTS))
    except (KeyError, TypeError) as error:
        raise FlopsError(f"{folder}: the weights are not those that {DESCRIPTION} lists: {error}") from error
    if stored:
        raise FlopsError(f"{folder}: the weights are not those that {DESCRIPTION} lists: {', '.join(stored)}")
    if state.signature != description["signature"]:
        raise FlopsError(f"{folder}: the weights do not have the signature that they were stored with")
    return task, state
