"""Versions of a model, looked back on: what there is, how one came to be, and how two differ."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fl.errors import FlopsError, SettingsError
from fl.protocol import ABANDONED, CHAMPION, GATE, PASSED
from server.lineage import FILE, Lineage, read_lineage
from server.registry_names import default_uri, embedded_database, public_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.registry import ModelVersion, Registry

_SHORT = 12


@dataclass(frozen=True)
class Difference:
    """How one version differs from another.

    Attributes:
        settings: what the federation's file said differently: the one's and the other's value by key; empty for none.
        release: commit, image, release, configuration and protocol, likewise.
        hospitals: who is in one of them alone, with which: "left" or "joined".
        metrics: over all hospitals: the one's value, the other's.
        by_hospital: likewise, by hospital, of those that are in both.
        distance: L2 norm of the parameters' difference; NaN where the models have other arrays.
        relative: that, as a part of the norm of the first one's parameters.
    """

    settings: dict[str, tuple[str, str]]
    release: dict[str, tuple[str, str]]
    hospitals: dict[str, str]
    metrics: dict[str, tuple[float | None, float | None]]
    by_hospital: dict[str, dict[str, tuple[float | None, float | None]]]
    distance: float
    relative: float


def open_registry() -> Registry:
    """Open the registry that there is; none is made.

    Raises:
        FlopsError: there is none here, or it does not answer.
    """
    uri = default_uri()
    database = embedded_database(uri)
    if database is not None and not database.exists():
        raise SettingsError(
            f"there is no model registry at {public_uri(uri)}; go to the folder that has one, or set "
            "MLFLOW_TRACKING_URI"
        )
    from server.registry import Registry

    return Registry()


def choose_model(registry: Registry, name: str | None) -> str:
    """Return the model that is named, or the only one that there is.

    Raises:
        SettingsError: there is none, or there are several.
    """
    there = registry.models()
    if name is None and len(there) == 1:
        return there[0]
    if not there:
        raise SettingsError("the registry has no model yet: a job or 'flops run' makes one")
    if name is None:
        raise SettingsError(f"the registry has several models: {', '.join(there)}; name one: --model")
    if name not in there:
        raise SettingsError(f"the registry has no model '{name}'; it has {', '.join(there)}")
    return name


def find(registry: Registry, model: str, *, commit: str = "", digest: str = "") -> list[tuple[ModelVersion, bool]]:
    """Return versions, the newest first, and whether each is the champion.

    Args:
        registry: where they are.
        model: whose.
        commit: only those that this source commit made, by its beginning.
        digest: only those that this image made, by the beginning of its digest.

    Raises:
        FlopsError: the registry failed.
    """
    champion = registry.aliased(model, CHAMPION)
    digest = digest if not digest or digest.startswith("sha256:") else f"sha256:{digest}"
    return [
        (version, champion is not None and version.version == champion.version)
        for version in registry.versions(model)
        if version.tags.get("commit", "").startswith(commit) and version.tags.get("image", "").startswith(digest)
    ]


def lineage(registry: Registry, version: ModelVersion) -> Lineage:
    """Return a version's lineage; of one that has none stored, what its tags say.

    Raises:
        FlopsError: it cannot be read.
    """
    where = f"model {version.name} version {version.version}"
    text = registry.text(version, FILE)
    tags = version.tags
    if text is not None:
        found = read_lineage(text, where)
        said = tags.get(GATE, PASSED)
        if found.gate.get("passed") and said != PASSED:  # Somebody else moved the champion after it was written.
            return replace(found, gate={**found.gate, "passed": False, "reason": said})
        return found
    return Lineage(
        model=version.name,
        task=tags.get("task", ""),
        signature=tags.get("signature", ""),
        digest=tags.get("digest", ""),
        parent=whole(tags.get("parent")) or 0,
        commit=tags.get("commit", ""),
        image=tags.get("image", ""),
        rounds=whole(tags.get("rounds")) or 0,
        protocol=0,
        settings={name: tags[name] for name in ("strategy", "seed", "partition") if name in tags},
    )


def lineage_if_any(registry: Registry, version: ModelVersion) -> dict[str, Any] | None:
    """Return a version's lineage as JSON has it; None where it cannot be read, which holds up nobody."""
    try:
        told = asdict(lineage(registry, version))
        orjson.dumps(told)  # Whoever wrote it: it is to be told on.
    except Exception:
        return None
    return told


def history(registry: Registry, version: ModelVersion) -> Iterator[Lineage]:
    """Yield a version's lineage, its parent's, and so on to the root, or to one that is no longer there.

    Raises:
        FlopsError: a lineage cannot be read.
    """
    there = {one.version: one for one in registry.versions(version.name)}
    number, seen = version.version, set[int]()
    while number in there and number not in seen:
        seen.add(number)
        found = lineage(registry, there[number])
        yield replace(found, model=f"{found.model} version {number}")
        number = found.parent


