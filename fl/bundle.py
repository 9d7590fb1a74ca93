"""A stored model: a folder with ``weights.safetensors`` and ``model.json``, and nothing that can run.

``model.json`` holds the format's number, the reference from which the task is made again, and the signature
that the weights must have.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from fl.errors import FlopsError, SettingsError
from fl.model import ModelState, split_state
from fl.tasks import from_reference

if TYPE_CHECKING:
    from pathlib import Path

    from fl.tasks.base import Task

FORMAT = 1
WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.json"


def save_bundle(folder: Path, task: Task, state: ModelState) -> None:
    """Write a model into a folder, which is made."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(a) for name, a in state.merged().items()}, folder / WEIGHTS)
    description = {"format": FORMAT, "reference": dict(task.reference), "signature": state.signature}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_bundle(folder: Path) -> tuple[Task, ModelState]:
    """Read a model from a folder.

    Returns:
        The task, and the arrays in the order of the task's model.

    Raises:
        FlopsError: the folder holds no such model, or its weights are not those it describes.
        SettingsError: the model's task cannot be found here.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        stored = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise FlopsError(f"{folder}: not a FLOps model: {error}") from error
    if description.get("format") != FORMAT:
        raise FlopsError(f"{folder}: format {description.get('format')} is unknown; upgrade FLOps")
    task = from_reference(description["reference"])
    model = task.model()
    if set(model.state_dict()) != set(stored):
        raise SettingsError(f"the stored weights are not those that task '{task.name}' has now; its model changed")
    state = split_state(model, stored)
    if state.signature != description["signature"]:
        raise FlopsError(f"{folder}: the weights do not have the signature that they were stored with")
    return task, state
