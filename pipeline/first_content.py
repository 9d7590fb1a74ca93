"""The first content of a config repository: this source's `config-repo/`, with the names that are the house's."""

from __future__ import annotations

import re
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fl.errors import SettingsError
from pipeline import git_tool
from pipeline.config_repo import Change
from pipeline.git_environment import git_environment
from pipeline.git_words import RepositoryRefused, public, without_secrets

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.source import Source

FOLDER = "config-repo"
"""Where it stands in the source."""

EXAMPLE = "harbor.example.org/flops"
"""Host and project as the files there name them."""

EXAMPLE_REPOSITORY, EXAMPLE_BRANCH = "git@git.example.org:flops/config.git", "targetRevision: main"
"""The config repository's address, and the branch that Argo CD watches, as the files there name them."""


def first_content(source: Source, settings: Settings) -> dict[str, bytes]:
    """Return the files by path; the example's registry and repository are replaced by the settings'."""
    files: dict[str, bytes] = {}
    ours = {
        EXAMPLE: f"{settings.registry}/{settings.project}",
        EXAMPLE.partition("/")[0]: settings.registry,
        EXAMPLE_REPOSITORY: without_secrets(settings.repository),
        EXAMPLE_BRANCH: f"targetRevision: {settings.branch}",
    }
    # The longest first, and each place once: the house's own names may hold the example's.
    pattern = re.compile(b"|".join(re.escape(e.encode()) for e in sorted(ours, key=len, reverse=True)))
    if FOLDER not in source.repository.commit(source.commit).tree:
        return files
    with tarfile.open(fileobj=git_tool.archive(source.repository, source.commit, (FOLDER,))) as archive:
        for member in archive:
            if member.issym():
                raise SettingsError(f"{member.name}: is a symbolic link; a file is needed")
            content = archive.extractfile(member)
            if content is not None:
                files[member.name.removeprefix(f"{FOLDER}/")] = pattern.sub(
                    lambda found: ours[found[0].decode()].encode(), content.read()
                )
    return files


def fill(settings: Settings, source: Source) -> tuple[str, list[str]]:
    """Fill an empty config repository in one commit; returns its id and the files.

    Raises:
        RepositoryRefused: it is not empty, or this key may not write.
        RepositoryUnreachable: it does not answer.
    """
    files = first_content(source, settings)
    if not files:
        raise SettingsError(f"commit {source.commit[:12]} has no {FOLDER}/ to fill it with")
    with git_environment(settings) as environment, tempfile.TemporaryDirectory() as folder:
        repository = git_tool.begin(settings.repository, Path(folder) / "config.git", environment)
        try:
            there = git_tool.remote_branches(repository)
            if there:
                raise RepositoryRefused(
                    f"{public(settings.repository)}: is not empty: it has the branch {there[0]}; take an empty one"
                )
            change = Change(files, "The first content of the config repository", {"Source-Commit": source.commit})
            made = git_tool.write_commit(
                repository, settings.branch, change.files, change.full_message, settings.author
            )
            git_tool.push(repository, settings.branch)
            return str(made.hexsha), sorted(files)
        finally:
            repository.close()
