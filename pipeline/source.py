"""The source: one commit of this repository, and what of it goes into each image."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import SettingsError
from pipeline import git_tool
from pipeline.record import SIDES

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.git_tool import Repo

_SHARED = ("fl", "pyproject.toml", "LICENSE", "constraints.txt")
_PROTOCOL = re.compile(rb"^PROTOCOL = (\d+)$", re.MULTILINE)
_PROTOCOL_FILE = "fl/protocol.py"


def paths(side: str) -> tuple[str, ...]:
    """Return what of the tree goes into a side's build context, and nothing else does."""
    return (*_SHARED, side, dockerfile(side))


def all_paths() -> tuple[str, ...]:
    """Return what of the tree goes into any image."""
    return tuple(path for side in SIDES for path in paths(side))


def dockerfile(side: str) -> str:
    """Return the name of a side's Dockerfile."""
    return f"Dockerfile.{side}"


@dataclass(frozen=True)
class Source:
    """One commit of the source repository.

    Attributes:
        commit: its id.
        subject: the first line of its message.
        committed: when, ISO 8601.
        protocol: the number in its code.
        dirty: whether the working tree holds changes of what images hold that are not committed, and not released.
        shallow: whether this clone's history is cut off.
    """

    repository: Repo
    commit: str
    subject: str
    committed: str
    protocol: int
    dirty: bool
    shallow: bool

    @classmethod
    def open(cls, folder: Path, revision: str = "HEAD") -> Source:
        """Find a commit.

        Args:
            folder: in the working tree, or a bare repository.
            revision: as git understands it.

        Raises:
            SettingsError: there is no repository, no such commit, or it lacks a file that images need.
        """
        repository = git_tool.open_repository(folder)
        commit = git_tool.find_commit(repository, revision)
        if commit is None:
            raise SettingsError(f"{folder.resolve()}: there is no commit '{revision}'")
        found = _PROTOCOL.search(git_tool.read_file(repository, commit.hexsha, _PROTOCOL_FILE) or b"")
        if found is None:
            raise SettingsError(
                f"commit {commit.hexsha[:12]} of {folder.resolve()} is none of FLOps: no PROTOCOL in {_PROTOCOL_FILE}"
            )
        for side in SIDES:
            for path in paths(side):
                if path not in commit.tree:
                    raise SettingsError(
                        f"commit {commit.hexsha[:12]} has no {path}, which the {side} image is built of"
                    )
        return cls(
            repository,
            commit.hexsha,
            str(commit.summary),
            commit.committed_datetime.isoformat(),
            int(found[1]),
            not repository.bare and git_tool.differs(repository, tuple(dict.fromkeys(all_paths()))),
            repository.git.rev_parse("--is-shallow-repository") == "true",
        )

    def content(self, side: str, commit: str = "") -> str:
        """Return the digest of what a side's image is built from: paths, modes and bytes; of another commit, too."""
        return hashlib.sha256(git_tool.listing(self.repository, commit or self.commit, paths(side))).hexdigest()

    def ancestors(self, limit: int) -> Iterator[str]:
        """Yield the commits before this one, newest first."""
        for commit in self.repository.iter_commits(self.commit, max_count=limit + 1, skip=1):
            yield commit.hexsha

    def archive(self, side: str) -> io.BytesIO:
        """Return what a side's image is built from, as a tar archive."""
        return git_tool.archive(self.repository, self.commit, paths(side))

    def relation(self, other: str) -> str:
        """Say how this commit stands to another one: same, newer, older, apart, or unknown.

        Unknown is one that is not here, or whose way to this one is cut off.
        """
        if other == self.commit:
            return "same"
        here, there = (git_tool.find_commit(self.repository, name) for name in (self.commit, other))
        if here is None or there is None:
            return "unknown"
        if self.repository.is_ancestor(there, here):
            return "newer"
        if self.repository.is_ancestor(here, there):
            return "older"
        return "unknown" if self.shallow else "apart"
