"""How many threads PyTorch works with: one for small models, all for large ones.

An operation of a small model is over before a second thread has woken up. Where the machine does something else
too, waiting for that thread makes training many times slower; and with one thread the same seed gives the same
bits on any number of cores.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fl.tasks.base import Task

SMALL = 250_000
"""Models with fewer parameters work with one thread."""


def thread_count(task: Task) -> int:
    """Return how many threads suit a task's model."""
    with torch.random.fork_rng(devices=[]):
        parameters = sum(p.numel() for p in task.model().parameters())
    return 1 if parameters < SMALL else torch.get_num_threads()


@contextmanager
def suitable_threads(task: Task) -> Iterator[None]:
    """Let PyTorch use as many threads as suit a task's model, in this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(thread_count(task))
    try:
        yield
    finally:
        torch.set_num_threads(before)
