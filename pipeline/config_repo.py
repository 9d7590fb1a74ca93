"""The config repository: read at its newest commit, changed by one commit, pushed; again from the start on a race."""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline import git_tool
from pipeline.git_environment import git_environment
from pipeline.git_words import RepositoryAway, RepositoryRefused, RepositoryUnreachable
from pipeline.manifest import find_image, set_image
from pipeline.record import Hold, ReleaseRecord, read_hold, read_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pipeline.git_tool import Commit, Repo
    from pipeline.image_name import ImageName
    from pipeline.settings import Settings

ATTEMPTS = 12
"""How often a push that others were faster than is tried."""

_LONGEST_PAUSE = 4.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True)
class Change:
    """A commit to make.

    Attributes:
        files: the new content by path; None takes a file away.
        message: subject and body.
        trailers: the lines behind the body.
    """

    files: Mapping[str, bytes | None]
    message: str
    trailers: Mapping[str, str]

    @property
    def full_message(self) -> str:
        """The message with the trailers behind it."""
        lines = [f"{name}: {' '.join(value.split())}" for name, value in self.trailers.items()]
        return "\n".join([self.message.rstrip(), "", *lines]) + "\n"


class Unchanged(Exception):  # noqa: N818 - no error
    """What is there needs no commit; `args` says why. Raised by who was to make a change."""


class ConfigRepo:
    """A clone of the config repository's branch."""

    def __init__(self, repository: Repo, settings: Settings, depth: int | None) -> None:
        self._repository, self._settings, self._depth = repository, settings, depth

    @classmethod
    @contextmanager
    def open(cls, settings: Settings, *, history: bool = False) -> Iterator[ConfigRepo]:
        """Clone the repository for as long as the block runs.

        Args:
            settings: address, branch, key.
            history: fetch all commits and not the newest alone.

        Raises:
            RepositoryUnreachable: it does not answer.
            RepositoryRefused: no such repository or branch, or this key may not read it.
        """
        depth = None if history else 1
        with git_environment(settings) as environment, tempfile.TemporaryDirectory() as folder:
            clone = git_tool.begin(settings.repository, Path(folder) / "config.git", environment)
            try:
                git_tool.fetch(clone, settings.branch, depth=depth)
                yield cls(clone, settings, depth)
            finally:
                clone.close()

    @property
    def _branch(self) -> str:
        return git_tool.head(self._settings.branch)

    @property
    def head(self) -> str:
        """The newest commit's id."""
        return str(self._repository.commit(self._branch).hexsha)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes; None where it is not there.

        Raises:
            SettingsError: a folder or a symbolic link is there.
        """
        return git_tool.read_file(self._repository, self._branch, path)

    def environments(self) -> list[str]:
        """Return the folders that hold a CronJob."""
        return git_tool.folders(self._repository, self._branch, Path(manifest_file("-")).name)

    def manifest(self, environment: str) -> bytes:
        """Return an environment's CronJob.

        Raises:
            SettingsError: there is none.
        """
        content = self.read(manifest_file(environment))
        if content is None:
            there = ", ".join(self.environments())
            raise SettingsError(
                f"the config repository has no {manifest_file(environment)}; "
                + (f"there is {there}" if there else "'flops init-config' fills an empty one")
            )
        return content

    def server_image(self, environment: str) -> ImageName:
        """Return the image that an environment's CronJob names; see `find_image` for the errors."""
        settings, file = self._settings, manifest_file(environment)
        return find_image(self.manifest(environment), file, settings.container, settings.image("server")).image

    def with_release(self, environment: str, record: ReleaseRecord) -> dict[str, bytes | None]:
        """Return the files that put a release in charge: manifest and record; see `set_image` for the errors."""
        file = manifest_file(environment)
        content = set_image(self.manifest(environment), file, self._settings.container, record.images["server"])
        return {file: content, release_file(environment): record.to_json()}

    def release(self, environment: str) -> ReleaseRecord | None:
        """Return the release that an environment runs; see `read_release` for the errors."""
        return read_release(self.read(release_file(environment)), release_file(environment))

    def hold(self, environment: str) -> Hold | None:
        """Return why an environment's releases are paused, or None."""
        return read_hold(self.read(hold_file(environment)), hold_file(environment))

    def refresh(self) -> None:
        """Fetch the newest commit; see `open` for the errors."""
        git_tool.fetch(self._repository, self._settings.branch, depth=self._depth)

    def try_push(self) -> str:
        """Ask for the right to push, and push nothing; returns what was found. See `publish` for the errors."""
        # That somebody else was faster says nothing of the right: the server began the push.
        with suppress(git_tool.PushRaced):
            git_tool.push(self._repository, self._settings.branch, dry_run=True)
        return f"may push to branch {self._settings.branch}"

    def changes(self, path: str) -> Iterator[tuple[Commit, bytes | None]]:
        """Yield the commits that changed a file, newest first, and what it held after each."""
        return git_tool.changes(self._repository, self._branch, path)

    def publish(self, make: Callable[[ConfigRepo], Change], *, say: Callable[[str], None]) -> str:
        """Commit and push a change; when somebody else was faster, fetch and make it anew from what is there.

        Args:
            make: looks at what is there and says what to change; its errors, and `Unchanged`, end the attempt.
            say: told of each race.

        Returns:
            The new commit's id.

        Raises:
            PushRaced: others were faster every time.
            RepositoryRefused: this key may not write.
            RepositoryUnreachable: the way there broke; the message says where it is not known what arrived.
        """
        settings = self._settings
        pause = 0.1
        for attempt in range(1, ATTEMPTS + 1):
            change = make(self)
            commit = git_tool.write_commit(
                self._repository, settings.branch, change.files, change.full_message, settings.author
            )
            try:
                git_tool.push(self._repository, settings.branch)
            except git_tool.PushRaced as race:
                if attempt == ATTEMPTS:
                    raise FlopsError(
                        f"{race} during each of {ATTEMPTS} attempts; nothing was changed; start again later"
                    ) from race
                say(f"the config repository moved on; attempt {attempt + 1} of {ATTEMPTS}")
                time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads attempts, guards nothing
                pause = min(2 * pause, _LONGEST_PAUSE)
                self.refresh()
            except (RepositoryRefused, RepositoryUnreachable) as error:
                if not self._arrived(commit, error):
                    raise
                say(f"the push's answer was lost, and the push was not: {error}")
                return str(commit.hexsha)
            else:
                return str(commit.hexsha)
        raise AssertionError("unreachable")

    def _arrived(self, commit: Commit, error: FlopsError) -> bool:
        """Tell whether a push that broke off brought its commit there.

        Raises:
            RepositoryUnreachable: nobody knows.
        """
        if isinstance(error, RepositoryAway):
            return False
        try:
            there = git_tool.remote_head(self._repository, self._settings.branch)
        except FlopsError:
            there = ""
        if there in (commit.hexsha, *(parent.hexsha for parent in commit.parents)):
            return there == commit.hexsha
        if isinstance(error, RepositoryRefused):
            return False
        raise RepositoryUnreachable(
            f"{error}; whether the change arrived before is not known: look with 'flops status' before you try again"
        ) from error


def manifest_file(environment: str) -> str:
    """Return the path of an environment's CronJob."""
    return f"{environment}/cronjob.yaml"


def release_file(environment: str) -> str:
    """Return the path of an environment's release record."""
    return f"{environment}/release.json"


def hold_file(environment: str) -> str:
    """Return the path of the file that is there while an environment's releases are paused."""
    return f"{environment}/hold.json"
