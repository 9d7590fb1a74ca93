"""How a job ended: one line for people, one JSON object for machines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fl.console import count

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REGISTERED, SKIPPED, FAILED, MISCONFIGURED = "registered", "skipped", "failed", "misconfigured"

EXIT_CODES = {REGISTERED: 0, SKIPPED: 0, FAILED: 1, MISCONFIGURED: 2}

TERMINATION_LIMIT = 4096
"""The most bytes that Kubernetes keeps of a termination message."""


@dataclass(frozen=True)
class Outcome:
    """A job's end.

    Attributes:
        outcome: registered, skipped, failed or misconfigured.
        reason: why, where it is not plain; or what else is to be known.
        model: the registered model's name.
        version: the version made; None where none was.
        parent: the version that training started from; 0 for the very first.
        rounds: how many rounds are in the version.
        hospitals: who took part, by name: examples and rounds.
        left_out: whom a step went on without, and why.
        metrics: of the last round, over all hospitals' hold-out data.
        champion: whether the version is the one to be served now.
        seconds: from the job's start.
    """

    outcome: str
    reason: str = ""
    model: str = ""
    version: int | None = None
    parent: int = 0
    rounds: int = 0
    hospitals: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[Mapping[str, Any], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    champion: bool = False
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 where all is well, 1 for a failure, 2 for wrong settings."""
        return EXIT_CODES[self.outcome]

    @property
    def line(self) -> str:
        """The outcome in a line."""
        parts = [self.outcome]
        if self.version is not None:
            measured = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
            parts = [
                f"registered {self.model} version {self.version} (parent {self.parent or 'none'}): "
                f"{count(self.rounds, 'round')}, {count(len(self.hospitals), 'hospital')}"
                f"{', ' + measured if measured else ''}{', champion' if self.champion else ''}"
            ]
        if self.reason:
            parts.append(self.reason)
        return ": ".join(parts) + f" ({self.seconds:.1f} s)"

    def as_json(self) -> str:
        """The outcome as one line of JSON."""
        return json.dumps(
            {
                "outcome": self.outcome,
                "reason": self.reason,
                "model": self.model,
                "version": self.version,
                "parent": self.parent,
                "rounds": self.rounds,
                "champion": self.champion,
                "metrics": {k: round(v, 6) for k, v in self.metrics.items()},
                "seconds": round(self.seconds, 3),
                "hospitals": [{"name": name, **told} for name, told in self.hospitals.items()],
                "left_out": list(self.left_out),
            }
        )

    def write_termination(self, path: Path) -> None:
        """Write the JSON to where Kubernetes reads a container's last words; what is too long is shortened.

        Raises:
            OSError: it cannot be written.
        """
        text = self.as_json()
        if len(text.encode()) > TERMINATION_LIMIT:
            short = json.loads(text)
            short["hospitals"], short["left_out"] = len(short["hospitals"]), len(short["left_out"])
            short["reason"] = short["reason"][:300]
            text = json.dumps(short)
        path.write_text(text + "\n", encoding="utf-8")
