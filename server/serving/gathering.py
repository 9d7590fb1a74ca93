"""An overview of a model, read from the registry: from versions' tags and from the newest one's lineage.

Others wrote these, so whatever is not as expected is left out instead of being an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError
from fl.protocol import ABANDONED, GATE, PASSED
from server.models import lineage, whole
from server.serving.overview import MOST_VERSIONS, Absent, Entry, Hospital, Overview, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.lineage import Lineage
    from server.registry import ModelVersion, Registry

MOST_VALUE = 1e9
"""A metric beyond is left out: it would leave no picture of the others."""


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
        return replace(overview, note=str(error))
    hospitals, absent = read_hospitals(told)
    return replace(overview, hospitals=hospitals, absent=absent)


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
    return Entry(version.version, state, reason, created, whole(tags.get("parent")) or 0, read_metrics(tags), tags)


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
            whole(row.get("examples")),
            whole(row.get("rounds")),
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
