"""What a task is: one small object that says everything about what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fl.data.dataset import Dataset
    from fl.data.schema import Schema

PerExample = Callable[["Tensor", "Tensor"], "Tensor"]
"""A function of the model's outputs and the targets to one number an example, shape ``(examples,)``."""


@dataclass(frozen=True)
class Hyperparameters:
    """How a hospital trains, and for how many rounds, where nothing else is said.

    Attributes:
        rounds: federated rounds in a job.
        local_epochs: passes over a hospital's own data in a round.
        batch_size: examples a step.
        lr: learning rate of SGD.
        momentum: momentum of SGD; starts at rest in every round.
        weight_decay: L2 penalty of SGD.
    """

    rounds: int = 20
    local_epochs: int = 1
    batch_size: int = 16
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Task:
    """What is learned, from what, and how it is judged.

    Attributes:
        name: as the user types it and as the contract between server and hospital names it.
        description: one line.
        schema: what an example looks like.
        model: makes the model with fresh weights from torch's global generator. Buffers of a sub-module named
            ``statistics`` are set once from federated statistics and never averaged.
        loss: one loss an example.
        metrics: further numbers an example, averaged over examples; ``accuracy`` is what the tables show.
        hyperparameters: the defaults.
        clients: how many hospitals to simulate where nothing else is said.
        load: for research, all the examples of a data set that ships with the task.
        reference: plain data from which `fl.tasks.from_reference` makes this task again.
        ranges: between which values the mean loss ("loss") and a metric can be; others may be anything. A server
            believes no hospital that measures beyond.
    """

    name: str
    description: str
    schema: Schema
    model: Callable[[], nn.Module]
    loss: PerExample
    metrics: Mapping[str, PerExample]
    hyperparameters: Hyperparameters = Hyperparameters()
    clients: int = 10
    load: Callable[[], Dataset] | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"accuracy": (0.0, 1.0)})

    def with_reference(self, **reference: Any) -> Task:
        """Return the task with the plain data that makes it again."""
        return replace(self, reference=reference)


CLASSIFICATION = {"loss": (0.0, math.inf), "accuracy": (0.0, 1.0)}
"""The ranges of cross-entropy and accuracy."""


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of class scores, shape ``(examples, classes)``, one number an example."""
    from torch.nn import functional

    return functional.cross_entropy(outputs, targets, reduction="none")


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the highest score is the target's class, else 0."""
    return (outputs.argmax(dim=-1) == targets).to(outputs.dtype)