def difference(registry: Registry, one: ModelVersion, other: ModelVersion) -> Difference:
    """Return how a version differs from another.

    Raises:
        FlopsError: one of them cannot be read.
    """
    a, b = lineage(registry, one), lineage(registry, other)
    ours, theirs = registry.load(one)[1], registry.load(other)[1]
    distance = relative = math.nan
    if ours.signature == theirs.signature:
        square = size = 0.0
        for name, array in ours.arrays.items():
            before, after = array.astype(np.float64), theirs.arrays[name].astype(np.float64)
            square += float(np.square(after - before).sum())
            size += float(np.square(before).sum())
        distance = math.sqrt(square)
        relative = distance / math.sqrt(size) if size else math.nan
    named = ("commit", "image", "release", "config_commit", "protocol", "task")
    both = sorted(set(a.hospitals) & set(b.hospitals))
    return Difference(
        settings=_changes(dict(a.settings), dict(b.settings)),
        release=_changes({name: getattr(a, name) for name in named}, {name: getattr(b, name) for name in named}),
        hospitals={
            **{name: "left" for name in a.hospitals if name not in b.hospitals},
            **{name: "joined" for name in b.hospitals if name not in a.hospitals},
        },
        metrics=_pairs(a.metrics, b.metrics),
        by_hospital={
            name: _pairs(a.hospitals[name].get("metrics", {}), b.hospitals[name].get("metrics", {})) for name in both
        },
        distance=distance,
        relative=relative,
    )


def roll_back(registry: Registry, model: str, to: ModelVersion | None, reason: str) -> tuple[ModelVersion, list[int]]:
    """Let an earlier version be served and trained on from; all that came after it is taken back.

    The versions are marked first and the alias is moved last: run again with the same version, it finishes what was
    interrupted.

    Args:
        registry: where they are.
        model: whose.
        to: the version; None for the newest before the champion that was not taken back and passed its gate.
        reason: why; it stays with the versions that are taken back.

    Returns:
        The version that is the champion now, and the numbers of those that were taken back just now.

    Raises:
        AliasMoved: somebody else moved the champion meanwhile.
        SettingsError: there is none to go back to, or it was taken back itself.
        FlopsError: it cannot be loaded, or the registry failed.
    """
    champion = registry.aliased(model, CHAMPION)  # First: who moves it after this look is noticed.
    versions = registry.versions(model)
    if to is None:
        if champion is None:
            raise SettingsError(f"model {model} has no {CHAMPION} to go back from; name a version: --to")
        earlier = [v for v in versions if v.version < champion.version and not v.abandoned]
        to = next((v for v in earlier if v.tags.get(GATE, PASSED) == PASSED), None)
        if to is None:
            raise SettingsError(f"model {model} has no version before {champion.version} to go back to")
    if to.abandoned:
        raise SettingsError(
            f"model {model} version {to.version} was taken back itself: {to.tags[ABANDONED]}; name another one"
        )
    registry.load(to)  # What cannot be served is no champion, and nothing is taken back for it.
    left = [v for v in versions if v.version > to.version and not v.abandoned]
    for version in left:
        registry.abandon(version, reason)
    try:
        registry.move_alias(to, CHAMPION, 0 if champion is None else champion.version)
        # A job that was under way may have registered meanwhile what was trained from a version taken back just now.
        known = {version.version for version in versions}
        late = [v for v in registry.versions(model) if v.version not in known and not v.abandoned]
        for version in late:
            registry.abandon(version, reason)
    except FlopsError as error:
        told = f"{error}; what came after version {to.version} is taken back already; finish with --to {to.version}"
        raise type(error)(told) from error
    left += late
    return to, [version.version for version in left]


def number_of(registry: Registry, model: str, text: str) -> ModelVersion:
    """Return the version that a number, or an alias such as ``champion``, names.

    Raises:
        SettingsError: there is none.
        FlopsError: the registry failed.
    """
    if not (text.isascii() and text.isdigit()):
        found = registry.aliased(model, text)
        if found is None:
            raise SettingsError(f"model {model} has no version or alias '{text}'")
        return found
    versions = registry.versions(model)
    named = next((version for version in versions if version.version == int(text)), None)
    if named is None:
        newest = versions[0].version if versions else "none"
        raise SettingsError(f"model {model} has no version {text}; the newest is {newest}")
    return named


def whole(value: Any) -> int | None:
    """Return a whole number that stands somewhere as a number or a text; None where it is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _changes(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[str, str]]:
    pairs = {name: (str(one.get(name, "")), str(other.get(name, ""))) for name in sorted({*one, *other})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _pairs(one: Any, other: Any) -> dict[str, tuple[float | None, float | None]]:
    return {name: (one.get(name), other.get(name)) for name in sorted({*one, *other})}
