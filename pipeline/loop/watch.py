"""The config repository, looked at every few seconds: its newest valid commit, and what is wrong with newer ones."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import FlopsError, SettingsError
from pipeline import git_tool
from pipeline.config_repo import release_file
from pipeline.git_environment import git_environment
from pipeline.git_words import RepositoryRefused
from pipeline.loop.manifests import NoEnvironment, build
from pipeline.record import read_release
from pipeline.yaml_text import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.git_tool import Repo
    from pipeline.loop.desired import Desired
    from pipeline.record import ReleaseRecord
    from pipeline.settings import Settings


_LAST_LOOK = 10.0
"""Seconds that a look which is under way has to end."""


@dataclass(frozen=True)
class Seen:
    """A commit that was read and understood.

    Attributes:
        desired: what its environment shall be.
        release: the record beside it; None where nothing was released yet.
    """

    desired: Desired
    release: ReleaseRecord | None


class Watch:
    """Looks at a branch in a thread of its own.

    Attributes:
        seen: the newest valid commit; None until there is one.
    """

    def __init__(
        self, settings: Settings, environment: str, folder: Path, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._settings, self._environment, self._folder = settings, environment, folder
        self._seconds, self._say = seconds, say
        self.seen: Seen | None = None
        self._away, self._invalid = "", ""
        self._refused: SettingsError | None = None
        self._looked_at = ""
        self._over, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def problem(self) -> str:
        """What is wrong with the repository or a newer commit; an empty text where all is well."""
        return "; ".join(text for text in (self._away, self._invalid) if text)

    def start(self) -> None:
        """Begin, and wait for the first look.

        Raises:
            SettingsError: with these settings there is no way to the repository, or it has no such environment.
        """
        self._thread.start()
        while not self._first.wait(0.2):  # In pieces, so that Ctrl-C is heard.
            pass
        if self._refused is not None:
            raise self._refused

    def stop(self) -> None:
        """End, and wait until nothing is written any more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_LOOK)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                with git_environment(self._settings) as variables:
                    self._follow(variables)
            except SettingsError as error:  # A key that has a passphrase, no git.
                self._refused = error
                self._away = self._tell(self._away, str(error))
            except Exception as error:  # A disk that is full, say; whatever it is, it is tried again.
                self._away = self._tell(self._away, f"the config repository cannot be followed: {_words(error)}")
            finally:
                self._first.set()
            self._over.wait(self._seconds)

    def _follow(self, variables: Mapping[str, str]) -> None:
        here = self._folder / "clone"
        shutil.rmtree(here, ignore_errors=True)  # A killed loop's.
        here.mkdir()
        clone = git_tool.begin(self._settings.repository, here / "config.git", variables)
        try:
            while not self._over.is_set():
                self._look(clone, here)
                self._first.set()
                self._over.wait(self._seconds)
        finally:
            clone.close()
            shutil.rmtree(here, ignore_errors=True)

    def _look(self, clone: Repo, here: Path) -> None:
        branch = self._settings.branch
        try:
            newest = git_tool.remote_head(clone, branch)
            if newest != self._looked_at:
                git_tool.fetch(clone, branch, depth=1)
                commit = git_tool.find_commit(clone, git_tool.head(branch))
                newest = str(commit.hexsha) if commit is not None else newest
        except FlopsError as error:
            if isinstance(error, RepositoryRefused) and not self._first.is_set():
                self._refused = error
                return
            kept = f"; {self.seen.desired.commit[:8]} stays in charge" if self.seen else ""
            self._away = self._tell(self._away, f"the config repository cannot be read: {error}{kept}")
            return
        if self._away:
            self._say("the config repository is read again")
            self._away = ""
        if newest == self._looked_at:
            return
        try:
            self.seen = self._read(clone, newest, here)
        except SettingsError as error:  # It stays wrong until the next commit.
            if isinstance(error, NoEnvironment) and not self._first.is_set():
                self._refused = error
                return
            kept = f"; {self.seen.desired.commit[:8]} stays in charge" if self.seen else ""
            self._invalid = self._tell(self._invalid, f"config {newest[:8]}: {error}{kept}")
        except Exception as error:  # It is looked at again.
            self._invalid = self._tell(self._invalid, f"config {newest[:8]} cannot be read: {_words(error)}")
            return
        else:
            self._invalid = ""
        self._looked_at = newest

    def _read(self, clone: Repo, commit: str, here: Path) -> Seen:
        with tempfile.TemporaryDirectory(dir=here) as folder:
            root = Path(folder)
            try:
                with tarfile.open(fileobj=git_tool.archive(clone, commit, (".",))) as archive:
                    archive.extractall(root, filter="data")
            except tarfile.TarError as error:
                raise ManifestError(f"a link in it leads out of it: {error}") from error
            file = release_file(self._environment)
            desired = build(root, self._environment, commit)
            return Seen(desired, read_release(git_tool.read_file(clone, commit, file), file))

    def _tell(self, known: str, problem: str) -> str:
        """Say a problem, unless it is known; returns it."""
        if problem != known:
            self._say(problem)
        return problem


def _words(error: Exception) -> str:
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text if isinstance(error, FlopsError | OSError) else f"{type(error).__name__}: {text}"
