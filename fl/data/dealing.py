"""A task's own data as one file a hospital, to try a federation of separate processes."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fl.data.files import suffix, write_examples
from fl.data.partition import Partition, deal
from fl.errors import SettingsError

if TYPE_CHECKING:
    from fl.data.dataset import Dataset
    from fl.tasks.base import Task

_DEALT = re.compile(r"hospital-[0-9]+\.(npz|csv)")
"""The names of dealt files, of any task and number of hospitals."""


def deal_files(
    task: Task, partition: Partition, clients: int | None, seed: int, out: Path, *, force: bool = False
) -> dict[Path, int]:
    """Deal a task's examples to hospitals and write each hospital's file; none appears before all are written.

    The same options give a hospital the same examples here as in a federation on one machine.

    Args:
        task: what is learned; must bring data of its own.
        partition: iid, dirichlet or unequal.
        clients: how many hospitals; None for the task's own number.
        seed: the same seed deals the same way.
        out: the folder for the files; made where it is missing.
        force: overwrite files of an earlier deal.

    Returns:
        The files in the hospitals' order, with the number of examples in each.

    Raises:
        SettingsError: an option does not fit the task or its data, or the folder cannot be used.
    """
    clients = task.clients if clients is None else clients
    if clients < 1:
        raise SettingsError(f"--clients {clients}: at least 1 hospital is needed")
    if not 0 <= seed < 2**63:
        raise SettingsError(f"--seed {seed}: a whole number from 0 to 2^63 - 1 is needed")
    if partition.kind == "natural":
        raise SettingsError(
            f"partition 'natural': task '{task.name}' does not say which hospital an example is from; "
            "use iid, dirichlet:ALPHA or unequal:SIGMA"
        )
    dealt = deal_examples(load_examples(task), partition, clients, seed)
    parts = {f"{name}{suffix(task)}": part for name, part in dealt.items()}
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out}: this is a file; name a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_empty(out, set(parts), force)
        with tempfile.TemporaryDirectory(prefix=".dealing-", dir=out) as unfinished:
            for name, part in parts.items():
                write_examples(Path(unfinished) / name, part, task)
            for name in parts:
                (Path(unfinished) / name).replace(out / name)
    except OSError as error:
        raise SettingsError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    return {out / name: len(part) for name, part in parts.items()}


def deal_examples(whole: Dataset, partition: Partition, clients: int, seed: int) -> dict[str, Dataset]:
    """Deal examples to hospitals, by their names in order; see `fl.data.partition.deal`.

    Raises:
        SettingsError: the partition does not fit the examples or their number.
    """
    if partition.kind == "dirichlet" and not np.issubdtype(whole.y.dtype, np.integer):
        raise SettingsError("partition 'dirichlet' skews classes, and this task has none; use iid or unequal:SIGMA")
    width = len(str(clients))
    parts = enumerate(deal(partition, whole.y, clients, seed), start=1)
    return {f"hospital-{number:0{width}}": whole.take(part) for number, part in parts}


def load_examples(task: Task) -> Dataset:
    """Load the data that a task brings.

    Raises:
        SettingsError: it brings none, or its own loading fails.
    """
    if task.load is None:
        raise SettingsError(f"task '{task.name}' has no data of its own to deal; its hospitals bring their own files")
    try:
        whole = task.load()
        if len(whole.x) != len(whole.y):
            raise ValueError(f"{len(whole.x)} examples and {len(whole.y)} targets")
    except Exception as error:
        raise SettingsError(
            f"task '{task.name}': its data cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return whole


def _check_empty(out: Path, names: set[str], force: bool) -> None:
    """Refuse a folder where this deal's files would overwrite others, or be mixed with those of another deal."""
    present = sorted(path.name for path in out.iterdir() if _DEALT.fullmatch(path.name))
    left = [name for name in present if name not in names]
    if present and not force and not left:
        raise SettingsError(
            f"--out {out}: {_some(present)} there already; --force overwrites, or name another folder"
        )
    if left:
        # Whoever takes all the folder's files would train on some examples twice.
        raise SettingsError(
            f"--out {out}: {_some(left)} there from another deal and would not be overwritten; remove what is not "
            "needed, or name another folder"
        )


def _some(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    return f"{names[0]} and {len(names) - 1} more are"
