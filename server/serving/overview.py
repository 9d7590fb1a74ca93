"""What the page shows of a model: its versions, and who took part in its last job; plain data, made at once.

All of it comes from the registry's tags and from the newest version's lineage: names, numbers, dates, reasons.
Nothing of it is a patient's. Others wrote it, so whatever is not as expected is left out instead of being an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from fl.errors import FlopsError
from fl.protocol import ABANDONED
from server.gate import GATE, PASSED
from server.models import lineage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.lineage import Lineage
    from server.registry import ModelVersion, Registry

MOST_VERSIONS = 50
"""So many of the newest are shown."""

MOST_VALUE = 1e9
"""A metric beyond is left out: it would leave no picture of the others."""

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


def gather(registry: Registry, model: str, alias: str) -> Overview:
    """Read what the page shows.

    Raises:
        FlopsError: the registry failed.
    """
    found = registry.versions(model)
    champion = registry.aliased(model, alias)
    number = champion.version if champion is not None else 0
    shown = found[:MOST_VERSIONS]
    if champion is not None and all(version.version != number for version in shown):
        shown = [*shown, champion]
    entries = tuple(read_entry(version, champion=version.version == number) for version in shown)
    overview = Overview(model, datetime.now(UTC), entries, len(found) - len(shown), found[0].version if found else 0)
    if not found:
        return overview
    try:
        told = lineage(registry, found[0])
    except FlopsError as error:  # One job's file that is broken or of another release hides no version.
        return Overview(model, overview.taken, entries, overview.more, overview.job, note=str(error))
    hospitals, absent = read_hospitals(told)
    return Overview(model, overview.taken, entries, overview.more, overview.job, hospitals, absent)


def read_entry(version: ModelVersion, *, champion: bool) -> Entry:
    """Return what a version's tags tell."""
    tags = dict(version.tags)
    gate = tags.get(GATE, PASSED)
    state: State = "champion" if champion else "passed"
    reason = ""
    if version.abandoned:
        state, reason = "taken back", tags[ABANDONED]
    elif gate != PASSED:
        # Somebody may serve by hand what the gate refused: then it is the champion, and the reason stays.
        state, reason = "champion" if champion else "refused", gate
    created = datetime.fromtimestamp(version.created, UTC) if version.created > 0 else None
    return Entry(version.version, state, reason, created, _whole(tags.get("parent")) or 0, read_metrics(tags), tags)


def read_metrics(tags: Mapping[str, str]) -> dict[str, float]:
    """Return a version's metrics from their tag, ``loss 0.0427, accuracy 0.9852``."""
    pairs = (part.rpartition(" ") for part in tags.get("metrics", "").split(", "))
    return _numbers({name: value for name, _, value in pairs if name})


def read_hospitals(told: Lineage) -> tuple[tuple[Hospital, ...], tuple[Absent, ...]]:
    """Return who took part in a job, and whom it went on without."""
    hospitals = [
        Hospital(
            str(name),
            str(row.get("release", "")),
            _whole(row.get("examples")),
            _whole(row.get("rounds")),
            _numbers(row.get("metrics")),
        )
        for name, row in _mapping(told.hospitals).items()
        if isinstance(row, Mapping)
    ]
    rows: Sequence[Any] = told.left_out if isinstance(told.left_out, list | tuple) else ()
    absent = [
        Absent(
            str(row.get("hospital", "")),
            str(row.get("step", "")),
            str(row.get("reason", "")),
            row.get("refused") is True,
        )
        for row in rows
        if isinstance(row, Mapping)
    ]
    return tuple(hospitals), tuple(absent)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _numbers(value: Any) -> dict[str, float]:
    found = {}
    for name, text in _mapping(value).items():
        try:
            number = float(text)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number) and abs(number) < MOST_VALUE:
            found[str(name)] = round(number, 6)
    # What everybody understands comes first; a loss is for those who know it.
    return dict(sorted(found.items(), key=lambda pair: (pair[0] != "accuracy", pair[0] == "loss")))
