"""Training and evaluation at one hospital: requests, results, and the plain way to do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.data.dataset import Dataset, Site
    from fl.model import ModelState
    from fl.tasks.base import Task


@dataclass(frozen=True)
class TrainSettings:
    """How to train, as the server says it.

    Attributes:
        round: the federated round, from 1.
        seed: the job's seed; with round and site it fixes the order of examples.
        local_epochs: passes over the site's data.
        batch_size: examples a step; the last of a pass may have fewer.
        lr: SGD's learning rate.
        momentum: SGD's momentum.
        weight_decay: SGD's L2 penalty.
        proximal_mu: weight of FedProx's term, mu / 2 * ||w - w_received||^2.
        report_initial_loss: also report the received weights' loss on the training data.
    """

    round: int
    seed: int
    local_epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    proximal_mu: float = 0.0
    report_initial_loss: bool = False


@dataclass(frozen=True)
class TrainRequest:
    """One site, the weights it received and how to train them."""

    site: Site
    state: ModelState
    settings: TrainSettings


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    Attributes:
        state: the trained model.
        examples: how many it was trained on.
        loss: the mean loss an example over all steps.
        initial_loss: the received weights' mean loss on the training data, where it was asked for.
    """

    state: ModelState
    examples: int
    loss: float
    initial_loss: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """A model's mean loss and metrics on a data set; with no examples there are no numbers."""

    examples: int
    loss: float
    metrics: Mapping[str, float]


class Trainer(Protocol):
    """Trains and evaluates for a site. The client app is built on one of these."""

    task: Task

    def train(self, request: TrainRequest) -> TrainResult:
        """Train the received weights on the site's training data."""
        ...

    def evaluate(self, state: ModelState, data: Dataset) -> Evaluation:
        """Evaluate weights on a data set."""
        ...
