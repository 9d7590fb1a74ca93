"""Tasks: what can be learned, by name.

Built in are ``digits``, ``breast-cancer`` and ``tabular``; one's own is ``package.module:attribute``.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fl.errors import SettingsError, nearest
from fl.tasks.base import Hyperparameters, Task, accuracy, cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "BUILT_IN",
    "Hyperparameters",
    "Task",
    "accuracy",
    "cross_entropy",
    "find_task",
    "from_reference",
]


@dataclass(frozen=True)
class BuiltIn:
    """Where a built-in task, or what makes it, is defined."""

    module: str
    attribute: str


BUILT_IN: Mapping[str, BuiltIn] = {
    "digits": BuiltIn("fl.tasks.digits", "digits"),
    "breast-cancer": BuiltIn("fl.tasks.breast_cancer", "breast_cancer"),
    "tabular": BuiltIn("fl.tasks.tabular", "tabular_task"),
}


def find_task(name: str, schema: Path | None = None) -> Task:
    """Return the task of this name.

    Args:
        name: a built-in task, or ``package.module:attribute``; the folder one stands in is searched too.
        schema: for ``tabular``, the schema file.

    Raises:
        SettingsError: no such task, or a schema where none belongs or none where one is needed.
    """
    if name == "tabular":
        from fl.data.schema import read_schema
        from fl.tasks.tabular import tabular_task

        if schema is None:
            raise SettingsError(
                "task 'tabular' needs a schema, a TOML file that describes the table's columns (docs/data.md): "
                "--schema FILE, or the key 'schema' in a federation's file"
            )
        return tabular_task(read_schema(schema))
    if schema is not None:
        raise SettingsError(f"a schema file belongs to the task 'tabular'; '{name}' brings its own, so leave it out")
    if ":" in name:
        return _own(name)
    if name not in BUILT_IN:
        raise SettingsError(
            f"unknown task '{name}'{nearest(name, BUILT_IN)}; known: {', '.join(BUILT_IN)}, "
            "or one's own as package.module:task"
        )
    place = BUILT_IN[name]
    task: Task = getattr(importlib.import_module(place.module), place.attribute)
    return task


def from_reference(reference: Mapping[str, Any]) -> Task:
    """Make a task again from what a stored model says of it.

    Raises:
        SettingsError: the task cannot be found here.
    """
    if reference.get("task") == "tabular":
        from fl.data.schema import table_schema_from_dict
        from fl.tasks.tabular import tabular_task

        return tabular_task(table_schema_from_dict(reference["schema"]))
    return find_task(str(reference["task"]))


def _own(name: str) -> Task:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise SettingsError(f"task '{name}': write package.module:task")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # Last, so that nothing here hides a library.
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        hint = f"; start where '{module_name.partition('.')[0]}' stands, or let PYTHONPATH name that folder"
        raise SettingsError(
            f"task '{name}': module '{module_name}' cannot be imported: {type(error).__name__}: {error}"
            f"{hint if isinstance(error, ModuleNotFoundError) else ''}"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Task):
        names = [key for key, value in vars(module).items() if isinstance(value, Task)]
        what = "is not a fl.tasks.Task" if hasattr(module, attribute) else "does not exist"
        raise SettingsError(
            f"task '{name}': '{attribute}' {what}{nearest(attribute, names)}; "
            f"tasks in {module_name}: {', '.join(names) or 'none'}"
        )
    return found.with_reference(task=name)
