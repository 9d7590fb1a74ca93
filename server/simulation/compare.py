"""What federating brings: the same task trained by each hospital alone, and on all data pooled.

Both get as many passes over their data as the federation's hospitals made in all rounds, with the same
optimizer settings and, for tables, the same statistics. All are judged on the hold-out data of all hospitals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.data.dataset import Site, concatenate
from fl.training import TrainRequest, TrainSettings
from fl.training.sequential import SequentialTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fl.model import ModelState
    from fl.tasks.base import Hyperparameters, Task
    from fl.training import Evaluation


@dataclass(frozen=True)
class Comparison:
    """The other two ways to train.

    Attributes:
        local: each hospital's own model, on all hospitals' hold-out data.
        local_own: each hospital's own model, on its own hold-out data.
        pooled: the model of all data in one place, on all hospitals' hold-out data.
    """

    local: Mapping[str, Evaluation]
    local_own: Mapping[str, Evaluation]
    pooled: Evaluation


def compare(
    task: Task,
    sites: Sequence[Site],
    start: ModelState,
    hyperparameters: Hyperparameters,
    seed: int,
    device: str,
    progress: Callable[[], None],
) -> Comparison:
    """Train each hospital alone and all data pooled, from the task's first weights.

    Args:
        task: what is learned.
        sites: the hospitals.
        start: the task's first weights, with the federation's statistics.
        hyperparameters: the federation's.
        seed: the federation's.
        device: a torch device.
        progress: called after each pass over a data set; `passes` says how many there will be.
    """
    trainer = SequentialTrainer(task, device, on_epoch=progress)
    h = hyperparameters
    settings = TrainSettings(1, seed, h.rounds * h.local_epochs, h.batch_size, h.lr, h.momentum, h.weight_decay)
    everyone = concatenate([site.holdout for site in sites if len(site.holdout)])
    local, own = {}, {}
    for site in sites:
        alone = trainer.train(TrainRequest(site, start, settings)).state
        local[site.name] = trainer.evaluate(alone, everyone)
        own[site.name] = trainer.evaluate(alone, site.holdout)
    pool = Site("all hospitals", concatenate([site.train for site in sites]), everyone)
    pooled = trainer.train(TrainRequest(pool, start, settings)).state
    return Comparison(local, own, trainer.evaluate(pooled, everyone))


def passes(sites: int, hyperparameters: Hyperparameters) -> int:
    """Return how many passes over a data set `compare` makes."""
    return (sites + 1) * hyperparameters.rounds * hyperparameters.local_epochs
