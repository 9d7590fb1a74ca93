"""The source: the commit and not the working tree, and of the commit what an image holds."""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from fl.errors import SettingsError
from pipeline.source import Source
from tests.pipeline.repositories import git
from tests.pipeline.sources import FILES, change, make_source

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


def test_an_image_gets_its_paths_of_the_commit_alone(tree: Path) -> None:
    tree.joinpath("server", "round.py").write_text("changed and not committed")
    tree.joinpath("fl", "new.py").write_text("not even known to git")
    source = Source.open(tree)
    with tarfile.open(fileobj=source.archive("server")) as archive:
        held = {member.name: archive.extractfile(member).read().decode() for member in archive if member.isfile()}
    wanted = {path: text for path, text in FILES.items() if not path.startswith(("client/", "docs/", "README"))}
    del wanted["Dockerfile.client"]
    assert held == wanted
    assert source.dirty


def test_what_a_commit_says_of_itself(tree: Path) -> None:
    commit = change(tree, {"fl/protocol.py": "PROTOCOL = 7\n"}, "A new protocol\n\nIts body.")
    source = Source.open(tree / "docs")  # Any folder of the tree.
    assert (source.commit, source.subject, source.protocol) == (commit, "A new protocol", 7)
    assert (source.dirty, source.shallow) == (False, False)


@pytest.mark.parametrize(
    ("path", "sides"),
    [
        ("server/round.py", {"server"}),
        ("client/node.py", {"client"}),
        ("Dockerfile.client", {"client"}),
        ("fl/protocol.py", {"server", "client"}),
        ("docs/other.md", set()),
        ("pipeline/release.py", set()),
    ],
)
def test_a_change_changes_the_content_of_the_images_that_hold_it(tree: Path, path: str, sides: set[str]) -> None:
    before = Source.open(tree)
    change(tree, {path: "PROTOCOL = 1\n# changed\n"}, "change")
    after = Source.open(tree)
    assert {side for side in ("server", "client") if before.content(side) != after.content(side)} == sides


def test_a_changed_mode_is_another_content(tree: Path) -> None:
    before = Source.open(tree).content("server")
    tree.joinpath("server", "round.py").chmod(0o755)
    change(tree, {}, "mode")
    assert Source.open(tree).content("server") != before


def test_how_commits_stand_to_each_other(tree: Path) -> None:
    first = git(tree, "rev-parse", "HEAD")
    second = change(tree, {"docs/other.md": "2"}, "second")
    git(tree, "checkout", "-q", "-b", "side", first)
    side = change(tree, {"docs/other.md": "3"}, "side")
    at = Source.open(tree, second)
    assert [at.relation(other) for other in (first, second, side, "0" * 40)] == ["newer", "same", "apart", "unknown"]
    assert Source.open(tree, first).relation(second) == "older"


def test_a_detached_and_a_shallow_checkout(tree: Path, tmp_path: Path) -> None:
    first = git(tree, "rev-parse", "HEAD")
    second = change(tree, {"docs/other.md": "2"}, "second")
    git(tree, "checkout", "-q", "--detach", first)
    assert Source.open(tree).commit == first
    git(tree, "checkout", "-q", "main")
    git(tmp_path, "clone", "-q", "--depth", "1", tree.as_uri(), "shallow")
    shallow = Source.open(tmp_path / "shallow")
    assert (shallow.commit, shallow.shallow, shallow.relation(first)) == (second, True, "unknown")


def test_a_bare_repository_will_do(tree: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(tree), "bare.git")
    source = Source.open(tmp_path / "bare.git")
    assert (source.commit, source.dirty) == (git(tree, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize(
    ("revision", "message"),
    [("nothing", "there is no commit 'nothing'"), ("HEAD:fl", "there is no commit 'HEAD:fl'")],
)
def test_a_revision_that_is_none(tree: Path, revision: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Source.open(tree, revision)


def test_a_folder_without_a_repository(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is in no git repository"):
        Source.open(tmp_path)
    with pytest.raises(SettingsError, match="no such folder"):
        Source.open(tmp_path / "none")


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    with pytest.raises(SettingsError, match="there is no commit 'HEAD'"):
        Source.open(tmp_path)


def test_another_program(tmp_path: Path) -> None:
    tree = make_source(tmp_path / "other", {"fl/protocol.py": "nothing\n"})
    with pytest.raises(SettingsError, match=r"is none of FLOps: no PROTOCOL in fl/protocol\.py"):
        Source.open(tree)
    git(tree, "rm", "-q", "LICENSE")
    change(tree, {"fl/protocol.py": "PROTOCOL = 1\n"}, "no licence")
    with pytest.raises(SettingsError, match="has no LICENSE, which the server image is built of"):
        Source.open(tree)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a repository to another user, which root alone can")
def test_a_repository_of_another_user(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("SUDO_UID", "0")
    for path in (tree, tree / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(SettingsError, match=r"belongs to another user; say that you trust it: git config --global"):
        Source.open(tree)
