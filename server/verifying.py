"""Is the newest global model sound: does it load, is every value finite, and did training change it?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl.errors import FlopsError

if TYPE_CHECKING:
    from fl.model import ModelState
    from server.registry import Registry
    from server.settings import FederationSettings


@dataclass(frozen=True)
class Verified:
    """What was found out of a version.

    Attributes:
        model: the registered model's name.
        version: its number; None where there is none yet.
        parent: the version that training started from; None for the task's first weights.
        finite: whether every value is a finite number.
        change: L2 norm of the parameters' difference from the parent's; infinite or NaN where they are not finite.
    """

    model: str
    version: int | None
    parent: int | None
    finite: bool
    change: float

    @property
    def problem(self) -> str:
        """What is wrong, or nothing."""
        if self.version is None:
            return f"model {self.model} has no version yet"
        if not self.finite:
            return f"model {self.model} version {self.version} holds values that are not finite"
        if self.change == 0:
            return f"model {self.model} version {self.version} has the weights it started from: nothing was learned"
        return ""

    def as_json(self) -> str:
        """Return one JSON object; a change that is no number is null."""
        change = self.change if math.isfinite(self.change) else None
        return json.dumps({**asdict(self), "change": change, "problem": self.problem})


def verify_newest(registry: Registry, settings: FederationSettings) -> Verified:
    """Load the newest version of a federation's model and look at its weights.

    Raises:
        FlopsError: it cannot be loaded, or it has other arrays than what it started from.
    """
    newest = registry.latest(settings.model)
    if newest is None:
        return Verified(settings.model, None, None, finite=False, change=0.0)
    _, state = registry.load(newest)
    parent = registry.find(settings.model, int(newest.tags["parent"])) if newest.tags.get("parent") else None
    if parent is not None:
        _, before = registry.load(parent)
    else:
        from fl.model import initial_state

        before = initial_state(settings.task, settings.seed)
    if state.signature != before.signature:
        raise FlopsError(f"model {settings.model} version {newest.version} has other arrays than it started from")
    finite = all(bool(np.isfinite(array).all()) for array in state.merged().values())
    return Verified(
        settings.model, newest.version, None if parent is None else parent.version, finite, _distance(state, before)
    )


def _distance(state: ModelState, before: ModelState) -> float:
    total = 0.0
    for name, array in state.arrays.items():
        difference = array.astype(np.float64) - before.arrays[name]
        total += float(np.square(difference).sum())
    return math.sqrt(total) if total >= 0 else math.nan
