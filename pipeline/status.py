"""What an environment runs, what it ran before, and what the config repository and the cluster say of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fl.errors import FlopsError, SettingsError
from pipeline.cluster import ClusterUnreachable, Runs, ask_cluster
from pipeline.config_repo import ConfigRepo, hold_file, release_file
from pipeline.history import Event, events

if TYPE_CHECKING:
    from pipeline.record import Hold
    from pipeline.settings import Settings


@dataclass(frozen=True)
class EnvironmentStatus:
    """One environment.

    Attributes:
        name: its folder.
        events: what put which release in charge, newest first.
        hold: why automatic releases are paused, or None.
        image: what the manifest names.
        problem: what is odd, in a line; empty where nothing is.
        runs: what the cluster said; None where none could be asked.
        cluster: why none could be asked; empty where one was.
    """

    name: str
    events: list[Event]
    hold: Hold | None
    image: str
    problem: str
    runs: Runs | None
    cluster: str

    def as_dict(self, limit: int) -> dict[str, Any]:
        """Return plain values for JSON, with the newest releases."""
        return {
            "environment": self.name,
            "image": self.image or None,
            "hold": vars(self.hold) if self.hold else None,
            "problem": self.problem or None,
            "cluster": vars(self.runs) if self.runs else {"problem": self.cluster},
            "releases": [
                {
                    "release": event.record.release,
                    "commit": event.record.commit,
                    "subject": event.record.subject,
                    "time": event.time,
                    "what": event.what,
                    "by": event.by,
                    "smoke": event.record.smoke,
                    "protocol": event.record.protocol,
                    "images": {side: str(image) for side, image in event.record.images.items()},
                    "config_commit": event.config_commit,
                }
                for event in self.events[:limit]
            ],
        }


def read_status(settings: Settings, names: tuple[str, ...]) -> list[EnvironmentStatus]:
    """Find out how environments stand.

    Args:
        settings: the pipeline's.
        names: the environments; empty for all that the config repository has.

    Raises:
        FlopsError: the config repository does not answer, or has no such environment.
    """
    with ConfigRepo.open(settings, history=True) as repo:
        there = repo.environments()
        for name in names:
            if name not in there:
                raise SettingsError(
                    f"the config repository has no environment '{name}'; there is {', '.join(there) or 'none'}"
                )
        return [_status(repo, settings, name) for name in names or there]


def _status(repo: ConfigRepo, settings: Settings, name: str) -> EnvironmentStatus:
    found = events(repo, name)
    image, problem, hold = "", "", None
    try:
        image = str(repo.server_image(name))
        record = repo.release(name)
        if record is not None and image != str(record.images["server"]):
            problem = f"the manifest was changed by hand: the record says {record.images['server']}"
        if record is None and found:
            problem = f"{release_file(name)} is gone; 'flops rollback {name} --to' a release brings it back"
        hold = repo.hold(name)
    except FlopsError as error:
        problem = str(error)
        if repo.read(hold_file(name)) is not None and hold is None:
            problem += "; and it is held"
    if not found:
        return EnvironmentStatus(name, found, hold, image, problem, None, "it has no release to look for")
    try:
        runs = ask_cluster(
            settings.namespace.replace("ENV", name),
            found[0].record.images["server"].digest,
            datetime.fromisoformat(found[0].time),
        )
    except ClusterUnreachable as error:
        return EnvironmentStatus(name, found, hold, image, problem, None, str(error))
    return EnvironmentStatus(name, found, hold, image, problem, runs, "")
