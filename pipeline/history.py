"""The releases of an environment, as the history of its `release.json` tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import SettingsError
from pipeline.config_repo import release_file
from pipeline.record import ReleaseRecord, read_release

if TYPE_CHECKING:
    from pipeline.config_repo import ConfigRepo


@dataclass(frozen=True)
class Event:
    """A commit of the config repository that put a release in charge.

    Attributes:
        record: the release.
        config_commit: the commit's id.
        time: when it was made, ISO 8601.
        what: the commit's subject.
        by: who put it in charge, which after a rollback is not who released it.
    """

    record: ReleaseRecord
    config_commit: str
    time: str
    what: str
    by: str


def events(repo: ConfigRepo, environment: str) -> list[Event]:
    """Return what put which release in charge, newest first; a record that cannot be read any more is left out.

    The repository must have been opened with its history.
    """
    found = []
    for commit, content in repo.changes(release_file(environment)):
        try:
            record = read_release(content, release_file(environment))
        except SettingsError:
            continue
        if record is not None:
            when = commit.committed_datetime.isoformat()
            by = str(commit.trailers_dict.get("By", [record.by])[-1])
            found.append(Event(record, str(commit.hexsha), when, str(commit.summary), by))
    return found


def find_release(found: list[Event], environment: str, name: str) -> ReleaseRecord:
    """Return a release by its name or the start of its source commit's id.

    Raises:
        SettingsError: there is none, or several.
    """
    matching = {
        event.record.release: event.record
        for event in reversed(found)  # Of several records of one release the newest counts.
        if event.record.release == name or (len(name) >= 7 and event.record.commit.startswith(name))
    }
    if len(matching) == 1:
        return next(iter(matching.values()))
    known = ", ".join(dict.fromkeys(event.record.release for event in found[:10])) or "none"
    if matching:
        raise SettingsError(
            f"'{name}' names {len(matching)} releases of {environment}: {', '.join(matching)}; name one"
        )
    raise SettingsError(f"{environment} never ran a release '{name}'; the newest are {known}")
