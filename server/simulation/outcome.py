"""What a run gave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl.data.dataset import Site
    from fl.model import ModelState
    from fl.tasks.base import Task
    from server.records import RoundRecord
    from server.registry import ModelVersion
    from server.simulation.compare import Comparison
    from server.simulation.settings import RunSettings


@dataclass(frozen=True)
class Outcome:
    """What a run gave, in memory; `as_json` is what machines read."""

    task: Task
    settings: RunSettings
    sites: Sequence[Site]
    history: Sequence[RoundRecord]
    state: ModelState
    comparison: Comparison | None
    model: ModelVersion
    parent: ModelVersion | None
    seconds: float
    champion: bool = False

    @property
    def train_seconds(self) -> float:
        """Seconds spent in training rounds: weights out, training, weights back, aggregation."""
        return sum(record.train_seconds for record in self.history)

    def as_json(self) -> dict[str, Any]:
        """Return plain data; numbers that do not exist are null."""
        final, settings = self.history[-1].evaluation, self.settings
        result: dict[str, Any] = {
            "task": settings.task,
            "clients": len(self.sites),
            "rounds": settings.hyperparameters.rounds,
            "seed": settings.seed,
            "strategy": settings.strategy,
            "strategy_options": dict(settings.strategy_options),
            "partition": str(settings.partition),
            "engine": settings.engine,
            "device": settings.device,
            "accuracy": _number(final.metrics.get("accuracy")),
            "loss": _number(final.loss),
            "metrics": {name: _number(value) for name, value in final.metrics.items()},
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "parent": None if self.parent is None else self.parent.version,
                "digest": self.state.digest(),
                "champion": self.champion,
            },
            "run_id": self.model.run_id,
            "seconds": round(self.seconds, 3),
            "train_seconds": round(self.train_seconds, 3),
            "out": str(settings.out),
        }
        if self.comparison is not None:
            scores = [e.metrics.get("accuracy", math.nan) for e in self.comparison.local.values()]
            result["local_accuracy"] = _number(sum(scores) / len(scores))
            result["pooled_accuracy"] = _number(self.comparison.pooled.metrics.get("accuracy"))
        return result


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)
