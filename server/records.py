"""What a job's rounds give, and who is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fl.errors import FlopsError
from fl.training import Evaluation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fl.messages import SiteDescription


@dataclass(frozen=True)
class RoundRecord:
    """What one round gave.

    Attributes:
        round: from 1.
        train_loss: each participating site's mean training loss.
        evaluation: over all sites' hold-out data together.
        sites: each site's own evaluation.
        train_seconds: from the first weights sent to the aggregate.
        seconds: the whole round, evaluation included.
        examples: how many examples each participating site trained on.
        champion: each site's evaluation of the served model, on the same examples; empty where none was compared.
    """

    round: int
    train_loss: Mapping[str, float]
    evaluation: Evaluation
    sites: Mapping[str, Evaluation]
    train_seconds: float
    seconds: float
    examples: Mapping[str, int] = field(default_factory=dict)
    champion: Mapping[str, Evaluation] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """A hospital that was asked and does not count.

    Attributes:
        hospital: its name.
        step: what it was asked for, such as "round 2".
        reason: what happened, to be read after its name.
        refused: it answered that it will not, which is its right.
    """

    hospital: str
    step: str
    reason: str
    refused: bool = False

    def __str__(self) -> str:
        """Say it in a line."""
        if self.refused:
            return f"refused by {self.hospital} in {self.step}: {self.reason}"
        return f"{self.hospital} is left out of {self.step}: it {self.reason}"


class TooFewHospitals(FlopsError):  # noqa: N818 - a state, not a mistake
    """Fewer hospitals than needed came before the first round."""


class Observer(Protocol):
    """Is told what happens; may raise to stop the rounds."""

    def joined(self, sites: Sequence[SiteDescription]) -> None:
        """All hospitals have described themselves."""

    def round_done(self, record: RoundRecord) -> None:
        """A round is complete."""


def contributions(history: Iterable[RoundRecord]) -> dict[str, dict[str, Any]]:
    """Return who trained, by name: on how many examples the last time, and in how many rounds."""
    found: dict[str, dict[str, Any]] = {}
    for record in history:
        for name, examples in record.examples.items():
            told = found.setdefault(name, {"examples": examples, "rounds": 0})
            told["examples"], told["rounds"] = examples, told["rounds"] + 1
    return dict(sorted(found.items()))


def pool_evaluations(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Combine sites' evaluations as if their examples were one data set; sites without examples are left out."""
    counted = [e for e in evaluations if e.examples]
    total = sum(e.examples for e in counted)
    if not total:
        return Evaluation(0, float("nan"), {})

    def mean(values: Iterable[float]) -> float:
        return sum(v * e.examples for v, e in zip(values, counted, strict=True)) / total

    return Evaluation(
        total,
        mean(e.loss for e in counted),
        {name: mean(e.metrics[name] for e in counted) for name in counted[0].metrics},
    )
