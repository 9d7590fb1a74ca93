"""Moves of releases that exist: back to an earlier one, on to another environment; and the hold that goes with it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, SettingsError
from pipeline.config_repo import Change, ConfigRepo, Unchanged, hold_file, manifest_file, release_file
from pipeline.history import Event, events, find_release
from pipeline.model_registry import connect, model_name
from pipeline.record import Hold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.record import ReleaseRecord
    from pipeline.settings import Settings

    Say = Callable[[str], None]


class _RunsAlready(SettingsError):  # noqa: N818 - a state, not a mistake
    """The release that is to be brought back is the one that runs."""

    def __init__(self, environment: str, record: ReleaseRecord) -> None:
        super().__init__(f"{environment} runs release {record.release} already; name an earlier one with --to")
        self.record = record


@dataclass(frozen=True)
class Move:
    """What a command did to an environment.

    Attributes:
        outcome: moved or unchanged.
        line: it in a line.
        environment: the folder of the config repository.
        record: the release that it runs now.
        before: the name of the one that it ran before; empty where none.
        config_commit: the commit that was pushed; empty where none was.
    """

    outcome: str
    line: str
    environment: str
    record: ReleaseRecord | None
    before: str = ""
    config_commit: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        record = self.record
        return {
            "outcome": self.outcome,
            "environment": self.environment,
            "release": record.release if record else None,
            "commit": record.commit if record else None,
            "images": {side: str(image) for side, image in record.images.items()} if record else {},
            "before": self.before or None,
            "config_commit": self.config_commit or None,
            "line": self.line,
        }


def rollback(
    settings: Settings, environment: str, to: str | None, reason: str, by: str, say: Say, *, again: bool = False
) -> Move:
    """Bring back an earlier release in one commit, and hold automatic ones.

    Args:
        settings: the pipeline's.
        environment: the folder of the config repository.
        to: the release's name or its commit; None for the one before.
        reason: why; stays in the hold.
        by: who says so.
        say: told of races.
        again: that the release runs already is no mistake: something else is to be finished.

    Raises:
        FlopsError: there is no such release, or the config repository cannot be changed.
    """
    done: list[tuple[str, ReleaseRecord]] = []

    def make(repo: ConfigRepo) -> Change:
        found = events(repo, environment)
        left, target = _way_back(repo, environment, found, to)
        if to is None and done and done[0][0] != left:
            raise SettingsError(
                f"{environment} meanwhile runs release {left} in place of {done[0][0]}; look at it, and say "
                "which one to bring back: --to"
            )
        if target.release == left and _runs(repo, environment, target):
            raise _RunsAlready(environment, target)
        done[:] = [(left, target)]
        since = datetime.now(UTC).isoformat(timespec="seconds")
        hold = Hold(reason, by, since, "" if left == target.release else left)
        files = {**repo.with_release(environment, target), hold_file(environment): hold.to_json()}
        return Change(
            files,
            f"{environment}: roll back to release {target.release}\n\n{reason}",
            {**_trailers(target, by), "Rolled-Back": left},
        )

    try:
        with ConfigRepo.open(settings, history=True) as repo:
            commit = repo.publish(make, say=say)
    except _RunsAlready as error:
        if not again:
            raise
        line = f"{environment} runs release {error.record.release} already"
        return Move("unchanged", line, environment, error.record)
    ((left, target),) = done
    instead = "what a hand had put into its manifest" if left == target.release else left
    line = (
        f"{environment} runs release {target.release} again, and not {instead}; automatic releases are held "
        f"until 'flops resume {environment}'"
    )
    return Move("moved", line, environment, target, left, commit)


def check_model(settings: Settings, environment: str, variables: Mapping[str, str]) -> str:
    """Find out before anything is changed whether the model can go back; returns its name.

    Args:
        settings: the pipeline's.
        environment: the folder of the config repository.
        variables: the process's; may hold the registry's account.

    Raises:
        FlopsError: no registry is named, or it does not answer, or the environment names no model.
    """
    if not settings.tracking:
        raise SettingsError("--with-model asks the model registry; set MLFLOW_TRACKING_URI")
    file = f"{environment}/federation.toml"
    with ConfigRepo.open(settings) as repo:
        model = model_name(repo.read(file), file)
    with connect(settings.tracking, variables) as registry:
        registry.versions(model)
    return model


def restore_model(
    settings: Settings, move: Move, model: str, reason: str, variables: Mapping[str, str]
) -> tuple[int | None, list[int]]:
    """Let the newest version of a model that the release which a rollback brought back made be the champion.

    Returns:
        The version, or None where the release made none; those that were taken back.

    Raises:
        FlopsError: the registry failed; the release is rolled back all the same.
    """
    if move.record is None:
        raise ValueError("the move has no release")
    try:
        with connect(settings.tracking, variables) as registry:
            found = registry.restore(model, move.record, reason)
    except FlopsError as error:
        again = f"flops rollback {move.environment} --to {move.record.release} --with-model"
        raise FlopsError(
            f"{move.line}; but the model stays as it is: {error}; this does it later: {again} --reason "
            f"{shlex.quote(reason)}"
        ) from error
    return found or (None, [])


def _way_back(repo: ConfigRepo, environment: str, found: list[Event], to: str | None) -> tuple[str, ReleaseRecord]:
    """Return the name of the release that an environment runs, and the one to bring back."""
    try:
        current = repo.release(environment)
    except SettingsError:
        if to is None:
            raise
        # What cannot be read is mended by what is put in its place.
        return "one that cannot be read", find_release(found, environment, to)
    if current is None and to is not None and found:  # Somebody removed the record.
        return "one that is not recorded", find_release(found, environment, to)
    if current is None:
        repo.manifest(environment)
        if found:
            raise SettingsError(
                f"{release_file(environment)} is gone, and nobody knows what {environment} runs; name the release to "
                f"bring back: --to {found[0].record.release}"
            )
        raise SettingsError(f"{environment} has no release yet; there is nothing to roll back")
    if to is None and not current.previous:
        raise SettingsError(f"{environment} runs its first release, {current.release}; there is none before it")
    return current.release, find_release(found, environment, to or current.previous)


def _runs(repo: ConfigRepo, environment: str, record: ReleaseRecord) -> bool:
    """Tell whether an environment's manifest names a release's server."""
    return repo.server_image(environment) == record.images["server"]


def resume(settings: Settings, environment: str, by: str, say: Say) -> Move:
    """Lift a hold, in one commit; says so where there is none.

    Raises:
        FlopsError: the config repository cannot be changed.
    """

    def make(repo: ConfigRepo) -> Change:
        if repo.read(hold_file(environment)) is None:
            repo.manifest(environment)
            raise Unchanged(f"{environment} is not held")
        return Change({hold_file(environment): None}, f"{environment}: resume releases", {"Resumed-By": by})

    with ConfigRepo.open(settings) as repo:
        try:
            record = repo.release(environment)
        except SettingsError:  # Whose business is another command's.
            record = None
        try:
            commit = repo.publish(make, say=say)
        except Unchanged as why:
            return Move("unchanged", str(why), environment, record)
    line = f"{environment} takes releases again, from the next 'flops release' or 'flops promote' on"
    return Move("moved", line, environment, record, config_commit=commit)


def promote(
    settings: Settings,
    source: str,
    target: str,
    by: str,
    say: Say,
    check: Callable[[ConfigRepo, ReleaseRecord], None],
) -> Move:
    """Put one environment's release into another: the exact digests, never a rebuild.

    Args:
        settings: the pipeline's.
        source: the environment it comes from.
        target: the one it goes to.
        by: who says so.
        say: told of races.
        check: raises where the release must not be promoted.

    Raises:
        FlopsError: there is none, it is older than the target's, the target is held, or the config repository cannot
            be changed.
    """
    done: list[tuple[ReleaseRecord | None, ReleaseRecord]] = []

    def make(repo: ConfigRepo) -> Change:
        record, before = repo.release(source), repo.release(target)
        if record is None:
            repo.manifest(source)
            raise SettingsError(f"{source} has no release yet; there is nothing to promote")
        if done and done[0][1].release != record.release:
            raise SettingsError(f"{source} meanwhile runs release {record.release}; look at it, and promote again")
        for side, image in record.images.items():
            if image.repository != settings.image(side):
                raise SettingsError(
                    f"{release_file(source)}: the {side} image is {image}, and {settings.image(side)} is this "
                    "registry's; release again"
                )
        if not _runs(repo, source, record):
            raise SettingsError(
                f"{manifest_file(source)} was changed by hand: it does not name the image of release "
                f"{record.release}; release or roll back first"
            )
        hold = repo.hold(target)
        if hold is not None:
            raise SettingsError(
                f"{target} is held by {hold.by} since {hold.since}: {hold.reason}; lift it with "
                f"'flops resume {target}'"
            )
        if before is not None and before.release == record.release and _runs(repo, target, record):
            raise Unchanged(f"{target} runs release {record.release} already")
        if before is not None and _newer(before.release, record.release, events(repo, source)):
            raise SettingsError(
                f"{target} runs release {before.release}, which is newer than {source}'s {record.release}; to go "
                f"back, say 'flops rollback {target} --reason WHY'"
            )
        check(repo, record)
        previous = before.release if before else ""
        if before is not None and previous == record.release:  # Its manifest was changed by hand, and is mended.
            previous = before.previous
        moved = replace(record, previous=previous, promoted_from=source, by=by)
        done[:] = [(before, moved)]
        return Change(
            repo.with_release(target, moved),
            f"{target}: promote release {moved.release} from {source}\n\n{moved.subject}",
            {**_trailers(moved, by), "Promoted-From": source},
        )

    if source == target:
        raise SettingsError(f"{source} and {target} are the same environment; name two")
    with ConfigRepo.open(settings, history=True) as repo:
        try:
            commit = repo.publish(make, say=say)
        except Unchanged as why:
            return Move("unchanged", str(why), target, repo.release(target))
    ((before, moved),) = done
    line = f"{target} runs release {moved.release} of commit {moved.commit[:12]} from now on, as {source} does"
    return Move("moved", line, target, moved, before.release if before else "", commit)


def _newer(one: str, other: str, found: list[Event]) -> bool:
    """Tell whether a release was deployed after another at first; by their names where the history knows not both."""
    order = list(dict.fromkeys(event.record.release for event in reversed(found)))
    if one in order and other in order:
        return order.index(one) > order.index(other)
    return one > other


def _trailers(record: ReleaseRecord, by: str) -> dict[str, str]:
    return {
        "Source-Commit": record.commit,
        "Server-Image": str(record.images["server"]),
        "Client-Image": str(record.images["client"]),
        "By": by,
    }
