"""The config repository, looked at every few seconds: its newest valid commit, and what is wrong with newer ones."""

from __future__ import annotations

import tarfile
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import FlopsError
from pipeline import git_tool
from pipeline.config_repo import release_file
from pipeline.git_environment import git_environment
from pipeline.loop.manifests import build
from pipeline.record import read_release

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.git_tool import Repo
    from pipeline.loop.desired import Desired
    from pipeline.record import ReleaseRecord
    from pipeline.settings import Settings


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
        problem: what is wrong with the repository or a newer commit; an empty text where all is well.
    """

    def __init__(
        self, settings: Settings, environment: str, folder: Path, seconds: float, say: Callable[[str], None]
    ) -> None:
        self._settings, self._environment, self._folder = settings, environment, folder
        self._seconds, self._say = seconds, say
        self.seen: Seen | None = None
        self.problem = ""
        self._looked_at = ""
        self._over, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, and wait for the first look."""
        self._thread.start()
        while not self._first.wait(0.2):  # In pieces, so that Ctrl-C is heard.
            pass

    def stop(self) -> None:
        """End."""
        self._over.set()

    def _run(self) -> None:
        try:
            with git_environment(self._settings) as variables, tempfile.TemporaryDirectory(dir=self._folder) as here:
                clone = git_tool.begin(self._settings.repository, Path(here) / "config.git", variables)
                while not self._over.is_set():
                    self._look(clone, Path(here))
                    self._first.set()
                    self._over.wait(self._seconds)
        except (FlopsError, OSError) as error:
            self._tell(str(error))
        finally:
            self._first.set()

    def _look(self, clone: Repo, here: Path) -> None:
        try:
            branch = self._settings.branch
            newest = git_tool.remote_head(clone, branch)
            if newest != self._looked_at:
                git_tool.fetch(clone, branch, depth=1)
                commit = git_tool.find_commit(clone, git_tool.head(branch))
                newest = str(commit.hexsha) if commit is not None else newest
                try:
                    self.seen = self._read(clone, newest, here)
                finally:
                    self._looked_at = newest
        except FlopsError as error:
            self._tell(str(error))
        except OSError as error:
            self._tell(f"{error.filename or self._folder}: {error.strerror}")
        else:
            self._well()

    def _well(self) -> None:
        """Forget what was wrong with reaching the repository; a commit that is wrong stays so until the next one."""
        if self.problem and self.seen is not None and self.seen.desired.commit == self._looked_at:
            self._say("the config repository is read again")
            self.problem = ""

    def _read(self, clone: Repo, commit: str, here: Path) -> Seen:
        with tempfile.TemporaryDirectory(dir=here) as folder:
            root = Path(folder)
            with tarfile.open(fileobj=git_tool.archive(clone, commit, (".",))) as archive:
                archive.extractall(root, filter="data")
            try:
                desired = build(root, self._environment, commit)
                file = release_file(self._environment)
                return Seen(desired, read_release(git_tool.read_file(clone, commit, file), file))
            except FlopsError as error:
                kept = f"; {self.seen.desired.commit[:8]} stays in charge" if self.seen else ""
                raise FlopsError(f"config {commit[:8]}: {error}{kept}") from error

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            self._say(problem)
        self.problem = problem
