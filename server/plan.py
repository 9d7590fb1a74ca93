"""What a job is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fl.tasks.base import Hyperparameters, Task


@dataclass(frozen=True)
class Joining:
    """How long to wait for hospitals.

    Attributes:
        timeout: seconds until there must be enough.
        grace: once there are enough, seconds without a newcomer after which the rounds begin.
        expected: how many may come; when all are here nobody is waited for. None where that is not known.
    """

    timeout: float = 3600.0
    grace: float = 0.0
    expected: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to do in a job.

    Attributes:
        task: what is learned.
        rounds: how many federated rounds.
        hyperparameters: how hospitals train.
        fraction: the part of the hospitals that trains in a round, above 0 to 1; at least one does.
        seed: fixes who is chosen and how they shuffle.
        settle_statistics: ask for column sums and derive the model's statistics; for the very first weights.
        hospitals: how many must train, in every round.
        timeout: seconds to wait for a round's answers, and again for its evaluation.
        joining: how long to wait for hospitals.
        tolerant: go on without hospitals that fail, as long as there are enough; else the first failure ends it.
        norm_ratio: how many times the median of the others' a hospital's change may be; see `server.norms`.
        entries: what every message says besides, such as the contract.
    """

    task: Task
    rounds: int
    hyperparameters: Hyperparameters
    fraction: float = 1.0
    seed: int = 0
    settle_statistics: bool = False
    hospitals: int = 1
    timeout: float = 3600.0
    joining: Joining = Joining()
    tolerant: bool = False
    norm_ratio: float = math.inf
    entries: Mapping[str, str | int] = field(default_factory=dict)


def cohort_size(sites: int, fraction: float) -> int:
    """Return how many of the sites take part in a round."""
    return max(1, round(sites * fraction))


def job_seed(seed: int, parent: int) -> int:
    """Return a job's seed: the federation's for the first, and for the next new draws that seed and parent fix.

    Args:
        seed: the federation's.
        parent: the version that the job goes on from; 0 where there is none.
    """
    return seed if not parent else int(np.random.SeedSequence([seed, parent]).generate_state(1)[0])
