"""What the page shows of a model: its versions, and who took part in its last job; plain data.

It is names, numbers, dates and reasons. Nothing of it is a patient's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

MOST_VERSIONS = 50
"""So many of the newest are shown."""

State = Literal["champion", "passed", "refused", "taken back"]


@dataclass(frozen=True)
class Entry:
    """A version, as its tags tell it.

    Attributes:
        number: the version's.
        state: whether it is the champion, did not pass its gate, was taken back, or none of these.
        reason: why it was refused or taken back.
        created: when it was registered; None where nobody said.
        parent: the version that it was trained on from; 0 for none.
        metrics: by name, over all hospitals' hold-out data.
        tags: all else that it says of itself.
    """

    number: int
    state: State
    reason: str = ""
    created: datetime | None = None
    parent: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def tag(self, name: str) -> str:
        """Return what the version says of itself; an empty text where it says nothing."""
        return self.tags.get(name, "")


@dataclass(frozen=True)
class Hospital:
    """A hospital in the last job: what it contributed, and how the model did on its own hold-out data."""

    name: str
    release: str
    examples: int | None
    rounds: int | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Absent:
    """A hospital that a step of the last job went on without."""

    name: str
    step: str
    reason: str
    refused: bool


@dataclass(frozen=True)
class Overview:
    """All that the page shows of the registry.

    Attributes:
        model: the registered model's name.
        taken: when this was read.
        versions: the newest first, up to `MOST_VERSIONS`; the champion always, even if it is older.
        more: how many older ones there are.
        job: the version of the last job that registered one; 0 for none.
        hospitals: who took part in it.
        absent: whom it went on without.
        note: why the hospitals could not be read, or nothing.
    """

    model: str
    taken: datetime
    versions: tuple[Entry, ...] = ()
    more: int = 0
    job: int = 0
    hospitals: tuple[Hospital, ...] = ()
    absent: tuple[Absent, ...] = ()
    note: str = ""

    @property
    def champion(self) -> Entry | None:
        """The version that is to be served."""
        return next((entry for entry in self.versions if entry.state == "champion"), None)

    @property
    def metric(self) -> str:
        """The metric that versions are compared by: accuracy where there is one, else the loss; empty for none."""
        names = {name: None for entry in self.versions for name in entry.metrics}
        return next((name for name in ("accuracy", "loss", *names) if name in names), "")
